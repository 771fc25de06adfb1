//! The trait that both Kafka clients implement.

use kafka_client::{Assignment, Batch, Client, Error, ErrorKind, PartitionData, Position, Result};
use std::time::Duration;

/// The calls to Kafka that this bank needs. Implemented by the built-in client and by the adapter
/// of the `kafka` crate.
///
/// `within` is the time for retries: an attempt that has begun may take up to `KAFKA_TIMEOUT_MS`
/// longer. After a failed attempt the next one waits 100 ms, then 200 ms and so on up to 2 s, also
/// over several calls: a caller that can wait calls again.
pub trait KafkaClient: Send {
    /// The broker id that leads each partition of `topic`, index = partition, fresh from the
    /// cluster, once all have one.
    fn leaders(&mut self, topic: &str, within: Duration) -> Result<Vec<i32>>;

    /// Writes with acks=all. One result for each batch, in order: the offset of its first record,
    /// -1 where the broker no longer knows it.
    ///
    /// A batch whose result is retryable may be given again, to the same client and before any
    /// other of its partition. The built-in client then writes it once, however often it was sent;
    /// the kafka crate may write it twice.
    fn produce(&mut self, batches: &[Batch<'_>], within: Duration) -> Vec<Result<i64>>;

    /// Reads from `positions` of `topic`: returns as soon as there are records, or after `wait`
    /// without. One [`PartitionData`] per position.
    fn fetch(
        &mut self,
        topic: &str,
        positions: &[Position],
        wait: Duration,
    ) -> Result<Vec<PartitionData>>;

    /// (earliest, end) offset of each partition, index = partition.
    fn log_range(&mut self, topic: &str, within: Duration) -> Result<Vec<(i64, i64)>>;

    /// The group's committed next offset of each partition, index = partition; `None` if there is
    /// none.
    fn committed(&mut self, group: &str, topic: &str, within: Duration)
    -> Result<Vec<Option<i64>>>;

    /// Commits next offsets for the group; a member commits only those that it is assigned.
    ///
    /// # Errors
    /// [`ErrorKind::Fenced`] if it is not a member of the group's current generation.
    fn commit(
        &mut self,
        group: &str,
        topic: &str,
        positions: &[Position],
        within: Duration,
    ) -> Result<()>;

    /// Membership in `group` as a consumer of `topics`: joins it first, then sends heartbeats. To
    /// be called about once a second, when all records read so far are processed and committed: the
    /// call may give partitions away, and waits until the rebalance is over.
    ///
    /// # Errors
    /// Nothing is assigned then. [`ErrorKind::Config`] from the kafka crate, which has no groups.
    fn poll_assignment(
        &mut self,
        group: &str,
        topics: &[&str],
        within: Duration,
    ) -> Result<Assignment> {
        let _ = (topics, within);
        let text = format!("join group {group}: the kafka crate has no consumer groups");
        Err(Error { kind: ErrorKind::Config, code: 0, text })
    }

    /// Leaves `group`, so that others get its partitions at once instead of after the session
    /// timeout of ten seconds.
    ///
    /// # Errors
    /// The coordinator finds out by the session timeout.
    fn leave(&mut self, group: &str) -> Result<()> {
        let _ = group;
        Ok(())
    }

    /// True if one fetch waits for all leaders at once and finds moved ones itself, so that one
    /// thread is enough. False if it asks one leader after the other.
    fn fetches_from_all(&self) -> bool {
        false
    }
}

impl KafkaClient for Client {
    fn leaders(&mut self, topic: &str, within: Duration) -> Result<Vec<i32>> {
        self.leaders(topic, within)
    }

    fn produce(&mut self, batches: &[Batch<'_>], within: Duration) -> Vec<Result<i64>> {
        self.produce(batches, within)
    }

    fn fetch(
        &mut self,
        topic: &str,
        positions: &[Position],
        wait: Duration,
    ) -> Result<Vec<PartitionData>> {
        self.fetch(topic, positions, wait)
    }

    fn log_range(&mut self, topic: &str, within: Duration) -> Result<Vec<(i64, i64)>> {
        self.log_range(topic, within)
    }

    fn committed(
        &mut self,
        group: &str,
        topic: &str,
        within: Duration,
    ) -> Result<Vec<Option<i64>>> {
        self.committed(group, topic, within)
    }

    fn commit(
        &mut self,
        group: &str,
        topic: &str,
        positions: &[Position],
        within: Duration,
    ) -> Result<()> {
        self.commit(group, topic, positions, within)
    }

    fn poll_assignment(
        &mut self,
        group: &str,
        topics: &[&str],
        within: Duration,
    ) -> Result<Assignment> {
        self.poll_assignment(group, topics, within)
    }

    fn leave(&mut self, group: &str) -> Result<()> {
        self.leave(group)
    }

    fn fetches_from_all(&self) -> bool {
        true
    }
}
