//! Tests of the adapter with scripted brokers.

use super::client::KafkaCrateClient;
use super::error::{Call, classify};
use super::fetch_size::FetchSize;
use super::session::guarded;
use crate::client::KafkaClient;
use crate::config::{ClientChoice, KafkaConfig};
use crate::connect::connect;
use kafka::error::KafkaCode;
use kafka_client::protocol::codes;
use kafka_client::{Backoff, Batch, Error, ErrorKind, NewRecord, Position, ProduceResult, Result};
use service::panic_guard;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::slice;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

const FETCH: i16 = 1;
const METADATA: i16 = 3;
const API_VERSIONS: i16 = 18;
const PATIENCE: Duration = Duration::from_secs(10);

/// API key and version of a request.
type Request = (i16, i16);

/// Starts a broker that sends the response `answer(request, port)`. For `None` it does not respond.
/// It closes the connection after each response.
fn broker(answer: impl Fn(Request, u16) -> Option<Vec<u8>> + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut unresponsive = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            match serve(&mut stream, |api| answer(api, port)) {
                Some(()) => {}
                None => unresponsive.push(stream),
            }
        }
    });
    format!("127.0.0.1:{port}")
}

fn serve(stream: &mut TcpStream, answer: impl Fn(Request) -> Option<Vec<u8>>) -> Option<()> {
    let mut length = [0; 4];
    if stream.read_exact(&mut length).is_err() {
        return Some(());
    }
    let mut request = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut request).unwrap();
    let field = |at| i16::from_be_bytes([request[at], request[at + 1]]);
    let body = answer((field(0), field(2)))?;
    stream.write_all(&(4 + body.len() as u32).to_be_bytes()).unwrap();
    stream.write_all(&request[4..8]).unwrap();
    stream.write_all(&body).unwrap();
    Some(())
}

/// An ApiVersions response, version 0: the lowest version of Fetch is `lowest`, the highest one of
/// Metadata is `highest`.
fn versions_with(lowest: u8, highest: u8) -> Option<Vec<u8>> {
    Some(
        [[0, 0, 0, 0, 0, 2].as_slice(), &[0, 1, 0, lowest, 0, 17], &[0, 3, 0, 0, 0, highest]]
            .concat(),
    )
}

fn versions(lowest: u8) -> Option<Vec<u8>> {
    versions_with(lowest, 4)
}

/// A Metadata response, version 4: no brokers, and topic "t" with `error_code`.
fn old_metadata(error_code: u8) -> Option<Vec<u8>> {
    old_metadata_with("", 0, error_code)
}

/// The same with a broker at `host`, if that is not empty.
fn old_metadata_with(host: &str, port: u16, error_code: u8) -> Option<Vec<u8>> {
    let mut body = vec![0, 0, 0, 0, 0, 0, 0, u8::from(!host.is_empty())];
    if !host.is_empty() {
        body.extend([0, 0, 0, 5, 0, host.len() as u8]);
        body.extend(host.as_bytes());
        body.extend(u32::from(port).to_be_bytes());
        body.extend([0xff, 0xff]);
    }
    body.extend([0xff, 0xff, 0, 0, 0, 5, 0, 0, 0, 1]);
    body.extend([0, error_code, 0, 1, b't', 0, 0, 0, 0, 0]);
    Some(body)
}

/// A Metadata response, version 0: broker 5 at `port` leads the only partition of topic "t".
fn metadata(port: u16) -> Option<Vec<u8>> {
    metadata_with("127.0.0.1", port)
}

fn metadata_with(host: &str, port: u16) -> Option<Vec<u8>> {
    let mut body = vec![0, 0, 0, 1, 0, 0, 0, 5, 0, host.len() as u8];
    body.extend(host.as_bytes());
    body.extend(u32::from(port).to_be_bytes());
    body.extend([0, 0, 0, 1, 0, 0, 0, 1, b't', 0, 0, 0, 1]);
    body.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0]);
    Some(body)
}

fn healthy(request: Request, port: u16) -> Option<Vec<u8>> {
    match request {
        (API_VERSIONS, _) => versions(0),
        (METADATA, 4) => old_metadata(0),
        _ => metadata(port),
    }
}

fn client(brokers: &[String]) -> KafkaCrateClient {
    KafkaCrateClient::new(&config(brokers, ClientChoice::KafkaCrate), None)
}

fn config(brokers: &[String], client: ClientChoice) -> KafkaConfig {
    KafkaConfig {
        brokers: brokers.to_vec(),
        client,
        timeout: PATIENCE,
        fetch_bytes: 65536,
        compression: kafka_client::Compression::None,
        sasl: None,
    }
}

#[test]
fn upgraded_broker_selects_the_built_in_client() {
    let upgraded = broker(|_, _| versions(4));
    let port = upgraded.rsplit_once(':').unwrap().1.parse().unwrap();
    let other = broker(move |(api, _), _| {
        if api == API_VERSIONS { versions(0) } else { old_metadata_with("127.0.0.1", port, 0) }
    });
    let old = broker(healthy);
    for (brokers, built_in) in [(&[old][..], false), (&[other][..], true)] {
        let mut client = connect(&config(brokers, ClientChoice::Auto));
        // Brokers of this test respond to the first requests only.
        let _ = client.leaders("t", Duration::ZERO);
        assert_eq!(client.fetches_from_all(), built_in);
    }
}

/// The process does not end: a restart could select the kafka crate again.
#[test]
fn broker_upgrade_changes_to_the_built_in_client() {
    let lowest = Arc::new(Mutex::new(0));
    let supported = lowest.clone();
    let host = broker(move |request, port| match request {
        (API_VERSIONS, _) => versions(*supported.lock().unwrap()),
        request => healthy(request, port),
    });
    let config = config(&[host], ClientChoice::Auto);
    let mut client = connect(&config);
    assert_eq!(client.leaders("t", PATIENCE).unwrap(), [5]);
    assert!(!client.fetches_from_all());
    *lowest.lock().unwrap() = 4;
    let err = client.leaders("t", PATIENCE).unwrap_err();
    assert_eq!((err.kind, err.code), (ErrorKind::Retry, codes::UNSUPPORTED_VERSION), "{err}");
    let record = NewRecord { value: Some(b"v"), ..NewRecord::default() };
    let batch = [Batch { topic: "t", partition: 0, records: vec![record] }];
    for mut client in [client, connect(&config)] {
        // Brokers of this test do not support the built-in client.
        client.produce(&batch, Duration::ZERO).remove(0).unwrap_err();
        assert!(client.fetches_from_all());
    }
}

/// A Metadata response, version 0: the brokers at `ports` lead a partition of topic "t" each.
fn metadata_of_leaders(ports: [u16; 2]) -> Vec<u8> {
    let mut body = vec![0, 0, 0, 2];
    for (id, port) in [5, 6].into_iter().zip(ports) {
        body.extend([0, 0, 0, id, 0, 9]);
        body.extend(b"127.0.0.1");
        body.extend(u32::from(port).to_be_bytes());
    }
    body.extend([0, 0, 0, 1, 0, 0, 0, 1, b't', 0, 0, 0, 2]);
    for (partition, id) in [(0, 5), (1, 6)] {
        body.extend([0, 0, 0, 0, 0, partition, 0, 0, 0, id, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
    body
}

/// The first leader fails during the fetch. So the fetch from the second one begins with a new
/// session, which finds a broker of Kafka 4.
#[test]
fn upgrade_between_two_leaders_changes_the_client() {
    let lowest = Arc::new(Mutex::new(0));
    let ports = Arc::new(Mutex::new([0; 2]));
    let mut hosts = [(); 2].map(|()| {
        let (lowest, ports) = (lowest.clone(), ports.clone());
        broker(move |request, port| match request {
            (API_VERSIONS, _) => versions(*lowest.lock().unwrap()),
            (METADATA, 0) => Some(metadata_of_leaders(*ports.lock().unwrap())),
            (FETCH, _) => {
                *lowest.lock().unwrap() = 4;
                Some(Vec::new())
            }
            request => healthy(request, port),
        })
    });
    *ports.lock().unwrap() =
        hosts.each_ref().map(|host| host.rsplit_once(':').unwrap().1.parse().unwrap());
    // The leaders are read in this order. The connection to the bootstrap broker is closed after
    // the metadata, so it must be the second one.
    hosts.sort();
    let mut client = connect(&config(&hosts[1..], ClientChoice::Auto));
    let positions = [0, 1].map(|partition| Position { partition, next: 0 });
    let data = client.fetch("t", &positions, PATIENCE).unwrap();
    for data in data {
        let err = data.error.unwrap();
        assert_eq!(err.kind, ErrorKind::Retry, "{err}");
    }
    // Brokers of this test do not support the built-in client.
    client.leaders("t", Duration::ZERO).unwrap_err();
    assert!(client.fetches_from_all());
}

/// The broker may have written the batch of the first attempt. Then it is upgraded.
#[test]
fn batch_before_an_upgrade_stays_in_doubt() {
    let lowest = Arc::new(Mutex::new(0));
    let host = broker(move |request, port| match request {
        (API_VERSIONS, _) => versions(*lowest.lock().unwrap()),
        // The request before the batch. Its connection is closed, so the batch has no response.
        (METADATA, 0) => {
            *lowest.lock().unwrap() = 4;
            metadata(port)
        }
        request => healthy(request, port),
    });
    let mut client = connect(&config(&[host], ClientChoice::Auto));
    let record = NewRecord { value: Some(b"v"), ..NewRecord::default() };
    let batch = [Batch { topic: "t", partition: 0, records: vec![record] }];
    let err = client.produce(&batch, PATIENCE).remove(0).unwrap_err();
    assert_eq!((err.kind, err.code), (ErrorKind::Unknown, codes::UNSUPPORTED_VERSION), "{err}");
}

#[test]
fn unresolvable_advertised_address_is_named() {
    const NAME: &str = "no-such-broker.invalid";
    let host = broker(|request, _| match request {
        (API_VERSIONS, _) => versions(0),
        (METADATA, 4) => old_metadata(0),
        _ => metadata_with(NAME, 9092),
    });
    let position = [Position { partition: 0, next: 0 }];
    let data = client(&[host]).fetch("t", &position, PATIENCE).unwrap().remove(0);
    let err = data.error.unwrap();
    assert_eq!(err.kind, ErrorKind::Retry);
    for part in ["no-such-broker.invalid:9092", "cannot resolve its name", "advertised.listeners"] {
        assert!(err.text.contains(part), "{part} in {err}");
    }
}

#[test]
fn broker_without_version_0_is_a_config_error() {
    let host = broker(|_, _| versions(4));
    let err = client(slice::from_ref(&host)).leaders("t", PATIENCE).unwrap_err();
    assert_eq!(err.kind, ErrorKind::Config);
    for part in [host.as_str(), "version 4", "Kafka 4", "use Kafka 3.9 or older"] {
        assert!(err.text.contains(part), "{part} in {err}");
    }
}

#[test]
fn broker_that_must_create_topics_is_refused() {
    let host = broker(|_, _| versions_with(0, 3));
    let err = client(&[host]).leaders("t", PATIENCE).unwrap_err();
    assert_eq!(err.kind, ErrorKind::Config);
    assert!(err.text.contains("Kafka 0.11 or later"), "{err}");
}

/// The crate's own request, of version 0, would create the topic.
#[test]
fn missing_topic_is_not_created() {
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = requests.clone();
    let host = broker(move |(api, version), _| {
        seen.lock().unwrap().push((api, version));
        if api == API_VERSIONS { versions(0) } else { old_metadata(3) }
    });
    let record = NewRecord { value: Some(b"v"), ..NewRecord::default() };
    let batch = [Batch { topic: "t", partition: 0, records: vec![record] }];
    let position = [Position { partition: 0, next: 0 }];
    let mut client = client(&[host]);
    let zero = Duration::ZERO;
    let mut calls: [&mut dyn FnMut(&mut KafkaCrateClient) -> Error; 6] = [
        &mut |it| it.leaders("t", zero).unwrap_err(),
        &mut |it| it.topic_ids(&["t"], zero).unwrap_err(),
        &mut |it| it.produce(&batch, zero).remove(0).unwrap_err(),
        &mut |it| it.fetch("t", &position, zero).unwrap().remove(0).error.unwrap(),
        &mut |it| it.log_range("t", zero).unwrap_err(),
        &mut |it| it.committed("g", "t", zero).unwrap_err(),
    ];
    for call in &mut calls {
        client.backoff = Backoff::default();
        let err = call(&mut client);
        assert_eq!((err.kind, err.code), (ErrorKind::Retry, 3), "{err}");
    }
    let requests = requests.lock().unwrap();
    assert!(requests.contains(&(METADATA, 4)));
    assert!(!requests.contains(&(METADATA, 0)), "{requests:?}");
}

#[test]
fn unresponsive_broker_is_skipped() {
    let unresponsive = broker(|_, _| None);
    let mut client = client(&[unresponsive, broker(healthy)]);
    assert_eq!(client.leaders("t", Duration::ZERO).unwrap(), [5]);
}

#[test]
fn unresponsive_leader_is_a_retryable_error() {
    let unresponsive = broker(|_, _| None);
    let port = unresponsive.rsplit_once(':').unwrap().1.parse().unwrap();
    let host = broker(move |request, _| healthy(request, port));
    let start = Instant::now();
    let data = client(&[host]).fetch("t", &[Position { partition: 0, next: 0 }], PATIENCE).unwrap();
    assert_eq!(data[0].error.as_ref().unwrap().kind, ErrorKind::Retry);
    assert!(start.elapsed() < PATIENCE / 2);
}

#[test]
fn closed_connection_is_replaced() {
    let mut client = client(&[broker(healthy)]);
    for _ in 0..3 {
        assert_eq!(client.leaders("t", PATIENCE).unwrap(), [5]);
    }
    assert_eq!(client.backoff.failures(), 2, "the second and third call each fail once");
}

#[test]
fn malformed_response_is_retryable() {
    // There are no huge array lengths: the crate would allocate them, which aborts the process.
    for garbage in [&[][..], &[0xff; 3], &[0x00; 100], &[0xff; 100]] {
        let answer = move |(api, _), _| {
            if api == API_VERSIONS { versions(0) } else { Some(garbage.to_vec()) }
        };
        let err = client(&[broker(answer)]).leaders("t", Duration::ZERO).unwrap_err();
        assert_eq!(err.kind, ErrorKind::Retry, "{err}");
        let host = broker(move |_, _| Some(garbage.to_vec()));
        let err = client(&[host]).leaders("t", Duration::ZERO).unwrap_err();
        assert_eq!(err.kind, ErrorKind::Retry, "{err}");
    }
}

#[test]
fn backoff_applies_across_calls() {
    let probes = Arc::new(Mutex::new(Vec::new()));
    let probed = probes.clone();
    let host = broker(move |_, _| {
        probed.lock().unwrap().push(Instant::now());
        Some(Vec::new())
    });
    let mut client = client(&[host]);
    let record = NewRecord { value: Some(b"v"), ..NewRecord::default() };
    let batch = [Batch { topic: "t", partition: 0, records: vec![record] }];
    while probes.lock().unwrap().len() < 4 {
        client.leaders("t", Duration::from_millis(20)).unwrap_err();
        client.produce(&batch, Duration::from_millis(20)).remove(0).unwrap_err();
    }
    // The time of a probe is recorded shortly before its backoff begins.
    let waits: Vec<Duration> =
        probes.lock().unwrap().windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (wait, backoff_ms) in waits.iter().zip([100, 200, 400]) {
        assert!(*wait >= Duration::from_millis(backoff_ms), "{waits:?}");
    }
}

#[test]
fn large_batches_are_fetched_alone_in_turns() {
    let mut client = client(&[]);
    let positions: Vec<Position> =
        (0..4).map(|partition| Position { partition, next: 7 }).collect();
    let partitions =
        |positions: &[Position]| -> Vec<i32> { positions.iter().map(|it| it.partition).collect() };
    let next = |client: &mut KafkaCrateClient| {
        let (next, later) = client.next_positions("t", &positions);
        assert_eq!(next.len() + later.len(), positions.len());
        partitions(&next)
    };
    assert_eq!(next(&mut client), [0, 1, 2, 3]);
    for large in [1, 3] {
        client.repairs.insert(("t".to_owned(), large), FetchSize::Bytes(65537));
    }
    let fetched: Vec<Vec<i32>> = (0..6).map(|_| next(&mut client)).collect();
    assert_eq!(fetched, [vec![1], vec![0, 2], vec![3], vec![0, 2], vec![1], vec![0, 2]]);
    client.repairs.clear();
    assert_eq!(next(&mut client), [0, 1, 2, 3]);
}

#[test]
fn panic_in_the_crate_becomes_an_error() {
    let result: kafka::Result<()> = guarded(|| {
        assert!(panic_guard::is_guarded());
        panic!("in the crate");
    });
    assert!(!panic_guard::is_guarded());
    let (kind, _) = classify(Call::Produce, &result.unwrap_err());
    assert_eq!(kind, ErrorKind::Unknown);
}

#[test]
fn errors_are_classified_by_call() {
    use kafka::Error::{ArcSelf, Io, NoHostReachable, UnsupportedCompression};
    let io = |kind| Io(io::Error::from(kind));
    let code = |code| ArcSelf(Arc::new(kafka::Error::Kafka(code)));
    let eof = io::ErrorKind::UnexpectedEof;
    for (call, err, kind) in [
        (Call::Produce, io(eof), ErrorKind::Unknown),
        (Call::Fetch, io(eof), ErrorKind::Retry),
        (Call::Metadata, io(eof), ErrorKind::Retry),
        (Call::Produce, io(io::ErrorKind::ConnectionRefused), ErrorKind::Retry),
        (Call::Produce, NoHostReachable, ErrorKind::Retry),
        (Call::Fetch, UnsupportedCompression, ErrorKind::Undecodable),
        (Call::Fetch, io(io::ErrorKind::InvalidInput), ErrorKind::Undecodable),
        (Call::Produce, code(KafkaCode::MessageSizeTooLarge), ErrorKind::Message),
        (Call::Produce, code(KafkaCode::RequestTimedOut), ErrorKind::Unknown),
        (Call::Produce, code(KafkaCode::NotEnoughReplicas), ErrorKind::Retry),
        (Call::Produce, code(KafkaCode::NotEnoughReplicasAfterAppend), ErrorKind::Unknown),
        (Call::Fetch, code(KafkaCode::OffsetOutOfRange), ErrorKind::Position),
        (Call::Fetch, code(KafkaCode::CorruptMessage), ErrorKind::Undecodable),
        (Call::Fetch, code(KafkaCode::NotLeaderForPartition), ErrorKind::Retry),
        (Call::Produce, code(KafkaCode::TopicAuthorizationFailed), ErrorKind::Config),
    ] {
        assert_eq!(classify(call, &err).0, kind, "{call:?} {err:?}");
    }
}

#[test]
fn unknown_result_is_kept_until_a_final_one() {
    let error = |kind| Error { kind, code: 0, text: String::new() };
    let mut result: Result<i64> = Err(error(ErrorKind::Retry));
    for (next, kind) in [
        (ErrorKind::Retry, ErrorKind::Retry),
        (ErrorKind::Unknown, ErrorKind::Unknown),
        (ErrorKind::Retry, ErrorKind::Unknown),
        (ErrorKind::Message, ErrorKind::Message),
    ] {
        result.set_error(error(next));
        assert_eq!(result.as_ref().unwrap_err().kind, kind);
    }
}
