//! A small synchronous Kafka client for Kafka 2.8 to 4.x, without C or async.
//!
//! [`Client`] has one method for each call to the cluster: partition leaders, produce, fetch,
//! offsets and consumer groups. It retries, reconnects and refreshes metadata until the deadline
//! of the call. The caller chooses partitions, builds batches and keeps positions.
//!
//! # Example
//!
//! Writes two records to partition 0 of a topic. Then it reads the partition from the committed
//! offset of a group to the end of the log, and commits after each fetch.
//!
//! ```no_run
//! use kafka_client::{Batch, Client, Config, NewRecord, Position};
//! use std::time::Duration;
//!
//! fn main() -> kafka_client::Result<()> {
//!     let mut client = Client::new(&Config::new(vec!["localhost:9092".to_owned()]));
//!     let within = Duration::from_secs(10);
//!
//!     let record = |value| NewRecord { value: Some(value), ..NewRecord::default() };
//!     let records = vec![record(&b"hello"[..]), record(b"world")];
//!     let batch = Batch { topic: "greetings", partition: 0, records };
//!     for base_offset in client.produce(&[batch], within) {
//!         println!("written at offset {}", base_offset?);
//!     }
//!
//!     let (start, end) = client.log_range("greetings", within)?[0];
//!     let committed = client.committed("readers", "greetings", within)?[0];
//!     let mut position = Position { partition: 0, next: committed.unwrap_or(start) };
//!     while position.next < end {
//!         for data in client.fetch("greetings", &[position], Duration::from_secs(1))? {
//!             if let Some(err) = data.error.filter(|err| !err.is_retryable()) {
//!                 return Err(err);
//!             }
//!             for record in data.records {
//!                 println!("{}: {:?}", record.offset, record.value);
//!             }
//!             position.next = data.next;
//!         }
//!         client.commit("readers", "greetings", &[position], within)?;
//!     }
//!     Ok(())
//! }
//! ```
//!
//! The folder `examples` has three programs: `produce`, `consume` and `group`, a member of a
//! consumer group.
//!
//! # Errors
//!
//! [`Error::kind`] names what the caller can do: retry, reset the offset, skip an undecodable
//! batch, join the group again, or end. Retryable errors are returned after the deadline of the
//! call. [`Client::fetch`] and [`Client::produce`] have one result for each partition, so that one
//! failed broker does not stop the others.
//!
//! # Guarantees
//!
//! - The producer is idempotent (KIP-98) and writes with acks=all. A batch whose response was lost
//!   is written once, if the caller repeats it with the same client. A restarted process has
//!   another producer id.
//! - Each partition has at most one in-flight produce request, so retries keep the order.
//! - Fetches read committed records only: records of open and aborted transactions are left out.
//! - Memory grows with the bytes received, never with a length or a count taken from the wire.
//!
//! # Features
//!
//! None is on by default.
//!
//! - `gzip`, `lz4`, `snappy`, `zstd`: the codec for produced and fetched batches. Without its codec
//!   a batch is [`ErrorKind::Undecodable`].
//! - `scram`: SCRAM-SHA-256 and SCRAM-SHA-512. PLAIN needs no feature.
//! - `fuzzing`: entry points for fuzz targets, not a stable interface.
//!
//! TLS is not built in, and there are no transactions. README.md lists what else is missing.

// Other programs can use this crate, so each public item has docs.
#![warn(missing_docs)]
// Only a test allocator needs unsafe code.
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
pub use metadata::broker_address;
pub use sasl::{Mechanism, Sasl};
pub use types::{
    Assignment, Batch, CommittedOffset, Compression, FetchedRecord, Header, NewRecord,
    PartitionData, Position, TopicDescription, TopicId,
};

/// Compiles the example of README.md.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
