//! A client that sends commands and checks everything that the bank publishes.

use crate::stack::{PATIENCE, Post, Stack, post};
use crate::wait::until;
use crate::{Account, creation};
use avro::Record;
use bank::records::{Atype, BalanceChanged, ConfirmAccountCreation, ConfirmMoneyTransfer};
use bank::topology::{
    ACCOUNT_CREATION_CONFIRMED, ACCOUNT_CREATION_FAILED, BALANCE_CHANGED, DEAD_LETTER, HEARTBEAT,
    MONEY_TRANSFER_CONFIRMED, MONEY_TRANSFER_FAILED, Topic,
};
use messaging::KafkaClient;
use observer::{
    Counts, Event, History, ObservedRecord, Observer, Outcome, Positions, Reader, log_ends,
    log_starts, stored_accounts,
};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// The topics of outcomes and balance changes.
pub const OUTCOMES: [Topic; 5] = [
    ACCOUNT_CREATION_CONFIRMED,
    ACCOUNT_CREATION_FAILED,
    MONEY_TRANSFER_CONFIRMED,
    MONEY_TRANSFER_FAILED,
    BALANCE_CHANGED,
];

/// Balance of the company account of a new bank, cents.
const COMPANY_CENTS: i128 = observer::model::COMPANY_CENTS as i128;
/// The group in which the command-generator commits its offsets.
pub const GENERATOR_GROUP: &str = "command-generator";
/// Number of outcomes and changes that are kept.
const RECORDS_MAX: usize = 10_000;

/// Sends commands and reads all records that the bank publishes after its creation. The first
/// violation of the contract fails the test.
pub struct BankClient<'a> {
    stack: &'a Stack,
    kafka: Box<dyn KafkaClient>,
    reader: Reader,
    observer: Observer,
    /// Ids of unanswered commands.
    awaited: Vec<Uuid>,
    /// Number of commands sent.
    pub sent: usize,
    /// The first [`RECORDS_MAX`] outcomes and changes.
    pub records: Vec<ObservedRecord>,
    /// True if changes that differ in their times are equal. A database that was restored decides
    /// transfers again, at a later time.
    pub ignores_times: bool,
    /// Records of dead_letter.
    pub dead_letters: Vec<ObservedRecord>,
    /// Outcomes in a schema that is not the bank's. The observer does not receive them.
    pub foreign: Vec<ObservedRecord>,
}

impl<'a> BankClient<'a> {
    /// Starts at the current ends of the topics. Handlers of earlier tests may have left unanswered
    /// commands.
    ///
    /// # Panics
    /// If the servers do not respond.
    pub fn open(stack: &'a Stack) -> Self {
        let mut kafka = stack.kafka_client();
        let accounts = stored_accounts(&mut stack.database()).expect("read accounts");
        let ends = log_ends(&mut *kafka, &all_topics(), PATIENCE).expect("the topics are there");
        Self {
            stack,
            kafka,
            reader: Reader::start(&stack.kafka, &stack.registry, &ends),
            observer: Observer::new(accounts, History::Unsettled),
            awaited: Vec::new(),
            sent: 0,
            records: Vec::new(),
            ignores_times: false,
            dead_letters: Vec::new(),
            foreign: Vec::new(),
        }
    }

    /// Reads the topics from their beginning, after they were created again. Records are still
    /// compared with those of the former topics.
    ///
    /// # Panics
    /// If the servers do not respond.
    pub fn read_new_topics(&mut self) {
        self.kafka = self.stack.kafka_client();
        let starts = log_starts(&mut *self.kafka, &all_topics(), PATIENCE);
        let starts = starts.expect("the topics are there");
        self.reader = Reader::start(&self.stack.kafka, &self.stack.registry, &starts);
    }

    /// Sends commands to open accounts.
    pub fn send_creations(&mut self, commands: &[ConfirmAccountCreation]) {
        self.expect(commands.iter().map(|command| command.id));
        let posts: Vec<Post> = commands.iter().map(|it| self.stack.creation(it)).collect();
        post(&mut *self.kafka, &posts);
    }

    /// Sends transfers.
    pub fn send_transfers(&mut self, commands: &[ConfirmMoneyTransfer]) {
        self.expect(commands.iter().map(|command| command.id));
        let posts: Vec<Post> = commands.iter().map(|it| self.stack.transfer(it)).collect();
        post(&mut *self.kafka, &posts);
    }

    /// Expects outcomes of commands that are sent by other means.
    pub fn expect(&mut self, ids: impl IntoIterator<Item = Uuid>) {
        let before = self.awaited.len();
        self.awaited.extend(ids);
        self.sent += self.awaited.len() - before;
    }

    /// Expects outcomes of transfers that are sent by other means.
    pub fn expect_transfers(&mut self, commands: &[ConfirmMoneyTransfer]) {
        self.expect(commands.iter().map(|command| command.id));
    }

    /// Opens `count` accounts and deposits `cents` in each.
    ///
    /// # Panics
    /// If the commands are not answered in time.
    #[track_caller]
    pub fn open_accounts(&mut self, count: usize, cents: i64) -> Vec<Account> {
        let commands: Vec<_> = (0..count).map(|_| creation(Atype::Manual)).collect();
        self.send_creations(&commands);
        self.settle(PATIENCE);
        let accounts: Vec<Account> = commands.iter().map(|it| self.account(it.id)).collect();
        if cents > 0 {
            let deposits: Vec<_> = accounts.iter().map(|account| account.gets(cents)).collect();
            self.send_transfers(&deposits);
            self.settle(PATIENCE);
        }
        accounts
    }

    /// The account that was opened for the command `id`.
    ///
    /// # Panics
    /// If the command opened no account.
    #[track_caller]
    pub fn account(&self, id: Uuid) -> Account {
        match self.outcome(id) {
            Some(Outcome::AccountOpened(opened)) => {
                Account { iban: opened.iban.clone(), token: opened.token.clone() }
            }
            other => panic!("{id} opened no account: {other:?}"),
        }
    }

    /// The outcome of a command.
    pub fn outcome(&self, id: Uuid) -> Option<&Outcome> {
        self.observer.outcome_of(id)
    }

    /// Sends one transfer and waits for its outcome. Returns the reason of a rejection. The outcome
    /// must match the decision of the model.
    #[track_caller]
    pub fn decide(&mut self, command: &ConfirmMoneyTransfer) -> Option<String> {
        let decision = self.observer.decide(command).err().map(|reason| reason.text());
        self.send_transfers(std::slice::from_ref(command));
        self.settle(PATIENCE);
        let refusal = self.refusal(command.id);
        assert_eq!(refusal.as_deref(), decision, "bank and model decide {command:?}");
        refusal
    }

    /// The reason for which the transfer `id` was rejected; `None` if it was confirmed.
    ///
    /// # Panics
    /// If it has no outcome.
    #[track_caller]
    pub fn refusal(&self, id: Uuid) -> Option<String> {
        match self.outcome(id) {
            Some(Outcome::Confirmed) => None,
            Some(Outcome::Failed(reason)) => Some(reason.to_string()),
            other => panic!("transfer {id} has outcome {other:?}"),
        }
    }

    /// The changes of `iban` in the order in which they were read.
    ///
    /// # Panics
    /// If more records were read than are kept.
    pub fn changes(&self, iban: &str) -> Vec<&BalanceChanged> {
        assert!(self.records.len() < RECORDS_MAX, "not all records are kept");
        let mut changes = Vec::new();
        for record in &self.records {
            if let Event::BalanceChanged(change) = &record.event
                && change.iban == iban
            {
                changes.push(change);
            }
        }
        changes
    }

    /// Reads until every command has its outcome, and every confirmed transfer its changes.
    ///
    /// # Panics
    /// If commands are unanswered after `limit`.
    #[track_caller]
    pub fn settle(&mut self, limit: Duration) {
        let deadline = Instant::now() + limit;
        loop {
            self.read(Duration::from_millis(20));
            self.awaited.retain(|id| !self.observer.is_answered(*id));
            let Some(first) = self.awaited.first() else { return };
            let (left, sent) = (self.awaited.len(), self.sent);
            assert!(
                Instant::now() < deadline,
                "after {limit:?} {left} of {sent} commands are unanswered, {first} among them"
            );
        }
    }

    /// Reads until the command-generator has handled all heartbeats, and each command has its
    /// outcome, also those of other clients.
    ///
    /// # Panics
    /// If that takes longer than `limit`.
    #[track_caller]
    pub fn settle_generator(&mut self, limit: Duration) {
        // The confirmation of an account results in the command of its first salary.
        for topic in [HEARTBEAT, ACCOUNT_CREATION_CONFIRMED] {
            let ranges = self.kafka.log_range(topic.name, PATIENCE).expect("the topic is there");
            let ends: Vec<i64> = ranges.into_iter().map(|(_, end)| end).collect();
            until(&format!("the generator has handled {}", topic.name), limit, || {
                self.read(Duration::from_millis(20));
                let committed = self.kafka.committed(GENERATOR_GROUP, topic.name, PATIENCE).ok()?;
                let is_at_end =
                    |(committed, end): (Option<i64>, &i64)| committed.unwrap_or(0) >= *end;
                committed.into_iter().zip(&ends).all(is_at_end).then_some(())
            });
            let commands = [ConfirmAccountCreation::TOPIC, ConfirmMoneyTransfer::TOPIC];
            let ends = log_ends(&mut *self.kafka, &commands, PATIENCE).expect("topics are there");
            until("all commands are answered", limit, || {
                self.read(Duration::from_millis(20));
                let is_read = self.reader.has_reached(&ends);
                (is_read && self.observer.unanswered() == 0).then_some(())
            });
        }
    }

    /// Reads the published records. Waits at most `wait` for the first one.
    ///
    /// # Panics
    /// If a record violates the contract.
    pub fn read(&mut self, wait: Duration) {
        let mut deadline = Instant::now() + wait;
        // The reader retries while the registry does not respond.
        while let Ok(Some(batch)) = self.reader.next(deadline) {
            if !batch.records.is_empty() {
                deadline = Instant::now();
            }
            batch.records.into_iter().for_each(|record| self.take(record));
        }
        let violations = self.observer.take_violations();
        assert!(violations.is_empty(), "{violations:#?}");
    }

    fn take(&mut self, mut record: ObservedRecord) {
        if record.event == Event::DeadLetter {
            self.observer.take(&record);
            return self.dead_letters.push(record);
        }
        if OUTCOMES.iter().any(|topic| topic.name == record.position.topic) {
            let schema_id = self.stack.schema_ids[record.position.topic].to_be_bytes();
            if record.value.get(1..5) != Some(&schema_id) {
                return self.foreign.push(record);
            }
        }
        if let (true, Event::BalanceChanged(change)) = (self.ignores_times, &mut record.event) {
            change.decided_at = None;
            record.value = format!("{change:?}").into_bytes();
        }
        self.observer.take(&record);
        if self.records.len() < RECORDS_MAX && !is_command(&record.event) {
            self.records.push(record);
        }
    }

    /// Reads up to the current ends of the topics.
    ///
    /// # Panics
    /// If that takes too long.
    pub fn read_to_the_end(&mut self) {
        let topics = [&OUTCOMES[..], &[DEAD_LETTER]].concat();
        let look = || log_ends(&mut *self.kafka, &topics, PATIENCE).ok();
        let ends: Positions = until("the ends of the topics", PATIENCE, look);
        until("all records are read", Duration::from_secs(60), || {
            self.read(Duration::from_millis(20));
            self.reader.has_reached(&ends).then_some(())
        });
    }

    /// Reads until `count` commands have outcomes.
    ///
    /// # Panics
    /// If they have not after `limit`.
    #[track_caller]
    pub fn wait_outcomes(&mut self, count: usize, limit: Duration) {
        until(&format!("{count} outcomes"), limit, || {
            self.read(Duration::from_millis(20));
            let Counts { confirmed, failed, .. } = self.observer.counts();
            (confirmed + failed >= count as u64).then_some(())
        });
    }

    /// Counts of the records read so far.
    pub fn counts(&self) -> Counts {
        *self.observer.counts()
    }

    /// Checks the contract in topics and database after all commands are answered.
    ///
    /// # Panics
    /// If it is violated.
    pub fn check(&mut self) {
        self.check_records();
        check_sums(self.stack);
    }

    /// As [`Self::check`], also if the database has lost outcomes.
    ///
    /// # Panics
    /// If the contract is violated.
    pub fn check_records(&mut self) {
        let report = self.observer.report();
        assert!(report.violations.is_empty(), "{report:#?}");
        let stored = stored_accounts(&mut self.stack.database()).expect("read accounts");
        let differences = self.observer.differences(&stored);
        assert!(differences.is_empty(), "{differences:#?}");
    }
}

/// All topics that a client reads.
fn all_topics() -> Vec<Topic> {
    let commands = [ConfirmAccountCreation::TOPIC, ConfirmMoneyTransfer::TOPIC, DEAD_LETTER];
    [&OUTCOMES[..], &commands].concat()
}

fn is_command(event: &Event) -> bool {
    matches!(event, Event::OpenAccount(_) | Event::Transfer(_))
}

/// Checks in the database that no money was created or lost. The sum of all balances is the
/// company's initial balance, plus cash paid in, minus cash paid out.
///
/// # Panics
/// If the sum differs.
pub fn check_sums(stack: &Stack) {
    let mut database = stack.database();
    let mut number = |sql: &str| -> i128 {
        let row = database.query_one(sql, &[]).expect("read balancedb");
        row.get::<_, String>(0).parse().expect("a sum of whole numbers")
    };
    let balances = number("SELECT sum(balance)::text FROM account");
    let mut moved = |side: &str| {
        number(&format!(
            "SELECT coalesce(sum(amount), 0)::text FROM transfer WHERE reason IS NULL AND {side} \
             IS NULL"
        ))
    };
    let (paid_in, paid_out) = (moved("from_sequence"), moved("to_sequence"));
    assert_eq!(balances, COMPANY_CENTS + paid_in - paid_out, "initial + paid in - paid out");
}

/// The committed offset of each partition of `topic` for the group of the handlers.
pub fn committed(stack: &Stack, topic: &str) -> Vec<i64> {
    let mut kafka = stack.kafka_client();
    let offsets = kafka.committed("command-handler", topic, PATIENCE).expect("the group's offsets");
    offsets.into_iter().map(|offset| offset.unwrap_or(0)).collect()
}

/// Waits until the handlers have committed the end of `topic`.
///
/// # Panics
/// If they have not after `limit`.
#[track_caller]
pub fn wait_committed(stack: &Stack, topic: &str, limit: Duration) {
    let mut kafka = stack.kafka_client();
    until(&format!("all of {topic} is committed"), limit, || {
        let ranges = kafka.log_range(topic, PATIENCE).ok()?;
        let committed = kafka.committed("command-handler", topic, PATIENCE).ok()?;
        let at_end =
            |((_, end), committed): (&(i64, i64), &Option<i64>)| committed.unwrap_or(0) >= *end;
        ranges.iter().zip(&committed).all(at_end).then_some(())
    });
}
