//! What every command needs from the process.

use service::env::Env;
use service::shutdown::Shutdown;

/// The environment and the shutdown signal.
pub struct Start<'a> {
    /// Addresses and settings of the Kafka client.
    pub env: Env<'a>,
    /// Requested by SIGTERM and SIGINT. Commands then end early and print their results so far.
    pub shutdown: Shutdown,
}
