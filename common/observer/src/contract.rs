//! The checks, record by record. After a command, its outcome and its changes are compared with the
//! model, only the outcome and eight bytes per change stay in memory.

use crate::account::{ObservedAccount, Seen};
use crate::comparison::{self, Comparison};
use crate::model::{self, AccountState, Accounts, Reason};
use crate::outcome::Outcome;
use crate::record::{Event, ObservedRecord, RecordPosition, hash};
use crate::report::{Counts, History, News, Report};
use crate::violation::{Kind, Violation};
use bank::records::{
    AccountCreationConfirmed, BalanceChanged, ConfirmAccountCreation, ConfirmMoneyTransfer,
};
use bank::topology::{
    CONFIRM_ACCOUNT_CREATION, CONFIRM_MONEY_TRANSFER, DEAD_LETTER, TOPICS, record_bytes_max,
};
use messaging::partitioner::partition;
use std::collections::{HashMap, HashSet};
use std::time::Instant;
use uuid::Uuid;

/// Maximum number of violations in memory. Further ones are only counted.
const VIOLATIONS_MAX: usize = 100;
/// Size of the part of a value that a dead letter must contain, bytes.
const VALUE_START_MAX: usize = 1 << 20;
/// Maximum size of the key of a dead letter, bytes, and of all that a batch adds to a record.
const KEY_BYTES_MAX: usize = 4 << 10;

#[derive(Debug, Clone)]
enum Command {
    OpenAccount(ConfirmAccountCreation),
    Transfer(ConfirmMoneyTransfer),
}

/// The state of a command id. The command and its outcome are in different topics, so either one
/// may be read first.
#[derive(Debug, Default)]
struct Entry {
    command: Option<RecordPosition>,
    /// The outcome, and the hash of its record.
    outcome: Option<(u64, Outcome)>,
    /// `None` after the comparison with the model.
    pending: Option<Box<Pending>>,
}

#[derive(Debug, Default)]
struct Pending {
    command: Option<(Instant, Command)>,
    outcome: Option<(Instant, RecordPosition)>,
    changes: Vec<(RecordPosition, BalanceChanged)>,
}

/// Checks the contract of the bank. It does no I/O.
#[derive(Debug)]
pub struct Observer {
    history: History,
    accounts: HashMap<String, ObservedAccount>,
    commands: HashMap<Uuid, Entry>,
    /// Ids of pending commands.
    pending: HashSet<Uuid>,
    /// Undecodable commands: hash of the value, and reason.
    undecodable: HashMap<RecordPosition, (ValueStart, String)>,
    /// Dead letters by the position of the undecodable record: position and value.
    dead_letters: HashMap<RecordPosition, (RecordPosition, ValueStart)>,
    counts: Counts,
    inflow: i128,
    violations: Vec<Violation>,
    violations_more: u64,
}

impl Observer {
    /// Returns an observer that starts with all accounts of the bank.
    pub fn new(accounts: Accounts, history: History) -> Self {
        let observed = |(iban, state)| (iban, ObservedAccount::new(state, true));
        Self {
            history,
            accounts: accounts.into_iter().map(observed).collect(),
            commands: HashMap::new(),
            pending: HashSet::new(),
            undecodable: HashMap::new(),
            dead_letters: HashMap::new(),
            counts: Counts::default(),
            inflow: 0,
            violations: Vec::new(),
            violations_more: 0,
        }
    }

    /// Checks a record. The caller passes the records of each partition in offset order.
    pub fn take(&mut self, record: &ObservedRecord) -> News {
        let at = record.position;
        let decided = |this: &mut Self, id: Uuid, outcome| {
            this.check_key(record, &id.to_string());
            this.outcome(record, id, outcome)
        };
        match &record.event {
            Event::OpenAccount(it) => self.command(record, it.id, Command::OpenAccount(it.clone())),
            Event::Transfer(it) => self.command(record, it.id, Command::Transfer(it.clone())),
            Event::AccountOpened(it) => {
                decided(self, it.id, Outcome::AccountOpened(Box::new(it.clone())))
            }
            Event::AccountNotOpened(it) => {
                decided(self, it.id, Outcome::AccountNotOpened(it.reason.clone()))
            }
            Event::TransferConfirmed(it) => decided(self, it.id, Outcome::Confirmed),
            Event::TransferFailed(it) => decided(self, it.id, Outcome::failed(&it.reason)),
            Event::BalanceChanged(it) => {
                self.check_key(record, &it.iban);
                self.change(record, it);
                News::None
            }
            Event::DeadLetter => {
                self.counts.dead_letters += 1;
                if let Some(origin) = origin(&record.key_text()) {
                    self.dead_letters.insert(origin, (at, ValueStart::of(&record.value)));
                }
                News::None
            }
            Event::Undecodable(reason) if is_command(at.topic) => {
                self.undecodable.insert(at, (ValueStart::of(&record.value), reason.clone()));
                News::None
            }
            Event::Undecodable(reason) => {
                self.violate(at, Kind::Undecodable(reason.clone()));
                News::None
            }
        }
    }

    fn violate(&mut self, at: RecordPosition, kind: Kind) {
        self.keep(Violation { position: Some(at), kind });
    }

    fn keep(&mut self, violation: Violation) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(violation);
        } else {
            self.violations_more += 1;
        }
    }

    fn check_key(&mut self, record: &ObservedRecord, expected: &str) {
        let at = record.position;
        let topic = TOPICS.into_iter().find(|topic| topic.name == at.topic);
        let belongs = topic.map_or(0, |topic| partition(expected.as_bytes(), topic.partitions));
        if record.key != expected.as_bytes() {
            let (found, expected) = (record.key_text(), expected.to_owned());
            self.violate(at, Kind::WrongKey { found, expected });
        } else if at.partition != belongs {
            self.violate(at, Kind::WrongPartition { expected: belongs });
        }
    }

    fn entry(&mut self, id: Uuid) -> &mut Entry {
        self.commands.entry(id).or_insert_with(|| {
            self.pending.insert(id);
            Entry { pending: Some(Box::default()), ..Entry::default() }
        })
    }

    fn command(&mut self, record: &ObservedRecord, id: Uuid, command: Command) -> News {
        let entry = self.entry(id);
        // Records with the same id are in the same partition. The first one counts.
        let Some(pending) = entry.pending.as_mut().filter(|it| it.command.is_none()) else {
            self.counts.commands_repeated += 1;
            return News::None;
        };
        pending.command = Some((record.read_at, command));
        let answered_at = pending.outcome.map(|(read_at, _)| read_at);
        let confirmed = entry.outcome.as_ref().map(|(_, outcome)| outcome.is_confirmed());
        entry.command = Some(record.position);
        self.counts.commands += 1;
        match answered_at.zip(confirmed) {
            Some((answered_at, confirmed)) => {
                self.answered(id, record.read_at, answered_at, confirmed)
            }
            None => News::Command,
        }
    }

    fn outcome(&mut self, record: &ObservedRecord, id: Uuid, outcome: Outcome) -> News {
        let (at, hash, confirmed) =
            (record.position, record.content_hash(), outcome.is_confirmed());
        if let Outcome::AccountOpened(opened) = &outcome {
            self.open_account(opened);
        }
        let entry = self.entry(id);
        match &entry.outcome {
            Some((first, _)) if *first == hash => {
                self.counts.repeated += 1;
                return News::None;
            }
            Some(_) => {
                self.violate(at, Kind::TwoOutcomes(id));
                return News::None;
            }
            None => entry.outcome = Some((hash, outcome)),
        }
        let pending = entry.pending.as_mut();
        let pending = pending.expect("a command is compared only after its outcome was read");
        pending.outcome = Some((record.read_at, at));
        match pending.command.as_ref().map(|(read_at, _)| *read_at) {
            Some(asked_at) => self.answered(id, asked_at, record.read_at, confirmed),
            None => News::None,
        }
    }

    fn answered(&mut self, id: Uuid, asked: Instant, answered: Instant, confirmed: bool) -> News {
        if confirmed {
            self.counts.confirmed += 1;
        } else {
            self.counts.failed += 1;
        }
        self.compare(id, false, |_| true);
        News::Outcome(answered.saturating_duration_since(asked), confirmed)
    }

    fn open_account(&mut self, opened: &AccountCreationConfirmed) {
        let state = AccountState::new(&opened.token);
        let account = self.accounts.entry(opened.iban.clone());
        let account = account.or_insert_with(|| ObservedAccount::new(state, false));
        if !account.opened {
            account.opened = true;
            account.opened_by = Some(opened.id);
            account.state.token.clone_from(&opened.token);
        }
    }

    fn change(&mut self, record: &ObservedRecord, change: &BalanceChanged) {
        let (at, iban, sequence) = (record.position, change.iban.clone(), change.sequence);
        let Some(id) = change.transfer_id else {
            return self.violate(at, Kind::NoTransferId { iban });
        };
        // The opening of the account was not read yet. If it is never read, the report has a
        // violation.
        let unknown = || ObservedAccount::new(AccountState::new(""), false);
        let account = self.accounts.entry(iban.clone()).or_insert_with(unknown);
        let mut violations = Vec::new();
        let seen = account.take(at, change, record.content_hash(), &mut violations);
        let expected = account.state.sequence + 1;
        violations.into_iter().for_each(|violation| self.keep(violation));
        match seen {
            Seen::New { disordered } => self.counts.disordered += u64::from(disordered),
            Seen::Repeated => self.counts.repeated += 1,
            Seen::Different => self.violate(at, Kind::TwoChanges { iban, sequence }),
            Seen::Old if self.history == History::Unsettled => self.counts.earlier += 1,
            Seen::Old => self.violate(at, Kind::OldSequence { iban, sequence, expected }),
        }
        if !matches!(seen, Seen::New { .. }) {
            return;
        }
        let iban = change.iban.clone();
        if change.decided_at.is_none() && self.history == History::Settled {
            self.violate(at, Kind::NoTime { iban: iban.clone() });
        }
        let entry = self.entry(id);
        match &mut entry.pending {
            Some(pending) => {
                pending.changes.push((at, change.clone()));
                self.compare(id, false, |_| true);
            }
            None if matches!(entry.outcome, Some((_, Outcome::Confirmed))) => {
                self.violate(at, Kind::AnotherChange { id, iban });
            }
            None => self.violate(at, Kind::UnexpectedChange { id, iban }),
        }
    }

    fn account(&self, iban: &str) -> Option<&ObservedAccount> {
        self.accounts.get(iban).filter(|account| account.opened)
    }

    /// Returns the state of an account after all records that were read.
    pub fn state(&self, iban: &str) -> Option<&AccountState> {
        self.account(iban).map(|account| &account.state)
    }

    /// Returns a violation for the first gap in an account's changes, if there is one.
    pub fn gap(&self, iban: &str) -> Option<Violation> {
        self.account(iban)?.gap(iban)
    }

    /// Returns the decision of the model about `command` after all records that were read. It is
    /// exact if no other command is in progress.
    pub fn decide(&self, command: &ConfirmMoneyTransfer) -> Result<Vec<BalanceChanged>, Reason> {
        model::decide(command, |iban| self.state(iban).cloned())
    }

    /// Returns the outcome of the command `id`, if it was read.
    pub fn outcome_of(&self, id: Uuid) -> Option<&Outcome> {
        self.commands.get(&id)?.outcome.as_ref().map(|(_, outcome)| outcome)
    }

    /// True if the command `id` is complete: it was read, and its outcome with all changes or its
    /// dead letter.
    pub fn is_answered(&self, id: Uuid) -> bool {
        let Some(entry) = self.commands.get(&id) else { return false };
        let Some(pending) = &entry.pending else { return true };
        let dead = entry.command.is_some_and(|at| self.dead_letters.contains_key(&at));
        match (&pending.command, &entry.outcome) {
            (Some((_, Command::Transfer(command))), Some((_, Outcome::Confirmed))) => {
                comparison::has_all_changes(command, &pending.changes, |iban| self.account(iban))
            }
            (Some(_), Some(_)) => true,
            _ => dead,
        }
    }

    /// Returns the number of commands that were read and are not complete.
    pub fn unanswered(&self) -> u64 {
        let read = |id: &&Uuid| self.commands[*id].command.is_some();
        self.pending.iter().filter(read).filter(|id| !self.is_answered(**id)).count() as u64
    }

    /// Returns when the first of the incomplete commands was read.
    pub fn oldest_unanswered(&self) -> Option<Instant> {
        let ids = self.pending.iter().filter(|id| !self.is_answered(**id));
        let pending = ids.filter_map(|id| self.commands[id].pending.as_ref());
        pending.filter_map(|pending| pending.command.as_ref().map(|(read_at, _)| *read_at)).min()
    }

    /// Returns the counts of the records that were read.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Returns the violations since the last call, without those that only [`Self::report`] finds.
    pub fn take_violations(&mut self) -> Vec<Violation> {
        std::mem::take(&mut self.violations)
    }

    /// Compares a command with the model once its outcome was read. Unless `at_end` is true, does
    /// so only if no later record can change the result.
    fn compare(&mut self, id: Uuid, at_end: bool, is_checked: impl Fn(&Violation) -> bool) {
        let Some(comparison) = self.comparison(id) else { return };
        if !at_end && !comparison.is_final {
            return;
        }
        self.inflow += comparison.inflow;
        let found = comparison.violations.into_iter().filter(is_checked);
        found.for_each(|violation| self.keep(violation));
        self.pending.remove(&id);
        if let Some(entry) = self.commands.get_mut(&id) {
            entry.pending = None;
        }
    }

    fn comparison(&self, id: Uuid) -> Option<Comparison> {
        let entry = self.commands.get(&id)?;
        let pending = entry.pending.as_ref()?;
        let (_, outcome) = entry.outcome.as_ref()?;
        let (_, at) = pending.outcome?;
        Some(match &pending.command.as_ref()?.1 {
            Command::OpenAccount(command) => comparison::opening(command, at, outcome, |iban| {
                self.accounts.get(iban).and_then(|account| account.opened_by)
            }),
            Command::Transfer(command) => {
                comparison::transfer(command, at, outcome, &pending.changes, |iban| {
                    self.account(iban)
                })
            }
        })
    }

    /// Returns a report about all records that were read. Incomplete commands are violations of
    /// this report only.
    pub fn report(&mut self) -> Report {
        self.report_if(|_| true)
    }

    /// As [`Self::report`]. Of the violations that later records may explain, the report has only
    /// those for which `is_checked` returns true.
    pub fn report_if(&mut self, is_checked: impl Fn(&Violation) -> bool) -> Report {
        let mut found = Vec::new();
        for id in self.pending.clone() {
            if self.is_answered(id) {
                self.compare(id, true, &is_checked);
            } else {
                found.extend(self.incomplete(id));
            }
        }
        let unanswered = self.unanswered();
        self.report_accounts(&mut found);
        self.report_dead_letters(&mut found);
        if unanswered == 0 {
            found.extend(self.wrong_sum());
        }
        found.retain(is_checked);
        let mut violations = self.violations.clone();
        violations.extend(found);
        let more = violations.len().saturating_sub(VIOLATIONS_MAX);
        violations.truncate(VIOLATIONS_MAX);
        Report {
            counts: self.counts,
            unanswered,
            inflow: self.inflow,
            violations,
            violations_more: self.violations_more + more as u64,
        }
    }

    /// The violations of an incomplete command, or of an outcome without a command.
    fn incomplete(&self, id: Uuid) -> Vec<Violation> {
        let entry = &self.commands[&id];
        let one = |position, kind| vec![Violation { position, kind }];
        match (&entry.command, &entry.outcome, &entry.pending) {
            (None, _, Some(pending)) if self.history == History::Settled => {
                let outcome = pending.outcome.map(|(_, at)| at);
                let at = outcome.or_else(|| pending.changes.first().map(|(at, _)| *at));
                one(at, Kind::UnknownCommand(id))
            }
            (None, ..) => Vec::new(),
            (at, None, _) => one(*at, Kind::NoOutcome(id)),
            _ => self.comparison(id).map(|it| it.violations).unwrap_or_default(),
        }
    }

    fn report_accounts(&self, found: &mut Vec<Violation>) {
        let mut tokens = HashSet::new();
        for (iban, account) in &self.accounts {
            let about = |kind| Violation { position: None, kind };
            if !account.opened {
                // A command before the observation may have opened the account.
                if self.history == History::Settled {
                    found.push(about(Kind::UnknownAccount { iban: iban.clone() }));
                }
                continue;
            }
            found.extend(account.gap(iban));
            if !tokens.insert(&account.state.token) {
                found.push(about(Kind::EqualTokens { iban: iban.clone() }));
            }
        }
    }

    fn report_dead_letters(&self, found: &mut Vec<Violation>) {
        for (at, (value, reason)) in &self.undecodable {
            let (position, kind) = match self.dead_letters.get(at) {
                Some((_, letter)) if value.is_kept_in(letter) => continue,
                Some((position, _)) => (*position, Kind::WrongDeadLetter { origin: *at }),
                None => (*at, Kind::NoDeadLetter(reason.clone())),
            };
            found.push(Violation { position: Some(position), kind });
        }
        if self.dead_letters.is_empty() {
            return;
        }
        for (id, entry) in &self.commands {
            let letter = entry.command.and_then(|at| self.dead_letters.get(&at));
            if let (Some((at, _)), Some(_)) = (letter, &entry.outcome) {
                found
                    .push(Violation { position: Some(*at), kind: Kind::OutcomeAndDeadLetter(*id) });
            }
        }
    }

    fn wrong_sum(&self) -> Option<Violation> {
        let opened = || self.accounts.values().filter(|account| account.opened);
        let start: i128 = opened().map(|it| i128::from(it.balance_at_start())).sum();
        let found: i128 = opened().map(|it| i128::from(it.state.balance)).sum();
        let earlier = self.pending.iter().map(|id| &self.commands[id]);
        let earlier = earlier.filter(|it| it.command.is_none()).flat_map(|it| &it.pending);
        let earlier = earlier.flat_map(|it| &it.changes);
        let earlier: i128 = earlier
            .filter(|(_, change)| self.account(&change.iban).is_some())
            .map(|(_, change)| i128::from(change.changed_by.get()))
            .sum();
        let expected = start + self.inflow + earlier;
        let kind = Kind::WrongSum { found, expected };
        (found != expected).then_some(Violation { position: None, kind })
    }

    /// Returns a violation for each account that differs in the command-handler's database. No
    /// command may be in progress.
    pub fn differences(&self, stored: &Accounts) -> Vec<Violation> {
        let opened = self.accounts.iter().filter(|(_, account)| account.opened);
        let opened: HashMap<&str, &AccountState> =
            opened.map(|(iban, account)| (iban.as_str(), &account.state)).collect();
        let ibans: HashSet<&str> =
            opened.keys().copied().chain(stored.keys().map(String::as_str)).collect();
        let difference = |iban: &str| {
            let observed = opened.get(iban).map(|it| (it.balance, it.sequence));
            let stored = stored.get(iban).map(|it| (it.balance, it.sequence));
            let kind = Kind::WrongDatabase { iban: iban.to_owned(), observed, stored };
            (observed != stored).then_some(Violation { position: None, kind })
        };
        ibans.into_iter().filter_map(difference).collect()
    }
}

fn is_command(topic: &str) -> bool {
    topic == CONFIRM_ACCOUNT_CREATION.name || topic == CONFIRM_MONEY_TRANSFER.name
}

/// Size of a value, and the hash of its first [`VALUE_START_MAX`] bytes.
#[derive(Debug)]
struct ValueStart {
    bytes: usize,
    hash: u64,
}

impl ValueStart {
    fn of(value: &[u8]) -> Self {
        let hash = hash(&value[..value.len().min(VALUE_START_MAX)]);
        Self { bytes: value.len(), hash }
    }

    /// True if `letter` has these bytes. A dead letter may be cut if it is too large with its key.
    fn is_kept_in(&self, letter: &Self) -> bool {
        let may_be_cut = self.bytes > record_bytes_max(DEAD_LETTER.name) - KEY_BYTES_MAX;
        let is_cut = letter.bytes < self.bytes && letter.bytes >= VALUE_START_MAX;
        self.hash == letter.hash && (self.bytes == letter.bytes || (may_be_cut && is_cut))
    }
}

/// The position of the undecodable record of a dead letter, whose key is
/// `topic/partition/offset: reason`.
fn origin(key: &str) -> Option<RecordPosition> {
    let (place, _reason) = key.split_once(": ")?;
    let mut parts = place.split('/');
    let topic = parts.next()?;
    let topic = TOPICS.into_iter().find(|it| it.name == topic)?.name;
    let (partition, offset) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some(RecordPosition { topic, partition, offset })
}
