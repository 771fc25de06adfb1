//! The configuration of the endpoint, read from the environment at startup.

use messaging::producer::ProducerConfig;
use service::env::{self, DATABASE_URL, Env, SCHEMA_REGISTRY_URL, Variable};
use std::time::Duration;

/// The variables of this service in addition to those of Kafka and the producer.
pub const VARIABLES: &[Variable] = &[
    SCHEMA_REGISTRY_URL,
    DATABASE_URL,
    GRAPHQL_PORT,
    VISITORS,
    PUBLIC_LEDGER,
    EMPLOYEE_TOKEN,
    CORS_ORIGINS,
    INTROSPECTION,
    ANSWER_TIMEOUT_MS,
    CONSUMER_GROUP_PROTOCOL,
];

const GRAPHQL_PORT: Variable =
    Variable::new("GRAPHQL_PORT", "8888", "port of /graphql and of GraphiQL at /, 1 to 65535");
const VISITORS: Variable = Variable::new(
    "VISITORS",
    "2000",
    "maximum of open connections, 4 to 20000; also limited to a quarter of the open files limit",
);
const PUBLIC_LEDGER: Variable = Variable::new(
    "PUBLIC_LEDGER",
    "true",
    "true: clients read all transactions, as in the talk; false: an account's token reads that \
     account, EMPLOYEE_TOKEN reads all",
);
const EMPLOYEE_TOKEN: Variable = Variable::new(
    "EMPLOYEE_TOKEN",
    "",
    "token that reads all transactions if PUBLIC_LEDGER is false, 16 to 256 characters",
)
.secret();
const CORS_ORIGINS: Variable = Variable::new(
    "CORS_ORIGINS",
    "",
    "origins whose pages may send requests, as in https://bank.example, separated by commas; \
     * for all",
);
const INTROSPECTION: Variable =
    Variable::new("INTROSPECTION", "true", "whether clients may query the schema, true or false");
const ANSWER_TIMEOUT_MS: Variable = Variable::new(
    "ANSWER_TIMEOUT_MS",
    "10000",
    "timeout of get_account and money_transfer for the outcome, 100 to 60000 ms",
);
const CONSUMER_GROUP_PROTOCOL: Variable = Variable::new(
    "CONSUMER_GROUP_PROTOCOL",
    "none",
    "none: locks in the database assign the partitions to endpoints; classic: a consumer group \
     assigns them, which needs the built-in client",
);

#[derive(Debug, Clone)]
pub struct Config {
    pub producer: ProducerConfig,
    pub registry_url: String,
    /// transactiondb.
    pub database: postgres::Config,
    pub port: u16,
    /// `VISITORS`.
    pub connections_max: usize,
    pub public_ledger: bool,
    pub employee_token: Option<Secret>,
    pub origins: Origins,
    pub introspection: bool,
    pub answer_timeout: Duration,
    /// True if `CONSUMER_GROUP_PROTOCOL` is `classic`.
    pub is_member: bool,
}

/// A secret, which `Debug` does not print.
#[derive(Clone)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// The web origins whose pages may send requests (CORS).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    All,
    /// In lower case.
    These(Vec<String>),
}

impl Origins {
    /// True if pages of `origin` may send requests.
    pub fn allow(&self, origin: &str) -> bool {
        match self {
            Self::All => true,
            Self::These(origins) => origins.iter().any(|it| it.eq_ignore_ascii_case(origin)),
        }
    }
}

impl Config {
    /// Reads and checks the environment.
    pub fn from_env(env: &Env<'_>) -> Result<Self, env::Error> {
        const SWITCH: [(&str, bool); 2] = [("true", true), ("false", false)];
        let mut producer = ProducerConfig::from_env(env)?;
        let is_member = producer.kafka.joins_group(env, &CONSUMER_GROUP_PROTOCOL)?;
        Ok(Self {
            producer,
            registry_url: env.text(&SCHEMA_REGISTRY_URL)?,
            database: env.parse(&DATABASE_URL, "postgres://user:password@host:port/database")?,
            port: env.number(&GRAPHQL_PORT, 1..=u16::MAX)?,
            connections_max: env.number(&VISITORS, 4..=20_000)?,
            public_ledger: env.choice(&PUBLIC_LEDGER, &SWITCH)?,
            employee_token: employee_token(env.text(&EMPLOYEE_TOKEN)?)?,
            origins: origins(env.text(&CORS_ORIGINS)?)?,
            introspection: env.choice(&INTROSPECTION, &SWITCH)?,
            answer_timeout: env.millis(&ANSWER_TIMEOUT_MS, 100..=60_000)?,
            is_member,
        })
    }
}

fn employee_token(token: String) -> Result<Option<Secret>, env::Error> {
    match token.len() {
        0 => Ok(None),
        16..=256 if token.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(Some(Secret(token))),
        _ => {
            let expected = "16 to 256 ASCII characters without spaces".to_owned();
            Err(env::invalid(&EMPLOYEE_TOKEN, token, expected))
        }
    }
}

fn origins(text: String) -> Result<Origins, env::Error> {
    if text.trim() == "*" {
        return Ok(Origins::All);
    }
    let origins: Vec<String> = text
        .split(',')
        .map(|it| it.trim().to_ascii_lowercase())
        .filter(|it| !it.is_empty())
        .collect();
    let is_origin = |origin: &String| {
        origin.split_once("://").is_some_and(|(scheme, host)| {
            matches!(scheme, "http" | "https")
                && !host.is_empty()
                && host.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/')
        })
    };
    if origins.iter().all(is_origin) {
        Ok(Origins::These(origins))
    } else {
        let expected = "origins as in https://bank.example, separated by commas, or *".to_owned();
        Err(env::invalid(&CORS_ORIGINS, text, expected))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &'static str, value: &'static str) -> Result<Config, env::Error> {
        let set = [
            ("KAFKA_BROKERS", "a:9092"),
            ("SCHEMA_REGISTRY_URL", "http://r"),
            ("DATABASE_URL", "postgres://bank:secret@db:5432/transactiondb"),
            (name, value),
        ];
        let lookup = |wanted: &str| {
            set.iter().rev().find(|(name, _)| *name == wanted).map(|(_, value)| (*value).to_owned())
        };
        Config::from_env(&Env::new(&lookup))
    }

    #[test]
    fn three_variables_are_required() {
        assert!(read("X", "").is_ok());
        for name in ["KAFKA_BROKERS", "SCHEMA_REGISTRY_URL", "DATABASE_URL"] {
            assert!(read(name, "").is_err(), "{name}");
        }
    }

    #[test]
    fn origins_are_schemes_with_hosts() {
        let origins = |text| read("CORS_ORIGINS", text).map(|config| config.origins);
        assert_eq!(origins(""), Ok(Origins::These(vec![])));
        assert_eq!(origins("*"), Ok(Origins::All));
        let two = origins("http://localhost:8181, https://Bank.example").unwrap();
        assert!(two.allow("https://bank.example") && two.allow("http://localhost:8181"));
        assert!(!two.allow("http://bank.example") && !two.allow("null") && !two.allow(""));
        for wrong in ["bank.example", "ftp://a", "http://", "http://a/", "http://a b", "http://a,*"]
        {
            assert!(origins(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn employee_token_is_long_and_never_printed() {
        let config = read("EMPLOYEE_TOKEN", "0123456789abcdef").unwrap();
        assert!(config.employee_token.is_some());
        assert!(!format!("{config:?}").contains("0123456789abcdef"));
        let err = read("EMPLOYEE_TOKEN", "0123456789abcde").unwrap_err();
        assert!(!err.to_string().contains("0123456789abcde"), "{err}");
    }
}
