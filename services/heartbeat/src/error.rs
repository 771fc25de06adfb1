//! The errors of the heartbeat, and which of them are retryable.

use avro::registry;
use messaging::ErrorKind;

/// A step that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The registry is unavailable or refused the request.
    #[error("get the schema of heartbeats from the registry")]
    Schema(#[source] registry::Error),
    /// Kafka is unavailable or refused the request.
    #[error("find the last heartbeat")]
    LastBeat(#[source] messaging::Error),
    /// Kafka refused a record.
    #[error("send heartbeat {beat}")]
    Send {
        /// Number of the first refused record.
        beat: i64,
        /// The error of the producer.
        source: messaging::Error,
    },
}

impl Error {
    /// True if the same step can succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Schema(err) => err.retryable,
            Self::LastBeat(err) => err.kind != ErrorKind::Config,
            // The sender has retried already.
            Self::Send { .. } => false,
        }
    }
}
