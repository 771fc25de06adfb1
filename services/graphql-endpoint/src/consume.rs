//! The loop: own partitions of balance_changed -> take a batch -> store it -> hand it to subscribers -> commit offsets.

use crate::config::Config;
use crate::error::Error;
use crate::hub::{Ending, Hub};
use crate::metrics;
use crate::store::{self, Listener, Told, Writer};
use avro::Decoder;
use avro::registry::Registry;
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
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Consumer group of the offsets of balance_changed.
const GROUP: &str = "graphql-endpoint";

/// Most transactions stored at once.
const BATCH_MAX: usize = 2000;
/// How often a session shows a sign of life, counts the members and looks for partitions without an owner.
const LOOK: Duration = Duration::from_secs(1);
/// Longest time until a thread without work sees that the stop was asked for.
pub const STOP_LOOK: Duration = Duration::from_millis(100);
/// Time between two commits of offsets: what is read again after a crash is known to the store.
const COMMIT: Duration = Duration::from_millis(500);
/// Longest wait for a broker where waiting longer is no use.
const BROKER: Duration = Duration::from_millis(800);

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// Stores and publishes what this endpoint owns.
pub struct Worker {
    /// Configuration.
    pub config: Config,
    /// Names this endpoint among others.
    pub endpoint: Uuid,
    /// Where schemas are.
    pub registry: Registry,
    /// For dead_letter.
    pub producer: Arc<Producer>,
    /// Whom to tell.
    pub hub: Arc<Hub>,
    /// True while other endpoints share the partitions.
    pub others: Arc<AtomicBool>,
    /// Ends the work.
    pub shutdown: Shutdown,
}

impl Worker {
    /// Works until the stop is asked for; `ready` hears whether the topic is served.
    ///
    /// # Errors
    /// What can't be waited for.
    pub fn run(&self, ready: &dyn Fn(bool)) -> Result<(), Error> {
        let mut bus = messaging::connect_until(&self.config.producer.kafka, &self.shutdown);
        let result = retry(&self.shutdown, "starting over", || {
            let result = self.own_and_serve(&mut *bus, ready);
            if result.is_err() {
                ready(false);
            }
            result
        });
        if self.config.is_member
            && let Err(err) = bus.leave(GROUP)
        {
            log::warn!(error:% = Chain(&err); "the group is not told that this member leaves");
        }
        result
    }

    /// One session: owns a share of the partitions and serves them until the stop, or an error that ends the session.
    fn own_and_serve(&self, bus: &mut dyn KafkaClient, ready: &dyn Fn(bool)) -> Result<(), Error> {
        let topic = BALANCE_CHANGED.name;
        let kafka = &self.config.producer.kafka;
        let mut writer = Writer::open(&self.config.database, self.endpoint, &self.shutdown)?;
        while !self.shutdown.requested() {
            let Some(share) = self.take_share(&mut writer, bus)? else { break };
            log::info!(topic, partitions:? = share.partitions; "serving");
            let within = Duration::from_secs(5);
            let (owned, stop) = (&share.partitions, &self.shutdown);
            let offset_reset = OffsetReset::Earliest;
            let positions =
                start_positions(kafka, GROUP, topic, owned, offset_reset, within, stop)?;
            let mut partitions = Partitions {
                worker: self,
                generation: share.generation,
                consumer: Consumer::start(kafka, topic, positions),
                decoder: Decoder::new(self.registry.clone()),
                stored: BTreeMap::new(),
                committed: Instant::now(),
            };
            ready(true);
            partitions.serve(&mut writer, bus)?;
        }
        Ok(())
    }

    /// Takes the share of this endpoint, from the locks of the database or from the group; `None` if the stop was asked for meanwhile.
    fn take_share(
        &self,
        writer: &mut Writer,
        bus: &mut dyn KafkaClient,
    ) -> Result<Option<Share>, Error> {
        while !self.shutdown.requested() {
            let share = if self.config.is_member {
                writer.ownership.share()?;
                self.note_others(writer);
                match bus.poll_assignment(GROUP, &[BALANCE_CHANGED.name], BROKER) {
                    Ok(Assignment { generation, partitions }) => {
                        let partitions = partitions.into_iter().map(|(_, it)| it).collect();
                        Share { partitions, generation: Some(generation) }
                    }
                    Err(err) if err.is_retryable() => {
                        log::warn!(error:% = Chain(&err); "waiting for the group");
                        continue;
                    }
                    Err(err) => return Err(err.into()),
                }
            } else {
                let partitions = writer.ownership.take_share()?;
                self.note_others(writer);
                Share { partitions, generation: None }
            };
            return Ok(Some(share));
        }
        Ok(None)
    }

    /// After a look at how many endpoints there are: each has a session, whoever shares out the partitions.
    fn note_others(&self, writer: &Writer) {
        self.others.store(!writer.ownership.is_alone(), Ordering::Relaxed);
    }
}

/// What this endpoint works on.
struct Share {
    partitions: Vec<i32>,
    /// Of the group; `None` where locks share the partitions.
    generation: Option<i32>,
}

/// Repeats `work` with backoff until it returns without an error that may pass, or the stop is asked for.
///
/// # Errors
/// What does not pass.
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
                log::warn!(error:% = Chain(&err), again_in_ms = backoff.as_millis() as u64; "{message}");
                shutdown.wait(backoff);
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
            result => return result,
        }
    }
    Ok(())
}

/// The partitions that are served now.
struct Partitions<'a> {
    worker: &'a Worker,
    /// See [`Share`].
    generation: Option<i32>,
    consumer: Consumer,
    decoder: Decoder<BalanceChanged>,
    /// Where each goes on, by what is stored and not committed yet.
    stored: BTreeMap<i32, i64>,
    committed: Instant,
}

impl Partitions<'_> {
    /// Stores batch after batch until the partitions should be shared out anew.
    fn serve(&mut self, writer: &mut Writer, bus: &mut dyn KafkaClient) -> Result<(), Error> {
        let mut looked = Instant::now();
        while !self.worker.shutdown.requested() {
            self.poll(writer)?;
            if self.committed.elapsed() >= COMMIT {
                self.commit(bus)?;
            }
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                if self.share_has_changed(writer, bus)? {
                    break;
                }
            }
        }
        self.commit(bus)
    }

    /// A sign of life to whoever shares out the partitions.
    fn share_has_changed(
        &mut self,
        writer: &mut Writer,
        bus: &mut dyn KafkaClient,
    ) -> Result<bool, Error> {
        let changed = if let Some(generation) = self.generation {
            writer.ownership.share()?;
            // In this order: what the group gives to others goes on where it is committed.
            self.commit(bus)?;
            match bus.poll_assignment(GROUP, &[BALANCE_CHANGED.name], Duration::ZERO) {
                Ok(held) => held.generation != generation,
                Err(err) if err.is_retryable() => true,
                Err(err) => return Err(err.into()),
            }
        } else {
            writer.ownership.share_has_changed()?
        };
        self.worker.note_others(writer);
        Ok(changed)
    }

    fn poll(&mut self, writer: &mut Writer) -> Result<(), Error> {
        let mut batch = Vec::new();
        let mut positions = BTreeMap::new();
        for chunk in self.consumer.poll(STOP_LOOK)? {
            for record in chunk.records {
                let (partition, offset) = (chunk.partition, record.offset);
                match self.decode(&record)? {
                    Ok(change) => batch.push(Told { partition, offset, change }),
                    Err(reason) => self.bury(partition, record, &reason)?,
                }
                positions.insert(partition, offset + 1);
                if batch.len() >= BATCH_MAX {
                    self.store(writer, &mut batch, &mut positions)?;
                }
            }
            // Past control records and holes of compaction as well.
            positions.insert(chunk.partition, chunk.next);
        }
        self.store(writer, &mut batch, &mut positions)
    }

    fn store(
        &mut self,
        writer: &mut Writer,
        batch: &mut Vec<Told>,
        positions: &mut BTreeMap<i32, i64>,
    ) -> Result<(), Error> {
        if !batch.is_empty() {
            let started = Instant::now();
            let stored = writer.store(&mem::take(batch))?;
            metrics::STORED.inc_by(stored.len() as u64);
            metrics::STORE_SECONDS.observe(started.elapsed().as_secs_f64());
            for transaction in stored {
                self.worker.hub.publish(&Arc::new(transaction));
            }
        }
        self.stored.append(positions);
        Ok(())
    }

    /// A change, or why it is none. A registry that is away is waited for: skipping the record would lose it.
    fn decode(&mut self, record: &FetchedRecord) -> Result<Result<BalanceChanged, String>, Error> {
        let Some(value) = &record.value else { return Ok(Err("no value".to_owned())) };
        match self.decoder.decode(value) {
            Ok(change) => Ok(match store::unstorable(&change) {
                Some(reason) => Err(reason.to_owned()),
                None => Ok(change),
            }),
            Err(avro::Error::Undecodable(reason)) => Ok(Err(reason)),
            Err(err) => Err(err.into()),
        }
    }

    /// The record goes to dead_letter.
    fn bury(&self, partition: i32, record: FetchedRecord, reason: &str) -> Result<(), Error> {
        let (topic, offset) = (BALANCE_CHANGED.name, record.offset);
        let value = record.value.unwrap_or_default();
        let letter = Outgoing::dead_letter(topic, partition, offset, value, reason);
        match self.worker.producer.send(letter).wait() {
            Err(err) if err.kind == ErrorKind::Message => {
                log::error!(topic, partition, offset, error:% = err; "record dropped");
                Ok(())
            }
            result => Ok(result?),
        }
    }

    /// Commits what is stored.
    fn commit(&mut self, bus: &mut dyn KafkaClient) -> Result<(), Error> {
        self.committed = Instant::now();
        if self.stored.is_empty() {
            return Ok(());
        }
        let position = |(&partition, &next): (&i32, &i64)| Position { partition, next };
        let positions: Vec<Position> = self.stored.iter().map(position).collect();
        match bus.commit(GROUP, BALANCE_CHANGED.name, &positions, BROKER) {
            Ok(()) => self.stored.clear(),
            Err(err) if err.kind == ErrorKind::Config => return Err(err.into()),
            // Another member has the partitions by now, and finds in the store what it reads again.
            Err(err) if err.kind == ErrorKind::Fenced && self.generation.is_some() => {
                log::warn!(error:% = Chain(&err); "offsets are another member's to commit");
                self.stored.clear();
            }
            // The next commit moves them further.
            Err(err) => log::warn!(error:% = Chain(&err); "offsets not committed, trying again"),
        }
        Ok(())
    }
}

/// Publishes what other endpoints have stored, until the stop is asked for.
///
/// # Errors
/// What can't be waited for.
pub fn listen(
    config: &Config,
    endpoint: Uuid,
    hub: &Hub,
    others: &AtomicBool,
    shutdown: &Shutdown,
) -> Result<(), Error> {
    let mut before = false;
    retry(shutdown, "not hearing of what other endpoints store", || {
        let mut listener = Listener::open(&config.database, endpoint, shutdown)?;
        // What others have stored meanwhile was not heard: subscribers shall know, and ask for what they miss.
        if mem::replace(&mut before, true) && others.load(Ordering::Relaxed) {
            hub.end_all(Ending::Interrupted);
        }
        let mut looked = Instant::now();
        while !shutdown.requested() {
            for transaction in listener.next(STOP_LOOK)? {
                hub.publish(&Arc::new(transaction));
            }
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                listener.check()?;
            }
        }
        Ok(())
    })
}
