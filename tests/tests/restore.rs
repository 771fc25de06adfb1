//! Lost data: a failover to a standby that lacks commits, and a Kafka that has lost everything. The
//! services run meanwhile.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use avro::Encoder;
use bank::records::{Atype, ConfirmMoneyTransfer, Heartbeat};
use bank::topology::HEARTBEAT;
use bank_tests::bank_client::BankClient;
use bank_tests::handler::Handler;
use bank_tests::stack::{PATIENCE, Post, Stack, post};
use bank_tests::wait::until;
use bank_tests::{SHOP, creation};
use messaging::KafkaClient;
use observer::{Event, Kind, ObservedChanges, compare_transactions};
use postgres::{Client, NoTls};
use serde_json::{Value, json};
use std::fs;
use std::process::Command;
use std::time::Duration;
use uuid::Uuid;

const ENDPOINT: &str = "graphql-endpoint";

/// Starts a graphql-endpoint, which stores the transactions.
fn start_endpoint(stack: &Stack) {
    // Also creates the tables and roles.
    stack.command(&["start", "synchronizer"], &[]);
    stack.command(&["start", ENDPOINT], &[]);
}

/// Checks that neither the handler nor the endpoint has ended, and stops the handler.
fn stop(stack: &Stack, handler: &Handler) {
    assert!(handler.exits().is_empty(), "{:?}", handler.exits());
    handler.stop();
    let log = fs::read_to_string(stack.log_dir().join(format!("{ENDPOINT}.log"))).unwrap();
    assert!(!log.contains("exited, starting again"), "{log}");
}

fn transaction_database(stack: &Stack) -> Client {
    Client::connect(stack.variable("TRANSACTION_DATABASE_URL"), NoTls).unwrap()
}

/// The result of a query for one number, with the parameter `ids`.
fn count(database: &mut Client, sql: &str, ids: &[Uuid]) -> usize {
    let count: i64 = database.query_one(sql, &[&ids]).unwrap().get(0);
    count.try_into().unwrap()
}

/// Number of commands that have an outcome in balancedb.
fn decided(balances: &mut Client, ids: &[Uuid]) -> usize {
    let sql = "SELECT (SELECT count(*) FROM transfer WHERE id = ANY($1))
                    + (SELECT count(*) FROM account_creation WHERE id = ANY($1))";
    count(balances, sql, ids)
}

/// Number of changes of these transfers in transactiondb.
fn stored(transactions: &mut Client, ids: &[Uuid]) -> usize {
    count(transactions, "SELECT count(*) FROM transaction WHERE transfer_id = ANY($1)", ids)
}

/// The standby lacks commits whose outcomes were published. The services find it by themselves.
#[test]
#[ignore = "needs the stack: make test-integration"]
fn asynchronous_standby_decides_lost_commands_again() {
    let stack = Stack::with_asynchronous_standby();
    start_endpoint(&stack);
    let mut client = BankClient::open(&stack);
    client.ignores_times = true;
    let handler = Handler::start(&stack);
    let accounts = client.open_accounts(10, 100);
    let mut primary = stack.database();
    // Otherwise the outcomes that the standby has would be repeated as well.
    until("the handler has stored what is published", PATIENCE, || {
        let sql = "SELECT FROM topic_partition WHERE resume_offset < next_offset";
        primary.query(sql, &[]).unwrap().is_empty().then_some(())
    });
    stack.cut_standby_off();

    let creations: Vec<_> = (0..10).map(|_| creation(Atype::Auto)).collect();
    client.send_creations(&creations);
    // One transfer for each account: the outcomes do not depend on the order.
    let transfers: Vec<_> = accounts.iter().map(|account| account.gets(1)).collect();
    client.send_transfers(&transfers);
    client.settle(PATIENCE);
    let transfer_ids: Vec<Uuid> = transfers.iter().map(|it| it.id).collect();
    let ids: Vec<Uuid> =
        creations.iter().map(|it| it.id).chain(transfer_ids.iter().copied()).collect();
    assert_eq!(decided(&mut primary, &ids), ids.len());
    let mut transactions = transaction_database(&stack);
    until("the endpoint has stored the transactions", PATIENCE, || {
        (stored(&mut transactions, &transfer_ids) == transfers.len()).then_some(())
    });

    let mut balances = stack.standby_database("balancedb");
    let mut transactions = stack.standby_database("transactiondb");
    stack.command(&["stop", "postgres", "KILL"], &[]);
    let kept = (decided(&mut balances, &ids), stored(&mut transactions, &transfer_ids));
    assert_eq!(kept, (0, 0), "the standby has lost nothing");
    stack.command(&["promote", "standby"], &[]);
    until("the lost commands are decided again", PATIENCE, || {
        client.read(Duration::from_millis(20));
        (decided(&mut balances, &ids) == ids.len()).then_some(())
    });
    until("the lost transactions are stored again", PATIENCE, || {
        (stored(&mut transactions, &transfer_ids) == transfers.len()).then_some(())
    });
    stop(&stack, &handler);
    // The repeated outcomes are equal to the published ones, ibans and tokens included. Only the
    // times are later.
    client.read_to_the_end();
    client.check();
    // A transfer has two records: its outcome and the change of a balance.
    let records = creations.len() + 2 * transfers.len();
    assert_eq!(client.counts().repeated, records as u64);
}

/// Number of changes that the client has read, and that are not in transactiondb.
fn missing(stack: &Stack, client: &mut BankClient<'_>) -> usize {
    client.read_to_the_end();
    let mut changes = ObservedChanges::default();
    for record in &client.records {
        if let Event::BalanceChanged(change) = &record.event {
            changes.take(record.position, change);
        }
    }
    let found = compare_transactions(&mut transaction_database(stack), &mut changes, 0, 1000);
    let found = found.unwrap();
    let is_missing = |kind: &Kind| matches!(kind, Kind::MissingTransaction { .. });
    assert!(found.iter().all(|it| is_missing(&it.kind)), "{found:#?}");
    found.len()
}

/// Deposits a cent by a mutation of GraphQL. The same uuid moves money once. `None` without an
/// outcome.
fn deposit(stack: &Stack, uuid: Uuid, iban: &str) -> Option<bool> {
    let query = "mutation($uuid: String!, $to: String!) {
        money_transfer(uuid: $uuid, token: \"cash\", amount: 1, from: \"cash\", to: $to,
                       descr: \"a deposit\") { success reason } }";
    let variables = json!({ "uuid": uuid.to_string(), "to": iban });
    let body = json!({ "query": query, "variables": variables }).to_string();
    let url = format!("{}/graphql", stack.variable("GRAPHQL_ENDPOINT_URL"));
    let request = ureq::post(url).header("Content-Type", "application/json");
    let text = request.send(body).ok()?.body_mut().read_to_string().ok()?;
    let response: Value = serde_json::from_str(&text).unwrap();
    response["data"]["money_transfer"]["success"].as_bool()
}

/// Runs the commands in docs/operations.md that begin with `start`. Returns their output.
fn run_documented(stack: &Stack, start: &str) -> String {
    let docs = include_str!("../../docs/operations.md");
    let commands = docs[docs.find(start).unwrap()..].split("\n\n").next().unwrap();
    let output = Command::new("bash")
        .args(["-e", "-o", "pipefail", "-c", commands])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .env("BALANCE_DATABASE_URL", stack.database_url())
        .env("TRANSACTION_DATABASE_URL", stack.variable("TRANSACTION_DATABASE_URL"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{commands}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Writes a heartbeat, which no service reads in these tests.
fn produce(stack: &Stack, client: &mut dyn KafkaClient) {
    let value = Encoder::with_id(stack.schema_ids[HEARTBEAT.name]).encode(&Heartbeat { beat: 0 });
    post(client, &[Post::keyed(&HEARTBEAT, "0".to_owned(), value)]);
}

/// Writes heartbeats with a client of the former Kafka and a new one in turns. None of them is
/// lost, although the new Kafka assigns the producer ids of the former one again.
fn check_producers(stack: &Stack, former: &mut dyn KafkaClient) {
    let mut new = stack.built_in_client();
    for _ in 0..3 {
        produce(stack, former);
        produce(stack, &mut *new);
    }
    assert_eq!(new.log_range(HEARTBEAT.name, PATIENCE).unwrap(), [(0, 6)]);
}

/// Kafka loses all topics and offsets while the services run, and the endpoint had not read all
/// records.
#[test]
#[ignore = "needs the stack: make test-integration"]
fn emptied_kafka_keeps_balances_and_outcomes() {
    const ACCOUNTS: usize = 20;
    const REPEATED: usize = 5;
    let stack = Stack::separate(1);
    start_endpoint(&stack);
    let mut producer = stack.built_in_client();
    produce(&stack, &mut *producer);
    let mut client = BankClient::open(&stack);
    let handler = Handler::start(&stack);
    let accounts = client.open_accounts(ACCOUNTS, 100);
    until("the endpoint has stored all changes", PATIENCE, || {
        (missing(&stack, &mut client) == 0).then_some(())
    });

    let creations = [creation(Atype::Auto), creation(Atype::Manual)];
    let payees = accounts.iter().cycle().skip(1);
    let transfers: Vec<ConfirmMoneyTransfer> =
        accounts.iter().zip(payees).map(|(from, to)| from.pays(1, &to.iban)).collect();
    let frozen = stack.freeze(ENDPOINT);
    // The fetches in flight return the first records to the frozen endpoint.
    client.send_creations(&creations[..1]);
    client.send_transfers(&transfers[..1]);
    client.settle(PATIENCE);
    client.send_creations(&creations[1..]);
    client.send_transfers(&transfers[1..]);
    client.settle(PATIENCE);
    stack.replace_kafka();
    frozen.end();

    client.check();
    client.read_new_topics();
    // New commands are decided, also those of the endpoint.
    assert_eq!(client.decide(&accounts[0].pays(7, SHOP)), None);
    let uuid = Uuid::new_v4();
    let success = until("the endpoint has the outcome of a transfer", PATIENCE, || {
        deposit(&stack, uuid, &accounts[1].iban)
    });
    assert!(success);
    // Known commands get their stored outcomes again. A transfer has three records here.
    client.send_creations(&creations[..1]);
    client.send_transfers(&transfers[..REPEATED]);
    let repeated = 1 + 3 * REPEATED as u64;
    until("the outcomes are repeated", PATIENCE, || {
        client.read(Duration::from_millis(20));
        (client.counts().repeated >= repeated).then_some(())
    });

    until("only changes that Kafka has lost are missing", PATIENCE, || {
        (missing(&stack, &mut client) == 2 * (ACCOUNTS - REPEATED)).then_some(())
    });
    check_producers(&stack, &mut *producer);
    run_documented(&stack, "psql -Xqf deploy/postgres/changes.sql");
    assert_eq!(missing(&stack, &mut client), 0);
    let sums = run_documented(&stack, "psql -XAtc");
    let [balances, transactions] = sums.lines().collect::<Vec<_>>().try_into().unwrap();
    assert_eq!(balances, transactions);
    let opened = "SELECT count(*) FROM opened_account";
    let opened: i64 = transaction_database(&stack).query_one(opened, &[]).unwrap().get(0);
    assert_eq!(opened, (ACCOUNTS + creations.len()) as i64);
    stop(&stack, &handler);
    client.check();
}
