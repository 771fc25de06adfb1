//! All runs of one mode, load by load.

use crate::process_usage::PerPart;

/// All runs of one mode.
#[derive(Debug)]
pub struct ModeSummary {
    pub name: String,
    /// By load, the halves of the highest among them.
    pub loads: Vec<LoadSummary>,
    /// Of each run, its highest load that was held.
    pub highest: Vec<f64>,
    /// Latencies at half of each run's highest load, ms, ascending.
    pub half: Vec<f64>,
    /// Of the first run.
    pub over_time: OverTime,
}

/// A load, over all runs.
#[derive(Debug, Clone, Default)]
pub struct LoadSummary {
    pub per_s: f64,
    pub runs: usize,
    /// Of the users' steps, ms, ascending.
    pub latencies: Vec<f64>,
    pub timed_out: usize,
    /// Runs that held it.
    pub held: usize,
    pub beats_per_s: f64,
    pub answered_per_s: f64,
    pub records_per_request: f64,
    pub commands_per_transaction: f64,
    /// CPU of the broker for 1,000 records, seconds, without what it used without load; `None`
    /// where that was not measured.
    pub broker_s: Option<f64>,
    /// CPU, % of a core, by place among [`NAMES`].
    pub cpu: PerPart<f64>,
    /// Memory, MiB.
    pub memory: PerPart<f64>,
}

/// Every step of the users of one run.
#[derive(Debug, Default)]
pub struct OverTime {
    /// Seconds since the run began, latency in ms; 5 s where it timed out.
    pub steps: Vec<(f64, f64)>,
    /// When which fault was made.
    pub faults: Vec<(f64, String)>,
}

impl LoadSummary {
    /// `None` if nothing was measured.
    pub fn mean(&self) -> Option<f64> {
        let count = self.latencies.len() as f64;
        (count > 0.0).then(|| self.latencies.iter().sum::<f64>() / count)
    }

    /// Standard error of the mean.
    pub fn error(&self) -> Option<f64> {
        error(&self.latencies)
    }

    /// The latency that this part of all steps stays within: the nearest rank.
    pub fn percentile(&self, percent: f64) -> Option<f64> {
        percentile(&self.latencies, percent)
    }
}

impl ModeSummary {
    /// Mean of the runs' highest loads.
    pub fn max(&self) -> Option<f64> {
        let count = self.highest.len() as f64;
        (count > 0.0).then(|| self.highest.iter().sum::<f64>() / count)
    }

    /// Its standard error; `None` for a single run.
    pub fn max_error(&self) -> Option<f64> {
        error(&self.highest)
    }

    /// The load of so many commands per second.
    pub fn load(&self, per_s: f64) -> Option<&LoadSummary> {
        self.loads.iter().find(|load| (load.per_s - per_s).abs() < 0.5)
    }
}

pub fn percentile(ascending: &[f64], percent: f64) -> Option<f64> {
    let rank = (percent / 100.0 * ascending.len() as f64).ceil().max(1.0) as usize;
    ascending.get(rank - 1).copied()
}

/// Standard error of the mean; `None` for less than two.
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
    fn a_mean_of_one_has_no_error_and_of_none_is_none() {
        assert_eq!((error(&[5.0]), error(&[])), (None, None));
        assert_eq!(error(&[1.0, 3.0]), Some(1.0));
        assert_eq!(percentile(&[], 50.0), None);
        assert_eq!(
            (percentile(&[1.0, 2.0], 50.0), percentile(&[1.0, 2.0], 51.0)),
            (Some(1.0), Some(2.0))
        );
    }
}
