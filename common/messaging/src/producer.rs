//! The batching producer.

use crate::client::KafkaClient;
use crate::config::KafkaConfig;
use crate::{connect, metrics, partitioner};
use bank::topology::{DEAD_LETTER, MESSAGE_BYTES_MAX};
use kafka_client::{Batch, Error, ErrorKind, NewRecord};
use prometheus::{Histogram, IntCounter, IntCounterVec};
use service::env::{self, Env, Variable};
use service::shutdown::Shutdown;
use std::collections::{HashMap, VecDeque};
use std::mem;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// `PRODUCER_MODE`: batched, or as the talk's handler did.
pub const PRODUCER_MODE: Variable = Variable::new(
    "PRODUCER_MODE",
    "batched",
    "batched, or single: each record by itself, as the talk's handler sent them",
);
/// `LINGER_MS`: longest wait for a fuller batch.
pub const LINGER_MS: Variable = Variable::new(
    "LINGER_MS",
    "0",
    "longest wait for a fuller batch, 0 to 1000 ms; 0 sends at once what has gathered",
);
/// Most records in a request of services.
const BATCH_RECORDS: usize = 2000;
/// `BATCH_BYTES`: bytes per batch.
pub const BATCH_BYTES: Variable =
    Variable::new("BATCH_BYTES", "900000", "most bytes in a partition's batch, 1000 to 4000000");

/// How records are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Each record by itself, waiting for its acknowledgement.
    Single,
    /// All records there are.
    Batched,
}

/// Settings of a producer.
#[derive(Debug, Clone)]
pub struct ProducerConfig {
    /// The cluster.
    pub kafka: KafkaConfig,
    /// `PRODUCER_MODE`.
    pub mode: Mode,
    /// `LINGER_MS`.
    pub linger: Duration,
    /// Most records in a request.
    pub batch_records: usize,
    /// `BATCH_BYTES`.
    pub batch_bytes: usize,
}

impl ProducerConfig {
    /// The variables this reads beside [`KafkaConfig::VARIABLES`].
    pub const VARIABLES: &'static [Variable] = &[PRODUCER_MODE, LINGER_MS, BATCH_BYTES];

    /// Reads and checks the environment.
    ///
    /// # Errors
    /// A variable is missing or does not fit.
    pub fn from_env(env: &Env<'_>) -> Result<Self, env::Error> {
        Ok(Self {
            kafka: KafkaConfig::from_env(env)?,
            mode: env
                .choice(&PRODUCER_MODE, &[("batched", Mode::Batched), ("single", Mode::Single)])?,
            linger: env.millis(&LINGER_MS, 0..=1000)?,
            batch_records: BATCH_RECORDS,
            batch_bytes: env.number(&BATCH_BYTES, 1000..=4_000_000)?,
        })
    }

    /// Records per request.
    fn request_records(&self) -> usize {
        match self.mode {
            Mode::Single => 1,
            Mode::Batched => self.batch_records,
        }
    }
}

/// A record on its way out. The key chooses the partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Topic name.
    pub topic: &'static str,
    /// Key, UTF-8.
    pub key: String,
    /// Value as it goes on the wire.
    pub value: Vec<u8>,
}

impl Outgoing {
    /// The value of a record of `topic` that is none, as it came, under a key that says where from and why. The reason is
    /// logged.
    pub fn dead_letter(
        topic: &str,
        partition: i32,
        offset: i64,
        value: Vec<u8>,
        reason: &str,
    ) -> Self {
        log::warn!(topic, partition, offset, reason; "record goes to dead_letter");
        let key = format!("{topic}/{partition}/{offset}: {reason}");
        Self { topic: DEAD_LETTER.name, key, value }
    }

    /// Its size in a request, bytes: key, value and the head of a message in protocol version 0.
    fn bytes(&self) -> usize {
        26 + self.key.len() + self.value.len()
    }

    fn check_size(&self) -> Result<(), Error> {
        let bytes = self.key.len() + self.value.len();
        if bytes <= RECORD_BYTES_MAX {
            return Ok(());
        }
        let topic = self.topic;
        let text =
            format!("a record of {bytes} bytes is too large for {topic}: {RECORD_BYTES_MAX} fit");
        Err(Error { kind: ErrorKind::Message, code: 10, text })
    }
}

/// Largest record, bytes: what the topics take, less the heads that the broker adds before it compares.
const RECORD_BYTES_MAX: usize = MESSAGE_BYTES_MAX as usize - 128;
/// Most bytes in a request; the crate holds about three times as much while it sends.
const REQUEST_BYTES_MAX: usize = 4 << 20;
/// Time for retries in each call to the client, which bounds how late the stop is noticed.
const SLICE: Duration = Duration::from_millis(200);
/// Time for retries once the stop was asked for.
const STOP_GRACE: Duration = Duration::from_millis(500);
/// A topic may grow: how long its number of partitions is taken for granted.
const PARTITIONS_AGE: Duration = Duration::from_secs(5 * 60);

/// Sends what its thread has gathered, and waits for acks=all. For loops that have a batch: no thread, no queue.
pub struct Sender {
    client: Box<dyn KafkaClient>,
    batch_records: usize,
    batch_bytes: usize,
    shutdown: Shutdown,
    /// Set when the producer that owns this sender is dropped.
    closing: Arc<AtomicBool>,
    give_up_at: Option<Instant>,
    /// Why it gave up. Nothing is written after that: the order within a partition would have a hole.
    gave_up: Option<Error>,
    partitions: HashMap<&'static str, (i32, Instant)>,
}

impl Sender {
    /// No I/O happens before the first batch.
    pub fn new(config: &ProducerConfig, shutdown: &Shutdown) -> Self {
        Self::on(connect::connect_until(&config.kafka, shutdown), config, shutdown)
    }

    fn on(client: Box<dyn KafkaClient>, config: &ProducerConfig, shutdown: &Shutdown) -> Self {
        Self {
            client,
            batch_records: config.request_records(),
            batch_bytes: config.batch_bytes,
            shutdown: shutdown.clone(),
            closing: Arc::default(),
            give_up_at: None,
            gave_up: None,
            partitions: HashMap::new(),
        }
    }

    /// Writes all records, keeping their order within each partition, and retries with backoff for as long as the service
    /// lives; after the stop was asked for it gives up within a second. One result for each record, in order.
    pub fn send_all(&mut self, records: &[Outgoing]) -> Vec<Result<(), Error>> {
        let mut results = Vec::with_capacity(records.len());
        let mut rest = records;
        while !rest.is_empty() && self.gave_up.is_none() {
            let (request, later) = rest.split_at(self.request_len(rest));
            results.extend(self.send(request));
            rest = later;
        }
        if let Some(err) = &self.gave_up {
            ERRORS.with_label_values(&[ErrorKind::Retry.name()]).inc_by(rest.len() as u64);
            let err = Error { kind: ErrorKind::Retry, ..err.clone() };
            results.resize(records.len(), Err(err));
        }
        results
    }

    /// How many of `records` go into the next request, one at least.
    fn request_len(&self, records: &[Outgoing]) -> usize {
        let mut bytes = 0;
        let fits = |record: &&Outgoing| {
            bytes += record.bytes();
            bytes <= REQUEST_BYTES_MAX
        };
        records.iter().take(self.batch_records).take_while(fits).count().max(1)
    }

    fn send(&mut self, records: &[Outgoing]) -> Vec<Result<(), Error>> {
        let mut results: Vec<Result<(), Error>> = Vec::with_capacity(records.len());
        let mut lanes: Vec<Lane> = Vec::new();
        let mut lane_of: HashMap<(&str, i32), usize> = HashMap::new();
        let mut counts: HashMap<&str, Result<i32, Error>> = HashMap::new();
        for (i, record) in records.iter().enumerate() {
            let topic = record.topic;
            let count = counts.entry(topic).or_insert_with(|| self.partitions_of(topic));
            results.push(record.check_size().and_then(|()| {
                let partition = partitioner::partition(record.key.as_bytes(), count.clone()?);
                let lane = *lane_of.entry((topic, partition)).or_insert_with(|| {
                    lanes.push(Lane::new(topic, partition));
                    lanes.len() - 1
                });
                lanes[lane].push(i, record.bytes(), self.batch_bytes);
                Ok(())
            }));
        }
        for err in results.iter().filter_map(|result| result.as_ref().err()) {
            ERRORS.with_label_values(&[err.kind.name()]).inc();
        }
        while self.send_heads(records, &mut lanes, &mut results) {
            RETRIES.inc();
        }
        results
    }

    /// Sends the first batch of each lane until all are through, or one fails: true then.
    fn send_heads(
        &mut self,
        records: &[Outgoing],
        lanes: &mut Vec<Lane>,
        results: &mut [Result<(), Error>],
    ) -> bool {
        let mut failed = false;
        while !lanes.is_empty() && !failed {
            let batches: Vec<Batch<'_>> = lanes.iter().map(|lane| lane.batch(records)).collect();
            let started = Instant::now();
            let within = self.slice();
            let outcomes = self.client.produce(&batches, within);
            REQUEST_SECONDS.observe(started.elapsed().as_secs_f64());
            let give_up = self.gives_up();
            for (lane, outcome) in lanes.iter_mut().zip(outcomes) {
                match outcome {
                    Ok(_) => lane.written(records),
                    Err(err) if err.is_retryable() && !give_up => {
                        lane.unknown |= err.kind == ErrorKind::Unknown;
                        failed = true;
                    }
                    Err(err) if err.kind == ErrorKind::Message => lane.refused(err, results),
                    Err(err) => {
                        if err.is_retryable() {
                            self.gave_up = Some(err.clone());
                        }
                        lane.given_up(err, results);
                    }
                }
            }
            lanes.retain(|lane| !lane.batches.is_empty());
        }
        failed
    }

    /// Partitions of the topic, asked anew every few minutes.
    fn partitions_of(&mut self, topic: &'static str) -> Result<i32, Error> {
        let known = self.partitions.get(topic).copied();
        if let Some((count, asked)) = known
            && asked.elapsed() < PARTITIONS_AGE
        {
            return Ok(count);
        }
        loop {
            let within = self.slice();
            match self.client.leaders(topic, within) {
                Ok(leaders) => {
                    let count = i32::try_from(leaders.len())
                        .expect("a topic has fewer than 2^31 partitions");
                    self.partitions.insert(topic, (count, Instant::now()));
                    return Ok(count);
                }
                Err(err) => match known {
                    Some((count, _)) => {
                        self.partitions.insert(topic, (count, Instant::now()));
                        return Ok(count);
                    }
                    None if err.is_retryable() && !self.gives_up() => RETRIES.inc(),
                    None => return Err(err),
                },
            }
        }
    }

    /// Time for retries in the next call.
    fn slice(&mut self) -> Duration {
        if self.gives_up() { Duration::ZERO } else { SLICE }
    }

    /// True once what fails is not tried again: some time after the stop was asked for.
    fn gives_up(&mut self) -> bool {
        if self.shutdown.requested() || self.closing.load(Ordering::Relaxed) {
            let now = Instant::now();
            *self.give_up_at.get_or_insert(now + STOP_GRACE) <= now
        } else {
            false
        }
    }
}

/// The batches of one partition, written one after the other.
struct Lane {
    topic: &'static str,
    partition: i32,
    /// Indices of the records of each batch.
    batches: VecDeque<Vec<usize>>,
    /// Bytes of the last batch.
    bytes: usize,
    /// The first batch is perhaps written.
    unknown: bool,
}

impl Lane {
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

    fn head(&self) -> &[usize] {
        self.batches.front().map_or(&[], Vec::as_slice)
    }

    fn batch<'a>(&self, records: &'a [Outgoing]) -> Batch<'a> {
        let out = |&i: &usize| {
            let Outgoing { key, value, .. } = &records[i];
            NewRecord { key: Some(key.as_bytes()), value: Some(value), headers: &[] }
        };
        let records = self.head().iter().map(out).collect();
        Batch { topic: self.topic, partition: self.partition, records }
    }

    fn written(&mut self, records: &[Outgoing]) {
        let head = self.batches.pop_front().unwrap_or_default();
        let bytes: usize = head.iter().map(|&i| records[i].bytes()).sum();
        RECORDS.with_label_values(&[self.topic]).inc_by(head.len() as u64);
        BYTES.with_label_values(&[self.topic]).inc_by(bytes as u64);
        BATCHES.with_label_values(&[self.topic]).inc();
        BATCH_SIZE.observe(head.len() as f64);
        self.unknown = false;
    }

    /// The broker doesn't take the first batch: its halves show which record spoils it, or that it was too large as a whole.
    fn refused(&mut self, err: Error, results: &mut [Result<(), Error>]) {
        let mut head = self.batches.pop_front().unwrap_or_default();
        if head.len() > 1 {
            let rest = head.split_off(head.len() / 2);
            self.batches.push_front(rest);
            self.batches.push_front(head);
        } else {
            self.unknown = false;
            self.fail(&head, &err, results);
        }
    }

    /// Nothing more is written in this lane.
    fn given_up(&mut self, mut err: Error, results: &mut [Result<(), Error>]) {
        let mut batches = mem::take(&mut self.batches).into_iter();
        let head = batches.next().unwrap_or_default();
        if self.unknown && err.kind == ErrorKind::Retry {
            err.kind = ErrorKind::Unknown;
        }
        self.fail(&head, &err, results);
        if err.kind == ErrorKind::Unknown {
            err.kind = ErrorKind::Retry; // The later ones were not tried.
        }
        batches.for_each(|batch| self.fail(&batch, &err, results));
    }

    fn fail(&self, batch: &[usize], err: &Error, results: &mut [Result<(), Error>]) {
        let Self { topic, partition, .. } = self;
        log::error!(topic, partition, records = batch.len(), err:%; "records not written");
        ERRORS.with_label_values(&[err.kind.name()]).inc_by(batch.len() as u64);
        for &i in batch {
            results[i] = Err(err.clone());
        }
    }
}

/// Most bytes that wait in a producer and are on their way; a larger record passes alone.
const QUEUE_BYTES: usize = 8 << 20;
/// How many batches fit into the queue: one on its way, the others gathering.
const QUEUE_BATCHES: usize = 4;

/// The batching producer: many threads hand over records, one sends. While a request is in flight the next batch gathers.
/// Dropping it flushes.
pub struct Producer {
    queue: Arc<Queue>,
    closing: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// The promise of a result for one record, or for all that were handed over together.
#[must_use = "a record may be refused"]
pub struct Delivery {
    first: Part,
    more: Vec<Part>,
}

impl Producer {
    /// Starts the thread that sends.
    pub fn start(config: ProducerConfig, shutdown: &Shutdown) -> Self {
        Self::on(Sender::new(&config, shutdown), &config)
    }

    fn on(mut sender: Sender, config: &ProducerConfig) -> Self {
        let closing = sender.closing.clone();
        let queue = Arc::new(Queue::new(config));
        let taken_from = queue.clone();
        let run = move || {
            while let Some(batch) = taken_from.take() {
                let results = sender.send_all(&batch.records);
                taken_from.done(&batch);
                batch.outcome.set(results);
            }
        };
        let thread = thread::Builder::new().name("producer".into()).spawn(run);
        Self { queue, closing, thread: Some(thread.expect("the system has threads at the start")) }
    }

    /// Hands over a record; blocks while the queue is full.
    pub fn send(&self, record: Outgoing) -> Delivery {
        Delivery { first: self.queue.put(record), more: Vec::new() }
    }

    /// Hands over records, kept in order; blocks while the queue is full.
    pub fn send_all(&self, records: Vec<Outgoing>) -> Delivery {
        let mut delivery = Delivery { first: Part::settled(), more: Vec::new() };
        for record in records {
            let part = self.queue.put(record);
            let last = delivery.more.last_mut().unwrap_or(&mut delivery.first);
            if Arc::ptr_eq(&last.outcome, &part.outcome) {
                last.records.end = part.records.end;
            } else {
                delivery.more.push(part);
            }
        }
        delivery
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        self.queue.close();
        if let Some(thread) = self.thread.take() {
            // An error is a panic of that thread, which ends a service by its hook.
            let _ = thread.join();
        }
    }
}

impl Delivery {
    /// Waits until the record is written, or can't be; of several records, until that is known of all.
    ///
    /// # Errors
    /// What the cluster said; of several records, of the first that was not written.
    pub fn wait(self) -> Result<(), Error> {
        let mut result = self.first.wait();
        for part in self.more {
            result = result.and(part.wait());
        }
        result
    }
}

/// Some records of a batch.
struct Part {
    outcome: Arc<BatchOutcome>,
    records: Range<usize>,
}

impl Part {
    fn settled() -> Self {
        let outcome = BatchOutcome::default();
        outcome.set(Vec::new());
        Self { outcome: Arc::new(outcome), records: 0..0 }
    }

    fn wait(self) -> Result<(), Error> {
        let mut failures = self.outcome.failures.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(failures) = &*failures {
                let mine = failures.iter().find(|(record, _)| self.records.contains(record));
                return mine.map_or(Ok(()), |(_, err)| Err(err.clone()));
            }
            failures = self.outcome.settled.wait(failures).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// What became of a batch: one for all of its records, so that a record's [`Delivery`] costs no allocation.
#[derive(Default)]
struct BatchOutcome {
    /// Records that were not written; `None` until that is known.
    failures: Mutex<Option<Vec<(usize, Error)>>>,
    settled: Condvar,
}

impl BatchOutcome {
    fn set(&self, results: Vec<Result<(), Error>>) {
        let failures = results.into_iter().enumerate().filter_map(|(i, it)| Some((i, it.err()?)));
        let failures = failures.collect();
        *self.failures.lock().unwrap_or_else(PoisonError::into_inner) = Some(failures);
        self.settled.notify_all();
    }
}

/// Records between the threads that hand over and the one that sends.
struct Queue {
    state: Mutex<State>,
    /// The sending thread waits here.
    filled: Condvar,
    /// Threads that hand over wait here.
    drained: Condvar,
    linger: Duration,
    batch_records: usize,
}

#[derive(Default)]
struct State {
    full: VecDeque<Gathered>,
    open: Gathered,
    /// Waiting or on their way.
    records: usize,
    bytes: usize,
    closed: bool,
}

#[derive(Default)]
struct Gathered {
    records: Vec<Outgoing>,
    bytes: usize,
    first_at: Option<Instant>,
    outcome: Arc<BatchOutcome>,
}

impl Queue {
    fn new(config: &ProducerConfig) -> Self {
        Self {
            state: Mutex::default(),
            filled: Condvar::new(),
            drained: Condvar::new(),
            linger: config.linger,
            batch_records: config.request_records(),
        }
    }

    fn put(&self, record: Outgoing) -> Part {
        let bytes = record.bytes();
        let mut state = self.state();
        while state.records > 0
            && (state.records >= QUEUE_BATCHES * self.batch_records
                || state.bytes + bytes > QUEUE_BYTES)
        {
            state = self.drained.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.records += 1;
        state.bytes += bytes;
        let open = &mut state.open;
        open.bytes += bytes;
        open.records.push(record);
        let part = Part {
            outcome: open.outcome.clone(),
            records: open.records.len() - 1..open.records.len(),
        };
        if open.first_at.is_none() {
            open.first_at = Some(Instant::now());
            self.filled.notify_one();
        }
        if open.records.len() >= self.batch_records || open.bytes >= REQUEST_BYTES_MAX / 2 {
            let full = mem::take(open);
            state.full.push_back(full);
            self.filled.notify_one();
        }
        part
    }

    /// The next batch: a full one at once, another when it has gathered for `linger`. `None` when the queue is closed and empty.
    fn take(&self) -> Option<Gathered> {
        let mut state = self.state();
        loop {
            if let Some(batch) = state.full.pop_front() {
                return Some(batch);
            }
            state = match state.open.first_at {
                Some(first_at) => {
                    let left = self.linger.saturating_sub(first_at.elapsed());
                    if left.is_zero() || state.closed {
                        return Some(mem::take(&mut state.open));
                    }
                    self.filled.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
                None if state.closed => return None,
                None => self.filled.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Makes room.
    fn done(&self, batch: &Gathered) {
        let mut state = self.state();
        state.records -= batch.records.len();
        state.bytes -= batch.bytes;
        self.drained.notify_all();
    }

    fn close(&self) {
        self.state().closed = true;
        self.filled.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

static RECORDS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    metrics::counters("kafka_producer_records_total", "Records written", &["topic"])
});
static BYTES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    metrics::counters("kafka_producer_bytes_total", "Bytes of records written", &["topic"])
});
static BATCHES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    metrics::counters(
        "kafka_producer_batches_total",
        "Batches of one partition written",
        &["topic"],
    )
});
static BATCH_SIZE: LazyLock<Histogram> = LazyLock::new(|| {
    let buckets = [1., 2., 5., 10., 20., 50., 100., 200., 500., 1000., 2000., 5000., 10_000.];
    metrics::histogram(
        "kafka_producer_batch_records",
        "Records per batch of one partition",
        &buckets,
    )
});
static REQUEST_SECONDS: LazyLock<Histogram> = LazyLock::new(|| {
    let buckets = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1., 2., 5., 10.];
    metrics::histogram(
        "kafka_producer_request_seconds",
        "Time until a request is acknowledged or fails",
        &buckets,
    )
});
static ERRORS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    metrics::counters(
        "kafka_producer_errors_total",
        "Records not written, by what that means",
        &["kind"],
    )
});
static RETRIES: LazyLock<IntCounter> = LazyLock::new(|| {
    metrics::counter(
        "kafka_producer_retries_total",
        "Requests that were sent again, in part or whole",
    )
});

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Fake, Verdict, error};
    use std::sync::mpsc;

    const PARTITIONS: i32 = 3;

    fn config() -> ProducerConfig {
        let lookup = |name: &str| (name == "KAFKA_BROKERS").then(|| "127.0.0.1:1".to_owned());
        ProducerConfig::from_env(&Env::new(&lookup)).unwrap()
    }

    fn sender(fake: &Fake, config: &ProducerConfig) -> (Sender, Shutdown) {
        let shutdown = Shutdown::default();
        (Sender::on(Box::new(fake.clone()), config, &shutdown), shutdown)
    }

    fn fake() -> Fake {
        Fake::new(&[1; PARTITIONS as usize])
    }

    fn record(key: impl ToString) -> Outgoing {
        Outgoing { topic: "t", key: key.to_string(), value: vec![0; 10] }
    }

    fn records(count: usize) -> Vec<Outgoing> {
        (0..count).map(record).collect()
    }

    /// Keys as they must lie in the logs.
    fn expected(records: &[Outgoing]) -> Vec<Vec<String>> {
        let mut logs = vec![Vec::new(); PARTITIONS as usize];
        for Outgoing { key, .. } in records {
            logs[partitioner::partition(key.as_bytes(), PARTITIONS) as usize].push(key.clone());
        }
        logs
    }

    fn logs(fake: &Fake) -> Vec<Vec<String>> {
        (0..PARTITIONS as usize).map(|partition| fake.keys(partition)).collect()
    }

    #[test]
    fn records_lie_in_the_partition_of_their_key_in_the_order_of_sending() {
        let (fake, records) = (fake(), records(1000));
        let (mut sender, _shutdown) = sender(&fake, &config());
        assert!(sender.send_all(&records).iter().all(Result::is_ok));
        assert_eq!(logs(&fake), expected(&records));
    }

    #[test]
    fn what_failed_is_sent_again_before_anything_later() {
        let (fake, records) = (fake(), records(1000));
        let mut calls = 0;
        fake.on_produce(move |batches| {
            calls += 1;
            let fails = |it: &Batch<'_>| calls % 3 > 0 && it.partition == 1;
            let verdict = |it| {
                if fails(it) {
                    Verdict::NotWritten(error(ErrorKind::Retry))
                } else {
                    Verdict::Written
                }
            };
            batches.iter().map(verdict).collect()
        });
        let config = ProducerConfig { batch_records: 100, ..config() };
        let (mut sender, _shutdown) = sender(&fake, &config);
        assert!(sender.send_all(&records).iter().all(Result::is_ok));
        assert_eq!(logs(&fake), expected(&records));
    }

    #[test]
    fn a_lost_answer_may_double_a_batch_but_reorders_and_loses_nothing() {
        let (fake, records) = (fake(), records(300));
        let mut calls = 0;
        fake.on_produce(move |batches| {
            calls += 1;
            let verdict = |_: &Batch<'_>| match calls {
                2 => Verdict::WrittenBut(error(ErrorKind::Unknown)),
                _ => Verdict::Written,
            };
            batches.iter().map(verdict).collect()
        });
        let config = ProducerConfig { batch_records: 100, ..config() };
        let (mut sender, _shutdown) = sender(&fake, &config);
        assert!(sender.send_all(&records).iter().all(Result::is_ok));
        for (log, expected) in logs(&fake).into_iter().zip(expected(&records)) {
            let mut seen = Vec::new();
            for key in &log {
                if !seen.contains(key) {
                    seen.push(key.clone());
                }
            }
            assert_eq!(seen, expected);
            assert!(log.len() > expected.len(), "the second batch is there twice");
        }
    }

    #[test]
    fn requests_and_batches_keep_their_limits() {
        let (fake, records) = (fake(), records(1000));
        let (requests, seen) = mpsc::channel();
        fake.on_produce(move |batches| {
            requests.send(batches.iter().map(|it| it.records.len()).collect::<Vec<_>>()).unwrap();
            batches.iter().map(|_| Verdict::Written).collect()
        });
        let batch_bytes = 10 * records[999].bytes();
        let config = ProducerConfig { batch_records: 200, batch_bytes, ..config() };
        let (mut sender, _shutdown) = sender(&fake, &config);
        assert!(sender.send_all(&records).iter().all(Result::is_ok));
        assert_eq!(logs(&fake), expected(&records));
        let requests: Vec<Vec<usize>> = seen.try_iter().collect();
        assert!(requests.iter().all(|request| request.iter().sum::<usize>() <= 200));
        assert!(requests.iter().flatten().all(|&batch| batch <= 10));
        assert!(requests.iter().flatten().any(|&batch| batch == 10));
    }

    #[test]
    fn a_single_record_goes_by_itself() {
        let (fake, records) = (fake(), records(20));
        fake.on_produce(|batches| {
            assert_eq!((batches.len(), batches[0].records.len()), (1, 1));
            vec![Verdict::Written]
        });
        let (mut sender, _shutdown) =
            sender(&fake, &ProducerConfig { mode: Mode::Single, ..config() });
        assert!(sender.send_all(&records).iter().all(Result::is_ok));
        assert_eq!(logs(&fake), expected(&records));
    }

    #[test]
    fn a_record_may_reach_the_size_limit_but_not_pass_it() {
        let fake = fake();
        let (mut sender, _shutdown) = sender(&fake, &config());
        let sized =
            |key: &str, bytes: usize| Outgoing { value: vec![0; bytes - key.len()], ..record(key) };
        let results = sender.send_all(&[
            record("a"),
            sized("b", RECORD_BYTES_MAX),
            sized("c", RECORD_BYTES_MAX + 1),
            record("d"),
        ]);
        let refused: Vec<bool> = results.iter().map(Result::is_err).collect();
        assert_eq!(refused, [false, false, true, false]);
        assert_eq!(results[2].as_ref().unwrap_err().kind, ErrorKind::Message);
        assert_eq!(logs(&fake).concat().len(), 3);
    }

    #[test]
    fn the_record_that_the_broker_refuses_is_found_and_the_others_are_written() {
        let (fake, mut records) = (fake(), records(64));
        records[21].key = "bad".into();
        fake.on_produce(|batches| {
            let bad = |it: &Batch<'_>| it.records.iter().any(|it| it.key == Some(b"bad"));
            let verdict = |it| {
                if bad(it) {
                    Verdict::NotWritten(error(ErrorKind::Message))
                } else {
                    Verdict::Written
                }
            };
            batches.iter().map(verdict).collect()
        });
        let (mut sender, _shutdown) = sender(&fake, &config());
        let results = sender.send_all(&records);
        for (i, result) in results.iter().enumerate() {
            assert_eq!(result.is_err(), i == 21, "{i}");
        }
        records.remove(21);
        assert_eq!(logs(&fake), expected(&records));
    }

    #[test]
    fn what_can_never_work_comes_back_at_once() {
        let fake = fake();
        fake.on_produce(|batches| {
            batches.iter().map(|_| Verdict::NotWritten(error(ErrorKind::Config))).collect()
        });
        let (mut sender, _shutdown) = sender(&fake, &config());
        let results = sender.send_all(&records(10));
        assert!(
            results.iter().all(|it| it.as_ref().is_err_and(|err| err.kind == ErrorKind::Config))
        );
    }

    #[test]
    fn after_the_stop_it_gives_up_soon_and_knows_what_is_perhaps_written() {
        let fake = fake();
        let mut calls = 0;
        fake.on_produce(move |batches| {
            calls += 1;
            thread::sleep(Duration::from_millis(10));
            let verdict = |it: &Batch<'_>| match it.partition {
                0 if calls == 1 => Verdict::WrittenBut(error(ErrorKind::Unknown)),
                1 => Verdict::Written,
                _ => Verdict::NotWritten(error(ErrorKind::Retry)),
            };
            batches.iter().map(verdict).collect()
        });
        let (mut sender, shutdown) = sender(&fake, &config());
        let records = records(30);
        let asked = thread::spawn(move || {
            thread::sleep(Duration::from_millis(200));
            shutdown.request();
            Instant::now()
        });
        let results = sender.send_all(&records);
        assert!(asked.join().unwrap().elapsed() < Duration::from_secs(2));
        for (record, result) in records.iter().zip(results) {
            let kind = result.err().map(|err| err.kind);
            match partitioner::partition(record.key.as_bytes(), PARTITIONS) {
                0 => assert_eq!(kind, Some(ErrorKind::Unknown)),
                1 => assert_eq!(kind, None),
                _ => assert_eq!(kind, Some(ErrorKind::Retry)),
            }
        }
    }

    #[test]
    fn after_giving_up_nothing_is_written_behind_the_hole() {
        let fake = fake();
        fake.on_produce(|batches| {
            thread::sleep(Duration::from_millis(10));
            let first = |it: &Batch<'_>| it.records[0].key == Some(b"0");
            let verdict = |it| {
                if first(it) {
                    Verdict::NotWritten(error(ErrorKind::Retry))
                } else {
                    Verdict::Written
                }
            };
            batches.iter().map(verdict).collect()
        });
        let (mut sender, shutdown) = sender(&fake, &ProducerConfig { batch_bytes: 1, ..config() });
        shutdown.request();
        let records = records(30);
        let hole = partitioner::partition(b"0", PARTITIONS);
        for (record, result) in records.iter().zip(sender.send_all(&records)) {
            let partition = partitioner::partition(record.key.as_bytes(), PARTITIONS);
            assert_eq!(result.is_err(), partition == hole, "{}", record.key);
        }
        assert_eq!(fake.keys(hole as usize), Vec::<String>::new());
        assert!(sender.send_all(&records[1..]).iter().all(Result::is_err));
    }

    /// A fake whose calls to produce wait for a permit each, and say how many records they were given.
    fn gated() -> (Fake, mpsc::Sender<()>, mpsc::Receiver<usize>) {
        let fake = fake();
        let (permit, permits) = mpsc::channel();
        let (started, starts) = mpsc::channel();
        fake.on_produce(move |batches| {
            started.send(batches.iter().map(|it| it.records.len()).sum()).unwrap();
            permits.recv_timeout(Duration::from_secs(10)).unwrap();
            batches.iter().map(|_| Verdict::Written).collect()
        });
        (fake, permit, starts)
    }

    fn producer(fake: &Fake, config: &ProducerConfig) -> Producer {
        Producer::on(sender(fake, config).0, config)
    }

    #[test]
    fn the_next_batch_gathers_while_one_is_on_its_way() {
        let (fake, permit, starts) = gated();
        let producer = producer(&fake, &config());
        let first = producer.send(record("first"));
        assert_eq!(starts.recv(), Ok(1));
        let later: Vec<Delivery> = records(100).into_iter().map(|it| producer.send(it)).collect();
        let together = producer.send_all(records(50));
        permit.send(()).unwrap();
        first.wait().unwrap();
        assert_eq!(starts.recv(), Ok(150));
        permit.send(()).unwrap();
        later.into_iter().for_each(|delivery| delivery.wait().unwrap());
        together.wait().unwrap();
    }

    #[test]
    fn a_batch_waits_for_linger_unless_it_is_full() {
        let send = |linger, count| {
            let fake = fake();
            let producer =
                producer(&fake, &ProducerConfig { linger, batch_records: 10, ..config() });
            let start = Instant::now();
            producer.send_all(records(count)).wait().unwrap();
            start.elapsed()
        };
        let long = Duration::from_secs(20);
        assert!(send(long, 10) < long);
        let short = Duration::from_millis(50);
        assert!(send(short, 3) >= short);
    }

    #[test]
    fn a_full_queue_blocks_until_a_batch_is_written() {
        let (fake, permit, starts) = gated();
        let config = ProducerConfig { batch_records: 10, ..config() };
        let producer = producer(&fake, &config);
        let _ = producer.send(record("first"));
        assert_eq!(starts.recv(), Ok(1));
        let _ = producer.send_all(records(QUEUE_BATCHES * 10 - 1));
        let (handed, over) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                let _ = producer.send(record("late"));
                handed.send(()).unwrap();
            });
            assert!(over.recv_timeout(Duration::from_millis(50)).is_err());
            permit.send(()).unwrap();
            over.recv_timeout(Duration::from_secs(10)).unwrap();
        });
        (0..QUEUE_BATCHES).for_each(|_| permit.send(()).unwrap());
    }

    #[test]
    fn a_full_queue_is_also_one_of_many_bytes() {
        let (fake, permit, starts) = gated();
        let producer = producer(&fake, &config());
        let large = || Outgoing { value: vec![0; RECORD_BYTES_MAX - 100], ..record("large") };
        let _ = producer.send(large());
        assert_eq!(starts.recv(), Ok(1));
        let _ = producer.send(large());
        let (handed, over) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                let _ = producer.send(large());
                handed.send(()).unwrap();
            });
            assert!(over.recv_timeout(Duration::from_millis(50)).is_err());
            (0..3).for_each(|_| permit.send(()).unwrap());
            over.recv_timeout(Duration::from_secs(10)).unwrap();
        });
    }

    #[test]
    fn the_drop_flushes() {
        let fake = fake();
        let producer =
            producer(&fake, &ProducerConfig { linger: Duration::from_secs(1), ..config() });
        let records = records(5000);
        let delivery = producer.send_all(records.clone());
        drop(producer);
        assert_eq!(logs(&fake), expected(&records));
        delivery.wait().unwrap();
    }

    #[test]
    fn the_drop_gives_up_soon_where_nothing_can_be_written() {
        let fake = fake();
        fake.on_produce(|batches| {
            thread::sleep(Duration::from_millis(10));
            batches.iter().map(|_| Verdict::NotWritten(error(ErrorKind::Retry))).collect()
        });
        let producer = producer(&fake, &config());
        let delivery = producer.send_all(records(5000));
        let start = Instant::now();
        drop(producer);
        assert!(start.elapsed() < Duration::from_secs(2));
        assert_eq!(delivery.wait().unwrap_err().kind, ErrorKind::Retry);
    }

    #[test]
    fn of_records_handed_over_together_the_first_failure_is_told() {
        let fake = fake();
        fake.on_produce(|batches| {
            let bad = |it: &Batch<'_>| it.records.iter().any(|it| it.key == Some(b"7"));
            let verdict = |it| {
                if bad(it) {
                    Verdict::NotWritten(error(ErrorKind::Message))
                } else {
                    Verdict::Written
                }
            };
            batches.iter().map(verdict).collect()
        });
        let producer = producer(&fake, &ProducerConfig { batch_records: 3, ..config() });
        assert_eq!(producer.send_all(records(20)).wait().unwrap_err().kind, ErrorKind::Message);
        producer.send_all(records(7)).wait().unwrap();
        producer.send_all(Vec::new()).wait().unwrap();
    }
}
