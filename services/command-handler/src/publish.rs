//! The last stage, on its own thread: produces the records of the outcomes with acks=all. Batches
//! stay in order.

use crate::command_topic::CommandTopic;
use crate::error::Error;
use crate::failpoint::{self, Point};
use crate::metrics;
use avro::Record;
use bank::topology::DEAD_LETTER;
use messaging::ErrorKind;
use messaging::producer::{Outgoing, ProducerConfig, Sender as KafkaSender};
use service::shutdown::Shutdown;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{mem, thread};

/// Interval between attempts to publish outcomes that Kafka refuses.
const REFUSED_RETRY: Duration = Duration::from_secs(5);

/// Batches handed over and not yet published: one in production, and the next one queued.
const IN_FLIGHT_MAX: usize = 2;

/// A batch whose outcomes are committed in the database.
pub struct DecidedBatch<O> {
    /// Outcomes, in the order of their commands.
    pub outcomes: Vec<O>,
    /// Records for the topic dead_letter.
    pub dead_letters: Vec<Outgoing>,
    /// Next offset of each partition after this batch.
    pub positions: BTreeMap<i32, i64>,
}

/// How far the outcomes are published.
#[derive(Default)]
pub struct Published {
    /// Next offsets that are neither stored in the database yet nor committed to Kafka yet.
    positions: Mutex<[BTreeMap<i32, i64>; 2]>,
    refused: AtomicBool,
}

impl Published {
    fn add(&self, positions: &BTreeMap<i32, i64>) {
        for of in &mut *self.positions.lock().unwrap_or_else(PoisonError::into_inner) {
            of.extend(positions);
        }
    }

    /// Adds `starts`, at which reading begins, to the positions to commit to Kafka. The last commit
    /// may have failed, and no other one follows until the next command of a partition.
    pub fn begin(&self, starts: &BTreeMap<i32, i64>) {
        self.positions.lock().unwrap_or_else(PoisonError::into_inner)[1].extend(starts);
    }

    /// Takes the positions that the database does not have yet.
    pub fn take_unstored(&self) -> BTreeMap<i32, i64> {
        mem::take(&mut self.positions.lock().unwrap_or_else(PoisonError::into_inner)[0])
    }

    /// Takes the positions that Kafka does not have yet.
    pub fn take_uncommitted(&self) -> BTreeMap<i32, i64> {
        mem::take(&mut self.positions.lock().unwrap_or_else(PoisonError::into_inner)[1])
    }

    /// True while Kafka refuses an outcome.
    pub fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }
}

/// Publishes batches in the order in which they are handed over.
pub struct Publisher<O> {
    batches: Sender<DecidedBatch<O>>,
    /// One result per batch.
    done: Receiver<Result<(), Error>>,
    in_flight: usize,
    failed: bool,
}

impl<O: Send + 'static> Publisher<O> {
    /// Starts the thread, which ends when the publisher is dropped.
    pub fn start<T: CommandTopic<Outcome = O>>(
        encoders: T,
        config: &ProducerConfig,
        published: Arc<Published>,
        shutdown: &Shutdown,
    ) -> Self {
        let (batches, inbox) = channel();
        let (outbox, done) = channel();
        let writer = OutcomeWriter {
            encoders,
            producer: KafkaSender::new(config, shutdown),
            published,
            shutdown: shutdown.clone(),
        };
        thread::Builder::new()
            .name(format!("out-{}", T::Command::TOPIC.name))
            .spawn(move || writer.run(&inbox, &outbox))
            .expect("a thread can be started: their number is small and fixed");
        Self { batches, done, in_flight: 0, failed: false }
    }

    /// Waits up to `time` until fewer than [`IN_FLIGHT_MAX`] batches are in flight. Returns true if
    /// so.
    ///
    /// # Errors
    /// The error that ended the thread.
    pub fn has_room(&mut self, time: Duration) -> Result<bool, Error> {
        Ok(self.in_flight < IN_FLIGHT_MAX || self.one_done(time)?)
    }

    /// Publishes a batch after those before. There must be room for it.
    pub fn hand_over(&mut self, decided: DecidedBatch<O>) {
        self.in_flight += 1;
        // `send` fails only after the thread has ended. Its error is the next result.
        let _ = self.batches.send(decided);
    }

    /// Waits until all batches are published. Returns false if that does not happen within `time`.
    ///
    /// # Errors
    /// The error that ended the thread.
    pub fn flush(&mut self, time: Duration) -> Result<bool, Error> {
        let deadline = Instant::now() + time;
        while self.in_flight > 0 {
            let wait = deadline.saturating_duration_since(Instant::now());
            if self.failed || !self.one_done(wait)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn one_done(&mut self, wait: Duration) -> Result<bool, Error> {
        match self.done.recv_timeout(wait) {
            Ok(done) => {
                self.in_flight -= 1;
                self.failed = done.is_err();
                done.map(|()| true)
            }
            Err(RecvTimeoutError::Timeout) => Ok(false),
            Err(RecvTimeoutError::Disconnected) => {
                unreachable!(
                    "the thread sends its error before it ends, and no call waits after that"
                )
            }
        }
    }
}

/// Produces the records of outcomes.
struct OutcomeWriter<T> {
    encoders: T,
    producer: KafkaSender,
    published: Arc<Published>,
    shutdown: Shutdown,
}

impl<T: CommandTopic> OutcomeWriter<T> {
    fn run(
        mut self,
        inbox: &Receiver<DecidedBatch<T::Outcome>>,
        outbox: &Sender<Result<(), Error>>,
    ) {
        while let Ok(batch) = inbox.recv() {
            let done = self.publish(batch);
            let ends = done.is_err();
            if outbox.send(done).is_err() || ends {
                return;
            }
        }
    }

    fn publish(&mut self, batch: DecidedBatch<T::Outcome>) -> Result<(), Error> {
        let started = Instant::now();
        let DecidedBatch { outcomes, dead_letters, positions } = batch;
        let mut records = dead_letters;
        records.reserve(outcomes.len() * 3);
        for outcome in outcomes {
            self.encoders.encode(outcome, &mut records);
        }
        failpoint::reach(Point::Produce);
        self.produce(records)?;
        metrics::took(T::Command::TOPIC.name, "produce", started.elapsed());
        failpoint::reach(Point::Offsets);
        self.published.add(&positions);
        Ok(())
    }

    /// Writes all records. An outcome that Kafka refuses is tried again until its cause is gone:
    /// the money has moved, so it must be published.
    fn produce(&mut self, mut records: Vec<Outgoing>) -> Result<(), Error> {
        loop {
            let mut refused = Vec::new();
            let mut reason = None;
            for (result, record) in self.producer.send_all(&records).into_iter().zip(records) {
                let Err(err) = result else { continue };
                let (topic, key) = (record.topic, record.key.as_str());
                match err.kind {
                    ErrorKind::Message if topic == DEAD_LETTER.name => {
                        log::error!(
                            topic, key, error:% = err;
                            "dead letter dropped: refused for its content"
                        );
                    }
                    // Shutdown was requested.
                    ErrorKind::Retry | ErrorKind::Unknown => return Err(err.into()),
                    ErrorKind::Message
                    | ErrorKind::Config
                    | ErrorKind::Position
                    | ErrorKind::Undecodable
                    | ErrorKind::Fenced => {
                        if reason.is_none() {
                            log::error!(
                                topic, key, error:% = err, retry_in_s = REFUSED_RETRY.as_secs();
                                "Kafka refuses an outcome, deciding no further commands until it \
                                 is published"
                            );
                            reason = Some(err);
                        }
                        refused.push(record);
                    }
                }
            }
            let Some(reason) = reason else { break };
            self.published.refused.store(true, Ordering::Relaxed);
            if self.shutdown.wait(REFUSED_RETRY) {
                return Err(reason.into());
            }
            records = refused;
        }
        self.published.refused.store(false, Ordering::Relaxed);
        Ok(())
    }
}
