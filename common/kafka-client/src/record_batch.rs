//! Record batches with magic 2, which Kafka 0.11 and later write. Source: the documentation of
//! Kafka, "Message Format", and KIP-98.

use crate::codec;
use crate::protocol::Writer;
use crate::types::{Compression, FetchedRecord, Header, NewRecord};
use crc32c::crc32c;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::mem;

/// Length of the batch header, in bytes.
const HEADER_BYTES: usize = 61;
/// Length of `base_offset` and `batch_length`. The value of `batch_length` does not include them.
const LOG_OVERHEAD: usize = 12;
/// The checksum covers the batch from this byte on, which begins with `attributes`.
const CHECKSUM_FROM: usize = 21;

/// Limit of the headers of a record. An empty header takes 2 bytes in the batch and 48 in memory.
const HEADERS_MAX: i64 = 10_000;

// Bits of `attributes`.
const COMPRESSION_MASK: i16 = 0x07;
const LOG_APPEND_TIME: i16 = 0x08;
const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x20;

/// Identifies a batch of an idempotent producer. The broker writes it once, even if it is sent
/// again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchSequence {
    pub producer_id: i64,
    pub producer_epoch: i16,
    /// The sequence of the first record.
    pub base_sequence: i32,
}

/// The records of a batch without the batch header. Equal records are encoded to equal bytes.
pub fn encode_records(records: &[NewRecord<'_>]) -> Vec<u8> {
    let bytes =
        |it: &NewRecord<'_>| it.key.map_or(0, <[u8]>::len) + it.value.map_or(0, <[u8]>::len) + 16;
    let mut to = Vec::with_capacity(records.iter().map(bytes).sum());
    for (offset_delta, record) in (0i64..).zip(records) {
        let headers = record.headers.len() as i64;
        let mut length = 2 + varint_length(offset_delta);
        length += bytes_length(record.key) + bytes_length(record.value) + varint_length(headers);
        for (key, value) in record.headers {
            length += bytes_length(Some(key.as_bytes())) + bytes_length(*value);
        }
        encode_varint(&mut to, length as i64);
        to.push(0); // attributes
        to.push(0); // timestamp_delta
        encode_varint(&mut to, offset_delta);
        encode_bytes(&mut to, record.key);
        encode_bytes(&mut to, record.value);
        encode_varint(&mut to, headers);
        for (key, value) in record.headers {
            encode_bytes(&mut to, Some(key.as_bytes()));
            encode_bytes(&mut to, *value);
        }
    }
    to
}

/// Encodes a batch of `count` records from [`encode_records`]. Compresses them if that makes the
/// batch smaller.
///
/// # Errors
/// The codec is not compiled in.
pub fn encode(
    records: &[u8],
    count: usize,
    timestamp_ms: i64,
    sequence: BatchSequence,
    compression: Compression,
) -> Result<Vec<u8>, String> {
    let compressed = match compression {
        Compression::None => None,
        codec => Some(codec::compress(codec, records)?).filter(|it| it.len() < records.len()),
    };
    let (attributes, records) = match &compressed {
        Some(compressed) => (compression.attribute(), &compressed[..]),
        None => (0, records),
    };
    let count = i32::try_from(count).unwrap_or(i32::MAX);
    let mut to = Writer(Vec::with_capacity(HEADER_BYTES + records.len()));
    to.i64(0); // base_offset: set by the broker
    to.i32((HEADER_BYTES - LOG_OVERHEAD + records.len()) as i32); // batch_length
    to.i32(-1); // partition_leader_epoch: set by the broker
    to.i8(2); // magic
    to.i32(0); // crc: set below
    to.i16(attributes);
    to.i32(count - 1); // last_offset_delta
    to.i64(timestamp_ms); // base_timestamp
    to.i64(timestamp_ms); // max_timestamp
    to.i64(sequence.producer_id);
    to.i16(sequence.producer_epoch);
    to.i32(sequence.base_sequence);
    to.i32(count);
    to.raw(records);
    let Writer(mut batch) = to;
    set_checksum(&mut batch);
    Ok(batch)
}

fn set_checksum(batch: &mut [u8]) {
    let checksum = crc32c(&batch[CHECKSUM_FROM..]);
    batch[CHECKSUM_FROM - 4..CHECKSUM_FROM].copy_from_slice(&checksum.to_be_bytes());
}

/// Sets the length, the magic and the checksum of a changed batch.
#[cfg(any(test, feature = "fuzzing"))]
pub fn fix_length_and_checksum(bytes: &mut [u8]) {
    if bytes.len() > CHECKSUM_FROM {
        let length = (bytes.len() - LOG_OVERHEAD) as i32;
        bytes[8..LOG_OVERHEAD].copy_from_slice(&length.to_be_bytes());
        bytes[16] = 2;
        set_checksum(bytes);
    }
}

/// The decoded batches of one partition.
#[derive(Debug, Default)]
pub struct Decoded {
    /// Records in offset order, from the fetch offset on.
    pub records: Vec<FetchedRecord>,
    /// Next offset to fetch.
    pub next: i64,
    /// The reason that the batch at `next` cannot be decoded, if so.
    pub undecodable: Option<String>,
}

/// Producer ids and first offsets of aborted transactions.
pub type Aborted = Vec<(i64, i64)>;

/// Decodes the batches in `bytes` from offset `next` on. Leaves out control batches and records of
/// aborted transactions.
///
/// `budget` is the memory for decoded records, in bytes. Decoding ends before the record that would
/// exceed it, also within a batch, which the next fetch returns again. One record is always
/// decoded. A compressed batch of more than `decompressed_max` bytes is undecodable.
pub fn decode(
    bytes: &[u8],
    next: i64,
    aborted: Aborted,
    budget: &mut usize,
    decompressed_max: usize,
) -> Decoded {
    let mut transactions = Transactions::new(aborted);
    let mut decoded = Decoded { next, ..Decoded::default() };
    let mut rest = bytes;
    // The last batch of a response may be incomplete.
    while *budget > 0
        && let Some((batch, tail)) = split_batch(rest)
    {
        rest = tail;
        let header = BatchHeader::decode(batch);
        let last_offset = header.as_ref().ok().and_then(BatchHeader::last_offset);
        if last_offset.is_some_and(|last| last < decoded.next) {
            continue;
        }
        let batch = header.and_then(|header| {
            let limits = Limits {
                decompressed_max,
                budget: *budget,
                takes_first: decoded.records.is_empty(),
            };
            DecodedBatch::decode(&header, batch, decoded.next, &mut transactions, limits)
        });
        match batch {
            Ok(batch) => {
                decoded.next = batch.next;
                *budget = if batch.is_partial { 0 } else { budget.saturating_sub(batch.memory) };
                if decoded.records.is_empty() {
                    decoded.records = batch.records;
                } else {
                    decoded.records.extend(batch.records);
                }
            }
            Err(why) => {
                decoded.undecodable = Some(why);
                break;
            }
        }
    }
    // Brokers send the first batch complete.
    let no_batch = !rest.is_empty() && rest.len() == bytes.len();
    if no_batch && decoded.undecodable.is_none() && *budget > 0 {
        decoded.undecodable = Some(TRUNCATED.to_owned());
    }
    decoded
}

const TRUNCATED: &str = "truncated batch";

/// The first batch, if it is complete, and the bytes after it.
fn split_batch(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = i32::from_be_bytes(*bytes.get(8..LOG_OVERHEAD)?.first_chunk()?);
    // After a negative length, `BatchHeader::decode` returns the error.
    let length = usize::try_from(length).unwrap_or(0);
    bytes.split_at_checked(LOG_OVERHEAD + length)
}

#[derive(Debug, Clone, Copy)]
struct BatchHeader {
    base_offset: i64,
    checksum: u32,
    attributes: i16,
    last_offset_delta: i32,
    base_timestamp: i64,
    max_timestamp: i64,
    producer_id: i64,
    count: i32,
}

impl BatchHeader {
    fn decode(batch: &[u8]) -> Result<Self, String> {
        let mut reader = RecordReader(batch);
        let truncated = || TRUNCATED.to_owned();
        let base_offset = reader.i64().ok_or_else(truncated)?;
        let _length_and_leader_epoch = reader.i64().ok_or_else(truncated)?;
        let [magic] = reader.array().ok_or_else(truncated)?;
        if magic != 2 {
            return Err(format!("batch has magic {magic}: written by Kafka before 0.11"));
        }
        let mut decode = || {
            let checksum = u32::from_be_bytes(reader.array()?);
            let (attributes, last_offset_delta) = (reader.i16()?, reader.i32()?);
            let (base_timestamp, max_timestamp) = (reader.i64()?, reader.i64()?);
            let producer_id = reader.i64()?;
            let (_producer_epoch, _base_sequence) = (reader.i16()?, reader.i32()?);
            Some(Self {
                base_offset,
                checksum,
                attributes,
                last_offset_delta,
                base_timestamp,
                max_timestamp,
                producer_id,
                count: reader.i32()?,
            })
        };
        decode().ok_or_else(truncated)
    }

    fn last_offset(&self) -> Option<i64> {
        let delta = i64::from(self.last_offset_delta);
        let last = self.base_offset.checked_add(delta)?;
        Some(last).filter(|last| delta >= 0 && self.base_offset >= 0 && *last < i64::MAX)
    }
}

/// The producers that have an aborted transaction at the current offset.
struct Transactions {
    /// First offsets and producer ids of later aborted transactions, the next one on top.
    later: BinaryHeap<Reverse<(i64, i64)>>,
    aborted: HashSet<i64>,
}

impl Transactions {
    fn new(aborted: Aborted) -> Self {
        let later = aborted.into_iter().map(|(producer, first)| Reverse((first, producer)));
        Self { later: later.collect(), aborted: HashSet::new() }
    }

    fn advance_to(&mut self, last_offset: i64) {
        while let Some(Reverse((first, producer))) = self.later.peek().copied()
            && first <= last_offset
        {
            self.later.pop();
            self.aborted.insert(producer);
        }
    }
}

struct DecodedBatch {
    records: Vec<FetchedRecord>,
    next: i64,
    /// Memory of the records, in bytes.
    memory: usize,
    /// The budget is used up before the end of the batch.
    is_partial: bool,
}

/// Limits of a batch, in bytes.
#[derive(Clone, Copy)]
struct Limits {
    decompressed_max: usize,
    /// Memory for records.
    budget: usize,
    /// The first record may exceed the budget.
    takes_first: bool,
}

impl DecodedBatch {
    fn decode(
        header: &BatchHeader,
        batch: &[u8],
        from: i64,
        transactions: &mut Transactions,
        limits: Limits,
    ) -> Result<Self, String> {
        if crc32c(&batch[CHECKSUM_FROM..]) != header.checksum {
            return Err("batch has a wrong checksum".to_owned());
        }
        let last_offset = header.last_offset().ok_or("batch has invalid offsets")?;
        transactions.advance_to(last_offset);
        let records = &batch[HEADER_BYTES..];
        let nothing =
            Self { records: Vec::new(), next: last_offset + 1, memory: 0, is_partial: false };
        if header.attributes & CONTROL != 0 {
            if is_abort_marker(records) {
                transactions.aborted.remove(&header.producer_id);
            }
            return Ok(nothing);
        }
        if header.attributes & TRANSACTIONAL != 0
            && transactions.aborted.contains(&header.producer_id)
        {
            return Ok(nothing);
        }
        match (header.attributes & COMPRESSION_MASK) as u8 {
            0 => nothing.decode_records(header, from, records, limits),
            codec => {
                let decompressed = codec::decompress(codec, records, limits.decompressed_max)?;
                nothing.decode_records(header, from, &decompressed, limits)
            }
        }
    }

    fn decode_records(
        mut self,
        header: &BatchHeader,
        from: i64,
        bytes: &[u8],
        limits: Limits,
    ) -> Result<Self, String> {
        let mut reader = RecordReader(bytes);
        let mut previous = None;
        // Nothing is allocated by `count`, which may be wrong.
        for _ in 0..header.count {
            let (offset_delta, record) = reader.record(header).ok_or("truncated record")?;
            let in_order = previous.is_none_or(|previous| offset_delta > previous);
            if !in_order || !(0..=i64::from(header.last_offset_delta)).contains(&offset_delta) {
                return Err("record has an offset outside of its batch".to_owned());
            }
            previous = Some(offset_delta);
            if record.offset < from {
                continue;
            }
            let memory = self.memory + record.memory();
            let is_first = limits.takes_first && self.records.is_empty();
            if memory > limits.budget && !is_first {
                return Ok(Self { next: record.offset, is_partial: true, ..self });
            }
            self.memory = memory;
            self.records.push(record);
        }
        if !reader.0.is_empty() {
            return Err("batch has bytes after its records".to_owned());
        }
        Ok(self)
    }
}

impl FetchedRecord {
    /// The memory that the record takes, in bytes.
    pub fn memory(&self) -> usize {
        let bytes = |it: &Option<Vec<u8>>| it.as_ref().map_or(0, Vec::len);
        let header = |(key, value): &Header| mem::size_of::<Header>() + key.len() + bytes(value);
        mem::size_of::<Self>()
            + bytes(&self.key)
            + bytes(&self.value)
            + self.headers.iter().map(header).sum::<usize>()
    }
}

/// True if the records of a control batch are an abort marker.
fn is_abort_marker(records: &[u8]) -> bool {
    let mut reader = RecordReader(records);
    let mut control_type = || {
        let _length = reader.varint()?;
        let _attributes: [u8; 1] = reader.array()?;
        let (_timestamp_delta, _offset_delta) = (reader.varint()?, reader.varint()?);
        let (_key_length, _version) = (reader.varint()?, reader.i16()?);
        reader.i16()
    };
    control_type() == Some(0)
}

/// Reads the fields of records. Unlike [`crate::protocol::Reader`] it is inlined, also with
/// `opt-level = "z"`: it runs for each field of each record.
struct RecordReader<'a>(&'a [u8]);

impl<'a> RecordReader<'a> {
    #[inline(always)]
    fn raw(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (raw, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(raw)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.raw(N)?.try_into().ok()
    }

    fn i16(&mut self) -> Option<i16> {
        self.array().map(i16::from_be_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_be_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_be_bytes)
    }

    /// VARINT or VARLONG.
    #[inline(always)]
    fn varint(&mut self) -> Option<i64> {
        let value = match self.0 {
            // Most values have one byte.
            [byte @ ..0x80, rest @ ..] => {
                self.0 = rest;
                u64::from(*byte)
            }
            _ => self.long_varint()?,
        };
        Some((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn long_varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// Bytes after their length. The length of null is -1.
    fn bytes(&mut self) -> Option<Option<&'a [u8]>> {
        match self.varint()? {
            -1 => Some(None),
            length => self.raw(usize::try_from(length).ok()?).map(Some),
        }
    }

    /// `offset_delta` and the record.
    fn record(&mut self, batch: &BatchHeader) -> Option<(i64, FetchedRecord)> {
        let length = usize::try_from(self.varint()?).ok()?;
        let mut reader = RecordReader(self.raw(length)?);
        let _attributes: [u8; 1] = reader.array()?;
        let (timestamp_delta, offset_delta) = (reader.varint()?, reader.varint()?);
        let (key, value) = (reader.bytes()?, reader.bytes()?);
        let mut headers = Vec::new();
        for _ in 0..Some(reader.varint()?).filter(|count| *count <= HEADERS_MAX)? {
            let key = String::from_utf8_lossy(reader.bytes()??).into_owned();
            headers.push((key, reader.bytes()?.map(<[u8]>::to_vec)));
        }
        let timestamp_ms = if batch.attributes & LOG_APPEND_TIME != 0 {
            batch.max_timestamp
        } else {
            batch.base_timestamp.checked_add(timestamp_delta)?
        };
        let offset = batch.base_offset.checked_add(offset_delta)?;
        let (key, value) = (key.map(<[u8]>::to_vec), value.map(<[u8]>::to_vec));
        reader
            .0
            .is_empty()
            .then_some((offset_delta, FetchedRecord { offset, key, value, timestamp_ms, headers }))
    }
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// Length of the output of [`encode_varint`], in bytes.
#[inline(always)]
fn varint_length(value: i64) -> usize {
    // The number of bits divided by 7 and rounded up, without a division.
    ((zigzag(value) | 1).ilog2() as usize * 9 + 73) / 64
}

/// Length of the output of [`encode_bytes`], in bytes.
#[inline(always)]
fn bytes_length(bytes: Option<&[u8]>) -> usize {
    bytes.map_or(1, |it| varint_length(it.len() as i64) + it.len())
}

#[inline(always)]
fn encode_varint(to: &mut Vec<u8>, value: i64) {
    let value = zigzag(value);
    // Most values have one byte.
    if value < 0x80 { to.push(value as u8) } else { encode_long_varint(to, value) }
}

fn encode_long_varint(to: &mut Vec<u8>, mut rest: u64) {
    while rest >= 0x80 {
        to.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    to.push(rest as u8);
}

#[inline(always)]
fn encode_bytes(to: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            encode_varint(to, bytes.len() as i64);
            to.extend_from_slice(bytes);
        }
        None => encode_varint(to, -1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LARGE_BUDGET: usize = 1 << 20;

    fn sequence(producer_id: i64) -> BatchSequence {
        BatchSequence { producer_id, producer_epoch: 0, base_sequence: 0 }
    }

    fn plain(records: &[NewRecord<'_>], timestamp_ms: i64, sequence: BatchSequence) -> Vec<u8> {
        let bytes = encode_records(records);
        encode(&bytes, records.len(), timestamp_ms, sequence, Compression::None).unwrap()
    }

    fn values(values: &[&str]) -> Vec<u8> {
        let records: Vec<NewRecord<'_>> = values
            .iter()
            .map(|it| NewRecord { value: Some(it.as_bytes()), ..NewRecord::default() })
            .collect();
        plain(&records, 7, sequence(1))
    }

    /// The batch as the broker stores it, with `base_offset`.
    fn at(base: i64, batch: &[u8]) -> Vec<u8> {
        let mut batch = batch.to_vec();
        batch[..8].copy_from_slice(&base.to_be_bytes());
        batch
    }

    /// The batch with `bytes` at `at` and a correct checksum.
    fn with(batch: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
        let mut batch = batch.to_vec();
        batch[at..at + bytes.len()].copy_from_slice(bytes);
        set_checksum(&mut batch);
        batch
    }

    /// The batch with compressed records.
    #[cfg(feature = "gzip")]
    fn compressed(batch: &[u8], codec: u8, records: &[u8]) -> Vec<u8> {
        let mut compressed = [&batch[..HEADER_BYTES], records].concat();
        let length = (compressed.len() - LOG_OVERHEAD) as i32;
        compressed[8..12].copy_from_slice(&length.to_be_bytes());
        with(&compressed, 21, &[0, codec])
    }

    fn read(bytes: &[u8], next: i64) -> Decoded {
        decode(bytes, next, Vec::new(), &mut LARGE_BUDGET.clone(), LARGE_BUDGET)
    }

    fn offsets(decoded: &Decoded) -> Vec<i64> {
        decoded.records.iter().map(|it| it.offset).collect()
    }

    const ATTRIBUTES: usize = 21;
    const LAST_DELTA: usize = 23;
    const COUNT: usize = 57;

    proptest! {
        #[test]
        fn encoded_records_are_decoded(
            records in prop::collection::vec(record(), 1..20),
            base in 0..i64::MAX / 2,
            skip in 0..20i64,
            (name, compression) in prop::sample::select(Compression::ALL.to_vec()),
        ) {
            let headers: Vec<Vec<_>> = records
                .iter()
                .map(|it| {
                    it.headers.iter().map(|(name, value)| (&**name, value.as_deref())).collect()
                })
                .collect();
            let out: Vec<NewRecord<'_>> = records
                .iter()
                .zip(&headers)
                .map(|(it, headers)| {
                    let (key, value) = (it.key.as_deref(), it.value.as_deref());
                    NewRecord { key, value, headers }
                })
                .collect();
            let bytes = encode_records(&out);
            let batch = encode(&bytes, out.len(), 1_700_000_000_000, sequence(5), compression);
            let batch = match codec::compress(compression, &[]) {
                Ok(_) => batch.unwrap(),
                Err(why) => {
                    prop_assert_eq!(&why, &format!("this program was built without {name}"));
                    prop_assert_eq!(batch, Err(why));
                    return Ok(());
                }
            };
            prop_assert!(batch.len() <= HEADER_BYTES + bytes.len());
            let decoded = read(&at(base, &batch), base + skip.min(records.len() as i64));
            prop_assert_eq!(decoded.undecodable, None);
            prop_assert_eq!(decoded.next, base + records.len() as i64);
            let expected: Vec<FetchedRecord> = (base..)
                .zip(records)
                .map(|(offset, it)| FetchedRecord { offset, timestamp_ms: 1_700_000_000_000, ..it })
                .skip(skip as usize)
                .collect();
            prop_assert_eq!(decoded.records, expected);
        }

        #[test]
        fn changed_batches_stay_within_the_budget(
            changes in prop::collection::vec((0..400usize, any::<u8>()), 0..6),
            checksum in any::<bool>(),
        ) {
            let (three, nine) = (values(&["one", "two", "three"]), values(&["four"; 9]));
            let mut bytes = [at(0, &three), at(3, &nine)].concat();
            for (at, byte) in changes {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            if checksum {
                // A wrong checksum would make nearly all changes undecodable.
                bytes = with(&bytes, 0, &[]);
            }
            let mut budget = 4096;
            let decoded = decode(&bytes, 0, vec![(1, 2)], &mut budget, 4096);
            let taken: usize = decoded.records.iter().map(FetchedRecord::memory).sum();
            prop_assert!(taken <= 4096);
            prop_assert!(offsets(&decoded).is_sorted_by(|a, b| a < b));
            let progress = decoded.next > 0 || decoded.undecodable.is_some();
            prop_assert!(progress || decoded.records.is_empty());
        }

        #[test]
        fn random_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            read(&bytes, 0);
            for codec in 1..=7 {
                let _ = codec::decompress(codec, &bytes, 1000);
            }
        }
    }

    fn record() -> impl Strategy<Value = FetchedRecord> {
        let bytes = || prop::option::of(prop::collection::vec(any::<u8>(), 0..40));
        let headers = prop::collection::vec(("[a-z]{0,3}", bytes()), 0..4);
        (bytes(), bytes(), headers).prop_map(|(key, value, headers)| FetchedRecord {
            key,
            value,
            headers,
            ..FetchedRecord::default()
        })
    }

    #[test]
    fn last_batch_may_be_truncated() {
        let bytes = [at(10, &values(&["a", "b"])), at(20, &values(&["c"]))].concat();
        assert_eq!(offsets(&read(&bytes, 10)), [10, 11, 20]);
        let cut = read(&bytes[..bytes.len() - 1], 10);
        assert_eq!((offsets(&cut), cut.next, cut.undecodable), (vec![10, 11], 12, None));
        // Without an error, the same batch would be fetched repeatedly.
        assert!(read(&bytes[..60], 10).undecodable.is_some());
        assert_eq!(read(&[], 10).undecodable, None);
    }

    #[test]
    fn compacted_batch_ends_at_its_last_offset() {
        let batch = with(&values(&["a", "b"]), LAST_DELTA, &9i32.to_be_bytes());
        let decoded = read(&at(5, &batch), 5);
        assert_eq!((offsets(&decoded), decoded.next), (vec![5, 6], 15));
        // Compaction has removed all records.
        let empty = [&values(&[])[..HEADER_BYTES], &[]].concat();
        let empty = with(&with(&empty, LAST_DELTA, &3i32.to_be_bytes()), COUNT, &[0; 4]);
        let decoded = read(&at(5, &empty), 5);
        assert_eq!((decoded.records.len(), decoded.next, decoded.undecodable), (0, 9, None));
    }

    #[test]
    fn aborted_transactions_are_left_out() {
        let of = |producer: i64, attributes: i16, base: i64| {
            let batch = with(&values(&["x"]), ATTRIBUTES, &attributes.to_be_bytes());
            at(base, &with(&batch, 43, &producer.to_be_bytes()))
        };
        let marker = |producer: i64, kind: u8, base: i64| {
            let key = [0, 0, 0, kind];
            let records =
                [NewRecord { key: Some(&key), value: Some(&[0; 6]), ..NewRecord::default() }];
            let batch = plain(&records, 0, sequence(producer));
            at(base, &with(&batch, ATTRIBUTES, &(CONTROL | TRANSACTIONAL).to_be_bytes()))
        };
        let bytes = [
            of(1, TRANSACTIONAL, 0),
            of(2, TRANSACTIONAL, 1),
            of(1, 0, 2),
            marker(1, 0, 3),
            of(1, TRANSACTIONAL, 4),
            marker(2, 1, 5),
            marker(1, 1, 6),
        ]
        .concat();
        let decoded = decode(&bytes, 0, vec![(1, 0)], &mut LARGE_BUDGET.clone(), LARGE_BUDGET);
        assert_eq!((offsets(&decoded), decoded.next), (vec![1, 2, 4], 7));
    }

    #[test]
    fn timestamp_is_that_of_producer_or_broker() {
        let batch = with(&values(&["x"]), 35, &99i64.to_be_bytes());
        assert_eq!(read(&at(0, &batch), 0).records[0].timestamp_ms, 7);
        let stamped = with(&batch, ATTRIBUTES, &LOG_APPEND_TIME.to_be_bytes());
        assert_eq!(read(&at(0, &stamped), 0).records[0].timestamp_ms, 99);
    }

    #[test]
    fn undecodable_batch_is_reported_with_its_reason() {
        let good = at(0, &values(&["a"]));
        for (bad, expected) in [
            (with(&at(1, &values(&["b"])), ATTRIBUTES, &[0, 7]), "unknown compression codec 7"),
            (with(&at(1, &values(&["b"])), COUNT, &5i32.to_be_bytes()), "truncated record"),
            (with(&at(1, &values(&["b"])), COUNT, &i32::MAX.to_be_bytes()), "truncated record"),
            (with(&at(1, &values(&["b"])), COUNT, &[0; 4]), "bytes after its records"),
            (with(&at(1, &values(&["b", "c"])), LAST_DELTA, &[0; 4]), "outside of its batch"),
            (with(&at(1, &values(&["b"])), LAST_DELTA, &[0xff; 4]), "invalid offsets"),
            (at(i64::MAX, &values(&["b"])), "invalid offsets"),
            (
                {
                    let mut it = at(1, &values(&["b"]));
                    it[16] = 1;
                    it
                },
                "magic 1",
            ),
            (
                {
                    let mut it = at(1, &values(&["b"]));
                    it[68] ^= 1;
                    it
                },
                "wrong checksum",
            ),
            (
                {
                    let mut it = at(1, &values(&["b"]));
                    it[8..12].copy_from_slice(&[0xff; 4]);
                    it
                },
                "truncated batch",
            ),
        ] {
            let decoded = read(&[good.clone(), bad].concat(), 0);
            assert_eq!(offsets(&decoded), [0], "{expected}");
            assert_eq!(decoded.next, 1);
            let why = decoded.undecodable.unwrap();
            assert!(why.contains(expected), "{why}");
        }
    }

    #[test]
    #[cfg(feature = "gzip")]
    fn decompression_bomb_is_rejected() {
        let text = vec![b'x'; 1 << 16];
        let records = encode_records(&[NewRecord { value: Some(&text), ..NewRecord::default() }]);
        let batch = values(&["x"]);
        let mut gzip = flate2::read::GzEncoder::new(&*records, flate2::Compression::best());
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut gzip, &mut bytes).unwrap();
        let batch = at(0, &compressed(&batch, 1, &bytes));
        assert_eq!(read(&batch, 0).records[0].value.as_deref(), Some(&*text));
        let decoded = decode(&batch, 0, Vec::new(), &mut LARGE_BUDGET.clone(), 1 << 16);
        assert!(decoded.undecodable.unwrap().contains("exceed 65536"));
    }

    #[test]
    fn batch_is_compressed_if_that_is_smaller() {
        let large = [b'x'; 200_000];
        for (name, compression) in Compression::ALL {
            let (Ok(_), true) = (codec::compress(compression, &[]), name != "none") else {
                continue;
            };
            let encoded = |value: &[u8]| {
                let records = [NewRecord { value: Some(value), ..NewRecord::default() }];
                encode(&encode_records(&records), 1, 7, sequence(1), compression).unwrap()
            };
            let compressed = encoded(&large);
            assert!(compressed.len() < large.len() / 10, "{name}: {}", compressed.len());
            assert_eq!(compressed[ATTRIBUTES..][..2], (compression as i16).to_be_bytes(), "{name}");
            assert_eq!(
                read(&compressed, 0).records[0].value.as_deref(),
                Some(&large[..]),
                "{name}"
            );
            let small = encoded(b"x");
            assert_eq!(small, values(&["x"]), "{name}");
        }
    }

    #[test]
    fn budget_ends_decoding_before_a_record() {
        let one = FetchedRecord { value: Some(b"a".to_vec()), ..FetchedRecord::default() }.memory();
        let batches = [at(0, &values(&["a", "b"])), at(2, &values(&["c"]))].concat();
        for (budget, from, read) in [
            (1, 0, vec![0]),
            (2 * one - 1, 0, vec![0]),
            (2 * one, 0, vec![0, 1]),
            (3 * one - 1, 0, vec![0, 1]),
            (3 * one, 0, vec![0, 1, 2]),
            (1, 1, vec![1]),
            (2 * one, 1, vec![1, 2]),
        ] {
            let decoded = decode(&batches, from, Vec::new(), &mut budget.clone(), LARGE_BUDGET);
            let next = read.last().unwrap() + 1;
            let expected = (read, next, None);
            let found = (offsets(&decoded), decoded.next, decoded.undecodable);
            assert_eq!(found, expected, "{budget} bytes from {from}");
        }
    }

    #[test]
    fn smallest_records_are_read_in_parts() {
        const BUDGET: usize = 100_000;
        let records = vec![NewRecord::default(); 30_000];
        let batch = plain(&records, 7, sequence(1));
        let (mut next, mut parts) = (0, 0);
        while next < 30_000 {
            let decoded = decode(&batch, next, Vec::new(), &mut BUDGET.clone(), LARGE_BUDGET);
            let memory: usize = decoded.records.iter().map(FetchedRecord::memory).sum();
            assert!((1..=BUDGET).contains(&memory), "{memory}");
            assert_eq!(offsets(&decoded), (next..decoded.next).collect::<Vec<_>>());
            (next, parts) = (decoded.next, parts + 1);
        }
        assert!(parts > 1);
    }

    #[test]
    fn varints_are_encoded_as_by_kafka() {
        for (number, bytes) in [
            (0, &[0][..]),
            (-1, &[1]),
            (63, &[126]),
            (-64, &[127]),
            (64, &[128, 1]),
            (i64::MIN, &[255, 255, 255, 255, 255, 255, 255, 255, 255, 1]),
        ] {
            let mut written = Vec::new();
            encode_varint(&mut written, number);
            assert_eq!(written, bytes);
            assert_eq!(RecordReader(bytes).varint(), Some(number));
        }
        for bits in 0..63 {
            for number in [1 << bits, (1 << bits) - 1, -(1 << bits)] {
                let mut written = Vec::new();
                encode_varint(&mut written, number);
                assert_eq!(written.len(), varint_length(number), "{number}");
            }
        }
        assert_eq!(RecordReader(&[255; 11]).varint(), None);
    }
}
