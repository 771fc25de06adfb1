//! Tests of logins, of their limits, and of what is logged about clients.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;

use bank::topology::CONFIRM_MONEY_TRANSFER;
use bank_tests::handler::Handler;
use bank_tests::stack::{PATIENCE, Stack};
use bank_tests::wait::until;
use serde_json::{Value, json};
use std::thread;
use support::{Endpoint, deposit, name};
use uuid::Uuid;

const PASSWORD: &str = "correct horse";

/// The number of logins with this result.
fn logins(endpoint: &Endpoint, kind: &str) -> u32 {
    endpoint.metric(&format!("graphql_logins_total{{kind=\"{kind}\"}}"))
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn logins_are_counted_and_logged_without_secrets() {
    let stack = Stack::shared();
    let _handler = Handler::start(&stack);
    let endpoint = Endpoint::start(&stack);
    let user = name();
    let account = endpoint.log_in(&user, PASSWORD);
    assert_eq!(endpoint.log_in(&user, PASSWORD), account);
    assert_eq!(endpoint.log_in(&user, "wrong password")["reason"], "incorrect password");
    assert!(endpoint.log_in("short", PASSWORD)["reason"].is_string());
    for kind in ["registered", "succeeded", "failed", "refused"] {
        assert_eq!(logins(&endpoint, kind), 1, "{kind}");
    }
    let (iban, token) = (account["iban"].as_str().unwrap(), account["token"].as_str().unwrap());
    let payment = json!({
        "uuid": Uuid::new_v4().to_string(), "token": token, "amount": 5, "from": iban,
        "to": "shop", "descr": "a payment",
    });
    assert_eq!(endpoint.transfer(&payment)["success"], true);

    let log = until("the transfer is logged", PATIENCE, || {
        Some(endpoint.log()).filter(|log| log.contains("msg=transfer result=succeeded "))
    });
    let address = "address=127.0.0.1";
    let lines = |start: &str| -> Vec<&str> {
        log.lines().filter(|line| line.contains(start) && line.contains(address)).collect()
    };
    for (result, fields) in [
        ("registered", [user.as_str(), iban]),
        ("succeeded", [user.as_str(), iban]),
        ("failed", [user.as_str(), "incorrect password"]),
        ("refused", ["8 to 128 characters", ""]),
    ] {
        let lines = lines(&format!("msg=login result={result} "));
        assert_eq!(lines.len(), 1, "{result}: {log}");
        assert!(fields.iter().all(|field| lines[0].contains(field)), "{}", lines[0]);
    }
    let transfers = lines("msg=transfer result=succeeded ");
    assert_eq!(transfers.len(), 1, "{log}");
    let uuid = payment["uuid"].as_str().unwrap();
    assert!(transfers[0].contains(uuid) && transfers[0].contains(iban), "{}", transfers[0]);
    for secret in [token, PASSWORD, "wrong password", "short"] {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn new_accounts_are_limited_per_address() {
    let stack = Stack::shared();
    let _handler = Handler::start(&stack);
    let endpoint = Endpoint::start_with(&stack, &[("REGISTRATIONS_PER_HOUR", "2")]);
    let user = name();
    let account = endpoint.log_in(&user, PASSWORD);
    assert!(account["iban"].is_string() && endpoint.log_in(&name(), PASSWORD)["iban"].is_string());
    let reason = "too many new accounts from this address, try again in an hour";
    let refused = endpoint.log_in(&name(), PASSWORD);
    assert_eq!([&refused["reason"], &refused["reason_code"]], [reason, "TOO_MANY_ACCOUNTS"]);
    assert_eq!(endpoint.log_in(&user, PASSWORD), account, "known users can log in");
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn closed_registration_refuses_new_user_names() {
    let stack = Stack::shared();
    let _handler = Handler::start(&stack);
    let (open, user) = (Endpoint::start(&stack), name());
    let account = open.log_in(&user, PASSWORD);
    let closed = Endpoint::start_with(&stack, &[("REGISTRATION", "false")]);
    assert_eq!(closed.log_in(&user, PASSWORD), account);
    // The responses do not show whether a user name exists.
    let unknown = name();
    for _ in 0..10 {
        let responses = [&user, &unknown].map(|user| closed.log_in(user, "wrong password"));
        assert_eq!(responses[0]["reason"], "unknown user name or incorrect password");
        assert_eq!(responses[0]["reason_code"], "CREDENTIALS_INCORRECT");
        assert_eq!(responses[0], responses[1]);
    }
    assert!(open.log_in(&unknown, PASSWORD)["iban"].is_string(), "the name was not stored");
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn concurrent_logins_of_an_address_are_limited() {
    const CLIENTS: usize = 32;
    let stack = Stack::shared();
    let _handler = Handler::start(&stack);
    let endpoint = Endpoint::start(&stack);
    let responses: Vec<Value> = thread::scope(|scope| {
        let clients: Vec<_> =
            (0..CLIENTS).map(|_| scope.spawn(|| endpoint.log_in(&name(), PASSWORD))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let busy = "too many log in now, try again";
    let is_busy = |it: &Value| it["reason"] == busy && it["reason_code"] == "BUSY";
    let refused = responses.iter().filter(|it| is_busy(it)).count();
    let opened = responses.iter().filter(|it| it["iban"].is_string()).count();
    assert!(refused > 0 && opened >= 8, "{responses:?}");
    assert_eq!(refused + opened, CLIENTS, "{responses:?}");
    assert_eq!(logins(&endpoint, "busy") as usize, refused);
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn wrong_token_produces_no_command() {
    let stack = Stack::shared();
    let _handler = Handler::start(&stack);
    let endpoint = Endpoint::start(&stack);
    let ((iban, token), (_, other_token)) = (endpoint.account(), endpoint.account());
    let mut kafka_client = stack.kafka_client();
    let mut commands = || -> i64 {
        let ranges = kafka_client.log_range(CONFIRM_MONEY_TRANSFER.name, PATIENCE).unwrap();
        ranges.iter().map(|(_, end)| end).sum()
    };
    let before = commands();
    let mut payment = deposit("shop", 5, "a payment");
    payment["from"] = iban.as_str().into();
    for wrong in ["", "00000000000000000000", &other_token] {
        payment["token"] = wrong.into();
        let result = endpoint.transfer(&payment);
        assert_eq!(result["success"], false);
        assert_eq!([&result["reason"], &result["reason_code"]], ["invalid token", "TOKEN_INVALID"]);
    }
    assert_eq!(commands(), before, "no command was produced");
    // The uuid was not stored either.
    payment["token"] = token.into();
    assert_eq!(endpoint.transfer(&payment)["success"], true);
    // The bank decides about accounts that were opened elsewhere.
    payment["uuid"] = Uuid::new_v4().to_string().into();
    payment["from"] = bank_tests::nobody().into();
    payment["to"] = iban.into();
    let refused = endpoint.transfer(&payment);
    assert_eq!(refused["reason"], "from is not known at this bank");
    assert_eq!(refused["reason_code"], "FROM_UNKNOWN");
}
