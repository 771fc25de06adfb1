//! Tests of the client with scripted brokers, and of the codecs by comparison with the crate
//! `kafka-protocol`.

mod client;
mod fake;
mod golden;
mod mutations;
mod oracle;
mod samples;
