//! Reads the topics of the bank, a thread for each, into one bounded channel.

use crate::record::{Event, ObservedRecord, RecordPosition};
use avro::registry::Registry;
use avro::{Decoder, Record};
use bank::topology::{DEAD_LETTER, Topic};
use messaging::consumer::Consumer;
use messaging::{FetchedRecord, KafkaClient, KafkaConfig, PartitionData, Position};
use std::collections::HashMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// Batches that wait in the channel: a thread that is further ahead waits.
const BATCHES_MAX: usize = 16;
/// How long a poll waits, and so how long a thread outlives the reader.
const POLL: Duration = Duration::from_millis(500);
/// Time between two requests for a schema while the registry does not answer.
const REGISTRY_BACKOFF: Duration = Duration::from_millis(200);

/// The next offset of each partition of some topics.
pub type Positions = HashMap<Topic, Vec<Position>>;

/// Why a topic can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Kafka, or the data of a partition.
    #[error("read {topic}")]
    Kafka {
        /// Topic name.
        topic: &'static str,
        /// The client's error.
        source: messaging::Error,
    },
    /// A schema is not available; the same record is tried again.
    #[error("read {topic}: schema of {position}")]
    Registry {
        /// Topic name.
        topic: &'static str,
        /// The record.
        position: RecordPosition,
        /// The registry's error.
        source: avro::registry::Error,
    },
}

/// Records of one topic that were read at the same time.
pub struct Batch {
    /// In offset order within each partition.
    pub records: Vec<ObservedRecord>,
    /// Topic, and next offset of each partition that was read.
    next: (Topic, Vec<Position>),
}

/// The threads. They end when this is dropped.
pub struct Reader {
    batches: Receiver<Result<Batch, ReadError>>,
    positions: HashMap<(Topic, i32), i64>,
}

impl Reader {
    /// Reads commands, outcomes, balance changes and dead letters from `positions`; topics without
    /// a position are not read.
    pub fn start(kafka: &KafkaConfig, registry: &Registry, positions: &Positions) -> Self {
        let (sender, batches) = sync_channel(BATCHES_MAX);
        let start = Start { kafka, registry, positions, sender };
        start.records(Event::OpenAccount);
        start.records(Event::Transfer);
        start.records(Event::AccountOpened);
        start.records(Event::AccountNotOpened);
        start.records(Event::TransferConfirmed);
        start.records(Event::TransferFailed);
        start.records(Event::BalanceChanged);
        start.topic(DEAD_LETTER, |_| Ok(Event::DeadLetter));
        let next = |(topic, list): (&Topic, &Vec<Position>)| {
            let topic = *topic;
            list.clone().into_iter().map(move |it| ((topic, it.partition), it.next))
        };
        Self { batches, positions: positions.iter().flat_map(next).collect() }
    }

    /// The next batch, which may be empty, or `None` if there is none by `deadline`.
    ///
    /// # Errors
    /// A topic can't be read. After [`ReadError::Registry`] it may be called again.
    pub fn next(&mut self, deadline: Instant) -> Result<Option<Batch>, ReadError> {
        let wait = deadline.saturating_duration_since(Instant::now());
        let batch = match self.batches.recv_timeout(wait) {
            Ok(batch) => batch?,
            Err(RecvTimeoutError::Timeout) => return Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                thread::sleep(wait);
                return Ok(None);
            }
        };
        let (topic, next) = &batch.next;
        self.positions.extend(next.iter().map(|it| ((*topic, it.partition), it.next)));
        Ok(Some(batch))
    }

    /// True if everything before `ends` was read.
    pub fn has_reached(&self, ends: &Positions) -> bool {
        ends.iter().all(|(topic, list)| {
            let reached = |end: &Position| self.positions.get(&(*topic, end.partition));
            list.iter().all(|end| reached(end).is_none_or(|next| *next >= end.next))
        })
    }
}

struct Start<'a> {
    kafka: &'a KafkaConfig,
    registry: &'a Registry,
    positions: &'a Positions,
    sender: SyncSender<Result<Batch, ReadError>>,
}

impl Start<'_> {
    fn records<R: Record + 'static>(&self, event: fn(R) -> Event) {
        let mut decoder = Decoder::new(self.registry.clone());
        self.topic(R::TOPIC, move |record| {
            decoder.decode(record.value.as_deref().unwrap_or_default()).map(event)
        });
    }

    fn topic(
        &self,
        topic: Topic,
        decode: impl FnMut(&FetchedRecord) -> Result<Event, avro::Error> + Send + 'static,
    ) {
        let Some(positions) = self.positions.get(&topic) else { return };
        let consumer = Consumer::start(self.kafka, topic.name, positions.clone());
        let reader = TopicReader { topic, consumer, decode, sender: self.sender.clone() };
        thread::Builder::new()
            .name(topic.name.into())
            .spawn(|| reader.run())
            .expect("a thread can be started: there are eight");
    }
}

struct TopicReader<D> {
    topic: Topic,
    consumer: Consumer,
    decode: D,
    sender: SyncSender<Result<Batch, ReadError>>,
}

/// The reader is dropped.
struct Dropped;

impl<D: FnMut(&FetchedRecord) -> Result<Event, avro::Error>> TopicReader<D> {
    fn run(mut self) {
        // An empty batch is sent too: that shows the thread that the reader is dropped.
        while let Ok(fetched) = self.consumer.poll(POLL).map_err(|source| self.failed(source)) {
            if self.pass_on(fetched).is_err() {
                return;
            }
        }
    }

    fn failed(&self, source: messaging::Error) {
        let _ = self.sender.send(Err(ReadError::Kafka { topic: self.topic.name, source }));
    }

    fn pass_on(&mut self, fetched: Vec<PartitionData>) -> Result<(), Dropped> {
        let (read_at, topic) = (Instant::now(), self.topic);
        let mut batch = Batch { records: Vec::new(), next: (topic, Vec::new()) };
        for data in fetched {
            let partition = data.partition;
            batch.next.1.push(Position { partition, next: data.next });
            for record in data.records {
                let offset = record.offset;
                let position = RecordPosition { topic: topic.name, partition, offset };
                let event = self.decode(position, &record)?;
                let key = record.key.unwrap_or_default();
                let value = record.value.unwrap_or_default();
                batch.records.push(ObservedRecord { position, read_at, key, value, event });
            }
            if let Some(source) = data.error {
                self.failed(source);
            }
        }
        self.sender.send(Ok(batch)).map_err(|_| Dropped)
    }

    /// Waits for the registry.
    fn decode(
        &mut self,
        position: RecordPosition,
        record: &FetchedRecord,
    ) -> Result<Event, Dropped> {
        loop {
            let source = match (self.decode)(record) {
                Ok(event) => return Ok(event),
                Err(avro::Error::Undecodable(reason)) => return Ok(Event::Undecodable(reason)),
                Err(avro::Error::Registry { source, .. }) => source,
            };
            let topic = self.topic.name;
            let error = ReadError::Registry { topic, position, source };
            self.sender.send(Err(error)).map_err(|_| Dropped)?;
            thread::sleep(REGISTRY_BACKOFF);
        }
    }
}

/// The end of each partition of `topics`.
///
/// # Errors
/// The cluster does not answer within `within`.
pub fn log_ends(
    client: &mut dyn KafkaClient,
    topics: &[Topic],
    within: Duration,
) -> Result<Positions, messaging::Error> {
    log_positions(client, topics, within, |(_, end)| end)
}

/// The earliest offset of each partition of `topics`.
///
/// # Errors
/// The cluster does not answer within `within`.
pub fn log_starts(
    client: &mut dyn KafkaClient,
    topics: &[Topic],
    within: Duration,
) -> Result<Positions, messaging::Error> {
    log_positions(client, topics, within, |(start, _)| start)
}

fn log_positions(
    client: &mut dyn KafkaClient,
    topics: &[Topic],
    within: Duration,
    choose: fn((i64, i64)) -> i64,
) -> Result<Positions, messaging::Error> {
    let positions = |topic: &Topic| {
        let ranges = client.log_range(topic.name, within)?.into_iter().map(choose);
        let list = (0..).zip(ranges).map(|(partition, next)| Position { partition, next });
        Ok((*topic, list.collect()))
    };
    topics.iter().map(positions).collect()
}
