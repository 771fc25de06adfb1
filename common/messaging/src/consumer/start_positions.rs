//! The start positions of a consumer.

use super::shared::{CALL_SLICE, no_such_partition, warn_outside_log};
use crate::client::KafkaClient;
use crate::config::KafkaConfig;
use crate::connect;
use kafka_client::{CommittedOffset, Error, Position, TopicDescription, TopicId};
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

/// The positions of a consumer group, and the topic that they belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupPositions {
    /// `None` before Kafka 2.8.
    pub topic_id: Option<TopicId>,
    pub positions: Vec<Position>,
    /// The log start offset and the end of each partition of the topic, index = partition.
    pub ranges: Vec<(i64, i64)>,
}

/// Returns the positions from which `group` continues to read `partitions` of `topic`.
///
/// The position is the committed offset. If that is out of range, it is the earliest offset. The
/// same applies if [`commit_positions`] committed it in a former topic of that name. After
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
    let found =
        find_positions(&mut *client, group, topic, Some(partitions), offset_reset, &deadline)?;
    Ok(found.positions)
}

/// Like [`start_positions`], with the id of the topic, for [`Consumer::start_in`] and
/// [`commit_positions`]. `partitions` is `None` for all of the topic.
///
/// [`Consumer::start_in`]: super::Consumer::start_in
pub fn group_positions(
    client: &mut dyn KafkaClient,
    group: &str,
    topic: &str,
    partitions: Option<&[i32]>,
    within: Duration,
    shutdown: &Shutdown,
) -> Result<GroupPositions, Error> {
    let deadline = RetryUntil { deadline: Instant::now() + within, shutdown };
    find_positions(client, group, topic, partitions, OffsetReset::Earliest, &deadline)
}

/// Commits offsets of the topic with the id `topic_id`, which is stored with them. If the topic is
/// deleted and created again, [`group_positions`] does not use them.
///
/// # Errors
/// See [`KafkaClient::commit`].
pub fn commit_positions(
    client: &mut dyn KafkaClient,
    group: &str,
    topic: &str,
    topic_id: Option<TopicId>,
    positions: &[Position],
    within: Duration,
) -> Result<(), Error> {
    let metadata = topic_id.map_or_else(String::new, metadata_of);
    client.commit_with_metadata(group, topic, positions, &metadata, within)
}

/// The metadata of offsets in the topic `id`.
fn metadata_of(id: TopicId) -> String {
    format!("topic-id={id}")
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
    partitions: Option<&[i32]>,
    offset_reset: OffsetReset,
    until: &RetryUntil<'_>,
) -> Result<GroupPositions, Error> {
    // The id precedes the offsets. If the topic is created again meanwhile, the consumer finds
    // another id than this one.
    let TopicDescription { id, leaders } =
        until.retry(|slice| client.describe_topic(topic, slice))?;
    let committed = until.retry(|slice| client.committed_offsets(group, topic, slice))?;
    let ranges = until.retry(|slice| client.log_range(topic, slice))?;
    let is_new_group = committed.iter().all(Option::is_none);
    let all: Vec<i32> = (0..).take(leaders.len()).collect();
    let mut positions = Vec::new();
    let mut new = Vec::new();
    for &partition in partitions.unwrap_or(&all) {
        let index = usize::try_from(partition).ok();
        let &(earliest, end) = index
            .and_then(|index| ranges.get(index))
            .ok_or_else(|| no_such_partition(topic, partition, ranges.len()))?;
        let committed = index.and_then(|index| committed.get(index)?.as_ref());
        let next = match committed {
            Some(it) if is_of_former_topic(it, id) => {
                let (offset, metadata) = (it.offset, &*it.metadata);
                let present = id.map(|id| id.to_string());
                log::warn!(
                    topic, partition, group, offset, metadata, topic_id:? = present;
                    "topic was deleted and created again since this offset was committed, \
                     reading it from its beginning"
                );
                earliest
            }
            Some(it) if (earliest..=end).contains(&it.offset) => it.offset,
            // The offset was deleted, or it is after the end because the log was recreated. In both
            // cases no record of the present log was read.
            Some(it) => {
                warn_outside_log(topic, partition, it.offset, (earliest, end));
                earliest
            }
            None => match offset_reset {
                OffsetReset::Earliest => {
                    if end > earliest {
                        warn_no_offset(topic, partition, group, is_new_group, (earliest, end));
                    }
                    earliest
                }
                OffsetReset::End => {
                    new.push(Position { partition, next: end });
                    end
                }
            },
        };
        positions.push(Position { partition, next });
    }
    if !new.is_empty() {
        // Without this commit, a restart would skip the records written in the meantime.
        until.retry(|slice| commit_positions(client, group, topic, id, &new, slice))?;
    }
    Ok(GroupPositions { topic_id: id, positions, ranges })
}

/// True if the offset was committed for another topic of the same name than `id`. Offsets of other
/// programs and of former versions have no id.
fn is_of_former_topic(committed: &CommittedOffset, id: Option<TopicId>) -> bool {
    let expected = id.map(metadata_of);
    let is_ours = committed.metadata.starts_with("topic-id=");
    is_ours && expected.is_some_and(|expected| committed.metadata != expected)
}

/// Logs that records may be read a second time.
fn warn_no_offset(
    topic: &str,
    partition: i32,
    group: &str,
    is_new_group: bool,
    (earliest, end): (i64, i64),
) {
    let reason = if is_new_group {
        "the group is new, or all its offsets have expired (offsets.retention.minutes)"
    } else {
        "the partition is new, or its offset has expired (offsets.retention.minutes)"
    };
    let records = end - earliest;
    log::warn!(
        topic, partition, group, earliest, end, records, reason;
        "no committed offset, reading all retained records again"
    );
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
