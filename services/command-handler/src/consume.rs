//! The loop: own partitions -> take a batch -> decide and store it -> hand it to the publisher. Taking in, deciding and
//! publishing overlap, each on its own thread, each in the order of the batches.

use crate::config::Config;
use crate::desk::Desk;
use crate::error::Error;
use crate::intake::{Batch, Intake};
use crate::metrics;
use crate::publish::{Decided, GROUP, Publisher};
use crate::store::Session;
use avro::Record;
use avro::registry::Registry;
use messaging::consumer::{OffsetReset, start_positions};
use service::log::Chain;
use service::shutdown::Shutdown;
use std::time::{Duration, Instant};

/// How often a session shows a sign of life, counts the members and looks for partitions without an owner.
const LOOK: Duration = Duration::from_secs(1);

/// Longest time until a worker without work sees that the stop was asked for.
const STOP_LOOK: Duration = Duration::from_millis(100);

/// What is left of the second that a stop may take.
const LAST_BATCH: Duration = Duration::from_millis(900);

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// All commands of one topic that this handler owns.
pub struct Worker {
    /// Configuration.
    pub config: Config,
    /// Where schemas are.
    pub registry: Registry,
    /// Ends the work.
    pub shutdown: Shutdown,
}

impl Worker {
    /// Works until the stop is asked for; `ready` hears whether the topic is served.
    ///
    /// # Errors
    /// What can't be waited for.
    pub fn run<D: Desk>(&self, ready: &dyn Fn(bool)) -> Result<(), Error> {
        let topic = D::Command::TOPIC.name;
        let Some(desk) = D::open(&self.registry, &self.shutdown)? else { return Ok(()) };
        let mut publisher = Publisher::start(desk, &self.config.producer, &self.shutdown);
        let mut backoff = BACKOFF_MIN;
        while !self.shutdown.requested() {
            let started = Instant::now();
            match self.own_and_serve::<D>(&mut publisher, ready) {
                Ok(()) => {}
                Err(err) if err.is_retryable() && !publisher.has_failed() => {
                    ready(false);
                    if started.elapsed() > BACKOFF_MAX {
                        backoff = BACKOFF_MIN;
                    }
                    log::warn!(topic, error:% = Chain(&err), again_in_ms = backoff.as_millis() as u64; "starting over");
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
        match publisher.flush(Some(Instant::now() + LAST_BATCH)) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(err) if err.is_retryable() => log::warn!(topic, error:% = Chain(&err); "stopping"),
            Err(err) => return Err(err),
        }
        log::warn!(topic; "stopped before the last batch was told: it will be after the next start");
        Ok(())
    }

    /// One session: owns a share of the partitions and serves them until the stop, or an error that ends the session.
    fn own_and_serve<D: Desk>(
        &self,
        publisher: &mut Publisher<D::Outcome>,
        ready: &dyn Fn(bool),
    ) -> Result<(), Error> {
        let topic = D::Command::TOPIC;
        let mut session = Session::open(&self.config.database, topic, &self.shutdown)?;
        while !self.shutdown.requested() {
            // What is in flight belongs to partitions that may go to another handler, or be read again from their committed
            // offset: both want it done.
            while !publisher.flush(Some(Instant::now() + STOP_LOOK))? {
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
            let intake = Intake::start::<D>(
                kafka,
                &self.registry,
                positions,
                self.config.transaction_records,
            );
            ready(true);
            self.serve::<D>(&mut session, &intake, publisher)?;
        }
        Ok(())
    }

    /// Decides batch after batch until the partitions should be shared out anew.
    fn serve<D: Desk>(
        &self,
        session: &mut Session,
        intake: &Intake<D::Command>,
        publisher: &mut Publisher<D::Outcome>,
    ) -> Result<(), Error> {
        let mut looked = Instant::now();
        while !self.shutdown.requested() {
            if let Some(batch) = intake.next(STOP_LOOK)? {
                let decided = decide::<D>(session, batch)?;
                publisher.hand_over(decided, || Ok(session.ownership.share().map(drop)?))?;
            }
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                if session.ownership.share_has_changed()? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

fn decide<D: Desk>(
    session: &mut Session,
    batch: Batch<D::Command>,
) -> Result<Decided<D::Outcome>, Error> {
    let topic = D::Command::TOPIC.name;
    let started = Instant::now();
    let Batch { commands, letters, positions } = batch;
    // Only dead letters: nothing to ask the database.
    let outcomes = if commands.is_empty() { Vec::new() } else { D::decide(session, commands)? };
    let confirmed = outcomes.iter().filter(|outcome| D::confirmed(outcome)).count();
    metrics::decided(topic, confirmed, outcomes.len() - confirmed, letters.len());
    metrics::took(topic, "decide", started.elapsed());
    log::debug!(topic, commands = outcomes.len(), confirmed, letters = letters.len(), took_us = started.elapsed().as_micros() as u64; "batch decided");
    Ok(Decided { outcomes, letters, positions })
}
