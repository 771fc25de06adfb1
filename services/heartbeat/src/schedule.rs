//! The schedule: when the next heartbeat records are due.

use std::time::{Duration, Instant};

/// How far the schedule may lag before heartbeats are skipped: after an outage, no more than this
/// is caught up at once.
const LAG_MAX: Duration = Duration::from_secs(1);

/// Absolute times at which heartbeats are due, so that a late one does not delay those after it.
#[derive(Debug)]
pub struct Schedule {
    /// When the last heartbeat was due, not when it was sent.
    last: Instant,
    sleep: Duration,
    /// Heartbeats were skipped since the schedule was last on time.
    behind: bool,
}

impl Schedule {
    /// The first heartbeat is due one sleep after `now`.
    pub fn new(now: Instant) -> Self {
        Self { last: now, sleep: Duration::ZERO, behind: false }
    }

    /// Time until the next heartbeat at this interval. With another `sleep` than before the
    /// schedule starts again: a heartbeat that would have been due is due now.
    pub fn left(&mut self, sleep: Duration, now: Instant) -> Duration {
        if sleep != self.sleep {
            self.sleep = sleep;
            self.skip(now, sleep);
        }
        let left = (self.last + sleep).saturating_duration_since(now);
        self.behind &= left.is_zero();
        left
    }

    /// Moves on to the heartbeat after the one that is due.
    pub fn begin(&mut self, now: Instant) {
        self.last += self.sleep;
        if self.skip(now, LAG_MAX) && !self.behind {
            log::warn!("falling behind schedule, skipping heartbeats");
            self.behind = true;
        }
    }

    /// Skips the heartbeats that are later than `lag`; true if there are any.
    fn skip(&mut self, now: Instant, lag: Duration) -> bool {
        let lost = now.saturating_duration_since(self.last).saturating_sub(lag);
        self.last += lost;
        !lost.is_zero()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Times of the heartbeats until `end`, each of which takes `took`, all in ms from `start`.
    fn beats(schedule: &mut Schedule, start: Instant, sleep: u32, took: u32, end: u32) -> Vec<u32> {
        let (mut now, end, mut times) = (start, start + end * MS, Vec::new());
        loop {
            now += schedule.left(sleep * MS, now);
            if now >= end {
                return times;
            }
            schedule.begin(now);
            times.push(now.duration_since(start).as_millis() as u32);
            now += took * MS;
        }
    }

    #[test]
    fn schedule_does_not_drift() {
        let start = Instant::now();
        let times = beats(&mut Schedule::new(start), start, 10, 7, 1001);
        assert_eq!(times, (1..=100).map(|i| 10 * i).collect::<Vec<_>>());
    }

    #[test]
    fn heartbeats_of_the_last_second_are_caught_up() {
        let start = Instant::now();
        for (outage, caught_up) in [(500, 50), (1000, 100), (60_000, 101)] {
            let mut schedule = Schedule::new(start);
            beats(&mut schedule, start, 10, outage, 11);
            let after = start + (10 + outage) * MS;
            let times = beats(&mut schedule, after, 10, 0, 11);
            // Those at once, including the one of this moment, and one 10 ms later. The first is
            // sent however late it is.
            assert_eq!(times.iter().filter(|&&at| at == 0).count(), caught_up, "{outage}");
            assert_eq!(times.last(), Some(&10), "{outage}");
        }
    }

    #[test]
    fn shorter_sleep_starts_the_schedule_again() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start);
        assert_eq!(schedule.left(3_600_000 * MS, start), 3_600_000 * MS);
        let later = start + 1_000_000 * MS;
        assert_eq!(beats(&mut schedule, later, 10, 0, 31), [0, 10, 20, 30]);
        assert_eq!(schedule.left(100 * MS, later + 50 * MS), 80 * MS);
    }
}
