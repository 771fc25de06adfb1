//! The start state and the results of an observer.

use crate::violation::Violation;
use std::time::Duration;

/// The state of the bank before the first record that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum History {
    /// All earlier commands were complete. Every record belongs to a command that is read.
    Settled,
    /// Outcomes of earlier commands may be published or repeated.
    Unsettled,
}

/// The effect of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// A new command was read.
    Command,
    /// Both a command and its outcome were read. Contains the time between them, and true if the
    /// command was confirmed.
    Outcome(Duration, bool),
    /// Neither of these.
    None,
}

/// Counts of the records that were read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Distinct commands.
    pub commands: u64,
    /// Confirmed commands.
    pub confirmed: u64,
    /// Rejected commands.
    pub failed: u64,
    /// Duplicates of commands.
    pub commands_repeated: u64,
    /// Equal duplicates of outcomes and changes.
    pub repeated: u64,
    /// Changes that were read after a change of the same account with a higher sequence.
    pub disordered: u64,
    /// Records of dead_letter.
    pub dead_letters: u64,
    /// Changes from before the observation.
    pub earlier: u64,
}

/// The results of an observer at one point in time.
#[derive(Debug, Clone)]
pub struct Report {
    pub counts: Counts,
    /// Number of incomplete commands.
    pub unanswered: u64,
    /// Amount of confirmed transfers from parties outside the bank minus amount to them, cents.
    pub inflow: i128,
    /// The first violations.
    pub violations: Vec<Violation>,
    /// Number of further violations.
    pub violations_more: u64,
}
