//! Everything again from the start.

use bank::records::Atype;
use bank::topology::{CONFIRM_ACCOUNT_CREATION, CONFIRM_MONEY_TRANSFER, Topic};
use bank_tests::creation;
use bank_tests::handler::Handler;
use bank_tests::ledger::{Ledger, check_bank, wait_committed};
use bank_tests::load::random_transfer;
use bank_tests::stack::{PATIENCE, Stack};
use messaging::Position;
use std::time::Duration;

const COMMANDS: [Topic; 2] = [CONFIRM_ACCOUNT_CREATION, CONFIRM_MONEY_TRANSFER];

/// All that the bank knows, a line for each row.
fn books(stack: &Stack) -> Vec<String> {
    let mut database = stack.database();
    let mut lines = Vec::new();
    for table in ["account", "account_creation", "transfer"] {
        let sql = format!("SELECT row::text FROM {table} AS row ORDER BY 1");
        let rows = database.query(&sql, &[]).expect("read balancedb");
        lines.extend(rows.iter().map(|row| row.get::<_, String>(0)));
    }
    lines
}

/// Commands of all tests that ran before on this stack are among them, whatever faults those had.
#[test]
#[ignore = "needs the stack: make test-integration"]
fn all_commands_from_the_start_change_no_balance_and_get_the_same_answers() {
    let stack = Stack::shared();
    let mut ledger = Ledger::open(&stack);
    let handler = Handler::start(&stack);
    let accounts = ledger.open_accounts(20, 10_000);
    let orders: Vec<_> = (0..5_000).map(|_| random_transfer(&mut rand::rng(), &accounts)).collect();
    ledger.order(&orders);
    ledger.ask(&[creation(Atype::Auto), creation(Atype::Manual)]);
    ledger.settle(PATIENCE);
    for topic in COMMANDS {
        wait_committed(&stack, topic.name, PATIENCE);
    }
    handler.stop();
    ledger.read_to_the_end();
    ledger.check();
    let before = books(&stack);
    let (records, identities) = {
        let mut past = Ledger::of_all_times(&stack);
        past.read_to_the_end();
        (past.records(), past.identities())
    };
    drop(ledger);

    let mut bus = stack.bus();
    for topic in COMMANDS {
        let bounds = bus.log_range(topic.name, PATIENCE).unwrap();
        let starts: Vec<Position> = (0..)
            .zip(bounds)
            .map(|(partition, (first, _))| Position { partition, next: first })
            .collect();
        bus.commit("command-handler", topic.name, &starts, PATIENCE).unwrap();
    }
    let handler = Handler::start(&stack);
    for topic in COMMANDS {
        wait_committed(&stack, topic.name, Duration::from_secs(120));
    }
    handler.stop();

    // A record that differs from its first telling ends the test here.
    let mut past = Ledger::of_all_times(&stack);
    past.read_to_the_end();
    assert_eq!(past.identities(), identities, "something new was told");
    assert!(past.records() >= records + identities, "not all was told again");
    assert!(books(&stack) == before, "the books have changed");
    check_bank(&stack);
}
