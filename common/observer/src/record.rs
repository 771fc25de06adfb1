//! A record of the bank's topics as it was read.

use bank::records::{
    AccountCreationConfirmed, AccountCreationFailed, BalanceChanged, ConfirmAccountCreation,
    ConfirmMoneyTransfer, MoneyTransferConfirmed, MoneyTransferFailed,
};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Instant;

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RecordPosition {
    /// Topic name.
    pub topic: &'static str,
    /// Partition, from 0.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
}

impl fmt::Display for RecordPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.topic, self.partition, self.offset)
    }
}

/// The decoded value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Command.
    OpenAccount(ConfirmAccountCreation),
    /// Command.
    Transfer(ConfirmMoneyTransfer),
    /// Outcome.
    AccountOpened(AccountCreationConfirmed),
    /// Outcome.
    AccountNotOpened(AccountCreationFailed),
    /// Outcome.
    TransferConfirmed(MoneyTransferConfirmed),
    /// Outcome.
    TransferFailed(MoneyTransferFailed),
    /// A change of a balance.
    BalanceChanged(BalanceChanged),
    /// A record of dead_letter.
    DeadLetter,
    /// The reason why the value can't be decoded.
    Undecodable(String),
}

/// A record that was read.
#[derive(Debug, Clone)]
pub struct ObservedRecord {
    /// Where it is.
    pub position: RecordPosition,
    /// When it was read.
    pub read_at: Instant,
    /// Key bytes; empty if it is null.
    pub key: Vec<u8>,
    /// Value bytes; empty if it is null.
    pub value: Vec<u8>,
    /// The decoded value.
    pub event: Event,
}

impl ObservedRecord {
    /// The same for records that are equal in topic, partition, key and value, within one process.
    pub fn content_hash(&self) -> u64 {
        let RecordPosition { topic, partition, .. } = self.position;
        hash((topic, partition, &self.key, &self.value))
    }

    /// The key as text.
    pub fn key_text(&self) -> String {
        String::from_utf8_lossy(&self.key).into_owned()
    }
}

pub fn hash(content: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}
