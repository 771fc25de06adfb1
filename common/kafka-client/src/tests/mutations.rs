//! Malformed input: mutations of all kinds of responses, of record batches with each codec, and of
//! SASL and group messages. Each is decoded or refused without a panic, in memory proportional to
//! its length.
//!
//! `MUTATIONS` sets the number for each kind. A failure names its seed, and `SEED` repeats it.
#![allow(clippy::unwrap_used, reason = "tests")]

use crate::protocol::Request;
use crate::protocol::{DecodeError, Reader};
use crate::record_batch::{self, BatchSequence};
use crate::tests::samples::{self, ResponseVisitor};
use crate::{Compression, NewRecord, codec, group};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};

/// The number for each kind, unless `MUTATIONS` is set.
const MUTATIONS: u64 = 3000;

/// Counts the current and the peak memory of this thread.
struct CountingAllocator;

thread_local! {
    static CURRENT: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

fn count(more: usize, less: usize) {
    CURRENT.set((CURRENT.get() + more).saturating_sub(less));
    PEAK.set(PEAK.get().max(CURRENT.get()));
}

#[allow(unsafe_code, reason = "a GlobalAlloc; it forwards to the system allocator")]
// SAFETY: Forwards each call unchanged to the system allocator.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: The caller upholds the same contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: The caller upholds the same contract.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both allocations may exist at the same time.
        count(size, 0);
        count(0, layout.size());
        // SAFETY: The caller upholds the same contract.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// The peak memory of `work` in bytes, without earlier allocations.
fn peak_memory(work: impl FnOnce()) -> usize {
    let before = CURRENT.get();
    PEAK.set(before);
    work();
    PEAK.get() - before
}

/// A random number generator with a seed. Source: Marsaglia, Xorshift RNGs (2003).
struct Xorshift(u64);

impl Xorshift {
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

/// Makes one to six changes in `bytes`: wrong counts and lengths, missing and repeated parts.
fn mutated(bytes: &[u8], numbers: &mut Xorshift) -> Vec<u8> {
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

/// Calls `parse` with mutations of `sample`. Asserts that it does not panic, and that its memory is
/// at most `memory_max` of the length.
fn check_mutations(
    kind: &str,
    sample: &[u8],
    memory_max: impl Fn(usize) -> usize,
    parse: impl Fn(Vec<u8>),
) {
    let seed = variable("SEED", 1);
    for seed in seed..seed + variable("MUTATIONS", MUTATIONS) {
        // Without the multiplication, the first numbers of consecutive seeds would be similar.
        let mut numbers = Xorshift(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let bytes = mutated(sample, &mut numbers);
        let length = bytes.len();
        let mut outcome = Ok(());
        let peak = peak_memory(|| {
            outcome = panic::catch_unwind(AssertUnwindSafe(|| parse(bytes))).map_err(drop);
        });
        assert!(outcome.is_ok(), "{kind}: SEED={seed} panics");
        let limit = memory_max(length);
        assert!(peak <= limit, "{kind}: SEED={seed}: {peak} bytes for {length} exceed {limit}");
    }
}

/// Limit of memory for each byte of input: an element of one byte takes this when decoded.
const MEMORY_PER_BYTE: usize = 1024;
/// Limit of memory for any input, for example for error texts.
const MEMORY_BASE: usize = 8 << 10;

fn in_proportion(length: usize) -> usize {
    length * MEMORY_PER_BYTE + MEMORY_BASE
}

struct Responses;

impl ResponseVisitor for Responses {
    fn visit<R: Request>(&mut self, response: &[u8]) {
        let name = R::SPEC.name;
        let head: &[u8] = if R::SPEC.flexible { &[0, 0, 0, 1, 0] } else { &[0, 0, 0, 1] };
        let frame = [head, response].concat();
        assert_eq!(read::<R>(&frame), Ok(()), "{name}");
        check_mutations(name, &frame, in_proportion, |bytes| {
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

/// Largest zstd window in bytes, the limit of ruzstd.
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
            // The decompressed bytes and the records, and copies of both while a vector grows.
            6 * MEMORY_MAX + in_proportion(length) + window
        };
        let decode = |bytes: &[u8]| {
            let decoded =
                record_batch::decode(bytes, 0, vec![(1, 0)], &mut MEMORY_MAX.clone(), MEMORY_MAX);
            assert!(decoded.records.is_sorted_by(|a, b| a.offset < b.offset));
        };
        let two = [&batch[..], &batch].concat();
        check_mutations(name, &two, limit, |bytes| decode(&bytes));
        // With a correct checksum: without it nearly all mutations are refused early.
        check_mutations(name, &batch, limit, |mut bytes| {
            record_batch::fix_length_and_checksum(&mut bytes);
            decode(&bytes);
        });
        // The compressed and the encoded records.
        if let (Ok(compressed), 1..) = (codec::compress(compression, &encoded), compression as u8) {
            check_mutations(name, &compressed, limit, |bytes| {
                drop(codec::decompress(compression as u8, &bytes, MEMORY_MAX));
            });
        }
        check_mutations(name, &encoded, limit, |bytes| {
            let batch =
                record_batch::encode(&bytes, records.len(), 7, sequence, compression).unwrap();
            decode(&batch);
        });
    }
}

#[test]
fn mutated_group_messages_do_not_panic() {
    let assignment = b"\0\0\0\0\0\x02\0\x05topic\0\0\0\x02\0\0\0\0\0\0\0\x01\
        \0\x01t\0\0\0\x01\0\0\0\x05\xff\xff\xff\xff";
    assert!(group::decode_assignment(assignment).is_some());
    check_mutations("assignment", assignment, in_proportion, |bytes| {
        drop(group::decode_assignment(&bytes));
    });
    let subscription = b"\0\x01\0\0\0\x02\0\x05topic\0\x01t\xff\xff\xff\xff\0\0\0\0";
    assert!(group::decode_subscription(subscription).is_some());
    check_mutations("subscription", subscription, in_proportion, |bytes| {
        drop(group::decode_subscription(&bytes));
    });
}

#[test]
#[cfg(feature = "scram")]
fn mutated_sasl_messages_do_not_panic() {
    use crate::sasl::{Mechanism, Sasl, scram::Scram};
    // The message of RFC 7677 with too few iterations, which are refused: hashing takes too long.
    let first: &[u8] =
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=40";
    let sasl = |mechanism| Sasl { mechanism, user: "user".into(), password: "pencil".into() };
    for mechanism in [Mechanism::ScramSha256, Mechanism::ScramSha512] {
        let sasl = sasl(mechanism);
        check_mutations(mechanism.name(), first, in_proportion, |bytes| {
            drop(Scram::new(&sasl, "rOprNGfwEbeRWgbNEkqO").respond(&bytes));
        });
        let mut exchange = Scram::new(&sasl, "rOprNGfwEbeRWgbNEkqO");
        exchange.respond(&[first, b"96"].concat()).unwrap();
        let exchange = std::cell::RefCell::new(exchange);
        let last = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
        check_mutations(mechanism.name(), last, in_proportion, |bytes| {
            drop(exchange.borrow_mut().respond(&bytes));
        });
    }
}
