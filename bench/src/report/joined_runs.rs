//! Joins the runs of a mode.

use super::mode_summary::{LoadSummary, ModeSummary, OverTime};
use super::rows::{CsvRow, CsvTable};
use crate::error::Error;
use crate::process_usage::{BROKER, NAMES};
use crate::simulated_users::TIMEOUT;
use std::collections::BTreeMap;

/// The runs of a mode while its tables are read.
#[derive(Default)]
pub struct JoinedRuns {
    /// By load: the figures of each run.
    pub loads: BTreeMap<u64, Vec<LoadSummary>>,
    highest: Vec<f64>,
    /// By load: latencies in ms, 5 s for a step that timed out, and the number of these steps.
    steps: BTreeMap<u64, (Vec<f64>, usize)>,
    /// Half of the highest load of each run.
    halves: Vec<u64>,
    over_time: Option<OverTime>,
}

impl JoinedRuns {
    /// Adds the loads of a run. `idle` is the broker's CPU use without load, % of a core.
    pub fn loads(&mut self, table: &CsvTable, idle: Option<f64>) -> Result<(), Error> {
        let mut highest: Option<f64> = None;
        for row in table.rows() {
            let load = load(row, idle)?;
            if row.number("held")? > 0.0 {
                highest = Some(highest.unwrap_or(0.0).max(load.per_s));
            }
            let key = load.per_s as u64;
            if row.text("kind")? == "half" {
                self.halves.push(key);
            }
            self.loads.entry(key).or_default().push(load);
        }
        self.highest.push(highest.unwrap_or(0.0));
        Ok(())
    }

    /// Adds the steps of the users in a run.
    pub fn steps(&mut self, table: &CsvTable) -> Result<(), Error> {
        let mut over_time = OverTime::default();
        for row in table.rows() {
            let (at, end) = (row.number("due_s")?, row.text("end")?);
            let latency = row.number_if_any("latency_ms")?;
            if let Some(fault) = end.strip_prefix("fault ") {
                over_time.faults.push((at, fault.to_owned()));
                continue;
            }
            let counted = latency.unwrap_or(TIMEOUT.as_secs_f64() * 1000.0);
            over_time.steps.push((at, counted));
            if row.number("measured")? > 0.0 {
                let (latencies, timed_out) =
                    self.steps.entry(row.number("load_per_s")? as u64).or_default();
                latencies.push(counted);
                *timed_out += usize::from(latency.is_none());
            }
        }
        over_time.steps.sort_by(|a, b| a.0.total_cmp(&b.0));
        self.over_time.get_or_insert(over_time);
        Ok(())
    }

    pub fn finish(mut self, name: String) -> ModeSummary {
        for (latencies, _) in self.steps.values_mut() {
            latencies.sort_by(f64::total_cmp);
        }
        let of = |key: &u64| self.steps.get(key).cloned().unwrap_or_default();
        let mut half: Vec<f64> = self.halves.iter().flat_map(|key| of(key).0).collect();
        half.sort_by(f64::total_cmp);
        let loads = self.loads.iter().map(|(key, runs)| {
            let (latencies, timed_out) = of(key);
            LoadSummary { latencies, timed_out, ..joined(runs) }
        });
        ModeSummary {
            loads: loads.collect(),
            name,
            highest: self.highest,
            half,
            over_time: self.over_time.unwrap_or_default(),
        }
    }
}

/// The figures in a row; `idle` is the broker's CPU use without load, % of a core.
pub fn load(row: CsvRow<'_>, idle: Option<f64>) -> Result<LoadSummary, Error> {
    let (mut cpu, mut memory) = ([None; NAMES.len()], [None; NAMES.len()]);
    for (place, name) in NAMES.iter().enumerate() {
        cpu[place] = row.number_if_any(&format!("{name}_cores"))?.map(|cores| cores * 100.0);
        memory[place] = row.number_if_any(&format!("{name}_mib"))?;
    }
    let per_s = row.number("load_per_s")?;
    let records = row.number("records_per_s")?;
    let loaded = per_s > 0.0 && records > 0.0;
    let broker_s = cpu[BROKER].zip(idle).filter(|_| loaded);
    Ok(LoadSummary {
        per_s,
        runs: 1,
        beats_per_s: row.number("beats_per_s")?,
        answered_per_s: row.number("answered_per_s")?,
        records_per_request: row.number("records_per_request")?,
        commands_per_transaction: row.number("commands_per_transaction")?,
        broker_s: broker_s.map(|(busy, idle)| (busy - idle).max(0.0) / 100.0 / records * 1000.0),
        cpu,
        memory,
        own_pause_ms: row.number("own_pause_ms")?,
        ..LoadSummary::default()
    })
}

/// Means over the runs at one load.
fn joined(runs: &[LoadSummary]) -> LoadSummary {
    let count = runs.len() as f64;
    let mean = |value: fn(&LoadSummary) -> f64| runs.iter().map(value).sum::<f64>() / count;
    let mean_if_any = |value: &dyn Fn(&LoadSummary) -> Option<f64>| {
        let values: Vec<f64> = runs.iter().filter_map(value).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let place = |place: usize| {
        (mean_if_any(&|load| load.cpu[place]), mean_if_any(&|load| load.memory[place]))
    };
    let (mut cpu, mut memory) = ([None; NAMES.len()], [None; NAMES.len()]);
    for at in 0..NAMES.len() {
        (cpu[at], memory[at]) = place(at);
    }
    LoadSummary {
        per_s: mean(|load| load.per_s),
        runs: runs.len(),
        beats_per_s: mean(|load| load.beats_per_s),
        answered_per_s: mean(|load| load.answered_per_s),
        records_per_request: mean(|load| load.records_per_request),
        commands_per_transaction: mean(|load| load.commands_per_transaction),
        broker_s: mean_if_any(&|load| load.broker_s),
        cpu,
        memory,
        own_pause_ms: runs.iter().map(|load| load.own_pause_ms).fold(0.0, f64::max),
        ..LoadSummary::default()
    }
}
