//! Reads from all leaders at once, on one thread: each has one request, which stays with it between calls, and poll(2) says who
//! has answered. A broker that hangs or is away holds up its own partitions only.

use crate::connection::{Arrived, Connection, ConnectionError, wait_for_any};
use crate::map::Map;
use crate::metadata::{Api, Cluster, Leader, explain, no_leader, refused};
use crate::protocol::messages::{Fetch, Fetched, FetchedPartition};
use crate::record_batch;
use crate::{Backoff, Error, ErrorKind, PartitionData, Position, Result};
use std::time::{Duration, Instant};

/// What the records of one reply may take in memory, bytes; a partition that finds it used up comes with the next reply.
const MEMORY_MAX: usize = 64 << 20;
/// The pace of finding leaders.
const NOBODY: i32 = -1;

/// Reads.
#[derive(Default)]
pub struct Fetcher {
    leaders: Map<i32, Source>,
    /// Of each leader, so that one that fails holds up nobody else.
    paces: Map<i32, Backoff>,
    /// End of the log at the last reply.
    ends: Map<String, Map<i32, i64>>,
    /// When the last call returned: what comes after that is not the brokers' silence.
    left_at: Option<Instant>,
    /// Rotates the partitions within requests: a broker that can't give all gives those that come first.
    turn: usize,
}

/// A leader that is fetched from.
struct Source {
    leader: Leader,
    connection: Connection,
    asked: Option<Asked>,
    /// Its last reply was too large: it is asked for one partition at a time until all have been.
    singly: usize,
}

/// A request on its way.
struct Asked {
    topic: String,
    positions: Vec<Position>,
    /// When the broker is given up.
    until: Instant,
}

impl Fetcher {
    pub fn fetch(
        &mut self,
        cluster: &mut Cluster,
        topic: &str,
        positions: &[Position],
        wait: Duration,
    ) -> Result<Vec<PartitionData>> {
        let now = Instant::now();
        let away = self.left_at.map_or(Duration::ZERO, |left_at| now - left_at);
        for (_, source) in &mut self.leaders.0 {
            if let Some(asked) = &mut source.asked {
                asked.until += away;
            }
        }
        let result = self.gather(cluster, topic, positions, now + wait, wait);
        self.left_at = Some(Instant::now());
        let mut found = result?;
        let ends = self.ends.get(topic);
        let chunk = |position: &Position| {
            found.remove(&position.partition).unwrap_or_else(|| {
                let end = ends.and_then(|ends| ends.get(&position.partition));
                PartitionData {
                    end: end.copied().unwrap_or(position.next),
                    ..PartitionData::empty(*position)
                }
            })
        };
        Ok(positions.iter().map(chunk).collect())
    }

    /// Until something has come, or `deadline`: chunks with news, by partition.
    fn gather(
        &mut self,
        cluster: &mut Cluster,
        topic: &str,
        positions: &[Position],
        deadline: Instant,
        wait: Duration,
    ) -> Result<Map<i32, PartitionData>> {
        let mut found: Map<i32, PartitionData> = Map::default();
        loop {
            let by_leader = self.group(cluster, topic, positions, &mut found)?;
            for (leader, positions) in by_leader.0 {
                self.ask(cluster, topic, leader, &positions, wait, &mut found)?;
            }
            let until = if found.0.is_empty() { self.next_event(deadline) } else { Instant::now() };
            let waiting = || self.leaders.values().filter(|it| it.asked.is_some());
            let stop = cluster.limits.stop.clone();
            // An error of poll(2) itself: each connection says by itself what is wrong.
            let _ = wait_for_any(waiting().map(|it| &it.connection), until, stop.as_ref());
            self.receive(cluster, topic, positions, &mut found)?;
            let over = Instant::now() >= deadline || stop.is_some_and(|stop| stop());
            if !found.0.is_empty() || over {
                return Ok(found);
            }
        }
    }

    /// The positions whose leaders are known, by leader.
    fn group(
        &mut self,
        cluster: &mut Cluster,
        topic: &str,
        positions: &[Position],
        found: &mut Map<i32, PartitionData>,
    ) -> Result<Map<Leader, Vec<Position>>> {
        let known =
            |cluster: &Cluster, it: &Position| cluster.known_leader(topic, it.partition).is_some();
        if cluster.is_moved(topic) || !positions.iter().all(|it| known(cluster, it)) {
            let pace = self.paces.or_default(NOBODY);
            if !pace.is_waiting() {
                let failure = match cluster.load(topic) {
                    Ok(_) => positions
                        .iter()
                        .find(|it| !known(cluster, it))
                        .map(|it| no_leader(topic, it.partition)),
                    Err(err) if err.is_retryable() => Some(err),
                    Err(err) => return Err(err),
                };
                match failure {
                    None => pace.succeeded(),
                    Some(err) => {
                        pace.failed(&err);
                        for it in positions.iter().filter(|it| !known(cluster, it)) {
                            found.insert(it.partition, PartitionData::failed(*it, err.clone()));
                        }
                    }
                }
            }
        }
        let mut by_leader: Map<Leader, Vec<Position>> = Map::default();
        for it in positions {
            if let Some(leader) = cluster.known_leader(topic, it.partition) {
                by_leader.or_default(leader).push(*it);
            }
        }
        Ok(by_leader)
    }

    /// Sends the leader a request, unless it has one or is to be left alone.
    fn ask(
        &mut self,
        cluster: &mut Cluster,
        topic: &str,
        leader: Leader,
        positions: &[Position],
        wait: Duration,
        found: &mut Map<i32, PartitionData>,
    ) -> Result<()> {
        let now = Instant::now();
        if self.paces.get(&leader.id).is_some_and(Backoff::is_waiting) {
            return Ok(());
        }
        if let Some(source) = self.leaders.get(&leader.id) {
            if source.leader == leader
                && (source.asked.is_some() || source.connection.pause_until().is_some())
            {
                return Ok(());
            }
            if source.leader != leader || source.connection.is_stale() {
                self.leaders.remove(&leader.id);
            }
        }
        let id = leader.id;
        let source = match self.leaders.remove(&id) {
            Some(source) => Ok(source),
            None => Connection::open(&leader.host, &cluster.limits).map(|connection| Source {
                leader: leader.clone(),
                connection,
                asked: None,
                singly: 0,
            }),
        };
        self.turn = self.turn.wrapping_add(1);
        let sent = source.and_then(|mut source| {
            let mut positions = positions.to_vec();
            let count = positions.len();
            positions.rotate_left(self.turn % count);
            if source.singly > 0 {
                positions.truncate(1);
            }
            let request = request(cluster.config.fetch_bytes, topic, &positions, wait);
            let until = now + cluster.config.timeout + wait;
            source.connection.send(&request, until)?;
            source.asked = Some(Asked { topic: topic.to_owned(), positions, until });
            Ok(source)
        });
        match sent {
            Ok(source) => {
                self.leaders.insert(id, source);
                Ok(())
            }
            Err(fault) => self.fault(cluster, topic, &leader, positions, &fault, found),
        }
    }

    /// When something is to be done even if nobody answers.
    fn next_event(&self, deadline: Instant) -> Instant {
        let now = Instant::now();
        let asked = self.leaders.values().filter_map(|it| it.asked.as_ref()).map(|it| it.until);
        let turns = self.paces.values().map(Backoff::turn).filter(|turn| *turn > now);
        let idle = self.leaders.values().filter(|it| it.asked.is_none());
        let pauses = idle.filter_map(|it| it.connection.pause_until());
        asked.chain(turns).chain(pauses).fold(deadline, Instant::min)
    }

    /// Takes what has come.
    fn receive(
        &mut self,
        cluster: &mut Cluster,
        topic: &str,
        positions: &[Position],
        found: &mut Map<i32, PartitionData>,
    ) -> Result<()> {
        let now = Instant::now();
        let waiting: Vec<i32> =
            self.leaders.0.iter().filter(|(_, it)| it.asked.is_some()).map(|(id, _)| *id).collect();
        for id in waiting {
            let Some(source) = self.leaders.get_mut(&id) else { continue };
            let reply = match source.connection.try_receive::<Fetch<'_>>() {
                Ok(None) if source.asked.as_ref().is_some_and(|it| it.until <= now) => {
                    Err(source.connection.timed_out())
                }
                reply => reply,
            };
            match reply {
                Ok(None) => {}
                Ok(Some(arrived)) => {
                    let leader = source.leader.clone();
                    let Some(asked) = source.asked.take() else { continue };
                    source.singly = source.singly.saturating_sub(1);
                    // The caller may have gone elsewhere since: what it didn't ask for now it doesn't get.
                    if asked.topic == topic {
                        cluster.answered(&leader.host);
                        let current = |it: &Position| positions.contains(it);
                        let wanted: Vec<Position> =
                            asked.positions.into_iter().filter(current).collect();
                        self.take(cluster, topic, &leader, &wanted, arrived, found)?;
                    }
                }
                Err(fault) => {
                    let Some(source) = self.leaders.remove(&id) else { continue };
                    let asked = source.asked.map_or_else(Vec::new, |it| it.positions);
                    let asked: Vec<Position> =
                        asked.into_iter().filter(|it| positions.contains(it)).collect();
                    self.fault(cluster, topic, &source.leader, &asked, &fault, found)?;
                }
            }
        }
        Ok(())
    }

    /// A leader's broker failed as a whole.
    fn fault(
        &mut self,
        cluster: &mut Cluster,
        topic: &str,
        leader: &Leader,
        positions: &[Position],
        fault: &ConnectionError,
        found: &mut Map<i32, PartitionData>,
    ) -> Result<()> {
        let too_large = matches!(fault, ConnectionError::TooLarge { .. });
        // One batch larger than anything that is taken: which partition's, a fetch of each by itself will say.
        let kind = if too_large && positions.len() == 1 {
            ErrorKind::Undecodable
        } else {
            ErrorKind::Retry
        };
        let err = explain(&format!("fetch {topic} at {}", leader.host), kind, fault);
        if err.kind == ErrorKind::Config {
            return Err(err);
        }
        if too_large && let Ok(connection) = Connection::open(&leader.host, &cluster.limits) {
            let singly = positions.len().max(1) * 2;
            let source = Source { leader: leader.clone(), connection, asked: None, singly };
            self.leaders.insert(leader.id, source);
        } else {
            cluster.failed(&leader.host);
            cluster.forget(topic);
        }
        self.paces.or_default(leader.id).failed(&err);
        for it in positions {
            found.insert(it.partition, PartitionData::failed(*it, err.clone()));
        }
        Ok(())
    }

    /// Takes a reply apart.
    fn take(
        &mut self,
        cluster: &mut Cluster,
        topic: &str,
        leader: &Leader,
        wanted: &[Position],
        Arrived { reply, bytes }: Arrived<Fetched>,
        found: &mut Map<i32, PartitionData>,
    ) -> Result<()> {
        let mut budget = MEMORY_MAX;
        let mut failure = None;
        if reply.code != 0 {
            let what = format_args!("fetch {topic} at {}", leader.host);
            failure =
                Some(Error { kind: ErrorKind::Retry, ..refused(Api::Fetch, reply.code, what) });
        }
        let parts = reply.topics.into_iter().filter(|(name, _)| name == topic);
        for part in parts.flat_map(|(_, partitions)| partitions) {
            let Some(position) = wanted.iter().find(|it| it.partition == part.partition) else {
                continue;
            };
            if budget == 0 {
                break;
            }
            let chunk = read(topic, leader, *position, part, &bytes, &mut budget);
            if let Some(err) = &chunk.error {
                match err.kind {
                    ErrorKind::Config => return Err(err.clone()),
                    ErrorKind::Retry => {
                        cluster.forget(topic);
                        failure = Some(err.clone());
                    }
                    _ => {}
                }
            } else {
                self.ends.or_default(topic.to_owned()).insert(position.partition, chunk.end);
            }
            if chunk.error.is_some() || chunk.next != position.next {
                found.insert(position.partition, chunk);
            }
        }
        let pace = self.paces.or_default(leader.id);
        match failure {
            Some(err) => pace.failed(&err),
            None => pace.succeeded(),
        }
        Ok(())
    }
}

fn request<'a>(bytes: i32, topic: &'a str, positions: &'a [Position], wait: Duration) -> Fetch<'a> {
    let all = bytes.saturating_mul(i32::try_from(positions.len()).unwrap_or(i32::MAX));
    Fetch {
        wait_ms: i32::try_from(wait.as_millis()).unwrap_or(i32::MAX),
        bytes_max: all.min(REPLY_BYTES),
        partition_bytes_max: bytes,
        topic,
        positions,
    }
}

/// Bytes of records asked of a broker at a time, from all of its partitions; a larger batch passes alone.
const REPLY_BYTES: i32 = 32 << 20;

/// What the reply says of one partition.
fn read(
    topic: &str,
    leader: &Leader,
    position: Position,
    part: FetchedPartition,
    bytes: &[u8],
    budget: &mut usize,
) -> PartitionData {
    let what = || format!("fetch {topic}/{} at {}", position.partition, leader.host);
    if part.code != 0 {
        let err = refused(Api::Fetch, part.code, format_args!("{}", what()));
        return PartitionData::failed(position, err);
    }
    let bytes = &bytes[part.records];
    let decoded = record_batch::decode(bytes, position.next, part.aborted, budget, MEMORY_MAX);
    let mut chunk = PartitionData { end: part.high_watermark, ..PartitionData::empty(position) };
    chunk.next = decoded.next;
    chunk.records = decoded.records;
    if let Some(words) = decoded.poison
        && chunk.next == position.next
    {
        let text = format!("{}, offset {}: {words}", what(), position.next);
        chunk.error = Some(Error { kind: ErrorKind::Undecodable, code: 0, text });
    }
    chunk
}
