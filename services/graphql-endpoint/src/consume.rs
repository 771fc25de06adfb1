//! The consume loop: poll a batch from the owned partitions of balance_changed, store it, publish
//! it to subscribers, commit the offsets.

use crate::config::Config;
use crate::error::Error;
use crate::hub::{Ending, Hub};
use crate::metrics;
use crate::store::{self, ChangeRecord, NotificationListener, TransactionWriter, WriterId};
use avro::Decoder;
use avro::registry::Registry;
use bank::limits::BALANCE_CHANGED_BYTES_MAX;
use bank::records::BalanceChanged;
use bank::topology::BALANCE_CHANGED;
use messaging::consumer::{Consumer, OffsetReset, start_positions};
use messaging::producer::{Outgoing, Producer};
use messaging::{Assignment, ErrorKind, FetchedRecord, KafkaClient, Position};
use service::log::Chain;
use service::shutdown::Shutdown;
use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Consumer group that the offsets are committed for.
const GROUP: &str = "graphql-endpoint";

/// Maximum of transactions in one database transaction.
const BATCH_MAX: usize = 2000;
/// Interval at which an endpoint counts the other endpoints and claims free partitions. Also its
/// heartbeat, since PostgreSQL ends a session that is idle for 10 s.
const SHARE_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum wait of a poll. An idle thread notices a shutdown after this time.
pub const POLL_WAIT: Duration = Duration::from_millis(100);
/// Interval of offset commits. After a crash, records since the last commit are read again; the
/// store ignores duplicates.
const COMMIT_INTERVAL: Duration = Duration::from_millis(500);
/// Timeout of requests to the brokers that are repeated anyway.
const BROKER_WAIT: Duration = Duration::from_millis(800);

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// Stores and publishes the records of the partitions that this endpoint owns.
pub struct Worker {
    pub config: Config,
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
    pub fn run(&self, ready: &dyn Fn(bool)) -> Result<(), Error> {
        let mut client = messaging::connect_until(&self.config.producer.kafka, &self.shutdown);
        let result = retry(&self.shutdown, "session lost, reconnecting", || {
            let result = self.own_and_serve(&mut *client, ready);
            if result.is_err() {
                ready(false);
            }
            result
        });
        if self.config.is_member
            && let Err(err) = client.leave(GROUP)
        {
            log::warn!(error:% = Chain(&err); "could not leave the consumer group");
        }
        result
    }

    /// One database session: claims a share of the partitions and serves them until shutdown.
    fn own_and_serve(
        &self,
        client: &mut dyn KafkaClient,
        ready: &dyn Fn(bool),
    ) -> Result<(), Error> {
        let topic = BALANCE_CHANGED.name;
        let kafka = &self.config.producer.kafka;
        let id = self.writer.get();
        let mut writer = TransactionWriter::open(&self.config.database, id, &self.shutdown)?;
        while !self.shutdown.requested() {
            let Some(share) = self.take_share(&mut writer, client)? else { break };
            log::info!(topic, partitions:? = share.partitions; "serving");
            let within = Duration::from_secs(5);
            let (owned, stop) = (&share.partitions, &self.shutdown);
            let offset_reset = OffsetReset::Earliest;
            let positions =
                start_positions(kafka, GROUP, topic, owned, offset_reset, within, stop)?;
            let mut partitions = ServedPartitions {
                worker: self,
                generation: share.generation,
                consumer: Consumer::start(kafka, topic, positions),
                decoder: Decoder::new(self.registry.clone()),
                stored: BTreeMap::new(),
                committed: Instant::now(),
            };
            ready(true);
            partitions.serve(&mut writer, client)?;
        }
        Ok(())
    }

    /// Takes the share of this endpoint, by locks in the database or from the consumer group.
    /// `None` if shutdown was requested meanwhile.
    fn take_share(
        &self,
        writer: &mut TransactionWriter,
        client: &mut dyn KafkaClient,
    ) -> Result<Option<Share>, Error> {
        while !self.shutdown.requested() {
            let share = if self.config.is_member {
                writer.ownership.share()?;
                match client.poll_assignment(GROUP, &[BALANCE_CHANGED.name], BROKER_WAIT) {
                    Ok(Assignment { generation, partitions }) => {
                        let partitions = partitions.into_iter().map(|(_, it)| it).collect();
                        Share { partitions, generation: Some(generation) }
                    }
                    Err(err) if err.is_retryable() => {
                        log::warn!(error:% = Chain(&err); "waiting for the consumer group");
                        continue;
                    }
                    Err(err) => return Err(err.into()),
                }
            } else {
                let partitions = writer.ownership.take_share()?;
                Share { partitions, generation: None }
            };
            return Ok(Some(share));
        }
        Ok(None)
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

/// The partitions of this endpoint.
struct Share {
    partitions: Vec<i32>,
    /// Generation of the consumer group; `None` if locks assign the partitions.
    generation: Option<i32>,
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

/// The partitions that are being served.
struct ServedPartitions<'a> {
    worker: &'a Worker,
    /// See [`Share`].
    generation: Option<i32>,
    consumer: Consumer,
    decoder: Decoder<BalanceChanged>,
    /// Next offset of each partition that is stored but not committed yet.
    stored: BTreeMap<i32, i64>,
    committed: Instant,
}

impl ServedPartitions<'_> {
    /// Stores batches until the share of partitions changes.
    fn serve(
        &mut self,
        writer: &mut TransactionWriter,
        client: &mut dyn KafkaClient,
    ) -> Result<(), Error> {
        let mut checked = Instant::now();
        while !self.worker.shutdown.requested() {
            self.poll(writer)?;
            if self.committed.elapsed() >= COMMIT_INTERVAL {
                self.commit(client)?;
            }
            if checked.elapsed() >= SHARE_INTERVAL {
                checked = Instant::now();
                if self.share_has_changed(writer, client)? {
                    break;
                }
            }
        }
        self.commit(client)
    }

    /// True if the share of this endpoint has changed. Also a heartbeat to the database and the
    /// consumer group.
    fn share_has_changed(
        &mut self,
        writer: &mut TransactionWriter,
        client: &mut dyn KafkaClient,
    ) -> Result<bool, Error> {
        if let Some(generation) = self.generation {
            writer.ownership.share()?;
            // Commit before the rebalance: the next owner starts at the committed offset.
            self.commit(client)?;
            match client.poll_assignment(GROUP, &[BALANCE_CHANGED.name], Duration::ZERO) {
                Ok(assignment) => Ok(assignment.generation != generation),
                Err(err) if err.is_retryable() => Ok(true),
                Err(err) => Err(err.into()),
            }
        } else {
            Ok(writer.ownership.share_has_changed()?)
        }
    }

    fn poll(&mut self, writer: &mut TransactionWriter) -> Result<(), Error> {
        let mut batch = Vec::new();
        let mut positions = BTreeMap::new();
        for data in self.consumer.poll(POLL_WAIT)? {
            for record in data.records {
                let (partition, offset) = (data.partition, record.offset);
                match self.decode(&record)? {
                    Ok(change) => batch.push(ChangeRecord { partition, offset, change }),
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
        self.store(writer, &mut batch, &mut positions)
    }

    fn store(
        &mut self,
        writer: &mut TransactionWriter,
        batch: &mut Vec<ChangeRecord>,
        positions: &mut BTreeMap<i32, i64>,
    ) -> Result<(), Error> {
        if !batch.is_empty() {
            let started = Instant::now();
            let stored = writer.store(&mem::take(batch));
            if matches!(stored, Err(Error::Commit(_))) {
                self.worker.end_subscriptions();
            }
            let stored = stored?;
            metrics::STORED.inc_by(stored.len() as u64);
            metrics::STORE_SECONDS.observe(started.elapsed().as_secs_f64());
            self.worker.hub.publish(stored);
        }
        self.stored.append(positions);
        Ok(())
    }

    /// The change in a record, or why it cannot be stored. While the registry is unavailable, the
    /// outer result is an error, so that the record is read again instead of skipped.
    fn decode(&mut self, record: &FetchedRecord) -> Result<Result<BalanceChanged, String>, Error> {
        let Some(value) = &record.value else { return Ok(Err("no value".to_owned())) };
        if value.len() > BALANCE_CHANGED_BYTES_MAX {
            let bytes = value.len();
            return Ok(Err(format!(
                "value of {bytes} bytes, more than {BALANCE_CHANGED_BYTES_MAX}"
            )));
        }
        match self.decoder.decode(value) {
            Ok(change) => Ok(match store::unstorable(&change) {
                Some(reason) => Err(reason.to_owned()),
                None => Ok(change),
            }),
            Err(avro::Error::Undecodable(reason)) => Ok(Err(reason)),
            Err(err) => Err(err.into()),
        }
    }

    /// Sends the record to the topic dead_letter.
    fn send_dead_letter(
        &self,
        partition: i32,
        record: FetchedRecord,
        reason: &str,
    ) -> Result<(), Error> {
        let (topic, offset) = (BALANCE_CHANGED.name, record.offset);
        let value = record.value.unwrap_or_default();
        let dead_letter = Outgoing::dead_letter(topic, partition, offset, value, reason);
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

    fn commit(&mut self, client: &mut dyn KafkaClient) -> Result<(), Error> {
        self.committed = Instant::now();
        if self.stored.is_empty() {
            return Ok(());
        }
        let position = |(&partition, &next): (&i32, &i64)| Position { partition, next };
        let positions: Vec<Position> = self.stored.iter().map(position).collect();
        match client.commit(GROUP, BALANCE_CHANGED.name, &positions, BROKER_WAIT) {
            Ok(()) => self.stored.clear(),
            Err(err) if err.kind == ErrorKind::Config => return Err(err.into()),
            // Another member owns the partitions now. It finds the records in the store.
            Err(err) if err.kind == ErrorKind::Fenced && self.generation.is_some() => {
                log::warn!(
                    error:% = Chain(&err);
                    "offsets not committed: the partitions belong to another member"
                );
                self.stored.clear();
            }
            // The next commit includes these offsets.
            Err(err) => log::warn!(error:% = Chain(&err); "offsets not committed, retrying"),
        }
        Ok(())
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

/// Publishes the transactions that other endpoints have stored, until shutdown. Begins with
/// `listener`, and replaces it when its connection is lost.
///
/// # Errors
/// The first error that is not retryable.
pub fn follow_other_endpoints(
    listener: NotificationListener,
    config: &Config,
    writer: &Arc<WriterId>,
    hub: &Hub,
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
                hub.end_all(Ending::Interrupted);
                listener
            }
        };
        let mut checked = Instant::now();
        while !shutdown.requested() {
            listener.next(POLL_WAIT, |stored| hub.publish(stored))?;
            if checked.elapsed() >= SHARE_INTERVAL {
                checked = Instant::now();
                listener.check()?;
            }
        }
        Ok(())
    })
}
