//! An in-memory cluster, for tests of code that uses a [`KafkaClient`].

use crate::client::KafkaClient;
use kafka_client::{
    Batch, CommittedOffset, Error, ErrorKind, FetchedRecord, PartitionData, Position, Result,
    TopicDescription, TopicId,
};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// A client of a cluster with one topic, which has any name. Clones are further clients.
pub struct Fake {
    cluster: Arc<Mutex<Cluster>>,
    /// Its reference count is the number of clients.
    alive: Arc<()>,
}

type OnProduce = Box<dyn FnMut(&[Batch<'_>]) -> Vec<ProduceOutcome> + Send>;
type OnFetch =
    Box<dyn FnMut(&[Position], &Reading<'_>) -> Option<Result<Vec<PartitionData>>> + Send>;

/// The outcome of a produce call for a batch.
pub enum ProduceOutcome {
    Written,
    /// The batch is written, but the call returns this error.
    WrittenBut(Error),
    NotWritten(Error),
}

struct Cluster {
    logs: Vec<Log>,
    leaders: Vec<i32>,
    topic_id: Option<TopicId>,
    on_produce: Option<OnProduce>,
    on_fetch: Option<OnFetch>,
}

#[derive(Default)]
struct Log {
    records: Vec<FetchedRecord>,
    earliest: i64,
    committed: Option<CommittedOffset>,
}

/// The logs, for [`Fake::on_fetch`].
pub struct Reading<'a>(&'a [Log]);

pub fn error(kind: ErrorKind) -> Error {
    Error { kind, code: 0, text: format!("{kind:?}") }
}

impl Clone for Fake {
    fn clone(&self) -> Self {
        Self { cluster: self.cluster.clone(), alive: self.alive.clone() }
    }
}

impl Fake {
    /// Returns a cluster in which broker `leaders[i]` leads partition `i`.
    pub fn new(leaders: &[i32]) -> Self {
        let logs = leaders.iter().map(|_| Log::default()).collect();
        let leaders = leaders.to_vec();
        let topic_id = Some(TopicId([1; 16]));
        let cluster = Cluster { logs, leaders, topic_id, on_produce: None, on_fetch: None };
        Self { cluster: Arc::new(Mutex::new(cluster)), alive: Arc::default() }
    }

    fn cluster(&self) -> MutexGuard<'_, Cluster> {
        self.cluster.lock().unwrap()
    }

    /// The number of clients, without that of the test and the one that is cloned.
    pub fn connections(&self) -> usize {
        Arc::strong_count(&self.alive).saturating_sub(2)
    }

    /// Deletes the topic and creates it again, with the same partitions and without records. Group
    /// offsets are kept, as after a commit of a consumer that has not noticed it.
    pub fn recreate_topic(&self) {
        let mut cluster = self.cluster();
        let TopicId(id) = cluster.topic_id.expect("it is set in `new`");
        cluster.topic_id = Some(TopicId([id[0] + 1; 16]));
        for log in &mut cluster.logs {
            log.records.clear();
            log.earliest = 0;
        }
    }

    /// Adds a partition that broker `leader` leads.
    pub fn add_partition(&self, leader: i32) {
        let mut cluster = self.cluster();
        cluster.logs.push(Log::default());
        cluster.leaders.push(leader);
    }

    /// Sets the leaders. -1: the partition has none.
    pub fn set_leaders(&self, leaders: &[i32]) {
        self.cluster().leaders = leaders.to_vec();
    }

    /// Adds `count` records to each partition.
    pub fn fill(&self, count: i64) {
        for log in &mut self.cluster().logs {
            let end = log.records.len() as i64;
            log.records.extend(
                (end..end + count)
                    .map(|offset| FetchedRecord { offset, ..FetchedRecord::default() }),
            );
        }
    }

    pub fn delete_before(&self, partition: usize, offset: i64) {
        self.cluster().logs[partition].earliest = offset;
    }

    pub fn commits(&self, offset: Option<i64>) {
        let offset = offset.map(|offset| CommittedOffset { offset, metadata: String::new() });
        self.cluster().logs[0].committed = offset;
    }

    pub fn committed(&self, partition: usize) -> Option<i64> {
        self.cluster().logs[partition].committed.as_ref().map(|it| it.offset)
    }

    /// The keys of a partition, in the order of the log.
    pub fn keys(&self, partition: usize) -> Vec<String> {
        let key = |it: &FetchedRecord| String::from_utf8(it.key.clone().unwrap()).unwrap();
        self.cluster().logs[partition].records.iter().map(key).collect()
    }

    /// Sets the function that returns the outcome of each batch.
    pub fn on_produce(
        &self,
        decide: impl FnMut(&[Batch<'_>]) -> Vec<ProduceOutcome> + Send + 'static,
    ) {
        self.cluster().on_produce = Some(Box::new(decide));
    }

    /// Sets the function that returns the result of a fetch, or `None` to read the log.
    pub fn on_fetch(
        &self,
        answer: impl FnMut(&[Position], &Reading<'_>) -> Option<Result<Vec<PartitionData>>>
        + Send
        + 'static,
    ) {
        self.cluster().on_fetch = Some(Box::new(answer));
    }

    pub fn empty(position: Position) -> PartitionData {
        let Position { partition, next } = position;
        PartitionData { partition, records: Vec::new(), next, end: next, error: None }
    }
}

impl Reading<'_> {
    /// Returns up to ten records of each partition.
    pub fn read(&self, positions: &[Position]) -> Vec<PartitionData> {
        let data = |position: &Position| {
            let log = &self.0[position.partition as usize];
            let mut data = Fake::empty(*position);
            data.end = log.records.len() as i64;
            if position.next < log.earliest || position.next > data.end {
                data.error = Some(error(ErrorKind::Position));
                return data;
            }
            let rest = &log.records[position.next as usize..];
            data.records = rest[..rest.len().min(10)].to_vec();
            data.next += data.records.len() as i64;
            data
        };
        positions.iter().map(data).collect()
    }
}

impl KafkaClient for Fake {
    fn leaders(&mut self, _topic: &str, _within: Duration) -> Result<Vec<i32>> {
        Ok(self.cluster().leaders.clone())
    }

    fn describe_topic(&mut self, _topic: &str, _within: Duration) -> Result<TopicDescription> {
        let cluster = self.cluster();
        let leaders = cluster.leaders.iter().map(|it| Some(*it).filter(|it| *it >= 0)).collect();
        Ok(TopicDescription { id: cluster.topic_id, leaders })
    }

    fn topic_ids(&mut self, topics: &[&str], _within: Duration) -> Result<Vec<Option<TopicId>>> {
        Ok(vec![self.cluster().topic_id; topics.len()])
    }

    fn produce(&mut self, batches: &[Batch<'_>], _within: Duration) -> Vec<Result<i64>> {
        // The lock is not held here, since the function of a test may block.
        let mut decide = self.cluster().on_produce.take();
        let outcomes = decide.as_mut().map(|decide| decide(batches));
        let mut cluster = self.cluster();
        cluster.on_produce = cluster.on_produce.take().or(decide);
        let outcomes =
            outcomes.unwrap_or_else(|| batches.iter().map(|_| ProduceOutcome::Written).collect());
        let mut write = |batch: &Batch<'_>| {
            let log = &mut cluster.logs[batch.partition as usize].records;
            let first = log.len() as i64;
            for (offset, record) in (first..).zip(&batch.records) {
                let (key, value) =
                    (record.key.map(<[u8]>::to_vec), record.value.map(<[u8]>::to_vec));
                log.push(FetchedRecord { offset, key, value, ..FetchedRecord::default() });
            }
            first
        };
        let result = |(batch, outcome)| match outcome {
            ProduceOutcome::Written => Ok(write(batch)),
            ProduceOutcome::WrittenBut(err) => {
                write(batch);
                Err(err)
            }
            ProduceOutcome::NotWritten(err) => Err(err),
        };
        batches.iter().zip(outcomes).map(result).collect()
    }

    fn fetch(
        &mut self,
        _topic: &str,
        positions: &[Position],
        wait: Duration,
    ) -> Result<Vec<PartitionData>> {
        let deadline = Instant::now() + wait;
        loop {
            let mut cluster = self.cluster();
            let Cluster { logs, on_fetch, .. } = &mut *cluster;
            let reading = Reading(logs);
            if let Some(answer) = on_fetch.as_mut().and_then(|answer| answer(positions, &reading)) {
                return answer;
            }
            let data = reading.read(positions);
            drop(cluster);
            let nothing = |it: &PartitionData| it.records.is_empty() && it.error.is_none();
            if !data.iter().all(nothing) || Instant::now() >= deadline {
                return Ok(data);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn log_range(&mut self, _topic: &str, _within: Duration) -> Result<Vec<(i64, i64)>> {
        let bounds = |log: &Log| (log.earliest, log.records.len() as i64);
        Ok(self.cluster().logs.iter().map(bounds).collect())
    }

    fn committed(
        &mut self,
        _group: &str,
        _topic: &str,
        _within: Duration,
    ) -> Result<Vec<Option<i64>>> {
        unreachable!("the code under test needs the metadata too")
    }

    fn committed_offsets(
        &mut self,
        _group: &str,
        _topic: &str,
        _within: Duration,
    ) -> Result<Vec<Option<CommittedOffset>>> {
        Ok(self.cluster().logs.iter().map(|log| log.committed.clone()).collect())
    }

    fn commit(
        &mut self,
        group: &str,
        topic: &str,
        positions: &[Position],
        within: Duration,
    ) -> Result<()> {
        self.commit_with_metadata(group, topic, positions, "", within)
    }

    fn commit_with_metadata(
        &mut self,
        _group: &str,
        _topic: &str,
        positions: &[Position],
        metadata: &str,
        _within: Duration,
    ) -> Result<()> {
        for it in positions {
            let committed = CommittedOffset { offset: it.next, metadata: metadata.to_owned() };
            self.cluster().logs[it.partition as usize].committed = Some(committed);
        }
        Ok(())
    }
}
