//! The memory of fetched records that the caller of a consumer has not yet handled.

use bank::limits::FETCHED_AHEAD_MEMORY;
use kafka_client::{FetchedRecord, PartitionData};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bytes of fetched records, from the fetch until the caller polls again after it got them.
#[derive(Default)]
pub struct HeldMemory {
    bytes: Mutex<usize>,
    released: Condvar,
}

impl HeldMemory {
    /// Waits until there is memory for another fetch. False if it takes longer than `wait`.
    pub fn wait_for_space(&self, wait: Duration) -> bool {
        let is_full = |bytes: &mut usize| *bytes > FETCHED_AHEAD_MEMORY;
        let waited = self.released.wait_timeout_while(self.bytes(), wait, is_full);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    pub fn add(&self, bytes: usize) {
        *self.bytes() += bytes;
    }

    pub fn release(&self, bytes: usize) {
        *self.bytes() -= bytes;
        self.released.notify_all();
    }

    fn bytes(&self) -> MutexGuard<'_, usize> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Memory of the records, in bytes.
pub fn memory(fetched: &[PartitionData]) -> usize {
    fetched.iter().flat_map(|data| &data.records).map(FetchedRecord::memory).sum()
}
