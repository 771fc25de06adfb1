//! Tests of topics that are missing, recreated or grow while clients use them, with the real Kafka
//! cluster at `KAFKA_BROKERS`. Its brokers have `auto.create.topics.enable=true`.

#![allow(clippy::unwrap_used, reason = "tests")]

mod kafka_support;

use kafka_support::{
    PATIENCE, auto_create_topic, client, recreate_topic, topic, topic_exists, unique,
};
use messaging::{Batch, ErrorKind, NewRecord, Position};
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
