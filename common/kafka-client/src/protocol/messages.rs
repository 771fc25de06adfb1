//! Requests and responses, each in one version. Source: the message definitions of Apache Kafka
//! (clients/src/main/resources/common/message). Tests compare all of them with the crate
//! `kafka-protocol`.
//!
//! Fields have the names of the definitions. Fields that always have the same value are not part of
//! a request: `encode` writes them, with their names as comments. Response fields that no caller
//! uses are skipped. All `error_code` fields are 0 without an error; see [`super::codes`].

use super::fields::{Reader, Writer};
use super::request::{ApiSpec, Request, VersionRange};
use crate::map::Map;
use crate::types::{Position, TopicId};
use std::ops;

/// `isolation_level`: records of open and aborted transactions are not fetched.
const READ_COMMITTED: i8 = 1;
/// `replica_id` of a consumer.
const CONSUMER: i32 = -1;
/// A `leader_epoch` that is not known.
const NO_EPOCH: i32 = -1;

/// ApiVersions (API key 18), version 0, which every broker supports (KIP-35).
pub struct ApiVersions;

/// Response to [`ApiVersions`].
#[derive(Debug, Default)]
pub struct ApiVersionsResponse {
    /// UNSUPPORTED_VERSION, or 0.
    pub error_code: i16,
    /// The supported versions of each API.
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

/// Metadata (API key 3), version 10, the first one with topic ids (KIP-516). It does not create
/// missing topics.
pub struct Metadata<'a> {
    /// Topic names. The response has all brokers even without a topic.
    pub topics: &'a [&'a str],
}

/// Response to [`Metadata`].
#[derive(Debug, Default)]
pub struct MetadataResponse {
    /// All registered brokers.
    pub brokers: Vec<Broker>,
    /// One entry for each requested topic.
    pub topics: Vec<Topic>,
}

/// A broker and its advertised address.
#[derive(Debug, Default)]
pub struct Broker {
    /// Broker id (`node.id`).
    pub node_id: i32,
    /// Host name or address, without brackets for IPv6.
    pub host: String,
    /// TCP port, 1 to 65535.
    pub port: i32,
}

/// A topic and its partitions.
#[derive(Debug, Default)]
pub struct Topic {
    /// UNKNOWN_TOPIC_OR_PARTITION for a missing topic.
    pub error_code: i16,
    /// The requested name.
    pub name: String,
    /// None if the topic is missing, or if the cluster has no topic ids yet: its brokers had a
    /// version before 2.8 until now.
    pub topic_id: Option<TopicId>,
    /// In any order. Empty after an error.
    pub partitions: Vec<Partition>,
}

/// A partition, its leader and its replicas.
#[derive(Debug, Default)]
pub struct Partition {
    /// Partition index, from 0.
    pub partition_index: i32,
    /// Node id of the leader, or -1 without a leader.
    pub leader_id: i32,
    /// The number of `replica_nodes`.
    pub replicas: usize,
}

impl Request for Metadata<'_> {
    const SPEC: &'static ApiSpec = &ApiSpec::new(3, "Metadata", 10);
    type Response = MetadataResponse;

    fn encode(&self, to: &mut Writer) {
        to.compact_array(self.topics.len());
        for topic in self.topics {
            to.raw(&[0; 16]); // topic_id: the topic is named
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
            let topic_id = TopicId::from_wire(it.uuid());
            it.skip(1); // is_internal
            let partitions = it.compact_vec(Partition::decode);
            it.skip(4); // topic_authorized_operations
            it.tagged_fields();
            Topic { error_code, name, topic_id, partitions }
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

/// Produce (API key 0), version 9, with acks=all and without a transaction.
#[derive(Default)]
pub struct Produce<'a> {
    /// Time that the leader waits for in-sync replicas, in milliseconds.
    pub timeout_ms: i32,
    /// Partition indexes and encoded record batches, by topic.
    pub topics: Map<&'a str, Vec<(i32, &'a [u8])>>,
}

/// Response to [`Produce`].
#[derive(Debug, Default)]
pub struct ProduceResponse {
    /// Topic names and the results of their partitions.
    pub topics: Vec<(String, Vec<ProducedPartition>)>,
}

/// The result of one batch.
#[derive(Debug, Default)]
pub struct ProducedPartition {
    /// Partition index, from 0.
    pub partition_index: i32,
    /// Classified by [`crate::ErrorKind::of_code`].
    pub error_code: i16,
    /// Offset of the first record of the batch, or -1 after an error.
    pub base_offset: i64,
    /// The broker's error message (KIP-467), which may be empty.
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

/// A broker returns the first batch whatever its size (KIP-74). A batch may have up to 100 MiB if
/// the topic's `max.message.bytes` allows it.
const FETCH_RESPONSE_BYTES_MAX: usize = 64 << 20;

/// Fetch (API key 1), version 12, of one topic and without a fetch session. Version 12 is the last
/// one that names topics instead of topic ids (KIP-516).
pub struct Fetch<'a> {
    /// Time that the broker waits for a record, in milliseconds.
    pub max_wait_ms: i32,
    /// Limit of the response, in bytes. The first batch may exceed it (KIP-74).
    pub max_bytes: i32,
    /// Limit for each partition, in bytes. The first batch may exceed it.
    pub partition_max_bytes: i32,
    /// Name of an existing topic.
    pub topic: &'a str,
    /// Partition indexes and fetch offsets.
    pub positions: &'a [Position],
}

/// Response to [`Fetch`].
#[derive(Debug, Default)]
pub struct FetchResponse {
    /// The error of the whole request.
    pub error_code: i16,
    /// Topic names and the data of their partitions.
    pub topics: Vec<(String, Vec<FetchedPartition>)>,
}

/// The data of one partition.
#[derive(Debug, Default)]
pub struct FetchedPartition {
    /// Partition index, from 0.
    pub partition_index: i32,
    /// Classified by [`crate::ErrorKind::of_code`].
    pub error_code: i16,
    /// The offset after the last record that all in-sync replicas have.
    pub high_watermark: i64,
    /// Producer ids and first offsets of aborted transactions.
    pub aborted_transactions: Vec<(i64, i64)>,
    /// The range of the record batches in the response, in bytes.
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

/// A response with one result for each partition of one topic.
#[derive(Debug, Default)]
pub struct PartitionResults {
    /// The error of the whole request. Only OffsetFetch has it.
    pub error_code: i16,
    /// In any order.
    pub partitions: Vec<PartitionResult>,
}

/// The result for one partition.
#[derive(Debug, Default)]
pub struct PartitionResult {
    /// Partition index, from 0.
    pub partition_index: i32,
    /// The error of this partition.
    pub error_code: i16,
    /// The requested or committed offset, or -1 without one. 0 from OffsetCommit.
    pub offset: i64,
    /// The text that was committed with the offset. Only OffsetFetch has it.
    pub metadata: String,
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
/// `timestamp` of [`ListOffsets`]: the last stable offset, which is the high watermark unless a
/// transaction is open.
pub const LATEST: i64 = -1;

/// ListOffsets (API key 2), version 6, with isolation level `read_committed`.
pub struct ListOffsets<'a> {
    /// Name of an existing topic.
    pub topic: &'a str,
    /// Partition indexes that the broker leads.
    pub partitions: &'a [i32],
    /// [`EARLIEST`], [`LATEST`], or a time in milliseconds since 1970-01-01 UTC.
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
            PartitionResult { partition_index, error_code, offset, metadata: String::new() }
        });
        from.tagged_fields();
        results
    }
}

/// InitProducerId (API key 22), version 4, for an idempotent producer without transactions
/// (KIP-98).
pub struct InitProducerId;

/// Response to [`InitProducerId`].
#[derive(Debug, Default)]
pub struct InitProducerIdResponse {
    /// COORDINATOR_LOAD_IN_PROGRESS while the broker starts.
    pub error_code: i16,
    /// A producer id that no other producer has.
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

/// FindCoordinator (API key 10), version 3, for a group.
pub struct FindCoordinator<'a> {
    /// Id of the consumer group (`group.id`).
    pub group_id: &'a str,
}

/// Response to [`FindCoordinator`].
#[derive(Debug, Default)]
pub struct FindCoordinatorResponse {
    /// COORDINATOR_NOT_AVAILABLE while the internal topic of offsets is created.
    pub error_code: i16,
    /// Host name or address of the coordinator, without brackets for IPv6.
    pub host: String,
    /// TCP port, 1 to 65535.
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

/// OffsetFetch (API key 9), version 7, of one topic.
pub struct OffsetFetch<'a> {
    /// Id of the consumer group (`group.id`).
    pub group_id: &'a str,
    /// Name of an existing topic.
    pub topic: &'a str,
    /// The number of partitions: all indexes below it are requested.
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
        to.i8(0); // require_stable: offsets committed in open transactions are not waited for
        to.tagged_fields();
    }

    fn decode(from: &mut Reader<'_>) -> PartitionResults {
        let mut results = PartitionResults::decode(from, |it| {
            let (partition_index, offset) = (it.i32(), it.i64());
            it.skip(4); // committed_leader_epoch
            let metadata = it.compact_string();
            PartitionResult { partition_index, error_code: it.i16(), offset, metadata }
        });
        results.error_code = from.i16();
        from.tagged_fields();
        results
    }
}

/// OffsetCommit (API key 8), version 8, of one topic.
pub struct OffsetCommit<'a> {
    /// Id of the consumer group (`group.id`).
    pub group_id: &'a str,
    /// The generation of the member, or -1 from a client that has not joined.
    pub generation_id: i32,
    /// The id of the member, or empty from a client that has not joined.
    pub member_id: &'a str,
    /// Name of an existing topic.
    pub topic: &'a str,
    /// Partition indexes and the next offsets to read.
    pub positions: &'a [Position],
    /// A text to store with each offset.
    pub metadata: &'a str,
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
            to.compact_string(self.metadata);
            to.tagged_fields();
        }
        to.tagged_fields();
        to.tagged_fields();
    }

    fn decode(from: &mut Reader<'_>) -> PartitionResults {
        let results = PartitionResults::decode(from, |it| {
            let (partition_index, error_code) = (it.i32(), it.i16());
            PartitionResult { partition_index, error_code, ..PartitionResult::default() }
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

/// JoinGroup (API key 11), version 7, with one protocol and without static membership.
pub struct JoinGroup<'a> {
    /// Id of the consumer group (`group.id`).
    pub group_id: &'a str,
    /// Time without a heartbeat after which the member is removed, in milliseconds.
    pub session_timeout_ms: i32,
    /// Time for members to rejoin in a rebalance, in milliseconds.
    pub rebalance_timeout_ms: i32,
    /// Empty in the first request. Then the member id that the coordinator has assigned (KIP-394).
    pub member_id: &'a str,
    /// "consumer" for consumer groups.
    pub protocol_type: &'a str,
    /// The name of the only protocol, which is the assignor.
    pub protocol_name: &'a str,
    /// The encoded subscription, which the coordinator sends to the group leader.
    pub metadata: &'a [u8],
}

/// Response to [`JoinGroup`], sent after all members have joined.
#[derive(Debug, Default)]
pub struct JoinGroupResponse {
    /// MEMBER_ID_REQUIRED in response to an empty member id.
    pub error_code: i16,
    /// Increases with each rebalance.
    pub generation_id: i32,
    /// Member id of the group leader, which assigns the partitions.
    pub leader: String,
    /// The id of this member.
    pub member_id: String,
    /// All members if this member is the group leader, else empty.
    pub members: Vec<JoinGroupMember>,
}

/// A member of the group.
#[derive(Debug, Default)]
pub struct JoinGroupMember {
    /// Unique in the group.
    pub member_id: String,
    /// The encoded subscription.
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

/// SyncGroup (API key 14), version 4.
pub struct SyncGroup<'a> {
    /// Id of the consumer group (`group.id`).
    pub group_id: &'a str,
    /// From [`JoinGroupResponse`].
    pub generation_id: i32,
    /// From [`JoinGroupResponse`].
    pub member_id: &'a str,
    /// Encoded assignments by member id from the group leader. Empty from other members.
    pub assignments: &'a [(&'a str, Vec<u8>)],
}

/// Response to [`SyncGroup`], sent after the group leader has sent the assignments.
#[derive(Debug, Default)]
pub struct SyncGroupResponse {
    /// REBALANCE_IN_PROGRESS if another rebalance has begun.
    pub error_code: i16,
    /// The encoded assignment of this member.
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

/// Heartbeat (API key 12), version 4, of a member of a consumer group.
pub struct Heartbeat<'a> {
    /// Id of the consumer group (`group.id`).
    pub group_id: &'a str,
    /// From [`JoinGroupResponse`].
    pub generation_id: i32,
    /// From [`JoinGroupResponse`].
    pub member_id: &'a str,
}

impl Request for Heartbeat<'_> {
    const SPEC: &'static ApiSpec = &ApiSpec::new(12, "Heartbeat", 4);
    /// The `error_code`.
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

/// LeaveGroup (API key 13), version 4, of one member.
pub struct LeaveGroup<'a> {
    /// Id of the consumer group (`group.id`).
    pub group_id: &'a str,
    /// From [`JoinGroupResponse`].
    pub member_id: &'a str,
}

impl Request for LeaveGroup<'_> {
    const SPEC: &'static ApiSpec = &ApiSpec::new(13, "LeaveGroup", 4);
    /// The `error_code`.
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
            it.skip(2); // error_code: also set if the member had left before
            it.tagged_fields();
        });
        from.tagged_fields();
        error_code
    }
}

/// SaslHandshake (API key 17), version 1, which is followed by [`SaslAuthenticate`] (KIP-152).
pub struct SaslHandshake<'a> {
    /// The name of a SASL mechanism, for example "PLAIN".
    pub mechanism: &'a str,
}

/// Response to [`SaslHandshake`].
#[derive(Debug, Default)]
pub struct SaslHandshakeResponse {
    /// UNSUPPORTED_SASL_MECHANISM, or ILLEGAL_SASL_STATE on a port without SASL.
    pub error_code: i16,
    /// The mechanisms that are enabled on this port.
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

/// SaslAuthenticate (API key 36), version 2.
pub struct SaslAuthenticate<'a> {
    /// A client message of the mechanism.
    pub auth_bytes: &'a [u8],
}

/// Response to [`SaslAuthenticate`].
#[derive(Debug, Default)]
pub struct SaslAuthenticateResponse {
    /// SASL_AUTHENTICATION_FAILED, or 0.
    pub error_code: i16,
    /// The broker's error message, which may be empty.
    pub error_message: String,
    /// A server message of the mechanism.
    pub auth_bytes: Vec<u8>,
    /// Time until the session expires, in milliseconds (KIP-368). 0 if it does not expire.
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

/// The `resource_type` of a topic.
const TOPIC_RESOURCE: i8 = 2;

/// The result of an admin request for one topic.
#[derive(Debug, Default)]
pub struct TopicResult {
    /// The error for this topic.
    pub error_code: i16,
    /// The broker's error message, which may be empty.
    pub error_message: String,
    /// The requested name.
    pub topic: String,
}

/// CreateTopics (API key 19), version 5. In KRaft mode, every broker forwards it to the controller.
pub struct CreateTopics<'a> {
    /// Each topic is created or refused by itself.
    pub topics: Vec<CreateTopic<'a>>,
    /// Time to wait until the topics exist on the controller, in milliseconds.
    pub timeout_ms: i32,
}

/// A topic to create. The cluster assigns its replicas.
pub struct CreateTopic<'a> {
    /// Name of the new topic.
    pub name: &'a str,
    /// Number of partitions, or -1 for the default of the cluster.
    pub num_partitions: i32,
    /// Replicas of each partition, or -1 for the default of the cluster.
    pub replication_factor: i16,
    /// Names and values of topic configs.
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

/// DescribeConfigs (API key 32), version 4, for all configs of topics.
pub struct DescribeConfigs<'a> {
    /// Names of existing topics.
    pub topics: Vec<&'a str>,
}

/// The configs of one topic.
#[derive(Debug, Default)]
pub struct TopicConfigs {
    /// The topic and its error, if any.
    pub result: TopicResult,
    /// All configs, defaults included.
    pub configs: Vec<ConfigEntry>,
}

/// A topic config.
#[derive(Debug, Default)]
pub struct ConfigEntry {
    /// For example "retention.ms".
    pub name: String,
    /// Empty for a null or sensitive value.
    pub value: String,
    /// 1 if it is set for the topic (DYNAMIC_TOPIC_CONFIG); other values are defaults.
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

/// IncrementalAlterConfigs (API key 44), version 1, to set configs of topics (KIP-339).
pub struct IncrementalAlterConfigs<'a> {
    /// Topic names, each with names and values of configs.
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

/// An action for each kind of request, in tests and fuzz targets.
#[cfg(any(test, feature = "fuzzing"))]
pub trait RequestVisitor {
    /// Called once for each kind of request.
    fn visit<R: Request>(&mut self);
}

/// Calls [`RequestVisitor::visit`] for each kind of request.
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
