//! Builds the examples and runs them on the cluster at `KAFKA_BROKERS`, with a topic of their own.
#![allow(clippy::unwrap_used, reason = "tests")]

use kafka_client::protocol::messages::{CreateTopic, CreateTopics};
use kafka_client::{Client, Config, Connection, ConnectionConfig};
use std::env;
use std::process::{Command, Output};
use std::time::{Duration, Instant, SystemTime};

/// Longest wait for anything expected.
const TIMEOUT: Duration = Duration::from_secs(30);

fn brokers() -> Vec<String> {
    let brokers = env::var("KAFKA_BROKERS").expect("KAFKA_BROKERS is set by make test-kafka");
    brokers.split(',').map(str::to_owned).collect()
}

/// A topic of this test. All brokers have its metadata when this returns.
fn create_topic(partitions: i32) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
    let name = format!("examples-{now}");
    let config = ConnectionConfig {
        connect_timeout: TIMEOUT,
        shutdown: None,
        client_id: "examples-test".to_owned(),
        sasl: None,
        response_bytes_max: 4 << 20,
    };
    // In KRaft mode every broker forwards the request to the controller.
    let mut connection = Connection::open(&brokers()[0], &config).unwrap();
    let topic = CreateTopic {
        name: &name,
        num_partitions: partitions,
        replication_factor: 1,
        configs: &[],
    };
    let request = CreateTopics { topics: vec![topic], timeout_ms: 10_000 };
    let results = connection.call(&request, Instant::now() + TIMEOUT).unwrap();
    assert_eq!(results[0].error_code, 0, "{}", results[0].error_message);
    for broker in brokers() {
        Client::new(&Config::new(vec![broker])).leaders(&name, TIMEOUT).unwrap();
    }
    name
}

/// Runs an example. `cargo run` builds it: Cargo builds no examples for a single integration test.
fn run(name: &str, arguments: &[&str], brokers: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO"));
    command
        .args(["run", "--locked", "--quiet", "--package", "kafka-client", "--example", name, "--"])
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("KAFKA_BROKERS");
    command.envs(brokers.map(|brokers| ("KAFKA_BROKERS", brokers))).output().unwrap()
}

/// The lines of an example's output, sorted. Asserts success.
fn lines(name: &str, arguments: &[&str]) -> Vec<String> {
    let output = run(name, arguments, Some(&brokers().join(",")));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{name} {arguments:?}: {errors}");
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// The error message of an example that exits with `code`.
fn error(name: &str, arguments: &[&str], brokers: Option<&str>, code: i32) -> String {
    let output = run(name, arguments, brokers);
    assert_eq!(output.status.code(), Some(code), "{name} {arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
#[ignore = "needs Kafka: make test-kafka"]
fn examples_produce_and_consume_records() {
    let topic = create_topic(2);
    let expected = |lines: &[&str]| -> Vec<String> {
        lines.iter().map(|line| format!("{topic}/{line}")).collect()
    };

    assert_eq!(
        lines("produce", &[&topic, "one", "two", "three"]),
        expected(&["0: 2 records at offset 0", "1: 1 records at offset 0"])
    );
    let first = expected(&["0/0: one", "0/1: three", "1/0: two"]);
    assert_eq!(lines("consume", &[&topic, "reader"]), first);

    // The offsets were committed: a second run reads only the new record.
    assert_eq!(lines("produce", &[&topic, "four"]), expected(&["0: 1 records at offset 2"]));
    let second = expected(&["0/2: four"]);
    assert_eq!(lines("consume", &[&topic, "reader"]), second);
    assert!(lines("consume", &[&topic, "reader"]).is_empty());

    // A member of another group reads all records, and in the next generation none.
    let group = format!("{topic}-members");
    let read = lines("group", &[&topic, &group, "2"]);
    let mut all = [first, second].concat();
    all.insert(0, "generation 1: partitions [0, 1]".to_owned());
    all.sort();
    assert_eq!(read, all);
    let read = lines("group", &[&topic, &group, "2"]);
    assert!(read.len() == 1 && read[0].ends_with("partitions [0, 1]"), "{read:?}");
}

#[test]
#[ignore = "needs Kafka: make test-kafka"]
fn examples_name_the_cause_of_errors() {
    let brokers = brokers().join(",");
    for (name, usage) in [
        ("produce", "usage: produce TOPIC VALUE..."),
        ("consume", "usage: consume TOPIC GROUP"),
        ("group", "usage: group TOPIC GROUP [IDLE_S]"),
    ] {
        assert_eq!(error(name, &[], Some(&brokers), 2).trim(), usage);
    }
    let text = error("produce", &["examples-missing-topic", "x"], Some(&brokers), 1);
    assert!(text.contains("topic examples-missing-topic does not exist"), "{text}");
    let text = error("consume", &["topic", "group"], None, 1);
    assert!(text.contains("KAFKA_BROKERS is not set"), "{text}");
}
