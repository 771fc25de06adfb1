//! Tests of the whole client against brokers that the tests play, and of the codecs against the crate `kafka-protocol`.

mod client;
mod fake;
mod golden;
mod mutations;
mod oracle;
mod samples;
