//! Handlers that are killed at critical points, and at random times.

use bank::records::{Atype, ConfirmAccountCreation, ConfirmMoneyTransfer};
use bank::topology::{CONFIRM_ACCOUNT_CREATION, CONFIRM_MONEY_TRANSFER};
use bank_tests::bank_client::{BankClient, OUTCOMES, check_sums, committed, wait_committed};
use bank_tests::handler::{Handler, Settings, was_killed};
use bank_tests::load::{Load, random_transfer};
use bank_tests::stack::{PATIENCE, Stack};
use bank_tests::{Account, creation};
use rand::RngExt;
use std::thread;
use std::time::Duration;
use uuid::Uuid;

/// Number of commands for the handler that is killed.
const COMMANDS: usize = 300;

/// Number of records in the topics of outcomes.
fn published(stack: &Stack) -> i64 {
    let mut kafka = stack.kafka_client();
    let mut ends = |topic: &str| kafka.log_range(topic, PATIENCE).expect("the topic is there");
    OUTCOMES.iter().flat_map(|topic| ends(topic.name)).map(|(_, end)| end).sum()
}

/// Number of outcomes in the database.
fn stored(stack: &Stack, ids: &[Uuid]) -> i64 {
    let sql = "SELECT (SELECT count(*) FROM transfer WHERE id = ANY($1))
                    + (SELECT count(*) FROM account_creation WHERE id = ANY($1))";
    stack.database().query_one(sql, &[&ids]).expect("count outcomes").get(0)
}

fn positions(stack: &Stack) -> [Vec<i64>; 2] {
    [CONFIRM_ACCOUNT_CREATION, CONFIRM_MONEY_TRANSFER].map(|topic| committed(stack, topic.name))
}

enum Commands {
    Creations(Vec<ConfirmAccountCreation>),
    Transfers(Vec<ConfirmMoneyTransfer>),
}

/// Checks what a handler has stored and published when it is killed at the failpoint `point`, and
/// that the next handler completes it.
fn kill_at(point: &str) {
    let stack = Stack::shared();
    let mut client = BankClient::open(&stack);
    let handler = Handler::start(&stack);
    let accounts = client.open_accounts(10, 100_000);
    for topic in [CONFIRM_ACCOUNT_CREATION, CONFIRM_MONEY_TRANSFER] {
        wait_committed(&stack, topic.name, PATIENCE);
    }
    handler.stop();

    let creations = (0..COMMANDS).map(|_| creation(Atype::Auto)).collect();
    let transfers = (0..COMMANDS).map(|_| random_transfer(&mut rand::rng(), &accounts)).collect();
    for commands in [Commands::Creations(creations), Commands::Transfers(transfers)] {
        let repeated_before = client.counts().repeated;
        let ids: Vec<Uuid> = match &commands {
            Commands::Creations(creations) => {
                client.send_creations(creations);
                creations.iter().map(|command| command.id).collect()
            }
            Commands::Transfers(transfers) => {
                client.send_transfers(transfers);
                transfers.iter().map(|command| command.id).collect()
            }
        };
        let (published_before, positions_before) = (published(&stack), positions(&stack));
        let env_first = &[("FAILPOINT", point)];
        let doomed =
            Handler::launch(&stack, Settings { env_first, once: true, ..Settings::default() });
        let end = doomed.wait_exits(1, PATIENCE);
        assert!(
            was_killed(end),
            "{end:?} instead of SIGKILL at {point}: built without failpoints?"
        );

        let published_by_it = published(&stack) - published_before;
        assert_eq!(stored(&stack, &ids) > 0, point != "commit", "stored at {point}");
        assert_eq!(
            published_by_it > 0,
            point == "offsets",
            "published at {point}: {published_by_it}"
        );
        assert_eq!(positions(&stack), positions_before, "offsets committed at {point}");
        check_sums(&stack);

        let next = Handler::start(&stack);
        client.settle(PATIENCE);
        assert_eq!(stored(&stack, &ids), ids.len() as i64);
        // Exactly the records that were published before the kill are published again.
        let repeats = u64::try_from(published_by_it).expect("topics only grow");
        wait_committed(&stack, CONFIRM_MONEY_TRANSFER.name, PATIENCE);
        wait_committed(&stack, CONFIRM_ACCOUNT_CREATION.name, PATIENCE);
        client.read_to_the_end();
        assert_eq!(client.counts().repeated - repeated_before, repeats);
        next.stop();
    }
    client.check();
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn handler_killed_before_commit_has_no_effect() {
    kill_at("commit");
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn stored_outcomes_are_published_after_a_kill() {
    kill_at("produce");
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn published_outcomes_are_repeated_unchanged_after_a_kill() {
    kill_at("offsets");
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn twenty_kills_under_load_lose_no_cent() {
    const KILLS: usize = 20;
    let stack = Stack::shared();
    let mut client = BankClient::open(&stack);
    let handler = Handler::start(&stack);
    let accounts: Vec<Account> = client.open_accounts(50, 100_000);
    let load = Load::start(&stack, &accounts, 3_000);
    for kill in 1..=KILLS {
        handler.wait_ready(PATIENCE);
        let new: Vec<_> = (0..3).map(|_| creation(Atype::Auto)).collect();
        client.send_creations(&new);
        // At any step: while it consumes, decides, publishes or commits.
        thread::sleep(Duration::from_millis(rand::rng().random_range(0..400)));
        handler.kill();
        handler.wait_exits(kill, PATIENCE);
        client.read(Duration::ZERO);
    }
    client.expect_transfers(&load.stop());
    client.settle(PATIENCE);
    assert!(handler.exits().iter().all(|end| was_killed(*end)), "{:?}", handler.exits());
    assert_eq!(handler.exits().len(), KILLS);
    // All commands may be answered before the handler is restarted.
    handler.wait_ready(PATIENCE);
    handler.stop();
    client.read_to_the_end();
    client.check();
    eprintln!("{} commands, {} records published again", client.sent, client.counts().repeated);
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn shutdown_under_load_is_fast_and_repeats_nothing() {
    let stack = Stack::shared();
    let mut client = BankClient::open(&stack);
    let mut handler = Handler::start(&stack);
    let accounts = client.open_accounts(20, 100_000);
    let load = Load::start(&stack, &accounts, 3_000);
    for _ in 0..3 {
        let count = load.count();
        client.wait_outcomes(count + 1_000, PATIENCE);
        let took = handler.stop();
        assert!(took < Duration::from_secs(1), "the shutdown took {took:?}");
        handler = Handler::start(&stack);
    }
    client.expect_transfers(&load.stop());
    client.settle(PATIENCE);
    client.read_to_the_end();
    client.check();
    assert_eq!((client.counts().repeated, client.counts().disordered), (0, 0));
}
