use super::fetcher::{EMPTY_FETCH_MIN, IfRecreated, NewPartitions, Subscription, TOPIC_MAX_AGE};
use super::shared::CALL_SLICE;
use super::start_positions::{
    GroupPositions, OffsetReset, RetryUntil, commit_positions, find_positions, group_positions,
};
use super::{Consumer, FETCHES_AHEAD};
use crate::fake::{Fake, error};
use bank::limits::FETCHED_AHEAD_MEMORY;
use kafka_client::{Error, ErrorKind, FetchedRecord, PartitionData, Position};
use service::shutdown::Shutdown;
use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);

fn consumer(fake: &Fake, partitions: i32) -> Consumer {
    subscribe(fake.clone(), partitions, IfRecreated::ReadNew, NewPartitions::Ignore)
}

fn subscribe(
    fake: Fake,
    partitions: i32,
    if_recreated: IfRecreated,
    new_partitions: NewPartitions,
) -> Consumer {
    let positions = (0..partitions).map(|partition| Position { partition, next: 0 }).collect();
    let subscription =
        Subscription { topic: "t", positions, topic_id: None, if_recreated, new_partitions };
    Consumer::with_connect(Box::new(move || Box::new(fake.clone())), subscription)
}

/// Polls until it has `count` records. Asserts that those of each partition are in order and
/// without duplicates.
fn read(consumer: &mut Consumer, count: usize) -> BTreeMap<i32, Vec<i64>> {
    let mut offsets: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
    let start = Instant::now();
    while offsets.values().map(Vec::len).sum::<usize>() < count {
        assert!(start.elapsed() < PATIENCE, "{offsets:?}");
        for data in consumer.poll(Duration::from_millis(10)).unwrap() {
            let so_far = offsets.entry(data.partition).or_default();
            so_far.extend(data.records.iter().map(|record| record.offset));
            assert!(so_far.is_sorted_by(|a, b| a < b), "{so_far:?}");
            assert_eq!(so_far.last().map_or(data.next, |last| last + 1), data.next);
        }
    }
    offsets
}

#[test]
fn consumer_without_partitions_returns_no_records() {
    let mut consumer = consumer(&Fake::new(&[1]), 0);
    for _ in 0..3 {
        assert!(consumer.poll(2 * CALL_SLICE).unwrap().is_empty());
    }
}

#[test]
fn moved_partition_changes_to_its_leaders_thread() {
    let fake = Fake::new(&[1, 2, 2]);
    let threads = Arc::new(Mutex::new(BTreeMap::<i32, HashSet<ThreadId>>::new()));
    let seen = threads.clone();
    fake.on_fetch(move |positions, _| {
        for it in positions {
            let mut seen = seen.lock().unwrap();
            seen.entry(it.partition).or_default().insert(thread::current().id());
        }
        None
    });
    fake.fill(100);
    let mut consumer = consumer(&fake, 3);
    read(&mut consumer, 300);
    let before = threads.lock().unwrap().clone();
    assert_ne!(before[&0], before[&1]);
    assert_eq!(before[&1], before[&2]);
    assert_eq!(fake.connections(), 2);

    threads.lock().unwrap().clear();
    let moved = AtomicUsize::new(0);
    let seen = threads.clone();
    fake.set_leaders(&[1, 1, 2]);
    fake.on_fetch(move |positions, _| {
        for it in positions {
            let mut seen = seen.lock().unwrap();
            seen.entry(it.partition).or_default().insert(thread::current().id());
        }
        // The old leader responds one last time.
        let lost = positions.iter().position(|it| it.partition == 1)?;
        (moved.fetch_add(1, Ordering::Relaxed) == 0).then(|| {
            let mut data: Vec<PartitionData> =
                positions.iter().map(|it| Fake::empty(*it)).collect();
            data[lost].error = Some(error(ErrorKind::Retry));
            Ok(data)
        })
    });
    fake.fill(100);
    assert_eq!(read(&mut consumer, 300).len(), 3);
    let after = threads.lock().unwrap().clone();
    assert_eq!(after[&0], before[&0]);
    assert!(after[&1].is_superset(&before[&0]));
    assert_eq!(after[&2], before[&2]);
}

#[test]
fn partitions_of_one_leader_share_a_thread() {
    let fake = Fake::new(&[7, 7, 7]);
    fake.fill(10);
    let mut consumer = consumer(&fake, 3);
    read(&mut consumer, 30);
    assert_eq!(fake.connections(), 1);
}

#[test]
fn threads_end_soon_after_drop() {
    let fake = Fake::new(&[1, 2, 3]);
    fake.fill(10);
    let mut consumer = consumer(&fake, 3);
    read(&mut consumer, 30);
    drop(consumer);
    let dropped = Instant::now();
    while fake.connections() > 0 {
        assert!(dropped.elapsed() < Duration::from_secs(2));
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn fetching_stops_until_the_caller_polls() {
    let fake = Fake::new(&[1]);
    let fetches = Arc::new(AtomicUsize::new(0));
    let count = fetches.clone();
    fake.on_fetch(move |positions, _| {
        count.fetch_add(1, Ordering::Relaxed);
        let mut data = Fake::empty(positions[0]);
        data.next += 1;
        Some(Ok(vec![data]))
    });
    let consumer = consumer(&fake, 1);
    let start = Instant::now();
    while fetches.load(Ordering::Relaxed) < FETCHES_AHEAD + 1 {
        assert!(start.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(Duration::from_millis(50)); // There must be no further fetch in this time.
    assert_eq!(fetches.load(Ordering::Relaxed), FETCHES_AHEAD + 1);
    drop(consumer);
}

#[test]
fn large_records_stop_fetching_until_handled() {
    let fake = Fake::new(&[1]);
    let fetches = Arc::new(AtomicUsize::new(0));
    let count = fetches.clone();
    fake.on_fetch(move |positions, _| {
        count.fetch_add(1, Ordering::Relaxed);
        let mut data = Fake::empty(positions[0]);
        let value = Some(vec![0; FETCHED_AHEAD_MEMORY]);
        let offset = data.next;
        data.records.push(FetchedRecord { offset, value, ..FetchedRecord::default() });
        data.next += 1;
        Some(Ok(vec![data]))
    });
    let mut consumer = consumer(&fake, 1);
    for polls in 1..4 {
        let polled = consumer.poll(PATIENCE).unwrap();
        assert_eq!((polled.len(), polled[0].next), (1, polls));
        // There must be no further fetch in this time, since the caller still has the record.
        thread::sleep(Duration::from_millis(50));
        assert_eq!(fetches.load(Ordering::Relaxed) as i64, polls);
    }
}

#[test]
fn empty_fetches_are_spaced() {
    let fake = Fake::new(&[1]);
    let fetches = Arc::new(AtomicUsize::new(0));
    let count = fetches.clone();
    fake.on_fetch(move |positions, _| {
        count.fetch_add(1, Ordering::Relaxed);
        Some(Ok(positions.iter().map(|it| Fake::empty(*it)).collect()))
    });
    let start = Instant::now();
    let mut consumer = consumer(&fake, 1);
    assert!(consumer.poll(10 * EMPTY_FETCH_MIN).unwrap().is_empty());
    let pauses = start.elapsed().as_millis() / EMPTY_FETCH_MIN.as_millis();
    assert!(fetches.load(Ordering::Relaxed) <= pauses as usize + 1);
}

#[test]
fn offset_outside_the_log_resets_to_earliest() {
    let fake = Fake::new(&[1, 1]);
    fake.fill(100);
    fake.delete_before(0, 40);
    let offsets = read(&mut consumer(&fake, 2), 160);
    assert_eq!(offsets[&0].first(), Some(&40));
    assert_eq!(offsets[&1].first(), Some(&0));
}

#[test]
fn undecodable_partition_does_not_block_others() {
    let fake = Fake::new(&[1, 1]);
    fake.fill(100);
    let undecodable = Arc::new(AtomicUsize::new(0));
    let count = undecodable.clone();
    fake.on_fetch(move |positions, fake| {
        let mut data = fake.read(positions);
        for data in data.iter_mut().filter(|data| data.partition == 0) {
            count.fetch_add(1, Ordering::Relaxed);
            *data = PartitionData {
                error: Some(error(ErrorKind::Undecodable)),
                ..Fake::empty(positions[0])
            };
        }
        Some(Ok(data))
    });
    let mut consumer = consumer(&fake, 2);
    assert_eq!(read(&mut consumer, 100).into_keys().collect::<Vec<_>>(), [1]);
    fake.fill(100);
    assert_eq!(read(&mut consumer, 100).into_keys().collect::<Vec<_>>(), [1]);
    assert_eq!(undecodable.load(Ordering::Relaxed), 1);
}

#[test]
fn config_error_is_returned_by_every_poll() {
    let fake = Fake::new(&[1]);
    fake.on_fetch(|_, _| Some(Err(error(ErrorKind::Config))));
    let mut consumer = consumer(&fake, 1);
    for _ in 0..2 {
        assert_eq!(consumer.poll(PATIENCE).unwrap_err().kind, ErrorKind::Config);
    }
    let mut elsewhere = self::consumer(&Fake::new(&[1]), 2);
    let err = elsewhere.poll(PATIENCE).unwrap_err();
    assert_eq!(err.text, "t/1 does not exist: the topic has 1 partitions");
}

#[test]
fn consumer_without_partitions_ignores_short_waits() {
    let mut consumer = consumer(&Fake::new(&[1]), 0);
    for _ in 0..3 {
        assert!(consumer.poll(Duration::from_millis(5)).unwrap().is_empty());
    }
}

fn start(
    fake: &mut Fake,
    partition: i32,
    offset_reset: OffsetReset,
) -> Result<Vec<Position>, Error> {
    let shutdown = Shutdown::default();
    let until = RetryUntil { deadline: Instant::now() + PATIENCE, shutdown: &shutdown };
    let found = find_positions(fake, "g", "t", Some(&[partition]), offset_reset, &until)?;
    Ok(found.positions)
}

#[test]
fn calls_are_retried_until_success_or_shutdown() {
    let shutdown = Shutdown::default();
    let until = RetryUntil { deadline: Instant::now() + PATIENCE, shutdown: &shutdown };
    let mut calls = 0;
    let mut fails = |times| {
        until.retry(|slice| {
            assert!(slice <= CALL_SLICE);
            calls += 1;
            if calls < times { Err(error(ErrorKind::Retry)) } else { Ok(calls) }
        })
    };
    assert_eq!(fails(3).unwrap(), 3);
    shutdown.request();
    assert_eq!(fails(9).unwrap_err().kind, ErrorKind::Retry);
    assert_eq!(calls, 4);
}

#[test]
fn committed_offset_outside_the_log_is_reset() {
    let start = |committed: Option<i64>, offset_reset| {
        let mut fake = Fake::new(&[1]);
        fake.fill(100);
        fake.delete_before(0, 40);
        fake.commits(committed);
        let found = start(&mut fake, 0, offset_reset).unwrap();
        (found[0].next, fake.committed(0))
    };
    for (committed, expected) in
        [(39, 40), (40, 40), (41, 41), (99, 99), (100, 100), (101, 40), (0, 40)]
    {
        for offset_reset in [OffsetReset::Earliest, OffsetReset::End] {
            let (next, kept) = start(Some(committed), offset_reset);
            assert_eq!((next, kept), (expected, Some(committed)), "{committed}");
        }
    }
    assert_eq!(start(None, OffsetReset::Earliest), (40, None));
    assert_eq!(start(None, OffsetReset::End), (100, Some(100)));
}

#[test]
fn missing_partition_is_a_config_error() {
    let mut fake = Fake::new(&[1]);
    for partition in [1, -1] {
        let offset_reset = OffsetReset::Earliest;
        let found = start(&mut fake, partition, offset_reset);
        assert_eq!(found.unwrap_err().kind, ErrorKind::Config);
    }
}

#[test]
fn offset_of_a_former_topic_is_not_used() {
    let mut fake = Fake::new(&[1]);
    let shutdown = Shutdown::default();
    let find =
        |fake: &mut Fake| group_positions(fake, "g", "t", None, PATIENCE, &shutdown).unwrap();
    fake.fill(100);
    let GroupPositions { topic_id, positions, ranges } = find(&mut fake);
    assert_eq!((positions[0].next, ranges), (0, vec![(0, 100)]));
    let read = [Position { partition: 0, next: 60 }];
    commit_positions(&mut fake, "g", "t", topic_id, &read, PATIENCE).unwrap();
    assert_eq!(find(&mut fake).positions, read);

    fake.recreate_topic();
    fake.fill(100);
    let found = find(&mut fake);
    assert_ne!(found.topic_id, topic_id);
    assert_eq!(found.positions[0].next, 0);
    // Other programs commit without a topic id.
    commit_positions(&mut fake, "g", "t", None, &read, PATIENCE).unwrap();
    assert_eq!(find(&mut fake).positions, read);
}

#[test]
fn recreated_topic_is_read_from_its_beginning() {
    let fake = Fake::new(&[1, 2]);
    fake.fill(100);
    let mut consumer = consumer(&fake, 2);
    read(&mut consumer, 200);
    fake.recreate_topic();
    fake.fill(150);
    // The former position is in the new log, so records after it may be read twice.
    let mut seen = BTreeMap::<i32, HashSet<i64>>::new();
    let start = Instant::now();
    while seen.values().map(HashSet::len).sum::<usize>() < 300 {
        assert!(start.elapsed() < TOPIC_MAX_AGE + PATIENCE, "{seen:?}");
        for data in consumer.poll(Duration::from_millis(10)).unwrap() {
            let offsets = data.records.iter().map(|record| record.offset);
            seen.entry(data.partition).or_default().extend(offsets);
        }
    }
}

#[test]
fn bound_consumer_fails_after_the_topic_is_recreated() {
    let fake = Fake::new(&[1]);
    fake.fill(100);
    let mut consumer = subscribe(fake.clone(), 1, IfRecreated::Fail, NewPartitions::Ignore);
    read(&mut consumer, 100);
    let id = consumer.topic_id();
    assert!(id.is_some());
    fake.recreate_topic();
    let err = loop {
        match consumer.poll(PATIENCE) {
            Ok(data) => assert!(data.is_empty(), "{data:?}"),
            Err(err) => break err,
        }
    };
    assert_eq!(err.kind, ErrorKind::Position);
    assert!(err.text.contains("topic t was deleted and created again"), "{err}");
    assert_eq!(consumer.topic_id(), id);
}

#[test]
fn new_partition_is_read_from_offset_zero() {
    let fake = Fake::new(&[1, 1]);
    fake.fill(100);
    let mut all = subscribe(fake.clone(), 2, IfRecreated::ReadNew, NewPartitions::Read);
    let mut some = subscribe(fake.clone(), 2, IfRecreated::ReadNew, NewPartitions::Ignore);
    read(&mut all, 200);
    read(&mut some, 200);
    assert_eq!(all.partition_count(), Some(2));
    fake.add_partition(2);
    fake.fill(50);
    assert_eq!(read(&mut all, 150)[&2].len(), 50);
    assert!(!read(&mut some, 100).contains_key(&2));
    assert_eq!((all.partition_count(), some.partition_count()), (Some(3), Some(3)));
}

#[test]
fn leaderless_partition_does_not_stop_the_others() {
    let fake = Fake::new(&[-1, 1, 2]);
    fake.fill(100);
    let mut consumer = consumer(&fake, 3);
    assert_eq!(read(&mut consumer, 200).into_keys().collect::<Vec<_>>(), [1, 2]);
    fake.set_leaders(&[2, 1, -1]);
    assert_eq!(read(&mut consumer, 100).into_keys().collect::<Vec<_>>(), [0]);
}
