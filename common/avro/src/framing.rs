//! Values in the Confluent wire format: magic byte 0, schema id as 4 bytes big-endian, Avro datum.
//!
//! Our own codec encodes and decodes data with our own schemas. A datum with another schema is
//! decoded by `apache-avro`, resolved to our schema, and encoded with it. See
//! docs/decisions/0002-avro-codec.md.

use crate::canonical_form::{parse, writes_the_same};
use crate::codec::Record;
use crate::id_check::check_regularly;
use crate::registry::{self, Registry};
use crate::resolution::{can_resolve, resolve};
use avro_rs::Schema;
use service::log::Chain;
use service::shutdown::Shutdown;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

/// Size of the magic byte and the schema id, bytes.
const FRAME_BYTES: usize = 5;
/// Maximum number of schema ids in the cache of a decoder.
pub(crate) const SCHEMAS_MAX: usize = 1_000;
/// Time for which an id that is not in the registry is not requested again.
pub(crate) const UNKNOWN_FOR: Duration = Duration::from_secs(5);
/// Minimum and maximum backoff between requests to the registry at startup.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// A value could not be decoded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The value is permanently undecodable and belongs in dead_letter. Contains the reason.
    #[error("{0}")]
    Undecodable(String),
    /// The registry did not return the schema. A retry may succeed.
    #[error("get schema {id}")]
    Registry {
        /// Schema id of the value.
        id: u32,
        source: registry::Error,
    },
}

/// Encodes the values of one topic.
#[derive(Debug, Clone)]
pub struct Encoder<R>([u8; FRAME_BYTES], PhantomData<R>);

impl<R: Record> Encoder<R> {
    /// Returns an encoder with the id of the topic's schema, requested from the registry. The
    /// synchronizer registers the schema.
    pub fn new(registry: &Registry) -> Result<Self, registry::Error> {
        registry.id_of(&R::TOPIC).map(Self::with_id)
    }

    /// Like [`Self::new`], but retries with backoff and a log line while the registry is
    /// unavailable or lacks the schema. Returns `None` if shutdown is requested. From then on the
    /// id is checked: see [`check_regularly`].
    ///
    /// # Errors
    /// The error is not retryable.
    pub fn wait(registry: &Registry, shutdown: &Shutdown) -> Result<Option<Self>, registry::Error> {
        let mut pause = BACKOFF.0;
        loop {
            match Self::new(registry) {
                Err(err) if err.retryable => {
                    let topic = R::TOPIC.name;
                    log::warn!(topic, error:% = Chain(&err); "waiting for the schema registry");
                }
                Ok(encoder) => {
                    check_regularly(registry, R::TOPIC, encoder.id(), shutdown);
                    return Ok(Some(encoder));
                }
                Err(err) => return Err(err),
            }
            if shutdown.wait(pause) {
                return Ok(None);
            }
            pause = (pause * 2).min(BACKOFF.1);
        }
    }

    /// Returns an encoder for the given schema id.
    pub fn with_id(id: u32) -> Self {
        let mut frame = [0; FRAME_BYTES];
        frame[1..].copy_from_slice(&id.to_be_bytes());
        Self(frame, PhantomData)
    }

    fn id(&self) -> u32 {
        let [_, id @ ..] = self.0;
        u32::from_be_bytes(id)
    }

    /// Returns an encoded value, possibly stored since an earlier registry, with the id of this
    /// encoder. A value with another schema is returned as it is.
    pub fn with_current_id(&self, mut value: Vec<u8>) -> Vec<u8> {
        if unframe(&value).is_ok_and(|(_, datum)| R::read(datum).is_ok()) {
            value[..FRAME_BYTES].copy_from_slice(&self.0);
        }
        value
    }

    /// Encodes `record` in the Confluent wire format.
    pub fn encode(&self, record: &R) -> Vec<u8> {
        let mut value = Vec::with_capacity(128);
        value.extend_from_slice(&self.0);
        record.write(&mut value);
        value
    }
}

/// Decodes the values of one topic, whatever the schema of the writer. Caches schemas by id.
pub struct Decoder<R> {
    registry: Registry,
    ours: Schema,
    pub(crate) writers: HashMap<u32, Writer>,
    record: PhantomData<fn() -> R>,
}

/// The cached result for a schema id. The schema of an id never changes.
pub(crate) enum Writer {
    /// The schema encodes to the same bytes as ours.
    Ours,
    /// The schema differs, and can be resolved to ours.
    Foreign(Box<Schema>),
    /// The schema cannot be resolved to ours. Contains the reason.
    Unreadable(String),
    /// The id was not in the registry at this time. It may have been registered since then.
    Unknown(Instant),
}

impl<R: Record> Decoder<R> {
    /// Returns a decoder that requests schemas from `registry`. No I/O happens before the first
    /// value.
    pub fn new(registry: Registry) -> Self {
        let ours = R::TOPIC.schema.and_then(|text| Schema::parse_str(text).ok());
        let ours = ours.expect("the schemas of the topology are valid: a test parses each");
        Self { registry, ours, writers: HashMap::new(), record: PhantomData }
    }

    /// Decodes `value`, which is in the Confluent wire format.
    pub fn decode(&mut self, value: &[u8]) -> Result<R, Error> {
        let (id, datum) = unframe(value).map_err(Error::Undecodable)?;
        self.learn(id)?;
        let record = match &self.writers[&id] {
            Writer::Ours => R::read(datum),
            Writer::Foreign(schema) => resolve(schema, datum, &self.ours).and_then(|d| R::read(&d)),
            Writer::Unreadable(reason) => Err(reason.clone()),
            Writer::Unknown(_) => Err("not found in the registry".to_owned()),
        };
        record.map_err(|reason| Error::Undecodable(format!("schema {id}: {reason}")))
    }

    /// Ensures that `writers` contains `id`.
    fn learn(&mut self, id: u32) -> Result<(), Error> {
        match self.writers.get(&id) {
            Some(Writer::Unknown(since)) if since.elapsed() >= UNKNOWN_FOR => {}
            Some(_) => return Ok(()),
            None => {}
        }
        let schema = self.registry.schema(id).map_err(|source| Error::Registry { id, source })?;
        // Regular topics have few ids. A flood of other ids must not grow the cache, so it is
        // cleared and the schemas are requested again.
        if self.writers.len() >= SCHEMAS_MAX {
            self.writers.clear();
        }
        self.writers.insert(id, self.classify(schema.as_deref()));
        Ok(())
    }

    fn classify(&self, schema: Option<&str>) -> Writer {
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

/// Splits a value into schema id and datum.
pub(crate) fn unframe(value: &[u8]) -> Result<(u32, &[u8]), String> {
    match value {
        [] => Err("no value".to_owned()),
        [0, a, b, c, d, datum @ ..] => Ok((u32::from_be_bytes([*a, *b, *c, *d]), datum)),
        [0, ..] => Err(format!("value of {} bytes is too short for a schema id", value.len())),
        [magic, ..] => Err(format!("magic byte {magic} instead of 0")),
    }
}
