//! The steps of simulated users and how they ended.

use super::client::TIMEOUT;
use crate::measure::Latencies;
use std::time::{Duration, Instant};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserStep {
    /// When it was due. It may have started later.
    pub due: Instant,
    pub end: StepEnd,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepEnd {
    /// The new balance was received this long after the step was due.
    Changed(Duration),
    /// The new balance was not received within [`TIMEOUT`].
    TimedOut,
    /// The bank rejected the transfer for this reason.
    Refused(String),
}

/// Counts and latencies of many steps.
#[derive(Debug, Clone, Default)]
pub struct UserSteps {
    /// Latencies of the steps that changed the balance or timed out. The true latency of the latter
    /// is at least [`TIMEOUT`], which counts.
    pub latencies: Latencies,
    sum_ms: f64,
    squares_ms: f64,
    pub timed_out: u64,
    pub refused: u64,
    /// The reason of the first rejection.
    pub refusal: Option<String>,
}

impl UserSteps {
    pub fn note(&mut self, step: &UserStep) {
        match &step.end {
            StepEnd::Changed(latency) => self.record(*latency),
            StepEnd::TimedOut => {
                self.record(TIMEOUT);
                self.timed_out += 1;
            }
            StepEnd::Refused(reason) => {
                self.refused += 1;
                self.refusal.get_or_insert_with(|| reason.clone());
            }
        }
    }

    fn record(&mut self, latency: Duration) {
        self.latencies.record(latency);
        let ms = latency.as_secs_f64() * 1000.0;
        self.sum_ms += ms;
        self.squares_ms += ms * ms;
    }

    pub fn count(&self) -> u64 {
        self.latencies.count() + self.refused
    }

    /// Number of new balances that were received.
    pub fn received(&self) -> u64 {
        self.latencies.count() - self.timed_out
    }

    /// Mean latency, ms.
    pub fn mean_ms(&self) -> f64 {
        self.sum_ms / self.latencies.count() as f64
    }

    /// Standard error of the mean latency, ms.
    pub fn stderr_ms(&self) -> f64 {
        let count = self.latencies.count() as f64;
        let variance = (self.squares_ms - self.sum_ms * self.sum_ms / count) / (count - 1.0);
        (variance.max(0.0) / count).sqrt()
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Steps that changed the balance after these latencies.
    pub fn changed(latencies_ms: &[u64]) -> UserSteps {
        let mut steps = UserSteps::default();
        for ms in latencies_ms {
            let end = StepEnd::Changed(Duration::from_millis(*ms));
            steps.note(&UserStep { due: Instant::now(), end });
        }
        steps
    }

    #[test]
    fn mean_and_standard_error_match_a_computed_example() {
        // Mean 20; deviations 10, 0, 10; variance 200/2; standard error sqrt(100/3).
        let steps = changed(&[10, 20, 30]);
        assert!((steps.mean_ms() - 20.0).abs() < 1e-9);
        assert!((steps.stderr_ms() - (100.0f64 / 3.0).sqrt()).abs() < 1e-9);
    }
    #[test]
    fn timeout_enters_the_percentiles() {
        let mut steps = changed(&[10; 98]);
        for end in [StepEnd::TimedOut, StepEnd::TimedOut, StepEnd::Refused(String::new())] {
            steps.note(&UserStep { due: Instant::now(), end });
        }
        assert!((9.9..11.0).contains(&steps.latencies.percentile_ms(98.0)));
        assert!(steps.latencies.percentile_ms(99.0) >= 5000.0);
        assert!((steps.mean_ms() - 109.8).abs() < 1e-9, "{}", steps.mean_ms());
        assert_eq!((steps.count(), steps.received(), steps.timed_out), (101, 98, 2));
    }
}
