//! The loop of a command topic: owns partitions, takes a batch from the reader, decides and stores
//! it, and hands it over to the publisher. Reading, deciding and publishing run in parallel on
//! three threads. Each of them keeps the order of the batches.

use crate::command_topic::CommandTopic;
use crate::config::Config;
use crate::consume::{CommandBatch, CommandReader};
use crate::error::Error;
use crate::metrics;
use crate::publish::{DecidedBatch, GROUP, Publisher};
use crate::store::Session;
use avro::Record;
use avro::registry::Registry;
use messaging::consumer::{OffsetReset, start_positions};
use service::log::Chain;
use service::shutdown::Shutdown;
use std::time::{Duration, Instant};

/// Interval at which a session counts the members of the topic and claims free partitions. The
/// statement is also the session's heartbeat: PostgreSQL ends a session that is idle for 10 s.
const SHARE_INTERVAL: Duration = Duration::from_secs(1);

/// Longest wait for a batch. An idle worker notices a shutdown request at most this late.
const BATCH_WAIT: Duration = Duration::from_millis(100);

/// Most commands in one transaction. A larger batch takes more memory and is hardly faster:
/// docs/decisions/0008-batch-sizes.md.
const TRANSACTION_COMMANDS: usize = 1000;

/// Deadline for publishing the last batch after a shutdown request. A shutdown may take 1 s.
const LAST_BATCH: Duration = Duration::from_millis(900);

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// Decides the commands of one topic, in the partitions that this handler owns.
pub struct Worker {
    pub config: Config,
    pub registry: Registry,
    pub shutdown: Shutdown,
}

impl Worker {
    /// Runs until shutdown. Calls `ready(true)` when the topic is served and `ready(false)` when
    /// the session is lost.
    ///
    /// # Errors
    /// The first error that is not retryable.
    pub fn run<T: CommandTopic>(&self, ready: &dyn Fn(bool)) -> Result<(), Error> {
        let topic = T::Command::TOPIC.name;
        let Some(encoders) = T::open(&self.registry, &self.shutdown)? else { return Ok(()) };
        let mut publisher = Publisher::start(encoders, &self.config.producer, &self.shutdown);
        let mut backoff = BACKOFF_MIN;
        while !self.shutdown.requested() {
            let started = Instant::now();
            match self.own_and_serve::<T>(&mut publisher, ready) {
                Ok(()) => {}
                Err(err) if err.is_retryable() && !publisher.has_failed() => {
                    ready(false);
                    if started.elapsed() > BACKOFF_MAX {
                        backoff = BACKOFF_MIN;
                    }
                    let retry_in_ms = backoff.as_millis() as u64;
                    log::warn!(
                        topic, error:% = Chain(&err), retry_in_ms;
                        "session failed, starting over"
                    );
                    self.shutdown.wait(backoff);
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
                // For example: Kafka did not acknowledge the last batch before the deadline.
                Err(err) if err.is_retryable() && self.shutdown.requested() => {
                    log::warn!(
                        topic, error:% = Chain(&err);
                        "failed during shutdown, not retrying"
                    );
                }
                Err(err) => return Err(err),
            }
        }
        self.flush(&mut publisher, topic)
    }

    fn flush<O: Send + 'static>(
        &self,
        publisher: &mut Publisher<O>,
        topic: &str,
    ) -> Result<(), Error> {
        match publisher.flush(Some(Instant::now() + LAST_BATCH)) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(err) if err.is_retryable() => {
                log::warn!(topic, error:% = Chain(&err); "could not publish the last batch");
            }
            Err(err) => return Err(err),
        }
        log::warn!(topic; "stopped with unpublished outcomes: the next start publishes them");
        Ok(())
    }

    /// Runs one database session: owns a share of the partitions and serves them until shutdown or
    /// an error.
    fn own_and_serve<T: CommandTopic>(
        &self,
        publisher: &mut Publisher<T::Outcome>,
        ready: &dyn Fn(bool),
    ) -> Result<(), Error> {
        let topic = T::Command::TOPIC;
        let mut session = Session::open(&self.config.database, topic, &self.shutdown)?;
        while !self.shutdown.requested() {
            // Publish the batches in flight first. Their partitions may go to another handler, or
            // be read again from the committed offset.
            while !publisher.flush(Some(Instant::now() + BATCH_WAIT))? {
                session.ownership.share()?;
                if self.shutdown.requested() {
                    return Ok(());
                }
            }
            let owned = session.ownership.take_share()?;
            log::info!(topic = topic.name, partitions:? = owned; "serving");
            let within = Duration::from_secs(5);
            let kafka = &self.config.producer.kafka;
            let (offset_reset, stop) = (OffsetReset::Earliest, &self.shutdown);
            let positions =
                start_positions(kafka, GROUP, topic.name, &owned, offset_reset, within, stop)?;
            let reader =
                CommandReader::start::<T>(kafka, &self.registry, positions, TRANSACTION_COMMANDS);
            ready(true);
            self.serve::<T>(&mut session, &reader, publisher)?;
        }
        Ok(())
    }

    /// Decides batches until the share of partitions changes.
    fn serve<T: CommandTopic>(
        &self,
        session: &mut Session,
        reader: &CommandReader<T::Command>,
        publisher: &mut Publisher<T::Outcome>,
    ) -> Result<(), Error> {
        let mut checked = Instant::now();
        while !self.shutdown.requested() {
            if let Some(batch) = reader.next(BATCH_WAIT)? {
                let decided = decide::<T>(session, batch)?;
                publisher.hand_over(decided, || Ok(session.ownership.share().map(drop)?))?;
            }
            if checked.elapsed() >= SHARE_INTERVAL {
                checked = Instant::now();
                if session.ownership.share_has_changed()? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

fn decide<T: CommandTopic>(
    session: &mut Session,
    batch: CommandBatch<T::Command>,
) -> Result<DecidedBatch<T::Outcome>, Error> {
    let topic = T::Command::TOPIC.name;
    let started = Instant::now();
    let CommandBatch { commands, dead_letters, positions } = batch;
    // A batch without commands has only dead letters and needs no transaction.
    let outcomes = if commands.is_empty() { Vec::new() } else { T::decide(session, commands)? };
    let confirmed = outcomes.iter().filter(|outcome| T::confirmed(outcome)).count();
    metrics::decided(topic, confirmed, outcomes.len() - confirmed, dead_letters.len());
    metrics::took(topic, "decide", started.elapsed());
    let took_us = started.elapsed().as_micros() as u64;
    log::debug!(
        topic, commands = outcomes.len(), confirmed, dead_letters = dead_letters.len(), took_us;
        "batch decided"
    );
    Ok(DecidedBatch { outcomes, dead_letters, positions })
}
