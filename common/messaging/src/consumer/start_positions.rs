//! Where a consumer starts.

use super::shared::{CALL_SLICE, no_such_partition, warn_outside_log};
use crate::client::KafkaClient;
use crate::config::KafkaConfig;
use crate::connect;
use kafka_client::{Error, Position};
use service::shutdown::Shutdown;
use std::time::{Duration, Instant};

/// Where to start in a partition without a committed offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetReset {
    /// At the earliest record.
    Earliest,
    /// At the end of the log, which is committed at once.
    End,
}

/// Where `group` continues in `partitions` of `topic`: at its committed offsets, or at the earliest
/// offset if those are outside of the log. After `shutdown` is requested nothing is retried.
///
/// # Errors
/// No broker responds within `within`.
pub fn start_positions(
    config: &KafkaConfig,
    group: &str,
    topic: &str,
    partitions: &[i32],
    offset_reset: OffsetReset,
    within: Duration,
    shutdown: &Shutdown,
) -> Result<Vec<Position>, Error> {
    let mut client = connect::connect_until(config, shutdown);
    let deadline = RetryUntil { deadline: Instant::now() + within, shutdown };
    find_positions(&mut *client, group, topic, partitions, offset_reset, &deadline)
}

pub(super) fn find_positions(
    client: &mut dyn KafkaClient,
    group: &str,
    topic: &str,
    partitions: &[i32],
    offset_reset: OffsetReset,
    until: &RetryUntil<'_>,
) -> Result<Vec<Position>, Error> {
    let committed = until.retry(|slice| client.committed(group, topic, slice))?;
    let ranges = until.retry(|slice| client.log_range(topic, slice))?;
    let mut positions = Vec::with_capacity(partitions.len());
    let mut new = Vec::new();
    for &partition in partitions {
        let index = usize::try_from(partition).ok();
        let &(earliest, end) = index
            .and_then(|index| ranges.get(index))
            .ok_or_else(|| no_such_partition(topic, partition, ranges.len()))?;
        let committed = index.and_then(|index| committed.get(index).copied()).flatten();
        let next = match committed {
            Some(next) if (earliest..=end).contains(&next) => next,
            // An offset after the end: the log was lost or recreated, and its records were never
            // read.
            Some(next) => {
                warn_outside_log(topic, partition, next, (earliest, end));
                earliest
            }
            None if offset_reset == OffsetReset::Earliest => earliest,
            None => {
                new.push(Position { partition, next: end });
                end
            }
        };
        positions.push(Position { partition, next });
    }
    if !new.is_empty() {
        // Now, or after a restart the records up to the new end would never be read.
        until.retry(|slice| client.commit(group, topic, &new, slice))?;
    }
    Ok(positions)
}

/// How long calls are retried.
pub(super) struct RetryUntil<'a> {
    pub deadline: Instant,
    pub shutdown: &'a Shutdown,
}

impl RetryUntil<'_> {
    /// Repeats a call, which has a backoff of its own, with short deadlines, to notice a shutdown.
    pub fn retry<T>(&self, mut call: impl FnMut(Duration) -> Result<T, Error>) -> Result<T, Error> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            match call(left.min(CALL_SLICE)) {
                Err(err)
                    if err.is_retryable() && left > CALL_SLICE && !self.shutdown.requested() => {}
                result => return result,
            }
        }
    }
}
