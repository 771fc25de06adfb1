//! The bank of our command-handler without its Kafka: records in, records out. Desks, domain and store are the handler's own files,
//! so a peer on this differs in its Kafka client and in nothing else.

#[allow(dead_code)] // Counting outcomes is the handler's.
#[path = "../../../services/command-handler/src/desk.rs"]
mod desk;
#[allow(dead_code)] // Partitions are owned by the consumer group here.
#[path = "../../../services/command-handler/src/domain.rs"]
mod domain;
mod error;
#[allow(dead_code)] // Those of our publisher.
#[path = "../../../services/command-handler/src/failpoint.rs"]
mod failpoint;
#[path = "../../../services/command-handler/src/store.rs"]
mod store;

pub use crate::error::Error;

use crate::desk::{AccountDesk, Desk, TransferDesk};
use crate::store::Session;
use avro::{Decoder};
use service::env::{DATABASE_URL, Env, SCHEMA_REGISTRY_URL, Variable};
use bank::records::{ConfirmAccountCreation, ConfirmMoneyTransfer};
use avro::registry::Registry;
use service::shutdown::Shutdown;
use bank::topology::{CONFIRM_ACCOUNT_CREATION, CONFIRM_MONEY_TRANSFER, DEAD_LETTER};

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
    account_desk: AccountDesk,
    transfer_desk: TransferDesk,
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
        let Some(account_desk) = AccountDesk::open(&registry, shutdown)? else { return Ok(None) };
        let Some(transfer_desk) = TransferDesk::open(&registry, shutdown)? else { return Ok(None) };
        Ok(Some(Self {
            session: Session::open(&database, CONFIRM_MONEY_TRANSFER, shutdown)?,
            creations: Decoder::new(registry.clone()),
            transfers: Decoder::new(registry),
            account_desk,
            transfer_desk,
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
                let command = read::<AccountDesk>(&mut self.creations, &record)?;
                command.map(|command| creations.push(command))
            } else {
                let command = read::<TransferDesk>(&mut self.transfers, &record)?;
                command.map(|command| transfers.push(command))
            };
            if let Err(reason) = letter {
                told.push(dead_letter(&record, &reason));
            }
        }
        decide(&self.account_desk, &mut self.session, creations, &mut told)?;
        decide(&self.transfer_desk, &mut self.session, transfers, &mut told)?;
        Ok(told)
    }
}

/// Decides `commands`, if there are any, and tells the outcomes.
fn decide<D: Desk>(
    desk: &D,
    session: &mut Session,
    commands: Vec<D::Command>,
    told: &mut Vec<Outgoing>,
) -> Result<(), Error> {
    if !commands.is_empty() {
        D::decide(session, commands)?.into_iter().for_each(|outcome| desk.tell(outcome, told));
    }
    Ok(())
}

/// A command, or why it is none.
fn read<D: Desk>(
    decoder: &mut Decoder<D::Command>,
    record: &Incoming<'_>,
) -> Result<Result<D::Command, String>, Error> {
    if record.key.is_none() {
        return Ok(Err("no key".to_owned()));
    }
    let Some(value) = record.value else { return Ok(Err("no value".to_owned())) };
    if value.len() > COMMAND_BYTES_MAX {
        let bytes = value.len();
        return Ok(Err(format!("value of {bytes} bytes, more than {COMMAND_BYTES_MAX}")));
    }
    match decoder.decode(value) {
        Ok(command) => Ok(match D::unstorable(&command) {
            Some(reason) => Err(reason.to_owned()),
            None => Ok(command),
        }),
        Err(avro::Error::Undecodable(reason)) => Ok(Err(reason)),
        Err(err) => Err(err.into()),
    }
}

fn dead_letter(record: &Incoming<'_>, reason: &str) -> Outgoing {
    let Incoming { topic, partition, offset, value, .. } = record;
    log::warn!(topic, partition, offset, reason; "record goes to dead_letter");
    let key = format!("{topic}/{partition}/{offset}: {reason}");
    Outgoing { topic: DEAD_LETTER.name, key, value: value.unwrap_or_default().to_vec() }
}
