//! Writes, each batch once: the broker knows the producer and the sequence of each batch, and takes none twice.

use crate::connection::{Arrived, ConnectionError, wait_for_any};
use crate::map::Map;
use crate::metadata::{Api, Cluster, Leader, check, explain, kind_of, no_leader, retry};
use crate::protocol::codes;
use crate::protocol::messages::{InitProducerId, Produce, Produced};
use crate::record_batch::{self, Stamp};
use crate::{Backoff, Batch, Compression, Error, ErrorKind, Outcome, Result};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// How long the leader waits for its followers before it answers that they did not.
const ACK_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest batch, bytes: brokers take no request above 100 MB.
const BATCH_BYTES_MAX: usize = 64 << 20;
/// The pace of whatever is no leader's fault.
const NOBODY: i32 = -1;

/// Writes batches.
#[derive(Default)]
pub struct Producer {
    /// Given by the cluster, the same for all partitions.
    id: Option<i64>,
    lanes: Map<String, Map<i32, PartitionSequence>>,
    /// Of each leader, so that one that fails holds up nobody else.
    paces: Map<i32, Backoff>,
}

/// One partition's sequence.
#[derive(Default)]
struct PartitionSequence {
    epoch: i16,
    /// Sequence of the next record.
    sequence: i32,
    /// A batch that is perhaps written: to be sent again as it was.
    pending: Option<Pending>,
}

struct Pending {
    records: Vec<u8>,
    batch: Vec<u8>,
}

impl Producer {
    pub fn produce(
        &mut self,
        cluster: &mut Cluster,
        batches: &[Batch<'_>],
        within: Duration,
    ) -> Vec<Result<i64>> {
        let deadline = Instant::now() + within;
        let mut results: Vec<Result<i64>> =
            vec![Err(retry(0, "not tried".to_owned())); batches.len()];
        loop {
            let todo: Vec<usize> =
                (0..batches.len()).filter(|&i| results[i].is_retryable()).collect();
            let now = Instant::now();
            let mut turn = None::<Instant>;
            let mut ready = Vec::new();
            for i in todo {
                match self.pace_of(cluster, &batches[i]).filter(|pace| pace.turn() > now) {
                    Some(pace) => {
                        turn = Some(turn.map_or(pace.turn(), |turn| turn.min(pace.turn())));
                        results[i].worsen(reason(pace));
                    }
                    None => ready.push(i),
                }
            }
            if ready.is_empty() {
                let Some(turn) = turn else { return results };
                // Also where that comes too late: a caller who comes again at once would spin.
                thread::sleep(turn.min(deadline).saturating_duration_since(now));
                if turn > deadline {
                    return results;
                }
                continue;
            }
            self.attempt(cluster, batches, ready, &mut results);
            if Instant::now() >= deadline || !results.iter().any(Outcome::is_retryable) {
                return results;
            }
        }
    }

    /// What a batch has to wait for: its leader, or that there is one; and without an id as producer nobody can be asked.
    fn pace_of(&self, cluster: &Cluster, batch: &Batch<'_>) -> Option<&Backoff> {
        let leader = cluster.known_leader(batch.topic, batch.partition);
        let leader = leader.map_or(NOBODY, |leader| leader.id);
        let nobody = self.id.is_none().then_some(NOBODY);
        let paces = nobody.into_iter().chain([leader]).filter_map(|id| self.paces.get(&id));
        paces.max_by_key(|pace| pace.turn())
    }

    /// One attempt to write `todo`, indices into `batches`; all of them get a result.
    fn attempt(
        &mut self,
        cluster: &mut Cluster,
        batches: &[Batch<'_>],
        todo: Vec<usize>,
        results: &mut [Result<i64>],
    ) {
        if self.lanes.values().flat_map(Map::values).any(|lane| lane.epoch == i16::MAX) {
            // There is no further epoch: begin as another producer.
            self.id = None;
            self.lanes = Map::default();
        }
        let mut by_leader: Map<Leader, Vec<usize>> = Map::default();
        let mut nobody = None;
        let mut asked: Vec<&str> = Vec::new();
        for index in todo {
            let batch = &batches[index];
            let Batch { topic, partition, .. } = *batch;
            let unknown = cluster.known_leader(topic, partition).is_none();
            // Once for all of its batches; and what was asked in vain just now isn't asked for the next topic.
            if (unknown || cluster.is_moved(topic)) && nobody.is_none() && !asked.contains(&topic) {
                asked.push(topic);
                nobody = cluster.load(topic).err();
            }
            // If the cluster doesn't say, the one that led it may still do.
            let leader = cluster.known_leader(topic, partition);
            let leader = leader.ok_or_else(|| match &nobody {
                Some(err) => err.clone(),
                None => no_leader(topic, partition),
            });
            // It may have moved to one that is to be left alone.
            let leader = leader.and_then(|leader| match self.paces.get(&leader.id) {
                Some(pace) if pace.is_waiting() => Err(reason(pace)),
                _ => Ok(leader),
            });
            let prepared = leader.and_then(|leader| {
                let id = self.id(cluster).inspect_err(|err| nobody = Some(err.clone()))?;
                self.prepare(id, batch, cluster.config.compression)?;
                Ok(leader)
            });
            match prepared {
                Ok(leader) => by_leader.or_default(leader).push(index),
                Err(err) => results[index].worsen(err),
            }
        }
        match nobody {
            Some(err) => self.paces.or_default(NOBODY).failed(&err),
            None => self.paces.or_default(NOBODY).succeeded(),
        }
        let deadline = Instant::now() + cluster.config.timeout;
        let mut waiting: Vec<(Leader, Vec<usize>)> = Vec::new();
        for (leader, sent) in by_leader.0 {
            let request = self.request(cluster, batches, &sent);
            let outcome = cluster
                .connection(&leader.host)
                .and_then(|connection| connection.send(&request, deadline));
            match outcome {
                Ok(()) => waiting.push((leader, sent)),
                // The broker hasn't got it whole.
                Err(fault) => {
                    self.fault(cluster, batches, &leader, &sent, ErrorKind::Retry, &fault, results);
                }
            }
        }
        while !waiting.is_empty() {
            let hosts: Vec<String> = waiting.iter().map(|(it, _)| it.host.clone()).collect();
            let stop = cluster.limits.stop.clone();
            let ready = wait_for_any(cluster.connected(&hosts), deadline, stop.as_ref());
            let over = !ready.unwrap_or(false);
            let mut still = Vec::new();
            for (leader, sent) in waiting {
                let reply =
                    cluster.connection(&leader.host).and_then(|connection| {
                        match connection.try_receive::<Produce<'_>>() {
                            Ok(None) if over => Err(connection.timed_out()),
                            reply => reply,
                        }
                    });
                match reply {
                    Ok(None) => still.push((leader, sent)),
                    Ok(Some(Arrived { reply, .. })) => {
                        cluster.answered(&leader.host);
                        self.settle(cluster, batches, &leader, &sent, &reply, results);
                    }
                    Err(fault) => {
                        let kind = ErrorKind::Unknown;
                        self.fault(cluster, batches, &leader, &sent, kind, &fault, results);
                    }
                }
            }
            waiting = still;
        }
    }

    /// The producer's id, from the cluster if there is none yet.
    fn id(&mut self, cluster: &mut Cluster) -> Result<i64> {
        if let Some(id) = self.id {
            return Ok(id);
        }
        let what = "get an id as producer";
        let (host, reply) = cluster.ask_any(what, &InitProducerId)?;
        // A broker gets ids from the controller, a thousand at a time, and waits half a minute for one that hangs: others have some left.
        check(reply.code, format_args!("{what} at {host}"))
            .inspect_err(|_| cluster.ask_another())?;
        self.id = Some(reply.producer);
        Ok(reply.producer)
    }

    /// Makes the bytes of a batch: as they were sent before, if these are the same records.
    fn prepare(&mut self, id: i64, batch: &Batch<'_>, compression: Compression) -> Result<()> {
        let lane = self.lanes.or_default(batch.topic.to_owned()).or_default(batch.partition);
        let records = record_batch::encode_records(&batch.records);
        if records.len() > BATCH_BYTES_MAX || batch.records.is_empty() {
            let text = format!(
                "a batch of {} records and {} bytes can't be written: 1 record to {BATCH_BYTES_MAX} bytes",
                batch.records.len(),
                records.len()
            );
            return Err(Error { kind: ErrorKind::Message, code: 10, text });
        }
        if let Some(pending) = &lane.pending {
            if pending.records == records {
                return Ok(());
            }
            // Its place in the sequence is perhaps taken, so another batch can't have it.
            lane.renew(batch, "another batch follows one that is perhaps written");
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now_ms = now.map_or(0, |now| i64::try_from(now.as_millis()).unwrap_or(0));
        let stamp = Stamp { producer: id, epoch: lane.epoch, sequence: lane.sequence };
        let count = batch.records.len();
        let batch = record_batch::encode(&records, count, now_ms, stamp, compression)
            .map_err(|text| Error { kind: ErrorKind::Config, code: 0, text })?;
        lane.pending = Some(Pending { records, batch });
        Ok(())
    }

    fn request<'a>(
        &'a self,
        cluster: &Cluster,
        batches: &[Batch<'a>],
        sent: &[usize],
    ) -> Produce<'a> {
        let mut topics: Map<&str, Vec<(i32, &[u8])>> = Map::default();
        for index in sent {
            let Batch { topic, partition, .. } = batches[*index];
            let lane = self.lanes.get(topic).and_then(|lanes| lanes.get(&partition));
            if let Some(pending) = lane.and_then(|lane| lane.pending.as_ref()) {
                topics.or_default(topic).push((partition, &pending.batch));
            }
        }
        let ack_timeout = ACK_TIMEOUT.min(cluster.config.timeout / 2);
        Produce { timeout_ms: ack_timeout.as_millis() as i32, topics }
    }

    /// The leader's broker failed as a whole.
    #[allow(clippy::too_many_arguments, reason = "what is known of one request")]
    fn fault(
        &mut self,
        cluster: &mut Cluster,
        batches: &[Batch<'_>],
        leader: &Leader,
        sent: &[usize],
        kind: ErrorKind,
        fault: &ConnectionError,
        results: &mut [Result<i64>],
    ) {
        cluster.failed(&leader.host);
        for index in sent {
            let Batch { topic, partition, .. } = &batches[*index];
            cluster.forget(topic);
            let what = format!("produce {topic}/{partition} at {}", leader.host);
            results[*index].worsen(explain(&what, kind, fault));
        }
        let err = explain("produce", kind, fault);
        self.paces.or_default(leader.id).failed(&err);
    }

    /// The leader has answered.
    fn settle(
        &mut self,
        cluster: &mut Cluster,
        batches: &[Batch<'_>],
        leader: &Leader,
        sent: &[usize],
        reply: &Produced,
        results: &mut [Result<i64>],
    ) {
        let mut failure = None;
        for index in sent {
            let batch = &batches[*index];
            let Batch { topic, partition, records } = batch;
            let what = || format!("produce {topic}/{partition} at {}", leader.host);
            let answers = reply.topics.iter().filter(|(name, _)| name == topic);
            let mut answers = answers.flat_map(|(_, partitions)| partitions);
            let Some(answer) = answers.find(|it| it.partition == *partition) else {
                let text = format!("{}: no answer for this partition", what());
                results[*index].worsen(Error { kind: ErrorKind::Unknown, code: 0, text });
                continue;
            };
            let lanes = self.lanes.get_mut(*topic);
            let Some(lane) = lanes.and_then(|lanes| lanes.get_mut(partition)) else { continue };
            let code = answer.code;
            if matches!(code, 0 | codes::DUPLICATE_SEQUENCE_NUMBER) {
                lane.written(records.len());
                results[*index] = Ok(if code == 0 { answer.base_offset } else { -1 });
                continue;
            }
            let kind = kind_of(Api::Produce, code);
            match code {
                codes::OUT_OF_ORDER_SEQUENCE_NUMBER
                | codes::UNKNOWN_PRODUCER_ID
                | codes::INVALID_PRODUCER_EPOCH
                | codes::INVALID_PRODUCER_ID_MAPPING
                | codes::PRODUCER_FENCED => {
                    lane.renew(
                        batch,
                        "the broker has lost what was written before, or what it knew of it",
                    );
                }
                // Refused for what it is: its place in the sequence is free.
                _ if kind == ErrorKind::Message => lane.pending = None,
                _ => cluster.forget(topic),
            }
            let text = format!("{}: {} {}", what(), codes::Name(code), answer.message);
            let text = text.trim_end().to_owned();
            let err = Error { kind, code, text };
            if err.is_retryable() {
                failure = Some(err.clone());
            }
            results[*index].worsen(err);
        }
        let pace = self.paces.or_default(leader.id);
        match failure {
            Some(err) => pace.failed(&err),
            None => pace.succeeded(),
        }
        if let Some(until) = cluster.pause_until(&leader.host) {
            pace.hold_until(until);
        }
    }
}

/// Why a leader is left alone.
fn reason(pace: &Backoff) -> Error {
    let quota = || retry(0, "the broker's quota allows nothing for now".to_owned());
    pace.last().cloned().unwrap_or_else(quota)
}

impl PartitionSequence {
    fn written(&mut self, records: usize) {
        // After the largest comes 0.
        let next = (i64::from(self.sequence) + records as i64) % (i64::from(i32::MAX) + 1);
        self.sequence = next as i32;
        self.pending = None;
    }

    /// Starts a new sequence in a new epoch, as Java's client does: the broker compares nothing with the old one.
    fn renew(&mut self, batch: &Batch<'_>, why: &str) {
        let Batch { topic, partition, .. } = batch;
        let (epoch, sequence) = (self.epoch, self.sequence);
        log::error!(topic, partition, epoch, sequence, why; "a new epoch begins; a batch in doubt may come twice");
        self.epoch = self.epoch.saturating_add(1);
        self.sequence = 0;
        self.pending = None;
    }
}
