//! Tests of subscriptions while connections to the database are lost: no transaction is missed
//! silently.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;

use bank::money::Cents;
use bank::records::BalanceChanged;
use bank::timestamp::Timestamp;
use bank_tests::stack::{PATIENCE, Post, Stack, post};
use bank_tests::wait::until;
use postgres::{Client, Row};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};
use support::proxy::DatabaseProxy;
use support::{Endpoint, change, opened, read, record, subscribe, transaction_database};
use tungstenite::{Message, WebSocket};

/// How often PostgreSQL is killed.
const KILLS: usize = 3;
/// Accounts whose changes are published while PostgreSQL is killed.
const ACCOUNTS: usize = 50;

/// An endpoint behind a proxy, and an account without other transactions.
struct Bank {
    stack: Stack,
    proxy: DatabaseProxy,
    endpoint: Endpoint,
    iban: String,
}

impl Bank {
    fn start() -> Self {
        let (stack, proxy) = (Stack::shared(), DatabaseProxy::start());
        let endpoint = Endpoint::start_with(&stack, &[("DATABASE_URL", proxy.url())]);
        Self { stack, proxy, endpoint, iban: bank_tests::nobody() }
    }

    /// Publishes a change of the account, as the command-handler does.
    fn publish(&self, sequence: i64) {
        let change = record(&self.stack, &change(&self.iban, sequence));
        post(&mut *self.stack.kafka_client(), &[change]);
    }

    fn subscribe(&self) -> Subscriber {
        let mut socket = self.endpoint.websocket();
        subscribe(&mut socket, "1", &self.iban);
        self.endpoint.wait_for_subscribers(1);
        Subscriber(socket)
    }

    fn stored(&self) -> usize {
        self.endpoint.transactions(&self.iban).len()
    }
}

struct Subscriber(WebSocket<TcpStream>);

impl Subscriber {
    /// The description of the next transaction.
    fn next(&mut self) -> String {
        let message: Value = serde_json::from_str(read(&mut self.0).to_text().unwrap()).unwrap();
        let transaction = &message["payload"]["data"]["stream_transactions"];
        transaction["descr"].as_str().unwrap_or_else(|| panic!("{message}")).to_owned()
    }

    /// The code of the close frame. No transaction comes before it.
    fn close_code(mut self) -> u16 {
        match read(&mut self.0) {
            Message::Close(frame) => frame.unwrap().code.into(),
            other => panic!("{other}"),
        }
    }
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn lost_commit_response_ends_subscriptions() {
    let bank = Bank::start();
    let subscriber = bank.subscribe();
    bank.proxy.lose_next_commit_response("transaction");
    bank.publish(1);
    assert_eq!(subscriber.close_code(), 1012);
    let mut subscriber = bank.subscribe();
    until("the transaction is stored", PATIENCE, || (bank.stored() == 1).then_some(()));
    bank.publish(2);
    // The notification of the first one may arrive after the new subscription.
    let next = subscriber.next();
    let next = if next == "change 1" { subscriber.next() } else { next };
    assert_eq!(next, "change 2");
    assert_eq!(bank.stored(), 2);
}

/// An opened account is not published. If its session ended subscriptions, later transactions would
/// arrive twice: from the endpoint itself and by its notifications.
#[test]
#[ignore = "needs the stack: make test-integration"]
fn lost_account_commit_ends_no_subscription() {
    let bank = Bank::start();
    let mut subscriber = bank.subscribe();
    bank.proxy.lose_next_commit_response("opened_account");
    post(&mut *bank.stack.kafka_client(), &[opened(&bank.stack, &bank.iban)]);
    until("the session is lost", PATIENCE, || {
        bank.endpoint.log().contains("session lost, reconnecting").then_some(())
    });
    for sequence in 1..=3 {
        bank.publish(sequence);
        assert_eq!(subscriber.next(), format!("change {sequence}"));
    }
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn delayed_commit_reaches_new_subscriptions() {
    let bank = Bank::start();
    let subscriber = bank.subscribe();
    bank.proxy.delay_next_commit("transaction");
    bank.publish(1);
    assert_eq!(subscriber.close_code(), 1012);
    let mut subscriber = bank.subscribe();
    assert_eq!(bank.stored(), 0, "the server has no COMMIT yet");
    bank.proxy.send_delayed_commit();
    assert_eq!(subscriber.next(), "change 1");
    bank.publish(2);
    assert_eq!(subscriber.next(), "change 2");
    assert_eq!(bank.stored(), 2);
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn lost_notifications_end_subscriptions() {
    let bank = Bank::start();
    let subscriber = bank.subscribe();
    bank.proxy.close_listener();
    assert_eq!(subscriber.close_code(), 1012);
    let mut subscriber = bank.subscribe();
    bank.publish(1);
    assert_eq!(subscriber.next(), "change 1");
}

/// Publishes changes of the accounts until `over` is true. Returns all of them.
fn publish_until(over: &AtomicBool, stack: &Stack, ibans: &[String]) -> Vec<BalanceChanged> {
    let deadline = Instant::now() + 4 * PATIENCE;
    let (mut kafka, mut published) = (stack.kafka_client(), Vec::new());
    for sequence in (1..).take_while(|_| !over.load(Ordering::Relaxed)) {
        // Also ends the test if its other thread has failed.
        assert!(Instant::now() < deadline, "{sequence} changes of each account");
        let changes: Vec<_> = ibans.iter().map(|iban| change(iban, sequence)).collect();
        let records: Vec<Post> = changes.iter().map(|it| record(stack, it)).collect();
        post(&mut *kafka, &records);
        published.extend(changes);
        // Less than 5,000 changes per second.
        thread::sleep(Duration::from_millis(10));
    }
    published
}

/// Receives the transactions of an account until `over` is true. Subscribes again whenever the
/// endpoint ends the subscription. Returns the sequence of each id.
fn receive_until(over: &AtomicBool, endpoint: &Endpoint, iban: &str) -> BTreeMap<i64, i64> {
    let query =
        format!("subscription {{ stream_transactions(iban: \"{iban}\") {{ id sequence }} }}");
    let subscribe = json!({ "type": "subscribe", "id": "1", "payload": { "query": query } });
    let mut received = BTreeMap::new();
    while !over.load(Ordering::Relaxed) {
        let mut socket = endpoint.websocket();
        socket.send(Message::text(subscribe.to_string())).unwrap();
        while let Message::Text(message) = read(&mut socket) {
            let message: Value = serde_json::from_str(&message).unwrap();
            let transaction = &message["payload"]["data"]["stream_transactions"];
            let id = transaction["id"].as_i64().unwrap_or_else(|| panic!("{message}"));
            let sequence: i64 = transaction["sequence"].as_str().unwrap().parse().unwrap();
            let other = received.insert(id, sequence).filter(|&other| other != sequence);
            assert_eq!(other, None, "id {id} is that of two transactions");
            if over.load(Ordering::Relaxed) {
                break;
            }
        }
    }
    received
}

/// The stored changes of the accounts, ordered by iban and sequence, with their numbers.
fn stored(client: &mut Client, ibans: &[String]) -> Vec<(i64, BalanceChanged)> {
    let sql = "SELECT number, iban, sequence, new_balance, changed_by, from_to, description,
                      transfer_id, decided_at
               FROM transaction WHERE iban = ANY($1) ORDER BY iban, sequence, number";
    let change = |row: &Row| {
        let change = BalanceChanged {
            iban: row.get(1),
            sequence: row.get(2),
            new_balance: Cents::new(row.get(3)),
            changed_by: Cents::new(row.get(4)),
            from_to: row.get(5),
            description: row.get(6),
            transfer_id: row.get(7),
            decided_at: row.get::<_, Option<SystemTime>>(8).map(Timestamp::from),
        };
        (row.get(0), change)
    };
    client.query(sql, &[&ibans]).unwrap().iter().map(change).collect()
}

/// What clients have received stays as it was, since a transaction is published after its commit is
/// on disk. Otherwise a crash could take back a number, which another transaction would get.
#[test]
#[ignore = "needs the stack: make test-integration"]
fn killed_database_keeps_published_transactions() {
    const STORED: &str = "graphql_transactions_stored_total";
    let stack = Stack::shared();
    let endpoint = Endpoint::start(&stack);
    let mut ibans: Vec<String> = (0..ACCOUNTS).map(|_| bank_tests::nobody()).collect();
    ibans.sort();
    let (received_enough, published_enough) = (AtomicBool::new(false), AtomicBool::new(false));
    let (mut published, received) = thread::scope(|scope| {
        let publisher = scope.spawn(|| publish_until(&published_enough, &stack, &ibans));
        let receiver = scope.spawn(|| receive_until(&received_enough, &endpoint, &ibans[0]));
        let store_more = || {
            let before = endpoint.metric(STORED);
            until("transactions are stored", PATIENCE, || {
                (endpoint.metric(STORED) > before + 1_000).then_some(())
            });
        };
        for _ in 0..KILLS {
            store_more();
            stack.stop("postgres", "KILL").end();
        }
        store_more();
        // The receiver ends with the next transaction.
        received_enough.store(true, Ordering::Relaxed);
        let received = receiver.join();
        published_enough.store(true, Ordering::Relaxed);
        (publisher.join().unwrap(), received.unwrap())
    });
    let mut client = transaction_database();
    let stored = until("all transactions are stored", PATIENCE, || {
        Some(stored(&mut client, &ibans)).filter(|stored| stored.len() >= published.len())
    });
    let sequences: BTreeMap<i64, i64> = stored
        .iter()
        .filter(|(_, change)| change.iban == ibans[0])
        .map(|(number, change)| (*number, change.sequence))
        .collect();
    published.sort_by(|a, b| (&a.iban, a.sequence).cmp(&(&b.iban, b.sequence)));
    assert!(stored.into_iter().map(|(_, change)| change).eq(published), "a change differs");
    assert!(!received.is_empty());
    for (id, sequence) in received {
        assert_eq!(sequences.get(&id), Some(&sequence), "id {id}");
    }
}
