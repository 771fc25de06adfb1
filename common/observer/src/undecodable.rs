//! Undecodable records, for tests of a command-handler. Each must be written to dead_letter.

use bank::limits::COMMAND_BYTES_MAX;
use bank::records::ConfirmMoneyTransfer;
use bank::topology::{CONFIRM_MONEY_TRANSFER, Topic};

/// A value that is larger than a command and fits into the topic, bytes.
const LARGE_BYTES: usize = 250_000;

/// An undecodable record.
#[derive(Debug, Clone)]
pub struct UndecodableCase {
    /// The defect of the record.
    pub what: &'static str,
    /// Part of the reason that our command-handler reports.
    pub reason: &'static str,
    pub topic: Topic,
    /// A unique key. `None`: null.
    pub key: Option<Vec<u8>>,
    /// The value. `None`: null.
    pub value: Option<Vec<u8>>,
}

impl UndecodableCase {
    /// Returns a record for `topic` with a new key.
    pub fn new(what: &'static str, reason: &'static str, topic: Topic, value: Vec<u8>) -> Self {
        let key = Some(uuid::Uuid::new_v4().to_string().into_bytes());
        Self { what, reason, topic, key, value: Some(value) }
    }
}

/// Returns undecodable records for `topic`. `good` is the value of a valid command. `other_schema`
/// is the id of another topic's schema.
pub fn cases(topic: Topic, good: &[u8], other_schema: u32) -> Vec<UndecodableCase> {
    let with = |what, reason, change: &dyn Fn(&mut Vec<u8>)| {
        let mut value = good.to_vec();
        change(&mut value);
        UndecodableCase::new(what, reason, topic, value)
    };
    let schema =
        |id: u32| move |value: &mut Vec<u8>| value[1..5].copy_from_slice(&id.to_be_bytes());
    let whole = |what, reason| with(what, reason, &|_| {});
    vec![
        with("100 random bytes", "magic byte", &|value| *value = noise(100)),
        with("250,000 random bytes", "250000 bytes", &|value| *value = noise(LARGE_BYTES)),
        with("magic byte 1", "magic byte 1 instead of 0", &|value| value[0] = 1),
        with("one byte", "too short", &|value| value.truncate(1)),
        with("half a schema id", "too short", &|value| value.truncate(3)),
        with("a schema id without its last byte", "too short", &|value| value.truncate(4)),
        with("no datum", "schema", &|value| value.truncate(5)),
        with("a byte too few", "schema", &|value| value.truncate(value.len() - 1)),
        with("a byte too many", "schema", &|value| value.push(0)),
        with("schema id 0", "not found", &schema(0)),
        with("an unknown schema id", "not found", &schema(2_000_000_000)),
        with("a schema id above the range of an int", "not found", &schema(u32::MAX)),
        with("the schema of another record", "schema", &schema(other_schema)),
        with("more than 64 KiB", "65537 bytes", &|value| value.resize(COMMAND_BYTES_MAX + 1, 0)),
        with("250,000 bytes", "250000 bytes", &|value| value.resize(LARGE_BYTES, 0)),
        UndecodableCase { value: None, ..whole("no value", "no value") },
        UndecodableCase { key: None, ..whole("no key", "no key") },
        UndecodableCase { key: None, value: None, ..whole("neither key nor value", "no ") },
    ]
}

/// Returns transfers with undecodable texts, derived from `good`. `encode` returns the value of a
/// command, which ends with a text.
pub fn transfers(
    good: &ConfirmMoneyTransfer,
    encode: impl Fn(&ConfirmMoneyTransfer) -> Vec<u8>,
) -> Vec<UndecodableCase> {
    let with = |what, reason, change: &dyn Fn(&mut ConfirmMoneyTransfer)| {
        let mut command = good.clone();
        command.id = uuid::Uuid::new_v4();
        change(&mut command);
        UndecodableCase::new(what, reason, CONFIRM_MONEY_TRANSFER, encode(&command))
    };
    let mut not_text = with("a description that is not UTF-8", "description", &|_| {});
    if let Some(last) = not_text.value.as_mut().and_then(|value| value.last_mut()) {
        *last = 0xff;
    }
    vec![
        with("a NUL in its description", "NUL", &|it| it.description.push('\0')),
        with("a NUL in its to", "NUL", &|it| it.to.push('\0')),
        with("a NUL in its from", "NUL", &|it| it.from = "\0".to_owned()),
        not_text,
    ]
}

/// Returns pseudorandom bytes. The first one is not the magic byte.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let mut bytes: Vec<u8> = std::iter::repeat_with(next).take(length).collect();
    bytes[0] |= 1;
    bytes
}
