//! The topics of the bank: names, partitions, configs and schemas. See ARCHITECTURE.md, "Topics".

use crate::limits::{BATCH_BYTES_MAX, BATCH_OVERHEAD_BYTES, DEAD_LETTER_BATCH_BYTES_MAX};

/// Desired replication factor. The actual one is `min(REPLICATION, brokers)`.
pub const REPLICATION: i16 = 3;

/// `min.insync.replicas` if there are at least [`REPLICATION`] brokers, else 1.
pub const MIN_INSYNC_REPLICAS: i16 = 2;

/// A topic that the synchronizer creates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Topic {
    /// Name: that of its record in snake_case.
    pub name: &'static str,
    /// Number of partitions. Kafka cannot reduce it.
    pub partitions: i32,
    /// The largest record batch that brokers accept, in bytes (`max.message.bytes`).
    pub batch_bytes_max: usize,
    /// Configs of this topic, in addition to [`COMMON_CONFIG`] and `max.message.bytes`.
    pub config: &'static [(&'static str, &'static str)],
    /// The Avro schema of its values, registered as `<name>-value`. `None`: the values are raw
    /// bytes.
    pub schema: Option<&'static str>,
}

/// Configs of every topic.
///
/// The kafka crate drops uncompressed records before a compressed batch, so brokers store all
/// batches uncompressed. Protocol version 0 has no timestamps, so brokers set them.
pub const COMMON_CONFIG: &[(&str, &str)] =
    &[("compression.type", "uncompressed"), ("message.timestamp.type", "LogAppendTime")];

const fn topic(name: &'static str, partitions: i32, schema: &'static str) -> Topic {
    Topic { name, partitions, batch_bytes_max: BATCH_BYTES_MAX, config: &[], schema: Some(schema) }
}

/// Heartbeat records, which trigger the load. Retention is 15 minutes.
pub const HEARTBEAT: Topic = Topic {
    config: &[("retention.ms", "900000")],
    ..topic("heartbeat", 1, include_str!("../schemas/heartbeat.avsc"))
};
/// Commands to open an account.
pub const CONFIRM_ACCOUNT_CREATION: Topic =
    topic("confirm_account_creation", 1, include_str!("../schemas/confirm_account_creation.avsc"));
/// Outcomes: opened accounts.
pub const ACCOUNT_CREATION_CONFIRMED: Topic = topic(
    "account_creation_confirmed",
    1,
    include_str!("../schemas/account_creation_confirmed.avsc"),
);
/// Outcomes: accounts that were not opened.
pub const ACCOUNT_CREATION_FAILED: Topic =
    topic("account_creation_failed", 1, include_str!("../schemas/account_creation_failed.avsc"));
/// Commands to transfer money.
pub const CONFIRM_MONEY_TRANSFER: Topic =
    topic("confirm_money_transfer", 9, include_str!("../schemas/confirm_money_transfer.avsc"));
/// Outcomes: confirmed transfers.
pub const MONEY_TRANSFER_CONFIRMED: Topic =
    topic("money_transfer_confirmed", 9, include_str!("../schemas/money_transfer_confirmed.avsc"));
/// Outcomes: rejected transfers.
pub const MONEY_TRANSFER_FAILED: Topic =
    topic("money_transfer_failed", 9, include_str!("../schemas/money_transfer_failed.avsc"));
/// Balance changes of all accounts.
pub const BALANCE_CHANGED: Topic =
    topic("balance_changed", 9, include_str!("../schemas/balance_changed.avsc"));
/// Dead letters: the values of undecodable records. The key is `topic/partition/offset: reason`.
/// Among them may be commands that move money, so they are kept until an operator deletes them.
pub const DEAD_LETTER: Topic = Topic {
    name: "dead_letter",
    partitions: 1,
    batch_bytes_max: DEAD_LETTER_BATCH_BYTES_MAX,
    config: &[("retention.ms", "-1")],
    schema: None,
};

/// All topics, in the order of the data flow.
pub const TOPICS: [Topic; 9] = [
    HEARTBEAT,
    CONFIRM_ACCOUNT_CREATION,
    ACCOUNT_CREATION_CONFIRMED,
    ACCOUNT_CREATION_FAILED,
    CONFIRM_MONEY_TRANSFER,
    MONEY_TRANSFER_CONFIRMED,
    MONEY_TRANSFER_FAILED,
    BALANCE_CHANGED,
    DEAD_LETTER,
];

impl Topic {
    /// Returns the subject of the values in the schema registry: `<name>-value`.
    pub fn subject(&self) -> String {
        format!("{}-value", self.name)
    }
}

/// The largest record that a program may write to the topic: key, value and headers.
pub fn record_bytes_max(topic: &str) -> usize {
    let is_dead_letter = topic == DEAD_LETTER.name;
    let batch = if is_dead_letter { DEAD_LETTER_BATCH_BYTES_MAX } else { BATCH_BYTES_MAX };
    batch - BATCH_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_name_is_that_of_its_record() {
        for topic in TOPICS.iter().filter(|topic| topic.schema.is_some()) {
            let camel: String =
                topic.name.split('_').map(|word| word[..1].to_uppercase() + &word[1..]).collect();
            assert!(
                topic.schema.unwrap().contains(&format!("\"name\": \"{camel}\"")),
                "{}",
                topic.name
            );
        }
    }
}
