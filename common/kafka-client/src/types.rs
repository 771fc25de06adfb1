//! What callers and the client exchange: records, positions, results and errors.

/// What an error means for whoever made the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
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
    Undecodable,
    /// Another member owns this now.
    Fenced,
}

impl ErrorKind {
    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Message => "message",
            Self::Retry => "retry",
            Self::Unknown => "unknown",
            Self::Position => "position",
            Self::Undecodable => "poison",
            Self::Fenced => "fenced",
        }
    }
}

/// A failed call.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{text}")]
pub struct Error {
    /// What it means.
    pub kind: ErrorKind,
    /// Kafka's error code, or 0 where there is none.
    pub code: i16,
    /// What was tried, on which broker or partition, and what it said.
    pub text: String,
}

impl Error {
    /// The same call may work later.
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind, ErrorKind::Retry | ErrorKind::Unknown)
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
        let unknown = matches!(self, Err(before) if before.kind == ErrorKind::Unknown);
        let kind =
            if unknown && err.kind == ErrorKind::Retry { ErrorKind::Unknown } else { err.kind };
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
    pub records: Vec<NewRecord<'a>>,
}

/// A record read. The kafka crate can't tell null from empty: both are `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FetchedRecord {
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
pub struct Assignment {
    /// Counts up with each change of the group. With another one than before, positions are those that are committed.
    pub generation: i32,
    /// Topic and partition, from 0.
    pub partitions: Vec<(String, i32)>,
}

/// What one partition gave to a fetch.
#[derive(Debug, Clone)]
pub struct PartitionData {
    /// Partition, from 0.
    pub partition: i32,
    /// In offset order, none below the position asked for.
    pub records: Vec<FetchedRecord>,
    /// Where to go on.
    pub next: i64,
    /// End of the log (high watermark): `end - next` is the lag.
    pub end: i64,
    /// Why this partition gave nothing; the others of the call are good all the same.
    pub error: Option<Error>,
}

impl PartitionData {
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
