//! The first stage: reads records from Kafka and decodes them to commands or dead letters, on its
//! own thread.

use crate::command_topic::CommandTopic;
use crate::error::Error;
use avro::registry::Registry;
use avro::{Decoder, Record};
use bank::limits::{COMMAND_BYTES_MAX, COMMANDS_BYTES_MAX};
use messaging::consumer::{Answers, Consumer};
use messaging::dead_letters::DeadLetters;
use messaging::producer::Outgoing;
use messaging::{FetchedRecord, KafkaConfig, Position, TopicId};
use service::database::retention::Retention;
use service::log::Chain;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;
use std::{mem, thread};

/// Longest wait of one poll. The thread ends at most this long after its [`CommandReader`] is
/// dropped.
const POLL_WAIT: Duration = Duration::from_millis(500);

/// The commands that one transaction decides.
pub struct CommandBatch<C> {
    /// The commands of each partition, in offset order.
    pub commands: Vec<C>,
    /// The records that cannot be decided, as records for dead_letter.
    pub dead_letters: Vec<Outgoing>,
    /// Next offset of each partition after this batch.
    pub positions: BTreeMap<i32, i64>,
}

impl<C> Default for CommandBatch<C> {
    fn default() -> Self {
        Self { commands: Vec::new(), dead_letters: Vec::new(), positions: BTreeMap::new() }
    }
}

impl<C> CommandBatch<C> {
    fn records(&self) -> usize {
        self.commands.len() + self.dead_letters.len()
    }
}

/// The owner's side of the reader thread, which reads and decodes one batch ahead. Dropping it ends
/// the thread.
pub struct CommandReader<C> {
    batches: Receiver<Result<CommandBatch<C>, Error>>,
    answers: Answers,
    /// True if there is no partition to read.
    is_idle: bool,
    stop: Arc<AtomicBool>,
}

impl<C> Drop for CommandReader<C> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl<C: Record + Send + 'static> CommandReader<C> {
    /// Starts to read the topic with the id `topic_id` at `positions`. A batch has at most
    /// `records_max` records.
    pub fn start<T: CommandTopic<Command = C>>(
        kafka: &KafkaConfig,
        registry: &Registry,
        retention: Option<Retention>,
        topic_id: Option<TopicId>,
        positions: Vec<Position>,
        records_max: usize,
    ) -> Self {
        // Capacity 0: the thread blocks in `send` with the next batch, so at most two batches are
        // in memory.
        let (sender, batches) = sync_channel(0);
        let stop = Arc::new(AtomicBool::new(false));
        let is_idle = positions.is_empty();
        let consumer = Consumer::start_in(kafka, C::TOPIC.name, topic_id, positions);
        let answers = consumer.answers();
        let reader = ReaderThread::<T> {
            decoder: CommandDecoder::new(registry.clone(), retention),
            sender,
            stop: stop.clone(),
            records_max,
            batch: CommandBatch::default(),
            batch_bytes: 0,
            dead_letters: DeadLetters::new(C::TOPIC.name),
        };
        thread::Builder::new()
            .name(format!("in-{}", C::TOPIC.name))
            .spawn(move || reader.run(consumer))
            .expect("a thread can be started: their number is small and fixed");
        Self { batches, answers, is_idle, stop }
    }

    /// Time since Kafka answered the thread; `None` before its first answer. Zero if there is no
    /// partition to read.
    pub fn silence(&self) -> Option<Duration> {
        if self.is_idle { Some(Duration::ZERO) } else { self.answers.silence() }
    }

    /// Returns the next batch, or `None` if no batch arrives within `wait`.
    ///
    /// # Errors
    /// The error that ended the thread. It is retryable if the topic was recreated.
    pub fn next(&self, wait: Duration) -> Result<Option<CommandBatch<C>>, Error> {
        match self.batches.recv_timeout(wait) {
            Ok(batch) => batch.map(Some),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                unreachable!("the thread sends its error before it ends")
            }
        }
    }
}

struct ReaderThread<T: CommandTopic> {
    decoder: CommandDecoder<T>,
    sender: SyncSender<Result<CommandBatch<T::Command>, Error>>,
    stop: Arc<AtomicBool>,
    records_max: usize,
    batch: CommandBatch<T::Command>,
    /// Size of the values in `batch`.
    batch_bytes: usize,
    dead_letters: DeadLetters,
}

impl<T: CommandTopic> ReaderThread<T> {
    fn run(mut self, mut consumer: Consumer) {
        while !self.stop.load(Ordering::Relaxed) {
            if let Err(err) = self.poll(&mut consumer) {
                let _ = self.sender.send(Err(err));
                return;
            }
        }
    }

    fn poll(&mut self, consumer: &mut Consumer) -> Result<(), Error> {
        for data in consumer.poll(POLL_WAIT)? {
            for record in data.records {
                let next = record.offset + 1;
                self.add(data.partition, record)?;
                self.batch.positions.insert(data.partition, next);
                let is_large = self.batch_bytes >= COMMANDS_BYTES_MAX;
                if is_large || self.batch.records() >= self.records_max {
                    self.send_batch();
                }
            }
            // The next offset is also past control records and past offsets removed by compaction.
            self.batch.positions.insert(data.partition, data.next);
        }
        if self.batch.records() > 0 {
            self.send_batch();
        }
        Ok(())
    }

    /// Ignores an error of `send`: the [`CommandReader`] was dropped, and `run` checks `stop` next.
    fn send_batch(&mut self) {
        self.batch_bytes = 0;
        let _ = self.sender.send(Ok(mem::take(&mut self.batch)));
    }

    fn add(&mut self, partition: i32, record: FetchedRecord) -> Result<(), Error> {
        self.batch_bytes += record.value.as_ref().map_or(0, Vec::len);
        match self.decode(&record)? {
            Ok(command) => {
                self.dead_letters.decoded();
                self.batch.commands.push(command);
            }
            Err(reason) => {
                let value = record.value.unwrap_or_default();
                let dead_letter = self.dead_letters.add(partition, record.offset, value, &reason);
                self.batch.dead_letters.push(dead_letter);
            }
        }
        Ok(())
    }

    /// Retries while the registry is unavailable: a skipped record would be lost.
    fn decode(&mut self, record: &FetchedRecord) -> Result<Result<T::Command, String>, Error> {
        loop {
            match self.decoder.decode(record.key.as_deref(), record.value.as_deref()) {
                Err(err) if err.is_retryable() && !self.stop.load(Ordering::Relaxed) => {
                    log::warn!(
                        topic = T::Command::TOPIC.name, error:% = Chain(&err);
                        "waiting for the schema registry"
                    );
                    thread::sleep(POLL_WAIT);
                }
                result => return result,
            }
        }
    }
}

/// Decodes and checks the records of a command topic.
pub struct CommandDecoder<T: CommandTopic> {
    decoder: Decoder<T::Command>,
    retention: Option<Retention>,
}

impl<T: CommandTopic> CommandDecoder<T> {
    /// The writers' schemas come from `registry`. Outcomes are kept for the period `retention`.
    pub fn new(registry: Registry, retention: Option<Retention>) -> Self {
        Self { decoder: Decoder::new(registry), retention }
    }

    /// Returns the command, or the reason for its dead letter.
    ///
    /// # Errors
    /// The registry did not return the writer's schema.
    pub fn decode(
        &mut self,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
    ) -> Result<Result<T::Command, String>, Error> {
        if key.is_none() {
            return Ok(Err("no key".to_owned()));
        }
        let Some(value) = value else { return Ok(Err("no value".to_owned())) };
        if value.len() > COMMAND_BYTES_MAX {
            let bytes = value.len();
            return Ok(Err(format!("value of {bytes} bytes, more than {COMMAND_BYTES_MAX}")));
        }
        match self.decoder.decode(value) {
            Ok(command) => Ok(match T::undecidable(&command, self.retention) {
                Some(reason) => Err(reason),
                None => Ok(command),
            }),
            Err(avro::Error::Undecodable(reason)) => Ok(Err(reason)),
            Err(err) => Err(err.into()),
        }
    }
}
