//! Joins all runs by mode and load.

use super::joined_runs::{self, JoinedRuns};
use super::mode_summary::{LoadSummary, ModeSummary, percentile};
use super::rows::CsvTable;
use crate::error::Error;
use crate::flush_times::FlushTimes;
use crate::output::{figure, short};
use crate::process_usage::{BROKER, DATABASE, ENDPOINT, HANDLER};
use serde::Serialize;
use serde_json::Number;
use std::collections::BTreeMap;
use std::time::Duration;

/// The joined runs of all modes.
#[derive(Debug)]
pub struct Summary {
    /// Sorted by name.
    pub modes: Vec<ModeSummary>,
    /// Date, commit, machine and settings of the first file.
    pub date: String,
    pub commit: String,
    pub machine: String,
    pub settings: String,
    /// Highest CPU use of other processes during a load, cores.
    pub others: f64,
    /// The same of other virtual machines.
    pub stolen: f64,
    /// Times of flushes without load, before and after the runs: those of the slowest run.
    pub flushes: Option<[FlushTimes; 2]>,
}

impl Summary {
    /// Joins the tables of one or more calls of `bench run`.
    pub fn of(tables: &[CsvTable]) -> Result<Self, Error> {
        // The broker's CPU use without load does not depend on the mode. The lowest value is used,
        // since a Java virtual machine that still compiles uses more.
        let mut idle: Option<f64> = None;
        for table in tables.iter().filter(|table| table.name().ends_with("-loads.csv")) {
            for row in table.rows().map(|row| joined_runs::load(row, None)) {
                let LoadSummary { per_s, cpu, .. } = row?;
                if let Some(used) = cpu[BROKER].filter(|_| per_s == 0.0) {
                    idle = Some(idle.map_or(used, |least: f64| least.min(used)));
                }
            }
        }
        let mut modes: BTreeMap<String, JoinedRuns> = BTreeMap::new();
        let (mut others, mut stolen): (f64, f64) = (0.0, 0.0);
        for table in tables {
            // Files from before 2026-12 have the earlier name of the mode.
            let mode = match table.setting("MODE") {
                "modern" => "built-in",
                mode => mode,
            };
            let mode = mode.to_owned();
            let name = table.name();
            if name.ends_with("-loads.csv") && table.rows().next().is_some() {
                let joined = modes.entry(mode).or_default();
                joined.loads(table, idle)?;
                for row in table.rows() {
                    others = others.max(row.number("other_cores")?);
                    stolen = stolen.max(row.number("stolen_cores")?);
                }
            } else if name.ends_with("-steps.csv") {
                modes.entry(mode).or_default().steps(table)?;
            }
        }
        let first = tables.iter().find(|table| table.name().ends_with("-loads.csv"));
        let header =
            |name: &str| first.map_or(String::new(), |table| table.header(name).to_owned());
        let modes: Vec<ModeSummary> = modes
            .into_iter()
            .filter(|(_, it)| !it.loads.is_empty())
            .map(|(name, it)| it.finish(name))
            .collect();
        if modes.is_empty() {
            return Err(Error::Bank("the rows contain no complete load".to_owned()));
        }
        let settings = header("settings");
        let settings = settings.split_whitespace().filter(|word| !word.starts_with("MODE="));
        Ok(Self {
            modes,
            date: header("date"),
            commit: header("commit"),
            machine: header("machine"),
            settings: settings.collect::<Vec<_>>().join(" "),
            others,
            stolen,
            flushes: slowest(tables, "before").zip(slowest(tables, "after")).map(Into::into),
        })
    }

    pub fn mode(&self, name: &str) -> Option<&ModeSummary> {
        self.modes.iter().find(|mode| mode.name == name)
    }

    /// The highest load that single held in every run and that was measured in batched too. Returns
    /// it with the broker's CPU seconds for 1,000 records in single and in batched.
    pub fn broker(&self) -> Option<(f64, f64, f64)> {
        let (single, batched) = (self.mode("single")?, self.mode("batched")?);
        let least = single.highest.iter().copied().fold(f64::INFINITY, f64::min);
        let both = single.loads.iter().rev().filter(|load| load.per_s <= least);
        let mut both = both.filter_map(|load| {
            Some((load.per_s, load.broker_s?, batched.load(load.per_s)?.broker_s?))
        });
        both.find(|(_, single, batched)| *single > 0.0 && *batched > 0.0)
    }

    /// The longest pause of the measuring program.
    pub fn own_pause(&self) -> Duration {
        let loads = self.modes.iter().flat_map(|mode| &mode.loads);
        Duration::from_secs_f64(loads.map(|load| load.own_pause_ms).fold(0.0, f64::max) / 1000.0)
    }

    /// The last line of the output.
    pub fn figures(&self) -> Figures {
        let of = |name: &str| {
            let mode = self.mode(name);
            let idle = mode.and_then(|mode| mode.load(0.0)?.percentile(50.0));
            ModeFigures {
                max_per_s: figure(mode.and_then(ModeSummary::max), 1),
                idle_p50_ms: figure(idle, 1),
                half_p99_ms: figure(mode.and_then(|mode| percentile(&mode.half, 99.0)), 1),
            }
        };
        let ratio = self.broker().map(|(_, single, batched)| batched / single);
        Figures {
            single: of("single"),
            batched: of("batched"),
            built_in: of("built-in"),
            broker_cpu_ratio: figure(ratio, 3),
        }
    }

    /// p50 and p99 at half of the highest load, ms.
    pub fn half(&self, mode: &ModeSummary) -> Option<(f64, f64)> {
        percentile(&mode.half, 50.0).zip(percentile(&mode.half, 99.0))
    }

    /// A row for each mode and load, below the titles.
    pub fn table(&self) -> Vec<Vec<String>> {
        let titles = [
            "mode",
            "load/s",
            "runs",
            "held",
            "done/s",
            "steps",
            "timed out",
            "mean ms",
            "error ms",
            "p50 ms",
            "p99 ms",
            "own ms",
            "recs/req",
            "broker ms/1000",
            "broker %",
            "db %",
            "handler %",
            "endpoint %",
            "handler MiB",
        ];
        let mut rows = vec![titles.map(str::to_owned).to_vec()];
        let shown = |number: Option<f64>| number.map_or("-".to_owned(), short);
        for mode in &self.modes {
            for load in &mode.loads {
                rows.push(vec![
                    mode.name.clone(),
                    format!("{:.0}", load.per_s),
                    load.runs.to_string(),
                    format!("{} of {}", mode.held(load.per_s), mode.highest.len()),
                    short(load.answered_per_s),
                    load.latencies.len().to_string(),
                    load.timed_out.to_string(),
                    shown(load.mean()),
                    shown(load.error()),
                    shown(load.percentile(50.0)),
                    shown(load.percentile(99.0)),
                    format!("{:.0}", load.own_pause_ms),
                    short(load.records_per_request),
                    shown(load.broker_s.map(|seconds| seconds * 1000.0)),
                    shown(load.cpu[BROKER]),
                    shown(load.cpu[DATABASE]),
                    shown(load.cpu[HANDLER]),
                    shown(load.cpu[ENDPOINT]),
                    shown(load.memory[HANDLER]),
                ]);
            }
        }
        rows
    }
}

/// The highest times of flushes before or after a run.
fn slowest(tables: &[CsvTable], when: &str) -> Option<FlushTimes> {
    let times = tables.iter().filter_map(|table| {
        let (median, max) = table.header(&format!("flush_{when}_ms")).split_once(' ')?;
        Some(FlushTimes { median_ms: median.parse().ok()?, max_ms: max.parse().ok()? })
    });
    times.reduce(|a, b| FlushTimes {
        median_ms: a.median_ms.max(b.median_ms),
        max_ms: a.max_ms.max(b.max_ms),
    })
}

/// The last line of the output.
#[derive(Debug, Serialize)]
pub struct Figures {
    single: ModeFigures,
    batched: ModeFigures,
    #[serde(rename = "built-in")]
    built_in: ModeFigures,
    broker_cpu_ratio: Option<Number>,
}

#[derive(Debug, Serialize)]
struct ModeFigures {
    max_per_s: Option<Number>,
    idle_p50_ms: Option<Number>,
    half_p99_ms: Option<Number>,
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::process_usage::NAMES;

    /// Two runs of each mode, in the format of `bench run`.
    pub fn tables() -> Vec<CsvTable> {
        let parts = crate::run::parts_columns();
        let mut tables = Vec::new();
        for (mode, run, max) in
            [("single", 1, 1000), ("batched", 1, 4000), ("single", 2, 2000), ("batched", 2, 4000)]
        {
            let mut loads = format!(
                "# settings: MODE={mode} STEP_S=30\n# machine: a <big> one\n\
                 # flush_before_ms: {run} 9.5\n\
                 kind,load_per_s,held,beats_per_s,answered_per_s,records_per_s,\
                 commands_per_transaction,records_per_request,own_pause_ms{parts},other_cores,\
                 stolen_cores\n"
            );
            let mut steps = "due_s,load_per_s,measured,end,latency_ms\n".to_owned();
            for (at, load) in [0, 1000, 2000, 4000, 8000].into_iter().enumerate() {
                let held = u8::from(load <= max);
                // The broker uses 5 % of a core without load. In addition, 1,000 records cost 10 ms
                // in single and 1 ms in batched.
                let cores = 0.05
                    + f64::from(load * 5) / 1000.0 * if mode == "single" { 0.01 } else { 0.001 };
                let cells = ",0.1,10".repeat(NAMES.len() - 1);
                loads += &format!(
                    "climb,{load},{held},{load},{load},{},1,1,{run}50,{cores},300{cells},0.02,\
                     0.{run}\n",
                    load * 5
                );
                for n in 0..10 {
                    let latency = if n == 9 && load == 8000 {
                        String::new()
                    } else {
                        (10 + n + run).to_string()
                    };
                    let end = if latency.is_empty() { "timed out" } else { "changed" };
                    steps += &format!("{},{load},1,{end},{latency}\n", at * 10 + n);
                }
            }
            loads +=
                &format!("half,{},1,1,1,1,1,1,0,{}0,0\n", max / 2, ",".repeat(NAMES.len() * 2));
            loads += &format!("# flush_after_ms: {} 300\n", run * 6);
            steps += "60,0,0,fault postgres KILL,\n";
            let table = |kind: &str, text: String| {
                CsvTable::parse(format!("run-x/{run}-{mode}-{kind}.csv").into(), text).unwrap()
            };
            let head = format!("# settings: MODE={mode}\n");
            tables.extend([table("loads", loads), table("steps", head + &steps)]);
        }
        tables
    }

    #[test]
    fn runs_are_joined_by_mode_and_load() {
        let summary = Summary::of(&tables()).unwrap();
        let [batched, single] = &summary.modes[..] else { panic!("{summary:?}") };
        assert_eq!((batched.name.as_str(), single.name.as_str()), ("batched", "single"));
        assert_eq!((single.max(), batched.max()), (Some(1000.0), Some(4000.0)));
        assert_eq!([1000.0, 2000.0, 2001.0].map(|load| single.held(load)), [2, 1, 0]);
        let idle = batched.load(0.0).unwrap();
        // 11..=20 and 12..=21.
        assert_eq!((idle.runs, idle.latencies.len()), (2, 20));
        assert_eq!((idle.mean(), idle.percentile(50.0)), (Some(16.0), Some(16.0)));
        assert_eq!((idle.percentile(0.0), idle.percentile(100.0)), (Some(11.0), Some(21.0)));
        let missed = batched.load(8000.0).unwrap();
        assert_eq!((missed.timed_out, missed.latencies.len()), (2, 20));
        assert_eq!((missed.percentile(90.0), missed.percentile(99.0)), (Some(20.0), Some(5000.0)));
        assert_eq!(summary.settings, "STEP_S=30");
        assert_eq!(summary.stolen, 0.2);
        let flushes = [(2.0, 9.5), (12.0, 300.0)];
        let flushes = flushes.map(|(median_ms, max_ms)| FlushTimes { median_ms, max_ms });
        assert_eq!(summary.flushes, Some(flushes));
        assert_eq!((idle.own_pause_ms, summary.own_pause()), (250.0, Duration::from_millis(250)));
        assert_eq!(batched.over_time.faults, [(60.0, "postgres KILL".to_owned())]);
        assert_eq!(summary.table().len(), 1 + batched.loads.len() + single.loads.len());
    }

    #[test]
    fn json_compares_the_broker_at_a_common_load() {
        let summary = Summary::of(&tables()).unwrap();
        let (load, single, batched) = summary.broker().unwrap();
        assert_eq!(load, 1000.0);
        assert!(
            (single - 0.01).abs() < 1e-6 && (batched - 0.001).abs() < 1e-6,
            "{single} {batched}"
        );
        let json: serde_json::Value = serde_json::to_value(summary.figures()).unwrap();
        assert_eq!(json["single"]["max_per_s"], 1000);
        assert_eq!(json["batched"]["max_per_s"], 4000);
        assert_eq!(json["batched"]["idle_p50_ms"], 16);
        assert!(json["built-in"]["half_p99_ms"].is_null(), "{json}");
        let keys = |mode: &str| json[mode].as_object().unwrap().keys().cloned().collect();
        let [single, batched, built_in]: [Vec<String>; 3] =
            ["single", "batched", "built-in"].map(keys);
        assert!(single == batched && batched == built_in, "{json}");
        assert_eq!(json["broker_cpu_ratio"], 0.1);
        let only: Vec<CsvTable> =
            tables().into_iter().filter(|it| it.name().contains("batched")).collect();
        let json: serde_json::Value =
            serde_json::to_value(Summary::of(&only).unwrap().figures()).unwrap();
        assert!(
            json["single"]["max_per_s"].is_null() && json["broker_cpu_ratio"].is_null(),
            "{json}"
        );
    }
}
