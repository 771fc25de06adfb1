//! The violations of the contract.

use crate::record::RecordPosition;
use bank::records::BalanceChanged;
use std::fmt;
use uuid::Uuid;

/// A violation of the contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The record that violates the contract. `None` if an account or the whole bank does.
    pub position: Option<RecordPosition>,
    pub kind: Kind,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.position {
            Some(position) => write!(f, "{position}: {}", self.kind),
            None => self.kind.fmt(f),
        }
    }
}

/// The kind of a violation. Amounts are in cents.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Kind {
    #[error("undecodable: {0}")]
    Undecodable(String),
    #[error("key {found:?} instead of {expected:?}")]
    WrongKey { found: String, expected: String },
    #[error("wrong partition: the partition of the key is {expected}")]
    WrongPartition { expected: i32 },
    #[error("command {0} has no outcome")]
    NoOutcome(Uuid),
    #[error("command {0} has a second, different outcome")]
    TwoOutcomes(Uuid),
    #[error("command {0} was not read")]
    UnknownCommand(Uuid),
    #[error("outcome of command {id} is {found}, expected {expected}")]
    WrongOutcome { id: Uuid, found: String, expected: String },
    #[error("new account {iban}: {text}")]
    WrongAccount { iban: String, text: &'static str },
    #[error("{iban} has the same token as another account")]
    EqualTokens { iban: String },
    #[error("balance_changed of {iban} has no transfer_id")]
    NoTransferId { iban: String },
    #[error("balance_changed of {iban} has no decided_at")]
    NoTime { iban: String },
    #[error("{iban} has a second, different change with sequence {sequence}")]
    TwoChanges { iban: String, sequence: i64 },
    #[error("{iban} has a new change with sequence {sequence}, expected {expected}")]
    OldSequence { iban: String, sequence: i64, expected: i64 },
    #[error("{iban}: the change with sequence {sequence} is missing")]
    MissingSequence { iban: String, sequence: i64 },
    #[error("{iban}: balance at sequence {sequence} is {found}, expected {expected}")]
    WrongBalance { iban: String, sequence: i64, found: i128, expected: i128 },
    #[error("account {iban} was not opened")]
    UnknownAccount { iban: String },
    #[error("transfer {id} has no balance_changed of {iban}")]
    MissingChange { id: Uuid, iban: String },
    #[error("transfer {id} must not change {iban}")]
    UnexpectedChange { id: Uuid, iban: String },
    #[error("transfer {id} has a second change of {iban}")]
    AnotherChange { id: Uuid, iban: String },
    #[error("wrong change: {found:?}, expected {expected:?}")]
    WrongChange { found: Box<BalanceChanged>, expected: Box<BalanceChanged> },
    #[error("the sum of all balances is {found}, expected {expected}")]
    WrongSum { found: i128, expected: i128 },
    #[error("{iban}: (balance, sequence) is {observed:?} in topics, {stored:?} in the database")]
    WrongDatabase { iban: String, observed: Option<(i64, i64)>, stored: Option<(i64, i64)> },
    #[error("{iban}: the change with sequence {sequence} is not stored as a transaction")]
    MissingTransaction { iban: String, sequence: i64 },
    #[error("the stored transaction differs from the change: {row:?}")]
    WrongTransaction { row: Box<BalanceChanged> },
    #[error("a stored transaction has no change: {row:?}")]
    UnknownTransaction { row: Box<BalanceChanged> },
    #[error("undecodable command has no dead letter: {0}")]
    NoDeadLetter(String),
    #[error("the value of the dead letter differs from that of the record {origin}")]
    WrongDeadLetter { origin: RecordPosition },
    #[error("command {0} has an outcome and a dead letter")]
    OutcomeAndDeadLetter(Uuid),
}
