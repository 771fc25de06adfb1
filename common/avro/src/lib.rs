//! Records of the bank as Avro values in Confluent framing, and the client of the schema registry.

mod canonical_form;
mod codec;
mod framing;
pub mod registry;
mod resolution;

#[cfg(test)]
mod tests;

pub use codec::Record;
pub use framing::{Decoder, Encoder, Error};
