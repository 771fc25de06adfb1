//! Limits how often a failure is logged.

use std::mem;
use std::time::{Duration, Instant};

/// Minimum time between two lines of one cause.
const INTERVAL: Duration = Duration::from_secs(1);
/// Maximum of distinct causes at a time. All others share one limit.
const CAUSES_MAX: usize = 256;

/// The causes of failures that were logged within the last second.
///
/// The first failure is written at once. Of the later ones the latest is held back until the second
/// is over, so that the last error before a recovery or an exit is in the log.
pub struct Repetitions(Vec<Cause>);

struct Cause {
    id: u64,
    /// When its last line was written.
    written: Instant,
    /// Lines since then that will not be written.
    suppressed: u64,
    /// The latest line since then.
    held: Option<String>,
}

impl Cause {
    fn hold(&mut self, line: String) {
        self.suppressed += u64::from(self.held.replace(line).is_some());
    }

    /// The line that is held back, with the number of suppressed lines.
    fn release(&mut self, now: Instant) -> Option<String> {
        let mut line = self.held.take()?;
        self.written = now;
        let suppressed = mem::take(&mut self.suppressed);
        if suppressed > 0 {
            line += &format!(" suppressed={suppressed}");
        }
        Some(line)
    }
}

impl Repetitions {
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Returns the line that must be written now, if there is one.
    pub fn admit(&mut self, cause: u64, line: String, now: Instant) -> Option<String> {
        if self.position(cause).is_none() && self.0.len() >= CAUSES_MAX {
            self.0.retain(|cause| cause.held.is_some() || now < cause.written + INTERVAL);
        }
        let position = self.position(cause);
        // The last place is for all causes without a place of their own.
        let is_full = self.0.len() >= CAUSES_MAX;
        let Some(position) = position.or_else(|| self.0.len().checked_sub(1).filter(|_| is_full))
        else {
            self.0.push(Cause { id: cause, written: now, suppressed: 0, held: None });
            return Some(line);
        };
        let known = &mut self.0[position];
        known.hold(line);
        if now < known.written + INTERVAL { None } else { known.release(now) }
    }

    fn position(&self, cause: u64) -> Option<usize> {
        self.0.iter().position(|known| known.id == cause)
    }

    /// Returns the lines that are held back until `now`, or all of them.
    pub fn due(&mut self, now: Option<Instant>) -> Vec<String> {
        let is_due = |cause: &Cause| now.is_none_or(|now| now >= cause.written + INTERVAL);
        let due = self.0.iter_mut().filter(|cause| is_due(cause));
        due.filter_map(|cause| cause.release(now.unwrap_or_else(Instant::now))).collect()
    }

    /// The time until which the next line is held back.
    pub fn next_due(&self) -> Option<Instant> {
        let held = self.0.iter().filter(|cause| cause.held.is_some());
        held.map(|cause| cause.written + INTERVAL).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_is_admitted_once_per_interval() {
        let (mut repetitions, start) = (Repetitions::new(), Instant::now());
        let mut admit = |text: &str, now| repetitions.admit(1, text.to_owned(), now);
        assert_eq!(admit("a", start).as_deref(), Some("a"));
        let almost = start + INTERVAL - Duration::from_nanos(1);
        assert_eq!((admit("b", start), admit("c", almost)), (None, None));
        assert_eq!(admit("d", start + INTERVAL).as_deref(), Some("d suppressed=2"));
        assert_eq!(admit("e", start + INTERVAL), None);
        assert_eq!(admit("f", start + 2 * INTERVAL).as_deref(), Some("f suppressed=1"));
        assert_eq!(admit("g", start + 3 * INTERVAL).as_deref(), Some("g"));
    }

    #[test]
    fn held_line_is_due_after_the_interval() {
        let (mut repetitions, start) = (Repetitions::new(), Instant::now());
        assert_eq!(repetitions.next_due(), None);
        for text in ["a", "b", "c"] {
            repetitions.admit(1, text.to_owned(), start);
        }
        assert_eq!(repetitions.next_due(), Some(start + INTERVAL));
        assert!(repetitions.due(Some(start)).is_empty());
        assert_eq!(repetitions.due(Some(start + INTERVAL)), ["c suppressed=1"]);
        assert_eq!(repetitions.next_due(), None);
        // Before an exit all lines are due.
        repetitions.admit(1, "d".to_owned(), start + INTERVAL);
        assert_eq!(repetitions.due(None), ["d"]);
    }

    #[test]
    fn excess_causes_share_one_limit() {
        let (mut repetitions, start) = (Repetitions::new(), Instant::now());
        let count = |repetitions: &mut Repetitions, now| {
            let causes = 0..2 * CAUSES_MAX as u64;
            causes.filter_map(|cause| repetitions.admit(cause, String::new(), now)).count()
        };
        assert_eq!(count(&mut repetitions, start), CAUSES_MAX);
        assert_eq!(repetitions.0.len(), CAUSES_MAX);
        repetitions.due(None);
        // Causes without a failure in the last second are forgotten.
        assert_eq!(count(&mut repetitions, start + 10 * INTERVAL), CAUSES_MAX);
    }
}
