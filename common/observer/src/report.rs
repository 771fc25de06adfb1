//! What an observer starts with and what it finds.

use crate::violation::Violation;
use std::time::Duration;

/// What was before the first record that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum History {
    /// No command was without an outcome: every record belongs to a command that is read.
    Settled,
    /// Earlier commands may get their outcome now, or once more.
    Unsettled,
}

/// What a record meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// A command that was not read before.
    Command,
    /// A command and its outcome were both read, the outcome so much later; true if it was carried
    /// out.
    Outcome(Duration, bool),
    /// Something else.
    None,
}

/// What was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Different commands.
    pub commands: u64,
    /// Commands that were carried out.
    pub confirmed: u64,
    /// Commands that were refused.
    pub failed: u64,
    /// Commands that were written once more.
    pub commands_repeated: u64,
    /// Outcomes and changes that were published once more, equal in every field.
    pub repeated: u64,
    /// Changes that were read after one of the same account with a higher sequence.
    pub disordered: u64,
    /// Records of dead_letter.
    pub dead_letters: u64,
    /// Outcomes and changes of commands from before the observation.
    pub earlier: u64,
}

/// What holds and what does not, at one moment.
#[derive(Debug, Clone)]
pub struct Report {
    /// What was read.
    pub counts: Counts,
    /// Commands without a complete outcome.
    pub unanswered: u64,
    /// Cents that confirmed transfers brought in from outside parties, less what they took out.
    pub inflow: i128,
    /// The first violations.
    pub violations: Vec<Violation>,
    /// How many more there are.
    pub violations_more: u64,
}
