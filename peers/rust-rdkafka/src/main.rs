//! The command-handler's domain and store with librdkafka. It uses a consumer group and an
//! idempotent producer.
//!
//! One thread polls records and decides them. Another thread produces the outcomes, waits for all
//! acknowledgements and stores the offsets, which librdkafka commits every 0.1 s. After an error
//! the process exits with code 1. After a restart it continues at the committed offsets, and
//! repeated commands have their stored outcomes.

use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, DeliveryResult, Message};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};
use rust_bank::{BATCH_MAX, BatchDecider, GROUP, Incoming, KAFKA_BROKERS, Outgoing, TOPICS};
use service::env::Variable;
use service::health::Health;
use service::{BoxError, Service, Start};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// `linger.ms` of the producer, in milliseconds.
const LINGER_MS: Variable =
    Variable::new("LINGER_MS", "1", "how long the producer waits for a fuller batch, 0 to 1000 ms");

/// Longest wait of a poll, and so the delay of a shutdown.
const POLL_WAIT: Duration = Duration::from_millis(100);
/// Pause while the queue of the producer is full. The queue is far larger than a batch.
const QUEUE_FULL_WAIT: Duration = Duration::from_millis(1);
/// `delivery.timeout.ms`: the time in which a record is acknowledged or fails, in milliseconds.
const DELIVERY_MS: &str = "30000";

const SERVICE: Service = Service {
    name: "rust-rdkafka",
    about: "The bank's command-handler with librdkafka",
    variables: &[rust_bank::VARIABLES, &[LINGER_MS]],
    flags: &[],
    run,
};

fn main() -> ExitCode {
    service::main(&SERVICE)
}

/// The records of a stored batch, and the next offsets after it.
struct Decided {
    records: Vec<Outgoing>,
    offsets: TopicPartitionList,
}

fn run(start: &Start<'_>) -> Result<ExitCode, BoxError> {
    let brokers = start.env.text(&KAFKA_BROKERS)?;
    let linger_ms = start.env.number(&LINGER_MS, 0..=1000)?;
    let health = Health::serve(&start.env)?;
    let Some(mut decider) = BatchDecider::open(&start.env, &start.shutdown)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let in_flight = InFlight::default();
    let consumer = Arc::new(consumer(&brokers, Group { health, in_flight: in_flight.clone() })?);
    let producer = producer(&brokers, linger_ms)?;
    consumer.subscribe(&TOPICS)?;

    // One batch is published while the next one is decided.
    let (sender, batches) = sync_channel(1);
    let publisher = thread::Builder::new().name("publisher".into()).spawn({
        let (consumer, in_flight) = (consumer.clone(), in_flight.clone());
        move || publish(&consumer, &producer, &batches, &in_flight)
    })?;
    let decided = decide(start, &consumer, &mut decider, sender, &in_flight);
    let published = publisher.join().expect("a panic ends the process");
    published?;
    decided?;
    Ok(ExitCode::SUCCESS)
}

fn consumer(brokers: &str, group: Group) -> Result<BaseConsumer<Group>, KafkaError> {
    ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", GROUP)
        // The publisher stores the offsets of published batches. A commit for each batch would cost
        // the broker as much as the batch itself.
        .set("enable.auto.offset.store", "false")
        .set("auto.commit.interval.ms", "100")
        .set("auto.offset.reset", "earliest")
        // The shortest session timeout that brokers allow, so that a killed handler is soon
        // replaced.
        .set("session.timeout.ms", "6000")
        .set("heartbeat.interval.ms", "2000")
        // A few batches are prefetched; the defaults are 100,000 records and 64 MiB. With a short
        // queue, the pause between fetches must be short, too.
        .set("queued.min.messages", "10000")
        .set("queued.max.messages.kbytes", "8192")
        .set("fetch.queue.backoff.ms", "5")
        .set("socket.nagle.disable", "true")
        .create_with_context(group)
}

fn producer(brokers: &str, linger_ms: u32) -> Result<ThreadedProducer<Deliveries>, KafkaError> {
    ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("enable.idempotence", "true")
        .set("linger.ms", linger_ms.to_string())
        .set("partitioner", "murmur2_random")
        .set("message.max.bytes", "262144")
        .set("delivery.timeout.ms", DELIVERY_MS)
        .set("socket.nagle.disable", "true")
        .create_with_context(Deliveries::default())
}

/// Polls records, decides them and sends the outcomes to the publisher, until shutdown.
fn decide(
    start: &Start<'_>,
    consumer: &BaseConsumer<Group>,
    decider: &mut BatchDecider,
    sender: SyncSender<Decided>,
    in_flight: &InFlight,
) -> Result<(), BoxError> {
    while !start.shutdown.requested() {
        let batch = poll(consumer)?;
        if batch.is_empty() {
            continue;
        }
        let mut offsets = TopicPartitionList::new();
        for record in &batch {
            // Records of a partition are in offset order, so the last one replaces the others.
            let (topic, partition) = (record.topic(), record.partition());
            let next = Offset::Offset(record.offset() + 1);
            match offsets.find_partition(topic, partition) {
                Some(_) => offsets.set_partition_offset(topic, partition, next)?,
                None => offsets.add_partition_offset(topic, partition, next)?,
            }
        }
        let records = decider.decide(batch.iter().map(incoming))?;
        in_flight.add();
        // The publisher has ended with an error, which `run` returns.
        if sender.send(Decided { records, offsets }).is_err() {
            in_flight.done();
            return Ok(());
        }
    }
    Ok(())
}

/// Returns the records that have arrived. Waits for the first one only.
fn poll(consumer: &BaseConsumer<Group>) -> Result<Vec<BorrowedMessage<'_>>, KafkaError> {
    let mut batch = Vec::new();
    let mut wait = POLL_WAIT;
    while batch.len() < BATCH_MAX {
        match consumer.poll(wait) {
            None => break,
            Some(Ok(record)) => batch.push(record),
            // librdkafka reconnects.
            Some(Err(err)) if is_transient(&err) => {
                log::warn!(error:% = err; "connection to Kafka failed, reconnecting");
            }
            Some(Err(err)) => return Err(err),
        }
        wait = Duration::ZERO;
    }
    Ok(batch)
}

fn is_transient(err: &KafkaError) -> bool {
    let transient = [
        RDKafkaErrorCode::BrokerTransportFailure,
        RDKafkaErrorCode::AllBrokersDown,
        RDKafkaErrorCode::Resolve,
    ];
    err.rdkafka_error_code().is_some_and(|code| transient.contains(&code))
}

fn incoming<'a>(record: &'a BorrowedMessage<'_>) -> Incoming<'a> {
    Incoming {
        topic: record.topic(),
        partition: record.partition(),
        offset: record.offset(),
        key: record.key(),
        value: record.payload(),
    }
}

/// Produces each batch and then stores its offsets, until the channel is closed.
fn publish(
    consumer: &BaseConsumer<Group>,
    producer: &ThreadedProducer<Deliveries>,
    batches: &Receiver<Decided>,
    in_flight: &InFlight,
) -> Result<(), KafkaError> {
    for Decided { records, offsets } in batches {
        let published = produce(producer, &records).and_then(|()| consumer.store_offsets(&offsets));
        in_flight.done();
        published?;
    }
    Ok(())
}

/// Produces `records` and waits for their acknowledgements. `flush` takes at least 0.1 s, because
/// it polls until its timeout. Here a thread of the producer polls, and the last acknowledgement
/// wakes this thread.
fn produce(
    producer: &ThreadedProducer<Deliveries>,
    records: &[Outgoing],
) -> Result<(), KafkaError> {
    let deliveries = producer.context();
    for Outgoing { topic, key, value } in records {
        deliveries.sent();
        let mut record = BaseRecord::to(topic).key(key).payload(value);
        // While the queue is full: acknowledgements free it.
        while let Err((err, back)) = producer.send(record) {
            if err.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                return Err(err);
            }
            record = back;
            thread::sleep(QUEUE_FULL_WAIT);
        }
    }
    deliveries.wait()
}

/// Callbacks of the consumer group.
struct Group {
    health: Health,
    in_flight: InFlight,
}

impl ClientContext for Group {}

impl ConsumerContext for Group {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(_) = rebalance {
            self.health.set_ready(false);
            // Decided batches are published before the partitions are revoked. librdkafka commits
            // their offsets with the revocation.
            self.in_flight.wait();
        }
    }

    fn post_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(partitions) = rebalance {
            log::info!(partitions = partitions.count(); "partitions assigned");
            self.health.set_ready(partitions.count() > 0);
        }
    }
}

/// The number of batches that were sent to the publisher and are not published.
#[derive(Clone, Default)]
struct InFlight(Arc<(Mutex<usize>, Condvar)>);

impl InFlight {
    fn add(&self) {
        *self.count() += 1;
    }

    fn done(&self) {
        *self.count() -= 1;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        let idle = self.0.1.wait_while(self.count(), |count| *count > 0);
        drop(idle.unwrap_or_else(PoisonError::into_inner));
    }

    fn count(&self) -> MutexGuard<'_, usize> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts the records that are not acknowledged.
#[derive(Default)]
struct Deliveries {
    state: Mutex<Delivered>,
    done: Condvar,
}

#[derive(Default)]
struct Delivered {
    /// Records without an acknowledgement.
    open: usize,
    failed: Option<KafkaError>,
}

impl Deliveries {
    fn sent(&self) {
        self.state().open += 1;
    }

    /// Waits until all records are acknowledged or have failed. Returns the first error.
    fn wait(&self) -> Result<(), KafkaError> {
        let state = self.done.wait_while(self.state(), |state| state.open > 0);
        match state.unwrap_or_else(PoisonError::into_inner).failed.take() {
            Some(err) => Err(err),
            None => Ok(()),
        }
    }

    fn state(&self) -> MutexGuard<'_, Delivered> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, _: ()) {
        let mut state = self.state();
        state.open -= 1;
        if let Err((err, _)) = result {
            state.failed.get_or_insert_with(|| err.clone());
        }
        if state.open == 0 {
            self.done.notify_all();
        }
    }
}
