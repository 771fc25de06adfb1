//! `bench demo`: the whole bank at work for a minute, and then its books are checked.

mod books;
mod readers;

use self::books::{Balance, Books, News};
use self::readers::{Batch, Readers};
use crate::control::{HEARTBEAT_URL, Heartbeat};
use crate::error::Error;
use crate::graphql::GRAPHQL_URL;
use crate::measure::Latencies;
use crate::options::{self, number, seconds};
use crate::output::{self, short};
use crate::simulated_users::{Driver, SimulatedUsers, UserSteps};
use crate::start::Start;
use crate::topic_reader::{Cluster, ends, is_done};
use bank::topology::{
    CONFIRM_ACCOUNT_CREATION, CONFIRM_MONEY_TRANSFER, DEAD_LETTER, HEARTBEAT, TOPICS, Topic,
};
use messaging::KafkaConfig;
use messaging::{KafkaClient, Position};
use postgres::{Client, NoTls};
use serde::Serialize;
use service::env::{SCHEMA_REGISTRY_URL, Variable};
use service::shutdown::Shutdown;
use std::collections::HashMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const BALANCE_DATABASE_URL: Variable = Variable::required(
    "BALANCE_DATABASE_URL",
    "the command-handler's database, as in postgres://user:password@host:5432/balancedb",
)
.secret();

/// The bank at work for a minute, with the check that no cent is lost
///
/// Raises the heartbeat's load in steps. Beats become commands (the first of them open accounts), the bank answers, and every
/// command, outcome and balance change is read from the topics. Meanwhile three simulated users open accounts and move money
/// through GraphQL, each once a second, and wait for the new balance. Then the load stops, and when all is answered:
///   - every command has exactly one outcome; a replay that is equal in every field counts as the same one;
///   - the changes of each account follow each other, 1, 2, 3 ... without gaps, and lead to its balance in the database;
///   - the sum of all balances is what it was before, plus what confirmed transfers brought in from outside (cash), less what
///     they took out.
///
/// An untouched bank begins with the company's 100000000000000000 cents.
/// Latency is from reading a command to reading its outcome, 0 where the outcome was read first. The stack may have a past: only
/// what comes from now on is counted. Exit code 0 if all of this holds, else 1. The last line is JSON.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = options::environment(&[
    &[HEARTBEAT_URL, GRAPHQL_URL, BALANCE_DATABASE_URL],
    KafkaConfig::VARIABLES,
    &[SCHEMA_REGISTRY_URL],
]))]
pub struct DemoOptions {
    /// Length of the load, 1 to 3600 s; starting and checking take some seconds more
    #[arg(long, default_value = "60", value_parser = seconds(1..=3600))]
    duration_s: Duration,
    /// Beats per second of each step, separated by commas, each 1 to 1000000; the steps are equally long
    #[arg(long, value_delimiter = ',', value_parser = number(1..=1_000_000u32),
        default_value = "100,500,2000,5000,10000,20000")]
    loads: Vec<u32>,
}

/// The end of each topic.
type Ends = HashMap<Topic, Vec<Position>>;
/// Accounts by iban.
type Accounts = HashMap<String, Balance>;

/// How long nothing may come before the bank counts as silent.
const QUIET: Duration = Duration::from_secs(1);
/// How long answers may stay away before they are given up.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long answers are waited for after Ctrl-C.
const HURRY: Duration = Duration::from_secs(5);
/// Simulated users.
const USERS: u32 = 3;
/// Time between two questions for offsets.
const ASK: Duration = Duration::from_millis(250);
/// Who reads beats and makes commands of them.
const GENERATOR: &str = "command-generator";
/// Who reads commands and answers them.
const HANDLER: &str = "command-handler";

/// The command.
pub fn run(start: &Start<'_>, options: &DemoOptions) -> Result<ExitCode, Error> {
    let cluster = Cluster::from_env(&start.env)?;
    let database: postgres::Config =
        start.env.parse(&BALANCE_DATABASE_URL, "postgres://user:password@host:port/database")?;
    let heartbeat = Heartbeat::new(&start.env.text(&HEARTBEAT_URL)?);
    let graphql_url = start.env.text(&GRAPHQL_URL)?;
    let mut client = database
        .connect(NoTls)
        .map_err(|source| Error::Database { step: "connect to balancedb", source })?;
    let mut bus = cluster.bus();

    heartbeat.set_load(0)?;
    let (ends, before) = stand_still(&mut *bus, &mut client, &start.shutdown)?;
    let sum_before = sum(&before);
    output::progress(&format!("{} accounts hold {sum_before} cents", before.len()));
    let mut demo = Demo {
        books: Books::open(before),
        readers: Readers::start(&cluster, &ends),
        waiting_since: Instant::now(),
    };
    let mut steps = Vec::new();
    let users =
        SimulatedUsers::start(&Driver::Graphql(graphql_url.clone()), USERS, &start.shutdown)?;
    let loaded =
        demo.load(&heartbeat, &options.loads, options.duration_s, &start.shutdown, &mut steps);
    // Whatever became of it, the load ends.
    heartbeat.set_load(0)?;
    loaded?;
    let mut user_steps = UserSteps::default();
    users.stop()?.iter().for_each(|step| user_steps.note(step));
    demo.finish(&mut *bus, &start.shutdown)?;

    let after = balances(&mut client)?;
    let dead_letters = count(&ends[&DEAD_LETTER], &self::ends(&mut *bus, &DEAD_LETTER)?);
    let Demo { mut books, .. } = demo;
    let mut faults = match books.unanswered() {
        0 => books.close(&after),
        // The bank still works on them: what differs now may be right in the end.
        _ => vec!["commands are unanswered, so the books can't be compared".to_owned()],
    };
    if dead_letters > 0 {
        faults.push(format!("{dead_letters} records went to dead_letter"));
    }
    faults.extend(users_fault(&user_steps));
    let sums = (sum_before, sum(&after));
    output::print(&table(&steps));
    output::print(&books_text(&books, sums));
    output::print(&users_text(&user_steps, &graphql_url));
    for fault in &faults {
        output::print(&format!("WRONG: {fault}\n"));
    }
    let outcome = Outcome::new(&books, sums, &steps, &user_steps);
    output::print_json(&outcome);
    let right = outcome.balance_sum_ok && faults.is_empty() && outcome.commands > 0;
    Ok(if right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The last line.
#[derive(Serialize)]
struct Outcome {
    commands: u64,
    confirmed: u64,
    failed: u64,
    unanswered: u64,
    balance_sum_ok: bool,
    max_per_s: u64,
    graphql: UserOutcome,
}

/// The simulated users' part of it.
#[derive(Serialize)]
struct UserOutcome {
    transfers: u64,
    heard: u64,
    timed_out: u64,
}

impl Outcome {
    fn new(
        books: &Books,
        (sum_before, sum_now): (i128, i128),
        steps: &[DemoStep],
        user_steps: &UserSteps,
    ) -> Self {
        let max = steps.iter().map(|step| step.done_per_s()).fold(0.0, f64::max);
        Self {
            commands: books.asked,
            confirmed: books.confirmed,
            failed: books.failed,
            unanswered: books.unanswered(),
            balance_sum_ok: sum_before + books.flow == sum_now && books.unanswered() == 0,
            max_per_s: max.round() as u64,
            graphql: UserOutcome {
                transfers: user_steps.count(),
                heard: user_steps.latencies.count(),
                timed_out: user_steps.timed_out,
            },
        }
    }
}

/// Commands, outcomes and the sum of all balances, for people.
fn books_text(books: &Books, (sum_before, sum_now): (i128, i128)) -> String {
    let expected = sum_before + books.flow;
    format!(
        "{} commands: {} confirmed, {} failed, {} unanswered; {} records came again and were equal\n\
         Balances before {sum_before} + from outside {} = {expected}; in the database {sum_now}: {}\n",
        books.asked,
        books.confirmed,
        books.failed,
        books.unanswered(),
        books.repeated,
        books.flow,
        match (expected == sum_now, books.unanswered()) {
            (true, 0) => "no cent is lost",
            (false, 0) => "MONEY WAS LOST OR MADE",
            _ => "not known yet",
        },
    )
}

/// Waits until no command is on its way. Where each topic ends then, and the accounts.
fn stand_still(
    bus: &mut dyn KafkaClient,
    client: &mut Client,
    shutdown: &Shutdown,
) -> Result<(Ends, Accounts), Error> {
    let mut started = Instant::now();
    let mut before = all_ends(bus)?;
    loop {
        if shutdown.wait(QUIET) {
            return Err(Error::Stopped);
        }
        let now = all_ends(bus)?;
        let moved = now != before;
        before = now;
        if !moved && is_answered(bus)? {
            let accounts = balances(client)?;
            // Nothing has come while the database was read: both are of the same moment.
            if all_ends(bus)? == before {
                return Ok((before, accounts));
            }
        }
        if moved {
            started = Instant::now();
        }
        output::progress("waiting for commands that are still on their way");
        if started.elapsed() > PATIENCE {
            return Err(Error::Bank(format!(
                "commands are on their way, and for {} s nothing came of them; does the command-handler run? (make status, make logs)",
                PATIENCE.as_secs()
            )));
        }
    }
}

fn all_ends(bus: &mut dyn KafkaClient) -> Result<Ends, Error> {
    TOPICS.iter().map(|topic| Ok((*topic, ends(bus, topic)?))).collect()
}

/// True if the handler has done all commands there are.
fn is_answered(bus: &mut dyn KafkaClient) -> Result<bool, Error> {
    Ok(is_done(bus, HANDLER, &CONFIRM_ACCOUNT_CREATION)?
        && is_done(bus, HANDLER, &CONFIRM_MONEY_TRANSFER)?)
}

fn balances(client: &mut Client) -> Result<Accounts, Error> {
    let rows = client
        .query("SELECT iban, balance, sequence FROM account", &[])
        .map_err(|source| Error::Database { step: "read the accounts", source })?;
    let balance = |row: &postgres::Row| Balance { cents: row.get(1), sequence: row.get(2) };
    Ok(rows.iter().map(|row| (row.get(0), balance(row))).collect())
}

fn sum(accounts: &Accounts) -> i128 {
    accounts.values().map(|balance| i128::from(balance.cents)).sum()
}

/// Records between two sets of positions.
fn count(before: &[Position], after: &[Position]) -> i64 {
    after.iter().zip(before).map(|(after, before)| after.next - before.next).sum()
}

/// The running demo.
struct Demo {
    books: Books,
    readers: Readers,
    /// When a command was last read or answered.
    waiting_since: Instant,
}

impl Demo {
    /// Runs the steps; `steps` grows as it goes. Ends early, without an error, when shutdown is requested.
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
                    second.end(&self.books);
                    output::progress(&second.line());
                    second = self.step(load);
                }
            }
            step.end(&self.books);
            steps.push(step);
        }
        Ok(())
    }

    fn step(&self, load: u32) -> DemoStep {
        DemoStep::new(load, self.books.asked)
    }

    /// Reads until all commands are answered and no more come, or until nothing has come of them for too long.
    fn finish(&mut self, bus: &mut dyn KafkaClient, shutdown: &Shutdown) -> Result<(), Error> {
        self.waiting_since = Instant::now();
        let (began, mut printed_at) = (Instant::now(), Instant::now());
        loop {
            self.read(Instant::now() + ASK, |_| {})?;
            let silence = self.waiting_since.elapsed();
            if silence > QUIET
                && self.books.unanswered() == 0
                && is_done(bus, GENERATOR, &HEARTBEAT)?
                && is_answered(bus)?
            {
                return Ok(());
            }
            let hurried = shutdown.requested() && began.elapsed() > HURRY;
            if hurried {
                output::progress("Stopped: the rest is given up");
                return Ok(());
            }
            if silence > PATIENCE {
                output::progress(&format!(
                    "no news for {} s: the rest is given up",
                    PATIENCE.as_secs()
                ));
                return Ok(());
            }
            if printed_at.elapsed() > QUIET {
                printed_at = Instant::now();
                let unanswered = self.books.unanswered();
                output::progress(&format!(
                    "the load has stopped; {unanswered} commands wait for their outcome"
                ));
            }
        }
    }

    /// Takes what is read until `end`.
    fn read(&mut self, end: Instant, mut take: impl FnMut(News)) -> Result<(), Error> {
        while let Some(Batch { at, events }) = self.readers.next(end)? {
            for event in events {
                let news = self.books.note(event, at);
                if news != News::None {
                    self.waiting_since = at;
                    take(news);
                }
            }
        }
        Ok(())
    }
}

/// What happened in a step of load, or in a second of it.
struct DemoStep {
    /// Beats per second.
    load: u32,
    started: Instant,
    took: Duration,
    /// Commands; until its end, those before it.
    asked: u64,
    failed: u64,
    latencies: Latencies,
    /// Commands without outcome at its end.
    waiting: u64,
}

impl DemoStep {
    fn new(load: u32, asked: u64) -> Self {
        let (started, took) = (Instant::now(), Duration::ZERO);
        Self { load, started, took, asked, failed: 0, latencies: Latencies::default(), waiting: 0 }
    }

    fn note(&mut self, news: News) {
        if let News::Answered(latency, yes) = news {
            self.latencies.record(latency);
            self.failed += u64::from(!yes);
        }
    }

    fn end(&mut self, books: &Books) {
        self.took = self.started.elapsed();
        self.asked = books.asked - self.asked;
        self.waiting = books.unanswered();
    }

    fn done_per_s(&self) -> f64 {
        self.latencies.count() as f64 / self.took.as_secs_f64().max(1e-9)
    }

    fn rejected_percent(&self) -> f64 {
        self.failed as f64 * 100.0 / (self.latencies.count() as f64).max(1.0)
    }

    fn line(&self) -> String {
        format!(
            "{:>6}/s  commands {:>6}  done {:>6}  rejected {:>5.1} %  p50 {:>6} ms  p99 {:>6} ms  waiting {}",
            self.load,
            self.asked,
            self.latencies.count(),
            self.rejected_percent(),
            short(self.latencies.percentile_ms(50.0)),
            short(self.latencies.percentile_ms(99.0)),
            self.waiting,
        )
    }
}

/// What the simulated users saw, for people.
fn users_text(steps: &UserSteps, url: &str) -> String {
    format!(
        "Through GraphQL {USERS} simulated users opened accounts and sent {} transfers: {} new balances arrived, p50 {} ms, \
         p99 {} ms; {} took more than 5 s\n\
         GraphiQL, while the bank runs (make up): {url}\n",
        steps.count(),
        steps.latencies.count(),
        short(steps.latencies.percentile_ms(50.0)),
        short(steps.latencies.percentile_ms(99.0)),
        steps.timed_out,
    )
}

/// A user's cycle is covered by the money on the account, so there is no reason to reject any of it.
fn users_fault(steps: &UserSteps) -> Option<String> {
    match &steps.refusal {
        Some(reason) => {
            Some(format!("{} transfers of simulated users were rejected: {reason}", steps.refused))
        }
        None if steps.latencies.count() == 0 => {
            Some("no new balance arrived at a simulated user".to_owned())
        }
        None => None,
    }
}

fn table(steps: &[DemoStep]) -> String {
    let titles = ["load/s", "commands/s", "done/s", "rejected %", "p50 ms", "p99 ms", "waiting"];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    rows.extend(steps.iter().map(|step| {
        vec![
            step.load.to_string(),
            short(step.asked as f64 / step.took.as_secs_f64().max(1e-9)),
            short(step.done_per_s()),
            short(step.rejected_percent()),
            short(step.latencies.percentile_ms(50.0)),
            short(step.latencies.percentile_ms(99.0)),
            step.waiting.to_string(),
        ]
    }));
    output::table(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Command, parse};

    #[test]
    fn a_step_tells_what_was_asked_done_and_refused() {
        let mut books = Books::default();
        books.asked = 7;
        let mut step = DemoStep::new(100, books.asked);
        for _ in 0..3 {
            step.note(News::Answered(Duration::from_millis(8), true));
        }
        step.note(News::Answered(Duration::from_millis(8), false));
        step.note(News::Asked);
        step.note(News::None);
        (books.asked, books.confirmed) = (13, 11);
        step.end(&books);
        step.took = Duration::from_secs(2);
        let table = table(&[step]);
        assert_eq!(table.lines().count(), 2);
        let cells: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(cells, ["100", "3.0", "2.0", "25.0", "8.0", "8.0", "2"]);
    }

    #[test]
    fn loads_are_checked() {
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
