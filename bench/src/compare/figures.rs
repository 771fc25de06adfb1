//! The figures of a handler, from all its runs.

use crate::direct_load::TransferLoad;
use crate::handlers::Handler;

/// Load of the idle latencies, transfers per second.
pub const IDLE: u32 = 10;
/// Load at which costs are compared, transfers per second.
pub const COSTS_AT: u32 = 1000;

/// The figures of one run of a handler.
#[derive(Debug, Clone)]
pub struct Run {
    /// Size of all that was built for it; `None` if not known.
    pub artefact_bytes: Option<u64>,
    /// The same with the libraries of the system that it uses.
    pub image_bytes: u64,
    /// Time from exec to ready, in an empty database.
    pub start_ms: f64,
    /// Memory before the first command, bytes.
    pub rss_idle: u64,
    /// A row for each load, in the order of measurement.
    pub rows: Vec<TransferLoad>,
    /// The highest load held.
    pub max_per_s: u32,
}

impl Run {
    fn row(&self, load: u32) -> Option<&TransferLoad> {
        self.rows.iter().find(|row| row.load == load)
    }
}

/// The figures of all runs of a handler.
#[derive(Debug, Clone)]
pub struct Figures {
    pub handler: Handler,
    /// Titles of the points of the contract that it breaks.
    pub broken: Vec<String>,
    pub runs: Vec<Run>,
}

/// CPU seconds for 1,000 commands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Costs {
    pub handler: f64,
    pub broker: f64,
    pub database: f64,
}

impl Figures {
    pub fn new(handler: Handler, broken: Vec<String>) -> Self {
        Self { handler, broken, runs: Vec::new() }
    }

    /// Size of the artefact, and with the libraries of the system, bytes.
    pub fn bytes(&self) -> Option<(Option<u64>, u64)> {
        self.runs.first().map(|run| (run.artefact_bytes, run.image_bytes))
    }

    /// The median of a figure over all runs that have it.
    pub fn median(&self, of: impl Fn(&Run) -> Option<f64>) -> Option<f64> {
        median(self.runs.iter().filter_map(of).collect())
    }

    /// Time from exec to ready, ms.
    pub fn start_ms(&self) -> Option<f64> {
        self.median(|run| Some(run.start_ms))
    }

    /// Memory before the first command, bytes.
    pub fn rss_idle(&self) -> Option<f64> {
        self.median(|run| Some(run.rss_idle as f64))
    }

    /// Highest memory of a run, bytes.
    pub fn rss(&self) -> Option<f64> {
        self.median(|run| run.rows.iter().map(|row| row.rss as f64).reduce(f64::max))
    }

    /// Highest load held, transfers per second.
    pub fn max_per_s(&self) -> Option<f64> {
        self.median(|run| Some(f64::from(run.max_per_s)))
    }

    /// The median of a figure at `load`, if most runs held it.
    pub fn at(&self, load: u32, of: impl Fn(&TransferLoad) -> f64) -> Option<f64> {
        let held: Vec<f64> = self
            .runs
            .iter()
            .filter_map(|run| run.row(load).filter(|row| row.held))
            .map(of)
            .collect();
        if held.len() * 2 > self.runs.len() { median(held) } else { None }
    }

    /// The costs at [`COSTS_AT`], if it was held.
    pub fn costs(&self) -> Option<Costs> {
        let cost = |part: usize| self.at(COSTS_AT, |row| row.costs()[part]);
        Some(Costs { broker: cost(0)?, database: cost(1)?, handler: cost(2)? })
    }

    /// All loads of all runs, ascending.
    pub fn loads(&self) -> Vec<u32> {
        let mut loads: Vec<u32> =
            self.runs.iter().flat_map(|run| run.rows.iter().map(|row| row.load)).collect();
        loads.sort_unstable();
        loads.dedup();
        loads
    }

    /// Highest CPU use of other processes, cores.
    pub fn others(&self) -> f64 {
        let rows = self.runs.iter().flat_map(|run| &run.rows);
        rows.map(|row| row.cpu.other_cores()).fold(0.0, f64::max)
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    Some(if values.len() % 2 == 1 { upper } else { (values[middle - 1] + upper) / 2.0 })
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::mode::Mode;

    /// A handler whose runs held these loads. Its p99 is a hundredth of the load plus the number of
    /// the run.
    pub fn figures(name: &str, runs: &[&[(u32, bool)]]) -> Figures {
        let handler = Handler {
            name: name.to_owned(),
            command: String::new(),
            variables: Vec::new(),
            artefact: None,
            in_container: false,
        };
        let run = |(number, loads): (usize, &&[(u32, bool)])| Run {
            artefact_bytes: Some(2_000_000),
            image_bytes: 3_000_000,
            start_ms: 50.0 + number as f64,
            rss_idle: 4 << 20,
            rows: loads
                .iter()
                .map(|&(load, held)| TransferLoad {
                    mode: Mode::Batched,
                    load,
                    held,
                    p99_ms: f64::from(load) / 100.0 + number as f64,
                    ..TransferLoad::example(1.0)
                })
                .collect(),
            max_per_s: loads
                .iter()
                .filter(|(_, held)| *held)
                .map(|(load, _)| *load)
                .max()
                .unwrap_or(0),
        };
        Figures {
            runs: runs.iter().enumerate().map(run).collect(),
            ..Figures::new(handler, Vec::new())
        }
    }

    #[test]
    fn median_of_an_even_number_is_a_mean() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0]), Some(3.0));
        assert_eq!(median(vec![9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 9.0]), Some(3.0));
    }

    #[test]
    fn load_has_figures_if_most_runs_held_it() {
        let runs: [&[(u32, bool)]; 3] = [
            &[(1000, true), (5000, true)],
            &[(1000, true), (5000, false)],
            &[(1000, true), (5000, false)],
        ];
        let figures = figures("x", &runs);
        assert_eq!(figures.at(1000, |row| row.p99_ms), Some(11.0));
        assert_eq!(figures.at(5000, |row| row.p99_ms), None);
        assert_eq!(figures.at(7, |row| row.p99_ms), None);
        assert_eq!(figures.max_per_s(), Some(1000.0));
        assert_eq!(figures.start_ms(), Some(51.0));
        assert_eq!(figures.loads(), [1000, 5000]);
        assert!(figures.costs().is_some());
    }
}
