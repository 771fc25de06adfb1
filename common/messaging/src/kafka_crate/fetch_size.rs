//! The size of fetches of one partition.

use super::raw_requests::StoredBatch;
use kafka_client::FetchedRecord;

/// The size of a partition's next fetch, if it differs from `config.fetch_bytes`.
#[derive(Debug, Clone, Copy)]
pub(super) enum FetchSize {
    /// For a partition with large batches.
    Bytes(i32),
    /// The exact size of the batch at `offset`, since a larger fetch returned none of its records.
    Batch { offset: i64, batch: StoredBatch },
}

impl FetchSize {
    /// The size of the next fetch: large after large batches, halved after smaller ones.
    pub fn bytes_after(size: Option<FetchSize>, records: &[FetchedRecord]) -> i32 {
        let received: usize = records.iter().map(bytes_of).sum();
        match size {
            Some(FetchSize::Bytes(bytes)) if received < bytes as usize / 2 => bytes / 2,
            Some(FetchSize::Bytes(bytes)) => bytes,
            Some(FetchSize::Batch { batch, .. }) => batch.bytes,
            None => 0,
        }
    }
}

/// The size of a record in a response, bytes.
fn bytes_of(record: &FetchedRecord) -> usize {
    const MESSAGE_OVERHEAD: usize = 34;
    let bytes = |it: &Option<Vec<u8>>| it.as_ref().map_or(0, Vec::len);
    MESSAGE_OVERHEAD + bytes(&record.key) + bytes(&record.value)
}
