//! Tests of the endpoint with a real Kafka, registry, PostgreSQL and command-handler.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;

use avro::Record;
use bank::iban::{COMPANY_IBAN, COMPANY_TOKEN};
use bank::money::Cents;
use bank::records::{BalanceChanged, ConfirmMoneyTransfer};
use bank::topology::{CONFIRM_MONEY_TRANSFER, DEAD_LETTER};
use bank_tests::bank_client::BankClient;
use bank_tests::handler::Handler;
use bank_tests::id_of_days_ago;
use bank_tests::stack::{PATIENCE, Post, Stack, post};
use bank_tests::wait::until;
use messaging::{ClientChoice, KafkaConfig};
use messaging::{ErrorKind, Position};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};
use support::{Endpoint, change, deposit, name, opened, record, transaction_database};
use uuid::Uuid;

#[test]
#[ignore = "needs the stack: make test-integration"]
fn account_is_opened_and_money_moves() {
    let stack = Stack::shared();
    let _handler = Handler::start(&stack);
    let endpoint = Endpoint::start(&stack);
    let ((iban, token), (other, _)) = (endpoint.account(), endpoint.account());
    endpoint.deposit(&iban, 123_456, "first");
    let payment = json!({
        "uuid": Uuid::new_v4().to_string(), "token": token, "amount": 5000,
        "from": iban, "to": other, "descr": "rent",
    });
    let moved = json!({
        "uuid": payment["uuid"], "success": true, "reason": null, "reason_code": null,
    });
    assert_eq!(endpoint.transfer(&payment), moved);
    until("both sides are stored", PATIENCE, || {
        (endpoint.transactions(&iban).len() == 2 && endpoint.transactions(&other).len() == 1)
            .then_some(())
    });
    let all = endpoint.transactions(&iban);
    let shown =
        |field: &str| -> Vec<&str> { all.iter().map(|it| it[field].as_str().unwrap()).collect() };
    assert_eq!(shown("new_balance"), ["€1.184,56", "€1.234,56"]);
    assert_eq!(shown("changed_by"), ["-€50,00", "€1.234,56"]);
    assert_eq!(shown("direction"), ["DEBIT", "CREDIT"]);
    assert_eq!(shown("from_to"), [other.as_str(), "cash"]);
    assert_eq!(shown("descr"), ["rent", "first"]);

    let by_id = "query($id: Int!) { transaction_by_id(id: $id) { ref } }";
    let by_ref = "query($ref: ID!) { transaction_by_ref(ref: $ref) { id iban } }";
    assert_eq!(
        endpoint.data(by_id, &json!({ "id": all[0]["id"] }))["transaction_by_id"]["ref"],
        all[0]["ref"]
    );
    let found = endpoint.data(by_ref, &json!({ "ref": all[0]["ref"] }));
    assert_eq!(found["transaction_by_ref"], json!({ "id": all[0]["id"], "iban": iban }));
    for nothing in [json!({ "ref": "0" }), json!({ "ref": "x" })] {
        assert_eq!(endpoint.data(by_ref, &nothing)["transaction_by_ref"], Value::Null);
    }

    // The pages contain each account once, ordered by iban.
    let page = "query($after: String) {
        all_last_transactions(after: $after, max_items: 3) { iban descr } }";
    let (mut after, mut seen) = (Value::Null, Vec::new());
    loop {
        let data = endpoint.data(page, &json!({ "after": after }));
        let items = data["all_last_transactions"].as_array().unwrap().clone();
        let Some(last) = items.last() else { break };
        after = last["iban"].clone();
        seen.extend(items);
    }
    let ibans: Vec<&str> = seen.iter().map(|it| it["iban"].as_str().unwrap()).collect();
    assert!(ibans.is_sorted_by(|a, b| a < b) && ibans.contains(&iban.as_str()));
    let last = seen.iter().find(|it| it["iban"] == iban.as_str()).unwrap();
    assert_eq!(last["descr"], "rent");

    for (items, wrong) in [(0, true), (1, false), (1000, false), (1001, true), (-1, true)] {
        let query =
            format!("{{ transactions_by_iban(iban: \"{iban}\", max_items: {items}) {{ id }} }}");
        let answer = endpoint.ask(&query, &json!({}));
        let text = answer["errors"][0]["message"].as_str().unwrap_or_default();
        assert_eq!(text.contains("expected 1 to 1000"), wrong, "{answer}");
        let code = wrong.then_some("BAD_USER_INPUT");
        assert_eq!(answer["errors"][0]["extensions"]["code"].as_str(), code, "{answer}");
    }
    let took = endpoint.stop();
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn amount_has_two_forms() {
    let stack = Stack::shared();
    let _handler = Handler::start(&stack);
    let endpoint = Endpoint::start(&stack);
    let (iban, _) = endpoint.account();
    let uuid = Uuid::new_v4();
    let ask = |amounts: &str| {
        let query = format!(
            "mutation {{ money_transfer(uuid: \"{uuid}\", token: \"cash\", {amounts} \
             from: \"cash\", to: \"{iban}\", descr: \"d\") {{ success reason }} }}"
        );
        endpoint.ask(&query, &json!({}))
    };
    // Without exactly one of the two amounts nothing is stored under the uuid.
    for (amounts, error) in [("", "amount is missing"), ("amount: 5, amount_cents: 5,", "not both")]
    {
        let answer = ask(amounts);
        assert_eq!(answer["data"], json!({ "money_transfer": null }));
        assert!(answer["errors"][0]["message"].as_str().unwrap().contains(error), "{answer}");
    }
    // A repeated request may have the other form.
    for same in ["amount: 5,", "amount_cents: 5,", "amount_cents: \"5\", amount: null,"] {
        assert_eq!(ask(same)["data"]["money_transfer"]["success"], true, "{same}");
    }
    let other = ask("amount_cents: 3000000000,");
    assert_eq!(other["data"]["money_transfer"]["reason"], "uuid was used for another transfer");
    until("it is stored", PATIENCE, || (endpoint.transactions(&iban).len() == 1).then_some(()));
}

const PAGE: &str = "query($iban: String!, $first: Int, $after: String, $last: Int,
        $before: String, $direction: dtype, $from: DateTime, $until: DateTime) {
    transactions(iban: $iban, first: $first, after: $after, last: $last, before: $before,
        direction: $direction, from: $from, until: $until) {
    edges { cursor node { descr } }
    pageInfo { hasPreviousPage hasNextPage startCursor endCursor } } }";

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn connection_has_pages_in_both_directions() {
    let stack = Stack::shared();
    let endpoint = Endpoint::start(&stack);
    let iban = bank_tests::nobody();
    let changes: Vec<Post> = (1..=7).map(|n| record(&stack, &change(&iban, n))).collect();
    post(&mut *stack.kafka_client(), &changes);
    until("all are stored", PATIENCE, || (endpoint.transactions(&iban).len() == 7).then_some(()));
    let ask = |mut arguments: Value| {
        arguments["iban"] = iban.as_str().into();
        endpoint.ask(PAGE, &arguments)
    };
    let page = |arguments: Value| ask(arguments)["data"]["transactions"].take();
    // The numbers of the changes, and whether there are previous and next ones.
    let shown = |page: &Value| {
        let edges = page["edges"].as_array().unwrap().iter();
        let number = |edge: &Value| edge["node"]["descr"].as_str().unwrap().replace("change ", "");
        let info = &page["pageInfo"];
        let neighbours = (info["hasPreviousPage"].clone(), info["hasNextPage"].clone());
        (edges.map(number).collect::<Vec<_>>(), neighbours)
    };
    let expected = |numbers: &str, previous: bool, next: bool| {
        (words(numbers), (Value::from(previous), Value::from(next)))
    };
    let first = page(json!({ "first": 3 }));
    assert_eq!(shown(&first), expected("7 6 5", false, true));
    assert_eq!(first["pageInfo"]["startCursor"], first["edges"][0]["cursor"]);
    assert_eq!(first["pageInfo"]["endCursor"], first["edges"][2]["cursor"]);
    let second = page(json!({ "first": 3, "after": first["pageInfo"]["endCursor"] }));
    assert_eq!(shown(&second), expected("4 3 2", true, true));
    let third = page(json!({ "first": 3, "after": second["pageInfo"]["endCursor"] }));
    assert_eq!(shown(&third), expected("1", true, false));
    let back = page(json!({ "last": 3, "before": third["pageInfo"]["startCursor"] }));
    assert_eq!(shown(&back), expected("4 3 2", true, true));
    assert_eq!(shown(&page(json!({}))), expected("7 6 5 4 3 2 1", false, false));
    let credits = page(json!({ "direction": "CREDIT", "first": 2 }));
    assert_eq!(shown(&credits), expected("7 6", false, true));
    let debits = page(json!({ "direction": "DEBIT" }));
    assert_eq!(shown(&debits), expected("", false, false));
    assert_eq!(debits["pageInfo"]["endCursor"], Value::Null);
    // The first one is decided at 00:00:01 in UTC.
    let period = json!({ "from": "2026-11-30T00:00:03Z", "until": "2026-11-30T01:00:06+01:00" });
    assert_eq!(shown(&page(period.clone())), expected("5 4 3", false, false));
    let mut last = period;
    (last["last"], last["before"]) = (1.into(), first["pageInfo"]["endCursor"].clone());
    assert_eq!(shown(&page(last.clone())), expected("", false, true));
    last["before"] = second["pageInfo"]["endCursor"].clone();
    assert_eq!(shown(&page(last)), expected("3", true, true));
    for (arguments, error) in [
        (json!({ "first": 1, "last": 1 }), "either first or last"),
        (json!({ "first": 1001 }), "first=1001: expected 0 to 1000"),
        (json!({ "last": -1 }), "last=-1: expected 0 to 1000"),
        (json!({ "after": "1" }), "after is not a cursor"),
        (json!({ "before": "x-y" }), "before is not a cursor"),
    ] {
        let answer = ask(arguments);
        assert_eq!(answer["data"], json!({ "transactions": null }));
        assert!(answer["errors"][0]["message"].as_str().unwrap().contains(error), "{answer}");
    }
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn account_is_shown_before_its_first_use() {
    let stack = Stack::shared();
    let _handler = Handler::start(&stack);
    let endpoint = Endpoint::start(&stack);
    let (iban, _) = endpoint.account();
    let account = "query($iban: String!) { account(iban: $iban) { iban balance balance_cents
        overdraft_limit overdraft_limit_cents changes last_change { descr } } }";
    let shown = |iban: &str| endpoint.data(account, &json!({ "iban": iban }))["account"].take();
    let mut expected = json!({
        "iban": iban, "balance": "€0,00", "balance_cents": "0", "overdraft_limit": "-€500,00",
        "overdraft_limit_cents": "-50000", "changes": "0", "last_change": null,
    });
    assert_eq!(shown(&iban), expected);
    assert_eq!(shown(&bank_tests::nobody()), Value::Null);
    // An account that no client of this endpoint has opened.
    let mut client = BankClient::open(&stack);
    let other = client.open_accounts(1, 0).remove(0).iban;
    until("the account is known", PATIENCE, || (shown(&other) != Value::Null).then_some(()));
    assert_eq!(shown(&other)["changes"], "0");

    endpoint.deposit(&iban, 123_456, "first");
    (expected["balance"], expected["balance_cents"]) = ("€1.234,56".into(), "123456".into());
    (expected["changes"], expected["last_change"]) = ("1".into(), json!({ "descr": "first" }));
    assert_eq!(shown(&iban), expected);

    let (unused, _) = endpoint.account();
    // The common beginning of both ibans.
    let same = iban.bytes().zip(unused.bytes()).take_while(|(a, b)| a == b).count();
    let accounts = "query($prefix: String!, $after: String) {
        accounts(prefix: $prefix, first: 1000, after: $after) {
        edges { cursor node { iban balance_cents } } pageInfo { hasNextPage endCursor } } }";
    let (mut after, mut found) = (Value::Null, Vec::new());
    loop {
        let variables = json!({ "prefix": &iban[..same], "after": after });
        let page = endpoint.data(accounts, &variables)["accounts"].take();
        found.extend(page["edges"].as_array().unwrap().iter().map(|edge| edge["node"].clone()));
        after = page["pageInfo"]["endCursor"].clone();
        if page["pageInfo"]["hasNextPage"] == false {
            break;
        }
    }
    assert!(found.is_sorted_by_key(|account| account["iban"].to_string()));
    for (iban, cents) in [(iban, "123456"), (unused, "0")] {
        assert!(found.contains(&json!({ "iban": iban, "balance_cents": cents })), "{found:?}");
    }
}

/// A transaction of the database for each account would cost as much as one for a batch of
/// transfers.
#[test]
#[ignore = "needs the stack: make test-integration"]
fn opened_accounts_share_database_transactions() {
    /// No account waits longer than this for the others of its transaction.
    const PAUSE: Duration = Duration::from_millis(200);
    let stack = Stack::shared();
    let _endpoint = Endpoint::start(&stack);
    let ibans: Vec<String> = (0..50).map(|_| bank_tests::nobody()).collect();
    let (mut kafka, mut database) = (stack.kafka_client(), transaction_database());
    let started = Instant::now();
    for iban in &ibans {
        post(&mut *kafka, &[opened(&stack, iban)]);
    }
    let count = "SELECT count(*), count(DISTINCT xmin::text) FROM opened_account
                 WHERE iban = ANY($1)";
    let transactions = until("all accounts are stored", PATIENCE, || {
        let row = database.query_one(count, &[&ibans]).unwrap();
        (row.get::<_, i64>(0) == 50).then(|| row.get::<_, i64>(1))
    });
    let pauses = started.elapsed().as_millis() / PAUSE.as_millis();
    assert!(transactions as u128 <= pauses + 2, "{transactions} transactions, {pauses} pauses");
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn only_the_password_returns_the_account() {
    let stack = Stack::shared();
    let handler = Handler::start(&stack);
    let endpoint = Endpoint::start(&stack);
    let (user, password) = (name(), "correct horse");
    // Several first logins at the same time.
    let accounts: Vec<Value> = thread::scope(|scope| {
        let logins = [(); 4].map(|()| scope.spawn(|| endpoint.log_in(&user, password)));
        logins.into_iter().map(|login| login.join().unwrap()).collect()
    });
    let account = &accounts[0];
    assert!(account["iban"].is_string() && account["reason"].is_null(), "{account}");
    assert!(accounts.iter().all(|it| it == account), "{accounts:?}");

    let wrong = json!({
        "iban": null, "token": null, "reason": "incorrect password",
        "reason_code": "CREDENTIALS_INCORRECT",
    });
    assert_eq!(endpoint.log_in(&user, "correct hors"), wrong);
    drop(handler);
    drop(endpoint);
    // The login of a known user does not need the bank.
    let endpoint = Endpoint::start(&stack);
    assert_eq!(&endpoint.log_in(&user, password), account);
    for (user, password) in
        [("1234567", password), (user.as_str(), "1234567"), (&"x".repeat(129), password)]
    {
        let refused = endpoint.log_in(user, password);
        assert!(refused["reason"].as_str().unwrap().contains("8 to 128 characters"), "{refused}");
        assert_eq!(refused["reason_code"], "ARGUMENT_INVALID");
    }
    // Failed logins are delayed, also if they are concurrent, and so is the correct password.
    let guess = || {
        thread::scope(|scope| {
            let log_in = || endpoint.log_in(&user, "wrong password")["reason"].to_string();
            let guesses = [(); 8].map(|()| scope.spawn(log_in));
            guesses.map(|guess| guess.join().unwrap())
        })
    };
    let reasons = [guess(), guess()].concat();
    let delayed = reasons.iter().filter(|reason| reason.contains("wait a minute")).count();
    assert_eq!(delayed, 6, "{reasons:?}");
    let too_soon = "too many failed tries, wait a minute";
    until("the next guess is too soon", PATIENCE, || {
        (endpoint.log_in(&user, "wrong password")["reason"] == too_soon).then_some(())
    });
    let delayed = endpoint.log_in(&user, password);
    assert_eq!([&delayed["reason"], &delayed["reason_code"]], [too_soon, "TOO_MANY_FAILED_LOGINS"]);
    until("the wait is over", PATIENCE, || {
        (&endpoint.log_in(&user, password) == account).then_some(())
    });
    assert!(!endpoint.log().contains(password) && !endpoint.log().contains("wrong password"));
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn late_account_is_returned_by_a_retry() {
    let stack = Stack::shared();
    let endpoint = Endpoint::start_with(&stack, &[("ANSWER_TIMEOUT_MS", "300")]);
    let user = name();
    let late = endpoint.log_in(&user, "correct horse");
    assert_eq!(late["reason"], "the bank has not answered yet, try again");
    assert_eq!(late["reason_code"], "NO_ANSWER");
    let _handler = Handler::start(&stack);
    until("the account is open", PATIENCE, || {
        endpoint.log_in(&user, "correct horse")["iban"].is_string().then_some(())
    });
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn known_uuid_returns_the_same_result() {
    let stack = Stack::shared();
    let handler = Handler::start(&stack);
    let endpoint = Endpoint::start_with(&stack, &[("ANSWER_TIMEOUT_MS", "2000")]);
    let (iban, token) = endpoint.account();
    let made = deposit(&iban, 700, "once");
    let mut refused = deposit(&iban, 50_701, "never");
    (refused["from"], refused["to"], refused["token"]) =
        (iban.as_str().into(), "cash".into(), token.into());
    let first = [endpoint.transfer(&made), endpoint.transfer(&refused)];
    assert_eq!(
        (first[0]["success"].clone(), first[1]["success"].clone()),
        (true.into(), false.into())
    );
    assert_eq!(first[1]["reason"], "insufficient funds");
    assert_eq!(first[1]["reason_code"], "INSUFFICIENT_FUNDS");
    // The same uuid in upper case.
    let mut upper_case = made.clone();
    upper_case["uuid"] = made["uuid"].as_str().unwrap().to_uppercase().into();
    assert_eq!(endpoint.transfer(&upper_case)["success"], true);
    let mut other = made.clone();
    other["amount"] = 701.into();
    let reused = endpoint.transfer(&other);
    assert_eq!(reused["reason"], "uuid was used for another transfer");
    assert_eq!(reused["reason_code"], "UUID_REUSED");

    drop(handler);
    drop(endpoint);
    // After a restart the results are known without the bank.
    let endpoint = Endpoint::start_with(&stack, &[("ANSWER_TIMEOUT_MS", "300")]);
    assert_eq!([endpoint.transfer(&made), endpoint.transfer(&refused)], first);
    let find = "query($uuid: String!) {
        transfer_by_uuid(uuid: $uuid) { uuid success reason reason_code } }";
    let found = |endpoint: &Endpoint, uuid: &Value| {
        endpoint.data(find, &json!({ "uuid": uuid }))["transfer_by_uuid"].take()
    };
    assert_eq!([&made, &refused].map(|it| found(&endpoint, &it["uuid"])), first);
    let unknown = json!(Uuid::new_v4().to_string());
    let unknown = found(&endpoint, &unknown);
    assert_eq!(unknown["reason"], "uuid is not known");
    assert_eq!(unknown["reason_code"], "UUID_UNKNOWN");
    // While the bank is down the outcome is unknown. It can be queried later, also after a restart.
    let late = deposit(&iban, 900, "late");
    let unanswered = endpoint.transfer(&late);
    assert_eq!(unanswered["success"], Value::Null);
    assert_eq!(unanswered["reason"], "the bank has not answered yet, ask transfer_by_uuid later");
    assert_eq!(unanswered["reason_code"], "NO_ANSWER");
    drop(endpoint);
    let _handler = Handler::start(&stack);
    let endpoint = Endpoint::start(&stack);
    assert_eq!(found(&endpoint, &late["uuid"])["success"], true);
    assert_eq!(endpoint.transfer(&late)["success"], true);
    until("all is stored", PATIENCE, || (endpoint.transactions(&iban).len() == 2).then_some(()));
    let balances: Vec<Value> =
        endpoint.transactions(&iban).iter().map(|it| it["new_balance"].clone()).collect();
    assert_eq!(balances, ["€16,00", "€7,00"]);

    let mut nonsense = made;
    nonsense["uuid"] = "1".into();
    let refused = endpoint.transfer(&nonsense);
    let reason = refused["reason"].as_str().unwrap();
    assert!(reason.starts_with("uuid must be a UUID"), "{refused}");
    assert_eq!(refused["reason_code"], "UUID_INVALID");
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn stored_command_is_sent_with_the_current_id() {
    let stack = Stack::shared();
    let _handler = Handler::start(&stack);
    let endpoint = Endpoint::start(&stack);
    let (iban, _) = endpoint.account();
    // Stored before the registry was replaced: its id has another schema now.
    let uuid = Uuid::new_v4();
    let namespace = Uuid::from_u128(0x9d0f_7a53_1c5e_4d0c_8f2b_6a0d_5c1e_77b4);
    let mut value = stack.transfers.encode(&ConfirmMoneyTransfer {
        id: Uuid::new_v5(&namespace, uuid.as_bytes()),
        token: "cash".to_owned(),
        amount: Cents::new(500),
        from: "cash".to_owned(),
        to: iban,
        description: "before".to_owned(),
    });
    value[1..5].copy_from_slice(&stack.schema_ids["heartbeat"].to_be_bytes());
    let mut database = transaction_database();
    let sql = "INSERT INTO transfer (uuid, content, from_party, command)
               VALUES ($1, sha256(''), 'cash', $2)";
    database.execute(sql, &[&uuid, &value]).unwrap();

    let find = "query($uuid: String!) { transfer_by_uuid(uuid: $uuid) { success reason } }";
    let found = endpoint.data(find, &json!({ "uuid": uuid.to_string() }));
    assert_eq!(found["transfer_by_uuid"], json!({ "success": true, "reason": null }));
}

/// Balance in cents and sequence of the company account.
fn company(stack: &Stack) -> (i64, i64) {
    let sql = "SELECT balance, sequence FROM account WHERE iban = $1";
    let row = stack.database().query_one(sql, &[&COMPANY_IBAN]).unwrap();
    (row.get(0), row.get(1))
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn company_account_is_not_debited_by_clients() {
    let stack = Stack::shared();
    let _handler = Handler::start(&stack);
    let endpoint = Endpoint::start(&stack);
    let (iban, _) = endpoint.account();
    let mut kafka_client = stack.kafka_client();
    let mut commands = || kafka_client.log_range(CONFIRM_MONEY_TRANSFER.name, PATIENCE).unwrap();
    let before = (commands(), company(&stack));
    let theft = json!({
        "uuid": Uuid::new_v4().to_string(), "token": COMPANY_TOKEN, "amount": 100_000,
        "from": COMPANY_IBAN, "to": iban, "descr": "theft",
    });
    let reason = "from is not allowed: it is the company account";
    let refused = json!({
        "uuid": theft["uuid"], "success": false, "reason": reason,
        "reason_code": "FROM_NOT_ALLOWED",
    });
    assert_eq!(
        [endpoint.transfer(&theft), endpoint.transfer(&theft)],
        [(); 2].map(|()| refused.clone())
    );
    let find = "query($uuid: String!) { transfer_by_uuid(uuid: $uuid) { reason } }";
    let found = endpoint.data(find, &json!({ "uuid": theft["uuid"] }));
    assert_eq!(found["transfer_by_uuid"]["reason"], "uuid is not known");
    assert_eq!((commands(), company(&stack)), before);
    // The company still receives money. This transfer was sent after the refused one.
    assert_eq!(endpoint.transfer(&deposit(COMPANY_IBAN, 100, "paid"))["success"], true);
    let (balance, sequence) = before.1;
    assert_eq!(company(&stack), (balance + 100, sequence + 1));
    assert_eq!(endpoint.transactions(&iban), Vec::<Value>::new());
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn deposits_from_cash_can_be_switched_off() {
    let stack = Stack::shared();
    let _handler = Handler::start(&stack);
    let endpoint = Endpoint::start(&stack);
    let (iban, token) = endpoint.account();
    let made = deposit(&iban, 700, "before");
    let moved = endpoint.transfer(&made);
    assert_eq!(moved["success"], true);
    drop(endpoint);

    let endpoint = Endpoint::start_with(&stack, &[("CASH_DEPOSITS", "false")]);
    let reason = "deposits from cash are switched off";
    let late = deposit(&iban, 900, "after");
    let refused = json!({
        "uuid": late["uuid"], "success": false, "reason": reason,
        "reason_code": "CASH_DEPOSITS_OFF",
    });
    assert_eq!(endpoint.transfer(&late), refused);
    // The earlier deposit keeps its result, but only with the same content.
    assert_eq!(endpoint.transfer(&made), moved);
    let mut other = made.clone();
    other["amount"] = 701.into();
    assert_eq!(endpoint.transfer(&other)["reason"], reason);
    // Withdrawals are still possible.
    let mut withdrawal = deposit("cash", 200, "withdrawal");
    (withdrawal["from"], withdrawal["token"]) = (iban.as_str().into(), token.into());
    assert_eq!(endpoint.transfer(&withdrawal)["success"], true);
    until("both are stored", PATIENCE, || (endpoint.transactions(&iban).len() == 2).then_some(()));
    let all = endpoint.transactions(&iban);
    assert_eq!([&all[0]["new_balance"], &all[1]["new_balance"]], ["€5,00", "€7,00"]);
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn transfer_older_than_the_period_is_not_executed() {
    let stack = Stack::shared();
    let _handler = Handler::start(&stack);
    let endpoint = Endpoint::start(&stack);
    let (iban, _) = endpoint.account();
    let days_ago = |days: u64| {
        let mut transfer = deposit(&iban, 100, "of some days ago");
        transfer["uuid"] = id_of_days_ago(days).to_string().into();
        transfer
    };
    let (old, recent) = (days_ago(40), days_ago(29));
    for transfer in [&old, &recent] {
        assert_eq!(endpoint.transfer(transfer)["success"], true);
    }
    drop(endpoint);

    let endpoint = Endpoint::start_with(&stack, &[("RETAIN_DAYS", "30")]);
    // Until the stored result is deleted, it is returned.
    let refused = until("the result is deleted", PATIENCE, || {
        Some(endpoint.transfer(&old)).filter(|it| it["success"].is_null())
    });
    assert_eq!(refused["reason_code"], "UUID_TOO_OLD");
    assert_eq!(endpoint.transfer(&days_ago(40))["reason_code"], "UUID_TOO_OLD");
    assert_eq!(endpoint.transfer(&recent)["success"], true);
    assert_eq!(endpoint.transfer(&days_ago(29))["success"], true);
    until("three are stored", PATIENCE, || (endpoint.transactions(&iban).len() == 3).then_some(()));
    assert_eq!(endpoint.transactions(&iban)[0]["new_balance"], "€3,00");
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn duplicates_and_undecodable_records_are_not_stored() {
    let stack = Stack::shared();
    let mut kafka_client = stack.kafka_client();
    let iban = bank_tests::nobody();
    let dead_letters_from = kafka_client.log_range(DEAD_LETTER.name, PATIENCE).unwrap()[0].1;
    let twice = change(&iban, 1);
    let without_id = BalanceChanged { transfer_id: None, ..change(&iban, 0) };
    let mut posts = vec![
        record(&stack, &change(&iban, 2)),
        record(&stack, &twice),
        record(&stack, &twice),
        // Without transfer_id and sequence, as older programs write: each record is a transaction.
        record(&stack, &without_id),
        record(&stack, &without_id),
    ];
    let topic = BalanceChanged::TOPIC;
    let good = posts.len();
    posts.push(Post::keyed(&topic, iban.clone(), b"nonsense".to_vec()));
    posts.push(Post::keyed(&topic, iban.clone(), vec![0, 0, 0, 0, 99, 1]));
    posts.push(record(&stack, &change(&"x".repeat(65), 1)));
    posts.push(record(&stack, &change("NL\0", 1)));
    let offsets = post(&mut *kafka_client, &posts);
    let endpoint = Endpoint::start(&stack);
    until("all is stored", PATIENCE, || (endpoint.transactions(&iban).len() == 4).then_some(()));
    let shown: Vec<Value> =
        endpoint.transactions(&iban).iter().map(|it| it["descr"].clone()).collect();
    assert_eq!(shown, ["change 2", "change 1", "change 0", "change 0"]);

    let wanted: BTreeSet<String> = (good..posts.len())
        .map(|at| format!("{}/{}/{}: ", topic.name, posts[at].partition, offsets[at]))
        .collect();
    let (mut next, mut found) = (dead_letters_from, BTreeSet::new());
    until("the dead letters arrive", PATIENCE, || {
        let position = Position { partition: 0, next };
        for chunk in
            kafka_client.fetch(DEAD_LETTER.name, &[position], Duration::from_millis(500)).unwrap()
        {
            next = chunk.next;
            for record in chunk.records {
                let key = String::from_utf8(record.key.unwrap()).unwrap();
                found.extend(wanted.iter().filter(|start| key.starts_with(*start)).cloned());
            }
        }
        (found == wanted).then_some(())
    });
    // After a restart no record is stored again.
    assert!(endpoint.stop() < Duration::from_secs(1));
    let endpoint = Endpoint::start(&stack);
    post(&mut *kafka_client, &[record(&stack, &change(&iban, 3))]);
    until("the next is stored", PATIENCE, || {
        (endpoint.transactions(&iban).len() == 5).then_some(())
    });
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn private_ledger_is_read_by_owner_and_employees() {
    let stack = Stack::shared();
    let _handler = Handler::start(&stack);
    let employee = "employee-0123456789";
    let settings = [("PUBLIC_LEDGER", "false"), ("EMPLOYEE_TOKEN", employee)];
    let public = Endpoint::start(&stack);
    let ((iban, token), (other, stranger)) = (public.account(), public.account());
    public.deposit(&iban, 100, "mine");
    public.deposit(&other, 100, "theirs");
    drop(public);
    let endpoint = Endpoint::start_with(&stack, &settings);
    let of = |iban: &str, token: Option<&str>| {
        let query =
            format!("{{ transactions_by_iban(iban: \"{iban}\", max_items: 10) {{ descr id }} }}");
        let answer = endpoint.ask_as(&query, &json!({}), token);
        answer["data"]["transactions_by_iban"].as_array().cloned()
    };
    let (mine, theirs) = (of(&iban, Some(employee)).unwrap(), of(&other, Some(employee)).unwrap());
    assert_eq!((mine.len(), theirs.len()), (1, 1));
    assert_eq!(of(&iban, Some(&token)).as_ref(), Some(&mine));
    assert_eq!(of(&other, Some(&token)), None);
    for unknown in [None, Some("00000000000000000001"), Some("")] {
        assert_eq!(of(&iban, unknown), None);
    }
    let by_id = format!(
        "{{ a: transaction_by_id(id: {}) {{ descr }} b: transaction_by_id(id: {}) {{ descr }} }}",
        mine[0]["id"], theirs[0]["id"]
    );
    let answer = endpoint.ask_as(&by_id, &json!({}), Some(&token));
    assert_eq!(answer["data"], json!({ "a": { "descr": "mine" }, "b": null }));
    let last = endpoint.ask_as("{ all_last_transactions { iban } }", &json!({}), Some(&token));
    assert_eq!(last["data"]["all_last_transactions"], json!([{ "iban": iban }]));
    let account = format!(
        "{{ account(iban: \"{iban}\") {{ changes }} \
         transactions(iban: \"{iban}\") {{ edges {{ node {{ descr }} }} }} }}"
    );
    let shown = json!({
        "account": { "changes": "1" },
        "transactions": { "edges": [{ "node": { "descr": "mine" } }] },
    });
    let hidden = json!({ "account": null, "transactions": null });
    for (reader, expected) in [
        (Some(employee), &shown),
        (Some(token.as_str()), &shown),
        (Some(stranger.as_str()), &hidden),
        (None, &hidden),
    ] {
        assert_eq!(&endpoint.ask_as(&account, &json!({}), reader)["data"], expected);
    }
    let accounts = format!("{{ accounts(prefix: \"{iban}\") {{ edges {{ node {{ iban }} }} }} }}");
    let found = json!({ "accounts": { "edges": [{ "node": { "iban": iban } }] } });
    let hidden = json!({ "accounts": null });
    for (reader, expected) in
        [(Some(employee), &found), (Some(token.as_str()), &hidden), (None, &hidden)]
    {
        assert_eq!(&endpoint.ask_as(&accounts, &json!({}), reader)["data"], expected);
    }
    assert!(!endpoint.log().contains(&token) && !endpoint.log().contains(employee));
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn http_requests_are_validated() {
    let stack = Stack::shared();
    let origin = "https://bank.example";
    let endpoint =
        Endpoint::start_with(&stack, &[("CORS_ORIGINS", origin), ("INTROSPECTION", "false")]);
    let agent = support::agent();
    let post = |content_type: &str, accept: &str, body: &str| {
        let request = agent
            .post(endpoint.url())
            .header("Content-Type", content_type)
            .header("Accept", accept);
        let mut answer = request.send(body).unwrap();
        let content_type = answer.headers()["content-type"].to_str().unwrap().to_owned();
        (answer.status().as_u16(), content_type, answer.body_mut().read_to_string().unwrap())
    };
    let (json, graphql) = ("application/json", "application/graphql-response+json");
    let good = r#"{"query":"{ __typename }"}"#;
    let (status, content_type, body) = post(json, graphql, good);
    assert_eq!((status, body.as_str()), (200, r#"{"data":{"__typename":"Query"}}"#));
    assert!(content_type.starts_with(graphql));
    assert!(post("application/json; charset=utf-8", "*/*", good).1.starts_with(json));
    // An invalid document has status 400 with the newer media type only.
    let wrong = r#"{"query":"{ nothing }"}"#;
    assert_eq!((post(json, graphql, wrong).0, post(json, json, wrong).0), (400, 200));
    let bad_request = r#""code":"BAD_REQUEST""#;
    let (status, _, body) = post("text/plain", json, good);
    assert_eq!((status, body.contains(bad_request)), (415, true), "{body}");
    for malformed in
        ["", "{", "[]", r#"{"query":7}"#, r#"{"query":"{ __typename }","variables":[1]}"#]
    {
        let (status, _, body) = post(json, json, malformed);
        assert_eq!((status, body.contains(bad_request)), (400, true), "{malformed}: {body}");
    }
    let (_, _, body) = post(json, json, r#"{"query":"{ __schema { types { name } } }"}"#);
    assert!(body.contains("GRAPHQL_VALIDATION_FAILED"), "introspection is off: {body}");

    let get = |query: &str| {
        let mut answer = agent
            .get(format!("{}?{query}", endpoint.url()))
            .header("Origin", origin)
            .call()
            .unwrap();
        let allowed = answer
            .headers()
            .get("access-control-allow-origin")
            .map(|it| it.to_str().unwrap().to_owned());
        (answer.status().as_u16(), allowed, answer.body_mut().read_to_string().unwrap())
    };
    let (status, allowed, body) = get("query=%7B__typename%7D");
    assert_eq!((status, allowed.as_deref()), (200, Some(origin)));
    assert!(body.contains("Query"));
    let refused = |query: &str| {
        let (status, _, body) = get(query);
        assert!(body.contains(bad_request), "{body}");
        status
    };
    assert_eq!(refused(""), 400);
    let arguments = "username:%22abcdefgh%22,password:%22abcdefgh%22";
    let mutation = format!("query=mutation%7Bget_account({arguments})%7Biban%7D%7D");
    assert_eq!(refused(&mutation), 405);
    assert_eq!(refused("query=subscription%7Bstream_transactions%7Bid%7D%7D"), 406);
    let mut deleted = agent.delete(endpoint.url()).call().unwrap();
    let body = deleted.body_mut().read_to_string().unwrap();
    assert_eq!((deleted.status().as_u16(), body.contains(bad_request)), (405, true), "{body}");
    let foreign = agent
        .get(format!("{}?query=%7B__typename%7D", endpoint.url()))
        .header("Origin", "https://evil.example")
        .call()
        .unwrap();
    assert!(foreign.headers().get("access-control-allow-origin").is_none());
    let mut other_host = agent.get(endpoint.url()).header("Host", "evil.example").call().unwrap();
    let body = other_host.body_mut().read_to_string().unwrap();
    assert_eq!((other_host.status().as_u16(), body.contains(bad_request)), (421, true), "{body}");
    let mut page = agent.get(endpoint.url().replace("/graphql", "/")).call().unwrap();
    assert_eq!(page.headers()["content-encoding"], "gzip");
    assert!(page.body_mut().read_to_vec().unwrap().starts_with(&[0x1f, 0x8b]));
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn effects_require_a_post_request() {
    let stack = Stack::shared();
    let endpoint = Endpoint::start(&stack);
    let agent = support::agent();
    let iban = bank_tests::nobody();
    for kind in ["mutation", "subscription"] {
        let uuid = Uuid::new_v4();
        let transfer = format!(
            "{kind}%7Bmoney_transfer(uuid:%22{uuid}%22,token:%22%22,amount:1,from:%22cash%22,\
             to:%22{iban}%22,descr:%22%22)%7Breason%7D%7D"
        );
        let url = format!("{}?query={transfer}", endpoint.url());
        for accept in ["text/event-stream", "application/json"] {
            for request in [agent.get(&url), agent.head(&url)] {
                let answer = request.header("Accept", accept).call().unwrap();
                assert_eq!(answer.status(), 405, "{kind}, {accept}");
            }
        }
        let query = format!("{{ transfer_by_uuid(uuid: \"{uuid}\") {{ reason }} }}");
        let found = endpoint.data(&query, &json!({}));
        assert_eq!(found["transfer_by_uuid"]["reason"], "uuid is not known", "{kind}");
    }
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn endpoints_share_partitions_and_take_over() {
    share_and_take_over(&[], |_| {});
}

/// The same with a consumer group: the group rejects commits of other clients.
#[test]
#[ignore = "needs the stack: make test-integration"]
fn endpoints_in_a_consumer_group_take_over() {
    let group = [("CONSUMER_GROUP_PROTOCOL", "classic"), ("KAFKA_CLIENT", "built-in")];
    share_and_take_over(&group, |stack| {
        let mut other_client = messaging::connect(&KafkaConfig {
            client: ClientChoice::BuiltIn,
            ..stack.kafka.clone()
        });
        let position = [Position { partition: 0, next: 0 }];
        let err = other_client.commit("graphql-endpoint", "balance_changed", &position, PATIENCE);
        assert_eq!(err.unwrap_err().kind, ErrorKind::Fenced, "the group has members");
    });
}

/// Runs two endpoints with `env`. Calls `shared` when both own partitions.
fn share_and_take_over(env: &[(&str, &str)], shared: impl Fn(&Stack)) {
    let stack = Stack::shared();
    let first = Endpoint::start_with(&stack, env);
    let second = Endpoint::start_with(&stack, env);
    let ibans: Vec<String> = (0..40).map(|_| bank_tests::nobody()).collect();
    let mut kafka_client = stack.kafka_client();
    let mut round = 0;
    let mut publish = || {
        round += 1;
        let posts: Vec<Post> =
            ibans.iter().map(|iban| record(&stack, &change(iban, round))).collect();
        post(&mut *kafka_client, &posts);
        round as usize
    };
    let all_have = |endpoint: &Endpoint, count: usize| {
        until("all is stored", PATIENCE, || {
            ibans.iter().all(|iban| endpoint.transactions(iban).len() == count).then_some(())
        });
    };
    until("both endpoints have a share", PATIENCE, || {
        let last = |endpoint: &Endpoint| {
            let log = endpoint.log();
            let line = log.lines().rfind(|line| line.contains("msg=serving"))?.to_owned();
            Some(line.matches(',').count() + 1)
        };
        let mut shares = [last(&first)?, last(&second)?];
        shares.sort_unstable();
        (shares == [4, 5]).then_some(())
    });
    shared(&stack);
    let published = publish();
    all_have(&first, published);
    all_have(&second, published);
    // One process is stopped. It continues after the other has taken over its partitions.
    first.signal("STOP");
    let started = Instant::now();
    let published = publish();
    all_have(&second, published);
    let took = started.elapsed();
    assert!(took < Duration::from_secs(20), "{took:?}");
    first.signal("CONT");
    let published = publish();
    all_have(&second, published);
    // One process is killed.
    drop(first);
    let published = publish();
    all_have(&second, published);
    second.stop();
}

/// The `curl` commands in docs/graphql.md, unchanged: indented blocks of one or more lines.
fn examples() -> Vec<String> {
    let docs = include_str!("../../../docs/graphql.md");
    let commands = docs.split("\n\n").filter(|block| block.starts_with("    curl "));
    commands.map(|block| block.replace("\n    ", "\n").trim_start().to_owned()).collect()
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn examples_of_the_docs_work() {
    let stack = Stack::shared();
    let _handler = Handler::start(&stack);
    let endpoint = Endpoint::start(&stack);
    // The account in the docs, and the one that replaces it.
    let (iban, token) = ("NL80OPEN0123456789", "12345678901234567890");
    let mut account = (iban.to_owned(), token.to_owned());
    let examples = examples();
    assert_eq!(examples.len(), 15);
    for example in examples {
        let command = example
            .replace("localhost:8888", &format!("localhost:{}", endpoint.port))
            .replace(iban, &account.0)
            .replace(token, &account.1);
        let streams = command.contains("text/event-stream");
        // A stream does not end by itself.
        let limit = if streams { "-m 2 " } else { "" };
        let command = command.replacen("curl ", &format!("curl {limit}"), 1);
        let done = Command::new("bash").args(["-c", &command]).output().unwrap();
        let output = String::from_utf8_lossy(&done.stdout);
        if streams {
            assert!(output.starts_with(":\n\n"), "{command}: {output}");
        } else {
            assert!(
                output.starts_with("{\"data\":{") && !output.contains("errors"),
                "{command}: {output}"
            );
            let response: Value = serde_json::from_str(&output).unwrap();
            let result = response["data"].as_object().unwrap().values().next().unwrap();
            assert_eq!(result["reason"], Value::Null, "{command}: {output}");
            if let (Some(iban), Some(token)) = (result["iban"].as_str(), result["token"].as_str()) {
                account = (iban.to_owned(), token.to_owned());
            }
        }
    }
}
