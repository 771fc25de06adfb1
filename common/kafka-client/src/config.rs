//! Settings of a client and of its connections.

use crate::sasl::Sasl;
use crate::types::Compression;
use std::sync::Arc;
use std::time::Duration;

/// Returns true after shutdown was requested. It is called every 100 ms while a call waits.
pub type ShutdownCheck = Arc<dyn Fn() -> bool + Send + Sync>;

/// Limit of [`ConnectionConfig::connect_timeout`] in a client.
const CONNECT_TIMEOUT_MAX: Duration = Duration::from_secs(2);

/// Settings of a [`crate::Client`].
///
/// ```
/// use kafka_client::{Compression, Config};
///
/// let config = Config {
///     client_id: "inventory".to_owned(),
///     compression: Compression::Lz4,
///     ..Config::new(vec!["kafka-1:9092".to_owned(), "kafka-2:9092".to_owned()])
/// };
/// ```
#[derive(Clone)]
pub struct Config {
    /// Bootstrap brokers as host:port, at least one. An IPv6 address has brackets: `[::1]:9092`.
    pub brokers: Vec<String>,
    /// Time for a request and its response. Connecting and authenticating take at most 2 s each.
    pub timeout: Duration,
    /// `partition_max_bytes` of a fetch, in bytes. A batch that is larger is returned whole.
    pub fetch_bytes: i32,
    /// Memory for the decoded records of a response, and for a decompressed batch, in bytes.
    /// Further records are fetched again, and a larger compressed batch is undecodable. One record
    /// may take more.
    pub fetch_memory: usize,
    /// Limit of a response, in bytes. A larger batch is undecodable.
    pub response_bytes_max: usize,
    /// Compression of produced batches. Its Cargo feature must be enabled.
    pub compression: Compression,
    /// `client_id` in request headers. Brokers use it in request logs, metrics and quotas.
    pub client_id: String,
    /// SASL credentials. None if the brokers require no authentication.
    pub sasl: Option<Sasl>,
    /// After it has returned true, no call waits for a response for more than 1 s.
    pub shutdown: Option<ShutdownCheck>,
}

impl Config {
    /// The default settings: a timeout of 10 s, fetches of 1 MiB per partition, 64 MiB for records
    /// and for responses, no compression, the client id `kafka-client`, no SASL, no shutdown check.
    pub fn new(brokers: Vec<String>) -> Self {
        Self {
            brokers,
            timeout: Duration::from_secs(10),
            fetch_bytes: 1 << 20,
            fetch_memory: 64 << 20,
            response_bytes_max: 64 << 20,
            compression: Compression::None,
            client_id: "kafka-client".to_owned(),
            sasl: None,
            shutdown: None,
        }
    }

    pub(crate) fn connection(&self) -> ConnectionConfig {
        ConnectionConfig {
            connect_timeout: CONNECT_TIMEOUT_MAX.min(self.timeout),
            shutdown: self.shutdown.clone(),
            client_id: self.client_id.clone(),
            sasl: self.sasl.clone(),
            response_bytes_max: self.response_bytes_max,
        }
    }
}

/// Settings of a [`crate::Connection`].
#[derive(Clone)]
pub struct ConnectionConfig {
    /// Time to connect to each address of the broker, and again for authentication.
    pub connect_timeout: Duration,
    /// After it has returned true, the connection waits for a response for at most 1 s.
    pub shutdown: Option<ShutdownCheck>,
    /// `client_id` in request headers. Brokers use it in request logs, metrics and quotas.
    pub client_id: String,
    /// SASL credentials. None if the broker requires no authentication.
    pub sasl: Option<Sasl>,
    /// Limit of a response, in bytes. Each API has a limit of its own in addition.
    pub response_bytes_max: usize,
}
