//! Settings of producers, read from the environment.

use crate::config::KafkaConfig;
use service::env::{self, Env, Variable};
use std::time::Duration;

pub const PRODUCER_MODE: Variable = Variable::new(
    "PRODUCER_MODE",
    "batched",
    "how records are sent: batched or single. single sends each record in its own request. It is \
     slow and only for comparisons",
);

pub const LINGER_MS: Variable = Variable::new(
    "LINGER_MS",
    "0",
    "maximum wait for a larger batch, 0 to 1000 ms. 0 sends as soon as no request is in flight. \
     A higher value adds latency to each record",
);

/// Maximum number of records per request.
const BATCH_RECORDS: usize = 2000;

pub const BATCH_BYTES: Variable = Variable::new(
    "BATCH_BYTES",
    "200000",
    "maximum size of a batch of one partition before compression, 1000 to 250000 bytes. A larger \
     record is sent alone",
);

/// The number of records per request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One record per request.
    Single,
    /// Up to [`ProducerConfig::batch_records`] records per request.
    Batched,
}

/// Settings of a producer.
#[derive(Debug, Clone)]
pub struct ProducerConfig {
    pub kafka: KafkaConfig,
    /// `PRODUCER_MODE`.
    pub mode: Mode,
    /// `LINGER_MS`.
    pub linger: Duration,
    /// Maximum number of records per request.
    pub batch_records: usize,
    /// `BATCH_BYTES`.
    pub batch_bytes: usize,
}

impl ProducerConfig {
    /// The variables that [`Self::from_env`] reads, in addition to [`KafkaConfig::VARIABLES`].
    pub const VARIABLES: &'static [Variable] = &[PRODUCER_MODE, LINGER_MS, BATCH_BYTES];

    /// Reads and checks the variables.
    pub fn from_env(env: &Env<'_>) -> Result<Self, env::Error> {
        Ok(Self {
            kafka: KafkaConfig::from_env(env)?,
            mode: env
                .choice(&PRODUCER_MODE, &[("batched", Mode::Batched), ("single", Mode::Single)])?,
            linger: env.millis(&LINGER_MS, 0..=1000)?,
            batch_records: BATCH_RECORDS,
            batch_bytes: env.number(&BATCH_BYTES, 1000..=250_000)?,
        })
    }

    /// Maximum number of records per request, by mode.
    pub(super) fn request_records(&self) -> usize {
        match self.mode {
            Mode::Single => 1,
            Mode::Batched => self.batch_records,
        }
    }
}
