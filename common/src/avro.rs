//! Avro values in Confluent framing: 0, schema id as 4 bytes big-endian, datum.

use crate::registry::{self, Registry};
use crate::topology::Topic;
use std::marker::PhantomData;

/// A record type of the bank: the values of one topic.
pub trait Record: Sized {
    /// The topic whose values these are.
    const TOPIC: Topic;

    /// Appends the Avro datum, in the schema of [`Self::TOPIC`].
    fn write(&self, datum: &mut Vec<u8>);

    /// The value of a whole datum in the schema of [`Self::TOPIC`]; the error says what is wrong with it.
    fn read(datum: &[u8]) -> Result<Self, String>;
}

/// Why a value could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It never will be: for dead_letter.
    #[error("{0}")]
    Poison(String),
    /// The schema could not be had now: try again.
    #[error("schema {id}")]
    Registry {
        /// Schema id in the frame.
        id: u32,
        /// What the registry said.
        source: registry::Error,
    },
}

/// Makes framed values of one topic.
#[derive(Debug, Clone)]
pub struct Encoder<R>([u8; 5], PhantomData<R>);

impl<R: Record> Encoder<R> {
    /// Asks the registry for the id of the topic's schema, which the synchronizer has registered.
    ///
    /// # Errors
    /// The registry can't be reached or does not have the schema.
    pub fn new(_registry: &Registry) -> Result<Self, registry::Error> {
        todo!()
    }

    /// The framed value.
    pub fn encode(&self, record: &R) -> Vec<u8> {
        let mut value = Vec::with_capacity(128);
        value.extend_from_slice(&self.0);
        record.write(&mut value);
        value
    }
}

/// Reads framed values of one topic, whatever schema wrote them; knows each schema id it has seen.
pub struct Decoder<R>(Registry, PhantomData<R>);

impl<R: Record> Decoder<R> {
    /// A decoder that asks `registry` for schemas; no I/O yet.
    pub fn new(registry: Registry) -> Self {
        Self(registry, PhantomData)
    }

    /// The record in `value`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn decode(&mut self, _value: &[u8]) -> Result<R, Error> {
        todo!()
    }
}
