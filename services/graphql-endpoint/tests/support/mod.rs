//! Support for the tests: starts and stops endpoints, sends requests to them.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod proxy;

use avro::{Encoder, Record};
use bank::money::Cents;
use bank::records::{AccountCreationConfirmed, Atype, BalanceChanged};
use bank::timestamp::Timestamp;
use bank_tests::stack::{PATIENCE, Post, Stack, binary};
use bank_tests::wait::until;
use free_port::free_port;
use postgres::{Client, NoTls};
use serde_json::{Value, json};
use std::fs::File;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tungstenite::client::IntoClientRequest;
use tungstenite::{Message, WebSocket};
use uuid::Uuid;

/// A running endpoint process, killed when dropped.
pub struct Endpoint {
    process: Child,
    pub port: u16,
    pub health: u16,
    pub log: PathBuf,
}

impl Endpoint {
    pub fn start(stack: &Stack) -> Self {
        Self::start_with(stack, &[])
    }

    pub fn start_with(stack: &Stack, env: &[(&str, &str)]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let database = std::env::var("TRANSACTION_DATABASE_URL")
            .expect("TRANSACTION_DATABASE_URL: make test-integration sets it");
        let test = std::thread::current().name().unwrap_or("test").replace("::", "-");
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let log = stack.log_dir().join(format!("{test}-endpoint-{number}.log"));
        let (port, health) = (free_port(), free_port());
        let process = Command::new(binary("graphql-endpoint"))
            .env("KAFKA_BROKERS", stack.kafka.brokers.join(","))
            .env("SCHEMA_REGISTRY_URL", stack.registry_url())
            .env("DATABASE_URL", database)
            .env("GRAPHQL_PORT", port.to_string())
            .env("HEALTH_PORT", health.to_string())
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("the stack has a folder for logs"))
            .spawn()
            .expect("make test-integration builds the endpoint");
        let endpoint = Self { process, port, health, log };
        until("the endpoint is ready", PATIENCE, || endpoint.is_ready().then_some(()));
        endpoint
    }

    pub fn is_ready(&self) -> bool {
        let url = format!("http://127.0.0.1:{}/readyz", self.health);
        agent().get(&url).call().is_ok_and(|answer| answer.status() == 200)
    }

    pub fn is_alive(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// A number from `/proc/<pid>/status`: kB, or a count.
    pub fn process_status(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim_start_matches(':').split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Resident memory, MiB.
    pub fn rss_mib(&self) -> f64 {
        self.process_status("VmRSS") as f64 / 1024.0
    }

    /// The value of a metric, whose name includes its labels; 0 if it is missing.
    pub fn metric(&self, name: &str) -> u32 {
        let url = format!("http://127.0.0.1:{}/metrics", self.health);
        let text = agent().get(&url).call().unwrap().body_mut().read_to_string().unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse().unwrap())
    }

    /// Waits until there are `count` live subscriptions.
    pub fn wait_for_subscribers(&self, count: u32) {
        until("the endpoint has this number of subscribers", PATIENCE, || {
            (self.metric("graphql_subscribers") == count).then_some(())
        });
    }

    /// A websocket after `connection_init`.
    pub fn websocket(&self) -> WebSocket<TcpStream> {
        self.websocket_as(None)
    }

    pub fn websocket_as(&self, token: Option<&str>) -> WebSocket<TcpStream> {
        let mut socket = self.unanswered_websocket_as(token);
        assert_eq!(socket.read().unwrap().to_text().unwrap(), r#"{"type":"connection_ack"}"#);
        socket
    }

    /// A websocket before the response to `connection_init`.
    pub fn unanswered_websocket_as(&self, token: Option<&str>) -> WebSocket<TcpStream> {
        let mut request =
            format!("ws://127.0.0.1:{}/graphql", self.port).into_client_request().unwrap();
        let protocol = "graphql-transport-ws".parse().unwrap();
        request.headers_mut().insert("Sec-WebSocket-Protocol", protocol);
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (mut socket, _) = tungstenite::client(request, stream).unwrap();
        let payload = token.map(|token| json!({ "Authorization": format!("Bearer {token}") }));
        let init = json!({ "type": "connection_init", "payload": payload });
        socket.send(Message::text(init.to_string())).unwrap();
        socket
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.pid().to_string();
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(&pid).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -{signal} {pid}");
    }

    /// Stops the process by SIGTERM. Returns the time until its exit.
    pub fn stop(mut self) -> Duration {
        let started = Instant::now();
        self.signal("TERM");
        let end = self.process.wait().unwrap();
        assert_eq!(end.code(), Some(0), "{}", self.log());
        started.elapsed()
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/graphql", self.port)
    }

    /// Sends a POST request. Returns the whole response.
    pub fn ask(&self, query: &str, variables: &Value) -> Value {
        self.ask_as(query, variables, None)
    }

    pub fn ask_as(&self, query: &str, variables: &Value, token: Option<&str>) -> Value {
        let (status, answer) = self.ask_for_status(query, variables, token);
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// Like [`Self::ask_as`], with the status.
    pub fn ask_for_status(
        &self,
        query: &str,
        variables: &Value,
        token: Option<&str>,
    ) -> (u16, Value) {
        let body = json!({ "query": query, "variables": variables }).to_string();
        let mut request = agent().post(self.url()).header("Content-Type", "application/json");
        if let Some(token) = token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let mut answer = request.send(body).unwrap();
        let body = answer.body_mut().read_to_string().unwrap();
        (answer.status().as_u16(), serde_json::from_str(&body).unwrap())
    }

    /// The data of a response without errors.
    pub fn data(&self, query: &str, variables: &Value) -> Value {
        let mut answer = self.ask(query, variables);
        assert!(answer.get("errors").is_none(), "{answer}");
        answer["data"].take()
    }

    pub fn log_in(&self, username: &str, password: &str) -> Value {
        let query = "mutation($u: String!, $p: String!) {
            get_account(username: $u, password: $p) { iban token reason reason_code } }";
        self.data(query, &json!({ "u": username, "p": password }))["get_account"].take()
    }

    /// Opens an account for a new user. Returns its iban and token.
    pub fn account(&self) -> (String, String) {
        let account = self.log_in(&name(), "correct horse");
        let text =
            |field: &str| account[field].as_str().unwrap_or_else(|| panic!("{account}")).to_owned();
        (text("iban"), text("token"))
    }

    pub fn transfer(&self, transfer: &Value) -> Value {
        let query = "mutation($uuid: String!, $token: String!, $amount: Int!,
                $from: String!, $to: String!, $descr: String!) {
            money_transfer(uuid: $uuid, token: $token, amount: $amount,
                from: $from, to: $to, descr: $descr) { uuid success reason reason_code } }";
        self.data(query, transfer)["money_transfer"].take()
    }

    /// Deposits `cents` and waits until the transaction is stored.
    pub fn deposit(&self, iban: &str, cents: i32, descr: &str) {
        let transfer = deposit(iban, cents, descr);
        assert_eq!(self.transfer(&transfer)["success"], true);
        until("the deposit is stored", PATIENCE, || {
            let stored = self.transactions(iban);
            stored.iter().any(|it| it["descr"] == descr).then_some(())
        });
    }

    pub fn transactions(&self, iban: &str) -> Vec<Value> {
        let query = "query($iban: String!) { transactions_by_iban(iban: $iban, max_items: 1000) {
            id ref iban new_balance changed_by from_to descr direction } }";
        let data = self.data(query, &json!({ "iban": iban }));
        data["transactions_by_iban"].as_array().unwrap().clone()
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the log of the endpoint:\n{}", self.log());
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The next message that is not a ping. The endpoint sends one after 10 s without a message.
pub fn read(socket: &mut WebSocket<TcpStream>) -> Message {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match socket.read().unwrap() {
            Message::Ping(_) => assert!(Instant::now() < deadline, "only pings arrive"),
            message => return message,
        }
    }
}

/// Subscribes to the transactions of an account.
pub fn subscribe(socket: &mut WebSocket<TcpStream>, id: &str, iban: &str) {
    let query = format!("subscription {{ stream_transactions(iban: \"{iban}\") {{ descr }} }}");
    let message = json!({ "type": "subscribe", "id": id, "payload": { "query": query } });
    socket.send(Message::text(message.to_string())).unwrap();
}

/// Sends an operation and reads the stream of events to its end.
pub fn events(endpoint: &Endpoint, body: &Value, token: Option<&str>) -> String {
    let request = agent()
        .post(endpoint.url())
        .header("Content-Type", "application/json")
        .header("Accept", "text/event-stream")
        .header("Authorization", format!("Bearer {}", token.unwrap_or_default()));
    request.send(body.to_string()).unwrap().body_mut().read_to_string().unwrap()
}

/// The data of the last event `next`.
pub fn last_event(events: &str) -> Value {
    let data = events.lines().rfind(|line| line.starts_with("data: {")).unwrap();
    serde_json::from_str(&data["data: ".len()..]).unwrap()
}

pub fn deposit(iban: &str, cents: i32, descr: &str) -> Value {
    json!({
        "uuid": Uuid::new_v4().to_string(),
        "token": "cash", "amount": cents, "from": "cash", "to": iban, "descr": descr,
    })
}

/// A change of an account, as the bank publishes it.
pub fn change(iban: &str, sequence: i64) -> BalanceChanged {
    BalanceChanged {
        iban: iban.to_owned(),
        new_balance: Cents::new(100 * sequence),
        changed_by: Cents::new(100),
        from_to: "cash".to_owned(),
        description: format!("change {sequence}"),
        transfer_id: Some(Uuid::new_v4()),
        sequence,
        decided_at: Some(Timestamp::from_millis(1_795_996_800_000 + 1000 * sequence)),
    }
}

/// The record of a change.
pub fn record(stack: &Stack, change: &BalanceChanged) -> Post {
    let topic = BalanceChanged::TOPIC;
    let encoder = Encoder::<BalanceChanged>::with_id(stack.schema_ids[topic.name]);
    Post::keyed(&topic, change.iban.clone(), encoder.encode(change))
}

/// The record of an account that was opened.
pub fn opened(stack: &Stack, iban: &str) -> Post {
    let topic = AccountCreationConfirmed::TOPIC;
    let opened = AccountCreationConfirmed {
        id: Uuid::new_v4(),
        iban: iban.to_owned(),
        token: "01234567890123456789".to_owned(),
        a_type: Atype::Manual,
    };
    let encoder = Encoder::with_id(stack.schema_ids[topic.name]);
    Post::keyed(&topic, opened.id.to_string(), encoder.encode(&opened))
}

/// A connection to the database of the endpoint.
pub fn transaction_database() -> Client {
    let url = std::env::var("TRANSACTION_DATABASE_URL")
        .expect("TRANSACTION_DATABASE_URL: make test-integration sets it");
    Client::connect(&url, NoTls).unwrap()
}

/// A new user name.
pub fn name() -> String {
    format!("user-{}", Uuid::new_v4())
}

/// An HTTP client that accepts responses of any status.
pub fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(PATIENCE))
        .build()
        .new_agent()
}
