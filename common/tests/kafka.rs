//! The wire, the producer and the consumer against a real Kafka, found by `KAFKA_BROKERS`.

mod kafka_support;

use common::kafka::consumer::{Otherwise, start_positions};
use common::kafka::producer::{Producer, Sender};
use common::kafka::wire::Position;
use common::shutdown::Shutdown;
use kafka_support::{PATIENCE, Reader, bus, config, numbered, producer_config, topic};

#[test]
#[ignore = "needs Kafka: make test-integration"]
fn what_is_sent_is_read_once_and_in_order() {
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
fn a_producer_delivers_and_flushes() {
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
fn positions_are_kept_by_the_group() {
    let topic = topic("group", 3, &[]);
    let mut sender = Sender::new(&producer_config(), &Shutdown::default());
    assert!(sender.send_all(&numbered(topic, 0..300)).iter().all(Result::is_ok));
    let start = |otherwise| {
        start_positions(&config(), topic, topic, &[0, 1, 2], otherwise, PATIENCE).unwrap()
    };
    let bounds = bus().bounds(topic, PATIENCE).unwrap();
    assert_eq!(bounds.iter().map(|(_, end)| end).sum::<i64>(), 300);
    assert!(start(Otherwise::Earliest).iter().all(|it| it.next == 0));

    let moved = Position { partition: 1, next: 7 };
    bus().commit(topic, topic, &[moved], PATIENCE).unwrap();
    let from_end = start(Otherwise::End);
    assert_eq!(from_end[1], moved);
    assert_eq!(from_end[0].next, bounds[0].1);
    // The end was committed: records that come before the next start are not skipped.
    assert!(sender.send_all(&numbered(topic, 300..600)).iter().all(Result::is_ok));
    assert_eq!(start(Otherwise::End), from_end);
}
