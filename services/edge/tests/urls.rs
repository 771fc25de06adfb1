//! URLs that can never work, in the environment of each service.
#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(10);

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

#[test]
fn unusable_url_ends_each_service_with_2() {
    let valid = [
        ("KAFKA_BROKERS", "127.0.0.1:1"),
        ("SCHEMA_REGISTRY_URL", "http://127.0.0.1:1"),
        ("DATABASE_URL", "postgres://ann@127.0.0.1:1/db"),
    ];
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
            let output = run(service.name, &[&valid[..], &[(name, value)]].concat());
            let log = String::from_utf8_lossy(&output.stderr);
            let lines: Vec<&str> = log.lines().collect();
            assert_eq!(output.status.code(), Some(2), "{} {value}: {log}", service.name);
            assert!(lines.len() == 1 && lines[0].contains(name), "{log}");
            assert!(!log.contains("hunter2"), "{log}");
        }
    }
}
