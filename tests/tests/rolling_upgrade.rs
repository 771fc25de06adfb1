//! A rolling upgrade of three brokers from Kafka 3.9 to Kafka 4.

use bank::records::Atype;
use bank::topology::HEARTBEAT;
use bank_tests::bank_client::BankClient;
use bank_tests::load::Load;
use bank_tests::stack::{PATIENCE, Stack};
use bank_tests::wait::until;
use bank_tests::{Account, creation, kafka_admin};
use messaging::ClientChoice;
use postgres::NoTls;
use serde_json::{Value, json};
use std::time::Duration;
use uuid::Uuid;

/// The services that use Kafka.
const SERVICES: [&str; 4] =
    ["heartbeat", "command-generator", "command-handler", "graphql-endpoint"];
/// Time after the return of a broker within which the bank must work again.
const RECOVERY: Duration = Duration::from_secs(15);
/// The line of a service that selects its client at its first request to Kafka.
const SELECTED: &str = "\"Kafka client selected\"";
/// The line of a service that changes its client.
const CHANGED: &str = "Kafka client selected, since a broker was upgraded";
/// The line of the supervisor after each exit.
const EXITED: &str = "exited, starting again";

#[test]
#[ignore = "needs the stack: make test-integration"]
fn rolling_upgrade_ends_no_service() {
    let mut stack = Stack::of_three_old_brokers();
    stack.kafka.client = ClientChoice::Auto;
    let stack = stack;
    stack.command(&["start", "synchronizer"], &[]);
    let mut client = BankClient::open(&stack);
    for service in SERVICES {
        start(&stack, service);
        assert!(has_selected(&stack, service, "kafka-crate"), "{service}");
    }
    let accounts = client.open_accounts(50, 100_000);
    let load = Load::start(&stack, &accounts, 100);
    let mut bank = Bank { stack: &stack, client, accounts, opened: 50, deposits: 0 };
    bank.works();

    let fault = stack.stop("kafka-1", "TERM");
    // It does not know yet that the third broker will be one of Kafka 4.
    restart(&stack, "command-handler");
    assert!(has_selected(&stack, "command-handler", "kafka-crate"));
    stack.command(&["upgrade", "kafka-1"], &[]);
    fault.end();
    bank.works();
    // Two of the three brokers support the crate.
    restart(&stack, "command-generator");
    assert!(has_selected(&stack, "command-generator", "built-in"));

    for broker in ["kafka-2", "kafka-3"] {
        stack.command(&["upgrade", broker], &[]);
        bank.works();
    }
    for service in SERVICES {
        let log = since_selection(&stack, service);
        let changed = log.contains(CHANGED);
        assert!(changed != has_selected(&stack, service, "built-in"), "{service}: {log}");
    }
    // The last step of the upgrade, after which the brokers use the features of Kafka 4.
    kafka_admin::finalize_features(&stack);
    bank.works();
    bank.close(load);
}

/// All services of the bank on three brokers.
struct Bank<'a> {
    stack: &'a Stack,
    client: BankClient<'a>,
    accounts: Vec<Account>,
    /// Number of accounts that the test has opened.
    opened: i64,
    /// Number of deposits by GraphQL.
    deposits: i64,
}

impl Bank<'_> {
    /// Stops the load. Checks that each command has exactly one outcome, and that no heartbeat and
    /// no balance change was lost.
    fn close(self, load: Load) {
        let Self { stack, mut client, opened: opened_here, deposits, .. } = self;
        stack.command(&["stop", "heartbeat"], &[]);
        client.expect_transfers(&load.stop());
        let mut kafka = stack.kafka_client();
        let heartbeats = kafka.log_range(HEARTBEAT.name, PATIENCE).expect("the topic is there");
        let heartbeats: i64 = heartbeats.into_iter().map(|(_, end)| end).sum();
        client.settle_generator(PATIENCE);
        let mut transactions = connect(stack.variable("TRANSACTION_DATABASE_URL"));
        let mut balances = stack.database();
        let changes = count(&mut balances, "SELECT sum(sequence)::bigint FROM account");
        until("the endpoint has stored all changes", PATIENCE, || {
            let stored = count(&mut transactions, "SELECT count(*) FROM transaction");
            (stored == changes).then_some(())
        });
        stack.command(&["stop", "command-generator"], &[]);
        stack.command(&["stop", "command-handler"], &[]);
        client.read_to_the_end();
        client.check();
        // A command of each heartbeat, and the first salary of each account that was opened by one.
        let accounts = count(&mut balances, "SELECT count(*) FROM account");
        let opened = accounts - 1 - opened_here;
        let generated = heartbeats + opened;
        assert!(opened > 20 && generated > 1_000, "{heartbeats} heartbeats, {opened} accounts");
        let sent = client.sent as i64 + deposits + generated;
        assert_eq!(client.counts().commands as i64, sent);
    }

    /// Checks that all services and all partitions work.
    #[track_caller]
    fn works(&mut self) {
        self.client.send_creations(&[creation(Atype::Manual)]);
        self.opened += 1;
        let transfers: Vec<_> = self.accounts.iter().map(|account| account.gets(1)).collect();
        self.client.send_transfers(&transfers);
        self.client.settle(RECOVERY);
        self.deposit();
        for service in SERVICES {
            until(&format!("{service} is ready"), RECOVERY, || is_ready(self.stack, service));
            let exits = log(self.stack, service).matches(EXITED).count();
            assert_eq!(exits, 0, "{service}: {}", log(self.stack, service));
        }
    }

    /// Deposits money by a mutation of the graphql-endpoint.
    #[track_caller]
    fn deposit(&mut self) {
        let url = format!("{}/graphql", self.stack.variable("GRAPHQL_ENDPOINT_URL"));
        let query = format!(
            "mutation {{ money_transfer(uuid: \"{}\", token: \"cash\", amount: 1, from: \"cash\", \
             to: \"{}\", descr: \"d\") {{ success }} }}",
            Uuid::new_v4(),
            self.accounts[0].iban
        );
        let request = json!({ "query": query }).to_string();
        let mut response = ureq::post(&url)
            .content_type("application/json")
            .send(request)
            .expect("the endpoint responds");
        let text = response.body_mut().read_to_string().expect("the response is text");
        let response: Value = serde_json::from_str(&text).expect("the response is JSON");
        assert_eq!(response["data"]["money_transfer"]["success"], true, "{response}");
        self.deposits += 1;
    }
}

/// Starts a service whose Kafka client is selected by the brokers. The heartbeat sends 40 records
/// per second.
fn start(stack: &Stack, service: &str) {
    let env = [("KAFKA_CLIENT", "auto"), ("BATCH_SIZE", "10"), ("SLEEP_MS", "250")];
    stack.command(&["start", service], &env);
}

fn restart(stack: &Stack, service: &str) {
    stack.command(&["stop", service], &[]);
    start(stack, service);
}

fn is_ready(stack: &Stack, service: &str) -> Option<()> {
    let prefix = service.to_uppercase().replace('-', "_");
    let url = format!("{}/readyz", stack.variable(&format!("{prefix}_HEALTH_URL")));
    ureq::get(&url).call().is_ok_and(|response| response.status() == 200).then_some(())
}

/// The log of all processes of a service.
fn log(stack: &Stack, service: &str) -> String {
    let path = stack.log_dir().join(format!("{service}.log"));
    std::fs::read_to_string(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

/// The log of a service from the line on by which its last process has selected a client.
#[track_caller]
fn since_selection(stack: &Stack, service: &str) -> String {
    let log = log(stack, service);
    let selected = log.rfind(SELECTED);
    selected
        .map_or_else(|| panic!("{service} selected no client: {log}"), |at| log[at..].to_owned())
}

/// True if the last process of a service has selected `client` at its start.
#[track_caller]
fn has_selected(stack: &Stack, service: &str, client: &str) -> bool {
    let log = since_selection(stack, service);
    log.lines().next().is_some_and(|line| line.contains(&format!("client={client} ")))
}

fn connect(url: &str) -> postgres::Client {
    postgres::Client::connect(url, NoTls).expect("connect to the database")
}

fn count(database: &mut postgres::Client, sql: &str) -> i64 {
    database.query_one(sql, &[]).expect("read the database").get(0)
}
