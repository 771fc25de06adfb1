//! The environment of the command-generator, read once.

use crate::domain::Accounts;
use bank::iban::{self, Token};
use bank::topology;
use messaging::producer::ProducerConfig;
use service::env::{self, COMPANY_TOKEN, COMPANY_TOKEN_FILE, Env, SCHEMA_REGISTRY_URL, Variable};

/// `SEED`: makes the kinds and amounts of a run repeatable.
pub const SEED: Variable = Variable::new(
    "SEED",
    "",
    "number that makes a load repeatable, 0 to 18446744073709551615. Equal heartbeat numbers then \
     get equal kinds and amounts, but accounts may differ. Without a seed, the command ids \
     determine kinds and amounts",
);

/// `CONSUMER_GROUP_PROTOCOL`: whether the instances share the partitions as a consumer group.
pub const CONSUMER_GROUP_PROTOCOL: Variable = Variable::new(
    "CONSUMER_GROUP_PROTOCOL",
    "none",
    "assignment of partitions: none or classic. none: each instance reads all partitions and \
     sends every command. classic: the instances share the partitions as a consumer group, which \
     requires the built-in client",
);

#[derive(Debug, Clone)]
pub struct Config {
    /// Kafka cluster and producer.
    pub producer: ProducerConfig,
    /// `SCHEMA_REGISTRY_URL`.
    pub registry_url: String,
    /// `SEED`; `None` if it is unset.
    pub seed: Option<u64>,
    /// `COMPANY_TOKEN` or `COMPANY_TOKEN_FILE`, else the token of the talk.
    pub company_token: Token,
    /// `CONSUMER_GROUP_PROTOCOL` is `classic`.
    pub is_member: bool,
    /// Limit of known accounts.
    pub accounts_max: usize,
    /// Names of the topics and the consumer group.
    pub names: Names,
}

/// Names of the topics and the consumer group. Each test has its own.
#[derive(Debug, Clone)]
pub struct Names {
    pub group: &'static str,
    pub heartbeat: &'static str,
    pub account_creation_confirmed: &'static str,
    pub confirm_account_creation: &'static str,
    pub confirm_money_transfer: &'static str,
    pub dead_letter: &'static str,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            group: "command-generator",
            heartbeat: topology::HEARTBEAT.name,
            account_creation_confirmed: topology::ACCOUNT_CREATION_CONFIRMED.name,
            confirm_account_creation: topology::CONFIRM_ACCOUNT_CREATION.name,
            confirm_money_transfer: topology::CONFIRM_MONEY_TRANSFER.name,
            dead_letter: topology::DEAD_LETTER.name,
        }
    }
}

impl Config {
    /// Reads and checks the environment.
    pub fn from_env(env: &Env<'_>) -> Result<Self, env::Error> {
        let company_token = env.parse_secret(&COMPANY_TOKEN, &COMPANY_TOKEN_FILE, "20 digits")?;
        let seeded = !env.text(&SEED)?.is_empty();
        let mut producer = ProducerConfig::from_env(env)?;
        let is_member = producer.kafka.joins_group(env, &CONSUMER_GROUP_PROTOCOL)?;
        Ok(Self {
            producer,
            registry_url: env.text(&SCHEMA_REGISTRY_URL)?,
            seed: seeded.then(|| env.number(&SEED, 0..=u64::MAX)).transpose()?,
            company_token: company_token.unwrap_or_else(well_known_token),
            is_member,
            accounts_max: Accounts::MAX,
            names: Names::default(),
        })
    }

    /// True if salaries carry the token of the talk, which everyone knows.
    pub fn has_well_known_token(&self) -> bool {
        self.company_token == well_known_token()
    }
}

fn well_known_token() -> Token {
    iban::COMPANY_TOKEN.parse().expect("the constant has 20 digits")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variable: &str, value: &str) -> Result<Config, env::Error> {
        let lookup = |name: &str| match name {
            "KAFKA_BROKERS" => Some("localhost:9092".to_owned()),
            "SCHEMA_REGISTRY_URL" => Some("http://localhost".to_owned()),
            _ => Some(value.to_owned()).filter(|_| name == variable),
        };
        Config::from_env(&Env::new(&lookup))
    }

    fn seed(text: &str) -> Result<Option<u64>, env::Error> {
        read("SEED", text).map(|config| config.seed)
    }

    #[test]
    fn company_token_is_checked_and_not_printed() {
        assert!(read("COMPANY_TOKEN", "").unwrap().has_well_known_token());
        let token = "31415926535897932384";
        let config = read("COMPANY_TOKEN", token).unwrap();
        assert_eq!(config.company_token.as_str(), token);
        assert!(!config.has_well_known_token() && !format!("{config:?}").contains(token));
        let err = read("COMPANY_TOKEN", "3141592653589793238x").unwrap_err().to_string();
        assert_eq!(err, "COMPANY_TOKEN=\"***\": expected 20 digits");
    }

    #[test]
    fn seed_is_a_number_or_unset() {
        assert_eq!(seed(""), Ok(None));
        assert_eq!(seed("0"), Ok(Some(0)));
        assert_eq!(seed("18446744073709551615"), Ok(Some(u64::MAX)));
        assert!(seed("18446744073709551616").is_err());
        assert!(seed("x").is_err());
    }
}
