//! Tests with a log without violations, and with each kind of violation added to it.

use crate::model::{LIMIT_CENTS, decide, new_bank, unused_iban};
use crate::rule_cases::{Account, SHOP};
use crate::*;
use avro::Record;
use bank::iban::COMPANY_IBAN;
use bank::money::Cents;
use bank::records::*;
use bank::timestamp::Timestamp;
use bank::topology::{CONFIRM_MONEY_TRANSFER, DEAD_LETTER, TOPICS, Topic};
use messaging::partitioner::partition;
use std::time::{Duration, Instant};
use uuid::Uuid;

type Log = Vec<ObservedRecord>;

fn record(offset: usize, topic: Topic, key: &str, event: Event) -> ObservedRecord {
    let partition = partition(key.as_bytes(), topic.partitions);
    let position = RecordPosition { topic: topic.name, partition, offset: offset as i64 };
    let (key, value) = (key.as_bytes().to_vec(), format!("{event:?}").into_bytes());
    ObservedRecord { position, read_at: Instant::now(), key, value, event }
}

fn push<R: Record>(log: &mut Log, key: impl ToString, event: fn(R) -> Event, value: R) {
    log.push(record(log.len(), R::TOPIC, &key.to_string(), event(value)));
}

fn account(number: u32) -> Account {
    let account = (0..).map(|check| format!("NL{check:02}OPEN000000000{number}"));
    let iban = account.into_iter().find(|iban| model::is_iban(iban)).unwrap();
    Account { iban, token: format!("{number:020}") }
}

/// Adds command `number` to open an account, and its outcome.
fn open(log: &mut Log, number: u32) {
    let (Account { iban, token }, id) = (account(number), Uuid::from_u128(number.into()));
    let a_type = Atype::Auto;
    push(log, id, Event::OpenAccount, ConfirmAccountCreation { id, a_type });
    let opened = AccountCreationConfirmed { id, iban, token, a_type };
    push(log, id, Event::AccountOpened, opened);
}

/// Adds `command` and its outcome, as decided by the model.
fn send(log: &mut Log, accounts: &mut Accounts, number: u128, mut command: ConfirmMoneyTransfer) {
    command.id = Uuid::from_u128(number);
    let (id, decision) = (command.id, decide(&command, |iban| accounts.get(iban).cloned()));
    push(log, id, Event::Transfer, command);
    match decision {
        Err(reason) => {
            let reason = reason.text().to_owned();
            push(log, id, Event::TransferFailed, MoneyTransferFailed { id, reason });
        }
        Ok(changes) => {
            push(log, id, Event::TransferConfirmed, MoneyTransferConfirmed { id });
            for mut change in changes {
                change.decided_at = Some(Timestamp::from_millis(1));
                let state = accounts.get_mut(&change.iban).unwrap();
                (state.balance, state.sequence) = (change.new_balance.get(), change.sequence);
                push(log, change.iban.clone(), Event::BalanceChanged, change);
            }
        }
    }
}

/// Returns a log with two accounts, six transfers and a dead letter, and the accounts at its end.
/// Two of the transfers are rejected.
fn good() -> (Log, Accounts) {
    let (mut log, mut accounts) = (Log::new(), new_bank());
    for number in [1, 2] {
        open(&mut log, number);
        let Account { iban, token } = account(number);
        accounts.insert(iban, AccountState::new(&token));
    }
    let (a, b) = (account(1), account(2));
    let stolen = Account { token: b.token.clone(), ..a.clone() };
    for (number, command) in (11..).zip([
        a.gets(1_000),
        a.pays(300, &b.iban),
        a.pays(100, SHOP),
        b.pays(300 - LIMIT_CENTS + 1, SHOP),
        stolen.pays(1, SHOP),
        a.pays(50, &unused_iban(1)),
    ]) {
        send(&mut log, &mut accounts, number, command);
    }
    let bad = Event::Undecodable("magic byte".to_owned());
    log.push(record(log.len(), CONFIRM_MONEY_TRANSFER, "bad", bad));
    let bad = log.last().unwrap().clone();
    let letter =
        record(log.len(), DEAD_LETTER, &format!("{}: bad", bad.position), Event::DeadLetter);
    log.push(ObservedRecord { value: bad.value, ..letter });
    (log, accounts)
}

fn observe(log: &Log, history: History) -> Observer {
    let mut observer = Observer::new(new_bank(), history);
    for record in log {
        observer.take(record);
    }
    observer
}

/// Returns the first record whose event matches `wanted`.
fn find(log: &mut Log, wanted: impl Fn(&Event) -> bool) -> &mut ObservedRecord {
    log.iter_mut().find(|record| wanted(&record.event)).unwrap()
}

/// Alters the balance change of transfer `number` for account `of`, and updates its value.
fn alter(log: &mut Log, number: u128, of: u32, change: impl Fn(&mut BalanceChanged)) {
    let record = find(log, |it| is_change(it, number, of));
    let Event::BalanceChanged(changed) = &mut record.event else { unreachable!() };
    change(changed);
    record.value = format!("{:?}", record.event).into_bytes();
}

fn is_change(event: &Event, number: u128, of: u32) -> bool {
    let Event::BalanceChanged(it) = event else { return false };
    it.transfer_id == Some(Uuid::from_u128(number)) && it.iban == account(of).iban
}

fn is_failed(event: &Event, number: u128) -> bool {
    matches!(event, Event::TransferFailed(it) if it.id == Uuid::from_u128(number))
}

fn remove(log: &mut Log, wanted: impl Fn(&Event) -> bool) -> ObservedRecord {
    let index = log.iter().position(|record| wanted(&record.event)).unwrap();
    log.remove(index)
}

/// Adds a changed copy of the first record whose event matches `wanted`.
fn again(log: &mut Log, wanted: impl Fn(&Event) -> bool, change: impl Fn(&mut ObservedRecord)) {
    let mut record = find(log, wanted).clone();
    record.position.offset += 1_000;
    change(&mut record);
    record.value = format!("{:?}", record.event).into_bytes();
    log.push(record);
}

fn set_reason(record: &mut ObservedRecord, text: &str) {
    let Event::TransferFailed(it) = &mut record.event else { unreachable!() };
    text.clone_into(&mut it.reason);
}

fn opened(log: &mut Log) -> &mut AccountCreationConfirmed {
    match &mut find(log, |it| matches!(it, Event::AccountOpened(_))).event {
        Event::AccountOpened(it) => it,
        _ => unreachable!(),
    }
}

type Change = fn(&mut Log);

/// Name of a kind of violation, and how it gets into the log.
const VIOLATIONS: &[(&str, Change)] = &[
    ("Undecodable", |log| {
        find(log, |it| is_failed(it, 14)).event = Event::Undecodable("no".to_owned());
    }),
    ("WrongKey", |log| find(log, |it| is_change(it, 11, 1)).key = b"other".to_vec()),
    ("WrongPartition", |log| find(log, |it| is_change(it, 11, 1)).position.partition += 1),
    ("NoOutcome", |log| drop(remove(log, |it| is_failed(it, 14)))),
    ("TwoOutcomes", |log| again(log, |it| is_failed(it, 14), |it| set_reason(it, "other"))),
    ("UnknownCommand", |log| drop(remove(log, |it| matches!(it, Event::Transfer(_))))),
    ("WrongOutcome", |log| set_reason(find(log, |it| is_failed(it, 14)), "invalid token")),
    ("WrongOutcome", |log| set_reason(find(log, |it| is_failed(it, 15)), "insufficient funds")),
    ("WrongOutcome", |log| {
        // Confirmed beyond the limit: balances and sums agree.
        let Event::Transfer(it) =
            &mut find(log, |it| matches!(it, Event::Transfer(it) if it.to == SHOP)).event
        else {
            unreachable!()
        };
        it.amount = Cents::new(60_000);
        alter(log, 13, 1, |it| {
            it.changed_by = Cents::new(-60_000);
            it.new_balance = Cents::new(700 - 60_000);
        });
    }),
    ("WrongAccount", |log| opened(log).a_type = Atype::Manual),
    ("WrongAccount", |log| opened(log).iban = COMPANY_IBAN.to_owned()),
    ("WrongAccount", |log| opened(log).iban = unused_iban(7)),
    ("WrongAccount", |log| opened(log).token.push('0')),
    ("EqualTokens", |log| opened(log).token = account(2).token),
    ("NoTransferId", |log| alter(log, 11, 1, |it| it.transfer_id = None)),
    ("NoTime", |log| alter(log, 11, 1, |it| it.decided_at = None)),
    ("WrongChange", |log| {
        alter(log, 12, 2, |it| it.decided_at = Some(Timestamp::from_millis(2)));
    }),
    ("TwoChanges", |log| {
        again(
            log,
            |it| is_change(it, 12, 2),
            |it| {
                let Event::BalanceChanged(it) = &mut it.event else { unreachable!() };
                it.description.push('!');
            },
        );
    }),
    ("OldSequence", |log| alter(log, 11, 1, |it| it.sequence = 0)),
    ("MissingSequence", |log| alter(log, 13, 1, |it| it.sequence = i64::MAX)),
    ("WrongBalance", |log| alter(log, 13, 1, |it| it.new_balance = Cents::new(1))),
    ("UnknownAccount", |log| drop(remove(log, |it| matches!(it, Event::AccountOpened(_))))),
    ("MissingChange", |log| drop(remove(log, |it| is_change(it, 12, 2)))),
    ("UnexpectedChange", |log| alter(log, 13, 1, |it| it.transfer_id = Some(Uuid::from_u128(14)))),
    ("AnotherChange", |log| {
        again(
            log,
            |it| is_change(it, 12, 2),
            |it| {
                let Event::BalanceChanged(it) = &mut it.event else { unreachable!() };
                it.sequence += 1;
            },
        );
    }),
    ("WrongChange", |log| alter(log, 12, 2, |it| it.from_to = SHOP.to_owned())),
    ("WrongSum", |log| {
        alter(log, 12, 2, |it| it.new_balance = Cents::new(301));
        alter(log, 12, 2, |it| it.changed_by = Cents::new(301));
    }),
    ("NoDeadLetter", |log| drop(remove(log, |it| *it == Event::DeadLetter))),
    ("WrongDeadLetter", |log| find(log, |it| *it == Event::DeadLetter).value.push(0)),
    ("OutcomeAndDeadLetter", |log| {
        let at = find(log, |it| matches!(it, Event::Transfer(_))).position;
        find(log, |it| *it == Event::DeadLetter).key = format!("{at}: no").into_bytes();
    }),
];

#[test]
fn added_violation_is_found() {
    for (index, (name, add)) in VIOLATIONS.iter().enumerate() {
        let (mut log, _) = good();
        add(&mut log);
        let report = observe(&log, History::Settled).report();
        let names: Vec<String> =
            report.violations.iter().map(|it| format!("{:?}", it.kind)).collect();
        let found = names.iter().any(|it| it.split([' ', '(']).next() == Some(name));
        assert!(found, "{index} {name}: {names:?}");
    }
}

#[test]
fn order_of_topics_causes_no_violation() {
    let (log, accounts) = good();
    for first in TOPICS {
        let (mut early, late): (Log, Log) =
            log.clone().into_iter().partition(|it| it.position.topic == first.name);
        early.extend(late);
        let mut observer = observe(&early, History::Settled);
        let report = observer.report();
        assert_eq!(report.violations, [], "{} first", first.name);
        let counts = report.counts;
        assert_eq!((counts.commands, counts.confirmed, counts.failed), (8, 6, 2));
        assert_eq!((report.unanswered, report.inflow), (0, 1_000 - 100 - 50));
        assert_eq!(observer.differences(&accounts), []);
    }
}

#[test]
fn difference_to_the_database_is_found() {
    let (log, accounts) = good();
    let observer = observe(&log, History::Settled);
    let with = |change: fn(&mut Accounts)| {
        let mut stored = accounts.clone();
        change(&mut stored);
        observer.differences(&stored).len()
    };
    assert_eq!(with(|it| it.get_mut(&account(1).iban).unwrap().balance += 1), 1);
    assert_eq!(with(|it| it.get_mut(&account(1).iban).unwrap().sequence += 1), 1);
    assert_eq!(with(|it| drop(it.remove(COMPANY_IBAN))), 1);
    assert_eq!(with(|it| drop(it.insert("x".to_owned(), AccountState::new("")))), 1);
}

#[test]
fn equal_duplicates_are_counted_without_violation() {
    let (log, _) = good();
    let twice: Log = log.iter().chain(&log).cloned().collect();
    let report = observe(&twice, History::Settled).report();
    assert_eq!(report.violations, []);
    let counts = report.counts;
    assert_eq!((counts.commands_repeated, counts.repeated), (8, 8 + 5));
    let (mut log, _) = good();
    let early = remove(&mut log, |it| is_change(it, 12, 1));
    log.push(early);
    let report = observe(&log, History::Settled).report();
    assert_eq!((report.counts.disordered, report.violations), (1, vec![]));
}

#[test]
fn earlier_commands_violate_only_a_settled_history() {
    let (mut log, _) = good();
    remove(&mut log, |it| matches!(it, Event::Transfer(_)));
    let earlier = BalanceChanged {
        iban: COMPANY_IBAN.to_owned(),
        new_balance: Cents::ZERO,
        changed_by: Cents::ZERO,
        from_to: String::new(),
        description: String::new(),
        transfer_id: Some(Uuid::nil()),
        sequence: 0,
        decided_at: None,
    };
    push(&mut log, COMPANY_IBAN, Event::BalanceChanged, earlier);
    let report = observe(&log, History::Unsettled).report();
    assert_eq!((report.violations, report.counts.earlier), (vec![], 1));
    assert_eq!(observe(&log, History::Settled).report().violations.len(), 2);
}

#[test]
fn later_records_may_explain_a_violation() {
    let (mut log, _) = good();
    remove(&mut log, |it| is_failed(it, 14));
    set_reason(find(&mut log, |it| is_failed(it, 15)), "insufficient funds");
    assert_eq!(observe(&log, History::Settled).report_if(|_| false).violations, []);
    let report = observe(&log, History::Settled)
        .report_if(|it| it.position.is_some_and(|at| at.topic == CONFIRM_MONEY_TRANSFER.name));
    assert!(matches!(report.violations[..], [Violation { kind: Kind::NoOutcome(_), .. }]));
}

#[test]
fn dead_letter_completes_a_command() {
    let (mut log, _) = good();
    remove(&mut log, |it| is_failed(it, 14));
    let mut observer = observe(&log, History::Settled);
    assert_eq!(observer.report().unanswered, 1);
    let at =
        find(&mut log, |it| matches!(it, Event::Transfer(it) if it.id.as_u128() == 14)).position;
    observer.take(&record(99, DEAD_LETTER, &format!("{at}: a NUL"), Event::DeadLetter));
    let report = observer.report();
    assert_eq!((report.unanswered, report.violations), (0, vec![]));
}

#[test]
fn latency_is_measured_from_command_to_outcome() {
    let (mut log, _) = good();
    let (mut command, mut outcome) = (log.remove(0), log.remove(0));
    outcome.read_at = command.read_at + Duration::from_millis(5);
    let mut observer = Observer::new(new_bank(), History::Settled);
    assert_eq!(observer.take(&command), News::Command);
    assert_eq!(observer.take(&outcome), News::Outcome(Duration::from_millis(5), true));
    // The command is read after its outcome.
    command.read_at = outcome.read_at;
    let mut observer = Observer::new(new_bank(), History::Settled);
    assert_eq!(observer.take(&outcome), News::None);
    assert_eq!(observer.take(&command), News::Outcome(Duration::ZERO, true));
}

#[test]
fn completed_commands_stay_without_bodies() {
    let (mut log, _) = good();
    remove(&mut log, |it| matches!(it, Event::Transfer(it) if it.to == unused_iban(1)));
    let observer = observe(&log, History::Unsettled);
    assert_eq!(observer.unanswered(), 0);
    let text = format!("{observer:?}");
    assert!(!text.contains("café") || text.matches("café").count() == 1, "{text}");
}
