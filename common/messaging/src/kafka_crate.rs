//! The adapter of the `kafka` crate (protocol version 0, Kafka up to 3.9): nothing else knows that crate.

mod client;
mod raw_requests;

pub use client::KafkaCrateClient;
pub use raw_requests::lowest_fetch_version;
