//! Servers that stop, restart and freeze while the bank is under load.

use bank::records::{Atype, ConfirmMoneyTransfer};
use bank::topology::CONFIRM_MONEY_TRANSFER;
use bank_tests::bank_client::BankClient;
use bank_tests::handler::{Handler, Settings};
use bank_tests::load::Load;
use bank_tests::stack::{PATIENCE, Post, Stack, post};
use bank_tests::wait::until;
use bank_tests::{Account, creation};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Time after the return of a server within which the bank must work again.
const RECOVERY: Duration = Duration::from_secs(10);
/// Longest duration of a shutdown.
const STOP: Duration = Duration::from_millis(1_500);
/// Longest duration of a shutdown while a call hangs, for which the handler waits two seconds.
const STOP_HUNG: Duration = Duration::from_secs(4);
const PER_SECOND: usize = 2_000;

/// A bank under load.
struct Bank<'a> {
    client: BankClient<'a>,
    handler: Handler,
    accounts: Vec<Account>,
    load: Load,
}

impl<'a> Bank<'a> {
    fn open(stack: &'a Stack, env: &[(&str, &str)]) -> Self {
        let mut client = BankClient::open(stack);
        let handler = Handler::start_with(stack, Settings { env, ..Settings::default() });
        let accounts = client.open_accounts(50, 100_000);
        let load = Load::start(stack, &accounts, PER_SECOND);
        client.wait_outcomes(3 * PER_SECOND, PATIENCE);
        Self { client, handler, accounts, load }
    }

    /// Sends both kinds of commands, which must be answered within [`RECOVERY`].
    #[track_caller]
    fn recovers(&mut self) {
        let started = Instant::now();
        self.client.send_creations(&[creation(Atype::Manual)]);
        self.client.send_transfers(&[self.accounts[0].gets(1)]);
        self.client.settle(RECOVERY.saturating_sub(started.elapsed()));
    }

    /// Checks that each command has exactly one outcome.
    fn close(mut self) -> BankClient<'a> {
        self.client.expect_transfers(&self.load.stop());
        self.client.settle(PATIENCE);
        self.handler.stop();
        self.client.read_to_the_end();
        self.client.check();
        self.client
    }
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn broker_restarts_under_load() {
    let stack = Stack::shared();
    let mut bank = Bank::open(&stack, &[]);
    for signal in ["TERM", "KILL"] {
        stack.stop("kafka-1", signal).end();
        bank.recovers();
    }
    bank.close();
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn postgresql_restarts_under_load() {
    let stack = Stack::shared();
    let mut bank = Bank::open(&stack, &[]);
    for signal in ["TERM", "KILL"] {
        let fault = stack.stop("postgres", signal);
        until("the handler reports that it is not ready", PATIENCE, || {
            (!bank.handler.is_ready()).then_some(())
        });
        fault.end();
        bank.recovers();
        bank.handler.wait_ready(RECOVERY);
    }
    assert!(bank.handler.exits().is_empty(), "the handler ended instead of waiting");
    bank.close();
}

/// The next handler publishes the outcomes that the stopped one has stored but not published. A
/// handler stops as fast if the server was down at its start.
#[test]
#[ignore = "needs the stack: make test-integration"]
fn handler_stops_while_a_server_is_down() {
    let stack = Stack::shared();
    let mut bank = Bank::open(&stack, &[]);
    for (part, sign, sign_at_start) in [
        ("kafka-1", "Kafka request failed, retrying", "Kafka request failed, retrying"),
        ("postgres", "starting over", "waiting for the database"),
    ] {
        let before = bank.handler.log().matches(sign).count();
        let fault = stack.stop(part, "TERM");
        until("the handler logs the failure", PATIENCE, || {
            (bank.handler.log().matches(sign).count() > before).then_some(())
        });
        let took = bank.handler.stop();
        assert!(took < STOP, "without {part} the shutdown took {took:?}");
        let next = Handler::launch(&stack, Settings::default());
        until("the next handler logs the failure", PATIENCE, || {
            next.log().contains(sign_at_start).then_some(())
        });
        let took = next.stop();
        assert!(took < STOP, "started without {part}, the shutdown took {took:?}");
        fault.end();
        bank.handler = Handler::start(&stack);
        bank.recovers();
    }
    bank.close();
}

/// A call that hangs does not delay the shutdown. Exit code 75 means that work was left.
#[test]
#[ignore = "needs the stack: make test-integration"]
fn handler_stops_while_a_server_is_frozen() {
    let stack = Stack::shared();
    let mut bank = Bank::open(&stack, &[]);
    for part in ["kafka-1", "postgres"] {
        let fault = stack.freeze(part);
        let (end, took) = bank.handler.terminate();
        assert!(took < STOP_HUNG, "with a frozen {part} the shutdown took {took:?}");
        assert!(matches!(end.code(), Some(0 | 75)), "{end:?}");
        fault.end();
        bank.handler = Handler::start(&stack);
        bank.recovers();
    }
    bank.close();
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn handler_waits_for_the_registry_at_start() {
    let stack = Stack::shared();
    let mut client = BankClient::open(&stack);
    let fault = stack.stop("registry", "TERM");
    let handler = Handler::launch(&stack, Settings::default());
    client.send_creations(&[creation(Atype::Manual)]);
    until("the handler logs that it waits", PATIENCE, || {
        handler.log().contains("waiting for the schema registry").then_some(())
    });
    assert!(!handler.is_ready());
    fault.end();
    client.settle(RECOVERY);
    handler.wait_ready(RECOVERY);
    assert!(handler.exits().is_empty(), "the handler ended instead of waiting");
    client.check();
}

/// The handler caches the ids of the bank's own schemas. A command in another schema waits until
/// its schema is available.
#[test]
#[ignore = "needs the stack: make test-integration"]
fn registry_restarts_under_load() {
    let stack = Stack::shared();
    let mut bank = Bank::open(&stack, &[]);
    let newer = newer_schema();
    let id = stack.registry.register(&format!("test-{}-value", Uuid::new_v4()), &newer).unwrap();

    let fault = stack.stop("registry", "KILL");
    bank.recovers();
    let order = bank.accounts[0].gets(1);
    bank.client.expect([order.id]);
    let key = order.id.to_string();
    post(
        &mut *stack.kafka_client(),
        &[Post::keyed(&CONFIRM_MONEY_TRANSFER, key, in_newer_schema(&stack, id, &order))],
    );
    until("the handler logs that it waits", PATIENCE, || {
        bank.handler.log().contains("waiting for the schema registry").then_some(())
    });
    fault.end();
    bank.recovers();
    assert_eq!(bank.client.refusal(order.id), None);
    assert!(bank.handler.exits().is_empty(), "the handler ended instead of waiting");
    let client = bank.close();
    assert!(client.dead_letters.is_empty(), "{:?}", client.dead_letters);
}

/// A schema of transfers with an additional field.
fn newer_schema() -> String {
    let ours = CONFIRM_MONEY_TRANSFER.schema.expect("the topic has a schema");
    let mut schema: serde_json::Value = serde_json::from_str(ours).expect("schemas are JSON");
    let note = serde_json::json!({ "name": "note", "type": "string", "default": "" });
    schema["fields"].as_array_mut().expect("a record has fields").push(note);
    schema.to_string()
}

fn in_newer_schema(stack: &Stack, id: u32, order: &ConfirmMoneyTransfer) -> Vec<u8> {
    let mut value = stack.transfers.encode(order);
    value[1..5].copy_from_slice(&id.to_be_bytes());
    value.extend_from_slice(b"\x04hi");
    value
}

/// The socket of a frozen broker stays open, so only a timeout ends the call. The sockets of the
/// kafka crate are private, so the process must restart. The built-in client reconnects.
#[test]
#[ignore = "needs the stack: make test-integration"]
fn broker_freezes_longer_than_the_request_timeout() {
    let stack = Stack::shared();
    let built_in = stack.built_in();
    let mut bank = Bank::open(&stack, &[("KAFKA_TIMEOUT_MS", "3000")]);
    let given_up = "Kafka request failed, retrying";
    let before = bank.handler.log().matches(given_up).count();
    let fault = stack.freeze("kafka-1");
    if built_in {
        until("the request times out", PATIENCE, || {
            (bank.handler.log().matches(given_up).count() > before).then_some(())
        });
    } else {
        let end = bank.handler.wait_exits(1, PATIENCE);
        assert_eq!(end.code(), Some(75), "{end:?}");
        until("the next process finds no broker", PATIENCE, || {
            bank.handler.log().contains("does not respond").then_some(())
        });
    }
    fault.end();
    bank.recovers();
    bank.handler.wait_ready(RECOVERY);
    assert_eq!(bank.handler.exits().len(), usize::from(!built_in), "{:?}", bank.handler.exits());
    bank.close();
}

/// First for longer than a session may be idle, then for longer than a call may take.
#[test]
#[ignore = "needs the stack: make test-integration"]
fn postgresql_freezes_under_load() {
    let stack = Stack::shared();
    let mut bank = Bank::open(&stack, &[]);
    let fault = stack.freeze("postgres");
    let since = Instant::now();
    until("12 s have passed", PATIENCE, || {
        bank.client.read(Duration::from_millis(100));
        (since.elapsed() > Duration::from_secs(12)).then_some(())
    });
    fault.end();
    bank.recovers();

    let late = "no response from PostgreSQL before the deadline";
    let before = bank.handler.log().matches(late).count();
    let fault = stack.freeze("postgres");
    until("the handler ends a call", Duration::from_secs(45), || {
        (bank.handler.log().matches(late).count() > before).then_some(())
    });
    fault.end();
    bank.recovers();
    assert!(bank.handler.exits().is_empty(), "the handler ended instead of waiting");
    bank.close();
}
