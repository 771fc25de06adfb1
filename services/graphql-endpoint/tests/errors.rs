//! Tests of the codes of errors and refusals, over each transport.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;

use bank_tests::handler::Handler;
use bank_tests::stack::Stack;
use serde_json::{Value, json};
use std::thread;
use support::proxy::DatabaseProxy;
use support::{Endpoint, deposit, events, last_event, transaction_database};
use tungstenite::Message;
use uuid::Uuid;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Http,
    Events,
    Websocket,
}

const TRANSPORTS: [Transport; 3] = [Transport::Http, Transport::Events, Transport::Websocket];

/// The code of the first error in the response to an operation.
fn code(
    endpoint: &Endpoint,
    transport: Transport,
    query: &str,
    variables: &Value,
    token: Option<&str>,
) -> String {
    let errors = match transport {
        Transport::Http => endpoint.ask_as(query, variables, token)["errors"].take(),
        Transport::Events => {
            let body = json!({ "query": query, "variables": variables });
            last_event(&events(endpoint, &body, token))["errors"].take()
        }
        Transport::Websocket => {
            let mut socket = endpoint.websocket_as(token);
            let payload = json!({ "query": query, "variables": variables });
            let message = json!({ "type": "subscribe", "id": "1", "payload": payload });
            socket.send(Message::text(message.to_string())).unwrap();
            let mut received: Value =
                serde_json::from_str(socket.read().unwrap().to_text().unwrap()).unwrap();
            // The payload of a message of type "error" is an array of errors.
            let mut payload = received["payload"].take();
            if payload.is_array() { payload } else { payload["errors"].take() }
        }
    };
    let code = errors[0]["extensions"]["code"].as_str();
    code.unwrap_or_else(|| panic!("{transport:?}, {query:.100}: {errors}")).to_owned()
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn errors_have_codes_over_each_transport() {
    let stack = Stack::shared();
    let _handler = Handler::start(&stack);
    let employee = "employee-0123456789";
    let settings = [("PUBLIC_LEDGER", "false"), ("EMPLOYEE_TOKEN", employee)];
    let endpoint = Endpoint::start_with(&stack, &settings);
    let (_, token) = endpoint.account();
    let (employee, own, none) = (Some(employee), Some(token.as_str()), json!({}));
    let list = r#"{ transactions_by_iban(iban: "a", max_items: 1) { id } }"#;
    let max = |ty: &str| {
        format!(r#"query($m: {ty}) {{ transactions_by_iban(iban: "a", max_items: $m) {{ id }} }}"#)
    };
    let lists = "{ a: all_last_transactions { id } b: all_last_transactions { id }
        c: all_last_transactions { id } }";
    for (query, variables, token, expected) in [
        ("{", &none, None, "GRAPHQL_PARSE_FAILED"),
        ("{ nothing }", &none, None, "GRAPHQL_VALIDATION_FAILED"),
        (
            "query a { __typename } query b { __typename }",
            &none,
            None,
            "OPERATION_RESOLUTION_FAILURE",
        ),
        (&max("Int!"), &json!({ "m": "x" }), employee, "BAD_USER_INPUT"),
        (&max("Int!"), &json!({ "m": 0 }), employee, "BAD_USER_INPUT"),
        // A text that PostgreSQL cannot compare.
        ("{ account(iban: \"NL\\u0000\") { iban } }", &none, employee, "BAD_USER_INPUT"),
        // An error that juniper makes during the execution.
        (&max("Int = 5"), &json!({ "m": null }), employee, "BAD_USER_INPUT"),
        (list, &none, None, "UNAUTHENTICATED"),
        (list, &none, own, "FORBIDDEN"),
        (lists, &none, employee, "TOO_COSTLY"),
        (&"{ __typename ".repeat(30), &none, None, "TOO_COSTLY"),
    ] {
        for transport in TRANSPORTS {
            let code = code(&endpoint, transport, query, variables, token);
            assert_eq!(code, expected, "{transport:?}, {query:.100}");
        }
    }
    let stream = r#"subscription { stream_transactions(iban: "a") { id } }"#;
    for (token, expected) in [(None, "UNAUTHENTICATED"), (own, "FORBIDDEN")] {
        for transport in [Transport::Events, Transport::Websocket] {
            assert_eq!(code(&endpoint, transport, stream, &none, token), expected, "{transport:?}");
        }
    }
    for unknown in ["", "00000000000000000001"] {
        let code = code(&endpoint, Transport::Http, list, &none, Some(unknown));
        assert_eq!(code, "UNAUTHENTICATED", "{unknown}");
    }
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn silent_database_has_codes_over_each_transport() {
    // One more than the connections of the endpoint: the others wait for one and get "busy".
    const REQUESTS: usize = 5;
    let (stack, proxy) = (Stack::shared(), DatabaseProxy::start());
    let endpoint = Endpoint::start_with(&stack, &[("DATABASE_URL", proxy.url())]);
    let transfer = "mutation($uuid: String!, $token: String!, $amount: Int!,
            $from: String!, $to: String!, $descr: String!) {
        money_transfer(uuid: $uuid, token: $token, amount: $amount,
            from: $from, to: $to, descr: $descr) { success } }";
    proxy.hold();
    let codes: Vec<(Transport, String)> = thread::scope(|scope| {
        let request = |transport| {
            let variables = deposit(&bank_tests::nobody(), 1, "late");
            (transport, code(&endpoint, transport, transfer, &variables, None))
        };
        let requests: Vec<_> = TRANSPORTS
            .iter()
            .flat_map(|transport| [*transport; REQUESTS])
            .map(|transport| scope.spawn(move || request(transport)))
            .collect();
        requests.into_iter().map(|it| it.join().unwrap()).collect()
    });
    proxy.release();
    let busy = codes.iter().filter(|(_, code)| code == "BUSY");
    for transport in TRANSPORTS {
        assert!(busy.clone().any(|(it, _)| *it == transport), "{transport:?}: {codes:?}");
    }
    let unavailable = codes.iter().filter(|(_, code)| code == "UNAVAILABLE").count();
    assert_eq!((busy.count(), unavailable), (3 * REQUESTS - 4, 4), "{codes:?}");
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn ended_event_stream_has_a_code() {
    let (stack, proxy) = (Stack::shared(), DatabaseProxy::start());
    let endpoint = Endpoint::start_with(&stack, &[("DATABASE_URL", proxy.url())]);
    let body = json!({ "query": "subscription { stream_transactions { id } }" });
    let cause: [(&dyn Fn(), &str); 2] = [
        (&|| proxy.close_listener(), "INTERRUPTED"),
        (&|| endpoint.signal("TERM"), "SHUTTING_DOWN"),
    ];
    for (end, expected) in cause {
        let last = thread::scope(|scope| {
            let events = scope.spawn(|| events(&endpoint, &body, None));
            endpoint.wait_for_subscribers(1);
            end();
            last_event(&events.join().unwrap())
        });
        assert_eq!(last["errors"][0]["extensions"]["code"], expected, "{last}");
    }
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn stored_reason_keeps_its_code() {
    let stack = Stack::shared();
    let endpoint = Endpoint::start(&stack);
    let mut database = transaction_database();
    // The second text is one of a command-handler with other rules.
    for (text, code) in [("amount too large", "AMOUNT_TOO_LARGE"), ("daily limit reached", "OTHER")]
    {
        let uuid = Uuid::new_v4();
        let sql = "INSERT INTO transfer (uuid, content, from_party, success, reason)
                   VALUES ($1, sha256(''), 'cash', false, $2)";
        database.execute(sql, &[&uuid, &text]).unwrap();
        let find = "query($uuid: String!) {
            transfer_by_uuid(uuid: $uuid) { success reason reason_code } }";
        let found = endpoint.data(find, &json!({ "uuid": uuid.to_string() }));
        let expected = json!({ "success": false, "reason": text, "reason_code": code });
        assert_eq!(found["transfer_by_uuid"], expected);
    }
}
