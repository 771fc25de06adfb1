//! What can go wrong, and what can be tried again.

use avro::registry;
use service::{database, env};

/// A failed step of this service. Refusing a command is none: see [`crate::domain::Rejection`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The environment does not fit.
    #[error(transparent)]
    Environment(#[from] env::Error),
    /// The database, or a connection that it did not give.
    #[error(transparent)]
    Database(#[from] database::Error),
    /// Another handler stored one of the same commands while this one decided; nothing was written.
    #[error("another handler decided a command of this batch at the same moment")]
    Claimed,
    /// The system has no randomness to give.
    #[error("make a token")]
    Random(#[source] rand::rngs::SysError),
    /// Kafka can't do what is asked.
    #[error("kafka")]
    Kafka(#[from] messaging::Error),
    /// The registry does not have what the synchronizer should have registered.
    #[error("schema registry")]
    Registry(#[from] registry::Error),
    /// A schema could not be had.
    #[error("decode")]
    Avro(#[from] avro::Error),
}

impl Error {
    /// True if the same batch can succeed later: back off, reopen at the committed offset, repeat it.
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
