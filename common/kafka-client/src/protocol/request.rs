//! Requests, their versions and their headers.

use super::fields::{Reader, Writer};
use std::fmt;

/// A request in the only version that this client sends. That is the last version of Kafka 2.8, or
/// the last one that names topics instead of topic ids (KIP-516).
pub trait Request {
    /// API key, name, version and limits.
    const SPEC: &'static ApiSpec;
    /// The decoded response.
    type Response: Default;

    /// Writes the body of the request.
    fn encode(&self, to: &mut Writer);

    /// Reads the body of a response. The reader keeps the first error: see [`Reader::finish`].
    fn decode(from: &mut Reader<'_>) -> Self::Response;
}

/// An API: the part of a request that is the same for each request of its kind.
#[derive(Debug)]
pub struct ApiSpec {
    /// API key of the protocol guide, for example 3 for Metadata.
    pub key: i16,
    /// API name of the protocol guide, for error messages.
    pub name: &'static str,
    /// The API version that is sent.
    pub version: i16,
    /// True for a flexible version (KIP-482), whose headers have tagged fields.
    pub flexible: bool,
    /// Limit of a response, in bytes.
    pub response_bytes_max: usize,
}

impl ApiSpec {
    /// Default limit of a response. For comparison, all configs of ten topics take about 100 kB.
    const RESPONSE_BYTES_MAX: usize = 4 << 20;

    /// An API in a flexible version, with a limit of 4 MiB for responses.
    pub const fn new(key: i16, name: &'static str, version: i16) -> Self {
        Self { key, name, version, flexible: true, response_bytes_max: Self::RESPONSE_BYTES_MAX }
    }

    /// An API in a version without tagged fields, with a limit of 4 MiB for responses.
    pub const fn inflexible(key: i16, name: &'static str, version: i16) -> Self {
        Self { flexible: false, ..Self::new(key, name, version) }
    }

    /// Writes the request header (version 2, or 1 if not flexible).
    pub fn encode_header(&self, to: &mut Writer, correlation_id: i32, client_id: &str) {
        to.i16(self.key);
        to.i16(self.version);
        to.i32(correlation_id);
        to.string(client_id);
        if self.flexible {
            to.tagged_fields();
        }
    }

    /// Reads the response header and returns its correlation id.
    pub fn decode_header(&self, from: &mut Reader<'_>) -> i32 {
        let correlation_id = from.i32();
        if self.flexible {
            from.tagged_fields();
        }
        correlation_id
    }
}

/// The versions of an API that a broker supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionRange {
    /// API key of the protocol guide.
    pub key: i16,
    /// The first supported version.
    pub lowest: i16,
    /// The last supported version.
    pub highest: i16,
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "versions {} to {}", self.lowest, self.highest)
    }
}
