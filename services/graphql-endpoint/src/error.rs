//! The errors of the endpoint, and which of them are retryable.

use avro::registry;
use service::database;
use service::log::Chain;

/// A failed step of this service. A refused request is not an error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database.
    #[error(transparent)]
    Database(#[from] database::Error),
    /// A request to Kafka failed.
    #[error("kafka")]
    Kafka(#[from] messaging::Error),
    /// The registry lacks a schema that the synchronizer registers.
    #[error("schema registry")]
    Registry(#[from] registry::Error),
    /// The writer's schema of a record is not available.
    #[error("decode")]
    Avro(#[from] avro::Error),
    /// The system's random number generator failed.
    #[error("generate a salt")]
    Random(#[source] rand::rngs::SysError),
}

impl Error {
    /// Logs the error of an operation, whose client gets a general message only.
    pub fn log(&self) {
        log::warn!(error:% = Chain(self); "operation failed");
    }

    /// True if the same step can succeed later.
    pub fn is_retryable(&self) -> bool {
        // No `_` arm: a new variant does not compile until someone has decided.
        match self {
            Self::Database(err) => err.is_retryable(),
            Self::Kafka(err) => err.kind != messaging::ErrorKind::Config,
            Self::Registry(err) => err.retryable,
            Self::Avro(err) => {
                matches!(err, avro::Error::Registry { source, .. } if source.retryable)
            }
            Self::Random(_) => false,
        }
    }
}
