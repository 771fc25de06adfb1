//! Tests of topics that are missing, recreated or grow while clients use them, with the real Kafka
//! cluster at `KAFKA_BROKERS`. Its brokers have `auto.create.topics.enable=true`.

#![allow(clippy::unwrap_used, reason = "tests")]

mod kafka_support;

use kafka_support::{
    PATIENCE, auto_create_topic, beginning, client, config, grow_topic, numbered, producer_config,
    recreate_topic, topic, topic_exists, unique,
};
use messaging::consumer::{Consumer, commit_positions, group_positions};
use messaging::producer::Sender;
use messaging::{Batch, ErrorKind, NewRecord, Position};
use service::shutdown::Shutdown;
use std::collections::HashSet;
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

#[test]
#[ignore = "needs Kafka: make test-integration"]
fn recreated_topic_has_another_id() {
    let (kept, recreated) = (topic("kept", 1, &[]), topic("recreated", 1, &[]));
    let mut client = client();
    let before = client.topic_ids(&[kept, recreated], PATIENCE).unwrap();
    assert!(before.iter().all(Option::is_some), "{before:?}");
    assert_ne!(before[0], before[1]);
    assert_eq!(client.topic_ids(&[recreated, kept], PATIENCE).unwrap(), [before[1], before[0]]);
    recreate_topic(recreated, 1);
    let after = client.topic_ids(&[kept, recreated], PATIENCE).unwrap();
    assert_eq!(after[0], before[0]);
    assert_ne!(after[1], before[1]);
    assert!(after[1].is_some());
}

#[test]
#[ignore = "needs Kafka: make test-integration"]
fn missing_topic_is_never_created() {
    let control = unique("auto-created");
    auto_create_topic(control);
    let start = Instant::now();
    while !topic_exists(control) {
        assert!(start.elapsed() < PATIENCE, "the brokers must have auto.create.topics.enable=true");
        thread::sleep(Duration::from_millis(20));
    }

    let missing = unique("missing");
    let record = NewRecord { value: Some(b"x"), ..NewRecord::default() };
    let batch = Batch { topic: missing, partition: 0, records: vec![record] };
    let positions = [Position { partition: 0, next: 0 }];
    let wait = Duration::from_millis(500);
    let errors = [
        client().topic_ids(&[missing], wait).unwrap_err(),
        client().leaders(missing, wait).unwrap_err(),
        client().produce(&[batch], wait).remove(0).unwrap_err(),
        client().fetch(missing, &positions, wait).unwrap().remove(0).error.unwrap(),
        client().log_range(missing, wait).unwrap_err(),
        client().committed(missing, missing, wait).unwrap_err(),
        client().commit(missing, missing, &positions, wait).unwrap_err(),
    ];
    for err in errors {
        assert_eq!(err.kind, ErrorKind::Retry, "{err}");
    }
    assert!(!topic_exists(missing));
}

fn send(topic: &'static str, numbers: Range<u32>) {
    let mut sender = Sender::new(&producer_config(), &Shutdown::default());
    for result in sender.send_all(&numbered(topic, numbers)) {
        result.unwrap();
    }
}

/// Reads until all values of `numbers` are read. Returns the number of records.
fn read(consumer: &mut Consumer, numbers: Range<u32>) -> usize {
    let mut missing: HashSet<String> = numbers.map(|i| format!("value-{i}")).collect();
    let (start, mut records) = (Instant::now(), 0);
    while !missing.is_empty() {
        assert!(start.elapsed() < PATIENCE, "{} records are not read", missing.len());
        for data in consumer.poll(Duration::from_millis(100)).unwrap() {
            records += data.records.len();
            for record in data.records {
                missing.remove(&String::from_utf8(record.value.unwrap()).unwrap());
            }
        }
    }
    records
}

#[test]
#[ignore = "needs Kafka: make test-integration"]
fn recreated_topic_is_read_from_its_beginning() {
    let topic = topic("recreated-while-reading", 3, &[]);
    send(topic, 0..1100);
    let mut consumer = Consumer::start(&config(), topic, beginning(3));
    read(&mut consumer, 0..1100);
    recreate_topic(topic, 3);
    // More records than before: the former positions are within the new log.
    send(topic, 2000..3800);
    read(&mut consumer, 2000..3800);
}

/// While the caller does not poll and the buffer is full, no fetch is in flight whose error would
/// show the deletion.
#[test]
#[ignore = "needs Kafka: make test-integration"]
fn topic_recreated_between_polls_is_read() {
    let topic = topic("recreated-between-polls", 1, &[]);
    send(topic, 0..10_000);
    let mut consumer = Consumer::start(&config(), topic, beginning(1));
    read(&mut consumer, 0..100);
    recreate_topic(topic, 1);
    send(topic, 20_000..35_000);
    read(&mut consumer, 20_000..35_000);
}

#[test]
#[ignore = "needs Kafka: make test-integration"]
fn bound_consumer_fails_when_its_topic_is_recreated() {
    let topic = topic("recreated-and-bound", 3, &[]);
    send(topic, 0..300);
    let group = topic;
    let stop = Shutdown::default();
    let start = || group_positions(&mut *client(), group, topic, None, PATIENCE, &stop).unwrap();
    let first = start();
    let mut consumer = Consumer::start_in(&config(), topic, first.topic_id, first.positions);
    read(&mut consumer, 0..300);
    let ends = client().log_range(topic, PATIENCE).unwrap();
    let position = |(partition, (_, next)): (i32, (i64, i64))| Position { partition, next };
    let ends: Vec<Position> = (0..).zip(ends).map(position).collect();
    let commit = || {
        let id = first.topic_id;
        commit_positions(&mut *client(), group, topic, id, &ends, PATIENCE).unwrap();
    };
    commit();
    assert_eq!(start().positions, ends);

    recreate_topic(topic, 3);
    send(topic, 2000..3800);
    let start_wait = Instant::now();
    let err = loop {
        assert!(start_wait.elapsed() < PATIENCE);
        // Until it is noticed, records may be returned.
        if let Err(err) = consumer.poll(Duration::from_millis(100)) {
            break err;
        }
    };
    assert_eq!(err.kind, ErrorKind::Position, "{err}");
    // Kafka has deleted the offsets with the topic. This consumer commits them again: its former
    // position.
    commit();
    let second = start();
    assert_ne!(second.topic_id, first.topic_id);
    assert!(second.positions.iter().all(|it| it.next == 0), "{second:?}");
    let mut consumer = Consumer::start_in(&config(), topic, second.topic_id, second.positions);
    assert_eq!(read(&mut consumer, 2000..3800), 1800);
}

#[test]
#[ignore = "needs Kafka: make test-integration"]
fn new_partitions_are_read_or_counted() {
    let topic = topic("growing", 2, &[]);
    send(topic, 0..100);
    let mut all = Consumer::start_all(&config(), topic, beginning(2));
    let mut two = Consumer::start(&config(), topic, beginning(2));
    read(&mut all, 0..100);
    read(&mut two, 0..100);
    grow_topic(topic, 5);
    send(topic, 100..1000);
    read(&mut all, 100..1000);
    assert_eq!(client().describe_topic(topic, PATIENCE).unwrap().leaders.len(), 5);
    let start = Instant::now();
    while two.partition_count() != Some(5) {
        assert!(start.elapsed() < PATIENCE, "{:?}", two.partition_count());
        two.poll(Duration::from_millis(100)).unwrap();
    }
}
