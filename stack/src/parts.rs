//! The parts of a stack in the order in which they start, and their ports.

use crate::settings::Settings;
use std::fmt;

/// A service of the bank.
#[derive(Debug, PartialEq, Eq)]
pub struct Service {
    /// Name of its binary.
    pub name: &'static str,
    /// Its database, if it has one.
    pub database: Option<&'static str>,
    /// The variable of a port in addition to the health port.
    pub own_port: Option<&'static str>,
}

/// The services in the order in which they start. Each receives KAFKA_BROKERS, SCHEMA_REGISTRY_URL,
/// HEALTH_PORT and the caller's environment.
pub static SERVICES: [Service; 5] = [
    Service { name: "heartbeat", database: None, own_port: Some("CONTROL_PORT") },
    Service { name: "command-generator", database: None, own_port: None },
    Service { name: "command-handler", database: Some("balancedb"), own_port: None },
    Service {
        name: "graphql-endpoint",
        database: Some("transactiondb"),
        own_port: Some("GRAPHQL_PORT"),
    },
    Service { name: "frontend", database: None, own_port: Some("FRONTEND_PORT") },
];

/// The program that creates topics and schemas before the services start.
pub const SYNCHRONIZER: &str = "synchronizer";

/// A part of a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A broker; the first has number 1.
    Kafka(u16),
    /// The schema registry.
    Registry,
    /// The database server.
    Postgres,
    /// Its standby, if the setting `STANDBY_PORT` has a port.
    Standby,
    /// A service of the bank, by index in [`SERVICES`].
    Service(usize),
}

impl Part {
    /// The service, if this part is one.
    pub fn service(self) -> Option<&'static Service> {
        match self {
            Self::Service(index) => SERVICES.get(index),
            _ => None,
        }
    }

    /// All ports on which the part listens. Clients use the first.
    pub fn ports(self, settings: &Settings) -> Vec<u16> {
        match self {
            Self::Kafka(n) => {
                let mut ports = vec![settings.kafka_port + n - 1, settings.raft_port + n - 1];
                ports.extend(settings.sasl_port.map(|port| port + n - 1));
                ports
            }
            Self::Registry => vec![settings.registry_port],
            Self::Postgres => vec![settings.postgres_port],
            Self::Standby => settings.standby_port.into_iter().collect(),
            Self::Service(index) => {
                let own = SERVICES[index].own_port.map(|name| own_port(settings, name));
                own.into_iter().chain([self.health_port(settings)]).collect()
            }
        }
    }

    /// The port that clients use.
    pub fn first_port(self, settings: &Settings) -> u16 {
        self.ports(settings)[0]
    }

    /// The port of a service's health endpoints. For a server, its first port.
    pub fn health_port(self, settings: &Settings) -> u16 {
        match self {
            Self::Service(index) => settings.health_ports + u16::try_from(index).unwrap_or(0),
            _ => self.first_port(settings),
        }
    }
}

/// The value of a port variable of [`SERVICES`].
pub fn own_port(settings: &Settings, variable: &str) -> u16 {
    match variable {
        "CONTROL_PORT" => settings.control_port,
        "GRAPHQL_PORT" => settings.graphql_port,
        "FRONTEND_PORT" => settings.frontend_port,
        other => panic!("no setting has the port {other}: add it here and to settings.rs"),
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kafka(n) => f.pad(&format!("kafka-{n}")),
            Self::Registry => f.pad("registry"),
            Self::Postgres => f.pad("postgres"),
            Self::Standby => f.pad("standby"),
            Self::Service(index) => f.pad(SERVICES[*index].name),
        }
    }
}

/// Kafka, registry and PostgreSQL, with its standby if there is one.
pub fn servers(settings: &Settings) -> Vec<Part> {
    let standby = settings.standby_port.map(|_| Part::Standby);
    let brokers = (1..=settings.brokers).map(Part::Kafka);
    brokers.chain([Part::Registry, Part::Postgres]).chain(standby).collect()
}

/// The bank's services.
pub fn services() -> impl Iterator<Item = Part> {
    (0..SERVICES.len()).map(Part::Service)
}

/// All parts.
pub fn all(settings: &Settings) -> Vec<Part> {
    servers(settings).into_iter().chain(services()).collect()
}

/// The names of `parts`, separated by `separator`.
pub fn names(parts: &[Part], separator: &str) -> String {
    parts.iter().map(ToString::to_string).collect::<Vec<_>>().join(separator)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Values;

    #[test]
    fn ports_count_up_from_the_first() {
        let mut given = Values::new();
        given.insert("BROKERS".to_owned(), "3".to_owned());
        given.insert("SASL_PORT".to_owned(), "29292".to_owned());
        let settings = Settings::configured(&given).unwrap();
        assert_eq!(Part::Kafka(3).ports(&settings), [19_094, 19_104, 29_294]);
        assert_eq!(Part::Service(0).ports(&settings), [17_888, 17_500]);
        assert_eq!(Part::Service(2).ports(&settings), [17_502]);
        let names = names(&all(&settings), " ");
        assert!(names.starts_with("kafka-1 kafka-2 kafka-3 registry postgres heartbeat "));
    }
}
