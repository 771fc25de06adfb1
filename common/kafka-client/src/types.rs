//! Records, positions and assignments that callers and the client exchange.

use crate::error::Error;

/// Compression of produced batches. Consumers need the same codec, unless the topic's
/// `compression.type` says otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    /// No compression.
    #[default]
    None,
    /// Feature `gzip`.
    Gzip,
    /// Feature `snappy`.
    Snappy,
    /// Kafka 0.10 and newer; feature `lz4`.
    Lz4,
    /// Kafka 2.1 and newer; feature `zstd`.
    Zstd,
}

impl Compression {
    /// By Kafka's names.
    pub const ALL: [(&'static str, Self); 5] = [
        ("none", Self::None),
        ("gzip", Self::Gzip),
        ("snappy", Self::Snappy),
        ("lz4", Self::Lz4),
        ("zstd", Self::Zstd),
    ];

    /// Kafka's name.
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].0
    }

    /// Bits 0 to 2 of a batch's `attributes`.
    pub(crate) fn attribute(self) -> i16 {
        self as i16
    }
}

/// A record to write.
#[derive(Debug, Clone, Copy, Default)]
pub struct NewRecord<'a> {
    /// Key bytes.
    pub key: Option<&'a [u8]>,
    /// Value bytes.
    pub value: Option<&'a [u8]>,
    /// Record headers. The kafka crate cannot send them.
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
}

/// Records for one partition. A produce call has at most one batch for each partition.
#[derive(Debug, Clone)]
pub struct Batch<'a> {
    /// Topic name.
    pub topic: &'a str,
    /// Partition index, from 0.
    pub partition: i32,
    /// Records in the order of their offsets.
    pub records: Vec<NewRecord<'a>>,
}

/// A record read. The kafka crate cannot tell null from empty: both are `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FetchedRecord {
    /// Offset in the partition.
    pub offset: i64,
    /// Key bytes.
    pub key: Option<Vec<u8>>,
    /// Value bytes.
    pub value: Option<Vec<u8>>,
    /// Milliseconds since 1970, of the producer's or the broker's clock (`message.timestamp.type`);
    /// -1 from the kafka crate, which drops it.
    pub timestamp_ms: i64,
    /// Record headers in order, with duplicates. Empty from the kafka crate, which drops them.
    pub headers: Vec<Header>,
}

/// A record header: key, and a value that may be null.
pub type Header = (String, Option<Vec<u8>>);

/// A position in a partition: the next offset to read, or to commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Partition index, from 0.
    pub partition: i32,
    /// Next offset.
    pub next: i64,
}

/// The partitions that a member of a consumer group is assigned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// Increases with each rebalance. In a new generation, reading starts at the committed offsets.
    pub generation: i32,
    /// Topic and partition index.
    pub partitions: Vec<(String, i32)>,
}

/// What a fetch returned for one partition.
#[derive(Debug, Clone)]
pub struct PartitionData {
    /// Partition index, from 0.
    pub partition: i32,
    /// In offset order, none below the requested position.
    pub records: Vec<FetchedRecord>,
    /// Next offset to fetch.
    pub next: i64,
    /// End of the log (high watermark): `end - next` is the lag.
    pub end: i64,
    /// Why this partition has no records; other partitions of the fetch are not affected.
    pub error: Option<Error>,
}

impl PartitionData {
    /// No records because of `err`.
    pub fn failed(position: Position, err: Error) -> Self {
        Self { error: Some(err), ..Self::empty(position) }
    }

    /// No new records.
    pub fn empty(position: Position) -> Self {
        let Position { partition, next } = position;
        Self { partition, records: Vec::new(), next, end: next, error: None }
    }
}
