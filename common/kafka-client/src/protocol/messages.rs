//! Requests and responses, each in one version. Source: the message definitions of Apache Kafka
//! (clients/src/main/resources/common/message); tests compare all of them with the `kafka-protocol`
//! crate.
//!
//! Fields that this client always sends with the same value are written in `encode`. Response
//! fields that nothing uses are skipped. Comments are Kafka's field names.
#![allow(missing_docs, reason = "the names are Kafka's")]

use super::fields::{Reader, Writer};
use super::request::{ApiSpec, Request, VersionRange};
use crate::map::Map;
use crate::types::Position;
use std::ops;

/// `isolation_level`: records of open and aborted transactions are not read.
const READ_COMMITTED: i8 = 1;
/// `replica_id` of a consumer.
const CONSUMER: i32 = -1;
/// `leader_epoch` that is not known.
const NO_EPOCH: i32 = -1;

/// In version 0, which every broker serves.
pub struct ApiVersions;

#[derive(Debug, Default)]
pub struct ApiVersionsResponse {
    pub error_code: i16,
    pub api_versions: Vec<VersionRange>,
}

impl Request for ApiVersions {
    const SPEC: &'static ApiSpec = &ApiSpec::inflexible(18, "ApiVersions", 0);
    type Response = ApiVersionsResponse;

    fn encode(&self, _: &mut Writer) {}

    fn decode(from: &mut Reader<'_>) -> ApiVersionsResponse {
        let (error_code, mut api_versions) = (from.i16(), Vec::new());
        from.array(&mut |it| {
            api_versions.push(VersionRange { key: it.i16(), lowest: it.i16(), highest: it.i16() });
        });
        ApiVersionsResponse { error_code, api_versions }
    }
}

pub struct Metadata<'a> {
    pub topics: &'a [&'a str],
}

#[derive(Debug, Default)]
pub struct MetadataResponse {
    pub brokers: Vec<Broker>,
    pub topics: Vec<Topic>,
}

#[derive(Debug, Default)]
pub struct Broker {
    pub node_id: i32,
    pub host: String,
    pub port: i32,
}

#[derive(Debug, Default)]
pub struct Topic {
    pub error_code: i16,
    pub name: String,
    pub partitions: Vec<Partition>,
}

#[derive(Debug, Default)]
pub struct Partition {
    pub partition_index: i32,
    /// -1 if there is none.
    pub leader_id: i32,
    /// Number of `replica_nodes`.
    pub replicas: usize,
}

impl Request for Metadata<'_> {
    const SPEC: &'static ApiSpec = &ApiSpec::new(3, "Metadata", 9);
    type Response = MetadataResponse;

    fn encode(&self, to: &mut Writer) {
        to.compact_array(self.topics.len());
        for topic in self.topics {
            to.compact_string(topic);
            to.tagged_fields();
        }
        to.i8(0); // allow_auto_topic_creation
        to.i8(0); // include_cluster_authorized_operations
        to.i8(0); // include_topic_authorized_operations
        to.tagged_fields();
    }

    fn decode(from: &mut Reader<'_>) -> MetadataResponse {
        from.throttle_time();
        let brokers = from.compact_vec(|it| {
            let broker = Broker { node_id: it.i32(), host: it.compact_string(), port: it.i32() };
            it.compact_bytes(); // rack
            it.tagged_fields();
            broker
        });
        from.compact_bytes(); // cluster_id
        from.skip(4); // controller_id
        let topics = from.compact_vec(|it| {
            let (error_code, name) = (it.i16(), it.compact_string());
            it.skip(1); // is_internal
            let partitions = it.compact_vec(Partition::decode);
            it.skip(4); // topic_authorized_operations
            it.tagged_fields();
            Topic { error_code, name, partitions }
        });
        from.skip(4); // cluster_authorized_operations
        from.tagged_fields();
        MetadataResponse { brokers, topics }
    }
}

impl Partition {
    fn decode(from: &mut Reader<'_>) -> Self {
        from.skip(2); // error_code: leader_id is enough
        let (partition_index, leader_id) = (from.i32(), from.i32());
        from.skip(4); // leader_epoch
        let mut replicas = 0;
        from.compact_array(&mut |it| {
            it.skip(4);
            replicas += 1;
        });
        from.compact_array(&mut |it| it.skip(4)); // isr_nodes
        from.compact_array(&mut |it| it.skip(4)); // offline_replicas
        from.tagged_fields();
        Self { partition_index, leader_id, replicas }
    }
}

/// With acks=all.
#[derive(Default)]
pub struct Produce<'a> {
    pub timeout_ms: i32,
    /// Partition index and record batch, by topic.
    pub topics: Map<&'a str, Vec<(i32, &'a [u8])>>,
}

#[derive(Debug, Default)]
pub struct ProduceResponse {
    pub topics: Vec<(String, Vec<ProducedPartition>)>,
}

#[derive(Debug, Default)]
pub struct ProducedPartition {
    pub partition_index: i32,
    pub error_code: i16,
    pub base_offset: i64,
    pub error_message: String,
}

impl Request for Produce<'_> {
    const SPEC: &'static ApiSpec = &ApiSpec::new(0, "Produce", 9);
    type Response = ProduceResponse;

    fn encode(&self, to: &mut Writer) {
        to.compact_null(); // transactional_id
        to.i16(-1); // acks: all in-sync replicas
        to.i32(self.timeout_ms);
        to.compact_array(self.topics.0.len());
        for (topic, partitions) in &self.topics.0 {
            to.compact_string(topic);
            to.compact_array(partitions.len());
            for (partition_index, records) in partitions {
                to.i32(*partition_index);
                to.compact_bytes(records);
                to.tagged_fields();
            }
            to.tagged_fields();
        }
        to.tagged_fields();
    }

    fn decode(from: &mut Reader<'_>) -> ProduceResponse {
        let topics = from.compact_vec(|it| {
            let topic = it.compact_string();
            let partitions = it.compact_vec(|it| {
                let (partition_index, error_code, base_offset) = (it.i32(), it.i16(), it.i64());
                it.skip(8); // log_append_time_ms
                it.skip(8); // log_start_offset
                it.compact_array(&mut |it| {
                    it.skip(4); // batch_index
                    it.compact_bytes(); // batch_index_error_message
                    it.tagged_fields();
                });
                let error_message = it.compact_string();
                it.tagged_fields();
                ProducedPartition { partition_index, error_code, base_offset, error_message }
            });
            it.tagged_fields();
            (topic, partitions)
        });
        from.throttle_time();
        from.tagged_fields();
        ProduceResponse { topics }
    }
}

/// A fetch returns the first batch whatever its size: up to 100 MB, if a topic's
/// `max.message.bytes` allows it.
const FETCH_RESPONSE_BYTES_MAX: usize = 64 << 20;

pub struct Fetch<'a> {
    pub max_wait_ms: i32,
    pub max_bytes: i32,
    pub partition_max_bytes: i32,
    pub topic: &'a str,
    pub positions: &'a [Position],
}

#[derive(Debug, Default)]
pub struct FetchResponse {
    pub error_code: i16,
    pub topics: Vec<(String, Vec<FetchedPartition>)>,
}

#[derive(Debug, Default)]
pub struct FetchedPartition {
    pub partition_index: i32,
    pub error_code: i16,
    pub high_watermark: i64,
    /// `producer_id` and `first_offset`.
    pub aborted_transactions: Vec<(i64, i64)>,
    /// Their range in the response.
    pub records: ops::Range<usize>,
}

impl Request for Fetch<'_> {
    const SPEC: &'static ApiSpec =
        &ApiSpec { response_bytes_max: FETCH_RESPONSE_BYTES_MAX, ..ApiSpec::new(1, "Fetch", 12) };
    type Response = FetchResponse;

    fn encode(&self, to: &mut Writer) {
        to.i32(CONSUMER); // replica_id
        to.i32(self.max_wait_ms);
        to.i32(1); // min_bytes
        to.i32(self.max_bytes);
        to.i8(READ_COMMITTED); // isolation_level
        to.i32(0); // session_id
        to.i32(-1); // session_epoch: no fetch session
        to.compact_array(1);
        to.compact_string(self.topic);
        to.compact_array(self.positions.len());
        for position in self.positions {
            to.i32(position.partition);
            to.i32(NO_EPOCH); // current_leader_epoch
            to.i64(position.next); // fetch_offset
            to.i32(NO_EPOCH); // last_fetched_epoch
            to.i64(-1); // log_start_offset: of followers
            to.i32(self.partition_max_bytes);
            to.tagged_fields();
        }
        to.tagged_fields();
        to.compact_array(0); // forgotten_topics_data
        to.compact_string(""); // rack_id
        to.tagged_fields();
    }

    fn decode(from: &mut Reader<'_>) -> FetchResponse {
        from.throttle_time();
        let error_code = from.i16();
        from.skip(4); // session_id
        let topics = from.compact_vec(|it| {
            let topic = it.compact_string();
            let partitions = it.compact_vec(FetchedPartition::decode);
            it.tagged_fields();
            (topic, partitions)
        });
        from.tagged_fields();
        FetchResponse { error_code, topics }
    }
}

impl FetchedPartition {
    fn decode(from: &mut Reader<'_>) -> Self {
        let (partition_index, error_code, high_watermark) = (from.i32(), from.i16(), from.i64());
        from.skip(8); // last_stable_offset
        from.skip(8); // log_start_offset
        let aborted_transactions = from.compact_vec(|it| {
            let transaction = (it.i64(), it.i64());
            it.tagged_fields();
            transaction
        });
        from.skip(4); // preferred_read_replica
        let records = from.compact_bytes_range();
        from.tagged_fields();
        Self { partition_index, error_code, high_watermark, aborted_transactions, records }
    }
}

/// Responses with one result for each partition of one topic.
#[derive(Debug, Default)]
pub struct PartitionResults {
    /// Of the whole request, where the API has one.
    pub error_code: i16,
    pub partitions: Vec<PartitionResult>,
}

#[derive(Debug, Default)]
pub struct PartitionResult {
    pub partition_index: i32,
    pub error_code: i16,
    /// 0 from OffsetCommit.
    pub offset: i64,
}

impl PartitionResults {
    fn decode(from: &mut Reader<'_>, partition: fn(&mut Reader<'_>) -> PartitionResult) -> Self {
        from.throttle_time();
        let mut partitions = Vec::new();
        from.compact_array(&mut |it| {
            it.compact_bytes(); // name: the one topic of the request
            it.compact_array(&mut |it| {
                partitions.push(partition(it));
                it.tagged_fields();
            });
            it.tagged_fields();
        });
        Self { error_code: 0, partitions }
    }
}

/// `timestamp` of [`ListOffsets`]: the log start offset.
pub const EARLIEST: i64 = -2;
/// `timestamp` of [`ListOffsets`]: the end of the log.
pub const LATEST: i64 = -1;

pub struct ListOffsets<'a> {
    pub topic: &'a str,
    pub partitions: &'a [i32],
    pub timestamp: i64,
}

impl Request for ListOffsets<'_> {
    const SPEC: &'static ApiSpec = &ApiSpec::new(2, "ListOffsets", 6);
    type Response = PartitionResults;

    fn encode(&self, to: &mut Writer) {
        to.i32(CONSUMER); // replica_id
        to.i8(READ_COMMITTED); // isolation_level
        to.compact_array(1);
        to.compact_string(self.topic);
        to.compact_array(self.partitions.len());
        for partition in self.partitions {
            to.i32(*partition);
            to.i32(NO_EPOCH); // current_leader_epoch
            to.i64(self.timestamp);
            to.tagged_fields();
        }
        to.tagged_fields();
        to.tagged_fields();
    }

    fn decode(from: &mut Reader<'_>) -> PartitionResults {
        let results = PartitionResults::decode(from, |it| {
            let (partition_index, error_code) = (it.i32(), it.i16());
            it.skip(8); // timestamp
            let offset = it.i64();
            it.skip(4); // leader_epoch
            PartitionResult { partition_index, error_code, offset }
        });
        from.tagged_fields();
        results
    }
}

/// For an idempotent producer without transactions.
pub struct InitProducerId;

#[derive(Debug, Default)]
pub struct InitProducerIdResponse {
    pub error_code: i16,
    pub producer_id: i64,
}

impl Request for InitProducerId {
    const SPEC: &'static ApiSpec = &ApiSpec::new(22, "InitProducerId", 4);
    type Response = InitProducerIdResponse;

    fn encode(&self, to: &mut Writer) {
        to.compact_null(); // transactional_id
        to.i32(i32::MAX); // transaction_timeout_ms
        to.i64(-1); // producer_id
        to.i16(-1); // producer_epoch
        to.tagged_fields();
    }

    fn decode(from: &mut Reader<'_>) -> InitProducerIdResponse {
        from.throttle_time();
        let response = InitProducerIdResponse { error_code: from.i16(), producer_id: from.i64() };
        from.skip(2); // producer_epoch: 0
        from.tagged_fields();
        response
    }
}

pub struct FindCoordinator<'a> {
    pub group_id: &'a str,
}

#[derive(Debug, Default)]
pub struct FindCoordinatorResponse {
    pub error_code: i16,
    pub host: String,
    pub port: i32,
}

impl Request for FindCoordinator<'_> {
    const SPEC: &'static ApiSpec = &ApiSpec::new(10, "FindCoordinator", 3);
    type Response = FindCoordinatorResponse;

    fn encode(&self, to: &mut Writer) {
        to.compact_string(self.group_id); // key
        to.i8(0); // key_type: a group
        to.tagged_fields();
    }

    fn decode(from: &mut Reader<'_>) -> FindCoordinatorResponse {
        from.throttle_time();
        let error_code = from.i16();
        from.compact_bytes(); // error_message
        from.skip(4); // node_id
        let (host, port) = (from.compact_string(), from.i32());
        from.tagged_fields();
        FindCoordinatorResponse { error_code, host, port }
    }
}

pub struct OffsetFetch<'a> {
    pub group_id: &'a str,
    pub topic: &'a str,
    /// Their number: all indexes from 0 are requested.
    pub partitions: usize,
}

impl Request for OffsetFetch<'_> {
    const SPEC: &'static ApiSpec = &ApiSpec::new(9, "OffsetFetch", 7);
    type Response = PartitionResults;

    fn encode(&self, to: &mut Writer) {
        to.compact_string(self.group_id);
        to.compact_array(1);
        to.compact_string(self.topic);
        to.compact_array(self.partitions);
        for partition in 0..self.partitions {
            to.i32(partition as i32);
        }
        to.tagged_fields();
        to.i8(0); // require_stable: nothing here commits in transactions
        to.tagged_fields();
    }

    fn decode(from: &mut Reader<'_>) -> PartitionResults {
        let mut results = PartitionResults::decode(from, |it| {
            let (partition_index, offset) = (it.i32(), it.i64());
            it.skip(4); // committed_leader_epoch
            it.compact_bytes(); // metadata
            PartitionResult { partition_index, error_code: it.i16(), offset }
        });
        results.error_code = from.i16();
        from.tagged_fields();
        results
    }
}

pub struct OffsetCommit<'a> {
    pub group_id: &'a str,
    /// -1 if it is not a member.
    pub generation_id: i32,
    pub member_id: &'a str,
    pub topic: &'a str,
    pub positions: &'a [Position],
}

impl Request for OffsetCommit<'_> {
    const SPEC: &'static ApiSpec = &ApiSpec::new(8, "OffsetCommit", 8);
    type Response = PartitionResults;

    fn encode(&self, to: &mut Writer) {
        encode_member(to, self.group_id, self.generation_id, self.member_id);
        to.compact_array(1);
        to.compact_string(self.topic);
        to.compact_array(self.positions.len());
        for position in self.positions {
            to.i32(position.partition);
            to.i64(position.next); // committed_offset
            to.i32(NO_EPOCH); // committed_leader_epoch
            to.compact_string(""); // committed_metadata
            to.tagged_fields();
        }
        to.tagged_fields();
        to.tagged_fields();
    }

    fn decode(from: &mut Reader<'_>) -> PartitionResults {
        let results = PartitionResults::decode(from, |it| {
            let (partition_index, error_code) = (it.i32(), it.i16());
            PartitionResult { partition_index, error_code, offset: 0 }
        });
        from.tagged_fields();
        results
    }
}

fn encode_member(to: &mut Writer, group_id: &str, generation_id: i32, member_id: &str) {
    to.compact_string(group_id);
    to.i32(generation_id);
    to.compact_string(member_id);
    to.compact_null(); // group_instance_id: no static membership
}

pub struct JoinGroup<'a> {
    pub group_id: &'a str,
    pub session_timeout_ms: i32,
    pub rebalance_timeout_ms: i32,
    /// Empty in the first request.
    pub member_id: &'a str,
    pub protocol_type: &'a str,
    /// Name of the one protocol.
    pub protocol_name: &'a str,
    /// The subscription, for the leader.
    pub metadata: &'a [u8],
}

#[derive(Debug, Default)]
pub struct JoinGroupResponse {
    pub error_code: i16,
    pub generation_id: i32,
    pub leader: String,
    pub member_id: String,
    /// Empty unless this member is the leader.
    pub members: Vec<JoinGroupMember>,
}

#[derive(Debug, Default)]
pub struct JoinGroupMember {
    pub member_id: String,
    pub metadata: Vec<u8>,
}

impl Request for JoinGroup<'_> {
    const SPEC: &'static ApiSpec = &ApiSpec::new(11, "JoinGroup", 7);
    type Response = JoinGroupResponse;

    fn encode(&self, to: &mut Writer) {
        to.compact_string(self.group_id);
        to.i32(self.session_timeout_ms);
        to.i32(self.rebalance_timeout_ms);
        to.compact_string(self.member_id);
        to.compact_null(); // group_instance_id: no static membership
        to.compact_string(self.protocol_type);
        to.compact_array(1);
        to.compact_string(self.protocol_name);
        to.compact_bytes(self.metadata);
        to.tagged_fields();
        to.tagged_fields();
    }

    fn decode(from: &mut Reader<'_>) -> JoinGroupResponse {
        from.throttle_time();
        let (error_code, generation_id) = (from.i16(), from.i32());
        from.compact_bytes(); // protocol_type
        from.compact_bytes(); // protocol_name
        let (leader, member_id) = (from.compact_string(), from.compact_string());
        let members = from.compact_vec(|it| {
            let member_id = it.compact_string();
            it.compact_bytes(); // group_instance_id
            let metadata = it.compact_bytes().to_vec();
            it.tagged_fields();
            JoinGroupMember { member_id, metadata }
        });
        from.tagged_fields();
        JoinGroupResponse { error_code, generation_id, leader, member_id, members }
    }
}

pub struct SyncGroup<'a> {
    pub group_id: &'a str,
    pub generation_id: i32,
    pub member_id: &'a str,
    /// By member id; empty unless this member is the leader.
    pub assignments: &'a [(&'a str, Vec<u8>)],
}

#[derive(Debug, Default)]
pub struct SyncGroupResponse {
    pub error_code: i16,
    pub assignment: Vec<u8>,
}

impl Request for SyncGroup<'_> {
    const SPEC: &'static ApiSpec = &ApiSpec::new(14, "SyncGroup", 4);
    type Response = SyncGroupResponse;

    fn encode(&self, to: &mut Writer) {
        encode_member(to, self.group_id, self.generation_id, self.member_id);
        to.compact_array(self.assignments.len());
        for (member_id, assignment) in self.assignments {
            to.compact_string(member_id);
            to.compact_bytes(assignment);
            to.tagged_fields();
        }
        to.tagged_fields();
    }

    fn decode(from: &mut Reader<'_>) -> SyncGroupResponse {
        from.throttle_time();
        let (error_code, assignment) = (from.i16(), from.compact_bytes().to_vec());
        from.tagged_fields();
        SyncGroupResponse { error_code, assignment }
    }
}

pub struct Heartbeat<'a> {
    pub group_id: &'a str,
    pub generation_id: i32,
    pub member_id: &'a str,
}

impl Request for Heartbeat<'_> {
    const SPEC: &'static ApiSpec = &ApiSpec::new(12, "Heartbeat", 4);
    /// `error_code`.
    type Response = i16;

    fn encode(&self, to: &mut Writer) {
        encode_member(to, self.group_id, self.generation_id, self.member_id);
        to.tagged_fields();
    }

    fn decode(from: &mut Reader<'_>) -> i16 {
        from.throttle_time();
        let error_code = from.i16();
        from.tagged_fields();
        error_code
    }
}

pub struct LeaveGroup<'a> {
    pub group_id: &'a str,
    pub member_id: &'a str,
}

impl Request for LeaveGroup<'_> {
    const SPEC: &'static ApiSpec = &ApiSpec::new(13, "LeaveGroup", 4);
    /// `error_code`.
    type Response = i16;

    fn encode(&self, to: &mut Writer) {
        to.compact_string(self.group_id);
        to.compact_array(1);
        to.compact_string(self.member_id);
        to.compact_null(); // group_instance_id: no static membership
        to.tagged_fields();
        to.tagged_fields();
    }

    fn decode(from: &mut Reader<'_>) -> i16 {
        from.throttle_time();
        let error_code = from.i16();
        from.compact_array(&mut |it| {
            it.compact_bytes(); // member_id
            it.compact_bytes(); // group_instance_id
            it.skip(2); // error_code: an unknown member has left, too
            it.tagged_fields();
        });
        from.tagged_fields();
        error_code
    }
}

pub struct SaslHandshake<'a> {
    pub mechanism: &'a str,
}

#[derive(Debug, Default)]
pub struct SaslHandshakeResponse {
    pub error_code: i16,
    /// Those that are enabled.
    pub mechanisms: Vec<String>,
}

impl Request for SaslHandshake<'_> {
    const SPEC: &'static ApiSpec = &ApiSpec::inflexible(17, "SaslHandshake", 1);
    type Response = SaslHandshakeResponse;

    fn encode(&self, to: &mut Writer) {
        to.string(self.mechanism);
    }

    fn decode(from: &mut Reader<'_>) -> SaslHandshakeResponse {
        let (error_code, mut mechanisms) = (from.i16(), Vec::new());
        from.array(&mut |it| mechanisms.push(it.string()));
        SaslHandshakeResponse { error_code, mechanisms }
    }
}

pub struct SaslAuthenticate<'a> {
    pub auth_bytes: &'a [u8],
}

#[derive(Debug, Default)]
pub struct SaslAuthenticateResponse {
    pub error_code: i16,
    pub error_message: String,
    pub auth_bytes: Vec<u8>,
    pub session_lifetime_ms: i64,
}

impl Request for SaslAuthenticate<'_> {
    const SPEC: &'static ApiSpec = &ApiSpec::new(36, "SaslAuthenticate", 2);
    type Response = SaslAuthenticateResponse;

    fn encode(&self, to: &mut Writer) {
        to.compact_bytes(self.auth_bytes);
        to.tagged_fields();
    }

    fn decode(from: &mut Reader<'_>) -> SaslAuthenticateResponse {
        let (error_code, error_message) = (from.i16(), from.compact_string());
        let (auth_bytes, session_lifetime_ms) = (from.compact_bytes().to_vec(), from.i64());
        from.tagged_fields();
        SaslAuthenticateResponse { error_code, error_message, auth_bytes, session_lifetime_ms }
    }
}

/// `resource_type` of a topic.
const TOPIC_RESOURCE: i8 = 2;

/// The result of a request for one topic.
#[derive(Debug, Default)]
pub struct TopicResult {
    pub error_code: i16,
    /// May be empty.
    pub error_message: String,
    pub topic: String,
}

pub struct CreateTopics<'a> {
    pub topics: Vec<CreateTopic<'a>>,
    pub timeout_ms: i32,
}

pub struct CreateTopic<'a> {
    pub name: &'a str,
    pub num_partitions: i32,
    pub replication_factor: i16,
    pub configs: &'a [(&'a str, String)],
}

impl Request for CreateTopics<'_> {
    const SPEC: &'static ApiSpec = &ApiSpec::new(19, "CreateTopics", 5);
    type Response = Vec<TopicResult>;

    fn encode(&self, to: &mut Writer) {
        to.compact_array(self.topics.len());
        for topic in &self.topics {
            to.compact_string(topic.name);
            to.i32(topic.num_partitions);
            to.i16(topic.replication_factor);
            to.compact_array(0); // assignments: the cluster chooses
            to.compact_array(topic.configs.len());
            for (name, value) in topic.configs {
                to.compact_string(name);
                to.compact_string(value);
                to.tagged_fields();
            }
            to.tagged_fields();
        }
        to.i32(self.timeout_ms);
        to.i8(0); // validate_only
        to.tagged_fields();
    }

    fn decode(from: &mut Reader<'_>) -> Vec<TopicResult> {
        from.throttle_time();
        let results = from.compact_vec(|it| {
            let (topic, error_code) = (it.compact_string(), it.i16());
            let error_message = it.compact_string();
            it.skip(4); // num_partitions
            it.skip(2); // replication_factor
            it.compact_array(&mut |it| {
                it.compact_bytes(); // name
                it.compact_bytes(); // value
                it.skip(3); // read_only, config_source, is_sensitive
                it.tagged_fields();
            });
            it.tagged_fields();
            TopicResult { error_code, error_message, topic }
        });
        from.tagged_fields();
        results
    }
}

/// All configs of topics.
pub struct DescribeConfigs<'a> {
    pub topics: Vec<&'a str>,
}

#[derive(Debug, Default)]
pub struct TopicConfigs {
    pub result: TopicResult,
    pub configs: Vec<ConfigEntry>,
}

#[derive(Debug, Default)]
pub struct ConfigEntry {
    pub name: String,
    pub value: String,
    pub config_source: i8,
}

impl Request for DescribeConfigs<'_> {
    const SPEC: &'static ApiSpec = &ApiSpec::new(32, "DescribeConfigs", 4);
    type Response = Vec<TopicConfigs>;

    fn encode(&self, to: &mut Writer) {
        to.compact_array(self.topics.len());
        for topic in &self.topics {
            to.i8(TOPIC_RESOURCE);
            to.compact_string(topic);
            to.compact_null(); // configuration_keys: all
            to.tagged_fields();
        }
        to.i8(0); // include_synonyms
        to.i8(0); // include_documentation
        to.tagged_fields();
    }

    fn decode(from: &mut Reader<'_>) -> Vec<TopicConfigs> {
        from.throttle_time();
        let topics = from.compact_vec(|it| {
            let result = TopicResult::decode_resource(it);
            let configs = it.compact_vec(ConfigEntry::decode);
            it.tagged_fields();
            TopicConfigs { result, configs }
        });
        from.tagged_fields();
        topics
    }
}

impl ConfigEntry {
    fn decode(from: &mut Reader<'_>) -> Self {
        let (name, value) = (from.compact_string(), from.compact_string());
        from.skip(1); // read_only
        let config_source = from.i8();
        from.skip(1); // is_sensitive
        from.compact_array(&mut |it| {
            it.compact_bytes(); // name of the synonym
            it.compact_bytes(); // value
            it.skip(1); // source
            it.tagged_fields();
        });
        from.skip(1); // config_type
        from.compact_bytes(); // documentation
        from.tagged_fields();
        Self { name, value, config_source }
    }
}

impl TopicResult {
    fn decode_resource(from: &mut Reader<'_>) -> Self {
        let (error_code, error_message) = (from.i16(), from.compact_string());
        from.skip(1); // resource_type
        Self { error_code, error_message, topic: from.compact_string() }
    }
}

/// Sets configs of topics.
pub struct IncrementalAlterConfigs<'a> {
    pub topics: Vec<(&'a str, &'a [(&'a str, String)])>,
}

impl Request for IncrementalAlterConfigs<'_> {
    const SPEC: &'static ApiSpec = &ApiSpec::new(44, "IncrementalAlterConfigs", 1);
    type Response = Vec<TopicResult>;

    fn encode(&self, to: &mut Writer) {
        to.compact_array(self.topics.len());
        for (topic, configs) in &self.topics {
            to.i8(TOPIC_RESOURCE);
            to.compact_string(topic);
            to.compact_array(configs.len());
            for (name, value) in *configs {
                to.compact_string(name);
                to.i8(0); // config_operation: SET
                to.compact_string(value);
                to.tagged_fields();
            }
            to.tagged_fields();
        }
        to.i8(0); // validate_only
        to.tagged_fields();
    }

    fn decode(from: &mut Reader<'_>) -> Vec<TopicResult> {
        from.throttle_time();
        let results = from.compact_vec(|it| {
            let result = TopicResult::decode_resource(it);
            it.tagged_fields();
            result
        });
        from.tagged_fields();
        results
    }
}

/// What tests and fuzz targets do with each kind of request.
#[cfg(any(test, feature = "fuzzing"))]
pub trait RequestVisitor {
    fn visit<R: Request>(&mut self);
}

#[cfg(any(test, feature = "fuzzing"))]
pub fn visit_all(visitor: &mut impl RequestVisitor) {
    visitor.visit::<ApiVersions>();
    visitor.visit::<Metadata<'_>>();
    visitor.visit::<Produce<'_>>();
    visitor.visit::<Fetch<'_>>();
    visitor.visit::<ListOffsets<'_>>();
    visitor.visit::<InitProducerId>();
    visitor.visit::<FindCoordinator<'_>>();
    visitor.visit::<OffsetFetch<'_>>();
    visitor.visit::<OffsetCommit<'_>>();
    visitor.visit::<JoinGroup<'_>>();
    visitor.visit::<SyncGroup<'_>>();
    visitor.visit::<Heartbeat<'_>>();
    visitor.visit::<LeaveGroup<'_>>();
    visitor.visit::<SaslHandshake<'_>>();
    visitor.visit::<SaslAuthenticate<'_>>();
    visitor.visit::<CreateTopics<'_>>();
    visitor.visit::<DescribeConfigs<'_>>();
    visitor.visit::<IncrementalAlterConfigs<'_>>();
}
