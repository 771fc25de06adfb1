//! The environment of the command-handler, read once.

use bank::iban::Token;
use messaging::producer::ProducerConfig;
use service::database;
use service::database::retention::{RETAIN_DAYS, Retention};
use service::env::{self, COMPANY_TOKEN, COMPANY_TOKEN_FILE, Env, SCHEMA_REGISTRY_URL, Variable};

/// The variables of this service, in addition to those of Kafka, producer and database.
pub const VARIABLES: &[Variable] =
    &[SCHEMA_REGISTRY_URL, COMPANY_TOKEN, COMPANY_TOKEN_FILE, RETAIN_DAYS];

#[derive(Debug, Clone)]
pub struct Config {
    /// Kafka cluster and producer.
    pub producer: ProducerConfig,
    /// `SCHEMA_REGISTRY_URL`.
    pub registry_url: String,
    /// `DATABASE_URL`: balancedb.
    pub database: postgres::Config,
    /// `COMPANY_TOKEN` or `COMPANY_TOKEN_FILE`; `None` keeps the stored token.
    pub company_token: Option<Token>,
    /// `RETAIN_DAYS`; `None`: outcomes are kept forever.
    pub retention: Option<Retention>,
}

impl Config {
    /// Reads and checks the environment.
    pub fn from_env(env: &Env<'_>) -> Result<Self, env::Error> {
        Ok(Self {
            producer: ProducerConfig::from_env(env)?,
            registry_url: env.text(&SCHEMA_REGISTRY_URL)?,
            company_token: env.parse_secret(&COMPANY_TOKEN, &COMPANY_TOKEN_FILE, "20 digits")?,
            database: database::config(env)?,
            retention: Retention::from_env(env)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUIRED: [(&str, &str); 3] = [
        ("KAFKA_BROKERS", "a:9092, b:9092"),
        ("SCHEMA_REGISTRY_URL", "http://r"),
        ("DATABASE_URL", "postgres://bank:secret@db:5432/balancedb"),
    ];

    fn read(variables: &[(&str, &str)]) -> Result<Config, env::Error> {
        let lookup = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        Config::from_env(&Env::new(&lookup))
    }

    #[test]
    fn three_variables_are_required() {
        assert_eq!(read(&REQUIRED).unwrap().company_token, None);
        for missing in 0..REQUIRED.len() {
            let mut variables = REQUIRED.to_vec();
            variables.remove(missing);
            assert!(read(&variables).is_err(), "without {missing}");
        }
    }

    #[test]
    fn company_token_is_checked_and_not_printed() {
        let token = "31415926535897932384";
        let with = |token| read(&[&REQUIRED[..], &[("COMPANY_TOKEN", token)]].concat());
        let config = with(token).unwrap();
        assert_eq!(config.company_token, token.parse().ok());
        assert!(!format!("{config:?}").contains(token));
        let err = with("3141592653589793238x").unwrap_err().to_string();
        assert_eq!(err, "COMPANY_TOKEN=\"***\": expected 20 digits");
    }
}
