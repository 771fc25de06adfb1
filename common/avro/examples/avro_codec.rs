//! Compares our codec with that of `apache-avro`. docs/decisions/0002-avro-codec.md has results.
//! `cargo run --release -p avro --example avro_codec`

use avro::registry::Registry;
use avro::{Decoder, Encoder, Record};
use avro_rs::Schema;
use avro_rs::types::Value;
use bank::money::Cents;
use bank::records::{BalanceChanged, ConfirmMoneyTransfer};
use bank::timestamp::Timestamp;
use serde_json::json;
use std::hint::black_box;
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// The best of many short rounds is reported, to exclude the influence of other programs.
const ROUNDS: u32 = 500;
const RECORDS: u32 = 1_000;

fn main() -> io::Result<()> {
    let transfer = ConfirmMoneyTransfer {
        id: Uuid::from_u128(0x1234_5678),
        token: "01234567890123456789".to_owned(),
        amount: Cents::new(1_050),
        from: "NL66OPEN0000000000".to_owned(),
        to: "NL28OPEN0123456789".to_owned(),
        description: "rent".to_owned(),
    };
    compare(&transfer, |it| {
        record([
            ("id", Value::Fixed(16, it.id.as_bytes().to_vec())),
            ("token", Value::String(it.token.clone())),
            ("amount", Value::Long(it.amount.get())),
            ("from", Value::String(it.from.clone())),
            ("to", Value::String(it.to.clone())),
            ("description", Value::String(it.description.clone())),
        ])
    })?;
    let changed = BalanceChanged {
        iban: "NL66OPEN0000000000".to_owned(),
        new_balance: Cents::new(-300),
        changed_by: Cents::new(64),
        from_to: "cash".to_owned(),
        description: "rent".to_owned(),
        transfer_id: Some(Uuid::from_u128(1)),
        sequence: 5,
        decided_at: Some(Timestamp::from_millis(1_795_996_800_123)),
    };
    compare(&changed, |it| {
        let decided_at = it.decided_at.map(Timestamp::millis).unwrap_or_default();
        let id = it.transfer_id.map(|id| Value::Fixed(16, id.as_bytes().to_vec()));
        record([
            ("iban", Value::String(it.iban.clone())),
            ("new_balance", Value::Long(it.new_balance.get())),
            ("changed_by", Value::Long(it.changed_by.get())),
            ("from_to", Value::String(it.from_to.clone())),
            ("description", Value::String(it.description.clone())),
            ("transfer_id", Value::Union(id.is_some().into(), Box::new(id.unwrap_or(Value::Null)))),
            ("sequence", Value::Long(it.sequence)),
            ("decided_at", Value::Union(1, Box::new(Value::TimestampMillis(decided_at)))),
        ])
    })
}

fn record<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Record(fields.map(|(name, value)| (name.to_owned(), value)).into())
}

fn compare<R: Record>(record: &R, value: impl Fn(&R) -> Value) -> io::Result<()> {
    let text = R::TOPIC.schema.expect("every record has a schema");
    let schema = Schema::parse_str(text).expect("our schemas parse");
    let name = R::TOPIC.name;
    let encoder = Encoder::<R>::with_id(1);
    let framed = encoder.encode(record);
    // A newer version with one additional field.
    let mut newer: serde_json::Value = serde_json::from_str(text)?;
    let fields = newer["fields"].as_array_mut().expect("our schemas are records");
    fields.push(json!({"name": "more", "type": "long"}));
    let newer_framed = [&framed[..], &[0]].concat();
    let mut ours = Decoder::<R>::new(registry(text)?);
    let mut theirs = Decoder::<R>::new(registry(&newer.to_string())?);
    measure(name, "encode, ours", || drop(black_box(encoder.encode(black_box(record)))));
    measure(name, "encode, crate", || {
        let datum = avro_rs::writer::datum::GenericDatumWriter::builder(&schema)
            .build()
            .expect("our schemas have no references")
            .write_value_to_vec(value(black_box(record)));
        drop(black_box(datum.expect("the value fits the schema")));
    });
    measure(name, "decode, ours", || {
        drop(black_box(ours.decode(black_box(&framed)).expect("it was encoded above")));
    });
    measure(name, "decode, crate", || {
        let value = avro_rs::reader::datum::GenericDatumReader::builder(&schema)
            .build()
            .expect("our schemas have no references")
            .read_value(&mut black_box(&framed[5..]));
        drop(black_box(value.expect("it was encoded above")));
    });
    measure(name, "decode, foreign schema", || {
        drop(black_box(theirs.decode(black_box(&newer_framed)).expect("it can be resolved")));
    });
    Ok(())
}

fn measure(name: &str, what: &str, mut work: impl FnMut()) {
    let round = |_| {
        let start = Instant::now();
        (0..RECORDS).for_each(|_| work());
        start.elapsed() / RECORDS
    };
    let best = (0..ROUNDS).map(round).min().unwrap_or(Duration::MAX);
    eprintln!("{name} {what}: {best:?}");
}

/// Returns a client of a registry that returns `schema` for each id.
fn registry(schema: &str) -> io::Result<Registry> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", listener.local_addr()?);
    let body = json!({ "schema": schema }).to_string();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            while stream.read_line(&mut line).is_ok_and(|length| length > 2) {
                line.clear();
            }
            let length = body.len();
            let response = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
            // The decoder reports a missing response.
            let _ = stream.get_mut().write_all(response.as_bytes());
        }
    });
    Ok(Registry::new(&url))
}
