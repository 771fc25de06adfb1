//! The consume loop: poll a batch from the owned partitions of a topic, store it with its
//! positions, publish the transactions to subscribers.

use crate::authorizations::Authorizations;
use crate::config::Config;
use crate::error::Error;
use crate::hub::{Ending, Hub};
use crate::metrics;
use crate::store::{
    Notification, NotificationListener, PositionedRecord, Projection, Writer, WriterId,
};
use avro::registry::Registry;
use avro::{Decoder, Record};
use messaging::consumer::{Consumer, committed_offsets, log_ranges};
use messaging::dead_letters::DeadLetters;
use messaging::producer::Producer;
use messaging::{
    Assignment, ErrorKind, FetchedRecord, KafkaClient, Position, TopicDescription, TopicId,
};
use service::log::Chain;
use service::ownership::{Deleted, Progress, RENEW_INTERVAL};
use service::shutdown::Shutdown;
use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Maximum of records in one database transaction.
const BATCH_MAX: usize = 2000;
/// Maximum wait of a poll. An idle thread notices a shutdown after this time.
pub const POLL_WAIT: Duration = Duration::from_millis(100);
/// Pause after records that no client waits for. It makes one database transaction of several.
const UNPUBLISHED_PAUSE: Duration = Duration::from_millis(200);
/// Interval of offset commits to Kafka.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// Timeout of requests to the brokers that are repeated anyway.
const BROKER_WAIT: Duration = Duration::from_millis(800);
/// Timeout of requests while partitions are served.
const BROKER_WAIT_SERVING: Duration = Duration::from_millis(200);
/// Time without an answer from Kafka after which the endpoint gives its partitions back.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Time limit for the log ranges, before partitions are read.
const LOG_RANGE_WITHIN: Duration = Duration::from_secs(5);

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// Stores and publishes the records of the partitions that this endpoint owns.
pub struct Worker {
    pub config: Config,
    /// Identifies this process to other endpoints in the shares of the partitions.
    pub worker: Uuid,
    /// True if a consumer group assigns the partitions, otherwise leases in the database.
    pub is_member: bool,
    /// By which this process ignores its own notifications.
    pub writer: Arc<WriterId>,
    pub registry: Registry,
    /// Produces dead letters.
    pub producer: Arc<Producer>,
    pub hub: Arc<Hub>,
    pub shutdown: Shutdown,
}

impl Worker {
    /// Runs until shutdown. Calls `ready` with true when it owns partitions, with false after an
    /// error.
    ///
    /// # Errors
    /// The first error that is not retryable.
    pub fn run<R: Projection>(&self, ready: &dyn Fn(bool)) -> Result<(), Error> {
        let mut client = messaging::connect_until(&self.config.producer.kafka, &self.shutdown);
        let mut records = RecordDecoder {
            decoder: Decoder::<R>::new(self.registry.clone()),
            dead_letters: DeadLetters::new(R::TOPIC.name),
        };
        let result = retry(&self.shutdown, "session lost, reconnecting", || {
            let result = self.own_and_serve(&mut *client, &mut records, ready);
            if result.is_err() {
                ready(false);
            }
            result
        });
        if self.is_member
            && let Err(err) = client.leave(R::GROUP)
        {
            log::warn!(error:% = Chain(&err); "could not leave the consumer group");
        }
        result
    }

    /// One database session: claims a share of the partitions and serves them until shutdown.
    fn own_and_serve<R: Projection>(
        &self,
        client: &mut dyn KafkaClient,
        records: &mut RecordDecoder<R>,
        ready: &dyn Fn(bool),
    ) -> Result<(), Error> {
        // An endpoint that does not reach Kafka must not own partitions.
        let topic = topic_state::<R>(client, BROKER_WAIT)?;
        let (config, id) = (&self.config.database, self.writer.get());
        let mut writer =
            Writer::<R>::open(config, id, self.worker, topic.partitions, &self.shutdown)?;
        let result = self.serve_shares(&mut writer, client, records, topic, ready);
        match result {
            // The connection may be lost, or the partitions belong to another endpoint.
            Err(Error::Database(_) | Error::Commit(_)) => result,
            _ => result.and(writer.owning(|ownership, client| ownership.leave(client))),
        }
    }

    fn serve_shares<R: Projection>(
        &self,
        writer: &mut Writer<R>,
        client: &mut dyn KafkaClient,
        records: &mut RecordDecoder<R>,
        state: TopicState,
        ready: &dyn Fn(bool),
    ) -> Result<(), Error> {
        let topic = R::TOPIC.name;
        while !self.shutdown.requested() {
            let Some(generation) = self.take_share(writer, client)? else { break };
            let positions = self.start_positions(writer, topic, state.id)?;
            let starts: BTreeMap<i32, i64> =
                positions.iter().map(|it| (it.partition, it.next)).collect();
            log::info!(topic, partitions:? = starts.keys().collect::<Vec<_>>(); "serving");
            let mut served = ServedPartitions {
                worker: self,
                generation: generation.0,
                state,
                answered: Instant::now(),
                consumer: Consumer::start_in(
                    &self.config.producer.kafka,
                    topic,
                    state.id,
                    positions,
                ),
                records,
                // The commit of the owner before may have failed.
                stored: starts,
                committed: Instant::now(),
            };
            ready(true);
            served.serve(writer, client)?;
        }
        Ok(())
    }

    /// Takes the share of this endpoint, by the leases in the database or from the consumer group.
    /// `None` if shutdown was requested meanwhile.
    fn take_share<R: Projection>(
        &self,
        writer: &mut Writer<R>,
        client: &mut dyn KafkaClient,
    ) -> Result<Option<Generation>, Error> {
        if !self.is_member {
            writer.owning(|ownership, client| ownership.take_share(client))?;
            return Ok(Some(Generation(None)));
        }
        while !self.shutdown.requested() {
            writer.owning(|ownership, client| ownership.heartbeat(client))?;
            match client.poll_assignment(R::GROUP, &[R::TOPIC.name], BROKER_WAIT) {
                Ok(Assignment { generation, partitions }) => {
                    let partitions: Vec<i32> = partitions.into_iter().map(|(_, it)| it).collect();
                    writer.owning(|ownership, client| ownership.seize(client, &partitions))?;
                    return Ok(Some(Generation(Some(generation))));
                }
                Err(err) if err.is_retryable() => {
                    log::warn!(error:% = Chain(&err); "waiting for the consumer group");
                }
                Err(err) => return Err(err.into()),
            }
        }
        Ok(None)
    }

    /// Compares the stored positions with the log. Returns where to read, and stores what changed.
    fn start_positions<R: Projection>(
        &self,
        writer: &mut Writer<R>,
        topic: &str,
        topic_id: Option<TopicId>,
    ) -> Result<Vec<Position>, Error> {
        let topic_id = topic_id.map(|id| Uuid::from_bytes(id.0));
        let owned = writer.owning(|ownership, _| Ok(ownership.owned().clone()))?;
        let (kafka, stop) = (&self.config.producer.kafka, &self.shutdown);
        let log = log_ranges(kafka, topic, LOG_RANGE_WITHIN, stop)?;
        let committed = if owned.values().any(|it| it.progress == Progress::New) {
            committed_offsets(kafka, R::GROUP, topic, LOG_RANGE_WITHIN, stop)?
        } else {
            Vec::new()
        };
        let mut starts = BTreeMap::new();
        for (&partition, owned) in &owned {
            let index = usize::try_from(partition).unwrap_or(usize::MAX);
            // The topic has got fewer partitions since it was asked for them.
            let Some(&range) = log.get(index) else { continue };
            let committed = committed.get(index).copied().flatten();
            let start = owned.start(topic, partition, committed, topic_id, range);
            let next = start.unwrap_or_else(|Deleted { from, earliest }| {
                log::error!(
                    topic, partition, from, earliest;
                    "records were deleted before they were stored: their effects are missing"
                );
                earliest
            });
            starts.insert(partition, next);
        }
        writer.owning(|ownership, client| ownership.begin(client, &starts, topic_id))?;
        Ok(starts.into_iter().map(|(partition, next)| Position { partition, next }).collect())
    }

    /// Ends all subscriptions after a commit without a response. The transactions may be stored and
    /// were not published, and a retry finds nothing new.
    ///
    /// The server may also execute that commit later. Its notification then has an id that is no
    /// longer this writer's, so [`follow_other_endpoints`] publishes its transactions.
    fn end_subscriptions(&self) {
        self.writer.replace();
        self.hub.end_all(Ending::Interrupted);
    }
}

/// Generation of the consumer group; `None` if leases in the database assign the partitions.
struct Generation(Option<i32>);

/// The state of the topic in Kafka.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TopicState {
    partitions: i32,
    /// `None` if the broker has no topic ids.
    id: Option<TopicId>,
}

fn topic_state<R: Record>(
    client: &mut dyn KafkaClient,
    within: Duration,
) -> messaging::Result<TopicState> {
    let TopicDescription { id, leaders } = client.describe_topic(R::TOPIC.name, within)?;
    Ok(TopicState { partitions: i32::try_from(leaders.len()).unwrap_or(i32::MAX), id })
}

/// Repeats `work` with backoff while it fails with a retryable error and no shutdown is requested.
///
/// # Errors
/// The first error that is not retryable.
pub fn retry(
    shutdown: &Shutdown,
    message: &str,
    mut work: impl FnMut() -> Result<(), Error>,
) -> Result<(), Error> {
    let mut backoff = BACKOFF_MIN;
    while !shutdown.requested() {
        let started = Instant::now();
        match work() {
            Err(err) if err.is_retryable() => {
                if started.elapsed() > BACKOFF_MAX {
                    backoff = BACKOFF_MIN;
                }
                let retry_in_ms = backoff.as_millis() as u64;
                log::warn!(error:% = Chain(&err), retry_in_ms; "{message}");
                shutdown.wait(backoff);
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
            result => return result,
        }
    }
    Ok(())
}

/// Decodes records. It outlives sessions: a schema id that is not registered yet is waited for.
struct RecordDecoder<R> {
    decoder: Decoder<R>,
    dead_letters: DeadLetters,
}

/// The partitions that are being served.
struct ServedPartitions<'a, R> {
    worker: &'a Worker,
    /// See [`Generation`].
    generation: Option<i32>,
    /// The topic that is read.
    state: TopicState,
    /// When Kafka last described it.
    answered: Instant,
    consumer: Consumer,
    records: &'a mut RecordDecoder<R>,
    /// Next offset of each partition that is stored and not committed to Kafka yet.
    stored: BTreeMap<i32, i64>,
    committed: Instant,
}

impl<R: Projection> ServedPartitions<'_, R> {
    /// Stores batches until the share of partitions changes.
    fn serve(&mut self, writer: &mut Writer<R>, client: &mut dyn KafkaClient) -> Result<(), Error> {
        let mut checked = Instant::now();
        while !self.worker.shutdown.requested() {
            let has_stored = self.poll(writer)?;
            if has_stored && !R::IS_PUBLISHED {
                self.worker.shutdown.wait(UNPUBLISHED_PAUSE);
            }
            if self.committed.elapsed() >= COMMIT_INTERVAL {
                self.commit(client);
            }
            if checked.elapsed() >= RENEW_INTERVAL {
                checked = Instant::now();
                if self.share_has_changed(writer, client)? {
                    break;
                }
            }
        }
        self.commit(client);
        Ok(())
    }

    /// True if the share of this endpoint has changed. Renews the lease in the database and sends a
    /// heartbeat to the consumer group.
    ///
    /// # Errors
    /// [`Error::Silent`] if Kafka has not answered for [`SILENCE_MAX`], or [`Error::TopicChanged`].
    fn share_has_changed(
        &mut self,
        writer: &mut Writer<R>,
        client: &mut dyn KafkaClient,
    ) -> Result<bool, Error> {
        match topic_state::<R>(client, BROKER_WAIT_SERVING) {
            Ok(state) if state != self.state => return Err(Error::TopicChanged),
            Ok(_) => self.answered = Instant::now(),
            Err(_) if self.answered.elapsed() >= SILENCE_MAX => {
                return Err(Error::Silent(self.answered.elapsed()));
            }
            // The client has logged it.
            Err(_) => {}
        }
        let Some(generation) = self.generation else {
            return writer.owning(|ownership, client| ownership.share_has_changed(client));
        };
        // Another member may have taken partitions that Kafka has assigned to it.
        writer.owning(|ownership, client| ownership.heartbeat(client))?;
        match client.poll_assignment(R::GROUP, &[R::TOPIC.name], Duration::ZERO) {
            Ok(assignment) => Ok(assignment.generation != generation),
            Err(err) if err.is_retryable() => Ok(true),
            Err(err) => Err(err.into()),
        }
    }

    /// Stores the next records. Returns false if there were none before the end of the wait.
    fn poll(&mut self, writer: &mut Writer<R>) -> Result<bool, Error> {
        let mut batch = Vec::new();
        let mut positions = BTreeMap::new();
        let polled = self.consumer.poll(POLL_WAIT)?;
        let is_empty = polled.is_empty();
        for data in polled {
            for record in data.records {
                let (partition, offset) = (data.partition, record.offset);
                match self.decode(&record)? {
                    Ok(record) => {
                        self.records.dead_letters.decoded();
                        batch.push(PositionedRecord { partition, offset, record });
                    }
                    Err(reason) => self.send_dead_letter(partition, record, &reason)?,
                }
                positions.insert(partition, offset + 1);
                if batch.len() >= BATCH_MAX {
                    self.store(writer, &mut batch, &mut positions)?;
                }
            }
            // Also moves past control records and the gaps of compaction.
            positions.insert(data.partition, data.next);
        }
        self.store(writer, &mut batch, &mut positions)?;
        Ok(!is_empty)
    }

    fn store(
        &mut self,
        writer: &mut Writer<R>,
        batch: &mut Vec<PositionedRecord<R>>,
        positions: &mut BTreeMap<i32, i64>,
    ) -> Result<(), Error> {
        if !positions.is_empty() {
            let started = Instant::now();
            let stored = writer.store(&mem::take(batch), positions);
            if R::IS_PUBLISHED && matches!(stored, Err(Error::Commit(_))) {
                self.worker.end_subscriptions();
            }
            let stored = stored?;
            if !stored.is_empty() {
                metrics::STORED.inc_by(stored.len() as u64);
                metrics::STORE_SECONDS.observe(started.elapsed().as_secs_f64());
                self.worker.hub.publish(stored);
            }
        }
        self.stored.append(positions);
        Ok(())
    }

    /// The decoded record, or why it cannot be stored. While the registry is unavailable, the
    /// outer result is an error, so that the record is read again instead of skipped.
    fn decode(&mut self, record: &FetchedRecord) -> Result<Result<R, String>, Error> {
        let Some(value) = &record.value else { return Ok(Err("no value".to_owned())) };
        let (bytes, bytes_max) = (value.len(), R::VALUE_BYTES_MAX);
        if bytes > bytes_max {
            return Ok(Err(format!("value of {bytes} bytes, more than {bytes_max}")));
        }
        match self.records.decoder.decode(value) {
            Ok(record) => Ok(match record.unstorable() {
                Some(reason) => Err(reason.to_owned()),
                None => Ok(record),
            }),
            Err(avro::Error::Undecodable(reason)) => Ok(Err(reason)),
            Err(err) => Err(err.into()),
        }
    }

    /// Sends the record to the topic dead_letter.
    fn send_dead_letter(
        &mut self,
        partition: i32,
        record: FetchedRecord,
        reason: &str,
    ) -> Result<(), Error> {
        let (topic, offset) = (R::TOPIC.name, record.offset);
        let value = record.value.unwrap_or_default();
        let dead_letter = self.records.dead_letters.add(partition, offset, value, reason);
        match self.worker.producer.send(dead_letter).wait() {
            Err(err) if err.kind == ErrorKind::Message => {
                log::error!(
                    topic, partition, offset, error:% = err;
                    "dead letter dropped: too large for its topic"
                );
                Ok(())
            }
            result => Ok(result?),
        }
    }

    /// Commits the stored offsets to Kafka. Only displays of the lag need them.
    fn commit(&mut self, client: &mut dyn KafkaClient) {
        self.committed = Instant::now();
        if self.stored.is_empty() {
            return;
        }
        let position = |(&partition, &next): (&i32, &i64)| Position { partition, next };
        let positions: Vec<Position> = self.stored.iter().map(position).collect();
        match client.commit(R::GROUP, R::TOPIC.name, &positions, BROKER_WAIT_SERVING) {
            Ok(()) => self.stored.clear(),
            Err(err) => log::warn!(
                group = R::GROUP, error:% = Chain(&err);
                "offsets not committed to Kafka: only displays of the lag need them"
            ),
        }
    }
}

/// Subscribes to the notifications of other endpoints, before the first client can subscribe.
/// `None` if shutdown was requested first.
///
/// # Errors
/// The first error that is not retryable.
pub fn listen_to_other_endpoints(
    config: &Config,
    writer: &Arc<WriterId>,
    shutdown: &Shutdown,
) -> Result<Option<NotificationListener>, Error> {
    let mut listener = None;
    retry(shutdown, "waiting for the database", || {
        listener = Some(NotificationListener::open(&config.database, writer, shutdown)?);
        Ok(())
    })?;
    Ok(listener)
}

/// What clients have open at this endpoint.
pub struct Streams {
    pub hub: Arc<Hub>,
    pub authorizations: Arc<Authorizations>,
}

/// Publishes the transactions that other endpoints have stored, until shutdown, and ends what was
/// opened with a replaced token. Begins with `listener`, and replaces it when its connection is
/// lost.
///
/// # Errors
/// The first error that is not retryable.
pub fn follow_other_endpoints(
    listener: NotificationListener,
    config: &Config,
    writer: &Arc<WriterId>,
    streams: &Streams,
    shutdown: &Shutdown,
) -> Result<(), Error> {
    let mut first = Some(listener);
    retry(shutdown, "lost the notifications of other endpoints, reconnecting", || {
        let mut listener = match first.take() {
            Some(listener) => listener,
            None => {
                let listener = NotificationListener::open(&config.database, writer, shutdown)?;
                // Another endpoint may have stored transactions meanwhile, also one that was
                // started meanwhile. Clients query the missing ones when they subscribe again.
                streams.hub.end_all(Ending::Interrupted);
                // Tokens may have been replaced meanwhile.
                streams.authorizations.end_all();
                listener
            }
        };
        let mut checked = Instant::now();
        while !shutdown.requested() {
            listener.next(POLL_WAIT, |notification| match notification {
                Notification::Stored(transactions) => streams.hub.publish(transactions),
                Notification::TokenReplaced(token) => streams.authorizations.end(token),
            })?;
            if checked.elapsed() >= RENEW_INTERVAL {
                checked = Instant::now();
                listener.check()?;
            }
        }
        Ok(())
    })
}
