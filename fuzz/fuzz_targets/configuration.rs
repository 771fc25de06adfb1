//! Reads libFuzzer's input as the environment of the services: lines of NAME=value. In a value, a
//! vertical tab is a line break.
#![no_main]

use messaging::KafkaConfig;
use messaging::producer::ProducerConfig;
use postgres::config::Host;
use service::env::{self, Env};
use std::sync::LazyLock;

/// A secret. It replaces `$` in the values of secret variables.
const SECRET: &str = "hunter2";

/// Names of the secret variables.
static SECRETS: LazyLock<Vec<&str>> = LazyLock::new(|| {
    let services = [graphql_endpoint::SERVICE, heartbeat::SERVICE, command_generator::SERVICE];
    let variables = services.iter().flat_map(|service| service.variables.iter().copied().flatten());
    variables.filter(|variable| variable.secret).map(|variable| variable.name).collect()
});

/// Values of the required variables that the input leaves out.
const REQUIRED: [(&str, &str); 3] = [
    ("KAFKA_BROKERS", "kafka:9092"),
    ("SCHEMA_REGISTRY_URL", "http://registry:8081"),
    ("DATABASE_URL", "postgres://bank@db/bank"),
];

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let lookup = |name: &str| value(text, name);
    let env = Env::new(&lookup);
    check(graphql_endpoint::fuzzing::configuration(&env));
    check(frontend::fuzzing::configuration(&env));
    check(synchronizer::Config::from_env(&env));
    check(command_generator::config::Config::from_env(&env));
    check(heartbeat::config::Config::from_env(&env));
    if let Some(producer) = check(ProducerConfig::from_env(&env)) {
        check_brokers(&producer.kafka);
    }
    if let Some(url) = check(env.text(&env::SCHEMA_REGISTRY_URL)) {
        let uri: http::Uri = url.parse().expect("an accepted URL is valid");
        assert!(uri.host().is_some_and(|host| !host.is_empty()), "{url}");
    }
    if let Some(config) = check(service::database::config(&env)) {
        check_database(&config);
    }
});

/// The value of a variable in the input. Files are not read.
fn value(text: &str, name: &str) -> Option<String> {
    if name.ends_with("_FILE") {
        return None;
    }
    let line = text.split('\n').find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let required = REQUIRED.iter().find(|(it, _)| *it == name).map(|(_, value)| *value);
    let value = line.or(required)?.replace('\u{b}', "\n");
    Some(if SECRETS.contains(&name) {
        value.replace('$', SECRET)
    } else {
        value.replace(SECRET, "")
    })
}

/// Asserts that an error is one line without a secret.
fn check<T>(result: Result<T, env::Error>) -> Option<T> {
    if let Err(err) = &result {
        let text = err.to_string();
        assert!(!text.contains(SECRET) && !text.contains(char::is_control), "{text}");
    }
    result.ok()
}

/// Asserts that each broker is a host and a port.
fn check_brokers(config: &KafkaConfig) {
    assert!(!config.brokers.is_empty());
    for broker in &config.brokers {
        let uri: http::Uri = format!("http://{broker}").parse().expect("a broker is an address");
        assert!(uri.host().is_some_and(|host| !host.is_empty()), "{broker}");
        assert!(uri.port_u16().is_some_and(|port| port > 0), "{broker}");
    }
}

/// Asserts that no setting makes each connection attempt fail.
fn check_database(config: &postgres::Config) {
    let (hosts, addresses) = (config.get_hosts(), config.get_hostaddrs());
    let count = hosts.len().max(addresses.len());
    assert!(count > 0 && [0, count].contains(&addresses.len()), "{config:?}");
    assert!([0, count].contains(&hosts.len()), "{config:?}");
    let ports = config.get_ports();
    assert!([0, 1, count].contains(&ports.len()) && !ports.contains(&0), "{config:?}");
    let is_empty = |host: &Host| matches!(host, Host::Tcp(name) if name.is_empty());
    assert!(!hosts.iter().any(is_empty), "{config:?}");
}
