//! The idempotent producer (KIP-98). A broker recognises a batch that is sent again by its producer
//! id and sequence.

use crate::backoff::Backoff;
use crate::connection::wait_for_any;
use crate::error::{Api, ConnectionError, Error, ErrorKind, ProduceResult, Result, check_code};
use crate::map::Map;
use crate::metadata::{Cluster, Leader};
use crate::protocol::codes;
use crate::protocol::messages::{InitProducerId, Produce, ProduceResponse, ProducedPartition};
use crate::record_batch::{self, BatchSequence};
use crate::types::{Batch, Compression, TopicId};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// Limit of `timeout_ms`: the time that the leader waits for in-sync replicas.
const ACK_TIMEOUT: Duration = Duration::from_secs(5);
/// Limit of the encoded records of a batch. Brokers refuse requests above 100 MiB by default
/// (`socket.request.max.bytes`).
const BATCH_BYTES_MAX: usize = 64 << 20;
/// Key of the backoff for metadata and producer id requests, which go to any broker.
const NO_LEADER: i32 = -1;

#[derive(Default)]
pub struct Producer {
    /// The producer id of topics without one.
    producer_id: Option<i64>,
    sequences: Map<String, TopicSequences>,
    /// By leader id, so that a failed broker does not delay the others.
    backoffs: Map<i32, Backoff>,
}

/// The sequences of one topic.
#[derive(Default)]
struct TopicSequences {
    /// The topic that they belong to; `None` if the brokers have no topic ids.
    topic_id: Option<TopicId>,
    producer_id: Option<i64>,
    partitions: Map<i32, PartitionSequence>,
}

/// Producer epoch and next sequence of one partition.
#[derive(Default)]
struct PartitionSequence {
    epoch: i16,
    sequence: i32,
    /// An encoded batch that may have been written. A retry sends the same bytes.
    pending: Option<PendingBatch>,
}

struct PendingBatch {
    records: Vec<u8>,
    batch: Vec<u8>,
}

/// The batches of one call and their results so far.
struct ProduceCall<'a, 'b> {
    batches: &'a [Batch<'b>],
    results: Vec<Result<i64>>,
}

/// A request to one leader.
struct LeaderRequest {
    leader: Leader,
    /// Indexes into [`ProduceCall::batches`].
    batches: Vec<usize>,
}

impl Producer {
    pub fn produce(
        &mut self,
        cluster: &mut Cluster,
        batches: &[Batch<'_>],
        within: Duration,
    ) -> Vec<Result<i64>> {
        let deadline = Instant::now() + within;
        let untried = Error::retryable(0, "no attempt was made".to_owned());
        let mut call = ProduceCall { batches, results: vec![Err(untried); batches.len()] };
        loop {
            let now = Instant::now();
            let (ready, retry_at) = self.ready_batches(cluster, &mut call, now);
            if ready.is_empty() {
                let Some(retry_at) = retry_at else { return call.results };
                // Sleeps until the deadline even if the retry is later: otherwise a caller that
                // repeats the call would use a whole core.
                thread::sleep(retry_at.min(deadline).saturating_duration_since(now));
                if retry_at > deadline {
                    return call.results;
                }
                continue;
            }
            self.attempt(cluster, &mut call, ready);
            let retryable = call.results.iter().any(ProduceResult::is_retryable);
            if Instant::now() >= deadline || !retryable {
                return call.results;
            }
        }
    }

    /// The batches to send now, and the earliest end of a backoff that others wait for.
    fn ready_batches(
        &self,
        cluster: &Cluster,
        call: &mut ProduceCall<'_, '_>,
        now: Instant,
    ) -> (Vec<usize>, Option<Instant>) {
        let (mut ready, mut first_retry) = (Vec::new(), None::<Instant>);
        for (i, batch) in call.batches.iter().enumerate() {
            if !call.results[i].is_retryable() {
                continue;
            }
            match self.backoff_of(cluster, batch).filter(|it| it.retry_at() > now) {
                Some(backoff) => {
                    let retry_at = backoff.retry_at();
                    first_retry = Some(first_retry.map_or(retry_at, |it| it.min(retry_at)));
                    call.results[i].set_error(backoff_error(backoff));
                }
                None => ready.push(i),
            }
        }
        (ready, first_retry)
    }

    /// The longest backoff that applies: that of the leader, or of metadata and producer ids.
    fn backoff_of(&self, cluster: &Cluster, batch: &Batch<'_>) -> Option<&Backoff> {
        let leader = cluster.known_leader(batch.topic, batch.partition);
        let leader = leader.map_or(NO_LEADER, |leader| leader.id);
        let no_id = self.producer_id.is_none().then_some(NO_LEADER);
        let backoffs = no_id.into_iter().chain([leader]).filter_map(|id| self.backoffs.get(&id));
        backoffs.max_by_key(|it| it.retry_at())
    }

    /// Makes one attempt to write the `ready` batches and sets their results.
    fn attempt(
        &mut self,
        cluster: &mut Cluster,
        call: &mut ProduceCall<'_, '_>,
        ready: Vec<usize>,
    ) {
        let sequences = self.sequences.values().flat_map(|it| it.partitions.values());
        let is_exhausted = sequences.map(|it| it.epoch).max() == Some(i16::MAX);
        if is_exhausted {
            // No higher epoch exists: the producer continues with another producer id.
            self.producer_id = None;
            self.sequences = Map::default();
        }
        let by_leader = self.prepare_all(cluster, call, ready);
        let deadline = Instant::now() + cluster.config.timeout;
        let mut in_flight = Vec::new();
        for (leader, batches) in by_leader.0 {
            let request = LeaderRequest { leader, batches };
            let body = self.request_body(cluster, call, &request);
            let sent = cluster
                .connection(&request.leader.host)
                .and_then(|connection| connection.send(&body, deadline));
            match sent {
                Ok(()) => in_flight.push(request),
                // The broker has received only a part of the request and does not execute it.
                Err(err) => self.request_failed(cluster, call, &request, ErrorKind::Retry, &err),
            }
        }
        while !in_flight.is_empty() {
            in_flight = self.receive(cluster, call, in_flight, deadline);
        }
    }

    /// Encodes the batches and groups them by leader. Batches that cannot be sent get an error.
    fn prepare_all(
        &mut self,
        cluster: &mut Cluster,
        call: &mut ProduceCall<'_, '_>,
        ready: Vec<usize>,
    ) -> Map<Leader, Vec<usize>> {
        let mut by_leader: Map<Leader, Vec<usize>> = Map::default();
        let mut failure = None;
        let mut loaded: Vec<&str> = Vec::new();
        // First, so that the batches are encoded after a look at the present topics.
        cluster.close_stale();
        for index in ready {
            let batch = &call.batches[index];
            let Batch { topic, partition, .. } = *batch;
            let unknown = cluster.known_leader(topic, partition).is_none();
            // Once for each topic, until a failure.
            if (unknown || cluster.is_stale(topic)) && failure.is_none() && !loaded.contains(&topic)
            {
                loaded.push(topic);
                failure = cluster.load_metadata(topic).err();
            }
            self.follow_topic(cluster, topic);
            let prepared =
                self.usable_leader(cluster, batch, failure.as_ref()).and_then(|leader| {
                    let id = self.producer_id(cluster, topic).inspect_err(|err| {
                        failure = Some(err.clone());
                    })?;
                    self.prepare(id, batch, cluster.config.compression)?;
                    Ok(leader)
                });
            match prepared {
                Ok(leader) => by_leader.or_default(leader).push(index),
                Err(err) => call.results[index].set_error(err),
            }
        }
        self.backoffs.or_default(NO_LEADER).update(failure.as_ref());
        by_leader
    }

    /// The last known leader, unless it is in backoff. A failed metadata request does not matter if
    /// a leader is known.
    fn usable_leader(
        &self,
        cluster: &Cluster,
        batch: &Batch<'_>,
        failure: Option<&Error>,
    ) -> Result<Leader> {
        let Batch { topic, partition, .. } = *batch;
        let leader = cluster.known_leader(topic, partition).ok_or_else(|| {
            failure.cloned().unwrap_or_else(|| Error::no_leader(topic, partition))
        })?;
        match self.backoffs.get(&leader.id) {
            Some(backoff) if backoff.is_waiting() => Err(backoff_error(backoff)),
            _ => Ok(leader),
        }
    }

    /// Starts over with another producer id if `topic` was created again. Its brokers may belong to
    /// a new cluster, which assigns the same ids to other producers: it would take a batch of one
    /// for a repeated batch of the other, and not write it.
    fn follow_topic(&mut self, cluster: &Cluster, topic: &str) {
        let Some(found) = cluster.topic_id(topic) else { return };
        let known = self.sequences.get(topic).and_then(|it| it.topic_id);
        if known == Some(found) {
            return;
        }
        if let Some(known) = known {
            log::warn!(
                topic, topic_id:% = found, former_topic_id:% = known;
                "topic was deleted and created again, producing to it with another producer id"
            );
            self.sequences.remove(topic);
            self.producer_id = None;
        }
        self.sequences.or_default(topic.to_owned()).topic_id = Some(found);
    }

    /// The producer id of `topic`.
    fn producer_id(&mut self, cluster: &mut Cluster, topic: &str) -> Result<i64> {
        if let Some(id) = self.sequences.get(topic).and_then(|it| it.producer_id) {
            return Ok(id);
        }
        let id = self.new_producer_id(cluster)?;
        self.sequences.or_default(topic.to_owned()).producer_id = Some(id);
        Ok(id)
    }

    fn new_producer_id(&mut self, cluster: &mut Cluster) -> Result<i64> {
        if let Some(id) = self.producer_id {
            return Ok(id);
        }
        let what = "request a producer id";
        let (host, response) = cluster.call_any(what, &InitProducerId)?;
        // A broker requests blocks of 1,000 ids from the controller, with a timeout of 30 s. Other
        // brokers may have ids left.
        check_code(response.error_code, format_args!("{what} at {host}"))
            .inspect_err(|_| cluster.rotate_brokers())?;
        self.producer_id = Some(response.producer_id);
        Ok(response.producer_id)
    }

    /// Encodes a batch, unless the pending batch has the same records.
    fn prepare(&mut self, id: i64, batch: &Batch<'_>, compression: Compression) -> Result<()> {
        let sequences = self.sequences.or_default(batch.topic.to_owned());
        let sequence = sequences.partitions.or_default(batch.partition);
        let records = record_batch::encode_records(&batch.records);
        if records.len() > BATCH_BYTES_MAX || batch.records.is_empty() {
            let text = format!(
                "batch of {} records and {} bytes refused: it must have records, at most \
                 {BATCH_BYTES_MAX} bytes",
                batch.records.len(),
                records.len()
            );
            let code = codes::MESSAGE_TOO_LARGE;
            return Err(Error { kind: ErrorKind::Message, code, text });
        }
        if let Some(pending) = &sequence.pending {
            if pending.records == records {
                return Ok(());
            }
            // The pending batch may have used the sequence: another batch needs another epoch.
            sequence.start_epoch(batch, "the last batch may have been written and is not repeated");
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now_ms = now.map_or(0, |now| i64::try_from(now.as_millis()).unwrap_or(0));
        let batch_sequence = BatchSequence {
            producer_id: id,
            producer_epoch: sequence.epoch,
            base_sequence: sequence.sequence,
        };
        let count = batch.records.len();
        let batch = record_batch::encode(&records, count, now_ms, batch_sequence, compression)
            .map_err(|text| Error { kind: ErrorKind::Config, code: 0, text })?;
        sequence.pending = Some(PendingBatch { records, batch });
        Ok(())
    }

    fn request_body<'a>(
        &'a self,
        cluster: &Cluster,
        call: &ProduceCall<'_, 'a>,
        request: &LeaderRequest,
    ) -> Produce<'a> {
        let mut topics: Map<&str, Vec<(i32, &[u8])>> = Map::default();
        for index in &request.batches {
            let Batch { topic, partition, .. } = call.batches[*index];
            let sequences = self.sequences.get(topic);
            let sequence = sequences.and_then(|it| it.partitions.get(&partition));
            if let Some(pending) = sequence.and_then(|it| it.pending.as_ref()) {
                topics.or_default(topic).push((partition, &pending.batch));
            }
        }
        let ack_timeout = ACK_TIMEOUT.min(cluster.config.timeout / 2);
        Produce { timeout_ms: ack_timeout.as_millis() as i32, topics }
    }

    /// Waits for responses. Returns the requests without a response.
    fn receive(
        &mut self,
        cluster: &mut Cluster,
        call: &mut ProduceCall<'_, '_>,
        in_flight: Vec<LeaderRequest>,
        deadline: Instant,
    ) -> Vec<LeaderRequest> {
        let hosts: Vec<String> = in_flight.iter().map(|it| it.leader.host.clone()).collect();
        let shutdown = cluster.config.shutdown.clone();
        let ready = wait_for_any(cluster.connected(&hosts), deadline, shutdown.as_ref());
        let timed_out = !ready.unwrap_or(false);
        let mut waiting = Vec::new();
        for request in in_flight {
            let response = cluster.connection(&request.leader.host).and_then(|connection| {
                match connection.try_receive::<Produce<'_>>() {
                    Ok(None) if timed_out => Err(connection.timed_out()),
                    response => response,
                }
            });
            match response {
                Ok(None) => waiting.push(request),
                Ok(Some(response)) => {
                    cluster.broker_responded(&request.leader.host);
                    self.responded(cluster, call, &request, &response.body);
                }
                Err(err) => self.request_failed(cluster, call, &request, ErrorKind::Unknown, &err),
            }
        }
        waiting
    }

    /// Handles a failed connection. `kind` is [`ErrorKind::Unknown`] if the broker may have written
    /// the batches.
    fn request_failed(
        &mut self,
        cluster: &mut Cluster,
        call: &mut ProduceCall<'_, '_>,
        request: &LeaderRequest,
        kind: ErrorKind,
        err: &ConnectionError,
    ) {
        let Leader { id, host } = &request.leader;
        cluster.broker_failed(host);
        for index in &request.batches {
            let Batch { topic, partition, .. } = &call.batches[*index];
            cluster.invalidate(topic);
            let what = format!("produce {topic}/{partition} at {host}");
            call.results[*index].set_error(Error::from_connection(&what, kind, err));
        }
        self.backoffs.or_default(*id).failed(&Error::from_connection("produce", kind, err));
    }

    fn responded(
        &mut self,
        cluster: &mut Cluster,
        call: &mut ProduceCall<'_, '_>,
        request: &LeaderRequest,
        response: &ProduceResponse,
    ) {
        let Leader { id, host } = &request.leader;
        let mut failure = None;
        for index in &request.batches {
            let batch = &call.batches[*index];
            let Batch { topic, partition, .. } = *batch;
            let sequences = self.sequences.get_mut(topic);
            let sequence = sequences.and_then(|it| it.partitions.get_mut(&partition));
            let Some(sequence) = sequence else { continue };
            let topics = response.topics.iter().filter(|(name, _)| name == topic);
            let mut partitions = topics.flat_map(|(_, partitions)| partitions);
            let produced = partitions.find(|it| it.partition_index == partition);
            match sequence.responded(batch, host, produced) {
                Ok(offset) => call.results[*index] = Ok(offset),
                Err(err) => {
                    if produced.is_some() && err.is_retryable() {
                        failure = Some(err.clone());
                    }
                    if produced.is_some()
                        && err.kind != ErrorKind::Message
                        && !is_sequence_error(err.code)
                    {
                        cluster.invalidate(topic);
                    }
                    call.results[*index].set_error(err);
                }
            }
        }
        let backoff = self.backoffs.or_default(*id);
        backoff.update(failure.as_ref());
        if let Some(until) = cluster.throttled_until(host) {
            backoff.hold_until(until);
        }
    }
}

/// True if the broker does not have the producer id, its epoch or the sequence of the last batch.
fn is_sequence_error(code: i16) -> bool {
    matches!(
        code,
        codes::OUT_OF_ORDER_SEQUENCE_NUMBER
            | codes::UNKNOWN_PRODUCER_ID
            | codes::INVALID_PRODUCER_EPOCH
            | codes::INVALID_PRODUCER_ID_MAPPING
            | codes::PRODUCER_FENCED
    )
}

/// The error that a leader's backoff began with.
fn backoff_error(backoff: &Backoff) -> Error {
    let throttled = || Error::retryable(0, "throttled by the broker's quota".to_owned());
    backoff.last_error().cloned().unwrap_or_else(throttled)
}

impl PartitionSequence {
    /// The base offset of the pending batch, or -1 if the broker no longer has it.
    fn responded(
        &mut self,
        batch: &Batch<'_>,
        host: &str,
        produced: Option<&ProducedPartition>,
    ) -> Result<i64> {
        let what = || format!("produce {}/{} at {host}", batch.topic, batch.partition);
        let Some(produced) = produced else {
            let text = format!("{}: the partition is missing in the response", what());
            return Err(Error { kind: ErrorKind::Unknown, code: 0, text });
        };
        let code = produced.error_code;
        if matches!(code, 0 | codes::DUPLICATE_SEQUENCE_NUMBER) {
            self.written(batch.records.len());
            return Ok(if code == 0 { produced.base_offset } else { -1 });
        }
        let kind = ErrorKind::of_code(Api::Produce, code);
        if is_sequence_error(code) {
            self.start_epoch(batch, "the broker has lost the producer state or the last batches");
        } else if kind == ErrorKind::Message {
            // The batch was refused for its content: its sequence is not used.
            self.pending = None;
        }
        let text = format!("{}: {} {}", what(), codes::Name(code), produced.error_message);
        Err(Error { kind, code, text: text.trim_end().to_owned() })
    }

    fn written(&mut self, records: usize) {
        // Sequences wrap from i32::MAX to 0.
        let next = (i64::from(self.sequence) + records as i64) % (i64::from(i32::MAX) + 1);
        self.sequence = next as i32;
        self.pending = None;
    }

    /// Continues at sequence 0 of the next epoch, as the Java client does (KIP-360). The broker
    /// does not compare it with the last sequence.
    fn start_epoch(&mut self, batch: &Batch<'_>, why: &str) {
        let Batch { topic, partition, .. } = batch;
        let (epoch, sequence) = (self.epoch, self.sequence);
        log::error!(
            topic, partition, epoch, sequence, why;
            "producer starts a new epoch, the last batch may be duplicated"
        );
        self.epoch = self.epoch.saturating_add(1);
        self.sequence = 0;
        self.pending = None;
    }
}
