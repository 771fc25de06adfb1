//! Settings of a client and of its connections.

use crate::sasl::Sasl;
use crate::types::Compression;
use std::sync::Arc;
use std::time::Duration;

/// Returns true once shutdown was requested.
pub type ShutdownCheck = Arc<dyn Fn() -> bool + Send + Sync>;

/// Longest time to connect and to authenticate.
const CONNECT_TIMEOUT_MAX: Duration = Duration::from_secs(2);

/// Settings of a [`crate::Client`].
#[derive(Clone)]
pub struct Config {
    /// Bootstrap brokers as host:port, at least one.
    pub brokers: Vec<String>,
    /// Request timeout.
    pub timeout: Duration,
    /// `partition_max_bytes` of a fetch; a larger batch is returned nevertheless.
    pub fetch_bytes: i32,
    /// Compression of produced batches.
    pub compression: Compression,
    /// `client_id` in request headers: the brokers' logs, metrics and quotas name it.
    pub client_id: &'static str,
    /// SASL credentials, if the brokers require them.
    pub sasl: Option<Sasl>,
    /// Once it returns true, no call waits for a broker for longer than a second.
    pub shutdown: Option<ShutdownCheck>,
}

impl Config {
    pub(crate) fn connection(&self) -> ConnectionConfig {
        ConnectionConfig {
            connect_timeout: CONNECT_TIMEOUT_MAX.min(self.timeout),
            shutdown: self.shutdown.clone(),
            client_id: self.client_id,
            sasl: self.sasl.clone(),
        }
    }
}

/// Settings of a [`crate::Connection`].
#[derive(Clone)]
pub struct ConnectionConfig {
    /// Timeout for each address of the broker, and then for authentication.
    pub connect_timeout: Duration,
    /// Once it returns true, no response is awaited for longer than a second.
    pub shutdown: Option<ShutdownCheck>,
    /// `client_id` in request headers.
    pub client_id: &'static str,
    /// SASL credentials.
    pub sasl: Option<Sasl>,
}
