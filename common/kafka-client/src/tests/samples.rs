//! Sample responses of all kinds, encoded by `kafka-protocol`. Fields that can be empty or null
//! have a value.
#![allow(clippy::unwrap_used, reason = "tests")]

use crate::protocol::Request;
use crate::protocol::messages as own;
use bytes::Bytes;
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::create_topics_response::{
    CreatableTopicConfigs, CreatableTopicResult,
};
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::fetch_response::{
    AbortedTransaction, FetchableTopicResponse, LeaderIdAndEpoch, PartitionData,
};
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponsePartition, OffsetFetchResponseTopic,
};
use kafka_protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, PartitionProduceResponse, TopicProduceResponse,
};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Encodable, StrBytes};

/// An action for each kind of response, which is called with the encoded body.
pub trait ResponseVisitor {
    fn visit<R: Request>(&mut self, response: &[u8]);
}

fn visit<R: Request>(visitor: &mut impl ResponseVisitor, response: &impl Encodable) {
    let mut bytes = Vec::new();
    response.encode(&mut bytes, R::SPEC.version).unwrap();
    visitor.visit::<R>(&bytes);
}

fn text(text: &'static str) -> StrBytes {
    StrBytes::from_static_str(text)
}

fn topic() -> TopicName {
    TopicName(text("a_topic"))
}

/// Calls [`ResponseVisitor::visit`] with a response of each kind.
pub fn responses(all: &mut impl ResponseVisitor) {
    visit::<own::ApiVersions>(
        all,
        &ApiVersionsResponse::default().with_api_keys(vec![
            ApiVersion::default()
                .with_max_version(3);
            3
        ]),
    );
    visit::<own::Metadata<'_>>(
        all,
        &MetadataResponse::default()
            .with_brokers(vec![
                MetadataResponseBroker::default()
                    .with_host(text("kafka-1"))
                    .with_port(9092)
                    .with_rack(Some(text("r")));
                2
            ])
            .with_cluster_id(Some(text("cluster")))
            .with_topics(vec![
                MetadataResponseTopic::default().with_name(Some(topic())).with_partitions(vec![
                        MetadataResponsePartition::default()
                            .with_replica_nodes(vec![BrokerId(1), BrokerId(2)])
                            .with_isr_nodes(vec![BrokerId(1)])
                            .with_offline_replicas(vec![BrokerId(2)]);
                        3
                    ]),
            ]),
    );
    visit::<own::Produce<'_>>(
        all,
        &ProduceResponse::default().with_responses(vec![
            TopicProduceResponse::default().with_name(topic()).with_partition_responses(vec![
            PartitionProduceResponse::default()
                .with_record_errors(vec![BatchIndexAndErrorMessage::default()
                    .with_batch_index_error_message(Some(text("no")))])
                .with_error_message(Some(text("no, really")));
            2
        ]),
        ]),
    );
    visit::<own::Fetch<'_>>(
        all,
        &FetchResponse::default().with_responses(vec![
            FetchableTopicResponse::default().with_topic(topic()).with_partitions(vec![
                PartitionData::default()
                    .with_aborted_transactions(Some(vec![AbortedTransaction::default(); 2]))
                    .with_records(Some(Bytes::from_static(&[1; 200]))),
                PartitionData::default()
                    .with_error_code(6)
                    .with_aborted_transactions(None)
                    .with_current_leader(
                        LeaderIdAndEpoch::default()
                            .with_leader_id(BrokerId(2))
                            .with_leader_epoch(3),
                    )
                    .with_records(None),
            ]),
        ]),
    );
    visit::<own::ListOffsets<'_>>(
        all,
        &ListOffsetsResponse::default().with_topics(vec![
            ListOffsetsTopicResponse::default()
                .with_name(topic())
                .with_partitions(vec![ListOffsetsPartitionResponse::default(); 3]),
        ]),
    );
    visit::<own::InitProducerId>(all, &InitProducerIdResponse::default());
    visit::<own::FindCoordinator<'_>>(
        all,
        &FindCoordinatorResponse::default()
            .with_host(text("kafka-3"))
            .with_error_message(Some(text("NONE"))),
    );
    visit::<own::OffsetFetch<'_>>(
        all,
        &OffsetFetchResponse::default().with_topics(vec![
            OffsetFetchResponseTopic::default().with_name(topic()).with_partitions(vec![
            OffsetFetchResponsePartition::default().with_metadata(Some(text("m")));
            3
        ]),
        ]),
    );
    visit::<own::OffsetCommit<'_>>(
        all,
        &OffsetCommitResponse::default().with_topics(vec![
            OffsetCommitResponseTopic::default()
                .with_name(topic())
                .with_partitions(vec![OffsetCommitResponsePartition::default(); 3]),
        ]),
    );
    visit::<own::SaslHandshake<'_>>(
        all,
        &SaslHandshakeResponse::default()
            .with_error_code(33)
            .with_mechanisms(vec![text("PLAIN"), text("SCRAM-SHA-256")]),
    );
    visit::<own::SaslAuthenticate<'_>>(
        all,
        &SaslAuthenticateResponse::default()
            .with_error_message(Some(text("no")))
            .with_auth_bytes(Bytes::from_static(&[1; 20])),
    );
    let config = CreatableTopicConfigs::default().with_name(text("c")).with_value(Some(text("v")));
    visit::<own::CreateTopics<'_>>(
        all,
        &CreateTopicsResponse::default().with_topics(vec![
            CreatableTopicResult::default()
                .with_name(topic())
                .with_error_message(Some(text("exists")))
                .with_topic_config_error_code(3)
                .with_configs(Some(vec![config; 2])),
        ]),
    );
    visit::<own::DescribeConfigs<'_>>(
        all,
        &DescribeConfigsResponse::default().with_results(vec![
            DescribeConfigsResult::default().with_resource_name(text("t")).with_configs(vec![
            DescribeConfigsResourceResult::default()
                .with_name(text("c"))
                .with_value(Some(text("v")))
                .with_synonyms(vec![
                    DescribeConfigsSynonym::default().with_name(text("s")),
                ]);
            2
        ]),
        ]),
    );
    visit::<own::IncrementalAlterConfigs<'_>>(
        all,
        &IncrementalAlterConfigsResponse::default().with_responses(vec![
            AlterConfigsResourceResponse::default()
                .with_resource_name(text("t"))
                .with_error_message(Some(text("no")));
            2
        ]),
    );
    visit::<own::JoinGroup<'_>>(
        all,
        &JoinGroupResponse::default()
            .with_protocol_type(Some(text("consumer")))
            .with_protocol_name(Some(text("range")))
            .with_leader(text("a"))
            .with_member_id(text("b"))
            .with_members(vec![
                JoinGroupResponseMember::default()
                    .with_member_id(text("a"))
                    .with_group_instance_id(Some(text("i")))
                    .with_metadata(Bytes::from_static(
                        b"\0\0\0\0\0\x01\0\x01t\xff\xff\xff\xff"
                    ));
                2
            ]),
    );
    visit::<own::SyncGroup<'_>>(
        all,
        &SyncGroupResponse::default()
            .with_assignment(Bytes::from_static(b"\0\0\0\0\0\x01\0\x01t\0\0\0\x01\0\0\0\x05")),
    );
    visit::<own::Heartbeat<'_>>(all, &HeartbeatResponse::default().with_error_code(27));
    visit::<own::LeaveGroup<'_>>(
        all,
        &LeaveGroupResponse::default().with_members(vec![
            MemberResponse::default()
                .with_member_id(text("a"))
                .with_group_instance_id(Some(text(
                    "i"
                )));
            2
        ]),
    );
}
