//! `bench check`: a bank that keeps its guarantees passes, and each planted violation is found.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use avro::Encoder;
use bank::records::{BalanceChanged, ConfirmMoneyTransfer};
use bank::topology::{BALANCE_CHANGED, CONFIRM_MONEY_TRANSFER};
use bank_tests::bank_client::BankClient;
use bank_tests::handler::{Handler, Settings, was_killed};
use bank_tests::stack::{PATIENCE, Post, Stack, binary, post};
use bank_tests::wait::until;
use bank_tests::{SHOP, id_of_days_ago};
use free_port::free_port;
use postgres::{Client, NoTls};
use serde_json::Value;
use std::process::{Child, Command, Stdio};

/// A graphql-endpoint. Dropping it kills it.
struct Endpoint(Child);

impl Drop for Endpoint {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A bank of its own, since other tests write records that violate the guarantees.
struct Bank {
    stack: Stack,
    endpoint: Option<Endpoint>,
}

impl Bank {
    fn start() -> Self {
        let stack = Stack::separate(1);
        stack.synchronize();
        let mut bank = Self { stack, endpoint: None };
        bank.start_endpoint(&[]);
        bank
    }

    /// Starts an endpoint with these variables instead of the running one.
    fn start_endpoint(&mut self, variables: &[(&str, &str)]) {
        self.endpoint = None;
        let health = free_port();
        let mut command = Command::new(binary("graphql-endpoint"));
        command
            .env("DATABASE_URL", transactions(&self.stack))
            .env("GRAPHQL_PORT", free_port().to_string())
            .env("HEALTH_PORT", health.to_string())
            .envs(variables.iter().copied());
        self.endpoint = Some(Endpoint(with_servers(&mut command, &self.stack).spawn().unwrap()));
        let ready = format!("http://127.0.0.1:{health}/readyz");
        until("the endpoint is ready", PATIENCE, || ureq::get(&ready).call().ok());
    }

    /// Runs `bench check`. Returns the violations and the summary.
    fn check(&self, args: &[&str]) -> (Vec<String>, Value) {
        self.check_with(args, &[])
    }

    fn check_with(&self, args: &[&str], variables: &[(&str, &str)]) -> (Vec<String>, Value) {
        let mut command = Command::new(binary("bench"));
        command
            .env("BALANCE_DATABASE_URL", self.stack.database_url())
            .env("TRANSACTION_DATABASE_URL", transactions(&self.stack))
            .envs(variables.iter().copied())
            .arg("check")
            .args(args);
        let output = with_servers(&mut command, &self.stack).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let summary: Value = serde_json::from_str(&lines.pop().unwrap()).unwrap();
        let code = i32::from(summary["violations"] != 0);
        assert_eq!(output.status.code(), Some(code), "{text}");
        (lines, summary)
    }

    /// Runs `sql` in the database of the graphql-endpoint.
    fn change_transactions(&self, sql: &str) {
        let mut client = Client::connect(&transactions(&self.stack), NoTls).unwrap();
        client.batch_execute(sql).unwrap();
    }

    #[track_caller]
    fn assert_found(&self, texts: &[&str]) {
        let (violations, summary) = self.check(&[]);
        assert_eq!(violations.len(), texts.len(), "{violations:?}");
        assert_eq!(summary["violations"], texts.len(), "{summary}");
        for text in texts {
            assert!(violations.iter().any(|it| it.contains(text)), "{text}: {violations:?}");
        }
    }
}

fn with_servers<'a>(command: &'a mut Command, stack: &Stack) -> &'a mut Command {
    command
        .env("KAFKA_BROKERS", stack.kafka.brokers.join(","))
        .env("SCHEMA_REGISTRY_URL", stack.registry_url())
        .stdin(Stdio::null())
}

fn transactions(stack: &Stack) -> String {
    stack.database_url().replace("/balancedb", "/transactiondb")
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn planted_violations_are_found() {
    let bank = Bank::start();
    let stack = &bank.stack;
    let handler = Handler::start(stack);
    let mut client = BankClient::open(stack);
    let [a, b] = client.open_accounts(2, 1_000).try_into().unwrap();
    let transfers = [a.pays(300, &b.iban), b.pays(7, SHOP), a.pays(60_000, SHOP)];
    client.send_transfers(&transfers);
    client.settle(PATIENCE);
    let poison = Post::keyed(&CONFIRM_MONEY_TRANSFER, "x".to_owned(), vec![1]);
    post(&mut *stack.kafka_client(), &[poison]);
    let (violations, summary) = bank.check(&[]);
    assert_eq!(violations, [] as [String; 0]);
    let expected = serde_json::json!({
        "commands": 7, "confirmed": 6, "failed": 1, "dead_letters": 1, "repeated": 0,
        "databases_compared": true, "violations": 0,
    });
    assert_eq!(summary, expected);

    let balance = |by: i32| {
        let sql = format!("UPDATE account SET balance = balance + {by} WHERE iban = '{}'", a.iban);
        stack.database().batch_execute(&sql).unwrap();
    };
    balance(1);
    bank.assert_found(&[&format!("{}: (balance, sequence) is Some((700, 2))", a.iban)]);
    balance(-1);
    bank.change_transactions(&format!(
        "UPDATE transaction SET changed_by = changed_by + 1 WHERE iban = '{0}' AND sequence = 1;
         UPDATE transaction SET iban = 'NL00' WHERE iban = '{0}' AND sequence = 2",
        a.iban
    ));
    bank.assert_found(&[
        "the stored transaction differs from the change",
        &format!("{}: the change with sequence 2 is not stored", a.iban),
        "a stored transaction has no change",
    ]);
    bank.change_transactions(&format!(
        "UPDATE transaction SET changed_by = changed_by - 1 WHERE iban = '{0}' AND sequence = 1;
         UPDATE transaction SET iban = '{0}' WHERE iban = 'NL00'",
        a.iban
    ));

    // Without a handler, a command has no outcome.
    drop(handler);
    client.send_transfers(&[a.pays(1, SHOP)]);
    let (violations, summary) = bank.check(&["--wait-s", "0"]);
    assert!(violations[0].contains("has no outcome"), "{violations:?}");
    assert_eq!(summary["databases_compared"], false);
    let _handler = Handler::start(stack);
    client.settle(PATIENCE);

    // Another program writes a change, which the endpoint stores.
    let change = client.changes(&a.iban).last().copied().unwrap().clone();
    let change = BalanceChanged { sequence: change.sequence + 1, ..change };
    let value = Encoder::new(&stack.registry).unwrap().encode(&change);
    let posted = Post::keyed(&BALANCE_CHANGED, a.iban.clone(), value);
    post(&mut *stack.kafka_client(), &[posted]);
    let (violations, _) = bank.check(&["--wait-s", "1"]);
    let place = violations.iter().any(|it| it.starts_with("balance_changed/"));
    assert!(place && violations.len() > 1, "{violations:?}");
}

/// The first transfer is from 40 days ago, by its id and its time. Its outcome and its transaction
/// are deleted.
#[test]
#[ignore = "needs the stack: make test-integration"]
fn bank_without_its_old_rows_passes() {
    let mut bank = Bank::start();
    let mut client = BankClient::open(&bank.stack);
    let handler = Handler::start(&bank.stack);
    let [account] = client.open_accounts(1, 0).try_into().unwrap();
    handler.stop();
    let old = ConfirmMoneyTransfer { id: id_of_days_ago(40), ..account.gets(300) };
    client.send_transfers(std::slice::from_ref(&old));
    let settings = Settings { env_first: &[("FAILPOINT", "produce")], once: true, env: &[] };
    let doomed = Handler::launch(&bank.stack, settings);
    assert!(was_killed(doomed.wait_exits(1, PATIENCE)), "built without failpoints?");
    let sql = "UPDATE transfer SET decided_at = decided_at - interval '40 days' WHERE id = $1";
    assert_eq!(bank.stack.database().execute(sql, &[&old.id]).unwrap(), 1);

    let retains: &[(&str, &str)] = &[("RETAIN_DAYS", "30")];
    let handler = Handler::start(&bank.stack);
    client.settle(PATIENCE);
    assert_eq!(client.decide(&account.pays(7, SHOP)), None);
    handler.stop();
    let (violations, _) = bank.check_with(&[], retains);
    assert_eq!(violations, [] as [String; 0], "with all rows");

    let settings = Settings { env: retains, ..Settings::default() };
    let _handler = Handler::start_with(&bank.stack, settings);
    bank.start_endpoint(retains);
    let mut projection = Client::connect(&transactions(&bank.stack), NoTls).unwrap();
    until("the old rows are deleted", PATIENCE, || {
        let outcome = "SELECT FROM transfer WHERE id = $1";
        let transaction = "SELECT FROM transaction WHERE transfer_id = $1";
        let outcomes = bank.stack.database().query(outcome, &[&old.id]).unwrap();
        let transactions = projection.query(transaction, &[&old.id]).unwrap();
        (outcomes.is_empty() && transactions.is_empty()).then_some(())
    });
    let (violations, summary) = bank.check_with(&[], retains);
    assert_eq!(violations, [] as [String; 0]);
    assert_eq!(summary["databases_compared"], true);
    // Without the variable, all transactions must be there.
    bank.assert_found(&[&format!("{}: the change with sequence 1 is not stored", account.iban)]);
}
