//! The service as it is started in earnest, on the Kafka and schema registry that `KAFKA_BROKERS`
//! and `SCHEMA_REGISTRY_URL` name. Nobody else may beat meanwhile.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use avro::Decoder;
use avro::registry::Registry;
use bank::records::Heartbeat;
use bank::topology::HEARTBEAT;
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

/// Longest wait for anything that should come.
const PATIENCE: Duration = Duration::from_secs(30);
const HOUR_MS: &str = "3600000";

/// A heartbeat of its own ports, killed when dropped.
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
        let (tell, log) = mpsc::channel();
        thread::spawn(move || lines.map_while(Result::ok).all(|line| tell.send(line).is_ok()));
        Self { process, control, health, log }
    }

    fn start_ready(variables: &[(&str, &str)]) -> Self {
        let running = Self::start(variables);
        wait_until("ready", || running.is_ready());
        running
    }

    /// As a container's health check asks.
    fn is_ready(&self) -> bool {
        let mut check = Command::new(env!("CARGO_BIN_EXE_heartbeat"));
        check.arg("healthcheck").env("HEALTH_PORT", self.health.to_string()).stderr(Stdio::null());
        check.status().unwrap().success()
    }

    /// Waits for a line with `text`.
    fn logs(&self, text: &str) {
        while !self.log.recv_timeout(PATIENCE).unwrap().contains(text) {}
    }

    fn put(&self, body: &Value) -> (u16, String) {
        ask(self.control, "PUT", &body.to_string())
    }

    fn sent(&self) -> i64 {
        let (status, body) = ask(self.control, "GET", "");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str::<Value>(&body).unwrap()["sent"].as_i64().unwrap()
    }

    fn wait_sent(&self, count: i64) {
        wait_until("sent", || self.sent() >= count);
    }

    /// Asks it to stop; its exit and how long that took.
    fn terminate(mut self) -> (ExitStatus, Duration) {
        let asked = Instant::now();
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        (self.process.wait().unwrap(), asked.elapsed())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "not {what} after {PATIENCE:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn ask(port: u16, method: &str, body: &str) -> (u16, String) {
    let mut service = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    service.set_read_timeout(Some(PATIENCE)).unwrap();
    let length = body.len();
    write!(service, "{method} / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
    let mut reply = String::new();
    service.read_to_string(&mut reply).unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    (head["HTTP/1.1 ".len()..][..3].parse().unwrap(), body.to_owned())
}

/// The topic, for one test at a time: where it ended then, and what has come since.
struct Topic {
    kafka: KafkaConfig,
    registry: Registry,
    end: i64,
    _alone: MutexGuard<'static, ()>,
}

impl Topic {
    fn open() -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let env = Env::new(&|name| std::env::var(name).ok());
        // The topic and its schema are made by who makes them in earnest.
        let config = synchronizer::Config::from_env(&env).expect("needs Kafka and registry");
        let mut out = Vec::new();
        let shutdown = Shutdown::default();
        let made = synchronizer::synchronize(&config, &[HEARTBEAT], false, &shutdown, &mut out);
        assert_eq!(made.unwrap().problems, 0, "{}", String::from_utf8_lossy(&out));
        let registry = Registry::new(&env.text(&SCHEMA_REGISTRY_URL).unwrap());
        let mut topic = Self { kafka: config.kafka, registry, end: 0, _alone: alone };
        topic.end = topic.log_range().1;
        topic
    }

    fn log_range(&self) -> (i64, i64) {
        messaging::connect(&self.kafka).log_range(HEARTBEAT.name, PATIENCE).unwrap()[0]
    }

    /// Keys and beats of the records since the opening.
    fn records(&self) -> Vec<(u128, i64)> {
        let mut decoder = Decoder::<Heartbeat>::new(self.registry.clone());
        let mut kafka_client = messaging::connect(&self.kafka);
        let (mut records, mut next, end) = (Vec::new(), self.end, self.log_range().1);
        while next < end {
            let position = Position { partition: 0, next };
            for chunk in kafka_client.fetch(HEARTBEAT.name, &[position], PATIENCE).unwrap() {
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

/// Each beat is one more than the one before.
fn assert_without_gaps(records: &[(u128, i64)]) {
    for pair in records.windows(2) {
        assert_eq!(pair[1].1, pair[0].1 + 1);
    }
}

#[test]
#[ignore = "needs Kafka: make test-integration"]
fn control_changes_the_load_from_the_next_heartbeat() {
    let topic = Topic::open();
    let heart = Running::start_ready(&[("SLEEP_MS", HOUR_MS)]);
    let from_ms = now_ms();
    // It sleeps for an hour, and does not when told otherwise.
    let (status, body) = heart.put(&json!({"batch_size": 5, "sleep_ms": 20}));
    assert_eq!((status, body.contains(r#""batch_size":5,"sleep_ms":20"#)), (200, true), "{body}");
    heart.wait_sent(50);
    for (wrong, expected) in [
        (json!({"batch_size": 1, "sleep_ms": 0}), "from 1 to 3600000"),
        (json!({"batch_size": "1"}), "from 0 to 100000"),
        (json!({"beats": 1}), "expected batch_size or sleep_ms"),
    ] {
        let (status, body) = heart.put(&wrong);
        assert_eq!((status, body.contains(expected)), (400, true), "{body}");
    }
    heart.wait_sent(heart.sent() + 50);
    assert_eq!(heart.put(&json!({"batch_size": 0})).0, 200);
    // A beat that had begun is finished first.
    wait_until("settled", || topic.end + heart.sent() == topic.log_range().1);

    let records = topic.records();
    assert_eq!(records.len() as i64, heart.sent());
    assert_eq!(records.len() % 5, 0);
    assert_without_gaps(&records);
    for beat in records.chunks(5) {
        let at_ms = beat[0].0;
        assert!(beat.iter().all(|(key, _)| *key == at_ms), "{beat:?}");
        assert!((from_ms..=now_ms()).contains(&at_ms), "{at_ms}");
    }
    assert!(records.is_sorted());
}

#[test]
#[ignore = "needs Kafka: make test-integration"]
fn counting_goes_on_after_a_stop_and_after_a_kill() {
    let topic = Topic::open();
    let load = [("BATCH_SIZE", "200"), ("SLEEP_MS", "10")];
    for _ in 0..2 {
        let heart = Running::start_ready(&load);
        heart.wait_sent(10_000);
        let (exit, took) = heart.terminate();
        assert_eq!(exit.code(), Some(0));
        assert!(took < Duration::from_secs(1), "{took:?}");

        let heart = Running::start_ready(&load);
        heart.wait_sent(10_000);
        drop(heart); // By SIGKILL.
    }
    let records = topic.records();
    assert!(records.len() >= 40_000);
    assert_without_gaps(&records);
}

#[test]
fn without_servers_it_lives_and_takes_orders_and_stops_at_once() {
    let nowhere = free_port();
    let heart = Running::start(&[
        ("KAFKA_BROKERS", &format!("127.0.0.1:{nowhere}")),
        ("SCHEMA_REGISTRY_URL", &format!("http://127.0.0.1:{nowhere}")),
    ]);
    heart.logs("waiting for the schema registry");
    assert_eq!(heart.put(&json!({"batch_size": 5})).0, 200);
    assert!(!heart.is_ready());
    let (exit, took) = heart.terminate();
    assert_eq!(exit.code(), Some(0));
    assert!(took < Duration::from_secs(1), "{took:?}");
}

/// Lets the program go on to `to` (host:port) by `port`, until the test ends.
fn forward(port: u16, to: &str) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    let to = to.to_owned();
    thread::spawn(move || {
        for here in listener.incoming().map_while(Result::ok) {
            let there = TcpStream::connect(&to).unwrap();
            let ways = [(here.try_clone().unwrap(), there.try_clone().unwrap()), (there, here)];
            for (mut from, mut to) in ways {
                thread::spawn(move || io::copy(&mut from, &mut to));
            }
        }
    });
}

#[test]
#[ignore = "needs Kafka: make test-integration"]
fn servers_are_waited_for() {
    let topic = Topic::open();
    let registry_url = std::env::var(SCHEMA_REGISTRY_URL.name).unwrap();
    let (host, path) = registry_url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let (broker, registry) = (free_port(), free_port());
    let heart = Running::start(&[
        ("KAFKA_BROKERS", &format!("127.0.0.1:{broker}")),
        ("SCHEMA_REGISTRY_URL", &format!("http://127.0.0.1:{registry}/{path}")),
        ("BATCH_SIZE", "1"),
        ("SLEEP_MS", "1"),
    ]);
    heart.logs("waiting for the schema registry");
    forward(registry, host);
    heart.logs("waiting for the last heartbeat");
    assert!(!heart.is_ready());
    forward(broker, &topic.kafka.brokers[0]);
    heart.logs("ready to send heartbeats");
    heart.wait_sent(10);
    assert!(heart.is_ready());
}
