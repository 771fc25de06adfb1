//! Opens the accounts of a run and builds the transfers between them.

use crate::error::Error;
use crate::ids::Ids;
use crate::output;
use crate::topic_reader::{Cluster, TopicReader};
use avro::{Encoder, Record};
use bank::iban::CASH;
use bank::money::Cents;
use bank::records::{
    AccountCreationConfirmed, AccountCreationFailed, Atype, ConfirmAccountCreation,
    ConfirmMoneyTransfer,
};
use messaging::producer::{Outgoing, Sender};
use observer::rule_cases::Account;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use service::shutdown::Shutdown;
use std::collections::HashSet;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// First deposit of each account: a random walk of millions of transfers does not use it up.
const DEPOSIT: Cents = Cents::new(10_000_000);
/// Highest amount of a transfer, cents.
const AMOUNT_MAX: i64 = 10_000;
/// Time without an answer after which the bank counts as stopped.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Accounts requested at the same time.
const REQUESTED_MAX: usize = 1000;

/// The accounts of this run.
pub struct Accounts {
    accounts: Vec<Account>,
    encoder: Encoder<ConfirmMoneyTransfer>,
    ids: Ids,
    /// Chooses payers and payees. The seed is fixed, so every run has the same transfers.
    rng: SmallRng,
}

impl Accounts {
    /// Opens `count` accounts, at least two. Their type is MANUAL, so the command-generator does
    /// not use them.
    pub fn open(
        cluster: &Cluster,
        sender: &mut Sender,
        ids: Ids,
        count: usize,
        shutdown: &Shutdown,
    ) -> Result<Self, Error> {
        let mut confirmed: TopicReader<AccountCreationConfirmed> = TopicReader::from_end(cluster)?;
        let mut failed: TopicReader<AccountCreationFailed> = TopicReader::from_end(cluster)?;
        let encoder = cluster.encoder::<ConfirmAccountCreation>()?;
        // Not the ids of the transfers, since both count from 0.
        let own = Ids::new(&mut rand::rng());
        let mut accounts: Vec<Account> = Vec::with_capacity(count);
        let (mut asked, mut answered_at) = (0, Instant::now());
        let mut waiting = HashSet::new();
        while accounts.len() < count {
            if waiting.is_empty() {
                let wanted = (count - accounts.len()).min(REQUESTED_MAX) as u64;
                waiting.extend(asked..asked + wanted);
                let commands: Vec<Outgoing> = (asked..asked + wanted)
                    .map(|number| ConfirmAccountCreation {
                        id: own.id(number),
                        a_type: Atype::Manual,
                    })
                    .map(|command| outgoing(command.id, &encoder, &command))
                    .collect();
                asked += wanted;
                sent(sender.send_all(&commands))?;
            }
            let before = waiting.len();
            confirmed.poll(Duration::from_millis(100), |answer| {
                if own.number(&answer.id).is_some_and(|number| waiting.remove(&number)) {
                    accounts.push(Account { iban: answer.iban, token: answer.token });
                }
            })?;
            // The account number was taken, so another account is requested later.
            failed.poll(Duration::ZERO, |answer| {
                if let Some(number) = own.number(&answer.id) {
                    waiting.remove(&number);
                }
            })?;
            if waiting.len() < before {
                answered_at = Instant::now();
            }
            wait_for(&answered_at, "opening accounts", shutdown)?;
        }
        output::progress(&format!("{count} accounts opened"));
        let encoder = cluster.encoder()?;
        Ok(Self { accounts, encoder, ids, rng: SmallRng::seed_from_u64(1) })
    }

    pub fn count(&self) -> u64 {
        self.accounts.len() as u64
    }

    /// Command `number`: a cash deposit to account `index`.
    pub fn deposit(&self, number: u64, index: usize) -> Outgoing {
        let to = self.accounts[index].iban.clone();
        self.command(number, CASH.to_owned(), CASH.to_owned(), to, DEPOSIT, "first deposit")
    }

    /// Command `number`: a transfer between two random accounts.
    pub fn transfer(&mut self, number: u64) -> Outgoing {
        let count = self.accounts.len();
        let from = self.rng.random_range(0..count);
        // Any other account.
        let to = (from + self.rng.random_range(1..count)) % count;
        let amount = Cents::new(self.rng.random_range(1..=AMOUNT_MAX));
        let (from, to) = (&self.accounts[from], &self.accounts[to]);
        let (token, from, to) = (from.token.clone(), from.iban.clone(), to.iban.clone());
        self.command(number, token, from, to, amount, "bench probe")
    }

    fn command(
        &self,
        number: u64,
        token: String,
        from: String,
        to: String,
        amount: Cents,
        description: &str,
    ) -> Outgoing {
        let id = self.ids.id(number);
        let description = description.to_owned();
        let command = ConfirmMoneyTransfer { id, token, amount, from, to, description };
        outgoing(id, &self.encoder, &command)
    }
}

/// Returns the first error among the results of a send.
pub fn sent(results: Vec<Result<(), messaging::Error>>) -> Result<(), Error> {
    let failed = |source| Error::Kafka { step: "send commands".to_owned(), source };
    results.into_iter().collect::<Result<(), _>>().map_err(failed)
}

/// Fails if shutdown was requested, or if the bank's last answer at `answered_at` is too long ago.
pub fn wait_for(answered_at: &Instant, doing: &str, shutdown: &Shutdown) -> Result<(), Error> {
    if shutdown.requested() {
        return Err(Error::Stopped);
    }
    if answered_at.elapsed() > ANSWER_TIMEOUT {
        return Err(Error::Bank(format!(
            "{doing}: no answer for {} s; is the command-handler running? (make status, make logs)",
            ANSWER_TIMEOUT.as_secs()
        )));
    }
    Ok(())
}

/// A command as a record for the producer.
pub fn outgoing<R: Record>(id: Uuid, encoder: &Encoder<R>, record: &R) -> Outgoing {
    Outgoing { topic: R::TOPIC.name, key: id.to_string(), value: encoder.encode(record) }
}
