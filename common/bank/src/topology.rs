//! The topics of the bank: names, partitions and configs (docs: ARCHITECTURE.md, "Topics").

/// Replication asked for; taken is `min(REPLICATION, brokers)`.
pub const REPLICATION: i16 = 3;

/// `min.insync.replicas` where there are at least [`REPLICATION`] brokers, else 1.
pub const MIN_INSYNC_REPLICAS: i16 = 2;

/// Largest record batch a topic takes, bytes (`max.message.bytes`).
pub const MESSAGE_BYTES_MAX: u32 = 4 << 20;

/// A topic as the synchronizer makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Topic {
    /// Name, snake_case of its record's name.
    pub name: &'static str,
    /// Number of partitions; never shrunk.
    pub partitions: i32,
    /// Configs of this topic beside [`COMMON_CONFIG`].
    pub config: &'static [(&'static str, &'static str)],
    /// The Avro schema of its values, subject `<name>-value`; `None` for raw bytes.
    pub schema: Option<&'static str>,
}

/// Configs that every topic has: the kafka crate drops uncompressed records before a compressed batch of others, so the
/// broker stores all of them uncompressed; and protocol v0 sends no time, so the broker's clock stamps the record.
pub const COMMON_CONFIG: &[(&str, &str)] = &[
    ("compression.type", "uncompressed"),
    ("message.timestamp.type", "LogAppendTime"),
    ("max.message.bytes", "4194304"),
];

const fn topic(name: &'static str, partitions: i32, schema: &'static str) -> Topic {
    Topic { name, partitions, config: &[], schema: Some(schema) }
}

/// The beats that drive the load; kept for a quarter of an hour.
pub const HEARTBEAT: Topic = Topic {
    config: &[("retention.ms", "900000")],
    ..topic("heartbeat", 1, include_str!("../schemas/heartbeat.avsc"))
};
/// Commands to open an account.
pub const CONFIRM_ACCOUNT_CREATION: Topic =
    topic("confirm_account_creation", 1, include_str!("../schemas/confirm_account_creation.avsc"));
/// Accounts that were opened.
pub const ACCOUNT_CREATION_CONFIRMED: Topic = topic(
    "account_creation_confirmed",
    1,
    include_str!("../schemas/account_creation_confirmed.avsc"),
);
/// Accounts that were not opened.
pub const ACCOUNT_CREATION_FAILED: Topic =
    topic("account_creation_failed", 1, include_str!("../schemas/account_creation_failed.avsc"));
/// Commands to move money.
pub const CONFIRM_MONEY_TRANSFER: Topic =
    topic("confirm_money_transfer", 9, include_str!("../schemas/confirm_money_transfer.avsc"));
/// Transfers that were made.
pub const MONEY_TRANSFER_CONFIRMED: Topic =
    topic("money_transfer_confirmed", 9, include_str!("../schemas/money_transfer_confirmed.avsc"));
/// Transfers that were refused.
pub const MONEY_TRANSFER_FAILED: Topic =
    topic("money_transfer_failed", 9, include_str!("../schemas/money_transfer_failed.avsc"));
/// Each change of each balance.
pub const BALANCE_CHANGED: Topic =
    topic("balance_changed", 9, include_str!("../schemas/balance_changed.avsc"));
/// Records that could not be read, as they came; the key says where from and why.
pub const DEAD_LETTER: Topic =
    Topic { name: "dead_letter", partitions: 1, config: &[], schema: None };

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
    /// The registry's subject of the values: `<name>-value`.
    pub fn subject(&self) -> String {
        format!("{}-value", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_limit_in_the_config_is_the_constant() {
        let limit = COMMON_CONFIG.iter().find(|(name, _)| *name == "max.message.bytes").unwrap().1;
        assert_eq!(limit, MESSAGE_BYTES_MAX.to_string());
    }

    #[test]
    fn a_topic_is_its_records_name() {
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
