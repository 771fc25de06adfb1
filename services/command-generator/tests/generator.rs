//! Against a real Kafka and schema registry, which `KAFKA_BROKERS` and `SCHEMA_REGISTRY_URL` name.
//! Each test has its own topics and group, and plays the bank itself.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use avro::registry::Registry;
use avro::{Decoder, Encoder, Record};
use bank::iban;
use bank::records::{
    AccountCreationConfirmed, Atype, ConfirmAccountCreation, ConfirmMoneyTransfer, Heartbeat,
};
use bank::topology::{self, TOPICS, Topic};
use command_generator::config::{Config, Names};
use command_generator::domain;
use command_generator::generate::Generator;
use messaging::ClientChoice;
use messaging::consumer::Consumer;
use messaging::producer::{Outgoing, Sender};
use messaging::{FetchedRecord, Position};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use service::env::Env;
use service::shutdown::Shutdown;
use std::collections::{BTreeSet, HashSet};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use uuid::Uuid;

/// Longest wait for anything.
const SOON: Duration = Duration::from_secs(30);

/// Topics of its own, made by the synchronizer, and the bank's side of them.
struct World {
    config: Config,
    registry: Registry,
    sender: Sender,
}

impl World {
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
        // The bank's own topics too: their subjects have the schemas.
        let all: Vec<Topic> = own.into_iter().chain(TOPICS).collect();
        let mut told = Vec::new();
        synchronizer::synchronize(&servers, &all, false, &Shutdown::default(), &mut told).unwrap();

        let names = Names {
            group: own[0].name,
            heartbeat: own[0].name,
            account_creation_confirmed: own[1].name,
            confirm_account_creation: own[2].name,
            confirm_money_transfer: own[3].name,
            dead_letter: own[4].name,
        };
        let config = Config { names, ..Config::from_env(&env).unwrap() };
        let registry = Registry::new(&config.registry_url);
        let sender = Sender::new(&config.producer, &Shutdown::default());
        Self { config, registry, sender }
    }

    fn send(&mut self, records: &[Outgoing]) {
        assert!(self.sender.send_all(records).iter().all(Result::is_ok));
    }

    fn beat(&mut self, numbers: impl Iterator<Item = i64>) {
        let encoder = Encoder::<Heartbeat>::new(&self.registry).unwrap();
        let topic = self.config.names.heartbeat;
        let of = |beat| Outgoing {
            topic,
            key: "1700000000000".to_owned(),
            value: encoder.encode(&Heartbeat { beat }),
        };
        let beats: Vec<Outgoing> = numbers.map(of).collect();
        self.send(&beats);
    }

    /// Confirms that these commands opened accounts; their ibans.
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

    /// All records of `topic`, once there are `count`.
    fn read(&self, topic: &'static str, count: usize) -> Vec<FetchedRecord> {
        let mut kafka_client = messaging::connect(&self.config.producer.kafka);
        let bounds = kafka_client.log_range(topic, SOON).unwrap();
        let start = (0..).zip(bounds).map(|(partition, (next, _))| Position { partition, next });
        let mut consumer = Consumer::start(&self.config.producer.kafka, topic, start.collect());
        let deadline = Instant::now() + SOON;
        let mut records = Vec::new();
        while records.len() < count {
            assert!(Instant::now() < deadline, "{} of {count} records of {topic}", records.len());
            let chunks = consumer.poll(Duration::from_millis(200)).unwrap();
            records.extend(chunks.into_iter().flat_map(|chunk| chunk.records));
        }
        assert_eq!(records.len(), count, "{topic}");
        records
    }

    /// After the generator has stopped: there are `transfers` and `accounts` commands, not one
    /// more.
    fn made(&self, transfers: i64, accounts: i64) {
        let names = &self.config.names;
        let mut kafka_client = messaging::connect(&self.config.producer.kafka);
        let mut count = |topic| -> i64 {
            kafka_client
                .log_range(topic, SOON)
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

    /// The group's next offset in the heartbeat and in the confirmed accounts.
    fn committed(&self) -> [Option<i64>; 2] {
        let names = &self.config.names;
        let mut kafka_client = messaging::connect(&self.config.producer.kafka);
        [names.heartbeat, names.account_creation_confirmed]
            .map(|topic| kafka_client.committed(names.group, topic, SOON).unwrap()[0])
    }

    fn wait_for_committed(&self, wanted: [Option<i64>; 2]) {
        let deadline = Instant::now() + SOON;
        while self.committed() != wanted {
            assert!(Instant::now() < deadline, "{:?} instead of {wanted:?}", self.committed());
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
        is_ready.recv_timeout(SOON).unwrap();
        Running { shutdown, thread }
    }
}

struct Running {
    shutdown: Shutdown,
    thread: JoinHandle<()>,
}

impl Running {
    fn stop(self) {
        let asked = Instant::now();
        self.shutdown.request();
        self.thread.join().unwrap();
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    }
}

fn ids(transfers: &[ConfirmMoneyTransfer]) -> BTreeSet<Uuid> {
    transfers.iter().map(|transfer| transfer.id).collect()
}

#[test]
#[ignore = "needs Kafka and registry: make test-integration"]
fn beats_open_accounts_pay_them_and_move_their_money() {
    let mut world = World::new("flow");
    world.beat(0..120);
    let generator = world.start();
    // The first twenty open accounts; the others wait for one, and so does their offset.
    let opened = world.opened(20);
    world.wait_for_committed([Some(20), None]);
    let ours = world.confirm(opened.clone(), Atype::Auto);
    let theirs = world.confirm([Uuid::new_v4()], Atype::Manual);
    // A salary for each account and a transfer for each other beat.
    let transfers = world.transfers(20 + 100);
    world.wait_for_committed([Some(120), Some(21)]);
    generator.stop();
    world.made(120, 20);

    assert_eq!(ids(&transfers).len(), transfers.len());
    let salaries: BTreeSet<Uuid> = opened.iter().map(domain::first_salary_id).collect();
    let paid: Vec<_> = transfers.iter().filter(|it| salaries.contains(&it.id)).collect();
    let to: HashSet<String> = paid.iter().map(|salary| salary.to.clone()).collect();
    assert_eq!((paid.len(), to), (20, ours));
    assert!(transfers.iter().all(|it| !theirs.contains(&it.from) && !theirs.contains(&it.to)));
}

#[test]
#[ignore = "needs Kafka and registry: make test-integration"]
fn restart_pays_no_salary_twice() {
    let mut world = World::new("restart");
    let opened: Vec<Uuid> = (0..3).map(Uuid::from_u128).collect();
    let generator = world.start();
    let ibans = world.confirm(opened, Atype::Auto);
    world.wait_for_committed([None, Some(3)]);
    generator.stop();
    world.transfers(3);

    let generator = world.start();
    world.beat(20..60);
    let transfers = world.transfers(3 + 40);
    world.wait_for_committed([Some(40), Some(3)]);
    generator.stop();
    world.made(43, 0);
    let bank = |side: &String| side.starts_with("NL") && side != iban::COMPANY_IBAN;
    for transfer in &transfers {
        for side in [&transfer.from, &transfer.to] {
            assert!(!bank(side) || ibans.contains(side), "{transfer:?}");
        }
    }
}

#[test]
#[ignore = "needs Kafka and registry: make test-integration"]
fn crash_before_the_commit_repeats_the_same_commands() {
    let mut world = World::new("crash");
    let opened: Vec<Uuid> = (0..5).map(Uuid::from_u128).collect();
    world.confirm(opened, Atype::Auto);
    world.beat(200..300);
    let generator = world.start();
    let first = world.transfers(5 + 99);
    world.wait_for_committed([Some(100), Some(5)]);
    generator.stop();

    // Another group finds the offsets as they were before.
    world.config.names.group = world.config.names.dead_letter;
    let generator = world.start();
    let both = world.transfers(2 * (5 + 99));
    assert_eq!(world.opened(2).into_iter().collect::<HashSet<_>>().len(), 1);
    generator.stop();
    assert_eq!(ids(&both), ids(&first));
    // Equal in every field, since the same accounts were known.
    for transfer in &first {
        assert_eq!(both.iter().filter(|again| *again == transfer).count(), 2, "{transfer:?}");
    }
}

#[test]
#[ignore = "needs Kafka and registry: make test-integration"]
fn undecodable_record_goes_to_dead_letter_once() {
    let mut world = World::new("poison");
    let names = world.config.names.clone();
    for topic in [names.heartbeat, names.account_creation_confirmed] {
        let value = b"\x01no frame".to_vec();
        world.send(&[Outgoing { topic, key: "x".to_owned(), value }]);
    }
    world.beat(0..1);
    let generator = world.start();
    assert_eq!(world.opened(1).len(), 1);
    world.wait_for_committed([Some(2), Some(1)]);
    generator.stop();
    // Accounts are read from the earliest again.
    let generator = world.start();
    world.beat(0..1);
    world.wait_for_committed([Some(3), Some(1)]);
    generator.stop();
    let dead = world.read(names.dead_letter, 2);
    let keys: BTreeSet<String> =
        dead.iter().map(|it| String::from_utf8(it.key.clone().unwrap()).unwrap()).collect();
    let reason = "0/0: magic byte 1 instead of 0";
    let wanted = [names.heartbeat, names.account_creation_confirmed];
    assert_eq!(keys, wanted.map(|topic| format!("{topic}/{reason}")).into());
    assert!(dead.iter().all(|it| it.value.as_deref() == Some(b"\x01no frame")));
}

#[test]
#[ignore = "needs Kafka and registry: make test-integration"]
fn members_of_a_group_share_the_beats_and_one_stands_in_for_another() {
    let mut world = World::new("members");
    if world.config.producer.kafka.client == ClientChoice::KafkaCrate {
        // The crate has no groups: `Config::from_env` refuses.
        return;
    }
    world.config.is_member = true;
    world.config.producer.kafka.client = ClientChoice::BuiltIn;
    let opened: Vec<Uuid> = (0..3).map(Uuid::from_u128).collect();
    world.confirm(opened, Atype::Auto);
    let first = world.start();
    world.beat(20..60);
    world.transfers(3 + 40);
    world.wait_for_committed([Some(40), Some(3)]);
    // There is one partition of each topic: the second has nothing to do until the first goes.
    let second = world.start();
    world.beat(60..100);
    world.wait_for_committed([Some(80), Some(3)]);
    first.stop();
    // It also pays the accounts that come from now on, once.
    world.confirm([Uuid::from_u128(3)], Atype::Auto);
    world.beat(100..140);
    world.wait_for_committed([Some(120), Some(4)]);
    second.stop();
    let transfers = world.transfers(4 + 120);
    // A beat that was read by both gives one id, so there are as many transfers as ids here only if
    // none was.
    assert_eq!(ids(&transfers).len(), 124);
    world.made(124, 0);
}

/// CPU seconds that this process has used.
fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // proc(5): behind the name in parentheses, user and system time are the 12th and 13th, in
    // hundredths.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11..=12].iter().map(|ticks| ticks.parse::<f64>().unwrap() / 100.0).sum()
}

#[test]
#[ignore = "needs Kafka and registry: make test-integration"]
fn one_core_makes_20_000_commands_per_second() {
    const BEATS: i64 = 100_000;
    let mut world = World::new("speed");
    world.confirm((0..1_000).map(Uuid::from_u128), Atype::Auto);
    let generator = world.start();
    world.wait_for_committed([None, Some(1_000)]);
    generator.stop();
    world.beat(201..=200 + BEATS);
    let (started, cpu_before) = (Instant::now(), cpu_s());
    let generator = world.start();
    world.wait_for_committed([Some(BEATS), Some(1_000)]);
    // By its own CPU time: how fast the brokers are on a busy machine is theirs.
    let (took, cpu) = (started.elapsed(), cpu_s() - cpu_before);
    generator.stop();
    world.made(1_000 + BEATS - BEATS / 200, BEATS / 200);
    eprintln!("{BEATS} commands in {took:?}, {cpu:.2} s of CPU");
    assert!(BEATS as f64 / cpu > 20_000.0, "{cpu} s of CPU");
}
