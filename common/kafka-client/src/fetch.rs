//! Fetches from all leaders at once on one thread. Each leader has at most one in-flight request,
//! which is kept between calls. An unresponsive broker delays only its own partitions.

use crate::backoff::Backoff;
use crate::connection::{Connection, Response, wait_for_any};
use crate::error::{Api, ConnectionError, Error, ErrorKind, Result};
use crate::map::Map;
use crate::metadata::{Cluster, Leader};
use crate::protocol::messages::{Fetch, FetchResponse, FetchedPartition};
use crate::record_batch;
use crate::types::{PartitionData, Position};
use std::time::{Duration, Instant};

/// Limit of `max_bytes`. The first batch of a response may be larger.
const FETCH_BYTES_MAX: i32 = 32 << 20;
/// Key of the backoff for metadata requests, which go to any broker.
const NO_LEADER: i32 = -1;

#[derive(Default)]
pub struct Fetcher {
    leaders: Map<i32, LeaderConnection>,
    /// By leader id, so that a failed broker does not delay the others.
    backoffs: Map<i32, Backoff>,
    /// By topic and partition, from the last response.
    high_watermarks: Map<String, Map<i32, i64>>,
    /// The end of the last call. The time until the next call is not part of a request timeout.
    returned_at: Option<Instant>,
    /// Rotates the partitions of requests: a broker returns the first ones until it reaches
    /// `max_bytes`.
    rotation: usize,
}

struct LeaderConnection {
    leader: Leader,
    connection: Connection,
    in_flight: Option<InFlightFetch>,
    /// The number of requests that are limited to one partition, after an oversized response.
    single_partition_fetches: usize,
}

struct InFlightFetch {
    topic: String,
    positions: Vec<Position>,
    deadline: Instant,
}

/// A call and its data so far, by partition.
struct FetchCall<'a> {
    topic: &'a str,
    positions: &'a [Position],
    wait: Duration,
    data: Map<i32, PartitionData>,
}

impl FetchCall<'_> {
    fn set_errors(&mut self, positions: &[Position], err: &Error) {
        for it in positions {
            self.data.insert(it.partition, PartitionData::failed(*it, err.clone()));
        }
    }

    /// The positions of an earlier request that this call has, too.
    fn current(&self, positions: Vec<Position>) -> Vec<Position> {
        positions.into_iter().filter(|it| self.positions.contains(it)).collect()
    }
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
        let away = self.returned_at.map_or(Duration::ZERO, |returned_at| now - returned_at);
        for (_, it) in &mut self.leaders.0 {
            if let Some(in_flight) = &mut it.in_flight {
                in_flight.deadline += away;
            }
        }
        let mut call = FetchCall { topic, positions, wait, data: Map::default() };
        let result = self.fetch_until(cluster, &mut call, now + wait);
        self.returned_at = Some(Instant::now());
        result?;
        let high_watermarks = self.high_watermarks.get(topic);
        let data_of = |position: &Position| {
            call.data.remove(&position.partition).unwrap_or_else(|| {
                let end = high_watermarks.and_then(|it| it.get(&position.partition));
                let end = end.copied().unwrap_or(position.next);
                PartitionData { end, ..PartitionData::empty(*position) }
            })
        };
        Ok(positions.iter().map(data_of).collect())
    }

    /// Sends requests and receives responses until a partition has data or an error, or until
    /// `deadline`.
    fn fetch_until(
        &mut self,
        cluster: &mut Cluster,
        call: &mut FetchCall<'_>,
        deadline: Instant,
    ) -> Result<()> {
        loop {
            let by_leader = self.group_by_leader(cluster, call)?;
            for (leader, positions) in by_leader.0 {
                self.send(cluster, call, leader, &positions)?;
            }
            let until =
                if call.data.0.is_empty() { self.next_event(deadline) } else { Instant::now() };
            let waiting = self.leaders.values().filter(|it| it.in_flight.is_some());
            let shutdown = cluster.config.shutdown.clone();
            // After an error of poll(2), reading from each connection returns its error.
            let _ = wait_for_any(waiting.map(|it| &it.connection), until, shutdown.as_ref());
            self.receive(cluster, call)?;
            let over = Instant::now() >= deadline || shutdown.is_some_and(|check| check());
            if !call.data.0.is_empty() || over {
                return Ok(());
            }
        }
    }

    /// The positions by leader, without those that have no known leader.
    fn group_by_leader(
        &mut self,
        cluster: &mut Cluster,
        call: &mut FetchCall<'_>,
    ) -> Result<Map<Leader, Vec<Position>>> {
        let topic = call.topic;
        let leaderless = |cluster: &Cluster| -> Vec<Position> {
            let is_unknown = |it: &&Position| cluster.known_leader(topic, it.partition).is_none();
            call.positions.iter().filter(is_unknown).copied().collect()
        };
        if cluster.is_stale(topic) || !leaderless(cluster).is_empty() {
            let backoff = self.backoffs.or_default(NO_LEADER);
            if !backoff.is_waiting() {
                let result = cluster.load_metadata(topic).map(drop);
                let leaderless = leaderless(cluster);
                let failure = match result {
                    Ok(()) => leaderless.first().map(|it| Error::no_leader(topic, it.partition)),
                    Err(err) if err.is_retryable() => Some(err),
                    Err(err) => return Err(err),
                };
                backoff.update(failure.as_ref());
                if let Some(err) = failure {
                    call.set_errors(&leaderless, &err);
                }
            }
        }
        let mut by_leader: Map<Leader, Vec<Position>> = Map::default();
        for it in call.positions {
            if let Some(leader) = cluster.known_leader(topic, it.partition) {
                by_leader.or_default(leader).push(*it);
            }
        }
        Ok(by_leader)
    }

    /// Sends a request to `leader`, unless one is in flight or the leader is in backoff or
    /// throttles this client.
    fn send(
        &mut self,
        cluster: &mut Cluster,
        call: &mut FetchCall<'_>,
        leader: Leader,
        positions: &[Position],
    ) -> Result<()> {
        if self.backoffs.get(&leader.id).is_some_and(Backoff::is_waiting) {
            return Ok(());
        }
        if let Some(it) = self.leaders.get(&leader.id) {
            let same = it.leader == leader;
            if same && (it.in_flight.is_some() || it.connection.throttled_until().is_some()) {
                return Ok(());
            }
            if !same || it.connection.is_stale() {
                self.leaders.remove(&leader.id);
            }
        }
        self.rotation = self.rotation.wrapping_add(1);
        let mut rotated = positions.to_vec();
        rotated.rotate_left(self.rotation % positions.len());
        let connection = match self.leaders.remove(&leader.id) {
            Some(connection) => Ok(connection),
            None => LeaderConnection::open(cluster, &leader, 0),
        };
        let sent = connection.and_then(|mut it| it.send(cluster, call, rotated).map(|()| it));
        match sent {
            Ok(connection) => {
                self.leaders.insert(leader.id, connection);
                Ok(())
            }
            Err(err) => self.request_failed(cluster, call, &leader, positions, &err),
        }
    }

    /// The next deadline or the end of a backoff or throttle time, whichever is earliest.
    fn next_event(&self, deadline: Instant) -> Instant {
        let now = Instant::now();
        let in_flight = self.leaders.values().filter_map(|it| it.in_flight.as_ref());
        let retries = self.backoffs.values().map(Backoff::retry_at).filter(|it| *it > now);
        let idle = self.leaders.values().filter(|it| it.in_flight.is_none());
        let throttled = idle.filter_map(|it| it.connection.throttled_until());
        in_flight.map(|it| it.deadline).chain(retries).chain(throttled).fold(deadline, Instant::min)
    }

    /// Handles the responses that were received.
    fn receive(&mut self, cluster: &mut Cluster, call: &mut FetchCall<'_>) -> Result<()> {
        let now = Instant::now();
        let in_flight = self.leaders.0.iter().filter(|(_, it)| it.in_flight.is_some());
        let waiting: Vec<i32> = in_flight.map(|(id, _)| *id).collect();
        for id in waiting {
            let Some(it) = self.leaders.get_mut(&id) else { continue };
            match it.try_receive(now) {
                Ok(None) => {}
                Ok(Some((request, response))) => {
                    // After a change of topic or positions, data for the former ones is dropped.
                    if request.topic == call.topic {
                        let leader = it.leader.clone();
                        cluster.broker_responded(&leader.host);
                        let positions = call.current(request.positions);
                        self.responded(cluster, call, &leader, &positions, response)?;
                    }
                }
                Err(err) => {
                    let Some(it) = self.leaders.remove(&id) else { continue };
                    let positions = it.in_flight.map_or_else(Vec::new, |it| it.positions);
                    let positions = call.current(positions);
                    self.request_failed(cluster, call, &it.leader, &positions, &err)?;
                }
            }
        }
        Ok(())
    }

    /// Handles a failed connection.
    fn request_failed(
        &mut self,
        cluster: &mut Cluster,
        call: &mut FetchCall<'_>,
        leader: &Leader,
        positions: &[Position],
        err: &ConnectionError,
    ) -> Result<()> {
        let too_large = matches!(err, ConnectionError::ResponseTooLarge { .. });
        // One batch exceeds the limit of responses. Fetching each partition by itself finds it.
        let single = too_large && positions.len() == 1;
        let kind = if single { ErrorKind::Undecodable } else { ErrorKind::Retry };
        let what = format!("fetch {} at {}", call.topic, leader.host);
        let err = Error::from_connection(&what, kind, err);
        if err.kind == ErrorKind::Config {
            return Err(err);
        }
        let singles = positions.len().max(1) * 2;
        if too_large && let Ok(it) = LeaderConnection::open(cluster, leader, singles) {
            self.leaders.insert(leader.id, it);
        } else {
            cluster.broker_failed(&leader.host);
            cluster.invalidate(call.topic);
        }
        self.backoffs.or_default(leader.id).failed(&err);
        call.set_errors(positions, &err);
        Ok(())
    }

    /// Decodes the partitions of a response.
    fn responded(
        &mut self,
        cluster: &mut Cluster,
        call: &mut FetchCall<'_>,
        leader: &Leader,
        positions: &[Position],
        Response { body, frame }: Response<FetchResponse>,
    ) -> Result<()> {
        let topic = call.topic;
        let memory_max = cluster.config.fetch_memory;
        let mut budget = memory_max;
        let mut failure = None;
        if body.error_code != 0 {
            let what = format_args!("fetch {topic} at {}", leader.host);
            let err = Error::from_code(Api::Fetch, body.error_code, what);
            failure = Some(Error { kind: ErrorKind::Retry, ..err });
        }
        let topics = body.topics.into_iter().filter(|(name, _)| name == topic);
        for fetched in topics.flat_map(|(_, partitions)| partitions) {
            let mut positions = positions.iter();
            let Some(position) = positions.find(|it| it.partition == fetched.partition_index)
            else {
                continue;
            };
            if budget == 0 {
                break;
            }
            let data = decode(topic, leader, *position, fetched, &frame, &mut budget, memory_max);
            match &data.error {
                Some(err) => match err.kind {
                    ErrorKind::Config => return Err(err.clone()),
                    ErrorKind::Retry
                    | ErrorKind::Unknown
                    | ErrorKind::Message
                    | ErrorKind::Fenced => {
                        cluster.invalidate(topic);
                        failure = Some(err.clone());
                    }
                    // The leader is right: the caller moves the position.
                    ErrorKind::Position | ErrorKind::Undecodable => {}
                },
                None => {
                    let high_watermarks = self.high_watermarks.or_default(topic.to_owned());
                    high_watermarks.insert(position.partition, data.end);
                }
            }
            if data.error.is_some() || data.next != position.next {
                call.data.insert(position.partition, data);
            }
        }
        self.backoffs.or_default(leader.id).update(failure.as_ref());
        Ok(())
    }
}

impl LeaderConnection {
    fn open(
        cluster: &Cluster,
        leader: &Leader,
        single_partition_fetches: usize,
    ) -> std::result::Result<Self, ConnectionError> {
        let connection = cluster.open(&leader.host)?;
        let leader = leader.clone();
        Ok(Self { leader, connection, in_flight: None, single_partition_fetches })
    }

    fn send(
        &mut self,
        cluster: &Cluster,
        call: &FetchCall<'_>,
        mut positions: Vec<Position>,
    ) -> std::result::Result<(), ConnectionError> {
        if self.single_partition_fetches > 0 {
            positions.truncate(1);
        }
        let partitions = i32::try_from(positions.len()).unwrap_or(i32::MAX);
        let partition_max_bytes = cluster.config.fetch_bytes;
        let request = Fetch {
            max_wait_ms: i32::try_from(call.wait.as_millis()).unwrap_or(i32::MAX),
            max_bytes: partition_max_bytes.saturating_mul(partitions).min(FETCH_BYTES_MAX),
            partition_max_bytes,
            topic: call.topic,
            positions: &positions,
        };
        let deadline = Instant::now() + cluster.config.timeout + call.wait;
        self.connection.send(&request, deadline)?;
        self.in_flight = Some(InFlightFetch { topic: call.topic.to_owned(), positions, deadline });
        Ok(())
    }

    fn try_receive(
        &mut self,
        now: Instant,
    ) -> std::result::Result<Option<(InFlightFetch, Response<FetchResponse>)>, ConnectionError>
    {
        let Some(response) = self.connection.try_receive::<Fetch<'_>>()? else {
            let timed_out = self.in_flight.as_ref().is_some_and(|it| it.deadline <= now);
            return if timed_out { Err(self.connection.timed_out()) } else { Ok(None) };
        };
        self.single_partition_fetches = self.single_partition_fetches.saturating_sub(1);
        Ok(self.in_flight.take().map(|request| (request, response)))
    }
}

fn decode(
    topic: &str,
    leader: &Leader,
    position: Position,
    fetched: FetchedPartition,
    frame: &[u8],
    budget: &mut usize,
    memory_max: usize,
) -> PartitionData {
    let what = || format!("fetch {topic}/{} at {}", position.partition, leader.host);
    if fetched.error_code != 0 {
        let err = Error::from_code(Api::Fetch, fetched.error_code, format_args!("{}", what()));
        return PartitionData::failed(position, err);
    }
    let batches = &frame[fetched.records];
    let aborted = fetched.aborted_transactions;
    let decoded = record_batch::decode(batches, position.next, aborted, budget, memory_max);
    // If records precede the undecodable batch, the next fetch reports it.
    let undecodable = decoded.undecodable.filter(|_| decoded.next == position.next);
    let error = undecodable.map(|why| {
        let text = format!("{}, offset {}: {why}", what(), position.next);
        Error { kind: ErrorKind::Undecodable, code: 0, text }
    });
    PartitionData {
        partition: position.partition,
        records: decoded.records,
        next: decoded.next,
        end: fetched.high_watermark,
        error,
    }
}
