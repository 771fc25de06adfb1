//! Life signs of a service over HTTP: `/healthz`, `/readyz` and `/metrics`.

use crate::env::{Env, Variable};
use crate::service::BoxError;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// `HEALTH_PORT`: where the service answers about itself.
pub const HEALTH_PORT: Variable =
    Variable::new("HEALTH_PORT", "9090", "port of /healthz, /readyz and /metrics, 1 to 65535");

/// Answers about this service until the process ends; clones share it. `/metrics` shows `prometheus::default_registry()`.
#[derive(Debug, Clone)]
pub struct Health(Arc<AtomicBool>);

impl Health {
    /// Opens `HEALTH_PORT`; not ready yet.
    ///
    /// # Errors
    /// The variable does not fit, or the port is taken.
    pub fn serve(_env: &Env<'_>) -> Result<Self, BoxError> {
        todo!()
    }

    /// Ready: connected, and has its partitions.
    pub fn set_ready(&self, ready: bool) {
        self.0.store(ready, Ordering::Relaxed);
    }
}

/// Asks the service on this machine's `port` whether it is ready: exit code 0, else 1.
pub fn check(_port: u16) -> ExitCode {
    todo!()
}
