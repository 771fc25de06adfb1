//! Tests of subscriptions while connections to the database are lost: no transaction is missed
//! silently.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;

use avro::{Encoder, Record};
use bank::records::{AccountCreationConfirmed, Atype};
use bank_tests::stack::{PATIENCE, Post, Stack, post};
use bank_tests::wait::until;
use serde_json::Value;
use std::net::TcpStream;
use support::proxy::DatabaseProxy;
use support::{Endpoint, change, read, record, subscribe};
use tungstenite::{Message, WebSocket};
use uuid::Uuid;

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
    let topic = AccountCreationConfirmed::TOPIC;
    let encoder = Encoder::with_id(bank.stack.schema_ids[topic.name]);
    let opened = AccountCreationConfirmed {
        id: Uuid::new_v4(),
        iban: bank.iban.clone(),
        token: "01234567890123456789".to_owned(),
        a_type: Atype::Manual,
    };
    let opened = Post::keyed(&topic, opened.id.to_string(), encoder.encode(&opened));
    post(&mut *bank.stack.kafka_client(), &[opened]);
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
