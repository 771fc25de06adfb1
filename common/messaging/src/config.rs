//! Settings of the Kafka clients, read from the environment.

use bank::limits::FETCH_BYTES;
use kafka_client::{Compression, Mechanism, Sasl};
use service::env::{self, Env, Variable};
use service::url;
use std::fmt;
use std::time::Duration;

/// `client_id` of requests.
pub const CLIENT_ID: &str = "scratchbank";

pub const KAFKA_BROKERS: Variable = Variable::required(
    "KAFKA_BROKERS",
    "bootstrap brokers, host:port separated by commas; one reachable broker is enough",
);

pub const KAFKA_CLIENT: Variable = Variable::new(
    "KAFKA_CLIENT",
    "auto",
    "Kafka client: auto, kafka-crate (Kafka up to 3.9) or built-in (Kafka 2.8 and later). auto \
     selects the kafka crate if all brokers support its protocol version, else the built-in \
     client. The kafka crate may duplicate records on retries, and has no SASL and no consumer \
     groups",
);

pub const KAFKA_TIMEOUT_MS: Variable = Variable::new(
    "KAFKA_TIMEOUT_MS",
    "10000",
    "request timeout, 1000 to 110000 ms. After it the built-in client retries on a new connection. \
     With the kafka crate the service exits with code 75 and must be restarted",
);

pub const COMPRESSION: Variable = Variable::new(
    "COMPRESSION",
    "none",
    "compression of produced batches: none, gzip, snappy, lz4 or zstd. lz4 and zstd require the \
     built-in client and a build with the feature codecs. Topics of the bank store all batches \
     uncompressed, so this only reduces the traffic to the brokers",
);

pub const KAFKA_SASL_MECHANISM: Variable = Variable::new(
    "KAFKA_SASL_MECHANISM",
    "none",
    "SASL mechanism: none, PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512. SASL requires the built-in \
     client, and SCRAM a build with the feature scram. PLAIN sends the password unencrypted",
);

pub const KAFKA_SASL_USERNAME: Variable = Variable::new(
    "KAFKA_SASL_USERNAME",
    "",
    "SASL user, required if KAFKA_SASL_MECHANISM is not none",
);

pub const KAFKA_SASL_PASSWORD: Variable = Variable::new(
    "KAFKA_SASL_PASSWORD",
    "",
    "SASL password. If KAFKA_SASL_MECHANISM is not none, either this or KAFKA_SASL_PASSWORD_FILE \
     is required",
)
.secret();

pub const KAFKA_SASL_PASSWORD_FILE: Variable = Variable::new(
    "KAFKA_SASL_PASSWORD_FILE",
    "",
    "path of a file with the SASL password, instead of KAFKA_SASL_PASSWORD. It is read once, at \
     startup. One line break at its end is removed",
);

/// A choice of the Kafka client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientChoice {
    /// The kafka crate if all brokers support its protocol version, else the built-in client.
    Auto,
    /// The kafka crate (protocol version 0, Kafka up to 3.9).
    KafkaCrate,
    /// The built-in client (Kafka 2.8 and later).
    BuiltIn,
}

impl ClientChoice {
    /// The choices of this build.
    const CHOICES: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        #[cfg(feature = "kafka-crate")]
        ("kafka-crate", Self::KafkaCrate),
        ("built-in", Self::BuiltIn),
    ];

    fn from_env(env: &Env<'_>) -> Result<Self, env::Error> {
        match &*env.text(&KAFKA_CLIENT)? {
            // The names of version 0.1.
            #[cfg(feature = "kafka-crate")]
            "kafka" => Ok(Self::KafkaCrate),
            "modern" => Ok(Self::BuiltIn),
            _ => env.choice(&KAFKA_CLIENT, Self::CHOICES),
        }
    }
}

impl fmt::Display for ClientChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::KafkaCrate => "kafka-crate",
            Self::BuiltIn => "built-in",
        })
    }
}

/// Settings of a Kafka client.
#[derive(Debug, Clone)]
pub struct KafkaConfig {
    /// `KAFKA_BROKERS`: at least one host:port.
    pub brokers: Vec<String>,
    /// `KAFKA_CLIENT`.
    pub client: ClientChoice,
    /// `KAFKA_TIMEOUT_MS`.
    pub timeout: Duration,
    /// `partition_max_bytes` of a fetch, bytes.
    pub fetch_bytes: i32,
    /// `COMPRESSION`.
    pub compression: Compression,
    /// SASL credentials from `KAFKA_SASL_*`. `None`: no authentication.
    pub sasl: Option<Sasl>,
}

impl KafkaConfig {
    /// The variables that [`Self::from_env`] reads.
    pub const VARIABLES: &'static [Variable] = &[
        KAFKA_BROKERS,
        KAFKA_CLIENT,
        KAFKA_TIMEOUT_MS,
        COMPRESSION,
        KAFKA_SASL_MECHANISM,
        KAFKA_SASL_USERNAME,
        KAFKA_SASL_PASSWORD,
        KAFKA_SASL_PASSWORD_FILE,
    ];

    /// Reads and checks the variables.
    pub fn from_env(env: &Env<'_>) -> Result<Self, env::Error> {
        let text = env.text(&KAFKA_BROKERS)?;
        let brokers: Vec<String> = text.split(',').map(|broker| broker.trim().to_owned()).collect();
        let has_port = |broker: &String| broker.contains(':') && !broker.ends_with(']');
        let fits = |broker: &String| url::is_address(broker) && has_port(broker);
        if !brokers.iter().all(fits) {
            let expected =
                "host:port, separated by commas, and an IPv6 address in brackets, as in \
                            [::1]:9092"
                    .to_owned();
            return Err(env::invalid(&KAFKA_BROKERS, text, expected));
        }
        let mut config = Self {
            brokers,
            client: ClientChoice::from_env(env)?,
            timeout: env.millis(&KAFKA_TIMEOUT_MS, 1000..=110_000)?,
            fetch_bytes: FETCH_BYTES as i32,
            compression: env.choice(&COMPRESSION, &Compression::ALL)?,
            sasl: sasl(env)?,
        };
        if let Some(sasl) = &config.sasl {
            let mechanism = sasl.mechanism.name();
            config.require_built_in(&KAFKA_SASL_MECHANISM, mechanism)?;
        }
        if let codec @ (Compression::Lz4 | Compression::Zstd) = config.compression {
            config.require_built_in(&COMPRESSION, codec.name())?;
            if cfg!(not(feature = "codecs")) {
                let expected =
                    "none, gzip or snappy, since this program was built without the feature codecs";
                return Err(env::invalid(&COMPRESSION, codec.name().into(), expected.into()));
            }
        }
        Ok(config)
    }

    /// True if `variable` (`CONSUMER_GROUP_PROTOCOL`) makes the service a member of a consumer
    /// group. In that case this selects the built-in client.
    ///
    /// # Errors
    /// The value is invalid, or `KAFKA_CLIENT` selects the kafka crate.
    pub fn joins_group(&mut self, env: &Env<'_>, variable: &Variable) -> Result<bool, env::Error> {
        let joins = env.choice(variable, &[("none", false), ("classic", true)])?;
        if joins {
            self.require_built_in(variable, "classic")?;
        }
        Ok(joins)
    }

    /// Selects the built-in client, since the kafka crate does not support `value` of `variable`.
    ///
    /// # Errors
    /// `KAFKA_CLIENT` selects the kafka crate.
    fn require_built_in(&mut self, variable: &Variable, value: &str) -> Result<(), env::Error> {
        if self.client == ClientChoice::KafkaCrate {
            let expected =
                format!("built-in or auto: the kafka crate has no {}={value}", variable.name);
            return Err(env::invalid(&KAFKA_CLIENT, "kafka-crate".to_owned(), expected));
        }
        self.client = ClientChoice::BuiltIn;
        Ok(())
    }
}

/// Reads the SASL credentials.
fn sasl(env: &Env<'_>) -> Result<Option<Sasl>, env::Error> {
    let mechanisms = Mechanism::ALL.iter().map(|&(name, it)| (name, Some(it)));
    let choices: Vec<(&str, Option<Mechanism>)> =
        [("none", None)].into_iter().chain(mechanisms).collect();
    let Some(mechanism) = env.choice(&KAFKA_SASL_MECHANISM, &choices)? else { return Ok(None) };
    let user = env.text(&KAFKA_SASL_USERNAME)?;
    if user.is_empty() {
        let Variable { name, meaning, .. } = KAFKA_SASL_USERNAME;
        return Err(env::Error::Missing { name, meaning });
    }
    let (value, file) = (&KAFKA_SASL_PASSWORD, &KAFKA_SASL_PASSWORD_FILE);
    let Some(password) = env.parse_secret(value, file, "a password")? else {
        let Variable { name, meaning, .. } = KAFKA_SASL_PASSWORD;
        return Err(env::Error::Missing { name, meaning });
    };
    Ok(Some(Sasl { mechanism, user, password }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<KafkaConfig, env::Error> {
        let lookup = |name: &str| {
            let all =
                [(KAFKA_BROKERS.name, "kafka:9092")].into_iter().chain(variables.iter().copied());
            all.rev().find(|(it, _)| *it == name).map(|(_, value)| value.to_owned())
        };
        KafkaConfig::from_env(&Env::new(&lookup))
    }

    #[test]
    #[cfg(feature = "kafka-crate")]
    fn lz4_and_zstd_select_the_built_in_client() {
        for (codec, compression) in Compression::ALL {
            let by = |client| read(&[("KAFKA_CLIENT", client), ("COMPRESSION", codec)]);
            let newer = matches!(compression, Compression::Lz4 | Compression::Zstd);
            if newer {
                let err = by("kafka-crate").unwrap_err().to_string();
                assert!(
                    err.contains(&format!("the kafka crate has no COMPRESSION={codec}")),
                    "{err}"
                );
            } else {
                assert_eq!(by("kafka-crate").unwrap().compression, compression);
            }
            if newer && cfg!(not(feature = "codecs")) {
                let err = by("auto").unwrap_err().to_string();
                assert!(err.contains("built without the feature codecs"), "{err}");
            } else {
                let client = if newer { ClientChoice::BuiltIn } else { ClientChoice::Auto };
                assert_eq!(by("auto").unwrap().client, client);
                assert_eq!(by("built-in").unwrap().compression, compression);
            }
        }
        assert!(read(&[("COMPRESSION", "brotli")]).is_err());
    }

    #[test]
    fn sasl_requires_a_user_and_one_password() {
        const MECHANISM: (&str, &str) = ("KAFKA_SASL_MECHANISM", "PLAIN");
        const USER: (&str, &str) = ("KAFKA_SASL_USERNAME", "ann");
        const PASSWORD: (&str, &str) = ("KAFKA_SASL_PASSWORD", "hunter2");
        let config = read(&[MECHANISM, USER, PASSWORD]).unwrap();
        assert_eq!(config.client, ClientChoice::BuiltIn);
        let sasl = config.sasl.clone().unwrap();
        assert_eq!((&*sasl.user, &*sasl.password), ("ann", "hunter2"));
        assert!(!format!("{config:?}").contains("hunter2"));

        let file = std::env::temp_dir().join(format!("password-{}", std::process::id()));
        let path = ("KAFKA_SASL_PASSWORD_FILE", file.to_str().unwrap());
        for (text, password) in [("a b", "a b"), ("a b \n", "a b "), ("a\r\n", "a"), ("\n\n", "\n")]
        {
            std::fs::write(&file, text).unwrap();
            let sasl = read(&[MECHANISM, USER, path]).unwrap().sasl.unwrap();
            assert_eq!(sasl.password, password);
        }
        let err = read(&[MECHANISM, USER, PASSWORD, path]).unwrap_err().to_string();
        assert!(err.contains("KAFKA_SASL_PASSWORD is set") && !err.contains("hunter2"), "{err}");
        std::fs::remove_file(&file).unwrap();
        assert!(read(&[MECHANISM, USER, path]).is_err());

        assert!(read(&[MECHANISM, PASSWORD]).is_err());
        assert!(read(&[MECHANISM, USER]).is_err());
        assert!(read(&[("KAFKA_SASL_MECHANISM", "plain"), USER, PASSWORD]).is_err());
        assert_eq!(read(&[USER, PASSWORD]).unwrap().sasl, None);
    }

    #[test]
    #[cfg(feature = "kafka-crate")]
    fn sasl_with_the_kafka_crate_is_rejected() {
        let variables = [
            ("KAFKA_CLIENT", "kafka-crate"),
            ("KAFKA_SASL_MECHANISM", "PLAIN"),
            ("KAFKA_SASL_USERNAME", "ann"),
            ("KAFKA_SASL_PASSWORD", "hunter2"),
        ];
        let err = read(&variables).unwrap_err().to_string();
        assert!(err.contains("the kafka crate has no KAFKA_SASL_MECHANISM=PLAIN"), "{err}");
    }

    #[test]
    fn broker_without_a_port_is_rejected() {
        let read = |text: &str| read(&[(KAFKA_BROKERS.name, text)]).map(|config| config.brokers);
        assert_eq!(read("kafka-1:9092").unwrap(), ["kafka-1:9092"]);
        assert_eq!(read("a:1, [::1]:65535").unwrap(), ["a:1", "[::1]:65535"]);
        for wrong in [
            "", "a", ":1", "a:", "a:0", "a:65536", "a:1,", "a:1,,b:2", "a /b:1", "a@b:1", "a=b:1",
            "é:1",
        ] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn ipv6_address_without_brackets_is_rejected() {
        let read = |text: &str| read(&[(KAFKA_BROKERS.name, text)]).map(|config| config.brokers);
        for wrong in ["::1", "::1:9092", "fe80::1:2", "[::1]", "[::1]9092", "[kafka]:1", "]:1"] {
            let err = read(wrong).unwrap_err().to_string();
            assert!(err.contains("[::1]:9092"), "{err}");
        }
        assert_eq!(read("[fe80::1]:9092").unwrap(), ["[fe80::1]:9092"]);
    }
}
