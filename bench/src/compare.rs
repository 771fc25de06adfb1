//! `bench compare`: compares all command-handlers on the same servers under the same loads.

mod figures;
mod tables;

use self::figures::{Figures, Run};

use crate::bank_under_test::BankUnderTest;
use crate::direct_load::{self, DirectLoad};
use crate::error::Error;
use crate::handler_process::{FreshBank, SERVER_URL};
use crate::handlers::{Handler, HandlerOptions, Handlers};
use crate::options::{self, joined, millis, number, seconds};
use crate::output::{self, Csv};
use crate::search::Search;
use crate::stack::STACK;
use crate::start::Start;
use crate::topic_reader::Cluster;
use crate::verify;
use crate::verify::scenarios::Kills;
use messaging::KafkaConfig;
use rand::seq::SliceRandom;
use service::env::SCHEMA_REGISTRY_URL;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use std::{fs, io};

/// Compare size, startup, memory, latency and cost of command-handlers, ours and those in peers/
///
/// First verifies each handler (bench verify), unless it was verified since its last build. A
/// handler that does not keep the contract is measured too, and its figures are marked. Then all
/// handlers are measured one after the other on the same servers, in random order in each round.
/// Each has an empty database, and the other services of the bank do not run. Measured are the time
/// from exec to ready, the memory before the first command and the highest memory, and loads as in
/// bench probe, whose help explains the columns of the CSV file. Of several runs the median counts.
/// A load is held if most runs held it.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = options::environment(&[
    &[STACK, SERVER_URL],
    KafkaConfig::VARIABLES,
    &[SCHEMA_REGISTRY_URL],
]))]
pub struct CompareOptions {
    /// Handlers to compare, separated by commas, named as in bench verify; all is ours in its three
    /// modes and every peer
    #[arg(long, default_value = "all")]
    handlers: String,
    /// One run, steps of 3 s, fewer loads and no bisections, unless these options are given: about
    /// 45 s for each handler
    #[arg(long)]
    quick: bool,
    /// Runs of each handler, 1 to 20 [default: 3, with --quick 1]
    #[arg(long, value_parser = number(1..=20u32))]
    runs: Option<u32>,
    /// Transfers per second to try, separated by commas, each 1 to 1000000; a handler stops at the
    /// first load that is not held [default: 10,100,300,1000,2000,5000,10000,20000,40000, with
    /// --quick 10,100,300,1000,5000,20000,40000]
    #[arg(long, value_delimiter = ',', value_parser = number(1..=1_000_000u32))]
    loads: Option<Vec<u32>>,
    /// Loads to try between the last one held and the first one not held, 0 to 10 [default: 3, with
    /// --quick 0]
    #[arg(long, value_parser = number(0..=10u32))]
    bisections: Option<u32>,
    /// Measured time of each load, 1 to 3600 s, after one second that is not measured [default: 10,
    /// with --quick 3]
    #[arg(long, value_parser = seconds(1..=3600))]
    step_s: Option<Duration>,
    /// Warm-up at 500/s, 1 to 600 s, for handlers that compile while they run [default: 15, with
    /// --quick 4]
    #[arg(long, value_parser = seconds(1..=600))]
    warm_s: Option<Duration>,
    /// Accounts between which money is transferred, 2 to 1000000
    #[arg(long, default_value = "1000", value_parser = number(2..=1_000_000usize))]
    accounts: usize,
    /// Shortest time between two batches of commands, 0 to 100 ms
    #[arg(long, default_value = "10", value_parser = millis(0..=100))]
    pace_ms: Duration,
    /// Folder for comparison.md, comparison.json and the graphs, as in docs [default: that of
    /// --out]
    #[arg(long, value_name = "FOLDER")]
    docs: Option<PathBuf>,
    /// Folder for the raw rows in CSV files, and for the logs of handlers
    #[arg(long, value_name = "FOLDER", default_value = "target/bench")]
    out: PathBuf,
    #[command(flatten)]
    places: HandlerOptions,
}

/// Load of the warm-up, transfers per second.
const WARM_UP: u32 = 500;

/// The options with their defaults.
#[derive(Debug, Clone, PartialEq)]
struct Plan {
    runs: u32,
    loads: Vec<u32>,
    bisections: u32,
    step: Duration,
    warm: Duration,
    accounts: usize,
    batch_interval: Duration,
}

impl Plan {
    fn new(options: &CompareOptions) -> Self {
        let seconds = Duration::from_secs;
        let (runs, loads, bisections, step, warm): (_, &[u32], _, _, _) = if options.quick {
            (1, &[10, 100, 300, 1000, 5000, 20_000, 40_000], 0, seconds(3), seconds(4))
        } else {
            let loads = &[10, 100, 300, 1000, 2000, 5000, 10_000, 20_000, 40_000];
            (3, loads, 3, seconds(10), seconds(15))
        };
        Self {
            runs: options.runs.unwrap_or(runs),
            loads: options.loads.clone().unwrap_or_else(|| loads.to_vec()),
            bisections: options.bisections.unwrap_or(bisections),
            step: options.step_s.unwrap_or(step),
            warm: options.warm_s.unwrap_or(warm),
            accounts: options.accounts,
            batch_interval: options.pace_ms,
        }
    }

    /// The options as text for comparison.md.
    fn text(&self) -> String {
        format!(
            "RUNS={} LOADS={} BISECTIONS={} STEP_S={} WARM_S={} ACCOUNTS={} PACE_MS={}",
            self.runs,
            joined(&self.loads),
            self.bisections,
            self.step.as_secs(),
            self.warm.as_secs(),
            self.accounts,
            self.batch_interval.as_millis()
        )
    }
}

pub fn run(start: &Start<'_>, options: &CompareOptions) -> Result<ExitCode, Error> {
    let plan = Plan::new(options);
    let handlers = Handlers::new(&options.places)?;
    let cluster = Cluster::from_env(&start.env)?;
    let chosen = verify::choose(&handlers, &options.handlers)?;
    let out = options.out.clone();
    let docs = options.docs.clone().unwrap_or_else(|| out.clone());
    FreshBank::synchronize()?;

    let mut all = Vec::new();
    for handler in &chosen {
        let broken = verdict(start, &cluster, handler, &out)?;
        all.push(Figures::new(handler.clone(), broken));
    }
    let settings = vec![("SETTINGS", plan.text())];
    let columns = direct_load::COLUMNS.strip_prefix("mode,").unwrap_or(direct_load::COLUMNS);
    let mut rows = Csv::create(&out, "compare", &settings, &format!("handler,run,{columns}"))?;
    let mut starts = Csv::create(
        &out,
        "compare-starts",
        &settings,
        "handler,run,artefact_bytes,image_bytes,start_ms,rss_idle_bytes",
    )?;
    let mut complete = true;
    for number in 1..=plan.runs {
        let mut order: Vec<usize> = (0..all.len()).collect();
        order.shuffle(&mut rand::rng());
        for index in order {
            let figures = &mut all[index];
            let name = figures.handler.name.clone();
            output::progress(&format!("{name}: run {number} of {}", plan.runs));
            let run = measure(start, &plan, &cluster, &figures.handler, &out)?;
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
            // After each run, so that an aborted round has its results too.
            tables::write(&docs, &all, &plan.text(), rows.path())?;
        }
    }
    output::print(&tables::text(&all));
    output::print(&format!("Raw rows: {}\n", rows.path().display()));
    output::print(&format!("Wrote comparison.md, .json and graphs to {}\n", docs.display()));
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The points of the contract that `handler` breaks. Uses the last verification if it is newer than
/// the build.
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
    let findings = verify::verify(start, cluster, handler, Kills::default(), out)?;
    let broken: Vec<String> = findings.broken().into_iter().map(str::to_owned).collect();
    if !broken.is_empty() {
        output::progress(&findings.text(&handler.name));
    }
    let failed = |source| Error::Csv { path: file.clone(), source };
    fs::create_dir_all(out.join("verified")).map_err(failed)?;
    let lines: Vec<String> = [built].into_iter().chain(broken.iter().cloned()).collect();
    fs::write(&file, lines.join("\n") + "\n").map_err(failed)?;
    Ok(broken)
}

/// Measures one handler at all loads, in a fresh bank.
fn measure(
    start: &Start<'_>,
    plan: &Plan,
    cluster: &Cluster,
    handler: &Handler,
    out: &Path,
) -> Result<Run, Error> {
    let bank = FreshBank::create(&start.env, cluster, &out.join("handlers"), &start.shutdown)?;
    let mut handler_process = bank.start(handler)?;
    let start_ms = handler_process.wait_ready(&start.shutdown)?.as_secs_f64() * 1000.0;
    // The end of its startup belongs neither to the startup time nor to the idle memory.
    if start.shutdown.wait(Duration::from_secs(1)) {
        return Err(Error::Stopped);
    }
    let part = |source| Error::Part {
        part: handler.name.clone(),
        pid: handler_process.process.pid,
        source,
    };
    let rss_idle = handler_process.process.rss().map_err(part)?;
    let artefact_bytes = handler.artefact_bytes()?;
    let mapped = handler_process.process.mapped_files().map_err(part)?;
    let image_bytes = handler.image_bytes(&mapped)?;
    let bank = BankUnderTest::with_handler(start, &handler_process)?;
    let mut load = DirectLoad::new(bank, plan.batch_interval)?;
    load.open_accounts(plan.accounts)?;
    load.warm_up(WARM_UP, plan.warm)?;
    let mut rows = Vec::new();
    let mut search = Search::new(&plan.loads, plan.bisections);
    while let Some(per_s) = search.next() {
        let row = load.step(per_s, plan.step)?;
        let held = row.held;
        search.tried(per_s, held);
        rows.push(row);
    }
    // The consumers of bench would compete with the next handler.
    drop(load);
    handler_process.terminate()?;
    Ok(Run { artefact_bytes, image_bytes, start_ms, rss_idle, rows, max_per_s: search.held })
}

#[cfg(test)]
mod tests {
    use super::figures::{COSTS_AT, IDLE};
    use super::*;
    use crate::{Command, parse};

    fn plan(line: &str) -> Result<Plan, String> {
        match parse(&format!("compare {line}"))? {
            Command::Compare(options) => Ok(Plan::new(&options)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn quick_mode_has_its_own_defaults() {
        let full = plan("").unwrap();
        assert_eq!((full.runs, full.bisections, full.step), (3, 3, Duration::from_secs(10)));
        let quick = plan("--quick").unwrap();
        assert_eq!((quick.runs, quick.bisections, quick.step), (1, 0, Duration::from_secs(3)));
        for load in [IDLE, 100, 300, COSTS_AT, 5000] {
            assert!(full.loads.contains(&load) && quick.loads.contains(&load), "{load}");
        }
        let own = plan("--quick --runs 2 --loads 7").unwrap();
        assert_eq!((own.runs, own.loads), (2, vec![7]));
        assert!(plan("--runs 0").is_err() && plan("--loads many").is_err());
    }
}
