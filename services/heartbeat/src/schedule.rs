//! The schedule: computes when the next heartbeat is due.

use std::time::{Duration, Instant};

/// Longest lag that is caught up, for example after an outage. Heartbeats that are later are
/// skipped.
const LAG_MAX: Duration = Duration::from_secs(1);

/// The times at which heartbeats are due. They are absolute: a late heartbeat does not delay the
/// next ones.
#[derive(Debug)]
pub struct Schedule {
    /// Time at which the last heartbeat was due. It may have been sent later.
    last: Instant,
    sleep: Duration,
    /// A heartbeat was skipped since the schedule was last on time, and a warning was logged.
    behind: bool,
}

impl Schedule {
    /// The first heartbeat is due one interval after `now`.
    pub fn new(now: Instant) -> Self {
        Self { last: now, sleep: Duration::ZERO, behind: false }
    }

    /// Returns the time until the next heartbeat with the interval `sleep`. A changed interval
    /// restarts the schedule: if a heartbeat would be overdue, it is due now.
    pub fn left(&mut self, sleep: Duration, now: Instant) -> Duration {
        if sleep != self.sleep {
            self.sleep = sleep;
            self.skip(now, sleep);
        }
        let left = (self.last + sleep).saturating_duration_since(now);
        self.behind &= left.is_zero();
        left
    }

    /// Advances to the next heartbeat. Called when the current one is sent.
    pub fn begin(&mut self, now: Instant) {
        self.last += self.sleep;
        if self.skip(now, LAG_MAX) && !self.behind {
            log::warn!("falling behind schedule, skipping heartbeats");
            self.behind = true;
        }
    }

    /// Skips the heartbeats that are overdue by more than `lag`; returns true if there are any.
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

    /// Times of the heartbeats until `end`, in ms since `start`. Sending one takes `took` ms.
    fn heartbeats(
        schedule: &mut Schedule,
        start: Instant,
        sleep: u32,
        took: u32,
        end: u32,
    ) -> Vec<u32> {
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
        let times = heartbeats(&mut Schedule::new(start), start, 10, 7, 1001);
        assert_eq!(times, (1..=100).map(|i| 10 * i).collect::<Vec<_>>());
    }

    #[test]
    fn overdue_heartbeats_of_one_second_are_caught_up() {
        let start = Instant::now();
        for (outage, caught_up) in [(500, 50), (1000, 100), (60_000, 101)] {
            let mut schedule = Schedule::new(start);
            heartbeats(&mut schedule, start, 10, outage, 11);
            let after = start + (10 + outage) * MS;
            let times = heartbeats(&mut schedule, after, 10, 0, 11);
            // The overdue heartbeats and the current one are sent at once, the next one after 10
            // ms. The first overdue heartbeat is sent regardless of its lag.
            assert_eq!(times.iter().filter(|&&at| at == 0).count(), caught_up, "{outage}");
            assert_eq!(times.last(), Some(&10), "{outage}");
        }
    }

    #[test]
    fn shorter_interval_restarts_the_schedule() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start);
        assert_eq!(schedule.left(3_600_000 * MS, start), 3_600_000 * MS);
        let later = start + 1_000_000 * MS;
        assert_eq!(heartbeats(&mut schedule, later, 10, 0, 31), [0, 10, 20, 30]);
        assert_eq!(schedule.left(100 * MS, later + 50 * MS), 80 * MS);
    }
}
