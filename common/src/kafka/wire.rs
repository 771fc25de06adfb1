//! The narrow interface to Kafka, and the only file that knows the kafka crate.
//!
//! A [`Bus`] belongs to one thread. It retries, reconnects and refreshes metadata inside, until the deadline given with each
//! call. Positions and the choice of partitions belong to the caller.

use super::KafkaConfig;
use std::time::Duration;

/// What an error means for whoever made the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The cluster or the configuration can't do this, ever: stop with the text.
    Config,
    /// This record can't be written (too large): give it back.
    Message,
    /// Not written or not read; may work later.
    Retry,
    /// Perhaps written: sending again may duplicate.
    Unknown,
    /// The position is outside the log: choose another.
    Position,
    /// Records of this partition can't be read by this client; the others go on.
    Poison,
    /// Another member owns this now.
    Fenced,
}

/// A failed call.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{text}")]
pub struct Error {
    /// What it means.
    pub kind: Kind,
    /// Kafka's error code, or 0 where there is none.
    pub code: i16,
    /// What was tried, on which broker or partition, and what it said.
    pub text: String,
}

/// Result of a call.
pub type Result<T> = std::result::Result<T, Error>;

/// A record to write.
#[derive(Debug, Clone, Copy)]
pub struct Out<'a> {
    /// Key bytes.
    pub key: Option<&'a [u8]>,
    /// Value bytes.
    pub value: Option<&'a [u8]>,
}

/// Records for one partition; a partition comes once per call.
#[derive(Debug, Clone)]
pub struct Batch<'a> {
    /// Topic name.
    pub topic: &'a str,
    /// Partition, from 0.
    pub partition: i32,
    /// In order.
    pub records: Vec<Out<'a>>,
}

/// A record read. The kafka crate can't tell null from empty: both are `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct In {
    /// Its offset.
    pub offset: i64,
    /// Key bytes.
    pub key: Option<Vec<u8>>,
    /// Value bytes.
    pub value: Option<Vec<u8>>,
}

/// A position in a partition: the next offset to read, or to commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Partition, from 0.
    pub partition: i32,
    /// Next offset.
    pub next: i64,
}

/// What one partition gave to a fetch.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// Partition, from 0.
    pub partition: i32,
    /// In offset order, none below the position asked for.
    pub records: Vec<In>,
    /// Where to go on.
    pub next: i64,
    /// End of the log (high watermark): `end - next` is the lag.
    pub end: i64,
    /// Why this partition gave nothing; the others of the call are good all the same.
    pub error: Option<Error>,
}

/// The calls to Kafka that this bank needs. One implementation each for the kafka crate and (later) today's protocol.
pub trait Bus: Send {
    /// The broker id that leads each partition of `topic`, index = partition, fresh from the cluster, once all have one.
    fn leaders(&mut self, topic: &str, within: Duration) -> Result<Vec<i32>>;

    /// Writes with acks=all. One result for each batch, in order: the offset of its first record.
    fn produce(&mut self, batches: &[Batch<'_>], within: Duration) -> Vec<Result<i64>>;

    /// Reads from `positions` of `topic`: returns as soon as there are records, or after `wait` without.
    fn fetch(&mut self, topic: &str, positions: &[Position], wait: Duration) -> Result<Vec<Chunk>>;

    /// (earliest, end) offset of each partition, index = partition.
    fn bounds(&mut self, topic: &str, within: Duration) -> Result<Vec<(i64, i64)>>;

    /// The group's committed next offset of each partition, index = partition; `None` if there is none.
    fn committed(&mut self, group: &str, topic: &str, within: Duration)
    -> Result<Vec<Option<i64>>>;

    /// Commits next offsets for the group.
    fn commit(
        &mut self,
        group: &str,
        topic: &str,
        positions: &[Position],
        within: Duration,
    ) -> Result<()>;
}

/// A client of the cluster. No I/O happens before the first call.
pub fn connect(_config: &KafkaConfig) -> Box<dyn Bus> {
    unimplemented!()
}

/// True while this thread is inside a call of the kafka crate, whose panics become errors.
pub fn guards_panics() -> bool {
    false
}
