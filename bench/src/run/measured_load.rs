//! The figures of one load.

use crate::consumer_lag::Records;
use crate::measure;
use crate::metrics::Work;
use crate::mode::Mode;
use crate::output::{mib, rounded, short};
use crate::process_usage::{BROKER, CpuUse, DATABASE, ENDPOINT, HANDLER, NAMES, PerPart};
use crate::simulated_users::UserSteps;
use std::fmt::Write;
use std::time::Duration;

/// Highest p99 of a load that is held, ms.
const P99_MAX_MS: f64 = 1000.0;
/// Fraction of the load that the heartbeat must have sent.
const SENT_MIN: f64 = 0.95;
/// If a smaller fraction of a load is answered, it is not tried again.
const RETRY_MIN: f64 = 0.75;

/// The lag includes records in flight, and consumed records whose offsets are not committed yet.
/// The generator and the handler commit every 0.1 s, the endpoint every 0.5 s. So a growth by this
/// many seconds of the load and this many records of simulated users is ignored.
const NOISE_S: f64 = 0.7;
const NOISE: f64 = 20.0;

/// Why a load is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Warm-up, which is not recorded.
    WarmUp,
    /// Search for the highest load held.
    Climb,
    /// Half of the highest load held.
    Half,
}

impl Kind {
    /// The name in rows.
    pub fn name(self) -> &'static str {
        match self {
            Self::WarmUp => "warm-up",
            Self::Climb => "climb",
            Self::Half => "half",
        }
    }
}

/// Columns of the rows of loads. They are followed by those of [`parts_columns`], `other_cores`,
/// `stolen_cores` and `histogram_us`.
pub const COLUMNS: &str = "kind,load_per_s,seconds,steps,timed_out,refused,mean_ms,stderr_ms,\
                           min_ms,\
     p50_ms,p90_ms,p99_ms,max_ms,beats_per_s,commands_per_s,answered_per_s,changes_per_s,\
     stored_per_s,records_per_s,lag_max,lag_grown,held,commands_per_transaction,\
     records_per_request,own_pause_ms";

/// Columns for the CPU use of each part, cores, and for its memory, MiB.
pub fn parts_columns() -> String {
    let names = NAMES.iter();
    names.fold(String::new(), |text, name| text + &format!(",{name}_cores,{name}_mib"))
}

/// The figures of a load. Rates and CPU use are means over the window.
#[derive(Debug, Clone)]
pub struct MeasuredLoad {
    pub mode: Mode,
    pub kind: Kind,
    pub load: u32,
    /// Duration of the window.
    pub seconds: f64,
    /// Steps of users that were due in the window.
    pub steps: UserSteps,
    /// Records written and consumed in the window.
    pub records: Records,
    pub lag_max: f64,
    /// Growth from the first half of the window to the second.
    pub lag_grown: f64,
    pub cpu: CpuUse,
    /// Memory at the end of the window, bytes.
    pub memory: PerPart<u64>,
    pub work: Work,
    /// The longest pause of this program, which looks like a stall of the bank.
    pub own_pause: Duration,
    /// True if the load was aborted.
    pub broken: bool,
    pub timed_out: u64,
    pub held: bool,
}

impl MeasuredLoad {
    /// Decides whether the bank held the load.
    pub fn judge(&mut self) {
        let (load, seconds) = (f64::from(self.load), self.seconds);
        let per_s = |records: i64| records as f64 / seconds;
        let sent = per_s(self.records.beats) >= load * SENT_MIN - 2.0 / seconds;
        let done = self.records.commands_done as f64;
        self.held = !self.broken
            && sent
            && self.steps.timed_out == 0
            && self.steps.received() > 0
            && self.steps.latencies.percentile_ms(99.0) < P99_MAX_MS
            && measure::keeps_up(self.load, seconds, done, self.lag_grown, load * NOISE_S + NOISE);
    }

    /// True if the load need not be tried again: the unanswered part is too large to be the effect
    /// of a stall of the machine.
    pub fn needs_no_retry(&self) -> bool {
        let due = f64::from(self.load) * self.seconds;
        self.broken || (self.records.commands_done as f64) < due * RETRY_MIN
    }

    /// A row of the CSV file, in the order of [`COLUMNS`].
    pub fn csv(&self) -> String {
        let Self { steps, records, seconds, .. } = self;
        let per_s = |records: i64| records as f64 / seconds;
        let percentile = |percentile| steps.latencies.percentile_ms(percentile);
        let numbers = [
            f64::from(self.load),
            *seconds,
            steps.count() as f64,
            steps.timed_out as f64,
            steps.refused as f64,
            steps.mean_ms(),
            steps.stderr_ms(),
            steps.latencies.min_ms(),
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
            self.lag_max,
            self.lag_grown,
            f64::from(u8::from(self.held)),
            self.work.commands_per_transaction(),
            self.work.records_per_request(),
            self.own_pause.as_secs_f64() * 1000.0,
        ];
        let mut row = self.kind.name().to_owned();
        for number in numbers {
            row += &format!(",{}", rounded(number));
        }
        row += &parts_csv(&self.cpu, &self.memory);
        let (others, stolen) = (self.cpu.other_cores(), self.cpu.stolen_cores());
        let _ = write!(row, ",{},{},", rounded(others), rounded(stolen));
        row + &steps.latencies.histogram_us()
    }

    /// Titles of [`Self::cells`].
    pub fn titles() -> Vec<String> {
        [
            "mode",
            "load",
            "done/s",
            "steps",
            "timed out",
            "mean ms",
            "p50 ms",
            "p99 ms",
            "lag",
            "own ms",
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

    /// The cells of a row in the table that is printed.
    pub fn cells(&self) -> Vec<String> {
        let cores = self.cpu.cores();
        let percentile = |percentile| short(self.steps.latencies.percentile_ms(percentile));
        let percent =
            |place: usize| cores[place].map_or("-".to_owned(), |cores| short(cores * 100.0));
        vec![
            self.mode.to_string(),
            self.load.to_string(),
            short(self.records.commands_done as f64 / self.seconds),
            self.steps.count().to_string(),
            self.steps.timed_out.to_string(),
            short(self.steps.mean_ms()),
            percentile(50.0),
            percentile(99.0),
            short(self.lag_max),
            self.own_pause.as_millis().to_string(),
            if self.held { "yes" } else { "no" }.to_owned(),
            percent(BROKER),
            percent(DATABASE),
            percent(HANDLER),
            percent(ENDPOINT),
            short(self.work.records_per_request()),
            self.memory[HANDLER].map_or("-".to_owned(), |bytes| short(mib(bytes))),
        ]
    }
}

/// Cells of [`parts_columns`]; empty for a part that was not running.
pub fn parts_csv(cpu: &CpuUse, memory: &PerPart<u64>) -> String {
    let mut row = String::new();
    for (cores, memory) in cpu.cores().iter().zip(memory) {
        let cores = cores.map_or(String::new(), rounded);
        let memory = memory.map_or(String::new(), |bytes| rounded(mib(bytes)));
        let _ = write!(row, ",{cores},{memory}");
    }
    row
}

/// Milliseconds with three decimals.
pub fn ms(time: Duration) -> String {
    rounded(time.as_micros() as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulated_users::changed;

    fn step(load: u32, done: i64) -> MeasuredLoad {
        let records =
            Records { beats: i64::from(load) * 10, commands_done: done, ..Records::default() };
        let mut step = MeasuredLoad {
            mode: Mode::Batched,
            kind: Kind::Climb,
            load,
            seconds: 10.0,
            steps: changed(&[10, 20, 30]),
            records,
            lag_max: 0.0,
            lag_grown: 0.0,
            cpu: CpuUse::default(),
            memory: [None; NAMES.len()],
            work: Work::default(),
            own_pause: Duration::ZERO,
            broken: false,
            timed_out: 0,
            held: false,
        };
        step.judge();
        step
    }

    #[test]
    fn held_load_is_sent_and_answered_in_time() {
        assert!(step(1000, 10_000).held && step(0, 0).held);
        assert!(!step(1000, 9400).held, "more than 5 % is unanswered");
        let judged = |change: fn(&mut MeasuredLoad)| {
            let mut step = step(1000, 10_000);
            change(&mut step);
            step.judge();
            step.held
        };
        assert!(!judged(|step| step.records.beats = 9400), "not sent");
        assert!(!judged(|step| step.steps.timed_out = 1));
        assert!(!judged(|step| step.broken = true));
        assert!(!judged(|step| step.steps = changed(&[1100])), "p99 is above one second");
        assert!(!judged(|step| step.steps = UserSteps::default()), "no balance was received");
        assert!(!judged(|step| step.lag_grown = 1000.0));
    }

    #[test]
    fn aborted_or_mostly_unanswered_load_needs_no_retry() {
        assert!(!step(1000, 7500).needs_no_retry() && !step(0, 0).needs_no_retry());
        assert!(step(1000, 7499).needs_no_retry());
        assert!(MeasuredLoad { broken: true, ..step(1000, 10_000) }.needs_no_retry());
    }

    #[test]
    fn csv_row_has_a_value_for_each_column() {
        let columns = format!("{COLUMNS}{},other_cores,stolen_cores,histogram_us", parts_columns());
        let row = step(1000, 10_000).csv();
        assert_eq!(row.split(',').count(), columns.split(',').count(), "{columns}\n{row}");
        assert!(row.starts_with("climb,1000,10,3,0,0,20,5.7735,10,20.015,"), "{row}");
        assert!(row.ends_with(":1"), "{row}");
        assert_eq!(MeasuredLoad::titles().len(), step(0, 0).cells().len());
    }
}
