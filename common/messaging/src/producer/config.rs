//! Settings of producers, read from the environment.

use crate::config::KafkaConfig;
use service::env::{self, Env, Variable};
use std::time::Duration;

/// `PRODUCER_MODE`.
pub const PRODUCER_MODE: Variable = Variable::new(
    "PRODUCER_MODE",
    "batched",
    "batched, or single: each record by itself, as the talk's handler sent them",
);
/// `LINGER_MS`.
pub const LINGER_MS: Variable = Variable::new(
    "LINGER_MS",
    "0",
    "longest wait for a fuller batch, 0 to 1000 ms; 0 sends at once what has gathered",
);
/// Limit of a request of services, records.
const BATCH_RECORDS: usize = 2000;
/// `BATCH_BYTES`.
pub const BATCH_BYTES: Variable =
    Variable::new("BATCH_BYTES", "900000", "most bytes in a partition's batch, 1000 to 4000000");

/// How records are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One record per request, as the handler of the talk did.
    Single,
    /// All records that are ready.
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
    /// Limit of a request, records.
    pub batch_records: usize,
    /// `BATCH_BYTES`.
    pub batch_bytes: usize,
}

impl ProducerConfig {
    /// The variables in addition to [`KafkaConfig::VARIABLES`].
    pub const VARIABLES: &'static [Variable] = &[PRODUCER_MODE, LINGER_MS, BATCH_BYTES];

    /// Reads and checks the environment.
    ///
    /// # Errors
    /// A variable is missing or invalid.
    pub fn from_env(env: &Env<'_>) -> Result<Self, env::Error> {
        Ok(Self {
            kafka: KafkaConfig::from_env(env)?,
            mode: env
                .choice(&PRODUCER_MODE, &[("batched", Mode::Batched), ("single", Mode::Single)])?,
            linger: env.millis(&LINGER_MS, 0..=1000)?,
            batch_records: BATCH_RECORDS,
            batch_bytes: env.number(&BATCH_BYTES, 1000..=4_000_000)?,
        })
    }

    /// Records per request.
    pub(super) fn request_records(&self) -> usize {
        match self.mode {
            Mode::Single => 1,
            Mode::Batched => self.batch_records,
        }
    }
}
