//! Reads from all leaders at once, on one thread: each has one request, which stays with it between calls, and poll(2) says who
//! has answered. A broker that hangs or is away holds up its own partitions only.

use crate::batch;
use crate::client::READ_COMMITTED;
use crate::cluster::{Api, Cluster, Leader, explain, kind_of, no_leader, topic_name};
use crate::connection::{Connection, Fault, wait_for_any};
use crate::{Chunk, Error, Kind, Pace, Position, Result};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{BrokerId, FetchRequest, FetchResponse};
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// What the records of one reply may take in memory, bytes; a partition that finds it used up comes with the next reply.
const MEMORY_MAX: usize = 64 << 20;
/// The pace of finding leaders.
const NOBODY: i32 = -1;

/// Reads.
#[derive(Default)]
pub struct Fetcher {
    leaders: HashMap<i32, Source>,
    /// Of each leader, so that one that fails holds up nobody else.
    paces: HashMap<i32, Pace>,
    /// End of the log at the last reply.
    ends: HashMap<(String, i32), i64>,
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
    ) -> Result<Vec<Chunk>> {
        let now = Instant::now();
        let away = self.left_at.map_or(Duration::ZERO, |left_at| now - left_at);
        for source in self.leaders.values_mut() {
            if let Some(asked) = &mut source.asked {
                asked.until += away;
            }
        }
        let result = self.gather(cluster, topic, positions, now + wait, wait);
        self.left_at = Some(Instant::now());
        let mut found = result?;
        let chunk = |position: &Position| {
            found.remove(&position.partition).unwrap_or_else(|| {
                let end = self.ends.get(&(topic.to_owned(), position.partition)).copied();
                Chunk { end: end.unwrap_or(position.next), ..Chunk::empty(*position) }
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
    ) -> Result<BTreeMap<i32, Chunk>> {
        let mut found: BTreeMap<i32, Chunk> = BTreeMap::new();
        loop {
            let by_leader = self.group(cluster, topic, positions, &mut found)?;
            for (leader, positions) in by_leader {
                self.ask(cluster, topic, leader, &positions, wait, &mut found)?;
            }
            let until = if found.is_empty() { self.next_event(deadline) } else { Instant::now() };
            let waiting = || self.leaders.values().filter(|it| it.asked.is_some());
            let stop = cluster.limits.stop.clone();
            // An error of poll(2) itself: each connection says by itself what is wrong.
            let _ = wait_for_any(waiting().map(|it| &it.connection), until, stop.as_ref());
            self.receive(cluster, topic, positions, &mut found)?;
            let over = Instant::now() >= deadline || stop.is_some_and(|stop| stop());
            if !found.is_empty() || over {
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
        found: &mut BTreeMap<i32, Chunk>,
    ) -> Result<BTreeMap<Leader, Vec<Position>>> {
        let known =
            |cluster: &Cluster, it: &Position| cluster.known_leader(topic, it.partition).is_some();
        if cluster.is_moved(topic) || !positions.iter().all(|it| known(cluster, it)) {
            let pace = self.paces.entry(NOBODY).or_default();
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
                            found.insert(it.partition, Chunk::failed(*it, err.clone()));
                        }
                    }
                }
            }
        }
        let mut by_leader: BTreeMap<Leader, Vec<Position>> = BTreeMap::new();
        for it in positions {
            if let Some(leader) = cluster.known_leader(topic, it.partition) {
                by_leader.entry(leader).or_default().push(*it);
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
        found: &mut BTreeMap<i32, Chunk>,
    ) -> Result<()> {
        let now = Instant::now();
        if self.paces.get(&leader.id).is_some_and(Pace::is_waiting) {
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
        let turns = self.paces.values().map(Pace::turn).filter(|turn| *turn > now);
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
        found: &mut BTreeMap<i32, Chunk>,
    ) -> Result<()> {
        let now = Instant::now();
        let waiting: Vec<i32> =
            self.leaders.iter().filter(|(_, it)| it.asked.is_some()).map(|(id, _)| *id).collect();
        for id in waiting {
            let Some(source) = self.leaders.get_mut(&id) else { continue };
            let reply = match source.connection.try_receive::<FetchRequest>() {
                Ok(None) if source.asked.as_ref().is_some_and(|it| it.until <= now) => {
                    Err(source.connection.timed_out())
                }
                reply => reply,
            };
            match reply {
                Ok(None) => {}
                Ok(Some(reply)) => {
                    let leader = source.leader.clone();
                    let Some(asked) = source.asked.take() else { continue };
                    source.singly = source.singly.saturating_sub(1);
                    // The caller may have gone elsewhere since: what it didn't ask for now it doesn't get.
                    if asked.topic == topic {
                        cluster.answered(&leader.host);
                        let current = |it: &Position| positions.contains(it);
                        let wanted: Vec<Position> =
                            asked.positions.into_iter().filter(current).collect();
                        self.take(cluster, topic, &leader, &wanted, &reply, found)?;
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
        fault: &Fault,
        found: &mut BTreeMap<i32, Chunk>,
    ) -> Result<()> {
        let too_large = matches!(fault, Fault::TooLarge { .. });
        // One batch larger than anything that is taken: which partition's, a fetch of each by itself will say.
        let kind = if too_large && positions.len() == 1 { Kind::Poison } else { Kind::Retry };
        let err = explain(&format!("fetch {topic} at {}", leader.host), kind, fault);
        if err.kind == Kind::Config {
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
        self.paces.entry(leader.id).or_default().failed(&err);
        for it in positions {
            found.insert(it.partition, Chunk::failed(*it, err.clone()));
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
        reply: &FetchResponse,
        found: &mut BTreeMap<i32, Chunk>,
    ) -> Result<()> {
        let mut budget = MEMORY_MAX;
        let mut failure = None;
        if let Some(err) = ResponseError::try_from_code(reply.error_code) {
            let text = format!("fetch {topic} at {}: {err}", leader.host);
            failure = Some(Error { kind: Kind::Retry, code: reply.error_code, text });
        }
        let parts = reply.responses.iter().filter(|it| it.topic.0.as_str() == topic);
        for part in parts.flat_map(|it| &it.partitions) {
            let Some(position) = wanted.iter().find(|it| it.partition == part.partition_index)
            else {
                continue;
            };
            if budget == 0 {
                break;
            }
            let chunk = read(topic, leader, *position, part, &mut budget);
            if let Some(err) = &chunk.error {
                match err.kind {
                    Kind::Config => return Err(err.clone()),
                    Kind::Retry => {
                        cluster.forget(topic);
                        failure = Some(err.clone());
                    }
                    _ => {}
                }
            } else {
                self.ends.insert((topic.to_owned(), position.partition), chunk.end);
            }
            if chunk.error.is_some() || chunk.next != position.next {
                found.insert(position.partition, chunk);
            }
        }
        let pace = self.paces.entry(leader.id).or_default();
        match failure {
            Some(err) => pace.failed(&err),
            None => pace.succeeded(),
        }
        Ok(())
    }
}

fn request(bytes: i32, topic: &str, positions: &[Position], wait: Duration) -> FetchRequest {
    let partition = |it: &Position| {
        FetchPartition::default()
            .with_partition(it.partition)
            .with_current_leader_epoch(-1)
            .with_last_fetched_epoch(-1)
            .with_log_start_offset(-1)
            .with_fetch_offset(it.next)
            .with_partition_max_bytes(bytes)
    };
    let topic = FetchTopic::default()
        .with_topic(topic_name(topic))
        .with_partitions(positions.iter().map(partition).collect());
    let all = bytes.saturating_mul(i32::try_from(positions.len()).unwrap_or(i32::MAX));
    FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(i32::try_from(wait.as_millis()).unwrap_or(i32::MAX))
        .with_min_bytes(1)
        .with_max_bytes(all.min(REPLY_BYTES))
        .with_isolation_level(READ_COMMITTED)
        .with_session_epoch(-1)
        .with_topics(vec![topic])
}

/// Bytes of records asked of a broker at a time, from all of its partitions; a larger batch passes alone.
const REPLY_BYTES: i32 = 32 << 20;

/// What the reply says of one partition.
fn read(
    topic: &str,
    leader: &Leader,
    position: Position,
    part: &PartitionData,
    budget: &mut usize,
) -> Chunk {
    let what = || format!("fetch {topic}/{} at {}", position.partition, leader.host);
    if let Some(err) = ResponseError::try_from_code(part.error_code) {
        let kind = kind_of(Api::Fetch, part.error_code);
        let text = format!("{}: {err}", what());
        return Chunk::failed(position, Error { kind, code: part.error_code, text });
    }
    let aborted = part.aborted_transactions.iter().flatten();
    let aborted = aborted.map(|it| (it.producer_id.0, it.first_offset)).collect();
    let bytes = part.records.as_deref().unwrap_or_default();
    let decoded = batch::decode(bytes, position.next, aborted, budget, MEMORY_MAX);
    let mut chunk = Chunk { end: part.high_watermark, ..Chunk::empty(position) };
    chunk.next = decoded.next;
    chunk.records = decoded.records;
    if let Some(words) = decoded.poison
        && chunk.next == position.next
    {
        let text = format!("{}, offset {}: {words}", what(), position.next);
        chunk.error = Some(Error { kind: Kind::Poison, code: 0, text });
    }
    chunk
}
