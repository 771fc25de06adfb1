//! The joined runs of one mode, by load.

use crate::process_usage::PerPart;

/// The joined runs of one mode.
#[derive(Debug)]
pub struct ModeSummary {
    pub name: String,
    /// Ascending by load. Includes half of the highest loads.
    pub loads: Vec<LoadSummary>,
    /// The highest load held in each run.
    pub highest: Vec<f64>,
    /// Latencies at half of each run's highest load, ms, ascending; 5 s for a timeout.
    pub half: Vec<f64>,
    /// Steps of the first run by time.
    pub over_time: OverTime,
}

/// The figures of a load in all runs.
#[derive(Debug, Clone, Default)]
pub struct LoadSummary {
    pub per_s: f64,
    pub runs: usize,
    /// Latencies of the steps of users, ms, ascending; 5 s for a timeout.
    pub latencies: Vec<f64>,
    pub timed_out: usize,
    pub beats_per_s: f64,
    pub answered_per_s: f64,
    pub records_per_request: f64,
    pub commands_per_transaction: f64,
    /// CPU seconds of the broker for 1,000 records, minus its use without load; `None` if not
    /// measured.
    pub broker_s: Option<f64>,
    /// CPU use, % of a core, by index in [`NAMES`].
    pub cpu: PerPart<f64>,
    /// Memory, MiB.
    pub memory: PerPart<f64>,
    /// The longest pause of the measuring program, ms.
    pub own_pause_ms: f64,
}

/// All steps of the users in one run.
#[derive(Debug, Default)]
pub struct OverTime {
    /// Seconds since the start of the run, and latency in ms; 5 s for a timeout.
    pub steps: Vec<(f64, f64)>,
    /// Seconds since the start of the run, and the fault that was injected.
    pub faults: Vec<(f64, String)>,
}

impl LoadSummary {
    /// Mean latency, ms; `None` without steps.
    pub fn mean(&self) -> Option<f64> {
        let count = self.latencies.len() as f64;
        (count > 0.0).then(|| self.latencies.iter().sum::<f64>() / count)
    }

    /// Standard error of the mean latency, ms.
    pub fn error(&self) -> Option<f64> {
        error(&self.latencies)
    }

    /// The latency that `percent` of all steps do not exceed, ms, by nearest rank.
    pub fn percentile(&self, percent: f64) -> Option<f64> {
        percentile(&self.latencies, percent)
    }
}

impl ModeSummary {
    /// Number of runs that held `per_s` commands per second or more.
    pub fn held(&self, per_s: f64) -> usize {
        self.highest.iter().filter(|highest| **highest >= per_s).count()
    }

    /// The highest load that more than half of the runs held. So at least one run measured it.
    pub fn max(&self) -> Option<f64> {
        let mut descending = self.highest.clone();
        descending.sort_by(|a, b| b.total_cmp(a));
        descending.get(descending.len() / 2).copied()
    }

    /// The figures at `per_s` commands per second.
    pub fn load(&self, per_s: f64) -> Option<&LoadSummary> {
        self.loads.iter().find(|load| (load.per_s - per_s).abs() < 0.5)
    }
}

pub fn percentile(ascending: &[f64], percent: f64) -> Option<f64> {
    let rank = (percent / 100.0 * ascending.len() as f64).ceil().max(1.0) as usize;
    ascending.get(rank - 1).copied()
}

/// Standard error of the mean; `None` for fewer than two values.
fn error(values: &[f64]) -> Option<f64> {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|it| (it - mean).powi(2)).sum::<f64>() / (count - 1.0);
    (count > 1.0).then(|| (variance / count).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_of_one_value_has_no_error() {
        assert_eq!((error(&[5.0]), error(&[])), (None, None));
        assert_eq!(error(&[1.0, 3.0]), Some(1.0));
        assert_eq!(percentile(&[], 50.0), None);
        assert_eq!(
            (percentile(&[1.0, 2.0], 50.0), percentile(&[1.0, 2.0], 51.0)),
            (Some(1.0), Some(2.0))
        );
    }

    #[test]
    fn highest_load_was_held_by_most_runs() {
        let of = |highest: &[f64]| {
            let mode = ModeSummary {
                name: String::new(),
                loads: Vec::new(),
                highest: highest.to_vec(),
                half: Vec::new(),
                over_time: OverTime::default(),
            };
            mode.max().map(|max| (max, mode.held(max)))
        };
        // No run held the mean of 35,000.
        assert_eq!(of(&[32_000.0, 41_000.0, 32_000.0]), Some((32_000.0, 3)));
        assert_eq!(of(&[1830.0, 2800.0, 1540.0]), Some((1830.0, 2)));
        assert_eq!(of(&[1000.0, 2000.0]), Some((1000.0, 2)));
        assert_eq!(of(&[1000.0, 0.0, 0.0]), Some((0.0, 3)));
        assert_eq!(of(&[]), None);
    }
}
