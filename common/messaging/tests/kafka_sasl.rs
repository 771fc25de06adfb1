//! Tests with SASL on the brokers at `KAFKA_SASL_BROKERS`. They need a stack with `SASL_PORT` and
//! `connections.max.reauth.ms=5000`.

#![allow(clippy::unwrap_used, reason = "tests")]

mod kafka_support;

use kafka_support::{PATIENCE, java_client, numbered, topic};
use messaging::producer::{ProducerConfig, Sender};
use messaging::{Batch, ErrorKind, KafkaClient, NewRecord, Position};
use messaging::{ClientChoice, KafkaConfig};
use service::env::Env;
use service::shutdown::Shutdown;
use std::sync::Once;
use std::time::{Duration, Instant};

/// Mechanism, user and password. stack/src/kafka.rs and JavaClient.java create them.
const PLAIN: [&str; 3] = ["PLAIN", "bank", "in plain words"];
const SCRAM_256: [&str; 3] = ["SCRAM-SHA-256", "ann,=", "pencil"];
const SCRAM_512: [&str; 3] = ["SCRAM-SHA-512", "ann,=", "pencil"];
/// Session lifetime, after which clients must reauthenticate.
const LIFETIME: Duration = Duration::from_secs(5);

fn lookup(who: [&str; 3], name: &str) -> Option<String> {
    let [mechanism, user, password] = who;
    let value = match name {
        "KAFKA_CLIENT" => "auto",
        "KAFKA_SASL_MECHANISM" => mechanism,
        "KAFKA_SASL_USERNAME" => user,
        "KAFKA_SASL_PASSWORD" => password,
        "KAFKA_BROKERS" => {
            return Some(std::env::var("KAFKA_SASL_BROKERS").expect("a stack with SASL_PORT"));
        }
        _ => return std::env::var(name).ok(),
    };
    Some(value.to_owned())
}

fn config(who: [&str; 3]) -> KafkaConfig {
    let config = KafkaConfig::from_env(&Env::new(&|name| lookup(who, name))).unwrap();
    assert_eq!(config.client, ClientChoice::BuiltIn, "the kafka crate has no SASL");
    config
}

/// Creates SCRAM credentials with both hashes.
fn make_users(topic: &str) {
    static MADE: Once = Once::new();
    MADE.call_once(|| {
        java_client(topic, &["user:4096"]);
    });
}

/// Waits until the user can authenticate on all brokers.
fn wait_for(who: [&str; 3], topic: &str) {
    let start = Instant::now();
    for broker in config(who).brokers {
        let alone = KafkaConfig { brokers: vec![broker], ..config(who) };
        while let Err(err) = messaging::connect(&alone).leaders(topic, PATIENCE) {
            assert!(err.kind == ErrorKind::Config && start.elapsed() < PATIENCE, "{err}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
#[ignore = "needs Kafka: make test-integration"]
fn authenticates_and_reauthenticates_after_session_expiry() {
    let topic = topic("sasl", 3, &[]);
    make_users(topic);
    let all = [PLAIN, SCRAM_256, SCRAM_512];
    all.iter().for_each(|who| wait_for(*who, topic));
    let mut clients: Vec<Box<dyn KafkaClient>> =
        all.iter().map(|who| messaging::connect(&config(*who))).collect();
    let end = Instant::now() + LIFETIME + LIFETIME / 5;
    let mut next = 0;
    while Instant::now() < end {
        // From the second round on there is no time for a retry. A connection closed by the broker
        // would be an error.
        let within = if next < 3 { PATIENCE } else { Duration::ZERO };
        for (client, [mechanism, ..]) in clients.iter_mut().zip(all) {
            let records =
                vec![NewRecord { value: Some(mechanism.as_bytes()), ..NewRecord::default() }];
            let written = client.produce(&[Batch { topic, partition: 0, records }], within);
            assert_eq!(*written[0].as_ref().unwrap(), next, "{mechanism}");
            let position = Position { partition: 0, next };
            let data = client.fetch(topic, &[position], PATIENCE).unwrap().remove(0);
            assert!(data.error.is_none(), "{mechanism}: {:?}", data.error);
            assert_eq!(data.records[0].value.as_deref(), Some(mechanism.as_bytes()));
            next += 1;
            let position = Position { partition: 0, next };
            client.commit(topic, topic, &[position], within).unwrap();
        }
    }
    for client in &mut clients {
        assert_eq!(client.committed(topic, topic, PATIENCE).unwrap()[0], Some(next));
        assert_eq!(client.log_range(topic, PATIENCE).unwrap()[0], (0, next));
    }
}

#[test]
#[ignore = "needs Kafka: make test-integration"]
fn wrong_password_is_a_config_error() {
    let topic = topic("sasl-wrong", 1, &[]);
    make_users(topic);
    wait_for(SCRAM_512, topic);
    for [mechanism, user, _] in [PLAIN, SCRAM_256, SCRAM_512] {
        for user in [user, "unknown"] {
            let who = [mechanism, user, "not this one"];
            let start = Instant::now();
            let err = messaging::connect(&config(who)).leaders(topic, PATIENCE).unwrap_err();
            assert_eq!(err.kind, ErrorKind::Config, "{err}");
            let words = format!("user {user:?}, SASL {mechanism}: Authentication failed");
            assert!(err.text.contains(&words) && !err.text.contains("not this one"), "{err}");
            // A sender retries other errors forever, but returns this one.
            let env = |name: &str| lookup(who, name);
            let producer = ProducerConfig::from_env(&Env::new(&env)).unwrap();
            let mut sender = Sender::new(&producer, &Shutdown::default());
            let result = sender.send_all(&numbered(topic, 0..1)).remove(0);
            assert_eq!(result.unwrap_err().kind, ErrorKind::Config);
            assert!(start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
        }
    }
}

#[test]
#[ignore = "needs Kafka: make test-integration"]
fn sasl_mismatch_with_the_listener_is_reported() {
    let topic = topic("sasl-none", 1, &[]);
    let with_sasl = KafkaConfig { brokers: kafka_support::config().brokers, ..config(PLAIN) };
    let err = messaging::connect(&with_sasl).leaders(topic, PATIENCE).unwrap_err();
    assert!(
        err.kind == ErrorKind::Config && err.text.contains("no SASL is configured on this port"),
        "{err}"
    );
    let without_sasl = KafkaConfig { sasl: None, ..config(PLAIN) };
    let err = messaging::connect(&without_sasl).leaders(topic, Duration::ZERO).unwrap_err();
    assert!(
        err.kind == ErrorKind::Retry && err.text.contains("does this port require SASL"),
        "{err}"
    );
}
