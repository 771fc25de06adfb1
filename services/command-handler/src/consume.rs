//! The first stage: records from Kafka become commands, or dead letters, on a thread of its own.

use crate::command_topic::CommandTopic;
use crate::error::Error;
use avro::registry::Registry;
use avro::{Decoder, Record};
use messaging::consumer::Consumer;
use messaging::producer::Outgoing;
use messaging::{FetchedRecord, KafkaConfig, Position};
use service::log::Chain;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;
use std::{mem, thread};

/// Largest command, bytes: twenty times what the longest sensible description takes.
const COMMAND_BYTES_MAX: usize = 64 << 10;

/// Longest wait of a poll, and so how long the thread lives after its [`CommandReader`] was
/// dropped.
const POLL_WAIT: Duration = Duration::from_millis(500);

/// Commands of a topic: what one transaction decides.
pub struct CommandBatch<C> {
    /// In offset order within each partition.
    pub commands: Vec<C>,
    /// Undecodable records, as they go to dead_letter.
    pub dead_letters: Vec<Outgoing>,
    /// The next offset of each partition after this batch.
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

/// Reads and decodes one batch ahead of its owner. Dropping it ends the thread.
pub struct CommandReader<C> {
    batches: Receiver<Result<CommandBatch<C>, Error>>,
    stop: Arc<AtomicBool>,
}

impl<C> Drop for CommandReader<C> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl<C: Record + Send + 'static> CommandReader<C> {
    /// Reads from `positions`; a batch has at most `records_max` records.
    pub fn start<T: CommandTopic<Command = C>>(
        kafka: &KafkaConfig,
        registry: &Registry,
        positions: Vec<Position>,
        records_max: usize,
    ) -> Self {
        // Capacity 0: the next batch waits in `send`, so at most two are in memory here.
        let (sender, batches) = sync_channel(0);
        let stop = Arc::new(AtomicBool::new(false));
        let consumer = Consumer::start(kafka, C::TOPIC.name, positions);
        let reader = ReaderThread::<T> {
            decoder: CommandDecoder::new(registry.clone()),
            sender,
            stop: stop.clone(),
            records_max,
            batch: CommandBatch::default(),
        };
        thread::Builder::new()
            .name(format!("in-{}", C::TOPIC.name))
            .spawn(move || reader.run(consumer))
            .expect("a thread can be started: the service has a handful");
        Self { batches, stop }
    }

    /// The next batch; `None` if there is none within `wait`.
    ///
    /// # Errors
    /// Kafka or the registry refuse for good.
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
                if self.batch.records() >= self.records_max {
                    self.send_batch();
                }
            }
            // Past control records and holes of compaction as well.
            self.batch.positions.insert(data.partition, data.next);
        }
        if self.batch.records() > 0 {
            self.send_batch();
        }
        Ok(())
    }

    /// An error means that the [`CommandReader`] was dropped: `run` sees `stop` next.
    fn send_batch(&mut self) {
        let _ = self.sender.send(Ok(mem::take(&mut self.batch)));
    }

    fn add(&mut self, partition: i32, record: FetchedRecord) -> Result<(), Error> {
        match self.decode(&record)? {
            Ok(command) => self.batch.commands.push(command),
            Err(reason) => {
                let topic = T::Command::TOPIC.name;
                let value = record.value.unwrap_or_default();
                self.batch.dead_letters.push(Outgoing::dead_letter(
                    topic,
                    partition,
                    record.offset,
                    value,
                    &reason,
                ));
            }
        }
        Ok(())
    }

    /// Retries while the registry is unavailable: skipping the record would lose it.
    fn decode(&mut self, record: &FetchedRecord) -> Result<Result<T::Command, String>, Error> {
        loop {
            match self.decoder.decode(record.key.as_deref(), record.value.as_deref()) {
                Err(err) if err.is_retryable() && !self.stop.load(Ordering::Relaxed) => {
                    log::warn!(topic = T::Command::TOPIC.name, error:% = Chain(&err); "waiting for the schema registry");
                    thread::sleep(POLL_WAIT);
                }
                result => return result,
            }
        }
    }
}

/// Decodes and checks the records of a command topic.
pub struct CommandDecoder<T: CommandTopic>(Decoder<T::Command>);

impl<T: CommandTopic> CommandDecoder<T> {
    /// Takes the writers' schemas from `registry`.
    pub fn new(registry: Registry) -> Self {
        Self(Decoder::new(registry))
    }

    /// The command in a record, or why the record is not a command.
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
        match self.0.decode(value) {
            Ok(command) => Ok(match T::unstorable(&command) {
                Some(reason) => Err(reason.to_owned()),
                None => Ok(command),
            }),
            Err(avro::Error::Undecodable(reason)) => Ok(Err(reason)),
            Err(err) => Err(err.into()),
        }
    }
}
