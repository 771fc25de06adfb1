//! The narrow interface to Kafka that this bank needs, and a client of today's protocol behind it.
//!
//! A [`Bus`] belongs to one thread. It retries, reconnects and refreshes metadata inside, until the deadline given with each
//! call. Positions and the choice of partitions belong to the caller.
//!
//! The client (feature `client`, [`connect`]) is synchronous and has codecs of its own for the few requests that it sends; it speaks
//! with Kafka 2.8 to 4.x.

mod pace;

#[cfg(feature = "client")]
mod api;
#[cfg(feature = "client")]
mod batch;
#[cfg(all(feature = "client", target_arch = "x86_64"))]
mod checksum;
#[cfg(feature = "client")]
mod client;
#[cfg(feature = "client")]
mod cluster;
#[cfg(feature = "client")]
pub mod code;
#[cfg(feature = "client")]
mod codec;
#[cfg(feature = "client")]
mod connection;
#[cfg(feature = "client")]
mod fetch;
#[cfg(feature = "client")]
mod fields;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
#[cfg(feature = "client")]
mod group;
#[cfg(feature = "client")]
mod map;
#[cfg(feature = "client")]
pub mod messages;
#[cfg(feature = "client")]
mod produce;
mod sasl;

#[cfg(all(test, feature = "client"))]
mod fake;
#[cfg(all(test, feature = "client"))]
mod golden;
#[cfg(all(test, feature = "client"))]
mod mutations;
#[cfg(all(test, feature = "client"))]
mod oracle;
#[cfg(all(test, feature = "client"))]
mod samples;
#[cfg(all(test, feature = "client"))]
mod tests;

#[cfg(feature = "client")]
pub use api::{Ask, Range, Spec};
#[cfg(feature = "client")]
pub use client::{Config, connect};
#[cfg(feature = "client")]
pub use connection::{Connection, Fault, Limits, Stop};
pub use pace::Pace;
pub use sasl::{Mechanism, Sasl};

#[cfg(all(feature = "client", not(target_arch = "x86_64")))]
use crc32c as checksum;

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

impl Kind {
    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Message => "message",
            Self::Retry => "retry",
            Self::Unknown => "unknown",
            Self::Position => "position",
            Self::Poison => "poison",
            Self::Fenced => "fenced",
        }
    }
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

impl Error {
    /// The same call may work later.
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind, Kind::Retry | Kind::Unknown)
    }
}

/// Result of a call.
pub type Result<T> = std::result::Result<T, Error>;

/// What a batch has come to over its attempts.
pub trait Outcome {
    /// True if another attempt may succeed.
    fn is_retryable(&self) -> bool;
    /// Takes the newer error, but once a batch was perhaps written, no later attempt makes that undone.
    fn worsen(&mut self, err: Error);
}

impl Outcome for Result<i64> {
    fn is_retryable(&self) -> bool {
        self.as_ref().is_err_and(Error::is_retryable)
    }

    fn worsen(&mut self, err: Error) {
        let unknown = matches!(self, Err(before) if before.kind == Kind::Unknown);
        let kind = if unknown && err.kind == Kind::Retry { Kind::Unknown } else { err.kind };
        *self = Err(Error { kind, ..err });
    }
}

/// How the records of a batch are packed before they are written. Whoever reads needs the same codec, unless the topic has them stored
/// otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    /// As they are.
    #[default]
    None,
    /// Smallest of those that every client reads.
    Gzip,
    /// Fastest of those that every client reads.
    Snappy,
    /// Kafka 0.10 and newer; needs the feature `lz4`.
    Lz4,
    /// Kafka 2.1 and newer; needs the feature `zstd`.
    Zstd,
}

impl Compression {
    /// By the names that Kafka has for them.
    pub const ALL: [(&'static str, Self); 5] = [
        ("none", Self::None),
        ("gzip", Self::Gzip),
        ("snappy", Self::Snappy),
        ("lz4", Self::Lz4),
        ("zstd", Self::Zstd),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].0
    }

    /// What tells it in the head of a batch.
    #[cfg(feature = "client")]
    fn attribute(self) -> i16 {
        self as i16
    }
}

/// A record to write.
#[derive(Debug, Clone, Copy, Default)]
pub struct Out<'a> {
    /// Key bytes.
    pub key: Option<&'a [u8]>,
    /// Value bytes.
    pub value: Option<&'a [u8]>,
    /// Names and values beside it. The kafka crate can't send them.
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct In {
    /// Its offset.
    pub offset: i64,
    /// Key bytes.
    pub key: Option<Vec<u8>>,
    /// Value bytes.
    pub value: Option<Vec<u8>>,
    /// Milliseconds since 1970, of the broker's clock where the topic says so; -1 from the kafka crate, which drops it.
    pub timestamp_ms: i64,
    /// Names and values beside it, in order, also equal names. None from the kafka crate, which drops them.
    pub headers: Vec<Header>,
}

/// A name, and a value that may be null.
pub type Header = (String, Option<Vec<u8>>);

/// A position in a partition: the next offset to read, or to commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Partition, from 0.
    pub partition: i32,
    /// Next offset.
    pub next: i64,
}

/// What a member of a consumer group may work on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Counts up with each change of the group. With another one than before, positions are those that are committed.
    pub generation: i32,
    /// Topic and partition, from 0.
    pub partitions: Vec<(String, i32)>,
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

impl Chunk {
    /// Of a partition that gave nothing.
    pub fn failed(position: Position, err: Error) -> Self {
        Self { error: Some(err), ..Self::empty(position) }
    }

    /// Of a partition where nothing is new.
    pub fn empty(position: Position) -> Self {
        let Position { partition, next } = position;
        Self { partition, records: Vec::new(), next, end: next, error: None }
    }
}

/// The calls to Kafka that this bank needs. One implementation each for the kafka crate and today's protocol.
///
/// `within` is the time for retries: an attempt that has begun may take up to `KAFKA_TIMEOUT_MS` longer. After a failed
/// attempt the next one waits 100 ms, then 200 ms and so on up to 2 s, also over several calls: whoever can wait calls again.
pub trait Bus: Send {
    /// The broker id that leads each partition of `topic`, index = partition, fresh from the cluster, once all have one.
    fn leaders(&mut self, topic: &str, within: Duration) -> Result<Vec<i32>>;

    /// Writes with acks=all. One result for each batch, in order: the offset of its first record, -1 where the broker no longer
    /// knows it.
    ///
    /// A batch whose result is retryable may be given again, to the same bus and before any other of its partition. Today's
    /// protocol then writes it once, however often it was sent; the kafka crate may write it twice.
    fn produce(&mut self, batches: &[Batch<'_>], within: Duration) -> Vec<Result<i64>>;

    /// Reads from `positions` of `topic`: returns as soon as there are records, or after `wait` without. A chunk for each
    /// position.
    fn fetch(&mut self, topic: &str, positions: &[Position], wait: Duration) -> Result<Vec<Chunk>>;

    /// (earliest, end) offset of each partition, index = partition.
    fn bounds(&mut self, topic: &str, within: Duration) -> Result<Vec<(i64, i64)>>;

    /// The group's committed next offset of each partition, index = partition; `None` if there is none.
    fn committed(&mut self, group: &str, topic: &str, within: Duration)
    -> Result<Vec<Option<i64>>>;

    /// Commits next offsets for the group; by a member of it only those it holds.
    ///
    /// # Errors
    /// [`Kind::Fenced`] if it is no member of the group's present generation.
    fn commit(
        &mut self,
        group: &str,
        topic: &str,
        positions: &[Position],
        within: Duration,
    ) -> Result<()>;

    /// Membership in `group` as a reader of `topics`: joins it at first, then says that this member lives. To be called every second or
    /// so, when all that was read is done and committed: the call may give partitions away, and waits until the members have agreed.
    ///
    /// # Errors
    /// Nothing is held then. [`Kind::Config`] from the kafka crate, which has no groups.
    fn held(&mut self, group: &str, topics: &[&str], within: Duration) -> Result<Held> {
        let _ = (topics, within);
        let text = format!("join group {group}: the kafka crate has no consumer groups");
        Err(Error { kind: Kind::Config, code: 0, text })
    }

    /// Gives back at once what is held in `group`, instead of when the member has not been heard of for ten seconds.
    ///
    /// # Errors
    /// The group will find out by itself.
    fn leave(&mut self, group: &str) -> Result<()> {
        let _ = group;
        Ok(())
    }

    /// True if one fetch waits for all leaders at once and finds moved ones itself, so that one thread is enough. False if it
    /// asks one leader after the other.
    fn fetches_from_all(&self) -> bool {
        false
    }
}
