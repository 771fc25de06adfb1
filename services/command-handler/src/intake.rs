//! The first stage: records from Kafka become commands, or letters for dead_letter, on a thread of its own.

use crate::desk::Desk;
use crate::error::Error;
use avro::registry::Registry;
use avro::{Decoder, Record};
use messaging::KafkaConfig;
use messaging::consumer::Consumer;
use messaging::producer::Outgoing;
use messaging::{FetchedRecord, Position};
use service::log::Chain;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;
use std::{mem, thread};

/// Largest command, bytes: twenty times what the longest sensible description takes.
const COMMAND_BYTES_MAX: usize = 64 << 10;

/// How long a poll waits, and so how long the thread lives after its intake was dropped.
const POLL: Duration = Duration::from_millis(500);

/// Records of a topic, decoded: what one transaction decides.
pub struct Batch<C> {
    /// In offset order within each partition.
    pub commands: Vec<C>,
    /// Records that are no commands, as they go to dead_letter.
    pub letters: Vec<Outgoing>,
    /// Where each partition goes on after this batch.
    pub positions: BTreeMap<i32, i64>,
}

impl<C> Default for Batch<C> {
    fn default() -> Self {
        Self { commands: Vec::new(), letters: Vec::new(), positions: BTreeMap::new() }
    }
}

/// Reads and decodes ahead of its owner by one batch. Dropping it ends the thread.
pub struct Intake<C> {
    batches: Receiver<Result<Batch<C>, Error>>,
    stop: Arc<AtomicBool>,
}

impl<C> Drop for Intake<C> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl<C: Record + Send + 'static> Intake<C> {
    /// Reads from `positions`; a batch has at most `records_max` records.
    pub fn start<D: Desk<Command = C>>(
        kafka: &KafkaConfig,
        registry: &Registry,
        positions: Vec<Position>,
        records_max: usize,
    ) -> Self {
        // No room: the next batch waits in the sender's hands, so two are in memory here at most.
        let (sender, batches) = sync_channel(0);
        let stop = Arc::new(AtomicBool::new(false));
        let consumer = Consumer::start(kafka, C::TOPIC.name, positions);
        let reader = Reader::<D> {
            decoder: Decoder::new(registry.clone()),
            sender,
            stop: stop.clone(),
            records_max,
            batch: Batch::default(),
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
    pub fn next(&self, wait: Duration) -> Result<Option<Batch<C>>, Error> {
        match self.batches.recv_timeout(wait) {
            Ok(batch) => batch.map(Some),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                unreachable!("the reader sends its error before it ends")
            }
        }
    }
}

struct Reader<D: Desk> {
    decoder: Decoder<D::Command>,
    sender: SyncSender<Result<Batch<D::Command>, Error>>,
    stop: Arc<AtomicBool>,
    records_max: usize,
    batch: Batch<D::Command>,
}

impl<D: Desk> Reader<D> {
    fn run(mut self, mut consumer: Consumer) {
        while !self.stop.load(Ordering::Relaxed) {
            if let Err(err) = self.poll(&mut consumer) {
                let _ = self.sender.send(Err(err));
                return;
            }
        }
    }

    fn poll(&mut self, consumer: &mut Consumer) -> Result<(), Error> {
        for chunk in consumer.poll(POLL)? {
            for record in chunk.records {
                let next = record.offset + 1;
                self.take(chunk.partition, record)?;
                self.batch.positions.insert(chunk.partition, next);
                if self.batch.commands.len() + self.batch.letters.len() >= self.records_max {
                    self.hand_over();
                }
            }
            // Past control records and holes of compaction as well.
            self.batch.positions.insert(chunk.partition, chunk.next);
        }
        if !self.batch.commands.is_empty() || !self.batch.letters.is_empty() {
            self.hand_over();
        }
        Ok(())
    }

    /// A receiver that is gone has dropped the intake, so the thread ends at its next look.
    fn hand_over(&mut self) {
        let _ = self.sender.send(Ok(mem::take(&mut self.batch)));
    }

    fn take(&mut self, partition: i32, record: FetchedRecord) -> Result<(), Error> {
        match self.decode(&record) {
            Ok(Ok(command)) => self.batch.commands.push(command),
            Ok(Err(reason)) => {
                let topic = D::Command::TOPIC.name;
                let value = record.value.unwrap_or_default();
                let letter = Outgoing::dead_letter(topic, partition, record.offset, value, &reason);
                self.batch.letters.push(letter);
            }
            Err(err) => return Err(err),
        }
        Ok(())
    }

    /// A command, or why it is none. A registry that is away is waited for: skipping the record would lose it.
    fn decode(&mut self, record: &FetchedRecord) -> Result<Result<D::Command, String>, Error> {
        if record.key.is_none() {
            return Ok(Err("no key".to_owned()));
        }
        let Some(value) = &record.value else { return Ok(Err("no value".to_owned())) };
        if value.len() > COMMAND_BYTES_MAX {
            return Ok(Err(format!(
                "value of {} bytes, more than {COMMAND_BYTES_MAX}",
                value.len()
            )));
        }
        loop {
            match self.decoder.decode(value) {
                Ok(command) => {
                    return Ok(match D::unstorable(&command) {
                        Some(reason) => Err(reason.to_owned()),
                        None => Ok(command),
                    });
                }
                Err(avro::Error::Undecodable(reason)) => return Ok(Err(reason)),
                Err(err) => {
                    let err = Error::from(err);
                    if !err.is_retryable() || self.stop.load(Ordering::Relaxed) {
                        return Err(err);
                    }
                    log::warn!(topic = D::Command::TOPIC.name, error:% = Chain(&err); "waiting for the schema registry");
                    thread::sleep(POLL);
                }
            }
        }
    }
}
