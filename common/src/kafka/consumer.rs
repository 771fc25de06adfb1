//! The consumer: partitions assigned by hand, one fetch thread for each leader.

use super::KafkaConfig;
use super::wire::{Chunk, Error, Position};
use std::time::Duration;

/// Reads partitions of one topic on threads of its own, ahead of its caller by a bounded amount. Broker restarts, leader
/// moves, closed connections, deleted offsets and too large records are survived inside. Dropping it stops the threads.
pub struct Consumer;

/// Where to start in a partition that has no committed offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Otherwise {
    /// At the earliest record.
    Earliest,
    /// At the end: only what comes from now on.
    End,
}

impl Consumer {
    /// Reads `topic` from `positions`.
    pub fn start(_config: &KafkaConfig, _topic: &'static str, _positions: Vec<Position>) -> Self {
        todo!()
    }

    /// What has arrived, one chunk or more; waits at most `wait` for the first, and gives none after that.
    ///
    /// # Errors
    /// Only [`super::wire::Kind::Config`]: everything else is waited for inside, with a log line.
    pub fn poll(&mut self, _wait: Duration) -> Result<Vec<Chunk>, Error> {
        todo!()
    }
}

/// Where `group` goes on in `partitions` of `topic`: its committed offsets, moved into the log where they are outside.
///
/// # Errors
/// The cluster did not answer within `within`.
pub fn start_positions(
    _config: &KafkaConfig,
    _group: &str,
    _topic: &str,
    _partitions: &[i32],
    _otherwise: Otherwise,
    _within: Duration,
) -> Result<Vec<Position>, Error> {
    todo!()
}
