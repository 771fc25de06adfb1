//! How far the bank's records have come, told by Kafka's offsets alone: no part is believed what it says about itself.

use crate::error::Error;
use crate::topic_reader::{Cluster, ends};
use bank::topology::{
    BALANCE_CHANGED, CONFIRM_ACCOUNT_CREATION, CONFIRM_MONEY_TRANSFER, HEARTBEAT, TOPICS, Topic,
};
use messaging::KafkaClient;
use service::shutdown::Shutdown;
use std::ops::Sub;
use std::time::{Duration, Instant};

/// How long the cluster may take to answer.
const WITHIN: Duration = Duration::from_secs(3);

/// A client for offsets.
pub struct ConsumerLag(Box<dyn KafkaClient>);

/// Records so far, or between two moments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Records {
    /// Beats sent, and those of which commands were made.
    pub beats: i64,
    pub beats_done: i64,
    /// Commands written, and those that the bank has answered.
    pub commands: i64,
    pub commands_done: i64,
    /// Changes of balances written, and those that the endpoint has stored.
    pub changes: i64,
    pub changes_done: i64,
    /// Records on all topics of the bank.
    pub all: i64,
}

impl ConsumerLag {
    /// No I/O yet.
    pub fn new(cluster: &Cluster) -> Self {
        Self(cluster.bus())
    }

    /// Beats, transfers and changes that somebody has yet to read: fewer questions than [`Self::look`] asks.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub fn lag(&mut self) -> Result<i64, Error> {
        let mut lag = 0;
        for (group, topic) in [
            ("graphql-endpoint", &BALANCE_CHANGED),
            ("command-handler", &CONFIRM_MONEY_TRANSFER),
            ("command-generator", &HEARTBEAT),
        ] {
            // The reader first: asked after the writer, it might seem to be ahead.
            let done = self.done(group, topic)?;
            lag += self.written(topic)? - done;
        }
        Ok(lag)
    }

    /// Waits until all that was told has been read, at most `within`.
    ///
    /// # Errors
    /// It takes too long, the cluster does not answer, or the stop was asked for.
    pub fn settle(&mut self, within: Duration, shutdown: &Shutdown) -> Result<(), Error> {
        let began = Instant::now();
        loop {
            let lag = self.lag()?;
            if lag == 0 {
                return Ok(());
            }
            if began.elapsed() > within {
                return Err(Error::Bank(format!(
                    "{lag} records are still unread; do all services run? (make status)"
                )));
            }
            if shutdown.wait(Duration::from_millis(500)) {
                return Err(Error::Stopped);
            }
        }
    }

    /// Asks for all offsets.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub fn look(&mut self) -> Result<Records, Error> {
        // Readers first, as there.
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
    /// Records that somebody has yet to read.
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
