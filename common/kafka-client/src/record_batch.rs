//! Record batches, format 2 (Kafka 0.11 and newer). The reader gives what is whole before a batch that is cut off.

use crate::checksum::crc32c;
use crate::protocol::fields::Writer;
use crate::{Compression, FetchedRecord, Header, NewRecord, codec};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::mem;

/// Bytes before the records.
const HEAD: usize = 61;
/// Bytes before the part that the length counts: the base offset and the length itself.
pub const BEFORE_LENGTH: usize = 12;
/// Where the part begins that the checksum covers.
pub const CHECKED_FROM: usize = 21;

/// Headers of a record: empty ones take two bytes there and many times that in memory.
const HEADERS_MAX: i64 = 10_000;

const CODEC: i16 = 0x07;
const LOG_APPEND_TIME: i16 = 0x08;
const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x20;

/// Which producer wrote a batch, and where in its sequence: lets the broker take it once, however often it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub producer: i64,
    pub epoch: i16,
    /// Of the batch's first record.
    pub sequence: i32,
}

/// The records of a batch as they are written, without its head: the same for the same records, whenever they are sent.
pub fn encode_records(records: &[NewRecord<'_>]) -> Vec<u8> {
    let bytes =
        |it: &NewRecord<'_>| it.key.map_or(0, <[u8]>::len) + it.value.map_or(0, <[u8]>::len) + 16;
    let mut out = Vec::with_capacity(records.iter().map(bytes).sum());
    for (delta, record) in (0i64..).zip(records) {
        let headers = record.headers.len() as i64;
        let mut length = 2 + length_of(delta) + length_with(record.key) + length_with(record.value);
        length += length_of(headers);
        for (name, value) in record.headers {
            length += length_with(Some(name.as_bytes())) + length_with(*value);
        }
        put_varint(&mut out, length as i64);
        out.push(0); // No attributes.
        out.push(0); // All records of a batch have its time.
        put_varint(&mut out, delta);
        put_bytes(&mut out, record.key);
        put_bytes(&mut out, record.value);
        put_varint(&mut out, headers);
        for (name, value) in record.headers {
            put_bytes(&mut out, Some(name.as_bytes()));
            put_bytes(&mut out, *value);
        }
    }
    out
}

/// A whole batch: a head, then `records` as [`encode_records`] made them of `count` records, packed if that makes them smaller.
///
/// # Errors
/// This program has no such codec; in words.
pub fn encode(
    records: &[u8],
    count: usize,
    timestamp_ms: i64,
    stamp: Stamp,
    compression: Compression,
) -> Result<Vec<u8>, String> {
    let packed = match compression {
        Compression::None => None,
        codec => Some(codec::pack(codec, records)?).filter(|it| it.len() < records.len()),
    };
    let (attributes, records) = match &packed {
        Some(packed) => (compression.attribute(), &packed[..]),
        None => (0, records),
    };
    let count = i32::try_from(count).unwrap_or(i32::MAX);
    let mut out = Writer(Vec::with_capacity(HEAD + records.len()));
    out.i64(0); // The broker gives the offset.
    out.i32((HEAD - BEFORE_LENGTH + records.len()) as i32);
    out.i32(-1); // The leader's epoch, which it knows better.
    out.i8(2);
    out.i32(0); // The checksum, below.
    out.i16(attributes);
    out.i32(count - 1);
    out.i64(timestamp_ms);
    out.i64(timestamp_ms);
    out.i64(stamp.producer);
    out.i16(stamp.epoch);
    out.i32(stamp.sequence);
    out.i32(count);
    out.put(records);
    let Writer(mut out) = out;
    let checksum = crc32c(&out[CHECKED_FROM..]);
    out[CHECKED_FROM - 4..CHECKED_FROM].copy_from_slice(&checksum.to_be_bytes());
    Ok(out)
}

/// Gives what may be a batch the length, the version and the checksum that its bytes should have.
#[cfg(any(test, feature = "fuzzing"))]
pub fn mend(bytes: &mut [u8]) {
    if bytes.len() > CHECKED_FROM {
        let length = (bytes.len() - BEFORE_LENGTH) as i32;
        bytes[8..BEFORE_LENGTH].copy_from_slice(&length.to_be_bytes());
        bytes[16] = 2;
        let checksum = crc32c(&bytes[CHECKED_FROM..]);
        bytes[CHECKED_FROM - 4..CHECKED_FROM].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// What a partition's part of a fetched reply holds.
#[derive(Debug, Default)]
pub struct Decoded {
    /// From the position asked for on, in offset order.
    pub records: Vec<FetchedRecord>,
    /// Where to go on.
    pub next: i64,
    /// Why the batch at `next` can't be read, in words.
    pub poison: Option<String>,
}

/// Transactions that were aborted: the producer and the first offset of each.
pub type Aborted = Vec<(i64, i64)>;

/// Reads the batches in `bytes` from offset `next` on, leaving out what was aborted and what only marks the end of a transaction.
/// `budget` is what the records may take in memory, bytes; it stops before the batch that finds it used up, and refuses a single one
/// that is larger than `batch_max`.
pub fn decode(
    bytes: &[u8],
    next: i64,
    aborted: Aborted,
    budget: &mut usize,
    batch_max: usize,
) -> Decoded {
    // By offset, the first one on top.
    let mut aborted: BinaryHeap<Reverse<(i64, i64)>> =
        aborted.into_iter().map(|(producer, first)| Reverse((first, producer))).collect();
    let mut open: HashSet<i64> = HashSet::new();
    let mut decoded = Decoded { next, ..Decoded::default() };
    let mut rest = bytes;
    // A broker fills a reply up to the byte: its last batch may be cut off.
    while *budget > 0
        && let Some((batch, behind)) = split(rest)
    {
        rest = behind;
        let last = match Head::read(batch) {
            Ok(head) => head.last(),
            Err(words) => {
                decoded.poison = Some(words);
                break;
            }
        };
        if last.is_some_and(|last| last < decoded.next) {
            continue;
        }
        match Batch::read(batch, decoded.next, &mut aborted, &mut open, batch_max) {
            Ok(batch) => {
                decoded.next = batch.next;
                *budget = budget.saturating_sub(batch.memory);
                if decoded.records.is_empty() {
                    decoded.records = batch.records;
                } else {
                    decoded.records.extend(batch.records);
                }
            }
            Err(words) => {
                decoded.poison = Some(words);
                break;
            }
        }
    }
    // With the first one, whole, it starts.
    if !rest.is_empty() && rest.len() == bytes.len() && decoded.poison.is_none() && *budget > 0 {
        decoded.poison = Some("a batch is cut".to_owned());
    }
    decoded
}

/// The first batch, whole, and what is behind it.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = i32::from_be_bytes(*bytes.get(8..BEFORE_LENGTH)?.first_chunk()?);
    // A length that can't be is that of a batch, too: the head says what is wrong with it.
    let length = usize::try_from(length).unwrap_or(0);
    bytes.split_at_checked(BEFORE_LENGTH + length)
}

/// The head of a batch.
#[derive(Debug, Clone, Copy)]
struct Head {
    base: i64,
    checksum: u32,
    attributes: i16,
    last_delta: i32,
    first_ms: i64,
    last_ms: i64,
    producer: i64,
    count: i32,
}

impl Head {
    fn read(batch: &[u8]) -> Result<Self, String> {
        let mut reader = Reader(batch);
        let cut = || "a batch is cut".to_owned();
        let base = reader.i64().ok_or_else(cut)?;
        let _length_and_epoch = reader.i64().ok_or_else(cut)?;
        let [format] = reader.array().ok_or_else(cut)?;
        if format != 2 {
            return Err(format!("a batch has format {format}: Kafka before 0.11 wrote it"));
        }
        let mut read = || {
            let checksum = u32::from_be_bytes(reader.array()?);
            let (attributes, last_delta) = (reader.i16()?, reader.i32()?);
            let (first_ms, last_ms) = (reader.i64()?, reader.i64()?);
            let producer = reader.i64()?;
            let (_epoch, _sequence, count) = (reader.i16()?, reader.i32()?, reader.i32()?);
            Some(Self {
                base,
                checksum,
                attributes,
                last_delta,
                first_ms,
                last_ms,
                producer,
                count,
            })
        };
        read().ok_or_else(cut)
    }

    /// The batch's last offset.
    fn last(&self) -> Option<i64> {
        let delta = i64::from(self.last_delta);
        self.base.checked_add(delta).filter(|last| delta >= 0 && self.base >= 0 && *last < i64::MAX)
    }
}

struct Batch {
    records: Vec<FetchedRecord>,
    next: i64,
    /// What the records take, bytes.
    memory: usize,
}

impl Batch {
    fn read(
        batch: &[u8],
        from: i64,
        aborted: &mut BinaryHeap<Reverse<(i64, i64)>>,
        open: &mut HashSet<i64>,
        memory_max: usize,
    ) -> Result<Self, String> {
        let head = Head::read(batch)?;
        if crc32c(&batch[CHECKED_FROM..]) != head.checksum {
            return Err("a batch has another checksum than it says".to_owned());
        }
        let last = head.last().ok_or("a batch has offsets that can't be")?;
        while let Some(Reverse((first, producer))) = aborted.peek().copied()
            && first <= last
        {
            aborted.pop();
            open.insert(producer);
        }
        let records = &batch[HEAD..];
        let nothing = Self { records: Vec::new(), next: last + 1, memory: 0 };
        if head.attributes & CONTROL != 0 {
            if is_abort(records) {
                open.remove(&head.producer);
            }
            return Ok(nothing);
        }
        if head.attributes & TRANSACTIONAL != 0 && open.contains(&head.producer) {
            return Ok(nothing);
        }
        match (head.attributes & CODEC) as u8 {
            0 => Self::records(&head, last, from, records, memory_max),
            codec => {
                let unpacked = codec::unpack(codec, records, memory_max)?;
                Self::records(&head, last, from, &unpacked, memory_max)
            }
        }
    }

    fn records(
        head: &Head,
        last: i64,
        from: i64,
        bytes: &[u8],
        memory_max: usize,
    ) -> Result<Self, String> {
        let mut reader = Reader(bytes);
        let mut this = Self { records: Vec::new(), next: last + 1, memory: 0 };
        let mut previous = None;
        // No memory in advance for as many as are announced: each one takes seven bytes at least.
        for _ in 0..head.count {
            let (delta, record) = reader.record(head).ok_or("a record is cut")?;
            let in_order = previous.is_none_or(|previous| delta > previous);
            if !in_order || !(0..=i64::from(head.last_delta)).contains(&delta) {
                return Err("a record has an offset outside its batch".to_owned());
            }
            previous = Some(delta);
            if record.offset < from {
                continue;
            }
            this.memory += memory(&record);
            if this.memory > memory_max {
                return Err(format!("the records of a batch take more than {memory_max} bytes"));
            }
            this.records.push(record);
        }
        if !reader.0.is_empty() {
            return Err("a batch is longer than its records".to_owned());
        }
        Ok(this)
    }
}

/// What a record takes in memory, bytes.
fn memory(record: &FetchedRecord) -> usize {
    let bytes = |it: &Option<Vec<u8>>| it.as_ref().map_or(0, Vec::len);
    let header = |(name, value): &Header| mem::size_of::<Header>() + name.len() + bytes(value);
    mem::size_of::<FetchedRecord>()
        + bytes(&record.key)
        + bytes(&record.value)
        + record.headers.iter().map(header).sum::<usize>()
}

/// Does a control batch say that its producer's transaction was aborted?
fn is_abort(records: &[u8]) -> bool {
    let mut reader = Reader(records);
    let mut kind = || {
        let _length = reader.varint()?;
        let _attributes: [u8; 1] = reader.array()?;
        let (_time, _offset, _key_length) = (reader.varint()?, reader.varint()?, reader.varint()?);
        let (_version, kind) = (reader.i16()?, reader.i16()?);
        Some(kind)
    };
    kind() == Some(0)
}

pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    #[inline(always)]
    pub fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub fn i16(&mut self) -> Option<i16> {
        self.array().map(i16::from_be_bytes)
    }

    pub fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_be_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_be_bytes)
    }

    /// A number in zigzag: 0, -1, 1, -2 ...; seven bits a byte, the lowest first. Inlined, like all that runs for each field, though
    /// images have this crate built for size.
    #[inline(always)]
    fn varint(&mut self) -> Option<i64> {
        let value = match self.0 {
            // Nearly all.
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

    /// Bytes behind their length; null is -1.
    fn bytes(&mut self) -> Option<Option<&'a [u8]>> {
        match self.varint()? {
            -1 => Some(None),
            length => self.take(usize::try_from(length).ok()?).map(Some),
        }
    }

    /// The next record and its offset within the batch.
    fn record(&mut self, head: &Head) -> Option<(i64, FetchedRecord)> {
        let length = usize::try_from(self.varint()?).ok()?;
        let mut reader = Reader(self.take(length)?);
        let _attributes: [u8; 1] = reader.array()?;
        let (time_delta, offset_delta) = (reader.varint()?, reader.varint()?);
        let (key, value) = (reader.bytes()?, reader.bytes()?);
        let mut headers = Vec::new();
        for _ in 0..Some(reader.varint()?).filter(|count| *count <= HEADERS_MAX)? {
            let name = String::from_utf8_lossy(reader.bytes()??).into_owned();
            headers.push((name, reader.bytes()?.map(<[u8]>::to_vec)));
        }
        let timestamp_ms = if head.attributes & LOG_APPEND_TIME != 0 {
            head.last_ms
        } else {
            head.first_ms.checked_add(time_delta)?
        };
        let offset = head.base.checked_add(offset_delta)?;
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

/// What [`put_varint`] takes for `value`, bytes.
#[inline(always)]
fn length_of(value: i64) -> usize {
    // Its bits by seven, rounded up, without a division.
    ((zigzag(value) | 1).ilog2() as usize * 9 + 73) / 64
}

/// What [`put_bytes`] takes for `bytes`, bytes.
#[inline(always)]
fn length_with(bytes: Option<&[u8]>) -> usize {
    bytes.map_or(1, |it| length_of(it.len() as i64) + it.len())
}

#[inline(always)]
fn put_varint(out: &mut Vec<u8>, value: i64) {
    let value = zigzag(value);
    // Nearly all.
    if value < 0x80 { out.push(value as u8) } else { put_long_varint(out, value) }
}

fn put_long_varint(out: &mut Vec<u8>, mut rest: u64) {
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[inline(always)]
fn put_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            put_varint(out, bytes.len() as i64);
            out.extend_from_slice(bytes);
        }
        None => put_varint(out, -1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLENTY: usize = 1 << 20;

    fn stamp(producer: i64) -> Stamp {
        Stamp { producer, epoch: 0, sequence: 0 }
    }

    fn plain(records: &[NewRecord<'_>], timestamp_ms: i64, stamp: Stamp) -> Vec<u8> {
        let bytes = encode_records(records);
        encode(&bytes, records.len(), timestamp_ms, stamp, Compression::None).unwrap()
    }

    fn values(values: &[&str]) -> Vec<u8> {
        let records: Vec<NewRecord<'_>> = values
            .iter()
            .map(|it| NewRecord { value: Some(it.as_bytes()), ..NewRecord::default() })
            .collect();
        plain(&records, 7, stamp(1))
    }

    /// The batch as the broker stores it, from offset `base` on.
    fn at(base: i64, batch: &[u8]) -> Vec<u8> {
        let mut batch = batch.to_vec();
        batch[..8].copy_from_slice(&base.to_be_bytes());
        batch
    }

    /// The batch with other bytes from `place` on, and the right checksum.
    fn with(batch: &[u8], place: usize, bytes: &[u8]) -> Vec<u8> {
        let mut batch = batch.to_vec();
        batch[place..place + bytes.len()].copy_from_slice(bytes);
        let checksum = crc32c(&batch[CHECKED_FROM..]);
        batch[CHECKED_FROM - 4..CHECKED_FROM].copy_from_slice(&checksum.to_be_bytes());
        batch
    }

    /// The batch with its records packed as `codec`.
    #[cfg(feature = "gzip")]
    fn packed(batch: &[u8], codec: u8, records: &[u8]) -> Vec<u8> {
        let mut packed = [&batch[..HEAD], records].concat();
        let length = (packed.len() - BEFORE_LENGTH) as i32;
        packed[8..12].copy_from_slice(&length.to_be_bytes());
        with(&packed, 21, &[0, codec])
    }

    fn read(bytes: &[u8], next: i64) -> Decoded {
        decode(bytes, next, Vec::new(), &mut PLENTY.clone(), PLENTY)
    }

    fn offsets(decoded: &Decoded) -> Vec<i64> {
        decoded.records.iter().map(|it| it.offset).collect()
    }

    const ATTRIBUTES: usize = 21;
    const LAST_DELTA: usize = 23;
    const COUNT: usize = 57;

    proptest! {
        #[test]
        fn what_is_written_is_read(
            records in prop::collection::vec(record(), 1..20),
            base in 0..i64::MAX / 2,
            skip in 0..20i64,
            (name, compression) in prop::sample::select(Compression::ALL.to_vec()),
        ) {
            let headers: Vec<Vec<_>> = records
                .iter()
                .map(|it| it.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect())
                .collect();
            let out: Vec<NewRecord<'_>> = records
                .iter()
                .zip(&headers)
                .map(|(it, headers)| NewRecord { key: it.key.as_deref(), value: it.value.as_deref(), headers })
                .collect();
            let bytes = encode_records(&out);
            let batch = encode(&bytes, out.len(), 1_700_000_000_000, stamp(5), compression);
            let batch = match codec::pack(compression, &[]) {
                Ok(_) => batch.unwrap(),
                Err(words) => {
                    prop_assert_eq!(&words, &format!("this program was built without {name}"));
                    prop_assert_eq!(batch, Err(words));
                    return Ok(());
                }
            };
            prop_assert!(batch.len() <= HEAD + bytes.len());
            let decoded = read(&at(base, &batch), base + skip.min(records.len() as i64));
            prop_assert_eq!(decoded.poison, None);
            prop_assert_eq!(decoded.next, base + records.len() as i64);
            let expected: Vec<FetchedRecord> = (base..)
                .zip(records)
                .map(|(offset, it)| FetchedRecord { offset, timestamp_ms: 1_700_000_000_000, ..it })
                .skip(skip as usize)
                .collect();
            prop_assert_eq!(decoded.records, expected);
        }

        #[test]
        fn whatever_comes_is_read_or_refused_within_its_budget(
            changes in prop::collection::vec((0..400usize, any::<u8>()), 0..6),
            checksum in any::<bool>(),
        ) {
            let mut bytes = [at(0, &values(&["one", "two", "three"])), at(3, &values(&["four"; 9]))].concat();
            for (place, byte) in changes {
                let place = place % bytes.len();
                bytes[place] = byte;
            }
            if checksum {
                // Past the checksum, which would catch nearly all.
                bytes = with(&bytes, 0, &[]);
            }
            let mut budget = 4096;
            let decoded = decode(&bytes, 0, vec![(1, 2)], &mut budget, 4096);
            let taken: usize = decoded.records.iter().map(memory).sum();
            prop_assert!(taken <= 4096 + 4096);
            prop_assert!(offsets(&decoded).is_sorted_by(|a, b| a < b));
            prop_assert!(decoded.next > 0 || decoded.poison.is_some() || decoded.records.is_empty());
        }

        #[test]
        fn bytes_of_any_kind_are_no_danger(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            read(&bytes, 0);
            for codec in 1..=7 {
                let _ = codec::unpack(codec, &bytes, 1000);
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
    fn batches_follow_each_other_and_the_last_may_be_cut() {
        let bytes = [at(10, &values(&["a", "b"])), at(20, &values(&["c"]))].concat();
        assert_eq!(offsets(&read(&bytes, 10)), [10, 11, 20]);
        let cut = read(&bytes[..bytes.len() - 1], 10);
        assert_eq!((offsets(&cut), cut.next, cut.poison), (vec![10, 11], 12, None));
        // Nothing at all would be asked for again and again.
        assert!(read(&bytes[..60], 10).poison.is_some());
        assert_eq!(read(&[], 10).poison, None);
    }

    #[test]
    fn a_batch_ends_where_it_says_though_compaction_took_its_last_records() {
        let batch = with(&values(&["a", "b"]), LAST_DELTA, &9i32.to_be_bytes());
        let decoded = read(&at(5, &batch), 5);
        assert_eq!((offsets(&decoded), decoded.next), (vec![5, 6], 15));
        // All of them.
        let empty = [&values(&[])[..HEAD], &[]].concat();
        let empty = with(&with(&empty, LAST_DELTA, &3i32.to_be_bytes()), COUNT, &[0; 4]);
        let decoded = read(&at(5, &empty), 5);
        assert_eq!((decoded.records.len(), decoded.next, decoded.poison), (0, 9, None));
    }

    #[test]
    fn what_was_aborted_is_left_out_until_its_marker() {
        let of = |producer: i64, attributes: i16, base: i64| {
            let batch = with(&values(&["x"]), ATTRIBUTES, &attributes.to_be_bytes());
            at(base, &with(&batch, 43, &producer.to_be_bytes()))
        };
        let marker = |producer: i64, kind: u8, base: i64| {
            let key = [0, 0, 0, kind];
            let records =
                [NewRecord { key: Some(&key), value: Some(&[0; 6]), ..NewRecord::default() }];
            let batch = plain(&records, 0, stamp(producer));
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
        let decoded = decode(&bytes, 0, vec![(1, 0)], &mut PLENTY.clone(), PLENTY);
        assert_eq!((offsets(&decoded), decoded.next), (vec![1, 2, 4], 7));
    }

    #[test]
    fn the_clock_is_the_producers_or_the_brokers() {
        let batch = with(&values(&["x"]), 35, &99i64.to_be_bytes());
        assert_eq!(read(&at(0, &batch), 0).records[0].timestamp_ms, 7);
        let stamped = with(&batch, ATTRIBUTES, &LOG_APPEND_TIME.to_be_bytes());
        assert_eq!(read(&at(0, &stamped), 0).records[0].timestamp_ms, 99);
    }

    #[test]
    fn what_can_not_be_read_stops_there_and_says_why() {
        let good = at(0, &values(&["a"]));
        for (bad, words) in [
            (with(&at(1, &values(&["b"])), ATTRIBUTES, &[0, 7]), "codec 7 is not known"),
            (with(&at(1, &values(&["b"])), COUNT, &5i32.to_be_bytes()), "a record is cut"),
            (with(&at(1, &values(&["b"])), COUNT, &i32::MAX.to_be_bytes()), "a record is cut"),
            (with(&at(1, &values(&["b"])), COUNT, &[0; 4]), "longer than its records"),
            (with(&at(1, &values(&["b", "c"])), LAST_DELTA, &[0; 4]), "outside its batch"),
            (with(&at(1, &values(&["b"])), LAST_DELTA, &[0xff; 4]), "offsets that can't be"),
            (at(i64::MAX, &values(&["b"])), "offsets that can't be"),
            (
                {
                    let mut it = at(1, &values(&["b"]));
                    it[16] = 1;
                    it
                },
                "format 1",
            ),
            (
                {
                    let mut it = at(1, &values(&["b"]));
                    it[68] ^= 1;
                    it
                },
                "another checksum",
            ),
            (
                {
                    let mut it = at(1, &values(&["b"]));
                    it[8..12].copy_from_slice(&[0xff; 4]);
                    it
                },
                "cut",
            ),
        ] {
            let decoded = read(&[good.clone(), bad].concat(), 0);
            assert_eq!(offsets(&decoded), [0], "{words}");
            assert_eq!(decoded.next, 1);
            let said = decoded.poison.unwrap();
            assert!(said.contains(words), "{said}");
        }
    }

    #[test]
    #[cfg(feature = "gzip")]
    fn what_is_packed_small_may_not_be_unpacked_large() {
        let text = vec![b'x'; 1 << 16];
        let records = encode_records(&[NewRecord { value: Some(&text), ..NewRecord::default() }]);
        let batch = values(&["x"]);
        let mut gzip = flate2::read::GzEncoder::new(&*records, flate2::Compression::best());
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut gzip, &mut bytes).unwrap();
        let batch = at(0, &packed(&batch, 1, &bytes));
        assert_eq!(read(&batch, 0).records[0].value.as_deref(), Some(&*text));
        let decoded = decode(&batch, 0, Vec::new(), &mut PLENTY.clone(), 1 << 16);
        assert!(decoded.poison.unwrap().contains("larger than 65536"));
    }

    #[test]
    fn what_packing_makes_smaller_is_packed() {
        let large = [b'x'; 200_000];
        for (name, compression) in Compression::ALL {
            let (Ok(_), true) = (codec::pack(compression, &[]), name != "none") else { continue };
            let encoded = |value: &[u8]| {
                let records = [NewRecord { value: Some(value), ..NewRecord::default() }];
                encode(&encode_records(&records), 1, 7, stamp(1), compression).unwrap()
            };
            let packed = encoded(&large);
            assert!(packed.len() < large.len() / 10, "{name}: {}", packed.len());
            assert_eq!(packed[ATTRIBUTES..][..2], (compression as i16).to_be_bytes(), "{name}");
            assert_eq!(read(&packed, 0).records[0].value.as_deref(), Some(&large[..]), "{name}");
            let small = encoded(b"x");
            assert_eq!(small, values(&["x"]), "{name}");
        }
    }

    #[test]
    fn the_budget_ends_a_reply_between_batches() {
        let bytes =
            [at(0, &values(&["a"])), at(1, &values(&["b"])), at(2, &values(&["c"]))].concat();
        let decoded = decode(&bytes, 0, Vec::new(), &mut 150, PLENTY);
        assert_eq!((offsets(&decoded), decoded.next, decoded.poison), (vec![0, 1], 2, None));
    }

    #[test]
    fn numbers_are_written_as_kafka_does() {
        for (number, bytes) in [
            (0, &[0][..]),
            (-1, &[1]),
            (63, &[126]),
            (-64, &[127]),
            (64, &[128, 1]),
            (i64::MIN, &[255, 255, 255, 255, 255, 255, 255, 255, 255, 1]),
        ] {
            let mut written = Vec::new();
            put_varint(&mut written, number);
            assert_eq!(written, bytes);
            assert_eq!(Reader(bytes).varint(), Some(number));
        }
        for bits in 0..63 {
            for number in [1 << bits, (1 << bits) - 1, -(1 << bits)] {
                let mut written = Vec::new();
                put_varint(&mut written, number);
                assert_eq!(written.len(), length_of(number), "{number}");
            }
        }
        assert_eq!(Reader(&[255; 11]).varint(), None);
    }
}
