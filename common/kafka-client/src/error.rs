//! Errors of calls, and what Kafka's error codes mean for the caller.

use crate::protocol::codes;
use std::{fmt, io};

/// What an error means for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The cluster or the configuration can never serve this call.
    Config,
    /// The record is refused, for example because it is too large.
    Message,
    /// Nothing was written or read; a retry may succeed.
    Retry,
    /// The batch may have been written: a retry may duplicate it.
    Unknown,
    /// The position is outside the log: an offset reset is needed.
    Position,
    /// This client cannot decode the records of this partition.
    Undecodable,
    /// Another member of the consumer group owns the partition now.
    Fenced,
}

impl ErrorKind {
    /// Label value in metrics.
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

    /// What Kafka's error code, which is not 0, means in a response of `api`.
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
            // Stale metadata, replicas or a coordinator that are moving: a retry succeeds.
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
    /// Kafka's error code, or 0 if no broker sent one.
    pub code: i16,
    /// The step that failed, its broker or partition, and the cause.
    pub text: String,
}

impl Error {
    /// True if a retry may succeed.
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind, ErrorKind::Retry | ErrorKind::Unknown)
    }

    /// [`ErrorKind::Retry`].
    pub fn retryable(code: i16, text: String) -> Self {
        Self { kind: ErrorKind::Retry, code, text }
    }

    /// The partition has no leader; retryable.
    pub fn no_leader(topic: &str, partition: i32) -> Self {
        let text = format!("{topic}/{partition} has no leader");
        Self::retryable(codes::LEADER_NOT_AVAILABLE, text)
    }

    /// `kind` if a retry may succeed.
    pub(crate) fn from_connection(what: &str, kind: ErrorKind, err: &ConnectionError) -> Self {
        let (kind, code) = match err {
            ConnectionError::UnsupportedVersion { .. } => {
                (ErrorKind::Config, codes::UNSUPPORTED_VERSION)
            }
            ConnectionError::Authentication { .. } => {
                (ErrorKind::Config, codes::SASL_AUTHENTICATION_FAILED)
            }
            ConnectionError::Io { .. }
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

/// Why a connection cannot be used any more.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The connection could not be established or broke, or a request timed out.
    #[error("{broker}: {step}")]
    Io {
        /// host:port.
        broker: String,
        /// The step that failed.
        step: &'static str,
        /// Its error.
        source: io::Error,
    },
    /// The bytes received are not a response of Kafka's protocol to the request.
    #[error("{broker}: {what}")]
    Protocol {
        /// host:port.
        broker: String,
        /// How the response violates the protocol.
        what: String,
    },
    /// The broker is older than Kafka 2.8 or newer than 4.x.
    #[error("broker {broker} does not serve {request}: Kafka 2.8 to 4.x does")]
    UnsupportedVersion {
        /// host:port.
        broker: String,
        /// API name and version, and the versions that the broker serves.
        request: String,
    },
    /// The broker refuses the SASL mechanism or the credentials, or cannot prove that it knows the
    /// password.
    #[error("broker {broker}: {what}")]
    Authentication {
        /// host:port.
        broker: String,
        /// What failed, and the broker's error message.
        what: String,
    },
    /// The response exceeds the limit of its API.
    #[error("{broker}: response of {bytes} bytes exceeds {bytes_max}")]
    ResponseTooLarge {
        /// host:port.
        broker: String,
        /// Length of the response.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
}

impl ConnectionError {
    /// The error and its cause, on one line.
    pub(crate) fn with_cause(&self) -> String {
        match self {
            Self::Io { source, .. } => format!("{self}: {source}"),
            _ => self.to_string(),
        }
    }
}

/// Result of a call.
pub type Result<T> = std::result::Result<T, Error>;

/// The result of a batch so far, over all attempts to write it.
pub trait ProduceResult {
    /// True if another attempt may succeed.
    fn is_retryable(&self) -> bool;
    /// Replaces the error by that of a later attempt. [`ErrorKind::Unknown`] is kept where a later
    /// attempt was retryable: the earlier one may have written the batch.
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

/// The APIs whose error codes differ in meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// Produce.
    Produce,
    /// Fetch.
    Fetch,
    /// All others.
    Other,
}

/// An error unless `code` is 0.
pub(crate) fn check_code(code: i16, what: fmt::Arguments<'_>) -> Result<()> {
    if code == 0 { Ok(()) } else { Err(Error::from_code(Api::Other, code, what)) }
}
