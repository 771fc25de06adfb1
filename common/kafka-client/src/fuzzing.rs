//! Entry points of the fuzz targets in the folder fuzz. Each decodes bytes that a broker or another
//! member of a consumer group may send. None of them may panic. libFuzzer limits time and memory.

use crate::protocol::messages::{self, RequestVisitor};
use crate::protocol::{Reader, Request};
use crate::sasl::scram::Scram;
use crate::sasl::{Mechanism, Sasl};
use crate::{codec, group, record_batch};
use std::sync::LazyLock;

/// Limit of decompressed records, in bytes.
const DECOMPRESSED_MAX: usize = 1 << 20;

/// Number of kinds of responses.
static KINDS: LazyLock<usize> = LazyLock::new(|| {
    let mut count = Count(0);
    messages::visit_all(&mut count);
    count.0
});

struct Count(usize);

impl RequestVisitor for Count {
    fn visit<R: Request>(&mut self) {
        self.0 += 1;
    }
}

/// Decodes `frame` as the response of the kind with index `left`.
struct Nth<'a> {
    left: usize,
    frame: &'a [u8],
}

impl RequestVisitor for Nth<'_> {
    fn visit<R: Request>(&mut self) {
        if self.left == 0 {
            let mut reader = Reader::new(self.frame);
            R::SPEC.decode_header(&mut reader);
            drop(R::decode(&mut reader));
            let _ = reader.finish();
        }
        self.left = self.left.wrapping_sub(1);
    }
}

/// Decodes a response from its header on. The first byte selects the API.
pub fn responses(bytes: &[u8]) {
    if let Some((kind, frame)) = bytes.split_first() {
        messages::visit_all(&mut Nth { left: usize::from(*kind) % *KINDS, frame });
    }
}

/// Decodes record batches, and again after a correct length and checksum are set in the first one:
/// hardly any input has them.
pub fn batches(bytes: &[u8]) {
    let decode = |bytes: &[u8]| {
        let mut budget = DECOMPRESSED_MAX;
        let aborted = vec![(1, 0)];
        let decoded = record_batch::decode(bytes, 0, aborted, &mut budget, DECOMPRESSED_MAX);
        assert!(decoded.records.is_sorted_by(|a, b| a.offset < b.offset));
    };
    decode(bytes);
    let mut bytes = bytes.to_vec();
    record_batch::fix_length_and_checksum(&mut bytes);
    decode(&bytes);
}

/// Decompresses records. The first byte selects the codec.
pub fn compressed(bytes: &[u8]) {
    if let Some((codec, compressed)) = bytes.split_first() {
        let decompressed = codec::decompress(codec % 5, compressed, DECOMPRESSED_MAX);
        assert!(decompressed.unwrap_or_default().len() <= DECOMPRESSED_MAX);
    }
}

/// Decodes an assignment and a subscription of a consumer group.
pub fn group_messages(bytes: &[u8]) {
    drop(group::decode_assignment(bytes));
    drop(group::decode_subscription(bytes));
}

/// Continues a SCRAM exchange with the server's first message and, after a zero byte, its final
/// message. The first message begins with a valid nonce, which the input leaves out.
pub fn scram_messages(bytes: &[u8]) {
    const NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
    let (first, last) = bytes.split_at(bytes.iter().position(|it| *it == 0).unwrap_or(bytes.len()));
    let mechanism = Mechanism::ScramSha256;
    let sasl = Sasl { mechanism, user: "user".into(), password: "pencil".into() };
    let mut scram = Scram::new(&sasl, NONCE);
    if scram.respond(&[b"r=", NONCE.as_bytes(), first].concat()).is_ok() {
        drop(scram.respond(last.get(1..).unwrap_or_default()));
    }
}
