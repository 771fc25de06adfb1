//! Measures one load: latencies from the time each command was due, and whether the bank holds the
//! load.

use crate::schedule::Schedule;
use hdrhistogram::Histogram;
use std::time::{Duration, Instant};

/// A load is held if the lag grows by less than this fraction of it. A bank that answers only 98 of
/// 100 due commands can't hold the load. A smaller growth is noise in a window of a few seconds.
const GROWTH_MAX: f64 = 0.02;
/// A load is held if at most this fraction of the due commands is unanswered at the end of the
/// window: half a second in a window of ten.
const SHORT_MAX: f64 = 0.05;
/// At low loads the lag of a bank that holds the load is 0 or 1, depending on the time of the
/// sample. A growth of less than this is noise.
const GROWN_MIN: f64 = 2.0;
/// A load is aborted when the lag exceeds this many seconds of it.
const ABORT_LAG_S: f64 = 3.0;

/// A histogram of latencies up to an hour, in microseconds with three digits.
#[derive(Debug, Clone)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("the bounds are in order"))
    }
}

impl Latencies {
    pub fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }

    pub fn reset(&mut self) {
        self.0.reset();
    }

    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency that this percentage of commands does not exceed, ms.
    pub fn percentile_ms(&self, percentile: f64) -> f64 {
        self.0.value_at_percentile(percentile) as f64 / 1000.0
    }

    /// The lowest latency, ms.
    pub fn min_ms(&self) -> f64 {
        self.0.min() as f64 / 1000.0
    }

    /// Each recorded value in microseconds and its count, as in `1203:2 4100:1`.
    pub fn histogram_us(&self) -> String {
        let counts = self.0.iter_recorded();
        let counts = counts.map(|it| format!("{}:{}", it.value_iterated_to(), it.count_at_value()));
        counts.collect::<Vec<_>>().join(" ")
    }
}

/// The measured time of a load, and the lag of the bank in that time.
#[derive(Debug, Clone)]
pub struct Window {
    /// Commands due per second.
    pub per_s: u32,
    /// Start of the window. Commands that are due earlier are not measured.
    pub opens: Instant,
    /// End of the window.
    pub closes: Instant,
    /// Samples: seconds since the start of the window, and the lag.
    lags: Vec<(f64, f64)>,
}

impl Window {
    /// A window for `per_s` commands per second, from `opens` to `closes`.
    pub fn new(per_s: u32, opens: Instant, closes: Instant) -> Self {
        Self { per_s, opens, closes, lags: Vec::new() }
    }

    /// Ends the window early.
    pub fn close(&mut self, now: Instant) {
        self.closes = now.max(self.opens);
    }

    /// Duration of the window, s.
    pub fn seconds(&self) -> f64 {
        self.closes.duration_since(self.opens).as_secs_f64()
    }

    /// Adds a sample of the lag if the window is open.
    pub fn note_lag(&mut self, now: Instant, lag: f64) {
        if now >= self.opens && now <= self.closes {
            self.lags.push(((now - self.opens).as_secs_f64(), lag));
        }
    }

    pub fn lag_max(&self) -> f64 {
        self.lags.iter().fold(0.0, |max: f64, (_, lag)| max.max(*lag))
    }

    /// Difference of the mean lag in the second half and in the first half. Means are used so that
    /// a single stall has little effect.
    pub fn lag_grown(&self) -> f64 {
        let half = self.seconds() / 2.0;
        let mean = |second: bool| {
            let lags = self.lags.iter().filter(|(at, _)| (*at >= half) == second);
            let (count, sum) =
                lags.fold((0.0, 0.0), |(count, sum), (_, lag)| (count + 1.0, sum + lag));
            if count > 0.0 { sum / count } else { 0.0 }
        };
        mean(true) - mean(false)
    }

    /// True if a bank with this `lag` can't hold the load any more. `in_flight` records are not
    /// a lag at any load.
    pub fn cannot_catch_up(&self, lag: f64, in_flight: f64) -> bool {
        lag > f64::from(self.per_s) * ABORT_LAG_S + in_flight
    }
}

/// True if a bank holds `load` per second. In a window of `seconds` it answered `done` commands,
/// and its lag grew by `grown` from the first half to the second. A growth below `noise` is
/// ignored.
pub fn keeps_up(load: u32, seconds: f64, done: f64, grown: f64, noise: f64) -> bool {
    let due = seconds * f64::from(load);
    let short = due - done;
    (grown < due / 2.0 * GROWTH_MAX || grown < noise)
        && (short < due * SHORT_MAX || short < GROWN_MIN)
}

/// The answers to the commands of a schedule.
#[derive(Debug)]
pub struct Answered {
    schedule: Schedule,
    pub window: Window,
    /// Latencies of the commands that were due in the window.
    pub latencies: Latencies,
    /// All answers.
    count: u64,
    /// Answers in the window.
    pub within: u64,
}

impl Answered {
    /// The window starts `settle` after the start of `schedule` and ends with it.
    pub fn new(schedule: Schedule, settle: Duration) -> Self {
        let opens = schedule.start + settle;
        let window = Window::new(schedule.per_s, opens, schedule.end().max(opens));
        Self { schedule, window, latencies: Latencies::default(), count: 0, within: 0 }
    }

    /// Adds an answer to command `index` at `now`. Returns its latency.
    pub fn note(&mut self, index: u64, now: Instant) -> Duration {
        let due = self.schedule.due(index);
        let latency = now.saturating_duration_since(due);
        self.count += 1;
        if due >= self.window.opens {
            self.latencies.record(latency);
        }
        self.within += u64::from(now >= self.window.opens && now < self.window.closes);
        latency
    }

    /// Number of commands that are due and unanswered.
    pub fn lag(&self, now: Instant) -> u64 {
        self.schedule.due_by(now).saturating_sub(self.count)
    }

    /// True if the bank can't hold the load any more.
    pub fn cannot_catch_up(&self, now: Instant) -> bool {
        self.window.cannot_catch_up(self.lag(now) as f64, 10.0)
    }

    /// Growth of the lag as a fraction of the load: 0 if the load is held, 0.5 if half of the
    /// commands are answered.
    pub fn growth(&self) -> f64 {
        let due = self.window.seconds() / 2.0 * f64::from(self.schedule.per_s);
        if due > 0.0 { self.window.lag_grown() / due } else { 0.0 }
    }

    /// True if the load was held in the window.
    pub fn keeps_up(&self) -> bool {
        let (seconds, grown) = (self.window.seconds(), self.window.lag_grown());
        keeps_up(self.schedule.per_s, seconds, self.within as f64, grown, GROWN_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bank that answers in order, at most `capacity` per second, each at least `delay_ms` after
    /// it was due.
    fn simulate(per_s: u32, capacity: u32, delay_ms: u64) -> Answered {
        simulate_able(per_s, delay_ms, |ms| ms * u64::from(capacity) / 1000)
    }

    /// A bank that can have answered `able(ms)` commands after `ms` milliseconds.
    fn simulate_able(per_s: u32, delay_ms: u64, able: impl Fn(u64) -> u64) -> Answered {
        let start = Instant::now();
        let schedule = Schedule::new(start, per_s, Duration::from_secs(9));
        let mut answered = Answered::new(schedule, Duration::from_secs(1));
        let mut next = 0;
        for ms in 0..12_000u64 {
            let now = start + Duration::from_millis(ms);
            let ripe =
                schedule.due_by(now.checked_sub(Duration::from_millis(delay_ms)).unwrap_or(start));
            while next < ripe.min(able(ms)) {
                answered.note(next, now);
                next += 1;
            }
            if ms % 100 == 0 {
                let lag = answered.lag(now) as f64;
                answered.window.note_lag(now, lag);
            }
        }
        answered
    }

    #[test]
    fn held_load_shows_its_delay_and_no_growth() {
        let answered = simulate(1000, 5000, 20);
        assert!(answered.keeps_up() && answered.growth().abs() < 0.001, "{}", answered.growth());
        assert_eq!(answered.latencies.count(), 8000);
        assert!((19.0..22.0).contains(&answered.latencies.percentile_ms(50.0)));
        assert!((7900..=8000).contains(&answered.within));
        assert_eq!(answered.window.lag_max(), 20.0);
    }

    #[test]
    fn growth_shows_the_unanswered_part() {
        for (capacity, growth) in [(500, 0.5), (900, 0.1), (970, 0.03)] {
            let answered = simulate(1000, capacity, 0);
            assert!((answered.growth() - growth).abs() < 0.01, "{}", answered.growth());
            assert!(!answered.keeps_up());
        }
        assert!(simulate(1000, 990, 0).keeps_up(), "one percent is noise");
    }

    #[test]
    fn stall_must_be_made_up_within_the_window() {
        // No answers for 600 ms, and then as many as are due: the lag stays and does not grow.
        let stalled = |ms: u64| if ms < 1000 { ms } else { ms.max(1600) - 600 };
        let answered = simulate_able(1000, 0, stalled);
        assert!(answered.growth() < GROWTH_MAX && !answered.keeps_up());
        // This bank catches up.
        let recovers = |ms: u64| if (1000..1600).contains(&ms) { 1000 } else { ms };
        assert!(simulate_able(1000, 0, recovers).keeps_up());
    }

    #[test]
    fn unanswered_command_counts_as_growth_at_low_load() {
        assert!(simulate(10, 5000, 60).keeps_up());
        assert!(!simulate(10, 9, 60).keeps_up());
    }

    #[test]
    fn latency_counts_from_the_due_time() {
        let start = Instant::now();
        let schedule = Schedule::new(start, 10, Duration::from_secs(2));
        let mut answered = Answered::new(schedule, Duration::ZERO);
        // Ten commands are due during a stall of one second. They wait between 1000 and 100 ms.
        let after = start + Duration::from_secs(1);
        for index in 0..10 {
            assert_eq!(
                answered.note(index, after),
                Duration::from_secs(1) - Duration::from_millis(100) * index as u32
            );
        }
        assert!((500.0..=605.0).contains(&answered.latencies.percentile_ms(50.0)));
    }

    #[test]
    fn load_is_aborted_above_three_seconds_of_lag() {
        let start = Instant::now();
        let answered =
            Answered::new(Schedule::new(start, 1000, Duration::from_secs(9)), Duration::ZERO);
        assert!(!answered.cannot_catch_up(start + Duration::from_secs(3)));
        assert!(answered.cannot_catch_up(start + Duration::from_millis(3100)));
    }
}
