//! Measures records per second of Sender, Producer and Consumer, and the latency of single records.
//! It uses the cluster at `KAFKA_BROKERS` and does not delete its topic:
//! `cargo run --release -p messaging --example kafka_throughput`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement")]

#[path = "../tests/kafka_support/mod.rs"]
mod kafka_support;

use kafka_support::{beginning, config, producer_config, topic};
use messaging::consumer::Consumer;
use messaging::producer::{Delivery, Outgoing, Producer, Sender};
use service::shutdown::Shutdown;
use std::fs;
use std::time::{Duration, Instant};

const RECORDS: usize = 300_000;
const PARTITIONS: i32 = 9;

fn main() {
    let topic = topic("throughput", PARTITIONS, &[]);
    let shutdown = Shutdown::default();
    let record = |i: usize| Outgoing { topic, key: format!("{i:036}"), value: vec![b'x'; 100] };

    let mut sender = Sender::new(&producer_config(), &shutdown);
    for batch in [10, 100, 1000] {
        let batches = (RECORDS / 10).min(batch * 1000) / batch;
        let records: Vec<Outgoing> = (0..batch).map(record).collect();
        measure(&format!("Sender, {batch} per call"), batches * batch, || {
            for _ in 0..batches {
                assert!(sender.send_all(&records).iter().all(Result::is_ok));
            }
        });
    }
    let producer = Producer::start(producer_config(), &shutdown);
    measure("Producer, one thread, send", RECORDS, || {
        let deliveries: Vec<Delivery> = (0..RECORDS).map(|i| producer.send(record(i))).collect();
        deliveries.into_iter().for_each(|it| it.wait().unwrap());
    });
    measure("Producer, one thread, send_all of 200", RECORDS, || {
        let all = |i| producer.send_all((i * 200..(i + 1) * 200).map(record).collect());
        let deliveries: Vec<Delivery> = (0..RECORDS / 200).map(all).collect();
        deliveries.into_iter().for_each(|it| it.wait().unwrap());
    });

    let before = status_kib("VmRSS");
    fs::write("/proc/self/clear_refs", "5").unwrap(); // Resets the peak memory.
    let mut consumer = Consumer::start(&config(), topic, beginning(PARTITIONS));
    let mut read = 0;
    measure("Consumer", 2 * RECORDS, || {
        while read < 2 * RECORDS {
            read += poll(&mut consumer);
        }
    });
    println!("memory before reading {before} KiB, peak {} KiB", status_kib("VmHWM"));
    while poll(&mut consumer) > 0 {}

    let cpu = cpu_ticks();
    assert_eq!(poll_for(&mut consumer, Duration::from_secs(3)), 0);
    println!("idle: {} CPU ticks of 10 ms in 3 s", cpu_ticks() - cpu);

    let mut latencies: Vec<Duration> = (0..1000)
        .map(|i| {
            let start = Instant::now();
            let delivery = producer.send(record(i));
            assert_eq!(poll_for(&mut consumer, Duration::from_secs(10)), 1);
            let latency = start.elapsed();
            delivery.wait().unwrap();
            latency
        })
        .collect();
    latencies.sort_unstable();
    println!("single record, sent to polled: p50 {:?}, p99 {:?}", latencies[500], latencies[990]);
}

fn measure(what: &str, records: usize, run: impl FnOnce()) {
    let (cpu, start) = (cpu_ticks(), Instant::now());
    run();
    let seconds = start.elapsed().as_secs_f64();
    let per_100k = (cpu_ticks() - cpu) as f64 / 100. / records as f64 * 1e5;
    println!("{what:40} {:9.0} records/s, {per_100k:.2} CPU s per 100k", records as f64 / seconds);
}

fn poll(consumer: &mut Consumer) -> usize {
    let data = consumer.poll(Duration::from_secs(1)).unwrap();
    data.iter().map(|it| it.records.len()).sum()
}

fn poll_for(consumer: &mut Consumer, wait: Duration) -> usize {
    consumer.poll(wait).unwrap().iter().map(|it| it.records.len()).sum()
}

fn status_kib(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// CPU time of this process, user and system, in ticks of 10 ms.
fn cpu_ticks() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit_once(')').unwrap().1;
    fields.split_whitespace().skip(11).take(2).map(|it| it.parse::<u64>().unwrap()).sum()
}
