//! Kafka: the narrow interface to it, the batching producer and the consumer.

pub mod consumer;
pub mod partitioner;
pub mod producer;
pub mod wire;

use crate::env::{self, Env, Variable};

/// `KAFKA_BROKERS`: where the cluster is found.
pub const KAFKA_BROKERS: Variable = Variable::required(
    "KAFKA_BROKERS",
    "bootstrap brokers, host:port separated by commas; one that answers is enough",
);

/// What it takes to reach the cluster.
#[derive(Debug, Clone)]
pub struct KafkaConfig {
    /// `KAFKA_BROKERS`, as host:port, at least one.
    pub brokers: Vec<String>,
}

impl KafkaConfig {
    /// The variables this reads.
    pub const VARIABLES: &'static [Variable] = &[KAFKA_BROKERS];

    /// Reads and checks the environment.
    ///
    /// # Errors
    /// A variable is missing or does not fit.
    pub fn from_env(env: &Env<'_>) -> Result<Self, env::Error> {
        let text = env.text(&KAFKA_BROKERS)?;
        let brokers: Vec<String> = text.split(',').map(|broker| broker.trim().to_owned()).collect();
        let fits = |broker: &String| {
            broker.rsplit_once(':').is_some_and(|(host, port)| {
                !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
            })
        };
        if brokers.iter().all(fits) {
            Ok(Self { brokers })
        } else {
            Err(env::invalid(&KAFKA_BROKERS, text, "host:port, separated by commas".to_owned()))
        }
    }
}
