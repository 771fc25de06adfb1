//! Fetches, and the repair of what the kafka crate loses. It returns no record of a batch larger
//! than the fetch, drops records before a compressed batch, does not pass the end of a transaction,
//! and fails the whole response for one batch that it cannot decode.

use super::client::KafkaCrateClient;
use super::error::{from_raw, no_leader};
use super::fetch_size::FetchSize;
use super::raw_requests::{self, StoredBatch};
use kafka::client::FetchPartition;
use kafka_client::{Error, ErrorKind, PartitionData, Position, Result};
use std::collections::BTreeMap;
use std::time::Duration;

/// Largest batch that is fetched: below the 55 MiB that fit into a broker's response. This bank's
/// topics allow a twelfth.
const BATCH_BYTES_MAX: i32 = 48 << 20;

impl KafkaCrateClient {
    /// One attempt to read, from one leader after the other.
    pub(super) fn try_fetch(
        &mut self,
        topic: &str,
        positions: &[Position],
        wait: Duration,
    ) -> Result<Vec<PartitionData>> {
        let mut all = Vec::with_capacity(positions.len());
        let mut by_leader: BTreeMap<String, Vec<Position>> = BTreeMap::new();
        let session = self.session()?;
        for position in positions {
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
                    // One fetch for each partition shows which one has the undecodable batch.
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

    /// Reads from `host`, the leader of all of the partitions. Data for each position, in order.
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
        let mut all = session.fetch(host, topic, &requests, positions, wait)?;
        for (data, position) in all.iter_mut().zip(positions) {
            match &data.error {
                None => self.repair_start(host, topic, position, positions.len() == 1, data),
                Some(_) => self.retry_batch_alone(host, topic, position, data),
            }
        }
        Ok(all)
    }

    /// Reads one partition after a failed fetch of several.
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

    /// Before a partition is reported as undecodable, its next batch is fetched alone: a later one
    /// may be the undecodable one.
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
            // The crate has one error for all codes that it does not know: the broker failed, which
            // is retryable.
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

    /// Ensures that the data starts at the requested position, if there are records. `alone` says
    /// that the fetch was for this partition only.
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
                // Compaction has removed the batch's records at and after this offset.
                data.records.clear();
                data.next = batch.last_offset + 1;
            } else {
                // Or the response had no room for it.
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

    /// Passes a control batch, or has the next fetch return `batch`, the one at `position`.
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

/// The batch at a position where the crate returned no record.
fn stored_batch(host: &str, topic: &str, position: &Position) -> Result<StoredBatch> {
    let Position { partition, next } = position;
    let what = format!("read the batch header of {topic}/{partition}, offset {next}, at {host}");
    let response = raw_requests::stored_batch(host, topic, *partition, *next);
    let nothing = || Error::retryable(0, format!("{what}: no batch there"));
    from_raw(response, &what)?.ok_or_else(nothing)
}
