//! A synchronous Kafka client for Kafka 2.8 to 4.x: metadata, produce, fetch, offsets and consumer
//! groups.
//!
//! A [`Client`] belongs to one thread. It retries, reconnects and refreshes metadata until the
//! deadline of each call. Callers keep positions and choose partitions. Each request is encoded in
//! one version only.

// Other programs can use this crate, so each public item has docs.
#![warn(missing_docs)]
// One test has an allocator that counts.
#![cfg_attr(not(test), forbid(unsafe_code))]

mod config;
mod error;
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

#[cfg(feature = "fuzzing")]
pub mod fuzzing;
#[cfg(test)]
mod tests;

pub use backoff::Backoff;
pub use client::Client;
pub use config::{Config, ConnectionConfig, ShutdownCheck};
pub use connection::Connection;
pub use error::{Api, ConnectionError, Error, ErrorKind, ProduceResult, Result};
pub use sasl::{Mechanism, Sasl};
pub use types::{
    Assignment, Batch, Compression, FetchedRecord, Header, NewRecord, PartitionData, Position,
};
