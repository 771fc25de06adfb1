//! What can go wrong, and what can be tried again.

use common::{avro, env, kafka::wire, registry};

/// A failed step of this service. Refusing a command is none: see [`crate::domain::Rejection`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The environment does not fit.
    #[error(transparent)]
    Environment(#[from] env::Error),
    /// A connection, or something around it, that PostgreSQL did not give.
    #[error("{step}")]
    Database {
        /// What was done, as in "connect to the database".
        step: &'static str,
        /// What PostgreSQL said.
        source: postgres::Error,
    },
    /// Another handler stored one of the same commands while this one decided; nothing was written.
    #[error("another handler decided a command of this batch at the same moment")]
    Claimed,
    /// The database holds something that this version did not write.
    #[error("{0}")]
    Foreign(String),
    /// The system has no randomness to give.
    #[error("make a token")]
    Random(#[source] rand::rand_core::OsError),
    /// Kafka can't do what is asked.
    #[error("kafka")]
    Kafka(#[from] wire::Error),
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
            Self::Database { source, .. } => is_transient(source),
            Self::Claimed => true,
            Self::Kafka(err) => err.kind != wire::Kind::Config,
            Self::Registry(err) => err.retryable,
            Self::Avro(err) => {
                matches!(err, avro::Error::Registry { source, .. } if source.retryable)
            }
            Self::Environment(_) | Self::Foreign(_) | Self::Random(_) => false,
        }
    }
}

/// True unless PostgreSQL says that the statement or the data are wrong: connections break, servers stop, start, fill up and
/// run into locks, and all of that passes. Source: PostgreSQL manual, appendix A.
fn is_transient(err: &postgres::Error) -> bool {
    let Some(state) = err.code() else {
        // Not the server's words: the connection.
        return true;
    };
    // 0A not supported, 21 and 22 data, 23 integrity, 26 statement name, 2F, 38, 39 functions, 42 syntax or rights, 44 view.
    const PERMANENT: [&str; 10] = ["0A", "21", "22", "23", "26", "2F", "38", "39", "42", "44"];
    !PERMANENT.iter().any(|class| state.code().starts_with(class))
}
