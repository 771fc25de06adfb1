//! Shared code of the tests on a real Kafka: topics, records, reading.
#![allow(clippy::unwrap_used, dead_code, reason = "tests; each test binary uses a part of this")]

pub mod members;

use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::{
    ApiKey, CreateTopicsRequest, CreateTopicsResponse, FindCoordinatorRequest,
    FindCoordinatorResponse, MetadataRequest, MetadataResponse, RequestHeader, ResponseHeader,
    TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};
use log::LevelFilter;
use messaging::KafkaConfig;
use messaging::consumer::{self, Consumer, OffsetReset};
use messaging::producer::{Outgoing, ProducerConfig};
use messaging::{FetchedRecord, KafkaClient, Position};
use service::env::Env;
use service::shutdown::Shutdown;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

/// Longest wait for anything expected.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The cluster that the test was started with.
pub fn config() -> KafkaConfig {
    service::log::init(LevelFilter::Info);
    KafkaConfig::from_env(&environment()).unwrap()
}

pub fn producer_config() -> ProducerConfig {
    ProducerConfig::from_env(&environment()).unwrap()
}

/// Start positions of the group that is named as `topic`.
pub fn start_positions(
    topic: &str,
    partitions: &[i32],
    offset_reset: OffsetReset,
    within: Duration,
) -> Vec<Position> {
    let stop = Shutdown::default();
    consumer::start_positions(&config(), topic, topic, partitions, offset_reset, within, &stop)
        .unwrap()
}

fn environment() -> Env<'static> {
    Env::new(&|name| std::env::var(name).ok())
}

/// A topic of this test, stored uncompressed as by the synchronizer, with further
/// `configs`. All brokers know it when this returns.
pub fn topic(name: &str, partitions: i32, configs: &[(&str, &str)]) -> &'static str {
    replicated_topic(name, partitions, controller().1, configs)
}

/// The same with `replication` replicas instead of one on each broker.
pub fn replicated_topic(
    name: &str,
    partitions: i32,
    replicas: i16,
    configs: &[(&str, &str)],
) -> &'static str {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
    let name: &'static str = format!("{name}-{now}").leak();
    let mut all = BTreeMap::from([
        ("compression.type", "uncompressed"),
        ("message.timestamp.type", "LogAppendTime"),
        ("max.message.bytes", "4194304"),
    ]);
    all.extend(configs.iter().copied());
    let configs = all
        .into_iter()
        .map(|(name, value)| {
            CreatableTopicConfig::default()
                .with_name(StrBytes::from_string(name.to_owned()))
                .with_value(Some(StrBytes::from_string(value.to_owned())))
        })
        .collect();
    let (controller, _) = controller();
    let request = CreateTopicsRequest::default().with_timeout_ms(10_000).with_topics(vec![
        CreatableTopic::default()
            .with_name(TopicName(StrBytes::from_static_str(name)))
            .with_num_partitions(partitions)
            .with_replication_factor(replicas)
            .with_configs(configs),
    ]);
    let answer: CreateTopicsResponse = ask(&controller, ApiKey::CreateTopics, 5, &request);
    assert_eq!(answer.topics[0].error_code, 0, "{:?}", answer.topics[0].error_message);
    for broker in config().brokers {
        let alone = KafkaConfig { brokers: vec![broker], ..config() };
        messaging::connect(&alone).leaders(name, PATIENCE).unwrap();
    }
    name
}

/// The broker that coordinates `group`, as the first running broker returns it.
pub fn coordinator(group: &'static str) -> i32 {
    let request = FindCoordinatorRequest::default().with_key(StrBytes::from_static_str(group));
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        for broker in up() {
            let answer: FindCoordinatorResponse =
                ask(&broker, ApiKey::FindCoordinator, 3, &request);
            if answer.error_code == 0 {
                return answer.node_id.0;
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("no broker of {:?} knows the coordinator of {group}", config().brokers);
}

/// The brokers that accept connections.
fn up() -> impl Iterator<Item = String> {
    config().brokers.into_iter().filter(|broker| TcpStream::connect(broker).is_ok())
}

/// A broker for CreateTopics, and the number of live brokers, which is that of the replicas.
pub fn controller() -> (String, i16) {
    for broker in up() {
        let answer: MetadataResponse = ask(
            &broker,
            ApiKey::Metadata,
            9,
            &MetadataRequest::default().with_topics(Some(vec![])),
        );
        let found = answer.brokers.iter().find(|it| it.node_id == answer.controller_id);
        if let Some(it) = found {
            return (format!("{}:{}", it.host.as_str(), it.port), answer.brokers.len() as i16);
        }
    }
    panic!("no broker of {:?} answers", config().brokers);
}

fn ask<Q: Encodable + HeaderVersion, A: Decodable + HeaderVersion>(
    broker: &str,
    api: ApiKey,
    version: i16,
    request: &Q,
) -> A {
    let mut body = Vec::new();
    RequestHeader::default()
        .with_request_api_key(api as i16)
        .with_request_api_version(version)
        .encode(&mut body, Q::header_version(version))
        .unwrap();
    request.encode(&mut body, version).unwrap();
    let mut stream = TcpStream::connect(broker).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&(body.len() as u32).to_be_bytes()).unwrap();
    stream.write_all(&body).unwrap();
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut answer).unwrap();
    let mut answer = answer.as_slice();
    ResponseHeader::decode(&mut answer, A::header_version(version)).unwrap();
    A::decode(&mut answer, version).unwrap()
}

/// Records with the numbers in `range` as keys and values.
pub fn numbered(topic: &'static str, range: std::ops::Range<u32>) -> Vec<Outgoing> {
    range
        .map(|i| Outgoing { topic, key: format!("key-{i}"), value: format!("value-{i}").into() })
        .collect()
}

/// Offset 0 of partitions 0 to `partitions`.
pub fn beginning(partitions: i32) -> Vec<Position> {
    (0..partitions).map(|partition| Position { partition, next: 0 }).collect()
}

/// Polls until `enough` returns true. Asserts that no partition has gaps or duplicates.
pub struct Reader {
    pub consumer: Consumer,
    pub partitions: BTreeMap<i32, Vec<FetchedRecord>>,
}

impl Reader {
    pub fn new(topic: &'static str, partitions: i32) -> Self {
        Self {
            consumer: Consumer::start(&config(), topic, beginning(partitions)),
            partitions: BTreeMap::new(),
        }
    }

    /// The positions after all records that were read.
    pub fn positions(&self) -> Vec<Position> {
        let next = |records: &Vec<FetchedRecord>| records.last().map_or(0, |last| last.offset + 1);
        let position = |(&partition, records)| Position { partition, next: next(records) };
        self.partitions.iter().map(position).collect()
    }

    pub fn read_until(&mut self, mut enough: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !enough(self) {
            assert!(start.elapsed() < PATIENCE, "only {} records came", self.count());
            for data in self.consumer.poll(Duration::from_millis(100)).unwrap() {
                let records = self.partitions.entry(data.partition).or_default();
                for record in data.records {
                    if let Some(last) = records.last() {
                        assert!(
                            record.offset > last.offset,
                            "{} after {}",
                            record.offset,
                            last.offset
                        );
                    }
                    records.push(record);
                }
            }
        }
    }

    pub fn read(&mut self, count: usize) -> &BTreeMap<i32, Vec<FetchedRecord>> {
        self.read_until(|it| it.count() >= count);
        &self.partitions
    }

    pub fn count(&self) -> usize {
        self.partitions.values().map(Vec::len).sum()
    }

    /// The values of all records, as text.
    pub fn values(&self) -> Vec<String> {
        let values = self.partitions.values().flatten().map(|it| it.value.clone());
        values.map(|it| String::from_utf8(it.unwrap_or_default()).unwrap()).collect()
    }
}

pub fn client() -> Box<dyn KafkaClient> {
    messaging::connect(&config())
}

/// True if these tests run with the built-in client.
pub fn built_in(topic: &str) -> bool {
    let mut client = client();
    client.leaders(topic, PATIENCE).unwrap();
    client.fetches_from_all()
}

/// Runs `steps` of Java's client on `topic`. Returns the output.
pub fn foreign(topic: &str, steps: &[&str]) -> String {
    said(foreigner(topic, steps))
}

fn foreigner(topic: &str, steps: &[&str]) -> Command {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kafka_support/Foreign.java");
    let mut java = java(source.as_os_str());
    java.arg(config().brokers.join(",")).arg(topic).args(steps);
    java
}

/// A Java program with the jars of the running brokers.
pub fn java(program: &OsStr) -> Command {
    let jars =
        PathBuf::from(std::env::var_os("KAFKA_JARS").expect("KAFKA_JARS is set by stack.sh with"));
    let mut java = Command::new("java");
    java.arg("-cp").arg(jars.join("*")).arg(program).stderr(Stdio::null());
    java
}

/// The output; asserts success.
pub fn said(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A transaction of Java's client, open until it is committed.
pub struct Open(Child);

impl Open {
    /// Returns once `count` of its records are in the log.
    pub fn begin(topic: &str, count: usize) -> Self {
        let step = format!("hold:{count}");
        let mut java = foreigner(topic, &[&step]);
        let mut open = Self(java.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
        let mut line = String::new();
        BufReader::new(open.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "held\n");
        open
    }

    pub fn commit(mut self) {
        // It waits for the end of its input.
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
