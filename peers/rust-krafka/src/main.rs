//! The bank's command-handler on krafka, an async client in Rust: a consumer group, an idempotent producer, and our own domain
//! and store.
//!
//! A batch is what a poll gives. It is decided and stored on a thread for what blocks, and told by a task while the next one is
//! polled and decided. Trouble ends the process with code 1: started again, it goes on at the committed offsets, and stored
//! outcomes answer what comes again.

use ahash::AHashMap;
use service::health::Health;
use service::{BoxError, Service, Start};
use service::shutdown::Shutdown;
use krafka::KrafkaError;
use krafka::consumer::{
    AutoOffsetReset, Consumer, ConsumerRecord, OffsetAndMetadata, TopicPartition,
};
use krafka::producer::{Acks, Producer, ProducerRecord};
use rust_bank::{BATCH_MAX, Bank, GROUP, Incoming, KAFKA_BROKERS, Outgoing, TOPICS};
use std::mem;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Builder;
use tokio::task::{self, JoinHandle};

/// Least time between commits: each costs the broker as much as a batch, and only bounds what comes again after a crash.
const COMMIT: Duration = Duration::from_millis(100);
/// How long a poll waits, and so until the stop is seen.
const POLL: Duration = Duration::from_millis(100);

const SERVICE: Service = Service {
    name: "rust-krafka",
    about: "The bank's command-handler on krafka",
    variables: &[rust_bank::VARIABLES],
    flags: &[],
    run,
};

fn main() -> ExitCode {
    service::main(&SERVICE)
}

/// Offsets behind a batch.
type Offsets = AHashMap<TopicPartition, OffsetAndMetadata>;

fn run(start: &Start<'_>) -> Result<ExitCode, BoxError> {
    let brokers = start.env.text(&KAFKA_BROKERS)?;
    let health = Health::serve(&start.env)?;
    // Shared, so that the last one to let go of it is not the runtime: it has one of its own inside, and they don't nest.
    let Some(bank) = Bank::open(&start.env, &start.shutdown)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let bank = Arc::new(Mutex::new(bank));
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(serve(&brokers, &bank, &health, &start.shutdown))?;
    Ok(ExitCode::SUCCESS)
}

/// Polls, decides and hands over until the stop.
async fn serve(
    brokers: &str,
    bank: &Arc<Mutex<Bank>>,
    health: &Health,
    shutdown: &Shutdown,
) -> Result<(), BoxError> {
    let consumer = consumer(brokers).await?;
    let producer = Arc::new(producer(brokers).await?);
    consumer.subscribe(&TOPICS).await?;
    let mut telling: Option<JoinHandle<Result<Offsets, KrafkaError>>> = None;
    let (mut done, mut committed) = (Offsets::new(), Instant::now());
    while !shutdown.requested() {
        let batch = consumer.poll(POLL).await?;
        let mut decided = None;
        if batch.is_empty() {
            health.set_ready(!consumer.assignment().await.is_empty());
        } else {
            let (bank, offsets) = (bank.clone(), offsets(&batch));
            let told = task::spawn_blocking(move || {
                let mut bank = bank.lock().unwrap_or_else(PoisonError::into_inner);
                bank.decide(batch.iter().map(incoming))
            });
            decided = Some((told.await??, offsets));
        }
        // One batch is being told while the next is decided.
        if decided.is_some() || telling.as_ref().is_some_and(JoinHandle::is_finished) {
            done.extend(finish(&mut telling).await?);
        }
        if !done.is_empty() && committed.elapsed() >= COMMIT {
            committed = Instant::now();
            consumer.commit_with_metadata(mem::take(&mut done)).await?;
        }
        if let Some((told, offsets)) = decided {
            telling = Some(task::spawn(tell(producer.clone(), told, offsets)));
        }
    }
    done.extend(finish(&mut telling).await?);
    consumer.commit_with_metadata(done).await?;
    producer.close().await;
    consumer.close().await?;
    Ok(())
}

async fn consumer(brokers: &str) -> Result<Consumer, KrafkaError> {
    Consumer::builder()
        .bootstrap_servers(brokers)
        .group_id(GROUP)
        .enable_auto_commit(false)
        .auto_offset_reset(AutoOffsetReset::Earliest)
        .max_poll_records(i32::try_from(BATCH_MAX).expect("it is 1000"))
        // Killed, it is missed after the shortest time that brokers allow.
        .session_timeout(Duration::from_secs(6))
        .heartbeat_interval(Duration::from_secs(2))
        .build()
        .await
}

async fn producer(brokers: &str) -> Result<Producer, KrafkaError> {
    Producer::builder()
        .bootstrap_servers(brokers)
        .acks(Acks::All)
        .idempotent(true)
        // A batch comes as a whole: nothing is gained by waiting, and 16 KiB would cut it to pieces.
        .linger(Duration::ZERO)
        .batch_size(256 << 10)
        .max_request_size(4 << 20)
        .build()
        .await
}

fn incoming(record: &ConsumerRecord) -> Incoming<'_> {
    Incoming {
        topic: &record.topic,
        partition: record.partition,
        offset: record.offset,
        key: record.key.as_deref(),
        value: record.value.as_deref(),
    }
}

/// Of several of a partition the last one counts: they come in order.
fn offsets(batch: &[ConsumerRecord]) -> Offsets {
    let next = |record: &ConsumerRecord| {
        let partition = TopicPartition::new(record.topic.clone(), record.partition);
        (partition, OffsetAndMetadata::new(record.offset + 1))
    };
    batch.iter().map(next).collect()
}

/// Waits for what is being told; the offsets behind it.
async fn finish(
    telling: &mut Option<JoinHandle<Result<Offsets, KrafkaError>>>,
) -> Result<Offsets, BoxError> {
    match telling.take() {
        Some(telling) => Ok(telling.await??),
        None => Ok(Offsets::new()),
    }
}

/// Writes all records; then `offsets`, which are those behind them, may be committed.
async fn tell(
    producer: Arc<Producer>,
    records: Vec<Outgoing>,
    offsets: Offsets,
) -> Result<Offsets, KrafkaError> {
    let mut deliveries = Vec::with_capacity(records.len());
    for Outgoing { topic, key, value } in records {
        let record = ProducerRecord::new(topic, value).with_key(key);
        deliveries.push(producer.enqueue(record).await?);
    }
    for delivery in deliveries {
        // Where it was written is of no interest, that it was is.
        let _ = delivery.await?;
    }
    Ok(offsets)
}
