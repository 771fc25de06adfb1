//! The bank's records as Avro data with the Confluent wire format, and a client of the schema
//! registry.

mod codec;
mod framing;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod id_check;
mod registered_form;
pub mod registry;
mod resolution;
mod schema;
mod writer_schema;

#[cfg(test)]
mod tests;

pub use codec::Record;
pub use framing::{Decoder, Encoder, Error};
pub use registered_form::registered_form;
pub use writer_schema::WriterSchema;
