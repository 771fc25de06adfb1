//! The errors of the endpoint, and which of them are retryable.

use crate::error_code::{ClientError, ErrorCode};
use avro::registry;
use service::database;
use service::log::Chain;
use std::time::Duration;

/// A failed step of this service. A refused request is not an error.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Database(#[from] database::Error),
    /// The server sent no response to the commit of transactions: they may be stored.
    #[error("commit transactions")]
    Commit(#[source] postgres::Error),
    #[error("Kafka request failed")]
    Kafka(#[from] messaging::Error),
    /// Kafka has not answered for a while. Other endpoints may reach it.
    #[error("Kafka has not answered for {} s, giving the partitions back", .0.as_secs())]
    Silent(Duration),
    /// The topic has more partitions than before, or was recreated.
    #[error("the topic balance_changed has changed, assigning its partitions again")]
    TopicChanged,
    /// A schema that the synchronizer registers is missing, or the registry is unavailable.
    #[error("could not get a schema")]
    Registry(#[from] registry::Error),
    /// The writer's schema of a record is not available.
    #[error("could not decode a record")]
    Avro(#[from] avro::Error),
    /// No connection was free in time. The statement was not run.
    #[error("all connections to the database are busy")]
    Busy,
    /// The statement may still be executed.
    #[error("the database does not respond")]
    Unresponsive,
    /// The transactions of a list have more text than the endpoint reads at once.
    #[error("the listed transactions have too much text")]
    TooLarge,
    #[error("the system returned no random bytes")]
    Random(#[source] rand::rngs::SysError),
}

impl Error {
    /// Logs the error of an operation. Its client gets a general message only.
    pub fn log(&self) {
        log::warn!(error:% = Chain(self); "operation failed");
    }

    /// What the client of the operation receives.
    pub fn for_client(&self) -> ClientError {
        match self {
            Self::Busy => ClientError::new(ErrorCode::Busy, "busy, try again"),
            Self::TooLarge => ClientError::new(
                ErrorCode::TooCostly,
                "the transactions have too much text: reduce max_items",
            ),
            Self::Database(err) if err.is_nul_in_text() => {
                ClientError::new(ErrorCode::BadUserInput, "a text has a NUL character")
            }
            Self::Database(_)
            | Self::Unresponsive
            | Self::Commit(_)
            | Self::Kafka(_)
            | Self::Silent(_)
            | Self::TopicChanged
            | Self::Registry(_)
            | Self::Avro(_) => {
                ClientError::new(ErrorCode::Unavailable, "the database is unavailable, try again")
            }
            Self::Random(_) => ClientError::internal(),
        }
    }

    /// True if the same step can succeed later.
    pub fn is_retryable(&self) -> bool {
        // No `_` arm: a new variant does not compile without a decision here.
        match self {
            Self::Database(err) => err.is_retryable(),
            Self::Kafka(err) => err.kind.is_temporary(),
            Self::Registry(err) => err.retryable,
            Self::Avro(err) => err.is_retryable(),
            Self::Commit(_)
            | Self::Busy
            | Self::Unresponsive
            | Self::Silent(_)
            | Self::TopicChanged => true,
            Self::Random(_) | Self::TooLarge => false,
        }
    }
}
