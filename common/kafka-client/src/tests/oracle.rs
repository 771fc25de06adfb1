//! The codecs compared with those of the crate `kafka-protocol`. Each decodes the output of the
//! other, field by field, to the last byte.
#![allow(clippy::unwrap_used, reason = "tests")]

use crate::TopicId;
use crate::map::Map;
use crate::protocol::{DecodeError, Reader, Writer};
use crate::protocol::{Request as OwnRequest, VersionRange};
use crate::tests::samples::{self, ResponseVisitor};
use crate::{Position, protocol::messages as own};
use bytes::Bytes;
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult,
};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::{
    AbortedTransaction, FetchableTopicResponse, PartitionData,
};
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponsePartition, OffsetFetchResponseTopic,
};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

fn text(text: &'static str) -> StrBytes {
    StrBytes::from_static_str(text)
}

fn topic(name: &'static str) -> TopicName {
    TopicName(text(name))
}

fn group() -> GroupId {
    GroupId(text("a group"))
}

/// Asserts that `kafka-protocol` decodes `request` to `expected` and encodes that to the same
/// bytes, header included.
fn is<R: OwnRequest, K: Request + PartialEq + std::fmt::Debug>(request: &R, expected: &K) {
    let spec = R::SPEC;
    let mut frame = Writer::default();
    spec.encode_header(&mut frame, 5, "me");
    request.encode(&mut frame);
    let Writer(frame) = frame;
    let mut rest = Bytes::from(frame.clone());
    assert_eq!(spec.key, K::KEY);
    let header = RequestHeader::decode(&mut rest, K::header_version(spec.version)).unwrap();
    let theirs = RequestHeader::default()
        .with_request_api_key(spec.key)
        .with_request_api_version(spec.version)
        .with_correlation_id(5)
        .with_client_id(Some(text("me")));
    assert_eq!(header, theirs);
    assert_eq!(K::decode(&mut rest, spec.version).unwrap(), *expected);
    assert!(rest.is_empty(), "{}", spec.name);
    let mut again = Vec::new();
    header.encode(&mut again, K::header_version(spec.version)).unwrap();
    expected.encode(&mut again, spec.version).unwrap();
    assert_eq!(again, frame, "{}", spec.name);
    let replied = <K::Response as HeaderVersion>::header_version(spec.version);
    assert_eq!(spec.flexible, replied > 0, "{}", spec.name);
}

const AT: [Position; 2] =
    [Position { partition: 3, next: 1 << 40 }, Position { partition: 300, next: 0 }];

#[test]
fn requests_match_kafka_protocol() {
    is(&own::ApiVersions, &ApiVersionsRequest::default());
    let named = |name| MetadataRequestTopic::default().with_name(Some(topic(name)));
    is(
        &own::Metadata { topics: &["a", "bc"] },
        &MetadataRequest::default()
            .with_topics(Some(vec![named("a"), named("bc")]))
            .with_allow_auto_topic_creation(false),
    );
    // The length of this name takes two bytes.
    const BATCH: [u8; 300] = [7; 300];
    let mut topics: Map<&str, Vec<(i32, &[u8])>> = Map::default();
    topics.or_default("t").extend([(5, &BATCH[..]), (6, b"x")]);
    topics.or_default("a").push((0, b"y"));
    let part = |partition, bytes: &'static [u8]| {
        let records = Some(Bytes::from_static(bytes));
        PartitionProduceData::default().with_index(partition).with_records(records)
    };
    is(
        &own::Produce { timeout_ms: 1234, topics },
        &ProduceRequest::default().with_acks(-1).with_timeout_ms(1234).with_topic_data(vec![
            TopicProduceData::default()
                .with_name(topic("a"))
                .with_partition_data(vec![part(0, b"y")]),
            TopicProduceData::default()
                .with_name(topic("t"))
                .with_partition_data(vec![part(5, &BATCH), part(6, b"x")]),
        ]),
    );
    let part = |it: &Position| {
        FetchPartition::default()
            .with_partition(it.partition)
            .with_current_leader_epoch(-1)
            .with_last_fetched_epoch(-1)
            .with_log_start_offset(-1)
            .with_fetch_offset(it.next)
            .with_partition_max_bytes(77)
    };
    is(
        &own::Fetch {
            max_wait_ms: 1,
            max_bytes: 2,
            partition_max_bytes: 77,
            topic: "t",
            positions: &AT,
        },
        &FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(1)
            .with_min_bytes(1)
            .with_max_bytes(2)
            .with_isolation_level(1)
            .with_session_epoch(-1)
            .with_topics(vec![
                FetchTopic::default()
                    .with_topic(topic("t"))
                    .with_partitions(AT.iter().map(part).collect()),
            ]),
    );
    let part = |partition| {
        ListOffsetsPartition::default()
            .with_partition_index(partition)
            .with_current_leader_epoch(-1)
            .with_timestamp(-2)
    };
    is(
        &own::ListOffsets { topic: "t", partitions: &[4, 9], timestamp: -2 },
        &ListOffsetsRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_isolation_level(1)
            .with_topics(vec![
                ListOffsetsTopic::default()
                    .with_name(topic("t"))
                    .with_partitions(vec![part(4), part(9)]),
            ]),
    );
    is(
        &own::InitProducerId,
        &InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(i32::MAX)
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1),
    );
    is(
        &own::FindCoordinator { group_id: "a group" },
        &FindCoordinatorRequest::default().with_key(text("a group")),
    );
    let asked = OffsetFetchRequestTopic::default().with_name(topic("t"));
    is(
        &own::OffsetFetch { group_id: "a group", topic: "t", partitions: 3 },
        &OffsetFetchRequest::default()
            .with_group_id(group())
            .with_topics(Some(vec![asked.with_partition_indexes(vec![0, 1, 2])])),
    );
    let part = |it: &Position| {
        OffsetCommitRequestPartition::default()
            .with_partition_index(it.partition)
            .with_committed_offset(it.next)
            .with_committed_leader_epoch(-1)
            .with_committed_metadata(Some(text("m")))
    };
    is(
        &own::OffsetCommit {
            group_id: "a group",
            generation_id: 6,
            member_id: "me",
            topic: "t",
            positions: &AT,
            metadata: "m",
        },
        &OffsetCommitRequest::default()
            .with_group_id(group())
            .with_generation_id_or_member_epoch(6)
            .with_member_id(text("me"))
            .with_topics(vec![
                OffsetCommitRequestTopic::default()
                    .with_name(topic("t"))
                    .with_partitions(AT.iter().map(part).collect()),
            ]),
    );
}

#[test]
fn group_requests_match_kafka_protocol() {
    let told = JoinGroupRequestProtocol::default().with_name(text("range"));
    is(
        &own::JoinGroup {
            group_id: "a group",
            session_timeout_ms: 1,
            rebalance_timeout_ms: 2,
            member_id: "",
            protocol_type: "consumer",
            protocol_name: "range",
            metadata: b"sub",
        },
        &JoinGroupRequest::default()
            .with_group_id(group())
            .with_session_timeout_ms(1)
            .with_rebalance_timeout_ms(2)
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![told.with_metadata(Bytes::from_static(b"sub"))]),
    );
    let share = SyncGroupRequestAssignment::default().with_member_id(text("a"));
    is(
        &own::SyncGroup {
            group_id: "a group",
            generation_id: 3,
            member_id: "me",
            assignments: &[("a", b"x".to_vec())],
        },
        &SyncGroupRequest::default()
            .with_group_id(group())
            .with_generation_id(3)
            .with_member_id(text("me"))
            .with_assignments(vec![share.with_assignment(Bytes::from_static(b"x"))]),
    );
    is(
        &own::Heartbeat { group_id: "a group", generation_id: 3, member_id: "me" },
        &HeartbeatRequest::default()
            .with_group_id(group())
            .with_generation_id(3)
            .with_member_id(text("me")),
    );
    is(
        &own::LeaveGroup { group_id: "a group", member_id: "me" },
        &LeaveGroupRequest::default()
            .with_group_id(group())
            .with_members(vec![MemberIdentity::default().with_member_id(text("me"))]),
    );
}

#[test]
fn sasl_and_admin_requests_match_kafka_protocol() {
    is(
        &own::SaslHandshake { mechanism: "PLAIN" },
        &SaslHandshakeRequest::default().with_mechanism(text("PLAIN")),
    );
    is(
        &own::SaslAuthenticate { auth_bytes: b"\0a\0b" },
        &SaslAuthenticateRequest::default().with_auth_bytes(Bytes::from_static(b"\0a\0b")),
    );
    let configs = [("retention.ms", "-1".to_owned())];
    let config = CreatableTopicConfig::default().with_name(text("retention.ms"));
    is(
        &own::CreateTopics {
            topics: vec![own::CreateTopic {
                name: "t",
                num_partitions: 8,
                replication_factor: 3,
                configs: &configs,
            }],
            timeout_ms: 10,
        },
        &CreateTopicsRequest::default().with_timeout_ms(10).with_topics(vec![
            CreatableTopic::default()
                .with_name(topic("t"))
                .with_num_partitions(8)
                .with_replication_factor(3)
                .with_configs(vec![config.with_value(Some(text("-1")))]),
        ]),
    );
    let resource = DescribeConfigsResource::default().with_resource_type(2);
    is(
        &own::DescribeConfigs { topics: vec!["t"] },
        &DescribeConfigsRequest::default().with_resources(vec![
            resource.with_resource_name(text("t")).with_configuration_keys(None),
        ]),
    );
    let config = AlterableConfig::default().with_name(text("retention.ms"));
    is(
        &own::IncrementalAlterConfigs { topics: vec![("t", &configs)] },
        &IncrementalAlterConfigsRequest::default().with_resources(vec![
            AlterConfigsResource::default()
                .with_resource_type(2)
                .with_resource_name(text("t"))
                .with_configs(vec![config.with_value(Some(text("-1")))]),
        ]),
    );
}

/// A response from its header on, with `body` as encoded by `kafka-protocol`.
fn framed<R: OwnRequest>(body: &impl Encodable) -> Vec<u8> {
    let mut frame = Vec::new();
    let version = i16::from(R::SPEC.flexible);
    ResponseHeader::default().with_correlation_id(9).encode(&mut frame, version).unwrap();
    body.encode(&mut frame, R::SPEC.version).unwrap();
    frame
}

/// The response as decoded by this crate, and its throttle time in milliseconds.
fn read<R: OwnRequest>(body: &impl Encodable) -> (R::Response, i32) {
    let frame = framed::<R>(body);
    let mut reader = Reader::new(&frame);
    assert_eq!(R::SPEC.decode_header(&mut reader), 9);
    let response = R::decode(&mut reader);
    assert_eq!(reader.finish(), Ok(()), "{}", R::SPEC.name);
    (response, reader.throttle_time_ms)
}

#[test]
fn responses_match_kafka_protocol() {
    let served = ApiVersion::default().with_api_key(3).with_min_version(1).with_max_version(9);
    let response = ApiVersionsResponse::default().with_error_code(35).with_api_keys(vec![served]);
    let (response, _) = read::<own::ApiVersions>(&response);
    assert_eq!(
        (response.error_code, response.api_versions),
        (35, vec![VersionRange { key: 3, lowest: 1, highest: 9 }])
    );

    let broker = MetadataResponseBroker::default()
        .with_node_id(BrokerId(2))
        .with_host(text("kafka-2"))
        .with_port(9092)
        .with_rack(Some(text("r")));
    let partition = MetadataResponsePartition::default()
        .with_error_code(5)
        .with_partition_index(1)
        .with_leader_id(BrokerId(2))
        .with_leader_epoch(70)
        .with_replica_nodes(vec![BrokerId(1), BrokerId(2)])
        .with_isr_nodes(vec![BrokerId(1)]);
    let found = MetadataResponseTopic::default()
        .with_error_code(3)
        .with_name(Some(topic("t")))
        .with_topic_id(uuid::Uuid::from_u128(0x77))
        .with_partitions(vec![partition]);
    let response = MetadataResponse::default()
        .with_throttle_time_ms(11)
        .with_cluster_id(Some(text("c")))
        .with_controller_id(BrokerId(8))
        .with_brokers(vec![broker])
        .with_topics(vec![found]);
    let (response, throttle_time_ms) = read::<own::Metadata<'_>>(&response);
    let own::Broker { node_id, host, port } = &response.brokers[0];
    assert_eq!((throttle_time_ms, *node_id, &**host, *port), (11, 2, "kafka-2", 9092));
    let own::Topic { error_code, name, topic_id, partitions } = &response.topics[0];
    assert_eq!((*error_code, &**name), (3, "t"));
    assert_eq!(*topic_id, Some(TopicId(0x77u128.to_be_bytes())));
    let own::Partition { partition_index, leader_id, replicas } = partitions[0];
    assert_eq!((partition_index, leader_id, replicas), (1, 2, 2));

    let part = PartitionProduceResponse::default()
        .with_index(4)
        .with_error_code(10)
        .with_base_offset(1 << 33)
        .with_log_append_time_ms(5)
        .with_log_start_offset(6)
        .with_error_message(Some(text("no")));
    let topics = TopicProduceResponse::default().with_name(topic("t"));
    let response = ProduceResponse::default()
        .with_responses(vec![topics.with_partition_responses(vec![part])])
        .with_throttle_time_ms(12);
    let (response, throttle_time_ms) = read::<own::Produce<'_>>(&response);
    let (name, parts) = &response.topics[0];
    let own::ProducedPartition { partition_index, error_code, base_offset, error_message } =
        &parts[0];
    assert_eq!((throttle_time_ms, &**name, *partition_index, *error_code), (12, "t", 4, 10));
    assert_eq!((*base_offset, &**error_message), (1 << 33, "no"));

    let aborted = AbortedTransaction::default().with_producer_id(ProducerId(7));
    let part = PartitionData::default()
        .with_partition_index(4)
        .with_error_code(1)
        .with_high_watermark(100)
        .with_last_stable_offset(90)
        .with_log_start_offset(10)
        .with_aborted_transactions(Some(vec![aborted.with_first_offset(80)]))
        .with_preferred_read_replica(BrokerId(3))
        .with_records(Some(Bytes::from_static(b"records")));
    let topics = FetchableTopicResponse::default().with_topic(topic("t"));
    let response = FetchResponse::default()
        .with_throttle_time_ms(13)
        .with_error_code(71)
        .with_session_id(5)
        .with_responses(vec![topics.with_partitions(vec![part])]);
    let frame = framed::<own::Fetch<'_>>(&response);
    let (response, throttle_time_ms) = read::<own::Fetch<'_>>(&response);
    let (name, parts) = &response.topics[0];
    let own::FetchedPartition {
        partition_index,
        error_code,
        high_watermark,
        aborted_transactions,
        records,
    } = &parts[0];
    assert_eq!(
        (throttle_time_ms, response.error_code, &**name, *partition_index),
        (13, 71, "t", 4)
    );
    assert_eq!((*error_code, *high_watermark, &**aborted_transactions), (1, 100, &[(7, 80)][..]));
    assert_eq!(&frame[records.clone()], b"records");
}

#[test]
fn offset_responses_match_kafka_protocol() {
    let all = |response: &own::PartitionResults| {
        let one = |it: &own::PartitionResult| (it.partition_index, it.error_code, it.offset);
        (response.error_code, response.partitions.iter().map(one).collect::<Vec<_>>())
    };
    let part = ListOffsetsPartitionResponse::default()
        .with_partition_index(4)
        .with_error_code(6)
        .with_timestamp(3)
        .with_offset(50)
        .with_leader_epoch(2);
    let topics = ListOffsetsTopicResponse::default().with_name(topic("t"));
    let response = ListOffsetsResponse::default()
        .with_throttle_time_ms(1)
        .with_topics(vec![topics.with_partitions(vec![part])]);
    let (response, throttle_time_ms) = read::<own::ListOffsets<'_>>(&response);
    assert_eq!((throttle_time_ms, all(&response)), (1, (0, vec![(4, 6, 50)])));

    let part = OffsetFetchResponsePartition::default()
        .with_partition_index(4)
        .with_committed_offset(50)
        .with_committed_leader_epoch(2)
        .with_metadata(Some(text("m")))
        .with_error_code(6);
    let topics = OffsetFetchResponseTopic::default().with_name(topic("t"));
    let response = OffsetFetchResponse::default()
        .with_throttle_time_ms(2)
        .with_error_code(15)
        .with_topics(vec![topics.with_partitions(vec![part])]);
    let (response, throttle_time_ms) = read::<own::OffsetFetch<'_>>(&response);
    assert_eq!((throttle_time_ms, all(&response)), (2, (15, vec![(4, 6, 50)])));
    assert_eq!(response.partitions[0].metadata, "m");

    let part = OffsetCommitResponsePartition::default().with_partition_index(4).with_error_code(22);
    let topics = OffsetCommitResponseTopic::default().with_name(topic("t"));
    let response = OffsetCommitResponse::default()
        .with_throttle_time_ms(3)
        .with_topics(vec![topics.with_partitions(vec![part])]);
    let (response, throttle_time_ms) = read::<own::OffsetCommit<'_>>(&response);
    assert_eq!((throttle_time_ms, all(&response)), (3, (0, vec![(4, 22, 0)])));
}

#[test]
fn coordinator_responses_match_kafka_protocol() {
    let response = InitProducerIdResponse::default()
        .with_throttle_time_ms(1)
        .with_error_code(14)
        .with_producer_id(ProducerId(1 << 40))
        .with_producer_epoch(2);
    let (response, throttle_time_ms) = read::<own::InitProducerId>(&response);
    assert_eq!((throttle_time_ms, response.error_code, response.producer_id), (1, 14, 1 << 40));

    let response = FindCoordinatorResponse::default()
        .with_throttle_time_ms(2)
        .with_error_code(15)
        .with_error_message(Some(text("no")))
        .with_node_id(BrokerId(3))
        .with_host(text("kafka-3"))
        .with_port(9092);
    let (response, throttle_time_ms) = read::<own::FindCoordinator<'_>>(&response);
    assert_eq!(
        (throttle_time_ms, response.error_code, &*response.host, response.port),
        (2, 15, "kafka-3", 9092)
    );

    let member = JoinGroupResponseMember::default()
        .with_member_id(text("a"))
        .with_group_instance_id(Some(text("i")));
    let response = JoinGroupResponse::default()
        .with_throttle_time_ms(3)
        .with_error_code(79)
        .with_generation_id(5)
        .with_protocol_type(Some(text("consumer")))
        .with_protocol_name(Some(text("range")))
        .with_leader(text("l"))
        .with_member_id(text("b"))
        .with_members(vec![member.with_metadata(Bytes::from_static(b"sub"))]);
    let (response, throttle_time_ms) = read::<own::JoinGroup<'_>>(&response);
    assert_eq!((throttle_time_ms, response.error_code, response.generation_id), (3, 79, 5));
    assert_eq!(
        (&*response.leader, &*response.member_id, &*response.members[0].member_id),
        ("l", "b", "a")
    );
    assert_eq!(response.members[0].metadata, b"sub");

    let response = SyncGroupResponse::default()
        .with_throttle_time_ms(4)
        .with_error_code(27)
        .with_assignment(Bytes::from_static(b"mine"));
    let (response, throttle_time_ms) = read::<own::SyncGroup<'_>>(&response);
    assert_eq!(
        (throttle_time_ms, response.error_code, &*response.assignment),
        (4, 27, &b"mine"[..])
    );

    let response = HeartbeatResponse::default().with_throttle_time_ms(5).with_error_code(27);
    assert_eq!(read::<own::Heartbeat<'_>>(&response), (27, 5));
    let response = LeaveGroupResponse::default().with_throttle_time_ms(6).with_error_code(25);
    assert_eq!(read::<own::LeaveGroup<'_>>(&response), (25, 6));
}

#[test]
fn sasl_and_admin_responses_match_kafka_protocol() {
    let response = SaslHandshakeResponse::default()
        .with_error_code(33)
        .with_mechanisms(vec![text("PLAIN"), text("X")]);
    let (response, _) = read::<own::SaslHandshake<'_>>(&response);
    assert_eq!(
        (response.error_code, response.mechanisms),
        (33, vec!["PLAIN".to_owned(), "X".to_owned()])
    );

    let response = SaslAuthenticateResponse::default()
        .with_error_code(58)
        .with_error_message(Some(text("no")))
        .with_auth_bytes(Bytes::from_static(b"v=1"))
        .with_session_lifetime_ms(1 << 33);
    let (response, _) = read::<own::SaslAuthenticate<'_>>(&response);
    assert_eq!(
        (response.error_code, &*response.error_message, &*response.auth_bytes),
        (58, "no", &b"v=1"[..])
    );
    assert_eq!(response.session_lifetime_ms, 1 << 33);

    let is_no = |it: &own::TopicResult| {
        assert_eq!((it.error_code, &*it.error_message, &*it.topic), (36, "no", "t"));
    };
    let result = CreatableTopicResult::default()
        .with_name(topic("t"))
        .with_error_code(36)
        .with_error_message(Some(text("no")))
        .with_num_partitions(8)
        .with_replication_factor(3);
    let response = CreateTopicsResponse::default().with_topics(vec![result]);
    let (response, throttle_time_ms) =
        read::<own::CreateTopics<'_>>(&response.with_throttle_time_ms(1));
    assert_eq!(throttle_time_ms, 1);
    is_no(&response[0]);

    let config = DescribeConfigsResourceResult::default()
        .with_name(text("retention.ms"))
        .with_value(Some(text("-1")))
        .with_read_only(true)
        .with_config_source(5)
        .with_is_sensitive(true)
        .with_config_type(2)
        .with_documentation(Some(text("long")));
    let result = DescribeConfigsResult::default()
        .with_error_code(36)
        .with_error_message(Some(text("no")))
        .with_resource_type(2)
        .with_resource_name(text("t"))
        .with_configs(vec![config]);
    let response = DescribeConfigsResponse::default().with_results(vec![result]);
    let (response, throttle_time_ms) =
        read::<own::DescribeConfigs<'_>>(&response.with_throttle_time_ms(2));
    assert_eq!(throttle_time_ms, 2);
    is_no(&response[0].result);
    let own::ConfigEntry { name, value, config_source } = &response[0].configs[0];
    assert_eq!((&**name, &**value, *config_source), ("retention.ms", "-1", 5));

    let result = AlterConfigsResourceResponse::default()
        .with_error_code(36)
        .with_error_message(Some(text("no")))
        .with_resource_type(2)
        .with_resource_name(text("t"));
    let response = IncrementalAlterConfigsResponse::default().with_responses(vec![result]);
    let response = response.with_throttle_time_ms(3);
    let (response, throttle_time_ms) = read::<own::IncrementalAlterConfigs<'_>>(&response);
    assert_eq!(throttle_time_ms, 3);
    is_no(&response[0]);
}

/// Asserts that a complete response is decoded to its last byte, and a truncated or longer one is
/// refused.
struct LengthCheck;

impl ResponseVisitor for LengthCheck {
    fn visit<R: OwnRequest>(&mut self, response: &[u8]) {
        let name = R::SPEC.name;
        let end = |bytes: &[u8]| {
            let mut reader = Reader::new(bytes);
            R::decode(&mut reader);
            reader.finish()
        };
        assert_eq!(end(response), Ok(()), "{name}");
        for cut in 0..response.len() {
            assert_eq!(end(&response[..cut]), Err(DecodeError::Truncated), "{name} at {cut}");
        }
        assert_eq!(end(&[response, &[0]].concat()), Err(DecodeError::TrailingBytes), "{name}");
    }
}

#[test]
fn truncated_and_longer_responses_are_refused() {
    samples::responses(&mut LengthCheck);
}

/// Encodes and decodes strings, bytes and numbers of many lengths.
#[test]
fn fields_match_kafka_protocol() {
    let strategy = (".{0,200}", prop::collection::vec(any::<u8>(), 0..20_000), any::<i32>());
    let property = |(id, records, partition): (String, Vec<u8>, i32)| {
        let mut topics: Map<&str, Vec<(i32, &[u8])>> = Map::default();
        topics.or_default(&id).push((partition, &records));
        let part = PartitionProduceData::default()
            .with_index(partition)
            .with_records(Some(Bytes::from(records.clone())));
        let topic = TopicProduceData::default()
            .with_name(TopicName(StrBytes::from_string(id.clone())))
            .with_partition_data(vec![part]);
        is(
            &own::Produce { timeout_ms: partition, topics },
            &ProduceRequest::default()
                .with_acks(-1)
                .with_timeout_ms(partition)
                .with_topic_data(vec![topic]),
        );
        let response = SyncGroupResponse::default()
            .with_throttle_time_ms(partition)
            .with_error_code(partition as i16)
            .with_assignment(Bytes::from(records.clone()));
        let (response, throttle_time_ms) = read::<own::SyncGroup<'_>>(&response);
        prop_assert_eq!((throttle_time_ms, response.error_code), (partition, partition as i16));
        prop_assert_eq!(response.assignment, records);
        let response = FindCoordinatorResponse::default()
            .with_host(StrBytes::from_string(id.clone()))
            .with_port(partition);
        let (response, _) = read::<own::FindCoordinator<'_>>(&response);
        prop_assert_eq!((response.host, response.port), (id, partition));
        Ok(())
    };
    TestRunner::default().run(&strategy, property).unwrap();
}
