//! The samples of a soak test, as a CSV file, graphs and a table.

use super::growth::Growth;
use crate::error::Error;
use crate::output::{Csv, figure, rounded, short};
use crate::process_usage::NAMES;
use crate::report::plot::{Hue, Plot, Point, Scale, Series, column, lines};
use serde_json::Number;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A graph with several quantities of the same unit.
struct Graph {
    title: &'static str,
    /// Empty for a count.
    unit: &'static str,
    scale: Scale,
    /// Names of the quantities.
    names: &'static [&'static str],
}

const fn graph(
    title: &'static str,
    unit: &'static str,
    scale: Scale,
    names: &'static [&'static str],
) -> Graph {
    Graph { title, unit, scale, names }
}

const GRAPHS: [Graph; 11] = [
    graph("throughput", "commands/s", Scale::Linear, &["answered"]),
    graph("latency", "ms", Scale::Log, &["user p50", "user p99", "outcome p50", "outcome p99"]),
    graph("oldest", "s", Scale::Linear, &["unanswered command", "snapshot"]),
    graph("waiting", "records", Scale::Linear, &["not consumed"]),
    graph("memory", "MiB", Scale::Log, &NAMES),
    graph("threads", "", Scale::Log, &NAMES),
    graph("descriptors", "", Scale::Log, &NAMES),
    graph("connections", "", Scale::Linear, &["balancedb", "transactiondb"]),
    graph("disk", "MiB", Scale::Log, &["kafka", "balancedb", "transactiondb", "wal", "logs"]),
    graph("CPU of", "cores", Scale::Linear, &["other processes", "other virtual machines"]),
    graph("CPU", "cores", Scale::Linear, &NAMES),
];
/// Index of the graph of CPU time, which lacks a part that was restarted.
const CPU: usize = GRAPHS.len() - 1;

/// The values of each graph, in the order of its names. A value is missing if it could not be read.
pub type Sample = [Vec<Option<f64>>; GRAPHS.len()];

/// All samples, each with its time in seconds.
pub struct Samples {
    folder: PathBuf,
    csv: Csv,
    rows: Vec<(f64, Sample)>,
}

impl Samples {
    /// Creates soak.csv in `folder`, to which each sample is written at once.
    pub fn create(folder: &Path, settings: &[(&str, String)]) -> Result<Self, Error> {
        let columns = quantities().map(|(graph, index)| format!(",{}", title(graph, index)));
        let columns = columns.collect::<String>().replace([' ', '/'], "_").to_lowercase();
        let path = folder.join("soak.csv");
        let csv = Csv::create_at(path, "soak", settings, &format!("second{columns}"))?;
        Ok(Self { folder: folder.to_owned(), csv, rows: Vec::new() })
    }

    pub fn add(&mut self, seconds: f64, sample: Sample) -> Result<(), Error> {
        let values = sample.iter().flatten();
        let cells = values.map(|value| format!(",{}", value.map(rounded).unwrap_or_default()));
        self.csv.line(&format!("{}{}", rounded(seconds), cells.collect::<String>()))?;
        self.rows.push((seconds, sample));
        Ok(())
    }

    /// The time of the last sample, s.
    pub fn seconds(&self) -> f64 {
        self.rows.last().map_or(0.0, |(seconds, _)| *seconds)
    }

    /// The values of a quantity, each with its time.
    fn values(&self, graph: usize, index: usize) -> Vec<(f64, f64)> {
        let rows = self.rows.iter();
        rows.filter_map(|(seconds, sample)| Some((*seconds, sample[graph][index]?))).collect()
    }

    /// Writes soak.svg.
    pub fn write_graphs(&self) -> Result<(), Error> {
        let path = self.folder.join("soak.svg");
        fs::write(&path, self.svg()).map_err(|source| Error::Csv { path, source })
    }

    fn svg(&self) -> String {
        let graphs = (0..).zip(&GRAPHS).map(|(number, graph)| {
            let Graph { title, unit, scale, names } = graph;
            let series = (0..).zip(*names).map(|(index, name)| {
                let points = self.values(number, index).into_iter();
                let points = points.map(|(x, y)| Point { x, y, range: None }).collect();
                Series { name: (*name).to_owned(), hue: hue(index), points }
            });
            lines(&Plot {
                title: format!("Soak: {title}"),
                description: format!("{title} {unit} over time"),
                x: ("seconds".to_owned(), Scale::Linear),
                y: ((*if unit.is_empty() { title } else { unit }).to_owned(), *scale),
                series: series.filter(|series| !series.points.is_empty()).collect(),
                marks: Vec::new(),
                band: None,
            })
        });
        column(&graphs.collect::<Vec<_>>())
    }

    fn growths(&self) -> impl Iterator<Item = (String, Growth)> {
        quantities().filter_map(|(graph, index)| {
            Some((title(graph, index), Growth::of(&self.values(graph, index))?))
        })
    }

    /// A row for each quantity, below the titles.
    pub fn table(&self) -> Vec<Vec<String>> {
        let titles = ["quantity", "first tenth", "last tenth", "per hour", "verdict"];
        let mut rows = vec![titles.map(str::to_owned).to_vec()];
        rows.extend(self.growths().map(|(title, growth)| {
            let Growth { first, last, per_hour, .. } = growth;
            vec![title, short(first), short(last), short(per_hour), growth.to_string()]
        }));
        rows
    }

    /// The quantities that grew, and their growth per hour.
    pub fn growing(&self) -> BTreeMap<String, Option<Number>> {
        let growing = self.growths().filter(|(_, it)| !it.is_flat && it.per_hour > 0.0);
        growing.map(|(title, growth)| (title, figure(Some(growth.per_hour), 1))).collect()
    }

    /// The parts whose CPU time is missing after the first sample that has it.
    pub fn restarted_parts(&self) -> Vec<&'static str> {
        let was_restarted = |index: usize| {
            let mut values = self.rows.iter().map(|(_, sample)| sample[CPU][index]);
            values.any(|value| value.is_some()) && values.any(|value| value.is_none())
        };
        (0..).zip(NAMES).filter(|(index, _)| was_restarted(*index)).map(|(_, name)| name).collect()
    }
}

/// Graph and index of each quantity.
fn quantities() -> impl Iterator<Item = (usize, usize)> {
    let graphs = (0..).zip(&GRAPHS);
    graphs.flat_map(|(number, graph)| (0..graph.names.len()).map(move |index| (number, index)))
}

fn title(graph: usize, index: usize) -> String {
    let Graph { title, unit, names, .. } = &GRAPHS[graph];
    format!("{title} {} {unit}", names[index]).trim_end().to_owned()
}

/// A different line for each of twelve quantities.
fn hue(index: usize) -> Hue {
    match index {
        0..4 => Hue::Own(index),
        4..8 => Hue::OwnThin(index),
        _ => Hue::Talk(index),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(value: f64) -> Sample {
        GRAPHS.each_ref().map(|graph| vec![Some(value); graph.names.len()])
    }

    #[test]
    fn samples_are_written_drawn_and_compared() {
        let folder = std::env::temp_dir().join(format!("bench-soak-{}", std::process::id()));
        let mut samples = Samples::create(&folder, &[]).unwrap();
        samples.add(10.0, sample(1.0)).unwrap();
        let mut restarted = sample(4.0);
        restarted[CPU][2] = None;
        samples.add(20.0, restarted).unwrap();
        samples.write_graphs().unwrap();
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        let (csv, svg) = (read("soak.csv"), read("soak.svg"));
        fs::remove_dir_all(&folder).unwrap();

        let rows: Vec<&str> = csv.lines().filter(|line| !line.starts_with('#')).collect();
        let count = quantities().count();
        assert!(rows[0].contains(",threads_endpoint,"), "{csv}");
        assert!(rows.iter().all(|row| row.split(',').count() == 1 + count), "{csv}");
        assert!(rows[1].starts_with("10,1,1,"), "{csv}");
        assert_eq!(svg.matches("<title>").count(), GRAPHS.len());
        // The CPU time of the restarted part has one value.
        assert_eq!(samples.table().len(), count);
        assert_eq!(samples.growing().len(), count - 1);
        assert_eq!((samples.restarted_parts(), samples.seconds()), (vec!["handler"], 20.0));
    }
}
