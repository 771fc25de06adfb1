//! Records, positions and assignments that callers and the client exchange.

use crate::error::Error;
use std::fmt;

/// Compression of produced batches. Consumers need the same codec, unless the topic's config
/// `compression.type` makes the broker recompress them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    /// Records are sent as they are.
    #[default]
    None,
    /// gzip, level 6. Feature `gzip`.
    Gzip,
    /// Snappy without the block format of the Java client. Feature `snappy`.
    Snappy,
    /// LZ4 frames with blocks of 64 KiB. Feature `lz4`.
    Lz4,
    /// zstd, at about level 1 (KIP-110). Feature `zstd`.
    Zstd,
}

impl Compression {
    /// All variants by the names of the producer config `compression.type`.
    pub const ALL: [(&'static str, Self); 5] = [
        ("none", Self::None),
        ("gzip", Self::Gzip),
        ("snappy", Self::Snappy),
        ("lz4", Self::Lz4),
        ("zstd", Self::Zstd),
    ];

    /// The name in the producer config `compression.type`.
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
    /// The key, or null. The client does not choose partitions by it.
    pub key: Option<&'a [u8]>,
    /// The value, or null: a tombstone in a compacted topic.
    pub value: Option<&'a [u8]>,
    /// Record headers (KIP-82): keys, and values that may be null.
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
}

/// Records for one partition. A call of [`crate::Client::produce`] takes at most one batch for each
/// partition.
#[derive(Debug, Clone)]
pub struct Batch<'a> {
    /// An existing topic: the client creates none.
    pub topic: &'a str,
    /// Partition index, from 0.
    pub partition: i32,
    /// At least one record, in the order of their offsets.
    pub records: Vec<NewRecord<'a>>,
}

/// A record that was fetched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FetchedRecord {
    /// Offset in the partition.
    pub offset: i64,
    /// The key, or null.
    pub key: Option<Vec<u8>>,
    /// The value, or null: a tombstone in a compacted topic.
    pub value: Option<Vec<u8>>,
    /// Milliseconds since 1970-01-01 UTC. The clock is the producer's or the broker's, by the topic
    /// config `message.timestamp.type`. -1 if the record has none.
    pub timestamp_ms: i64,
    /// Record headers (KIP-82) in order, duplicate keys included.
    pub headers: Vec<Header>,
}

/// A record header: key, and a value that may be null.
pub type Header = (String, Option<Vec<u8>>);

/// A position in a partition: the next offset to read, or to commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Partition index, from 0.
    pub partition: i32,
    /// The offset of the next record.
    pub next: i64,
}

/// The id of a topic (KIP-516), a UUID. A topic that is deleted and created again has another one,
/// so offsets of the former topic are not offsets of the new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(pub [u8; 16]);

impl TopicId {
    /// `None` for the UUID of zeros, by which a broker states that the topic has no id.
    pub fn from_wire(bytes: [u8; 16]) -> Option<Self> {
        Some(Self(bytes)).filter(|id| id.0 != [0; 16])
    }
}

/// As the tools of Kafka print it: base64 with the alphabet for URLs, without padding.
impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const ALPHABET: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let bits = u128::from_be_bytes(self.0);
        // 22 digits of 6 bits: the last one has 2 bits of the id and 4 zeros.
        let digit = |i: u32| match i {
            0..=20 => bits >> (122 - 6 * i),
            _ => bits << 4,
        };
        let text: String =
            (0..22).map(|i| char::from(ALPHABET[(digit(i) & 0x3f) as usize])).collect();
        f.pad(&text)
    }
}

/// A topic in the metadata of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicDescription {
    /// None if the cluster has no topic ids, which it has since Kafka 2.8.
    pub id: Option<TopicId>,
    /// The broker id of each partition's leader, or None without a leader. The index is the
    /// partition, and the length is the number of partitions.
    pub leaders: Vec<Option<i32>>,
}

/// An offset that a consumer group has committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The offset of the next record to read.
    pub offset: i64,
    /// The text that was committed with it. Empty by default.
    pub metadata: String,
}

/// The partitions that a member of a consumer group is assigned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// Increases with each rebalance. In a new generation, fetching starts at the committed
    /// offsets.
    pub generation: i32,
    /// Topics and partition indexes. Empty if the group has more members than partitions.
    pub partitions: Vec<(String, i32)>,
}

/// The result of a fetch for one partition.
#[derive(Debug, Clone)]
pub struct PartitionData {
    /// Partition index, from 0.
    pub partition: i32,
    /// Records in offset order, from the requested position on.
    pub records: Vec<FetchedRecord>,
    /// The next offset to fetch. Larger than the last record's offset + 1 where offsets have gaps.
    pub next: i64,
    /// The high watermark, which is the end of the log: `end - next` is the lag in offsets.
    pub end: i64,
    /// The error of this partition, if it has one. It has no records then, and `next` is the
    /// requested position. Other partitions of the fetch are not affected.
    pub error: Option<Error>,
}

impl PartitionData {
    /// A result without records because of `err`.
    pub fn failed(position: Position, err: Error) -> Self {
        Self { error: Some(err), ..Self::empty(position) }
    }

    /// A result without new records.
    pub fn empty(position: Position) -> Self {
        let Position { partition, next } = position;
        Self { partition, records: Vec::new(), next, end: next, error: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Printed by `org.apache.kafka.common.Uuid` of kafka-clients 3.9.1.
    #[test]
    fn topic_id_is_printed_as_by_kafka() {
        let id = |bits: u128| TopicId(bits.to_be_bytes()).to_string();
        assert_eq!(id(1), "AAAAAAAAAAAAAAAAAAAAAQ");
        assert_eq!(id(u128::MAX), "_____________________w");
        assert_eq!(id(0x0123_4567_89ab_cdef_fedc_ba98_7654_3210), "ASNFZ4mrze_-3LqYdlQyEA");
    }
}
