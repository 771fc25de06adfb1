//! The trait that both Kafka clients implement.

use kafka_client::{
    Assignment, Batch, Client, CommittedOffset, Error, ErrorKind, PartitionData, Position, Result,
    TopicDescription, TopicId,
};
use std::time::Duration;

/// The Kafka requests that the bank needs. The built-in client and the adapter of the `kafka` crate
/// implement it.
///
/// `within` limits the time for retries. A started attempt may take up to `KAFKA_TIMEOUT_MS`
/// longer. The backoff between attempts is 100 ms, doubling up to 2 s. It also applies across
/// calls.
pub trait KafkaClient: Send {
    /// Returns the broker id of each partition's leader, index = partition. Refreshes the metadata.
    fn leaders(&mut self, topic: &str, within: Duration) -> Result<Vec<i32>>;

    /// Returns the ids of `topics`, in the same order. Never from a cache, and no topic is created.
    ///
    /// Offsets belong to a topic id: a topic that was deleted and created again has another id, and
    /// its log starts at 0. `None` means that the broker has no topic ids (before Kafka 2.8), so
    /// that this cannot be noticed. An id that follows `None`, after an upgrade, is no new topic.
    /// Both clients implement this method; its default is for fakes in tests.
    ///
    /// # Errors
    /// Retryable if one of the topics does not exist (`UNKNOWN_TOPIC_OR_PARTITION`).
    fn topic_ids(&mut self, topics: &[&str], within: Duration) -> Result<Vec<Option<TopicId>>> {
        let _ = within;
        Ok(vec![None; topics.len()])
    }

    /// Returns the id and the partitions of `topic`. Never from a cache. In contrast to
    /// [`Self::leaders`], partitions without a leader are no error.
    ///
    /// # Errors
    /// Retryable if the topic does not exist.
    fn describe_topic(&mut self, topic: &str, within: Duration) -> Result<TopicDescription> {
        let leaders = self.leaders(topic, within)?.into_iter().map(Some).collect();
        Ok(TopicDescription { id: None, leaders })
    }

    /// Writes with acks=all. Returns the base offset of each batch, in order. It is -1 if the batch
    /// was already written and the broker no longer has its offset.
    ///
    /// If a result is retryable, pass the same batch to the same client again, before any other
    /// batch of that partition. The built-in client (an idempotent producer) writes it once. The
    /// kafka crate may duplicate it.
    fn produce(&mut self, batches: &[Batch<'_>], within: Duration) -> Vec<Result<i64>>;

    /// Reads from `positions` of `topic`. Returns as soon as there are records, or after `wait`
    /// without records. Returns one [`PartitionData`] for each position.
    fn fetch(
        &mut self,
        topic: &str,
        positions: &[Position],
        wait: Duration,
    ) -> Result<Vec<PartitionData>>;

    /// Returns the log start offset and the end of each partition, index = partition.
    fn log_range(&mut self, topic: &str, within: Duration) -> Result<Vec<(i64, i64)>>;

    /// Returns the group's committed offset of each partition, index = partition.
    fn committed(&mut self, group: &str, topic: &str, within: Duration)
    -> Result<Vec<Option<i64>>>;

    /// Like [`Self::committed`], with the metadata of each offset.
    fn committed_offsets(
        &mut self,
        group: &str,
        topic: &str,
        within: Duration,
    ) -> Result<Vec<Option<CommittedOffset>>> {
        let committed = self.committed(group, topic, within)?;
        let offset = |offset| CommittedOffset { offset, metadata: String::new() };
        Ok(committed.into_iter().map(|it| it.map(offset)).collect())
    }

    /// Commits offsets for the group. A member may only commit its assigned partitions.
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

    /// Like [`Self::commit`]. The coordinator stores `metadata` with each offset.
    fn commit_with_metadata(
        &mut self,
        group: &str,
        topic: &str,
        positions: &[Position],
        metadata: &str,
        within: Duration,
    ) -> Result<()> {
        let _ = metadata;
        self.commit(group, topic, positions, within)
    }

    /// Joins `group` as a consumer of `topics` if needed, then sends heartbeats. Returns the
    /// assignment.
    ///
    /// Call it about once per second. Before the call, all records read so far must be processed
    /// and committed: the call may revoke partitions, and it waits until a rebalance is complete.
    ///
    /// # Errors
    /// After an error no partition is assigned. The kafka crate has no consumer groups and returns
    /// [`ErrorKind::Config`].
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

    /// Leaves `group`, so that its partitions are reassigned immediately.
    ///
    /// # Errors
    /// The partitions are reassigned only after the session timeout of 10 s.
    fn leave(&mut self, group: &str) -> Result<()> {
        let _ = group;
        Ok(())
    }

    /// True if one fetch reads from all leaders at the same time and follows leader changes: then
    /// one thread is enough. False if a fetch reads from one leader after the other.
    fn fetches_from_all(&self) -> bool {
        false
    }
}

/// Trait methods that call the inherent methods of the same name.
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
        topic_ids(topics: &[&str], within: Duration) -> Result<Vec<Option<TopicId>>>;
        describe_topic(topic: &str, within: Duration) -> Result<TopicDescription>;
        produce(batches: &[Batch<'_>], within: Duration) -> Vec<Result<i64>>;
        fetch(topic: &str, positions: &[Position], wait: Duration) -> Result<Vec<PartitionData>>;
        log_range(topic: &str, within: Duration) -> Result<Vec<(i64, i64)>>;
        committed(group: &str, topic: &str, within: Duration) -> Result<Vec<Option<i64>>>;
        committed_offsets(group: &str, topic: &str, within: Duration)
            -> Result<Vec<Option<CommittedOffset>>>;
        commit(group: &str, topic: &str, positions: &[Position], within: Duration) -> Result<()>;
        commit_with_metadata(
            group: &str,
            topic: &str,
            positions: &[Position],
            metadata: &str,
            within: Duration
        ) -> Result<()>;
        poll_assignment(group: &str, topics: &[&str], within: Duration) -> Result<Assignment>;
        leave(group: &str) -> Result<()>;
    }

    fn fetches_from_all(&self) -> bool {
        true
    }
}
