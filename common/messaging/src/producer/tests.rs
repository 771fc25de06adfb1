use super::batching::QUEUE_BATCHES;
use super::{Delivery, Mode, Outgoing, Producer, ProducerConfig, Sender};
use crate::fake::{Fake, ProduceOutcome, error};
use crate::partitioner;
use bank::limits::PRODUCER_QUEUE_BYTES;
use bank::topology::record_bytes_max;
use kafka_client::{Batch, ErrorKind};
use service::env::Env;
use service::shutdown::Shutdown;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

const PARTITIONS: i32 = 3;

fn config() -> ProducerConfig {
    let lookup = |name: &str| (name == "KAFKA_BROKERS").then(|| "127.0.0.1:1".to_owned());
    ProducerConfig::from_env(&Env::new(&lookup)).unwrap()
}

fn sender(fake: &Fake, config: &ProducerConfig) -> (Sender, Shutdown) {
    let shutdown = Shutdown::default();
    (Sender::with_client(Box::new(fake.clone()), config, &shutdown), shutdown)
}

fn fake() -> Fake {
    Fake::new(&[1; PARTITIONS as usize])
}

fn record(key: impl ToString) -> Outgoing {
    Outgoing { topic: "t", key: key.to_string(), value: vec![0; 10] }
}

fn records(count: usize) -> Vec<Outgoing> {
    (0..count).map(record).collect()
}

/// The expected keys of each log.
fn expected(records: &[Outgoing]) -> Vec<Vec<String>> {
    let mut logs = vec![Vec::new(); PARTITIONS as usize];
    for Outgoing { key, .. } in records {
        logs[partitioner::partition(key.as_bytes(), PARTITIONS) as usize].push(key.clone());
    }
    logs
}

fn logs(fake: &Fake) -> Vec<Vec<String>> {
    (0..PARTITIONS as usize).map(|partition| fake.keys(partition)).collect()
}

#[test]
fn records_keep_their_order_within_a_partition() {
    let (fake, records) = (fake(), records(1000));
    let (mut sender, _shutdown) = sender(&fake, &config());
    assert!(sender.send_all(&records).iter().all(Result::is_ok));
    assert_eq!(logs(&fake), expected(&records));
}

#[test]
fn failed_batch_is_retried_before_later_ones() {
    let (fake, records) = (fake(), records(1000));
    let mut calls = 0;
    fake.on_produce(move |batches| {
        calls += 1;
        let fails = |it: &Batch<'_>| calls % 3 > 0 && it.partition == 1;
        let outcome = |it| {
            if fails(it) {
                ProduceOutcome::NotWritten(error(ErrorKind::Retry))
            } else {
                ProduceOutcome::Written
            }
        };
        batches.iter().map(outcome).collect()
    });
    let config = ProducerConfig { batch_records: 100, ..config() };
    let (mut sender, _shutdown) = sender(&fake, &config);
    assert!(sender.send_all(&records).iter().all(Result::is_ok));
    assert_eq!(logs(&fake), expected(&records));
}

#[test]
fn lost_response_may_duplicate_but_not_reorder() {
    let (fake, records) = (fake(), records(300));
    let mut calls = 0;
    fake.on_produce(move |batches| {
        calls += 1;
        let outcome = |_: &Batch<'_>| match calls {
            2 => ProduceOutcome::WrittenBut(error(ErrorKind::Unknown)),
            _ => ProduceOutcome::Written,
        };
        batches.iter().map(outcome).collect()
    });
    let config = ProducerConfig { batch_records: 100, ..config() };
    let (mut sender, _shutdown) = sender(&fake, &config);
    assert!(sender.send_all(&records).iter().all(Result::is_ok));
    for (log, expected) in logs(&fake).into_iter().zip(expected(&records)) {
        let mut seen = Vec::new();
        for key in &log {
            if !seen.contains(key) {
                seen.push(key.clone());
            }
        }
        assert_eq!(seen, expected);
        assert!(log.len() > expected.len(), "the second batch was written twice");
    }
}

#[test]
fn rejected_dead_letter_is_cut() {
    let fake = fake();
    let (values, written) = mpsc::channel();
    fake.on_produce(move |batches| {
        let outcome = |batch: &Batch<'_>| {
            if batch.records.iter().any(|it| it.value.is_some_and(|value| value.len() > 300)) {
                return ProduceOutcome::NotWritten(error(ErrorKind::Message));
            }
            for record in &batch.records {
                values.send(record.value.map(<[u8]>::len)).unwrap();
            }
            ProduceOutcome::Written
        };
        batches.iter().map(outcome).collect()
    });
    let (mut sender, _shutdown) = sender(&fake, &config());
    let large = Outgoing::dead_letter("t", 0, 7, vec![1; 1_000], "bad");
    let small = Outgoing::dead_letter("t", 0, 8, vec![1; 300], "bad");
    let refused = Outgoing { value: vec![1; 1_000], ..record(1) };
    let results = sender.send_all(&[large, small, refused]);
    assert!(results[0].is_ok() && results[1].is_ok());
    assert_eq!(results[2].as_ref().unwrap_err().kind, ErrorKind::Message);
    assert_eq!(written.try_iter().flatten().collect::<Vec<_>>(), [300, 250]);
    let mut keys = logs(&fake).concat();
    keys.sort();
    assert_eq!(keys, ["t/0/7: bad, first 250 of 1000 bytes", "t/0/8: bad"]);
}

#[test]
fn requests_and_batches_stay_within_their_limits() {
    let (fake, records) = (fake(), records(1000));
    let (requests, seen) = mpsc::channel();
    fake.on_produce(move |batches| {
        requests.send(batches.iter().map(|it| it.records.len()).collect::<Vec<_>>()).unwrap();
        batches.iter().map(|_| ProduceOutcome::Written).collect()
    });
    let batch_bytes = 10 * records[999].bytes();
    let config = ProducerConfig { batch_records: 200, batch_bytes, ..config() };
    let (mut sender, _shutdown) = sender(&fake, &config);
    assert!(sender.send_all(&records).iter().all(Result::is_ok));
    assert_eq!(logs(&fake), expected(&records));
    let requests: Vec<Vec<usize>> = seen.try_iter().collect();
    assert!(requests.iter().all(|request| request.iter().sum::<usize>() <= 200));
    assert!(requests.iter().flatten().all(|&batch| batch <= 10));
    assert!(requests.iter().flatten().any(|&batch| batch == 10));
}

#[test]
fn single_mode_sends_one_record_per_request() {
    let (fake, records) = (fake(), records(20));
    fake.on_produce(|batches| {
        assert_eq!((batches.len(), batches[0].records.len()), (1, 1));
        vec![ProduceOutcome::Written]
    });
    let (mut sender, _shutdown) = sender(&fake, &ProducerConfig { mode: Mode::Single, ..config() });
    assert!(sender.send_all(&records).iter().all(Result::is_ok));
    assert_eq!(logs(&fake), expected(&records));
}

#[test]
fn record_above_the_size_limit_is_rejected() {
    let fake = fake();
    let (mut sender, _shutdown) = sender(&fake, &config());
    let sized =
        |key: &str, bytes: usize| Outgoing { value: vec![0; bytes - key.len()], ..record(key) };
    let results = sender.send_all(&[
        record("a"),
        sized("b", record_bytes_max("t")),
        sized("c", record_bytes_max("t") + 1),
        record("d"),
    ]);
    let rejected: Vec<bool> = results.iter().map(Result::is_err).collect();
    assert_eq!(rejected, [false, false, true, false]);
    assert_eq!(results[2].as_ref().unwrap_err().kind, ErrorKind::Message);
    assert_eq!(logs(&fake).concat().len(), 3);
}

#[test]
fn rejected_record_does_not_fail_its_batch() {
    let (fake, mut records) = (fake(), records(64));
    records[21].key = "bad".into();
    fake.on_produce(|batches| {
        let bad = |it: &Batch<'_>| it.records.iter().any(|it| it.key == Some(b"bad"));
        let outcome = |it| {
            if bad(it) {
                ProduceOutcome::NotWritten(error(ErrorKind::Message))
            } else {
                ProduceOutcome::Written
            }
        };
        batches.iter().map(outcome).collect()
    });
    let (mut sender, _shutdown) = sender(&fake, &config());
    let results = sender.send_all(&records);
    for (i, result) in results.iter().enumerate() {
        assert_eq!(result.is_err(), i == 21, "{i}");
    }
    records.remove(21);
    assert_eq!(logs(&fake), expected(&records));
}

#[test]
fn config_error_is_returned_without_retries() {
    let fake = fake();
    fake.on_produce(|batches| {
        batches.iter().map(|_| ProduceOutcome::NotWritten(error(ErrorKind::Config))).collect()
    });
    let (mut sender, _shutdown) = sender(&fake, &config());
    let results = sender.send_all(&records(10));
    assert!(results.iter().all(|it| it.as_ref().is_err_and(|err| err.kind == ErrorKind::Config)));
}

#[test]
fn shutdown_ends_retries_and_reports_unknown_results() {
    let fake = fake();
    let mut calls = 0;
    fake.on_produce(move |batches| {
        calls += 1;
        thread::sleep(Duration::from_millis(10));
        let outcome = |it: &Batch<'_>| match it.partition {
            0 if calls == 1 => ProduceOutcome::WrittenBut(error(ErrorKind::Unknown)),
            1 => ProduceOutcome::Written,
            _ => ProduceOutcome::NotWritten(error(ErrorKind::Retry)),
        };
        batches.iter().map(outcome).collect()
    });
    let (mut sender, shutdown) = sender(&fake, &config());
    let records = records(30);
    let requested = thread::spawn(move || {
        thread::sleep(Duration::from_millis(200));
        shutdown.request();
        Instant::now()
    });
    let results = sender.send_all(&records);
    assert!(requested.join().unwrap().elapsed() < Duration::from_secs(2));
    for (record, result) in records.iter().zip(results) {
        let kind = result.err().map(|err| err.kind);
        match partitioner::partition(record.key.as_bytes(), PARTITIONS) {
            0 => assert_eq!(kind, Some(ErrorKind::Unknown)),
            1 => assert_eq!(kind, None),
            _ => assert_eq!(kind, Some(ErrorKind::Retry)),
        }
    }
}

#[test]
fn partition_is_not_written_after_its_retries_ended() {
    let fake = fake();
    fake.on_produce(|batches| {
        thread::sleep(Duration::from_millis(10));
        let first = |it: &Batch<'_>| it.records[0].key == Some(b"0");
        let outcome = |it| {
            if first(it) {
                ProduceOutcome::NotWritten(error(ErrorKind::Retry))
            } else {
                ProduceOutcome::Written
            }
        };
        batches.iter().map(outcome).collect()
    });
    let (mut sender, shutdown) = sender(&fake, &ProducerConfig { batch_bytes: 1, ..config() });
    shutdown.request();
    let records = records(30);
    let failed = partitioner::partition(b"0", PARTITIONS);
    for (record, result) in records.iter().zip(sender.send_all(&records)) {
        let partition = partitioner::partition(record.key.as_bytes(), PARTITIONS);
        assert_eq!(result.is_err(), partition == failed, "{}", record.key);
    }
    assert_eq!(fake.keys(failed as usize), Vec::<String>::new());
    assert!(sender.send_all(&records[1..]).iter().all(Result::is_err));
}

/// A fake cluster. Each produce call reports its number of records, then waits for a permit.
fn gated() -> (Fake, mpsc::Sender<()>, mpsc::Receiver<usize>) {
    let fake = fake();
    let (permit, permits) = mpsc::channel();
    let (started, starts) = mpsc::channel();
    fake.on_produce(move |batches| {
        started.send(batches.iter().map(|it| it.records.len()).sum()).unwrap();
        permits.recv_timeout(Duration::from_secs(10)).unwrap();
        batches.iter().map(|_| ProduceOutcome::Written).collect()
    });
    (fake, permit, starts)
}

fn producer(fake: &Fake, config: &ProducerConfig) -> Producer {
    Producer::with_sender(sender(fake, config).0, config)
}

#[test]
fn records_are_batched_during_a_request() {
    let (fake, permit, starts) = gated();
    let producer = producer(&fake, &config());
    let first = producer.send(record("first"));
    assert_eq!(starts.recv(), Ok(1));
    let later: Vec<Delivery> = records(100).into_iter().map(|it| producer.send(it)).collect();
    let together = producer.send_all(records(50));
    permit.send(()).unwrap();
    first.wait().unwrap();
    assert_eq!(starts.recv(), Ok(150));
    permit.send(()).unwrap();
    later.into_iter().for_each(|delivery| delivery.wait().unwrap());
    together.wait().unwrap();
}

#[test]
fn batch_waits_for_linger_unless_full() {
    let send = |linger, count| {
        let fake = fake();
        let producer = producer(&fake, &ProducerConfig { linger, batch_records: 10, ..config() });
        let start = Instant::now();
        producer.send_all(records(count)).wait().unwrap();
        start.elapsed()
    };
    let long = Duration::from_secs(20);
    assert!(send(long, 10) < long);
    let short = Duration::from_millis(50);
    assert!(send(short, 3) >= short);
}

#[test]
fn full_queue_blocks_until_a_batch_is_written() {
    let (fake, permit, starts) = gated();
    let config = ProducerConfig { batch_records: 10, ..config() };
    let producer = producer(&fake, &config);
    let _ = producer.send(record("first"));
    assert_eq!(starts.recv(), Ok(1));
    let _ = producer.send_all(records(QUEUE_BATCHES * 10 - 1));
    let (queued, is_queued) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = producer.send(record("late"));
            queued.send(()).unwrap();
        });
        assert!(is_queued.recv_timeout(Duration::from_millis(50)).is_err());
        permit.send(()).unwrap();
        is_queued.recv_timeout(Duration::from_secs(10)).unwrap();
    });
    (0..QUEUE_BATCHES).for_each(|_| permit.send(()).unwrap());
}

#[test]
fn full_queue_refuses_a_record_after_its_wait() {
    let (fake, permit, starts) = gated();
    let producer = producer(&fake, &ProducerConfig { batch_records: 10, ..config() });
    let _ = producer.send(record("first"));
    assert_eq!(starts.recv(), Ok(1));
    let _ = producer.send_all(records(QUEUE_BATCHES * 10 - 2));
    assert!(producer.send_within(record("fits"), Duration::ZERO).is_some());
    let (started, wait) = (Instant::now(), Duration::from_millis(50));
    assert!(producer.send_within(record("refused"), wait).is_none());
    assert!(started.elapsed() >= wait);
    (0..QUEUE_BATCHES + 2).for_each(|_| permit.send(()).unwrap());
    producer.send_within(record("last"), Duration::from_secs(10)).unwrap().wait().unwrap();
    assert!(!logs(&fake).concat().contains(&"refused".to_owned()));
}

#[test]
fn queue_is_also_limited_in_bytes() {
    let (fake, permit, starts) = gated();
    let producer = producer(&fake, &config());
    let large = || Outgoing { value: vec![0; record_bytes_max("t") - 100], ..record("large") };
    let _ = producer.send(large());
    assert_eq!(starts.recv(), Ok(1));
    let capacity = PRODUCER_QUEUE_BYTES / record_bytes_max("t");
    for _ in 1..capacity {
        let _ = producer.send(large());
    }
    let (queued, is_queued) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = producer.send(large());
            queued.send(()).unwrap();
        });
        assert!(is_queued.recv_timeout(Duration::from_millis(50)).is_err());
        (0..=capacity).for_each(|_| permit.send(()).unwrap());
        is_queued.recv_timeout(Duration::from_secs(10)).unwrap();
    });
}

#[test]
fn dropped_producer_flushes_its_queue() {
    let fake = fake();
    let producer = producer(&fake, &ProducerConfig { linger: Duration::from_secs(1), ..config() });
    let records = records(5000);
    let delivery = producer.send_all(records.clone());
    drop(producer);
    assert_eq!(logs(&fake), expected(&records));
    delivery.wait().unwrap();
}

#[test]
fn dropped_producer_ends_retries_within_two_seconds() {
    let fake = fake();
    fake.on_produce(|batches| {
        thread::sleep(Duration::from_millis(10));
        batches.iter().map(|_| ProduceOutcome::NotWritten(error(ErrorKind::Retry))).collect()
    });
    let producer = producer(&fake, &config());
    let delivery = producer.send_all(records(5000));
    let start = Instant::now();
    drop(producer);
    assert!(start.elapsed() < Duration::from_secs(2));
    assert_eq!(delivery.wait().unwrap_err().kind, ErrorKind::Retry);
}

#[test]
fn delivery_returns_the_first_error_of_its_records() {
    let fake = fake();
    fake.on_produce(|batches| {
        let bad = |it: &Batch<'_>| it.records.iter().any(|it| it.key == Some(b"7"));
        let outcome = |it| {
            if bad(it) {
                ProduceOutcome::NotWritten(error(ErrorKind::Message))
            } else {
                ProduceOutcome::Written
            }
        };
        batches.iter().map(outcome).collect()
    });
    let producer = producer(&fake, &ProducerConfig { batch_records: 3, ..config() });
    assert_eq!(producer.send_all(records(20)).wait().unwrap_err().kind, ErrorKind::Message);
    producer.send_all(records(7)).wait().unwrap();
    producer.send_all(Vec::new()).wait().unwrap();
}
