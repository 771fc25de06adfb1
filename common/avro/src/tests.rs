//! Tests with `apache-avro` as the oracle, and with foreign and malformed schemas and data.

use crate::canonical_form::{parse, writes_the_same};
use crate::codec::Record;
use crate::framing::{Decoder, Encoder, Error, SCHEMAS_MAX, UNKNOWN_FOR, Writer, unframe};
use crate::registry::Registry;
use crate::registry::tests::Fake;
use crate::resolution::{can_resolve, resolve};
use avro_rs::Schema;
use avro_rs::types::Value;
use bank::money::Cents;
use bank::records::*;

use proptest::prelude::*;
use serde_json::Value as Json;
use serde_json::json;
use service::shutdown::Shutdown;
use std::fmt::Debug;
use std::time::Instant;
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
    let writer = parse(R::TOPIC.schema.unwrap()).unwrap();
    assert_eq!(resolve(&writer, &ours, &schema).unwrap(), ours);
    for length in 0..ours.len() {
        assert!(R::read(&ours[..length]).is_err());
        assert!(resolve(&writer, &ours[..length], &schema).is_err(), "{length} of {ours:?}");
    }
    let longer = [&*ours, &[0]].concat();
    assert!(R::read(&longer).is_err() && resolve(&writer, &longer, &schema).is_err());
}

/// Asserts that our codec, the crate and the resolution decode `bytes` to the same record. If our
/// codec rejects them, the resolution must too.
fn assert_same_decoding<R: Checked>(bytes: &[u8]) {
    let schema = schema::<R>();
    let resolved = resolve(&parse(R::TOPIC.schema.unwrap()).unwrap(), bytes, &schema);
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
        ("\"long\"", "schema 1: not a record"),
        ("[]", "schema 1: not a record"),
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
        (&[0, 0, 0, 0, 1], "schema 1: `beat`: truncated: 1 bytes needed, 0 left"),
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
        (&[1][..], "reason: invalid length -1"),
        (&huge, "reason: truncated: 9223372036854775807 bytes needed, 0 left"),
        (&[2, 0xff], "reason: not UTF-8"),
    ] {
        let err = MoneyTransferFailed::read(&[&id, rest].concat()).unwrap_err();
        assert!(err.starts_with(reason), "{err}");
    }
    let err = ConfirmAccountCreation::read(&[&id[..], &[4]].concat()).unwrap_err();
    assert_eq!(err, "a_type: enum has no symbol 2");
}

#[test]
fn schema_is_requested_once() {
    let ours = (200, response(Heartbeat::TOPIC.schema.unwrap()));
    let absent = (404, r#"{"error_code":40403,"message":""}"#.to_owned());
    let fake = Fake::start(vec![ours, absent, (500, String::new())]);
    let mut decoder = Decoder::<Heartbeat>::new(Registry::new(&fake.url));
    for _ in 0..3 {
        assert!(decoder.decode(&frame(1, &[0])).is_ok());
        assert_eq!(reason(decoder.decode(&frame(2, &[0]))), "schema 2: not found in the registry");
    }
    assert_eq!(*fake.requests.lock().unwrap(), ["GET /schemas/ids/1", "GET /schemas/ids/2"]);
    // For the third id the registry fails. The result is not cached, so it is requested again.
    for _ in 0..2 {
        let err = decoder.decode(&frame(3, &[0])).unwrap_err();
        assert!(matches!(err, Error::Registry { id: 3, ref source } if source.retryable));
    }
    assert_eq!(fake.requests.lock().unwrap().len(), 4);
}

#[test]
fn unknown_id_is_requested_again_later() {
    let absent = (404, r#"{"error_code":40403,"message":""}"#.to_owned());
    let fake = Fake::start(vec![absent, (200, response(Heartbeat::TOPIC.schema.unwrap()))]);
    let mut decoder = Decoder::<Heartbeat>::new(Registry::new(&fake.url));
    reason(decoder.decode(&frame(1, &[0])));
    let past = Instant::now().checked_sub(UNKNOWN_FOR).unwrap();
    decoder.writers.insert(1, Writer::Unknown(past));
    assert!(decoder.decode(&frame(1, &[0])).is_ok());
}

#[test]
fn schema_cache_of_the_decoder_is_bounded() {
    let absent = (404, r#"{"error_code":40403,"message":""}"#.to_owned());
    let fake = Fake::start(vec![absent]);
    let mut decoder = Decoder::<Heartbeat>::new(Registry::new(&fake.url));
    for id in 0..=SCHEMAS_MAX as u32 {
        reason(decoder.decode(&frame(id, &[0])));
    }
    assert!(decoder.writers.len() <= SCHEMAS_MAX);
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
        if let Ok(writer) = parse(&text) {
            let ours = super::tests::schema::<Heartbeat>();
            let _ = can_resolve(&writer, &ours);
            let _ = resolve(&writer, &bytes, &ours);
        }
    }

    #[test]
    fn arbitrary_value_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
        let _ = unframe(&bytes);
    }
}
