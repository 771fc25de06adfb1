//! The [`KafkaClient`] on the kafka crate, and the only file that knows it.

use super::raw_requests::{self, Bound, Stored};
use crate::client::KafkaClient;
use crate::config::{CLIENT_ID, KafkaConfig};
use kafka::client::fetch::{Data, Message};
use kafka::client::metadata::Broker;
use kafka::client::{
    CommitOffset, Compression, FetchPartition, GroupOffsetStorage, PartitionOffset, ProduceMessage,
    RequiredAcks,
};
use kafka::error::KafkaCode;
use kafka_client::{
    Backoff, Batch, Error, ErrorKind, FetchedRecord, PartitionData, Position, ProduceResult, Result,
};
use service::panic_guard;
use service::shutdown::Shutdown;
use service::watchdog::{self, Watch};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};
use std::{fmt, io};

/// Runs a call of the kafka crate; a panic in it becomes an I/O error.
fn guarded<T>(call: impl FnOnce() -> kafka::Result<T>) -> kafka::Result<T> {
    panic_guard::guarded(call)
        .unwrap_or_else(|| Err(io::Error::other("the kafka crate panicked").into()))
}

/// Below the ten minutes after which a broker closes an idle connection: the crate takes a closed one for a live one.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4 * 60);
/// How long the leader waits for its followers before it answers that they did not.
const ACK_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest batch that is fetched: below the 55 MiB that a broker puts into a reply. The topics of this bank take a twelfth.
const BATCH_BYTES_MAX: i32 = 48 << 20;

/// The [`KafkaClient`] on the kafka crate, whose rules are: after any error that is not a code for one partition the client is
/// dropped, since it keeps dead connections and takes late replies for the next request's; only brokers that answer a
/// probe are given to it, since it waits for minutes for the others; and the watchdog stands by each call.
pub struct KafkaCrateClient {
    config: KafkaConfig,
    limits: Limits,
    client: Option<Client>,
    /// Which of `config.brokers` is asked first by the next client.
    turn: usize,
    backoff: Backoff,
    /// Partitions that are not fetched with `config.fetch_bytes`.
    asks: HashMap<(String, i32), Ask>,
}

/// How a partition is fetched next.
#[derive(Debug, Clone, Copy)]
enum Ask {
    /// With so many bytes, for its batches are large.
    Bytes(i32),
    /// The batch at this offset alone: a larger fetch gave none of its records.
    Exactly { offset: i64, stored: Stored },
}

impl KafkaCrateClient {
    /// No I/O happens before the first call.
    pub fn new(config: &KafkaConfig, stop: Option<Shutdown>) -> Self {
        Self {
            config: config.clone(),
            limits: Limits { timeout: config.timeout, stop },
            client: None,
            turn: 0,
            backoff: Backoff::default(),
            asks: HashMap::new(),
        }
    }

    /// After an attempt that may be repeated: drops the client and holds the next attempt back.
    fn failed(&mut self, err: &Error) {
        self.client = None;
        self.backoff.failed(err);
    }

    /// Repeats `attempt` while its error allows, until the deadline. Success doesn't end the backoff by itself: where one leader is
    /// dead, finding the leaders would succeed every other time, and the backoff never grow.
    fn retry<T>(
        &mut self,
        within: Duration,
        mut attempt: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + within;
        loop {
            self.backoff.wait(deadline)?;
            match attempt(self) {
                Ok(value) => return Ok(value),
                Err(err) if err.is_retryable() => {
                    self.failed(&err);
                    if Instant::now() >= deadline {
                        return Err(err);
                    }
                }
                Err(err) => return Err(err),
            }
        }
    }

    /// The client, or a new one on the first broker that answers.
    fn client(&mut self) -> Result<&mut Client> {
        let usable = self.client.take().filter(|client| client.broken.is_none());
        let client = usable.map_or_else(|| self.new_client(), Ok)?;
        Ok(self.client.insert(client))
    }

    fn new_client(&mut self) -> Result<Client> {
        let brokers = &self.config.brokers;
        let mut refusals = Vec::new();
        for i in 0..brokers.len() {
            let host = &brokers[(self.turn + i) % brokers.len()];
            match self.limits.check(host) {
                Ok(()) => {
                    // A broker may answer the probe and fail later: the next client starts with another one.
                    self.turn = (self.turn + i + 1) % brokers.len();
                    return Ok(Client::new(host, self.limits.clone(), compression(&self.config)));
                }
                Err(err) if err.kind == ErrorKind::Config => return Err(err),
                Err(err) => refusals.push(err.text),
            }
        }
        Err(Error { kind: ErrorKind::Retry, code: 0, text: refusals.join("; ") })
    }

    /// One attempt to write `todo`, indices into `batches`; all of them get a result.
    fn try_produce(
        &mut self,
        batches: &[Batch<'_>],
        mut todo: Vec<usize>,
        results: &mut [Result<i64>],
    ) {
        // All batches of one broker per call: its I/O error then leaves no doubt about the other brokers' batches, which go
        // on with a new client at once.
        while let Some(&first) = todo.first() {
            let client = match self.client() {
                Ok(client) => client,
                Err(err) => {
                    todo.iter().for_each(|&i| results[i].set_error(err.clone()));
                    return;
                }
            };
            let host = match client.leader(batches[first].topic, batches[first].partition) {
                Ok(host) => host,
                Err(err) => {
                    results[first].set_error(err);
                    todo.remove(0);
                    continue;
                }
            };
            let (mine, rest): (Vec<usize>, Vec<usize>) = todo.into_iter().partition(|&i| {
                client.leader(batches[i].topic, batches[i].partition).is_ok_and(|it| it == host)
            });
            todo = rest;
            client.produce(&host, batches, &mine, results);
        }
    }

    /// One attempt to read, from one broker after the other.
    fn try_fetch(
        &mut self,
        topic: &str,
        positions: &[Position],
        wait: Duration,
    ) -> Result<Vec<PartitionData>> {
        let mut data = Vec::with_capacity(positions.len());
        let mut by_leader: BTreeMap<String, Vec<Position>> = BTreeMap::new();
        let client = self.client()?;
        for position in positions {
            match client.leader(topic, position.partition) {
                Ok(host) => by_leader.entry(host).or_default().push(*position),
                Err(err) if err.kind == ErrorKind::Config => return Err(err),
                Err(err) => data.push(PartitionData::failed(*position, err)),
            }
        }
        let wait = wait / u32::try_from(by_leader.len().max(1)).unwrap_or(u32::MAX);
        for (host, positions) in by_leader {
            match self.fetch_from(&host, topic, &positions, wait) {
                Ok(more) => data.extend(more),
                Err(err) if err.kind == ErrorKind::Undecodable => {
                    // The crate gives up the whole reply for one batch that it can't read: find which partition's.
                    for position in positions {
                        match self.fetch_from(&host, topic, &[position], Duration::ZERO) {
                            Ok(more) => data.extend(more),
                            Err(err) => {
                                let mut failed = PartitionData::failed(position, err);
                                self.narrow(&host, topic, &position, &mut failed);
                                data.push(failed);
                            }
                        }
                    }
                }
                Err(err) => {
                    data.extend(positions.iter().map(|it| PartitionData::failed(*it, err.clone())));
                }
            }
        }
        Ok(data)
    }

    /// Reads from `host`, which leads all of the positions' partitions: a data for each, in order.
    fn fetch_from(
        &mut self,
        host: &str,
        topic: &str,
        positions: &[Position],
        wait: Duration,
    ) -> Result<Vec<PartitionData>> {
        let asks: Vec<FetchPartition<'_>> = positions
            .iter()
            .map(|it| {
                FetchPartition::new(topic, it.partition, it.next)
                    .with_max_bytes(self.bytes_to_ask(topic, it))
            })
            .collect();
        let client = self.client()?;
        for it in positions {
            // A client made since they were grouped has metadata of its own.
            if client.leader(topic, it.partition)? != host {
                return Err(no_leader(topic, it.partition));
            }
        }
        let mut data = client.fetch(host, topic, &asks, positions, wait)?;
        for (data, asked) in data.iter_mut().zip(positions) {
            match &data.error {
                None => self.check_start(host, topic, asked, positions.len() == 1, data),
                Some(_) => self.narrow(host, topic, asked, data),
            }
        }
        Ok(data)
    }

    /// Before a partition is given up for what can't be read, its next batch is read by itself: the bad one may come later.
    fn narrow(&mut self, host: &str, topic: &str, asked: &Position, data: &mut PartitionData) {
        if data.error.as_ref().is_none_or(|err| err.kind != ErrorKind::Undecodable) {
            return;
        }
        let key = (topic.to_owned(), asked.partition);
        let ask = self.asks.remove(&key);
        if matches!(ask, Some(Ask::Exactly { offset, .. }) if offset == asked.next) {
            return;
        }
        match look(host, topic, asked) {
            Ok(stored) => {
                self.asks.insert(key, Ask::Exactly { offset: asked.next, stored });
                data.error = None;
            }
            // The crate calls every code that it doesn't know the same: it's the broker that can't read, and that passes.
            Err(err) => data.error = Some(err),
        }
    }

    fn bytes_to_ask(&self, topic: &str, position: &Position) -> i32 {
        match self.asks.get(&(topic.to_owned(), position.partition)) {
            Some(Ask::Bytes(bytes)) => *bytes,
            Some(Ask::Exactly { offset, stored }) if *offset == position.next => stored.bytes,
            _ => self.config.fetch_bytes,
        }
    }

    /// Sees to it that the data starts where it was asked to, as far as there are records: the crate gives none of a batch
    /// larger than the fetch, drops records before a compressed batch, and can't step over the end of a transaction.
    /// `alone` says that the fetch was for this partition only.
    fn check_start(
        &mut self,
        host: &str,
        topic: &str,
        asked: &Position,
        alone: bool,
        data: &mut PartitionData,
    ) {
        let key = (topic.to_owned(), asked.partition);
        let ask = self.asks.remove(&key);
        let first = data.records.first().map_or(data.end, |record| record.offset);
        if first <= asked.next {
            // All is well. A partition with large batches gets large fetches until its batches are smaller.
            let received: usize = data.records.iter().map(bytes_of).sum();
            let bytes = match ask {
                Some(Ask::Bytes(bytes)) if received < bytes as usize / 2 => bytes / 2,
                Some(Ask::Bytes(bytes) | Ask::Exactly { stored: Stored { bytes, .. }, .. }) => {
                    bytes
                }
                None => 0,
            };
            if bytes > self.config.fetch_bytes {
                self.asks.insert(key, Ask::Bytes(bytes));
            }
            return;
        }
        if let Some(ask @ Ask::Exactly { offset, stored }) = ask
            && offset == asked.next
            && first > stored.last
        {
            if alone {
                // Compaction has removed what the batch had at and after this offset.
                data.records.clear();
                data.next = stored.last + 1;
            } else {
                // Or the reply had no room for it beside the others.
                self.asks.insert(key, ask);
                *data = match self.fetch_from(host, topic, &[*asked], Duration::ZERO) {
                    Ok(mut only) => only.remove(0),
                    Err(err) => PartitionData::failed(*asked, err),
                };
            }
            return;
        }
        let stored = match look(host, topic, asked) {
            Ok(stored) => stored,
            Err(err) => {
                *data = PartitionData::failed(*asked, err);
                return;
            }
        };
        if stored.control && first == stored.last + 1 && !data.records.is_empty() {
            return;
        }
        data.records.clear();
        if stored.control {
            data.next = stored.last + 1;
            return;
        }
        data.next = asked.next;
        if stored.bytes > BATCH_BYTES_MAX {
            let text = format!(
                "read {topic}/{} at offset {}: its batch of {} bytes is larger than {BATCH_BYTES_MAX}",
                asked.partition, asked.next, stored.bytes
            );
            data.error = Some(Error { kind: ErrorKind::Undecodable, code: 0, text });
        } else {
            self.asks.insert(key, Ask::Exactly { offset: asked.next, stored });
        }
    }
}

impl KafkaClient for KafkaCrateClient {
    fn leaders(&mut self, topic: &str, within: Duration) -> Result<Vec<i32>> {
        self.retry(within, |client| {
            let client = client.client()?;
            client.load(topic)?;
            let topics = client.kafka.topics();
            let partitions = topics.partitions(topic).into_iter().flatten();
            partitions
                .map(|it| it.leader().ok_or_else(|| no_leader(topic, it.id())).map(Broker::id))
                .collect()
        })
    }

    fn produce(&mut self, batches: &[Batch<'_>], within: Duration) -> Vec<Result<i64>> {
        let deadline = Instant::now() + within;
        let untried = Error { kind: ErrorKind::Retry, code: 0, text: "not tried".into() };
        let mut results: Vec<Result<i64>> = vec![Err(untried); batches.len()];
        loop {
            let todo: Vec<usize> =
                (0..batches.len()).filter(|&i| results[i].is_retryable()).collect();
            if let Err(err) = self.backoff.wait(deadline) {
                todo.iter().for_each(|&i| results[i].set_error(err.clone()));
                return results;
            }
            self.try_produce(batches, todo, &mut results);
            match results.iter().find(|result| result.is_retryable()) {
                Some(Err(err)) => self.failed(&err.clone()),
                _ => {
                    self.backoff.succeeded();
                    return results;
                }
            }
            if Instant::now() >= deadline {
                return results;
            }
        }
    }

    fn fetch(
        &mut self,
        topic: &str,
        positions: &[Position],
        wait: Duration,
    ) -> Result<Vec<PartitionData>> {
        self.backoff.wait(Instant::now() + wait)?;
        let result = self.try_fetch(topic, positions, wait);
        let failure = match &result {
            Ok(data) => {
                data.iter().find_map(|data| data.error.as_ref().filter(|err| err.is_retryable()))
            }
            Err(err) => Some(err).filter(|err| err.is_retryable()),
        };
        match failure.cloned() {
            Some(err) => self.failed(&err),
            None => self.backoff.succeeded(),
        }
        result
    }

    fn log_range(&mut self, topic: &str, within: Duration) -> Result<Vec<(i64, i64)>> {
        self.retry(within, |client| {
            let bounds = client.client()?.log_range(topic)?;
            client.backoff.succeeded();
            Ok(bounds)
        })
    }

    fn committed(
        &mut self,
        group: &str,
        topic: &str,
        within: Duration,
    ) -> Result<Vec<Option<i64>>> {
        self.retry(within, |client| {
            let committed = client.client()?.committed(group, topic)?;
            client.backoff.succeeded();
            Ok(committed)
        })
    }

    fn commit(
        &mut self,
        group: &str,
        topic: &str,
        positions: &[Position],
        within: Duration,
    ) -> Result<()> {
        self.retry(within, |client| {
            client.client()?.commit(group, topic, positions)?;
            client.backoff.succeeded();
            Ok(())
        })
    }
}

/// How the crate packs what it writes.
fn compression(config: &KafkaConfig) -> Compression {
    match config.compression {
        kafka_client::Compression::None => Compression::NONE,
        kafka_client::Compression::Gzip => Compression::GZIP,
        kafka_client::Compression::Snappy => Compression::SNAPPY,
        kafka_client::Compression::Lz4 | kafka_client::Compression::Zstd => {
            unreachable!("`KafkaConfig` gives these to today's protocol")
        }
    }
}

/// A client of the kafka crate and what is known about the brokers it talks to.
struct Client {
    kafka: kafka::client::KafkaClient,
    /// The broker it started with.
    bootstrap: String,
    limits: Limits,
    /// Set by any error of a whole call: then replies may be on their way that belong to no request any more.
    broken: Option<Error>,
    topics: HashSet<String>,
    /// What the probe of each broker said.
    checked: HashMap<String, Result<()>>,
    /// Coordinator of each group.
    coordinators: HashMap<String, String>,
}

impl Client {
    fn new(host: &str, limits: Limits, compression: Compression) -> Self {
        let mut kafka = kafka::client::KafkaClient::new(vec![host.to_owned()]);
        kafka.set_client_id(CLIENT_ID.to_owned());
        kafka.set_compression(compression);
        kafka.set_connection_idle_timeout(IDLE_TIMEOUT);
        kafka.set_fetch_min_bytes(1);
        kafka.set_group_offset_storage(Some(GroupOffsetStorage::Kafka));
        Self {
            kafka,
            bootstrap: host.to_owned(),
            limits,
            broken: None,
            topics: HashSet::new(),
            checked: HashMap::from([(host.to_owned(), Ok(()))]),
            coordinators: HashMap::new(),
        }
    }

    /// One call of the crate. `waits` is how long the broker is asked to take. After an error there is no further one.
    fn call<T>(
        &mut self,
        api: Api,
        host: &str,
        topic: &str,
        waits: Duration,
        call: impl FnOnce(&mut kafka::client::KafkaClient) -> kafka::Result<T>,
    ) -> Result<T> {
        if let Some(err) = &self.broken {
            return Err(err.clone());
        }
        let what = format!("{} {topic} at {host}", api.name());
        let _watch = self.limits.watch(waits, what);
        guarded(|| call(&mut self.kafka)).map_err(|err| {
            let err = explain(api, &err, topic, host);
            self.broken = Some(err.clone());
            err
        })
    }

    /// Loads the metadata of `topic` anew.
    fn load(&mut self, topic: &str) -> Result<()> {
        let host = self.bootstrap.clone();
        self.call(Api::Metadata, &host, topic, Duration::ZERO, |kafka| {
            kafka.load_metadata(&[topic])
        })?;
        if self.kafka.topics().partitions(topic).is_none_or(|it| it.is_empty()) {
            // Which of its codes the broker said is lost in the crate; that the topic isn't there (yet) is by far the most likely.
            let text =
                format!("topic {topic} does not exist at {host}; the synchronizer creates it");
            return Err(Error { kind: ErrorKind::Retry, code: 3, text });
        }
        self.topics.insert(topic.to_owned());
        Ok(())
    }

    /// The leader of a partition as host:port, once it has answered.
    fn leader(&mut self, topic: &str, partition: i32) -> Result<String> {
        if !self.topics.contains(topic) {
            self.load(topic)?;
        }
        let topics = self.kafka.topics();
        let partitions = topics.partitions(topic).into_iter();
        let leader = partitions.filter_map(|it| it.partition(partition)?.leader()).next();
        let host = leader.ok_or_else(|| no_leader(topic, partition))?.host().to_owned();
        self.check(&host)?;
        Ok(host)
    }

    /// Probes the broker, once in the life of this client.
    fn check(&mut self, host: &str) -> Result<()> {
        if let Some(answer) = self.checked.get(host) {
            return answer.clone();
        }
        let answer = self.limits.check(host);
        self.checked.insert(host.to_owned(), answer.clone());
        answer
    }

    /// Writes the batches that `host` leads.
    fn produce(
        &mut self,
        host: &str,
        batches: &[Batch<'_>],
        mine: &[usize],
        results: &mut [Result<i64>],
    ) {
        let messages = mine.iter().flat_map(|&i| {
            let Batch { topic, partition, records } = &batches[i];
            records.iter().map(|it| ProduceMessage::new(topic, *partition, it.key, it.value))
        });
        let topic = batches[mine[0]].topic;
        let ack_timeout = ACK_TIMEOUT.min(self.limits.timeout / 2);
        let confirms = self.call(Api::Produce, host, topic, Duration::ZERO, |kafka| {
            kafka.produce_messages(RequiredAcks::All, ack_timeout, messages)
        });
        let confirms = match confirms {
            Ok(confirms) => confirms,
            Err(err) => {
                mine.iter().for_each(|&i| results[i].set_error(err.clone()));
                return;
            }
        };
        for &i in mine {
            let Batch { topic, partition, .. } = batches[i];
            let place = format!("{topic}/{partition}");
            let confirm = confirms
                .iter()
                .filter(|it| it.topic == topic)
                .flat_map(|it| &it.partition_confirms)
                .find(|it| it.partition == partition);
            match confirm.map(|it| it.offset) {
                Some(Ok(offset)) => results[i] = Ok(offset),
                Some(Err(code)) => {
                    results[i].set_error(explain(Api::Produce, &code_error(code), &place, host));
                }
                None => {
                    let text = format!("produce {place} at {host}: no answer for this partition");
                    results[i].set_error(Error { kind: ErrorKind::Unknown, code: 0, text });
                }
            }
        }
    }

    /// A data for each position, in order.
    fn fetch(
        &mut self,
        host: &str,
        topic: &str,
        asks: &[FetchPartition<'_>],
        positions: &[Position],
        wait: Duration,
    ) -> Result<Vec<PartitionData>> {
        let replies = self.call(Api::Fetch, host, topic, wait, |kafka| {
            kafka.set_fetch_max_wait_time(wait)?;
            kafka.fetch_messages(asks)
        })?;
        let partitions =
            || replies.iter().flat_map(|it| it.topics()).flat_map(|it| it.partitions());
        let data = |position: &Position| {
            let place = format!("{topic}/{}", position.partition);
            let Some(partition) = partitions().find(|it| it.partition() == position.partition)
            else {
                let text = format!("fetch {place} at {host}: no answer for this partition");
                return PartitionData::failed(
                    *position,
                    Error { kind: ErrorKind::Retry, code: 0, text },
                );
            };
            match partition.data() {
                Ok(data) => chunk_of(*position, data),
                Err(err) => {
                    PartitionData::failed(*position, explain(Api::Fetch, &err.into(), &place, host))
                }
            }
        };
        Ok(positions.iter().map(data).collect())
    }

    fn log_range(&mut self, topic: &str) -> Result<Vec<(i64, i64)>> {
        self.load(topic)?;
        let count = self.kafka.topics().partitions(topic).map_or(0, |it| it.len());
        let mut by_leader: BTreeMap<String, Vec<i32>> = BTreeMap::new();
        for partition in (0..).take(count) {
            by_leader.entry(self.leader(topic, partition)?).or_default().push(partition);
        }
        let mut bounds = vec![(None, None); count];
        for (host, partitions) in by_leader {
            for bound in [Bound::Earliest, Bound::End] {
                let answer = raw_requests::offsets(&host, topic, &partitions, bound);
                let found =
                    answered(answer, &format_args!("find the bounds of {topic} at {host}"))?;
                for (partition, offset) in found {
                    let Some(entry) = bounds.get_mut(partition as usize) else { continue };
                    *(match bound {
                        Bound::Earliest => &mut entry.0,
                        Bound::End => &mut entry.1,
                    }) = Some(offset).filter(|it| *it >= 0);
                }
            }
        }
        let both = |(partition, (earliest, end)): (i32, (Option<i64>, Option<i64>))| {
            earliest.zip(end).ok_or_else(|| no_leader(topic, partition))
        };
        (0..).zip(bounds).map(both).collect()
    }

    /// The group's coordinator, once it has answered.
    fn coordinator(&mut self, group: &str) -> Result<String> {
        if let Some(host) = self.coordinators.get(group) {
            return Ok(host.clone());
        }
        let answer = raw_requests::coordinator(&self.bootstrap, group);
        let what = format_args!("find the coordinator of {group} at {}", self.bootstrap);
        let host = answered(answer, &what)?;
        self.check(&host)?;
        self.coordinators.insert(group.to_owned(), host.clone());
        Ok(host)
    }

    fn committed(&mut self, group: &str, topic: &str) -> Result<Vec<Option<i64>>> {
        self.load(topic)?;
        let host = self.coordinator(group)?;
        let count = self.kafka.topics().partitions(topic).map_or(0, |it| it.len());
        let answer = self.call(Api::Committed, &host, topic, Duration::ZERO, |kafka| {
            kafka.fetch_group_topic_offset(group, topic)
        })?;
        let mut offsets = vec![None; count];
        for PartitionOffset { offset, partition } in answer {
            if let Some(entry) = offsets.get_mut(partition as usize).filter(|_| offset >= 0) {
                *entry = Some(offset);
            }
        }
        Ok(offsets)
    }

    fn commit(&mut self, group: &str, topic: &str, positions: &[Position]) -> Result<()> {
        if !self.topics.contains(topic) {
            self.load(topic)?;
        }
        let host = self.coordinator(group)?;
        let offsets = positions.iter().map(|it| CommitOffset::new(topic, it.partition, it.next));
        self.call(Api::Commit, &host, topic, Duration::ZERO, |kafka| {
            kafka.commit_offsets(group, offsets)
        })
    }
}

/// Looks at what is stored at a position where the crate reads nothing.
fn look(host: &str, topic: &str, position: &Position) -> Result<Stored> {
    let Position { partition, next } = position;
    let what = format!("look at {topic}/{partition}, offset {next}, at {host}");
    let stored = answered(raw_requests::stored(host, topic, *partition, *next), &what)?;
    let nothing =
        || Error { kind: ErrorKind::Retry, code: 0, text: format!("{what}: nothing is there") };
    stored.ok_or_else(nothing)
}

/// What a probe came back with; that it came back with nothing, or with a code, passes. `what` was tried.
fn answered<T>(
    answer: io::Result<std::result::Result<T, i16>>,
    what: &dyn fmt::Display,
) -> Result<T> {
    let retry = |code, why: &dyn fmt::Display| Error {
        kind: ErrorKind::Retry,
        code,
        text: format!("{what}: {why}"),
    };
    answer
        .map_err(|err| retry(0, &err))?
        .map_err(|code| retry(code, &format_args!("error code {code}")))
}

/// How long calls may take.
#[derive(Debug, Clone)]
struct Limits {
    timeout: Duration,
    stop: Option<Shutdown>,
}

impl Limits {
    /// Watches a call that the broker is asked to answer after `waits` at the latest.
    fn watch(&self, waits: Duration, what: String) -> Watch {
        watchdog::watch(self.timeout + waits, self.stop.as_ref(), what)
    }

    /// Is the broker there, and does it serve the protocol version that the kafka crate speaks?
    fn check(&self, host: &str) -> Result<()> {
        // The probe has time-outs of its own, but names take as long as the resolver likes.
        let _watch = self.watch(Duration::from_secs(60), format!("probe {host}"));
        match raw_requests::lowest_fetch_version(host) {
            Ok(0) => Ok(()),
            Ok(lowest) => {
                let text = format!(
                    "broker {host} serves Fetch from version {lowest} on: Kafka 4 and newer no longer serve protocol \
                     version 0, which the kafka crate speaks; use Kafka 3.9 or older"
                );
                let code = KafkaCode::UnsupportedVersion as i16;
                Err(Error { kind: ErrorKind::Config, code, text })
            }
            Err(err) => {
                let text = format!("broker {host} does not answer: {err}");
                Err(Error { kind: ErrorKind::Retry, code: 0, text })
            }
        }
    }
}

/// A record's size in the reply, bytes.
fn bytes_of(record: &FetchedRecord) -> usize {
    const HEAD: usize = 34;
    HEAD + record.key.as_ref().map_or(0, Vec::len) + record.value.as_ref().map_or(0, Vec::len)
}

fn chunk_of(position: Position, data: &Data<'_>) -> PartitionData {
    let bytes = |it: &[u8]| if it.is_empty() { None } else { Some(it.to_vec()) };
    let record = |it: &Message<'_>| {
        let (key, value) = (bytes(it.key), bytes(it.value));
        FetchedRecord { offset: it.offset, key, value, timestamp_ms: -1, headers: Vec::new() }
    };
    let messages = data.messages().iter().filter(|it| it.offset >= position.next);
    let records: Vec<FetchedRecord> = messages.map(record).collect();
    let next = records.last().map_or(position.next, |record| record.offset + 1);
    let end = data.highwatermark_offset();
    PartitionData { partition: position.partition, records, next, end, error: None }
}

/// The kinds of calls, by what an error in them means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Api {
    Metadata,
    Produce,
    Fetch,
    Committed,
    Commit,
}

impl Api {
    fn name(self) -> &'static str {
        match self {
            Self::Metadata => "load metadata of",
            Self::Produce => "produce",
            Self::Fetch => "fetch",
            Self::Committed => "fetch committed offsets of",
            Self::Commit => "commit offsets of",
        }
    }
}

fn no_leader(topic: &str, partition: i32) -> Error {
    let code = KafkaCode::LeaderNotAvailable as i16;
    Error { kind: ErrorKind::Retry, code, text: format!("{topic}/{partition} has no leader") }
}

fn code_error(code: KafkaCode) -> kafka::Error {
    kafka::Error::Kafka(code)
}

fn explain(api: Api, err: &kafka::Error, place: &str, host: &str) -> Error {
    let (kind, code) = classify(api, err);
    Error { kind, code, text: format!("{} {place} at {host}: {err}", api.name()) }
}

/// What the crate's error means for the caller, and Kafka's code.
fn classify(api: Api, err: &kafka::Error) -> (ErrorKind, i16) {
    use kafka::Error::{
        ArcSelf, InvalidSnappy, Io, Kafka, NoHostReachable, TopicPartitionError,
        UnsupportedCompression, UnsupportedProtocol,
    };
    let perhaps = if api == Api::Produce { ErrorKind::Unknown } else { ErrorKind::Retry };
    let kind = match err {
        ArcSelf(err) => return classify(api, err),
        Kafka(code) | TopicPartitionError { error_code: code, .. } => {
            return (kind_of(api, *code), *code as i16);
        }
        UnsupportedCompression | UnsupportedProtocol | InvalidSnappy(_) if api == Api::Fetch => {
            ErrorKind::Undecodable
        }
        Io(err) => match err.kind() {
            // These two come from the decompression; sockets don't say that.
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput if api == Api::Fetch => {
                ErrorKind::Undecodable
            }
            io::ErrorKind::ConnectionRefused => ErrorKind::Retry,
            _ => perhaps,
        },
        NoHostReachable => ErrorKind::Retry,
        _ => perhaps,
    };
    (kind, 0)
}

fn kind_of(api: Api, code: KafkaCode) -> ErrorKind {
    use KafkaCode::{
        ClusterAuthorizationFailed, CorruptMessage, GroupAuthorizationFailed, IllegalGeneration,
        IllegalSaslState, InvalidCommitOffsetSize, InvalidGroupId, InvalidMessageSize,
        InvalidRequiredAcks, InvalidTimestamp, InvalidTopic, MessageSizeTooLarge,
        NotEnoughReplicasAfterAppend, OffsetMetadataTooLarge, OffsetOutOfRange,
        RebalanceInProgress, RecordListTooLarge, RequestTimedOut, TopicAuthorizationFailed,
        Unknown, UnknownMemberId, UnsupportedSaslMechanism, UnsupportedVersion,
    };
    match code {
        OffsetOutOfRange if api == Api::Fetch => ErrorKind::Position,
        CorruptMessage | Unknown if api == Api::Fetch => ErrorKind::Undecodable,
        CorruptMessage | MessageSizeTooLarge | RecordListTooLarge | InvalidMessageSize
        | InvalidTimestamp
            if api == Api::Produce =>
        {
            ErrorKind::Message
        }
        RequestTimedOut | NotEnoughReplicasAfterAppend | Unknown if api == Api::Produce => {
            ErrorKind::Unknown
        }
        InvalidTopic
        | InvalidRequiredAcks
        | InvalidGroupId
        | OffsetMetadataTooLarge
        | InvalidCommitOffsetSize
        | TopicAuthorizationFailed
        | GroupAuthorizationFailed
        | ClusterAuthorizationFailed
        | UnsupportedSaslMechanism
        | IllegalSaslState
        | UnsupportedVersion => ErrorKind::Config,
        IllegalGeneration | UnknownMemberId | RebalanceInProgress => ErrorKind::Fenced,
        // Metadata has changed, replicas or the coordinator are on their way: all that passes.
        _ => ErrorKind::Retry,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClientChoice;
    use kafka_client::NewRecord;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::slice;
    use std::sync::{Arc, Mutex};
    use std::thread;

    const API_VERSIONS: i16 = 18;
    const PATIENCE: Duration = Duration::from_secs(10);

    /// A broker whose `answer` to an API key is a body, or `None` for none at all. It closes the connection after each answer.
    fn broker(answer: impl Fn(i16, u16) -> Option<Vec<u8>> + Send + 'static) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            let mut hung = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                match serve(&mut stream, |api| answer(api, port)) {
                    Some(()) => {}
                    None => hung.push(stream),
                }
            }
        });
        format!("127.0.0.1:{port}")
    }

    fn serve(stream: &mut TcpStream, answer: impl Fn(i16) -> Option<Vec<u8>>) -> Option<()> {
        let mut length = [0; 4];
        if stream.read_exact(&mut length).is_err() {
            return Some(());
        }
        let mut request = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut request).unwrap();
        let body = answer(i16::from_be_bytes([request[0], request[1]]))?;
        stream.write_all(&(4 + body.len() as u32).to_be_bytes()).unwrap();
        stream.write_all(&request[4..8]).unwrap();
        stream.write_all(&body).unwrap();
        Some(())
    }

    /// ApiVersions, version 0: Fetch from `lowest` on.
    fn versions(lowest: u8) -> Option<Vec<u8>> {
        Some([[0, 0, 0, 0, 0, 1].as_slice(), &[0, 1, 0, lowest, 0, 17]].concat())
    }

    /// Metadata, version 0: broker 5 at `port` leads the only partition of topic "t".
    fn metadata(port: u16) -> Option<Vec<u8>> {
        let mut body = vec![0, 0, 0, 1, 0, 0, 0, 5, 0, 9];
        body.extend(b"127.0.0.1");
        body.extend(u32::from(port).to_be_bytes());
        body.extend([0, 0, 0, 1, 0, 0, 0, 1, b't', 0, 0, 0, 1]);
        body.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0]);
        Some(body)
    }

    fn healthy(api: i16, port: u16) -> Option<Vec<u8>> {
        if api == API_VERSIONS { versions(0) } else { metadata(port) }
    }

    fn client(brokers: &[String]) -> KafkaCrateClient {
        let brokers = brokers.to_vec();
        KafkaCrateClient::new(
            &KafkaConfig {
                brokers,
                client: ClientChoice::KafkaCrate,
                timeout: PATIENCE,
                fetch_bytes: 65536,
                compression: kafka_client::Compression::None,
                sasl: None,
            },
            None,
        )
    }

    #[test]
    fn a_broker_without_version_0_is_named_with_what_to_do() {
        let host = broker(|_, _| versions(4));
        let err = client(slice::from_ref(&host)).leaders("t", PATIENCE).unwrap_err();
        assert_eq!(err.kind, ErrorKind::Config);
        for part in [host.as_str(), "version 4", "Kafka 4", "use Kafka 3.9 or older"] {
            assert!(err.text.contains(part), "{part} in {err}");
        }
    }

    #[test]
    fn a_broker_that_does_not_answer_is_passed_over() {
        let hung = broker(|_, _| None);
        let mut client = client(&[hung, broker(healthy)]);
        assert_eq!(client.leaders("t", Duration::ZERO).unwrap(), [5]);
    }

    #[test]
    fn a_leader_that_does_not_answer_is_not_talked_to() {
        let hung = broker(|_, _| None);
        let port = hung.rsplit_once(':').unwrap().1.parse().unwrap();
        let host = broker(move |api, _| healthy(api, port));
        let start = Instant::now();
        let data =
            client(&[host]).fetch("t", &[Position { partition: 0, next: 0 }], PATIENCE).unwrap();
        assert_eq!(data[0].error.as_ref().unwrap().kind, ErrorKind::Retry);
        assert!(start.elapsed() < PATIENCE / 2);
    }

    #[test]
    fn a_connection_that_the_broker_closed_is_replaced() {
        let mut client = client(&[broker(healthy)]);
        for _ in 0..3 {
            assert_eq!(client.leaders("t", PATIENCE).unwrap(), [5]);
        }
        assert_eq!(client.backoff.failures(), 2, "two of three found it closed");
    }

    #[test]
    fn an_answer_that_is_no_answer_is_an_error_like_others() {
        // No array lengths of billions: the crate asks for that memory, which aborts the process.
        for garbage in [&[][..], &[0xff; 3], &[0x00; 100], &[0xff; 100]] {
            let answer = move |api, _| {
                if api == API_VERSIONS { versions(0) } else { Some(garbage.to_vec()) }
            };
            let err = client(&[broker(answer)]).leaders("t", Duration::ZERO).unwrap_err();
            assert_eq!(err.kind, ErrorKind::Retry, "{err}");
            let host = broker(move |_, _| Some(garbage.to_vec()));
            let err = client(&[host]).leaders("t", Duration::ZERO).unwrap_err();
            assert_eq!(err.kind, ErrorKind::Retry, "{err}");
        }
    }

    #[test]
    fn attempts_are_spaced_also_over_several_calls() {
        let probes = Arc::new(Mutex::new(Vec::new()));
        let probed = probes.clone();
        let host = broker(move |_, _| {
            probed.lock().unwrap().push(Instant::now());
            Some(Vec::new())
        });
        let mut client = client(&[host]);
        let record = NewRecord { value: Some(b"v"), ..NewRecord::default() };
        let batch = [Batch { topic: "t", partition: 0, records: vec![record] }];
        while probes.lock().unwrap().len() < 4 {
            client.leaders("t", Duration::from_millis(20)).unwrap_err();
            client.produce(&batch, Duration::from_millis(20)).remove(0).unwrap_err();
        }
        // A probe is seen a moment before the wait after it begins.
        let waits: Vec<Duration> =
            probes.lock().unwrap().windows(2).map(|pair| pair[1] - pair[0]).collect();
        for (wait, backoff_ms) in waits.iter().zip([100, 200, 400]) {
            assert!(*wait >= Duration::from_millis(backoff_ms), "{waits:?}");
        }
    }

    #[test]
    fn a_panic_of_the_crate_is_an_error_and_the_guard_ends_with_the_call() {
        let result: kafka::Result<()> = guarded(|| {
            assert!(panic_guard::is_guarded());
            panic!("of the crate");
        });
        assert!(!panic_guard::is_guarded());
        let (kind, _) = classify(Api::Produce, &result.unwrap_err());
        assert_eq!(kind, ErrorKind::Unknown);
    }

    #[test]
    fn errors_mean_what_the_call_makes_of_them() {
        use kafka::Error::{ArcSelf, Io, NoHostReachable, UnsupportedCompression};
        let io = |kind| Io(io::Error::from(kind));
        let code = |code| ArcSelf(Arc::new(kafka::Error::Kafka(code)));
        let eof = io::ErrorKind::UnexpectedEof;
        for (api, err, kind) in [
            (Api::Produce, io(eof), ErrorKind::Unknown),
            (Api::Fetch, io(eof), ErrorKind::Retry),
            (Api::Commit, io(eof), ErrorKind::Retry),
            (Api::Produce, io(io::ErrorKind::ConnectionRefused), ErrorKind::Retry),
            (Api::Produce, NoHostReachable, ErrorKind::Retry),
            (Api::Fetch, UnsupportedCompression, ErrorKind::Undecodable),
            (Api::Fetch, io(io::ErrorKind::InvalidInput), ErrorKind::Undecodable),
            (Api::Produce, code(KafkaCode::MessageSizeTooLarge), ErrorKind::Message),
            (Api::Produce, code(KafkaCode::RequestTimedOut), ErrorKind::Unknown),
            (Api::Produce, code(KafkaCode::NotEnoughReplicas), ErrorKind::Retry),
            (Api::Produce, code(KafkaCode::NotEnoughReplicasAfterAppend), ErrorKind::Unknown),
            (Api::Fetch, code(KafkaCode::OffsetOutOfRange), ErrorKind::Position),
            (Api::Fetch, code(KafkaCode::CorruptMessage), ErrorKind::Undecodable),
            (Api::Fetch, code(KafkaCode::NotLeaderForPartition), ErrorKind::Retry),
            (Api::Commit, code(KafkaCode::UnknownMemberId), ErrorKind::Fenced),
            (Api::Produce, code(KafkaCode::TopicAuthorizationFailed), ErrorKind::Config),
        ] {
            assert_eq!(classify(api, &err).0, kind, "{api:?} {err:?}");
        }
    }

    #[test]
    fn what_was_perhaps_written_stays_so_until_it_is_known() {
        let error = |kind| Error { kind, code: 0, text: String::new() };
        let mut result: Result<i64> = Err(error(ErrorKind::Retry));
        for (next, kind) in [
            (ErrorKind::Retry, ErrorKind::Retry),
            (ErrorKind::Unknown, ErrorKind::Unknown),
            (ErrorKind::Retry, ErrorKind::Unknown),
            (ErrorKind::Message, ErrorKind::Message),
        ] {
            result.set_error(error(next));
            assert_eq!(result.as_ref().unwrap_err().kind, kind);
        }
    }
}
