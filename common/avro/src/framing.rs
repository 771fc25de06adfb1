//! Values in Confluent framing: 0, schema id as 4 bytes big-endian, datum.
//!
//! A datum in our own schema is written and read directly. One in another schema is decoded by `apache-avro`, resolved into
//! our schema and encoded in it (docs/decisions/0002-avro-codec.md).

use crate::canonical_form::{parse, writes_the_same};
use crate::codec::Record;
use crate::registry::{self, Registry};
use crate::resolution::{can_resolve, resolve};
use avro_rs::Schema;
use service::log::Chain;
use service::shutdown::Shutdown;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

/// Magic byte and schema id in front of every datum.
const FRAME_BYTES: usize = 5;
/// Most schema ids that a decoder remembers.
pub(crate) const SCHEMAS_MAX: usize = 1_000;
/// How long an id that the registry does not know is not asked for again.
pub(crate) const UNKNOWN_FOR: Duration = Duration::from_secs(5);
/// Pauses between attempts to reach the registry at the start, from and to.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// Why a value could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It never will be: for dead_letter.
    #[error("{0}")]
    Undecodable(String),
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
pub struct Encoder<R>([u8; FRAME_BYTES], PhantomData<R>);

impl<R: Record> Encoder<R> {
    /// Asks the registry for the id of the topic's schema, which the synchronizer has registered.
    ///
    /// # Errors
    /// The registry can't be reached or does not have the schema.
    pub fn new(registry: &Registry) -> Result<Self, registry::Error> {
        registry.id_of(&R::TOPIC).map(Self::with_id)
    }

    /// As [`Self::new`], but waits, with backoff and a log line, while the registry is not there or lacks the schema; `None`
    /// if shutdown was requested meanwhile.
    ///
    /// # Errors
    /// Waiting does not help.
    pub fn wait(registry: &Registry, shutdown: &Shutdown) -> Result<Option<Self>, registry::Error> {
        let mut pause = BACKOFF.0;
        loop {
            match Self::new(registry) {
                Err(err) if err.retryable => {
                    let (topic, reason) = (R::TOPIC.name, Chain(&err).to_string());
                    log::warn!(topic, reason = reason.as_str(); "waiting for the schema registry");
                }
                done => return done.map(Some),
            }
            if shutdown.wait(pause) {
                return Ok(None);
            }
            pause = (pause * 2).min(BACKOFF.1);
        }
    }

    /// An encoder for a schema id that is known.
    pub fn with_id(id: u32) -> Self {
        let mut frame = [0; FRAME_BYTES];
        frame[1..].copy_from_slice(&id.to_be_bytes());
        Self(frame, PhantomData)
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
pub struct Decoder<R> {
    registry: Registry,
    ours: Schema,
    pub(crate) writers: HashMap<u32, Writer>,
    record: PhantomData<fn() -> R>,
}

/// What is known of a schema id.
pub(crate) enum Writer {
    /// Writes the same bytes as our schema.
    Ours,
    /// Differs, but is resolved into ours.
    Foreign(Box<Schema>),
    /// Can't be read: ids never change their schema.
    Unreadable(String),
    /// The registry did not have it at this time; it may have been registered since.
    Unknown(Instant),
}

impl<R: Record> Decoder<R> {
    /// A decoder that asks `registry` for schemas; no I/O yet.
    pub fn new(registry: Registry) -> Self {
        let ours = R::TOPIC.schema.and_then(|text| Schema::parse_str(text).ok());
        let ours = ours.expect("the schemas of the topology parse: a test reads each");
        Self { registry, ours, writers: HashMap::new(), record: PhantomData }
    }

    /// The record in `value`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn decode(&mut self, value: &[u8]) -> Result<R, Error> {
        let (id, datum) = unframe(value).map_err(Error::Undecodable)?;
        self.learn(id)?;
        let record = match &self.writers[&id] {
            Writer::Ours => R::read(datum),
            Writer::Foreign(schema) => resolve(schema, datum, &self.ours).and_then(|d| R::read(&d)),
            Writer::Unreadable(reason) => Err(reason.clone()),
            Writer::Unknown(_) => Err("the registry does not know it".to_owned()),
        };
        record.map_err(|reason| Error::Undecodable(format!("schema {id}: {reason}")))
    }

    /// Sees to it that `writers` has `id`.
    fn learn(&mut self, id: u32) -> Result<(), Error> {
        match self.writers.get(&id) {
            Some(Writer::Unknown(asked)) if asked.elapsed() >= UNKNOWN_FOR => {}
            Some(_) => return Ok(()),
            None => {}
        }
        let schema = self.registry.schema(id).map_err(|source| Error::Registry { id, source })?;
        // Honest topics have a handful of ids. A flood of others makes us forget and ask again, not grow.
        if self.writers.len() >= SCHEMAS_MAX {
            self.writers.clear();
        }
        self.writers.insert(id, self.judge(schema.as_deref()));
        Ok(())
    }

    fn judge(&self, schema: Option<&str>) -> Writer {
        let Some(schema) = schema else { return Writer::Unknown(Instant::now()) };
        let ours = R::TOPIC.schema.unwrap_or_default();
        if writes_the_same(schema, ours) {
            return Writer::Ours;
        }
        match parse(schema).and_then(|writer| can_resolve(&writer, &self.ours).map(|()| writer)) {
            Ok(writer) => Writer::Foreign(Box::new(writer)),
            Err(reason) => Writer::Unreadable(reason),
        }
    }
}

/// Schema id and datum of a framed value.
pub(crate) fn unframe(value: &[u8]) -> Result<(u32, &[u8]), String> {
    match value {
        [] => Err("no value".to_owned()),
        [0, a, b, c, d, datum @ ..] => Ok((u32::from_be_bytes([*a, *b, *c, *d]), datum)),
        [0, ..] => Err(format!("value of {} bytes: too short for a schema id", value.len())),
        [magic, ..] => Err(format!("magic byte {magic} instead of 0")),
    }
}
