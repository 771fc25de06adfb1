//! Several handlers at once, and the partitions of handlers that end or freeze.

use bank::topology::{CONFIRM_ACCOUNT_CREATION, CONFIRM_MONEY_TRANSFER, Topic};
use bank_tests::bank_client::BankClient;
use bank_tests::handler::{Handler, Settings, was_killed};
use bank_tests::load::Load;
use bank_tests::stack::{PATIENCE, Stack};
use bank_tests::wait::until;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Number of partitions of `topic` that each worker owns.
fn owners(stack: &Stack, topic: &Topic) -> BTreeMap<Uuid, usize> {
    let sql = "SELECT owner FROM topic_partition WHERE topic = $1 AND owner IS NOT NULL";
    let rows = stack.database().query(sql, &[&topic.name]).expect("read the owners");
    let mut owners = BTreeMap::new();
    for row in rows {
        *owners.entry(row.get(0)).or_default() += 1;
    }
    owners
}

/// Waits until the partitions of transfers are divided into `shares`, the largest first. Returns
/// the workers that own them.
#[track_caller]
fn wait_shares(stack: &Stack, shares: &[usize], limit: Duration) -> Vec<Uuid> {
    until(&format!("partitions of transfers are divided into {shares:?}"), limit, || {
        let owners = owners(stack, &CONFIRM_MONEY_TRANSFER);
        let mut found: Vec<usize> = owners.values().copied().collect();
        found.sort_unstable_by(|a, b| b.cmp(a));
        (found == shares).then(|| owners.into_keys().collect())
    })
}

/// Number of transfers that a handler has confirmed since its start.
fn confirmed(handler: &Handler) -> f64 {
    let name = r#"bank_commands_total{outcome="confirmed",topic="confirm_money_transfer"}"#;
    handler.metric(name).unwrap_or(0.0)
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn handlers_share_partitions_and_take_over() {
    const TAKE_OVER: Duration = Duration::from_secs(10);
    let stack = Stack::shared();
    let mut client = BankClient::open(&stack);
    let first = Handler::start(&stack);
    let accounts = client.open_accounts(50, 100_000);
    let load = Load::start(&stack, &accounts, 2_000);
    wait_shares(&stack, &[9], PATIENCE);

    let second = Handler::start_with(&stack, Settings { once: true, ..Settings::default() });
    wait_shares(&stack, &[5, 4], PATIENCE);
    let before = [confirmed(&first), confirmed(&second)];
    until("both handlers confirm transfers", PATIENCE, || {
        client.read(Duration::ZERO);
        (confirmed(&first) >= before[0] + 500.0 && confirmed(&second) >= before[1] + 500.0)
            .then_some(())
    });

    // The second handler is killed, and the first takes over its partitions.
    second.kill();
    assert!(was_killed(second.wait_exits(1, PATIENCE)));
    wait_shares(&stack, &[9], TAKE_OVER);

    // A third handler starts, and the first is stopped.
    let third = Handler::start(&stack);
    wait_shares(&stack, &[5, 4], PATIENCE);
    first.stop();
    wait_shares(&stack, &[9], TAKE_OVER);
    // A handler joins and leaves each topic by itself.
    until("partitions of account commands have one owner", TAKE_OVER, || {
        (owners(&stack, &CONFIRM_ACCOUNT_CREATION).len() == 1).then_some(())
    });
    let more = confirmed(&third) + 1_000.0;
    until("the third handler continues alone", PATIENCE, || {
        client.read(Duration::ZERO);
        (confirmed(&third) >= more).then_some(())
    });
    client.open_accounts(1, 0);

    client.expect_transfers(&load.stop());
    client.settle(PATIENCE);
    third.stop();
    client.read_to_the_end();
    client.check();
}

/// The replacement decides the commands that the frozen handler had read. When the frozen handler
/// continues, it must not decide these commands, publish other outcomes or own their partitions.
#[test]
#[ignore = "needs the stack: make test-integration"]
fn frozen_handler_does_no_harm_after_its_replacement() {
    let stack = Stack::shared();
    let mut client = BankClient::open(&stack);
    let frozen = Handler::start(&stack);
    let accounts = client.open_accounts(50, 100_000);
    let load = Load::start(&stack, &accounts, 2_000);
    client.wait_outcomes(3_000, PATIENCE);
    let old = wait_shares(&stack, &[9], PATIENCE);

    frozen.freeze();
    let since = Instant::now();
    let replacement = Handler::launch(&stack, Settings::default());
    let new = until("the replacement owns all partitions", Duration::from_secs(20), || {
        let owners = owners(&stack, &CONFIRM_MONEY_TRANSFER);
        let new = owners.iter().find(|(id, count)| !old.contains(id) && **count == 9);
        new.map(|(id, _)| *id)
    });
    replacement.wait_ready(PATIENCE);
    let before = confirmed(&replacement);
    until("30 s have passed", Duration::from_secs(60), || {
        client.read(Duration::from_millis(100));
        (since.elapsed() >= Duration::from_secs(30)).then_some(())
    });
    assert!(confirmed(&replacement) > before + 10_000.0, "the replacement did not work");

    frozen.thaw();
    let both = wait_shares(&stack, &[5, 4], PATIENCE);
    assert!(both.contains(&new) && both.contains(&old[0]), "{both:?}: a worker has a new id");
    let more = [confirmed(&frozen) + 500.0, confirmed(&replacement) + 500.0];
    until("both handlers confirm transfers", PATIENCE, || {
        client.read(Duration::from_millis(20));
        (confirmed(&frozen) >= more[0] && confirmed(&replacement) >= more[1]).then_some(())
    });

    client.expect_transfers(&load.stop());
    client.settle(PATIENCE);
    for handler in [frozen, replacement] {
        handler.stop();
    }
    client.read_to_the_end();
    client.check();
}
