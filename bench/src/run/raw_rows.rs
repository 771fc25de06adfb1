//! Raw rows of a run, in three CSV files that `bench report` reads.

use super::measured_load::{self, MeasuredLoad, ms, parts_columns, parts_csv};
use crate::consumer_lag::Records;
use crate::error::Error;
use crate::flush_times::FlushTimes;
use crate::metrics::Work;
use crate::mode::Mode;
use crate::output::{Csv, rounded};
use crate::process_usage::{CpuUse, PerPart};
use crate::simulated_users::{StepEnd, UserStep};
use std::path::Path;
use std::time::{Duration, Instant};

/// Columns of the rows of seconds; after them come those of [`parts_columns`], `other_cores`
/// and `stolen_cores`.
const SECONDS_COLUMNS: [&str; 15] = [
    "at_s",
    "load_per_s",
    "measured",
    "seconds",
    "beats",
    "commands",
    "answered",
    "changes",
    "stored",
    "records",
    "lag",
    "transactions",
    "commands_in_transactions",
    "requests",
    "records_in_requests",
];

/// The CSV files of a run.
pub struct RawRows {
    /// A row for each load.
    loads: Csv,
    /// A row for each second.
    seconds: Csv,
    /// A row for each step of a user, and for each fault.
    steps: Csv,
    /// Start of the run.
    start: Instant,
}

/// The figures of a second.
pub struct Second<'a> {
    pub load: u32,
    /// True if the second belongs to the measured time of a load.
    pub measured: bool,
    pub length: Duration,
    pub records: Records,
    pub lag: i64,
    pub work: Work,
    pub cpu: &'a CpuUse,
    pub memory: &'a PerPart<u64>,
}

impl RawRows {
    /// Creates `<folder>/<name>-loads.csv`, `-seconds.csv` and `-steps.csv`. Their headers describe
    /// the run.
    pub fn create(
        folder: &Path,
        name: &str,
        mode: Mode,
        settings: &[(&str, String)],
    ) -> Result<Self, Error> {
        let settings: Vec<(&str, String)> =
            [("MODE", mode.to_string())].into_iter().chain(settings.iter().cloned()).collect();
        let parts = parts_columns();
        let create = |kind: &str, columns: String| {
            Csv::create_at(folder.join(format!("{name}-{kind}.csv")), name, &settings, &columns)
        };
        Ok(Self {
            loads: create(
                "loads",
                format!("{}{parts},other_cores,stolen_cores,histogram_us", measured_load::COLUMNS),
            )?,
            seconds: create(
                "seconds",
                format!("{}{parts},other_cores,stolen_cores", SECONDS_COLUMNS.join(",")),
            )?,
            steps: create("steps", "due_s,load_per_s,measured,end,latency_ms".to_owned())?,
            start: Instant::now(),
        })
    }

    /// Writes the times of flushes without load to the file of loads; `when` is before or after the
    /// run.
    pub fn flush_times(&mut self, when: &str, times: FlushTimes) -> Result<(), Error> {
        let (median, max) = (rounded(times.median_ms), rounded(times.max_ms));
        self.loads.line(&format!("# flush_{when}_ms: {median} {max}"))
    }

    /// Writes the row of a load.
    pub fn load(&mut self, load: &MeasuredLoad) -> Result<(), Error> {
        self.loads.line(&load.csv())
    }

    /// Writes the row of a step of a user.
    pub fn step(&mut self, load: u32, measured: bool, step: &UserStep) -> Result<(), Error> {
        let (end, latency) = match &step.end {
            StepEnd::Changed(latency) => ("changed", ms(*latency)),
            StepEnd::TimedOut => ("timed out", String::new()),
            StepEnd::Refused(_) => ("refused", String::new()),
        };
        let due = self.at(step.due);
        self.steps.line(&format!("{due},{load},{},{end},{latency}", u8::from(measured)))
    }

    /// Writes the row of a fault.
    pub fn fault(&mut self, load: u32, what: &str) -> Result<(), Error> {
        let now = self.at(Instant::now());
        self.steps.line(&format!("{now},{load},0,fault {what},"))
    }

    /// Writes the row of a second.
    pub fn second(&mut self, second: &Second<'_>) -> Result<(), Error> {
        let Second { records, work, .. } = second;
        let at = self.at(Instant::now());
        let parts = parts_csv(second.cpu, second.memory);
        self.seconds.line(&format!(
            "{at},{},{},{},{},{},{},{},{},{},{},{},{},{},{}{parts},{},{}",
            second.load,
            u8::from(second.measured),
            rounded(second.length.as_secs_f64()),
            records.beats,
            records.commands,
            records.commands_done,
            records.changes,
            records.changes_done,
            records.all,
            second.lag,
            work.transactions,
            work.commands,
            work.requests,
            work.records,
            rounded(second.cpu.other_cores()),
            rounded(second.cpu.stolen_cores()),
        ))
    }

    /// Seconds since the start of the run.
    fn at(&self, moment: Instant) -> String {
        rounded(moment.saturating_duration_since(self.start).as_secs_f64())
    }
}
