//! The [`Bus`] on today's protocol.

use crate::cluster::{Api, Cluster, Leader, explain, kind_of, retry, topic_name};
use crate::connection::Stop;
use crate::fetch::Fetcher;
use crate::group::{Identity, Members};
use crate::produce::Producer;
use crate::{Batch, Bus, Chunk, Compression, Error, Held, Kind, Pace, Position, Result, Sasl};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::{
    BrokerId, GroupId, ListOffsetsRequest, OffsetCommitRequest, OffsetFetchRequest,
};
use kafka_protocol::protocol::StrBytes;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What it takes to reach the cluster.
#[derive(Clone)]
pub struct Config {
    /// Bootstrap brokers as host:port, at least one.
    pub brokers: Vec<String>,
    /// How long a broker may take to answer.
    pub timeout: Duration,
    /// Bytes asked of each partition at a time; a larger batch still passes.
    pub fetch_bytes: i32,
    /// How batches are packed.
    pub compression: Compression,
    /// How this program calls itself in the brokers' logs and metrics.
    pub client_id: &'static str,
    /// As whom it speaks, to brokers that want to know.
    pub sasl: Option<Sasl>,
    /// Once it says true, no call waits for a broker for longer than a second.
    pub stop: Option<Stop>,
}

/// A client of the cluster. No I/O happens before the first call.
pub fn connect(config: &Config) -> Box<dyn Bus> {
    Box::new(Client {
        cluster: Cluster::new(config),
        producer: Producer::default(),
        fetcher: Fetcher::default(),
        members: Members::default(),
        pace: Pace::default(),
    })
}

struct Client {
    cluster: Cluster,
    producer: Producer,
    fetcher: Fetcher,
    members: Members,
    /// Of calls that neither write nor read: those know which broker failed, and wait for that one only.
    pace: Pace,
}

/// `ListOffsets` asks for these times.
const EARLIEST: i64 = -2;
const END: i64 = -1;
/// What is of no concluded transaction isn't read.
pub const READ_COMMITTED: i8 = 1;

impl Bus for Client {
    fn leaders(&mut self, topic: &str, within: Duration) -> Result<Vec<i32>> {
        let Self { cluster, pace, .. } = self;
        pace.retry(within, || {
            Ok(cluster.all_leaders(topic)?.into_iter().map(|leader| leader.id).collect())
        })
    }

    fn produce(&mut self, batches: &[Batch<'_>], within: Duration) -> Vec<Result<i64>> {
        self.producer.produce(&mut self.cluster, batches, within)
    }

    fn fetch(&mut self, topic: &str, positions: &[Position], wait: Duration) -> Result<Vec<Chunk>> {
        self.fetcher.fetch(&mut self.cluster, topic, positions, wait)
    }

    fn bounds(&mut self, topic: &str, within: Duration) -> Result<Vec<(i64, i64)>> {
        let Self { cluster, pace, .. } = self;
        pace.retry(within, || bounds(cluster, topic).inspect_err(|_| cluster.forget(topic)))
    }

    fn committed(
        &mut self,
        group: &str,
        topic: &str,
        within: Duration,
    ) -> Result<Vec<Option<i64>>> {
        let Self { cluster, pace, .. } = self;
        pace.retry(within, || {
            committed(cluster, group, topic).inspect_err(|_| cluster.forget_coordinator(group))
        })
    }

    fn commit(
        &mut self,
        group: &str,
        topic: &str,
        positions: &[Position],
        within: Duration,
    ) -> Result<()> {
        let Self { cluster, pace, members, .. } = self;
        let identity = members.identity(group)?;
        pace.retry(within, || {
            commit(cluster, group, identity.as_ref(), topic, positions)
                .inspect_err(|_| cluster.forget_coordinator(group))
        })
        .inspect_err(|err| {
            if err.kind == Kind::Fenced {
                members.fenced(group, err);
            }
        })
    }

    fn held(&mut self, group: &str, topics: &[&str], within: Duration) -> Result<Held> {
        let Self { cluster, pace, members, .. } = self;
        members.held(cluster, pace, group, topics, within)
    }

    fn leave(&mut self, group: &str) -> Result<()> {
        self.members.leave(&mut self.cluster, group)
    }

    fn fetches_from_all(&self) -> bool {
        true
    }
}

fn bounds(cluster: &mut Cluster, topic: &str) -> Result<Vec<(i64, i64)>> {
    let mut by_leader: BTreeMap<Leader, Vec<i32>> = BTreeMap::new();
    let leaders = cluster.all_leaders(topic)?;
    let mut bounds = vec![(None, None); leaders.len()];
    for (partition, leader) in (0..).zip(leaders) {
        by_leader.entry(leader).or_default().push(partition);
    }
    let what = format!("find the bounds of {topic}");
    for (Leader { host, .. }, partitions) in by_leader {
        for time in [EARLIEST, END] {
            let asked = partitions.iter().map(|&partition| {
                ListOffsetsPartition::default()
                    .with_partition_index(partition)
                    .with_current_leader_epoch(-1)
                    .with_timestamp(time)
            });
            let request = ListOffsetsRequest::default()
                .with_replica_id(BrokerId(-1))
                .with_isolation_level(READ_COMMITTED)
                .with_topics(vec![
                    ListOffsetsTopic::default()
                        .with_name(topic_name(topic))
                        .with_partitions(asked.collect()),
                ]);
            let deadline = Instant::now() + cluster.config.timeout;
            let reply = cluster
                .ask(&host, &request, deadline)
                .map_err(|fault| explain(&what, Kind::Retry, &fault))?;
            for found in reply.topics.iter().flat_map(|it| &it.partitions) {
                check(found.error_code, || format!("{what}/{} at {host}", found.partition_index))?;
                let index = usize::try_from(found.partition_index).ok();
                if let Some(entry) = index.and_then(|index| bounds.get_mut(index))
                    && found.offset >= 0
                {
                    *(if time == EARLIEST { &mut entry.0 } else { &mut entry.1 }) =
                        Some(found.offset);
                }
            }
        }
    }
    let both = |(earliest, end): (Option<i64>, Option<i64>)| Some((earliest?, end?));
    let bounds: Option<Vec<(i64, i64)>> = bounds.into_iter().map(both).collect();
    bounds.ok_or_else(|| retry(0, format!("{what}: not all partitions are in the answers")))
}

fn committed(cluster: &mut Cluster, group: &str, topic: &str) -> Result<Vec<Option<i64>>> {
    let count = cluster.load(topic)?.len();
    let host = cluster.coordinator(group)?;
    let asked = OffsetFetchRequestTopic::default()
        .with_name(topic_name(topic))
        .with_partition_indexes((0..).take(count).collect());
    let request =
        OffsetFetchRequest::default().with_group_id(group_id(group)).with_topics(Some(vec![asked]));
    let what = format!("fetch committed offsets of {group} for {topic}");
    let deadline = Instant::now() + cluster.config.timeout;
    let reply = cluster
        .ask(&host, &request, deadline)
        .map_err(|fault| explain(&what, Kind::Retry, &fault))?;
    check(reply.error_code, || format!("{what} at {host}"))?;
    let mut offsets = vec![None; count];
    let mut missing = count;
    for found in reply.topics.iter().flat_map(|it| &it.partitions) {
        check(found.error_code, || format!("{what}/{} at {host}", found.partition_index))?;
        let index = usize::try_from(found.partition_index).ok();
        if let Some(entry) = index.and_then(|index| offsets.get_mut(index)) {
            *entry = Some(found.committed_offset).filter(|offset| *offset >= 0);
            missing = missing.saturating_sub(1);
        }
    }
    // Taken for one without a commit, a partition would be read from its beginning.
    if missing > 0 {
        return Err(retry(0, format!("{what} at {host}: not all partitions are in the answer")));
    }
    Ok(offsets)
}

fn commit(
    cluster: &mut Cluster,
    group: &str,
    identity: Option<&Identity>,
    topic: &str,
    positions: &[Position],
) -> Result<()> {
    let host = cluster.coordinator(group)?;
    let partitions = positions.iter().map(|it| {
        OffsetCommitRequestPartition::default()
            .with_partition_index(it.partition)
            .with_committed_offset(it.next)
            .with_committed_leader_epoch(-1)
            .with_committed_metadata(Some(StrBytes::new()))
    });
    let request = OffsetCommitRequest::default()
        .with_group_id(group_id(group))
        .with_generation_id_or_member_epoch(identity.map_or(-1, |it| it.generation))
        .with_member_id(identity.map_or_else(StrBytes::new, |it| it.id.clone()))
        .with_topics(vec![
            OffsetCommitRequestTopic::default()
                .with_name(topic_name(topic))
                .with_partitions(partitions.collect()),
        ]);
    let what = format!("commit offsets of {group} for {topic}");
    let deadline = Instant::now() + cluster.config.timeout;
    let reply = cluster
        .ask(&host, &request, deadline)
        .map_err(|fault| explain(&what, Kind::Retry, &fault))?;
    for Position { partition, .. } in positions {
        let mut done = reply.topics.iter().flat_map(|it| &it.partitions);
        let Some(done) = done.find(|it| it.partition_index == *partition) else {
            return Err(retry(0, format!("{what}/{partition} at {host}: left out of the answer")));
        };
        check(done.error_code, || format!("{what}/{partition} at {host}"))?;
    }
    Ok(())
}

pub fn check(code: i16, what: impl FnOnce() -> String) -> Result<()> {
    let Some(err) = ResponseError::try_from_code(code) else { return Ok(()) };
    Err(Error { kind: kind_of(Api::Other, code), code, text: format!("{}: {err}", what()) })
}

fn group_id(group: &str) -> GroupId {
    GroupId(StrBytes::from_string(group.to_owned()))
}
