//! Tests with Kafka and a schema registry, at `KAFKA_BROKERS` and `SCHEMA_REGISTRY_URL`. Each test
//! has its own topics and consumer group, and confirms accounts in place of the command-handler.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

use avro::registry::Registry;
use avro::{Decoder, Encoder, Record};
use bank::iban;
use bank::records::{
    AccountCreationConfirmed, Atype, ConfirmAccountCreation, ConfirmMoneyTransfer, Heartbeat,
};
use bank::topology::{self, TOPICS, Topic};
use command_generator::config::{Config, Names};
use command_generator::consume::{StartAt, Subscription, TopicReader};
use command_generator::domain;
use command_generator::generate::Generator;
use messaging::consumer::Consumer;
use messaging::producer::{Outgoing, Sender};
use messaging::{ClientChoice, FetchedRecord, KafkaConfig, Position};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use service::env::Env;
use service::shutdown::Shutdown;
use std::collections::{BTreeSet, HashSet};
use std::process::Command;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use uuid::Uuid;

/// Token of the company account in these tests.
const COMPANY_TOKEN: &str = "31415926535897932384";
/// Deadline of every wait.
const DEADLINE: Duration = Duration::from_secs(30);

/// The topics of one test, created by the synchronizer, and the command-handler's side of them.
struct TestBank {
    config: Config,
    registry: Registry,
    sender: Sender,
    topics: Vec<Topic>,
}

impl TestBank {
    fn new(label: &str) -> Self {
        let variable = |name: &str| std::env::var(name).ok();
        let env = Env::new(&variable);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
        let own = |topic: Topic| Topic {
            name: Box::leak(format!("{label}_{}_{now}", topic.name).into_boxed_str()),
            schema: None,
            ..topic
        };
        let own = [
            topology::HEARTBEAT,
            topology::ACCOUNT_CREATION_CONFIRMED,
            topology::CONFIRM_ACCOUNT_CREATION,
            topology::CONFIRM_MONEY_TRANSFER,
            topology::DEAD_LETTER,
        ]
        .map(own);
        let servers = synchronizer::Config::from_env(&env).expect("needs Kafka and registry");
        // The bank's own topics too, because their subjects have the schemas.
        let topics: Vec<Topic> = own.into_iter().chain(TOPICS).collect();
        synchronize(&servers, &topics);

        let names = Names {
            group: own[0].name,
            heartbeat: own[0].name,
            account_creation_confirmed: own[1].name,
            confirm_account_creation: own[2].name,
            confirm_money_transfer: own[3].name,
            dead_letter: own[4].name,
        };
        let company_token = COMPANY_TOKEN.parse().unwrap();
        let config = Config { names, company_token, ..Config::from_env(&env).unwrap() };
        let registry = Registry::new(&config.registry_url);
        let sender = Sender::new(&config.producer, &Shutdown::default());
        Self { config, registry, sender, topics }
    }

    /// Deletes topics with the tool of Kafka, and creates them again.
    fn recreate(&self, topics: &[&str]) {
        let jars = std::env::var("KAFKA_JARS").expect("KAFKA_JARS is set by stack.sh with");
        let brokers = self.config.producer.kafka.brokers.join(",");
        for topic in topics {
            let deleted = Command::new("java")
                .args(["-cp", &format!("{jars}/*"), "org.apache.kafka.tools.TopicCommand"])
                .args(["--bootstrap-server", &brokers, "--delete", "--topic", topic])
                .status();
            assert!(deleted.unwrap().success());
            // The synchronizer must not find it on any broker.
            for broker in &self.config.producer.kafka.brokers {
                let brokers = vec![broker.clone()];
                let alone = KafkaConfig { brokers, ..self.config.producer.kafka.clone() };
                let deadline = Instant::now() + DEADLINE;
                while messaging::connect(&alone).topic_ids(&[topic], Duration::ZERO).is_ok() {
                    assert!(Instant::now() < deadline, "{topic} still exists");
                }
            }
        }
        let variable = |name: &str| std::env::var(name).ok();
        synchronize(&synchronizer::Config::from_env(&Env::new(&variable)).unwrap(), &self.topics);
    }

    fn send(&mut self, records: &[Outgoing]) {
        assert!(self.sender.send_all(records).iter().all(Result::is_ok));
    }

    fn send_heartbeats(&mut self, numbers: impl Iterator<Item = i64>) {
        let encoder = Encoder::<Heartbeat>::new(&self.registry).unwrap();
        let topic = self.config.names.heartbeat;
        let of = |beat| Outgoing {
            topic,
            key: "1700000000000".to_owned(),
            value: encoder.encode(&Heartbeat { beat }),
        };
        let heartbeats: Vec<Outgoing> = numbers.map(of).collect();
        self.send(&heartbeats);
    }

    /// Confirms the account creations `ids` and returns the ibans.
    fn confirm(&mut self, ids: impl IntoIterator<Item = Uuid>, a_type: Atype) -> HashSet<String> {
        let encoder = Encoder::<AccountCreationConfirmed>::new(&self.registry).unwrap();
        let topic = self.config.names.account_creation_confirmed;
        let mut ibans = HashSet::new();
        let mut records = Vec::new();
        for id in ids {
            let iban = iban::generate(&mut SmallRng::seed_from_u64(id.as_u64_pair().1));
            let token = iban::generate_token().unwrap();
            ibans.insert(iban.clone());
            let value = encoder.encode(&AccountCreationConfirmed { id, iban, token, a_type });
            records.push(Outgoing { topic, key: id.to_string(), value });
        }
        self.send(&records);
        ibans
    }

    /// Waits for `count` records in `topic` and returns all of them.
    fn read(&self, topic: &'static str, count: usize) -> Vec<FetchedRecord> {
        let mut kafka_client = messaging::connect(&self.config.producer.kafka);
        let bounds = kafka_client.log_range(topic, DEADLINE).unwrap();
        let start = (0..).zip(bounds).map(|(partition, (next, _))| Position { partition, next });
        let mut consumer = Consumer::start(&self.config.producer.kafka, topic, start.collect());
        let deadline = Instant::now() + DEADLINE;
        let mut records = Vec::new();
        while records.len() < count {
            assert!(Instant::now() < deadline, "{} of {count} records of {topic}", records.len());
            let chunks = consumer.poll(Duration::from_millis(200)).unwrap();
            records.extend(chunks.into_iter().flat_map(|chunk| chunk.records));
        }
        assert_eq!(records.len(), count, "{topic}");
        records
    }

    /// Asserts the number of commands after the generator has stopped.
    fn assert_commands(&self, transfers: i64, accounts: i64) {
        let names = &self.config.names;
        let mut kafka_client = messaging::connect(&self.config.producer.kafka);
        let mut count = |topic| -> i64 {
            kafka_client
                .log_range(topic, DEADLINE)
                .unwrap()
                .iter()
                .map(|(earliest, end)| end - earliest)
                .sum()
        };
        let found = [names.confirm_money_transfer, names.confirm_account_creation].map(&mut count);
        assert_eq!(found, [transfers, accounts]);
    }

    fn decoded<R: Record>(&self, records: &[FetchedRecord]) -> Vec<R> {
        let mut decoder = Decoder::new(self.registry.clone());
        records.iter().map(|it| decoder.decode(it.value.as_ref().unwrap()).unwrap()).collect()
    }

    fn transfers(&self, count: usize) -> Vec<ConfirmMoneyTransfer> {
        let records = self.read(self.config.names.confirm_money_transfer, count);
        let transfers: Vec<ConfirmMoneyTransfer> = self.decoded(&records);
        for (record, transfer) in records.iter().zip(&transfers) {
            assert_eq!(record.key.as_deref(), Some(transfer.id.to_string().as_bytes()));
        }
        transfers
    }

    fn opened(&self, count: usize) -> Vec<Uuid> {
        let records = self.read(self.config.names.confirm_account_creation, count);
        let opened: Vec<ConfirmAccountCreation> = self.decoded(&records);
        assert!(opened.iter().all(|open| open.a_type == Atype::Auto));
        opened.iter().map(|open| open.id).collect()
    }

    /// Committed offsets of the heartbeat topic and of account_creation_confirmed.
    fn committed(&self) -> [Option<i64>; 2] {
        let names = &self.config.names;
        let mut kafka_client = messaging::connect(&self.config.producer.kafka);
        [names.heartbeat, names.account_creation_confirmed]
            .map(|topic| kafka_client.committed(names.group, topic, DEADLINE).unwrap()[0])
    }

    fn wait_for_committed(&self, expected: [Option<i64>; 2]) {
        let deadline = Instant::now() + DEADLINE;
        while self.committed() != expected {
            assert!(Instant::now() < deadline, "{:?} instead of {expected:?}", self.committed());
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn start(&self) -> Running {
        let shutdown = Shutdown::default();
        let generator = Generator::open(self.config.clone(), &shutdown).unwrap().unwrap();
        let (ready, is_ready) = mpsc::channel();
        let thread = thread::spawn(move || {
            generator.run(|| ready.send(()).unwrap()).unwrap();
        });
        is_ready.recv_timeout(DEADLINE).unwrap();
        Running { shutdown, thread }
    }
}

fn synchronize(servers: &synchronizer::Config, topics: &[Topic]) {
    let mut report = Vec::new();
    let shutdown = Shutdown::default();
    synchronizer::synchronize(servers, topics, false, &shutdown, &mut report).unwrap();
}

struct Running {
    shutdown: Shutdown,
    thread: JoinHandle<()>,
}

impl Running {
    fn stop(self) {
        let requested = Instant::now();
        self.shutdown.request();
        self.thread.join().unwrap();
        assert!(requested.elapsed() < Duration::from_secs(1), "{:?}", requested.elapsed());
    }
}

fn ids(transfers: &[ConfirmMoneyTransfer]) -> BTreeSet<Uuid> {
    transfers.iter().map(|transfer| transfer.id).collect()
}

#[test]
#[ignore = "needs Kafka and registry: make test-integration"]
fn heartbeats_become_accounts_salaries_and_transfers() {
    let mut bank = TestBank::new("flow");
    bank.send_heartbeats(0..120);
    let generator = bank.start();
    // The first twenty open accounts. The others wait for an account, so their offsets are not
    // committed.
    let opened = bank.opened(20);
    bank.wait_for_committed([Some(20), None]);
    let ours = bank.confirm(opened.clone(), Atype::Auto);
    let theirs = bank.confirm([Uuid::new_v4()], Atype::Manual);
    // One salary per account and one transfer per further heartbeat.
    let transfers = bank.transfers(20 + 100);
    bank.wait_for_committed([Some(120), Some(21)]);
    generator.stop();
    bank.assert_commands(120, 20);

    assert_eq!(ids(&transfers).len(), transfers.len());
    let salaries: BTreeSet<Uuid> = opened.iter().map(domain::first_salary_id).collect();
    let paid: Vec<_> = transfers.iter().filter(|it| salaries.contains(&it.id)).collect();
    let to: HashSet<String> = paid.iter().map(|salary| salary.to.clone()).collect();
    assert_eq!((paid.len(), to), (20, ours));
    let by_company = transfers.iter().filter(|it| it.from == iban::COMPANY_IBAN);
    assert!(by_company.into_iter().all(|salary| salary.token == COMPANY_TOKEN));
    assert!(transfers.iter().all(|it| !theirs.contains(&it.from) && !theirs.contains(&it.to)));
}

#[test]
#[ignore = "needs Kafka and registry: make test-integration"]
fn restart_does_not_repeat_first_salaries() {
    let mut bank = TestBank::new("restart");
    let opened: Vec<Uuid> = (0..3).map(Uuid::from_u128).collect();
    let generator = bank.start();
    let ibans = bank.confirm(opened, Atype::Auto);
    bank.wait_for_committed([None, Some(3)]);
    generator.stop();
    bank.transfers(3);

    let generator = bank.start();
    bank.send_heartbeats(20..60);
    let transfers = bank.transfers(3 + 40);
    bank.wait_for_committed([Some(40), Some(3)]);
    generator.stop();
    bank.assert_commands(43, 0);
    let is_account = |side: &String| side.starts_with("NL") && side != iban::COMPANY_IBAN;
    for transfer in &transfers {
        for side in [&transfer.from, &transfer.to] {
            assert!(!is_account(side) || ibans.contains(side), "{transfer:?}");
        }
    }
}

/// With a full list, the accounts of further records are not needed.
#[test]
#[ignore = "needs Kafka and registry: make test-integration"]
fn full_list_skips_handled_accounts() {
    let mut bank = TestBank::new("full");
    bank.config.accounts_max = 3;
    bank.confirm((0..5).map(Uuid::from_u128), Atype::Auto);
    let generator = bank.start();
    bank.wait_for_committed([None, Some(5)]);
    generator.stop();
    bank.confirm((5..8).map(Uuid::from_u128), Atype::Auto);

    let Config { producer, registry_url, names, .. } = &bank.config;
    let subscription = Subscription {
        group: names.group,
        topic: names.account_creation_confirmed,
        start_at: StartAt::Earliest,
        is_member: false,
    };
    let (kafka, registry) = (&producer.kafka, Registry::new(registry_url));
    let mut client = messaging::connect(kafka);
    let mut reader =
        TopicReader::<AccountCreationConfirmed>::open(kafka, &mut *client, registry, subscription)
            .unwrap();
    reader.skip_handled(kafka);
    let (mut offsets, deadline) = (Vec::new(), Instant::now() + DEADLINE);
    while !reader.has_caught_up() {
        assert!(Instant::now() < deadline, "{offsets:?}");
        let read = reader.poll(Duration::from_millis(200), &Shutdown::default()).unwrap();
        offsets.extend(read.unwrap().iter().map(|record| (record.offset, record.handled_before)));
    }
    assert_eq!(offsets, [(5, false), (6, false), (7, false)]);

    // The accounts beyond the maximum get their first salary, and no other transfer.
    let generator = bank.start();
    bank.send_heartbeats(20..60);
    let transfers = bank.transfers(8 + 40);
    generator.stop();
    let sides = transfers.iter().flat_map(|it| [&it.from, &it.to]);
    let accounts: Vec<_> =
        sides.filter(|side| side.starts_with("NL") && *side != iban::COMPANY_IBAN).collect();
    let distinct: HashSet<_> = accounts.iter().collect();
    let often = distinct.iter().filter(|it| accounts.iter().filter(|side| side == *it).count() > 1);
    assert_eq!((distinct.len(), often.count()), (8, 3));
}

#[test]
#[ignore = "needs Kafka and registry: make test-integration"]
fn uncommitted_heartbeats_become_the_same_commands_again() {
    let mut bank = TestBank::new("crash");
    let opened: Vec<Uuid> = (0..5).map(Uuid::from_u128).collect();
    bank.confirm(opened, Atype::Auto);
    bank.send_heartbeats(200..300);
    let generator = bank.start();
    let first = bank.transfers(5 + 99);
    bank.wait_for_committed([Some(100), Some(5)]);
    generator.stop();

    // Another group has no committed offsets, as after a crash before the first commit.
    bank.config.names.group = bank.config.names.dead_letter;
    let generator = bank.start();
    let both = bank.transfers(2 * (5 + 99));
    assert_eq!(bank.opened(2).into_iter().collect::<HashSet<_>>().len(), 1);
    generator.stop();
    assert_eq!(ids(&both), ids(&first));
    // Equal in every field, because the same accounts were known.
    for transfer in &first {
        assert_eq!(both.iter().filter(|again| *again == transfer).count(), 2, "{transfer:?}");
    }
}

#[test]
#[ignore = "needs Kafka and registry: make test-integration"]
fn recreated_topics_are_read_from_their_beginning() {
    let mut bank = TestBank::new("recreated");
    let names = bank.config.names.clone();
    bank.confirm((0..3).map(Uuid::from_u128), Atype::Auto);
    bank.send_heartbeats(201..250);
    let generator = bank.start();
    let before = bank.transfers(3 + 49);
    bank.wait_for_committed([Some(49), Some(3)]);

    bank.recreate(&[names.heartbeat, names.account_creation_confirmed]);
    // More records than in the former topics, so the former offsets exist in the new ones.
    bank.confirm((10..15).map(Uuid::from_u128), Atype::Auto);
    bank.send_heartbeats(301..400);
    let all = bank.transfers(before.len() + 5 + 99);
    bank.wait_for_committed([Some(99), Some(5)]);
    generator.stop();
    assert_eq!(ids(&all).len(), all.len());

    bank.recreate(&[names.heartbeat]);
    bank.send_heartbeats(401..600);
    let generator = bank.start();
    bank.transfers(all.len() + 199);
    bank.wait_for_committed([Some(199), Some(5)]);
    generator.stop();
}

#[test]
#[ignore = "needs Kafka and registry: make test-integration"]
fn undecodable_record_goes_to_dead_letter_once() {
    let mut bank = TestBank::new("undecodable");
    let names = bank.config.names.clone();
    for topic in [names.heartbeat, names.account_creation_confirmed] {
        let value = b"\x01no frame".to_vec();
        bank.send(&[Outgoing { topic, key: "x".to_owned(), value }]);
    }
    bank.send_heartbeats(0..1);
    let generator = bank.start();
    assert_eq!(bank.opened(1).len(), 1);
    bank.wait_for_committed([Some(2), Some(1)]);
    generator.stop();
    // Accounts are read from the earliest offset again.
    let generator = bank.start();
    bank.send_heartbeats(0..1);
    bank.wait_for_committed([Some(3), Some(1)]);
    generator.stop();
    let dead = bank.read(names.dead_letter, 2);
    let keys: BTreeSet<String> =
        dead.iter().map(|it| String::from_utf8(it.key.clone().unwrap()).unwrap()).collect();
    let reason = "0/0: magic byte 1 instead of 0";
    let topics = [names.heartbeat, names.account_creation_confirmed];
    assert_eq!(keys, topics.map(|topic| format!("{topic}/{reason}")).into());
    assert!(dead.iter().all(|it| it.value.as_deref() == Some(b"\x01no frame")));
}

#[test]
#[ignore = "needs Kafka and registry: make test-integration"]
fn standby_member_takes_over_without_repeated_commands() {
    let mut bank = TestBank::new("members");
    if bank.config.producer.kafka.client == ClientChoice::KafkaCrate {
        // The kafka crate has no groups: `Config::from_env` rejects this combination.
        return;
    }
    bank.config.is_member = true;
    bank.config.producer.kafka.client = ClientChoice::BuiltIn;
    let opened: Vec<Uuid> = (0..3).map(Uuid::from_u128).collect();
    bank.confirm(opened, Atype::Auto);
    let first = bank.start();
    bank.send_heartbeats(20..60);
    bank.transfers(3 + 40);
    bank.wait_for_committed([Some(40), Some(3)]);
    // Each topic has one partition, so the second member is on standby until the first leaves.
    let second = bank.start();
    bank.send_heartbeats(60..100);
    bank.wait_for_committed([Some(80), Some(3)]);
    first.stop();
    // The second member also pays the first salary of new accounts, once.
    bank.confirm([Uuid::from_u128(3)], Atype::Auto);
    bank.send_heartbeats(100..140);
    bank.wait_for_committed([Some(120), Some(4)]);
    second.stop();
    let transfers = bank.transfers(4 + 120);
    // A heartbeat that both members had read would result in two transfers with one id.
    assert_eq!(ids(&transfers).len(), 124);
    bank.assert_commands(124, 0);
}

/// Kafka refuses the commits of a client that is no member while the group has one. Commands are
/// derived from their heartbeats, so they need no commit.
#[test]
#[ignore = "needs Kafka and registry: make test-integration"]
fn foreign_group_member_stops_no_commands() {
    let mut bank = TestBank::new("foreign");
    bank.confirm((0..3).map(Uuid::from_u128), Atype::Auto);
    let names = bank.config.names.clone();
    let built_in =
        KafkaConfig { client: ClientChoice::BuiltIn, ..bank.config.producer.kafka.clone() };
    let mut foreign = messaging::connect(&built_in);
    foreign.poll_assignment(names.group, &[names.heartbeat], DEADLINE).unwrap();
    let generator = bank.start();
    for round in 1..=3 {
        bank.send_heartbeats(20..60);
        bank.transfers(3 + 40 * round);
        foreign.poll_assignment(names.group, &[names.heartbeat], DEADLINE).unwrap();
    }
    assert_eq!(bank.committed(), [None, None]);
    foreign.leave(names.group).unwrap();
    bank.wait_for_committed([Some(120), Some(3)]);
    generator.stop();
}

/// CPU seconds that this process has used so far.
fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // proc(5): user and system time are the 12th and 13th fields after the name in parentheses, in
    // hundredths of a second.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11..=12].iter().map(|ticks| ticks.parse::<f64>().unwrap() / 100.0).sum()
}

#[test]
#[ignore = "needs Kafka and registry: make test-integration"]
fn generator_makes_20k_commands_per_cpu_second() {
    const HEARTBEATS: i64 = 100_000;
    let mut bank = TestBank::new("speed");
    bank.confirm((0..1_000).map(Uuid::from_u128), Atype::Auto);
    let generator = bank.start();
    bank.wait_for_committed([None, Some(1_000)]);
    generator.stop();
    bank.send_heartbeats(201..=200 + HEARTBEATS);
    let (started, cpu_before) = (Instant::now(), cpu_s());
    let generator = bank.start();
    bank.wait_for_committed([Some(HEARTBEATS), Some(1_000)]);
    // CPU time of this process alone: the brokers may be slow on a busy machine.
    let (took, cpu) = (started.elapsed(), cpu_s() - cpu_before);
    generator.stop();
    bank.assert_commands(1_000 + HEARTBEATS - HEARTBEATS / 200, HEARTBEATS / 200);
    eprintln!("{HEARTBEATS} commands in {took:?}, {cpu:.2} s of CPU");
    assert!(HEARTBEATS as f64 / cpu > 20_000.0, "{cpu} s of CPU");
}
