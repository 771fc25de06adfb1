//! Tests of the tokens of accounts and of employees.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;

use bank_tests::handler::Handler;
use bank_tests::stack::{PATIENCE, Stack, binary};
use bank_tests::wait::until;
use serde_json::{Value, json};
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use support::proxy::DatabaseProxy;
use support::{Endpoint, deposit, events, last_event, name, read, subscribe};
use tungstenite::{Message, WebSocket};
use uuid::Uuid;

const EMPLOYEE: &str = "employee-0123456789";
const PRIVATE: [(&str, &str); 2] = [("PUBLIC_LEDGER", "false"), ("EMPLOYEE_TOKEN", EMPLOYEE)];
const PASSWORD: &str = "correct horse";

/// The result of `rotate_token`.
fn rotate(endpoint: &Endpoint, token: &str) -> Value {
    let query = "mutation($token: String!) {
        rotate_token(token: $token) { iban token reason reason_code } }";
    endpoint.data(query, &json!({ "token": token }))["rotate_token"].take()
}

/// Replaces the token of the account. Returns the new one.
fn rotated(endpoint: &Endpoint, iban: &str, token: &str) -> String {
    let account = rotate(endpoint, token);
    assert_eq!(account["iban"], iban, "{account}");
    account["token"].as_str().unwrap().to_owned()
}

fn refused() -> Value {
    let (reason, reason_code) = ("invalid token", "TOKEN_INVALID");
    json!({ "iban": null, "token": null, "reason": reason, "reason_code": reason_code })
}

fn payment(iban: &str, token: &str) -> Value {
    json!({
        "uuid": Uuid::new_v4().to_string(), "token": token, "amount": 5, "from": iban,
        "to": "shop", "descr": "a payment",
    })
}

/// The code and the reason of the close frame. No transaction comes before it.
fn close_frame(mut socket: WebSocket<TcpStream>) -> (u16, String) {
    match read(&mut socket) {
        Message::Close(Some(frame)) => (frame.code.into(), frame.reason.to_string()),
        other => panic!("{other}"),
    }
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn rotation_ends_streams_of_all_endpoints() {
    let stack = Stack::shared();
    let _handler = Handler::start(&stack);
    let [first, second] = [(); 2].map(|()| Endpoint::start_with(&stack, &PRIVATE));
    let ((iban, old), (other, others)) = (first.account(), first.account());
    let body = json!({ "query": "subscription { stream_transactions { descr } }" });
    let subscribed = |endpoint: &Endpoint, iban: &str, token: &str| {
        let mut socket = endpoint.websocket_as(Some(token));
        subscribe(&mut socket, "1", iban);
        socket
    };
    // Those of the employee and of the other account stay open.
    let remaining = [&first, &second].map(|endpoint| {
        [subscribed(endpoint, &iban, EMPLOYEE), subscribed(endpoint, &other, &others)]
    });
    let new = thread::scope(|scope| {
        let (body, old) = (&body, old.as_str());
        let streams = [&first, &second]
            .map(|endpoint| scope.spawn(move || events(endpoint, body, Some(old))));
        let sockets = [&first, &second]
            .map(|endpoint| [endpoint.websocket_as(Some(old)), subscribed(endpoint, &iban, old)]);
        first.wait_for_subscribers(4);
        second.wait_for_subscribers(4);
        let new = rotated(&first, &iban, old);
        let text = "the token was replaced, log in again";
        for socket in sockets.into_iter().flatten() {
            assert_eq!(close_frame(socket), (4403, text.to_owned()));
        }
        for stream in streams {
            let last = last_event(&stream.join().unwrap());
            let error = &last["errors"][0];
            assert_eq!(error["extensions"]["code"], "UNAUTHENTICATED", "{last}");
            assert_eq!(error["message"], text);
        }
        new
    });
    let opened_later = [&first, &second].map(|endpoint| [subscribed(endpoint, &iban, &new)]);
    first.wait_for_subscribers(3);
    second.wait_for_subscribers(3);
    assert_eq!(rotate(&second, &old), refused());
    for iban in [&iban, &other] {
        assert_eq!(first.transfer(&deposit(iban, 100, "after"))["success"], true);
    }
    let open = remaining.into_iter().flatten().chain(opened_later.into_iter().flatten());
    for mut socket in open {
        let message = read(&mut socket);
        let message: Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
        let transaction = &message["payload"]["data"]["stream_transactions"];
        assert_eq!(transaction["descr"], "after", "{message}");
    }
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn replaced_token_neither_reads_nor_pays() {
    let stack = Stack::shared();
    let _handler = Handler::start(&stack);
    let endpoint = Endpoint::start_with(&stack, &PRIVATE);
    let user = name();
    let account = endpoint.log_in(&user, PASSWORD);
    let (iban, old) = (account["iban"].as_str().unwrap(), account["token"].as_str().unwrap());
    let pay = |payment: &Value, token: &str| {
        let mut payment = payment.clone();
        payment["token"] = token.into();
        let result = endpoint.transfer(&payment);
        (result["success"].clone(), result["reason_code"].clone())
    };
    let (moved, invalid) = ((true.into(), Value::Null), (false.into(), "TOKEN_INVALID".into()));
    let first = payment(iban, old);
    assert_eq!(pay(&first, old), moved);

    let new = rotated(&endpoint, iban, old);
    assert!(new != old && new.len() == 20 && new.bytes().all(|digit| digit.is_ascii_digit()));
    assert_eq!(rotate(&endpoint, old), refused());
    let logged_in = endpoint.log_in(&user, PASSWORD);
    assert_eq!([&logged_in["iban"], &logged_in["token"]], [iban, new.as_str()]);
    // A repeated uuid has the same result, but not for the old token.
    assert_eq!((pay(&first, &new), pay(&first, old)), (moved.clone(), invalid.clone()));
    let mut other_amount = first.clone();
    other_amount["amount"] = 6.into();
    assert_eq!(pay(&other_amount, &new), (false.into(), "UUID_REUSED".into()));
    let second = payment(iban, old);
    assert_eq!((pay(&second, old), pay(&second, &new)), (invalid.clone(), moved.clone()));
    assert_eq!(endpoint.transfer(&payment(iban, old))["reason"], "invalid token");

    let query = format!("{{ account(iban: \"{iban}\") {{ iban }} }}");
    let shown = |token: &str| endpoint.ask_as(&query, &json!({}), Some(token));
    assert_eq!(shown(&new)["data"]["account"]["iban"], iban);
    assert_eq!(shown(old)["errors"][0]["extensions"]["code"], "UNAUTHENTICATED");
    let uuid = &first["uuid"];
    let query = format!("{{ transfer_by_uuid(uuid: {uuid}) {{ success reason_code }} }}");
    let found = |token: &str| {
        let answer = endpoint.ask_as(&query, &json!({}), Some(token));
        answer["data"]["transfer_by_uuid"].clone()
    };
    assert_eq!(found(&new), json!({ "success": true, "reason_code": null }));
    assert_eq!(found(old), json!({ "success": null, "reason_code": "UUID_UNKNOWN" }));
    let socket = endpoint.unanswered_websocket_as(Some(old));
    assert_eq!(close_frame(socket), (4403, "Forbidden".to_owned()));

    let newer = rotated(&endpoint, iban, &new);
    assert_eq!((pay(&first, &newer), pay(&first, &new)), (moved.clone(), invalid));
    assert_eq!(pay(&payment(iban, ""), &newer), moved);
    let rotations =
        |kind| endpoint.metric(&format!("graphql_token_rotations_total{{kind=\"{kind}\"}}"));
    assert_eq!((rotations("succeeded"), rotations("failed")), (2, 1));
    let log = until("the last transfer is logged", PATIENCE, || {
        let log = endpoint.log();
        (log.matches("msg=transfer result=succeeded").count() == 5).then_some(log)
    });
    assert!(log.contains("msg=\"token rotation\" result=succeeded"), "{log}");
    assert!([old, &new, &newer].iter().all(|secret| !log.contains(*secret)), "{log}");
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn unanswered_transfer_ends_after_a_rotation() {
    let stack = Stack::shared();
    let handler = Handler::start(&stack);
    let endpoint = Endpoint::start_with(&stack, &[("ANSWER_TIMEOUT_MS", "2000")]);
    let (iban, old) = endpoint.account();
    drop(handler);
    let mut payment = payment(&iban, &old);
    assert_eq!(endpoint.transfer(&payment)["reason_code"], "NO_ANSWER");
    payment["token"] = rotated(&endpoint, &iban, &old).into();
    let _handler = Handler::start(&stack);
    until("the transfer is decided", PATIENCE, || {
        (endpoint.transfer(&payment)["success"] == true).then_some(())
    });
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn concurrent_rotations_have_one_winner() {
    let stack = Stack::shared();
    let _handler = Handler::start(&stack);
    let endpoints = [(); 2].map(|()| Endpoint::start(&stack));
    let user = name();
    let old = endpoints[0].log_in(&user, PASSWORD)["token"].as_str().unwrap().to_owned();
    let results: Vec<Value> = thread::scope(|scope| {
        let rotate = |number: usize| rotate(&endpoints[number % 2], &old);
        let clients: Vec<_> = (0..8).map(|number| scope.spawn(move || rotate(number))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let (won, lost): (Vec<_>, Vec<_>) = results.iter().partition(|it| it["token"].is_string());
    assert_eq!((won.len(), lost.len()), (1, 7), "{results:?}");
    assert!(lost.iter().all(|it| **it == refused()), "{lost:?}");
    assert_eq!(endpoints[1].log_in(&user, PASSWORD)["token"], won[0]["token"]);
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn lost_notifications_end_websockets_of_tokens() {
    let (stack, proxy) = (Stack::shared(), DatabaseProxy::start());
    let _handler = Handler::start(&stack);
    let settings = [PRIVATE[0], PRIVATE[1], ("DATABASE_URL", proxy.url())];
    let endpoint = Endpoint::start_with(&stack, &settings);
    let (_, token) = endpoint.account();
    let idle = endpoint.websocket_as(Some(&token));
    proxy.close_listener();
    assert_eq!(close_frame(idle).0, 1012, "a rotation may have been missed");
}

/// The output of the command in docs/security.md that makes a token: the token and its entry.
fn made_token() -> (String, String) {
    let docs = include_str!("../../../docs/security.md");
    let mut blocks = docs.split("\n\n");
    let command = blocks.find(|block| block.starts_with("    token=")).unwrap();
    let done = Command::new("sh").args(["-c", command]).output().unwrap();
    let output = String::from_utf8(done.stdout).unwrap();
    let line = output.strip_prefix("token ").and_then(|it| it.trim_end().split_once(", entry "));
    let (token, entry) = line.unwrap_or_else(|| panic!("{output}"));
    (token.to_owned(), entry.to_owned())
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn employees_read_and_are_counted_by_name() {
    let stack = Stack::shared();
    let ((anna, entry), (ben, of_ben)) = (made_token(), made_token());
    let entries = format!("{entry},{}", of_ben.replace("anna=", "ben="));
    let settings = [PRIVATE[0], PRIVATE[1], ("EMPLOYEE_TOKENS", entries.as_str())];
    let endpoint = Endpoint::start_with(&stack, &settings);
    let is_read = |token: &str| {
        let answer = endpoint.ask_as("{ accounts { edges { cursor } } }", &json!({}), Some(token));
        answer["data"]["accounts"].is_object()
    };
    assert!(is_read(&anna) && is_read(&anna) && is_read(&ben) && is_read(EMPLOYEE));
    let digest = entry.strip_prefix("anna=").unwrap();
    assert!(!is_read(&anna[1..]) && !is_read(digest));
    drop(endpoint.websocket_as(Some(&ben)));
    for (name, count) in [("anna", 2), ("ben", 2), ("EMPLOYEE_TOKEN", 1)] {
        let metric = format!("graphql_employee_requests_total{{name=\"{name}\"}}");
        assert_eq!(endpoint.metric(&metric), count, "{name}");
    }
    let log = endpoint.log();
    assert!([&anna, &ben, EMPLOYEE, digest].iter().all(|secret| !log.contains(secret)), "{log}");
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn malformed_employee_is_refused_at_startup() {
    let done = Command::new(binary("graphql-endpoint"))
        .env("KAFKA_BROKERS", "127.0.0.1:1")
        .env("SCHEMA_REGISTRY_URL", "http://127.0.0.1:1")
        .env("DATABASE_URL", "postgres://bank@127.0.0.1:1/transactiondb")
        .env("EMPLOYEE_TOKENS", "anna=token-of-anna")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(2), "{errors}");
    assert!(errors.contains("EMPLOYEE_TOKENS") && errors.contains("in entry 1"), "{errors}");
    assert!(!errors.contains("token-of-anna"), "{errors}");
}
