//! Reads the topics of the bank.

use crate::error::Error;
use avro::registry::Registry;
use avro::{Decoder, Encoder, Record};
use bank::topology::Topic;
use messaging::KafkaConfig;
use messaging::consumer::Consumer;
use messaging::producer::{Mode, ProducerConfig, Sender};
use messaging::{KafkaClient, Position};
use service::env::{Env, SCHEMA_REGISTRY_URL};
use service::log::Chain;
use service::shutdown::Shutdown;
use std::time::{Duration, Instant};

/// Timeout of requests for offsets.
pub const WITHIN: Duration = Duration::from_secs(10);

/// The Kafka cluster and the schema registry.
#[derive(Debug, Clone)]
pub struct Cluster {
    pub kafka: KafkaConfig,
    pub registry: Registry,
}

impl Cluster {
    pub fn from_env(env: &Env<'_>) -> Result<Self, Error> {
        let registry = Registry::new(&env.text(&SCHEMA_REGISTRY_URL)?);
        Ok(Self { kafka: KafkaConfig::from_env(env)?, registry })
    }

    /// A client for requests about offsets.
    pub fn kafka_client(&self) -> Box<dyn KafkaClient> {
        messaging::connect(&self.kafka)
    }

    /// The producer of bench. It always sends batches: the modes differ only in the handler.
    pub fn sender(&self, shutdown: &Shutdown) -> Sender {
        let config = ProducerConfig {
            kafka: self.kafka.clone(),
            mode: Mode::Batched,
            linger: Duration::ZERO,
            batch_records: 10_000,
            batch_bytes: 200_000,
        };
        Sender::new(&config, shutdown)
    }

    /// An encoder for commands.
    pub fn encoder<R: Record>(&self) -> Result<Encoder<R>, Error> {
        Encoder::new(&self.registry)
            .map_err(|source| Error::Registry { topic: R::TOPIC.name, source })
    }
}

/// The end offset of each partition of `topic`.
pub fn ends(kafka_client: &mut dyn KafkaClient, topic: &Topic) -> Result<Vec<Position>, Error> {
    let bounds = kafka_client.log_range(topic.name, WITHIN).map_err(|source| Error::Kafka {
        step: format!("look up the offsets of {}", topic.name),
        source,
    })?;
    let ends = bounds.into_iter().map(|(_, end)| end);
    Ok((0..).zip(ends).map(|(partition, next)| Position { partition, next }).collect())
}

/// True if `group` has committed the end offset of each partition of `topic`.
pub fn is_done(
    kafka_client: &mut dyn KafkaClient,
    group: &str,
    topic: &Topic,
) -> Result<bool, Error> {
    let ends = ends(kafka_client, topic)?;
    let committed = kafka_client.committed(group, topic.name, WITHIN).map_err(|source| {
        Error::Kafka { step: format!("look up the offsets of group {group}"), source }
    })?;
    let done = |(end, committed): (&Position, &Option<i64>)| committed.unwrap_or(0) >= end.next;
    Ok(ends.iter().zip(&committed).all(done))
}

/// Reads and decodes the records of one topic.
pub struct TopicReader<R> {
    consumer: Consumer,
    decoder: Decoder<R>,
}

impl<R: Record> TopicReader<R> {
    /// Starts at the current end of the topic.
    pub fn from_end(cluster: &Cluster) -> Result<Self, Error> {
        let positions = ends(&mut *cluster.kafka_client(), &R::TOPIC)?;
        Ok(Self::from(cluster, positions))
    }

    /// Starts at `positions`.
    pub fn from(cluster: &Cluster, positions: Vec<Position>) -> Self {
        let consumer = Consumer::start(&cluster.kafka, R::TOPIC.name, positions);
        Self { consumer, decoder: Decoder::new(cluster.registry.clone()) }
    }

    /// Passes the records that have arrived to `take`. Waits at most `wait` for the first one.
    /// Returns when they were read.
    pub fn poll(&mut self, wait: Duration, mut take: impl FnMut(R)) -> Result<Instant, Error> {
        let topic = R::TOPIC.name;
        let failed = |source| Error::Kafka { step: format!("read {topic}"), source };
        let chunks = self.consumer.poll(wait).map_err(failed)?;
        let now = Instant::now();
        for chunk in chunks {
            let partition = chunk.partition;
            for record in chunk.records {
                let value = record.value.unwrap_or_default();
                let record = self.decoder.decode(&value).map_err(|err| match err {
                    avro::Error::Registry { source, .. } => Error::Registry { topic, source },
                    err @ avro::Error::Undecodable(_) => Error::Bank(format!(
                        "{topic}/{partition}/{}: {}",
                        record.offset,
                        Chain(&err)
                    )),
                })?;
                take(record);
            }
            if let Some(source) = chunk.error {
                return Err(failed(source));
            }
        }
        Ok(now)
    }
}
