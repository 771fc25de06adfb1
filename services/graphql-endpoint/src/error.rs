//! What can go wrong, and what can be tried again.

use avro::registry;
use service::database;

/// A failed step of this service. Refusing a visitor is none.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database.
    #[error(transparent)]
    Database(#[from] database::Error),
    /// Kafka can't do what is asked.
    #[error("kafka")]
    Kafka(#[from] messaging::Error),
    /// The registry does not have what the synchronizer should have registered.
    #[error("schema registry")]
    Registry(#[from] registry::Error),
    /// A schema could not be had.
    #[error("decode")]
    Avro(#[from] avro::Error),
    /// The system has no randomness to give.
    #[error("make a salt")]
    Random(#[source] rand::rngs::SysError),
}

impl Error {
    /// True if the same can succeed later.
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
