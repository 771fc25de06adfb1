//! Tests with `apache-avro` as the oracle, and with foreign and malformed schemas and data.

use crate::codec::Record;
use crate::framing::{
    CACHE_BYTES_MAX, Decoder, Encoder, Error, SCHEMAS_MAX, UNKNOWN_FOR, UNKNOWN_WAIT, Writer,
    unframe,
};
use crate::registry::Registry;
use crate::registry::tests::Fake;
use crate::resolution::Reader;
use crate::schema::{Schema as WriterSchema, TYPES_MAX, writes_the_same};
use avro_rs::Schema;
use avro_rs::types::Value;
use bank::money::Cents;
use bank::records::*;
use bank::timestamp::Timestamp;

use proptest::prelude::*;
use serde_json::Value as Json;
use serde_json::json;
use service::shutdown::Shutdown;
use std::fmt::Debug;
use uuid::Uuid;

/// An earlier version of BalanceChanged, without the last two fields of ours.
const EARLIER_BALANCE_CHANGED: &str = r#"{"type":"record","name":"BalanceChanged",
    "namespace":"nl.openweb.data","fields":[
    {"name":"iban","type":{"type":"string","avro.java.string":"String"}},
    {"name":"new_balance","type":"long"},
    {"name":"changed_by","type":"long"},{"name":"from_to","type":"string"},
    {"name":"description","type":"string"}]}"#;

/// A record as a value of the crate, and a strategy for arbitrary records.
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
        id: uuid() => fixed(id), token: some_text() => text(token),
        amount: cents() => long(amount.get()), from: some_text() => text(from),
        to: some_text() => text(to), description: some_text() => text(description),
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
        decided_at: proptest::option::of(any::<i64>().prop_map(Timestamp::from_millis)) =>
            match decided_at {
                None => Value::Union(0, Box::new(Value::Null)),
                Some(time) => Value::Union(1, Box::new(Value::TimestampMillis(time.millis()))),
            },
    }
}

fn schema<R: Record>() -> Schema {
    Schema::parse_str(R::TOPIC.schema.unwrap()).unwrap()
}

fn reader<R: Record>() -> Reader {
    Reader::new(R::TOPIC.schema.unwrap()).unwrap()
}

fn datum<R: Record>(record: &R) -> Vec<u8> {
    let mut datum = Vec::new();
    record.write(&mut datum);
    datum
}

/// Asserts that our codec and the crate write the same bytes and read each other's, with and
/// without schema resolution. A truncated datum must be rejected.
fn assert_same_encoding<R: Checked>(record: &R) {
    let schema = schema::<R>();
    let ours = datum(record);
    let theirs = avro_rs::writer::datum::GenericDatumWriter::builder(&schema)
        .build()
        .unwrap()
        .write_value_to_vec(record.value())
        .unwrap();
    assert_eq!(ours, theirs);
    assert_eq!(R::read(&theirs).unwrap(), *record);
    let value = avro_rs::reader::datum::GenericDatumReader::builder(&schema)
        .build()
        .unwrap()
        .read_value(&mut &*ours)
        .unwrap();
    assert_eq!(value, record.value());
    let reader = reader::<R>();
    assert_eq!(reader.resolve(&reader.schema, &ours).unwrap(), ours);
    for length in 0..ours.len() {
        assert!(R::read(&ours[..length]).is_err());
        let truncated = reader.resolve(&reader.schema, &ours[..length]);
        assert!(truncated.is_err(), "{length} of {ours:?}");
    }
    let longer = [&*ours, &[0]].concat();
    assert!(R::read(&longer).is_err() && reader.resolve(&reader.schema, &longer).is_err());
}

/// Asserts that our codec, the crate and the resolution decode `bytes` to the same record. If our
/// codec rejects them, the resolution must too.
fn assert_same_decoding<R: Checked>(bytes: &[u8]) {
    let schema = schema::<R>();
    let reader = reader::<R>();
    let resolved = reader.resolve(&reader.schema, bytes);
    match R::read(bytes) {
        Ok(record) => {
            let value = avro_rs::reader::datum::GenericDatumReader::builder(&schema)
                .build()
                .unwrap()
                .read_value(&mut &*bytes)
                .unwrap();
            assert_eq!(value, record.value());
            assert_eq!(R::read(&resolved.unwrap()).unwrap(), record);
        }
        Err(_) => assert!(resolved.is_err(), "{bytes:?}"),
    }
}

macro_rules! for_each_record {
    ($($of:ident $record:ident),+ $(,)?) => {$(
        mod $of {
            use super::*;

            proptest! {
                #[test]
                fn encoding_equals_the_crates(record in $record::any()) {
                    assert_same_encoding(&record);
                }

                #[test]
                fn arbitrary_bytes_are_decoded_like_the_crate(
                    bytes in prop_oneof![
                        proptest::collection::vec(any::<u8>(), 0..80),
                        with_a_changed_byte($record::any()),
                    ]
                ) {
                    assert_same_decoding::<$record>(&bytes);
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
        decided_at: None,
    }
}

fn decoder<R: Record>(schema: &str) -> Decoder<R> {
    Decoder::new(Registry::new(&Fake::start(vec![(200, response(schema))]).url))
}

fn response(schema: &str) -> String {
    json!({ "schema": schema }).to_string()
}

fn frame(id: u32, datum: &[u8]) -> Vec<u8> {
    [&[0], &id.to_be_bytes()[..], datum].concat()
}

/// The reason why a value is undecodable.
fn reason<R: Record>(outcome: Result<R, Error>) -> String {
    match outcome {
        Err(Error::Undecodable(reason)) => reason,
        Err(err) => panic!("{err:?}"),
        Ok(_) => panic!("the value is decodable"),
    }
}

#[test]
fn encoded_value_starts_with_its_schema_id() {
    let encoder = Encoder::<Heartbeat>::with_id(0x0102_0304);
    assert_eq!(encoder.encode(&Heartbeat { beat: -65 }), [0, 1, 2, 3, 4, 0x81, 1]);
}

#[test]
fn stored_value_gets_the_current_id() {
    let encoder = Encoder::<Heartbeat>::with_id(7);
    assert_eq!(encoder.with_current_id(vec![0, 0, 0, 0, 1, 2]), [0, 0, 0, 0, 7, 2]);
    // Values that are no heartbeats keep their id.
    for other in [vec![], vec![0, 0, 0, 1], vec![0, 0, 0, 0, 1], vec![0, 0, 0, 0, 1, 2, 2]] {
        assert_eq!(encoder.with_current_id(other.clone()), other);
    }
}

#[test]
fn record_with_an_earlier_schema_is_decoded() {
    // Encoded by hand from the Avro specification: lengths and numbers are in zigzag encoding.
    let mut bytes = vec![36];
    bytes.extend_from_slice(b"NL66OPEN0000000000");
    bytes.extend_from_slice(&[0xd7, 0x04, 0x80, 0x01, 8]);
    bytes.extend_from_slice(b"cash");
    bytes.push(8);
    bytes.extend_from_slice(b"rent");
    let mut decoder = decoder::<BalanceChanged>(EARLIER_BALANCE_CHANGED);
    assert_eq!(decoder.decode(&frame(9, &bytes)).unwrap(), balance_changed());
    assert!(reason(decoder.decode(&frame(9, &bytes[..bytes.len() - 1]))).contains("truncated"));
}

#[test]
fn record_with_a_newer_schema_is_decoded() {
    let uuid = json!({"type": "fixed", "name": "Uuid", "size": 16, "logicalType": "uuid"});
    let newer = json!({"type": "record", "name": "nl.openweb.data.MoneyTransferFailed",
        "doc": "x", "fields": [
        {"name": "tags", "type": {"type": "array", "items": ["null", "string"]}},
        {"name": "by", "type": uuid},
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

/// Schemas of MoneyTransferFailed with another type of a field. Avro's Java implementation resolves
/// the same ones.
#[test]
fn field_types_are_resolved_as_avro_does() {
    let id = [2; 16];
    let with = |id: Json, reason: Json| {
        json!({"type": "record", "name": "com.other.MoneyTransferFailed", "fields": [
            {"name": "id", "type": id}, {"name": "reason", "type": reason}]})
        .to_string()
    };
    let fixed = |name: &str, size: u32| json!({"type": "fixed", "name": name, "size": size});
    let uuid = || fixed("Uuid", 16);
    let text = [&id[..], &[4, b'n', b'o']].concat();
    let index = [&id[..], &[2, 4, b'n', b'o']].concat();
    let resolved = [
        (with(uuid(), json!("string")), &text),
        (with(fixed("a.b.Uuid", 16), json!("bytes")), &text),
        (with(uuid(), json!(["null", "string"])), &index),
        (
            with(json!({"type": {"type": "fixed", "name": "Uuid", "size": 16}}), json!("string")),
            &text,
        ),
    ];
    for (schema, bytes) in resolved {
        let read = decoder::<MoneyTransferFailed>(&schema).decode(&frame(1, bytes));
        let expected = MoneyTransferFailed { id: Uuid::from_bytes(id), reason: "no".to_owned() };
        assert_eq!(read.unwrap(), expected, "{schema}");
    }
    let sixteen = [&[32][..], &id, &[4, b'n', b'o']].concat();
    let symbols = json!({"type": "enum", "name": "E", "symbols": ["no"]});
    for (schema, bytes, expected) in [
        (with(fixed("Id", 16), json!("string")), &text, "id: fixed com.other.Id of 16 bytes inst"),
        (with(fixed("Uuid", 15), json!("string")), &text, "id: fixed com.other.Uuid of 15 bytes"),
        (with(json!("bytes"), json!("string")), &sixteen, "id: bytes instead of fixed nl.openweb"),
        (with(json!("string"), json!("string")), &sixteen, "id: string instead of fixed"),
        (with(uuid(), uuid()), &text, "not a schema: type com.other.Uuid is defined twice"),
        (with(uuid(), json!("Uuid")), &text, "reason: fixed com.other.Uuid of 16 bytes instead"),
        (with(uuid(), json!("long")), &text, "reason: long instead of string"),
        (with(uuid(), symbols), &text, "reason: enum com.other.E instead of string"),
        (with(uuid(), json!(["null", "long"])), &text, "reason: union instead of string"),
        (with(uuid(), json!(["string", "null"])), &index, "reason: null instead of string"),
    ] {
        let found = reason(decoder::<MoneyTransferFailed>(&schema).decode(&frame(1, bytes)));
        let start = format!("schema 1: {expected}");
        assert!(found.starts_with(&start), "{found}, {start}");
    }
}

#[test]
fn symbols_of_enums_are_resolved_by_name() {
    let schema = ConfirmAccountCreation::TOPIC.schema.unwrap();
    let writer = schema.replace(r#"["AUTO", "MANUAL"]"#, r#"["MANUAL", "TEST", "AUTO"]"#);
    assert_ne!(writer, schema);
    let mut decoder = decoder::<ConfirmAccountCreation>(&writer);
    let mut read = |symbol| decoder.decode(&frame(1, &[&[1; 16][..], &[symbol]].concat()));
    assert_eq!(read(0).unwrap().a_type, Atype::Manual);
    assert_eq!(read(4).unwrap().a_type, Atype::Auto);
    let err = reason(read(2));
    assert_eq!(err, "schema 1: a_type: the symbol does not exist in our schema");
    assert_eq!(reason(read(6)), "schema 1: a_type: symbol does not exist, there are 3");
}

#[test]
fn record_is_resolved_by_name_or_alias() {
    let of = |name: &str, aliases: &[&str]| {
        json!({"type": "record", "name": name, "aliases": aliases, "fields": [
            {"name": "beat", "type": "int"}]})
        .to_string()
    };
    for schema in [
        of("Heartbeat", &[]),
        of("com.other.Heartbeat", &[]),
        of("com.other.Other", &["x", "Heartbeat"]),
        of("Other", &["1", "nl.openweb.data.Heartbeat"]),
    ] {
        let read = decoder::<Heartbeat>(&schema).decode(&frame(1, &[3]));
        assert_eq!(read.unwrap(), Heartbeat { beat: -2 }, "{schema}");
    }
    for schema in [of("Other", &[]), of("Heartbeat.Other", &["heartbeat"])] {
        let found = reason(decoder::<Heartbeat>(&schema).decode(&frame(1, &[2])));
        assert!(found.ends_with("instead of nl.openweb.data.Heartbeat"), "{found}");
    }
}

#[test]
fn missing_fields_have_the_defaults_of_our_schema() {
    let default = json!({"type": "record", "name": "R", "fields": [
        {"name": "a", "type": "long", "default": -1},
        {"name": "b", "type": "string", "default": "x"},
        {"name": "c", "type": ["long", "null"], "default": 1},
        {"name": "d", "type": ["null", "long"], "default": null}]});
    let reader = Reader::new(&default.to_string()).unwrap();
    let writer = r#"{"type":"record","name":"R","fields":[{"name":"b","type":"bytes"}]}"#;
    let writer = WriterSchema::parse(&[writer]).unwrap();
    assert!(reader.can_resolve(&writer).is_ok());
    assert_eq!(reader.resolve(&writer, &[2, b'y']).unwrap(), [1, 2, b'y', 0, 2, 0]);
}

#[test]
fn references_are_resolved() {
    let main = json!({"type": "record", "name": "a.MoneyTransferFailed", "fields": [
        {"name": "id", "type": "nl.openweb.data.Uuid"}, {"name": "reason", "type": "Text"}]});
    let reference = json!({"subject": "s", "version": 1});
    let response = |schema: &str, references: &[Json]| {
        (200, json!({"schema": schema, "references": references}).to_string())
    };
    let fake = Fake::start(vec![
        response(&main.to_string(), &[reference]),
        response(r#"{"type":"fixed","name":"nl.openweb.data.Uuid","size":16}"#, &[]),
    ]);
    let mut decoder = Decoder::<MoneyTransferFailed>::new(Registry::new(&fake.url));
    let found = reason(decoder.decode(&frame(1, &[0; 17])));
    assert_eq!(found, "schema 1: not a schema: type Text is not defined");

    let text = main.to_string().replace("Text", "string");
    let fixed = r#"{"type":"fixed","name":"nl.openweb.data.Uuid","size":16}"#.to_owned();
    let fake = Fake::start(vec![
        response(&text, &[json!({"subject": "s", "version": 1})]),
        response(&fixed, &[]),
    ]);
    let mut decoder = Decoder::<MoneyTransferFailed>::new(Registry::new(&fake.url));
    let read = decoder.decode(&frame(1, &[&[2; 16][..], &[4, b'n', b'o']].concat()));
    let id = Uuid::from_bytes([2; 16]);
    assert_eq!(read.unwrap(), MoneyTransferFailed { id, reason: "no".to_owned() });
}

#[test]
fn ambiguous_schema_is_rejected() {
    let twice = json!({"type": "record", "name": "Heartbeat", "fields": [
        {"name": "a", "type": "long"}, {"name": "a", "type": "long"}]});
    let found = reason(decoder::<Heartbeat>(&twice.to_string()).decode(&frame(1, &[2, 4])));
    assert_eq!(found, "schema 1: not a schema: field a exists twice");
}

#[test]
fn reasons_contain_no_value_of_a_record() {
    let secret = 3_141_592_653_589_793_238_i64;
    let number = datum(&Heartbeat { beat: secret });
    let ours = ConfirmMoneyTransfer::TOPIC.schema.unwrap();
    for kind in [
        json!("long"),
        json!("int"),
        json!("bytes"),
        json!("boolean"),
        json!(["long", "string"]),
        json!({"type": "enum", "name": "E", "symbols": ["A"]}),
        json!({"type": "array", "items": "int"}),
    ] {
        // The token is a field of ours, and then a field that we skip.
        for name in ["token", "other"] {
            let mut schema: Json = serde_json::from_str(ours).unwrap();
            let token = json!({"name": name, "type": kind});
            schema["fields"].as_array_mut().unwrap().insert(1, token);
            if name == "token" {
                schema["fields"].as_array_mut().unwrap().remove(2);
            }
            let value = frame(1, &[&[1; 16][..], &number].concat());
            let mut decoder = decoder::<ConfirmMoneyTransfer>(&schema.to_string());
            let Err(err) = decoder.decode(&value) else { panic!("{schema}") };
            assert!(!format!("{err:?}").contains("31415"), "{err:?}");
        }
    }
    let err = ConfirmMoneyTransfer::read(&[&[1; 16][..], &number].concat()).unwrap_err();
    assert!(!err.contains("31415"), "{err}");
}

#[test]
fn exchanged_field_names_are_resolved() {
    let ours = ConfirmMoneyTransfer::TOPIC.schema.unwrap();
    let exchanged =
        ours.replace("\"from\"", "\"x\"").replace("\"to\"", "\"from\"").replace("\"x\"", "\"to\"");
    let theirs = ConfirmMoneyTransfer { from: transfer().to, to: transfer().from, ..transfer() };
    let read = decoder::<ConfirmMoneyTransfer>(&exchanged).decode(&frame(1, &datum(&theirs)));
    assert_eq!(read.unwrap(), transfer());
}

#[test]
fn value_with_an_incompatible_schema_is_undecodable() {
    let failed = AccountCreationFailed::TOPIC.schema.unwrap();
    let without = MoneyTransferFailed::TOPIC.schema.unwrap().replace("reason", "cause");
    for (schema, expected) in [
        (
            failed,
            "schema 1: schema of nl.openweb.data.AccountCreationFailed instead of \
             nl.openweb.data.MoneyTransferFailed",
        ),
        (&without, "schema 1: field reason is missing and has no default"),
        ("\"long\"", "schema 1: schema of long instead of a record"),
        ("[]", "schema 1: schema of union instead of a record"),
        ("{", "schema 1: not a schema"),
    ] {
        let found = reason(decoder::<MoneyTransferFailed>(schema).decode(&frame(1, &[0; 17])));
        assert!(found.starts_with(expected), "{found}");
    }
}

#[test]
fn value_with_a_malformed_frame_is_undecodable() {
    let mut decoder = decoder::<Heartbeat>(Heartbeat::TOPIC.schema.unwrap());
    for (value, expected) in [
        (&[][..], "no value"),
        (&[1, 0, 0, 0, 1, 0], "magic byte 1 instead of 0"),
        (&[0, 0, 0, 1], "value of 4 bytes is too short for a schema id"),
        (&[0, 0, 0, 0, 1], "schema 1: `beat`: truncated: 0 bytes left, more needed"),
        (&[0, 0, 0, 0, 1, 0, 0], "schema 1: 1 bytes after the datum"),
        (
            &[0, 0, 0, 0, 1, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2],
            "schema 1: `beat`: number has more than 64 bits",
        ),
    ] {
        assert_eq!(reason(decoder.decode(value)), expected.replace('`', ""));
    }
    assert_eq!(decoder.decode(&[0, 0, 0, 0, 1, 2]).unwrap(), Heartbeat { beat: 1 });
}

#[test]
fn malformed_datum_is_rejected_with_the_reason() {
    let huge = datum(&Heartbeat { beat: i64::MAX });
    let id = [7; 16];
    for (rest, reason) in [
        (&[1][..], "reason: negative length"),
        (&huge, "reason: truncated: 0 bytes left, more needed"),
        (&[2, 0xff], "reason: not UTF-8"),
    ] {
        let err = MoneyTransferFailed::read(&[&id, rest].concat()).unwrap_err();
        assert!(err.starts_with(reason), "{err}");
    }
    let err = ConfirmAccountCreation::read(&[&id[..], &[4]].concat()).unwrap_err();
    assert_eq!(err, "a_type: enum has no such symbol");
}

/// A registry's response for an id that it does not have.
fn absent() -> (u16, String) {
    (404, r#"{"error_code":40403,"message":""}"#.to_owned())
}

/// The reason why a value is undecodable, after the wait for its schema id.
fn reason_after_wait<R: Record>(decoder: &mut Decoder<R>, value: &[u8]) -> String {
    let (id, _) = unframe(value).unwrap();
    for _ in 0..2 {
        let err = decoder.decode(value).err().unwrap();
        assert!(matches!(err, Error::Registry { ref source, .. } if source.retryable), "{err:?}");
    }
    let Some(Writer::Unknown(unknown)) = decoder.writers.get_mut(&id) else { panic!("{id}") };
    unknown.first = unknown.first.checked_sub(UNKNOWN_WAIT).unwrap();
    reason(decoder.decode(value))
}

#[test]
fn schema_is_requested_once() {
    let ours = (200, response(Heartbeat::TOPIC.schema.unwrap()));
    let fake = Fake::start(vec![ours, absent(), absent(), absent(), (500, String::new())]);
    let mut decoder = Decoder::<Heartbeat>::new(Registry::new(&fake.url));
    assert!(decoder.decode(&frame(1, &[0])).is_ok());
    assert_eq!(
        reason_after_wait(&mut decoder, &frame(2, &[0])),
        "schema 2: not found in the registry"
    );
    for _ in 0..3 {
        assert!(decoder.decode(&frame(1, &[0])).is_ok());
        assert_eq!(reason(decoder.decode(&frame(2, &[0]))), "schema 2: not found in the registry");
    }
    assert_eq!(fake.requests.lock().unwrap().len(), 4);
    // For the third id the registry fails. The result is not cached, so it is requested again.
    for _ in 0..2 {
        let err = decoder.decode(&frame(3, &[0])).unwrap_err();
        assert!(matches!(err, Error::Registry { id: 3, ref source } if source.retryable));
    }
    assert_eq!(fake.requests.lock().unwrap().len(), 6);
}

#[test]
fn new_schema_id_is_waited_for() {
    let fake = Fake::start(vec![absent(), (200, response(Heartbeat::TOPIC.schema.unwrap()))]);
    let mut decoder = Decoder::<Heartbeat>::new(Registry::new(&fake.url));
    let err = decoder.decode(&frame(1, &[0])).unwrap_err();
    assert!(matches!(err, Error::Registry { id: 1, ref source } if source.retryable), "{err:?}");
    assert!(decoder.decode(&frame(1, &[0])).is_ok());
}

#[test]
fn unknown_id_is_requested_again_later() {
    let ours = (200, response(Heartbeat::TOPIC.schema.unwrap()));
    let fake = Fake::start(vec![absent(), absent(), absent(), absent(), ours]);
    let mut decoder = Decoder::<Heartbeat>::new(Registry::new(&fake.url));
    reason_after_wait(&mut decoder, &frame(1, &[0]));
    let later = |decoder: &mut Decoder<Heartbeat>| {
        let Some(Writer::Unknown(unknown)) = decoder.writers.get_mut(&1) else { panic!() };
        unknown.last = unknown.last.checked_sub(UNKNOWN_FOR).unwrap();
        decoder.decode(&frame(1, &[0]))
    };
    reason(later(&mut decoder));
    assert!(later(&mut decoder).is_ok());
}

#[test]
fn flood_of_unknown_ids_is_not_waited_for() {
    let mut decoder = Decoder::<Heartbeat>::new(Registry::new(&Fake::start(vec![absent()]).url));
    let waits = |id: u32, decoder: &mut Decoder<Heartbeat>| {
        let waits = decoder.decode(&frame(id, &[0]));
        if let Some(Writer::Unknown(unknown)) = decoder.writers.get_mut(&id) {
            // As if the caller had waited.
            unknown.last = unknown.last.checked_sub(UNKNOWN_WAIT).unwrap();
            unknown.first = unknown.last;
        }
        let _ = decoder.decode(&frame(id, &[0]));
        matches!(waits, Err(Error::Registry { .. }))
    };
    let count = (1..=50).filter(|id| waits(*id, &mut decoder)).count();
    // 30 s are left at first, and 5 s are needed to begin a wait.
    assert!((5..=6).contains(&count), "{count}");
}

#[test]
fn unusable_response_is_undecodable_after_a_wait() {
    let large = "x".repeat(200 << 10);
    for (body, expected) in [
        ("<html>", "schema 1: response of the registry without a schema"),
        ("{}", "schema 1: response of the registry without a schema"),
        (&large, "schema 1: response exceeds 131072 bytes"),
    ] {
        let fake = Fake::start(vec![(200, body.to_owned())]);
        let mut decoder = Decoder::<Heartbeat>::new(Registry::new(&fake.url));
        assert_eq!(reason_after_wait(&mut decoder, &frame(1, &[0])), expected);
    }
}

#[test]
fn schema_cache_of_the_decoder_is_bounded() {
    let fake = Fake::start(vec![absent()]);
    let mut flooded = Decoder::<Heartbeat>::new(Registry::new(&fake.url));
    for id in 1..=SCHEMAS_MAX as u32 + 1 {
        assert!(flooded.decode(&frame(id, &[0])).is_err());
    }
    assert!(flooded.writers.len() <= SCHEMAS_MAX);
    // Each schema has a hundredth of the size limit.
    let doc = "x".repeat(CACHE_BYTES_MAX / 100);
    let schema = json!({"type": "record", "name": "Heartbeat", "doc": doc, "fields": [
        {"name": "beat", "type": "int"}]});
    let mut decoder = decoder::<Heartbeat>(&schema.to_string());
    for id in 1..=300 {
        assert!(decoder.decode(&frame(id, &[0])).is_ok());
        assert!(decoder.writers.len() < 100);
    }
}

#[test]
fn schema_of_many_types_is_rejected() {
    let schema = json!({"type": "record", "name": "Heartbeat", "fields": [
        {"name": "beat", "type": vec!["long"; TYPES_MAX]}]});
    let found = reason(decoder::<Heartbeat>(&schema.to_string()).decode(&frame(1, &[0, 0])));
    assert_eq!(found, "schema 1: not a schema: more than 5000 types");
}

#[test]
fn inherited_namespace_cannot_exhaust_memory() {
    let field = |n: usize| {
        json!({"name": format!("f{n}"), "type": {
            "type": "fixed", "name": format!("F{n}"), "size": 0}})
    };
    let schema = |namespace_bytes: usize| {
        let fields: Vec<Json> = (0..1_000).map(field).collect();
        json!({"type": "record", "name": "Heartbeat", "namespace": "x".repeat(namespace_bytes),
            "fields": fields})
        .to_string()
    };
    let parse = |namespace_bytes| WriterSchema::parse(&[schema(namespace_bytes)]);
    assert!(parse(100).is_ok_and(|schema| schema.names_bytes() > 100_000));
    let reason = parse(60_000).err();
    assert_eq!(reason.as_deref(), Some("not a schema: names of types exceed 131072 bytes"));
}

#[test]
fn foreign_datum_cannot_exhaust_memory() {
    let with = |kind: Json| {
        json!({"type": "record", "name": "nl.openweb.data.Heartbeat", "fields": [
            {"name": "beat", "type": "long"}, {"name": "more", "type": kind}]})
        .to_string()
    };
    let this = json!(["null", "Heartbeat"]);
    let mut doubling = json!({"type": "record", "name": "R0", "fields": []});
    // This schema has 2^15 leaves, and its datum has no bytes.
    for n in 1..16 {
        doubling = json!({"type": "record", "name": format!("R{n}"), "fields": [
            {"name": "a", "type": doubling}, {"name": "b", "type": format!("R{}", n - 1)}]});
    }
    let huge = datum(&Heartbeat { beat: i64::MAX });
    for (kind, more, expected) in [
        (json!({"type": "array", "items": "null"}), &*huge, "too many values"),
        (json!({"type": "array", "items": "long"}), &huge, "truncated"),
        (json!("bytes"), &huge, "truncated"),
        (json!({"type": "fixed", "name": "F", "size": i32::MAX}), &[], "truncated"),
        (this, &[[2, 2]; 500].concat(), "nesting exceeds 32 levels"),
        (doubling, &[], "too many values"),
        (json!("string"), &[], "truncated"),
        (json!("boolean"), &[], "truncated"),
        (json!(["null", "long"]), &[], "truncated"),
    ] {
        let found =
            reason(decoder::<Heartbeat>(&with(kind)).decode(&frame(1, &[&[2], more].concat())));
        assert!(found.contains(expected), "{found}");
    }
}

#[test]
fn encoder_waits_for_the_registry_until_shutdown() {
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

/// Values similar to a schema: the words of schemas in arbitrary places.
fn schema_like() -> impl Strategy<Value = Json> {
    let word = prop_oneof![
        "record|enum|fixed|array|map|null|string|long|boolean|Uuid|Heartbeat|ns.x|1a|a..b|",
        "beat",
        ".{0,4}"
    ];
    let leaf =
        prop_oneof![word.prop_map(Json::from), any::<i64>().prop_map(Json::from), Just(json!([]))];
    leaf.prop_recursive(6, 60, 5, |inner| {
        let key =
            "type|name|namespace|fields|items|values|symbols|size|default|aliases|logicalType";
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
            proptest::collection::btree_map(key, inner.clone(), 0..6)
                .prop_map(|map| Json::Object(map.into_iter().collect())),
            (proptest::collection::vec(("beat|a|b", inner), 0..4)).prop_map(|fields| {
                let field = |(name, kind)| json!({"name": name, "type": kind});
                let fields: Vec<Json> = fields.into_iter().map(field).collect();
                json!({"type": "record", "name": "Heartbeat", "namespace": "nl.openweb.data",
                    "fields": fields})
            }),
        ]
    })
}

proptest! {
    #[test]
    fn arbitrary_schema_and_datum_never_panic(
        schema in schema_like(), bytes in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let text = schema.to_string();
        let _ = writes_the_same(&text, Heartbeat::TOPIC.schema.unwrap());
        if let Ok(writer) = WriterSchema::parse(&[text]) {
            let reader = reader::<Heartbeat>();
            let _ = reader.can_resolve(&writer);
            let _ = reader.resolve(&writer, &bytes);
        }
    }

    #[test]
    fn arbitrary_value_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
        let _ = unframe(&bytes);
    }
}
