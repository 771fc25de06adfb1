//! Shared code of the tests with a real Kafka cluster: topics, records, reading.
#![allow(clippy::unwrap_used, dead_code, reason = "tests; each test binary uses a part of this")]

pub mod members;

use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    ApiKey, CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest,
    CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse, FindCoordinatorRequest,
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

/// Maximum wait for an expected event.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Returns the settings of the cluster under test.
pub fn config() -> KafkaConfig {
    service::log::init(LevelFilter::Info);
    KafkaConfig::from_env(&environment()).unwrap()
}

pub fn producer_config() -> ProducerConfig {
    ProducerConfig::from_env(&environment()).unwrap()
}

/// Returns the start positions of the group named like `topic`.
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

/// Creates a topic with a unique name. It is stored uncompressed, like the topics that the
/// synchronizer creates. Returns once all brokers have its metadata.
pub fn topic(name: &str, partitions: i32, configs: &[(&str, &str)]) -> &'static str {
    replicated_topic(name, partitions, controller().1, configs)
}

/// Like [`topic`], with the given number of replicas instead of one on each broker.
pub fn replicated_topic(
    name: &str,
    partitions: i32,
    replicas: i16,
    configs: &[(&str, &str)],
) -> &'static str {
    let name = unique(name);
    create_topic(name, partitions, replicas, configs);
    name
}

/// Returns a topic name that no other test uses.
pub fn unique(name: &str) -> &'static str {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
    format!("{name}-{now}").leak()
}

/// Creates the topic `name`. Returns once all brokers have its metadata.
pub fn create_topic(name: &'static str, partitions: i32, replicas: i16, configs: &[(&str, &str)]) {
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
    let response: CreateTopicsResponse = send(&controller, ApiKey::CreateTopics, 5, &request);
    assert_eq!(response.topics[0].error_code, 0, "{:?}", response.topics[0].error_message);
    for broker in config().brokers {
        let alone = KafkaConfig { brokers: vec![broker], ..config() };
        messaging::connect(&alone).leaders(name, PATIENCE).unwrap();
    }
}

/// Deletes the topic `name`. Returns once no broker has its metadata.
pub fn delete_topic(name: &'static str) {
    let request = DeleteTopicsRequest::default()
        .with_timeout_ms(10_000)
        .with_topic_names(vec![TopicName(StrBytes::from_static_str(name))]);
    let response: DeleteTopicsResponse = send(&controller().0, ApiKey::DeleteTopics, 5, &request);
    assert_eq!(response.responses[0].error_code, 0, "{:?}", response.responses[0].error_message);
    let start = Instant::now();
    while topic_exists(name) {
        assert!(start.elapsed() < PATIENCE, "{name} still exists");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Deletes the topic `name` and creates it again. Returns once all brokers have the metadata of the
/// new one.
pub fn recreate_topic(name: &'static str, partitions: i32) {
    delete_topic(name);
    create_topic(name, partitions, controller().1, &[]);
}

/// Adds partitions to the topic `name` until it has `count`. Returns once all brokers report them.
pub fn grow_topic(name: &'static str, count: i32) {
    let request = CreatePartitionsRequest::default().with_timeout_ms(10_000).with_topics(vec![
        CreatePartitionsTopic::default()
            .with_name(TopicName(StrBytes::from_static_str(name)))
            .with_count(count)
            .with_assignments(None),
    ]);
    let response: CreatePartitionsResponse =
        send(&controller().0, ApiKey::CreatePartitions, 3, &request);
    assert_eq!(response.results[0].error_code, 0, "{:?}", response.results[0].error_message);
    let start = Instant::now();
    for broker in config().brokers {
        let alone = KafkaConfig { brokers: vec![broker], ..config() };
        let mut client = messaging::connect(&alone);
        while client.leaders(name, PATIENCE).unwrap().len() != count as usize {
            assert!(start.elapsed() < PATIENCE, "{name} still has its former partitions");
        }
    }
}

/// True if a broker has metadata of the topic `name`. Creates no topic.
pub fn topic_exists(name: &'static str) -> bool {
    up().any(|broker| metadata_of(&broker, name, false).topics[0].error_code == 0)
}

/// Sends a Metadata request for the topic `name`, as a client does that may create it.
pub fn auto_create_topic(name: &'static str) {
    let broker = up().next().unwrap();
    metadata_of(&broker, name, true);
}

fn metadata_of(broker: &str, name: &'static str, may_create: bool) -> MetadataResponse {
    let topic = TopicName(StrBytes::from_static_str(name));
    let request = MetadataRequest::default()
        .with_topics(Some(vec![MetadataRequestTopic::default().with_name(Some(topic))]))
        .with_allow_auto_topic_creation(may_create);
    send(broker, ApiKey::Metadata, 9, &request)
}

/// Returns the id of the broker that coordinates `group`.
pub fn coordinator(group: &'static str) -> i32 {
    let request = FindCoordinatorRequest::default().with_key(StrBytes::from_static_str(group));
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        for broker in up() {
            let response: FindCoordinatorResponse =
                send(&broker, ApiKey::FindCoordinator, 3, &request);
            if response.error_code == 0 {
                return response.node_id.0;
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("none of {:?} returned the coordinator of {group}", config().brokers);
}

/// Returns the brokers that accept connections.
fn up() -> impl Iterator<Item = String> {
    config().brokers.into_iter().filter(|broker| TcpStream::connect(broker).is_ok())
}

/// Returns the controller as host:port, and the number of live brokers.
pub fn controller() -> (String, i16) {
    for broker in up() {
        let response: MetadataResponse = send(
            &broker,
            ApiKey::Metadata,
            9,
            &MetadataRequest::default().with_topics(Some(vec![])),
        );
        let found = response.brokers.iter().find(|it| it.node_id == response.controller_id);
        if let Some(it) = found {
            return (format!("{}:{}", it.host.as_str(), it.port), response.brokers.len() as i16);
        }
    }
    panic!("none of {:?} responds", config().brokers);
}

fn send<Q: Encodable + HeaderVersion, A: Decodable + HeaderVersion>(
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
    let mut response = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut response).unwrap();
    let mut response = response.as_slice();
    ResponseHeader::decode(&mut response, A::header_version(version)).unwrap();
    A::decode(&mut response, version).unwrap()
}

/// Returns records with the keys `key-N` and the values `value-N`, for the numbers in `range`.
pub fn numbered(topic: &'static str, range: std::ops::Range<u32>) -> Vec<Outgoing> {
    range
        .map(|i| Outgoing { topic, key: format!("key-{i}"), value: format!("value-{i}").into() })
        .collect()
}

/// Returns offset 0 of each partition. `partitions` is their number.
pub fn beginning(partitions: i32) -> Vec<Position> {
    (0..partitions).map(|partition| Position { partition, next: 0 }).collect()
}

/// A consumer that keeps all records. Asserts that offsets ascend within each partition.
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

    /// Returns the positions after the last records that were read.
    pub fn positions(&self) -> Vec<Position> {
        let next = |records: &Vec<FetchedRecord>| records.last().map_or(0, |last| last.offset + 1);
        let position = |(&partition, records)| Position { partition, next: next(records) };
        self.partitions.iter().map(position).collect()
    }

    pub fn read_until(&mut self, mut enough: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !enough(self) {
            assert!(start.elapsed() < PATIENCE, "only {} records were read", self.count());
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

    /// Returns the values of all records, as text.
    pub fn values(&self) -> Vec<String> {
        let values = self.partitions.values().flatten().map(|it| it.value.clone());
        values.map(|it| String::from_utf8(it.unwrap_or_default()).unwrap()).collect()
    }
}

pub fn client() -> Box<dyn KafkaClient> {
    messaging::connect(&config())
}

/// True if the built-in client is under test.
pub fn built_in(topic: &str) -> bool {
    let mut client = client();
    client.leaders(topic, PATIENCE).unwrap();
    client.fetches_from_all()
}

/// Runs `steps` with the Java client on `topic`. Returns the output.
pub fn java_client(topic: &str, steps: &[&str]) -> String {
    output_of(java_client_command(topic, steps))
}

fn java_client_command(topic: &str, steps: &[&str]) -> Command {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kafka_support/JavaClient.java");
    let mut java = java(source.as_os_str());
    java.arg(config().brokers.join(",")).arg(topic).args(steps);
    java
}

/// Returns the command of a Java program, with the jars of the running brokers.
pub fn java(program: &OsStr) -> Command {
    let jars =
        PathBuf::from(std::env::var_os("KAFKA_JARS").expect("KAFKA_JARS is set by stack.sh with"));
    let mut java = Command::new("java");
    java.arg("-cp").arg(jars.join("*")).arg(program).stderr(Stdio::null());
    java
}

/// Runs `command` and asserts its success. Returns its output.
pub fn output_of(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A transaction of the Java client that is open until it is committed.
pub struct OpenTransaction(Child);

impl OpenTransaction {
    /// Begins a transaction. Returns once `count` of its records are in the log.
    pub fn begin(topic: &str, count: usize) -> Self {
        let step = format!("hold:{count}");
        let mut java = java_client_command(topic, &[&step]);
        let mut open = Self(java.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
        let mut line = String::new();
        BufReader::new(open.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "held\n");
        open
    }

    pub fn commit(mut self) {
        // The Java client commits at the end of its input.
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for OpenTransaction {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
