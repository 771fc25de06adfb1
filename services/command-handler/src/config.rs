//! The environment of the command-handler, read once.

use messaging::producer::ProducerConfig;
use service::env::{self, DATABASE_URL, Env, SCHEMA_REGISTRY_URL, Variable};

/// The variables of this service, in addition to those of Kafka and the producer.
pub const VARIABLES: &[Variable] = &[SCHEMA_REGISTRY_URL, DATABASE_URL];

#[derive(Debug, Clone)]
pub struct Config {
    /// Kafka cluster and producer.
    pub producer: ProducerConfig,
    /// `SCHEMA_REGISTRY_URL`.
    pub registry_url: String,
    /// `DATABASE_URL`: balancedb.
    pub database: postgres::Config,
}

impl Config {
    /// Reads and checks the environment.
    pub fn from_env(env: &Env<'_>) -> Result<Self, env::Error> {
        Ok(Self {
            producer: ProducerConfig::from_env(env)?,
            registry_url: env.text(&SCHEMA_REGISTRY_URL)?,
            database: env.parse(&DATABASE_URL, "postgres://user:password@host:port/database")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_variables_are_required() {
        let set = [
            ("KAFKA_BROKERS", "a:9092, b:9092"),
            ("SCHEMA_REGISTRY_URL", "http://r"),
            ("DATABASE_URL", "postgres://bank:secret@db:5432/balancedb"),
        ];
        for missing in 0..=set.len() {
            let lookup = |name: &str| {
                let (at, (_, value)) =
                    set.iter().enumerate().find(|(_, (known, _))| *known == name)?;
                (at != missing).then(|| (*value).to_owned())
            };
            let config = Config::from_env(&Env::new(&lookup));
            assert_eq!(config.is_ok(), missing == set.len(), "without {missing}");
        }
    }
}
