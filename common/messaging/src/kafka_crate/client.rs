//! The [`KafkaClient`] that uses the kafka crate. It retries with backoff, each time on a usable
//! session.

use super::error::no_leader;
use super::fetch_size::FetchSize;
use super::session::{CallLimits, Session};
use crate::client::KafkaClient;
use crate::config::KafkaConfig;
use kafka::client::metadata::Broker;
use kafka_client::{
    Backoff, Batch, CommittedOffset, Error, ErrorKind, PartitionData, Position, ProduceResult,
    Result, TopicDescription, TopicId,
};
use service::shutdown::Shutdown;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The [`KafkaClient`] that uses the kafka crate. It works around these defects of the crate:
/// - It keeps dead connections and matches late responses to the next request. Therefore the
///   session is dropped after an error of a whole call.
/// - It waits minutes for a broker that does not respond. Therefore each broker is probed first,
///   and a watchdog limits each call.
pub struct KafkaCrateClient {
    pub(super) config: KafkaConfig,
    limits: CallLimits,
    session: Option<Session>,
    /// Index in `config.brokers` of the broker that the next session tries first.
    first_broker: usize,
    pub(super) backoff: Backoff,
    pub(super) repairs: HashMap<(String, i32), FetchSize>,
    /// Number of fetches while a partition had a large batch.
    pub(super) large_fetches: usize,
    /// Memory that is left for records of the current fetch, in bytes.
    pub(super) memory_left: usize,
}

impl KafkaCrateClient {
    /// Returns a client. No I/O happens before the first call.
    pub fn new(config: &KafkaConfig, shutdown: Option<Shutdown>) -> Self {
        Self {
            config: config.clone(),
            limits: CallLimits { timeout: config.timeout, shutdown },
            session: None,
            first_broker: 0,
            backoff: Backoff::default(),
            repairs: HashMap::new(),
            large_fetches: 0,
            memory_left: 0,
        }
    }

    /// Drops the session and delays the next attempt, after a retryable error.
    fn failed(&mut self, err: &Error) {
        self.session = None;
        self.backoff.failed(err);
    }

    /// Repeats `attempt` while its error is retryable, until the deadline.
    ///
    /// Success does not reset the backoff. With one dead leader, finding the leaders succeeds every
    /// second time, and the backoff would never grow.
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

    /// Like [`Self::retry`], for a call whose success resets the backoff.
    fn retry_call<T>(
        &mut self,
        within: Duration,
        mut call: impl FnMut(&mut Session) -> Result<T>,
    ) -> Result<T> {
        self.retry(within, |this| {
            let value = call(this.session()?)?;
            this.backoff.succeeded();
            Ok(value)
        })
    }

    /// Returns the session. If necessary, opens one with the first broker that responds.
    pub(super) fn session(&mut self) -> Result<&mut Session> {
        let usable = self.session.take().filter(Session::is_usable);
        let session = usable.map_or_else(|| self.new_session(), Ok)?;
        Ok(self.session.insert(session))
    }

    fn new_session(&mut self) -> Result<Session> {
        let brokers = &self.config.brokers;
        let mut errors = Vec::new();
        for i in 0..brokers.len() {
            let host = &brokers[(self.first_broker + i) % brokers.len()];
            match self.limits.probe(host) {
                Ok(versions) => {
                    // A broker may respond to the probe and fail later. Therefore the next session
                    // starts with another broker.
                    self.first_broker = (self.first_broker + i + 1) % brokers.len();
                    let (limits, compression) = (self.limits.clone(), self.config.compression);
                    return Ok(Session::new(host, versions, limits, compression));
                }
                Err(err) if err.kind == ErrorKind::Config => return Err(err),
                Err(err) => errors.push(err.text),
            }
        }
        Err(Error::retryable(0, errors.join("; ")))
    }

    /// Attempts once to write the batches with the indexes `todo`, and sets the result of each.
    fn try_produce(
        &mut self,
        batches: &[Batch<'_>],
        mut todo: Vec<usize>,
        results: &mut [Result<i64>],
    ) {
        // Each call writes the batches of one broker. After its I/O error the results of the other
        // brokers are still known, and their batches are sent in a new session.
        while let Some(&first) = todo.first() {
            let session = match self.session() {
                Ok(session) => session,
                Err(err) => {
                    todo.iter().for_each(|&i| results[i].set_error(err.clone()));
                    return;
                }
            };
            let host = match session.leader(batches[first].topic, batches[first].partition) {
                Ok(host) => host,
                Err(err) => {
                    results[first].set_error(err);
                    todo.remove(0);
                    continue;
                }
            };
            let (same_leader, rest): (Vec<usize>, Vec<usize>) = todo.into_iter().partition(|&i| {
                session.leader(batches[i].topic, batches[i].partition).is_ok_and(|it| it == host)
            });
            todo = rest;
            session.produce(&host, batches, &same_leader, results);
        }
    }
}

impl KafkaClient for KafkaCrateClient {
    fn leaders(&mut self, topic: &str, within: Duration) -> Result<Vec<i32>> {
        self.retry(within, |this| {
            let session = this.session()?;
            session.load_metadata(topic)?;
            let topics = session.kafka.topics();
            let partitions = topics.partitions(topic).into_iter().flatten();
            partitions
                .map(|it| it.leader().ok_or_else(|| no_leader(topic, it.id())).map(Broker::id))
                .collect()
        })
    }

    fn topic_ids(&mut self, topics: &[&str], within: Duration) -> Result<Vec<Option<TopicId>>> {
        self.retry_call(within, |session| {
            Ok(session.describe_all(topics)?.into_iter().map(|it| it.id).collect())
        })
    }

    fn describe_topic(&mut self, topic: &str, within: Duration) -> Result<TopicDescription> {
        self.retry_call(within, |session| session.describe(topic))
    }

    fn produce(&mut self, batches: &[Batch<'_>], within: Duration) -> Vec<Result<i64>> {
        let deadline = Instant::now() + within;
        let untried = Error::retryable(0, "not sent".into());
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
            Ok(all) => {
                all.iter().filter_map(|data| data.error.as_ref()).find(|it| it.is_retryable())
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
        self.retry_call(within, |session| session.log_range(topic))
    }

    fn committed(
        &mut self,
        group: &str,
        topic: &str,
        within: Duration,
    ) -> Result<Vec<Option<i64>>> {
        let committed = self.committed_offsets(group, topic, within)?;
        Ok(committed.into_iter().map(|it| it.map(|it| it.offset)).collect())
    }

    fn committed_offsets(
        &mut self,
        group: &str,
        topic: &str,
        within: Duration,
    ) -> Result<Vec<Option<CommittedOffset>>> {
        self.retry_call(within, |session| session.committed(group, topic))
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
        group: &str,
        topic: &str,
        positions: &[Position],
        metadata: &str,
        within: Duration,
    ) -> Result<()> {
        self.retry_call(within, |session| session.commit(group, topic, positions, metadata))
    }
}
