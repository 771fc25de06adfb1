//! What is asked of brokers, and in which version.

use crate::protocol::fields::{Reader, Writer};
use std::fmt;

/// A request in the version that this bank speaks: the last that Kafka 2.8 has, or the last that names topics.
pub trait Request {
    /// Which one it is.
    const SPEC: &'static ApiSpec;
    /// What it is answered with.
    type Reply: Default;

    /// Writes what is behind the header.
    fn put(&self, to: &mut Writer);

    /// Reads what is behind the header of the reply; the reader says afterwards whether that was right.
    fn take(from: &mut Reader<'_>) -> Self::Reply;
}

/// What handles requests of every kind needs to know of one.
#[derive(Debug)]
pub struct ApiSpec {
    /// Kafka's number for it.
    pub key: i16,
    /// Its name in Kafka's documentation.
    pub name: &'static str,
    /// Its version.
    pub version: i16,
    /// Its headers have tagged fields: KIP-482.
    pub flexible: bool,
    /// Largest reply taken, bytes.
    pub reply_bytes_max: usize,
}

impl ApiSpec {
    /// Largest reply taken where nothing else is said: all configs of some ten topics are about 100 kB.
    const REPLY_BYTES_MAX: usize = 4 << 20;

    /// A request of today.
    pub const fn new(key: i16, name: &'static str, version: i16) -> Self {
        Self { key, name, version, flexible: true, reply_bytes_max: Self::REPLY_BYTES_MAX }
    }

    /// One of before KIP-482.
    pub const fn old(key: i16, name: &'static str, version: i16) -> Self {
        Self { flexible: false, ..Self::new(key, name, version) }
    }

    /// The header of a request.
    pub fn put_header(&self, to: &mut Writer, correlation: i32, client_id: &str) {
        to.i16(self.key);
        to.i16(self.version);
        to.i32(correlation);
        to.old_text(client_id);
        if self.flexible {
            to.tags();
        }
    }

    /// The header of a reply: its correlation id.
    pub fn take_header(&self, from: &mut Reader<'_>) -> i32 {
        let correlation = from.i32();
        if self.flexible {
            from.tags();
        }
        correlation
    }
}

/// Versions of a request that a broker serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionRange {
    /// The API key of the request.
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
