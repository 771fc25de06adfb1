//! What was asked and what was told, and what must always hold between the two.

use crate::stack::{PATIENCE, Post, Stack, post};
use crate::tape::{Tape, Told};
use crate::wait::until;
use crate::{Account, creation};
use avro::Record;
use bank::iban::COMPANY_IBAN;
use bank::records::{
    AccountCreationConfirmed, AccountCreationFailed, Atype, BalanceChanged, ConfirmAccountCreation,
    ConfirmMoneyTransfer, MoneyTransferConfirmed, MoneyTransferFailed,
};
use bank::topology::{
    ACCOUNT_CREATION_CONFIRMED, ACCOUNT_CREATION_FAILED, BALANCE_CHANGED, MONEY_TRANSFER_CONFIRMED,
    MONEY_TRANSFER_FAILED, TOPICS, Topic,
};
use messaging::KafkaClient;
use messaging::partitioner::partition;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Where outcomes are told.
pub const OUTCOMES: [Topic; 5] = [
    ACCOUNT_CREATION_CONFIRMED,
    ACCOUNT_CREATION_FAILED,
    MONEY_TRANSFER_CONFIRMED,
    MONEY_TRANSFER_FAILED,
    BALANCE_CHANGED,
];

/// What the company had when the bank was founded.
const SEED_CENTS: i128 = 100_000_000_000_000_000;

/// A command's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The account is open.
    Opened(AccountCreationConfirmed),
    /// The account was not opened.
    NotOpened(AccountCreationFailed),
    /// The money moved.
    Moved,
    /// The money did not move.
    Refused(MoneyTransferFailed),
}

/// Sends commands, reads all outcomes, and keeps both. A record that contradicts an earlier one ends the test at once: a
/// command has one answer, a change of a balance is told in one way, and told again it is equal in key, partition and value.
pub struct Ledger<'a> {
    stack: &'a Stack,
    bus: Box<dyn KafkaClient>,
    tape: Tape,
    creations: HashMap<Uuid, ConfirmAccountCreation>,
    transfers: HashMap<Uuid, ConfirmMoneyTransfer>,
    /// Ids of commands that were not yet seen to have all that belongs to their answer.
    pending: HashSet<Uuid>,
    /// Ibans of accounts that were opened here, and the company's.
    known: HashSet<String>,
    /// First telling of each answer.
    answers: HashMap<Uuid, (Told, Answer)>,
    /// First telling of each change, by iban and sequence.
    changes: HashMap<String, BTreeMap<i64, (Told, BalanceChanged)>>,
    /// How many changes each transfer has.
    changes_of: HashMap<Uuid, usize>,
    /// Records told once more.
    pub repeats: usize,
    /// Changes told before one with a lower sequence.
    pub disordered: usize,
    /// Records in a schema that is not the bank's own.
    pub foreign: Vec<Told>,
}

impl<'a> Ledger<'a> {
    /// Reads outcomes from now on.
    pub fn open(stack: &'a Stack) -> Self {
        Self::with(stack, Tape::from_now(stack, &OUTCOMES))
    }

    /// Reads outcomes that were ever told.
    pub fn of_all_times(stack: &'a Stack) -> Self {
        Self::with(stack, Tape::from_the_start(stack, &OUTCOMES))
    }

    fn with(stack: &'a Stack, tape: Tape) -> Self {
        Self {
            stack,
            bus: stack.bus(),
            tape,
            creations: HashMap::new(),
            transfers: HashMap::new(),
            pending: HashSet::new(),
            known: HashSet::from([COMPANY_IBAN.to_owned()]),
            answers: HashMap::new(),
            changes: HashMap::new(),
            changes_of: HashMap::new(),
            repeats: 0,
            disordered: 0,
            foreign: Vec::new(),
        }
    }

    /// Asks for accounts.
    pub fn ask(&mut self, commands: &[ConfirmAccountCreation]) {
        self.note_creations(commands);
        let posts: Vec<Post> = commands.iter().map(|it| self.stack.creation(it)).collect();
        post(&mut *self.bus, &posts);
    }

    /// Takes note of accounts that someone else asks for.
    pub fn note_creations(&mut self, commands: &[ConfirmAccountCreation]) {
        for command in commands {
            self.creations.entry(command.id).or_insert_with(|| command.clone());
            self.pending.insert(command.id);
        }
    }

    /// Orders transfers.
    pub fn order(&mut self, commands: &[ConfirmMoneyTransfer]) {
        self.note(commands);
        let posts: Vec<Post> = commands.iter().map(|it| self.stack.transfer(it)).collect();
        post(&mut *self.bus, &posts);
    }

    /// Takes note of transfers that someone else orders. Of two with the same id the first counts.
    pub fn note(&mut self, commands: &[ConfirmMoneyTransfer]) {
        for command in commands {
            self.transfers.entry(command.id).or_insert_with(|| command.clone());
            self.pending.insert(command.id);
        }
    }

    /// Opens `count` accounts and puts `cents` into each.
    ///
    /// # Panics
    /// No handler does it in time.
    #[track_caller]
    pub fn open_accounts(&mut self, count: usize, cents: i64) -> Vec<Account> {
        let commands: Vec<_> = (0..count).map(|_| creation(Atype::Manual)).collect();
        self.ask(&commands);
        self.settle(PATIENCE);
        let accounts: Vec<Account> = commands.iter().map(|it| self.account(it.id)).collect();
        if cents > 0 {
            let deposits: Vec<_> = accounts.iter().map(|account| account.gets(cents)).collect();
            self.order(&deposits);
            self.settle(PATIENCE);
        }
        accounts
    }

    /// The account that was opened for the command `id`.
    ///
    /// # Panics
    /// There is none.
    #[track_caller]
    pub fn account(&self, id: Uuid) -> Account {
        match self.answer(id) {
            Some(Answer::Opened(opened)) => {
                Account { iban: opened.iban.clone(), token: opened.token.clone() }
            }
            other => panic!("{id} opened no account: {other:?}"),
        }
    }

    /// The answer to a command.
    pub fn answer(&self, id: Uuid) -> Option<&Answer> {
        self.answers.get(&id).map(|(_, answer)| answer)
    }

    /// Sends one transfer and waits for its answer: nothing, or why it was refused.
    #[track_caller]
    pub fn decide(&mut self, command: &ConfirmMoneyTransfer) -> Option<String> {
        self.order(std::slice::from_ref(command));
        self.settle(PATIENCE);
        self.refusal(command.id)
    }

    /// Why the transfer `id` was refused; nothing if it was made.
    ///
    /// # Panics
    /// It has no answer.
    #[track_caller]
    pub fn refusal(&self, id: Uuid) -> Option<String> {
        match self.answer(id) {
            Some(Answer::Moved) => None,
            Some(Answer::Refused(refused)) => Some(refused.reason.clone()),
            other => panic!("transfer {id} has answer {other:?}"),
        }
    }

    /// The changes of `iban` in order.
    pub fn changes(&self, iban: &str) -> Vec<&BalanceChanged> {
        let changes = self.changes.get(iban).into_iter();
        changes.flat_map(BTreeMap::values).map(|(_, change)| change).collect()
    }

    /// All answers that were read, each once.
    pub fn answers(&self) -> impl Iterator<Item = (&Told, &Answer)> {
        self.answers.values().map(|(told, answer)| (told, answer))
    }

    /// All changes that were read, each once.
    pub fn all_changes(&self) -> impl Iterator<Item = (&Told, &BalanceChanged)> {
        self.changes.values().flat_map(BTreeMap::values).map(|(told, change)| (told, change))
    }

    /// Reads until every command has its answer, and every transfer that was made its changes.
    ///
    /// # Panics
    /// Some have not within `limit`.
    #[track_caller]
    pub fn settle(&mut self, limit: Duration) {
        let deadline = Instant::now() + limit;
        loop {
            self.read(Duration::from_millis(20));
            let unanswered = self.unanswered();
            if unanswered.is_empty() {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "after {limit:?} {} of {} commands are unanswered, {:?} among them",
                unanswered.len(),
                self.creations.len() + self.transfers.len(),
                unanswered[0]
            );
        }
    }

    /// Reads what has been told; waits for the first record at most `wait`.
    pub fn read(&mut self, wait: Duration) {
        let mut wait = wait;
        while let Some(told) = self.tape.next(wait) {
            self.take(told);
            wait = Duration::ZERO;
        }
    }

    /// Reads all that the topics hold now.
    ///
    /// # Panics
    /// It does not come in time.
    pub fn read_to_the_end(&mut self) {
        let mut ends = Vec::new();
        for topic in OUTCOMES {
            let look = || self.bus.log_range(topic.name, PATIENCE).ok();
            let bounds = until("the end of the topic", PATIENCE, look);
            ends.extend(
                (0..).zip(bounds).map(|(partition, (_, end))| ((topic.name, partition), end)),
            );
        }
        until("all that was told is read", Duration::from_secs(60), || {
            self.read(Duration::from_millis(20));
            ends.iter().all(|(place, end)| self.tape.positions()[place] >= *end).then_some(())
        });
    }

    /// Reads until so many commands have answers, those of other tests among them.
    ///
    /// # Panics
    /// They have not within `limit`.
    #[track_caller]
    pub fn wait_answers(&mut self, count: usize, limit: Duration) {
        until(&format!("{count} answers"), limit, || {
            self.read(Duration::from_millis(20));
            (self.answers.len() >= count).then_some(())
        });
    }

    /// How many records were read.
    pub fn records(&self) -> usize {
        self.identities() + self.repeats
    }

    /// How many different answers and changes were read.
    pub fn identities(&self) -> usize {
        self.answers.len() + self.changes.values().map(BTreeMap::len).sum::<usize>()
    }

    /// How many transfers were ordered.
    pub fn transfers_count(&self) -> usize {
        self.transfers.len()
    }

    /// Ids of commands without an answer, or without all of its changes.
    pub fn unanswered(&mut self) -> Vec<Uuid> {
        let mut pending = std::mem::take(&mut self.pending);
        pending.retain(|id| !self.is_told(*id));
        self.pending = pending;
        self.pending.iter().copied().collect()
    }

    fn is_told(&self, id: Uuid) -> bool {
        match (self.answer(id), self.transfers.get(&id)) {
            (None, _) => false,
            (Some(Answer::Moved), Some(order)) => {
                let sides = [&order.from, &order.to];
                let known = sides.into_iter().filter(|side| self.known.contains(*side)).count();
                self.changes_of.get(&id).copied().unwrap_or(0) >= known
            }
            _ => true,
        }
    }

    fn opened(&self) -> impl Iterator<Item = &AccountCreationConfirmed> {
        self.creations.keys().filter_map(|id| match self.answer(*id) {
            Some(Answer::Opened(opened)) => Some(opened),
            _ => None,
        })
    }

    fn take(&mut self, told: Told) {
        let topic = TOPICS.into_iter().find(|topic| topic.name == told.topic);
        let topic = topic.expect("the tape reads topics of the bank");
        let place = format!("{}/{}/{}", told.topic, told.partition, told.offset);
        assert_eq!(told.partition, partition(&told.key, topic.partitions), "key of {place}");
        let frame = [&[0], &self.stack.schema_ids[topic.name].to_be_bytes()[..]].concat();
        let Some(datum) = told.value.strip_prefix(&frame[..]) else {
            self.foreign.push(told);
            return;
        };
        let key = String::from_utf8(told.key.clone()).expect("keys are text");
        let read = format!("{place} is in the bank's schema");
        if topic == BALANCE_CHANGED {
            let change = BalanceChanged::read(datum).expect(&read);
            assert_eq!(key, change.iban, "key of {place}");
            self.take_change(told, change);
            return;
        }
        let (id, answer) = if topic == ACCOUNT_CREATION_CONFIRMED {
            let opened = AccountCreationConfirmed::read(datum).expect(&read);
            (opened.id, Answer::Opened(opened))
        } else if topic == ACCOUNT_CREATION_FAILED {
            let failed = AccountCreationFailed::read(datum).expect(&read);
            (failed.id, Answer::NotOpened(failed))
        } else if topic == MONEY_TRANSFER_CONFIRMED {
            (MoneyTransferConfirmed::read(datum).expect(&read).id, Answer::Moved)
        } else {
            let failed = MoneyTransferFailed::read(datum).expect(&read);
            (failed.id, Answer::Refused(failed))
        };
        assert_eq!(key, id.to_string(), "key of {place}");
        match self.answers.entry(id) {
            Entry::Vacant(entry) => {
                if let Answer::Opened(opened) = &answer
                    && self.creations.contains_key(&id)
                {
                    self.known.insert(opened.iban.clone());
                }
                entry.insert((told, answer));
            }
            Entry::Occupied(entry) => {
                assert_same(&entry.get().0, &told);
                self.repeats += 1;
            }
        }
    }

    fn take_change(&mut self, told: Told, change: BalanceChanged) {
        let of_iban = self.changes.entry(change.iban.clone()).or_default();
        if let Some((first, _)) = of_iban.get(&change.sequence) {
            assert_same(first, &told);
            self.repeats += 1;
            return;
        }
        let id = change.transfer_id.unwrap_or_else(|| panic!("{told:?} tells no transfer_id"));
        *self.changes_of.entry(id).or_default() += 1;
        if of_iban.keys().next_back().is_some_and(|last| *last > change.sequence) {
            self.disordered += 1;
        }
        of_iban.insert(change.sequence, (told, change));
    }

    /// What must always hold, once all is settled: see ARCHITECTURE.md.
    ///
    /// # Panics
    /// Something does not hold.
    pub fn check(&mut self) {
        let unanswered = self.unanswered();
        assert!(unanswered.is_empty(), "without an answer: {unanswered:?}");
        self.check_transfers();
        self.check_accounts();
        check_bank(self.stack);
    }

    /// Each transfer that was made has changed both sides as ordered, and one that was refused none.
    fn check_transfers(&self) {
        let mut by_transfer: HashMap<Uuid, Vec<&BalanceChanged>> = HashMap::new();
        for (_, change) in self.changes.values().flat_map(BTreeMap::values) {
            by_transfer.entry(change.transfer_id.unwrap_or_default()).or_default().push(change);
        }
        for order in self.transfers.values() {
            let changes = by_transfer.remove(&order.id).unwrap_or_default();
            let told = |iban: &str, from_to: &str, cents: i64| {
                let fits = |change: &&&BalanceChanged| {
                    change.iban == iban
                        && change.from_to == from_to
                        && change.changed_by.get() == cents
                        && change.description == order.description
                };
                changes.iter().filter(fits).count()
            };
            let moved = self.answer(order.id) == Some(&Answer::Moved);
            let (from, to, cents) = (&order.from, &order.to, order.amount.get());
            let expected = [from, to].map(|side| moved && self.known.contains(side));
            let found = [told(from, to, cents.wrapping_neg()), told(to, from, cents)];
            assert_eq!(found, expected.map(usize::from), "changes of {order:?}: {changes:?}");
            assert_eq!(changes.len(), found[0] + found[1], "changes of {order:?}: {changes:?}");
        }
        for id in by_transfer.keys() {
            let ours = |change: &&&BalanceChanged| {
                change.iban != COMPANY_IBAN && self.known.contains(&change.iban)
            };
            let stray = by_transfer[id].iter().find(ours);
            assert_eq!(stray, None, "money moved and nobody ordered it");
        }
    }

    /// The changes of each account count 1, 2, 3 ... and add up, and the database says the same.
    fn check_accounts(&self) {
        let mut stored: HashMap<String, (i64, i64)> = HashMap::new();
        let ibans: Vec<&str> = self.opened().map(|opened| opened.iban.as_str()).collect();
        let rows = self
            .stack
            .database()
            .query("SELECT iban, balance, sequence FROM account WHERE iban = ANY($1)", &[&ibans])
            .expect("read accounts");
        for row in rows {
            stored.insert(row.get(0), (row.get(1), row.get(2)));
        }
        for opened in self.opened() {
            let iban = &opened.iban;
            let (mut balance, mut sequence) = (0i64, 0);
            for change in self.changes(iban) {
                sequence += 1;
                balance = balance.checked_add(change.changed_by.get()).expect("it is a long");
                let expected = (sequence, balance);
                let found = (change.sequence, change.new_balance.get());
                assert_eq!(found, expected, "sequence and balance of {change:?}");
                assert!(balance >= -50_000, "below the limit: {change:?}");
            }
            assert_eq!(stored.get(iban), Some(&(balance, sequence)), "{iban} in the database");
        }
    }
}

/// No money was made or lost: all balances together are the seed, and what came from outside, less what went there.
///
/// # Panics
/// They are not.
pub fn check_bank(stack: &Stack) {
    let mut database = stack.database();
    let mut number = |sql: &str| -> i128 {
        let row = database.query_one(sql, &[]).expect("read balancedb");
        row.get::<_, String>(0).parse().expect("a sum of whole numbers")
    };
    let balances = number("SELECT sum(balance)::text FROM account");
    let moved = |side: &str| {
        format!(
            "SELECT coalesce(sum(amount), 0)::text FROM transfer WHERE reason IS NULL AND {side} IS NULL"
        )
    };
    let came = number(&moved("from_sequence"));
    let went = number(&moved("to_sequence"));
    assert_eq!(balances, SEED_CENTS + came - went, "balances = seed + what came - what went");
}

/// A record told again is the same record.
#[track_caller]
fn assert_same(first: &Told, again: &Told) {
    let content = |told: &Told| (told.topic, told.partition, told.key.clone(), told.value.clone());
    assert_eq!(content(first), content(again), "two tellings differ: {first:?} and {again:?}");
}

/// The committed offset of each partition of `topic` for the handlers.
pub fn committed(stack: &Stack, topic: &str) -> Vec<i64> {
    let mut bus = stack.bus();
    let offsets = bus.committed("command-handler", topic, PATIENCE).expect("the group's offsets");
    offsets.into_iter().map(|offset| offset.unwrap_or(0)).collect()
}

/// Waits until the handlers have committed all of `topic`.
///
/// # Panics
/// They have not within `limit`.
#[track_caller]
pub fn wait_committed(stack: &Stack, topic: &str, limit: Duration) {
    let mut bus = stack.bus();
    until(&format!("all of {topic} is committed"), limit, || {
        let bounds = bus.log_range(topic, PATIENCE).ok()?;
        let committed = bus.committed("command-handler", topic, PATIENCE).ok()?;
        let at_end =
            |((_, end), committed): (&(i64, i64), &Option<i64>)| committed.unwrap_or(0) >= *end;
        bounds.iter().zip(&committed).all(at_end).then_some(())
    });
}
