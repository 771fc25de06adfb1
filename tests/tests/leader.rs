//! Three brokers, of which one at a time dies.

use bank_tests::creation;
use bank_tests::handler::Handler;
use bank_tests::ledger::Ledger;
use bank_tests::load::Load;
use bank_tests::stack::{PATIENCE, Stack};
use bank_tests::wait::until;
use common::records::Atype;
use common::topology::CONFIRM_MONEY_TRANSFER;
use std::time::Duration;

/// The cluster needs 9 s to see that a broker is gone, and elects new leaders.
const FAILOVER: Duration = Duration::from_secs(25);
const RECOVERY: Duration = Duration::from_secs(10);

#[test]
#[ignore = "needs the stack: make test-integration"]
fn a_leader_is_killed_under_load() {
    let stack = Stack::of_three_brokers();
    let mut ledger = Ledger::open(&stack);
    let handler = Handler::start(&stack);
    let accounts = ledger.open_accounts(50, 100_000);
    let load = Load::start(&stack, &accounts, 1_000);
    ledger.wait_answers(3_000, PATIENCE);
    let mut bus = stack.bus();
    let leaders = bus.leaders(CONFIRM_MONEY_TRANSFER.name, PATIENCE).unwrap();

    let fault = stack.stop(&format!("kafka-{}", leaders[0]), "KILL");
    ledger.ask(&[creation(Atype::Manual)]);
    // A transfer for each partition, some of which the dead broker led.
    let probe: Vec<_> = accounts.iter().map(|account| account.gets(1)).collect();
    ledger.order(&probe);
    ledger.settle(FAILOVER);
    let moved = until("partitions have new leaders", PATIENCE, || {
        bus.leaders(CONFIRM_MONEY_TRANSFER.name, PATIENCE).ok()
    });
    assert!(!moved.contains(&leaders[0]), "{leaders:?}, then {moved:?}");

    fault.end();
    let probe: Vec<_> = accounts.iter().map(|account| account.gets(1)).collect();
    ledger.order(&probe);
    ledger.settle(RECOVERY);

    ledger.note(&load.stop());
    ledger.settle(PATIENCE);
    handler.stop();
    ledger.read_to_the_end();
    ledger.check();
}
