//! Servers that go away, come back and freeze while the bank is under load.

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

/// How soon after a server's return the bank must work.
const RECOVERY: Duration = Duration::from_secs(10);
/// How long a stop may take, with some time for the process to end.
const STOP: Duration = Duration::from_millis(1_500);
/// The same where a call hangs, which is given two seconds.
const STOP_HUNG: Duration = Duration::from_secs(4);
const PER_SECOND: usize = 2_000;

/// A bank at work.
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

    /// Both kinds of commands, ordered now, are answered soon enough.
    #[track_caller]
    fn recovers(&mut self) {
        let started = Instant::now();
        self.client.send_creations(&[creation(Atype::Manual)]);
        self.client.send_transfers(&[self.accounts[0].gets(1)]);
        self.client.settle(RECOVERY.saturating_sub(started.elapsed()));
    }

    /// All that was ever ordered has its one answer.
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
fn a_broker_restarts_under_load() {
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
        until("the handler says that it can't serve", PATIENCE, || {
            (!bank.handler.is_ready()).then_some(())
        });
        fault.end();
        bank.recovers();
        bank.handler.wait_ready(RECOVERY);
    }
    assert!(bank.handler.exits().is_empty(), "it waits, and does not end");
    bank.close();
}

/// What it has decided and can't tell, the next one tells. One that has yet to begin doesn't wait
/// for the server either.
#[test]
#[ignore = "needs the stack: make test-integration"]
fn a_handler_is_stopped_while_a_server_is_away() {
    let stack = Stack::shared();
    let mut bank = Bank::open(&stack, &[]);
    for (part, sign, sign_at_start) in [
        ("kafka-1", "Kafka request failed, retrying", "Kafka request failed, retrying"),
        ("postgres", "starting over", "waiting for the database"),
    ] {
        let before = bank.handler.log().matches(sign).count();
        let fault = stack.stop(part, "TERM");
        until("it notices", PATIENCE, || {
            (bank.handler.log().matches(sign).count() > before).then_some(())
        });
        let took = bank.handler.stop();
        assert!(took < STOP, "without {part} the stop took {took:?}");
        let next = Handler::launch(&stack, Settings::default());
        until("it notices", PATIENCE, || next.log().contains(sign_at_start).then_some(()));
        let took = next.stop();
        assert!(took < STOP, "without {part} from its start the stop took {took:?}");
        fault.end();
        bank.handler = Handler::start(&stack);
        bank.recovers();
    }
    bank.close();
}

/// A call that hangs doesn't hold up the stop. The exit code says that something was left to be
/// done.
#[test]
#[ignore = "needs the stack: make test-integration"]
fn a_handler_is_stopped_while_a_server_is_frozen() {
    let stack = Stack::shared();
    let mut bank = Bank::open(&stack, &[]);
    for part in ["kafka-1", "postgres"] {
        let fault = stack.freeze(part);
        let (end, took) = bank.handler.terminate();
        assert!(took < STOP_HUNG, "beside a frozen {part} the stop took {took:?}");
        assert!(matches!(end.code(), Some(0 | 75)), "{end:?}");
        fault.end();
        bank.handler = Handler::start(&stack);
        bank.recovers();
    }
    bank.close();
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn a_handler_waits_for_a_registry_that_is_down_at_its_start() {
    let stack = Stack::shared();
    let mut client = BankClient::open(&stack);
    let fault = stack.stop("registry", "TERM");
    let handler = Handler::launch(&stack, Settings::default());
    client.send_creations(&[creation(Atype::Manual)]);
    until("it says what it waits for", PATIENCE, || {
        handler.log().contains("waiting for the schema registry").then_some(())
    });
    assert!(!handler.is_ready());
    fault.end();
    client.settle(RECOVERY);
    handler.wait_ready(RECOVERY);
    assert!(handler.exits().is_empty(), "it waits, and does not end");
    client.check();
}

/// What it needs for the bank's own schemas it has learned. A command in another schema waits until
/// it can be read.
#[test]
#[ignore = "needs the stack: make test-integration"]
fn the_registry_goes_away_and_comes_back() {
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
    until("it says what it waits for", PATIENCE, || {
        bank.handler.log().contains("waiting for the schema registry").then_some(())
    });
    fault.end();
    bank.recovers();
    assert_eq!(bank.client.refusal(order.id), None);
    assert!(bank.handler.exits().is_empty(), "it waits, and does not end");
    let client = bank.close();
    assert!(client.dead_letters.is_empty(), "{:?}", client.dead_letters);
}

/// A schema of transfers with one field more.
fn newer_schema() -> String {
    let ours = CONFIRM_MONEY_TRANSFER.schema.expect("it has one");
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

/// Its socket stays open and says nothing: only a deadline helps. The kafka crate's sockets can't
/// be reached, so that only a new process gets rid of the call; today's client takes a new
/// connection.
#[test]
#[ignore = "needs the stack: make test-integration"]
fn a_broker_freezes_for_longer_than_a_call_may_take() {
    let stack = Stack::shared();
    let built_in = stack.built_in();
    let mut bank = Bank::open(&stack, &[("KAFKA_TIMEOUT_MS", "3000")]);
    let given_up = "Kafka request failed, retrying";
    let before = bank.handler.log().matches(given_up).count();
    let fault = stack.freeze("kafka-1");
    if built_in {
        until("it gives an answer up", PATIENCE, || {
            (bank.handler.log().matches(given_up).count() > before).then_some(())
        });
    } else {
        let end = bank.handler.wait_exits(1, PATIENCE);
        assert_eq!(end.code(), Some(75), "{end:?}");
        until("the next one finds no broker", PATIENCE, || {
            bank.handler.log().contains("does not respond").then_some(())
        });
    }
    fault.end();
    bank.recovers();
    bank.handler.wait_ready(RECOVERY);
    assert_eq!(bank.handler.exits().len(), usize::from(!built_in), "{:?}", bank.handler.exits());
    bank.close();
}

/// For longer than its sessions may be idle, and then for longer than a call may take.
#[test]
#[ignore = "needs the stack: make test-integration"]
fn postgresql_freezes() {
    let stack = Stack::shared();
    let mut bank = Bank::open(&stack, &[]);
    let fault = stack.freeze("postgres");
    let since = Instant::now();
    until("the time has passed", PATIENCE, || {
        bank.client.read(Duration::from_millis(100));
        (since.elapsed() > Duration::from_secs(12)).then_some(())
    });
    fault.end();
    bank.recovers();
    assert!(bank.handler.exits().is_empty(), "it waits, and does not end");

    let fault = stack.freeze("postgres");
    let end = bank.handler.wait_exits(1, Duration::from_secs(45));
    assert_eq!(end.code(), Some(75), "{end:?}");
    fault.end();
    bank.recovers();
    bank.close();
}
