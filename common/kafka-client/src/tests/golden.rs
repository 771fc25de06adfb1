//! Record batches of the Java client and of librdkafka, which golden/make.sh has recorded: the same
//! records with each codec.

use crate::record_batch::{self, Decoded};
use crate::{Compression, FetchedRecord, Header};

fn golden() -> [(&'static str, Compression, &'static [u8]); 10] {
    macro_rules! by {
        ($name:literal, $codec:ident) => {
            ($name, Compression::$codec, include_bytes!(concat!("../../golden/", $name, ".bin")))
        };
    }
    [
        by!("java-none", None),
        by!("java-gzip", Gzip),
        by!("java-snappy", Snappy),
        by!("java-lz4", Lz4),
        by!("java-zstd", Zstd),
        by!("librdkafka-none", None),
        by!("librdkafka-gzip", Gzip),
        by!("librdkafka-snappy", Snappy),
        by!("librdkafka-lz4", Lz4),
        by!("librdkafka-zstd", Zstd),
    ]
}

/// The records that golden.py and Golden.java produce.
fn written(compression: Compression) -> Vec<FetchedRecord> {
    let times = if compression == Compression::None { 10 } else { 3000 };
    let text = |text: String| Some(text.into_bytes());
    let header = |name: &str, value: Option<&[u8]>| -> Header {
        (name.to_owned(), value.map(<[u8]>::to_vec))
    };
    let headers =
        [header("name", Some(b"one")), header("name", None), header("é", Some(&[0, 0xff]))];
    let record = |offset: i64| FetchedRecord {
        offset,
        key: [None, Some(Vec::new()), text(format!("key-{offset}"))][(offset % 3) as usize].clone(),
        value: match offset % 4 {
            0 => None,
            1 => Some(Vec::new()),
            2 => text(format!("value-{offset}")),
            _ => text(format!("words of {offset} ").repeat(times)),
        },
        timestamp_ms: 1_700_000_000_000 + 10 * offset,
        headers: if offset % 5 == 0 { headers.to_vec() } else { Vec::new() },
    };
    (0..12).map(record).collect()
}

fn decode(bytes: &[u8], from: i64) -> Decoded {
    record_batch::decode(bytes, from, Vec::new(), &mut (1 << 30), 1 << 20)
}

#[test]
fn batches_of_java_and_librdkafka_are_decoded() {
    for (name, compression, bytes) in golden() {
        let attributes = u16::from_be_bytes([bytes[21], bytes[22]]);
        assert_eq!(attributes & 7, compression as u16, "{name}: codec of the batch");
        let decoded = decode(bytes, 0);
        if let Err(why) = crate::codec::compress(compression, &[]) {
            assert_eq!(decoded.undecodable, Some(why), "{name}");
            continue;
        }
        assert_eq!(decoded.undecodable, None, "{name}");
        assert_eq!(decoded.next, 12, "{name}");
        let written = written(compression);
        assert!(decoded.records == written, "{name}: {:?}", decoded.records);
        assert!(decode(bytes, 7).records == written[7..], "{name}");
    }
}

#[test]
fn truncated_or_changed_batches_are_undecodable() {
    for (name, _, bytes) in golden() {
        let step = (bytes.len() / 200).max(1);
        for cut in (1..bytes.len()).step_by(step) {
            let decoded = decode(&bytes[..cut], 0);
            assert!(decoded.records.is_empty() && decoded.undecodable.is_some(), "{name} at {cut}");
        }
        // The magic follows base_offset, batch_length and partition_leader_epoch. The checksum
        // covers the bytes after it.
        for at in (16..bytes.len()).step_by(step) {
            let mut changed = bytes.to_vec();
            changed[at] ^= 1;
            let decoded = decode(&changed, 0);
            assert!(decoded.records.is_empty() && decoded.undecodable.is_some(), "{name} at {at}");
        }
    }
}
