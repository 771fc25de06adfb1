//! The loop: reads accounts and heartbeats, produces the commands, and commits the offsets.

use crate::config::{Config, Names};
use crate::consume::{ConsumedRecord, StartAt, Subscription, TopicReader};
use crate::domain::{self, Account, Accounts, Command};
use crate::metrics;
use avro::Encoder;
use avro::registry::Registry;
use bank::records::{
    AccountCreationConfirmed, Atype, ConfirmAccountCreation, ConfirmMoneyTransfer, Heartbeat,
};
use messaging::consumer::COMMIT_INTERVAL;
use messaging::dead_letters::DeadLetters;
use messaging::producer::{Outgoing, Sender};
use messaging::{Assignment, ErrorKind, KafkaClient};
use service::BoxError;
use service::log::Chain;
use service::shutdown::Shutdown;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Longest wait of one poll. It delays the records of the other topic by at most this.
const WAIT: Duration = Duration::from_millis(20);
/// Most heartbeats that wait for an account. At this limit no more heartbeats are read. 10,000
/// heartbeats contain fifty that open an account.
const WAITING_MAX: usize = 10_000;
/// Time between two attempts to look up the offsets at the start.
const OPEN_RETRY: Duration = Duration::from_secs(1);

/// Turns heartbeats into commands until shutdown.
pub struct Generator {
    config: Config,
    shutdown: Shutdown,
    client: Box<dyn KafkaClient>,
    sender: Sender,
    open_account: Encoder<ConfirmAccountCreation>,
    transfer: Encoder<ConfirmMoneyTransfer>,
    heartbeats: TopicReader<Heartbeat>,
    confirmed: TopicReader<AccountCreationConfirmed>,
    dead_heartbeats: DeadLetters,
    dead_accounts: DeadLetters,
    accounts: Accounts,
    /// Group generation of the current assignment.
    generation: Option<i32>,
    /// Heartbeats that wait for an account, in order of arrival.
    waiting: VecDeque<WaitingHeartbeat>,
    /// All accounts that existed at the start are read.
    knows_accounts: bool,
    started: Instant,
    committed: Instant,
}

struct WaitingHeartbeat {
    partition: i32,
    offset: i64,
    number: i64,
    id: Uuid,
}

/// Records to send, and the kind of each one for the metric.
#[derive(Default)]
struct OutgoingBatch {
    records: Vec<Outgoing>,
    kinds: Vec<&'static str>,
}

/// Starts to read both topics. Accounts are read from the earliest record until the list is full,
/// because the generator stores them nowhere.
fn open_topics(
    config: &Config,
    client: &mut dyn KafkaClient,
    registry: &Registry,
) -> messaging::Result<(TopicReader<Heartbeat>, TopicReader<AccountCreationConfirmed>)> {
    let kafka = &config.producer.kafka;
    let Names { group, heartbeat, account_creation_confirmed, .. } = config.names;
    let subscription =
        |topic, start_at| Subscription { group, topic, start_at, is_member: config.is_member };
    let accounts = subscription(account_creation_confirmed, StartAt::Earliest);
    let confirmed = TopicReader::open(kafka, client, registry.clone(), accounts)?;
    let heartbeats = subscription(heartbeat, StartAt::Committed);
    let heartbeats = TopicReader::open(kafka, client, registry.clone(), heartbeats)?;
    Ok((heartbeats, confirmed))
}

impl Generator {
    /// Waits for the registry and Kafka. Returns `None` if shutdown is requested first.
    ///
    /// # Errors
    /// The first error that is not retryable.
    pub fn open(config: Config, shutdown: &Shutdown) -> Result<Option<Self>, BoxError> {
        let registry = Registry::new(&config.registry_url);
        let (Some(open_account), Some(transfer)) =
            (Encoder::wait(&registry, shutdown)?, Encoder::wait(&registry, shutdown)?)
        else {
            return Ok(None);
        };
        let mut client = messaging::connect_until(&config.producer.kafka, shutdown);
        let (heartbeats, confirmed) = loop {
            match open_topics(&config, &mut *client, &registry) {
                Err(err) if err.is_retryable() => {
                    log::warn!(error:% = err; "waiting for Kafka");
                }
                opened => break opened?,
            }
            if shutdown.wait(OPEN_RETRY) {
                return Ok(None);
            }
        };
        Ok(Some(Self {
            sender: Sender::new(&config.producer, shutdown),
            accounts: Accounts::new(config.company_token, config.accounts_max),
            dead_heartbeats: DeadLetters::new(config.names.heartbeat),
            dead_accounts: DeadLetters::new(config.names.account_creation_confirmed),
            config,
            shutdown: shutdown.clone(),
            client,
            open_account,
            transfer,
            heartbeats,
            confirmed,
            generation: None,
            waiting: VecDeque::new(),
            knows_accounts: false,
            started: Instant::now(),
            committed: Instant::now(),
        }))
    }

    /// Runs until shutdown. Calls `ready` once all accounts that existed at the start are read.
    ///
    /// # Errors
    /// The first error that is not retryable.
    pub fn run(mut self, ready: impl Fn()) -> Result<(), BoxError> {
        let mut has_assignment = false;
        while !self.shutdown.requested() {
            if !has_assignment || self.committed.elapsed() >= COMMIT_INTERVAL {
                // Commit before a rebalance: the next member continues at the committed offset.
                self.commit()?;
                self.follow_topics()?;
                has_assignment = self.update_assignment()?;
            }
            if !has_assignment {
                self.shutdown.wait(WAIT);
            } else if !self.generate_once(&ready)? {
                log::info!("stopped with unacknowledged commands: the next start sends them again");
                self.leave();
                return Ok(());
            }
        }
        self.commit()?;
        self.leave();
        log::info!(waiting = self.waiting.len(); "stopped");
        Ok(())
    }

    /// Starts over with a topic that was deleted and created again, or that has new partitions.
    fn follow_topics(&mut self) -> messaging::Result<()> {
        let (kafka, client) = (&self.config.producer.kafka, &mut *self.client);
        let followed = self
            .heartbeats
            .follow_topic(kafka, client)
            .and_then(|()| self.confirmed.follow_topic(kafka, client));
        match followed {
            Err(err) if err.is_retryable() => {
                log::warn!(error:% = Chain(&err); "waiting for Kafka");
                Ok(())
            }
            followed => followed,
        }
    }

    fn leave(&mut self) {
        if self.config.is_member
            && let Err(err) = self.client.leave(self.config.names.group)
        {
            log::warn!(error:% = err; "could not leave the consumer group");
        }
    }

    /// True if this instance has an assignment: that of its group, or all partitions without a
    /// group.
    fn update_assignment(&mut self) -> messaging::Result<bool> {
        if !self.config.is_member {
            return Ok(true);
        }
        let Names { group, heartbeat, account_creation_confirmed: confirmed, .. } =
            self.config.names;
        match self.try_update_assignment(group, heartbeat, confirmed) {
            Ok(()) => Ok(true),
            Err(err) if err.is_retryable() => {
                self.generation = None;
                Ok(false)
            }
            Err(err) => Err(err),
        }
    }

    fn try_update_assignment(
        &mut self,
        group: &str,
        heartbeat: &'static str,
        confirmed: &'static str,
    ) -> messaging::Result<()> {
        let client = &mut *self.client;
        let assignment = client.poll_assignment(group, &[heartbeat, confirmed], Duration::ZERO)?;
        let Assignment { generation, partitions } = assignment;
        if self.generation == Some(generation) {
            return Ok(());
        }
        let of = |topic| -> BTreeSet<i32> {
            partitions
                .iter()
                .filter(|(it, _)| it == topic)
                .map(|(_, partition)| *partition)
                .collect()
        };
        let (heartbeats, accounts) = (of(heartbeat), of(confirmed));
        log::info!(
            generation, heartbeats:? = heartbeats, accounts:? = accounts;
            "partitions assigned"
        );
        // The offsets of waiting heartbeats are not committed. The member that is assigned their
        // partition reads them again.
        self.waiting.clear();
        let kafka = &self.config.producer.kafka;
        self.heartbeats.assign(kafka, client, heartbeats)?;
        self.confirmed.assign(kafka, client, accounts)?;
        self.generation = Some(generation);
        Ok(())
    }

    /// Reads new records and sends their commands. Returns false if shutdown was requested before
    /// all commands were acknowledged.
    fn generate_once(&mut self, ready: &impl Fn()) -> Result<bool, messaging::Error> {
        let mut batch = OutgoingBatch::default();
        let reads_heartbeats = self.knows_accounts && self.waiting.len() < WAITING_MAX;
        let wait = if reads_heartbeats { Duration::ZERO } else { WAIT };
        let Some(confirmed) = self.confirmed.poll(wait, &self.shutdown)? else { return Ok(false) };
        confirmed.into_iter().for_each(|record| self.handle_account(record, &mut batch));
        if !self.knows_accounts && self.accounts.is_full() {
            self.confirmed.skip_handled(&self.config.producer.kafka);
        }
        if !self.knows_accounts && self.confirmed.has_caught_up() {
            self.knows_accounts = true;
            let took_ms = self.started.elapsed().as_millis() as u64;
            log::info!(accounts = self.accounts.len(), took_ms; "existing accounts read");
            ready();
        }
        if reads_heartbeats {
            let wait = if batch.records.is_empty() { WAIT } else { Duration::ZERO };
            let Some(heartbeats) = self.heartbeats.poll(wait, &self.shutdown)? else {
                return Ok(false);
            };
            heartbeats.into_iter().for_each(|record| self.handle_heartbeat(record, &mut batch));
        }
        self.handle_waiting(&mut batch);
        self.send(&batch)
    }

    fn handle_account(
        &mut self,
        record: ConsumedRecord<AccountCreationConfirmed>,
        batch: &mut OutgoingBatch,
    ) {
        let confirmed = match record.value {
            Ok(confirmed) => confirmed,
            Err(undecodable) => {
                // The topic is read again at each start, but the dead letter is sent once.
                if !record.handled_before {
                    let ConsumedRecord { partition, offset, .. } = record;
                    let names = &self.config.names;
                    push_dead_letter(
                        &mut self.dead_accounts,
                        names,
                        (names.account_creation_confirmed, partition, offset),
                        undecodable,
                        batch,
                    );
                }
                return;
            }
        };
        self.dead_accounts.decoded();
        if confirmed.a_type != Atype::Auto {
            return;
        }
        let Some(account) = Account::new(&confirmed.iban, &confirmed.token) else {
            log::warn!(
                offset = record.offset;
                "account skipped: iban or token is not well-formed for this bank"
            );
            return;
        };
        if !record.handled_before {
            let id = domain::first_salary_id(&confirmed.id);
            // With a seed, the offset serves as the number of the account.
            let number = record.offset.cast_unsigned() | 1 << 63;
            let mut rng = domain::draws(self.config.seed, number, &id);
            self.push(&domain::first_salary(id, &account, &self.accounts, &mut rng), batch);
        }
        self.accounts.remember(account);
        metrics::ACCOUNTS.set(self.accounts.len() as i64);
    }

    fn handle_heartbeat(&mut self, record: ConsumedRecord<Heartbeat>, batch: &mut OutgoingBatch) {
        let ConsumedRecord { partition, offset, key, value, .. } = record;
        match value {
            Ok(Heartbeat { beat: number }) => {
                self.dead_heartbeats.decoded();
                let id = domain::beat_id(partition, offset, &key, number);
                let heartbeat = WaitingHeartbeat { partition, offset, number, id };
                // A waiting heartbeat does not delay those after it.
                if !self.generate(&heartbeat, batch) {
                    self.waiting.push_back(heartbeat);
                }
            }
            Err(undecodable) => {
                let names = &self.config.names;
                push_dead_letter(
                    &mut self.dead_heartbeats,
                    names,
                    (names.heartbeat, partition, offset),
                    undecodable,
                    batch,
                );
            }
        }
    }

    /// Retries the waiting heartbeats in order, up to the first one that still waits.
    fn handle_waiting(&mut self, batch: &mut OutgoingBatch) {
        while let Some(heartbeat) = self.waiting.pop_front() {
            if !self.generate(&heartbeat, batch) {
                self.waiting.push_front(heartbeat);
                break;
            }
        }
        metrics::WAITING.set(self.waiting.len() as i64);
    }

    /// Returns true if the heartbeat became a command, false if it waits for an account.
    fn generate(&self, heartbeat: &WaitingHeartbeat, batch: &mut OutgoingBatch) -> bool {
        let mut rng =
            domain::draws(self.config.seed, heartbeat.number.cast_unsigned(), &heartbeat.id);
        let command = domain::command(heartbeat.number, heartbeat.id, &self.accounts, &mut rng);
        command.map(|command| self.push(&command, batch)).is_some()
    }

    fn push(&self, command: &Command, batch: &mut OutgoingBatch) {
        let names = &self.config.names;
        let (kind, topic, id, value) = match command {
            Command::OpenAccount(open) => {
                let value = self.open_account.encode(open);
                ("account", names.confirm_account_creation, open.id, value)
            }
            Command::Transfer(kind, transfer) => {
                let value = self.transfer.encode(transfer);
                (kind.name(), names.confirm_money_transfer, transfer.id, value)
            }
        };
        batch.records.push(Outgoing { topic, key: id.to_string(), value });
        batch.kinds.push(kind);
    }

    /// Returns false if shutdown was requested before all records were acknowledged.
    fn send(&mut self, batch: &OutgoingBatch) -> Result<bool, messaging::Error> {
        let results = self.sender.send_all(&batch.records);
        for ((result, record), kind) in results.into_iter().zip(&batch.records).zip(&batch.kinds) {
            match result {
                Ok(()) => metrics::COMMANDS.with_label_values(&[kind]).inc(),
                Err(err) if err.kind == ErrorKind::Message => {
                    let (topic, key) = (record.topic, record.key.as_str());
                    log::error!(topic, key, error:% = err; "command dropped: broker rejected it");
                }
                // The sender retries until shutdown, so the records are sent after the next start.
                Err(_) if self.shutdown.requested() => return Ok(false),
                Err(err) => return Err(err),
            }
        }
        Ok(true)
    }

    /// Commits the offsets of the records read, up to the first waiting heartbeat. If the commit
    /// fails, heartbeats are read again after a restart and become the same commands.
    fn commit(&mut self) -> Result<(), messaging::Error> {
        self.committed = Instant::now();
        let mut waiting = BTreeMap::new();
        for heartbeat in self.waiting.iter().rev() {
            waiting.insert(heartbeat.partition, heartbeat.offset);
        }
        let client = &mut *self.client;
        let outcome = self
            .heartbeats
            .commit(client, &waiting)
            .and_then(|()| self.confirmed.commit(client, &BTreeMap::new()));
        match outcome {
            Err(err) if err.is_retryable() => {
                log::warn!(error:% = Chain(&err); "offsets not committed, retrying");
                Ok(())
            }
            // Another member has the partitions. If it is a generator, it derives the same commands
            // from the same heartbeats. Otherwise this generator continues without
            // commits.
            Err(err) if err.kind == ErrorKind::Fenced => {
                log::warn!(
                    group = self.config.names.group, error:% = err;
                    "offsets not committed: the partitions belong to another member of the group"
                );
                self.generation = None;
                Ok(())
            }
            outcome => outcome,
        }
    }
}

/// Appends the dead letter of an undecodable record to `batch`.
fn push_dead_letter(
    dead_letters: &mut DeadLetters,
    names: &Names,
    (topic, partition, offset): (&'static str, i32, i64),
    (value, reason): (Vec<u8>, String),
    batch: &mut OutgoingBatch,
) {
    metrics::UNDECODABLE.with_label_values(&[topic]).inc();
    let dead_letter = dead_letters.add(partition, offset, value, &reason);
    batch.records.push(Outgoing { topic: names.dead_letter, ..dead_letter });
    batch.kinds.push("dead_letter");
}
