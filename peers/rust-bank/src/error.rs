//! What can go wrong. A peer does not wait for what is away: it ends with code 1 and is started again.

use avro::registry;
use service::{database, env};

/// A failed step.
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
    /// The registry does not have what the synchronizer should have registered.
    #[error("schema registry")]
    Registry(#[from] registry::Error),
    /// A schema could not be had.
    #[error("decode")]
    Avro(#[from] avro::Error),
}
