//! The bank of our command-handler without its Kafka: records in, records out. Domain and store are the handler's own files, so a
//! peer on this differs in its Kafka client and in nothing else.

#[allow(dead_code)] // Partitions are owned by the consumer group here.
#[path = "../../../services/command-handler/src/domain.rs"]
mod domain;
mod error;
#[path = "../../../services/command-handler/src/failpoint.rs"]
mod failpoint;
#[path = "../../../services/command-handler/src/store.rs"]
mod store;

pub use crate::error::Error;

use crate::domain::Change;
use crate::store::{Creation, Moved, Session, Transfer};
use common::avro::{self, Decoder, Encoder, Record};
use common::env::{DATABASE_URL, Env, SCHEMA_REGISTRY_URL, Variable};
use common::records::{
    AccountCreationConfirmed, AccountCreationFailed, BalanceChanged, ConfirmAccountCreation,
    ConfirmMoneyTransfer, MoneyTransferConfirmed, MoneyTransferFailed,
};
use common::registry::Registry;
use common::shutdown::Shutdown;
use common::topology::{CONFIRM_ACCOUNT_CREATION, CONFIRM_MONEY_TRANSFER, DEAD_LETTER};
use uuid::Uuid;

/// `KAFKA_BROKERS`.
pub const KAFKA_BROKERS: Variable =
    Variable::required("KAFKA_BROKERS", "bootstrap brokers, as in host:9092,host:9093");
/// What every peer on this reads.
pub const VARIABLES: &[Variable] = &[KAFKA_BROKERS, SCHEMA_REGISTRY_URL, DATABASE_URL];

/// Consumer group of the handler's offsets.
pub const GROUP: &str = "command-handler";
/// What it reads.
pub const TOPICS: [&str; 2] = [CONFIRM_ACCOUNT_CREATION.name, CONFIRM_MONEY_TRANSFER.name];
/// Most commands in one transaction, as ours by default.
pub const BATCH_MAX: usize = 1000;

/// Largest command, bytes.
const COMMAND_BYTES_MAX: usize = 64 << 10;

/// A record as it came.
#[derive(Debug, Clone, Copy)]
pub struct Incoming<'a> {
    /// Topic name.
    pub topic: &'a str,
    /// Partition, from 0.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Key bytes.
    pub key: Option<&'a [u8]>,
    /// Value bytes.
    pub value: Option<&'a [u8]>,
}

/// A record on its way out. The key chooses the partition, by murmur2.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Topic name.
    pub topic: &'static str,
    /// Key, UTF-8.
    pub key: String,
    /// Value as it goes on the wire.
    pub value: Vec<u8>,
}

/// Decides commands.
pub struct Bank {
    session: Session,
    creations: Decoder<ConfirmAccountCreation>,
    transfers: Decoder<ConfirmMoneyTransfer>,
    teller: Teller,
}

impl Bank {
    /// Migrates the database, connects, and learns the schemas; `None` if the stop was asked for meanwhile.
    ///
    /// # Errors
    /// One of them can't be had.
    pub fn open(env: &Env<'_>, shutdown: &Shutdown) -> Result<Option<Self>, Error> {
        let database = env.parse(&DATABASE_URL, "postgres://user:password@host:port/database")?;
        let registry = Registry::new(&env.text(&SCHEMA_REGISTRY_URL)?);
        store::migrate(&database, shutdown)?;
        let Some(teller) = Teller::open(&registry, shutdown)? else { return Ok(None) };
        Ok(Some(Self {
            session: Session::open(&database, CONFIRM_MONEY_TRANSFER, shutdown)?,
            creations: Decoder::new(registry.clone()),
            transfers: Decoder::new(registry),
            teller,
        }))
    }

    /// Decides a batch and stores the outcomes; the records that tell them.
    ///
    /// # Errors
    /// Nothing more is to be told: the batch must come again.
    pub fn decide<'a>(
        &mut self,
        batch: impl Iterator<Item = Incoming<'a>>,
    ) -> Result<Vec<Outgoing>, Error> {
        let (mut told, mut creations, mut transfers) = (Vec::new(), Vec::new(), Vec::new());
        for record in batch {
            let letter = if record.topic == CONFIRM_ACCOUNT_CREATION.name {
                read(&mut self.creations, &record)?.map(|command| creations.push(command))
            } else {
                read(&mut self.transfers, &record)?
                    .and_then(storable)
                    .map(|command| transfers.push(command))
            };
            if let Err(reason) = letter {
                told.push(dead_letter(&record, &reason));
            }
        }
        if !creations.is_empty() {
            let outcomes = self.session.open_accounts(&creations)?;
            outcomes.into_iter().for_each(|outcome| self.teller.creation(outcome, &mut told));
        }
        if !transfers.is_empty() {
            let outcomes = self.session.transfer(transfers)?;
            outcomes.into_iter().for_each(|outcome| self.teller.transfer(outcome, &mut told));
        }
        Ok(told)
    }
}

/// A command, or why it is none.
fn read<R: Record>(
    decoder: &mut Decoder<R>,
    record: &Incoming<'_>,
) -> Result<Result<R, String>, Error> {
    if record.key.is_none() {
        return Ok(Err("no key".to_owned()));
    }
    let Some(value) = record.value else { return Ok(Err("no value".to_owned())) };
    if value.len() > COMMAND_BYTES_MAX {
        let bytes = value.len();
        return Ok(Err(format!("value of {bytes} bytes, more than {COMMAND_BYTES_MAX}")));
    }
    match decoder.decode(value) {
        Ok(command) => Ok(Ok(command)),
        Err(avro::Error::Poison(reason)) => Ok(Err(reason)),
        Err(err) => Err(err.into()),
    }
}

/// The command, unless PostgreSQL could not store it.
fn storable(command: ConfirmMoneyTransfer) -> Result<ConfirmMoneyTransfer, String> {
    let texts = [&command.from, &command.to, &command.description];
    if texts.iter().any(|text| text.contains('\0')) {
        return Err("a text has a NUL character".to_owned());
    }
    Ok(command)
}

fn dead_letter(record: &Incoming<'_>, reason: &str) -> Outgoing {
    let Incoming { topic, partition, offset, value, .. } = record;
    log::warn!(topic, partition, offset, reason; "record goes to dead_letter");
    let key = format!("{topic}/{partition}/{offset}: {reason}");
    Outgoing { topic: DEAD_LETTER.name, key, value: value.unwrap_or_default().to_vec() }
}

/// Makes records of outcomes.
struct Teller {
    opened: Encoder<AccountCreationConfirmed>,
    not_opened: Encoder<AccountCreationFailed>,
    moved: Encoder<MoneyTransferConfirmed>,
    refused: Encoder<MoneyTransferFailed>,
    changed: Encoder<BalanceChanged>,
}

impl Teller {
    fn open(registry: &Registry, shutdown: &Shutdown) -> Result<Option<Self>, Error> {
        let Some(opened) = Encoder::wait(registry, shutdown)? else { return Ok(None) };
        let Some(not_opened) = Encoder::wait(registry, shutdown)? else { return Ok(None) };
        let Some(moved) = Encoder::wait(registry, shutdown)? else { return Ok(None) };
        let Some(refused) = Encoder::wait(registry, shutdown)? else { return Ok(None) };
        let Some(changed) = Encoder::wait(registry, shutdown)? else { return Ok(None) };
        Ok(Some(Self { opened, not_opened, moved, refused, changed }))
    }

    fn creation(&self, outcome: Creation, told: &mut Vec<Outgoing>) {
        let Creation { id, a_type, result } = outcome;
        told.push(match result {
            Ok(account) => {
                let (iban, token) = (account.iban, account.token);
                let record = AccountCreationConfirmed { id, iban, token, a_type };
                outgoing(id.to_string(), &self.opened, &record)
            }
            Err(reason) => {
                let record = AccountCreationFailed { id, reason: reason.into_owned() };
                outgoing(id.to_string(), &self.not_opened, &record)
            }
        });
    }

    fn transfer(&self, outcome: Transfer, told: &mut Vec<Outgoing>) {
        let Transfer { id, result } = outcome;
        match result {
            Ok(moved) => {
                let record = MoneyTransferConfirmed { id };
                told.push(outgoing(id.to_string(), &self.moved, &record));
                for change in changes(id, moved).into_iter().flatten() {
                    told.push(outgoing(change.iban.clone(), &self.changed, &change));
                }
            }
            Err(reason) => {
                let record = MoneyTransferFailed { id, reason: reason.into_owned() };
                told.push(outgoing(id.to_string(), &self.refused, &record));
            }
        }
    }
}

fn changes(id: Uuid, moved: Moved) -> [Option<BalanceChanged>; 2] {
    let Moved { amount, from, to, description, changes } = moved;
    let changed = |change: Change, iban: &str, from_to: &str, changed_by| BalanceChanged {
        iban: iban.to_owned(),
        new_balance: change.balance,
        changed_by,
        from_to: from_to.to_owned(),
        description: description.clone(),
        transfer_id: Some(id),
        sequence: change.sequence,
    };
    let minus = changes.from.zip(amount.checked_neg());
    [
        minus.map(|(change, minus)| changed(change, &from, &to, minus)),
        changes.to.map(|change| changed(change, &to, &from, amount)),
    ]
}

fn outgoing<R: Record>(key: String, encoder: &Encoder<R>, record: &R) -> Outgoing {
    Outgoing { topic: R::TOPIC.name, key, value: encoder.encode(record) }
}
