//! The environment of the heartbeat, read once.

use messaging::producer::ProducerConfig;
use service::env::{self, Env, SCHEMA_REGISTRY_URL, Variable};
use std::ops::RangeInclusive;
use std::time::Duration;

/// `BATCH_SIZE`: number of records per heartbeat at startup.
pub const BATCH_SIZE: Variable = Variable::new(
    "BATCH_SIZE",
    "0",
    "records per heartbeat at startup, 0 to 100000. 0 sends none until a PUT request changes it",
);
/// `SLEEP_MS`: interval between heartbeats at startup.
pub const SLEEP_MS: Variable = Variable::new(
    "SLEEP_MS",
    "1000",
    "interval between heartbeats at startup, 1 to 3600000 ms. All records of a heartbeat are sent \
     at once",
);
/// `CONTROL_PORT`: HTTP port that changes the load while the service runs.
pub const CONTROL_PORT: Variable = Variable::new(
    "CONTROL_PORT",
    "17888",
    "HTTP port that controls the load, 1 to 65535. GET / returns it, PUT / sets batch_size and \
     sleep_ms (JSON). The port has no authentication",
);

/// Accepted values of [`BATCH_SIZE`].
pub const BATCH_SIZES: RangeInclusive<u64> = 0..=100_000;
/// Accepted values of [`SLEEP_MS`].
pub const SLEEPS_MS: RangeInclusive<u64> = 1..=3_600_000;

/// The number of records per heartbeat, and the interval between heartbeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Records per heartbeat, within [`BATCH_SIZES`].
    pub batch_size: u64,
    /// Interval between heartbeats, within [`SLEEPS_MS`].
    pub sleep: Duration,
}

#[derive(Debug, Clone)]
pub struct Config {
    /// Kafka cluster and producer.
    pub producer: ProducerConfig,
    /// `SCHEMA_REGISTRY_URL`.
    pub registry_url: String,
    /// `CONTROL_PORT`.
    pub control_port: u16,
    /// Load at startup: `BATCH_SIZE` and `SLEEP_MS`.
    pub load: Load,
}

impl Config {
    /// The variables that only this service has.
    pub const VARIABLES: &'static [Variable] = &[BATCH_SIZE, SLEEP_MS, CONTROL_PORT];

    /// Reads and checks the environment.
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
