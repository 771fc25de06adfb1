//! The loop: accounts and beats -> commands -> acknowledged -> offsets committed.

use crate::config::{Config, Names};
use crate::domain::{self, Account, Accounts, Command};
use crate::source::{Arrived, From, Source};
use avro::Encoder;
use avro::registry::Registry;
use bank::records::{
    AccountCreationConfirmed, Atype, ConfirmAccountCreation, ConfirmMoneyTransfer, Heartbeat,
};
use messaging::consumer::COMMIT_INTERVAL;
use messaging::producer::{Outgoing, Sender};
use messaging::{Assignment, ErrorKind, KafkaClient};
use prometheus::{IntCounterVec, IntGauge, register_int_counter_vec, register_int_gauge};
use service::BoxError;
use service::log::Chain;
use service::shutdown::Shutdown;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How long a beat or an account may go unseen while the other is waited for.
const WAIT: Duration = Duration::from_millis(20);
/// Beats that wait for an account at most; then no more are read until there is one. Among so many are fifty that open one.
const WAITING_MAX: usize = 10_000;
/// Between two attempts to find the positions at the start.
const OPEN_AGAIN: Duration = Duration::from_secs(1);

static COMMANDS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "generator_commands_total",
        "Commands acknowledged by Kafka.",
        &["kind"]
    )
    .expect("the name is used once")
});
static UNREADABLE: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "generator_unreadable_total",
        "Records sent to dead_letter.",
        &["topic"]
    )
    .expect("the name is used once")
});
static ACCOUNTS: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!("generator_accounts", "Accounts known.").expect("the name is used once")
});
static WAITING: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!("generator_waiting_beats", "Beats that wait for an account.")
        .expect("the name is used once")
});

/// Turns beats into commands until the stop is asked for.
pub struct Generator {
    config: Config,
    shutdown: Shutdown,
    bus: Box<dyn KafkaClient>,
    sender: Sender,
    open_account: Encoder<ConfirmAccountCreation>,
    transfer: Encoder<ConfirmMoneyTransfer>,
    beats: Source<Heartbeat>,
    confirmed: Source<AccountCreationConfirmed>,
    accounts: Accounts,
    /// By which generation of the group partitions are held.
    generation: Option<i32>,
    /// In order of arrival; those before the first one that waits are done.
    waiting: VecDeque<Beat>,
    /// All accounts are known that there were at the start.
    knows_accounts: bool,
    started: Instant,
    committed: Instant,
}

struct Beat {
    partition: i32,
    offset: i64,
    number: i64,
    id: Uuid,
}

/// What goes out next.
#[derive(Default)]
struct Out {
    records: Vec<Outgoing>,
    kinds: Vec<&'static str>,
}

impl Generator {
    /// Waits for the registry and Kafka; `None` if the stop was asked for meanwhile.
    ///
    /// # Errors
    /// Waiting does not help.
    pub fn open(config: Config, shutdown: &Shutdown) -> Result<Option<Self>, BoxError> {
        let registry = Registry::new(&config.registry_url);
        let (Some(open_account), Some(transfer)) =
            (Encoder::wait(&registry, shutdown)?, Encoder::wait(&registry, shutdown)?)
        else {
            return Ok(None);
        };
        let kafka = &config.producer.kafka;
        let mut bus = messaging::connect_until(kafka, shutdown);
        let names = config.names.clone();
        let (beats, confirmed) = loop {
            let bus = &mut *bus;
            // Accounts from the earliest: they are remembered nowhere else.
            let opened = Source::open(
                kafka,
                bus,
                names.group,
                names.account_creation_confirmed,
                From::Earliest,
                config.is_member,
                registry.clone(),
            )
            .and_then(|confirmed| {
                let beats = Source::open(
                    kafka,
                    bus,
                    names.group,
                    names.heartbeat,
                    From::Committed,
                    config.is_member,
                    registry.clone(),
                )?;
                Ok((beats, confirmed))
            });
            match opened {
                Err(err) if err.is_retryable() => {
                    log::warn!(reason = err.text.as_str(); "waiting for Kafka");
                }
                opened => break opened?,
            }
            if shutdown.wait(OPEN_AGAIN) {
                return Ok(None);
            }
        };
        Ok(Some(Self {
            sender: Sender::new(&config.producer, shutdown),
            config,
            shutdown: shutdown.clone(),
            bus,
            open_account,
            transfer,
            beats,
            confirmed,
            accounts: Accounts::default(),
            generation: None,
            waiting: VecDeque::new(),
            knows_accounts: false,
            started: Instant::now(),
            committed: Instant::now(),
        }))
    }

    /// Runs until the stop is asked for. Calls `ready` once all accounts are known that there were at the start.
    ///
    /// # Errors
    /// Kafka refuses for good.
    pub fn run(mut self, ready: impl Fn()) -> Result<(), BoxError> {
        let mut holds = false;
        while !self.shutdown.requested() {
            if !holds || self.committed.elapsed() >= COMMIT_INTERVAL {
                // In this order: what the group gives to others goes on where it is committed.
                self.commit()?;
                holds = self.hold()?;
            }
            if !holds {
                self.shutdown.wait(WAIT);
            } else if !self.round(&ready)? {
                log::info!(
                    "stopped before all that was read was answered: it will be after the next start"
                );
                self.leave();
                return Ok(());
            }
        }
        self.commit()?;
        self.leave();
        log::info!(waiting = self.waiting.len(); "stopped");
        Ok(())
    }

    fn leave(&mut self) {
        if self.config.is_member
            && let Err(err) = self.bus.leave(self.config.names.group)
        {
            log::warn!(err:%; "the group is not told that this member leaves");
        }
    }

    /// True if there is something to work on: what the group gives to this instance, or all if it is no member.
    fn hold(&mut self) -> messaging::Result<bool> {
        if !self.config.is_member {
            return Ok(true);
        }
        let Names { group, heartbeat, account_creation_confirmed: confirmed, .. } =
            self.config.names;
        match self.try_hold(group, heartbeat, confirmed) {
            Ok(()) => Ok(true),
            Err(err) if err.is_retryable() => {
                self.generation = None;
                Ok(false)
            }
            Err(err) => Err(err),
        }
    }

    fn try_hold(
        &mut self,
        group: &str,
        heartbeat: &'static str,
        confirmed: &'static str,
    ) -> messaging::Result<()> {
        let bus = &mut *self.bus;
        let held = bus.poll_assignment(group, &[heartbeat, confirmed], Duration::ZERO)?;
        let Assignment { generation, partitions } = held;
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
        let (beats, accounts) = (of(heartbeat), of(confirmed));
        log::info!(generation, beats:? = beats, accounts:? = accounts; "the group has shared out its partitions");
        // What waits is not committed, so it comes again to whoever has it now.
        self.waiting.clear();
        let kafka = &self.config.producer.kafka;
        self.beats.hold(kafka, bus, beats)?;
        self.confirmed.hold(kafka, bus, accounts)?;
        self.generation = Some(generation);
        Ok(())
    }

    /// Reads and answers what has arrived. False if the stop was asked for before all of it was acknowledged.
    fn round(&mut self, ready: &impl Fn()) -> Result<bool, messaging::Error> {
        let mut out = Out::default();
        let takes_beats = self.knows_accounts && self.waiting.len() < WAITING_MAX;
        let wait = if takes_beats { Duration::ZERO } else { WAIT };
        let Some(confirmed) = self.confirmed.poll(wait, &self.shutdown)? else { return Ok(false) };
        confirmed.into_iter().for_each(|arrived| self.take_account(arrived, &mut out));
        if !self.knows_accounts && self.confirmed.has_caught_up() {
            self.knows_accounts = true;
            let took_ms = self.started.elapsed().as_millis() as u64;
            log::info!(accounts = self.accounts.len(), took_ms; "accounts are known");
            ready();
        }
        if takes_beats {
            let wait = if out.records.is_empty() { WAIT } else { Duration::ZERO };
            let Some(beats) = self.beats.poll(wait, &self.shutdown)? else { return Ok(false) };
            beats.into_iter().for_each(|arrived| self.take_beat(arrived, &mut out));
        }
        self.answer_waiting(&mut out);
        self.send(&out)
    }

    fn take_account(&mut self, arrived: Arrived<AccountCreationConfirmed>, out: &mut Out) {
        let confirmed = match arrived.value {
            Ok(confirmed) if confirmed.a_type == Atype::Auto => confirmed,
            Ok(_) => return,
            Err(unreadable) => {
                // Read again at each start, but told once.
                if !arrived.seen_before {
                    let topic = self.config.names.account_creation_confirmed;
                    self.bury(topic, arrived.partition, arrived.offset, unreadable, out);
                }
                return;
            }
        };
        let Some(account) = Account::new(&confirmed.iban, &confirmed.token) else {
            log::warn!(offset = arrived.offset; "an account that is none of this bank");
            return;
        };
        if !arrived.seen_before {
            let id = domain::first_salary_id(&confirmed.id);
            // The offset counts accounts well enough for a run to be repeated.
            let number = arrived.offset.cast_unsigned() | 1 << 63;
            let mut rng = domain::draws(self.config.seed, number, &id);
            self.push(&domain::first_salary(id, &account, &mut rng), out);
        }
        self.accounts.remember(account);
        ACCOUNTS.set(self.accounts.len() as i64);
    }

    fn take_beat(&mut self, arrived: Arrived<Heartbeat>, out: &mut Out) {
        let Arrived { partition, offset, key, value, .. } = arrived;
        match value {
            Ok(Heartbeat { beat: number }) => {
                let id = domain::beat_id(partition, offset, &key, number);
                let beat = Beat { partition, offset, number, id };
                // Beats behind one that waits are not held up by it.
                if !self.answer(&beat, out) {
                    self.waiting.push_back(beat);
                }
            }
            Err(unreadable) => {
                self.bury(self.config.names.heartbeat, partition, offset, unreadable, out);
            }
        }
    }

    /// Tries again with the beats that wait, until one still has to.
    fn answer_waiting(&mut self, out: &mut Out) {
        while let Some(beat) = self.waiting.pop_front() {
            if !self.answer(&beat, out) {
                self.waiting.push_front(beat);
                break;
            }
        }
        WAITING.set(self.waiting.len() as i64);
    }

    /// True if the beat became a command; else it waits.
    fn answer(&self, beat: &Beat, out: &mut Out) -> bool {
        let mut rng = domain::draws(self.config.seed, beat.number.cast_unsigned(), &beat.id);
        let command = domain::command(beat.number, beat.id, &self.accounts, &mut rng);
        command.map(|command| self.push(&command, out)).is_some()
    }

    fn push(&self, command: &Command, out: &mut Out) {
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
        out.records.push(Outgoing { topic, key: id.to_string(), value });
        out.kinds.push(kind);
    }

    fn bury(
        &self,
        topic: &'static str,
        partition: i32,
        offset: i64,
        (value, reason): (Vec<u8>, String),
        out: &mut Out,
    ) {
        UNREADABLE.with_label_values(&[topic]).inc();
        let letter = Outgoing::dead_letter(topic, partition, offset, value, &reason);
        out.records.push(Outgoing { topic: self.config.names.dead_letter, ..letter });
        out.kinds.push("dead_letter");
    }

    /// False if the stop was asked for before all was acknowledged.
    fn send(&mut self, out: &Out) -> Result<bool, messaging::Error> {
        let results = self.sender.send_all(&out.records);
        for ((result, record), kind) in results.into_iter().zip(&out.records).zip(&out.kinds) {
            match result {
                Ok(()) => COMMANDS.with_label_values(&[kind]).inc(),
                Err(err) if err.kind == ErrorKind::Message => {
                    let (topic, key) = (record.topic, record.key.as_str());
                    log::error!(topic, key, reason = err.text.as_str(); "given up");
                }
                // A sender retries for as long as the service lives.
                Err(_) if self.shutdown.requested() => return Ok(false),
                Err(err) => return Err(err),
            }
        }
        Ok(true)
    }

    /// Commits what is done: all that was read, less the beats that wait. If it fails, the same beats come again after a crash
    /// and give the same commands.
    fn commit(&mut self) -> Result<(), messaging::Error> {
        self.committed = Instant::now();
        let mut held = BTreeMap::new();
        for beat in self.waiting.iter().rev() {
            held.insert(beat.partition, beat.offset);
        }
        let bus = &mut *self.bus;
        let outcome = self
            .beats
            .commit(bus, &held)
            .and_then(|()| self.confirmed.commit(bus, &BTreeMap::new()));
        match outcome {
            Err(err) if err.is_retryable() => {
                log::warn!(reason = Chain(&err).to_string().as_str(); "offsets not committed yet");
                Ok(())
            }
            // Somebody else has the partitions by now, and makes the same commands of the same beats.
            Err(err) if err.kind == ErrorKind::Fenced && self.config.is_member => {
                log::warn!(reason = err.text.as_str(); "offsets are another member's to commit");
                self.generation = None;
                Ok(())
            }
            outcome => outcome,
        }
    }
}
