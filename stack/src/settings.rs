//! The variables that a running stack stores, so that later commands need only `STACK_DIR`.

use crate::error::{Context, Result, usage};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// All variables with their defaults. README.md describes them.
const DEFAULTS: [(&str, &str); 17] = [
    ("BROKERS", "1"),
    ("KAFKA", "3.9"),
    ("KAFKA_PORT", "19092"),
    ("RAFT_PORT", ""),
    ("SASL_PORT", ""),
    ("REGISTRY_PORT", "18081"),
    ("POSTGRES_PORT", "15432"),
    ("STANDBY_PORT", ""),
    ("HEALTH_PORTS", "17500"),
    ("CONTROL_PORT", "17888"),
    ("GRAPHQL_PORT", "8888"),
    ("FRONTEND_PORT", "8181"),
    ("PROFILE", "release"),
    ("FEATURES", ""),
    ("BIN_DIR", ""),
    ("KAFKA_OPTIONS", ""),
    ("POSTGRES_OPTIONS", ""),
];

/// Highest port, which leaves ports for further brokers and services.
const PORT_MAX: u16 = 65_499;

/// Variables by name.
pub type Values = BTreeMap<String, String>;

/// The checked settings of a stack.
#[derive(Debug, Clone)]
pub struct Settings {
    /// All variables, as in the file `settings`.
    pub values: Values,
    /// Kafka brokers, 1 or 3.
    pub brokers: u16,
    /// Version of Kafka, "3.9" or "4".
    pub kafka: String,
    /// Port of kafka-1. Each further broker has the next port.
    pub kafka_port: u16,
    /// Port of the controller in kafka-1.
    pub raft_port: u16,
    /// Port on which kafka-1 requires SASL.
    pub sasl_port: Option<u16>,
    /// Port of the registry.
    pub registry_port: u16,
    /// Port of PostgreSQL.
    pub postgres_port: u16,
    /// Port of a second PostgreSQL, to which the first one replicates.
    pub standby_port: Option<u16>,
    /// `HEALTH_PORT` of the first service. Each further service has the next port.
    pub health_ports: u16,
    /// Control port of the heartbeat.
    pub control_port: u16,
    /// Port of the graphql-endpoint.
    pub graphql_port: u16,
    /// Port of the frontend.
    pub frontend_port: u16,
}

impl Settings {
    /// The settings in the environment, with defaults for the others.
    pub fn configured(given: &Values) -> Result<Self> {
        let mut values = Values::new();
        for (name, default) in DEFAULTS {
            let value = given.get(name).map_or(default, String::as_str);
            values.insert(name.to_owned(), value.to_owned());
        }
        Self::check(values)
    }

    /// The settings with which the stack in `dir` was last started, or those in the environment if
    /// it was never started.
    pub fn remembered(given: &Values, dir: &Path) -> Result<Self> {
        let mut values = Self::configured(given)?.values;
        let text = match fs::read_to_string(dir.join("settings")) {
            Ok(text) => text,
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(err) => return Err(err).context(dir.join("settings").display()),
        };
        for (name, value) in text.lines().filter_map(|line| line.split_once('=')) {
            if let Some(known) = values.get_mut(name) {
                value.clone_into(known);
            }
        }
        Self::check(values)
    }

    /// Stores the settings for later commands.
    pub fn memorize(&self, dir: &Path) -> Result<()> {
        let text: String =
            self.values.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        let path = dir.join("settings");
        fs::write(&path, text).context(path.display())
    }

    fn check(mut values: Values) -> Result<Self> {
        let kafka_port = port(&values, "KAFKA_PORT")?;
        if values["RAFT_PORT"].is_empty() {
            values.insert("RAFT_PORT".to_owned(), (kafka_port + 10).to_string());
        }
        let brokers = match values["BROKERS"].as_str() {
            "1" => 1,
            "3" => 3,
            other => return Err(usage(format!("BROKERS={other}: expected 1 or 3"))),
        };
        let kafka = values["KAFKA"].clone();
        if kafka != "3.9" && kafka != "4" {
            return Err(usage(format!("KAFKA={kafka}: expected 3.9 or 4")));
        }
        let optional = |name: &str| {
            if values[name].is_empty() { Ok(None) } else { port(&values, name).map(Some) }
        };
        Ok(Self {
            brokers,
            kafka,
            kafka_port,
            raft_port: port(&values, "RAFT_PORT")?,
            sasl_port: optional("SASL_PORT")?,
            registry_port: port(&values, "REGISTRY_PORT")?,
            postgres_port: port(&values, "POSTGRES_PORT")?,
            standby_port: optional("STANDBY_PORT")?,
            health_ports: port(&values, "HEALTH_PORTS")?,
            control_port: port(&values, "CONTROL_PORT")?,
            graphql_port: port(&values, "GRAPHQL_PORT")?,
            frontend_port: port(&values, "FRONTEND_PORT")?,
            values,
        })
    }

    /// A setting as text; empty if it is not set.
    pub fn text(&self, name: &str) -> &str {
        self.values.get(name).map_or("", String::as_str)
    }

    /// The first setting of the caller that differs: name, value here, value given.
    pub fn difference<'a>(&'a self, given: &'a Values) -> Option<(&'a str, &'a str, &'a str)> {
        given
            .iter()
            .map(|(name, value)| (name.as_str(), self.text(name), value.as_str()))
            .find(|(_, here, given)| here != given)
    }
}

fn port(values: &Values, name: &str) -> Result<u16> {
    let text = &values[name];
    text.parse()
        .ok()
        .filter(|port| (1..=PORT_MAX).contains(port))
        .ok_or_else(|| usage(format!("{name}={text}: expected a port from 1 to {PORT_MAX}")))
}

/// The variables in the caller's environment. An empty variable counts as not set.
pub fn given() -> Result<Values> {
    let mut given = Values::new();
    for (name, _) in DEFAULTS {
        let Some(mut value) = variable(name)? else { continue };
        if name == "BIN_DIR" {
            value = absolute(Path::new(&value))?.display().to_string();
        }
        given.insert(name.to_owned(), value);
    }
    Ok(given)
}

/// An environment variable; None if it is empty or not set.
pub fn variable(name: &str) -> Result<Option<String>> {
    match std::env::var(name) {
        Ok(value) if value.contains('\n') => Err(usage(format!("{name}: expected one line"))),
        Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(err) => Err(usage(format!("{name}: {err}"))),
    }
}

/// The folder in an environment variable, as an absolute path.
pub fn folder(name: &str) -> Result<Option<PathBuf>> {
    variable(name)?.map(|value| absolute(Path::new(&value))).transpose()
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).context(path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(pairs: &[(&str, &str)]) -> Values {
        pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn defaults_match_the_readme() {
        let settings = Settings::configured(&Values::new()).unwrap();
        assert_eq!((settings.brokers, settings.kafka.as_str()), (1, "3.9"));
        assert_eq!((settings.raft_port, settings.sasl_port), (19_102, None));
        let readme = include_str!("../README.md");
        for (name, default) in DEFAULTS {
            let row = readme.lines().find(|line| {
                line.strip_prefix("| ").is_some_and(|line| {
                    line.split('|').next().is_some_and(|names| {
                        names.trim().split(", ").any(|documented| documented == name)
                    })
                })
            });
            let row = row.unwrap_or_else(|| panic!("README.md documents {name}"));
            assert!(row.contains(default), "{row}");
        }
    }

    #[test]
    fn wrong_settings_are_rejected_by_name() {
        for (name, value, expected) in [
            ("BROKERS", "2", "BROKERS=2: expected 1 or 3"),
            ("KAFKA", "5", "KAFKA=5: expected 3.9 or 4"),
            ("KAFKA_PORT", "0", "KAFKA_PORT=0: expected a port from 1 to 65499"),
            ("SASL_PORT", "x", "SASL_PORT=x: expected a port from 1 to 65499"),
            ("GRAPHQL_PORT", "65500", "GRAPHQL_PORT=65500: expected a port from 1 to 65499"),
        ] {
            let err = Settings::configured(&given(&[(name, value)])).unwrap_err();
            assert_eq!((err.to_string().as_str(), err.exit_code()), (expected, 2));
        }
    }

    #[test]
    fn differing_setting_is_found() {
        let settings = Settings::configured(&given(&[("SASL_PORT", "29292")])).unwrap();
        assert_eq!(settings.sasl_port, Some(29_292));
        assert_eq!(settings.difference(&given(&[("SASL_PORT", "29292")])), None);
        let other = given(&[("BROKERS", "3")]);
        assert_eq!(settings.difference(&other), Some(("BROKERS", "1", "3")));
    }
}
