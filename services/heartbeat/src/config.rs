//! The environment of the heartbeat, read once.

use messaging::producer::ProducerConfig;
use service::env::{self, Env, SCHEMA_REGISTRY_URL, Variable};
use std::ops::RangeInclusive;
use std::time::Duration;

/// `BATCH_SIZE`: records per heartbeat at the start.
pub const BATCH_SIZE: Variable =
    Variable::new("BATCH_SIZE", "0", "records per heartbeat at the start, 0 to 100000");
/// `SLEEP_MS`: interval at the start.
pub const SLEEP_MS: Variable = Variable::new(
    "SLEEP_MS",
    "1000",
    "time from heartbeat to heartbeat at the start, 1 to 3600000 ms",
);
/// `CONTROL_PORT`: port of the control, which changes both while the service runs.
pub const CONTROL_PORT: Variable = Variable::new(
    "CONTROL_PORT",
    "17888",
    "port of the control: GET / returns batch_size, sleep_ms and sent, PUT / with JSON sets the first two; 1 to 65535",
);

/// Accepted values of [`BATCH_SIZE`].
pub const BATCH_SIZES: RangeInclusive<u64> = 0..=100_000;
/// Accepted values of [`SLEEP_MS`].
pub const SLEEPS_MS: RangeInclusive<u64> = 1..=3_600_000;

/// How many records are sent, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Records per heartbeat, within [`BATCH_SIZES`].
    pub batch_size: u64,
    /// Time from heartbeat to heartbeat, within [`SLEEPS_MS`].
    pub sleep: Duration,
}

/// Settings of the heartbeat.
#[derive(Debug, Clone)]
pub struct Config {
    /// The cluster and the producer.
    pub producer: ProducerConfig,
    /// `SCHEMA_REGISTRY_URL`.
    pub registry_url: String,
    /// `CONTROL_PORT`.
    pub control_port: u16,
    /// `BATCH_SIZE` and `SLEEP_MS`.
    pub load: Load,
}

impl Config {
    /// The variables of this service alone.
    pub const VARIABLES: &'static [Variable] = &[BATCH_SIZE, SLEEP_MS, CONTROL_PORT];

    /// Reads and checks the environment.
    ///
    /// # Errors
    /// A variable is missing or invalid.
    pub fn from_env(env: &Env<'_>) -> Result<Self, env::Error> {
        Ok(Self {
            producer: ProducerConfig::from_env(env)?,
            registry_url: env.text(&SCHEMA_REGISTRY_URL)?,
            control_port: env.number(&CONTROL_PORT, 1..=u16::MAX)?,
            load: Load {
                batch_size: env.number(&BATCH_SIZE, BATCH_SIZES)?,
                sleep: env.millis(&SLEEP_MS, SLEEPS_MS)?,
            },
        })
    }
}
