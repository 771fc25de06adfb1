//! The graphs of a report: those of the talk with its own lines, and further ones.

use super::mode_summary::{LoadSummary, ModeSummary};
use super::plot::{Bar, Hue, Plot, Point, Scale, Series, bars, lines};
use super::summary::Summary;
use super::talk::{TALKED_OF, Talk, TalkRow};
use crate::output::rounded;
use crate::process_usage::{BROKER, DATABASE, ENDPOINT, HANDLER};

pub struct Graph {
    /// Base name of its files.
    pub name: String,
    pub title: String,
    /// What the graph shows.
    pub description: String,
    pub svg: String,
    /// The points of the graph.
    pub csv: String,
}

const LOAD: &str = "load, commands per second";
const TALK_LINES: &str = "Grey lines: the talk's four handlers of 2019, on another machine.";

struct Caption<'a> {
    name: &'a str,
    title: &'a str,
    unit: &'a str,
    /// What the graph shows.
    description: &'a str,
}

/// All graphs, in the order of the page.
pub fn all(summary: &Summary, talk: &Talk) -> Vec<Graph> {
    let mut graphs = vec![highest(summary), percentiles(summary)];
    graphs.extend(batches(summary));
    graphs.extend(summary.modes.iter().filter_map(|mode| over_time(summary, mode)));
    graphs.extend(latencies(summary, talk));
    graphs.push(heartbeats(summary));
    graphs.extend(process_usage(summary, talk));
    let caption = Caption {
        name: "data-points",
        title: "Measured steps of simulated users",
        unit: "steps of all runs",
        description: "The number of latencies for each point of the other graphs.",
    };
    let samples = |load: &LoadSummary| Some((load.latencies.len() as f64, None));
    graphs.push(compared(summary, talk, &caption, &samples, "samples"));
    // File names sort in the order of the page.
    for (number, graph) in (1..).zip(&mut graphs) {
        graph.name = format!("{number:02}-{}", graph.name);
    }
    graphs
}

/// The effect of batches on requests and on the broker's CPU use.
fn batches(summary: &Summary) -> [Graph; 2] {
    let records = Caption {
        name: "records-per-batch",
        title: "Records per produce request of the handler",
        unit: "records, mean",
        description: "While a request is in flight the next batch collects records, so batches \
                      grow with the load. \
               Mode single sends one record per request, as the talk's handler did.",
    };
    let broker = Caption {
        name: "broker-cpu-per-1000-records",
        title: "CPU of the broker for 1,000 records",
        unit: "milliseconds",
        description: "CPU time over all topics, minus the broker's use without load.",
    };
    [
        ours(summary, &records, &|load| {
            (load.records_per_request > 0.0).then_some(load.records_per_request)
        }),
        ours(summary, &broker, &|load| load.broker_s.map(|seconds| seconds * 1000.0)),
    ]
}

fn latencies(summary: &Summary, talk: &Talk) -> [Graph; 3] {
    let unit = "milliseconds";
    let mean = Caption {
        name: "latency-mean",
        title: "Mean time until a simulated user receives the new balance",
        unit,
        description: "From the due time of a step until its new balance is received. Bars show \
                      the standard error of the mean.",
    };
    let max = Caption {
        name: "latency-max",
        title: "Longest time until a simulated user receives the new balance",
        unit,
        description: "The slowest step at each load. 5 s is a timeout.",
    };
    let min = Caption {
        name: "latency-min",
        title: "Shortest time until a simulated user receives the new balance",
        unit,
        description: "The fastest step at each load.",
    };
    let percentile =
        |percent| move |load: &LoadSummary| load.percentile(percent).map(|value| (value, None));
    let mean_and_error = |load: &LoadSummary| load.mean().map(|mean| (mean, load.error()));
    [
        compared(summary, talk, &mean, &mean_and_error, "latency_mean_ms"),
        compared(summary, talk, &max, &percentile(100.0), "latency_max_ms"),
        compared(summary, talk, &min, &percentile(0.0), "latency_min_ms"),
    ]
}

fn heartbeats(summary: &Summary) -> Graph {
    let caption = Caption {
        name: "heartbeats",
        title: "Heartbeat records sent",
        unit: "heartbeat records per second",
        description: "A straight line shows that the heartbeat sent the whole load. The talk \
                      published no figures of it.",
    };
    ours(summary, &caption, &|load| (load.beats_per_s > 0.0).then_some(load.beats_per_s))
}

/// CPU and memory of the parts that the talk also measured.
fn process_usage(summary: &Summary, talk: &Talk) -> Vec<Graph> {
    let mut graphs = Vec::new();
    for (part, column, name, what) in [
        (DATABASE, "db", "database", "the database"),
        (HANDLER, "handler", "handler", "the command-handler"),
        (BROKER, "broker", "broker", "the broker"),
        (ENDPOINT, "graphql", "endpoint", "the GraphQL endpoint"),
    ] {
        let cpu = Caption {
            name: &format!("{name}-cpu"),
            title: &format!("CPU of {what}"),
            unit: "% of a core",
            description: "Mean over the time of a load, over all processes of the part.",
        };
        let memory = Caption {
            name: &format!("{name}-memory"),
            title: &format!("Memory of {what}"),
            unit: "MiB",
            description: "Resident memory at the end of a load. Memory that several processes of \
                          a part share counts once.",
        };
        let cpu_of = |load: &LoadSummary| load.cpu[part].map(|value| (value, None));
        let memory_of = |load: &LoadSummary| load.memory[part].map(|value| (value, None));
        graphs.push(compared(summary, talk, &cpu, &cpu_of, &format!("{column}_cpu_pct")));
        graphs.push(compared(summary, talk, &memory, &memory_of, &format!("{column}_mem_mib")));
    }
    graphs
}

/// A value and its standard error.
type Value = (f64, Option<f64>);

fn own_series(summary: &Summary, value: &dyn Fn(&LoadSummary) -> Option<Value>) -> Vec<Series> {
    let series = summary.modes.iter().enumerate().map(|(n, mode)| {
        let points = mode.loads.iter().filter_map(|load| {
            let (y, error) = value(load)?;
            Some(Point { x: load.per_s, y, range: error.map(|error| (y - error, y + error)) })
        });
        Series { name: mode.name.clone(), hue: Hue::Own(n), points: points.collect() }
    });
    series.collect()
}

fn talk_series(talk: &Talk, value: &dyn Fn(&TalkRow) -> Option<f64>) -> Vec<Series> {
    let series = talk.implementations.iter().enumerate().map(|(n, (name, rows))| {
        let points = rows.iter().filter_map(|row| {
            Some(Point { x: row.number("load_msg_s")?, y: value(row)?, range: None })
        });
        Series { name: (*name).to_owned(), hue: Hue::Talk(n), points: points.collect() }
    });
    series.collect()
}

/// A graph with a line for each mode.
fn ours(
    summary: &Summary,
    caption: &Caption<'_>,
    value: &dyn Fn(&LoadSummary) -> Option<f64>,
) -> Graph {
    graph(caption, own_series(summary, &|load| value(load).map(|value| (value, None))))
}

/// A graph with a line for each mode and for each of the talk's handlers, whose values are in
/// `column`.
fn compared(
    summary: &Summary,
    talk: &Talk,
    caption: &Caption<'_>,
    own: &dyn Fn(&LoadSummary) -> Option<Value>,
    column: &str,
) -> Graph {
    let mut series = own_series(summary, own);
    series.extend(talk_series(talk, &|row| row.number(column)));
    graph(
        &Caption { description: &format!("{} {TALK_LINES}", caption.description), ..*caption },
        series,
    )
}

fn graph(caption: &Caption<'_>, series: Vec<Series>) -> Graph {
    let Caption { name, title, unit, description } = *caption;
    let csv = points(&series, "load_per_s");
    let plot = Plot {
        title: title.to_owned(),
        description: description.to_owned(),
        x: (LOAD.to_owned(), Scale::Log),
        y: (unit.to_owned(), Scale::Log),
        series,
        marks: Vec::new(),
        band: None,
    };
    let svg = lines(&plot);
    Graph { name: name.to_owned(), title: plot.title, description: plot.description, svg, csv }
}

/// The points of all lines as CSV, one row each.
fn points(series: &[Series], x: &str) -> String {
    let mut csv = format!("line,{x},value,from,to\n");
    for series in series {
        for Point { x, y, range } in &series.points {
            let (from, to) =
                range.map_or_else(Default::default, |(from, to)| (rounded(from), rounded(to)));
            // Titles of the talk's handlers contain commas.
            let name = series.name.replace(',', "");
            csv += &format!("{name},{},{},{from},{to}\n", rounded(*x), rounded(*y));
        }
    }
    csv
}

/// p50 and p99 of each mode.
fn percentiles(summary: &Summary) -> Graph {
    let of = |percent: f64| {
        own_series(summary, &move |load| load.percentile(percent).map(|it| (it, None)))
    };
    let name =
        |series: Series, what: &str| Series { name: format!("{} {what}", series.name), ..series };
    let mut series: Vec<Series> = of(50.0).into_iter().map(|it| name(it, "p50")).collect();
    series.extend(
        of(99.0)
            .into_iter()
            .enumerate()
            .map(|(n, it)| Series { hue: Hue::OwnThin(n), ..name(it, "p99") }),
    );
    let caption = Caption {
        name: "latency-percentiles",
        title: "Time until a simulated user receives the new balance: median and 99th percentile",
        unit: "milliseconds",
        description: "Steps start on schedule, so a stall of the bank is measured in full. \
               Half of all steps were faster than the thick line, 99 of 100 faster than the thin \
               line. \
               A step that timed out counts as 5 s.",
    };
    graph(&caption, series)
}

/// The highest load held by each mode and by each of the talk's handlers.
fn highest(summary: &Summary) -> Graph {
    let own = summary.modes.iter().enumerate().filter_map(|(n, mode)| {
        let least = mode.highest.iter().copied().fold(f64::INFINITY, f64::min);
        let most = mode.highest.iter().copied().fold(0.0, f64::max);
        let value = mode.max().filter(|max| *max > 0.0)?;
        Some(Bar { name: mode.name.clone(), hue: Hue::Own(n), value, range: (least, most) })
    });
    let talk = TALKED_OF.iter().enumerate().map(|(n, (_, name, mean, best))| Bar {
        name: (*name).to_owned(),
        hue: Hue::Talk(n),
        value: *mean,
        range: (*mean, *best),
    });
    let all: Vec<Bar> = own.chain(talk).collect();
    let mut csv = "line,value,from,to\n".to_owned();
    for bar in &all {
        let name = bar.name.replace(',', "");
        csv += &format!(
            "{name},{},{},{}\n",
            rounded(bar.value),
            rounded(bar.range.0),
            rounded(bar.range.1)
        );
    }
    let title = "Highest load held";
    let description = format!(
        "More than half of the runs held this load or a higher one. The line across a bar spans \
         the lowest and the highest run. \
         {TALK_LINES} \
         Their bars show the mean and the best of ten runs, each of which ended at its third \
         timeout of 5 s. \
         Here p99 must also stay below one second, and the bank must not fall behind."
    );
    Graph {
        name: "highest-load".to_owned(),
        title: title.to_owned(),
        svg: bars(title, &description, "commands per second, logarithmic", &all),
        description,
        csv,
    }
}

/// All steps of one run by time; `None` without steps.
fn over_time(summary: &Summary, mode: &ModeSummary) -> Option<Graph> {
    let steps = &mode.over_time.steps;
    if steps.is_empty() {
        return None;
    }
    let hue = summary.modes.iter().position(|it| it.name == mode.name).unwrap_or(0);
    let points = steps.iter().map(|(x, y)| Point { x: *x, y: *y, range: None }).collect();
    let series = vec![Series { name: mode.name.clone(), hue: Hue::OwnThin(hue), points }];
    let csv = self::points(&series, "due_s");
    let title = format!("Each step of the first run in mode {}, by time", mode.name);
    let description = "The load rises from left to right. Where it was not held, the bank fell \
                       behind and caught up later. \
                A timeout is drawn at 5,000 ms. A dashed line marks an injected fault.";
    let plot = Plot {
        title: title.clone(),
        description: description.to_owned(),
        x: ("seconds since the start of the run".to_owned(), Scale::Linear),
        y: ("milliseconds".to_owned(), Scale::Log),
        series,
        marks: mode.over_time.faults.clone(),
        band: None,
    };
    Some(Graph {
        name: format!("latency-over-time-{}", mode.name),
        title,
        svg: lines(&plot),
        description: plot.description,
        csv,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::summary::tests::tables;

    #[test]
    fn graphs_are_complete_and_have_their_points() {
        let summary = Summary::of(&tables()).unwrap();
        let graphs = all(&summary, &Talk::read().unwrap());
        // Thirteen of the talk, four others, and one by time for each mode.
        assert_eq!(graphs.len(), 13 + 4 + 2);
        for Graph { name, svg, csv, .. } in &graphs {
            assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"), "{name}");
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{name}: {svg}");
            let columns = csv.lines().next().unwrap().split(',').count();
            assert!(csv.lines().all(|line| line.split(',').count() == columns), "{name}: {csv}");
            assert!(csv.lines().count() > 2, "{name}: {csv}");
        }
        let mut names: Vec<&str> = graphs.iter().map(|graph| graph.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), graphs.len());
        let mean = graphs.iter().find(|graph| graph.name.ends_with("-latency-mean")).unwrap();
        assert!(
            mean.csv.contains("batched,0,16,") && mean.csv.contains("Clojure 2019,0,386.6,"),
            "{}",
            mean.csv
        );
    }
}
