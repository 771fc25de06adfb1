//! The errors of the handler, and which of them are retryable.

use avro::registry;
use service::{database, env};

/// A failed step of this service. A refused command is not an error: see
/// [`crate::domain::Rejection`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A variable is missing or invalid.
    #[error(transparent)]
    Environment(#[from] env::Error),
    /// A statement or a connection of the database.
    #[error(transparent)]
    Database(#[from] database::Error),
    /// Another handler stored one of the same commands while this one decided; nothing was written.
    #[error("another handler decided a command of this batch at the same moment")]
    Claimed,
    /// The system's random number generator failed.
    #[error("generate a token")]
    Random(#[source] rand::rngs::SysError),
    /// A request to Kafka failed.
    #[error("kafka")]
    Kafka(#[from] messaging::Error),
    /// The registry lacks a schema that the synchronizer registers.
    #[error("schema registry")]
    Registry(#[from] registry::Error),
    /// The writer's schema of a record is not available.
    #[error("decode")]
    Avro(#[from] avro::Error),
}

impl Error {
    /// True if the same batch can succeed later: the worker backs off and reads it again from the
    /// committed offset.
    pub fn is_retryable(&self) -> bool {
        // No `_` arm: a new variant does not compile until someone has decided.
        match self {
            Self::Database(err) => err.is_retryable(),
            Self::Claimed => true,
            Self::Kafka(err) => err.kind != messaging::ErrorKind::Config,
            Self::Registry(err) => err.retryable,
            Self::Avro(err) => {
                matches!(err, avro::Error::Registry { source, .. } if source.retryable)
            }
            Self::Environment(_) | Self::Random(_) => false,
        }
    }
}
