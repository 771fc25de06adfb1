//! The synchronous producer, for callers that already have a batch. It has no thread and no queue.

use super::config::ProducerConfig;
use super::metrics::{self, BATCH_SIZE, BATCHES, BYTES, ERRORS, RECORDS, REQUEST_SECONDS, RETRIES};
use super::outgoing::Outgoing;
use crate::client::KafkaClient;
use crate::{connect, partitioner};
use bank::limits::PRODUCED_REQUEST_BYTES_MAX;
use bank::topology::DEAD_LETTER;
use kafka_client::{Batch, Error, ErrorKind, NewRecord};
use service::shutdown::Shutdown;
use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Time limit of each call to the client. After at most this time a shutdown request is noticed.
const CALL_SLICE: Duration = Duration::from_millis(200);
/// Time for retries after a shutdown request.
const SHUTDOWN_GRACE: Duration = Duration::from_millis(500);
/// Time for which a topic's number of partitions is cached. The number may grow.
const PARTITIONS_MAX_AGE: Duration = Duration::from_secs(5 * 60);

/// The synchronous producer: writes records and waits for acks=all.
pub struct Sender {
    client: Box<dyn KafkaClient>,
    batch_records: usize,
    batch_bytes: usize,
    shutdown: Shutdown,
    /// Set when the [`super::Producer`] that owns this sender is dropped.
    pub(super) closing: Arc<AtomicBool>,
    give_up_at: Option<Instant>,
    /// The error after which retries ended. No record is written after it, since the partition
    /// would have a gap.
    final_error: Option<Error>,
    /// Number of partitions by topic, and the time of its request.
    partitions: HashMap<&'static str, (i32, Instant)>,
}

impl Sender {
    /// Returns a sender. No I/O happens before the first batch.
    pub fn new(config: &ProducerConfig, shutdown: &Shutdown) -> Self {
        Self::with_client(connect::connect_until(&config.kafka, shutdown), config, shutdown)
    }

    pub(super) fn with_client(
        client: Box<dyn KafkaClient>,
        config: &ProducerConfig,
        shutdown: &Shutdown,
    ) -> Self {
        metrics::register();
        Self {
            client,
            batch_records: config.request_records(),
            batch_bytes: config.batch_bytes,
            shutdown: shutdown.clone(),
            closing: Arc::default(),
            give_up_at: None,
            final_error: None,
            partitions: HashMap::new(),
        }
    }

    /// Writes all records, in order within each partition. Returns one result for each record, in
    /// order.
    ///
    /// Retries with backoff until shutdown is requested. After that it returns within a second.
    pub fn send_all(&mut self, records: &[Outgoing]) -> Vec<Result<(), Error>> {
        let mut results = Vec::with_capacity(records.len());
        let mut rest = records;
        while !rest.is_empty() && self.final_error.is_none() {
            let (request, later) = rest.split_at(self.request_len(rest));
            let mut written = self.send(request);
            for (result, record) in written.iter_mut().zip(request) {
                self.cut_dead_letter(record, result);
            }
            results.extend(written);
            rest = later;
        }
        if let Some(err) = &self.final_error {
            ERRORS.with_label_values(&[ErrorKind::Retry.name()]).inc_by(rest.len() as u64);
            let err = Error { kind: ErrorKind::Retry, ..err.clone() };
            results.resize(records.len(), Err(err));
        }
        results
    }

    /// Writes a dead letter that is too large for its topic again, each time with half the value.
    /// The limit of the topic may be lower than [`bank::topology::record_bytes_max`].
    fn cut_dead_letter(&mut self, record: &Outgoing, result: &mut Result<(), Error>) {
        let mut bytes = record.value.len();
        while record.topic == DEAD_LETTER.name
            && bytes > 0
            && matches!(result, Err(err) if err.kind == ErrorKind::Message)
        {
            bytes /= 2;
            let written = self.send(&[record.cut(bytes)]).pop();
            *result = written.expect("`send` returns a result for each record");
        }
    }

    /// Number of records in the next request, at least one.
    fn request_len(&self, records: &[Outgoing]) -> usize {
        let mut bytes = 0;
        let fits = |record: &&Outgoing| {
            bytes += record.bytes();
            bytes <= PRODUCED_REQUEST_BYTES_MAX
        };
        records.iter().take(self.batch_records).take_while(fits).count().max(1)
    }

    fn send(&mut self, records: &[Outgoing]) -> Vec<Result<(), Error>> {
        let mut results: Vec<Result<(), Error>> = Vec::with_capacity(records.len());
        let mut queues: Vec<PartitionQueue> = Vec::new();
        let mut queue_of: HashMap<(&str, i32), usize> = HashMap::new();
        let mut counts: HashMap<&str, Result<i32, Error>> = HashMap::new();
        for (i, record) in records.iter().enumerate() {
            let topic = record.topic;
            let count = counts.entry(topic).or_insert_with(|| self.partitions_of(topic));
            results.push(record.check_size().and_then(|()| {
                let partition = partitioner::partition(record.key.as_bytes(), count.clone()?);
                let queue = *queue_of.entry((topic, partition)).or_insert_with(|| {
                    queues.push(PartitionQueue::new(topic, partition));
                    queues.len() - 1
                });
                queues[queue].push(i, record.bytes(), self.batch_bytes);
                Ok(())
            }));
        }
        for err in results.iter().filter_map(|result| result.as_ref().err()) {
            ERRORS.with_label_values(&[err.kind.name()]).inc();
        }
        while self.send_queues(records, &mut queues, &mut results) {
            RETRIES.inc();
        }
        results
    }

    /// Sends the first batch of each queue until all batches are written, or until one must be
    /// retried. Returns true in the latter case.
    fn send_queues(
        &mut self,
        records: &[Outgoing],
        queues: &mut Vec<PartitionQueue>,
        results: &mut [Result<(), Error>],
    ) -> bool {
        let mut retry = false;
        while !queues.is_empty() && !retry {
            let batches: Vec<Batch<'_>> = queues.iter().map(|it| it.first_batch(records)).collect();
            let started = Instant::now();
            let within = self.call_slice();
            let produced = self.client.produce(&batches, within);
            REQUEST_SECONDS.observe(started.elapsed().as_secs_f64());
            let gives_up = self.gives_up();
            for (queue, result) in queues.iter_mut().zip(produced) {
                let Err(err) = result else {
                    queue.written(records);
                    continue;
                };
                match err.kind {
                    ErrorKind::Retry | ErrorKind::Unknown if !gives_up => {
                        queue.unknown |= err.kind == ErrorKind::Unknown;
                        retry = true;
                    }
                    ErrorKind::Retry | ErrorKind::Unknown => {
                        self.final_error = Some(err.clone());
                        queue.fail_all(err, results);
                    }
                    ErrorKind::Message => queue.split_rejected(err, results),
                    ErrorKind::Config
                    | ErrorKind::Position
                    | ErrorKind::Undecodable
                    | ErrorKind::Fenced => queue.fail_all(err, results),
                }
            }
            queues.retain(|queue| !queue.batches.is_empty());
        }
        retry
    }

    /// The topic's number of partitions, at most 5 minutes old.
    fn partitions_of(&mut self, topic: &'static str) -> Result<i32, Error> {
        let known = self.partitions.get(topic).copied();
        if let Some((count, requested_at)) = known
            && requested_at.elapsed() < PARTITIONS_MAX_AGE
        {
            return Ok(count);
        }
        loop {
            let within = self.call_slice();
            // A partition without a leader counts: the keys of the others must not move.
            let count = match (self.client.describe_topic(topic, within), known) {
                (Ok(found), _) => i32::try_from(found.leaders.len())
                    .expect("a topic has fewer than 2^31 partitions"),
                (Err(_), Some((count, _))) => count,
                (Err(err), None) if err.is_retryable() && !self.gives_up() => {
                    RETRIES.inc();
                    continue;
                }
                (Err(err), None) => return Err(err),
            };
            self.partitions.insert(topic, (count, Instant::now()));
            return Ok(count);
        }
    }

    fn call_slice(&mut self) -> Duration {
        if self.gives_up() { Duration::ZERO } else { CALL_SLICE }
    }

    /// True once failed batches are no longer retried, [`SHUTDOWN_GRACE`] after a shutdown request.
    fn gives_up(&mut self) -> bool {
        if self.shutdown.requested() || self.closing.load(Ordering::Relaxed) {
            let now = Instant::now();
            *self.give_up_at.get_or_insert(now + SHUTDOWN_GRACE) <= now
        } else {
            false
        }
    }
}

/// The batches of one partition, written one after the other.
struct PartitionQueue {
    topic: &'static str,
    partition: i32,
    /// Indexes of the records of each batch.
    batches: VecDeque<Vec<usize>>,
    /// Size of the last batch, bytes.
    bytes: usize,
    /// True if an attempt may have written the first batch.
    unknown: bool,
}

impl PartitionQueue {
    fn new(topic: &'static str, partition: i32) -> Self {
        Self { topic, partition, batches: VecDeque::new(), bytes: 0, unknown: false }
    }

    fn push(&mut self, record: usize, bytes: usize, bytes_max: usize) {
        match self.batches.back_mut().filter(|_| self.bytes + bytes <= bytes_max) {
            Some(batch) => {
                batch.push(record);
                self.bytes += bytes;
            }
            None => {
                self.batches.push_back(vec![record]);
                self.bytes = bytes;
            }
        }
    }

    fn first_batch<'a>(&self, records: &'a [Outgoing]) -> Batch<'a> {
        let new_record = |&i: &usize| {
            let Outgoing { key, value, .. } = &records[i];
            NewRecord { key: Some(key.as_bytes()), value: Some(value), headers: &[] }
        };
        let first = self.batches.front().map_or(&[][..], Vec::as_slice);
        let records = first.iter().map(new_record).collect();
        Batch { topic: self.topic, partition: self.partition, records }
    }

    fn written(&mut self, records: &[Outgoing]) {
        let batch = self.batches.pop_front().unwrap_or_default();
        let bytes: usize = batch.iter().map(|&i| records[i].bytes()).sum();
        RECORDS.with_label_values(&[self.topic]).inc_by(batch.len() as u64);
        BYTES.with_label_values(&[self.topic]).inc_by(bytes as u64);
        BATCHES.with_label_values(&[self.topic]).inc();
        BATCH_SIZE.observe(batch.len() as f64);
        self.unknown = false;
    }

    /// Splits the first batch, which the broker rejected. Either the batch is too large, or the
    /// halves isolate the rejected record.
    fn split_rejected(&mut self, err: Error, results: &mut [Result<(), Error>]) {
        let mut batch = self.batches.pop_front().unwrap_or_default();
        if batch.len() > 1 {
            let second_half = batch.split_off(batch.len() / 2);
            self.batches.push_front(second_half);
            self.batches.push_front(batch);
        } else {
            self.unknown = false;
            self.fail(&batch, &err, results);
        }
    }

    /// Fails all batches of this partition.
    fn fail_all(&mut self, mut err: Error, results: &mut [Result<(), Error>]) {
        let mut batches = mem::take(&mut self.batches).into_iter();
        let first = batches.next().unwrap_or_default();
        if self.unknown && err.kind == ErrorKind::Retry {
            err.kind = ErrorKind::Unknown;
        }
        self.fail(&first, &err, results);
        if err.kind == ErrorKind::Unknown {
            err.kind = ErrorKind::Retry; // Later batches were not sent.
        }
        batches.for_each(|batch| self.fail(&batch, &err, results));
    }

    fn fail(&self, batch: &[usize], err: &Error, results: &mut [Result<(), Error>]) {
        let Self { topic, partition, .. } = self;
        let records = batch.len();
        log::error!(topic, partition, records, error:% = err; "could not write records");
        ERRORS.with_label_values(&[err.kind.name()]).inc_by(batch.len() as u64);
        for &i in batch {
            results[i] = Err(err.clone());
        }
    }
}
