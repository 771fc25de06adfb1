//! Kafka's wire protocol, as far as this client speaks it.

pub mod codes;
pub(crate) mod fields;
pub mod messages;
mod request;

pub use request::{ApiSpec, Request, VersionRange};
