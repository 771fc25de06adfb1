//! The bank's access to Kafka: one trait for both Kafka clients, the batching producer and the
//! consumer.

mod client;
mod config;
mod connect;
pub mod consumer;
pub mod dead_letters;
#[cfg(feature = "kafka-crate")]
mod kafka_crate;
mod metrics;
pub mod partitioner;
pub mod producer;

#[cfg(test)]
mod fake;

pub use client::KafkaClient;
pub use config::{
    COMPRESSION, ClientChoice, KAFKA_BROKERS, KAFKA_CLIENT, KAFKA_SASL_MECHANISM,
    KAFKA_SASL_PASSWORD, KAFKA_SASL_PASSWORD_FILE, KAFKA_SASL_USERNAME, KAFKA_TIMEOUT_MS,
    KafkaConfig,
};
pub use connect::{connect, connect_until};
pub use kafka_client::{
    Assignment, Backoff, Batch, CommittedOffset, Compression, Error, ErrorKind, FetchedRecord,
    Header, NewRecord, PartitionData, Position, Result, TopicDescription, TopicId,
};
