//! Requests, their versions and headers.

use super::fields::{Reader, Writer};
use std::fmt;

/// A request in the one version that this client sends: the last of Kafka 2.8, or the last that
/// names topics.
pub trait Request {
    /// API key, name and version.
    const SPEC: &'static ApiSpec;
    /// The decoded response.
    type Response: Default;

    /// Writes the body.
    fn encode(&self, to: &mut Writer);

    /// Reads the body of a response. Errors are kept in the reader: [`Reader::finish`].
    fn decode(from: &mut Reader<'_>) -> Self::Response;
}

/// An API: what code for requests of every kind needs to know.
#[derive(Debug)]
pub struct ApiSpec {
    /// API key.
    pub key: i16,
    /// API name.
    pub name: &'static str,
    /// API version.
    pub version: i16,
    /// Flexible version (KIP-482): its headers have tagged fields.
    pub flexible: bool,
    /// Limit of a response, bytes.
    pub response_bytes_max: usize,
}

impl ApiSpec {
    /// Default limit of a response: all configs of ten topics take about 100 kB.
    const RESPONSE_BYTES_MAX: usize = 4 << 20;

    /// A flexible version.
    pub const fn new(key: i16, name: &'static str, version: i16) -> Self {
        Self { key, name, version, flexible: true, response_bytes_max: Self::RESPONSE_BYTES_MAX }
    }

    /// A version before KIP-482.
    pub const fn inflexible(key: i16, name: &'static str, version: i16) -> Self {
        Self { flexible: false, ..Self::new(key, name, version) }
    }

    /// Writes the request header.
    pub fn encode_header(&self, to: &mut Writer, correlation_id: i32, client_id: &str) {
        to.i16(self.key);
        to.i16(self.version);
        to.i32(correlation_id);
        to.string(client_id);
        if self.flexible {
            to.tagged_fields();
        }
    }

    /// Reads the response header: its correlation id.
    pub fn decode_header(&self, from: &mut Reader<'_>) -> i32 {
        let correlation_id = from.i32();
        if self.flexible {
            from.tagged_fields();
        }
        correlation_id
    }
}

/// Versions of an API that a broker serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionRange {
    /// API key.
    pub key: i16,
    /// First version.
    pub lowest: i16,
    /// Last version.
    pub highest: i16,
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "versions {} to {}", self.lowest, self.highest)
    }
}
