//! The consumer. The caller assigns partitions. There is one fetch thread per leader, or a single
//! one if the client fetches from all leaders at the same time.

mod fetcher;
mod held;
mod metrics;
mod shared;
mod start_positions;
#[cfg(test)]
mod tests;

pub use start_positions::{
    GroupPositions, OffsetReset, commit_positions, committed_offsets, group_positions, log_ranges,
    start_positions,
};

use crate::config::KafkaConfig;
use crate::connect;
use fetcher::{IfRecreated, NewPartitions, Shared, Subscription};
use held::memory;
use kafka_client::{Error, ErrorKind, PartitionData, Position, TopicId};
use metrics::{LAG, PARKED_PARTITIONS, RECORDS};
use shared::Connect;
use std::mem;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// Minimum time between two commits of offsets. For the broker a commit is as expensive as a batch.
/// It only limits how many records are read again after a crash.
pub const COMMIT_INTERVAL: Duration = Duration::from_millis(100);

/// Interval at which unchanged offsets are committed again. Brokers delete an offset that was
/// committed 7 days ago (`offsets.retention.minutes`), also in a partition without new records.
pub const OFFSET_REFRESH: Duration = Duration::from_secs(60 * 60);

/// Number of fetch results that are buffered for the caller, in addition to one in each thread.
const FETCHES_AHEAD: usize = 2;

/// Reads partitions of one topic on its own threads, and buffers a bounded number of fetch results
/// in bounded memory: see [`bank::limits`].
///
/// It handles broker restarts, leader changes, closed connections, deleted offsets and oversized
/// records. Dropping it stops the threads.
pub struct Consumer {
    fetched: Receiver<Result<Vec<PartitionData>, Error>>,
    shared: Arc<Shared>,
    failed: Option<Error>,
    /// Memory of the data that the last call of [`Self::poll`] returned, in bytes.
    returned: usize,
}

impl Consumer {
    /// Starts to read `topic` from `positions`. If the topic is deleted and created again, the same
    /// partitions are read from their beginning.
    pub fn start(config: &KafkaConfig, topic: &'static str, positions: Vec<Position>) -> Self {
        Self::subscribe(
            config,
            Subscription {
                topic,
                positions,
                topic_id: None,
                if_recreated: IfRecreated::ReadNew,
                new_partitions: NewPartitions::Ignore,
            },
        )
    }

    /// Like [`Self::start`], for a caller that reads all partitions: partitions that are added
    /// later are read too, from offset 0.
    pub fn start_all(config: &KafkaConfig, topic: &'static str, positions: Vec<Position>) -> Self {
        Self::subscribe(
            config,
            Subscription {
                topic,
                positions,
                topic_id: None,
                if_recreated: IfRecreated::ReadNew,
                new_partitions: NewPartitions::Read,
            },
        )
    }

    /// Starts to read from positions that the caller keeps, for example in Kafka. If a position is
    /// outside of the log, or the topic is deleted and created again, [`Self::poll`] returns an
    /// error of [`ErrorKind::Position`], and the caller must look up its positions again. A new
    /// topic is noticed after at most 5 s: until then, its records may be returned from the old
    /// position on.
    ///
    /// `topic_id` is that of [`KafkaClient::topic_ids`](crate::KafkaClient::topic_ids) or
    /// [`GroupPositions`].
    pub fn start_in(
        config: &KafkaConfig,
        topic: &'static str,
        topic_id: Option<TopicId>,
        positions: Vec<Position>,
    ) -> Self {
        Self::subscribe(
            config,
            Subscription {
                topic,
                positions,
                topic_id,
                if_recreated: IfRecreated::Fail,
                new_partitions: NewPartitions::Ignore,
            },
        )
    }

    fn subscribe(config: &KafkaConfig, subscription: Subscription) -> Self {
        let config = config.clone();
        Self::with_connect(Box::new(move || connect::connect(&config)), subscription)
    }

    fn with_connect(connect: Connect, subscription: Subscription) -> Self {
        for Position { partition, .. } in &subscription.positions {
            PARKED_PARTITIONS.with_label_values(&[subscription.topic, &partition.to_string()]);
        }
        let (fetches, fetched) = mpsc::sync_channel(FETCHES_AHEAD);
        let shared = Arc::new(Shared::new(connect, subscription));
        shared.start_first_thread(&fetches);
        Self { fetched, shared, failed: None, returned: 0 }
    }

    /// The id of the topic that is read. `None` until the brokers have responded, and before Kafka
    /// 2.8.
    pub fn topic_id(&self) -> Option<TopicId> {
        self.shared.topic_id()
    }

    /// The number of partitions of the topic, at most about 5 s old. `None` until the brokers have
    /// responded. A caller that distributes partitions compares it with the number that it
    /// distributes, since no consumer reads new ones.
    pub fn partition_count(&self) -> Option<usize> {
        self.shared.partition_count()
    }

    /// Returns the buffered data. If the buffer is empty, waits up to `wait`. The data of the
    /// previous call counts as handled, so its memory is available for further fetches.
    ///
    /// Data without records moves the position to its `next`, for example at the end of a
    /// transaction.
    ///
    /// # Errors
    /// [`ErrorKind::Config`], and [`ErrorKind::Position`] as described at [`Self::start_in`]. All
    /// other errors are logged and retried.
    pub fn poll(&mut self, wait: Duration) -> Result<Vec<PartitionData>, Error> {
        if let Some(err) = &self.failed {
            return Err(err.clone());
        }
        self.shared.held.release(mem::take(&mut self.returned));
        let mut result = match self.fetched.recv_timeout(wait) {
            Ok(first) => first,
            Err(RecvTimeoutError::Timeout) => return Ok(Vec::new()),
            Err(RecvTimeoutError::Disconnected) if self.shared.has_no_partitions() => {
                thread::sleep(wait);
                return Ok(Vec::new());
            }
            Err(RecvTimeoutError::Disconnected) => Err(Error {
                kind: ErrorKind::Config,
                code: 0,
                text: format!(
                    "read {}: all fetch threads ended, restart the service",
                    self.shared.topic
                ),
            }),
        };
        while let Ok(all) = &mut result
            && let Ok(more) = self.fetched.try_recv()
        {
            match more {
                Ok(more) => all.extend(more),
                // The next call returns the error, after the data that precedes it.
                Err(err) => {
                    self.failed = Some(err);
                    break;
                }
            }
        }
        match &result {
            Ok(all) => {
                all.iter().for_each(|data| self.count(data));
                self.returned = memory(all);
            }
            Err(err) => self.failed = Some(err.clone()),
        }
        result
    }

    /// A handle that may outlive the consumer.
    pub fn answers(&self) -> Answers {
        Answers(self.shared.clone())
    }

    fn count(&self, data: &PartitionData) {
        let topic = self.shared.topic;
        RECORDS.with_label_values(&[topic]).inc_by(data.records.len() as u64);
        let lag = (data.end - data.next).max(0);
        LAG.with_label_values(&[topic, &data.partition.to_string()]).set(lag);
    }
}

/// When brokers answered the fetches of a [`Consumer`].
pub struct Answers(Arc<Shared>);

impl Answers {
    /// Time since a broker last answered a fetch; `None` before the first answer.
    pub fn silence(&self) -> Option<Duration> {
        self.0.silence()
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        // A thread ends when its fetch returns. If it waits for space in the channel, it ends
        // immediately.
        for partition in self.shared.stop() {
            let partition = partition.to_string();
            for gauges in [&LAG, &PARKED_PARTITIONS] {
                // An error means that the gauge was never set.
                let _ = gauges.remove_label_values(&[self.shared.topic, &partition]);
            }
        }
    }
}
