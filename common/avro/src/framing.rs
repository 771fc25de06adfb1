//! Values in the Confluent wire format: magic byte 0, schema id as 4 bytes big-endian, Avro datum.
//!
//! Our own codec encodes and decodes data with our own schemas. A datum with another schema is
//! converted to our schema first. See docs/decisions/0002-avro-codec.md and
//! docs/decisions/0033-schema-resolution.md.

use crate::codec::Record;
use crate::id_check::check_regularly;
use crate::registry::{self, Registry};
use crate::resolution::Reader;
use crate::schema::Schema;
use crate::writer_schema::WriterSchema;
use service::log::Chain;
use service::shutdown::Shutdown;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

/// Size of the magic byte and the schema id, bytes.
const FRAME_BYTES: usize = 5;
/// Maximum number of schema ids in the cache of a decoder.
pub(crate) const SCHEMAS_MAX: usize = 1_000;
/// Maximum size of all schemas in that cache, bytes.
pub(crate) const CACHE_BYTES_MAX: usize = 1 << 20;
/// Size of one type in the cache, bytes.
const TYPE_BYTES: usize = 64;
/// Time to wait for an id that is not in the registry yet. A registry may give out an id before all
/// its instances know it.
pub(crate) const UNKNOWN_WAIT: Duration = Duration::from_secs(5);
/// Time for which an id that is not in the registry is not requested again, after that wait.
pub(crate) const UNKNOWN_FOR: Duration = Duration::from_secs(5);
/// Maximum of all waits for unknown ids, after a time without such waits.
const WAITS_MAX: Duration = Duration::from_secs(30);
/// The reciprocal of the share of time that waits for unknown ids take in the long run. A flood of
/// records with random ids must not stop the topic.
const WAITS_SHARE: u32 = 10;
/// Minimum and maximum backoff between requests to the registry at startup.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1));
/// The reason of a record whose schema id is unknown.
const NOT_FOUND: &str = "not found in the registry";

/// A value could not be decoded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The value is permanently undecodable and belongs in dead_letter. Contains the reason.
    #[error("{0}")]
    Undecodable(String),
    /// The registry did not return the schema. If that is retryable, a retry may succeed.
    #[error("get schema {id}")]
    Registry {
        /// Schema id of the value.
        id: u32,
        source: registry::Error,
    },
}

impl Error {
    /// True if the same value may be decodable later: the registry is unavailable, or the schema is
    /// not registered yet.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Registry { source, .. } if source.retryable)
    }
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
///
/// Keep it as long as its topic is read: it limits the waits for unknown ids.
pub struct Decoder<R> {
    registry: Registry,
    ours: Reader,
    pub(crate) writers: HashMap<u32, Writer>,
    /// Size of the schemas in `writers`.
    bytes: usize,
    waits: Waits,
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
    /// The registry returned no schema yet.
    Unknown(Unknown),
}

/// An id for which the registry returned no schema. It may be registered later.
pub(crate) struct Unknown {
    /// Times of the first and of the last request.
    pub(crate) first: Instant,
    pub(crate) last: Instant,
    /// False while records with this id wait.
    pub(crate) waited: bool,
    reason: String,
}

/// The time that is left to wait for unknown ids.
struct Waits {
    left: Duration,
    updated: Instant,
}

impl Waits {
    fn new() -> Self {
        Self { left: WAITS_MAX, updated: Instant::now() }
    }

    /// Subtracts a wait of `spent` and returns the time that is left.
    fn spend(&mut self, spent: Duration) -> Duration {
        let refill = self.updated.elapsed() / WAITS_SHARE;
        self.updated = Instant::now();
        self.left = (self.left + refill).min(WAITS_MAX).saturating_sub(spent);
        self.left
    }
}

impl<R: Record> Decoder<R> {
    /// Returns a decoder that requests schemas from `registry`. No I/O happens before the first
    /// value.
    pub fn new(registry: Registry) -> Self {
        let ours = R::TOPIC.schema.and_then(Reader::new);
        let ours = ours.expect("the schemas of the topology are valid: a test parses each");
        let (writers, waits) = (HashMap::new(), Waits::new());
        Self { registry, ours, writers, bytes: 0, waits, record: PhantomData }
    }

    /// Decodes `value`, which is in the Confluent wire format.
    ///
    /// # Errors
    /// [`Error::Registry`] also for a few seconds while the id is not in the registry. Call again
    /// with the same value after a pause.
    pub fn decode(&mut self, value: &[u8]) -> Result<R, Error> {
        let (id, datum) = unframe(value).map_err(Error::Undecodable)?;
        self.learn(id)?;
        let record = match &self.writers[&id] {
            Writer::Ours => R::read(datum),
            Writer::Foreign(schema) => {
                self.ours.resolve(schema, datum).and_then(|datum| R::read(&datum))
            }
            Writer::Unreadable(reason) => Err(reason.clone()),
            Writer::Unknown(unknown) if !unknown.waited => {
                let text = format!("{}, waiting for it", unknown.reason);
                return Err(Error::Registry {
                    id,
                    source: registry::Error { retryable: true, text },
                });
            }
            Writer::Unknown(unknown) => Err(unknown.reason.clone()),
        };
        record.map_err(|reason| Error::Undecodable(format!("schema {id}: {reason}")))
    }

    /// Ensures that `writers` contains `id`.
    fn learn(&mut self, id: u32) -> Result<(), Error> {
        match self.writers.get(&id) {
            Some(Writer::Unknown(known)) if known.waited && known.last.elapsed() < UNKNOWN_FOR => {
                return Ok(());
            }
            Some(Writer::Unknown(_)) | None => {}
            Some(_) => return Ok(()),
        }
        let schema = self.registry.schema(id).map_err(|source| Error::Registry { id, source })?;
        let writer = match schema {
            WriterSchema::Found(texts) => self.classify(&texts),
            WriterSchema::Impossible => Writer::Unreadable(NOT_FOUND.to_owned()),
            WriterSchema::Absent => self.unknown(id, NOT_FOUND.to_owned()),
            WriterSchema::Unusable(reason) => self.unknown(id, reason),
        };
        let bytes = match &writer {
            Writer::Foreign(schema) => schema.names_bytes() + schema.len() * TYPE_BYTES,
            _ => 0,
        };
        // Regular topics have few ids. A flood of other ids must not grow the cache, so it is
        // cleared and the schemas are requested again.
        if self.writers.len() >= SCHEMAS_MAX || self.bytes + bytes > CACHE_BYTES_MAX {
            self.writers.clear();
            self.bytes = 0;
        }
        self.bytes += bytes;
        self.writers.insert(id, writer);
        Ok(())
    }

    fn classify(&self, texts: &[String]) -> Writer {
        match Schema::parse(texts) {
            Ok(writer) if writer.encodes_like(&self.ours.schema) => Writer::Ours,
            Ok(writer) => match self.ours.can_resolve(&writer) {
                Ok(()) => Writer::Foreign(Box::new(writer)),
                Err(reason) => Writer::Unreadable(reason),
            },
            Err(reason) => Writer::Unreadable(reason),
        }
    }

    /// Returns the state of an id that the registry returned no schema for.
    fn unknown(&mut self, id: u32, reason: String) -> Writer {
        let now = Instant::now();
        let (first, waited) = match self.writers.get(&id) {
            Some(Writer::Unknown(known)) if known.waited => (known.first, true),
            Some(Writer::Unknown(known)) => {
                let left = self.waits.spend(now - known.last);
                (known.first, left.is_zero() || now - known.first >= UNKNOWN_WAIT)
            }
            _ => (now, self.waits.spend(Duration::ZERO) < UNKNOWN_WAIT),
        };
        Writer::Unknown(Unknown { first, last: now, waited, reason })
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
