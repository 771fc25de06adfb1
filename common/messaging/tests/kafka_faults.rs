//! Tests of clients, producers and the consumer while brokers are killed, stopped and started.
//! `STACK` is the script that controls the three brokers. `KAFKA_TIMEOUT_MS` of the processes under
//! test is 2000.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "tests")]

mod kafka_support;

use kafka_support::members::{Member, shared};
use kafka_support::{
    PATIENCE, Reader, beginning, built_in, client, config, controller, coordinator, numbered,
    producer_config, replicated_topic, start_positions, topic,
};
use messaging::consumer::{Consumer, OffsetReset};
use messaging::producer::{Outgoing, Producer, ProducerConfig, Sender};
use messaging::{Batch, FetchedRecord, NewRecord, Position};
use service::EXIT_TEMPORARY;
use service::shutdown::Shutdown;
use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Tests that change brokers run one at a time.
static CLUSTER: Mutex<()> = Mutex::new(());

/// Exclusive control of the three brokers. Dropping it restarts all of them.
struct Brokers {
    _mine: MutexGuard<'static, ()>,
}

impl Brokers {
    fn new() -> Self {
        let brokers = Self { _mine: CLUSTER.lock().unwrap_or_else(PoisonError::into_inner) };
        assert_eq!(config().brokers.len(), 3, "these tests need BROKERS=3");
        // A broker that the previous test suspended or killed stays fenced for a while.
        let start = Instant::now();
        while controller().1 < 3 {
            assert!(start.elapsed() < PATIENCE, "a broker is missing in the cluster");
            thread::sleep(Duration::from_millis(20));
        }
        brokers
    }

    fn stack(&self, args: &[&str]) {
        let stack = std::env::var_os("STACK").expect("STACK is set by stack.sh with");
        let output = Command::new(stack).args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn kill(&self, id: i32) {
        self.stack(&["stop", &format!("kafka-{id}"), "KILL"]);
    }

    fn start(&self, id: i32) {
        self.stack(&["start", &format!("kafka-{id}")]);
    }

    fn signal(&self, id: i32, signal: &str) {
        self.stack(&["kill", &format!("kafka-{id}"), signal]);
    }
}

impl Drop for Brokers {
    fn drop(&mut self) {
        for id in 1..=3 {
            let stack = std::env::var_os("STACK").unwrap_or_default();
            let part = format!("kafka-{id}");
            for args in [["kill", &part, "CONT"], ["start", &part, ""]] {
                let args = args.iter().filter(|arg| !arg.is_empty());
                let _ = Command::new(&stack).args(args).stderr(Stdio::null()).status();
            }
        }
    }
}

/// A producer that sends until it is stopped. After that all acknowledged records must be readable.
struct Load {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<Vec<String>>,
    topic: &'static str,
}

impl Load {
    fn start(topic: &'static str) -> Self {
        Self::start_with(topic, producer_config())
    }

    fn start_with(topic: &'static str, config: ProducerConfig) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = stop.clone();
        let thread = thread::spawn(move || {
            let mut sender = Sender::new(&config, &Shutdown::default());
            let mut sent = Vec::new();
            while !stopping.load(Ordering::Relaxed) {
                let first = sent.len() as u32;
                let records = numbered(topic, first..first + 20);
                for result in sender.send_all(&records) {
                    result.unwrap();
                }
                sent.extend(records.into_iter().map(|it| String::from_utf8(it.value).unwrap()));
                thread::sleep(Duration::from_millis(5));
            }
            sent
        });
        Self { stop, thread, topic }
    }

    /// Stops the producer. Asserts that all acknowledged records are read once. For the built-in
    /// client it also asserts that no record was duplicated or reordered.
    fn check(self, reader: &mut Reader) {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.thread.join().unwrap();
        let ends: Vec<i64> = client()
            .log_range(self.topic, PATIENCE)
            .unwrap()
            .into_iter()
            .map(|(_, end)| end)
            .collect();
        reader.read_until(|it| {
            let at = |partition| it.partitions.get(&partition).and_then(|it| it.last());
            (0..).zip(&ends).all(|(p, end)| *end == at(p).map_or(0, |last| last.offset + 1))
        });
        let read = reader.values();
        let distinct: HashSet<&String> = read.iter().collect();
        let missing: Vec<&String> = sent.iter().filter(|it| !distinct.contains(it)).collect();
        assert!(missing.is_empty(), "{} of {} missing: {missing:?}", missing.len(), sent.len());
        let in_log: i64 = ends.iter().sum();
        assert_eq!(read.len() as i64, in_log, "each record in the log is read once");
        if built_in(self.topic) {
            assert_eq!(read.len(), sent.len(), "retries do not duplicate records");
            for records in reader.partitions.values() {
                let number = |it: &FetchedRecord| {
                    String::from_utf8(it.value.clone()?).ok()?[6..].parse().ok()
                };
                let numbers: Vec<Option<u32>> = records.iter().map(number).collect();
                assert!(numbers.is_sorted_by(|a, b| a.is_some() && a < b), "{numbers:?}");
            }
        }
    }
}

const REPLICATED: &[(&str, &str)] = &[("min.insync.replicas", "2")];

#[test]
#[ignore = "needs three brokers: make test-integration"]
fn leader_kill_and_restart_loses_nothing() {
    let brokers = Brokers::new();
    let topic = topic("killed-leader", 9, REPLICATED);
    let load = Load::start(topic);
    let mut reader = Reader::new(topic, 9);
    reader.read(200);
    let leader = client().leaders(topic, PATIENCE).unwrap()[0];
    brokers.kill(leader);
    let before = reader.count();
    reader.read(before + 2000);
    brokers.start(leader);
    let before = reader.count();
    reader.read(before + 2000);
    load.check(&mut reader);
}

/// Kills `KILLS` leaders. Each one is restarted before the next is killed.
#[test]
#[ignore = "needs three brokers: make test-integration"]
fn repeated_leader_kills_lose_nothing() {
    let brokers = Brokers::new();
    let topic = topic("killed-leaders", 9, REPLICATED);
    let load = Load::start(topic);
    let mut reader = Reader::new(topic, 9);
    let kills = std::env::var("KILLS").map_or(2, |it| it.parse().unwrap());
    for kill in 0..kills {
        let before = reader.count();
        reader.read(before + 500);
        let leader = client().leaders(topic, PATIENCE).unwrap()[kill % 9];
        brokers.kill(leader);
        let before = reader.count();
        reader.read(before + 500);
        brokers.start(leader);
    }
    println!("{} records read over {kills} kills", reader.count());
    load.check(&mut reader);
}

/// The leader is suspended for longer than the timeout of a call, but for less than the session
/// timeout of brokers, so it stays leader. It receives all attempts when it resumes. The timeout is
/// longer with the kafka crate, which would otherwise end the process.
#[test]
#[ignore = "needs three brokers: make test-integration"]
fn suspended_leader_loses_nothing() {
    let brokers = Brokers::new();
    let topic = topic("suspended-leader", 9, REPLICATED);
    let mut config = producer_config();
    if built_in(topic) {
        config.kafka.timeout = Duration::from_secs(2);
    }
    let load = Load::start_with(topic, config);
    let mut reader = Reader::new(topic, 9);
    reader.read(500);
    let leader = client().leaders(topic, PATIENCE).unwrap()[0];
    brokers.signal(leader, "STOP");
    thread::sleep(Duration::from_secs(6));
    brokers.signal(leader, "CONT");
    let before = reader.count();
    reader.read(before + 2000);
    load.check(&mut reader);
}

/// While the coordinator is down, a client reads the group's committed offsets and commits.
#[test]
#[ignore = "needs three brokers: make test-integration"]
fn offsets_survive_the_coordinators_kill() {
    let brokers = Brokers::new();
    let topic = topic("killed-coordinator", 9, REPLICATED);
    let load = Load::start(topic);
    let mut reader = Reader::new(topic, 9);
    let mut committing = client();
    let mut commit = |reader: &mut Reader| {
        let before = reader.count();
        reader.read(before + 500);
        let positions = reader.positions();
        committing.commit(topic, topic, &positions, PATIENCE).unwrap();
        // Records that were read but not committed are read again.
        let all: Vec<i32> = (0..9).collect();
        let offset_reset = OffsetReset::Earliest;
        let start = start_positions(topic, &all, offset_reset, PATIENCE);
        reader.consumer = Consumer::start(&config(), topic, start);
    };
    commit(&mut reader);
    let killed = coordinator(topic);
    brokers.kill(killed);
    commit(&mut reader);
    assert_ne!(coordinator(topic), killed);
    commit(&mut reader);
    brokers.start(killed);
    commit(&mut reader);
    load.check(&mut reader);
}

/// The members continue with the next coordinator. They keep their assignments, share them with a
/// new member, and commit.
#[test]
#[ignore = "needs three brokers: make test-integration"]
fn memberships_survive_the_coordinators_kill() {
    let brokers = Brokers::new();
    let topic = topic("killed-coordinator-of-members", 6, REPLICATED);
    if !built_in(topic) {
        return; // The kafka crate has no consumer groups. kafka_groups.rs tests that error.
    }
    let (first, second) = (Member::join(topic), Member::join(topic));
    shared(&[&first, &second], &[3, 3]);
    let killed = coordinator(topic);
    brokers.kill(killed);
    let third = Member::join(topic);
    shared(&[&first, &second, &third], &[2, 2, 2]);
    assert_ne!(coordinator(topic), killed);
    assert_eq!(client().committed(topic, topic, PATIENCE).unwrap(), [Some(10); 6]);
    brokers.start(killed);
    third.end().leave(topic).unwrap();
    shared(&[&first, &second], &[3, 3]);
    for member in [first, second] {
        member.end().leave(topic).unwrap();
    }
}

#[test]
#[ignore = "needs three brokers: make test-integration"]
fn rolling_restart_loses_nothing() {
    let brokers = Brokers::new();
    let topic = topic("restarts", 9, REPLICATED);
    let load = Load::start(topic);
    let mut reader = Reader::new(topic, 9);
    for id in 1..=3 {
        brokers.stack(&["stop", &format!("kafka-{id}")]);
        let before = reader.count();
        reader.read(before + 500);
        brokers.start(id);
        let before = reader.count();
        reader.read(before + 500);
    }
    load.check(&mut reader);
}

#[test]
#[ignore = "needs three brokers: make test-integration"]
fn closed_idle_connections_are_replaced() {
    let _brokers = Brokers::new();
    let topic = topic("idle", 1, &[]);
    let record = NewRecord { value: Some(b"x"), ..NewRecord::default() };
    let batch = [Batch { topic, partition: 0, records: vec![record] }];
    let start = [Position { partition: 0, next: 0 }];
    let (mut writer, mut reader) = (client(), client());
    for written in 1..=2 {
        assert_eq!(writer.produce(&batch, PATIENCE).remove(0).unwrap(), written - 1);
        let deadline = Instant::now() + 2 * PATIENCE;
        // The first fetch on a closed connection fails, the next one reconnects.
        while reader.fetch(topic, &start, PATIENCE).unwrap()[0].next < written {
            assert!(Instant::now() < deadline, "{written} records are not read");
        }
        while connections() > 0 {
            assert!(Instant::now() < deadline, "these tests need connections.max.idle.ms=5000");
            thread::sleep(Duration::from_millis(100));
        }
    }
}

/// The number of established connections from this process to brokers.
fn connections() -> usize {
    const ESTABLISHED: &str = "01";
    let mine: HashSet<String> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok())
        .filter_map(|to| Some(to.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let ports: Vec<String> = config()
        .brokers
        .iter()
        .map(|it| format!("{:04X}", it.rsplit(':').next().unwrap().parse::<u16>().unwrap()))
        .collect();
    let tcp = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let to_broker = |line: &&str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let port = columns[2].rsplit(':').next().unwrap();
        columns[3] == ESTABLISHED
            && mine.contains(columns[9])
            && ports.iter().any(|broker| broker == port)
    };
    tcp.lines().skip(1).filter(to_broker).count()
}

#[test]
#[ignore = "needs three brokers: make test-integration"]
fn new_client_skips_a_suspended_broker() {
    let brokers = Brokers::new();
    let topic = topic("suspended-at-start", 9, &[]);
    let record = NewRecord { value: Some(b"x"), ..NewRecord::default() };
    let batches: Vec<Batch<'_>> =
        (0..9).map(|partition| Batch { topic, partition, records: vec![record] }).collect();
    assert!(client().produce(&batches, PATIENCE).iter().all(Result::is_ok));
    let leaders = client().leaders(topic, PATIENCE).unwrap();
    brokers.signal(1, "STOP");

    let mut config = config();
    config.brokers.sort();
    let mut client = messaging::connect(&config);
    let start = Instant::now();
    let mut positions = beginning(9);
    let is_suspended = |it: &Position| leaders[it.partition as usize] == 1;
    // The data of the other leaders is returned.
    while !positions.iter().all(|it| it.next == i64::from(!is_suspended(it))) {
        let data = client.fetch(topic, &positions, Duration::from_millis(500)).unwrap();
        // There are two probes: of the bootstrap broker and of the leader.
        assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
        for data in data {
            let position = &mut positions[data.partition as usize];
            assert!(data.error.is_none() || is_suspended(position), "{data:?}");
            position.next = data.next;
        }
    }
    // The other brokers elect new leaders for the partitions. If the suspended broker was the
    // controller and producer ids are exhausted, this takes `controller.socket.timeout.ms`, 30 s.
    let results = client.produce(&batches, 2 * PATIENCE);
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    Reader::new(topic, 9).read(18);
}

/// A child process. It reads `CHILD_TOPIC`, prints and commits the records, and runs until killed.
#[test]
#[ignore = "run by the tests below"]
fn child_reads_and_commits() {
    let Ok(topic) = std::env::var("CHILD_TOPIC") else { return };
    let topic: &'static str = topic.leak();
    let mut client = client();
    let offset_reset = OffsetReset::Earliest;
    let start = start_positions(topic, &[0], offset_reset, 3 * PATIENCE);
    let mut consumer = Consumer::start(&config(), topic, start);
    loop {
        for data in consumer.poll(PATIENCE).unwrap() {
            for record in &data.records {
                println!("offset {}", record.offset);
            }
            let done = Position { partition: 0, next: data.next };
            client.commit(topic, topic, &[done], 3 * PATIENCE).unwrap();
            println!("committed {}", done.next);
        }
    }
}

struct Reading {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Reading {
    fn start(topic: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_reads_and_commits", "--ignored", "--nocapture"])
            .env("CHILD_TOPIC", topic)
            .env("KAFKA_TIMEOUT_MS", "2000")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Returns the offsets that are read until `next` is committed.
    fn offsets_until(&mut self, next: i64) -> Vec<i64> {
        let mut offsets = Vec::new();
        let committed = format!("committed {next}");
        for line in self.lines.by_ref() {
            let line = line.unwrap();
            offsets.extend(line.strip_prefix("offset ").map(|it| it.parse::<i64>().unwrap()));
            if line == committed {
                return offsets;
            }
        }
        panic!("the child ended: {:?}", self.child.wait());
    }

    fn ended(mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "the child is still running");
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap().success()
        );
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn send(records: &[Outgoing]) {
    let mut sender = Sender::new(&producer_config(), &Shutdown::default());
    for result in sender.send_all(records) {
        result.unwrap();
    }
}

/// The built-in client continues. The sockets of the kafka crate are not accessible, so a process
/// that uses it exits.
#[test]
#[ignore = "needs three brokers: make test-integration"]
fn reading_continues_after_a_suspended_broker() {
    let brokers = Brokers::new();
    let topic = topic("suspended-while-reading", 1, &[]);
    send(&numbered(topic, 0..100));
    let mut reading = Reading::start(topic);
    assert_eq!(reading.offsets_until(100), (0..100).collect::<Vec<_>>());
    let leader = client().leaders(topic, PATIENCE).unwrap()[0];
    let built_in = built_in(topic);
    brokers.signal(leader, "STOP");
    if !built_in {
        let suspended_at = Instant::now();
        assert_eq!(reading.ended().code(), Some(i32::from(EXIT_TEMPORARY)));
        // This is the sum of fetch wait, timeout and two watchdog ticks, not the crate's 2 minutes.
        assert!(suspended_at.elapsed() < Duration::from_secs(5), "{:?}", suspended_at.elapsed());
        // After a restart it finds the new leader while the old one is still suspended.
        reading = Reading::start(topic);
    }
    send(&numbered(topic, 100..200));
    assert_eq!(reading.offsets_until(200), (100..200).collect::<Vec<_>>());
    brokers.signal(leader, "CONT");
    send(&numbered(topic, 200..300));
    assert_eq!(reading.offsets_until(300), (200..300).collect::<Vec<_>>());
}

/// A new leader may not have the current high watermark yet (KIP-207). If it returned an end below
/// the committed offset, a consumer would reset to the earliest offset.
#[test]
#[ignore = "needs three brokers: make test-integration"]
fn new_leader_returns_no_end_below_committed() {
    let brokers = Brokers::new();
    let mut client = client();
    for _ in 0..3 {
        let topic = topic("elected", 1, REPLICATED);
        send(&numbered(topic, 0..100));
        let leader = client.leaders(topic, PATIENCE).unwrap()[0];
        let stopped = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                // A controlled shutdown first moves the partitions to other leaders.
                brokers.stack(&["stop", &format!("kafka-{leader}")]);
                stopped.store(true, Ordering::Relaxed);
            });
            while !stopped.load(Ordering::Relaxed) {
                if let Ok(bounds) = client.log_range(topic, Duration::ZERO) {
                    assert_eq!(bounds, [(0, 100)]);
                }
            }
        });
        assert_ne!(client.leaders(topic, PATIENCE).unwrap()[0], leader);
        // Below `min.insync.replicas` the high watermark may not advance before this restart.
        brokers.start(leader);
        assert_eq!(client.log_range(topic, PATIENCE).unwrap(), [(0, 100)]);
    }
}

/// The broker is suspended for less than `KAFKA_TIMEOUT_MS`, so no call fails. Only its own
/// partitions take longer.
#[test]
#[ignore = "needs three brokers: make test-integration"]
fn suspended_broker_does_not_delay_other_partitions() {
    let brokers = Brokers::new();
    // The topic has one replica. With more, each write would wait for the suspended broker until it
    // leaves the in-sync replicas.
    let topic = replicated_topic("suspended", 9, 1, &[]);
    let leaders = client().leaders(topic, PATIENCE).unwrap();
    let mut reader = Reader::new(topic, 9);
    let mut client = client();
    let record = NewRecord { value: Some(b"x"), ..NewRecord::default() };
    let batch = |partition| Batch { topic, partition, records: vec![record] };
    let all: Vec<Batch<'_>> = (0..9).map(batch).collect();
    assert!(client.produce(&all, PATIENCE).iter().all(Result::is_ok));
    reader.read(9);
    let suspended = leaders[0];
    let others: Vec<Batch<'_>> =
        (0..9).filter(|it| leaders[*it as usize] != suspended).map(batch).collect();
    brokers.signal(suspended, "STOP");
    let start = Instant::now();
    let (mut rounds, mut written) = (0, 9);
    while start.elapsed() < Duration::from_secs(6) || rounds < 20 {
        let results = client.produce(&others, PATIENCE);
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        written += others.len();
        // The broker is still suspended.
        reader.read(written);
        rounds += 1;
    }
    println!("{rounds} rounds of {} partitions while a broker was suspended", others.len());
    brokers.signal(suspended, "CONT");
    assert!(client.produce(&all, PATIENCE).iter().all(Result::is_ok));
    reader.read(written + 9);
}

#[test]
#[ignore = "needs three brokers: make test-integration"]
fn suspended_process_resumes() {
    let _brokers = Brokers::new();
    let topic = topic("suspended-process", 1, &[]);
    send(&numbered(topic, 0..10));
    let mut reading = Reading::start(topic);
    assert_eq!(reading.offsets_until(10).len(), 10);
    reading.signal("STOP");
    thread::sleep(Duration::from_secs(5)); // Twice the timeout.
    reading.signal("CONT");
    send(&numbered(topic, 10..20));
    assert_eq!(reading.offsets_until(20), (10..20).collect::<Vec<_>>());
}

#[test]
#[ignore = "needs three brokers: make test-integration"]
fn producer_flushes_despite_a_killed_broker() {
    let brokers = Brokers::new();
    let topic = topic("flush", 9, REPLICATED);
    let producer = Producer::start(producer_config(), &Shutdown::default());
    producer.send_all(numbered(topic, 0..100)).wait().unwrap();
    let leader = client().leaders(topic, PATIENCE).unwrap()[0];
    brokers.kill(leader);
    producer.send_all(numbered(topic, 100..1000)).wait().unwrap();
    drop(producer);
    let mut reader = Reader::new(topic, 9);
    reader.read_until(|it| it.values().into_iter().collect::<HashSet<_>>().len() == 1000);
}
