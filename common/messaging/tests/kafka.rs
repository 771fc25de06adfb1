//! Tests of clients, producers and the consumer with the real Kafka cluster at `KAFKA_BROKERS`.

#![allow(clippy::unwrap_used, reason = "tests")]

mod kafka_support;

use bank::limits::BATCH_BYTES_MAX;
use kafka_support::{
    OpenTransaction, PATIENCE, Reader, beginning, built_in, client, config, java_client, numbered,
    producer_config, start_positions, topic,
};
use messaging::consumer::{Consumer, OffsetReset};
use messaging::producer::{Outgoing, Producer, ProducerConfig, Sender};
use messaging::{Batch, Compression, ErrorKind, FetchedRecord, NewRecord, Position};
use service::env::Env;
use service::shutdown::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

#[test]
#[ignore = "needs Kafka: make test-integration"]
fn sent_records_are_read_once_and_in_order() {
    let topic = topic("round", 9, &[]);
    let records = numbered(topic, 0..5000);
    let mut sender = Sender::new(&producer_config(), &Shutdown::default());
    assert!(sender.send_all(&records).iter().all(Result::is_ok));
    let mut reader = Reader::new(topic, 9);
    let partitions = reader.read(5000);
    assert!(partitions.values().flatten().all(|it| it.key.is_some()));
    for records in partitions.values() {
        let numbers: Vec<u32> = records
            .iter()
            .map(|it| String::from_utf8_lossy(it.key.as_ref().unwrap())[4..].parse().unwrap())
            .collect();
        assert!(numbers.is_sorted());
    }
    assert_eq!(partitions.len(), 9);
}

#[test]
#[ignore = "needs Kafka: make test-integration"]
fn dropped_producer_flushes_its_records() {
    let topic = topic("producer", 3, &[]);
    let producer = Producer::start(producer_config(), &Shutdown::default());
    let first = numbered(topic, 0..1).remove(0);
    producer.send(first).wait().unwrap();
    producer.send_all(numbered(topic, 1..500)).wait().unwrap();
    for record in numbered(topic, 500..1000) {
        let _not_waited_for = producer.send(record);
    }
    drop(producer);
    Reader::new(topic, 3).read(1000);
}

#[test]
#[ignore = "needs Kafka: make test-integration"]
fn committed_offset_is_the_next_start_position() {
    let topic = topic("group", 3, &[]);
    let mut sender = Sender::new(&producer_config(), &Shutdown::default());
    assert!(sender.send_all(&numbered(topic, 0..300)).iter().all(Result::is_ok));
    let start = |offset_reset| start_positions(topic, &[0, 1, 2], offset_reset, PATIENCE);
    let bounds = client().log_range(topic, PATIENCE).unwrap();
    assert_eq!(bounds.iter().map(|(_, end)| end).sum::<i64>(), 300);
    assert!(start(OffsetReset::Earliest).iter().all(|it| it.next == 0));

    let moved = Position { partition: 1, next: 7 };
    client().commit(topic, topic, &[moved], PATIENCE).unwrap();
    let from_end = start(OffsetReset::End);
    assert_eq!(from_end[1], moved);
    assert_eq!(from_end[0].next, bounds[0].1);
    // The end was committed. Therefore records written before the next start are read.
    assert!(sender.send_all(&numbered(topic, 300..600)).iter().all(Result::is_ok));
    assert_eq!(start(OffsetReset::End), from_end);
}

fn send(records: &[Outgoing]) {
    let mut sender = Sender::new(&producer_config(), &Shutdown::default());
    for result in sender.send_all(records) {
        result.unwrap();
    }
}

fn values(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|i| format!("value-{i}")).collect()
}

#[test]
#[ignore = "needs Kafka: make test-integration"]
fn partitions_of_keys_equal_the_java_clients() {
    let theirs = topic("keys-java", 9, &[]);
    java_client(theirs, &["keys:500"]);
    let ours = topic("keys", 9, &[]);
    send(&numbered(ours, 0..500));
    let keys = |topic| {
        let mut reader = Reader::new(topic, 9);
        let keys = |records: &Vec<FetchedRecord>| {
            records.iter().map(|it| it.key.clone()).collect::<Vec<_>>()
        };
        reader.read(500).values().map(keys).collect::<Vec<_>>()
    };
    assert_eq!(keys(theirs), keys(ours));
}

#[test]
#[ignore = "needs Kafka: make test-integration"]
fn records_of_every_codec_are_read() {
    let topic = topic("codecs", 1, &[]);
    java_client(topic, &["none:3", "gzip:3", "none:3", "snappy:3", "lz4:3", "zstd:3", "none:3"]);
    let mut reader = Reader::new(topic, 1);
    reader.read(21);
    assert_eq!(reader.values(), values(0..21));
}

/// Protocol version 0 has no headers. The kafka crate drops timestamps and returns empty values as
/// null.
#[test]
#[ignore = "needs Kafka: make test-integration"]
fn built_in_client_keeps_headers_timestamps_and_nulls() {
    // The time of the first record is in 2009, so brokers would delete it.
    let keeps_all = [("message.timestamp.type", "CreateTime"), ("retention.ms", "-1")];
    let topic = topic("headers", 1, &keeps_all);
    java_client(topic, &["headers:1"]);
    let headers: [(&str, Option<&[u8]>); 2] = [("name", Some(b"two")), ("name", None)];
    let records = vec![
        NewRecord { key: Some(b""), value: None, headers: &headers },
        NewRecord { key: None, value: Some(b""), headers: &[] },
    ];
    let mut writer = client();
    writer.produce(&[Batch { topic, partition: 0, records }], PATIENCE).remove(0).unwrap();
    let mut reader = Reader::new(topic, 1);
    let read = reader.read(3)[&0].clone();
    if !built_in(topic) {
        assert!(read.iter().all(|it| (&it.key, &it.value) == (&None, &None)));
        assert!(read.iter().all(|it| it.timestamp_ms == -1 && it.headers.is_empty()));
        return;
    }
    let named = |value: &str| {
        vec![("name".to_owned(), Some(value.as_bytes().to_vec())), ("name".to_owned(), None)]
    };
    let [java, first, second] = &read[..] else { panic!("{read:?}") };
    let empty = Some(Vec::new());
    assert_eq!((&java.key, &java.value, java.timestamp_ms), (&None, &empty, 1_234_567_890_123));
    assert_eq!((&first.key, &first.value), (&empty, &None));
    assert_eq!((&second.key, &second.value), (&None, &empty));
    assert_eq!(
        [&java.headers, &first.headers, &second.headers],
        [&named("one"), &named("two"), &vec![]]
    );
    assert!(first.timestamp_ms > java.timestamp_ms);
}

/// Returns the codecs of the batches in the log, in order. Reads a segment file of the broker.
fn stored_codecs(topic: &str) -> Vec<Compression> {
    let stack = std::env::var("STACK_DATA_DIR").expect("STACK_DATA_DIR is set by stack.sh with");
    let log = format!("{stack}/kafka-1/data/{topic}-0/00000000000000000000.log");
    let log = std::fs::read(log).unwrap();
    let mut codecs = Vec::new();
    let mut rest = &log[..];
    while !rest.is_empty() {
        // base_offset, batch_length, partition_leader_epoch, magic, crc, attributes
        let length = u32::from_be_bytes(rest[8..12].try_into().unwrap()) as usize;
        assert_eq!(rest[16], 2);
        codecs.push(Compression::ALL[usize::from(rest[22] & 7)].1);
        rest = &rest[12 + length..];
    }
    codecs
}

#[test]
#[ignore = "needs Kafka: make test-integration"]
fn compressed_batches_are_readable_by_the_java_client() {
    let kept = topic("compressed", 1, &[("compression.type", "producer")]);
    let uncompressed = topic("uncompressed", 1, &[]);
    let mut codecs = Vec::new();
    let mut sent = 0;
    for (name, compression) in Compression::ALL {
        let lookup = |variable: &str| match variable {
            "COMPRESSION" => Some(name.to_owned()),
            _ => std::env::var(variable).ok(),
        };
        let Ok(config) = ProducerConfig::from_env(&Env::new(&lookup)) else {
            assert!(matches!(compression, Compression::Lz4 | Compression::Zstd) && !built_in(kept));
            continue;
        };
        let mut sender = Sender::new(&config, &Shutdown::default());
        for topic in [kept, uncompressed] {
            assert!(sender.send_all(&numbered(topic, sent..sent + 500)).iter().all(Result::is_ok));
        }
        codecs.push(compression);
        sent += 500;
    }
    assert_eq!(stored_codecs(kept), codecs);
    // The topics of the bank have the same config.
    assert!(stored_codecs(uncompressed).iter().all(|it| *it == Compression::None));
    let java = java_client(kept, &[&format!("read:{sent}")]);
    assert_eq!(java.lines().collect::<Vec<_>>(), values(0..sent));
    for topic in [kept, uncompressed] {
        let mut reader = Reader::new(topic, 1);
        reader.read(sent as usize);
        assert_eq!(reader.values(), values(0..sent));
    }
}

/// Without the workaround, the kafka crate silently drops the uncompressed records here.
#[test]
#[ignore = "needs Kafka: make test-integration"]
fn records_before_a_compressed_batch_are_read() {
    let topic = topic("stored-compressed", 1, &[("compression.type", "producer")]);
    java_client(topic, &["none:3", "gzip:3", "none:3", "snappy:3", "gzip:3", "none:3"]);
    let mut reader = Reader::new(topic, 1);
    reader.read(18);
    assert_eq!(reader.values(), values(0..18));
}

#[test]
#[ignore = "needs Kafka: make test-integration"]
fn undecodable_batch_blocks_only_its_partition() {
    for codec in ["lz4:3", "zstd:3"] {
        let topic = topic("undecodable", 9, &[("compression.type", "producer")]);
        java_client(topic, &["none:2", codec]);
        let records = numbered(topic, 0..900);
        send(&records);
        let in_partition_0 = client().log_range(topic, PATIENCE).unwrap()[0].1 - 5;
        assert!(in_partition_0 > 10);
        let mut reader = Reader::new(topic, 9);
        if built_in(topic) {
            // The built-in client supports all codecs.
            reader.read(5 + 900);
            continue;
        }
        reader.read(2 + 900 - in_partition_0 as usize);
        assert_eq!(reader.partitions[&0].len(), 2, "{codec}");

        let positions = beginning(9).into_iter().map(|it| Position { next: 2, ..it });
        let positions: Vec<Position> = positions.collect();
        let mut client = client();
        let wait = Duration::from_millis(500);
        // The first fetch finds the partition, the second one finds the batch.
        client.fetch(topic, &positions, wait).unwrap();
        for data in client.fetch(topic, &positions, wait).unwrap() {
            let kind = data.error.map(|err| err.kind);
            assert_eq!(kind, (data.partition == 0).then_some(ErrorKind::Undecodable), "{codec}");
        }
    }
}

#[test]
#[ignore = "needs Kafka: make test-integration"]
fn transaction_markers_are_skipped() {
    let topic = topic("transactions", 1, &[]);
    // The log: 3 records, marker, 2 aborted records, marker, 1 record, marker.
    java_client(topic, &["commit:3", "abort:2", "commit:1"]);
    // Protocol version 0 also returns aborted records.
    let expected: &[i64] = if built_in(topic) { &[0, 1, 2, 7] } else { &[0, 1, 2, 4, 5, 7] };
    let mut reader = Reader::new(topic, 1);
    reader.read(expected.len());
    let offsets: Vec<i64> = reader.partitions[&0].iter().map(|it| it.offset).collect();
    assert_eq!(offsets, expected);

    // The log ends with a marker. The position reaches the end, and further fetches are empty.
    let mut client = client();
    let mut position = Position { partition: 0, next: 8 };
    let wait = Duration::from_millis(500);
    let data = client.fetch(topic, &[position], wait).unwrap().remove(0);
    assert_eq!((data.next, data.end, data.records.len()), (9, 9, 0));
    position.next = data.next;
    let start = Instant::now();
    let data = client.fetch(topic, &[position], wait).unwrap().remove(0);
    assert_eq!((data.next, data.records.len()), (9, 0));
    assert!(start.elapsed() >= wait / 2, "{:?}", start.elapsed());

    send(&numbered(topic, 0..1));
    reader.read(expected.len() + 1);
}

/// Records of the partition after the open transaction are also read only after the commit.
#[test]
#[ignore = "needs Kafka: make test-integration"]
fn open_transaction_is_read_after_commit() {
    let topic = topic("open-transaction", 1, &[]);
    java_client(topic, &["none:2"]);
    let open = OpenTransaction::begin(topic, 3);
    java_client(topic, &["none:2"]);
    let mut reader = Reader::new(topic, 1);
    if !built_in(topic) {
        // Protocol version 0 has no transactions.
        reader.read(7);
        open.commit();
        return;
    }
    reader.read(2);
    let mut client = client();
    assert_eq!(client.log_range(topic, PATIENCE).unwrap(), [(0, 2)]);
    let start = Instant::now();
    loop {
        let position = Position { partition: 0, next: 2 };
        let data = client.fetch(topic, &[position], Duration::from_millis(500)).unwrap().remove(0);
        assert!(data.error.is_none(), "{data:?}");
        assert_eq!((data.next, data.records.len()), (2, 0));
        // The fetch returned although the log has more records.
        if data.end == 7 {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "{data:?}");
    }
    open.commit();
    reader.read(7);
    assert_eq!(reader.values(), [values(0..2), values(0..3), values(0..2)].concat());
    assert_eq!(reader.partitions[&0].last().unwrap().offset, 6);
}

#[test]
#[ignore = "needs Kafka: make test-integration"]
fn record_above_fetch_size_does_not_delay_others() {
    let topic = topic("large", 9, &[]);
    let mut records = numbered(topic, 0..2000);
    for i in [300, 301, 1500] {
        records[i].value = vec![b'x'; 200_000];
    }
    records[1000].value = vec![b'y'; BATCH_BYTES_MAX - 200];
    send(&records);
    let mut reader = Reader::new(topic, 9);
    reader.read(2000);
    let mut sizes: Vec<usize> = reader.values().iter().map(String::len).collect();
    sizes.sort_unstable();
    assert_eq!(sizes[1995..], [10, 200_000, 200_000, 200_000, BATCH_BYTES_MAX - 200]);
}

#[test]
#[ignore = "needs Kafka: make test-integration"]
fn batches_above_fetch_size_are_read() {
    let topic = topic("large-batches", 1, &[]);
    let config = ProducerConfig { batch_records: 100_000, ..producer_config() };
    let mut sender = Sender::new(&config, &Shutdown::default());
    let records = numbered(topic, 0..50_000);
    assert!(sender.send_all(&records).iter().all(Result::is_ok));
    let mut reader = Reader::new(topic, 1);
    reader.read(50_000);
    assert_eq!(reader.values(), values(0..50_000));
}

#[test]
#[ignore = "needs Kafka: make test-integration"]
fn rejected_record_does_not_fail_the_others() {
    let topic = topic("small", 1, &[("max.message.bytes", "2000")]);
    let mut records = numbered(topic, 0..100);
    records[60].value = vec![b'x'; 3000];
    let mut sender = Sender::new(&producer_config(), &Shutdown::default());
    let results = sender.send_all(&records);
    for (i, result) in results.into_iter().enumerate() {
        assert_eq!(result.err().map(|err| err.kind), (i == 60).then_some(ErrorKind::Message));
    }
    let mut reader = Reader::new(topic, 1);
    reader.read(99);
    assert_eq!(reader.values(), [values(0..60), values(61..100)].concat());
}

#[test]
#[ignore = "needs Kafka: make test-integration"]
fn deleted_records_are_skipped() {
    let topic = topic("deleted", 2, &[]);
    send(&numbered(topic, 0..200));
    let bounds = client().log_range(topic, PATIENCE).unwrap();
    java_client(topic, &["delete:50"]);
    let mut reader = Reader::new(topic, 2);
    reader.read(150);
    assert_eq!(reader.partitions[&0][0].offset, 50);
    assert_eq!(reader.partitions[&1].len() as i64, bounds[1].1);

    client().commit(topic, topic, &[Position { partition: 0, next: 10 }], PATIENCE).unwrap();
    let offset_reset = OffsetReset::End;
    let start = start_positions(topic, &[0], offset_reset, PATIENCE);
    assert_eq!(start, [Position { partition: 0, next: 50 }]);
}

/// Retention deletes whole segments, except for the active one.
#[test]
#[ignore = "needs Kafka: make test-integration"]
fn records_deleted_by_retention_are_skipped() {
    let topic = topic("retention", 1, &[("segment.ms", "1"), ("retention.bytes", "1")]);
    // Each call writes a batch into a new segment.
    send(&numbered(topic, 0..100));
    client().commit(topic, topic, &[Position { partition: 0, next: 50 }], PATIENCE).unwrap();
    send(&numbered(topic, 100..200));
    send(&numbered(topic, 200..210));
    let start = Instant::now();
    while client().log_range(topic, PATIENCE).unwrap() != [(200, 210)] {
        // A broker checks retention for the first time 30 s after its start.
        assert!(start.elapsed() < 3 * PATIENCE);
        thread::sleep(Duration::from_millis(500));
    }
    // Both start positions and a consumer's own position may be at a deleted offset.
    let offset_reset = OffsetReset::End;
    let start = start_positions(topic, &[0], offset_reset, PATIENCE);
    assert_eq!(start, [Position { partition: 0, next: 200 }]);
    let mut reader = Reader::new(topic, 1);
    reader.consumer = Consumer::start(&config(), topic, vec![Position { partition: 0, next: 150 }]);
    reader.read(10);
    assert_eq!(reader.values(), values(200..210));
}

#[test]
#[ignore = "needs Kafka: make test-integration"]
fn compaction_gaps_are_skipped() {
    let configs = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "1"),
        ("min.cleanable.dirty.ratio", "0.001"),
        ("max.compaction.lag.ms", "1"),
    ];
    let topic = topic("compacted", 1, &configs);
    let record = |key: &str| Outgoing { topic, key: key.into(), value: b"x".to_vec() };
    // Each call writes a batch into a new segment.
    send(&[record("a"), record("b"), record("c")]);
    send(&[record("b"), record("c")]);
    send(&[record("d")]);
    let offsets = |next| {
        let mut consumer = Consumer::start(&config(), topic, vec![Position { partition: 0, next }]);
        let mut offsets = Vec::new();
        while offsets.last() != Some(&5) {
            for data in consumer.poll(PATIENCE).unwrap() {
                offsets.extend(data.records.iter().map(|it| it.offset));
            }
        }
        offsets
    };
    // The log cleaner runs every `log.cleaner.backoff.ms`, by default 15 s.
    let start = Instant::now();
    while offsets(0) != [0, 3, 4, 5] {
        assert!(start.elapsed() < 3 * PATIENCE);
        thread::sleep(Duration::from_millis(500));
    }
    // These offsets are inside the first batch, of which only offset 0 is left.
    assert_eq!(offsets(1), [3, 4, 5]);
    assert_eq!(offsets(2), [3, 4, 5]);
}
