//! Tests of the binary with Kafka and a schema registry, at `KAFKA_BROKERS` and
//! `SCHEMA_REGISTRY_URL`. No other process may send heartbeat records during the tests.
#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

use avro::Decoder;
use avro::registry::Registry;
use bank::records::Heartbeat;
use bank::topology::HEARTBEAT;
use free_port::free_port;
use messaging::KafkaConfig;
use messaging::Position;
use serde_json::{Value, json};
use service::env::{Env, SCHEMA_REGISTRY_URL};
use service::shutdown::Shutdown;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// Deadline of every wait.
const DEADLINE: Duration = Duration::from_secs(30);
const HOUR_MS: &str = "3600000";

/// A running heartbeat service on its own ports. Dropping it kills the process.
struct Running {
    process: Child,
    control: u16,
    health: u16,
    log: mpsc::Receiver<String>,
}

impl Running {
    fn start(variables: &[(&str, &str)]) -> Self {
        let (control, health) = (free_port(), free_port());
        let mut process = Command::new(env!("CARGO_BIN_EXE_heartbeat"))
            .env("CONTROL_PORT", control.to_string())
            .env("HEALTH_PORT", health.to_string())
            .envs(variables.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let (sender, log) = mpsc::channel();
        thread::spawn(move || lines.map_while(Result::ok).all(|line| sender.send(line).is_ok()));
        Self { process, control, health, log }
    }

    fn start_ready(variables: &[(&str, &str)]) -> Self {
        let running = Self::start(variables);
        wait_until("ready", || running.is_ready());
        running
    }

    /// Runs `healthcheck`, as a container does.
    fn is_ready(&self) -> bool {
        let mut check = Command::new(env!("CARGO_BIN_EXE_heartbeat"));
        check.arg("healthcheck").env("HEALTH_PORT", self.health.to_string()).stderr(Stdio::null());
        check.status().unwrap().success()
    }

    /// Waits for a log line that contains `text`.
    fn wait_for_log(&self, text: &str) {
        while !self.log.recv_timeout(DEADLINE).unwrap().contains(text) {}
    }

    fn put(&self, body: &Value) -> (u16, String) {
        request(self.control, "PUT", &body.to_string())
    }

    fn sent(&self) -> i64 {
        let (status, body) = request(self.control, "GET", "");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str::<Value>(&body).unwrap()["sent"].as_i64().unwrap()
    }

    fn wait_for_sent(&self, count: i64) {
        wait_until("sent", || self.sent() >= count);
    }

    /// Sends SIGTERM; returns the exit status and the time until the exit.
    fn terminate(mut self) -> (ExitStatus, Duration) {
        let started = Instant::now();
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        (self.process.wait().unwrap(), started.elapsed())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < deadline, "not {what} after {DEADLINE:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn request(port: u16, method: &str, body: &str) -> (u16, String) {
    let mut service = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    service.set_read_timeout(Some(DEADLINE)).unwrap();
    let length = body.len();
    write!(service, "{method} / HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
    let mut response = String::new();
    service.read_to_string(&mut response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (head["HTTP/1.1 ".len()..][..3].parse().unwrap(), body.to_owned())
}

/// The heartbeat topic, locked for one test at a time.
struct Topic {
    kafka: KafkaConfig,
    registry: Registry,
    /// End offset when the test opened the topic.
    end: i64,
    _lock: MutexGuard<'static, ()>,
}

impl Topic {
    fn open() -> Self {
        static LOCK: Mutex<()> = Mutex::new(());
        let lock = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
        let env = Env::new(&|name| std::env::var(name).ok());
        // The synchronizer creates the topic and its schema, as in production.
        let config = synchronizer::Config::from_env(&env).expect("needs Kafka and registry");
        let mut out = Vec::new();
        let shutdown = Shutdown::default();
        let summary = synchronizer::synchronize(&config, &[HEARTBEAT], false, &shutdown, &mut out);
        assert_eq!(summary.unwrap().problems, 0, "{}", String::from_utf8_lossy(&out));
        let registry = Registry::new(&env.text(&SCHEMA_REGISTRY_URL).unwrap());
        let mut topic = Self { kafka: config.kafka, registry, end: 0, _lock: lock };
        topic.end = topic.log_range().1;
        topic
    }

    fn log_range(&self) -> (i64, i64) {
        messaging::connect(&self.kafka).log_range(HEARTBEAT.name, DEADLINE).unwrap()[0]
    }

    /// Keys and numbers of the records since [`Self::open`].
    fn records(&self) -> Vec<(u128, i64)> {
        let mut decoder = Decoder::<Heartbeat>::new(self.registry.clone());
        let mut kafka_client = messaging::connect(&self.kafka);
        let (mut records, mut next, end) = (Vec::new(), self.end, self.log_range().1);
        while next < end {
            let position = Position { partition: 0, next };
            for chunk in kafka_client.fetch(HEARTBEAT.name, &[position], DEADLINE).unwrap() {
                next = chunk.next;
                for record in chunk.records {
                    let key = String::from_utf8(record.key.unwrap()).unwrap().parse().unwrap();
                    records.push((key, decoder.decode(&record.value.unwrap()).unwrap().beat));
                }
            }
        }
        records
    }
}

fn now_ms() -> u128 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis()
}

/// Asserts that each number is one more than the previous number.
fn assert_without_gaps(records: &[(u128, i64)]) {
    for pair in records.windows(2) {
        assert_eq!(pair[1].1, pair[0].1 + 1);
    }
}

#[test]
#[ignore = "needs Kafka: make test-integration"]
fn control_changes_the_load_from_the_next_heartbeat() {
    let topic = Topic::open();
    let heartbeat = Running::start_ready(&[("SLEEP_MS", HOUR_MS)]);
    let from_ms = now_ms();
    // The interval is one hour. A change is effective before it ends.
    let (status, body) = heartbeat.put(&json!({"batch_size": 5, "sleep_ms": 20}));
    assert_eq!((status, body.contains(r#""batch_size":5,"sleep_ms":20"#)), (200, true), "{body}");
    heartbeat.wait_for_sent(50);
    for (wrong, expected) in [
        (json!({"batch_size": 1, "sleep_ms": 0}), "from 1 to 3600000"),
        (json!({"batch_size": "1"}), "from 0 to 100000"),
        (json!({"beats": 1}), "expected batch_size or sleep_ms"),
    ] {
        let (status, body) = heartbeat.put(&wrong);
        assert_eq!((status, body.contains(expected)), (400, true), "{body}");
    }
    heartbeat.wait_for_sent(heartbeat.sent() + 50);
    assert_eq!(heartbeat.put(&json!({"batch_size": 0})).0, 200);
    // A heartbeat that has started is sent completely.
    wait_until("settled", || topic.end + heartbeat.sent() == topic.log_range().1);

    let records = topic.records();
    assert_eq!(records.len() as i64, heartbeat.sent());
    assert_eq!(records.len() % 5, 0);
    assert_without_gaps(&records);
    for heartbeat in records.chunks(5) {
        let at_ms = heartbeat[0].0;
        assert!(heartbeat.iter().all(|(key, _)| *key == at_ms), "{heartbeat:?}");
        assert!((from_ms..=now_ms()).contains(&at_ms), "{at_ms}");
    }
    assert!(records.is_sorted());
}

#[test]
#[ignore = "needs Kafka: make test-integration"]
fn numbers_continue_after_sigterm_and_sigkill() {
    let topic = Topic::open();
    let load = [("BATCH_SIZE", "200"), ("SLEEP_MS", "10")];
    for _ in 0..2 {
        let heartbeat = Running::start_ready(&load);
        heartbeat.wait_for_sent(10_000);
        let (exit, took) = heartbeat.terminate();
        assert_eq!(exit.code(), Some(0));
        assert!(took < Duration::from_secs(1), "{took:?}");

        let heartbeat = Running::start_ready(&load);
        heartbeat.wait_for_sent(10_000);
        drop(heartbeat); // Sends SIGKILL.
    }
    let records = topic.records();
    assert!(records.len() >= 40_000);
    assert_without_gaps(&records);
}

#[test]
fn control_and_shutdown_work_without_servers() {
    let unused = free_port();
    let heartbeat = Running::start(&[
        ("KAFKA_BROKERS", &format!("127.0.0.1:{unused}")),
        ("SCHEMA_REGISTRY_URL", &format!("http://127.0.0.1:{unused}")),
    ]);
    heartbeat.wait_for_log("waiting for the schema registry");
    assert_eq!(heartbeat.put(&json!({"batch_size": 5})).0, 200);
    assert!(!heartbeat.is_ready());
    let (exit, took) = heartbeat.terminate();
    assert_eq!(exit.code(), Some(0));
    assert!(took < Duration::from_secs(1), "{took:?}");
}

/// Forwards connections from `port` to `to` (host:port) until the test ends.
fn forward(port: u16, to: &str) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    let to = to.to_owned();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let server = TcpStream::connect(&to).unwrap();
            let copies =
                [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)];
            for (mut from, mut to) in copies {
                thread::spawn(move || io::copy(&mut from, &mut to));
            }
        }
    });
}

#[test]
#[ignore = "needs Kafka: make test-integration"]
fn service_becomes_ready_when_servers_do() {
    let topic = Topic::open();
    let registry_url = std::env::var(SCHEMA_REGISTRY_URL.name).unwrap();
    let (host, path) = registry_url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let (broker, registry) = (free_port(), free_port());
    let heartbeat = Running::start(&[
        ("KAFKA_BROKERS", &format!("127.0.0.1:{broker}")),
        ("SCHEMA_REGISTRY_URL", &format!("http://127.0.0.1:{registry}/{path}")),
        ("BATCH_SIZE", "1"),
        ("SLEEP_MS", "1"),
    ]);
    heartbeat.wait_for_log("waiting for the schema registry");
    forward(registry, host);
    heartbeat.wait_for_log("waiting for the last heartbeat record");
    assert!(!heartbeat.is_ready());
    forward(broker, &topic.kafka.brokers[0]);
    heartbeat.wait_for_log("ready to send heartbeats");
    heartbeat.wait_for_sent(10);
    assert!(heartbeat.is_ready());
}
