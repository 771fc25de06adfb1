//! A record that was read from a topic of the bank.

use bank::records::{
    AccountCreationConfirmed, AccountCreationFailed, BalanceChanged, ConfirmAccountCreation,
    ConfirmMoneyTransfer, MoneyTransferConfirmed, MoneyTransferFailed,
};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Instant;

/// The position of a record, displayed as `topic/partition/offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RecordPosition {
    pub topic: &'static str,
    pub partition: i32,
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
    /// Command to open an account.
    OpenAccount(ConfirmAccountCreation),
    /// Command to transfer money.
    Transfer(ConfirmMoneyTransfer),
    /// Outcome: the account was opened.
    AccountOpened(AccountCreationConfirmed),
    /// Outcome: the account was not opened.
    AccountNotOpened(AccountCreationFailed),
    /// Outcome: the transfer was made.
    TransferConfirmed(MoneyTransferConfirmed),
    /// Outcome: the transfer was rejected.
    TransferFailed(MoneyTransferFailed),
    /// A change of a balance.
    BalanceChanged(BalanceChanged),
    /// A record of dead_letter.
    DeadLetter,
    /// The value is undecodable. Contains the reason.
    Undecodable(String),
}

/// A record that was read.
#[derive(Debug, Clone)]
pub struct ObservedRecord {
    pub position: RecordPosition,
    pub read_at: Instant,
    /// Key; empty if it is null.
    pub key: Vec<u8>,
    /// Encoded value; empty if it is null.
    pub value: Vec<u8>,
    pub event: Event,
}

impl ObservedRecord {
    /// Returns a hash of topic, partition, key and value. It is only comparable within one process.
    pub fn content_hash(&self) -> u64 {
        let RecordPosition { topic, partition, .. } = self.position;
        hash((topic, partition, &self.key, &self.value))
    }

    /// Returns the key as text. Invalid UTF-8 is replaced.
    pub fn key_text(&self) -> String {
        String::from_utf8_lossy(&self.key).into_owned()
    }
}

pub fn hash(content: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}
