//! The batching producer.

use super::wire::Error;
use super::{KafkaConfig, wire};
use crate::env::{self, Env, Variable};
use crate::shutdown::Shutdown;
use std::time::Duration;

/// `PRODUCER_MODE`: batched, or as the talk's handler did.
pub const PRODUCER_MODE: Variable = Variable::new(
    "PRODUCER_MODE",
    "batched",
    "batched, or single: each record by itself, as the talk's handler sent them",
);
/// `LINGER_MS`: longest wait for a fuller batch.
pub const LINGER_MS: Variable = Variable::new(
    "LINGER_MS",
    "0",
    "longest wait for a fuller batch, 0 to 1000 ms; 0 sends at once what has gathered",
);
/// `BATCH_RECORDS`: records per batch.
pub const BATCH_RECORDS: Variable =
    Variable::new("BATCH_RECORDS", "2000", "most records in a batch, 1 to 100000");
/// `BATCH_BYTES`: bytes per batch.
pub const BATCH_BYTES: Variable =
    Variable::new("BATCH_BYTES", "900000", "most bytes in a partition's batch, 1000 to 4000000");

/// How records are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Each record by itself, waiting for its acknowledgement.
    Single,
    /// All records there are.
    Batched,
}

/// Settings of a producer.
#[derive(Debug, Clone)]
pub struct ProducerConfig {
    /// The cluster.
    pub kafka: KafkaConfig,
    /// `PRODUCER_MODE`.
    pub mode: Mode,
    /// `LINGER_MS`.
    pub linger: Duration,
    /// `BATCH_RECORDS`.
    pub batch_records: usize,
    /// `BATCH_BYTES`.
    pub batch_bytes: usize,
}

impl ProducerConfig {
    /// The variables this reads beside [`KafkaConfig::VARIABLES`].
    pub const VARIABLES: &'static [Variable] =
        &[PRODUCER_MODE, LINGER_MS, BATCH_RECORDS, BATCH_BYTES];

    /// Reads and checks the environment.
    ///
    /// # Errors
    /// A variable is missing or does not fit.
    pub fn from_env(env: &Env<'_>) -> Result<Self, env::Error> {
        Ok(Self {
            kafka: KafkaConfig::from_env(env)?,
            mode: env
                .choice(&PRODUCER_MODE, &[("batched", Mode::Batched), ("single", Mode::Single)])?,
            linger: env.millis(&LINGER_MS, 0..=1000)?,
            batch_records: env.number(&BATCH_RECORDS, 1..=100_000)?,
            batch_bytes: env.number(&BATCH_BYTES, 1000..=4_000_000)?,
        })
    }
}

/// A record on its way out. The key chooses the partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Topic name.
    pub topic: &'static str,
    /// Key, UTF-8.
    pub key: String,
    /// Value as it goes on the wire.
    pub value: Vec<u8>,
}

/// Sends what its thread has gathered, and waits for acks=all. For loops that have a batch: no thread, no queue.
pub struct Sender {
    _bus: Box<dyn wire::Bus>,
}

impl Sender {
    /// No I/O happens before the first batch.
    pub fn new(config: &ProducerConfig, _shutdown: &Shutdown) -> Self {
        Self { _bus: wire::connect(&config.kafka) }
    }

    /// Writes all records, keeping their order within each partition, and retries with backoff for as long as the service
    /// lives; after the stop was asked for it gives up within a second. One result for each record, in order.
    pub fn send_all(&mut self, _records: &[Outgoing]) -> Vec<Result<(), Error>> {
        todo!()
    }
}

/// The batching producer: many threads hand over records, one sends. While a request is in flight the next batch gathers.
/// Dropping it flushes.
pub struct Producer;

/// The promise of a result for one record.
pub struct Delivery;

impl Producer {
    /// Starts the thread that sends.
    pub fn start(_config: ProducerConfig, _shutdown: &Shutdown) -> Self {
        todo!()
    }

    /// Hands over a record; blocks while the queue is full.
    pub fn send(&self, _record: Outgoing) -> Delivery {
        todo!()
    }
}

impl Delivery {
    /// Waits until the record is written, or can't be.
    ///
    /// # Errors
    /// What the cluster said.
    pub fn wait(self) -> Result<(), Error> {
        todo!()
    }
}
