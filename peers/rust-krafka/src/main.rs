//! The command-handler's domain and store with krafka, an async Kafka client in Rust. It uses a
//! consumer group and an idempotent producer.
//!
//! A batch is the result of one poll. It is decided and stored on a blocking thread. A task
//! publishes it while the next batch is polled and decided. After an error the process exits with
//! code 1. After a restart it continues at the committed offsets, and repeated commands have their
//! stored outcomes.

use ahash::AHashMap;
use krafka::KrafkaError;
use krafka::consumer::{
    AutoOffsetReset, Consumer, ConsumerRecord, OffsetAndMetadata, TopicPartition,
};
use krafka::producer::{Acks, Producer, ProducerRecord};
use rust_bank::{BATCH_MAX, BatchDecider, GROUP, Incoming, KAFKA_BROKERS, Outgoing, TOPICS};
use service::health::Health;
use service::shutdown::Shutdown;
use service::{BoxError, Service, Start};
use std::mem;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Builder;
use tokio::task::{self, JoinHandle};

/// Shortest time between commits. A commit costs the broker as much as a batch. It only limits the
/// number of records that are read again after a crash.
const COMMIT_INTERVAL: Duration = Duration::from_millis(100);
/// Longest wait of a poll, and so the delay of a shutdown.
const POLL_WAIT: Duration = Duration::from_millis(100);

const SERVICE: Service = Service {
    name: "rust-krafka",
    about: "The bank's command-handler with the Kafka client krafka",
    variables: &[rust_bank::VARIABLES],
    flags: &[],
    run,
};

fn main() -> ExitCode {
    service::main(&SERVICE)
}

/// The next offsets after a batch.
type Offsets = AHashMap<TopicPartition, OffsetAndMetadata>;

fn run(start: &Start<'_>) -> Result<ExitCode, BoxError> {
    let brokers = start.env.text(&KAFKA_BROKERS)?;
    let health = Health::serve(&start.env)?;
    // Shared, so that a thread of the runtime never drops the last reference. The PostgreSQL client
    // has its own runtime, and tokio's runtimes cannot be nested.
    let Some(decider) = BatchDecider::open(&start.env, &start.shutdown)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let decider = Arc::new(Mutex::new(decider));
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(serve(&brokers, &decider, &health, &start.shutdown))?;
    Ok(ExitCode::SUCCESS)
}

/// Polls, decides and publishes until shutdown.
async fn serve(
    brokers: &str,
    decider: &Arc<Mutex<BatchDecider>>,
    health: &Health,
    shutdown: &Shutdown,
) -> Result<(), BoxError> {
    let consumer = consumer(brokers).await?;
    let producer = Arc::new(producer(brokers).await?);
    consumer.subscribe(&TOPICS).await?;
    let mut publishing: Option<JoinHandle<Result<Offsets, KrafkaError>>> = None;
    let (mut done, mut committed) = (Offsets::new(), Instant::now());
    while !shutdown.requested() {
        let batch = consumer.poll(POLL_WAIT).await?;
        let mut decided = None;
        if batch.is_empty() {
            health.set_ready(!consumer.assignment().await.is_empty());
        } else {
            let (decider, offsets) = (decider.clone(), offsets(&batch));
            let records = task::spawn_blocking(move || {
                let mut decider = decider.lock().unwrap_or_else(PoisonError::into_inner);
                decider.decide(batch.iter().map(incoming))
            });
            decided = Some((records.await??, offsets));
        }
        // One batch is published while the next one is decided.
        if decided.is_some() || publishing.as_ref().is_some_and(JoinHandle::is_finished) {
            done.extend(finish(&mut publishing).await?);
        }
        if !done.is_empty() && committed.elapsed() >= COMMIT_INTERVAL {
            committed = Instant::now();
            consumer.commit_with_metadata(mem::take(&mut done)).await?;
        }
        if let Some((records, offsets)) = decided {
            publishing = Some(task::spawn(publish(producer.clone(), records, offsets)));
        }
    }
    done.extend(finish(&mut publishing).await?);
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
        // The shortest session timeout that brokers allow, so that a killed handler is soon
        // replaced.
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
        // All records of a batch are sent together: linger has no use, and 16 KiB would split them.
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

/// The next offset of each partition. Records are in offset order, so the last one replaces the
/// others.
fn offsets(batch: &[ConsumerRecord]) -> Offsets {
    let next = |record: &ConsumerRecord| {
        let partition = TopicPartition::new(record.topic.clone(), record.partition);
        (partition, OffsetAndMetadata::new(record.offset + 1))
    };
    batch.iter().map(next).collect()
}

/// Waits until the batch is published and returns its offsets.
async fn finish(
    publishing: &mut Option<JoinHandle<Result<Offsets, KrafkaError>>>,
) -> Result<Offsets, BoxError> {
    match publishing.take() {
        Some(publishing) => Ok(publishing.await??),
        None => Ok(Offsets::new()),
    }
}

/// Produces all records. Returns `offsets` after all are acknowledged, so that they can be
/// committed.
async fn publish(
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
        // The offset of the record is not needed.
        let _ = delivery.await?;
    }
    Ok(offsets)
}
