//! Administrative requests to the Kafka of a stack, by the crate `kafka-protocol`.

use crate::stack::{PATIENCE, Stack};
use crate::wait::until;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use kafka_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use kafka_protocol::messages::update_features_request::FeatureUpdateKey;
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, ApiVersionsResponse, CreatePartitionsRequest,
    CreatePartitionsResponse, DeleteGroupsRequest, DeleteGroupsResponse, DeleteRecordsRequest,
    DeleteRecordsResponse, DeleteTopicsRequest, DeleteTopicsResponse, GroupId,
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse, RequestHeader, ResponseHeader,
    TopicName, UpdateFeaturesRequest, UpdateFeaturesResponse,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};
use std::io::{Read, Write};
use std::net::TcpStream;

/// Timeout of a request at the broker.
const TIMEOUT_MS: i32 = 10_000;
/// The resource type of a topic.
const TOPIC: i8 = 2;
/// The operation that sets a value.
const SET: i8 = 0;
/// The type of an update that raises the version of a feature.
const UPGRADE: i8 = 1;

/// Sets a value of the configuration of `topic`.
///
/// # Panics
/// If the broker refuses it.
pub fn set_config(stack: &Stack, topic: &'static str, name: &'static str, value: &str) {
    let config = AlterableConfig::default()
        .with_name(StrBytes::from_static_str(name))
        .with_config_operation(SET)
        .with_value(Some(StrBytes::from_string(value.to_owned())));
    let resource = AlterConfigsResource::default()
        .with_resource_type(TOPIC)
        .with_resource_name(StrBytes::from_static_str(topic))
        .with_configs(vec![config]);
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
    let response: IncrementalAlterConfigsResponse =
        send(stack, ApiKey::IncrementalAlterConfigs, 1, &request);
    assert_eq!(response.responses[0].error_code, 0, "{:?}", response.responses[0].error_message);
}

/// Deletes the records of `partition` before the offset `before`. The leader must be the first
/// broker.
///
/// # Panics
/// If the broker refuses it.
pub fn delete_records(stack: &Stack, topic: &'static str, partition: i32, before: i64) {
    let partition =
        DeleteRecordsPartition::default().with_partition_index(partition).with_offset(before);
    let topic =
        DeleteRecordsTopic::default().with_name(name(topic)).with_partitions(vec![partition]);
    let request =
        DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(TIMEOUT_MS);
    let response: DeleteRecordsResponse = send(stack, ApiKey::DeleteRecords, 2, &request);
    assert_eq!(response.topics[0].partitions[0].error_code, 0);
}

/// Deletes a consumer group without members, with its committed offsets. The first broker must be
/// its coordinator.
///
/// # Panics
/// If the broker refuses it.
pub fn delete_group(stack: &Stack, group: &'static str) {
    let group = GroupId(StrBytes::from_static_str(group));
    let request = DeleteGroupsRequest::default().with_groups_names(vec![group]);
    let response: DeleteGroupsResponse = send(stack, ApiKey::DeleteGroups, 1, &request);
    assert_eq!(response.results[0].error_code, 0);
}

/// Adds partitions to `topic`, until it has `count`.
///
/// # Panics
/// If the broker refuses it.
pub fn grow_topic(stack: &Stack, topic: &'static str, count: i32) {
    let grown = CreatePartitionsTopic::default()
        .with_name(name(topic))
        .with_count(count)
        .with_assignments(None);
    let request =
        CreatePartitionsRequest::default().with_topics(vec![grown]).with_timeout_ms(TIMEOUT_MS);
    let response: CreatePartitionsResponse = send(stack, ApiKey::CreatePartitions, 3, &request);
    assert_eq!(response.results[0].error_code, 0, "{:?}", response.results[0].error_message);
    until("the partitions have leaders", PATIENCE, || {
        let leaders = stack.kafka_client().leaders(topic, PATIENCE).ok()?;
        (leaders.len() == usize::try_from(count).ok()?).then_some(())
    });
}

/// Deletes `topic`. The synchronizer creates it again.
///
/// # Panics
/// If the broker refuses it.
pub fn recreate_topic(stack: &Stack, topic: &'static str) {
    let request = DeleteTopicsRequest::default()
        .with_topic_names(vec![name(topic)])
        .with_timeout_ms(TIMEOUT_MS);
    let response: DeleteTopicsResponse = send(stack, ApiKey::DeleteTopics, 5, &request);
    assert_eq!(response.responses[0].error_code, 0, "{:?}", response.responses[0].error_message);
    stack.synchronize();
}

/// Finalizes the newest versions of metadata, groups and transactions that the brokers support: the
/// last step of an upgrade, after which no broker can run the former version.
///
/// # Panics
/// If the broker refuses it.
pub fn finalize_features(stack: &Stack) {
    // Brokers refuse a request without a name.
    let request = ApiVersionsRequest::default()
        .with_client_software_name(StrBytes::from_static_str("bank-tests"))
        .with_client_software_version(StrBytes::from_static_str("1"));
    let versions: ApiVersionsResponse = send(stack, ApiKey::ApiVersions, 4, &request);
    let newest = |feature: &'static str| {
        let found = versions.supported_features.iter().find(|it| &*it.name == feature);
        FeatureUpdateKey::default()
            .with_feature(StrBytes::from_static_str(feature))
            .with_max_version_level(found.expect("Kafka 4 has it").max_version)
            .with_upgrade_type(UPGRADE)
    };
    let updates = ["metadata.version", "group.version", "transaction.version"].map(newest);
    let request = UpdateFeaturesRequest::default()
        .with_timeout_ms(TIMEOUT_MS)
        .with_feature_updates(updates.into());
    let response: UpdateFeaturesResponse = send(stack, ApiKey::UpdateFeatures, 1, &request);
    assert_eq!(response.error_code, 0, "{:?}", response.error_message);
}

fn name(topic: &'static str) -> TopicName {
    TopicName(StrBytes::from_static_str(topic))
}

/// Sends a request to the first broker, which forwards it to the controller if needed.
fn send<Q: Encodable + HeaderVersion, A: Decodable + HeaderVersion>(
    stack: &Stack,
    api: ApiKey,
    version: i16,
    request: &Q,
) -> A {
    let mut body = Vec::new();
    RequestHeader::default()
        .with_request_api_key(api as i16)
        .with_request_api_version(version)
        .encode(&mut body, Q::header_version(version))
        .expect("the header is valid");
    request.encode(&mut body, version).expect("the request is valid in its version");
    let length = u32::try_from(body.len()).expect("a request is small");
    let mut broker = TcpStream::connect(&stack.kafka.brokers[0]).expect("connect to the broker");
    broker.set_read_timeout(Some(PATIENCE)).expect("the timeout is not zero");
    broker.write_all(&[&length.to_be_bytes(), body.as_slice()].concat()).expect("send a request");
    let mut length = [0; 4];
    broker.read_exact(&mut length).expect("read the length of the response");
    let mut response = vec![0; u32::from_be_bytes(length) as usize];
    broker.read_exact(&mut response).expect("read the response");
    let mut response = response.as_slice();
    ResponseHeader::decode(&mut response, A::header_version(version)).expect("decode the header");
    A::decode(&mut response, version).expect("decode the response")
}
