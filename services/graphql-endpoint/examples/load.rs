//! Load test of a running endpoint. It produces records to balance_changed at a constant rate, with
//! subscribers of one account each, and with clients that send queries.
//!
//!     stack/stack.sh with cargo run --release -p graphql-endpoint --example load -- \
//!         RATE SECONDS SUBSCRIBERS QUERIERS
//!
//! Prints one line of JSON. The latency of a record is the time from its scheduled send to its
//! arrival at the subscriber, measured with one clock.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a command-line tool")]

use avro::registry::Registry;
use avro::{Encoder, Record};
use bank::money::Cents;
use bank::records::BalanceChanged;
use messaging::producer::{Outgoing, Producer, ProducerConfig};
use rand::rngs::SmallRng;
use serde_json::{Value, json};
use service::env::Env;
use service::shutdown::Shutdown;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tungstenite::Message;
use tungstenite::client::IntoClientRequest;
use uuid::Uuid;

fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: run this program with `stack.sh with`"))
}

/// Resident memory in MiB and CPU seconds of a process.
fn process(pid: &str) -> (f64, f64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let kib: f64 = status
        .lines()
        .find(|it| it.starts_with("VmRSS:"))
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let ticks: f64 = stat
        .rsplit(") ")
        .next()
        .unwrap()
        .split(' ')
        .skip(11)
        .take(2)
        .map(|it| it.parse::<f64>().unwrap())
        .sum();
    (kib / 1024.0, ticks / 100.0)
}

/// Subscribes until `stop`. Returns the latencies in µs.
fn subscriber(
    address: &str,
    iban: &str,
    start: Instant,
    ready: &AtomicU64,
    stop: &AtomicBool,
) -> Vec<u64> {
    let mut request = format!("ws://{address}/graphql").into_client_request().unwrap();
    request.headers_mut().insert("Sec-WebSocket-Protocol", "graphql-transport-ws".parse().unwrap());
    let stream = TcpStream::connect(address).unwrap();
    let (mut socket, _) = tungstenite::client(request, stream).unwrap();
    socket.send(Message::text(r#"{"type":"connection_init"}"#)).unwrap();
    socket.read().unwrap();
    let query = format!(
        "subscription {{ stream_transactions(iban: \"{iban}\") {{
            id iban new_balance changed_by from_to descr direction }} }}"
    );
    let message = json!({ "type": "subscribe", "id": "1", "payload": { "query": query } });
    socket.send(Message::text(message.to_string())).unwrap();
    socket.get_ref().set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    ready.fetch_add(1, Ordering::Relaxed);
    let mut latencies = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        match socket.read() {
            Ok(Message::Text(text)) => {
                let now = start.elapsed();
                let event: Value = serde_json::from_str(&text).unwrap();
                let sent: u64 = event["payload"]["data"]["stream_transactions"]["descr"]
                    .as_str()
                    .unwrap()
                    .parse()
                    .unwrap();
                latencies.push((now.as_micros() as u64).saturating_sub(sent));
            }
            Ok(_) => {}
            Err(tungstenite::Error::Io(err)) if err.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(err) => panic!("a subscriber was cut off: {err}"),
        }
    }
    latencies
}

/// Queries the transactions of an account in a loop until `stop`. Returns the number of queries.
fn querier(address: &str, iban: &str, stop: &AtomicBool) -> u64 {
    let query = format!(
        "{{ transactions_by_iban(iban: \"{iban}\", max_items: 10) {{
            id new_balance changed_by from_to }} }}"
    );
    let body = json!({ "query": query }).to_string();
    let request = format!(
        "POST /graphql HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        assert!(reply.contains("\"data\""), "{reply}");
        count += 1;
    }
    count
}

fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).map(|it| it.parse().unwrap()).collect();
    let [rate, seconds, subscribers, queriers] = numbers[..] else {
        panic!("expected arguments: RATE SECONDS SUBSCRIBERS QUERIERS")
    };
    let address = variable("GRAPHQL_ENDPOINT_URL").trim_start_matches("http://").to_owned();
    let pid = variable("ENDPOINT_PID");
    let registry = Registry::new(&variable("SCHEMA_REGISTRY_URL"));
    let encoder = Encoder::<BalanceChanged>::new(&registry).unwrap();
    let lookup = |name: &str| std::env::var(name).ok();
    let producer = Producer::start(
        ProducerConfig::from_env(&Env::new(&lookup)).unwrap(),
        &Shutdown::default(),
    );

    let mut rng = rand::make_rng::<SmallRng>();
    let ibans: Vec<String> =
        (0..subscribers.max(200)).map(|_| bank::iban::generate(&mut rng)).collect();
    let (start, ready, stop) =
        (Instant::now(), AtomicU64::new(0), Arc::new(AtomicBool::new(false)));
    let stop_queries = AtomicBool::new(false);
    let idle = process(&pid).0;
    thread::scope(|scope| {
        let listeners: Vec<_> = ibans[..subscribers as usize]
            .iter()
            .map(|iban| {
                let work = || subscriber(&address, iban, start, &ready, &stop);
                thread::Builder::new().stack_size(256 << 10).spawn_scoped(scope, work).unwrap()
            })
            .collect();
        while ready.load(Ordering::Relaxed) < subscribers {
            thread::sleep(Duration::from_millis(10));
        }
        thread::sleep(Duration::from_secs(1));
        let before = process(&pid);
        let querying: Vec<_> = (0..queriers as usize)
            .map(|n| {
                let (address, iban, stop) = (&address, &ibans[n], &stop_queries);
                scope.spawn(move || querier(address, iban, stop))
            })
            .collect();
        let began = start.elapsed();
        let total = rate * seconds;
        for n in 0..total {
            let due = began + Duration::from_micros(n * 1_000_000 / rate);
            if let Some(early) =
                due.checked_sub(start.elapsed()).filter(|early| *early > Duration::from_millis(1))
            {
                thread::sleep(early);
            }
            let iban = &ibans[n as usize % ibans.len()];
            let change = BalanceChanged {
                iban: iban.clone(),
                new_balance: Cents::new(123_456),
                changed_by: Cents::new(-1050),
                from_to: "NL66OPEN0000000000".to_owned(),
                description: due.as_micros().to_string(),
                transfer_id: Some(Uuid::new_v4()),
                sequence: n as i64,
                decided_at: None,
            };
            drop(producer.send(Outgoing {
                topic: BalanceChanged::TOPIC.name,
                key: iban.clone(),
                value: encoder.encode(&change),
            }));
        }
        let took = (start.elapsed() - began).as_secs_f64();
        stop_queries.store(true, Ordering::Relaxed);
        let queries: u64 = querying.into_iter().map(|it| it.join().unwrap()).sum();
        thread::sleep(Duration::from_secs(3));
        let after = process(&pid);
        stop.store(true, Ordering::Relaxed);
        let mut latencies: Vec<u64> =
            listeners.into_iter().flat_map(|it| it.join().unwrap()).collect();
        latencies.sort_unstable();
        let at = |part: f64| {
            latencies
                .get(
                    ((latencies.len() as f64 * part) as usize)
                        .min(latencies.len().saturating_sub(1)),
                )
                .map_or(0.0, |us| *us as f64 / 1000.0)
        };
        let expected = (0..total).filter(|n| n % (ibans.len() as u64) < subscribers).count();
        println!(
            "{}",
            json!({
                "rate_asked": rate, "rate_sent": (total as f64 / took).round(),
                "subscribers": subscribers,
                "delivered": latencies.len(), "expected": expected,
                "p50_ms": at(0.5), "p99_ms": at(0.99), "p999_ms": at(0.999),
                "queries_per_s": (queries as f64 / took).round(),
                "rss_mib": { "before": idle, "subscribed": before.0, "after": after.0 },
                "endpoint_cpu_s": after.1 - before.1,
            })
        );
    });
}
