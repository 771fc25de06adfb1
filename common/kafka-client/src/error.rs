//! Errors of calls, and the classification of Kafka's error codes.

use crate::protocol::codes;
use std::{fmt, io};

/// What the caller can do after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Not retryable: the configuration is wrong, access is denied, or the broker does not support
    /// the request.
    Config,
    /// The broker refuses the batch for its content, for example because it is too large.
    Message,
    /// Retryable: nothing was written or read.
    Retry,
    /// Retryable: the batch may have been written. Repeating the same batch with the same client
    /// writes it once.
    Unknown,
    /// The position is outside the log (OFFSET_OUT_OF_RANGE): an offset reset is needed.
    Position,
    /// The batch at the position cannot be decoded: it is corrupt, its codec is not compiled in, or
    /// it exceeds a limit. The caller can skip it or stop.
    Undecodable,
    /// This client is not a member of the group's current generation. It must join again before it
    /// commits offsets.
    Fenced,
}

impl ErrorKind {
    /// A short lower-case name, for example as a label of metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Message => "message",
            Self::Retry => "retry",
            Self::Unknown => "unknown",
            Self::Position => "position",
            Self::Undecodable => "poison",
            Self::Fenced => "fenced",
        }
    }

    /// True if a later attempt can succeed, for example from another position or after joining the
    /// group again. False if the configuration must change first.
    pub fn is_temporary(self) -> bool {
        match self {
            Self::Config => false,
            Self::Message
            | Self::Retry
            | Self::Unknown
            | Self::Position
            | Self::Undecodable
            | Self::Fenced => true,
        }
    }

    /// The kind of a protocol error code other than 0 in a response of `api`.
    pub fn of_code(api: Api, code: i16) -> Self {
        match code {
            codes::OFFSET_OUT_OF_RANGE if api == Api::Fetch => Self::Position,
            codes::CORRUPT_MESSAGE
            | codes::UNKNOWN_SERVER_ERROR
            | codes::UNSUPPORTED_COMPRESSION_TYPE
                if api == Api::Fetch =>
            {
                Self::Undecodable
            }
            codes::CORRUPT_MESSAGE
            | codes::MESSAGE_TOO_LARGE
            | codes::RECORD_LIST_TOO_LARGE
            | codes::INVALID_RECORD
            | codes::INVALID_TIMESTAMP
            | codes::UNSUPPORTED_COMPRESSION_TYPE
                if api == Api::Produce =>
            {
                Self::Message
            }
            codes::REQUEST_TIMED_OUT
            | codes::NOT_ENOUGH_REPLICAS_AFTER_APPEND
            | codes::UNKNOWN_SERVER_ERROR
                if api == Api::Produce =>
            {
                Self::Unknown
            }
            codes::INVALID_TOPIC_EXCEPTION
            | codes::INVALID_REQUIRED_ACKS
            | codes::INVALID_GROUP_ID
            | codes::INVALID_SESSION_TIMEOUT
            | codes::INCONSISTENT_GROUP_PROTOCOL
            | codes::OFFSET_METADATA_TOO_LARGE
            | codes::INVALID_COMMIT_OFFSET_SIZE
            | codes::TOPIC_AUTHORIZATION_FAILED
            | codes::GROUP_AUTHORIZATION_FAILED
            | codes::CLUSTER_AUTHORIZATION_FAILED
            | codes::UNSUPPORTED_SASL_MECHANISM
            | codes::ILLEGAL_SASL_STATE
            | codes::SASL_AUTHENTICATION_FAILED
            | codes::UNSUPPORTED_FOR_MESSAGE_FORMAT
            | codes::UNSUPPORTED_VERSION => Self::Config,
            codes::ILLEGAL_GENERATION
            | codes::UNKNOWN_MEMBER_ID
            | codes::REBALANCE_IN_PROGRESS
            | codes::FENCED_INSTANCE_ID => Self::Fenced,
            // Stale metadata, or a leader or coordinator that is moving: a retry succeeds.
            _ => Self::Retry,
        }
    }
}

/// A failed call.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{text}")]
pub struct Error {
    /// What the caller can do.
    pub kind: ErrorKind,
    /// The protocol error code of the response (see [`crate::protocol::codes`]), or 0 without one.
    pub code: i16,
    /// The step that failed, the broker or partition, and the cause, on one line.
    pub text: String,
}

impl Error {
    /// True for [`ErrorKind::Retry`] and [`ErrorKind::Unknown`].
    pub fn is_retryable(&self) -> bool {
        match self.kind {
            ErrorKind::Retry | ErrorKind::Unknown => true,
            ErrorKind::Config
            | ErrorKind::Message
            | ErrorKind::Position
            | ErrorKind::Undecodable
            | ErrorKind::Fenced => false,
        }
    }

    /// An error of the kind [`ErrorKind::Retry`].
    pub fn retryable(code: i16, text: String) -> Self {
        Self { kind: ErrorKind::Retry, code, text }
    }

    /// A retryable error: the partition has no leader.
    pub fn no_leader(topic: &str, partition: i32) -> Self {
        let text = format!("{topic}/{partition} has no leader");
        Self::retryable(codes::LEADER_NOT_AVAILABLE, text)
    }

    /// A retryable error: the broker at `host` has no such topic.
    pub fn no_topic(topic: &str, host: &str) -> Self {
        let text = format!("topic {topic} does not exist on broker {host}");
        Self::retryable(codes::UNKNOWN_TOPIC_OR_PARTITION, text)
    }

    /// An error of `kind`, or of [`ErrorKind::Config`] if no retry can succeed.
    pub(crate) fn from_connection(what: &str, kind: ErrorKind, err: &ConnectionError) -> Self {
        let (kind, code) = match err {
            ConnectionError::UnsupportedVersion { .. } => {
                (ErrorKind::Config, codes::UNSUPPORTED_VERSION)
            }
            ConnectionError::Authentication { .. } => {
                (ErrorKind::Config, codes::SASL_AUTHENTICATION_FAILED)
            }
            ConnectionError::Io { .. }
            | ConnectionError::Advertised { .. }
            | ConnectionError::Protocol { .. }
            | ConnectionError::ResponseTooLarge { .. } => (kind, 0),
        };
        Self { kind, code, text: format!("{what}: {}", err.with_cause()) }
    }

    /// `code` is not 0.
    pub(crate) fn from_code(api: Api, code: i16, what: fmt::Arguments<'_>) -> Self {
        let text = format!("{what}: {}", codes::Name(code));
        Self { kind: ErrorKind::of_code(api, code), code, text }
    }
}

/// The error of a connection, which is not usable afterwards.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The connection could not be opened, was closed, or timed out.
    #[error("{broker}: {step}")]
    Io {
        /// host:port.
        broker: String,
        /// The step that failed, for example "connect".
        step: &'static str,
        /// The error of that step.
        source: io::Error,
    },
    /// Like `Io`, for an address that a broker advertises and that is no bootstrap broker.
    #[error("{broker}, which broker {node_id} advertises: {step}")]
    Advertised {
        /// host:port.
        broker: String,
        /// Broker id (`node.id`).
        node_id: i32,
        /// The step that failed, for example "connect".
        step: &'static str,
        /// The error of that step.
        source: io::Error,
    },
    /// The bytes received are not a valid response to the request.
    #[error("{broker}: {what}")]
    Protocol {
        /// host:port.
        broker: String,
        /// How the response violates the protocol.
        what: String,
    },
    /// The broker does not support the version of a request that this client sends.
    #[error("broker {broker} does not serve {request}: Kafka 2.8 to 4.x is needed")]
    UnsupportedVersion {
        /// host:port.
        broker: String,
        /// API name and version, and the versions that the broker supports.
        request: String,
    },
    /// The broker refuses the SASL mechanism or the credentials, or its server signature (SCRAM) is
    /// wrong.
    #[error("broker {broker}: {what}")]
    Authentication {
        /// host:port.
        broker: String,
        /// What failed, with the broker's error message.
        what: String,
    },
    /// The response exceeds the limit of its API.
    #[error("{broker}: response of {bytes} bytes exceeds {bytes_max}")]
    ResponseTooLarge {
        /// host:port.
        broker: String,
        /// Length of the response in bytes, as announced.
        bytes: usize,
        /// Limit in bytes ([`crate::protocol::ApiSpec::response_bytes_max`]).
        bytes_max: usize,
    },
}

impl ConnectionError {
    /// The error and its cause, on one line.
    pub(crate) fn with_cause(&self) -> String {
        match self {
            Self::Io { source, .. } => format!("{self}: {source}"),
            Self::Advertised { source, .. } => format!(
                "{self}: {source}. This machine must be able to reach that address, else change \
                 advertised.listeners of that broker"
            ),
            Self::Protocol { .. }
            | Self::UnsupportedVersion { .. }
            | Self::Authentication { .. }
            | Self::ResponseTooLarge { .. } => self.to_string(),
        }
    }
}

/// The result of a call of [`crate::Client`].
pub type Result<T> = std::result::Result<T, Error>;

/// The result of a batch so far, over all attempts to write it.
pub trait ProduceResult {
    /// True if the next attempt may succeed.
    fn is_retryable(&self) -> bool;
    /// Replaces the error by that of a later attempt. [`ErrorKind::Unknown`] stays if the later
    /// error is retryable: the earlier attempt may have written the batch.
    fn set_error(&mut self, err: Error);
}

impl ProduceResult for Result<i64> {
    fn is_retryable(&self) -> bool {
        self.as_ref().is_err_and(Error::is_retryable)
    }

    fn set_error(&mut self, err: Error) {
        let unknown = matches!(self, Err(before) if before.kind == ErrorKind::Unknown);
        let kind =
            if unknown && err.kind == ErrorKind::Retry { ErrorKind::Unknown } else { err.kind };
        *self = Err(Error { kind, ..err });
    }
}

/// The APIs in which the same error code has different meanings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// Produce (API key 0).
    Produce,
    /// Fetch (API key 1).
    Fetch,
    /// All other APIs.
    Other,
}

/// Returns an error unless `code` is 0.
pub(crate) fn check_code(code: i16, what: fmt::Arguments<'_>) -> Result<()> {
    if code == 0 { Ok(()) } else { Err(Error::from_code(Api::Other, code, what)) }
}
