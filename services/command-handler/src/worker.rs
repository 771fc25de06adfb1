//! The loop of a command topic: owns partitions, takes a batch from the reader, decides and stores
//! it, and hands it over to the publisher. Reading, deciding and publishing run in parallel on
//! three threads. Each of them keeps the order of the batches.

use crate::command_topic::CommandTopic;
use crate::config::Config;
use crate::consume::{CommandBatch, CommandReader};
use crate::error::Error;
use crate::metrics;
use crate::monitor::{GROUP, TopicMonitor, TopicState};
use crate::publish::{DecidedBatch, Published, Publisher};
use crate::store::Session;
use avro::Record;
use avro::registry::Registry;
use messaging::Position;
use messaging::consumer::{committed_offsets, log_ranges};
use service::log::Chain;
use service::ownership::{Deleted, Positions, Progress, RENEW_INTERVAL};
use service::shutdown::Shutdown;
use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Longest wait for a batch. An idle worker notices a shutdown request at most this late.
const BATCH_WAIT: Duration = Duration::from_millis(100);

/// Most commands in one transaction. A larger batch takes more memory and is hardly faster:
/// docs/decisions/0008-batch-sizes.md.
const TRANSACTION_COMMANDS: usize = 1000;

/// Time without an answer from Kafka after which a worker gives its partitions back.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Time limit for the log range of the topic, before the partitions are read.
const LOG_RANGE_WITHIN: Duration = Duration::from_secs(5);

/// Interval at which the oldest snapshot of the database is measured.
const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(5);

/// Deadline for publishing the last batch after a shutdown request. A shutdown may take 1 s.
const LAST_BATCH: Duration = Duration::from_millis(900);

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Decides the commands of one topic, in the partitions that this handler owns.
pub struct Worker {
    pub config: Config,
    pub registry: Registry,
    pub shutdown: Shutdown,
}

impl Worker {
    /// Runs until shutdown. Calls `ready(true)` when the topic is served and `ready(false)` when it
    /// is no longer.
    ///
    /// # Errors
    /// The first error that is not retryable.
    pub fn run<T: CommandTopic>(&self, ready: &dyn Fn(bool)) -> Result<(), Error> {
        let topic = T::Command::TOPIC.name;
        let kafka = &self.config.producer.kafka;
        let Some(encoders) = T::open(&self.registry, &self.shutdown)? else { return Ok(()) };
        let published = Arc::new(Published::default());
        let mut serving = Serving {
            worker: self,
            id: Uuid::new_v4(),
            publisher: Publisher::start(
                encoders,
                &self.config.producer,
                published.clone(),
                &self.shutdown,
            ),
            monitor: TopicMonitor::start(kafka, topic, published.clone(), &self.shutdown),
            published,
            renewed: Instant::now(),
            is_ready: false,
            has_served: false,
            ready,
        };
        let mut backoff = BACKOFF_MIN;
        while !self.shutdown.requested() {
            let result = serving.own_and_serve::<T>();
            serving.set_ready(false);
            match result {
                Ok(()) => {}
                Err(err) if err.is_retryable() && !self.shutdown.requested() => {
                    if mem::take(&mut serving.has_served) {
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
                Err(err) if err.is_retryable() => {
                    log::warn!(
                        topic, error:% = Chain(&err);
                        "failed during shutdown, not retrying"
                    );
                }
                Err(err) => return Err(err),
            }
        }
        serving.monitor.stop();
        Ok(())
    }
}

/// The state of a worker.
struct Serving<'a, O> {
    worker: &'a Worker,
    /// Identifies the worker to others.
    id: Uuid,
    publisher: Publisher<O>,
    monitor: TopicMonitor,
    published: Arc<Published>,
    /// When the lease was renewed.
    renewed: Instant,
    is_ready: bool,
    /// True if commands were read since the last error.
    has_served: bool,
    ready: &'a dyn Fn(bool),
}

impl<O: Send + 'static> Serving<'_, O> {
    fn set_ready(&mut self, ready: bool) {
        if mem::replace(&mut self.is_ready, ready) != ready {
            (self.ready)(ready);
        }
    }

    /// Runs one database session: owns a share of the partitions and serves them until shutdown or
    /// an error.
    fn own_and_serve<T: CommandTopic<Outcome = O>>(&mut self) -> Result<(), Error> {
        let worker = self.worker;
        // A worker that cannot publish or reach Kafka must not own partitions.
        while !self.publisher.flush(BATCH_WAIT)? {
            if worker.shutdown.requested() {
                return Ok(());
            }
        }
        let Some(state) = self.wait_for_kafka() else { return Ok(()) };
        let mut session = Session::open(&worker.config.database, &worker.shutdown)?;
        session.join(T::Command::TOPIC.name, self.id, state.partitions)?;
        let result = self.serve_shares::<T>(&mut session, state);
        match result {
            // The connection may be lost, or the partitions belong to another worker.
            Err(Error::Database(_)) => result,
            _ => result.and(session.owning(|ownership, client| ownership.leave(client))),
        }
    }

    /// Waits until Kafka has answered within [`SILENCE_MAX`]. `None` if shutdown is requested
    /// first.
    fn wait_for_kafka(&self) -> Option<TopicState> {
        loop {
            match self.monitor.topic() {
                Some(state) if state.age() < SILENCE_MAX => return Some(state),
                _ if self.worker.shutdown.wait(Duration::from_millis(5)) => return None,
                _ => {}
            }
        }
    }

    fn serve_shares<T: CommandTopic<Outcome = O>>(
        &mut self,
        session: &mut Session,
        mut state: TopicState,
    ) -> Result<(), Error> {
        let worker = self.worker;
        let topic = T::Command::TOPIC.name;
        while !worker.shutdown.requested() {
            // The partitions may go to another handler, or be read again from `resume`.
            self.wait_for_publisher(session, |publisher| publisher.flush(BATCH_WAIT))?;
            self.store_published(session)?;
            if worker.shutdown.requested() {
                break;
            }
            let latest = self.monitor.topic().unwrap_or(state);
            if latest.partitions != state.partitions {
                session.join(topic, self.id, latest.partitions)?;
            }
            state = latest;
            session.owning(|ownership, client| ownership.take_share(client))?;
            // What the session before has published.
            self.store_published(session)?;
            let positions = self.start_positions(session, topic, state)?;
            let partitions: Vec<i32> = positions.iter().map(|it| it.partition).collect();
            log::info!(topic, partitions:?; "serving");
            let kafka = &worker.config.producer.kafka;
            let reader = CommandReader::start::<T>(
                kafka,
                &worker.registry,
                worker.config.retention,
                state.id,
                positions,
                TRANSACTION_COMMANDS,
            );
            // The leaders have just answered.
            self.set_ready(true);
            self.serve::<T>(session, &reader, state)?;
        }
        if !self.publisher.flush(LAST_BATCH)? {
            log::warn!(topic; "stopped with unpublished outcomes: the next start publishes them");
        }
        self.store_published(session)
    }

    /// Compares the stored positions with the log. Returns where to read, and stores what changed.
    fn start_positions(
        &mut self,
        session: &mut Session,
        topic: &'static str,
        state: TopicState,
    ) -> Result<Vec<Position>, Error> {
        let topic_id = state.id.map(|id| Uuid::from_bytes(id.0));
        let owned = session.owning(|ownership, _| Ok(ownership.owned().clone()))?;
        let (kafka, stop) = (&self.worker.config.producer.kafka, &self.worker.shutdown);
        let log = log_ranges(kafka, topic, LOG_RANGE_WITHIN, stop)?;
        let committed = if owned.values().any(|it| it.progress == Progress::New) {
            committed_offsets(kafka, GROUP, topic, LOG_RANGE_WITHIN, stop)?
        } else {
            Vec::new()
        };
        let mut starts = BTreeMap::new();
        for (&partition, owned) in &owned {
            let index = usize::try_from(partition).unwrap_or(usize::MAX);
            // The topic has got fewer partitions since it was asked for them.
            let Some(&range) = log.get(index) else { continue };
            let committed = committed.get(index).copied().flatten();
            let next = owned.start(topic, partition, committed, topic_id, range).map_err(
                |Deleted { from, earliest }| Error::Deleted { topic, partition, from, earliest },
            )?;
            starts.insert(partition, next);
        }
        session.owning(|ownership, client| ownership.begin(client, &starts, topic_id))?;
        self.published.begin(&starts);
        Ok(starts.into_iter().map(|(partition, next)| Position { partition, next }).collect())
    }

    /// Decides batches until the share of partitions or the topic changes.
    fn serve<T: CommandTopic<Outcome = O>>(
        &mut self,
        session: &mut Session,
        reader: &CommandReader<T::Command>,
        state: TopicState,
    ) -> Result<(), Error> {
        let mut idle_since = Instant::now();
        let (worker, published) = (self.worker, self.published.clone());
        let mut measured = Instant::now();
        while !worker.shutdown.requested() {
            if let Some(batch) = reader.next(BATCH_WAIT)? {
                let decided = decide::<T>(session, batch, published.take_unstored())?;
                self.wait_for_publisher(session, |publisher| publisher.has_room(BATCH_WAIT))?;
                self.publisher.hand_over(decided);
                idle_since = Instant::now();
            }
            if self.renewed.elapsed() >= RENEW_INTERVAL {
                self.renewed = Instant::now();
                self.store_published(session)?;
                if session.owning(|ownership, client| ownership.share_has_changed(client))? {
                    return Ok(());
                }
                if let Some(latest) = self.monitor.topic()
                    && (latest.partitions, latest.id) != (state.partitions, state.id)
                {
                    log::warn!(
                        topic = T::Command::TOPIC.name, partitions = latest.partitions;
                        "the topic has changed, assigning its partitions again"
                    );
                    return Ok(());
                }
            }
            if measured.elapsed() >= SNAPSHOT_INTERVAL {
                measured = Instant::now();
                metrics::oldest_snapshot(session.oldest_snapshot()?);
            }
            self.check_kafka(reader, idle_since)?;
            self.set_ready(!published.is_refused());
        }
        Ok(())
    }

    /// Checks that Kafka answers. The reader does not ask Kafka while a batch waits, so it may be
    /// silent for as long as the worker is idle.
    ///
    /// # Errors
    /// [`Error::Silent`] after [`SILENCE_MAX`].
    fn check_kafka<C: Record + Send + 'static>(
        &mut self,
        reader: &CommandReader<C>,
        idle_since: Instant,
    ) -> Result<(), Error> {
        let idle = idle_since.elapsed();
        let reader_silence = match reader.silence() {
            Some(silence) => {
                self.has_served = true;
                silence.min(idle)
            }
            None => idle,
        };
        let monitor_silence = self.monitor.topic().map_or(idle, |state| state.age());
        let silence = reader_silence.max(monitor_silence);
        if silence < SILENCE_MAX { Ok(()) } else { Err(Error::Silent(silence)) }
    }

    /// Waits until the publisher is done with something, or shutdown is requested. Renews the lease
    /// meanwhile.
    ///
    /// # Errors
    /// [`Error::Silent`] if Kafka has neither acknowledged nor refused a batch for [`SILENCE_MAX`].
    fn wait_for_publisher(
        &mut self,
        session: &mut Session,
        mut is_done: impl FnMut(&mut Publisher<O>) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let mut asked = Instant::now();
        while !is_done(&mut self.publisher)? && !self.worker.shutdown.requested() {
            self.renew(session)?;
            if self.published.is_refused() {
                self.set_ready(false);
                asked = Instant::now();
            }
            if asked.elapsed() >= SILENCE_MAX {
                return Err(Error::Silent(asked.elapsed()));
            }
        }
        Ok(())
    }

    /// Renews the lease once per [`RENEW_INTERVAL`].
    fn renew(&mut self, session: &mut Session) -> Result<(), Error> {
        if self.renewed.elapsed() >= RENEW_INTERVAL {
            self.renewed = Instant::now();
            session.owning(|ownership, client| ownership.renew(client))?;
        }
        Ok(())
    }

    /// Stores how far the outcomes are published, if no batch has stored it yet.
    fn store_published(&self, session: &mut Session) -> Result<(), Error> {
        if session.owning(|ownership, _| Ok(ownership.owned().is_empty()))? {
            return Ok(());
        }
        let resume = self.published.take_unstored();
        if resume.is_empty() {
            return Ok(());
        }
        session.store_positions(&Positions { next: BTreeMap::new(), resume })
    }
}

fn decide<T: CommandTopic>(
    session: &mut Session,
    batch: CommandBatch<T::Command>,
    published: BTreeMap<i32, i64>,
) -> Result<DecidedBatch<T::Outcome>, Error> {
    let topic = T::Command::TOPIC.name;
    let started = Instant::now();
    let CommandBatch { commands, dead_letters, positions } = batch;
    let stored = Positions { next: positions, resume: published };
    let outcomes = if commands.is_empty() {
        // The batch has only dead letters.
        session.store_positions(&stored)?;
        Vec::new()
    } else {
        T::decide(session, commands, &stored)?
    };
    let confirmed = outcomes.iter().filter(|outcome| T::confirmed(outcome)).count();
    metrics::decided(topic, confirmed, outcomes.len() - confirmed, dead_letters.len());
    metrics::took(topic, "decide", started.elapsed());
    let took_us = started.elapsed().as_micros() as u64;
    log::debug!(
        topic, commands = outcomes.len(), confirmed, dead_letters = dead_letters.len(), took_us;
        "batch decided"
    );
    Ok(DecidedBatch { outcomes, dead_letters, positions: stored.next })
}
