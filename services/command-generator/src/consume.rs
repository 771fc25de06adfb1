//! Reads a topic: decodes its records and keeps the positions of the consumer group.

use avro::registry::Registry;
use avro::{Decoder, Record};
use messaging::KafkaConfig;
use messaging::consumer::Consumer;
use messaging::{FetchedRecord, KafkaClient, PartitionData, Position};
use service::log::Chain;
use service::shutdown::Shutdown;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

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
    consumer: Consumer,
    decoder: Decoder<R>,
    /// Partitions whose records this instance turns into commands.
    assigned: BTreeSet<i32>,
    /// Committed offset of each partition.
    committed: BTreeMap<i32, i64>,
    /// Next offset of each partition after the records returned so far.
    read: BTreeMap<i32, i64>,
    /// End offset of each partition when reading started.
    ends: BTreeMap<i32, i64>,
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
        let (mut committed, mut read, mut ends) =
            (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for GroupPosition { partition, earliest, next, end } in
            positions_of_group(client, group, topic)?
        {
            committed.insert(partition, next);
            read.insert(partition, if start_at == StartAt::Earliest { earliest } else { next });
            ends.insert(partition, end);
        }
        let assigned = if is_member { BTreeSet::new() } else { read.keys().copied().collect() };
        if start_at == StartAt::Committed {
            read.retain(|partition, _| assigned.contains(partition));
        }
        let consumer = Consumer::start(kafka, topic, positions(&read));
        let decoder = Decoder::new(registry);
        Ok(Self { group, topic, start_at, consumer, decoder, assigned, committed, read, ends })
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
        let positions_of_group = positions_of_group(client, self.group, self.topic)?;
        if self.start_at == StartAt::Committed {
            self.read.clear();
        }
        for GroupPosition { partition, earliest, next, .. } in positions_of_group {
            self.committed.insert(partition, next);
            if assigned.contains(&partition) {
                // The former member may not have handled the records after its committed offset:
                // they are read again.
                let read = self.read.entry(partition).or_insert(next);
                *read = next.min(*read);
            } else if self.start_at == StartAt::Earliest {
                self.read.entry(partition).or_insert(earliest);
            }
        }
        self.consumer = Consumer::start(kafka, self.topic, positions(&self.read));
        self.assigned = assigned;
        Ok(())
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
        let fetched = self.consumer.poll(wait)?;
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
        let is_new = |position: &Position| {
            self.committed.get(&position.partition).is_none_or(|&done| done < position.next)
        };
        let assigned = self.read.iter().filter(|(partition, _)| self.assigned.contains(partition));
        let positions: Vec<Position> = assigned.map(next).filter(is_new).collect();
        if positions.is_empty() {
            return Ok(());
        }
        client.commit(self.group, self.topic, &positions, SLICE)?;
        self.committed.extend(positions.iter().map(|it| (it.partition, it.next)));
        Ok(())
    }
}

/// The position of the group in a partition, and the range of the partition's log.
struct GroupPosition {
    partition: i32,
    earliest: i64,
    next: i64,
    end: i64,
}

fn positions_of_group(
    client: &mut dyn KafkaClient,
    group: &str,
    topic: &str,
) -> messaging::Result<Vec<GroupPosition>> {
    let ranges = client.log_range(topic, SLICE)?;
    let offsets = client.committed(group, topic, SLICE)?;
    let position = |(partition, (earliest, end)): (i32, (i64, i64))| {
        let offset = usize::try_from(partition).ok().and_then(|index| *offsets.get(index)?);
        // A committed offset is outside the log if records were deleted or the topic was recreated.
        let next = offset.filter(|offset| (earliest..=end).contains(offset)).unwrap_or(earliest);
        GroupPosition { partition, earliest, next, end }
    };
    Ok((0..).zip(ranges).map(position).collect())
}

fn positions(next: &BTreeMap<i32, i64>) -> Vec<Position> {
    next.iter().map(|(&partition, &next)| Position { partition, next }).collect()
}
