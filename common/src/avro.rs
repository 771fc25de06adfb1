//! Avro values in Confluent framing: 0, schema id as 4 bytes big-endian, datum.
//!
//! A datum in our own schema is written and read directly. One in another schema goes through the crate: decoded, resolved
//! into our schema and encoded in it (docs/decisions/0002-avro-codec.md).

use crate::log::Chain;
use crate::money::Cents;
use crate::records::{
    AccountCreationConfirmed, AccountCreationFailed, Atype, BalanceChanged, ConfirmAccountCreation,
    ConfirmMoneyTransfer, Heartbeat, MoneyTransferConfirmed, MoneyTransferFailed,
};
use crate::registry::{self, Registry};
use crate::shutdown::Shutdown;
use crate::topology::{self, Topic};
use avro_rs::Schema;
use avro_rs::schema::{NamesRef, Namespace, RecordSchema, ResolvedSchema};
use serde_json::{Map, Value as Json};
use std::collections::HashMap;
use std::marker::PhantomData;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Magic byte and schema id in front of every datum.
const FRAME_BYTES: usize = 5;
/// Most schema ids that a decoder remembers.
const SCHEMAS_MAX: usize = 1_000;
/// How long an id that the registry does not know is not asked for again.
const UNKNOWN_FOR: Duration = Duration::from_secs(5);
/// Pauses between attempts to reach the registry at the start, from and to.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// Deepest nesting of a datum in a foreign schema.
const DEPTH_MAX: usize = 32;
/// Most values in a datum in a foreign schema: this many, and more for each byte. The crate makes an object of each, and a
/// null or an empty record needs no bytes at all.
const VALUES_MAX: (usize, usize) = (1_000, 8);

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
    /// if the stop was asked for meanwhile.
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
    writers: HashMap<u32, Writer>,
    record: PhantomData<fn() -> R>,
}

/// What is known of a schema id.
enum Writer {
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
        let (id, datum) = unframe(value).map_err(Error::Poison)?;
        self.learn(id)?;
        let record = match &self.writers[&id] {
            Writer::Ours => R::read(datum),
            Writer::Foreign(schema) => resolve(schema, datum, &self.ours).and_then(|d| R::read(&d)),
            Writer::Unreadable(reason) => Err(reason.clone()),
            Writer::Unknown(_) => Err("the registry does not know it".to_owned()),
        };
        record.map_err(|reason| Error::Poison(format!("schema {id}: {reason}")))
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
        match foreign(schema).and_then(|writer| can_resolve(&writer, &self.ours).map(|()| writer)) {
            Ok(writer) => Writer::Foreign(Box::new(writer)),
            Err(reason) => Writer::Unreadable(reason),
        }
    }
}

/// Schema id and datum of a framed value.
fn unframe(value: &[u8]) -> Result<(u32, &[u8]), String> {
    match value {
        [] => Err("no value".to_owned()),
        [0, a, b, c, d, datum @ ..] => Ok((u32::from_be_bytes([*a, *b, *c, *d]), datum)),
        [0, ..] => Err(format!("value of {} bytes: too short for a schema id", value.len())),
        [magic, ..] => Err(format!("magic byte {magic} instead of 0")),
    }
}

// Our own schemas.

macro_rules! records {
    ($($record:ident in $topic:ident: $($field:ident)+;)+) => {$(
        impl Record for $record {
            const TOPIC: Topic = topology::$topic;

            fn write(&self, datum: &mut Vec<u8>) {
                $(self.$field.write(datum);)+
            }

            fn read(datum: &[u8]) -> Result<Self, String> {
                let mut rest = datum;
                // Struct expressions are evaluated in the order written, which is the schema's.
                let record = Self {
                    $($field: Field::read(&mut rest)
                        .map_err(|reason| format!(concat!(stringify!($field), ": {}"), reason))?,)+
                };
                at_end(rest)?;
                Ok(record)
            }
        }
    )+};
}

// Fields in the order of the schemas.
records! {
    Heartbeat in HEARTBEAT: beat;
    ConfirmAccountCreation in CONFIRM_ACCOUNT_CREATION: id a_type;
    AccountCreationConfirmed in ACCOUNT_CREATION_CONFIRMED: id iban token a_type;
    AccountCreationFailed in ACCOUNT_CREATION_FAILED: id reason;
    ConfirmMoneyTransfer in CONFIRM_MONEY_TRANSFER: id token amount from to description;
    MoneyTransferConfirmed in MONEY_TRANSFER_CONFIRMED: id;
    MoneyTransferFailed in MONEY_TRANSFER_FAILED: id reason;
    BalanceChanged in BALANCE_CHANGED:
        iban new_balance changed_by from_to description transfer_id sequence;
}

/// A type that fields of our records have.
trait Field: Sized {
    fn write(&self, datum: &mut Vec<u8>);
    /// Takes the field from the front of `rest`.
    fn read(rest: &mut &[u8]) -> Result<Self, String>;
}

impl Field for i64 {
    fn write(&self, datum: &mut Vec<u8>) {
        // Zigzag: small numbers of either sign are short.
        let mut left = ((self << 1) ^ (self >> 63)) as u64;
        while left >= 0x80 {
            datum.push(left as u8 | 0x80);
            left >>= 7;
        }
        datum.push(left as u8);
    }

    fn read(rest: &mut &[u8]) -> Result<Self, String> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = take(rest, 1)?[0];
            if shift == 63 && byte > 1 {
                break;
            }
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok((number >> 1) as i64 ^ -((number & 1) as i64));
            }
        }
        Err("a number of more than 64 bits".to_owned())
    }
}

impl Field for Cents {
    fn write(&self, datum: &mut Vec<u8>) {
        self.get().write(datum);
    }

    fn read(rest: &mut &[u8]) -> Result<Self, String> {
        i64::read(rest).map(Self::new)
    }
}

impl Field for String {
    fn write(&self, datum: &mut Vec<u8>) {
        (self.len() as i64).write(datum);
        datum.extend_from_slice(self.as_bytes());
    }

    fn read(rest: &mut &[u8]) -> Result<Self, String> {
        read_text(rest).map(str::to_owned)
    }
}

impl Field for Uuid {
    fn write(&self, datum: &mut Vec<u8>) {
        datum.extend_from_slice(self.as_bytes());
    }

    fn read(rest: &mut &[u8]) -> Result<Self, String> {
        Self::from_slice(take(rest, 16)?).map_err(|err| err.to_string())
    }
}

impl Field for Option<Uuid> {
    fn write(&self, datum: &mut Vec<u8>) {
        i64::from(self.is_some()).write(datum);
        if let Some(uuid) = self {
            uuid.write(datum);
        }
    }

    fn read(rest: &mut &[u8]) -> Result<Self, String> {
        match i64::read(rest)? {
            0 => Ok(None),
            1 => Uuid::read(rest).map(Some),
            index => Err(format!("variant {index} of a union of 2")),
        }
    }
}

impl Field for Atype {
    fn write(&self, datum: &mut Vec<u8>) {
        (*self as i64).write(datum);
    }

    fn read(rest: &mut &[u8]) -> Result<Self, String> {
        match i64::read(rest)? {
            0 => Ok(Self::Auto),
            1 => Ok(Self::Manual),
            index => Err(format!("symbol {index} of an enum of 2")),
        }
    }
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], String> {
    let (taken, left) = rest
        .split_at_checked(length)
        .ok_or_else(|| format!("ends early: {length} bytes wanted, {} left", rest.len()))?;
    *rest = left;
    Ok(taken)
}

fn read_bytes<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], String> {
    let length = i64::read(rest)?;
    take(rest, usize::try_from(length).map_err(|_| format!("length {length}"))?)
}

fn read_text<'a>(rest: &mut &'a [u8]) -> Result<&'a str, String> {
    std::str::from_utf8(read_bytes(rest)?).map_err(|err| format!("not UTF-8: {err}"))
}

fn at_end(rest: &[u8]) -> Result<(), String> {
    if rest.is_empty() { Ok(()) } else { Err(format!("{} bytes too many", rest.len())) }
}

// Foreign schemas.

/// True if both schemas give the same bytes for the same record, field by field: their canonical forms are equal.
pub(crate) fn writes_the_same(one: &str, other: &str) -> bool {
    match (foreign(one), foreign(other)) {
        // Not `==`: the crate's comparison does not look at the names of fields, and `from` and `to` are both strings.
        (Ok(one), Ok(other)) => one.canonical_form() == other.canonical_form(),
        _ => false,
    }
}

/// A schema from outside. Only what decides on the bytes gets to the crate: its parser and its canonical form panic on some
/// aliases, names and attributes, and a logical type would make it decode other values than our fields are.
fn foreign(text: &str) -> Result<Schema, String> {
    let schema: Json = serde_json::from_str(text).map_err(|err| format!("not a schema: {err}"))?;
    let bare = bare(&schema).ok_or("not a schema: a type or name is missing or wrong")?;
    Schema::parse(&bare).map_err(|err| format!("not a schema: {err}"))
}

/// `schema` with what decides on the bytes, checked.
fn bare(schema: &Json) -> Option<Json> {
    match schema {
        Json::String(name) => name_in(name),
        Json::Array(variants) => variants.iter().map(bare).collect(),
        Json::Object(schema) => {
            let kind = schema.get("type")?;
            let mut bare_schema = Map::new();
            match kind.as_str() {
                Some("record") => {
                    let fields = schema.get("fields")?.as_array()?.iter().map(bare_field);
                    bare_schema.insert("fields".into(), fields.collect::<Option<_>>()?);
                }
                Some("enum") => {
                    let symbols = schema.get("symbols")?.as_array()?.iter();
                    let symbols = symbols.map(|symbol| name_in(symbol.as_str()?));
                    bare_schema.insert("symbols".into(), symbols.collect::<Option<_>>()?);
                }
                Some("fixed") => {
                    let size = schema.get("size")?.as_u64().and_then(|n| i32::try_from(n).ok())?;
                    bare_schema.insert("size".into(), size.into());
                }
                Some(container @ ("array" | "map")) => {
                    let of = if container == "array" { "items" } else { "values" };
                    bare_schema.insert(of.into(), bare(schema.get(of)?)?);
                    bare_schema.insert("type".into(), kind.clone());
                    return Some(bare_schema.into());
                }
                // `{"type": "string", "logicalType": ...}`, `{"type": {"type": ...}}`.
                _ => return bare(kind),
            }
            bare_schema.insert("type".into(), kind.clone());
            bare_schema.insert("name".into(), name_in(schema.get("name")?.as_str()?)?);
            let namespace = schema.get("namespace").and_then(Json::as_str);
            if let Some(namespace) = namespace.filter(|namespace| !namespace.is_empty()) {
                bare_schema.insert("namespace".into(), name_in(namespace)?);
            }
            Some(bare_schema.into())
        }
        _ => None,
    }
}

fn bare_field(field: &Json) -> Option<Json> {
    let mut bare_field = Map::new();
    bare_field.insert("name".into(), name_in(field.get("name")?.as_str()?)?);
    bare_field.insert("type".into(), bare(field.get("type")?)?);
    Some(bare_field.into())
}

/// `name`, if it is one by the specification: letters, digits and `_`, not beginning with a digit; parts joined by dots.
fn name_in(name: &str) -> Option<Json> {
    let fits = |part: &str| {
        part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && part.bytes().next().is_some_and(|b| !b.is_ascii_digit())
    };
    name.split('.').all(fits).then(|| name.into())
}

/// Whether what `writer` wrote is a record of `reader` at all. Types of fields are left to each datum: the crate's own check
/// refuses pairs that its resolution reads, as a fixed type that the writer names for the second time.
fn can_resolve(writer: &Schema, reader: &Schema) -> Result<(), String> {
    let (Schema::Record(writer), Schema::Record(reader)) = (writer, reader) else {
        return Err("not a record".to_owned());
    };
    if writer.name != reader.name {
        return Err(format!("a {} instead of a {}", writer.name, reader.name));
    }
    let lacks = |field: &&avro_rs::schema::RecordField| {
        field.default.is_none() && !writer.fields.iter().any(|other| other.name == field.name)
    };
    match reader.fields.iter().find(lacks) {
        Some(field) => Err(format!("lacks field {}, which has no default", field.name)),
        None => Ok(()),
    }
}

/// `datum`, written in `writer`, as a datum in `reader`.
fn resolve(writer: &Schema, datum: &[u8], reader: &Schema) -> Result<Vec<u8>, String> {
    let resolved = ResolvedSchema::try_from(writer).map_err(|err| err.to_string())?;
    let values_left = VALUES_MAX.0 + VALUES_MAX.1 * datum.len();
    let mut walk = Walk { names: resolved.get_names(), rest: datum, values_left };
    walk.value(writer, &None, 0)?;
    at_end(walk.rest)?;
    avro_rs::from_avro_datum(writer, &mut &*datum, Some(reader))
        .and_then(|value| avro_rs::to_avro_datum(reader, value))
        .map_err(|err| Chain(&err).to_string())
}

/// Goes through a datum as the crate will, before it does: the crate takes lengths for true and allocates them, recurses
/// without bound and reads a string, boolean or union that is cut off as null.
struct Walk<'a> {
    names: &'a NamesRef<'a>,
    rest: &'a [u8],
    values_left: usize,
}

impl Walk<'_> {
    fn value(&mut self, schema: &Schema, within: &Namespace, depth: usize) -> Result<(), String> {
        self.values_left = self.values_left.checked_sub(1).ok_or("too many values")?;
        if depth > DEPTH_MAX {
            return Err(format!("nested more than {DEPTH_MAX} deep"));
        }
        match schema {
            Schema::Null => Ok(()),
            Schema::Boolean => match take(&mut self.rest, 1)? {
                [0 | 1] => Ok(()),
                other => Err(format!("boolean {other:?}")),
            },
            Schema::Int => {
                let number = i64::read(&mut self.rest)?;
                i32::try_from(number).map(drop).map_err(|_| format!("int {number}"))
            }
            Schema::Long => i64::read(&mut self.rest).map(drop),
            Schema::Float => take(&mut self.rest, 4).map(drop),
            Schema::Double => take(&mut self.rest, 8).map(drop),
            Schema::Bytes => read_bytes(&mut self.rest).map(drop),
            Schema::String => read_text(&mut self.rest).map(drop),
            Schema::Fixed(fixed) => take(&mut self.rest, fixed.size).map(drop),
            Schema::Enum(of) => self.index(of.symbols.len(), "symbol").map(drop),
            Schema::Union(union) => {
                let index = self.index(union.variants().len(), "variant")?;
                self.value(&union.variants()[index], within, depth + 1)
            }
            Schema::Array(array) => self.blocks(None, &array.items, within, depth + 1),
            Schema::Map(map) => self.blocks(Some(&Schema::String), &map.types, within, depth + 1),
            Schema::Record(RecordSchema { name, fields, .. }) => {
                let within = name.fully_qualified_name(within).namespace;
                fields.iter().try_for_each(|field| {
                    self.value(&field.schema, &within, depth + 1)
                        .map_err(|reason| format!("{}: {reason}", field.name))
                })
            }
            Schema::Ref { name } => {
                let name = name.fully_qualified_name(within);
                let schema = self.names.get(&name).copied();
                let schema = schema.ok_or_else(|| format!("type {name} is not defined"))?;
                self.value(schema, &name.namespace, depth + 1)
            }
            // `bare` leaves no logical types.
            other => Err(format!("type {other:?} is not supported")),
        }
    }

    fn index(&mut self, count: usize, of: &str) -> Result<usize, String> {
        let index = i64::read(&mut self.rest)?;
        let inside = usize::try_from(index).ok().filter(|index| *index < count);
        inside.ok_or_else(|| format!("{of} {index} of {count}"))
    }

    fn blocks(
        &mut self,
        key: Option<&Schema>,
        item: &Schema,
        within: &Namespace,
        depth: usize,
    ) -> Result<(), String> {
        loop {
            let count = i64::read(&mut self.rest)?;
            if count == 0 {
                return Ok(());
            }
            if count < 0 {
                // The size of the block in bytes follows.
                i64::read(&mut self.rest)?;
            }
            // Ends by `values_left`, if not by the bytes.
            for _ in 0..count.unsigned_abs() {
                if let Some(key) = key {
                    self.value(key, within, depth)?;
                }
                self.value(item, within, depth)?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::tests::Fake;
    use avro_rs::types::Value;
    use proptest::prelude::*;
    use serde_json::json;
    use std::fmt::Debug;

    /// The talk's BalanceChanged: ours without the two fields at the end.
    const TALKS_BALANCE_CHANGED: &str = r#"{"type":"record","name":"BalanceChanged","namespace":"nl.openweb.data","fields":[
        {"name":"iban","type":{"type":"string","avro.java.string":"String"}},{"name":"new_balance","type":"long"},
        {"name":"changed_by","type":"long"},{"name":"from_to","type":"string"},{"name":"description","type":"string"}]}"#;

    /// A record as the crate sees it, and any record.
    trait Checked: Record + Debug + PartialEq + Clone {
        fn value(&self) -> Value;
        fn any() -> BoxedStrategy<Self>;
    }

    fn long(number: i64) -> Value {
        Value::Long(number)
    }

    fn text(text: &str) -> Value {
        Value::String(text.to_owned())
    }

    fn fixed(uuid: &Uuid) -> Value {
        Value::Fixed(16, uuid.as_bytes().to_vec())
    }

    fn symbol(a_type: Atype) -> Value {
        match a_type {
            Atype::Auto => Value::Enum(0, "AUTO".to_owned()),
            Atype::Manual => Value::Enum(1, "MANUAL".to_owned()),
        }
    }

    fn record(fields: &[(&str, Value)]) -> Value {
        Value::Record(fields.iter().map(|(name, v)| ((*name).to_owned(), v.clone())).collect())
    }

    fn uuid() -> impl Strategy<Value = Uuid> {
        any::<u128>().prop_map(Uuid::from_u128)
    }

    fn cents() -> impl Strategy<Value = Cents> {
        prop_oneof![any::<i64>(), -70i64..70, Just(i64::MIN), Just(i64::MAX)].prop_map(Cents::new)
    }

    fn a_type() -> impl Strategy<Value = Atype> {
        prop_oneof![Just(Atype::Auto), Just(Atype::Manual)]
    }

    fn some_text() -> impl Strategy<Value = String> {
        prop_oneof!["\\PC{0,12}", ".{0,200}"]
    }

    macro_rules! checked {
        ($($record:ident { $($field:ident: $strategy:expr => $value:expr),+ $(,)? })+) => {$(
            impl Checked for $record {
                fn value(&self) -> Value {
                    let Self { $($field),+ } = self;
                    record(&[$((stringify!($field), $value)),+])
                }

                fn any() -> BoxedStrategy<Self> {
                    ($($strategy,)+).prop_map(|($($field,)+)| Self { $($field),+ }).boxed()
                }
            }
        )+};
    }

    checked! {
        Heartbeat { beat: any::<i64>() => long(*beat) }
        ConfirmAccountCreation { id: uuid() => fixed(id), a_type: a_type() => symbol(*a_type) }
        AccountCreationConfirmed {
            id: uuid() => fixed(id), iban: some_text() => text(iban), token: some_text() => text(token),
            a_type: a_type() => symbol(*a_type),
        }
        AccountCreationFailed { id: uuid() => fixed(id), reason: some_text() => text(reason) }
        ConfirmMoneyTransfer {
            id: uuid() => fixed(id), token: some_text() => text(token), amount: cents() => long(amount.get()),
            from: some_text() => text(from), to: some_text() => text(to), description: some_text() => text(description),
        }
        MoneyTransferConfirmed { id: uuid() => fixed(id) }
        MoneyTransferFailed { id: uuid() => fixed(id), reason: some_text() => text(reason) }
        BalanceChanged {
            iban: some_text() => text(iban), new_balance: cents() => long(new_balance.get()),
            changed_by: cents() => long(changed_by.get()), from_to: some_text() => text(from_to),
            description: some_text() => text(description),
            transfer_id: proptest::option::of(uuid()) => match transfer_id {
                None => Value::Union(0, Box::new(Value::Null)),
                Some(id) => Value::Union(1, Box::new(fixed(id))),
            },
            sequence: any::<i64>() => long(*sequence),
        }
    }

    fn schema<R: Record>() -> Schema {
        Schema::parse_str(R::TOPIC.schema.unwrap()).unwrap()
    }

    fn datum<R: Record>(record: &R) -> Vec<u8> {
        let mut datum = Vec::new();
        record.write(&mut datum);
        datum
    }

    /// Our bytes are the crate's, each reads the other's, also through schema resolution, and no part of them is a record.
    fn is_as_the_crate<R: Checked>(record: &R) {
        let schema = schema::<R>();
        let ours = datum(record);
        let theirs = avro_rs::to_avro_datum(&schema, record.value()).unwrap();
        assert_eq!(ours, theirs);
        assert_eq!(R::read(&theirs).unwrap(), *record);
        let value = avro_rs::from_avro_datum(&schema, &mut &*ours, None).unwrap();
        assert_eq!(value, record.value());
        let writer = foreign(R::TOPIC.schema.unwrap()).unwrap();
        assert_eq!(resolve(&writer, &ours, &schema).unwrap(), ours);
        for length in 0..ours.len() {
            assert!(R::read(&ours[..length]).is_err());
            assert!(resolve(&writer, &ours[..length], &schema).is_err(), "{length} of {ours:?}");
        }
        let longer = [&*ours, &[0]].concat();
        assert!(R::read(&longer).is_err() && resolve(&writer, &longer, &schema).is_err());
    }

    /// What we read of arbitrary bytes, the crate reads too, and the slow path gives the same or an error as well.
    fn reads_as_the_crate<R: Checked>(bytes: &[u8]) {
        let schema = schema::<R>();
        let slow = resolve(&foreign(R::TOPIC.schema.unwrap()).unwrap(), bytes, &schema);
        match R::read(bytes) {
            Ok(record) => {
                let value = avro_rs::from_avro_datum(&schema, &mut &*bytes, None).unwrap();
                assert_eq!(value, record.value());
                assert_eq!(R::read(&slow.unwrap()).unwrap(), record);
            }
            Err(_) => assert!(slow.is_err(), "{bytes:?}"),
        }
    }

    macro_rules! for_each_record {
        ($($of:ident $record:ident),+ $(,)?) => {$(
            mod $of {
                use super::*;

                proptest! {
                    #[test]
                    fn is_written_and_read_as_by_the_crate(record in $record::any()) {
                        is_as_the_crate(&record);
                    }

                    #[test]
                    fn other_bytes_are_read_as_by_the_crate(
                        bytes in prop_oneof![
                            proptest::collection::vec(any::<u8>(), 0..80),
                            with_a_changed_byte($record::any()),
                        ]
                    ) {
                        reads_as_the_crate::<$record>(&bytes);
                    }
                }
            }
        )+};
    }

    fn with_a_changed_byte<R: Checked>(record: BoxedStrategy<R>) -> impl Strategy<Value = Vec<u8>> {
        (record, any::<prop::sample::Index>(), any::<u8>()).prop_map(|(record, at, to)| {
            let mut bytes = datum(&record);
            let at = at.index(bytes.len());
            bytes[at] = to;
            bytes
        })
    }

    for_each_record!(
        of_heartbeat Heartbeat,
        of_confirm_account_creation ConfirmAccountCreation,
        of_account_creation_confirmed AccountCreationConfirmed,
        of_account_creation_failed AccountCreationFailed,
        of_confirm_money_transfer ConfirmMoneyTransfer,
        of_money_transfer_confirmed MoneyTransferConfirmed,
        of_money_transfer_failed MoneyTransferFailed,
        of_balance_changed BalanceChanged,
    );

    fn transfer() -> ConfirmMoneyTransfer {
        ConfirmMoneyTransfer {
            id: Uuid::from_u128(0x1234_5678),
            token: "01234567890123456789".to_owned(),
            amount: Cents::new(1_050),
            from: "NL66OPEN0000000000".to_owned(),
            to: "NL28OPEN0123456789".to_owned(),
            description: "rent".to_owned(),
        }
    }

    fn balance_changed() -> BalanceChanged {
        BalanceChanged {
            iban: "NL66OPEN0000000000".to_owned(),
            new_balance: Cents::new(-300),
            changed_by: Cents::new(64),
            from_to: "cash".to_owned(),
            description: "rent".to_owned(),
            transfer_id: None,
            sequence: 0,
        }
    }

    fn decoder<R: Record>(schema: &str) -> Decoder<R> {
        Decoder::new(Registry::new(&Fake::start(vec![(200, answer(schema))]).url))
    }

    fn answer(schema: &str) -> String {
        json!({ "schema": schema }).to_string()
    }

    fn frame(id: u32, datum: &[u8]) -> Vec<u8> {
        [&[0], &id.to_be_bytes()[..], datum].concat()
    }

    fn poison<R: Record>(outcome: Result<R, Error>) -> String {
        match outcome {
            Err(Error::Poison(reason)) => reason,
            Err(err) => panic!("{err:?}"),
            Ok(_) => panic!("a record"),
        }
    }

    #[test]
    fn a_value_is_framed_with_its_schema_id() {
        let encoder = Encoder::<Heartbeat>::with_id(0x0102_0304);
        assert_eq!(encoder.encode(&Heartbeat { beat: -65 }), [0, 1, 2, 3, 4, 0x81, 1]);
    }

    #[test]
    fn the_talks_balance_changed_is_read() {
        // Written by hand from the specification: lengths and numbers are zigzag.
        let mut bytes = vec![36];
        bytes.extend_from_slice(b"NL66OPEN0000000000");
        bytes.extend_from_slice(&[0xd7, 0x04, 0x80, 0x01, 8]);
        bytes.extend_from_slice(b"cash");
        bytes.push(8);
        bytes.extend_from_slice(b"rent");
        let mut decoder = decoder::<BalanceChanged>(TALKS_BALANCE_CHANGED);
        assert_eq!(decoder.decode(&frame(9, &bytes)).unwrap(), balance_changed());
        assert!(
            poison(decoder.decode(&frame(9, &bytes[..bytes.len() - 1]))).contains("ends early")
        );
    }

    #[test]
    fn a_newer_schema_with_more_fields_in_another_order_is_read() {
        let newer = json!({"type": "record", "name": "nl.openweb.data.MoneyTransferFailed", "doc": "x", "fields": [
            {"name": "tags", "type": {"type": "array", "items": ["null", "string"]}},
            {"name": "by", "type": {"type": "fixed", "name": "Uuid", "size": 16, "logicalType": "uuid"}},
            {"name": "reason", "type": {"type": "string", "logicalType": "uuid"}},
            {"name": "id", "type": "Uuid"}]});
        let mut bytes = vec![4, 0, 2, 2, b'x', 0];
        bytes.extend_from_slice(&[1; 16]);
        bytes.extend_from_slice(&[4, b'n', b'o']);
        bytes.extend_from_slice(&[2; 16]);
        let read = decoder::<MoneyTransferFailed>(&newer.to_string()).decode(&frame(1, &bytes));
        let id = Uuid::from_bytes([2; 16]);
        assert_eq!(read.unwrap(), MoneyTransferFailed { id, reason: "no".to_owned() });
    }

    #[test]
    fn fields_with_exchanged_names_are_not_taken_for_ours() {
        let ours = ConfirmMoneyTransfer::TOPIC.schema.unwrap();
        let exchanged = ours
            .replace("\"from\"", "\"x\"")
            .replace("\"to\"", "\"from\"")
            .replace("\"x\"", "\"to\"");
        let theirs =
            ConfirmMoneyTransfer { from: transfer().to, to: transfer().from, ..transfer() };
        let read = decoder::<ConfirmMoneyTransfer>(&exchanged).decode(&frame(1, &datum(&theirs)));
        assert_eq!(read.unwrap(), transfer());
    }

    #[test]
    fn a_schema_that_is_not_ours_is_poison_with_the_reason() {
        let failed = AccountCreationFailed::TOPIC.schema.unwrap();
        let without = MoneyTransferFailed::TOPIC.schema.unwrap().replace("reason", "cause");
        for (schema, reason) in [
            (
                failed,
                "schema 1: a nl.openweb.data.AccountCreationFailed instead of a nl.openweb.data.MoneyTransferFailed",
            ),
            (&without, "schema 1: lacks field reason, which has no default"),
            ("\"long\"", "schema 1: not a record"),
            ("[]", "schema 1: not a record"),
            ("{", "schema 1: not a schema"),
        ] {
            let found = poison(decoder::<MoneyTransferFailed>(schema).decode(&frame(1, &[0; 17])));
            assert!(found.starts_with(reason), "{found}");
        }
    }

    #[test]
    fn a_frame_that_is_none_is_poison_with_the_reason() {
        let mut decoder = decoder::<Heartbeat>(Heartbeat::TOPIC.schema.unwrap());
        for (value, reason) in [
            (&[][..], "no value"),
            (&[1, 0, 0, 0, 1, 0], "magic byte 1 instead of 0"),
            (&[0, 0, 0, 1], "value of 4 bytes: too short for a schema id"),
            (&[0, 0, 0, 0, 1], "schema 1: beat: ends early: 1 bytes wanted, 0 left"),
            (&[0, 0, 0, 0, 1, 0, 0], "schema 1: 1 bytes too many"),
            (
                &[0, 0, 0, 0, 1, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2],
                "schema 1: beat: a number of more than 64 bits",
            ),
        ] {
            assert_eq!(poison(decoder.decode(value)), reason);
        }
        assert_eq!(decoder.decode(&[0, 0, 0, 0, 1, 2]).unwrap(), Heartbeat { beat: 1 });
    }

    #[test]
    fn a_datum_that_is_none_is_poison_with_the_reason() {
        let huge = datum(&Heartbeat { beat: i64::MAX });
        let id = [7; 16];
        for (rest, reason) in [
            (&[1][..], "reason: length -1"),
            (&huge, "reason: ends early: 9223372036854775807 bytes wanted, 0 left"),
            (&[2, 0xff], "reason: not UTF-8"),
        ] {
            let err = MoneyTransferFailed::read(&[&id, rest].concat()).unwrap_err();
            assert!(err.starts_with(reason), "{err}");
        }
        let err = ConfirmAccountCreation::read(&[&id[..], &[4]].concat()).unwrap_err();
        assert_eq!(err, "a_type: symbol 2 of an enum of 2");
    }

    #[test]
    fn an_id_is_asked_for_once() {
        let ours = (200, answer(Heartbeat::TOPIC.schema.unwrap()));
        let absent = (404, r#"{"error_code":40403,"message":""}"#.to_owned());
        let fake = Fake::start(vec![ours, absent, (500, String::new())]);
        let mut decoder = Decoder::<Heartbeat>::new(Registry::new(&fake.url));
        for _ in 0..3 {
            assert!(decoder.decode(&frame(1, &[0])).is_ok());
            assert_eq!(
                poison(decoder.decode(&frame(2, &[0]))),
                "schema 2: the registry does not know it"
            );
        }
        assert_eq!(*fake.asked.lock().unwrap(), ["GET /schemas/ids/1", "GET /schemas/ids/2"]);
        // The third id meets a registry that fails: no verdict, and asked again.
        for _ in 0..2 {
            let err = decoder.decode(&frame(3, &[0])).unwrap_err();
            assert!(matches!(err, Error::Registry { id: 3, ref source } if source.retryable));
        }
        assert_eq!(fake.asked.lock().unwrap().len(), 4);
    }

    #[test]
    fn an_unknown_id_is_asked_for_again_after_a_while() {
        let absent = (404, r#"{"error_code":40403,"message":""}"#.to_owned());
        let fake = Fake::start(vec![absent, (200, answer(Heartbeat::TOPIC.schema.unwrap()))]);
        let mut decoder = Decoder::<Heartbeat>::new(Registry::new(&fake.url));
        poison(decoder.decode(&frame(1, &[0])));
        let past = Instant::now().checked_sub(UNKNOWN_FOR).unwrap();
        decoder.writers.insert(1, Writer::Unknown(past));
        assert!(decoder.decode(&frame(1, &[0])).is_ok());
    }

    #[test]
    fn a_flood_of_ids_does_not_grow_the_decoder() {
        let absent = (404, r#"{"error_code":40403,"message":""}"#.to_owned());
        let fake = Fake::start(vec![absent]);
        let mut decoder = Decoder::<Heartbeat>::new(Registry::new(&fake.url));
        for id in 0..=SCHEMAS_MAX as u32 {
            poison(decoder.decode(&frame(id, &[0])));
        }
        assert!(decoder.writers.len() <= SCHEMAS_MAX);
    }

    #[test]
    fn a_foreign_datum_costs_no_more_than_its_bytes() {
        let with = |kind: Json| {
            json!({"type": "record", "name": "nl.openweb.data.Heartbeat", "fields": [
                {"name": "beat", "type": "long"}, {"name": "more", "type": kind}]})
            .to_string()
        };
        let this = json!(["null", "Heartbeat"]);
        let mut doubling = json!({"type": "record", "name": "R0", "fields": []});
        // 2^15 leaves without a byte.
        for n in 1..16 {
            doubling = json!({"type": "record", "name": format!("R{n}"), "fields": [
                {"name": "a", "type": doubling}, {"name": "b", "type": format!("R{}", n - 1)}]});
        }
        let huge = datum(&Heartbeat { beat: i64::MAX });
        for (kind, more, reason) in [
            (json!({"type": "array", "items": "null"}), &*huge, "too many values"),
            (json!({"type": "array", "items": "long"}), &huge, "ends early"),
            (json!("bytes"), &huge, "ends early"),
            (json!({"type": "fixed", "name": "F", "size": i32::MAX}), &[], "ends early"),
            (this, &[[2, 2]; 500].concat(), "nested more than 32 deep"),
            (doubling, &[], "too many values"),
            (json!("string"), &[], "ends early"),
            (json!("boolean"), &[], "ends early"),
            (json!(["null", "long"]), &[], "ends early"),
        ] {
            let found =
                poison(decoder::<Heartbeat>(&with(kind)).decode(&frame(1, &[&[2], more].concat())));
            assert!(found.contains(reason), "{found}");
        }
    }

    #[test]
    fn the_start_waits_for_the_registry_until_the_stop() {
        let busy = (503, String::new());
        let found = (200, r#"{"id":7}"#.to_owned());
        let registry = Registry::new(&Fake::start(vec![busy.clone(), busy.clone(), found]).url);
        let shutdown = Shutdown::default();
        let encoder = Encoder::<Heartbeat>::wait(&registry, &shutdown).unwrap().unwrap();
        assert_eq!(encoder.encode(&Heartbeat { beat: 0 }), [0, 0, 0, 0, 7, 0]);
        shutdown.request();
        let registry = Registry::new(&Fake::start(vec![busy]).url);
        assert!(Encoder::<Heartbeat>::wait(&registry, &shutdown).unwrap().is_none());
        let registry = Registry::new(&Fake::start(vec![(401, String::new())]).url);
        assert!(!Encoder::<Heartbeat>::wait(&registry, &shutdown).unwrap_err().retryable);
    }

    /// Something like a schema: the words of schemas in any places.
    fn like_a_schema() -> impl Strategy<Value = Json> {
        let word = prop_oneof![
            "record|enum|fixed|array|map|null|string|long|boolean|Uuid|Heartbeat|beat|ns.x|1a|a..b|",
            ".{0,4}"
        ];
        let leaf = prop_oneof![
            word.prop_map(Json::from),
            any::<i64>().prop_map(Json::from),
            Just(json!([]))
        ];
        leaf.prop_recursive(6, 60, 5, |inner| {
            let key = "type|name|namespace|fields|items|values|symbols|size|default|aliases|logicalType";
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
                proptest::collection::btree_map(key, inner.clone(), 0..6)
                    .prop_map(|map| Json::Object(map.into_iter().collect())),
                (proptest::collection::vec(("beat|a|b", inner), 0..4)).prop_map(|fields| {
                    let fields: Vec<Json> =
                        fields.into_iter().map(|(name, kind)| json!({"name": name, "type": kind})).collect();
                    json!({"type": "record", "name": "Heartbeat", "namespace": "nl.openweb.data", "fields": fields})
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_schema_and_any_datum_are_judged_without_panic(
            schema in like_a_schema(), bytes in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let text = schema.to_string();
            let _ = writes_the_same(&text, Heartbeat::TOPIC.schema.unwrap());
            if let Ok(writer) = foreign(&text) {
                let ours = super::tests::schema::<Heartbeat>();
                let _ = can_resolve(&writer, &ours);
                let _ = resolve(&writer, &bytes, &ours);
            }
        }

        #[test]
        fn any_value_is_judged_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let _ = unframe(&bytes);
        }
    }
}
