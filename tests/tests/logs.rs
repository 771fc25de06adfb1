//! Logs of real services: stderr without a reader, and repeated failures.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use bank::topology::CONFIRM_MONEY_TRANSFER;
use bank_tests::bank_client::BankClient;
use bank_tests::stack::{PATIENCE, Post, Stack, binary, post};
use bank_tests::wait::until;
use free_port::free_port;
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Capacity of a pipe on Linux.
const PIPE_BYTES: usize = 64 << 10;

/// A service whose stderr is a pipe. Dropping it kills the process.
struct Running {
    process: Child,
    health: u16,
}

impl Running {
    fn start(stack: &Stack, service: &str, stderr: impl Into<Stdio>, env: &[(&str, &str)]) -> Self {
        let health = free_port();
        let process = Command::new(binary(service))
            .env("KAFKA_BROKERS", stack.kafka.brokers.join(","))
            .env("SCHEMA_REGISTRY_URL", stack.registry_url())
            .env("DATABASE_URL", stack.database_url())
            .env("HEALTH_PORT", health.to_string())
            .env("CONTROL_PORT", free_port().to_string())
            .env("GRAPHQL_PORT", free_port().to_string())
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .expect("make test-integration builds it");
        Self { process, health }
    }

    fn get(&self, path: &str) -> Option<String> {
        let url = format!("http://127.0.0.1:{}{path}", self.health);
        ureq::get(&url).call().ok()?.body_mut().read_to_string().ok()
    }

    fn wait_ready(&self) {
        until("the service is ready", PATIENCE, || self.get("/readyz"));
    }

    fn dropped_lines(&self) -> u64 {
        let text = self.get("/metrics").expect("the service responds");
        let value = text.lines().find_map(|it| it.strip_prefix("log_lines_dropped_total "));
        value.expect("it is registered at startup").parse().expect("a number")
    }

    /// Stops it (SIGTERM). Returns the exit status and the time until its end.
    fn stop(&mut self) -> (ExitStatus, Duration) {
        let started = Instant::now();
        let sent = Command::new("kill").arg(self.process.id().to_string()).status();
        assert!(sent.is_ok_and(|status| status.success()));
        let end = until("the service ends", PATIENCE, || self.process.try_wait().unwrap());
        (end, started.elapsed())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn poison(count: usize) -> Vec<Post> {
    let record = |_| {
        let key = Uuid::new_v4().to_string();
        Post::keyed(&CONFIRM_MONEY_TRANSFER, key, b"no command".to_vec())
    };
    (0..count).map(record).collect()
}

/// The pipe is full before the service starts. So a service that waits for stderr stops at its
/// first line.
#[test]
#[ignore = "needs the stack: make test-integration"]
fn unread_stderr_does_not_stop_the_bank() {
    const STOP: Duration = Duration::from_secs(1);
    let stack = Stack::shared();
    let mut client = BankClient::open(&stack);
    let (mut reader, mut writer) = io::pipe().unwrap();
    writer.write_all(&[b'x'; PIPE_BYTES]).unwrap();
    // At this level a handler logs each batch.
    let env = [("LOG", "debug")];
    let mut handler = Running::start(&stack, "command-handler", writer, &env);
    handler.wait_ready();
    let mut kafka_client = stack.kafka_client();
    post(&mut *kafka_client, &poison(300));
    let [account] = client.open_accounts(1, 1_000_000).try_into().unwrap();
    // Sent one by one, so that the handler decides and logs many batches.
    let pay = |client: &mut BankClient<'_>| {
        for _ in 0..50 {
            client.send_transfers(&[account.pays(1, bank_tests::SHOP)]);
        }
        client.settle(PATIENCE);
    };
    until("lines are dropped", 3 * PATIENCE, || {
        pay(&mut client);
        (handler.dropped_lines() > 0).then_some(())
    });
    // A reader gets all lines in the queue, and how many were dropped after them.
    let mut skipped = vec![0; PIPE_BYTES];
    reader.read_exact(&mut skipped).unwrap();
    let mut lines = BufReader::new(reader).lines().map(|line| line.unwrap());
    let report = lines.find(|it| it.contains("msg=\"log lines dropped")).unwrap();
    let (_, dropped) = report.rsplit_once(" dropped=").unwrap();
    assert!(dropped.parse::<u64>().unwrap() > 0, "{report}");
    pay(&mut client);
    assert!(lines.next().unwrap().starts_with("ts="));
    // From here on nothing is read again.
    let dropped = handler.dropped_lines();
    until("lines are dropped again", 3 * PATIENCE, || {
        pay(&mut client);
        (handler.dropped_lines() > dropped).then_some(())
    });
    let (end, took) = handler.stop();
    assert_eq!(end.code(), Some(0), "{end:?}");
    assert!(took < STOP, "the shutdown took {took:?}");
    client.read_to_the_end();
    client.check();
}

/// An exit without a reader does not wait for one either.
#[test]
#[ignore = "needs the stack: make test-integration"]
fn unread_stderr_does_not_delay_an_exit() {
    let stack = Stack::shared();
    for (env, code) in [("KAFKA_BROKERS", 2), ("HEALTH_ADDR", 1)] {
        let (_reader, mut writer) = io::pipe().unwrap();
        writer.write_all(&[b'x'; PIPE_BYTES]).unwrap();
        // The documentation network of RFC 5737, of which no machine has an address.
        let env = [(env, "192.0.2.1")];
        let mut service = Running::start(&stack, "command-handler", writer, &env);
        let started = Instant::now();
        let end = until("it ends", PATIENCE, || service.process.try_wait().unwrap());
        assert_eq!(end.code(), Some(code), "{env:?}");
        assert!(started.elapsed() < Duration::from_secs(5), "{env:?}");
    }
}

/// The last line of a service that fails has the cause, after all other lines.
#[test]
#[ignore = "needs the stack: make test-integration"]
fn last_line_before_an_exit_is_written() {
    let stack = Stack::shared();
    let (reader, writer) = io::pipe().unwrap();
    let env = [("HEALTH_ADDR", "192.0.2.1")];
    let mut service = Running::start(&stack, "command-handler", writer, &env);
    let lines: Vec<String> = BufReader::new(reader).lines().map_while(Result::ok).collect();
    assert_eq!(service.process.wait().unwrap().code(), Some(1));
    let last = lines.last().unwrap();
    assert!(last.starts_with("command-handler: listen for HTTP on 192.0.2.1"), "{last}");
}

/// Counts the warnings and errors of a service with this environment, by message and topic, for
/// some seconds.
fn failures(stack: &Stack, service: &str, env: &[(&str, &str)]) -> BTreeMap<String, usize> {
    const TIME: Duration = Duration::from_secs(4);
    let (reader, writer) = io::pipe().unwrap();
    let running = Running::start(stack, service, writer, env);
    let lines = thread::spawn(move || {
        BufReader::new(reader).lines().map_while(Result::ok).collect::<Vec<_>>()
    });
    thread::sleep(TIME);
    drop(running);
    let mut counts = BTreeMap::new();
    for line in lines.join().unwrap() {
        let Some((_, failure)) = line.split_once("level=warn ").or(line.split_once("level=error "))
        else {
            continue;
        };
        let message = failure.split(" error=").next().unwrap();
        *counts.entry(message.to_owned()).or_default() += 1;
    }
    // One at the start of each second.
    let limit = TIME.as_secs() as usize + 1;
    let excess: Vec<_> = counts.iter().filter(|(_, count)| **count > limit).collect();
    assert!(excess.is_empty(), "{service} with {env:?}: {excess:?}");
    counts
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn repeated_failure_is_logged_once_a_second() {
    let stack = Stack::shared();
    let closed = free_port();
    let (broker, url) = (format!("127.0.0.1:{closed}"), format!("http://127.0.0.1:{closed}"));
    let no_database = format!("postgres://bank:x@127.0.0.1:{closed}/balancedb");
    let (_, server) = stack.database_url().split_once('@').unwrap();
    let no_login = format!("postgres://bank:wrong@{server}");
    let transactions = std::env::var("TRANSACTION_DATABASE_URL").unwrap();
    for (service, faults) in [
        ("heartbeat", &[("KAFKA_BROKERS", &broker), ("SCHEMA_REGISTRY_URL", &url)][..]),
        ("command-generator", &[("KAFKA_BROKERS", &broker), ("SCHEMA_REGISTRY_URL", &url)]),
        ("synchronizer", &[("KAFKA_BROKERS", &broker), ("SCHEMA_REGISTRY_URL", &url)]),
        (
            "command-handler",
            &[
                ("KAFKA_BROKERS", &broker),
                ("SCHEMA_REGISTRY_URL", &url),
                ("DATABASE_URL", &no_database),
                ("DATABASE_URL", &no_login),
            ],
        ),
        (
            "graphql-endpoint",
            &[
                ("KAFKA_BROKERS", &broker),
                ("SCHEMA_REGISTRY_URL", &url),
                ("DATABASE_URL", &no_database),
                ("DATABASE_URL", &no_login),
            ],
        ),
    ] {
        for (variable, value) in faults {
            let env = [("DATABASE_URL", transactions.as_str()), (variable, value.as_str())];
            let env = if service == "graphql-endpoint" { &env[..] } else { &env[1..] };
            let found = failures(&stack, service, env);
            assert!(!found.is_empty(), "{service} logs no failure with {variable}={value}");
        }
    }
}

/// The first record of a run is logged, and once that it is a run. The metric counts all records.
#[test]
#[ignore = "needs the stack: make test-integration"]
fn poison_records_do_not_fill_the_log() {
    const COUNT: usize = 200;
    let stack = Stack::shared();
    let (reader, writer) = io::pipe().unwrap();
    let mut handler = Running::start(&stack, "command-handler", writer, &[]);
    handler.wait_ready();
    let mut kafka_client = stack.kafka_client();
    post(&mut *kafka_client, &poison(COUNT));
    let counter = r#"bank_commands_total{outcome="dead_letter",topic="confirm_money_transfer"} "#;
    until("all are in dead_letter", PATIENCE, || {
        let metrics = handler.get("/metrics")?;
        let count = metrics.lines().find_map(|line| line.strip_prefix(counter))?;
        (count.parse::<usize>() == Ok(COUNT)).then_some(())
    });
    assert_eq!(handler.stop().0.code(), Some(0));
    let mut text = String::new();
    { reader }.read_to_string(&mut text).unwrap();
    let lines: Vec<&str> = text.lines().filter(|it| it.contains("undecodable record")).collect();
    assert_eq!(lines.len(), 1, "{text}");
    assert_eq!(text.matches("all records are undecodable for one reason").count(), 1, "{text}");
}
