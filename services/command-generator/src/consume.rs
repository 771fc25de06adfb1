//! A topic that is read: records decoded, positions kept.

use avro::registry::Registry;
use avro::{Decoder, Record};
use messaging::KafkaConfig;
use messaging::consumer::Consumer;
use messaging::{FetchedRecord, KafkaClient, PartitionData, Position};
use service::log::Chain;
use service::shutdown::Shutdown;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Time for retries of a call that can be made again later.
const SLICE: Duration = Duration::from_millis(200);
/// Between two attempts to get a schema.
const SCHEMA_AGAIN: Duration = Duration::from_millis(500);

/// Where to start reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// At the committed offsets; at the earliest records where there are none.
    Committed,
    /// At the earliest records.
    Earliest,
}

/// A record that was read.
#[derive(Debug)]
pub struct Arrived<R> {
    /// Where it stands.
    pub partition: i32,
    /// Where it stands.
    pub offset: i64,
    /// Its key; empty if it has none.
    pub key: Vec<u8>,
    /// Its value; where that can't be read, the bytes and why.
    pub value: Result<R, (Vec<u8>, String)>,
    /// It was read, and dealt with, before the offsets were last committed, or another member of the group does that.
    pub seen_before: bool,
}

/// A topic that is read by a group.
pub struct Source<R> {
    group: &'static str,
    topic: &'static str,
    from: From,
    consumer: Consumer,
    decoder: Decoder<R>,
    /// Partitions that are this instance's to deal with.
    mine: BTreeSet<i32>,
    /// Next offset by what is committed, per partition.
    committed: BTreeMap<i32, i64>,
    /// Next offset by what was handed out.
    read: BTreeMap<i32, i64>,
    /// Ends of the log when the reading began.
    ends: BTreeMap<i32, i64>,
}

impl<R: Record> Source<R> {
    /// Finds the positions and starts to read. All partitions are this instance's, or, if it `is_member` of the group, none until
    /// [`Self::hold`] says so.
    ///
    /// # Errors
    /// See [`messaging::Error`].
    pub fn open(
        kafka: &KafkaConfig,
        bus: &mut dyn KafkaClient,
        group: &'static str,
        topic: &'static str,
        from: From,
        is_member: bool,
        registry: Registry,
    ) -> messaging::Result<Self> {
        let (mut committed, mut read, mut ends) =
            (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for Extent { partition, earliest, next, end } in extents(bus, group, topic)? {
            committed.insert(partition, next);
            read.insert(partition, if from == From::Earliest { earliest } else { next });
            ends.insert(partition, end);
        }
        let mine = if is_member { BTreeSet::new() } else { read.keys().copied().collect() };
        if from == From::Committed {
            read.retain(|partition, _| mine.contains(partition));
        }
        let consumer = Consumer::start(kafka, topic, positions(&read));
        let decoder = Decoder::new(registry);
        Ok(Self { group, topic, from, consumer, decoder, mine, committed, read, ends })
    }

    /// From now on `mine` are this instance's partitions: it goes on in them where they are committed. Of a topic that is read from
    /// its earliest records all others are read on as well, for what they tell.
    ///
    /// # Errors
    /// See [`messaging::Error`]; then all is as it was.
    pub fn hold(
        &mut self,
        kafka: &KafkaConfig,
        bus: &mut dyn KafkaClient,
        mine: BTreeSet<i32>,
    ) -> messaging::Result<()> {
        let extents = extents(bus, self.group, self.topic)?;
        if self.from == From::Committed {
            self.read.clear();
        }
        for Extent { partition, earliest, next, .. } in extents {
            self.committed.insert(partition, next);
            if mine.contains(&partition) {
                // What somebody else should have dealt with comes again.
                let read = self.read.entry(partition).or_insert(next);
                *read = next.min(*read);
            } else if self.from == From::Earliest {
                self.read.entry(partition).or_insert(earliest);
            }
        }
        self.consumer = Consumer::start(kafka, self.topic, positions(&self.read));
        self.mine = mine;
        Ok(())
    }

    /// What has arrived; waits at most `wait` for it. `None` if the stop was asked for while a schema could not be had.
    ///
    /// # Errors
    /// See [`Consumer::poll`].
    pub fn poll(
        &mut self,
        wait: Duration,
        shutdown: &Shutdown,
    ) -> messaging::Result<Option<Vec<Arrived<R>>>> {
        let chunks = self.consumer.poll(wait)?;
        let mut arrived = Vec::with_capacity(chunks.iter().map(|chunk| chunk.records.len()).sum());
        for PartitionData { partition, records, next, .. } in chunks {
            let committed = self.committed.get(&partition).copied().unwrap_or(0);
            for FetchedRecord { offset, key, value, .. } in records {
                let bytes = value.unwrap_or_default();
                let Some(value) = self.decode(bytes, shutdown) else { return Ok(None) };
                let key = key.unwrap_or_default();
                let seen_before = offset < committed || !self.mine.contains(&partition);
                arrived.push(Arrived { partition, offset, key, value, seen_before });
            }
            self.read.insert(partition, next);
        }
        Ok(Some(arrived))
    }

    /// Waits for a registry that is away: what it does not say is not known, and nothing is skipped.
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
                    let reason = Chain(&err).to_string();
                    log::warn!(topic = self.topic, reason = reason.as_str(); "waiting for the schema registry");
                    if shutdown.wait(SCHEMA_AGAIN) {
                        return None;
                    }
                }
            }
        }
    }

    /// True once all is read that was there when the reading began.
    pub fn has_caught_up(&self) -> bool {
        self.ends.iter().all(|(partition, end)| self.read.get(partition) >= Some(end))
    }

    /// Commits what was read, but nothing from the offsets in `held` on.
    ///
    /// # Errors
    /// See [`messaging::Error`]; after a retryable one the next call commits as much and more.
    pub fn commit(
        &mut self,
        bus: &mut dyn KafkaClient,
        held: &BTreeMap<i32, i64>,
    ) -> messaging::Result<()> {
        let next = |(&partition, &read): (&i32, &i64)| {
            let next = held.get(&partition).map_or(read, |&held| held.min(read));
            Position { partition, next }
        };
        let is_new = |position: &Position| {
            self.committed.get(&position.partition).is_none_or(|&done| done < position.next)
        };
        let mine = self.read.iter().filter(|(partition, _)| self.mine.contains(partition));
        let positions: Vec<Position> = mine.map(next).filter(is_new).collect();
        if positions.is_empty() {
            return Ok(());
        }
        bus.commit(self.group, self.topic, &positions, SLICE)?;
        self.committed.extend(positions.iter().map(|it| (it.partition, it.next)));
        Ok(())
    }
}

/// A partition and where the group is in it.
struct Extent {
    partition: i32,
    earliest: i64,
    next: i64,
    end: i64,
}

fn extents(bus: &mut dyn KafkaClient, group: &str, topic: &str) -> messaging::Result<Vec<Extent>> {
    let bounds = bus.log_range(topic, SLICE)?;
    let offsets = bus.committed(group, topic, SLICE)?;
    let extent = |(partition, (earliest, end)): (i32, (i64, i64))| {
        let offset = usize::try_from(partition).ok().and_then(|index| *offsets.get(index)?);
        // Outside the log: that was deleted, or the topic was made anew.
        let next = offset.filter(|offset| (earliest..=end).contains(offset)).unwrap_or(earliest);
        Extent { partition, earliest, next, end }
    };
    Ok((0..).zip(bounds).map(extent).collect())
}

fn positions(next: &BTreeMap<i32, i64>) -> Vec<Position> {
    next.iter().map(|(&partition, &next)| Position { partition, next }).collect()
}
