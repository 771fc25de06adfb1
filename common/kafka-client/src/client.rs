//! The client: one method per thing that a caller can ask of the cluster.

use crate::connection::Stop;
use crate::fetch::Fetcher;
use crate::group::{Identity, Members};
use crate::map::Map;
use crate::metadata::{Cluster, Leader, check, retry};
use crate::produce::Producer;
use crate::protocol::messages::{ListOffsets, OffsetCommit, OffsetFetch};
use crate::{
    Assignment, Backoff, Batch, Compression, ErrorKind, PartitionData, Position, Result, Sasl,
};
use std::time::Duration;

/// What it takes to reach the cluster.
#[derive(Clone)]
pub struct Config {
    /// Bootstrap brokers as host:port, at least one.
    pub brokers: Vec<String>,
    /// How long a broker may take to answer.
    pub timeout: Duration,
    /// Bytes asked of each partition at a time; a larger batch still passes.
    pub fetch_bytes: i32,
    /// How batches are compressed.
    pub compression: Compression,
    /// Name of this program in the brokers' logs and metrics.
    pub client_id: &'static str,
    /// Credentials for brokers that require SASL.
    pub sasl: Option<Sasl>,
    /// Once it returns true, no call waits for a broker for longer than a second.
    pub stop: Option<Stop>,
}

/// A client of one cluster, for one thread.
///
/// `within` is the time for retries: an attempt that has begun may take up to [`Config::timeout`] longer. After a failed
/// attempt the next one waits 100 ms, then 200 ms and so on up to 2 s, also across calls: a caller that can wait calls again.
pub struct Client {
    cluster: Cluster,
    producer: Producer,
    fetcher: Fetcher,
    members: Members,
    /// Of calls that neither write nor read: those know which broker failed, and wait for that one only.
    backoff: Backoff,
}

/// `ListOffsets` asks for these times.
const EARLIEST: i64 = -2;
const END: i64 = -1;

impl Client {
    /// A client of the cluster; no I/O happens before the first call.
    pub fn new(config: &Config) -> Self {
        Self {
            cluster: Cluster::new(config),
            producer: Producer::default(),
            fetcher: Fetcher::default(),
            members: Members::default(),
            backoff: Backoff::default(),
        }
    }

    /// The broker id that leads each partition of `topic`, index = partition, fresh from the cluster, once all have one.
    ///
    /// # Errors
    /// Retryable while a partition has no leader or no broker answers.
    pub fn leaders(&mut self, topic: &str, within: Duration) -> Result<Vec<i32>> {
        let Self { cluster, backoff, .. } = self;
        backoff.retry(within, || {
            Ok(cluster.all_leaders(topic)?.into_iter().map(|leader| leader.id).collect())
        })
    }

    /// Writes with acks=all. One result per batch, in order: the offset of its first record, -1 where the broker no longer
    /// knows it. A batch whose result is retryable may be given again, before any other of its partition: the idempotent
    /// producer then writes it once, however often it was sent.
    pub fn produce(&mut self, batches: &[Batch<'_>], within: Duration) -> Vec<Result<i64>> {
        self.producer.produce(&mut self.cluster, batches, within)
    }

    /// Reads from `positions` of `topic`: returns as soon as there are records, or after `wait` without any. One
    /// [`PartitionData`] per position.
    ///
    /// # Errors
    /// Of the whole call; those of one partition are in its [`PartitionData`].
    pub fn fetch(
        &mut self,
        topic: &str,
        positions: &[Position],
        wait: Duration,
    ) -> Result<Vec<PartitionData>> {
        self.fetcher.fetch(&mut self.cluster, topic, positions, wait)
    }

    /// (earliest, end) offset of each partition, index = partition.
    ///
    /// # Errors
    /// Retryable while a leader does not answer.
    pub fn log_range(&mut self, topic: &str, within: Duration) -> Result<Vec<(i64, i64)>> {
        let Self { cluster, backoff, .. } = self;
        backoff.retry(within, || log_range(cluster, topic).inspect_err(|_| cluster.forget(topic)))
    }

    /// The group's committed next offset of each partition, index = partition; `None` where there is none.
    ///
    /// # Errors
    /// Retryable while the coordinator does not answer.
    pub fn committed(
        &mut self,
        group: &str,
        topic: &str,
        within: Duration,
    ) -> Result<Vec<Option<i64>>> {
        let Self { cluster, backoff, .. } = self;
        backoff.retry(within, || {
            committed(cluster, group, topic).inspect_err(|_| cluster.forget_coordinator(group))
        })
    }

    /// Commits next offsets for the group; a member commits only those that it is assigned.
    ///
    /// # Errors
    /// [`ErrorKind::Fenced`] if this is not a member of the group's current generation.
    pub fn commit(
        &mut self,
        group: &str,
        topic: &str,
        positions: &[Position],
        within: Duration,
    ) -> Result<()> {
        let Self { cluster, backoff, members, .. } = self;
        let identity = members.identity(group)?;
        backoff
            .retry(within, || {
                commit(cluster, group, identity.as_ref(), topic, positions)
                    .inspect_err(|_| cluster.forget_coordinator(group))
            })
            .inspect_err(|err| {
                if err.kind == ErrorKind::Fenced {
                    members.fenced(group, err);
                }
            })
    }

    /// Membership in `group` as a consumer of `topics`: joins it first, then sends heartbeats. To be called about once a
    /// second, when all records read so far are processed and committed: the call may give partitions away, and waits
    /// until the rebalance is over.
    ///
    /// # Errors
    /// Nothing is assigned then.
    pub fn poll_assignment(
        &mut self,
        group: &str,
        topics: &[&str],
        within: Duration,
    ) -> Result<Assignment> {
        let Self { cluster, backoff, members, .. } = self;
        members.poll_assignment(cluster, backoff, group, topics, within)
    }

    /// Leaves `group`, so that others get its partitions at once instead of after the session timeout of ten seconds.
    ///
    /// # Errors
    /// The coordinator finds out by the session timeout.
    pub fn leave(&mut self, group: &str) -> Result<()> {
        self.members.leave(&mut self.cluster, group)
    }
}

fn log_range(cluster: &mut Cluster, topic: &str) -> Result<Vec<(i64, i64)>> {
    let mut by_leader: Map<Leader, Vec<i32>> = Map::default();
    let leaders = cluster.all_leaders(topic)?;
    let mut bounds = vec![(None, None); leaders.len()];
    for (partition, leader) in (0..).zip(leaders) {
        by_leader.or_default(leader).push(partition);
    }
    let what = format!("find the bounds of {topic}");
    for (Leader { host, .. }, partitions) in &by_leader.0 {
        for time in [EARLIEST, END] {
            let request = ListOffsets { topic, partitions, time };
            let reply = cluster.ask(&what, host, &request, cluster.config.timeout)?;
            for found in reply.partitions {
                check(found.code, format_args!("{what}/{} at {host}", found.partition))?;
                let index = usize::try_from(found.partition).ok();
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
    let what = format!("fetch committed offsets of {group} for {topic}");
    let request = OffsetFetch { group, topic, partitions: count };
    let reply = cluster.ask(&what, &host, &request, cluster.config.timeout)?;
    check(reply.code, format_args!("{what} at {host}"))?;
    let mut offsets = vec![None; count];
    let mut missing = count;
    for found in reply.partitions {
        check(found.code, format_args!("{what}/{} at {host}", found.partition))?;
        let index = usize::try_from(found.partition).ok();
        if let Some(entry) = index.and_then(|index| offsets.get_mut(index)) {
            *entry = Some(found.offset).filter(|offset| *offset >= 0);
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
    let what = format!("commit offsets of {group} for {topic}");
    let generation = identity.map_or(-1, |it| it.generation);
    let member = identity.map_or("", |it| &it.id);
    let request = OffsetCommit { group, generation, member, topic, positions };
    let reply = cluster.ask(&what, &host, &request, cluster.config.timeout)?;
    for Position { partition, .. } in positions {
        let Some(done) = reply.partitions.iter().find(|it| it.partition == *partition) else {
            return Err(retry(0, format!("{what}/{partition} at {host}: left out of the answer")));
        };
        check(done.code, format_args!("{what}/{partition} at {host}"))?;
    }
    Ok(())
}
