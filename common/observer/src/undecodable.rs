//! Records that are not commands, for tests of a command-handler: each must go to dead_letter.

use bank::records::ConfirmMoneyTransfer;
use bank::topology::{CONFIRM_MONEY_TRANSFER, Topic};

/// Largest value of a command that a command-handler must read, bytes.
pub const COMMAND_BYTES_MAX: usize = 64 << 10;

/// A record that is not a command.
#[derive(Debug, Clone)]
pub struct UndecodableCase {
    /// What is wrong with it.
    pub what: &'static str,
    /// Part of the reason that our command-handler states.
    pub reason: &'static str,
    /// Topic that it is sent to.
    pub topic: Topic,
    /// Null if there is none. Each case has a key of its own.
    pub key: Option<Vec<u8>>,
    /// Null if there is none.
    pub value: Option<Vec<u8>>,
}

impl UndecodableCase {
    /// A record of `topic` with a new key.
    pub fn new(what: &'static str, reason: &'static str, topic: Topic, value: Vec<u8>) -> Self {
        let key = Some(uuid::Uuid::new_v4().to_string().into_bytes());
        Self { what, reason, topic, key, value: Some(value) }
    }
}

/// What can be wrong with a record of `topic`, made of the value of a command and the id of another
/// topic's schema.
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
        with("2 MiB of random bytes", "2097152 bytes", &|value| *value = noise(2 << 20)),
        with("magic byte 1", "magic byte 1 instead of 0", &|value| value[0] = 1),
        with("one byte", "too short", &|value| value.truncate(1)),
        with("half a schema id", "too short", &|value| value.truncate(3)),
        with("a schema id without its last byte", "too short", &|value| value.truncate(4)),
        with("no datum", "schema", &|value| value.truncate(5)),
        with("a byte too few", "schema", &|value| value.truncate(value.len() - 1)),
        with("a byte too many", "schema", &|value| value.push(0)),
        with("schema id 0", "does not know", &schema(0)),
        with("an unknown schema id", "does not know", &schema(2_000_000_000)),
        with("a schema id above the range of an int", "does not know", &schema(u32::MAX)),
        with("the schema of another record", "schema", &schema(other_schema)),
        with("more than 64 KiB", "65537 bytes", &|value| value.resize(COMMAND_BYTES_MAX + 1, 0)),
        with("2 MiB", "2097152 bytes", &|value| value.resize(2 << 20, 0)),
        UndecodableCase { value: None, ..whole("no value", "no value") },
        UndecodableCase { key: None, ..whole("no key", "no key") },
        UndecodableCase { key: None, value: None, ..whole("neither key nor value", "no ") },
    ]
}

/// What can be wrong with the texts of a transfer, made of `good`, which ends with a text.
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

/// Bytes without a pattern, the first of which is not the magic byte.
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
