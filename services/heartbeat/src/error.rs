//! What goes wrong, and what of it passes.

use avro::registry;
use messaging::ErrorKind;

/// A step that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The registry was not there or refused.
    #[error("ask the registry for the schema of beats")]
    Schema(#[source] registry::Error),
    /// Kafka was not there or refused.
    #[error("find the last beat")]
    LastBeat(#[source] messaging::Error),
    /// Kafka refused a record.
    #[error("send beat {beat}")]
    Send {
        /// The first beat that was refused.
        beat: i64,
        /// What it said.
        source: messaging::Error,
    },
}

impl Error {
    /// True if the same step may work later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Schema(err) => err.retryable,
            Self::LastBeat(err) => err.kind != ErrorKind::Config,
            // The sender has tried as long as it made sense.
            Self::Send { .. } => false,
        }
    }
}
