//! The errors of the handler, and which of them are retryable.

use avro::registry;
use service::{database, env};
use std::time::Duration;

/// A failed step. A rejected command is not an error: see [`bank::reasons::Reason`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A variable of the environment is missing or invalid.
    #[error(transparent)]
    Environment(#[from] env::Error),
    /// A statement or the connection to the database failed.
    #[error(transparent)]
    Database(#[from] database::Error),
    /// Another handler stored an outcome for one of the commands during this transaction. Nothing
    /// was written.
    #[error("another handler decided a command of this batch first")]
    Claimed,
    /// Kafka has not answered for a while. Other handlers may reach it.
    #[error("Kafka has not answered for {} s, giving the partitions back", .0.as_secs())]
    Silent(Duration),
    /// Commands were deleted from the topic before they were decided, or before their outcomes were
    /// published.
    #[error(
        "commands of {topic}/{partition} were deleted from the topic before they were answered: \
         offsets {from} to {}. Find out why (retention, DeleteRecords). Without them, continue by \
         UPDATE topic_partition SET next_offset = {earliest}, resume_offset = {earliest} \
         WHERE topic = '{topic}' AND partition = {partition}", earliest - 1
    )]
    Deleted {
        topic: &'static str,
        partition: i32,
        /// The first offset without an answer.
        from: i64,
        /// The log start offset.
        earliest: i64,
    },
    /// A request to Kafka failed.
    #[error("Kafka request failed")]
    Kafka(#[from] messaging::Error),
    /// The registry does not have a schema of an outcome record. The synchronizer registers it.
    #[error("could not get a schema")]
    Registry(#[from] registry::Error),
    /// The writer's schema of a record is not available.
    #[error("could not decode a record")]
    Avro(#[from] avro::Error),
}

impl Error {
    /// True if a retry of the same batch can succeed. The worker then reads it again from the
    /// committed offset, after a backoff.
    pub fn is_retryable(&self) -> bool {
        // No `_` arm: a new variant does not compile until it is listed here.
        match self {
            Self::Database(err) => err.is_retryable(),
            Self::Claimed | Self::Silent(_) | Self::Deleted { .. } => true,
            Self::Kafka(err) => err.kind.is_temporary(),
            Self::Registry(err) => err.retryable,
            Self::Avro(err) => err.is_retryable(),
            Self::Environment(_) => false,
        }
    }
}
