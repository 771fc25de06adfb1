//! The errors of the heartbeat, and which of them are retryable.

use avro::registry;

/// A failed step.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The registry is unavailable, or does not have the schema that the synchronizer registers.
    #[error("could not get the schema of heartbeat records")]
    Schema(#[source] registry::Error),
    /// Kafka is unavailable or rejected the request.
    #[error("could not read the last heartbeat record")]
    LastBeat(#[source] messaging::Error),
    /// Kafka rejected a record.
    #[error("could not send heartbeat record {beat}")]
    Send {
        /// Number of the first rejected record.
        beat: i64,
        source: messaging::Error,
    },
}

impl Error {
    /// True if a retry of the same step can succeed.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Schema(err) => err.retryable,
            Self::LastBeat(err) => err.kind.is_temporary(),
            // The sender has already retried.
            Self::Send { .. } => false,
        }
    }
}
