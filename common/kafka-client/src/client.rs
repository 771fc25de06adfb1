//! The [`Bus`] on today's protocol.

use crate::cluster::{Cluster, Leader, check, retry};
use crate::connection::Stop;
use crate::fetch::Fetcher;
use crate::group::{Identity, Members};
use crate::map::Map;
use crate::messages::{ListOffsets, OffsetCommit, OffsetFetch};
use crate::produce::Producer;
use crate::{Batch, Bus, Chunk, Compression, Held, Kind, Pace, Position, Result, Sasl};
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
