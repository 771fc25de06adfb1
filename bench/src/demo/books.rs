//! The books of a demo: every command, its outcome, and every change of every balance, checked against each other. No I/O.

use bank::iban;
use bank::records::{
    AccountCreationConfirmed, AccountCreationFailed, BalanceChanged, ConfirmAccountCreation,
    ConfirmMoneyTransfer, MoneyTransferConfirmed, MoneyTransferFailed,
};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// A record of one of the topics that the books are kept from.
#[derive(Debug, Clone)]
pub enum Event {
    /// Command.
    Open(ConfirmAccountCreation),
    /// Command.
    Transfer(ConfirmMoneyTransfer),
    /// Outcome.
    Opened(AccountCreationConfirmed),
    /// Outcome.
    NotOpened(AccountCreationFailed),
    /// Outcome.
    Confirmed(MoneyTransferConfirmed),
    /// Outcome.
    Failed(MoneyTransferFailed),
    /// A balance.
    Changed(BalanceChanged),
}

/// What a record meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// A command not seen before.
    Asked,
    /// A command has its outcome, this long after it was asked; true if the bank said yes.
    Answered(Duration, bool),
    /// A change of a balance, or a record that was seen before.
    None,
}

/// An account as the database has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Balance {
    /// Cents.
    pub cents: i64,
    /// Number of changes.
    pub sequence: i64,
}

/// All that was read since the demo began.
#[derive(Debug, Default)]
pub struct Books {
    commands: HashMap<Uuid, Entry>,
    accounts: HashMap<String, Account>,
    /// Distinct commands.
    pub asked: u64,
    /// Commands that were carried out.
    pub confirmed: u64,
    /// Commands that were refused.
    pub failed: u64,
    /// Cents that confirmed transfers brought in from outside, less what they took out.
    pub flow: i128,
    /// Records that came again, equal in every field: replays, which count as one.
    pub repeated: u64,
    faults: Vec<String>,
    faults_more: u64,
}

/// One command. Either side may be read first: they come from different topics.
#[derive(Debug, Default)]
struct Entry {
    /// When it was read, and what it would bring in from outside, cents.
    asked: Option<(Instant, i64)>,
    /// When it was read, whether it is a yes, and a hash of all its fields.
    outcome: Option<(Instant, bool, u64)>,
}

/// Changes of one balance since the demo began.
#[derive(Debug)]
struct Account {
    /// When the demo began.
    start: Balance,
    /// Hash of the change with sequence `start.sequence + 1 + index`; 0 where it has not come.
    changes: Vec<u64>,
    /// Sum of all changes.
    sum: i128,
    /// The balance after the change with the highest sequence.
    last: i64,
}

/// Furthest that a sequence may run ahead of those that have come: two handlers interleave by a few batches.
const AHEAD_MAX: usize = 1_000_000;
/// Faults told in words; the rest are counted.
const FAULTS_MAX: usize = 20;

impl Books {
    /// Begins with the balances of `accounts`, when no command is on its way.
    pub fn open(accounts: impl IntoIterator<Item = (String, Balance)>) -> Self {
        let open = |(iban, start)| (iban, Account::new(start));
        Self { accounts: accounts.into_iter().map(open).collect(), ..Self::default() }
    }

    /// Commands without an outcome.
    pub fn unanswered(&self) -> u64 {
        self.asked - (self.confirmed + self.failed)
    }

    /// Takes a record that was read at `now`.
    pub fn note(&mut self, event: Event, now: Instant) -> News {
        match event {
            Event::Open(command) => self.ask(command.id, 0, now),
            Event::Transfer(command) => self.ask(command.id, flow(&command), now),
            Event::Opened(answer) => {
                let rest = (answer.iban.as_str(), answer.token.as_str(), answer.a_type);
                let news = self.answer(answer.id, true, hash(rest), now);
                // Two accounts for one command would be two outcomes, which `answer` has noticed.
                self.accounts.entry(answer.iban).or_insert_with(Account::empty);
                news
            }
            Event::NotOpened(answer) => self.answer(answer.id, false, hash(answer.reason), now),
            Event::Confirmed(answer) => self.answer(answer.id, true, hash(()), now),
            Event::Failed(answer) => self.answer(answer.id, false, hash(answer.reason), now),
            Event::Changed(change) => {
                self.change(&change);
                News::None
            }
        }
    }

    fn ask(&mut self, id: Uuid, flow: i64, now: Instant) -> News {
        let entry = self.commands.entry(id).or_default();
        if entry.asked.is_some() {
            // Kafka's producer may write twice; the bank must not act twice.
            self.repeated += 1;
            return News::None;
        }
        entry.asked = Some((now, flow));
        self.asked += 1;
        // Read after its outcome: it was answered faster than its topic was read.
        match entry.outcome {
            Some((answered_at, yes, _)) => self.settle(now, answered_at, yes, flow),
            None => News::Asked,
        }
    }

    fn answer(&mut self, id: Uuid, yes: bool, rest: u64, now: Instant) -> News {
        let entry = self.commands.entry(id).or_default();
        if let Some((_, yes_before, rest_before)) = entry.outcome {
            if (yes_before, rest_before) == (yes, rest) {
                self.repeated += 1;
            } else {
                self.fault(format!("command {id} has two different outcomes"));
            }
            return News::None;
        }
        entry.outcome = Some((now, yes, rest));
        match entry.asked {
            Some((asked_at, flow)) => self.settle(asked_at, now, yes, flow),
            None => News::None,
        }
    }

    fn settle(&mut self, asked_at: Instant, answered_at: Instant, yes: bool, flow: i64) -> News {
        if yes {
            self.confirmed += 1;
            self.flow += i128::from(flow);
        } else {
            self.failed += 1;
        }
        News::Answered(answered_at.saturating_duration_since(asked_at), yes)
    }

    fn change(&mut self, change: &BalanceChanged) {
        let account = self.accounts.entry(change.iban.clone()).or_insert_with(Account::empty);
        let text = (&change.from_to, &change.description, change.transfer_id);
        // Never 0, which stands for "has not come".
        let hash = hash((change.new_balance, change.changed_by, text)) | 1;
        let index = change.sequence.saturating_sub(account.start.sequence + 1);
        let index = usize::try_from(index).ok().filter(|&i| i < account.changes.len() + AHEAD_MAX);
        let Some(index) = index else {
            let (iban, sequence) = (&change.iban, change.sequence);
            let expected = account.start.sequence + 1 + account.changes.len() as i64;
            return self.fault(format!("{iban} changes with sequence {sequence}, not {expected}"));
        };
        if index >= account.changes.len() {
            account.changes.resize(index + 1, 0);
            account.last = change.new_balance.get();
        }
        match account.changes[index] {
            0 => {
                account.changes[index] = hash;
                account.sum += i128::from(change.changed_by.get());
            }
            before if before == hash => self.repeated += 1,
            _ => {
                let (iban, sequence) = (&change.iban, change.sequence);
                self.fault(format!("{iban} has two different changes with sequence {sequence}"));
            }
        }
    }

    /// Compares everything with the accounts in the database, when no command is on its way. What is wrong, in words.
    pub fn close(&mut self, database: &HashMap<String, Balance>) -> Vec<String> {
        let unasked = self.commands.iter().filter(|(_, entry)| entry.asked.is_none());
        let unasked: Vec<String> =
            unasked.map(|(id, _)| format!("an outcome of {id}, which nobody asked for")).collect();
        let wrong = self.accounts.iter().filter_map(|(iban, account)| {
            let wrong = match database.get(iban) {
                None => "it is not in the database".to_owned(),
                Some(balance) => account.differs(balance)?,
            };
            Some(format!("{iban}: {wrong}"))
        });
        let wrong: Vec<String> = wrong.collect();
        let unknown = database.keys().filter(|iban| !self.accounts.contains_key(*iban));
        let unknown: Vec<String> =
            unknown.map(|iban| format!("{iban}: nobody was told that it was opened")).collect();
        for fault in unasked.into_iter().chain(wrong).chain(unknown) {
            self.fault(fault);
        }
        let mut faults = self.faults.clone();
        if self.faults_more > 0 {
            faults.push(format!("and {} more like these", self.faults_more));
        }
        faults
    }

    fn fault(&mut self, fault: String) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(fault);
        } else {
            self.faults_more += 1;
        }
    }
}

impl Account {
    fn new(start: Balance) -> Self {
        Self { start, changes: Vec::new(), sum: 0, last: start.cents }
    }

    fn empty() -> Self {
        Self::new(Balance { cents: 0, sequence: 0 })
    }

    /// How the changes differ from what the database says.
    fn differs(&self, database: &Balance) -> Option<String> {
        let missing = self.changes.iter().filter(|change| **change == 0).count();
        if missing > 0 {
            return Some(format!("{missing} changes are missing in its sequence"));
        }
        let sequence = self.start.sequence + self.changes.len() as i64;
        if sequence != database.sequence {
            let told = sequence;
            return Some(format!(
                "{told} changes were told, the database has {}",
                database.sequence
            ));
        }
        if self.last != database.cents {
            let told = self.last;
            return Some(format!(
                "its last balance told is {told}, the database has {}",
                database.cents
            ));
        }
        let sum = i128::from(self.start.cents) + self.sum;
        (sum != i128::from(database.cents))
            .then(|| format!("its changes lead to {sum}, the database has {}", database.cents))
    }
}

/// What a transfer brings into the bank, cents: below zero takes out, zero stays inside. The generator pays nobody but ibans
/// of this bank and outsiders whose names are no ibans.
fn flow(transfer: &ConfirmMoneyTransfer) -> i64 {
    let amount = transfer.amount.get();
    match (iban::is_well_formed(&transfer.from), iban::is_well_formed(&transfer.to)) {
        (false, true) => amount,
        (true, false) => -amount,
        (true, true) | (false, false) => 0,
    }
}

fn hash(fields: impl Hash) -> u64 {
    // The same in every call of one process, which is all that is asked.
    let mut hasher = DefaultHasher::new();
    fields.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bank::iban::{CASH, COMPANY_IBAN};
    use bank::money::Cents;
    use bank::records::Atype;

    const SHOP: &str = "Albert Heijn BV";

    fn id(n: u128) -> Uuid {
        Uuid::from_u128(n)
    }

    fn ask(n: u128, amount: i64, from: &str, to: &str) -> Event {
        let (from, to) = (from.to_owned(), to.to_owned());
        let (token, description) = (String::new(), String::new());
        Event::Transfer(ConfirmMoneyTransfer {
            id: id(n),
            token,
            amount: Cents::new(amount),
            from,
            to,
            description,
        })
    }

    fn yes(n: u128) -> Event {
        Event::Confirmed(MoneyTransferConfirmed { id: id(n) })
    }

    fn no(n: u128, reason: &str) -> Event {
        Event::Failed(MoneyTransferFailed { id: id(n), reason: reason.to_owned() })
    }

    fn change(n: u128, iban: &str, sequence: i64, by: i64, balance: i64) -> Event {
        Event::Changed(BalanceChanged {
            iban: iban.to_owned(),
            new_balance: Cents::new(balance),
            changed_by: Cents::new(by),
            from_to: SHOP.to_owned(),
            description: String::new(),
            transfer_id: Some(id(n)),
            sequence,
        })
    }

    fn company(cents: i64, sequence: i64) -> HashMap<String, Balance> {
        HashMap::from([(COMPANY_IBAN.to_owned(), Balance { cents, sequence })])
    }

    fn books(events: Vec<Event>) -> Books {
        let mut books = Books::open(company(1000, 7));
        let now = Instant::now();
        for event in events {
            books.note(event, now);
        }
        books
    }

    #[test]
    fn money_from_outside_and_to_outside_is_counted_when_confirmed() {
        let mut books = books(vec![
            ask(1, 300, CASH, COMPANY_IBAN),
            yes(1),
            change(1, COMPANY_IBAN, 8, 300, 1300),
            ask(2, 200, COMPANY_IBAN, SHOP),
            change(2, COMPANY_IBAN, 9, -200, 1100),
            yes(2),
            ask(3, 5000, COMPANY_IBAN, CASH),
            no(3, "insufficient funds"),
        ]);
        assert_eq!((books.asked, books.confirmed, books.failed, books.unanswered()), (3, 2, 1, 0));
        assert_eq!(books.flow, 100);
        assert_eq!(books.close(&company(1100, 9)), [""; 0]);
    }

    #[test]
    fn an_outcome_may_be_read_before_its_command() {
        let mut books = books(vec![yes(1)]);
        assert_eq!((books.asked, books.confirmed), (0, 0));
        assert_eq!(books.close(&company(1000, 7)).len(), 1, "nobody asked for it yet");
        let mut books = self::books(vec![yes(1), ask(1, 300, CASH, COMPANY_IBAN)]);
        assert_eq!((books.asked, books.confirmed, books.flow), (1, 1, 300));
        assert_eq!(books.close(&company(1000, 7)), [""; 0]);
    }

    #[test]
    fn latency_is_from_command_to_outcome() {
        let mut books = Books::default();
        let start = Instant::now();
        let later = start + Duration::from_millis(5);
        assert_eq!(books.note(ask(1, 1, CASH, COMPANY_IBAN), start), News::Asked);
        assert_eq!(books.note(yes(1), later), News::Answered(Duration::from_millis(5), true));
        assert_eq!(books.note(no(2, "no"), start), News::None);
        assert_eq!(
            books.note(ask(2, 1, CASH, COMPANY_IBAN), later),
            News::Answered(Duration::ZERO, false)
        );
    }

    #[test]
    fn a_replay_counts_as_one_and_a_different_outcome_is_a_fault() {
        let mut books = self::books(vec![
            ask(1, 300, CASH, COMPANY_IBAN),
            no(1, "x"),
            ask(1, 300, CASH, COMPANY_IBAN),
            no(1, "x"),
        ]);
        assert_eq!((books.asked, books.failed, books.repeated), (1, 1, 2));
        assert_eq!(books.close(&company(1000, 7)), [""; 0]);
        for other in [no(1, "y"), yes(1)] {
            let mut books = self::books(vec![ask(1, 300, CASH, COMPANY_IBAN), no(1, "x"), other]);
            assert_eq!((books.confirmed, books.failed), (0, 1));
            assert_eq!(books.close(&company(1000, 7)).len(), 1);
        }
    }

    #[test]
    fn a_command_without_outcome_is_unanswered() {
        assert_eq!(self::books(vec![ask(1, 300, CASH, COMPANY_IBAN)]).unanswered(), 1);
    }

    #[test]
    fn an_account_is_opened_once_per_command() {
        let opened = |iban: &str| {
            let (iban, token) = (iban.to_owned(), "1".to_owned());
            Event::Opened(AccountCreationConfirmed { id: id(1), iban, token, a_type: Atype::Auto })
        };
        let open = Event::Open(ConfirmAccountCreation { id: id(1), a_type: Atype::Auto });
        let mut database = company(1000, 7);
        database.insert("A".to_owned(), Balance { cents: 0, sequence: 0 });
        let mut good = self::books(vec![open.clone(), opened("A"), opened("A")]);
        assert_eq!((good.asked, good.confirmed, good.repeated), (1, 1, 1));
        assert_eq!(good.close(&database), [""; 0]);
        database.insert("B".to_owned(), Balance { cents: 0, sequence: 0 });
        let mut bad = self::books(vec![open.clone(), opened("A"), opened("B")]);
        assert_eq!(bad.close(&database).len(), 1);
        let mut untold = self::books(vec![open, opened("A")]);
        assert_eq!(untold.close(&database).len(), 1);
    }

    #[test]
    fn changes_may_come_out_of_order_and_again_but_not_missing_or_different() {
        let first = || change(1, COMPANY_IBAN, 8, -100, 900);
        let second = || change(2, COMPANY_IBAN, 9, -100, 800);
        let other = change(3, COMPANY_IBAN, 9, -100, 800);
        let database = company(800, 9);
        for (events, faults) in [
            (vec![first(), second()], 0),
            (vec![second(), first(), second()], 0),
            (vec![second()], 1),
            (vec![first()], 1),
            (vec![first(), second(), other], 1),
            (vec![first(), second(), change(4, COMPANY_IBAN, 7, -100, 800)], 1),
            (vec![first(), second(), change(4, COMPANY_IBAN, i64::MAX, -100, 800)], 1),
            (vec![first(), change(2, COMPANY_IBAN, 9, -99, 800)], 1),
            (vec![first(), change(2, COMPANY_IBAN, 9, -100, 801)], 1),
            (vec![first(), second(), change(5, "A", 1, 1, 1)], 1),
        ] {
            let told = format!("{events:?}");
            assert_eq!(self::books(events).close(&database).len(), faults, "{told}");
        }
    }
}
