//! What one load showed.

use crate::consumer_lag::Records;
use crate::measure::{self, Lags, latencies, percentile_ms};
use crate::metrics::Work;
use crate::output::short;
use crate::process_usage::{Cores, NAMES};
use crate::simulated_users::{StepEnd, UserStep};
use hdrhistogram::Histogram;
use std::fmt::Write;
use std::time::Duration;

/// Longest p99 of a load that is held, ms.
const P99_MAX_MS: f64 = 1000.0;
/// Part of the load that must have been sent for it to count.
const SENT_MIN: f64 = 0.95;
/// Answered less than this part of a load, the bank is far from holding it.
const HOPELESS: f64 = 0.75;

/// The lag of all readers counts what is on its way as well, and what is done but not committed: the generator and the handler
/// commit each 0.1 s, the endpoint each 0.5 s. This much of the load, seconds, and this many records of visitors are no growth.
const NOISE_S: f64 = 0.7;
const NOISE: f64 = 20.0;

/// Why a load is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Not kept.
    WarmUp,
    /// To learn whether it is held.
    Climb,
    /// It is half of the highest that was held.
    Half,
}

impl Kind {
    /// As rows say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::WarmUp => "warm-up",
            Self::Climb => "climb",
            Self::Half => "half",
        }
    }
}

/// Columns of the rows that tell of loads; behind them stand those of [`parts_columns`], `other_cores` and `histogram_us`.
pub const COLUMNS: &str = "kind,load_per_s,seconds,steps,timed_out,refused,mean_ms,stderr_ms,min_ms,p50_ms,p90_ms,p99_ms,max_ms,\
     beats_per_s,commands_per_s,answered_per_s,changes_per_s,stored_per_s,records_per_s,lag_max,lag_grown,held,\
     commands_per_transaction,records_per_request";

/// A column for the CPU use of each part, and one for its memory.
pub fn parts_columns() -> String {
    let names = NAMES.iter();
    names.fold(String::new(), |text, name| text + &format!(",{name}_cores,{name}_mib"))
}

/// Latencies of visitors' steps, and their other ends.
#[derive(Debug, Clone)]
pub struct Visits {
    /// Microseconds.
    pub latencies: Histogram<u64>,
    sum: f64,
    squares: f64,
    /// See [`End`].
    pub timed_out: u64,
    /// See [`End`].
    pub refused: u64,
}

impl Default for Visits {
    fn default() -> Self {
        Self { latencies: latencies(), sum: 0.0, squares: 0.0, timed_out: 0, refused: 0 }
    }
}

impl Visits {
    /// Adds one.
    pub fn note(&mut self, act: &UserStep) {
        match &act.end {
            StepEnd::Changed(latency) => {
                let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
                self.latencies.saturating_record(micros);
                let ms = latency.as_secs_f64() * 1000.0;
                self.sum += ms;
                self.squares += ms * ms;
            }
            StepEnd::TimedOut => self.timed_out += 1,
            StepEnd::Refused(_) => self.refused += 1,
        }
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.latencies.len() + self.timed_out + self.refused
    }

    fn mean_ms(&self) -> f64 {
        self.sum / self.latencies.len() as f64
    }

    /// Standard error of the mean.
    fn stderr_ms(&self) -> f64 {
        let count = self.latencies.len() as f64;
        let variance = (self.squares - self.sum * self.sum / count) / (count - 1.0);
        (variance.max(0.0) / count).sqrt()
    }
}

/// What was measured. Rates and use are means over the window.
#[derive(Debug, Clone)]
pub struct Step {
    pub mode: &'static str,
    pub kind: Kind,
    pub load: u32,
    /// Length of the window.
    pub seconds: f64,
    /// Steps of visitors that were due in it.
    pub visits: Visits,
    /// Records in it.
    pub records: Records,
    pub lags: Lags,
    pub cores: Cores,
    /// At its end, bytes.
    pub memory: [Option<u64>; NAMES.len()],
    pub work: Work,
    /// True if the load was broken off.
    pub broken: bool,
    pub timed_out: u64,
    pub held: bool,
}

impl Step {
    /// Whether the bank held this load.
    pub fn judge(&mut self) {
        let (load, seconds) = (f64::from(self.load), self.seconds);
        let per_s = |records: i64| records as f64 / seconds;
        let sent = per_s(self.records.beats) >= load * SENT_MIN - 2.0 / seconds;
        let done = self.records.commands_done as f64;
        let grown = self.lags.grown(seconds);
        self.held = !self.broken
            && sent
            && self.visits.timed_out == 0
            && !self.visits.latencies.is_empty()
            && percentile_ms(&self.visits.latencies, 99.0) < P99_MAX_MS
            && measure::keeps_up(self.load, seconds, done, grown, load * NOISE_S + NOISE);
    }

    /// Whether this load need not be tried again: a stall of the machine explains a gap, but not one as wide.
    pub fn is_hopeless(&self) -> bool {
        let due = f64::from(self.load) * self.seconds;
        self.broken || (self.records.commands_done as f64) < due * HOPELESS
    }

    /// As it stands in the CSV, in the order of [`COLUMNS`].
    pub fn csv(&self) -> String {
        let Self { visits, records, seconds, .. } = self;
        let per_s = |records: i64| records as f64 / seconds;
        let percentile = |percentile| percentile_ms(&visits.latencies, percentile);
        let numbers = [
            f64::from(self.load),
            *seconds,
            visits.count() as f64,
            visits.timed_out as f64,
            visits.refused as f64,
            visits.mean_ms(),
            visits.stderr_ms(),
            visits.latencies.min() as f64 / 1000.0,
            percentile(50.0),
            percentile(90.0),
            percentile(99.0),
            percentile(100.0),
            per_s(records.beats),
            per_s(records.commands),
            per_s(records.commands_done),
            per_s(records.changes),
            per_s(records.changes_done),
            per_s(records.all),
            self.lags.max(),
            self.lags.grown(*seconds),
            f64::from(u8::from(self.held)),
            self.work.commands_per_transaction(),
            self.work.records_per_request(),
        ];
        let mut row = self.kind.name().to_owned();
        for number in numbers {
            row += &format!(",{}", rounded(number));
        }
        row += &parts_csv(&self.cores, &self.memory);
        let _ = write!(row, ",{},", rounded(self.cores.others));
        row + &histogram(&visits.latencies)
    }

    /// Titles of [`Self::cells`].
    pub fn titles() -> Vec<String> {
        [
            "mode",
            "load",
            "done/s",
            "steps",
            "late",
            "mean ms",
            "p50 ms",
            "p99 ms",
            "lag",
            "held",
            "broker %",
            "db %",
            "handler %",
            "endpoint %",
            "recs/req",
            "handler MiB",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    /// As it stands in the table.
    pub fn cells(&self) -> Vec<String> {
        let percentile = |percentile| short(percentile_ms(&self.visits.latencies, percentile));
        let percent = |place: usize| {
            self.cores.parts[place].map_or("-".to_owned(), |cores| short(cores * 100.0))
        };
        vec![
            self.mode.to_owned(),
            self.load.to_string(),
            short(self.records.commands_done as f64 / self.seconds),
            self.visits.count().to_string(),
            self.visits.timed_out.to_string(),
            short(self.visits.mean_ms()),
            percentile(50.0),
            percentile(99.0),
            short(self.lags.max()),
            if self.held { "yes" } else { "no" }.to_owned(),
            percent(crate::process_usage::BROKER),
            percent(crate::process_usage::DATABASE),
            percent(crate::process_usage::HANDLER_PART),
            percent(crate::process_usage::ENDPOINT),
            short(self.work.records_per_request()),
            self.memory[crate::process_usage::HANDLER_PART]
                .map_or("-".to_owned(), |bytes| short(mib(bytes))),
        ]
    }
}

/// Cells of [`parts_columns`]; empty where a part did not run.
pub fn parts_csv(cores: &Cores, memory: &[Option<u64>; NAMES.len()]) -> String {
    let mut row = String::new();
    for (cores, memory) in cores.parts.iter().zip(memory) {
        let cores = cores.map_or(String::new(), rounded);
        let memory = memory.map_or(String::new(), |bytes| rounded(mib(bytes)));
        let _ = write!(row, ",{cores},{memory}");
    }
    row
}

/// To a ten-thousandth, without zeros at the end; empty if there is no number.
pub fn rounded(number: f64) -> String {
    if number.is_finite() { ((number * 1e4).round() / 1e4).to_string() } else { String::new() }
}

/// Milliseconds, to a microsecond.
pub fn ms(time: Duration) -> String {
    rounded(time.as_micros() as f64 / 1000.0)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Each value that was recorded, to three digits, and how often: `1203:2 4100:1`.
fn histogram(latencies: &Histogram<u64>) -> String {
    let counts = latencies.iter_recorded();
    let counts = counts.map(|it| format!("{}:{}", it.value_iterated_to(), it.count_at_value()));
    counts.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn visits(latencies_ms: &[u64]) -> Visits {
        let mut visits = Visits::default();
        for ms in latencies_ms {
            visits.note(&UserStep {
                due: Instant::now(),
                end: StepEnd::Changed(Duration::from_millis(*ms)),
            });
        }
        visits
    }

    fn step(load: u32, done: i64) -> Step {
        let records =
            Records { beats: i64::from(load) * 10, commands_done: done, ..Records::default() };
        let mut step = Step {
            mode: "batched",
            kind: Kind::Climb,
            load,
            seconds: 10.0,
            visits: visits(&[10, 20, 30]),
            records,
            lags: Lags::default(),
            cores: Cores::default(),
            memory: [None; NAMES.len()],
            work: Work::default(),
            broken: false,
            timed_out: 0,
            held: false,
        };
        step.judge();
        step
    }

    #[test]
    fn mean_and_standard_error_are_those_of_statistics() {
        // By hand: mean 20; deviations 10, 0, 10; variance 200/2; error sqrt(100/3).
        let visits = visits(&[10, 20, 30]);
        assert!((visits.mean_ms() - 20.0).abs() < 1e-9);
        assert!((visits.stderr_ms() - (100.0f64 / 3.0).sqrt()).abs() < 1e-9);
    }

    #[test]
    fn a_load_is_held_if_it_was_sent_answered_and_shown_in_time() {
        assert!(step(1000, 10_000).held && step(0, 0).held);
        assert!(!step(1000, 9400).held, "a twentieth was not answered");
        let judged = |change: fn(&mut Step)| {
            let mut step = step(1000, 10_000);
            change(&mut step);
            step.judge();
            step.held
        };
        assert!(!judged(|step| step.records.beats = 9400), "it was not sent");
        assert!(!judged(|step| step.visits.timed_out = 1));
        assert!(!judged(|step| step.broken = true));
        assert!(!judged(|step| step.visits = visits(&[1100])), "p99 is above a second");
        assert!(!judged(|step| step.visits = Visits::default()), "nobody saw anything");
        assert!(!judged(
            |step| (0..10).for_each(|at| step.lags.note(f64::from(at), f64::from(at) * 200.0))
        ));
    }

    #[test]
    fn a_load_is_hopeless_if_it_was_broken_off_or_a_quarter_was_not_answered() {
        assert!(!step(1000, 7500).is_hopeless() && !step(0, 0).is_hopeless());
        assert!(step(1000, 7499).is_hopeless());
        assert!(Step { broken: true, ..step(1000, 10_000) }.is_hopeless());
    }

    #[test]
    fn a_row_of_csv_has_a_value_for_each_column() {
        let columns = format!("{COLUMNS}{},other_cores,histogram_us", parts_columns());
        let row = step(1000, 10_000).csv();
        assert_eq!(row.split(',').count(), columns.split(',').count(), "{columns}\n{row}");
        assert!(row.starts_with("climb,1000,10,3,0,0,20,5.7735,10,20.015,"), "{row}");
        assert!(row.ends_with(":1"), "{row}");
        assert_eq!(Step::titles().len(), step(0, 0).cells().len());
    }
}
