//! The loop of a command topic: own partitions -> take a batch -> decide and store it -> hand it to
//! the publisher. Reading, deciding and publishing overlap, each on its own thread, each in the
//! order of the batches.

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

/// Interval at which a session counts the members of the topic and claims free partitions. Also
/// its heartbeat: PostgreSQL ends a session that is idle for 10 s.
const SHARE_INTERVAL: Duration = Duration::from_secs(1);

/// Longest wait for a batch, and so until an idle worker sees that shutdown was requested.
const BATCH_WAIT: Duration = Duration::from_millis(100);

/// Most commands decided in one transaction. More is hardly faster and takes more memory:
/// docs/decisions/0008-batch-sizes.md.
const TRANSACTION_COMMANDS: usize = 1000;

/// Time for the last batch: what is left of the second that a shutdown may take.
const LAST_BATCH: Duration = Duration::from_millis(900);

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// Handles the commands of one topic, in the partitions that this handler owns.
pub struct Worker {
    /// Settings.
    pub config: Config,
    /// The schema registry.
    pub registry: Registry,
    /// Ends the work.
    pub shutdown: Shutdown,
}

impl Worker {
    /// Works until shutdown; calls `ready` with whether the topic is served.
    ///
    /// # Errors
    /// One that is not retryable.
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
                    log::warn!(topic, error:% = Chain(&err), retry_in_ms = backoff.as_millis() as u64; "handling failed, starting over");
                    self.shutdown.wait(backoff);
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
                // Kafka did not take the last batch in time.
                Err(err) if err.is_retryable() && self.shutdown.requested() => {
                    log::warn!(topic, error:% = Chain(&err); "stopping");
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
            Err(err) if err.is_retryable() => log::warn!(topic, error:% = Chain(&err); "stopping"),
            Err(err) => return Err(err),
        }
        log::warn!(topic; "stopped before the last batch was published: it is published after the next start");
        Ok(())
    }

    /// One session: owns a share of the partitions and serves them until shutdown, or an error that
    /// ends the session.
    fn own_and_serve<T: CommandTopic>(
        &self,
        publisher: &mut Publisher<T::Outcome>,
        ready: &dyn Fn(bool),
    ) -> Result<(), Error> {
        let topic = T::Command::TOPIC;
        let mut session = Session::open(&self.config.database, topic, &self.shutdown)?;
        while !self.shutdown.requested() {
            // Batches in flight belong to partitions that may go to another handler, or be read
            // again from their committed offset: both require that they are published first.
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

    /// Decides batch after batch until the share of partitions changes.
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
    // A batch of dead letters only needs no transaction.
    let outcomes = if commands.is_empty() { Vec::new() } else { T::decide(session, commands)? };
    let confirmed = outcomes.iter().filter(|outcome| T::confirmed(outcome)).count();
    metrics::decided(topic, confirmed, outcomes.len() - confirmed, dead_letters.len());
    metrics::took(topic, "decide", started.elapsed());
    log::debug!(topic, commands = outcomes.len(), confirmed, dead_letters = dead_letters.len(), took_us = started.elapsed().as_micros() as u64; "batch decided");
    Ok(DecidedBatch { outcomes, dead_letters, positions })
}
