//! The requests that this bank sends and what it reads of the replies, each in one version. Source: the message definitions of
//! Apache Kafka (clients/src/main/resources/common/message); tests compare all of them with the `kafka-protocol` crate.
//!
//! What is fixed for this bank is written in `put`; of a reply only what somebody uses is kept. Null is read as empty.
#![allow(missing_docs, reason = "the names are Kafka's")]

use crate::map::Map;
use crate::protocol::fields::{Reader, Writer};
use crate::protocol::{ApiSpec, Request, VersionRange};
use std::ops;

/// What is of no concluded transaction isn't read.
const READ_COMMITTED: i8 = 1;
/// No epoch of a leader, or whatever else is not known.
const UNKNOWN: i32 = -1;

/// Which requests a broker serves, in the version that every broker answers.
pub struct ApiVersions;

#[derive(Debug, Default)]
pub struct ApiVersionsReply {
    pub code: i16,
    pub served: Vec<VersionRange>,
}

impl Request for ApiVersions {
    const SPEC: &'static ApiSpec = &ApiSpec::old(18, "ApiVersions", 0);
    type Reply = ApiVersionsReply;

    fn put(&self, _: &mut Writer) {}

    fn take(from: &mut Reader<'_>) -> ApiVersionsReply {
        let mut reply = ApiVersionsReply { code: from.i16(), served: Vec::new() };
        from.old_each(&mut |it| {
            reply.served.push(VersionRange { key: it.i16(), lowest: it.i16(), highest: it.i16() });
        });
        reply
    }
}

pub struct Metadata<'a> {
    pub topics: &'a [&'a str],
}

#[derive(Debug, Default)]
pub struct MetadataReply {
    pub brokers: Vec<Broker>,
    pub topics: Vec<Topic>,
}

#[derive(Debug, Default)]
pub struct Broker {
    pub id: i32,
    pub host: String,
    pub port: i32,
}

#[derive(Debug, Default)]
pub struct Topic {
    pub code: i16,
    pub name: String,
    pub partitions: Vec<Partition>,
}

#[derive(Debug, Default)]
pub struct Partition {
    pub index: i32,
    /// Its broker's id; -1 if there is none.
    pub leader: i32,
    pub replicas: usize,
}

impl Request for Metadata<'_> {
    const SPEC: &'static ApiSpec = &ApiSpec::new(3, "Metadata", 9);
    type Reply = MetadataReply;

    fn put(&self, to: &mut Writer) {
        to.count(self.topics.len());
        for topic in self.topics {
            to.text(topic);
            to.tags();
        }
        // Topics are not made, and nobody asks who may do what with the cluster or a topic.
        to.put(&[0; 3]);
        to.tags();
    }

    fn take(from: &mut Reader<'_>) -> MetadataReply {
        from.throttle();
        let brokers = from.array(|it| {
            let broker = Broker { id: it.i32(), host: it.text(), port: it.i32() };
            it.bytes(); // Its rack.
            it.tags();
            broker
        });
        from.bytes(); // The cluster's id.
        from.skip(4); // The controller.
        let topics = from.array(|it| {
            let (code, name) = (it.i16(), it.text());
            it.skip(1); // Is it Kafka's own?
            let partitions = it.array(|it| {
                it.skip(2); // Its code: there is a leader or there is none.
                let (index, leader) = (it.i32(), it.i32());
                it.skip(4); // The leader's epoch.
                let mut replicas = 0;
                it.each(&mut |it| {
                    it.skip(4);
                    replicas += 1;
                });
                it.each(&mut |it| it.skip(4)); // Those in sync.
                it.each(&mut |it| it.skip(4)); // Those that are away.
                it.tags();
                Partition { index, leader, replicas }
            });
            it.skip(4); // Who may do what.
            it.tags();
            Topic { code, name, partitions }
        });
        from.skip(4); // Who may do what.
        from.tags();
        MetadataReply { brokers, topics }
    }
}

/// Waits for as many replicas as the topic asks for.
#[derive(Default)]
pub struct Produce<'a> {
    pub timeout_ms: i32,
    /// Partition and batch, by topic.
    pub topics: Map<&'a str, Vec<(i32, &'a [u8])>>,
}

#[derive(Debug, Default)]
pub struct Produced {
    pub topics: Vec<(String, Vec<ProducedPartition>)>,
}

#[derive(Debug, Default)]
pub struct ProducedPartition {
    pub partition: i32,
    pub code: i16,
    pub base_offset: i64,
    pub message: String,
}

impl Request for Produce<'_> {
    const SPEC: &'static ApiSpec = &ApiSpec::new(0, "Produce", 9);
    type Reply = Produced;

    fn put(&self, to: &mut Writer) {
        to.null(); // No transaction.
        to.i16(-1); // All that are in sync.
        to.i32(self.timeout_ms);
        to.count(self.topics.0.len());
        for (topic, partitions) in &self.topics.0 {
            to.text(topic);
            to.count(partitions.len());
            for (partition, batch) in partitions {
                to.i32(*partition);
                to.bytes(batch);
                to.tags();
            }
            to.tags();
        }
        to.tags();
    }

    fn take(from: &mut Reader<'_>) -> Produced {
        let topics = from.array(|it| {
            let topic = it.text();
            let partitions = it.array(|it| {
                let (partition, code, base_offset) = (it.i32(), it.i16(), it.i64());
                it.skip(16); // When, and where its log begins.
                it.each(&mut |it| {
                    it.skip(4);
                    it.bytes();
                    it.tags();
                });
                let message = it.text();
                it.tags();
                ProducedPartition { partition, code, base_offset, message }
            });
            it.tags();
            (topic, partitions)
        });
        from.throttle();
        from.tags();
        Produced { topics }
    }
}

/// A broker answers with as much as was asked for, and always with a first batch, however large: it takes batches of up to
/// 100 MB if a topic lets it, which this bank's don't.
const FETCH_REPLY_BYTES_MAX: usize = 64 << 20;

pub struct Fetch<'a> {
    pub wait_ms: i32,
    pub bytes_max: i32,
    pub partition_bytes_max: i32,
    pub topic: &'a str,
    pub positions: &'a [crate::Position],
}

#[derive(Debug, Default)]
pub struct Fetched {
    pub code: i16,
    pub topics: Vec<(String, Vec<FetchedPartition>)>,
}

#[derive(Debug, Default)]
pub struct FetchedPartition {
    pub partition: i32,
    pub code: i16,
    pub high_watermark: i64,
    /// Producer and first offset of each transaction.
    pub aborted: Vec<(i64, i64)>,
    /// Where they are in the reply.
    pub records: ops::Range<usize>,
}

impl Request for Fetch<'_> {
    const SPEC: &'static ApiSpec =
        &ApiSpec { reply_bytes_max: FETCH_REPLY_BYTES_MAX, ..ApiSpec::new(1, "Fetch", 12) };
    type Reply = Fetched;

    fn put(&self, to: &mut Writer) {
        to.i32(UNKNOWN); // This is no replica.
        to.i32(self.wait_ms);
        to.i32(1); // A byte is worth an answer.
        to.i32(self.bytes_max);
        to.i8(READ_COMMITTED);
        to.i32(0); // No session,
        to.i32(-1); // nor a new one.
        to.count(1);
        to.text(self.topic);
        to.count(self.positions.len());
        for position in self.positions {
            to.i32(position.partition);
            to.i32(UNKNOWN);
            to.i64(position.next);
            to.i32(UNKNOWN);
            to.i64(-1); // Where a follower's log begins.
            to.i32(self.partition_bytes_max);
            to.tags();
        }
        to.tags();
        to.count(0); // Nothing leaves the session.
        to.text(""); // No rack.
        to.tags();
    }

    fn take(from: &mut Reader<'_>) -> Fetched {
        from.throttle();
        let code = from.i16();
        from.skip(4); // The session.
        let topics = from.array(|it| {
            let topic = it.text();
            let partitions = it.array(|it| {
                let (partition, code, high_watermark) = (it.i32(), it.i16(), it.i64());
                it.skip(16); // The last stable offset, and where the log begins.
                let aborted = it.array(|it| {
                    let transaction = (it.i64(), it.i64());
                    it.tags();
                    transaction
                });
                it.skip(4); // A replica that is nearer.
                let records = it.place();
                it.tags();
                FetchedPartition { partition, code, high_watermark, aborted, records }
            });
            it.tags();
            (topic, partitions)
        });
        from.tags();
        Fetched { code, topics }
    }
}

/// What is asked of partitions of one topic is answered for each of them.
#[derive(Debug, Default)]
pub struct Offsets {
    /// Of the request as a whole, where there is such a code.
    pub code: i16,
    pub partitions: Vec<Offset>,
}

#[derive(Debug, Default)]
pub struct Offset {
    pub partition: i32,
    pub code: i16,
    /// Where there is one.
    pub offset: i64,
}

impl Offsets {
    fn take(from: &mut Reader<'_>, one: fn(&mut Reader<'_>) -> Offset) -> Self {
        from.throttle();
        let mut partitions = Vec::new();
        from.each(&mut |it| {
            it.bytes(); // The topic, which is the one that was asked for.
            it.each(&mut |it| {
                partitions.push(one(it));
                it.tags();
            });
            it.tags();
        });
        Self { code: 0, partitions }
    }
}

pub struct ListOffsets<'a> {
    pub topic: &'a str,
    pub partitions: &'a [i32],
    /// -2: the earliest, -1: the end.
    pub time: i64,
}

impl Request for ListOffsets<'_> {
    const SPEC: &'static ApiSpec = &ApiSpec::new(2, "ListOffsets", 6);
    type Reply = Offsets;

    fn put(&self, to: &mut Writer) {
        to.i32(UNKNOWN); // This is no replica.
        to.i8(READ_COMMITTED);
        to.count(1);
        to.text(self.topic);
        to.count(self.partitions.len());
        for partition in self.partitions {
            to.i32(*partition);
            to.i32(UNKNOWN);
            to.i64(self.time);
            to.tags();
        }
        to.tags();
        to.tags();
    }

    fn take(from: &mut Reader<'_>) -> Offsets {
        let offsets = Offsets::take(from, |it| {
            let (partition, code) = (it.i32(), it.i16());
            it.skip(8); // Its time.
            let offset = it.i64();
            it.skip(4); // The leader's epoch.
            Offset { partition, code, offset }
        });
        from.tags();
        offsets
    }
}

/// Asks for an id as a producer without transactions.
pub struct InitProducerId;

#[derive(Debug, Default)]
pub struct InitProducerIdReply {
    pub code: i16,
    pub producer: i64,
}

impl Request for InitProducerId {
    const SPEC: &'static ApiSpec = &ApiSpec::new(22, "InitProducerId", 4);
    type Reply = InitProducerIdReply;

    fn put(&self, to: &mut Writer) {
        to.null(); // No transactions,
        to.i32(i32::MAX); // which may take as long as they like.
        to.i64(-1); // It has no id,
        to.i16(-1); // and so no epoch.
        to.tags();
    }

    fn take(from: &mut Reader<'_>) -> InitProducerIdReply {
        from.throttle();
        let reply = InitProducerIdReply { code: from.i16(), producer: from.i64() };
        from.skip(2); // The epoch, which is 0.
        from.tags();
        reply
    }
}

pub struct FindCoordinator<'a> {
    pub group: &'a str,
}

#[derive(Debug, Default)]
pub struct Coordinator {
    pub code: i16,
    pub host: String,
    pub port: i32,
}

impl Request for FindCoordinator<'_> {
    const SPEC: &'static ApiSpec = &ApiSpec::new(10, "FindCoordinator", 3);
    type Reply = Coordinator;

    fn put(&self, to: &mut Writer) {
        to.text(self.group);
        to.i8(0); // A group.
        to.tags();
    }

    fn take(from: &mut Reader<'_>) -> Coordinator {
        from.throttle();
        let code = from.i16();
        from.bytes(); // The code in words.
        from.skip(4); // Its id.
        let reply = Coordinator { code, host: from.text(), port: from.i32() };
        from.tags();
        reply
    }
}

pub struct OffsetFetch<'a> {
    pub group: &'a str,
    pub topic: &'a str,
    /// From 0 on.
    pub partitions: usize,
}

impl Request for OffsetFetch<'_> {
    const SPEC: &'static ApiSpec = &ApiSpec::new(9, "OffsetFetch", 7);
    type Reply = Offsets;

    fn put(&self, to: &mut Writer) {
        to.text(self.group);
        to.count(1);
        to.text(self.topic);
        to.count(self.partitions);
        for partition in 0..self.partitions {
            to.i32(partition as i32);
        }
        to.tags();
        to.i8(0); // Nobody here commits in transactions.
        to.tags();
    }

    fn take(from: &mut Reader<'_>) -> Offsets {
        let mut offsets = Offsets::take(from, |it| {
            let (partition, offset) = (it.i32(), it.i64());
            it.skip(4); // The leader's epoch.
            it.bytes(); // What was said about it.
            Offset { partition, code: it.i16(), offset }
        });
        offsets.code = from.i16();
        from.tags();
        offsets
    }
}

pub struct OffsetCommit<'a> {
    pub group: &'a str,
    /// -1: of no member.
    pub generation: i32,
    pub member: &'a str,
    pub topic: &'a str,
    pub positions: &'a [crate::Position],
}

impl Request for OffsetCommit<'_> {
    const SPEC: &'static ApiSpec = &ApiSpec::new(8, "OffsetCommit", 8);
    type Reply = Offsets;

    fn put(&self, to: &mut Writer) {
        put_member(to, self.group, self.generation, self.member);
        to.count(1);
        to.text(self.topic);
        to.count(self.positions.len());
        for position in self.positions {
            to.i32(position.partition);
            to.i64(position.next);
            to.i32(UNKNOWN);
            to.text(""); // Nothing is said about it.
            to.tags();
        }
        to.tags();
        to.tags();
    }

    fn take(from: &mut Reader<'_>) -> Offsets {
        let offsets =
            Offsets::take(from, |it| Offset { partition: it.i32(), code: it.i16(), offset: 0 });
        from.tags();
        offsets
    }
}

/// Who asks, as a member of a group without a name that outlives it.
fn put_member(to: &mut Writer, group: &str, generation: i32, member: &str) {
    to.text(group);
    to.i32(generation);
    to.text(member);
    to.null();
}

pub struct JoinGroup<'a> {
    pub group: &'a str,
    pub session_ms: i32,
    pub rebalance_ms: i32,
    /// Empty at first.
    pub member: &'a str,
    pub protocol_type: &'a str,
    pub protocol: &'a str,
    /// What the leader is told.
    pub subscription: &'a [u8],
}

#[derive(Debug, Default)]
pub struct JoinedGroup {
    pub code: i16,
    pub generation: i32,
    pub leader: String,
    pub member: String,
    /// Told to the leader only.
    pub members: Vec<JoinedMember>,
}

#[derive(Debug, Default)]
pub struct JoinedMember {
    pub id: String,
    pub subscription: Vec<u8>,
}

impl Request for JoinGroup<'_> {
    const SPEC: &'static ApiSpec = &ApiSpec::new(11, "JoinGroup", 7);
    type Reply = JoinedGroup;

    fn put(&self, to: &mut Writer) {
        to.text(self.group);
        to.i32(self.session_ms);
        to.i32(self.rebalance_ms);
        to.text(self.member);
        to.null(); // No name that outlives it.
        to.text(self.protocol_type);
        to.count(1);
        to.text(self.protocol);
        to.bytes(self.subscription);
        to.tags();
        to.tags();
    }

    fn take(from: &mut Reader<'_>) -> JoinedGroup {
        from.throttle();
        let (code, generation) = (from.i16(), from.i32());
        from.bytes(); // The protocol's type
        from.bytes(); // and name, which are those that were offered.
        let (leader, member) = (from.text(), from.text());
        let members = from.array(|it| {
            let id = it.text();
            it.bytes(); // Its name that outlives it.
            let subscription = it.bytes().to_vec();
            it.tags();
            JoinedMember { id, subscription }
        });
        from.tags();
        JoinedGroup { code, generation, leader, member, members }
    }
}

pub struct SyncGroup<'a> {
    pub group: &'a str,
    pub generation: i32,
    pub member: &'a str,
    /// Each member's, from the leader.
    pub assignments: &'a [(&'a str, Vec<u8>)],
}

#[derive(Debug, Default)]
pub struct SyncedGroup {
    pub code: i16,
    pub assignment: Vec<u8>,
}

impl Request for SyncGroup<'_> {
    const SPEC: &'static ApiSpec = &ApiSpec::new(14, "SyncGroup", 4);
    type Reply = SyncedGroup;

    fn put(&self, to: &mut Writer) {
        put_member(to, self.group, self.generation, self.member);
        to.count(self.assignments.len());
        for (member, assignment) in self.assignments {
            to.text(member);
            to.bytes(assignment);
            to.tags();
        }
        to.tags();
    }

    fn take(from: &mut Reader<'_>) -> SyncedGroup {
        from.throttle();
        let reply = SyncedGroup { code: from.i16(), assignment: from.bytes().to_vec() };
        from.tags();
        reply
    }
}

pub struct Heartbeat<'a> {
    pub group: &'a str,
    pub generation: i32,
    pub member: &'a str,
}

impl Request for Heartbeat<'_> {
    const SPEC: &'static ApiSpec = &ApiSpec::new(12, "Heartbeat", 4);
    /// A code.
    type Reply = i16;

    fn put(&self, to: &mut Writer) {
        put_member(to, self.group, self.generation, self.member);
        to.tags();
    }

    fn take(from: &mut Reader<'_>) -> i16 {
        from.throttle();
        let code = from.i16();
        from.tags();
        code
    }
}

pub struct LeaveGroup<'a> {
    pub group: &'a str,
    pub member: &'a str,
}

impl Request for LeaveGroup<'_> {
    const SPEC: &'static ApiSpec = &ApiSpec::new(13, "LeaveGroup", 4);
    /// A code.
    type Reply = i16;

    fn put(&self, to: &mut Writer) {
        to.text(self.group);
        to.count(1);
        to.text(self.member);
        to.null(); // No name that outlives it.
        to.tags();
        to.tags();
    }

    fn take(from: &mut Reader<'_>) -> i16 {
        from.throttle();
        let code = from.i16();
        from.each(&mut |it| {
            it.bytes();
            it.bytes();
            it.skip(2); // Its own code: whom the coordinator doesn't know has left as well.
            it.tags();
        });
        from.tags();
        code
    }
}

pub struct SaslHandshake<'a> {
    pub mechanism: &'a str,
}

#[derive(Debug, Default)]
pub struct SaslMechanisms {
    pub code: i16,
    /// Those that the broker has.
    pub mechanisms: Vec<String>,
}

impl Request for SaslHandshake<'_> {
    const SPEC: &'static ApiSpec = &ApiSpec::old(17, "SaslHandshake", 1);
    type Reply = SaslMechanisms;

    fn put(&self, to: &mut Writer) {
        to.old_text(self.mechanism);
    }

    fn take(from: &mut Reader<'_>) -> SaslMechanisms {
        let mut reply = SaslMechanisms { code: from.i16(), mechanisms: Vec::new() };
        from.old_each(&mut |it| reply.mechanisms.push(it.old_text()));
        reply
    }
}

pub struct SaslAuthenticate<'a> {
    pub message: &'a [u8],
}

#[derive(Debug, Default)]
pub struct SaslAnswer {
    pub code: i16,
    /// The code in words.
    pub words: String,
    pub message: Vec<u8>,
    pub lifetime_ms: i64,
}

impl Request for SaslAuthenticate<'_> {
    const SPEC: &'static ApiSpec = &ApiSpec::new(36, "SaslAuthenticate", 2);
    type Reply = SaslAnswer;

    fn put(&self, to: &mut Writer) {
        to.bytes(self.message);
        to.tags();
    }

    fn take(from: &mut Reader<'_>) -> SaslAnswer {
        let (code, words) = (from.i16(), from.text());
        let reply =
            SaslAnswer { code, words, message: from.bytes().to_vec(), lifetime_ms: from.i64() };
        from.tags();
        reply
    }
}

/// Kafka's number for "topic" as a holder of configs.
const TOPIC_RESOURCE: i8 = 2;

/// What came of what was wanted of a topic.
#[derive(Debug, Default)]
pub struct TopicResult {
    pub code: i16,
    /// The code in words; perhaps none.
    pub words: String,
    pub topic: String,
}

pub struct CreateTopics<'a> {
    pub topics: Vec<CreateTopic<'a>>,
    pub timeout_ms: i32,
}

pub struct CreateTopic<'a> {
    pub name: &'a str,
    pub partitions: i32,
    pub replication: i16,
    pub configs: &'a [(&'a str, String)],
}

impl Request for CreateTopics<'_> {
    const SPEC: &'static ApiSpec = &ApiSpec::new(19, "CreateTopics", 5);
    type Reply = Vec<TopicResult>;

    fn put(&self, to: &mut Writer) {
        to.count(self.topics.len());
        for topic in &self.topics {
            to.text(topic.name);
            to.i32(topic.partitions);
            to.i16(topic.replication);
            to.count(0); // The cluster chooses the brokers.
            to.count(topic.configs.len());
            for (name, value) in topic.configs {
                to.text(name);
                to.text(value);
                to.tags();
            }
            to.tags();
        }
        to.i32(self.timeout_ms);
        to.i8(0); // It is meant.
        to.tags();
    }

    fn take(from: &mut Reader<'_>) -> Vec<TopicResult> {
        from.throttle();
        let results = from.array(|it| {
            let (topic, code, words) = (it.text(), it.i16(), it.text());
            it.skip(6); // Partitions and replicas.
            it.each(&mut |it| {
                it.bytes();
                it.bytes();
                it.skip(3);
                it.tags();
            });
            it.tags();
            TopicResult { code, words, topic }
        });
        from.tags();
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
    /// Kafka's number for where it comes from.
    pub source: i8,
}

impl Request for DescribeConfigs<'_> {
    const SPEC: &'static ApiSpec = &ApiSpec::new(32, "DescribeConfigs", 4);
    type Reply = Vec<TopicConfigs>;

    fn put(&self, to: &mut Writer) {
        to.count(self.topics.len());
        for topic in &self.topics {
            to.i8(TOPIC_RESOURCE);
            to.text(topic);
            to.null(); // All of them.
            to.tags();
        }
        to.put(&[0; 2]); // Without synonyms and documentation.
        to.tags();
    }

    fn take(from: &mut Reader<'_>) -> Vec<TopicConfigs> {
        from.throttle();
        let topics = from.array(|it| {
            let result = take_resource(it);
            let configs = it.array(|it| {
                let (name, value) = (it.text(), it.text());
                it.skip(1); // May it be changed?
                let source = it.i8();
                it.skip(1); // Is it a secret?
                it.each(&mut |it| {
                    it.bytes();
                    it.bytes();
                    it.skip(1);
                    it.tags();
                });
                it.skip(1); // Its type.
                it.bytes(); // Its documentation.
                it.tags();
                ConfigEntry { name, value, source }
            });
            it.tags();
            TopicConfigs { result, configs }
        });
        from.tags();
        topics
    }
}

fn take_resource(from: &mut Reader<'_>) -> TopicResult {
    let (code, words) = (from.i16(), from.text());
    from.skip(1); // That it is a topic.
    TopicResult { code, words, topic: from.text() }
}

/// Sets configs of topics.
pub struct IncrementalAlterConfigs<'a> {
    pub topics: Vec<(&'a str, &'a [(&'a str, String)])>,
}

impl Request for IncrementalAlterConfigs<'_> {
    const SPEC: &'static ApiSpec = &ApiSpec::new(44, "IncrementalAlterConfigs", 1);
    type Reply = Vec<TopicResult>;

    fn put(&self, to: &mut Writer) {
        to.count(self.topics.len());
        for (topic, configs) in &self.topics {
            to.i8(TOPIC_RESOURCE);
            to.text(topic);
            to.count(configs.len());
            for (name, value) in *configs {
                to.text(name);
                to.i8(0); // Set it.
                to.text(value);
                to.tags();
            }
            to.tags();
        }
        to.i8(0); // It is meant.
        to.tags();
    }

    fn take(from: &mut Reader<'_>) -> Vec<TopicResult> {
        from.throttle();
        let results = from.array(|it| {
            let result = take_resource(it);
            it.tags();
            result
        });
        from.tags();
        results
    }
}

/// What a test does with each kind of request.
#[cfg(any(test, feature = "fuzzing"))]
pub trait Visit {
    fn ask<R: Request>(&mut self);
}

/// All of them.
#[cfg(any(test, feature = "fuzzing"))]
pub fn all(visit: &mut impl Visit) {
    visit.ask::<ApiVersions>();
    visit.ask::<Metadata<'_>>();
    visit.ask::<Produce<'_>>();
    visit.ask::<Fetch<'_>>();
    visit.ask::<ListOffsets<'_>>();
    visit.ask::<InitProducerId>();
    visit.ask::<FindCoordinator<'_>>();
    visit.ask::<OffsetFetch<'_>>();
    visit.ask::<OffsetCommit<'_>>();
    visit.ask::<JoinGroup<'_>>();
    visit.ask::<SyncGroup<'_>>();
    visit.ask::<Heartbeat<'_>>();
    visit.ask::<LeaveGroup<'_>>();
    visit.ask::<SaslHandshake<'_>>();
    visit.ask::<SaslAuthenticate<'_>>();
    visit.ask::<CreateTopics<'_>>();
    visit.ask::<DescribeConfigs<'_>>();
    visit.ask::<IncrementalAlterConfigs<'_>>();
}
