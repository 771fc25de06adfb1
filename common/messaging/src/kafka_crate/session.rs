//! A session: a client of the kafka crate and the state of its brokers.

use super::error::{Call, from_crate, from_raw, no_leader};
use super::raw_requests::{self, BrokerVersions, OLD_METADATA};
use crate::config::CLIENT_ID;
use kafka::client::fetch::{Data, Message};
use kafka::client::{
    Compression, FetchPartition, GroupOffsetStorage, KafkaClient, ProduceMessage, RequiredAcks,
};
use kafka_client::protocol::codes;
use kafka_client::protocol::messages::Partition;
use kafka_client::{
    Api, Batch, Error, ErrorKind, FetchedRecord, PartitionData, Position, ProduceResult, Result,
    TopicDescription,
};
use service::panic_guard;
use service::shutdown::Shutdown;
use service::watchdog::{self, Watch};
use std::collections::{HashMap, HashSet};
use std::io;
use std::time::Duration;

/// Time after which an idle connection is closed. Brokers close it after 10 minutes, which the
/// crate does not detect.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4 * 60);
/// Time for which the leader waits for its in-sync replicas.
const ACK_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit of a probe's name resolution. The other steps have their own timeouts.
const PROBE_TIMEOUT: Duration = Duration::from_secs(60);

/// Runs a call of the kafka crate. Converts a panic into an I/O error.
pub(super) fn guarded<T>(call: impl FnOnce() -> kafka::Result<T>) -> kafka::Result<T> {
    panic_guard::guarded(call)
        .unwrap_or_else(|| Err(io::Error::other("the kafka crate panicked").into()))
}

pub(super) struct Session {
    pub kafka: KafkaClient,
    /// The broker for metadata requests, host:port.
    pub bootstrap: String,
    versions: BrokerVersions,
    limits: CallLimits,
    /// The first error of a whole call. The session is unusable after it, since late responses may
    /// follow.
    error: Option<Error>,
    topics: HashSet<String>,
    /// Results of probes by host:port.
    probed: HashMap<String, Result<()>>,
    /// host:port of the coordinator by group.
    pub coordinators: HashMap<String, String>,
}

impl Session {
    /// `versions` are those of the broker at `host`.
    pub fn new(
        host: &str,
        versions: BrokerVersions,
        limits: CallLimits,
        compression: kafka_client::Compression,
    ) -> Self {
        let mut kafka = KafkaClient::new(vec![host.to_owned()]);
        kafka.set_client_id(CLIENT_ID.to_owned());
        kafka.set_compression(match compression {
            kafka_client::Compression::None => Compression::NONE,
            kafka_client::Compression::Gzip => Compression::GZIP,
            kafka_client::Compression::Snappy => Compression::SNAPPY,
            kafka_client::Compression::Lz4 | kafka_client::Compression::Zstd => {
                unreachable!("`KafkaConfig` selects the built-in client for these")
            }
        });
        kafka.set_connection_idle_timeout(IDLE_TIMEOUT);
        kafka.set_fetch_min_bytes(1);
        kafka.set_group_offset_storage(Some(GroupOffsetStorage::Kafka));
        Self {
            kafka,
            bootstrap: host.to_owned(),
            versions,
            limits,
            error: None,
            topics: HashSet::new(),
            probed: HashMap::from([(host.to_owned(), Ok(()))]),
            coordinators: HashMap::new(),
        }
    }

    pub fn is_usable(&self) -> bool {
        self.error.is_none()
    }

    /// Runs one call of the crate. `waits` is the time for which the broker may delay its response.
    /// After an error, all further calls return that error.
    pub fn call<T>(
        &mut self,
        call: Call,
        host: &str,
        topic: &str,
        waits: Duration,
        run: impl FnOnce(&mut KafkaClient) -> kafka::Result<T>,
    ) -> Result<T> {
        if let Some(err) = &self.error {
            return Err(err.clone());
        }
        let what = format!("{} {topic} at {host}", call.name());
        let _watch = self.limits.watch(waits, what);
        guarded(|| run(&mut self.kafka)).map_err(|err| {
            let err = from_crate(call, &err, topic, host);
            self.error = Some(err.clone());
            err
        })
    }

    /// Requests the metadata of `topics`, in the same order, without the crate.
    pub fn describe_all(&mut self, topics: &[&str]) -> Result<Vec<TopicDescription>> {
        if let Some(err) = &self.error {
            return Err(err.clone());
        }
        let host = &self.bootstrap;
        let what = format!("load metadata of {} at {host}", topics.join(", "));
        let response = raw_requests::metadata(host, topics, self.versions.highest_metadata);
        let found = from_raw(response.map(Ok), &what)?.topics;
        let failed = |why: String| Error::retryable(0, format!("{what}: {why}"));
        let describe = |topic: &&str| {
            let Some(found) = found.iter().find(|it| it.name == *topic) else {
                return Err(failed(format!("{topic} is missing in the response")));
            };
            match found.error_code {
                0 | codes::LEADER_NOT_AVAILABLE => {}
                codes::UNKNOWN_TOPIC_OR_PARTITION => return Err(Error::no_topic(topic, host)),
                code => {
                    let text = format!("{what}: {}", codes::Name(code));
                    return Err(Error { kind: ErrorKind::of_code(Api::Other, code), code, text });
                }
            }
            let mut leaders = vec![None; found.partitions.len()];
            for Partition { partition_index, leader_id, .. } in &found.partitions {
                let index = usize::try_from(*partition_index).ok();
                let Some(leader) = index.and_then(|index| leaders.get_mut(index)) else {
                    return Err(failed("partition indexes are not contiguous".to_owned()));
                };
                *leader = Some(*leader_id).filter(|id| *id >= 0);
            }
            Ok(TopicDescription { id: found.topic_id, leaders })
        };
        topics.iter().map(describe).collect()
    }

    pub fn describe(&mut self, topic: &str) -> Result<TopicDescription> {
        let mut all = self.describe_all(&[topic])?;
        Ok(all.remove(0))
    }

    pub fn load_metadata(&mut self, topic: &str) -> Result<()> {
        // The request of the crate may only follow this one: it creates a missing topic.
        self.describe(topic)?;
        let host = self.bootstrap.clone();
        self.call(Call::Metadata, &host, topic, Duration::ZERO, |kafka| {
            kafka.load_metadata(&[topic])
        })?;
        if self.kafka.topics().partitions(topic).is_none_or(|it| it.is_empty()) {
            // The crate drops the topic's error code. The topic existed a moment ago.
            let text = format!("load metadata of {topic} at {host}: it has no partitions");
            return Err(Error::retryable(0, text));
        }
        self.topics.insert(topic.to_owned());
        Ok(())
    }

    pub fn ensure_metadata(&mut self, topic: &str) -> Result<()> {
        if self.topics.contains(topic) { Ok(()) } else { self.load_metadata(topic) }
    }

    pub fn partitions(&self, topic: &str) -> usize {
        self.kafka.topics().partitions(topic).map_or(0, |it| it.len())
    }

    /// Returns the leader of a partition as host:port. It has responded to a probe.
    pub fn leader(&mut self, topic: &str, partition: i32) -> Result<String> {
        self.ensure_metadata(topic)?;
        let topics = self.kafka.topics();
        let partitions = topics.partitions(topic).into_iter();
        let leader = partitions.filter_map(|it| it.partition(partition)?.leader()).next();
        let host = leader.ok_or_else(|| no_leader(topic, partition))?.host().to_owned();
        self.probe(&host)?;
        Ok(host)
    }

    /// Probes the broker, once per session.
    pub fn probe(&mut self, host: &str) -> Result<()> {
        let limits = &self.limits;
        let probe = || {
            limits.probe(host).map(drop).map_err(|err| Error {
                text: format!(
                    "{}. The brokers advertise this address: this machine must be able to reach \
                     it, else change advertised.listeners of that broker",
                    err.text
                ),
                ..err
            })
        };
        self.probed.entry(host.to_owned()).or_insert_with(probe).clone()
    }

    /// Writes the batches with the given `indexes`. The broker at `host` leads their partitions.
    pub fn produce(
        &mut self,
        host: &str,
        batches: &[Batch<'_>],
        indexes: &[usize],
        results: &mut [Result<i64>],
    ) {
        let messages = indexes.iter().flat_map(|&i| {
            let Batch { topic, partition, records } = &batches[i];
            records.iter().map(|it| ProduceMessage::new(topic, *partition, it.key, it.value))
        });
        let topic = batches[indexes[0]].topic;
        let ack_timeout = ACK_TIMEOUT.min(self.limits.timeout / 2);
        let confirms = self.call(Call::Produce, host, topic, Duration::ZERO, |kafka| {
            kafka.produce_messages(RequiredAcks::All, ack_timeout, messages)
        });
        let confirms = match confirms {
            Ok(confirms) => confirms,
            Err(err) => {
                indexes.iter().for_each(|&i| results[i].set_error(err.clone()));
                return;
            }
        };
        for &i in indexes {
            let Batch { topic, partition, .. } = batches[i];
            let target = format!("{topic}/{partition}");
            let topics = confirms.iter().filter(|it| it.topic == topic);
            let mut partitions = topics.flat_map(|it| &it.partition_confirms);
            match partitions.find(|it| it.partition == partition).map(|it| it.offset) {
                Some(Ok(offset)) => results[i] = Ok(offset),
                Some(Err(code)) => {
                    let err = kafka::Error::Kafka(code);
                    results[i].set_error(from_crate(Call::Produce, &err, &target, host));
                }
                None => {
                    let text = missing(Call::Produce, &target, host);
                    results[i].set_error(Error { kind: ErrorKind::Unknown, code: 0, text });
                }
            }
        }
    }

    /// Returns data for each position, in order. The records take at most `memory_left` bytes,
    /// apart from a single larger one.
    pub fn fetch(
        &mut self,
        host: &str,
        topic: &str,
        requests: &[FetchPartition<'_>],
        positions: &[Position],
        wait: Duration,
        memory_left: &mut usize,
    ) -> Result<Vec<PartitionData>> {
        let responses = self.call(Call::Fetch, host, topic, wait, |kafka| {
            kafka.set_fetch_max_wait_time(wait)?;
            kafka.fetch_messages(requests)
        })?;
        let partitions =
            || responses.iter().flat_map(|it| it.topics()).flat_map(|it| it.partitions());
        let memory_max = *memory_left;
        let data_of = |position: &Position| {
            let target = format!("{topic}/{}", position.partition);
            let Some(partition) = partitions().find(|it| it.partition() == position.partition)
            else {
                let err = Error::retryable(0, missing(Call::Fetch, &target, host));
                return PartitionData::failed(*position, err);
            };
            match partition.data() {
                // The next fetch returns the records of these partitions.
                Ok(_) if *memory_left == 0 => PartitionData::empty(*position),
                Ok(data) => {
                    partition_data(*position, data, memory_left, *memory_left == memory_max)
                }
                Err(err) => {
                    let err = from_crate(Call::Fetch, &err.into(), &target, host);
                    PartitionData::failed(*position, err)
                }
            }
        };
        Ok(positions.iter().map(data_of).collect())
    }
}

fn missing(call: Call, target: &str, host: &str) -> String {
    format!("{} {target} at {host}: the partition is missing in the response", call.name())
}

/// The data of one partition. Records after `memory_left` are left for the next fetch. With
/// `takes_first`, the first record is not.
fn partition_data(
    position: Position,
    data: &Data<'_>,
    memory_left: &mut usize,
    takes_first: bool,
) -> PartitionData {
    let bytes = |it: &[u8]| if it.is_empty() { None } else { Some(it.to_vec()) };
    let record = |it: &Message<'_>| {
        let (key, value) = (bytes(it.key), bytes(it.value));
        FetchedRecord { offset: it.offset, key, value, timestamp_ms: -1, headers: Vec::new() }
    };
    let messages = data.messages().iter().filter(|it| it.offset >= position.next);
    let mut records: Vec<FetchedRecord> = Vec::new();
    for record in messages.map(record) {
        let must_take = takes_first && records.is_empty();
        if record.memory() > *memory_left && !must_take {
            *memory_left = 0;
            if records.is_empty() {
                return PartitionData::empty(position);
            }
            break;
        }
        *memory_left = memory_left.saturating_sub(record.memory());
        records.push(record);
    }
    let next = records.last().map_or(position.next, |record| record.offset + 1);
    let end = data.highwatermark_offset();
    PartitionData { partition: position.partition, records, next, end, error: None }
}

/// The limits after which the watchdog ends the process.
#[derive(Debug, Clone)]
pub(super) struct CallLimits {
    pub timeout: Duration,
    pub shutdown: Option<Shutdown>,
}

impl CallLimits {
    fn watch(&self, waits: Duration, what: String) -> Watch {
        watchdog::watch(self.timeout + waits, self.shutdown.as_ref(), what)
    }

    /// Checks that the broker responds and supports protocol version 0.
    pub fn probe(&self, host: &str) -> Result<BrokerVersions> {
        let _watch = self.watch(PROBE_TIMEOUT, format!("probe {host}"));
        let unsupported =
            |text| Error { kind: ErrorKind::Config, code: codes::UNSUPPORTED_VERSION, text };
        let versions = raw_requests::broker_versions(host)
            .map_err(|err| Error::retryable(0, format!("broker {host} does not respond: {err}")))?;
        let BrokerVersions { lowest_fetch, highest_metadata } = versions;
        if lowest_fetch > 0 {
            return Err(unsupported(format!(
                "broker {host} only supports Fetch from version {lowest_fetch} on, but the kafka \
                 crate requires version 0, which Kafka 4 removed. \
                 Set KAFKA_CLIENT=built-in or use Kafka 3.9 or older"
            )));
        }
        if highest_metadata < OLD_METADATA.version {
            return Err(unsupported(format!(
                "broker {host} only supports Metadata up to version {highest_metadata}, which \
                 creates missing topics: Kafka 0.11 or later is needed"
            )));
        }
        Ok(versions)
    }
}
