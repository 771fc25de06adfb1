//! Entry points of the fuzz targets in the folder fuzz: values of records, schemas of other
//! programs and responses of the registry.

use crate::codec::Record;
use crate::framing::{Encoder, unframe};
use crate::registered_form::registered_form;
use crate::registry::{Call, MESSAGE_MAX};
use crate::resolution::Reader;
use crate::schema::{NAMES_BYTES_MAX, Schema, TYPES_MAX};
use crate::writer_schema::{REFERENCES_MAX, TEXTS_BYTES_MAX, WriterSchema, gather};
use bank::records::{
    AccountCreationConfirmed, AccountCreationFailed, BalanceChanged, ConfirmAccountCreation,
    ConfirmMoneyTransfer, Heartbeat, MoneyTransferConfirmed, MoneyTransferFailed,
};
use bank::topology::TOPICS;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::LazyLock;

/// The reader of each topic with a schema, by name.
static READERS: LazyLock<HashMap<&str, Reader>> = LazyLock::new(|| {
    let reader = |text| Reader::new(text).expect("the schemas of the topology are valid");
    TOPICS.iter().filter_map(|topic| Some((topic.name, reader(topic.schema?)))).collect()
});

/// Calls a function with the record type that the number selects.
macro_rules! with_record {
    ($number:expr, $function:ident($($argument:expr),*)) => {
        match $number % 8 {
            0 => $function::<Heartbeat>($($argument),*),
            1 => $function::<ConfirmAccountCreation>($($argument),*),
            2 => $function::<AccountCreationConfirmed>($($argument),*),
            3 => $function::<AccountCreationFailed>($($argument),*),
            4 => $function::<ConfirmMoneyTransfer>($($argument),*),
            5 => $function::<MoneyTransferConfirmed>($($argument),*),
            6 => $function::<MoneyTransferFailed>($($argument),*),
            _ => $function::<BalanceChanged>($($argument),*),
        }
    };
}

/// Decodes a framed value with our schema. The first byte selects the record type.
pub fn values(bytes: &[u8]) {
    if let Some((kind, value)) = bytes.split_first() {
        with_record!(kind, check_value(value));
    }
}

fn check_value<R: Record + Debug + PartialEq>(value: &[u8]) {
    let encoder = Encoder::<R>::with_id(7);
    let current = encoder.with_current_id(value.to_vec());
    let Ok((_, datum)) = unframe(value) else {
        assert_eq!(current, value);
        return;
    };
    let reader = &READERS[R::TOPIC.name];
    let resolved = reader.resolve(&reader.schema, datum);
    match R::read(datum) {
        Ok(record) => {
            let encoded = encoder.encode(&record);
            let (_, again) = unframe(&encoded).expect("the encoder frames its values");
            assert_eq!(R::read(again).as_ref(), Ok(&record));
            // The datum may have numbers with more bytes than necessary.
            assert!(again.len() <= datum.len());
            assert_eq!(resolved.as_deref(), Ok(again));
            assert_eq!(current, [&encoded[..encoded.len() - again.len()], datum].concat());
        }
        Err(_) => {
            assert!(resolved.is_err());
            assert_eq!(current, value);
        }
    }
}

/// Decodes a datum with a schema of another program. The first byte selects the record type. The
/// schema, after those that it references and a byte 1 after each of them, ends with a zero byte.
/// The datum follows.
pub fn schemas(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else { return };
    let (texts, datum) = split_at_zero(rest);
    let Ok(texts) = str::from_utf8(texts) else { return };
    let texts: Vec<&str> = texts.split('\u{1}').collect();
    let Ok(schema) = Schema::parse(&texts) else { return };
    assert!(schema.len() <= TYPES_MAX);
    let texts_bytes: usize = texts.iter().map(|text| text.len()).sum();
    assert!(schema.names_bytes() <= texts_bytes + NAMES_BYTES_MAX);
    let registered: Vec<String> = texts.iter().map(|text| registered_form(text)).collect();
    assert!(Schema::parse(&registered).is_ok_and(|it| it.encodes_like(&schema)));
    with_record!(kind, check_datum(&schema, datum));
}

fn check_datum<R: Record>(schema: &Schema, datum: &[u8]) {
    let reader = &READERS[R::TOPIC.name];
    let resolved = reader.resolve(schema, datum);
    if schema.encodes_like(&reader.schema) {
        assert_eq!(resolved.is_ok(), R::read(datum).is_ok());
    }
    let (Ok(()), Ok(resolved)) = (reader.can_resolve(schema), resolved) else { return };
    let mut again = Vec::new();
    R::read(&resolved).expect("a resolved datum has our schema").write(&mut again);
    assert_eq!(again, resolved);
}

/// Gathers a schema from responses of the registry, each of which ends with a zero byte. The first
/// byte of a response selects its status.
pub fn registry_responses(bytes: &[u8]) {
    const STATUSES: [u16; 4] = [200, 404, 422, 503];
    let (rest, requests) = (RefCell::new(bytes), RefCell::new(0));
    let get = |path: &str| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_/%".contains(&byte);
        assert!(path.bytes().all(is_plain), "{path}");
        *requests.borrow_mut() += 1;
        let (response, left) = split_at_zero(*rest.borrow());
        *rest.borrow_mut() = left;
        let (first, body) = response.split_first().unwrap_or((&0, &[]));
        let status = STATUSES[usize::from(*first) % STATUSES.len()];
        Ok(Call::new(format!("GET {path}"), status, Some(body)))
    };
    match gather(&get, 1) {
        Ok(WriterSchema::Found(texts)) => {
            assert!(texts.iter().map(String::len).sum::<usize>() <= TEXTS_BYTES_MAX);
        }
        Ok(_) => {}
        // A character of the message has up to four bytes.
        Err(err) => assert!(err.text.len() <= 4 * MESSAGE_MAX + bytes.len() * 3 + 100),
    }
    assert!(*requests.borrow() <= REFERENCES_MAX + 1);
    let (first, _) = split_at_zero(bytes);
    if let Err(err) = Call::new(String::new(), 200, Some(first)).id() {
        assert!(err.text.len() <= 4 * MESSAGE_MAX + 100);
    }
}

/// Splits at the first zero byte, which is in neither part.
fn split_at_zero(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    (&bytes[..end], bytes.get(end + 1..).unwrap_or_default())
}
