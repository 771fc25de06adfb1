//! The start positions of a consumer.

use super::shared::{CALL_SLICE, no_such_partition, warn_outside_log};
use crate::client::KafkaClient;
use crate::config::KafkaConfig;
use crate::connect;
use kafka_client::{Error, Position};
use service::shutdown::Shutdown;
use std::time::{Duration, Instant};

/// The start position in a partition without a committed offset, as in `auto.offset.reset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetReset {
    /// The log start offset.
    Earliest,
    /// The end of the log, which is committed immediately.
    End,
}

/// Returns the positions from which `group` continues to read `partitions` of `topic`.
///
/// The position is the committed offset. If that is out of range, it is the earliest offset. After
/// `shutdown` is requested, calls are not retried.
///
/// # Errors
/// [`ErrorKind::Config`](kafka_client::ErrorKind::Config) if a partition does not exist. A
/// retryable error if no broker responds within `within`.
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

/// Returns the log start offset and the end of each partition of `topic`, index = partition.
///
/// # Errors
/// As [`start_positions`].
pub fn log_ranges(
    config: &KafkaConfig,
    topic: &str,
    within: Duration,
    shutdown: &Shutdown,
) -> Result<Vec<(i64, i64)>, Error> {
    let mut client = connect::connect_until(config, shutdown);
    let until = RetryUntil { deadline: Instant::now() + within, shutdown };
    until.retry(|slice| client.log_range(topic, slice))
}

/// Returns the offset of each partition of `topic` that `group` has committed, index = partition.
///
/// # Errors
/// As [`start_positions`].
pub fn committed_offsets(
    config: &KafkaConfig,
    group: &str,
    topic: &str,
    within: Duration,
    shutdown: &Shutdown,
) -> Result<Vec<Option<i64>>, Error> {
    let mut client = connect::connect_until(config, shutdown);
    let until = RetryUntil { deadline: Instant::now() + within, shutdown };
    until.retry(|slice| client.committed(group, topic, slice))
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
            // The offset was deleted, or it is after the end because the log was recreated. In both
            // cases no record of the present log was read.
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
        // Without this commit, a restart would skip the records written in the meantime.
        until.retry(|slice| client.commit(group, topic, &new, slice))?;
    }
    Ok(positions)
}

/// The limit of retries: a deadline and a shutdown request.
pub(super) struct RetryUntil<'a> {
    pub deadline: Instant,
    pub shutdown: &'a Shutdown,
}

impl RetryUntil<'_> {
    /// Repeats a call until it succeeds. Each attempt has a short time limit, so that a shutdown
    /// request is noticed. The call has its own backoff.
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
