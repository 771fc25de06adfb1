//! The topic of undecodable records, dead_letter.

use crate::producer::Outgoing;
use service::health;
use std::time::Duration;

/// Number of dead letters in a row for one reason from which the service is not ready.
pub const RUN_MIN: u64 = 20;
/// Time after the last dead letter of such a run until the service is ready again.
const READY_AGAIN: Duration = Duration::from_secs(60);

/// The undecodable records of a topic, as one thread reads them.
///
/// A run of dead letters for one reason is logged once, and makes the service not ready: most
/// likely all records of a program are undecodable. The first decodable record ends the run.
pub struct DeadLetters {
    topic: &'static str,
    /// Name of the problem that `/readyz` shows.
    problem: String,
    run: Option<Run>,
}

struct Run {
    /// The reason without its digits: sizes and schema ids may differ.
    kind: String,
    length: u64,
}

impl DeadLetters {
    /// Returns the dead letters of `topic`, none yet.
    pub fn new(topic: &'static str) -> Self {
        Self { topic, problem: format!("dead letters of {topic}"), run: None }
    }

    /// Notes a decodable record.
    pub fn decoded(&mut self) {
        if let Some(run) = self.run.take() {
            self.end(&run);
        }
    }

    /// Returns the dead letter of an undecodable record. See
    /// [`Outgoing::dead_letter`].
    pub fn add(&mut self, partition: i32, offset: i64, value: Vec<u8>, reason: &str) -> Outgoing {
        let topic = self.topic;
        let kind: String = reason.chars().filter(|c| !c.is_ascii_digit()).collect();
        let mut run = match self.run.take() {
            Some(run) if run.kind == kind => run,
            other => {
                if let Some(run) = other {
                    self.end(&run);
                }
                log::warn!(
                    topic, partition, offset, error = reason;
                    "undecodable record, writing it to dead_letter"
                );
                Run { kind, length: 0 }
            }
        };
        run.length += 1;
        if run.length >= RUN_MIN {
            health::report_problem(&self.problem, READY_AGAIN);
        }
        if run.length == RUN_MIN {
            log::error!(
                topic, partition, offset, error = reason, records = run.length;
                "all records are undecodable for one reason, the service is not ready"
            );
        }
        self.run = Some(run);
        Outgoing::dead_letter(topic, partition, offset, value, reason)
    }

    fn end(&self, run: &Run) {
        health::solve(&self.problem);
        if run.length > 1 {
            log::info!(topic = self.topic, records = run.length; "run of dead letters ended");
        }
    }
}

impl Drop for DeadLetters {
    fn drop(&mut self) {
        health::solve(&self.problem);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_ends_with_another_record_or_reason() {
        let mut letters = DeadLetters::new("t");
        let length = |letters: &DeadLetters| letters.run.as_ref().map_or(0, |run| run.length);
        letters.add(0, 1, Vec::new(), "schema 7: bad");
        letters.add(0, 2, Vec::new(), "schema 8: bad");
        assert_eq!(length(&letters), 2);
        letters.add(0, 3, Vec::new(), "no value");
        assert_eq!(length(&letters), 1);
        letters.decoded();
        assert_eq!(length(&letters), 0);
    }
}
