//! The environment of the synchronizer, read once.

use messaging::KafkaConfig;
use service::env::{self, Env, SCHEMA_REGISTRY_URL, Variable};
use std::time::Duration;

/// `WAIT_S`: deadline for the servers.
pub const WAIT_S: Variable = Variable::new(
    "WAIT_S",
    "60",
    "longest wait for Kafka, the registry and a leader of each partition, 0 to 3600 s. After \
     that the synchronizer exits with code 75",
);

#[derive(Debug, Clone)]
pub struct Config {
    /// Kafka cluster.
    pub kafka: KafkaConfig,
    /// `SCHEMA_REGISTRY_URL`.
    pub registry_url: String,
    /// `WAIT_S`.
    pub wait: Duration,
}

impl Config {
    /// Reads and checks the environment.
    pub fn from_env(env: &Env<'_>) -> Result<Self, env::Error> {
        Ok(Self {
            kafka: KafkaConfig::from_env(env)?,
            registry_url: env.text(&SCHEMA_REGISTRY_URL)?,
            wait: Duration::from_secs(env.number(&WAIT_S, 0..=3600)?),
        })
    }
}
