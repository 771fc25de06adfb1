//! Code shared by the consumer, its fetch threads and the start positions.

use super::metrics::SKIPPED;
use crate::client::KafkaClient;
use kafka_client::protocol::codes;
use kafka_client::{Error, ErrorKind, TopicId};
use std::time::Duration;

pub type Connect = Box<dyn Fn() -> Box<dyn KafkaClient> + Send + Sync>;

/// Time limit of each call to the client, except for fetches. After at most this time a drop or a
/// shutdown request is noticed.
pub const CALL_SLICE: Duration = Duration::from_millis(200);

pub fn no_such_partition(topic: &str, partition: i32, partitions: usize) -> Error {
    let text = format!("{topic}/{partition} does not exist: the topic has {partitions} partitions");
    Error { kind: ErrorKind::Config, code: codes::UNKNOWN_TOPIC_OR_PARTITION, text }
}

/// The error of a position in a topic that no longer exists, although its name does.
pub fn recreated(topic: &str, former: TopicId, present: TopicId) -> Error {
    let text = format!(
        "topic {topic} was deleted and created again: its id was {former} and is {present}, \
         so the positions in it are void"
    );
    Error { kind: ErrorKind::Position, code: codes::INCONSISTENT_TOPIC_ID, text }
}

/// Logs and counts an offset reset.
pub fn warn_outside_log(topic: &str, partition: i32, offset: i64, (earliest, end): (i64, i64)) {
    let lost = (earliest - offset).max(0);
    log::warn!(
        topic, partition, offset, earliest, end, lost;
        "offset out of range, resetting to the earliest offset"
    );
    SKIPPED.with_label_values(&[topic]).inc_by(lost.unsigned_abs());
}
