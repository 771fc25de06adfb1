//! Fetches, and workarounds for these defects of the kafka crate:
//! - It returns no records of a batch that is larger than the fetch.
//! - It drops records before a compressed batch.
//! - It does not skip the control batch at the end of a transaction.
//! - One undecodable batch fails the whole response.

use super::client::KafkaCrateClient;
use super::error::{from_raw, no_leader};
use super::fetch_size::FetchSize;
use super::raw_requests::{self, StoredBatch};
use bank::limits::{FETCH_MEMORY, RESPONSE_BYTES_MAX};
use kafka::client::FetchPartition;
use kafka_client::{Error, ErrorKind, PartitionData, Position, Result};
use std::collections::BTreeMap;
use std::time::Duration;

/// Maximum size of a batch that is fetched, bytes. Brokers of the bank store no larger ones.
const BATCH_BYTES_MAX: i32 = RESPONSE_BYTES_MAX as i32;

impl KafkaCrateClient {
    /// Attempts once to read, from one leader after the other.
    pub(super) fn try_fetch(
        &mut self,
        topic: &str,
        positions: &[Position],
        wait: Duration,
    ) -> Result<Vec<PartitionData>> {
        self.memory_left = FETCH_MEMORY;
        let has_large = positions.iter().any(|it| self.is_large(topic, it));
        let wait = if has_large { Duration::ZERO } else { wait };
        let (next, later) = self.next_positions(topic, positions);
        let mut all: Vec<PartitionData> = later.into_iter().map(PartitionData::empty).collect();
        let mut by_leader: BTreeMap<String, Vec<Position>> = BTreeMap::new();
        let session = self.session()?;
        for position in &next {
            match session.leader(topic, position.partition) {
                Ok(host) => by_leader.entry(host).or_default().push(*position),
                Err(err) if err.kind == ErrorKind::Config => return Err(err),
                Err(err) => all.push(PartitionData::failed(*position, err)),
            }
        }
        let wait = wait / u32::try_from(by_leader.len().max(1)).unwrap_or(u32::MAX);
        for (host, positions) in by_leader {
            match self.fetch_from(&host, topic, &positions, wait) {
                Ok(data) => all.extend(data),
                Err(err) if err.kind == ErrorKind::Undecodable => {
                    // A separate fetch for each partition finds the one with the undecodable batch.
                    for position in positions {
                        all.push(self.fetch_single(&host, topic, position));
                    }
                }
                Err(err) => {
                    let failed = |it: &Position| PartitionData::failed(*it, err.clone());
                    all.extend(positions.iter().map(failed));
                }
            }
        }
        Ok(all)
    }

    /// The positions of the next fetch, and the others. A large batch is fetched alone, since the
    /// crate takes several times the memory of a response. Every second fetch is for the partitions
    /// without large batches.
    pub(super) fn next_positions(
        &mut self,
        topic: &str,
        positions: &[Position],
    ) -> (Vec<Position>, Vec<Position>) {
        let (mut large, mut usual): (Vec<Position>, Vec<Position>) =
            positions.iter().partition(|it| self.is_large(topic, it));
        if large.is_empty() {
            return (usual, large);
        }
        self.large_fetches += 1;
        if self.large_fetches.is_multiple_of(2) && !usual.is_empty() {
            return (usual, large);
        }
        let next = large.swap_remove(self.large_fetches / 2 % large.len());
        usual.extend(large);
        (vec![next], usual)
    }

    fn is_large(&self, topic: &str, position: &Position) -> bool {
        self.fetch_bytes(topic, position) > self.config.fetch_bytes
    }

    /// Reads from `host`, which leads all of the partitions. Returns data for each position, in
    /// order.
    fn fetch_from(
        &mut self,
        host: &str,
        topic: &str,
        positions: &[Position],
        wait: Duration,
    ) -> Result<Vec<PartitionData>> {
        let requests: Vec<FetchPartition<'_>> = positions
            .iter()
            .map(|it| {
                FetchPartition::new(topic, it.partition, it.next)
                    .with_max_bytes(self.fetch_bytes(topic, it))
            })
            .collect();
        let session = self.session()?;
        for it in positions {
            // A new session has its own metadata.
            if session.leader(topic, it.partition)? != host {
                return Err(no_leader(topic, it.partition));
            }
        }
        let mut memory_left = self.memory_left;
        let session = self.session()?;
        let mut all = session.fetch(host, topic, &requests, positions, wait, &mut memory_left)?;
        self.memory_left = memory_left;
        for (data, position) in all.iter_mut().zip(positions) {
            match &data.error {
                None => self.repair_start(host, topic, position, positions.len() == 1, data),
                Some(_) => self.retry_batch_alone(host, topic, position, data),
            }
        }
        Ok(all)
    }

    /// Reads one partition, after a fetch of several partitions failed.
    fn fetch_single(&mut self, host: &str, topic: &str, position: Position) -> PartitionData {
        match self.fetch_from(host, topic, &[position], Duration::ZERO) {
            Ok(mut single) => single.remove(0),
            Err(err) => {
                let mut data = PartitionData::failed(position, err);
                self.retry_batch_alone(host, topic, &position, &mut data);
                data
            }
        }
    }

    /// Requests that the next batch of an undecodable partition is fetched alone. Only if that
    /// fails too is the partition reported as undecodable: a later batch may be the undecodable
    /// one.
    fn retry_batch_alone(
        &mut self,
        host: &str,
        topic: &str,
        position: &Position,
        data: &mut PartitionData,
    ) {
        if data.error.as_ref().is_none_or(|err| err.kind != ErrorKind::Undecodable) {
            return;
        }
        let key = (topic.to_owned(), position.partition);
        let size = self.repairs.remove(&key);
        if matches!(size, Some(FetchSize::Batch { offset, .. }) if offset == position.next) {
            return;
        }
        match stored_batch(host, topic, position) {
            Ok(batch) => {
                self.repairs.insert(key, FetchSize::Batch { offset: position.next, batch });
                data.error = None;
            }
            // The crate maps all unknown error codes to one error. In this case the broker failed,
            // which is retryable.
            Err(err) => data.error = Some(err),
        }
    }

    fn fetch_bytes(&self, topic: &str, position: &Position) -> i32 {
        match self.repairs.get(&(topic.to_owned(), position.partition)) {
            Some(FetchSize::Bytes(bytes)) => *bytes,
            Some(FetchSize::Batch { offset, batch }) if *offset == position.next => batch.bytes,
            _ => self.config.fetch_bytes,
        }
    }

    /// Ensures that the data starts at the requested position if there are records. `alone` is true
    /// if the fetch was for this partition only.
    fn repair_start(
        &mut self,
        host: &str,
        topic: &str,
        position: &Position,
        alone: bool,
        data: &mut PartitionData,
    ) {
        let key = (topic.to_owned(), position.partition);
        let size = self.repairs.remove(&key);
        let first = data.records.first().map_or(data.end, |record| record.offset);
        if first <= position.next {
            let bytes = FetchSize::bytes_after(size, &data.records);
            if bytes > self.config.fetch_bytes {
                self.repairs.insert(key, FetchSize::Bytes(bytes));
            }
            return;
        }
        if let Some(FetchSize::Batch { offset, batch }) = size
            && offset == position.next
            && first > batch.last_offset
        {
            if alone {
                // Compaction removed the records at and after this offset from the batch.
                data.records.clear();
                data.next = batch.last_offset + 1;
            } else {
                // Either that, or the batch did not fit into the response.
                self.repairs.insert(key, FetchSize::Batch { offset, batch });
                *data = match self.fetch_from(host, topic, &[*position], Duration::ZERO) {
                    Ok(mut single) => single.remove(0),
                    Err(err) => PartitionData::failed(*position, err),
                };
            }
            return;
        }
        match stored_batch(host, topic, position) {
            Ok(batch) => self.repair_with(batch, topic, position, data),
            Err(err) => *data = PartitionData::failed(*position, err),
        }
    }

    /// Skips a control batch. Otherwise sets the size of the next fetch so that it returns `batch`,
    /// the one at `position`.
    fn repair_with(
        &mut self,
        batch: StoredBatch,
        topic: &str,
        position: &Position,
        data: &mut PartitionData,
    ) {
        let first = data.records.first().map_or(data.end, |record| record.offset);
        if batch.is_control && first == batch.last_offset + 1 && !data.records.is_empty() {
            return;
        }
        data.records.clear();
        if batch.is_control {
            data.next = batch.last_offset + 1;
            return;
        }
        data.next = position.next;
        if batch.bytes > BATCH_BYTES_MAX {
            let text = format!(
                "read {topic}/{} at offset {}: its batch of {} bytes exceeds {BATCH_BYTES_MAX}",
                position.partition, position.next, batch.bytes
            );
            data.error = Some(Error { kind: ErrorKind::Undecodable, code: 0, text });
        } else {
            let key = (topic.to_owned(), position.partition);
            self.repairs.insert(key, FetchSize::Batch { offset: position.next, batch });
        }
    }
}

/// Returns the batch at a position at which the crate returned no record.
fn stored_batch(host: &str, topic: &str, position: &Position) -> Result<StoredBatch> {
    let Position { partition, next } = position;
    let what = format!("read the batch header of {topic}/{partition}, offset {next}, at {host}");
    let response = raw_requests::stored_batch(host, topic, *partition, *next);
    let nothing = || Error::retryable(0, format!("{what}: the response has no batch"));
    from_raw(response, &what)?.ok_or_else(nothing)
}
