//! A synchronous Kafka client for Kafka 2.8 to 4.x: metadata, produce, fetch, offsets and consumer groups.
//!
//! A [`Client`] belongs to one thread. It retries, reconnects and refreshes metadata inside, until the deadline given with
//! each call. Positions and the choice of partitions belong to the caller. The codecs are its own, each request in the one
//! version that is sent.

mod types;

mod backoff;
mod client;
mod codec;
mod connection;
mod fetch;
mod group;
mod map;
mod metadata;
mod produce;
pub mod protocol;
mod record_batch;
mod sasl;

#[cfg(target_arch = "x86_64")]
mod checksum;
#[cfg(not(target_arch = "x86_64"))]
use crc32c as checksum;

#[cfg(feature = "fuzzing")]
pub mod fuzzing;
#[cfg(test)]
mod tests;

pub use backoff::Backoff;
pub use client::{Client, Config};
pub use connection::{Connection, ConnectionError, Limits, Stop};
pub use sasl::{Mechanism, Sasl};
pub use types::{
    Assignment, Batch, Compression, Error, ErrorKind, FetchedRecord, Header, NewRecord, Outcome,
    PartitionData, Position, Result,
};
