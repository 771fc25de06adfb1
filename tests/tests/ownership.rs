//! Several handlers at once, and what becomes of partitions whose handler is gone, or seems so.

use bank::topology::{CONFIRM_ACCOUNT_CREATION, CONFIRM_MONEY_TRANSFER, Topic};
use bank_tests::bank_client::BankClient;
use bank_tests::handler::{Handler, Settings, was_killed};
use bank_tests::load::Load;
use bank_tests::stack::{PATIENCE, Stack};
use bank_tests::wait::until;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How many partitions of `topic` each database session owns.
fn owners(stack: &Stack, topic: &Topic) -> BTreeMap<i32, usize> {
    let sql = "SELECT pid FROM pg_locks
               WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND granted AND classid = hashtext($1)::oid";
    let rows = stack.database().query(sql, &[&topic.name]).expect("read the locks");
    let mut owners = BTreeMap::new();
    for row in rows {
        *owners.entry(row.get(0)).or_default() += 1;
    }
    owners
}

/// Waits until the transfers' partitions are shared as said, largest share first; the sessions that
/// own them.
#[track_caller]
fn wait_shares(stack: &Stack, shares: &[usize], limit: Duration) -> Vec<i32> {
    until(&format!("partitions are shared as {shares:?}"), limit, || {
        let owners = owners(stack, &CONFIRM_MONEY_TRANSFER);
        let mut found: Vec<usize> = owners.values().copied().collect();
        found.sort_unstable_by(|a, b| b.cmp(a));
        (found == shares).then(|| owners.into_keys().collect())
    })
}

/// Transfers that a handler has confirmed in its life.
fn confirmed(handler: &Handler) -> f64 {
    let name = r#"bank_commands_total{outcome="confirmed",topic="confirm_money_transfer"}"#;
    handler.metric(name).unwrap_or(0.0)
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn two_handlers_share_the_partitions_and_take_over_from_each_other() {
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

    // The one dies, and its share is served by the other.
    second.kill();
    assert!(was_killed(second.wait_exits(1, PATIENCE)));
    wait_shares(&stack, &[9], TAKE_OVER);

    // A third comes, and the first is stopped.
    let third = Handler::start(&stack);
    wait_shares(&stack, &[5, 4], PATIENCE);
    first.stop();
    wait_shares(&stack, &[9], TAKE_OVER);
    assert_eq!(owners(&stack, &CONFIRM_ACCOUNT_CREATION).len(), 1);
    let more = confirmed(&third) + 1_000.0;
    until("the third goes on alone", PATIENCE, || {
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

/// The replacement has decided what the frozen one had in its hands. It must not decide, tell
/// otherwise or own anything when it wakes up.
#[test]
#[ignore = "needs the stack: make test-integration"]
fn a_handler_that_was_frozen_for_half_a_minute_does_no_harm_beside_its_replacement() {
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
    let new = until("the replacement owns all", Duration::from_secs(20), || {
        let owners = owners(&stack, &CONFIRM_MONEY_TRANSFER);
        let new = owners.iter().find(|(pid, count)| !old.contains(pid) && **count == 9);
        new.map(|(pid, _)| *pid)
    });
    replacement.wait_ready(PATIENCE);
    let before = confirmed(&replacement);
    until("half a minute has passed", Duration::from_secs(60), || {
        client.read(Duration::from_millis(100));
        (since.elapsed() >= Duration::from_secs(30)).then_some(())
    });
    assert!(confirmed(&replacement) > before + 10_000.0, "it worked all the time");

    frozen.thaw();
    let both = wait_shares(&stack, &[5, 4], PATIENCE);
    assert!(both.contains(&new) && !both.contains(&old[0]), "{both:?}: {old:?} was ended");
    let more = [confirmed(&frozen) + 500.0, confirmed(&replacement) + 500.0];
    until("both go on", PATIENCE, || {
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
