//! Tests of waits: each request is answered in time while the database or Kafka is unavailable.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;

use bank_tests::handler::Handler;
use bank_tests::stack::{PATIENCE, Stack};
use bank_tests::wait::until;
use serde_json::{Value, json};
use std::thread;
use std::time::{Duration, Instant};
use support::proxy::DatabaseProxy;
use support::{Endpoint, deposit, transaction_database};
use uuid::Uuid;

/// The waits for connections and for results, and a margin for a slow machine.
const ANSWER_MAX: Duration = Duration::from_secs(5 + 7 + 3);
/// The wait for a thread.
const THREAD_WAIT: Duration = Duration::from_secs(5);
/// Text and code.
const BUSY: [&str; 2] = ["busy, try again", "BUSY"];
const UNAVAILABLE: [&str; 2] = ["the database is unavailable, try again", "UNAVAILABLE"];

const TRANSFER: &str = "mutation($uuid: String!, $token: String!, $amount: Int!,
        $from: String!, $to: String!, $descr: String!) {
    money_transfer(uuid: $uuid, token: $token, amount: $amount,
        from: $from, to: $to, descr: $descr) { uuid success reason } }";

/// Requests `count` transfers at the same time. Returns the responses, and the longest wait.
fn transfers(endpoint: &Endpoint, count: usize) -> (Vec<Value>, Duration) {
    thread::scope(|scope| {
        let request = || {
            let started = Instant::now();
            let transfer = deposit(&bank_tests::nobody(), 1, "bounded");
            // Status 503 if it waited too long for a thread.
            let (_, response) = endpoint.ask_for_status(TRANSFER, &transfer, None);
            (response, started.elapsed())
        };
        let requests: Vec<_> = (0..count).map(|_| scope.spawn(request)).collect();
        let responses = requests.into_iter().map(|it| it.join().unwrap());
        let (responses, waits): (Vec<_>, Vec<_>) = responses.unzip();
        (responses, waits.into_iter().max().unwrap())
    })
}

/// The number of responses with this error.
fn errors(responses: &[Value], error: [&str; 2]) -> usize {
    let first = |response: &Value| {
        let first = &response["errors"][0];
        [first["message"].clone(), first["extensions"]["code"].clone()]
    };
    responses.iter().filter(|it| first(it) == error).count()
}

/// Locks the transfers until the session is dropped.
fn lock_transfers() -> postgres::Client {
    let mut session = transaction_database();
    session.batch_execute("BEGIN; LOCK TABLE transfer").unwrap();
    session
}

/// A transfer to a new account succeeds.
fn recovers(stack: &Stack, mut endpoint: Endpoint) {
    let _handler = Handler::start(stack);
    assert!(endpoint.is_alive());
    let account = "mutation($u: String!) {
        get_account(username: $u, password: \"correct horse\") { iban } }";
    let user = json!({ "u": support::name() });
    let iban = until("an account is opened", PATIENCE, || {
        let response = endpoint.ask(account, &user);
        response["data"]["get_account"]["iban"].as_str().map(str::to_owned)
    });
    let transfer = deposit(&iban, 100, "again");
    until("money moves", PATIENCE, || {
        let response = endpoint.ask(TRANSFER, &transfer);
        (response["data"]["money_transfer"]["success"] == true).then_some(())
    });
    endpoint.stop();
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn locked_table_delays_its_clients_only() {
    // More than the connections can serve within 30 s.
    const CLIENTS: usize = 32;
    let stack = Stack::shared();
    let endpoint = Endpoint::start(&stack);
    let lock = lock_transfers();
    let (responses, longest) = transfers(&endpoint, CLIENTS);
    assert!(longest < THREAD_WAIT + ANSWER_MAX, "{longest:?}");
    let (busy, unavailable) = (errors(&responses, BUSY), errors(&responses, UNAVAILABLE));
    assert_eq!(busy + unavailable, CLIENTS, "{responses:?}");
    assert!(busy > 0 && unavailable > 0, "{busy} busy, {unavailable} unavailable");
    drop(lock);
    recovers(&stack, endpoint);
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn statements_of_an_operation_share_its_time() {
    let stack = Stack::shared();
    let endpoint = Endpoint::start(&stack);
    let lock = lock_transfers();
    let field = |n| format!("f{n}: transfer_by_uuid(uuid: \"{}\") {{ success }} ", Uuid::new_v4());
    let query = format!("{{ {} }}", (0..20).map(field).collect::<String>());
    let started = Instant::now();
    let response = endpoint.ask(&query, &json!({}));
    let waited = started.elapsed();
    assert!(waited < ANSWER_MAX, "{waited:?}");
    let codes = response["errors"].as_array().unwrap().iter();
    let codes: Vec<_> = codes.map(|it| it["extensions"]["code"].as_str().unwrap()).collect();
    let (executed, refused) = codes.split_at(2);
    assert_eq!(executed, ["UNAVAILABLE"; 2], "{response}");
    assert_eq!(refused, ["BUSY"; 18], "{response}");
    drop(lock);
    recovers(&stack, endpoint);
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn silent_database_delays_no_answer() {
    let (stack, proxy) = (Stack::shared(), DatabaseProxy::start());
    let endpoint = Endpoint::start_with(&stack, &[("DATABASE_URL", proxy.url())]);
    proxy.hold();
    // As many as one client has threads, so no request waits for a thread.
    let (responses, longest) = transfers(&endpoint, 18);
    assert!(longest < ANSWER_MAX, "{longest:?}");
    let (busy, unavailable) = (errors(&responses, BUSY), errors(&responses, UNAVAILABLE));
    assert_eq!((busy, unavailable), (14, 4), "{responses:?}");
    proxy.release();
    recovers(&stack, endpoint);
}

/// The endpoint gives up its connections instead of its process.
#[test]
#[ignore = "needs the stack: make test-integration"]
fn silent_network_does_not_end_the_endpoint() {
    // A batch may be under way, which has 30 s. Without one the endpoint notices within 10 s.
    const NOTICED: Duration = Duration::from_secs(30 + 5);
    const SILENCE: Duration = Duration::from_secs(40);
    let (stack, proxy) = (Stack::shared(), DatabaseProxy::start());
    let endpoint = Endpoint::start_with(&stack, &[("DATABASE_URL", proxy.url())]);
    proxy.hold();
    let started = Instant::now();
    let (responses, _) = transfers(&endpoint, 4);
    assert_eq!(errors(&responses, UNAVAILABLE), 4, "{responses:?}");
    until("the endpoint reports that it is not ready", SILENCE, || {
        (!endpoint.is_ready()).then_some(())
    });
    let noticed = started.elapsed();
    assert!(noticed < NOTICED, "{noticed:?}");
    while started.elapsed() < SILENCE {
        thread::sleep(Duration::from_millis(100));
        assert!(!endpoint.is_ready(), "{:?}", started.elapsed());
    }
    proxy.release();
    until("the endpoint is ready", PATIENCE, || endpoint.is_ready().then_some(()));
    recovers(&stack, endpoint);
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn full_producer_queue_delays_no_answer() {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let stack = Stack::shared();
    // In this mode the queue has a few records only.
    let env = [("PRODUCER_MODE", "single"), ("ANSWER_TIMEOUT_MS", "1000")];
    let endpoint = Endpoint::start_with(&stack, &env);
    let kafka = stack.stop("kafka-1", "TERM");
    let (responses, longest) = transfers(&endpoint, 20);
    assert!(longest < 3 * TIMEOUT, "{longest:?}");
    for response in &responses {
        let transfer = &response["data"]["money_transfer"];
        assert_eq!(transfer["success"], Value::Null, "{response}");
        let reason = "the bank has not answered yet, ask transfer_by_uuid later";
        assert_eq!(transfer["reason"], reason, "{response}");
    }
    kafka.end();
    recovers(&stack, endpoint);
}
