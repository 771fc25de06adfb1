//! The environment of the heartbeat, read once.

use messaging::producer::ProducerConfig;
use service::env::{self, Env, SCHEMA_REGISTRY_URL, Secret, Variable};
use service::http;
use std::net::{IpAddr, SocketAddr};
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
     sleep_ms (JSON)",
);
/// `CONTROL_ADDR`: address that `CONTROL_PORT` listens on.
pub const CONTROL_ADDR: Variable = Variable::new(
    "CONTROL_ADDR",
    "127.0.0.1",
    "IP address that CONTROL_PORT listens on; :: for all. Other addresses than loopback need \
     CONTROL_TOKEN",
);
/// `CONTROL_TOKEN`: secret of the clients of `CONTROL_PORT`.
pub const CONTROL_TOKEN: Variable = Variable::new(
    "CONTROL_TOKEN",
    "",
    "token that requests to CONTROL_PORT must send as Authorization: Bearer TOKEN, 16 to 256 \
     characters. Without it, anyone on this machine can change the load",
)
.secret();

/// Accepted values of [`BATCH_SIZE`].
pub const BATCH_SIZES: RangeInclusive<u64> = 0..=100_000;
/// Accepted values of [`SLEEP_MS`].
pub const SLEEPS_MS: RangeInclusive<u64> = 1..=3_600_000;
/// Maximum of records per second: more than brokers and services of one machine can process.
pub const RECORDS_PER_S_MAX: u64 = 1_000_000;

/// The number of records per heartbeat, and the interval between heartbeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Records per heartbeat, within [`BATCH_SIZES`].
    pub batch_size: u64,
    /// Interval between heartbeats, within [`SLEEPS_MS`].
    pub sleep: Duration,
}

impl Load {
    /// Why the load is refused: it has more than [`RECORDS_PER_S_MAX`].
    ///
    /// # Errors
    /// The message for the client.
    pub fn checked(self) -> Result<Self, String> {
        let Self { batch_size, sleep } = self;
        if u128::from(batch_size) * 1000 > u128::from(RECORDS_PER_S_MAX) * sleep.as_millis() {
            return Err(format!(
                "batch_size={batch_size} and sleep_ms={}: expected at most {RECORDS_PER_S_MAX} \
                 records per second",
                sleep.as_millis()
            ));
        }
        Ok(self)
    }
}

#[derive(Debug, Clone)]
pub struct Config {
    /// Kafka cluster and producer.
    pub producer: ProducerConfig,
    /// `SCHEMA_REGISTRY_URL`.
    pub registry_url: String,
    /// `CONTROL_ADDR` and `CONTROL_PORT`.
    pub control_addr: SocketAddr,
    /// `CONTROL_TOKEN`.
    pub control_token: Option<Secret>,
    /// Load at startup: `BATCH_SIZE` and `SLEEP_MS`.
    pub load: Load,
}

impl Config {
    /// The variables that only this service has.
    pub const VARIABLES: &'static [Variable] =
        &[BATCH_SIZE, SLEEP_MS, CONTROL_PORT, CONTROL_ADDR, CONTROL_TOKEN];

    /// Reads and checks the environment.
    pub fn from_env(env: &Env<'_>) -> Result<Self, env::Error> {
        let load = Load {
            batch_size: env.number(&BATCH_SIZE, BATCH_SIZES)?,
            sleep: env.millis(&SLEEP_MS, SLEEPS_MS)?,
        };
        let load = load
            .checked()
            .map_err(|reason| env::invalid(&BATCH_SIZE, load.batch_size.to_string(), reason))?;
        let ip: IpAddr = env.parse(&CONTROL_ADDR, http::IP_ADDRESS)?;
        let control_token = env.token(&CONTROL_TOKEN)?;
        if control_token.is_none() && !ip.is_loopback() {
            let expected = "a loopback address, or a CONTROL_TOKEN".to_owned();
            return Err(env::invalid(&CONTROL_ADDR, ip.to_string(), expected));
        }
        Ok(Self {
            producer: ProducerConfig::from_env(env)?,
            registry_url: env.text(&SCHEMA_REGISTRY_URL)?,
            control_addr: SocketAddr::new(ip, env.number(&CONTROL_PORT, 1..=u16::MAX)?),
            control_token,
            load,
        })
    }
}
