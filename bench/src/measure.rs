//! What one load shows: latencies from the time each command was due, and whether the bank keeps
//! up.

use crate::schedule::Schedule;
use hdrhistogram::Histogram;
use std::time::{Duration, Instant};

/// A load counts as held while the lag grows by less than this part of it. A bank that does 98 of
/// 100 due commands holds nothing; less is drowned in the noise of a few seconds.
const GROWTH_MAX: f64 = 0.02;
/// Nor does it hold while answers stay behind what was due by more than this part: half a second in
/// a window of ten.
const SHORT_MAX: f64 = 0.05;
/// The lag of a bank that keeps up is 0 or 1 at low loads, whichever a look happens to see: no more
/// than that is no growth.
const GROWN_MIN: f64 = 2.0;
/// A lag of this many seconds of the load can't be caught up any more: the load is broken off.
const HOPELESS_S: f64 = 3.0;

/// Latencies up to an hour in microseconds, to three digits.
#[derive(Debug, Clone)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("the bounds are in order"))
    }
}

impl Latencies {
    /// Adds one.
    pub fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }

    /// Forgets all.
    pub fn reset(&mut self) {
        self.0.reset();
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency that this percentage stays within, ms.
    pub fn percentile_ms(&self, percentile: f64) -> f64 {
        self.0.value_at_percentile(percentile) as f64 / 1000.0
    }

    /// The smallest, ms.
    pub fn min_ms(&self) -> f64 {
        self.0.min() as f64 / 1000.0
    }

    /// Each recorded value in microseconds, to three digits, and how often: `1203:2 4100:1`.
    pub fn histogram_us(&self) -> String {
        let counts = self.0.iter_recorded();
        let counts = counts.map(|it| format!("{}:{}", it.value_iterated_to(), it.count_at_value()));
        counts.collect::<Vec<_>>().join(" ")
    }
}

/// The measured time of a load, and the lag of the bank in it.
#[derive(Debug, Clone)]
pub struct Window {
    /// The load.
    pub per_s: u32,
    /// When it opens: what falls due before is not measured.
    pub opens: Instant,
    /// When it closes.
    pub closes: Instant,
    /// Seconds after it opened, and the lag then.
    lags: Vec<(f64, f64)>,
}

impl Window {
    /// Of `per_s` commands per second, from `opens` to `closes`.
    pub fn new(per_s: u32, opens: Instant, closes: Instant) -> Self {
        Self { per_s, opens, closes, lags: Vec::new() }
    }

    /// Closes it before its time.
    pub fn close(&mut self, now: Instant) {
        self.closes = now.max(self.opens);
    }

    /// Its length.
    pub fn seconds(&self) -> f64 {
        self.closes.duration_since(self.opens).as_secs_f64()
    }

    /// Notes the lag, if it is open.
    pub fn note_lag(&mut self, now: Instant, lag: f64) {
        if now >= self.opens && now <= self.closes {
            self.lags.push(((now - self.opens).as_secs_f64(), lag));
        }
    }

    /// The largest lag.
    pub fn lag_max(&self) -> f64 {
        self.lags.iter().fold(0.0, |max: f64, (_, lag)| max.max(*lag))
    }

    /// How much larger the lag was in the second half than in the first: means, so that a single
    /// stall does not decide.
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

    /// True if `lag` can't be caught up within the load; `on_their_way` records are no lag at any
    /// load.
    pub fn is_hopeless(&self, lag: f64, on_their_way: f64) -> bool {
        lag > f64::from(self.per_s) * HOPELESS_S + on_their_way
    }
}

/// True if a bank keeps up with `load` per second: in a window of `seconds` it did `done` of what
/// fell due, and its lag grew by `grown` from the first half to the second. Less than `noise` is no
/// growth.
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
    /// Of the commands due in the window.
    pub latencies: Latencies,
    /// Answers in all.
    count: u64,
    /// Answers that came within the window.
    pub within: u64,
}

impl Answered {
    /// The window opens `settle` after the start of `schedule` and closes with it.
    pub fn new(schedule: Schedule, settle: Duration) -> Self {
        let opens = schedule.start + settle;
        let window = Window::new(schedule.per_s, opens, schedule.end().max(opens));
        Self { schedule, window, latencies: Latencies::default(), count: 0, within: 0 }
    }

    /// Command `index` was answered at `now`; its latency.
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

    /// Commands that are due and not answered.
    pub fn lag(&self, now: Instant) -> u64 {
        self.schedule.due_by(now).saturating_sub(self.count)
    }

    /// True if the lag can't be caught up within the load.
    pub fn is_hopeless(&self, now: Instant) -> bool {
        self.window.is_hopeless(self.lag(now) as f64, 10.0)
    }

    /// How fast the lag grew, as a part of the load: 0 keeps up, 0.5 does half.
    pub fn growth(&self) -> f64 {
        let due = self.window.seconds() / 2.0 * f64::from(self.schedule.per_s);
        if due > 0.0 { self.window.lag_grown() / due } else { 0.0 }
    }

    /// True if the lag did not grow, and as much was answered in the window as fell due in it.
    pub fn keeps_up(&self) -> bool {
        let (seconds, grown) = (self.window.seconds(), self.window.lag_grown());
        keeps_up(self.schedule.per_s, seconds, self.within as f64, grown, GROWN_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bank that answers `capacity` per second in order, each `delay_ms` after it was due at the
    /// earliest.
    fn simulate(per_s: u32, capacity: u32, delay_ms: u64) -> Answered {
        simulate_able(per_s, delay_ms, |ms| ms * u64::from(capacity) / 1000)
    }

    /// The same, but it is `able` to have answered that many after so many milliseconds.
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
    fn a_bank_that_keeps_up_shows_its_delay_and_no_growth() {
        let answered = simulate(1000, 5000, 20);
        assert!(answered.keeps_up() && answered.growth().abs() < 0.001, "{}", answered.growth());
        assert_eq!(answered.latencies.count(), 8000);
        assert!((19.0..22.0).contains(&answered.latencies.percentile_ms(50.0)));
        assert!((7900..=8000).contains(&answered.within));
        assert_eq!(answered.window.lag_max(), 20.0);
    }

    #[test]
    fn a_bank_that_does_a_part_shows_the_rest_as_growth() {
        for (capacity, growth) in [(500, 0.5), (900, 0.1), (970, 0.03)] {
            let answered = simulate(1000, capacity, 0);
            assert!((answered.growth() - growth).abs() < 0.01, "{}", answered.growth());
            assert!(!answered.keeps_up());
        }
        assert!(simulate(1000, 990, 0).keeps_up(), "a hundredth is within the noise");
    }

    #[test]
    fn what_was_lost_to_a_stall_must_be_made_good_within_the_window() {
        // Nothing for 600 ms, and then just as much as falls due: the lag stays and does not grow.
        let stalled = |ms: u64| if ms < 1000 { ms } else { ms.max(1600) - 600 };
        let answered = simulate_able(1000, 0, stalled);
        assert!(answered.growth() < GROWTH_MAX && !answered.keeps_up());
        // Here it catches up.
        let recovers = |ms: u64| if (1000..1600).contains(&ms) { 1000 } else { ms };
        assert!(simulate_able(1000, 0, recovers).keeps_up());
    }

    #[test]
    fn at_a_low_load_the_one_on_its_way_is_no_growth_but_an_unserved_one_is() {
        assert!(simulate(10, 5000, 60).keeps_up());
        assert!(!simulate(10, 9, 60).keeps_up());
    }

    #[test]
    fn latency_counts_from_the_time_due_not_from_the_time_sent() {
        let start = Instant::now();
        let schedule = Schedule::new(start, 10, Duration::from_secs(2));
        let mut answered = Answered::new(schedule, Duration::ZERO);
        // A stall of a second: ten commands were due meanwhile, and waited between 1000 and 100 ms.
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
    fn three_seconds_behind_is_hopeless() {
        let start = Instant::now();
        let answered =
            Answered::new(Schedule::new(start, 1000, Duration::from_secs(9)), Duration::ZERO);
        assert!(!answered.is_hopeless(start + Duration::from_secs(3)));
        assert!(answered.is_hopeless(start + Duration::from_millis(3100)));
    }
}
