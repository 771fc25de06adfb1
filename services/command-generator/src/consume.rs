//! Reads a topic: decodes its records and keeps the positions of the consumer group.

use avro::registry::Registry;
use avro::{Decoder, Record};
use messaging::KafkaConfig;
use messaging::consumer::{
    Consumer, GroupPositions, OFFSET_REFRESH, commit_positions, group_positions,
};
use messaging::{ErrorKind, FetchedRecord, KafkaClient, PartitionData, Position, TopicId};
use service::log::Chain;
use service::shutdown::Shutdown;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Deadline of one call to Kafka. The caller repeats a call that missed it.
const SLICE: Duration = Duration::from_millis(200);
/// Time between two attempts to get a schema from the registry.
const SCHEMA_RETRY: Duration = Duration::from_millis(500);

/// The offset at which reading starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// The committed offset, or the earliest offset of a partition without a committed offset.
    Committed,
    /// The earliest offset.
    Earliest,
}

/// A fetched and decoded record.
#[derive(Debug)]
pub struct ConsumedRecord<R> {
    pub partition: i32,
    pub offset: i64,
    /// Key; empty if the record has none.
    pub key: Vec<u8>,
    /// The decoded value, or the bytes of an undecodable one with the reason.
    pub value: Result<R, (Vec<u8>, String)>,
    /// The record needs no command: its offset is committed, or another member of the group has its
    /// partition.
    pub handled_before: bool,
}

/// A topic and the consumer group that reads it.
#[derive(Debug, Clone, Copy)]
pub struct Subscription {
    pub group: &'static str,
    pub topic: &'static str,
    pub start_at: StartAt,
    /// The group coordinator assigns the partitions; if false, this instance reads all of them.
    pub is_member: bool,
}

/// Reads a topic for a consumer group.
pub struct TopicReader<R> {
    group: &'static str,
    topic: &'static str,
    start_at: StartAt,
    is_member: bool,
    /// The id of the topic that all offsets below belong to.
    topic_id: Option<TopicId>,
    consumer: Consumer,
    decoder: Decoder<R>,
    /// Partitions whose records this instance turns into commands.
    assigned: BTreeSet<i32>,
    /// Committed offset of each partition.
    committed: BTreeMap<i32, i64>,
    /// When all of them were committed.
    committed_at: Instant,
    /// Next offset of each partition after the records returned so far.
    read: BTreeMap<i32, i64>,
    /// End offset of each partition when reading started.
    ends: BTreeMap<i32, i64>,
    /// The topic was deleted and created again: all offsets above are void.
    is_void: bool,
}

impl<R: Record> TopicReader<R> {
    /// Looks up the offsets and starts to read. All partitions are assigned to this instance. A
    /// member of the group has none until [`Self::assign`] is called.
    pub fn open(
        kafka: &KafkaConfig,
        client: &mut dyn KafkaClient,
        registry: Registry,
        subscription: Subscription,
    ) -> messaging::Result<Self> {
        let Subscription { group, topic, start_at, is_member } = subscription;
        let found = positions_of_group(client, group, topic)?;
        let mut reader = Self {
            group,
            topic,
            start_at,
            is_member,
            topic_id: found.topic_id,
            consumer: Consumer::start_in(kafka, topic, found.topic_id, Vec::new()),
            decoder: Decoder::new(registry),
            assigned: BTreeSet::new(),
            committed: BTreeMap::new(),
            committed_at: Instant::now(),
            read: BTreeMap::new(),
            ends: BTreeMap::new(),
            is_void: false,
        };
        reader.restart(kafka, found);
        Ok(reader)
    }

    /// Replaces the assignment. Reading continues at the committed offsets of `assigned`. With
    /// [`StartAt::Earliest`] the other partitions are read too.
    ///
    /// # Errors
    /// After an error the assignment is unchanged.
    pub fn assign(
        &mut self,
        kafka: &KafkaConfig,
        client: &mut dyn KafkaClient,
        assigned: BTreeSet<i32>,
    ) -> messaging::Result<()> {
        let found = positions_of_group(client, self.group, self.topic)?;
        if self.start_at == StartAt::Committed {
            self.read.clear();
        }
        // The former member may not have handled the records after its committed offset: they are
        // read again.
        for Position { partition, next } in &found.positions {
            if let Some(read) =
                self.read.get_mut(partition).filter(|_| assigned.contains(partition))
            {
                *read = (*read).min(*next);
            }
        }
        self.assigned = assigned;
        self.restart(kafka, found);
        Ok(())
    }

    /// Starts over if the topic was deleted and created again, or has new partitions.
    ///
    /// # Errors
    /// After a retryable error the next call starts over.
    pub fn follow_topic(
        &mut self,
        kafka: &KafkaConfig,
        client: &mut dyn KafkaClient,
    ) -> messaging::Result<()> {
        let count = self.consumer.partition_count();
        if self.is_void || count.is_some_and(|count| count > self.ends.len()) {
            let found = positions_of_group(client, self.group, self.topic)?;
            self.restart(kafka, found);
        }
        Ok(())
    }

    /// Starts to read at the positions so far, and at those of the group in other partitions.
    fn restart(&mut self, kafka: &KafkaConfig, found: GroupPositions) {
        let GroupPositions { topic_id, positions: of_group, ranges } = found;
        let is_other = |id: TopicId| topic_id.is_some_and(|found| found != id);
        if self.is_void || self.topic_id.is_some_and(is_other) {
            self.read.clear();
            self.committed.clear();
        }
        for (Position { partition, next }, (earliest, end)) in of_group.into_iter().zip(ranges) {
            if !self.is_member {
                self.assigned.insert(partition);
            }
            let is_assigned = self.assigned.contains(&partition);
            let start = match self.start_at {
                StartAt::Earliest => earliest,
                StartAt::Committed => next,
            };
            if is_assigned || self.start_at == StartAt::Earliest {
                self.read.entry(partition).or_insert(start);
            }
            self.committed.insert(partition, next);
            self.ends.insert(partition, end);
        }
        self.topic_id = topic_id;
        self.is_void = false;
        self.consumer = Consumer::start_in(kafka, self.topic, topic_id, positions(&self.read));
    }

    /// Returns the next records and waits at most `wait` for them. Returns `None` if shutdown was
    /// requested while the registry was unavailable.
    ///
    /// # Errors
    /// See [`Consumer::poll`].
    pub fn poll(
        &mut self,
        wait: Duration,
        shutdown: &Shutdown,
    ) -> messaging::Result<Option<Vec<ConsumedRecord<R>>>> {
        if self.is_void {
            shutdown.wait(wait);
            return Ok(Some(Vec::new()));
        }
        let fetched = match self.consumer.poll(wait) {
            Ok(fetched) => fetched,
            Err(err) => match err.kind {
                ErrorKind::Position => {
                    let (group, topic) = (self.group, self.topic);
                    log::warn!(
                        topic, group, error:% = err;
                        "positions are void, looking them up again"
                    );
                    self.is_void = true;
                    return Ok(Some(Vec::new()));
                }
                ErrorKind::Config
                | ErrorKind::Message
                | ErrorKind::Retry
                | ErrorKind::Unknown
                | ErrorKind::Undecodable
                | ErrorKind::Fenced => return Err(err),
            },
        };
        let mut consumed = Vec::with_capacity(fetched.iter().map(|data| data.records.len()).sum());
        for PartitionData { partition, records, next, .. } in fetched {
            let committed = self.committed.get(&partition).copied().unwrap_or(0);
            for FetchedRecord { offset, key, value, .. } in records {
                let bytes = value.unwrap_or_default();
                let Some(value) = self.decode(bytes, shutdown) else { return Ok(None) };
                let key = key.unwrap_or_default();
                let handled_before = offset < committed || !self.assigned.contains(&partition);
                consumed.push(ConsumedRecord { partition, offset, key, value, handled_before });
            }
            self.read.insert(partition, next);
        }
        Ok(Some(consumed))
    }

    /// Retries while the registry is unavailable: a skipped record would be lost.
    fn decode(
        &mut self,
        bytes: Vec<u8>,
        shutdown: &Shutdown,
    ) -> Option<Result<R, (Vec<u8>, String)>> {
        loop {
            match self.decoder.decode(&bytes) {
                Ok(record) => return Some(Ok(record)),
                Err(avro::Error::Undecodable(reason)) => return Some(Err((bytes, reason))),
                Err(err @ avro::Error::Registry { .. }) => {
                    log::warn!(
                        topic = self.topic, error:% = Chain(&err);
                        "waiting for the schema registry"
                    );
                    if shutdown.wait(SCHEMA_RETRY) {
                        return None;
                    }
                }
            }
        }
    }

    /// Skips the records that need no command, see [`ConsumedRecord::handled_before`], up to the
    /// end of the log when reading started.
    pub fn skip_handled(&mut self, kafka: &KafkaConfig) {
        let before = self.read.clone();
        for (partition, read) in &mut self.read {
            let is_assigned = self.assigned.contains(partition);
            let handled = if is_assigned { &self.committed } else { &self.ends };
            *read = handled.get(partition).map_or(*read, |&handled| handled.max(*read));
        }
        if self.read != before {
            self.consumer =
                Consumer::start_in(kafka, self.topic, self.topic_id, positions(&self.read));
        }
    }

    /// True once all records that existed when reading started are read.
    pub fn has_caught_up(&self) -> bool {
        self.ends.iter().all(|(partition, end)| self.read.get(partition) >= Some(end))
    }

    /// Commits the offsets of the records read. `waiting` has the offset of the first unhandled
    /// record of a partition: no later offset of that partition is committed.
    ///
    /// # Errors
    /// After a retryable error the next call commits these offsets too.
    pub fn commit(
        &mut self,
        client: &mut dyn KafkaClient,
        waiting: &BTreeMap<i32, i64>,
    ) -> messaging::Result<()> {
        let next = |(&partition, &read): (&i32, &i64)| {
            let next = waiting.get(&partition).map_or(read, |&waiting| waiting.min(read));
            Position { partition, next }
        };
        // Brokers delete an offset that was committed too long ago.
        let all = self.committed_at.elapsed() >= OFFSET_REFRESH;
        let committed = |it: &Position| self.committed.get(&it.partition).copied().unwrap_or(-1);
        let assigned = self.read.iter().filter(|(partition, _)| self.assigned.contains(partition));
        let positions: Vec<Position> = assigned
            .map(next)
            .filter(|it| all || committed(it) < it.next)
            .map(|it| Position { next: it.next.max(committed(&it)), ..it })
            .collect();
        if positions.is_empty() || self.is_void {
            return Ok(());
        }
        commit_positions(client, self.group, self.topic, self.topic_id, &positions, SLICE)?;
        if all {
            self.committed_at = Instant::now();
        }
        self.committed.extend(positions.iter().map(|it| (it.partition, it.next)));
        Ok(())
    }
}

fn positions_of_group(
    client: &mut dyn KafkaClient,
    group: &str,
    topic: &str,
) -> messaging::Result<GroupPositions> {
    // Not retried here, so a shutdown is noticed in time.
    group_positions(client, group, topic, None, SLICE, &Shutdown::default())
}

fn positions(next: &BTreeMap<i32, i64>) -> Vec<Position> {
    next.iter().map(|(&partition, &next)| Position { partition, next }).collect()
}
