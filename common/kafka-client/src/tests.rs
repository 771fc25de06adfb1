//! Tests of the client against scripted brokers, and of the codecs against the `kafka-protocol`
//! crate.

mod client;
mod fake;
mod golden;
mod mutations;
mod oracle;
mod samples;
