//! Tests of clients that connect again and get what they have missed, against the endpoint's binary
//! and the servers that `make test-integration` starts.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;

use bank_tests::stack::{PATIENCE, Post, Stack, post};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use support::{Endpoint, change, record};
use tungstenite::client::IntoClientRequest;
use tungstenite::{Message, WebSocket};

/// How often each client is cut.
const CUTS: usize = 50;

/// Publishes the changes of an account with these sequences.
fn publish(stack: &Stack, iban: &str, sequences: Range<i64>) {
    let changes: Vec<Post> = sequences.map(|it| record(stack, &change(iban, it))).collect();
    post(&mut *stack.kafka_client(), &changes);
}

/// A subscription to an account. `None` if the connection is lost.
trait Client: Sized {
    /// Subscribes to the transactions after `last`.
    fn connect(port: u16, iban: &str, last: i64) -> Option<Self>;
    /// The sequence of the next transaction.
    fn next(&mut self) -> Option<i64>;
}

fn query(iban: &str, after: i64) -> String {
    format!(
        "subscription {{ stream_transactions(iban: \"{iban}\", after_sequence: {after}) \
         {{ sequence descr }} }}"
    )
}

fn connect(port: u16) -> Option<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    Some(stream)
}

fn sequence(response: &Value) -> i64 {
    let transaction = &response["data"]["stream_transactions"];
    let sequence: i64 = transaction["sequence"].as_str().unwrap().parse().unwrap();
    assert_eq!(transaction["descr"], format!("change {sequence}"));
    sequence
}

struct WebSocketClient(WebSocket<TcpStream>);

impl Client for WebSocketClient {
    fn connect(port: u16, iban: &str, last: i64) -> Option<Self> {
        let mut request = format!("ws://127.0.0.1:{port}/graphql").into_client_request().unwrap();
        let protocol = "graphql-transport-ws".parse().unwrap();
        request.headers_mut().insert("Sec-WebSocket-Protocol", protocol);
        let (mut socket, _) = tungstenite::client(request, connect(port)?).ok()?;
        let subscribe =
            json!({ "type": "subscribe", "id": "1", "payload": { "query": query(iban, last) } });
        for message in [json!({ "type": "connection_init" }), subscribe] {
            socket.send(Message::text(message.to_string())).ok()?;
        }
        socket.read().ok()?;
        Some(Self(socket))
    }

    fn next(&mut self) -> Option<i64> {
        let message = self.0.read().ok().filter(Message::is_text)?;
        let message: Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
        Some(sequence(&message["payload"]))
    }
}

/// A client like a browser's EventSource: after a cut it sends the same request again, with the id
/// of the last event.
struct EventClient(BufReader<TcpStream>);

impl Client for EventClient {
    fn connect(port: u16, iban: &str, last: i64) -> Option<Self> {
        let mut stream = connect(port)?;
        let query: String = query(iban, 0).bytes().map(|byte| format!("%{byte:02x}")).collect();
        let last_event =
            if last > 0 { format!("Last-Event-ID: {last}\r\n") } else { String::new() };
        let request = format!(
            "GET /graphql?query={query} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\
             Accept: text/event-stream\r\n{last_event}\r\n"
        );
        stream.write_all(request.as_bytes()).ok()?;
        Some(Self(BufReader::new(stream)))
    }

    fn next(&mut self) -> Option<i64> {
        let mut id = None;
        loop {
            let mut line = String::new();
            // The last line is cut if the server was killed.
            if self.0.read_line(&mut line).ok()? == 0 || !line.ends_with('\n') {
                return None;
            }
            if let Some(text) = line.strip_prefix("id: ") {
                id = text.trim().parse().ok();
            } else if let Some(data) = line.strip_prefix("data: ") {
                let sequence = sequence(&serde_json::from_str(data).unwrap());
                assert_eq!(id, Some(sequence), "the id of the event");
                return id;
            }
        }
    }
}

/// Receives the transactions 1 to `end` of an account from the endpoints at `ports`, in order and
/// each once. Closes its connections after a random number of transactions.
fn receive<C: Client>(ports: [u16; 2], iban: &str, cuts: &AtomicUsize, end: &AtomicI64) {
    let mut last = 0;
    // Knuth's linear congruential generator, so that a run can be repeated.
    let mut random = 1_u64;
    let mut draw = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) % below
    };
    let is_over = |last: i64| last == end.load(Ordering::Relaxed);
    while !is_over(last) {
        let port = ports[draw(2) as usize];
        // The killed endpoint refuses connections.
        let Some(mut client) = C::connect(port, iban, last) else { continue };
        let mut wanted = 1 + draw(300);
        while wanted > 0 && !is_over(last) {
            let Some(next) = client.next() else { break };
            assert_eq!(next, last + 1, "port {port}, cut {}", cuts.load(Ordering::Relaxed));
            last = next;
            wanted -= 1;
        }
        cuts.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn cut_clients_get_each_transaction_once_in_order() {
    let stack = Stack::shared();
    let [first, second] = [(); 2].map(|()| Endpoint::start(&stack));
    let (ports, iban) = ([first.port, second.port], bank_tests::nobody());
    let cuts = [(); 2].map(|()| AtomicUsize::new(0));
    let end = AtomicI64::new(i64::MAX);
    thread::scope(|scope| {
        scope.spawn(|| receive::<WebSocketClient>(ports, &iban, &cuts[0], &end));
        scope.spawn(|| receive::<EventClient>(ports, &iban, &cuts[1], &end));
        let all_have = |count| cuts.iter().all(|it| it.load(Ordering::Relaxed) >= count);
        let (mut killed, mut next) = (Some(first), 1);
        let deadline = Instant::now() + 4 * PATIENCE;
        while !all_have(CUTS) {
            // Also ends the test if a client has failed.
            assert!(Instant::now() < deadline, "cuts: {cuts:?}");
            if all_have(CUTS / 2) {
                drop(killed.take());
            }
            publish(&stack, &iban, next..next + 100);
            next += 100;
            // About 1,000 transactions per second.
            thread::sleep(Duration::from_millis(100));
        }
        assert!(killed.is_none());
        // Set before the last transaction is published, so that no client waits for another one.
        end.store(next, Ordering::Relaxed);
        publish(&stack, &iban, next..next + 1);
    });
}
