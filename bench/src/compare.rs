//! `bench compare`: all command-handlers on the same servers under the same loads.

mod figures;
mod tell;

use self::figures::{Figures, Run};
use crate::Start;
use crate::args::{Command, list};
use crate::error::Error;
use crate::handlers::{Handler, Handlers};
use crate::life::{Bank, SERVER_URL};
use crate::probe::rig::Rig;
use crate::probe::row;
use crate::report::{self, Csv};
use crate::search::Search;
use crate::stack::STACK;
use crate::tap::Cluster;
use crate::verify;
use rand::seq::SliceRandom;
use service::env::{Env, Variable};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use std::{fs, io};

const HANDLERS: Variable = Variable::new(
    "BENCH_HANDLERS",
    "all",
    "what to compare, separated by commas, named as bench verify names them; all is ours in its three modes and every peer",
);
const QUICK: Variable = Variable::new(
    "QUICK",
    "",
    "1: one run, steps of 3 s, fewer loads, no bisections, unless these are given. Some 45 s for each handler",
);
const RUNS: Variable = Variable::new("RUNS", "", "runs of each handler, 1 to 20; 3, or 1 if QUICK");
const LOADS: Variable = Variable::new(
    "LOADS",
    "",
    "transfers per second to try, separated by commas, each 1 to 1000000; a handler goes up until one is not held. \
     10,100,300,1000,2000,5000,10000,20000,40000, or 10,100,300,1000,5000,20000,40000 if QUICK",
);
const BISECTIONS: Variable = Variable::new(
    "BISECTIONS",
    "",
    "loads to try between the last that was held and the first that was not, 0 to 10; 3, or 0 if QUICK",
);
const STEP_S: Variable = Variable::new(
    "STEP_S",
    "",
    "measured time of each load, 1 to 3600 s, after a second of settling; 10, or 3 if QUICK",
);
const WARM_S: Variable = Variable::new(
    "WARM_S",
    "",
    "time at 500/s before anything is measured, 1 to 600 s, for those who compile while they run; 15, or 4 if QUICK",
);
const ACCOUNTS: Variable =
    Variable::new("ACCOUNTS", "1000", "accounts that pay each other, 2 to 1000000");
const PACE_MS: Variable = Variable::new(
    "PACE_MS",
    "10",
    "least time between two batches of commands of this program, 0 to 100 ms",
);
const DOCS: Variable = Variable::new(
    "BENCH_DOCS",
    "",
    "folder for comparison.md, comparison.json and the graphs, as in docs; none is OUT",
);
const OUT: Variable = Variable::new(
    "OUT",
    "target/bench",
    "folder for the raw rows, as CSV, and the logs of handlers",
);

/// The sub-command.
pub const COMMAND: Command = Command {
    name: "compare",
    about: "Size, start, memory, latency and cost of all command-handlers, ours and those under peers/",
    details: DETAILS,
    variables: &[
        &[
            HANDLERS, QUICK, RUNS, LOADS, BISECTIONS, STEP_S, WARM_S, ACCOUNTS, PACE_MS, DOCS, OUT,
            STACK, SERVER_URL,
        ],
        Handlers::VARIABLES,
        Cluster::VARIABLES[0],
        Cluster::VARIABLES[1],
    ],
    run,
};

const DETAILS: &str = "\
Verifies each handler first (bench verify), unless that was done since it was built; one that does not keep the contract is
measured all the same, and its figures are marked. Then the handlers run one after the other, in another random order each round, on the same
servers: each in an empty database of its own, with nothing else of the bank beside it. Measured are exec to ready, memory
before the first command and at its highest, and load after load, as bench probe does: that tells what the columns of the CSV
mean. Of several runs the median counts; a load is held if most runs held it.
";

/// Load of `idle` latencies, and of the comparison of costs.
pub const IDLE: u32 = 10;
pub const COSTS_AT: u32 = 1000;
/// Load of the warm-up.
const WARM_UP: u32 = 500;

/// What to do.
#[derive(Debug, Clone, PartialEq)]
struct Config {
    runs: u32,
    loads: Vec<u32>,
    bisections: u32,
    step: Duration,
    warm: Duration,
    accounts: usize,
    pace: Duration,
}

impl Config {
    fn from_env(env: &Env<'_>) -> Result<Self, Error> {
        let quick = env.text(&QUICK)? == "1";
        let default = |variable: Variable, full: &'static str, short: &'static str| Variable {
            default: Some(if quick { short } else { full }),
            ..variable
        };
        let loads = default(
            LOADS,
            "10,100,300,1000,2000,5000,10000,20000,40000",
            "10,100,300,1000,5000,20000,40000",
        );
        let load = |word: &str| word.parse().ok().filter(|load| (1..=1_000_000).contains(load));
        Ok(Self {
            runs: env.number(&default(RUNS, "3", "1"), 1..=20)?,
            loads: list(env, &loads, load, "numbers from 1 to 1000000, separated by commas")?,
            bisections: env.number(&default(BISECTIONS, "3", "0"), 0..=10)?,
            step: Duration::from_secs(env.number(&default(STEP_S, "10", "3"), 1..=3600)?),
            warm: Duration::from_secs(env.number(&default(WARM_S, "15", "4"), 1..=600)?),
            accounts: env.number(&ACCOUNTS, 2..=1_000_000)?,
            pace: env.millis(&PACE_MS, 0..=100)?,
        })
    }

    /// In words, for whoever reads the figures.
    fn text(&self) -> String {
        let loads: Vec<String> = self.loads.iter().map(u32::to_string).collect();
        format!(
            "RUNS={} LOADS={} BISECTIONS={} STEP_S={} WARM_S={} ACCOUNTS={} PACE_MS={}",
            self.runs,
            loads.join(","),
            self.bisections,
            self.step.as_secs(),
            self.warm.as_secs(),
            self.accounts,
            self.pace.as_millis()
        )
    }
}

fn run(start: &Start<'_>) -> Result<ExitCode, Error> {
    let config = Config::from_env(&start.env)?;
    let handlers = Handlers::from_env(&start.env)?;
    let cluster = Cluster::from_env(&start.env)?;
    let chosen = verify::choose(&handlers, &start.env.text(&HANDLERS)?)?;
    let out = PathBuf::from(start.env.text(&OUT)?);
    let docs = start.env.text(&DOCS)?;
    let docs = if docs.is_empty() { out.clone() } else { docs.into() };
    Bank::synchronize()?;

    let mut all = Vec::new();
    for handler in &chosen {
        let broken = verdict(start, &cluster, handler, &out)?;
        all.push(Figures::new(handler.clone(), broken));
    }
    let settings = vec![("SETTINGS", config.text())];
    let columns = row::COLUMNS.strip_prefix("mode,").unwrap_or(row::COLUMNS);
    let mut rows = Csv::create(&out, "compare", &settings, &format!("handler,run,{columns}"))?;
    let mut starts = Csv::create(
        &out,
        "compare-starts",
        &settings,
        "handler,run,artefact_bytes,image_bytes,start_ms,rss_idle_bytes",
    )?;
    let mut complete = true;
    for number in 1..=config.runs {
        let mut order: Vec<usize> = (0..all.len()).collect();
        order.shuffle(&mut rand::rng());
        for index in order {
            let figures = &mut all[index];
            let name = figures.handler.name.clone();
            report::progress(&format!("{name}: run {number} of {}", config.runs));
            let run = measure(start, &config, &cluster, &figures.handler, &out)?;
            starts.line(&format!(
                "{name},{number},{},{},{:.1},{}",
                run.artefact_bytes.map_or(String::new(), |bytes| bytes.to_string()),
                run.image_bytes,
                run.start_ms,
                run.rss_idle
            ))?;
            for row in &run.rows {
                let csv = row.csv();
                let rest = csv.split_once(',').map_or("", |(_, rest)| rest);
                rows.line(&format!("{name},{number},{rest}"))?;
                complete &= row.unanswered == 0;
            }
            figures.runs.push(run);
            // After each, so that a round that is broken off has its figures too.
            tell::write(&docs, &all, &config.text(), rows.path())?;
        }
    }
    report::tell(&tell::text(&all));
    report::tell(&format!("Raw rows: {}\n", rows.path().display()));
    report::tell(&format!("Written: {}/comparison.md, .json and graphs\n", docs.display()));
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The points of the contract that `handler` breaks, by the last verification since it was built or a new one.
fn verdict(
    start: &Start<'_>,
    cluster: &Cluster,
    handler: &Handler,
    out: &Path,
) -> Result<Vec<String>, Error> {
    let file = out.join("verified").join(&handler.name);
    let built = handler.fingerprint()?;
    match fs::read_to_string(&file) {
        Ok(text) => {
            let mut lines = text.lines();
            if lines.next() == Some(built.as_str()) {
                return Ok(lines.map(str::to_owned).collect());
            }
        }
        Err(err) if err.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(Error::Read { path: file, source }),
    }
    let findings = verify::verify(start, cluster, handler, out)?;
    let broken: Vec<String> = findings.broken().into_iter().map(str::to_owned).collect();
    if !broken.is_empty() {
        report::progress(&findings.text(&handler.name));
    }
    let failed = |source| Error::Csv { path: file.clone(), source };
    fs::create_dir_all(out.join("verified")).map_err(failed)?;
    let lines: Vec<String> = [built].into_iter().chain(broken.iter().cloned()).collect();
    fs::write(&file, lines.join("\n") + "\n").map_err(failed)?;
    Ok(broken)
}

/// One handler in a fresh bank, through all loads.
fn measure(
    start: &Start<'_>,
    config: &Config,
    cluster: &Cluster,
    handler: &Handler,
    out: &Path,
) -> Result<Run, Error> {
    let bank = Bank::found(&start.env, cluster, &out.join("handlers"), &start.shutdown)?;
    let mut life = bank.start(handler)?;
    let start_ms = life.wait_ready(&start.shutdown)?.as_secs_f64() * 1000.0;
    // What it still does at its start belongs to neither.
    if start.shutdown.wait(Duration::from_secs(1)) {
        return Err(Error::Stopped);
    }
    let part = |source| Error::Part { part: handler.name.clone(), pid: life.process.pid, source };
    let rss_idle = life.process.rss().map_err(part)?;
    let artefact_bytes = handler.artefact_bytes()?;
    let mapped = life.process.mapped_files().map_err(part)?;
    let image_bytes = handler.image_bytes(&mapped)?;
    let mut rig = Rig::around(&start.env, &life, config.pace, start.shutdown.clone())?;
    rig.open_accounts(config.accounts)?;
    rig.warm_up(WARM_UP, config.warm)?;
    let mut rows = Vec::new();
    let mut search = Search::new(&config.loads, config.bisections);
    while let Some(load) = search.next() {
        let row = rig.step(load, config.step)?;
        let held = row.held;
        search.tried(load, held);
        rows.push(row);
    }
    // The rig reads topics: none of it in the next one's way.
    drop(rig);
    life.terminate()?;
    Ok(Run { artefact_bytes, image_bytes, start_ms, rss_idle, rows, max_per_s: search.held })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(set: &[(&str, &str)]) -> Result<Config, Error> {
        let set: std::collections::HashMap<String, &str> =
            set.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        Config::from_env(&Env::new(&|name| set.get(name).map(|value| (*value).to_owned())))
    }

    #[test]
    fn the_quick_form_has_other_defaults_and_no_other_limits() {
        let full = config(&[]).unwrap();
        assert_eq!((full.runs, full.bisections, full.step), (3, 3, Duration::from_secs(10)));
        let quick = config(&[("QUICK", "1")]).unwrap();
        assert_eq!((quick.runs, quick.bisections, quick.step), (1, 0, Duration::from_secs(3)));
        for load in [IDLE, 100, 300, COSTS_AT, 5000] {
            assert!(full.loads.contains(&load) && quick.loads.contains(&load), "{load}");
        }
        let own = config(&[("QUICK", "1"), ("RUNS", "2"), ("LOADS", "7")]).unwrap();
        assert_eq!((own.runs, own.loads), (2, vec![7]));
        assert!(config(&[("RUNS", "0")]).is_err() && config(&[("LOADS", "many")]).is_err());
    }
}
