//! The part of Kafka's wire protocol that this client implements. [`crate::Connection`] sends these
//! requests to a broker.
//!
//! Source: <https://kafka.apache.org/protocol>.

pub mod codes;
mod fields;
pub mod messages;
mod request;

pub use fields::{DecodeError, Reader, Writer};
pub use request::{ApiSpec, Request, VersionRange};
