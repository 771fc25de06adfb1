//! Rates and lag of the bank's consumer groups, computed from Kafka's offsets and not from the
//! metrics of the services.

use crate::error::Error;
use crate::output;
use crate::topic_reader::{Cluster, ends};
use bank::topology::{
    BALANCE_CHANGED, CONFIRM_ACCOUNT_CREATION, CONFIRM_MONEY_TRANSFER, HEARTBEAT, TOPICS, Topic,
};
use messaging::KafkaClient;
use service::shutdown::Shutdown;
use std::ops::Sub;
use std::time::{Duration, Instant};

/// Timeout of each request to the cluster.
const WITHIN: Duration = Duration::from_secs(3);

/// Interval of [`ConsumerLag::wait_for_endpoint`], and of its lines. The endpoint commits its
/// offsets once a second.
const LOOK: Duration = Duration::from_secs(1);
/// Time without a stored balance change after which that wait fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// A Kafka client that reads offsets.
pub struct ConsumerLag(Box<dyn KafkaClient>);

/// Records written and consumed, in all or between two times.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Records {
    /// Heartbeat records written, and those that became commands.
    pub beats: i64,
    pub beats_done: i64,
    /// Commands written, and those that the command-handler has answered.
    pub commands: i64,
    pub commands_done: i64,
    /// Balance changes written, and those that the graphql-endpoint has stored.
    pub changes: i64,
    pub changes_done: i64,
    /// Records written to all topics of the bank.
    pub all: i64,
}

impl ConsumerLag {
    /// Creates a client without connecting.
    pub fn new(cluster: &Cluster) -> Self {
        Self(cluster.kafka_client())
    }

    /// Heartbeat records, transfers and changes that are not yet consumed. Needs fewer requests
    /// than [`Self::records`].
    pub fn lag(&mut self) -> Result<i64, Error> {
        let mut lag = 0;
        for (group, topic) in [
            ("graphql-endpoint", &BALANCE_CHANGED),
            ("command-handler", &CONFIRM_MONEY_TRANSFER),
            ("command-generator", &HEARTBEAT),
        ] {
            // Committed offsets first: read after the log end offsets they could be higher.
            let done = self.done(group, topic)?;
            lag += self.written(topic)? - done;
        }
        Ok(lag)
    }

    /// Waits until the graphql-endpoint has stored the balance changes that exist now: a user who
    /// pays earlier waits for all of them.
    ///
    /// # Errors
    /// It has stored none for [`PATIENCE`], or shutdown was requested.
    pub fn wait_for_endpoint(&mut self, shutdown: &Shutdown) -> Result<(), Error> {
        let written = self.written(&BALANCE_CHANGED)?;
        let (mut last, mut moved) = (0, Instant::now());
        loop {
            let done = self.done("graphql-endpoint", &BALANCE_CHANGED)?;
            let left = written - done;
            if left <= 0 {
                return Ok(());
            }
            if done != last {
                (last, moved) = (done, Instant::now());
            }
            if moved.elapsed() > PATIENCE {
                return Err(Error::Bank(format!(
                    "the graphql-endpoint has stored no balance change for {} s, and {left} are \
                     left; is it running? (make status, make logs)",
                    PATIENCE.as_secs()
                )));
            }
            if shutdown.wait(LOOK) {
                return Err(Error::Stopped);
            }
            output::progress(&format!(
                "Waiting for the graphql-endpoint, which has to store {left} balance changes"
            ));
        }
    }

    /// Reads all offsets: records written to the topics, and records consumed by the groups.
    pub fn records(&mut self) -> Result<Records, Error> {
        // Committed offsets first, as in `lag`.
        let mut records = Records {
            changes_done: self.done("graphql-endpoint", &BALANCE_CHANGED)?,
            commands_done: self.done("command-handler", &CONFIRM_ACCOUNT_CREATION)?
                + self.done("command-handler", &CONFIRM_MONEY_TRANSFER)?,
            beats_done: self.done("command-generator", &HEARTBEAT)?,
            ..Records::default()
        };
        for topic in &TOPICS {
            let written = self.written(topic)?;
            records.all += written;
            match *topic {
                HEARTBEAT => records.beats = written,
                CONFIRM_ACCOUNT_CREATION | CONFIRM_MONEY_TRANSFER => records.commands += written,
                BALANCE_CHANGED => records.changes = written,
                _ => {}
            }
        }
        Ok(records)
    }

    fn written(&mut self, topic: &Topic) -> Result<i64, Error> {
        Ok(ends(&mut *self.0, topic)?.iter().map(|end| end.next).sum())
    }

    fn done(&mut self, group: &str, topic: &Topic) -> Result<i64, Error> {
        let committed = self.0.committed(group, topic.name, WITHIN).map_err(|source| {
            Error::Kafka { step: format!("look up the offsets of group {group}"), source }
        })?;
        Ok(committed.into_iter().flatten().sum())
    }
}

impl Records {
    /// Records that are not yet consumed.
    pub fn lag(&self) -> i64 {
        (self.beats - self.beats_done)
            + (self.commands - self.commands_done)
            + (self.changes - self.changes_done)
    }
}

impl Sub for Records {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            beats: self.beats - earlier.beats,
            beats_done: self.beats_done - earlier.beats_done,
            commands: self.commands - earlier.commands,
            commands_done: self.commands_done - earlier.commands_done,
            changes: self.changes - earlier.changes,
            changes_done: self.changes_done - earlier.changes_done,
            all: self.all - earlier.all,
        }
    }
}
