//! Raw rows of one run, in three files that spreadsheets and `bench report` read.

use super::step::{self, Step, ms, parts_columns, parts_csv, rounded};
use crate::consumer_lag::Records;
use crate::error::Error;
use crate::metrics::Work;
use crate::output::Csv;
use crate::process_usage::{Cores, NAMES};
use crate::simulated_users::{StepEnd, UserStep};
use std::path::Path;
use std::time::{Duration, Instant};

/// The files.
pub struct Raw {
    /// A row for each load.
    loads: Csv,
    /// A row for each second.
    seconds: Csv,
    /// A row for each step of a visitor, and for each fault.
    steps: Csv,
    /// When the run began.
    start: Instant,
}

/// A second.
pub struct Second<'a> {
    pub load: u32,
    /// True if it is among those that are measured.
    pub measured: bool,
    pub length: Duration,
    pub records: Records,
    pub lag: i64,
    pub work: Work,
    pub cores: &'a Cores,
    pub memory: &'a [Option<u64>; NAMES.len()],
}

impl Raw {
    /// `<folder>/<name>-loads.csv` and so on, under headers that tell the run.
    ///
    /// # Errors
    /// They can't be written.
    pub fn create(
        folder: &Path,
        name: &str,
        mode: &str,
        settings: &[(&str, String)],
    ) -> Result<Self, Error> {
        let settings: Vec<(&str, String)> =
            [("MODE", mode.to_owned())].into_iter().chain(settings.iter().cloned()).collect();
        let parts = parts_columns();
        let create = |kind: &str, columns: String| {
            Csv::create_at(folder.join(format!("{name}-{kind}.csv")), name, &settings, &columns)
        };
        Ok(Self {
            loads: create("loads", format!("{}{parts},other_cores,histogram_us", step::COLUMNS))?,
            seconds: create(
                "seconds",
                format!(
                    "at_s,load_per_s,measured,seconds,beats,commands,answered,changes,stored,records,lag,transactions,\
                     commands_in_transactions,requests,records_in_requests{parts},other_cores"
                ),
            )?,
            steps: create("steps", "due_s,load_per_s,measured,end,latency_ms".to_owned())?,
            start: Instant::now(),
        })
    }

    /// A load was measured.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn load(&mut self, step: &Step) -> Result<(), Error> {
        self.loads.line(&step.csv())
    }

    /// A step of a visitor has ended.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn act(&mut self, load: u32, measured: bool, act: &UserStep) -> Result<(), Error> {
        let (end, latency) = match &act.end {
            StepEnd::Changed(latency) => ("changed", ms(*latency)),
            StepEnd::TimedOut => ("timed out", String::new()),
            StepEnd::Refused(_) => ("refused", String::new()),
        };
        let due = self.at(act.due);
        self.steps.line(&format!("{due},{load},{},{end},{latency}", u8::from(measured)))
    }

    /// A signal was sent.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn fault(&mut self, load: u32, what: &str) -> Result<(), Error> {
        let now = self.at(Instant::now());
        self.steps.line(&format!("{now},{load},0,fault {what},"))
    }

    /// A second has passed.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn second(&mut self, second: &Second<'_>) -> Result<(), Error> {
        let Second { records, work, .. } = second;
        let at = self.at(Instant::now());
        let parts = parts_csv(second.cores, second.memory);
        self.seconds.line(&format!(
            "{at},{},{},{},{},{},{},{},{},{},{},{},{},{},{}{parts},{}",
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
            rounded(second.cores.others),
        ))
    }

    /// Seconds since the run began.
    fn at(&self, moment: Instant) -> String {
        rounded(moment.saturating_duration_since(self.start).as_secs_f64())
    }
}
