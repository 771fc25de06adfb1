//! `bench check`: checks the guarantees of a bank from its records and databases.

use crate::error::Error;
use crate::observed_bank::BALANCE_DATABASE_URL;
use crate::options::{self, number};
use crate::output;
use crate::start::Start;
use crate::topic_reader::{Cluster, WITHIN};
use bank::topology::{HEARTBEAT, TOPICS, Topic};
use messaging::KafkaConfig;
use observer::model::new_bank;
use observer::{
    Event, History, Kind, ObservedChanges, Observer, Positions, Reader, Report, Violation,
    compare_transactions, log_ends, log_starts, stored_accounts,
};
use postgres::{Client, NoTls};
use serde::Serialize;
use service::database::retention::{RETAIN_DAYS, Retention};
use service::env::{SCHEMA_REGISTRY_URL, Variable};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

/// `TRANSACTION_DATABASE_URL`: the graphql-endpoint's database.
pub const TRANSACTION_DATABASE_URL: Variable = Variable::required(
    "TRANSACTION_DATABASE_URL",
    "the database of the graphql-endpoint, as in postgres://user:password@host:5432/transactiondb",
)
.secret();

/// Maximum number of violations of a database that are printed.
const VIOLATIONS_MAX: usize = 100;
/// Time between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(2);
/// Time between two comparisons with a database.
const RETRY: Duration = Duration::from_millis(200);

/// Check that a bank keeps its guarantees
///
/// Reads all commands, outcomes, changes and dead letters from the first record on, and compares
/// them with a model of the rules: docs/guarantees.md. The services may run or be stopped. Commands
/// that are sent during the check are not checked. The balances in balancedb and the transactions
/// in transactiondb are compared as well, unless commands are in progress. Prints each violation
/// with its topic, partition and offset. If RETAIN_DAYS is set as for the services, transactions
/// that they may have deleted are not reported as missing. The last line is JSON. The exit code is
/// 1 if there is a violation. Memory grows with the commands: 108,000 commands took 87 MB.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = options::environment(&[
    &[BALANCE_DATABASE_URL, TRANSACTION_DATABASE_URL],
    KafkaConfig::VARIABLES,
    &[SCHEMA_REGISTRY_URL, RETAIN_DAYS],
]))]
pub struct CheckOptions {
    /// Time limit for missing outcomes and transactions after all records were read, 0 to 3600 s
    #[arg(long, default_value = "30", value_parser = number(0..=3600u64))]
    wait_s: u64,
}

/// The last line of the output.
#[derive(Serialize)]
struct Summary {
    commands: u64,
    confirmed: u64,
    failed: u64,
    dead_letters: u64,
    repeated: u64,
    databases_compared: bool,
    violations: u64,
}

/// The result of a check.
pub struct Checked {
    pub report: Report,
    /// False if commands were in progress.
    pub databases_compared: bool,
    pub of_databases: Vec<Violation>,
}

pub fn run(start: &Start<'_>, options: &CheckOptions) -> Result<ExitCode, Error> {
    check(start, Duration::from_secs(options.wait_s)).map(|checked| print(&checked))
}

/// Checks the bank. Waits at most for `wait` for missing outcomes and transactions.
pub fn check(start: &Start<'_>, wait: Duration) -> Result<Checked, Error> {
    let cluster = Cluster::from_env(&start.env)?;
    let balances = start.env.text(&BALANCE_DATABASE_URL)?;
    let transactions = start.env.text(&TRANSACTION_DATABASE_URL)?;
    let mut check = Check::start(start, &cluster, wait)?;
    check.read()?;
    let is_at_rest = check.is_at_rest()?;
    let mut of_databases = Vec::new();
    if is_at_rest {
        of_databases.extend(check.compare_balances(&balances)?);
        of_databases.extend(check.compare_transactions(&transactions)?);
    }
    // A command that was sent meanwhile may have changed one database and not the other.
    let databases_compared = is_at_rest && check.is_at_rest()?;
    if !databases_compared {
        of_databases.clear();
    }
    let ends = &check.ends;
    let report = check.observer.report_if(|it| is_at_rest || is_before(it, ends));
    Ok(Checked { report, databases_compared, of_databases })
}

/// True for a violation by a record before `ends`.
fn is_before(violation: &Violation, ends: &Positions) -> bool {
    let Some(at) = violation.position else { return false };
    let ends = ends.iter().filter(|(topic, _)| topic.name == at.topic).flat_map(|(_, list)| list);
    ends.filter(|end| end.partition == at.partition).any(|end| at.offset < end.next)
}

fn print(checked: &Checked) -> ExitCode {
    let Checked { report, databases_compared, of_databases } = checked;
    let mut text = String::new();
    for violation in report.violations.iter().chain(of_databases) {
        text += &format!("{violation}\n");
    }
    if report.violations_more > 0 {
        text += &format!("and {} more\n", report.violations_more);
    }
    if !databases_compared {
        text += "The databases were not compared, because commands were in progress.\n";
    }
    let counts = report.counts;
    let summary = Summary {
        commands: counts.commands,
        confirmed: counts.confirmed,
        failed: counts.failed,
        dead_letters: counts.dead_letters,
        repeated: counts.repeated,
        databases_compared: *databases_compared,
        violations: (report.violations.len() + of_databases.len()) as u64 + report.violations_more,
    };
    let line = serde_json::to_string(&summary).expect("it has only numbers");
    output::print(&format!("{text}{line}\n"));
    if summary.violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A check in progress.
struct Check<'a> {
    start: &'a Start<'a>,
    cluster: &'a Cluster,
    wait: Duration,
    /// The ends of the topics at the start.
    ends: Positions,
    reader: Reader,
    observer: Observer,
    changes: ObservedChanges,
    /// The time before which transactions may be deleted, ms since 1970.
    deleted_before: i64,
    records: u64,
}

impl<'a> Check<'a> {
    fn start(start: &'a Start<'_>, cluster: &'a Cluster, wait: Duration) -> Result<Self, Error> {
        let retention = Retention::from_env(&start.env)?;
        let starts = positions(cluster, log_starts)?;
        let deleted = |(topic, list): &(&Topic, &Vec<_>)| {
            list.iter().any(|it: &messaging::Position| it.next > 0).then_some(topic.name)
        };
        if let Some(topic) = starts.iter().find_map(|it| deleted(&it)) {
            return Err(Error::Bank(format!(
                "{topic} no longer has its first records: the check needs all of them"
            )));
        }
        Ok(Self {
            start,
            cluster,
            wait,
            ends: positions(cluster, log_ends)?,
            reader: Reader::start(&cluster.kafka, &cluster.registry, &starts),
            observer: Observer::new(new_bank(), History::Settled),
            changes: ObservedChanges::default(),
            deleted_before: retention.map_or(0, |it| it.deleted_before().cast_signed()),
            records: 0,
        })
    }

    /// Reads up to the ends, and then until all commands are answered, at most for the time limit.
    fn read(&mut self) -> Result<(), Error> {
        let all: i64 = self.ends.values().flatten().map(|it| it.next).sum();
        let mut reported = Instant::now();
        while !self.reader.has_reached(&self.ends) {
            self.read_batch()?;
            if reported.elapsed() >= PROGRESS {
                reported = Instant::now();
                output::progress(&format!("{} of about {all} records read", self.records));
            }
        }
        let limit = Instant::now() + self.wait;
        while self.observer.unanswered() > 0 && Instant::now() < limit {
            self.read_batch()?;
            if reported.elapsed() >= PROGRESS {
                reported = Instant::now();
                let unanswered = self.observer.unanswered();
                output::progress(&format!("waiting for the outcomes of {unanswered} commands"));
            }
        }
        Ok(())
    }

    fn read_batch(&mut self) -> Result<(), Error> {
        if self.start.shutdown.requested() {
            return Err(Error::Stopped);
        }
        let batch = self.reader.next(Instant::now() + RETRY)?;
        for record in batch.into_iter().flat_map(|batch| batch.records) {
            self.records += 1;
            self.observer.take(&record);
            if let Event::BalanceChanged(change) = &record.event {
                self.changes.take(record.position, change);
            }
        }
        Ok(())
    }

    /// True if all records were read, and all commands have outcomes.
    fn is_at_rest(&self) -> Result<bool, Error> {
        let ends = positions(self.cluster, log_ends)?;
        Ok(self.observer.unanswered() == 0 && self.reader.has_reached(&ends))
    }

    fn compare_balances(&self, url: &str) -> Result<Vec<Violation>, Error> {
        let failed = |source| Error::Database { step: "read the balances", source };
        let mut client = Client::connect(url, NoTls).map_err(failed)?;
        let mut violations =
            self.observer.differences(&stored_accounts(&mut client).map_err(failed)?);
        violations.truncate(VIOLATIONS_MAX);
        Ok(violations)
    }

    /// Waits until the endpoint has stored all changes, at most for the time limit.
    fn compare_transactions(&mut self, url: &str) -> Result<Vec<Violation>, Error> {
        let failed = |source| Error::Database { step: "read the transactions", source };
        let mut client = Client::connect(url, NoTls).map_err(failed)?;
        let limit = Instant::now() + self.wait;
        let mut reported = Instant::now();
        loop {
            let found = compare_transactions(
                &mut client,
                &mut self.changes,
                self.deleted_before,
                VIOLATIONS_MAX,
            );
            let found = found.map_err(failed)?;
            let may_follow = |it: &Violation| matches!(it.kind, Kind::MissingTransaction { .. });
            if !found.iter().any(may_follow) || Instant::now() >= limit {
                return Ok(found);
            }
            if self.start.shutdown.requested() {
                return Err(Error::Stopped);
            }
            if reported.elapsed() >= PROGRESS {
                reported = Instant::now();
                output::progress(&format!("waiting for {} transactions", found.len()));
            }
            thread::sleep(RETRY);
        }
    }
}

type Log =
    fn(&mut dyn messaging::KafkaClient, &[Topic], Duration) -> Result<Positions, messaging::Error>;

/// Positions of all topics with records of the bank.
fn positions(cluster: &Cluster, log: Log) -> Result<Positions, Error> {
    let topics: Vec<Topic> = TOPICS.into_iter().filter(|topic| *topic != HEARTBEAT).collect();
    let step = "look up the offsets of the topics".to_owned();
    log(&mut *cluster.kafka_client(), &topics, WITHIN)
        .map_err(|source| Error::Kafka { step, source })
}
