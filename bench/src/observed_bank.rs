//! A bank under load whose records are all read and checked.

use crate::error::Error;
use crate::output;
use crate::topic_reader::{Cluster, WITHIN, is_done};
use bank::topology::{CONFIRM_ACCOUNT_CREATION, CONFIRM_MONEY_TRANSFER, HEARTBEAT, TOPICS};
use messaging::KafkaClient;
use observer::{Accounts, History, News, Observer, Positions, Reader, log_ends, stored_accounts};
use postgres::Client;
use service::env::Variable;
use service::shutdown::Shutdown;
use std::time::{Duration, Instant};

/// `BALANCE_DATABASE_URL`: the command-handler's database.
pub const BALANCE_DATABASE_URL: Variable = Variable::required(
    "BALANCE_DATABASE_URL",
    "the database of the command-handler, as in postgres://user:password@host:5432/balancedb",
)
.secret();

/// The bank counts as idle after this time without a new record.
const QUIET: Duration = Duration::from_secs(1);
/// Time without any outcome after which the remaining ones are not waited for.
const OUTCOME_TIMEOUT: Duration = Duration::from_secs(30);
/// The same after a shutdown request.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);
/// Time between two requests for committed offsets.
const OFFSETS_INTERVAL: Duration = Duration::from_millis(250);
/// Consumer group that turns heartbeat records into commands.
const GENERATOR: &str = "command-generator";
/// Consumer group that answers commands.
const HANDLER: &str = "command-handler";

/// Waits until all commands are answered. Returns the end of each topic at that time, and the
/// accounts.
pub fn wait_until_idle(
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

/// The accounts in balancedb.
pub fn balances(client: &mut Client) -> Result<Accounts, Error> {
    stored_accounts(client).map_err(|source| Error::Database { step: "read the accounts", source })
}

/// The sum of all balances, cents.
pub fn sum(accounts: &Accounts) -> i128 {
    accounts.values().map(|it| i128::from(it.balance)).sum()
}

/// Reads and checks all records that are written after a start.
pub struct ObservedBank {
    pub observer: Observer,
    reader: Reader,
    /// When a command or an outcome was last read.
    waiting_since: Instant,
}

impl ObservedBank {
    /// Starts at the positions `ends`, at which the bank has the accounts `before`.
    pub fn start(cluster: &Cluster, ends: &Positions, before: Accounts) -> Self {
        Self {
            observer: Observer::new(before, History::Settled),
            reader: Reader::start(&cluster.kafka, &cluster.registry, ends),
            waiting_since: Instant::now(),
        }
    }

    /// Reads until all commands are answered and no more are written, or until a timeout.
    pub fn finish(
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
    pub fn read(&mut self, end: Instant, mut take: impl FnMut(News)) -> Result<(), Error> {
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
