//! `bench demo`: runs the whole bank under load for a minute and checks the contract.

mod tables;

use self::tables::{
    DemoStep, Outcome, holdings, report_text, table, users_fault, users_text, violations,
};
use crate::control::{HEARTBEAT_URL, Heartbeat};
use crate::error::Error;
use crate::graphql::GRAPHQL_URL;
use crate::options::{self, number, seconds};
use crate::output;
use crate::simulated_users::{Driver, SimulatedUsers, UserSteps};
use crate::start::Start;
use crate::topic_reader::{Cluster, WITHIN, is_done};
use bank::topology::{CONFIRM_ACCOUNT_CREATION, CONFIRM_MONEY_TRANSFER, HEARTBEAT, TOPICS};
use messaging::{KafkaClient, KafkaConfig};
use observer::{Accounts, History, News, Observer, Positions, Reader, log_ends, stored_accounts};
use postgres::{Client, NoTls};
use service::env::{SCHEMA_REGISTRY_URL, Variable};
use service::shutdown::Shutdown;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const BALANCE_DATABASE_URL: Variable = Variable::required(
    "BALANCE_DATABASE_URL",
    "PostgreSQL of the command-handler, as in postgres://user:password@host:5432/balancedb",
)
.secret();

/// Run the bank under load for a minute and check that no cent is lost
///
/// Raises the load in steps. Each heartbeat record becomes a command: the first ones open accounts,
/// the others transfer money. Every command, outcome and balance change is read from the topics. At
/// the same time three simulated users open accounts through GraphQL. Each sends a transfer once a
/// second and waits for the new balance. Then the load stops. When all commands are answered, these
/// checks run:
///   - Every command has exactly one outcome. A replayed outcome counts as the same one if it is
///     equal in every field.
///   - The changes of each account are numbered 1, 2, 3 ... without gaps, and lead to its balance
///     in the database.
///   - The sum of all balances is the sum before, plus cash that confirmed transfers paid in, minus
///     cash that they paid out.
///
/// A new bank begins with the company's 100000000000000000 cents. Latency is the time from reading
/// a command to reading its outcome, and 0 if the outcome was read first. Only records written
/// after the start are counted. The exit code is 0 if all checks pass, else 1. The last line is
/// JSON.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = options::environment(&[
    &[HEARTBEAT_URL, GRAPHQL_URL, BALANCE_DATABASE_URL],
    KafkaConfig::VARIABLES,
    &[SCHEMA_REGISTRY_URL],
]))]
pub struct DemoOptions {
    /// Duration of the load, 1 to 3600 s; starting and checking take some seconds more
    #[arg(long, default_value = "60", value_parser = seconds(1..=3600))]
    duration_s: Duration,
    /// Heartbeat records per second of each step, separated by commas, each 1 to 1000000; the steps
    /// have equal durations
    #[arg(long, value_delimiter = ',', value_parser = number(1..=1_000_000u32),
        default_value = "100,500,2000,5000,10000,20000")]
    loads: Vec<u32>,
}

/// The bank counts as idle after this time without a new record.
const QUIET: Duration = Duration::from_secs(1);
/// Time without any outcome after which the remaining ones are not waited for.
const OUTCOME_TIMEOUT: Duration = Duration::from_secs(30);
/// The same after a shutdown request.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);
const USERS: u32 = 3;
/// Time between two requests for committed offsets.
const OFFSETS_INTERVAL: Duration = Duration::from_millis(250);
/// Consumer group that turns heartbeat records into commands.
const GENERATOR: &str = "command-generator";
/// Consumer group that answers commands.
const HANDLER: &str = "command-handler";

/// Runs the command `bench demo`.
pub fn run(start: &Start<'_>, options: &DemoOptions) -> Result<ExitCode, Error> {
    let cluster = Cluster::from_env(&start.env)?;
    let database: postgres::Config =
        start.env.parse(&BALANCE_DATABASE_URL, "postgres://user:password@host:port/database")?;
    let heartbeat = Heartbeat::new(&start.env.text(&HEARTBEAT_URL)?);
    let graphql_url = start.env.text(&GRAPHQL_URL)?;
    let mut client = database
        .connect(NoTls)
        .map_err(|source| Error::Database { step: "connect to balancedb", source })?;
    let mut kafka_client = cluster.kafka_client();

    heartbeat.set_load(0)?;
    let (ends, before) = wait_until_idle(&mut *kafka_client, &mut client, &start.shutdown)?;
    let sum_before = sum(&before);
    output::progress(&format!("Before the load, {}", holdings(before.len(), sum_before)));
    let step_s = options.duration_s.as_secs_f64() / options.loads.len() as f64;
    output::progress(&format!(
        "Raising the load in {} steps of {step_s:.0} s each; one line per second:",
        options.loads.len()
    ));
    let mut demo = Demo {
        observer: Observer::new(before, History::Settled),
        reader: Reader::start(&cluster.kafka, &cluster.registry, &ends),
        waiting_since: Instant::now(),
    };
    let mut steps = Vec::new();
    let users =
        SimulatedUsers::start(&Driver::Graphql(graphql_url.clone()), USERS, &start.shutdown)?;
    let loaded =
        demo.load(&heartbeat, &options.loads, options.duration_s, &start.shutdown, &mut steps);
    // The load ends even if reading failed.
    heartbeat.set_load(0)?;
    loaded?;
    let mut user_steps = UserSteps::default();
    users.stop()?.iter().for_each(|step| user_steps.note(step));
    demo.finish(&mut *kafka_client, &start.shutdown)?;

    let after = balances(&mut client)?;
    let report = demo.observer.report();
    let mut faults = match report.unanswered {
        0 => violations(&report, demo.observer.differences(&after)),
        // The command-handler has not decided all commands, so the balances still change.
        _ => vec!["some commands are unanswered, so the balances can't be compared".to_owned()],
    };
    if report.counts.dead_letters > 0 {
        faults.push(format!("{} records were written to dead_letter", report.counts.dead_letters));
    }
    faults.extend(users_fault(&user_steps));
    let sums = (sum_before, sum(&after));
    output::print(&table(&steps));
    output::print(&report_text(&report, sums));
    output::print(&users_text(USERS, &user_steps, &graphql_url));
    for fault in &faults {
        output::print(&format!("CHECK FAILED: {fault}\n"));
    }
    let outcome = Outcome::new(&report, sums, &steps, &user_steps);
    output::print_json(&outcome);
    let right = outcome.balance_sum_ok && faults.is_empty() && outcome.commands > 0;
    Ok(if right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Waits until all commands are answered. Returns the end of each topic at that time, and the
/// accounts.
fn wait_until_idle(
    kafka_client: &mut dyn KafkaClient,
    client: &mut Client,
    shutdown: &Shutdown,
) -> Result<(Positions, Accounts), Error> {
    let mut started = Instant::now();
    let mut before = all_ends(kafka_client)?;
    loop {
        if shutdown.wait(QUIET) {
            return Err(Error::Stopped);
        }
        let now = all_ends(kafka_client)?;
        let moved = now != before;
        before = now;
        if !moved && is_answered(kafka_client)? {
            let accounts = balances(client)?;
            // No record was written while the database was read, so both are of the same moment.
            if all_ends(kafka_client)? == before {
                return Ok((before, accounts));
            }
        }
        if moved {
            started = Instant::now();
        }
        output::progress("Waiting until the bank has answered earlier commands");
        if started.elapsed() > OUTCOME_TIMEOUT {
            return Err(Error::Bank(format!(
                "commands are unanswered, and no record was written for {} s; is the \
                 command-handler running? (make status, make logs)",
                OUTCOME_TIMEOUT.as_secs()
            )));
        }
    }
}

fn all_ends(kafka_client: &mut dyn KafkaClient) -> Result<Positions, Error> {
    let step = || "look up the ends of the topics".to_owned();
    log_ends(kafka_client, &TOPICS, WITHIN).map_err(|source| Error::Kafka { step: step(), source })
}

/// True if the command-handler has committed the offsets of all commands.
fn is_answered(kafka_client: &mut dyn KafkaClient) -> Result<bool, Error> {
    Ok(is_done(kafka_client, HANDLER, &CONFIRM_ACCOUNT_CREATION)?
        && is_done(kafka_client, HANDLER, &CONFIRM_MONEY_TRANSFER)?)
}

fn balances(client: &mut Client) -> Result<Accounts, Error> {
    stored_accounts(client).map_err(|source| Error::Database { step: "read the accounts", source })
}

fn sum(accounts: &Accounts) -> i128 {
    accounts.values().map(|it| i128::from(it.balance)).sum()
}

struct Demo {
    observer: Observer,
    reader: Reader,
    /// When a command or an outcome was last read.
    waiting_since: Instant,
}

impl Demo {
    /// Runs the steps and appends them to `steps`. Ends early, without an error, when shutdown is
    /// requested.
    fn load(
        &mut self,
        heartbeat: &Heartbeat,
        loads: &[u32],
        time: Duration,
        shutdown: &Shutdown,
        steps: &mut Vec<DemoStep>,
    ) -> Result<(), Error> {
        let length = time / u32::try_from(loads.len()).unwrap_or(u32::MAX);
        for &load in loads {
            if shutdown.requested() {
                return Ok(());
            }
            heartbeat.set_load(load)?;
            let (mut step, mut second) = (self.step(load), self.step(load));
            while step.started.elapsed() < length && !shutdown.requested() {
                let line = second.started + Duration::from_secs(1);
                let end = (step.started + length).min(line);
                self.read(end, |news| {
                    step.note(news);
                    second.note(news);
                })?;
                if Instant::now() >= line {
                    second.end(&self.observer);
                    output::progress(&second.line());
                    second = self.step(load);
                }
            }
            step.end(&self.observer);
            steps.push(step);
        }
        Ok(())
    }

    fn step(&self, load: u32) -> DemoStep {
        DemoStep::new(load, self.observer.counts().commands)
    }

    /// Reads until all commands are answered and no more are written, or until a timeout.
    fn finish(
        &mut self,
        kafka_client: &mut dyn KafkaClient,
        shutdown: &Shutdown,
    ) -> Result<(), Error> {
        self.waiting_since = Instant::now();
        let (began, mut printed_at) = (Instant::now(), Instant::now());
        loop {
            self.read(Instant::now() + OFFSETS_INTERVAL, |_| {})?;
            let silence = self.waiting_since.elapsed();
            if silence > QUIET
                && self.observer.unanswered() == 0
                && is_done(kafka_client, GENERATOR, &HEARTBEAT)?
                && is_answered(kafka_client)?
            {
                return Ok(());
            }
            let hurried = shutdown.requested() && began.elapsed() > SHUTDOWN_TIMEOUT;
            if hurried {
                output::progress("Shutdown was requested: not waiting for further outcomes");
                return Ok(());
            }
            if silence > OUTCOME_TIMEOUT {
                output::progress(&format!(
                    "No outcome for {} s: not waiting for further outcomes",
                    OUTCOME_TIMEOUT.as_secs()
                ));
                return Ok(());
            }
            if printed_at.elapsed() > QUIET {
                printed_at = Instant::now();
                let unanswered = self.observer.unanswered();
                output::progress(&format!(
                    "The load has stopped; {unanswered} commands are still unanswered"
                ));
            }
        }
    }

    /// Reads records until `end` and passes what they mean to `take`.
    fn read(&mut self, end: Instant, mut take: impl FnMut(News)) -> Result<(), Error> {
        // Under a high load the channel never runs empty, so the time is checked too.
        while Instant::now() < end {
            for record in self.reader.next(end)?.into_iter().flat_map(|batch| batch.records) {
                let news = self.observer.take(&record);
                if news != News::None {
                    self.waiting_since = record.read_at;
                    take(news);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::{Command, parse};

    #[test]
    fn loads_outside_the_limits_are_rejected() {
        let loads = |line: &str| match parse(&format!("demo {line}"))? {
            Command::Demo(options) => Ok(options.loads),
            other => Err(format!("{other:?}")),
        };
        assert_eq!(loads("--loads 1,2"), Ok(vec![1, 2]));
        assert_eq!(loads("").unwrap().len(), 6);
        for wrong in ["0", "1,", "many"] {
            assert!(loads(&format!("--loads {wrong}")).is_err(), "{wrong}");
        }
    }
}
