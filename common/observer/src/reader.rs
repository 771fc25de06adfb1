//! Reads the topics of the bank into one bounded channel, with a thread for each topic.

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

/// Maximum number of batches in the channel. A thread blocks while the channel is full.
const BATCHES_MAX: usize = 16;
/// Maximum wait of a poll. A thread ends at most this long after the reader is dropped.
const POLL: Duration = Duration::from_millis(500);
/// Time between two requests for a schema while the registry is unavailable.
const REGISTRY_BACKOFF: Duration = Duration::from_millis(200);

/// Time for which a registry may be unavailable, or an id not registered, without an error.
const REGISTRY_PATIENCE: Duration = Duration::from_secs(6);

/// The next offset of each partition of some topics.
pub type Positions = HashMap<Topic, Vec<Position>>;

/// A topic could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Kafka failed, or the data of a partition is undecodable.
    #[error("read {topic}")]
    Kafka { topic: &'static str, source: messaging::Error },
    /// The schema of a record is not available. The reader retries.
    #[error("read {topic}: get the schema of {position}")]
    Registry { topic: &'static str, position: RecordPosition, source: avro::registry::Error },
}

/// Records of one topic that were read at the same time.
pub struct Batch {
    /// The records, in offset order within each partition.
    pub records: Vec<ObservedRecord>,
    /// Topic, and next offset of each partition that was read.
    next: (Topic, Vec<Position>),
}

/// A reader of the topics. Its threads end when it is dropped.
pub struct Reader {
    batches: Receiver<Result<Batch, ReadError>>,
    positions: HashMap<(Topic, i32), i64>,
}

impl Reader {
    /// Starts to read commands, outcomes, balance changes and dead letters from `positions`. Topics
    /// without a position are not read.
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

    /// Returns the next batch, which may be empty. `None` if no batch arrives before `deadline`.
    ///
    /// # Errors
    /// A topic could not be read. After [`ReadError::Registry`] the call may be repeated.
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

    /// True if all records before `ends` were read.
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
            .expect("eight threads can be started");
    }
}

struct TopicReader<D> {
    topic: Topic,
    consumer: Consumer,
    decode: D,
    sender: SyncSender<Result<Batch, ReadError>>,
}

/// The reader was dropped.
struct Dropped;

impl<D: FnMut(&FetchedRecord) -> Result<Event, avro::Error>> TopicReader<D> {
    fn run(mut self) {
        // Empty batches are sent too. The send fails if the reader was dropped.
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

    /// Decodes a record, and retries while the registry is unavailable. A decoder also reports for
    /// a few seconds that the registry does not have a schema id.
    fn decode(
        &mut self,
        position: RecordPosition,
        record: &FetchedRecord,
    ) -> Result<Event, Dropped> {
        let started = Instant::now();
        loop {
            let source = match (self.decode)(record) {
                Ok(event) => return Ok(event),
                Err(avro::Error::Undecodable(reason)) => return Ok(Event::Undecodable(reason)),
                Err(avro::Error::Registry { source, .. }) => source,
            };
            if started.elapsed() >= REGISTRY_PATIENCE {
                let topic = self.topic.name;
                let error = ReadError::Registry { topic, position, source };
                self.sender.send(Err(error)).map_err(|_| Dropped)?;
            }
            thread::sleep(REGISTRY_BACKOFF);
        }
    }
}

/// Returns the end of each partition of `topics`.
pub fn log_ends(
    client: &mut dyn KafkaClient,
    topics: &[Topic],
    within: Duration,
) -> Result<Positions, messaging::Error> {
    log_positions(client, topics, within, |(_, end)| end)
}

/// Returns the log start offset of each partition of `topics`.
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
