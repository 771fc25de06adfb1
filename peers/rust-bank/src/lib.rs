//! The command-handler without a Kafka client: it takes records and returns records. Decoding,
//! domain and store are those of the command-handler's library. So a peer that uses it differs from
//! our handler in its Kafka client only.

pub use command_handler::error::Error;
pub use messaging::producer::Outgoing;

use avro::registry::Registry;
use bank::topology::{CONFIRM_ACCOUNT_CREATION, CONFIRM_MONEY_TRANSFER};
use command_handler::command_topic::{AccountCreations, CommandTopic, MoneyTransfers};
use command_handler::consume::CommandDecoder;
use command_handler::store::{self, Session};
use messaging::dead_letters::DeadLetters;
use service::env::{DATABASE_URL, Env, SCHEMA_REGISTRY_URL, Variable};
use service::ownership::Positions;
use service::shutdown::Shutdown;
use std::thread;
use std::time::Duration;

/// The bootstrap brokers.
pub const KAFKA_BROKERS: Variable =
    Variable::required("KAFKA_BROKERS", "bootstrap brokers, as in host:9092,host:9093");
/// The environment variables of each peer that uses this crate.
pub const VARIABLES: &[Variable] = &[KAFKA_BROKERS, SCHEMA_REGISTRY_URL, DATABASE_URL];

/// The consumer group of the contract.
pub const GROUP: &str = "command-handler";
/// Time between two requests for a schema that is not registered yet.
const SCHEMA_RETRY: Duration = Duration::from_millis(500);

/// The command topics.
pub const TOPICS: [&str; 2] = [CONFIRM_ACCOUNT_CREATION.name, CONFIRM_MONEY_TRANSFER.name];
/// Limit of the commands in one transaction, the same as in our handler.
pub const BATCH_MAX: usize = 1000;

/// A fetched record.
#[derive(Debug, Clone, Copy)]
pub struct Incoming<'a> {
    /// One of [`TOPICS`].
    pub topic: &'a str,
    /// Partition index, from 0.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
    /// The key, or null.
    pub key: Option<&'a [u8]>,
    /// The value, or null.
    pub value: Option<&'a [u8]>,
}

/// Decides batches of commands of both topics. After an error, a peer exits with code 1 and its
/// supervisor starts it again.
pub struct BatchDecider {
    session: Session,
    creations: CommandDecoder<AccountCreations>,
    transfers: CommandDecoder<MoneyTransfers>,
    dead_creations: DeadLetters,
    dead_transfers: DeadLetters,
    creation_outcomes: AccountCreations,
    transfer_outcomes: MoneyTransfers,
}

impl BatchDecider {
    /// Migrates the database, connects, and looks up the schema ids. Returns `None` if shutdown was
    /// requested.
    ///
    /// # Errors
    /// The database or the registry is not available, or an environment variable is invalid.
    pub fn open(env: &Env<'_>, shutdown: &Shutdown) -> Result<Option<Self>, Error> {
        let database = env.parse(&DATABASE_URL, "postgres://user:password@host:port/database")?;
        let registry = Registry::new(&env.text(&SCHEMA_REGISTRY_URL)?);
        store::migrate(&database, shutdown)?;
        let (Some(creation_outcomes), Some(transfer_outcomes)) = (
            AccountCreations::open(&registry, shutdown)?,
            MoneyTransfers::open(&registry, shutdown)?,
        ) else {
            return Ok(None);
        };
        Ok(Some(Self {
            session: Session::open(&database, shutdown)?,
            creations: CommandDecoder::new(registry.clone(), None),
            transfers: CommandDecoder::new(registry, None),
            dead_creations: DeadLetters::new(CONFIRM_ACCOUNT_CREATION.name),
            dead_transfers: DeadLetters::new(CONFIRM_MONEY_TRANSFER.name),
            creation_outcomes,
            transfer_outcomes,
        }))
    }

    /// Decides a batch and stores the outcomes. Returns the records to publish, dead letters first.
    ///
    /// # Errors
    /// The batch must be fetched again. Outcomes that were stored before the error are returned
    /// then.
    pub fn decide<'a>(
        &mut self,
        batch: impl Iterator<Item = Incoming<'a>>,
    ) -> Result<Vec<Outgoing>, Error> {
        let (mut records, mut creations, mut transfers) = (Vec::new(), Vec::new(), Vec::new());
        for record in batch {
            let Incoming { topic, partition, offset, key, value } = record;
            let (decoded, dead_letters) = if topic == CONFIRM_ACCOUNT_CREATION.name {
                let decoded = decode(&mut self.creations, key, value)?;
                (decoded.map(|command| creations.push(command)), &mut self.dead_creations)
            } else {
                let decoded = decode(&mut self.transfers, key, value)?;
                (decoded.map(|command| transfers.push(command)), &mut self.dead_transfers)
            };
            match decoded {
                Ok(()) => dead_letters.decoded(),
                Err(reason) => {
                    let value = value.unwrap_or_default().to_vec();
                    records.push(dead_letters.add(partition, offset, value, &reason));
                }
            }
        }
        decide(&self.creation_outcomes, &mut self.session, creations, &mut records)?;
        decide(&self.transfer_outcomes, &mut self.session, transfers, &mut records)?;
        Ok(records)
    }
}

/// Decodes a record, and waits while the registry is unavailable or its schema is not registered.
fn decode<T: CommandTopic>(
    decoder: &mut CommandDecoder<T>,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
) -> Result<Result<T::Command, String>, Error> {
    loop {
        match decoder.decode(key, value) {
            Err(err) if err.is_retryable() => thread::sleep(SCHEMA_RETRY),
            result => return result,
        }
    }
}

/// Decides `commands` and appends the records of their outcomes.
fn decide<T: CommandTopic>(
    encoders: &T,
    session: &mut Session,
    commands: Vec<T::Command>,
    records: &mut Vec<Outgoing>,
) -> Result<(), Error> {
    if !commands.is_empty() {
        // The positions of a peer are in Kafka.
        for outcome in T::decide(session, commands, &Positions::default())? {
            encoders.encode(outcome, records);
        }
    }
    Ok(())
}
