//! What breaks the contract, as data.

use crate::record::RecordPosition;
use bank::records::BalanceChanged;
use std::fmt;
use uuid::Uuid;

/// A violation of the contract and the record that shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// `None` where it is about an account or the whole bank.
    pub position: Option<RecordPosition>,
    /// What is wrong.
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

/// What is wrong. Amounts are cents.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Kind {
    #[error("undecodable: {0}")]
    Undecodable(String),
    #[error("key {found:?} instead of {expected:?}")]
    WrongKey { found: String, expected: String },
    #[error("the key belongs to partition {expected}")]
    WrongPartition { expected: i32 },
    #[error("command {0} has no outcome")]
    NoOutcome(Uuid),
    #[error("command {0} has a second, different outcome")]
    TwoOutcomes(Uuid),
    #[error("no command {0} was read")]
    UnknownCommand(Uuid),
    #[error("the outcome of {id} is {found}; the model decides {expected}")]
    WrongOutcome { id: Uuid, found: String, expected: String },
    #[error("new account {iban}: {text}")]
    WrongAccount { iban: String, text: &'static str },
    #[error("two accounts have the token of {iban}")]
    EqualTokens { iban: String },
    #[error("balance_changed of {iban} without transfer_id")]
    NoTransferId { iban: String },
    #[error("{iban} has a second, different change with sequence {sequence}")]
    TwoChanges { iban: String, sequence: i64 },
    #[error("{iban} has sequence {sequence} for the first time, but the next is {expected}")]
    OldSequence { iban: String, sequence: i64, expected: i64 },
    #[error("{iban}: the change with sequence {sequence} is missing")]
    MissingSequence { iban: String, sequence: i64 },
    #[error("{iban}: balance {found} at sequence {sequence} instead of {expected}")]
    WrongBalance { iban: String, sequence: i64, found: i128, expected: i128 },
    #[error("no account {iban} was opened")]
    UnknownAccount { iban: String },
    #[error("transfer {id} has no balance_changed of {iban}")]
    MissingChange { id: Uuid, iban: String },
    #[error("transfer {id} must not change {iban}")]
    UnexpectedChange { id: Uuid, iban: String },
    #[error("transfer {id} changes {iban} once more")]
    AnotherChange { id: Uuid, iban: String },
    #[error("{found:?} instead of {expected:?}")]
    WrongChange { found: Box<BalanceChanged>, expected: Box<BalanceChanged> },
    #[error("the balances are {found} together; {expected} were there or came from outside")]
    WrongSum { found: i128, expected: i128 },
    #[error("{iban}: topics have (balance, sequence) {observed:?}, the database has {stored:?}")]
    WrongDatabase { iban: String, observed: Option<(i64, i64)>, stored: Option<(i64, i64)> },
    #[error("undecodable command without a dead letter: {0}")]
    NoDeadLetter(String),
    #[error("other bytes than the record {origin}")]
    WrongDeadLetter { origin: RecordPosition },
    #[error("command {0} has an outcome and a dead letter")]
    OutcomeAndDeadLetter(Uuid),
}
