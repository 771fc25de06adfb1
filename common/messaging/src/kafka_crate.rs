//! The adapter of the `kafka` crate (protocol version 0, Kafka up to 3.9). No other module uses
//! that crate.

mod client;
mod error;
mod fetch_size;
mod offsets;
mod raw_requests;
mod repair;
mod session;

#[cfg(test)]
mod tests;

pub use client::KafkaCrateClient;
pub use raw_requests::{BrokerVersions, broker_versions, metadata};
