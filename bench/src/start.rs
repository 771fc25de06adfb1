//! What every command is started with.

use service::env::Env;
use service::shutdown::Shutdown;

/// The environment, and the shutdown of the process.
pub struct Start<'a> {
    /// Addresses and the client's settings.
    pub env: Env<'a>,
    /// Set by SIGTERM and SIGINT: end cleanly, and print what was measured.
    pub shutdown: Shutdown,
}
