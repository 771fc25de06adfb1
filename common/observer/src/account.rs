//! The balance changes of one account, ordered by their sequence.

use crate::model::AccountState;
use crate::record::RecordPosition;
use crate::violation::{Kind, Violation};
use bank::records::BalanceChanged;
use std::collections::BTreeMap;
use uuid::Uuid;

/// An account. It stores eight bytes for each change.
#[derive(Debug)]
pub struct ObservedAccount {
    /// State after the last change before a gap.
    pub state: AccountState,
    /// Lowest and highest balance so far, cents.
    pub balances: (i64, i64),
    /// Balance (cents) and sequence before the first observed change.
    start: (i64, i64),
    /// True if the account exists.
    pub opened: bool,
    /// The command that opened the account, if it was observed.
    pub opened_by: Option<Uuid>,
    /// Hashes of the changes, ordered by sequence.
    hashes: Vec<u64>,
    /// Changes after a gap, by sequence.
    later: BTreeMap<i64, Change>,
    /// Highest sequence that was read.
    highest: i64,
}

#[derive(Debug)]
struct Change {
    position: RecordPosition,
    hash: u64,
    balance: i64,
    by: i64,
}

/// The relation of a change to those read before.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    /// The sequence is new. `disordered`: a change with a higher sequence was read before.
    New { disordered: bool },
    /// An equal change was read before.
    Repeated,
    /// A different change with the same sequence was read before.
    Different,
    /// The change was made before the observation started.
    Old,
}

impl ObservedAccount {
    pub fn new(state: AccountState, opened: bool) -> Self {
        Self {
            balances: (state.balance, state.balance),
            start: (state.balance, state.sequence),
            highest: state.sequence,
            state,
            opened,
            opened_by: None,
            hashes: Vec::new(),
            later: BTreeMap::new(),
        }
    }

    /// Returns the balance before the observation, cents.
    pub fn balance_at_start(&self) -> i64 {
        self.start.0
    }

    /// Adds `change`, and applies all changes that are now in sequence. Adds a violation for each
    /// balance that does not add up.
    pub fn take(
        &mut self,
        position: RecordPosition,
        change: &BalanceChanged,
        hash: u64,
        violations: &mut Vec<Violation>,
    ) -> Seen {
        let sequence = change.sequence;
        if sequence <= self.start.1 {
            return Seen::Old;
        }
        let before = usize::try_from(sequence - self.start.1 - 1).ok();
        let before = before.and_then(|index| self.hashes.get(index).copied());
        match before.or_else(|| self.later.get(&sequence).map(|it| it.hash)) {
            Some(before) if before == hash => return Seen::Repeated,
            Some(_) => return Seen::Different,
            None => {}
        }
        let (balance, by) = (change.new_balance.get(), change.changed_by.get());
        self.later.insert(sequence, Change { position, hash, balance, by });
        let disordered = sequence < self.highest;
        self.highest = self.highest.max(sequence);
        while let Some(next) = self.later.remove(&(self.state.sequence + 1)) {
            violations.extend(self.advance(&change.iban, &next));
        }
        Seen::New { disordered }
    }

    fn advance(&mut self, iban: &str, next: &Change) -> Option<Violation> {
        let (found, expected) =
            (i128::from(next.balance), i128::from(self.state.balance) + i128::from(next.by));
        self.state.sequence += 1;
        self.state.balance = next.balance;
        self.balances.0 = self.balances.0.min(next.balance);
        self.balances.1 = self.balances.1.max(next.balance);
        self.hashes.push(next.hash);
        let (iban, sequence) = (iban.to_owned(), self.state.sequence);
        let kind = Kind::WrongBalance { iban, sequence, found, expected };
        (found != expected).then_some(Violation { position: Some(next.position), kind })
    }

    /// Returns a violation for the first gap in the sequence, if there is one.
    pub fn gap(&self, iban: &str) -> Option<Violation> {
        let (_, next) = self.later.first_key_value()?;
        let kind =
            Kind::MissingSequence { iban: iban.to_owned(), sequence: self.state.sequence + 1 };
        Some(Violation { position: Some(next.position), kind })
    }
}
