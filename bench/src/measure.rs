//! What one step of load shows: latencies from the time each command was due, and whether the bank keeps up.

use crate::schedule::Schedule;
use hdrhistogram::Histogram;
use std::time::{Duration, Instant};

/// A load counts as held while the lag grows by less than this part of it. A bank that does 98 of 100 due commands holds
/// nothing; less is drowned in the noise of a few seconds.
const GROWTH_MAX: f64 = 0.02;
/// Nor does it hold while answers stay behind what was due by more than this part: half a second in a window of ten.
const SHORT_MAX: f64 = 0.05;
/// The lag of a bank that keeps up is 0 or 1 at low loads, whichever a look happens to see: no more than that is no growth.
const GROWN_MIN: f64 = 2.0;
/// A lag of this much of the load can't become a hold any more: the step is broken off.
const HOPELESS: Duration = Duration::from_secs(3);

/// Latencies up to an hour in microseconds, to three digits.
pub fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("the bounds are in order")
}

/// A percentile of latencies in milliseconds.
pub fn percentile_ms(latencies: &Histogram<u64>, percentile: f64) -> f64 {
    latencies.value_at_percentile(percentile) as f64 / 1000.0
}

/// Collects what comes back from a step. What falls due before `opens` warms up and is not measured.
#[derive(Debug)]
pub struct Window {
    schedule: Schedule,
    opens: Instant,
    closes: Instant,
    /// Of the commands due in the window.
    pub latencies: Histogram<u64>,
    /// Answers in all.
    answered: u64,
    /// Answers that came within the window.
    pub answered_within: u64,
    lags: Lags,
}

/// How far behind the bank was, over the length of a window.
#[derive(Debug, Clone, Default)]
pub struct Lags(Vec<(f64, f64)>);

impl Lags {
    /// Notes the lag, so many seconds after the window opened.
    pub fn note(&mut self, at: f64, lag: f64) {
        self.0.push((at, lag));
    }

    /// How much larger it was in the second half of a window of `seconds` than in the first: means, so that a single stall
    /// does not decide.
    pub fn grown(&self, seconds: f64) -> f64 {
        let half = seconds / 2.0;
        let mean = |second: bool| {
            let lags = self.0.iter().filter(|(at, _)| (*at >= half) == second);
            let (count, sum) =
                lags.fold((0.0, 0.0), |(count, sum), (_, lag)| (count + 1.0, sum + lag));
            if count > 0.0 { sum / count } else { 0.0 }
        };
        mean(true) - mean(false)
    }

    /// The largest.
    pub fn max(&self) -> f64 {
        self.0.iter().fold(0.0, |max: f64, (_, lag)| max.max(*lag))
    }
}

/// True if a bank keeps up with `load` per second: in a window of `seconds` it did `done` of what fell due, and its lag grew by
/// `grown` from the first half to the second. Less than `noise` is no growth.
pub fn keeps_up(load: u32, seconds: f64, done: f64, grown: f64, noise: f64) -> bool {
    let due = seconds * f64::from(load);
    let short = due - done;
    (grown < due / 2.0 * GROWTH_MAX || grown < noise)
        && (short < due * SHORT_MAX || short < GROWN_MIN)
}

impl Window {
    /// Opens `settle` after the start of `schedule`, closes with it.
    pub fn new(schedule: Schedule, settle: Duration) -> Self {
        let opens = schedule.start + settle;
        let closes = schedule.end().max(opens);
        let latencies = latencies();
        Self {
            schedule,
            opens,
            closes,
            latencies,
            answered: 0,
            answered_within: 0,
            lags: Lags::default(),
        }
    }

    /// When it opens.
    pub fn opens(&self) -> Instant {
        self.opens
    }

    /// When it closes.
    pub fn closes(&self) -> Instant {
        self.closes
    }

    /// Closes it before its time.
    pub fn close(&mut self, now: Instant) {
        self.closes = now.max(self.opens);
    }

    /// Its length, seconds.
    pub fn seconds(&self) -> f64 {
        self.closes.duration_since(self.opens).as_secs_f64()
    }

    /// Command `index` of the step was answered at `now`; its latency.
    pub fn answered(&mut self, index: u64, now: Instant) -> Duration {
        let due = self.schedule.due(index);
        let latency = now.saturating_duration_since(due);
        self.answered += 1;
        if due >= self.opens {
            self.latencies
                .saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
        }
        if now >= self.opens && now < self.closes {
            self.answered_within += 1;
        }
        latency
    }

    /// Commands that are due and not answered.
    pub fn lag(&self, now: Instant) -> u64 {
        self.schedule.due_by(now).saturating_sub(self.answered)
    }

    /// Notes the lag.
    pub fn sample(&mut self, now: Instant) {
        if now >= self.opens && now <= self.closes {
            self.lags.note(now.duration_since(self.opens).as_secs_f64(), self.lag(now) as f64);
        }
    }

    /// True if the lag can't be caught up within the step.
    pub fn is_hopeless(&self, now: Instant) -> bool {
        self.lag(now) as f64 > f64::from(self.schedule.per_s) * HOPELESS.as_secs_f64() + 10.0
    }

    /// How fast the lag grew, as a part of the load: 0 keeps up, 0.5 does half.
    pub fn growth(&self) -> f64 {
        let due = self.seconds() / 2.0 * f64::from(self.schedule.per_s);
        if due > 0.0 { self.lags.grown(self.seconds()) / due } else { 0.0 }
    }

    /// True if the lag did not grow, and as much was answered in the window as fell due in it.
    pub fn keeps_up(&self) -> bool {
        let (seconds, done) = (self.seconds(), self.answered_within as f64);
        keeps_up(self.schedule.per_s, seconds, done, self.lags.grown(seconds), GROWN_MIN)
    }

    /// The largest lag seen in the window.
    pub fn lag_max(&self) -> u64 {
        self.lags.max() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bank that answers `capacity` per second in order, each `delay_ms` after it was due at the earliest.
    fn simulate(per_s: u32, capacity: u32, delay_ms: u64) -> Window {
        simulate_able(per_s, delay_ms, |ms| ms * u64::from(capacity) / 1000)
    }

    /// The same, but it is `able` to have answered that many after so many milliseconds.
    fn simulate_able(per_s: u32, delay_ms: u64, able: impl Fn(u64) -> u64) -> Window {
        let start = Instant::now();
        let schedule = Schedule::new(start, per_s, Duration::from_secs(9));
        let mut window = Window::new(schedule, Duration::from_secs(1));
        let mut next = 0;
        for ms in 0..12_000u64 {
            let now = start + Duration::from_millis(ms);
            let ripe =
                schedule.due_by(now.checked_sub(Duration::from_millis(delay_ms)).unwrap_or(start));
            while next < ripe.min(able(ms)) {
                window.answered(next, now);
                next += 1;
            }
            if ms % 100 == 0 {
                window.sample(now);
            }
        }
        window
    }

    #[test]
    fn a_bank_that_keeps_up_shows_its_delay_and_no_growth() {
        let window = simulate(1000, 5000, 20);
        assert!(window.keeps_up() && window.growth().abs() < 0.001, "{}", window.growth());
        assert_eq!(window.latencies.len(), 8000);
        assert!((19.0..22.0).contains(&percentile_ms(&window.latencies, 50.0)));
        assert!((7900..=8000).contains(&window.answered_within));
        assert_eq!(window.lag_max(), 20);
    }

    #[test]
    fn a_bank_that_does_a_part_shows_the_rest_as_growth() {
        for (capacity, growth) in [(500, 0.5), (900, 0.1), (970, 0.03)] {
            let window = simulate(1000, capacity, 0);
            assert!((window.growth() - growth).abs() < 0.01, "{}", window.growth());
            assert!(!window.keeps_up());
        }
        assert!(simulate(1000, 990, 0).keeps_up(), "a hundredth is within the noise");
    }

    #[test]
    fn what_was_lost_to_a_stall_must_be_made_good_within_the_window() {
        // Nothing for 600 ms, and then just as much as falls due: the lag stays and does not grow.
        let stalled = |ms: u64| if ms < 1000 { ms } else { ms.max(1600) - 600 };
        let window = simulate_able(1000, 0, stalled);
        assert!(window.growth() < GROWTH_MAX && !window.keeps_up());
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
        let mut window = Window::new(schedule, Duration::ZERO);
        // A stall of a second: ten commands were due meanwhile, and waited between 1000 and 100 ms.
        let after = start + Duration::from_secs(1);
        for index in 0..10 {
            assert_eq!(
                window.answered(index, after),
                Duration::from_secs(1) - Duration::from_millis(100) * index as u32
            );
        }
        assert!((500.0..=605.0).contains(&percentile_ms(&window.latencies, 50.0)));
    }

    #[test]
    fn three_seconds_behind_is_hopeless() {
        let start = Instant::now();
        let window =
            Window::new(Schedule::new(start, 1000, Duration::from_secs(9)), Duration::ZERO);
        assert!(!window.is_hopeless(start + Duration::from_secs(3)));
        assert!(window.is_hopeless(start + Duration::from_millis(3100)));
    }
}
