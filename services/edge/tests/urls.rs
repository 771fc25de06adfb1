//! URLs that can never work, in the environment of each service.
#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(10);
/// Variables that are accepted.
const VALID: [(&str, &str); 3] = [
    ("KAFKA_BROKERS", "127.0.0.1:1"),
    ("SCHEMA_REGISTRY_URL", "http://127.0.0.1:1"),
    ("DATABASE_URL", "postgres://ann@127.0.0.1:1/db"),
];

/// Runs a service with these variables until it ends. One that still runs after [`DEADLINE`] is
/// killed.
fn run(service: &str, variables: &[(&str, &str)]) -> Output {
    let mut process = Command::new(env!("CARGO_BIN_EXE_edge"))
        .arg(service)
        .env_clear()
        .envs(variables.iter().copied())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + DEADLINE;
    while process.try_wait().unwrap().is_none() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
    let _ = process.kill();
    process.wait_with_output().unwrap()
}

/// The only line of a service that ends with exit code 2 for the value of one variable.
#[track_caller]
fn refused(service: &str, name: &str, value: &str) -> String {
    let output = run(service, &[&VALID[..], &[(name, value)]].concat());
    let log = String::from_utf8(output.stderr).unwrap();
    let result = (output.status.code(), log.lines().count());
    assert_eq!(result, (Some(2), 1), "{service} {value}: {log}");
    assert!(log.contains(name), "{log}");
    log
}

/// The form of other clients, and an address without its port.
#[test]
fn brokers_in_another_form_are_refused() {
    let readers = edge::SERVICES.iter().filter(|service| {
        service.variables.iter().copied().flatten().any(|it| it.name == "KAFKA_BROKERS")
    });
    for service in readers {
        for brokers in ["PLAINTEXT://kafka:9092", "::1", "::1:9092"] {
            let log = refused(service.name, "KAFKA_BROKERS", brokers);
            for part in [brokers, "host:port", "[::1]:9092"] {
                assert!(log.contains(part), "{part} in {log}");
            }
        }
    }
}

#[test]
fn unusable_url_ends_each_service_with_2() {
    let unusable = [
        ("SCHEMA_REGISTRY_URL", "https://ann:hunter2@registry:8081"),
        ("SCHEMA_REGISTRY_URL", "ann:hunter2@registry:8081"),
        ("SCHEMA_REGISTRY_URL", "http://ann:hunter2@registry:8081\r"),
        ("SCHEMA_REGISTRY_URL", " http://ann:hunter2@registry:8081"),
        ("DATABASE_URL", "ann:hunter2@db/bank"),
        ("DATABASE_URL", "postgres://ann:hunter2@db/bank\r"),
        ("DATABASE_URL", "postgres://ann:hunter2@db/bank?sslmode=require"),
        ("DATABASE_URL", "host=db user=ann password=hunter2 sslmode=verify-full"),
        ("DATABASE_URL", "user=ann password=hunter2"),
    ];
    for service in edge::SERVICES {
        for (name, value) in unusable {
            let mut variables = service.variables.iter().copied().flatten();
            if !variables.any(|variable| variable.name == name) {
                continue;
            }
            let log = refused(service.name, name, value);
            assert!(!log.contains("hunter2"), "{log}");
        }
    }
}
