//! What the fuzz targets in common/kafka-client/fuzz call: each hands a parser of what brokers and other members of a group send whatever the
//! fuzzer comes up with. Nothing may panic; libFuzzer itself bounds time and memory.

use crate::protocol::Request;
use crate::protocol::fields::Reader;
use crate::protocol::messages::{self, Visit};
use crate::sasl::scram::Scram;
use crate::{Mechanism, Sasl, codec, group, record_batch};
use std::sync::LazyLock;

/// Most bytes that a batch or what was packed may take, unpacked.
const UNPACKED_MAX: usize = 1 << 20;

/// The kinds of replies, counted.
static KINDS: LazyLock<usize> = LazyLock::new(|| {
    let mut count = Count(0);
    messages::all(&mut count);
    count.0
});

struct Count(usize);

impl Visit for Count {
    fn ask<R: Request>(&mut self) {
        self.0 += 1;
    }
}

/// Reads `frame` as the reply of the kind that `left` more come before.
struct Nth<'a> {
    left: usize,
    frame: &'a [u8],
}

impl Visit for Nth<'_> {
    fn ask<R: Request>(&mut self) {
        if self.left == 0 {
            let mut reader = Reader::new(self.frame);
            R::SPEC.take_header(&mut reader);
            drop(R::take(&mut reader));
            let _ = reader.finish();
        }
        self.left = self.left.wrapping_sub(1);
    }
}

/// A reply from its header on; the first byte chooses what it is a reply to.
pub fn reply(bytes: &[u8]) {
    if let Some((kind, frame)) = bytes.split_first() {
        messages::all(&mut Nth { left: usize::from(*kind) % *KINDS, frame });
    }
}

/// Record batches as they came, and the first of them with the length and the checksum that it should have, which hardly any input has.
pub fn batches(bytes: &[u8]) {
    let decode = |bytes: &[u8]| {
        let decoded =
            record_batch::decode(bytes, 0, vec![(1, 0)], &mut UNPACKED_MAX.clone(), UNPACKED_MAX);
        assert!(decoded.records.is_sorted_by(|a, b| a.offset < b.offset));
    };
    decode(bytes);
    let mut bytes = bytes.to_vec();
    record_batch::mend(&mut bytes);
    decode(&bytes);
}

/// Packed records; the first byte chooses the codec.
pub fn packed(bytes: &[u8]) {
    if let Some((codec, packed)) = bytes.split_first() {
        let unpacked = codec::unpack(codec % 5, packed, UNPACKED_MAX).unwrap_or_default();
        assert!(unpacked.len() <= UNPACKED_MAX);
    }
}

/// What members of a group tell each other.
pub fn group_messages(bytes: &[u8]) {
    drop(group::read_assignment(bytes));
    drop(group::read_subscription(bytes));
}

/// What a broker says in SCRAM: its first message behind a nonce that fits, up to a zero byte, and then its last.
pub fn scram_messages(bytes: &[u8]) {
    const NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
    let (first, last) = bytes.split_at(bytes.iter().position(|it| *it == 0).unwrap_or(bytes.len()));
    let mechanism = Mechanism::ScramSha256;
    let sasl = Sasl { mechanism, user: "user".into(), password: "pencil".into() };
    let mut scram = Scram::new(&sasl, NONCE);
    if scram.answer(&[b"r=", NONCE.as_bytes(), first].concat()).is_ok() {
        drop(scram.answer(last.get(1..).unwrap_or_default()));
    }
}
