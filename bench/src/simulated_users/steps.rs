//! The steps of simulated users and how they ended.

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
    /// The new balance was not received within [`super::TIMEOUT`].
    TimedOut,
    /// The bank rejected the transfer for this reason.
    Refused(String),
}

/// Counts and latencies of many steps.
#[derive(Debug, Clone, Default)]
pub struct UserSteps {
    /// Latencies of the steps that changed the balance.
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
            StepEnd::Changed(latency) => {
                self.latencies.record(*latency);
                let ms = latency.as_secs_f64() * 1000.0;
                self.sum_ms += ms;
                self.squares_ms += ms * ms;
            }
            StepEnd::TimedOut => self.timed_out += 1,
            StepEnd::Refused(reason) => {
                self.refused += 1;
                self.refusal.get_or_insert_with(|| reason.clone());
            }
        }
    }

    pub fn count(&self) -> u64 {
        self.latencies.count() + self.timed_out + self.refused
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
}
