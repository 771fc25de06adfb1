//! Kafka: the narrow interface to it, the batching producer and the consumer.

pub mod consumer;
pub mod partitioner;
pub mod producer;
pub mod wire;

#[cfg(feature = "client-kafka")]
mod kafka_crate;
mod metrics;
#[cfg(feature = "client-kafka")]
mod probe;

#[cfg(test)]
mod fake;

use crate::env::{self, Env, Variable};
use std::fmt;
use std::time::Duration;

/// How this bank calls itself in the brokers' logs and metrics.
const CLIENT_ID: &str = "scratchbank";

/// `KAFKA_BROKERS`: where the cluster is found.
pub const KAFKA_BROKERS: Variable = Variable::required(
    "KAFKA_BROKERS",
    "bootstrap brokers, host:port separated by commas; one that answers is enough",
);

/// `KAFKA_CLIENT`: what speaks with the brokers.
pub const KAFKA_CLIENT: Variable = Variable::new(
    "KAFKA_CLIENT",
    "auto",
    "kafka: the kafka crate, for brokers up to 3.9; modern: today's protocol, for 2.8 to 4.x; auto: kafka where brokers serve it",
);
/// `KAFKA_TIMEOUT_MS`: how long a broker may take to answer.
pub const KAFKA_TIMEOUT_MS: Variable = Variable::new(
    "KAFKA_TIMEOUT_MS",
    "10000",
    "how long a broker may take to answer, 1000 to 110000 ms; past it the client modern tries again on a new connection, while with the \
     client kafka the service exits with 75, to be started again",
);
/// `FETCH_BYTES`: bytes asked of each partition at a time.
pub const FETCH_BYTES: Variable = Variable::new(
    "FETCH_BYTES",
    "32768",
    "bytes read from each partition at a time, 1024 to 4194304; a larger record still passes, memory grows with it",
);

/// What speaks with the brokers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// The kafka crate where the brokers serve it, else the other.
    Auto,
    /// The kafka crate.
    Kafka,
    /// Today's protocol.
    Modern,
}

impl Client {
    /// Those that this program was built with.
    const CHOICES: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        #[cfg(feature = "client-kafka")]
        ("kafka", Self::Kafka),
        #[cfg(feature = "client-modern")]
        ("modern", Self::Modern),
    ];
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::Kafka => "kafka",
            Self::Modern => "modern",
        })
    }
}

/// What it takes to reach the cluster.
#[derive(Debug, Clone)]
pub struct KafkaConfig {
    /// `KAFKA_BROKERS`, as host:port, at least one.
    pub brokers: Vec<String>,
    /// `KAFKA_CLIENT`.
    pub client: Client,
    /// `KAFKA_TIMEOUT_MS`.
    pub timeout: Duration,
    /// `FETCH_BYTES`.
    pub fetch_bytes: i32,
}

impl KafkaConfig {
    /// The variables this reads.
    pub const VARIABLES: &'static [Variable] =
        &[KAFKA_BROKERS, KAFKA_CLIENT, KAFKA_TIMEOUT_MS, FETCH_BYTES];

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
        if !brokers.iter().all(fits) {
            let expected = "host:port, separated by commas".to_owned();
            return Err(env::invalid(&KAFKA_BROKERS, text, expected));
        }
        Ok(Self {
            brokers,
            client: env.choice(&KAFKA_CLIENT, Client::CHOICES)?,
            timeout: env.millis(&KAFKA_TIMEOUT_MS, 1000..=110_000)?,
            fetch_bytes: env.number(&FETCH_BYTES, 1024..=4 << 20)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_are_hosts_with_ports() {
        let read = |text: &'static str| {
            let lookup = |name: &str| (name == KAFKA_BROKERS.name).then(|| text.to_owned());
            KafkaConfig::from_env(&Env::new(&lookup)).map(|config| config.brokers)
        };
        assert_eq!(read("kafka-1:9092").unwrap(), ["kafka-1:9092"]);
        assert_eq!(read("a:1, [::1]:65535").unwrap(), ["a:1", "[::1]:65535"]);
        for wrong in ["", "a", ":1", "a:", "a:0", "a:65536", "a:1,", "a:1,,b:2"] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
