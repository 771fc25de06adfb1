//! The schedule of an open-loop load. Each command has a due time that does not depend on earlier
//! answers, and its latency counts from that time. So a stall of the bank is measured in full (no
//! coordinated omission).

use messaging::producer::{Outgoing, Sender};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Most commands in one call of the producer. A longer backlog is sent in several calls.
const BATCH_MAX: u64 = 5_000;

/// The due times of commands 0, 1, 2 ..., evenly spread.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// Due time of the first command.
    pub start: Instant,
    /// Commands per second, above zero.
    pub per_s: u32,
    /// Number of commands.
    pub count: u64,
}

impl Schedule {
    /// `per_s` commands per second from `start` on, for `time`.
    pub fn new(start: Instant, per_s: u32, time: Duration) -> Self {
        let count = time.as_nanos() * u128::from(per_s) / 1_000_000_000;
        Self { start, per_s, count: u64::try_from(count).unwrap_or(u64::MAX) }
    }

    /// Due time of command `index`.
    pub fn due(&self, index: u64) -> Instant {
        let nanos = u128::from(index) * 1_000_000_000 / u128::from(self.per_s);
        self.start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Number of commands that are due by `now`: those with `due(index) <= now`.
    pub fn due_by(&self, now: Instant) -> u64 {
        let Some(elapsed) = now.checked_duration_since(self.start) else { return 0 };
        let due = (elapsed.as_nanos() + 1) * u128::from(self.per_s);
        u64::try_from(due.div_ceil(1_000_000_000)).unwrap_or(u64::MAX).min(self.count)
    }

    /// Due time of the last command, or `start` without commands.
    pub fn end(&self) -> Instant {
        self.due(self.count.saturating_sub(1))
    }
}

/// Sends the commands of `schedule` when they are due, until the last one or until `stop`. Sends at
/// most one batch per `batch_interval`, with all commands that are due. Returns the number sent.
pub fn send(
    schedule: Schedule,
    batch_interval: Duration,
    sender: &mut Sender,
    mut command: impl FnMut(u64) -> Outgoing,
    stop: &AtomicBool,
) -> Result<u64, messaging::Error> {
    let mut sent = 0;
    let mut batch = Vec::new();
    while sent < schedule.count && !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        let due = schedule.due_by(now).min(sent + BATCH_MAX);
        if due > sent {
            batch.clear();
            batch.extend((sent..due).map(&mut command));
            sender.send_all(&batch).into_iter().collect::<Result<(), _>>()?;
            sent = due;
        }
        if sent < schedule.count {
            let next = schedule.due(sent).max(now + batch_interval);
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }
    Ok(sent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_spread_evenly_and_counted_when_due() {
        let start = Instant::now();
        for per_s in [1, 3, 7, 10, 999, 20_000, 1_000_000] {
            let schedule = Schedule::new(start, per_s, Duration::from_secs(2));
            assert_eq!(schedule.count, 2 * u64::from(per_s));
            assert_eq!(schedule.due_by(start), 1);
            let middle = schedule.count / 2;
            assert_eq!(schedule.due(middle), start + Duration::from_secs(1));
            for index in [1, middle, schedule.count - 1] {
                let due = schedule.due(index);
                assert_eq!(schedule.due_by(due), index + 1, "{per_s}/s, {index}");
                assert_eq!(
                    schedule.due_by(due - Duration::from_nanos(1)),
                    index,
                    "{per_s}/s, {index}"
                );
            }
            assert_eq!(schedule.due_by(start + Duration::from_secs(9)), schedule.count);
        }
    }

    #[test]
    fn nothing_is_due_before_the_start() {
        let start = Instant::now() + Duration::from_secs(1);
        let schedule = Schedule::new(start, 10, Duration::from_millis(99));
        assert_eq!((schedule.count, schedule.due_by(Instant::now())), (0, 0));
        assert_eq!(schedule.end(), start);
    }
}
