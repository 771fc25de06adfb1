//! Client of the schema registry (the Confluent API).

/// A failed call.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Error {
    /// True if the same call may work later: no connection, time-out, 5xx.
    pub retryable: bool,
    /// Call and answer in words.
    pub text: String,
}

/// The registry; clones share connections.
#[derive(Debug, Clone)]
pub struct Registry {
    _url: String,
}

impl Registry {
    /// A client of the registry at `url`; no I/O yet.
    pub fn new(url: &str) -> Self {
        Self { _url: url.to_owned() }
    }
}
