//! The trait that both Kafka clients implement.

use kafka_client::{Assignment, Batch, Client, Error, ErrorKind, PartitionData, Position, Result};
use std::time::Duration;

/// The calls to Kafka that this bank needs. Implemented by the built-in client and by the adapter
/// of the `kafka` crate.
///
/// `within` is the time for retries: an attempt that has begun may take up to `KAFKA_TIMEOUT_MS`
/// longer. After a failed attempt the next one waits 100 ms, doubling up to 2 s, also across calls.
pub trait KafkaClient: Send {
    /// The broker id of each partition's leader, index = partition, from new metadata.
    fn leaders(&mut self, topic: &str, within: Duration) -> Result<Vec<i32>>;

    /// Writes with acks=all. One result for each batch, in order: its base offset, or -1 if the
    /// broker no longer knows it.
    ///
    /// If its result is retryable, the same batch may be given again to the same client, before any
    /// other of its partition. The built-in client writes it once; the kafka crate may duplicate
    /// it.
    fn produce(&mut self, batches: &[Batch<'_>], within: Duration) -> Vec<Result<i64>>;

    /// Reads from `positions` of `topic`. Returns as soon as there are records, or after `wait`
    /// without records. One [`PartitionData`] for each position.
    fn fetch(
        &mut self,
        topic: &str,
        positions: &[Position],
        wait: Duration,
    ) -> Result<Vec<PartitionData>>;

    /// Log start offset and end of each partition, index = partition.
    fn log_range(&mut self, topic: &str, within: Duration) -> Result<Vec<(i64, i64)>>;

    /// The group's committed offset of each partition, index = partition.
    fn committed(&mut self, group: &str, topic: &str, within: Duration)
    -> Result<Vec<Option<i64>>>;

    /// Commits offsets for the group. A member commits only its assigned partitions.
    ///
    /// # Errors
    /// [`ErrorKind::Fenced`] if this client is not a member of the group's current generation.
    fn commit(
        &mut self,
        group: &str,
        topic: &str,
        positions: &[Position],
        within: Duration,
    ) -> Result<()>;

    /// Joins `group` as a consumer of `topics` if needed, then sends heartbeats. To be called about
    /// once a second, after all records read so far are processed and committed: the call may
    /// revoke partitions, and waits until a rebalance is over.
    ///
    /// # Errors
    /// No partition is assigned then. [`ErrorKind::Config`] from the kafka crate, which has no
    /// groups.
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

    /// Leaves `group`: its partitions are reassigned at once, not after the session timeout of 10
    /// s.
    ///
    /// # Errors
    /// The session timeout applies.
    fn leave(&mut self, group: &str) -> Result<()> {
        let _ = group;
        Ok(())
    }

    /// True if one fetch waits for all leaders at once and follows moved ones, so that one thread
    /// is enough. False if it fetches from one leader after the other.
    fn fetches_from_all(&self) -> bool {
        false
    }
}

/// Methods that call the inherent ones of the same name.
macro_rules! forward {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
        $(fn $name(&mut self, $($argument: $type),*) -> $result {
            Client::$name(self, $($argument),*)
        })*
    };
}

impl KafkaClient for Client {
    forward! {
        leaders(topic: &str, within: Duration) -> Result<Vec<i32>>;
        produce(batches: &[Batch<'_>], within: Duration) -> Vec<Result<i64>>;
        fetch(topic: &str, positions: &[Position], wait: Duration) -> Result<Vec<PartitionData>>;
        log_range(topic: &str, within: Duration) -> Result<Vec<(i64, i64)>>;
        committed(group: &str, topic: &str, within: Duration) -> Result<Vec<Option<i64>>>;
        commit(group: &str, topic: &str, positions: &[Position], within: Duration) -> Result<()>;
        poll_assignment(group: &str, topics: &[&str], within: Duration) -> Result<Assignment>;
        leave(group: &str) -> Result<()>;
    }

    fn fetches_from_all(&self) -> bool {
        true
    }
}
