//! The client, with one method for each call to the cluster.

use crate::backoff::Backoff;
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result, check_code};
use crate::fetch::Fetcher;
use crate::group::{MemberIdentity, Members};
use crate::map::Map;
use crate::metadata::{Cluster, Leader};
use crate::produce::Producer;
use crate::protocol::messages::{
    EARLIEST, LATEST, ListOffsets, OffsetCommit, OffsetFetch, PartitionResult,
};
use crate::types::{
    Assignment, Batch, CommittedOffset, PartitionData, Position, TopicDescription, TopicId,
};
use std::time::Duration;

/// A client of one cluster. It has no threads of its own: all work is done within its calls.
///
/// `within` is the time for retries. An attempt that has begun may take up to [`Config::timeout`]
/// longer. The [`Backoff`] between attempts lasts across calls.
pub struct Client {
    cluster: Cluster,
    producer: Producer,
    fetcher: Fetcher,
    members: Members,
    /// For all calls but produce and fetch, which have a backoff for each broker.
    backoff: Backoff,
}

impl Client {
    /// A client that connects in its first call.
    pub fn new(config: &Config) -> Self {
        Self {
            cluster: Cluster::new(config),
            producer: Producer::default(),
            fetcher: Fetcher::default(),
            members: Members::default(),
            backoff: Backoff::default(),
        }
    }

    /// The broker id of each partition's leader, from new metadata. The index is the partition.
    ///
    /// # Errors
    /// Retryable if the topic does not exist, a partition has no leader, or no broker responds.
    pub fn leaders(&mut self, topic: &str, within: Duration) -> Result<Vec<i32>> {
        let Self { cluster, backoff, .. } = self;
        backoff.retry(within, || {
            Ok(cluster.all_leaders(topic)?.into_iter().map(|leader| leader.id).collect())
        })
    }

    /// The id and the partitions of a topic, from new metadata.
    ///
    /// # Errors
    /// Retryable if the topic does not exist or no broker responds.
    pub fn describe_topic(&mut self, topic: &str, within: Duration) -> Result<TopicDescription> {
        let Self { cluster, backoff, .. } = self;
        backoff.retry(within, || cluster.load_metadata(topic).cloned())
    }

    /// The ids of `topics` from new metadata, in the same order. None if the cluster has no topic
    /// ids, which it has since Kafka 2.8.
    ///
    /// # Errors
    /// Retryable if one of the topics does not exist or no broker responds.
    pub fn topic_ids(&mut self, topics: &[&str], within: Duration) -> Result<Vec<Option<TopicId>>> {
        let Self { cluster, backoff, .. } = self;
        backoff.retry(within, || cluster.topic_ids(topics))
    }

    /// Writes batches with acks=all. Returns one result for each batch, in order: its base offset,
    /// or -1 if the batch was written earlier and its offset is no longer known.
    ///
    /// After a retryable error, the caller should repeat the same batch before any other batch of
    /// its partition: the idempotent producer (KIP-98) writes it once. Another batch starts a new
    /// producer epoch, and the earlier one may have been written.
    pub fn produce(&mut self, batches: &[Batch<'_>], within: Duration) -> Vec<Result<i64>> {
        self.producer.produce(&mut self.cluster, batches, within)
    }

    /// Fetches records of `topic` from `positions`. Returns one [`PartitionData`] for each
    /// position, in order, as soon as one of them has records or an error, or after `wait`.
    ///
    /// Requests stay in flight between calls, so `wait` may be short.
    ///
    /// # Errors
    /// Only [`ErrorKind::Config`]. All other errors are in [`PartitionData::error`].
    pub fn fetch(
        &mut self,
        topic: &str,
        positions: &[Position],
        wait: Duration,
    ) -> Result<Vec<PartitionData>> {
        self.fetcher.fetch(&mut self.cluster, topic, positions, wait)
    }

    /// The log start offset and the end of each partition. The index is the partition. The end is
    /// the last stable offset, which is the high watermark unless a transaction is open.
    ///
    /// # Errors
    /// Retryable if a leader does not respond.
    pub fn log_range(&mut self, topic: &str, within: Duration) -> Result<Vec<(i64, i64)>> {
        let Self { cluster, backoff, .. } = self;
        backoff
            .retry(within, || log_range(cluster, topic).inspect_err(|_| cluster.invalidate(topic)))
    }

    /// The offset that the group has committed for each partition, if any. The index is the
    /// partition.
    ///
    /// # Errors
    /// Retryable if the group coordinator does not respond.
    pub fn committed(
        &mut self,
        group: &str,
        topic: &str,
        within: Duration,
    ) -> Result<Vec<Option<i64>>> {
        let committed = self.committed_offsets(group, topic, within)?;
        Ok(committed.into_iter().map(|it| it.map(|it| it.offset)).collect())
    }

    /// Like [`Client::committed`], with the metadata of each offset.
    ///
    /// # Errors
    /// Retryable if the group coordinator does not respond.
    pub fn committed_offsets(
        &mut self,
        group: &str,
        topic: &str,
        within: Duration,
    ) -> Result<Vec<Option<CommittedOffset>>> {
        let Self { cluster, backoff, .. } = self;
        backoff.retry(within, || {
            committed(cluster, group, topic).inspect_err(|_| cluster.invalidate_coordinator(group))
        })
    }

    /// Commits `positions` as the offsets of the group. A client that has joined the group may
    /// commit its assigned partitions only. A client that has not joined may commit if the group
    /// has no members.
    ///
    /// # Errors
    /// [`ErrorKind::Fenced`] if this client is not a member of the group's current generation.
    pub fn commit(
        &mut self,
        group: &str,
        topic: &str,
        positions: &[Position],
        within: Duration,
    ) -> Result<()> {
        self.commit_with_metadata(group, topic, positions, "", within)
    }

    /// Like [`Client::commit`]. The group coordinator stores `metadata` with each offset, and
    /// [`Client::committed_offsets`] returns it.
    ///
    /// # Errors
    /// [`ErrorKind::Fenced`] if this client is not a member of the group's current generation.
    pub fn commit_with_metadata(
        &mut self,
        group: &str,
        topic: &str,
        positions: &[Position],
        metadata: &str,
        within: Duration,
    ) -> Result<()> {
        let Self { cluster, backoff, members, .. } = self;
        let identity = members.identity(group)?;
        backoff
            .retry(within, || {
                commit(cluster, group, identity.as_ref(), topic, positions, metadata)
                    .inspect_err(|_| cluster.invalidate_coordinator(group))
            })
            .inspect_err(|err| {
                if err.kind == ErrorKind::Fenced {
                    members.fenced(group, err);
                }
            })
    }

    /// Joins `group` as a consumer of `topics`, and in later calls sends a heartbeat if one is due.
    /// Returns the assigned partitions.
    ///
    /// Call it about once a second, after all fetched records are processed and committed. The call
    /// may revoke partitions, and it waits until a rebalance is over. The session timeout is 10 s.
    ///
    /// # Errors
    /// After an error, no partition is assigned to this client.
    pub fn poll_assignment(
        &mut self,
        group: &str,
        topics: &[&str],
        within: Duration,
    ) -> Result<Assignment> {
        let Self { cluster, backoff, members, .. } = self;
        members.poll_assignment(cluster, backoff, group, topics, within)
    }

    /// Leaves `group`, so that its partitions are reassigned before the session times out. Does
    /// nothing if this client has not joined.
    ///
    /// # Errors
    /// After an error, the partitions are reassigned after the session timeout of 10 s.
    pub fn leave(&mut self, group: &str) -> Result<()> {
        self.members.leave(&mut self.cluster, group)
    }
}

fn log_range(cluster: &mut Cluster, topic: &str) -> Result<Vec<(i64, i64)>> {
    let mut by_leader: Map<Leader, Vec<i32>> = Map::default();
    let leaders = cluster.all_leaders(topic)?;
    let mut ranges = vec![(None, None); leaders.len()];
    for (partition, leader) in (0..).zip(leaders) {
        by_leader.or_default(leader).push(partition);
    }
    let what = format!("list offsets of {topic}");
    for (Leader { host, .. }, partitions) in &by_leader.0 {
        for timestamp in [EARLIEST, LATEST] {
            let request = ListOffsets { topic, partitions, timestamp };
            let response = cluster.call(&what, host, &request, cluster.config.timeout)?;
            for it in response.partitions {
                check_code(it.error_code, format_args!("{what}/{} at {host}", it.partition_index))?;
                let index = usize::try_from(it.partition_index).ok();
                if let Some(range) = index.and_then(|index| ranges.get_mut(index))
                    && it.offset >= 0
                {
                    let bound = if timestamp == EARLIEST { &mut range.0 } else { &mut range.1 };
                    *bound = Some(it.offset);
                }
            }
        }
    }
    let both = |(earliest, end): (Option<i64>, Option<i64>)| Some((earliest?, end?));
    let ranges: Option<Vec<(i64, i64)>> = ranges.into_iter().map(both).collect();
    let missing = || Error::retryable(0, format!("{what}: partitions are missing in the response"));
    ranges.ok_or_else(missing)
}

fn committed(
    cluster: &mut Cluster,
    group_id: &str,
    topic: &str,
) -> Result<Vec<Option<CommittedOffset>>> {
    let count = cluster.load_metadata(topic)?.leaders.len();
    let host = cluster.coordinator(group_id)?;
    let what = format!("fetch committed offsets of {group_id} for {topic}");
    let request = OffsetFetch { group_id, topic, partitions: count };
    let response = cluster.call(&what, &host, &request, cluster.config.timeout)?;
    check_code(response.error_code, format_args!("{what} at {host}"))?;
    let mut offsets = vec![None; count];
    let mut missing = count;
    for it in response.partitions {
        check_code(it.error_code, format_args!("{what}/{} at {host}", it.partition_index))?;
        let index = usize::try_from(it.partition_index).ok();
        if let Some(entry) = index.and_then(|index| offsets.get_mut(index)) {
            let PartitionResult { offset, metadata, .. } = it;
            *entry = (offset >= 0).then_some(CommittedOffset { offset, metadata });
            missing = missing.saturating_sub(1);
        }
    }
    // Without this check, a missing partition would be read from its log start offset.
    if missing > 0 {
        let text = format!("{what} at {host}: partitions are missing in the response");
        return Err(Error::retryable(0, text));
    }
    Ok(offsets)
}

fn commit(
    cluster: &mut Cluster,
    group_id: &str,
    identity: Option<&MemberIdentity>,
    topic: &str,
    positions: &[Position],
    metadata: &str,
) -> Result<()> {
    let host = cluster.coordinator(group_id)?;
    let what = format!("commit offsets of {group_id} for {topic}");
    let generation_id = identity.map_or(-1, |it| it.generation_id);
    let member_id = identity.map_or("", |it| &it.member_id);
    let request = OffsetCommit { group_id, generation_id, member_id, topic, positions, metadata };
    let response = cluster.call(&what, &host, &request, cluster.config.timeout)?;
    for Position { partition, .. } in positions {
        let mut results = response.partitions.iter();
        let Some(result) = results.find(|it| it.partition_index == *partition) else {
            let text = format!("{what}/{partition} at {host}: missing in the response");
            return Err(Error::retryable(0, text));
        };
        check_code(result.error_code, format_args!("{what}/{partition} at {host}"))?;
    }
    Ok(())
}
