//! The classification of the kafka crate's errors.

use kafka_client::{Api, Error, ErrorKind, Result};
use std::{fmt, io};

/// A call of the kafka crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Metadata,
    Produce,
    Fetch,
}

impl Call {
    pub fn name(self) -> &'static str {
        match self {
            Self::Metadata => "load metadata of",
            Self::Produce => "produce",
            Self::Fetch => "fetch",
        }
    }

    fn api(self) -> Api {
        match self {
            Self::Produce => Api::Produce,
            Self::Fetch => Api::Fetch,
            Self::Metadata => Api::Other,
        }
    }
}

pub(super) fn no_leader(topic: &str, partition: i32) -> Error {
    Error::no_leader(topic, partition)
}

/// Returns the error of `call` for `target` (topic or topic/partition) at `host`.
pub(super) fn from_crate(call: Call, err: &kafka::Error, target: &str, host: &str) -> Error {
    let (kind, code) = classify(call, err);
    Error { kind, code, text: format!("{} {target} at {host}: {err}", call.name()) }
}

/// Returns the result of a raw request. All its errors are retryable.
pub(super) fn from_raw<T>(
    response: io::Result<std::result::Result<T, i16>>,
    what: &dyn fmt::Display,
) -> Result<T> {
    response
        .map_err(|err| Error::retryable(0, format!("{what}: {err}")))?
        .map_err(|code| Error::retryable(code, format!("{what}: error code {code}")))
}

/// Returns the kind of an error, and the error code of Kafka or 0.
pub(super) fn classify(call: Call, err: &kafka::Error) -> (ErrorKind, i16) {
    use kafka::Error::{
        ArcSelf, InvalidSnappy, Io, Kafka, NoHostReachable, TopicPartitionError,
        UnsupportedCompression, UnsupportedProtocol,
    };
    let fetch = call == Call::Fetch;
    let unknown = if call == Call::Produce { ErrorKind::Unknown } else { ErrorKind::Retry };
    let kind = match err {
        ArcSelf(err) => return classify(call, err),
        Kafka(code) | TopicPartitionError { error_code: code, .. } => {
            let code = *code as i16;
            return (ErrorKind::of_code(call.api(), code), code);
        }
        UnsupportedCompression | UnsupportedProtocol | InvalidSnappy(_) if fetch => {
            ErrorKind::Undecodable
        }
        Io(err) => match err.kind() {
            // These two come from decompression; sockets do not return them.
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput if fetch => {
                ErrorKind::Undecodable
            }
            io::ErrorKind::ConnectionRefused => ErrorKind::Retry,
            _ => unknown,
        },
        NoHostReachable => ErrorKind::Retry,
        _ => unknown,
    };
    (kind, 0)
}
