//! Hostile input: responses of every kind, record batches of every codec, and messages of SASL and
//! consumer groups, changed in thousands of ways. All are decoded or refused without a panic, in
//! memory proportional to their length. `MUTATIONS` sets the number for each kind; a failure names
//! its seed, which `SEED` repeats.
#![allow(clippy::unwrap_used, reason = "tests")]

use crate::protocol::Request;
use crate::protocol::{DecodeError, Reader};
use crate::record_batch::{self, BatchSequence};
use crate::tests::samples::{self, ResponseVisitor};
use crate::{Compression, NewRecord, codec, group};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};

/// For each kind, unless `MUTATIONS` is set.
const MUTATIONS: u64 = 3000;

/// Counts this thread's current and peak memory.
struct Counting;

thread_local! {
    static NOW: Cell<usize> = const { Cell::new(0) };
    static MOST: Cell<usize> = const { Cell::new(0) };
}

fn count(more: usize, less: usize) {
    NOW.set((NOW.get() + more).saturating_sub(less));
    MOST.set(MOST.get().max(NOW.get()));
}

#[allow(unsafe_code, reason = "a GlobalAlloc; it forwards to the system allocator")]
// SAFETY: Forwards each call unchanged to the system allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: As this call's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: As this call's.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both may exist for a moment.
        count(size, 0);
        count(0, layout.size());
        // SAFETY: As this call's.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Peak memory of `work`, in addition to what was allocated before, bytes.
fn most(work: impl FnOnce()) -> usize {
    let before = NOW.get();
    MOST.set(before);
    work();
    MOST.get() - before
}

/// Numbers that repeat with their seed. Source: Marsaglia, Xorshift RNGs (2003).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// Changes `bytes` one to six times: wrong counts and lengths, missing and repeated parts.
fn mutated(bytes: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=numbers.below(6) {
        let at = numbers.below(bytes.len());
        let length = numbers.below(20).min(bytes.len() - at);
        match numbers.below(8) {
            0 if !bytes.is_empty() => bytes[at] = numbers.next() as u8,
            1 if !bytes.is_empty() => bytes[at] ^= 1 << numbers.below(8),
            2 => {
                // Minimum and maximum of i16, i32, i64 and varints.
                const EDGES: [&[u8]; 8] = [
                    &[0x7f, 0xff],
                    &[0x80, 0x00],
                    &[0x7f, 0xff, 0xff, 0xff],
                    &[0xff, 0xff, 0xff, 0xff],
                    &[0x80, 0x00, 0x00, 0x00],
                    &[0xff, 0xff, 0xff, 0xff, 0x0f],
                    &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
                    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
                ];
                let edge = EDGES[numbers.below(EDGES.len())];
                for (byte, edge) in bytes[at..].iter_mut().zip(edge) {
                    *byte = *edge;
                }
            }
            3 => drop(bytes.drain(at..at + length)),
            4 => {
                let part = bytes[at..at + length].to_vec();
                bytes.splice(at..at, part);
            }
            5 => {
                let part: Vec<u8> = (0..length).map(|_| numbers.next() as u8).collect();
                bytes.splice(at..at, part);
            }
            6 => bytes.truncate(at),
            _ => {
                let other = numbers.below(bytes.len());
                let part = bytes[at..at + length].to_vec();
                for (byte, part) in bytes[other..].iter_mut().zip(part) {
                    *byte = part;
                }
            }
        }
    }
    bytes
}

fn variable(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

/// Has `parse` decode changes of `sample`, within `memory_max` of their length.
fn try_all(
    kind: &str,
    sample: &[u8],
    memory_max: impl Fn(usize) -> usize,
    parse: impl Fn(Vec<u8>),
) {
    let seed = variable("SEED", 1);
    for seed in seed..seed + variable("MUTATIONS", MUTATIONS) {
        // Consecutive seeds would give similar first numbers.
        let mut numbers = Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let bytes = mutated(sample, &mut numbers);
        let length = bytes.len();
        let mut outcome = Ok(());
        let most = most(|| {
            outcome = panic::catch_unwind(AssertUnwindSafe(|| parse(bytes))).map_err(drop);
        });
        assert!(outcome.is_ok(), "{kind}: SEED={seed} panics");
        let limit = memory_max(length);
        assert!(most <= limit, "{kind}: SEED={seed}: {most} bytes for {length}, not {limit}");
    }
}

/// Limit of memory for each byte: that of a decoded element of one byte.
const MEMORY_PER_BYTE: usize = 1024;
/// Memory of error texts and the like.
const MEMORY_BESIDE: usize = 8 << 10;

fn in_proportion(length: usize) -> usize {
    length * MEMORY_PER_BYTE + MEMORY_BESIDE
}

struct Responses;

impl ResponseVisitor for Responses {
    fn visit<R: Request>(&mut self, response: &[u8]) {
        let name = R::SPEC.name;
        let head: &[u8] = if R::SPEC.flexible { &[0, 0, 0, 1, 0] } else { &[0, 0, 0, 1] };
        let frame = [head, response].concat();
        assert_eq!(read::<R>(&frame), Ok(()), "{name}");
        try_all(name, &frame, in_proportion, |bytes| {
            let _ = read::<R>(&bytes);
        });
    }
}

fn read<R: Request>(frame: &[u8]) -> Result<(), DecodeError> {
    let mut reader = Reader::new(frame);
    R::SPEC.decode_header(&mut reader);
    drop(R::decode(&mut reader));
    reader.finish()
}

#[test]
fn mutated_responses_do_not_panic() {
    samples::responses(&mut Responses);
}

/// Largest zstd window, bytes: ruzstd's limit.
const WINDOW: usize = 128 << 20;

#[test]
fn mutated_batches_do_not_panic() {
    const MEMORY_MAX: usize = 100_000;
    let text = "some words that come again and again ".repeat(20);
    let headers: [(&str, Option<&[u8]>); 2] = [("name", Some(b"value")), ("name", None)];
    let records = [
        NewRecord { key: Some(b"key"), value: Some(text.as_bytes()), headers: &headers },
        NewRecord { key: None, value: Some(b""), headers: &[] },
        NewRecord { key: Some(b""), value: None, headers: &headers[..1] },
    ];
    let encoded = record_batch::encode_records(&records);
    let sequence = BatchSequence { producer_id: 1, producer_epoch: 0, base_sequence: 0 };
    for (name, compression) in Compression::ALL {
        let Ok(batch) = record_batch::encode(&encoded, records.len(), 7, sequence, compression)
        else {
            continue;
        };
        let limit = |length: usize| {
            let window =
                if compression == Compression::Zstd { WINDOW + (8 << 20) } else { 8 << 20 };
            // Decompressed, as records, and both while a vector grows.
            6 * MEMORY_MAX + in_proportion(length) + window
        };
        let decode = |bytes: &[u8]| {
            let decoded =
                record_batch::decode(bytes, 0, vec![(1, 0)], &mut MEMORY_MAX.clone(), MEMORY_MAX);
            assert!(decoded.records.is_sorted_by(|a, b| a.offset < b.offset));
        };
        let two = [&batch[..], &batch].concat();
        try_all(name, &two, limit, |bytes| decode(&bytes));
        // With a valid checksum: a wrong one refuses nearly all.
        try_all(name, &batch, limit, |mut bytes| {
            record_batch::fix_length_and_checksum(&mut bytes);
            decode(&bytes);
        });
        // The compressed and the encoded records.
        if let (Ok(compressed), 1..) = (codec::compress(compression, &encoded), compression as u8) {
            try_all(name, &compressed, limit, |bytes| {
                drop(codec::decompress(compression as u8, &bytes, MEMORY_MAX));
            });
        }
        try_all(name, &encoded, limit, |bytes| {
            let batch =
                record_batch::encode(&bytes, records.len(), 7, sequence, compression).unwrap();
            decode(&batch);
        });
    }
}

#[test]
fn mutated_group_messages_do_not_panic() {
    let assignment = b"\0\0\0\0\0\x02\0\x05topic\0\0\0\x02\0\0\0\0\0\0\0\x01\0\x01t\0\0\0\x01\0\0\0\x05\xff\xff\xff\xff";
    assert!(group::decode_assignment(assignment).is_some());
    try_all("assignment", assignment, in_proportion, |bytes| {
        drop(group::decode_assignment(&bytes));
    });
    let subscription = b"\0\x01\0\0\0\x02\0\x05topic\0\x01t\xff\xff\xff\xff\0\0\0\0";
    assert!(group::decode_subscription(subscription).is_some());
    try_all("subscription", subscription, in_proportion, |bytes| {
        drop(group::decode_subscription(&bytes));
    });
}

#[test]
#[cfg(feature = "scram")]
fn mutated_sasl_messages_do_not_panic() {
    use crate::sasl::{Mechanism, Sasl, scram::Scram};
    // Of RFC 7677, with few iterations, which are refused: hashing would take too long.
    let first: &[u8] =
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=40";
    let sasl = |mechanism| Sasl { mechanism, user: "user".into(), password: "pencil".into() };
    for mechanism in [Mechanism::ScramSha256, Mechanism::ScramSha512] {
        let sasl = sasl(mechanism);
        try_all(mechanism.name(), first, in_proportion, |bytes| {
            drop(Scram::new(&sasl, "rOprNGfwEbeRWgbNEkqO").respond(&bytes));
        });
        let mut asked = Scram::new(&sasl, "rOprNGfwEbeRWgbNEkqO");
        asked.respond(&[first, b"96"].concat()).unwrap();
        let asked = std::cell::RefCell::new(asked);
        let last = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
        try_all(mechanism.name(), last, in_proportion, |bytes| {
            drop(asked.borrow_mut().respond(&bytes));
        });
    }
}
