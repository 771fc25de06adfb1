//! `bench chaos`: makes faults under load and checks that the bank keeps its guarantees.

mod clients;
mod faults;
mod scenario;
mod timeline;

use self::clients::{Answer, Clients};
use self::faults::{Answered, Faults, LOOK_INTERVAL, Target};
use self::scenario::Scenario;
use self::timeline::{Timeline, watch_sum};
use crate::check::{TRANSACTION_DATABASE_URL, check};
use crate::control::{HEARTBEAT_URL, Heartbeat};
use crate::demo::violations;
use crate::error::Error;
use crate::graphql::GRAPHQL_URL;
use crate::observed_bank::{BALANCE_DATABASE_URL, ObservedBank, balances, wait_until_idle};
use crate::options::{self, number};
use crate::output;
use crate::stack::{STACK, Stack};
use crate::start::Start;
use crate::topic_reader::Cluster;
use messaging::{ClientChoice, KafkaConfig};
use observer::News;
use postgres::NoTls;
use serde::Serialize;
use service::env::SCHEMA_REGISTRY_URL;
use service::shutdown::Shutdown;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

/// Load before the first fault and after the recovery.
const CALM: Duration = Duration::from_secs(3);
/// Time after which the bank no longer counts as recovering.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);
/// Limit for missing outcomes and transactions in the check at the end.
const CHECK_WAIT: Duration = Duration::from_secs(30);

/// Make faults under load and check that the bank keeps its guarantees
///
/// Runs scenarios on a bank with three brokers: docs/chaos.md. The load is heartbeat records, which
/// become commands, and GraphQL clients that transfer money. A client repeats each request until it
/// has an outcome, and notes it. The time to recover lasts from the last step of a scenario until
/// all earlier commands and a later one are answered, and each client has an outcome. After each
/// scenario these checks run:
///   - all records equal the decisions of a model: docs/guarantees.md
///   - the balances in the database equal the records
///   - each repeated request of a client has the same outcome, and each client its balance
///   - the sum of all balances was right in each second
///   - the time to recover is within the limit of the scenario
///
/// At the end all records since the start of the bank, and both databases are checked as by bench
/// check. A graph and a CSV file of each scenario are written to --results. The last line is JSON.
/// The exit code is 1 if a scenario failed.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = options::environment(&[
    &[STACK, HEARTBEAT_URL, GRAPHQL_URL, BALANCE_DATABASE_URL, TRANSACTION_DATABASE_URL],
    KafkaConfig::VARIABLES,
    &[SCHEMA_REGISTRY_URL],
]))]
pub struct ChaosOptions {
    /// Names of scenarios, separated by commas [default: all]
    #[arg(long, value_delimiter = ',')]
    scenarios: Vec<String>,
    /// Run only the scenarios of the short form
    #[arg(long, conflicts_with = "scenarios")]
    short: bool,
    /// Folder with the scenarios
    #[arg(long, value_name = "FOLDER", default_value = "bench/scenarios")]
    folder: PathBuf,
    /// Seed of the random choices [default: a random one, which is printed]
    #[arg(long)]
    seed: Option<u64>,
    /// Heartbeat records per second, 1 to 100000
    #[arg(long, default_value = "300", value_parser = number(1..=100_000u32))]
    load: u32,
    /// Number of GraphQL clients, 1 to 100
    #[arg(long, default_value = "4", value_parser = number(1..=100usize))]
    clients: usize,
    /// Folder for graphs, which the web page of `make up` shows
    #[arg(long, value_name = "FOLDER", default_value = "target/results")]
    results: PathBuf,
}

/// The last line of the output.
#[derive(Serialize)]
struct Summary {
    scenarios: usize,
    failed: usize,
    violations: usize,
    recovery_s_max: f64,
}

pub fn run(start: &Start<'_>, options: &ChaosOptions) -> Result<ExitCode, Error> {
    let scenarios = chosen(options)?;
    // Lost connections are on purpose here.
    log::set_max_level(log::LevelFilter::Error);
    let seed = options.seed.unwrap_or_else(rand::random);
    output::progress(&format!("{} scenarios with --seed {seed}", scenarios.len()));
    let mut chaos = Chaos::open(start, options, seed)?;
    let mut rows = Vec::new();
    for scenario in &scenarios {
        rows.push(chaos.run(scenario)?);
    }
    output::progress("Checking all records and both databases");
    let checked = check(start, CHECK_WAIT)?;
    let mut of_all = violations(&checked.report, checked.of_databases);
    if !checked.databases_compared {
        of_all.push("commands were in progress, so the databases were not compared".to_owned());
    }
    output::print(&table(&rows));
    let found = rows.iter().flat_map(|row| row.violations.iter().map(|it| (&*row.name, it)));
    let found: Vec<_> = found.chain(of_all.iter().map(|it| ("the whole bank", it))).collect();
    for (name, violation) in &found {
        output::print(&format!("VIOLATION: {name}: {violation}\n"));
    }
    let failed = rows.iter().filter(|row| row.has_failed()).count();
    let recovery = rows.iter().filter_map(|row| row.recovery).max().unwrap_or_default();
    output::print_json(&Summary {
        scenarios: rows.len(),
        failed,
        violations: found.len(),
        recovery_s_max: (recovery.as_secs_f64() * 10.0).round() / 10.0,
    });
    Ok(if failed == 0 && found.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn chosen(options: &ChaosOptions) -> Result<Vec<Scenario>, Error> {
    let mut all = Scenario::all(&options.folder)?;
    let unknown =
        options.scenarios.iter().find(|name| all.iter().all(|scenario| scenario.name != **name));
    if let Some(name) = unknown {
        let names: Vec<_> = all.iter().map(|it| it.name.as_str()).collect();
        let message = format!("no scenario {name}; there are: {}", names.join(", "));
        return Err(Error::Usage(message));
    }
    if options.short {
        all.retain(|scenario| scenario.is_short);
    } else if !options.scenarios.is_empty() {
        all.retain(|scenario| options.scenarios.contains(&scenario.name));
    }
    if all.is_empty() {
        let folder = options.folder.display();
        return Err(Error::Usage(format!("{folder} has no scenario to run (docs/chaos.md)")));
    }
    Ok(all)
}

/// The result of a scenario.
struct Row {
    name: String,
    commands: u64,
    /// Transfers of the GraphQL clients, and those that needed several requests.
    promises: usize,
    retried: usize,
    longest: Duration,
    violations: Vec<String>,
    /// None if the bank has not recovered.
    recovery: Option<Duration>,
    recovery_max: Duration,
}

impl Row {
    fn progress(&self) -> String {
        let result = if self.has_failed() { "FAILED" } else { "passed" };
        let recovery = self.recovery.map_or_else(
            || "not recovered".to_owned(),
            |it| format!("recovered after {:.1} s", it.as_secs_f64()),
        );
        format!("  {result}: {} commands, {recovery}", self.commands)
    }

    fn has_failed(&self) -> bool {
        !self.violations.is_empty() || self.recovery.is_none_or(|it| it > self.recovery_max)
    }
}

fn table(rows: &[Row]) -> String {
    let head = [
        "scenario",
        "commands",
        "requests",
        "retried",
        "longest wait, s",
        "recovery, s",
        "limit, s",
        "violations",
        "",
    ];
    let seconds = |time: Duration| format!("{:.1}", time.as_secs_f64());
    let row = |row: &Row| {
        vec![
            row.name.clone(),
            row.commands.to_string(),
            row.promises.to_string(),
            row.retried.to_string(),
            seconds(row.longest),
            row.recovery.map_or_else(|| "none".to_owned(), seconds),
            row.recovery_max.as_secs().to_string(),
            row.violations.len().to_string(),
            if row.has_failed() { "FAILED" } else { "passed" }.to_owned(),
        ]
    };
    let head = head.map(str::to_owned).to_vec();
    output::table(&[head].into_iter().chain(rows.iter().map(row)).collect::<Vec<_>>())
}

/// The bank in which faults are made.
struct Chaos<'a> {
    options: &'a ChaosOptions,
    seed: u64,
    shutdown: &'a Shutdown,
    cluster: Cluster,
    heartbeat: Heartbeat,
    clients: Clients,
    target: Target,
}

impl<'a> Chaos<'a> {
    fn open(start: &'a Start<'_>, options: &'a ChaosOptions, seed: u64) -> Result<Self, Error> {
        let mut cluster = Cluster::from_env(&start.env)?;
        // After a freeze, the kafka crate needs a restart of its process.
        cluster.kafka.client = ClientChoice::BuiltIn;
        let stack = Stack::from_env(&start.env)?;
        let balances = start.env.text(&BALANCE_DATABASE_URL)?;
        let program = std::env::current_exe()
            .map_err(|source| Error::Read { path: "/proc/self/exe".into(), source })?;
        let target = Target {
            stack,
            transactions: start.env.text(&TRANSACTION_DATABASE_URL)?,
            handler_variables: vec![
                ("KAFKA_BROKERS", cluster.kafka.brokers.join(",")),
                ("SCHEMA_REGISTRY_URL", start.env.text(&SCHEMA_REGISTRY_URL)?),
                ("DATABASE_URL", balances.clone()),
            ],
            balances,
            handler: program.with_file_name("command-handler"),
            logs: options.results.clone(),
        };
        let clients = Clients::log_in(&start.env.text(&GRAPHQL_URL)?, options.clients)?;
        let heartbeat = Heartbeat::new(&start.env.text(&HEARTBEAT_URL)?);
        Ok(Self { options, seed, shutdown: &start.shutdown, cluster, heartbeat, clients, target })
    }

    fn run(&mut self, scenario: &Scenario) -> Result<Row, Error> {
        output::progress(&format!("{}: {}", scenario.name, scenario.description));
        let mut kafka = self.cluster.kafka_client();
        self.heartbeat.set_load(0)?;
        let (ends, before) = wait_until_idle(&mut *kafka, &mut self.connect()?, self.shutdown)?;
        let mut bank = ObservedBank::start(&self.cluster, &ends, before);
        self.heartbeat.set_load(self.options.load)?;
        let (answers, received) = channel();
        let clients = self.clients.start(self.seed, &answers)?;
        let loaded = self.make_faults(scenario, &mut bank, received);
        // The load ends also after a failure.
        self.heartbeat.set_load(0)?;
        let (load, recovery) = loaded?;
        let Load { timeline, retried, longest, mut wrong_sums, .. } = load;
        let (promises, mut found) = self.clients.check(clients);
        bank.finish(&mut *kafka, self.shutdown)?;
        let after = balances(&mut self.connect()?)?;
        let report = bank.observer.report();
        match report.unanswered {
            0 => found.extend(violations(&report, bank.observer.differences(&after))),
            left => found.push(format!("{left} commands have no outcome")),
        }
        if report.counts.dead_letters > 0 {
            found.push(format!("{} records in dead_letter", report.counts.dead_letters));
        }
        found.append(&mut wrong_sums);
        timeline.write(&self.options.results, &scenario.name, self.seed)?;
        let row = Row {
            name: scenario.name.clone(),
            commands: report.counts.commands,
            promises,
            retried,
            longest,
            violations: found,
            recovery,
            recovery_max: scenario.recovery_max,
        };
        output::progress(&row.progress());
        Ok(row)
    }

    fn connect(&self) -> Result<postgres::Client, Error> {
        postgres::Client::connect(&self.target.balances, NoTls)
            .map_err(|source| Error::Database { step: "connect to balancedb", source })
    }

    /// Takes the steps of the scenario while `bank` is under load. Returns what was seen, and the
    /// time to recover.
    fn make_faults<'b>(
        &self,
        scenario: &Scenario,
        bank: &'b mut ObservedBank,
        answers: Receiver<Answer>,
    ) -> Result<(Load<'b>, Option<Duration>), Error> {
        let (sums, watched) = channel();
        let (answered, stop) = (Answered::new(), Shutdown::default());
        let mut load = Load {
            bank,
            answers,
            sums: watched,
            timeline: Timeline::new(Instant::now()),
            newest: None,
            first_after: vec![None; self.clients.count()],
            retried: 0,
            longest: Duration::ZERO,
            wrong_sums: Vec::new(),
        };
        let recovery = thread::scope(|scope| {
            let url = &self.target.balances;
            let watcher = scope.spawn(|| watch_sum(url, &stop, &sums));
            let steps = || {
                let mut faults =
                    Faults::new(&self.target, &answered, self.shutdown, self.seed, &scenario.name);
                faults.run(&scenario.steps)
            };
            let recovery = load.read_for(CALM, &answered).and_then(|()| {
                load.timeline.faults.0 = load.timeline.seconds(Instant::now());
                let recovery = load.recover(scope.spawn(steps), &answered)?;
                load.read_for(CALM, &answered)?;
                Ok(recovery)
            });
            stop.request();
            watcher.join().expect("a panic ends the process");
            recovery
        })?;
        Ok((load, recovery))
    }
}

/// The bank under load during a scenario.
struct Load<'a> {
    bank: &'a mut ObservedBank,
    answers: Receiver<Answer>,
    sums: Receiver<(Instant, i64)>,
    timeline: Timeline,
    /// When the newest of the answered commands was read.
    newest: Option<Instant>,
    /// The first outcome of each client since the last fault.
    first_after: Vec<Option<Instant>>,
    retried: usize,
    longest: Duration,
    wrong_sums: Vec<String>,
}

impl Load<'_> {
    fn read_for(&mut self, time: Duration, answered: &Answered) -> Result<(), Error> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.read(answered)?;
        }
        Ok(())
    }

    /// Reads what has happened. Returns and stores the time up to which all commands are answered.
    fn read(&mut self, answered: &Answered) -> Result<Option<Instant>, Error> {
        let Self { bank, timeline, newest, .. } = self;
        let read = bank.read(Instant::now() + LOOK_INTERVAL, |news| {
            if let News::Outcome(latency, _) = news {
                let now = Instant::now();
                *newest = (*newest).max(now.checked_sub(latency));
                timeline.note_outcome(now);
            }
        });
        match read {
            // The scenario has stopped the registry. The next call reads the same record.
            Err(Error::Registry { .. }) => {}
            read => read?,
        }
        for answer in self.answers.try_iter() {
            self.timeline.note_answer(answer.sent, answer.answered);
            self.longest = self.longest.max(answer.answered - answer.sent);
            self.retried += usize::from(answer.requests > 1);
            self.first_after[answer.client].get_or_insert(answer.answered);
        }
        for (at, cents) in self.sums.try_iter() {
            self.timeline.note_sum(at, cents);
            if cents != 0 {
                self.wrong_sums.push(format!("the sum of all balances was {cents} cents off"));
            }
        }
        let until = match (self.newest, self.bank.observer.oldest_unanswered()) {
            (Some(newest), Some(oldest)) => Some(newest.min(oldest)),
            (newest, _) => newest,
        };
        if let Some(until) = until {
            answered.set(until);
        }
        Ok(until)
    }

    /// Reads until the steps have ended and the bank has recovered. Returns the time between, or
    /// none if it has not recovered in time.
    fn recover(
        &mut self,
        steps: ScopedJoinHandle<'_, Result<(), Error>>,
        answered: &Answered,
    ) -> Result<Option<Duration>, Error> {
        while !steps.is_finished() {
            self.read(answered)?;
        }
        steps.join().expect("a panic ends the process")?;
        let end = Instant::now();
        self.timeline.faults.1 = self.timeline.seconds(end);
        self.first_after.fill(None);
        while end.elapsed() < RECOVERY_LIMIT {
            let until = self.read(answered)?;
            let is_served = self.first_after.iter().all(Option::is_some);
            if is_served && until.is_some_and(|until| until >= end) {
                return Ok(Some(end.elapsed()));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Command, parse};

    #[test]
    fn run_without_a_scenario_is_refused() {
        let names = |line: &str| match parse(&format!("chaos {line}")).unwrap() {
            Command::Chaos(options) => chosen(&options)
                .map(|all| all.into_iter().map(|it| it.name).collect::<Vec<_>>())
                .map_err(|err| err.to_string()),
            other => Err(format!("{other:?}")),
        };
        let folder = env!("CARGO_MANIFEST_DIR");
        let scenarios = format!("--folder {folder}/scenarios");
        assert_eq!(names(&format!("{scenarios} --scenarios deadlock")).unwrap(), ["deadlock"]);
        let unknown = names(&format!("{scenarios} --scenarios nope")).unwrap_err();
        assert!(unknown.contains("nope") && unknown.contains("deadlock"), "{unknown}");
        let none = names(&format!("--folder {folder}/src")).unwrap_err();
        assert!(none.contains("has no scenario"), "{none}");
    }
}
