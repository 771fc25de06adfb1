//! Three brokers, of which one is frozen or killed.

use bank::records::Atype;
use bank::topology::CONFIRM_MONEY_TRANSFER;
use bank_tests::bank_client::BankClient;
use bank_tests::creation;
use bank_tests::handler::Handler;
use bank_tests::load::Load;
use bank_tests::stack::{PATIENCE, Stack};
use bank_tests::wait::until;
use std::time::{Duration, Instant};

/// Shorter than the request timeout, and than the cluster needs to detect the loss of a broker.
const FROZEN: Duration = Duration::from_secs(6);
/// The cluster detects the loss of a broker after 9 s, and then elects new leaders.
const FAILOVER: Duration = Duration::from_secs(25);
const RECOVERY: Duration = Duration::from_secs(10);

#[test]
#[ignore = "needs the stack: make test-integration"]
fn leader_freezes_and_is_killed_under_load() {
    let stack = Stack::of_three_brokers();
    let mut client = BankClient::open(&stack);
    let handler = Handler::start(&stack);
    let accounts = client.open_accounts(50, 100_000);
    let load = Load::start(&stack, &accounts, 1_000);
    client.wait_outcomes(3_000, PATIENCE);
    let mut kafka = stack.kafka_client();
    let leaders = kafka.leaders(CONFIRM_MONEY_TRANSFER.name, PATIENCE).unwrap();
    let leader = format!("kafka-{}", leaders[0]);

    // Writes to all partitions wait for it, since it is a replica of each.
    let fault = stack.freeze(&leader);
    let since = Instant::now();
    until("6 s have passed", PATIENCE, || {
        client.read(Duration::from_millis(100));
        (since.elapsed() >= FROZEN).then_some(())
    });
    fault.end();
    client.send_creations(&[creation(Atype::Manual)]);
    // Transfers for all partitions, some of which it leads.
    let probe: Vec<_> = accounts.iter().map(|account| account.gets(1)).collect();
    client.send_transfers(&probe);
    client.settle(RECOVERY);
    assert!(handler.exits().is_empty(), "the handler has ended: {:?}", handler.exits());

    let fault = stack.stop(&leader, "KILL");
    client.send_creations(&[creation(Atype::Manual)]);
    let probe: Vec<_> = accounts.iter().map(|account| account.gets(1)).collect();
    client.send_transfers(&probe);
    client.settle(FAILOVER);
    let moved = until("partitions have new leaders", PATIENCE, || {
        kafka.leaders(CONFIRM_MONEY_TRANSFER.name, PATIENCE).ok()
    });
    assert!(!moved.contains(&leaders[0]), "{leaders:?}, then {moved:?}");

    fault.end();
    let probe: Vec<_> = accounts.iter().map(|account| account.gets(1)).collect();
    client.send_transfers(&probe);
    client.settle(RECOVERY);
    assert!(handler.exits().is_empty(), "the handler has ended: {:?}", handler.exits());

    client.expect_transfers(&load.stop());
    client.settle(PATIENCE);
    handler.stop();
    client.read_to_the_end();
    client.check();
}
