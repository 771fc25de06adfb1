//! The client with brokers that send malformed responses, do not respond or close connections.
#![allow(clippy::unwrap_used, reason = "tests")]

use crate::codec;
use crate::metadata::Cluster;
use crate::protocol::Request as OwnRequest;
use crate::protocol::messages::Fetch;
use crate::record_batch;
use crate::tests::fake::{Action, Incoming, broker, raw_broker};
use crate::{Batch, Compression, Error, ErrorKind, Mechanism, NewRecord, Position, Result, Sasl};
use crate::{Client, Config};
use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Encodable, Request, StrBytes};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

/// Time for retries that are expected to succeed.
const RETRY_TIME: Duration = Duration::from_secs(10);
/// Request timeout. A test waits this long for each unresponsive broker.
const TIMEOUT: Duration = Duration::from_secs(1);

fn topic_name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

fn config(brokers: &[&String]) -> Config {
    Config {
        brokers: brokers.iter().map(|it| (*it).clone()).collect(),
        timeout: TIMEOUT,
        fetch_bytes: 1 << 16,
        client_id: "test".to_owned(),
        ..Config::new(Vec::new())
    }
}

fn client(host: &String) -> Client {
    Client::new(&config(&[host]))
}

fn port_of(host: &str) -> u16 {
    host.rsplit_once(':').unwrap().1.parse().unwrap()
}

/// Topic "t": partition `i` is led by the broker at `leaders[i]`, whose id is its port.
fn metadata(leaders: &[u16]) -> MetadataResponse {
    let broker = |port: &u16| {
        MetadataResponseBroker::default()
            .with_node_id(BrokerId(i32::from(*port)))
            .with_host(StrBytes::from_static_str("127.0.0.1"))
            .with_port(i32::from(*port))
    };
    let partitions = (0..).zip(leaders).map(|(partition, port)| {
        MetadataResponsePartition::default()
            .with_partition_index(partition)
            .with_leader_id(BrokerId(i32::from(*port)))
    });
    MetadataResponse::default().with_brokers(leaders.iter().map(broker).collect()).with_topics(
        vec![
            MetadataResponseTopic::default()
                .with_name(Some(topic_name("t")))
                .with_partitions(partitions.collect()),
        ],
    )
}

/// The responses to Metadata and InitProducerId. `None` for all other requests.
fn default_response(incoming: &Incoming, leaders: &[u16]) -> Option<Action> {
    match incoming.key {
        MetadataRequest::KEY => Some(incoming.respond::<MetadataRequest>(&metadata(leaders))),
        InitProducerIdRequest::KEY => {
            let response = InitProducerIdResponse::default().with_producer_id(ProducerId(77));
            Some(incoming.respond::<InitProducerIdRequest>(&response))
        }
        _ => None,
    }
}

/// The response that names this broker as the group coordinator.
fn coordinator_at(incoming: &Incoming, port: u16) -> Action {
    let host = StrBytes::from_static_str("127.0.0.1");
    let response = FindCoordinatorResponse::default().with_host(host).with_port(i32::from(port));
    incoming.respond::<FindCoordinatorRequest>(&response)
}

#[test]
fn ipv6_coordinator_address_has_brackets() {
    let host = broker(|incoming, _| {
        let host = StrBytes::from_static_str("::1");
        let response = FindCoordinatorResponse::default().with_host(host).with_port(9092);
        incoming.respond::<FindCoordinatorRequest>(&response)
    });
    let coordinator = Cluster::new(&config(&[&host])).coordinator("g");
    assert_eq!(coordinator.unwrap(), "[::1]:9092");
}

fn leaders(host: &String) -> Result<Vec<i32>> {
    client(host).leaders("t", Duration::ZERO)
}

/// As during the start of a broker.
#[test]
fn failed_init_producer_id_is_retried_with_backoff() {
    let requests = Arc::new(AtomicUsize::new(0));
    let count = requests.clone();
    let host = broker(move |incoming, port| match incoming.key {
        InitProducerIdRequest::KEY => {
            count.fetch_add(1, Ordering::Relaxed);
            let code = ResponseError::CoordinatorLoadInProgress.code();
            let response = InitProducerIdResponse::default().with_error_code(code);
            incoming.respond::<InitProducerIdRequest>(&response)
        }
        _ => default_response(incoming, &[port]).expect("no other request is expected"),
    });
    let mut client = client(&host);
    let records = vec![NewRecord { value: Some(b"x"), ..NewRecord::default() }];
    let batch = [Batch { topic: "t", partition: 0, records }];
    // Callers that check for shutdown have short deadlines. A call that returned early would make
    // them repeat it in a loop without a pause.
    let slice = Duration::from_millis(50);
    for _ in 0..10 {
        let started = Instant::now();
        let result = client.produce(&batch, slice).remove(0);
        assert_eq!(result.unwrap_err().kind, ErrorKind::Retry);
        assert!(started.elapsed() >= slice, "{:?}", started.elapsed());
    }
    // The requests are sent after 0, 100, 300 and 700 ms.
    assert!((1..=4).contains(&requests.load(Ordering::Relaxed)), "{requests:?}");
}

#[test]
fn truncated_response_is_retryable() {
    let whole = Arc::new(AtomicUsize::new(0));
    for cut in 0.. {
        let length = whole.clone();
        let host = broker(move |incoming, port| {
            let response = incoming.response::<MetadataRequest>(&metadata(&[port]));
            length.store(response.len(), Ordering::Relaxed);
            Action::RespondAndClose(response[..cut.min(response.len())].to_vec())
        });
        let result = leaders(&host);
        if cut == whole.load(Ordering::Relaxed) {
            assert_eq!(result.unwrap(), [i32::from(port_of(&host))]);
            return;
        }
        assert_eq!(result.unwrap_err().kind, ErrorKind::Retry, "cut at {cut}");
    }
}

#[test]
fn truncated_api_versions_response_is_retryable() {
    for cut in 0..20 {
        let host = raw_broker(move |incoming, _| {
            let bytes = incoming.framed::<ApiVersionsRequest>(&[0; 12]);
            Action::RespondAndClose(bytes[..cut].to_vec())
        });
        assert_eq!(leaders(&host).unwrap_err().kind, ErrorKind::Retry, "cut at {cut}");
    }
}

#[test]
fn malformed_responses_are_refused_with_their_reason() {
    type Encode = fn(&Incoming) -> Vec<u8>;
    let malformed: [(&str, Encode); 6] = [
        ("response belongs to another request", |it| {
            let mut bytes = it.response::<MetadataRequest>(&metadata(&[1]));
            bytes[7] ^= 1;
            bytes
        }),
        ("response of 1213486160 bytes exceeds", |_| b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
        ("response of 4294967295 bytes exceeds", |_| vec![0xff; 4]),
        ("unreadable response to Metadata", |it| it.framed::<MetadataRequest>(&[0xff; 100])),
        // 4,294,967,294 brokers.
        ("unreadable response to Metadata", |it| {
            it.framed::<MetadataRequest>(&[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f])
        }),
        ("unreadable response to Metadata", |_| vec![0, 0, 0, 0]),
    ];
    for (expected, encode) in malformed {
        let host = broker(move |incoming, _| Action::Respond(encode(incoming)));
        let err = leaders(&host).unwrap_err();
        assert_eq!(err.kind, ErrorKind::Retry);
        assert!(err.text.contains(expected) && err.text.contains(&host), "{expected}: {err}");
    }
}

#[test]
fn late_response_is_not_matched_to_another_request() {
    let first = AtomicBool::new(true);
    let host = broker(move |incoming, port| {
        if first.swap(false, Ordering::Relaxed) {
            std::thread::sleep(2 * TIMEOUT);
            return incoming.respond::<MetadataRequest>(&metadata(&[port, port]));
        }
        incoming.respond::<MetadataRequest>(&metadata(&[port]))
    });
    let mut client = client(&host);
    let err = client.leaders("t", Duration::ZERO).unwrap_err();
    assert!(err.text.contains("timed out"), "{err}");
    assert_eq!(client.leaders("t", RETRY_TIME).unwrap().len(), 1);
}

#[test]
fn missing_api_version_is_named() {
    let host = raw_broker(|incoming, _| {
        // A broker closes the connection after an unsupported request.
        if incoming.key != ApiVersionsRequest::KEY {
            return Action::RespondAndClose(Vec::new());
        }
        let metadata = ApiVersion::default().with_api_key(MetadataRequest::KEY).with_max_version(5);
        let mut body = Vec::new();
        ApiVersionsResponse::default().with_api_keys(vec![metadata]).encode(&mut body, 0).unwrap();
        Action::Respond(incoming.framed::<ApiVersionsRequest>(&body))
    });
    let err = leaders(&host).unwrap_err();
    assert_eq!((err.kind, err.code), (ErrorKind::Config, 35));
    for part in [&host, "Metadata version 10", "versions 0 to 5", "Kafka 2.8 to 4.x"] {
        assert!(err.text.contains(part), "{part} in {err}");
    }
}

#[test]
fn unresponsive_broker_is_skipped() {
    let unresponsive = broker(|_, _| Action::Ignore);
    let host = broker(|incoming, port| default_response(incoming, &[port]).unwrap());
    let mut client = Client::new(&config(&[&unresponsive, &host]));
    assert_eq!(client.leaders("t", Duration::ZERO).unwrap(), [i32::from(port_of(&host))]);
    // Now the unresponsive broker is tried last.
    let start = Instant::now();
    client.leaders("t", Duration::ZERO).unwrap();
    assert!(start.elapsed() < TIMEOUT);
}

#[test]
fn closed_idle_connection_is_replaced_silently() {
    let closing = AtomicBool::new(true);
    let host = broker(move |incoming, port| {
        let response = incoming.response::<MetadataRequest>(&metadata(&[port]));
        if closing.swap(false, Ordering::Relaxed) {
            Action::RespondAndClose(response)
        } else {
            Action::Respond(response)
        }
    });
    let mut client = client(&host);
    client.leaders("t", Duration::ZERO).unwrap();
    std::thread::sleep(Duration::from_millis(1100)); // Longer than IDLE.
    client.leaders("t", Duration::ZERO).unwrap();
}

#[test]
fn throttle_time_is_obeyed() {
    let throttled = metadata(&[1]).with_throttle_time_ms(250);
    let host = broker(move |incoming, _| incoming.respond::<MetadataRequest>(&throttled));
    let mut client = client(&host);
    let start = Instant::now();
    client.leaders("t", RETRY_TIME).unwrap();
    client.leaders("t", RETRY_TIME).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(250));
}

#[test]
fn shutdown_ends_the_wait_for_a_broker() {
    let unresponsive = broker(|_, _| Action::Ignore);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let config = Config {
        timeout: RETRY_TIME,
        shutdown: Some(Arc::new(move || stopped.load(Ordering::Relaxed))),
        ..config(&[&unresponsive])
    };
    let mut client = Client::new(&config);
    stop.store(true, Ordering::Relaxed);
    let start = Instant::now();
    client.leaders("t", Duration::ZERO).unwrap_err();
    assert!(start.elapsed() < RETRY_TIME / 2, "{:?}", start.elapsed());
}

fn value(value: &str) -> NewRecord<'_> {
    NewRecord { value: Some(value.as_bytes()), ..NewRecord::default() }
}

fn batch<'a>(partition: i32, records: &[&'a str]) -> Batch<'a> {
    Batch { topic: "t", partition, records: records.iter().map(|it| value(it)).collect() }
}

/// A log that deduplicates batches by producer id, epoch and sequence, like the log of a broker.
#[derive(Default)]
struct Log {
    values: Vec<String>,
    sequences: HashMap<(i64, i16), Vec<(i32, i64)>>,
}

impl Log {
    /// Returns the error code and the base offset.
    fn append(&mut self, bytes: &[u8]) -> (i16, i64) {
        let number = |place: usize| i64::from_be_bytes(bytes[place..place + 8].try_into().unwrap());
        let (producer, epoch) = (number(43), i16::from_be_bytes(bytes[51..53].try_into().unwrap()));
        let sequence = i32::from_be_bytes(bytes[53..57].try_into().unwrap());
        let known = self.sequences.entry((producer, epoch)).or_default();
        if let Some((_, offset)) = known.iter().find(|(it, _)| *it == sequence) {
            return (0, *offset);
        }
        let decoded = record_batch::decode(bytes, 0, Vec::new(), &mut (1 << 20), 1 << 20);
        let expected = known.iter().map(|(sequence, _)| sequence).max();
        let in_order = expected.map_or(sequence == 0, |last| sequence > *last);
        if !in_order {
            return (45, -1);
        }
        let offset = self.values.len() as i64;
        known.push((sequence, offset));
        let text = |bytes: Option<Vec<u8>>| String::from_utf8(bytes.unwrap()).unwrap();
        self.values.extend(decoded.records.into_iter().map(|it| text(it.value)));
        (0, offset)
    }
}

fn produced(incoming: &Incoming, results: &[(i32, i16, i64)]) -> Vec<u8> {
    let partition = |&(partition, code, offset): &(i32, i16, i64)| {
        PartitionProduceResponse::default()
            .with_index(partition)
            .with_error_code(code)
            .with_base_offset(offset)
    };
    incoming.response::<ProduceRequest>(&ProduceResponse::default().with_responses(vec![
        TopicProduceResponse::default()
            .with_name(topic_name("t"))
            .with_partition_responses(results.iter().map(partition).collect()),
    ]))
}

/// The batches of a request, by partition.
fn batches_of(request: &ProduceRequest) -> Vec<(i32, Bytes)> {
    let partitions = request.topic_data.iter().flat_map(|it| &it.partition_data);
    partitions.map(|it| (it.index, it.records.clone().unwrap())).collect()
}

/// A broker with a log for partition 0; `respond` can change its responses.
fn logging(
    respond: impl Fn(usize, Vec<u8>) -> Action + Send + Sync + 'static,
) -> (String, Arc<Mutex<Log>>) {
    let log = Arc::new(Mutex::new(Log::default()));
    let (kept, calls) = (log.clone(), AtomicUsize::new(0));
    let host = broker(move |incoming, port| {
        default_response(incoming, &[port]).unwrap_or_else(|| {
            let request: ProduceRequest = incoming.read().unwrap();
            assert_eq!(request.acks, -1);
            let results: Vec<(i32, i16, i64)> = batches_of(&request)
                .iter()
                .map(|(partition, bytes)| {
                    let (code, offset) = kept.lock().unwrap().append(bytes);
                    (*partition, code, offset)
                })
                .collect();
            respond(calls.fetch_add(1, Ordering::Relaxed), produced(incoming, &results))
        })
    });
    (host, log)
}

#[test]
fn batch_with_lost_response_is_written_once() {
    // Three responses are lost: one is truncated, one times out, and one is truncated again.
    let (host, log) = logging(|call, response| match call {
        1 | 3 => Action::RespondAndClose(response[..7].to_vec()),
        2 => Action::Ignore,
        _ => Action::Respond(response),
    });
    let mut client = client(&host);
    assert_eq!(client.produce(&[batch(0, &["a", "b"])], RETRY_TIME)[0].clone().unwrap(), 0);
    let mut unknown = 0;
    let offset = loop {
        match client.produce(&[batch(0, &["c", "d"])], Duration::ZERO).remove(0) {
            Ok(offset) => break offset,
            Err(err) => unknown += usize::from(err.kind == ErrorKind::Unknown),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!((offset, unknown > 0), (2, true));
    assert_eq!(client.produce(&[batch(0, &["e"])], RETRY_TIME)[0].clone().unwrap(), 4);
    assert_eq!(log.lock().unwrap().values, ["a", "b", "c", "d", "e"]);
}

#[test]
fn compressed_batch_is_retried_unchanged() {
    for (name, compression) in Compression::ALL {
        let sent = Arc::new(Mutex::new(Vec::new()));
        let seen = sent.clone();
        let host = broker(move |incoming, port| {
            default_response(incoming, &[port]).unwrap_or_else(|| {
                let (_, bytes) = batches_of(&incoming.read().unwrap()).remove(0);
                let mut sent = seen.lock().unwrap();
                sent.push(bytes);
                match sent.len() {
                    1 => Action::RespondAndClose(Vec::new()),
                    _ => Action::Respond(produced(incoming, &[(0, 0, 0)])),
                }
            })
        });
        let mut client = Client::new(&Config { compression, ..config(&[&host]) });
        let text = "many times ".repeat(100);
        let result = client.produce(&[batch(0, &[&text])], RETRY_TIME).remove(0);
        if let Err(expected) = codec::compress(compression, &[]) {
            let err = result.unwrap_err();
            assert_eq!((err.kind, err.text), (ErrorKind::Config, expected));
            continue;
        }
        assert_eq!(result.unwrap(), 0, "{name}");
        let sent = sent.lock().unwrap();
        assert_eq!((sent.len(), &sent[0]), (2, &sent[1]), "{name}");
        assert_eq!(sent[0].len() < text.len(), compression != Compression::None, "{name}");
    }
}

#[test]
fn different_batch_after_unknown_result_starts_an_epoch() {
    let (host, log) = logging(|call, response| match call {
        0 => Action::RespondAndClose(Vec::new()),
        _ => Action::Respond(response),
    });
    let mut client = client(&host);
    let unknown = client.produce(&[batch(0, &["a"])], Duration::ZERO).remove(0);
    assert_eq!(unknown.unwrap_err().kind, ErrorKind::Unknown);
    assert_eq!(client.produce(&[batch(0, &["b"])], RETRY_TIME)[0].clone().unwrap(), 1);
    assert_eq!(log.lock().unwrap().values, ["a", "b"]);
}

#[test]
fn lost_producer_state_starts_an_epoch() {
    let (host, log) = logging(|_, response| Action::Respond(response));
    let mut client = client(&host);
    client.produce(&[batch(0, &["a"])], RETRY_TIME)[0].clone().unwrap();
    // The broker has lost its log, so that sequence 1 follows no batch.
    *log.lock().unwrap() = Log::default();
    assert_eq!(client.produce(&[batch(0, &["b"])], RETRY_TIME)[0].clone().unwrap(), 0);
    assert_eq!(log.lock().unwrap().values, ["b"]);
}

/// The brokers are those of a new cluster, which assigns producer ids from the beginning.
#[test]
fn recreated_topic_gets_another_producer_id() {
    let log = Arc::new(Mutex::new(Log::default()));
    let (kept, topics, ids) = (log.clone(), Arc::new(AtomicUsize::new(1)), AtomicUsize::new(77));
    let created = topics.clone();
    let host = broker(move |incoming, port| match incoming.key {
        MetadataRequest::KEY => {
            let mut response = metadata(&[port]);
            let id = created.load(Ordering::Relaxed) as u128;
            response.topics[0].topic_id = uuid::Uuid::from_u128(id);
            incoming.respond::<MetadataRequest>(&response)
        }
        InitProducerIdRequest::KEY => {
            let id = ProducerId(ids.fetch_add(1, Ordering::Relaxed) as i64);
            let response = InitProducerIdResponse::default().with_producer_id(id);
            incoming.respond::<InitProducerIdRequest>(&response)
        }
        _ => {
            let (partition, bytes) = batches_of(&incoming.read().unwrap()).remove(0);
            let (code, offset) = kept.lock().unwrap().append(&bytes);
            Action::RespondAndClose(produced(incoming, &[(partition, code, offset)]))
        }
    });
    let mut client = client(&host);
    for value in ["a", "b"] {
        client.produce(&[batch(0, &[value])], RETRY_TIME)[0].clone().unwrap();
    }
    let producers = || log.lock().unwrap().sequences.keys().copied().collect::<Vec<_>>();
    assert_eq!(producers(), [(77, 0)], "the same topic, at another connection");
    *log.lock().unwrap() = Log::default();
    topics.store(2, Ordering::Relaxed);
    assert_eq!(client.produce(&[batch(0, &["c"])], RETRY_TIME)[0].clone().unwrap(), 0);
    assert_eq!((producers(), &*log.lock().unwrap().values), (vec![(78, 0)], &["c".to_owned()][..]));
}

#[test]
fn refused_batch_leaves_no_sequence_gap() {
    let refused = AtomicBool::new(true);
    let (host, log) = logging(|_, response| Action::Respond(response));
    drop((host, log));
    let log = Arc::new(Mutex::new(Log::default()));
    let kept = log.clone();
    let host = broker(move |incoming, port| {
        default_response(incoming, &[port]).unwrap_or_else(|| {
            let (_, bytes) = batches_of(&incoming.read().unwrap()).remove(0);
            let (code, offset) = if refused.swap(false, Ordering::Relaxed) {
                (10, -1)
            } else {
                kept.lock().unwrap().append(&bytes)
            };
            Action::Respond(produced(incoming, &[(0, code, offset)]))
        })
    });
    let mut client = client(&host);
    let results = client.produce(&[batch(0, &["a", "b"])], RETRY_TIME);
    assert_eq!(results[0].as_ref().unwrap_err().kind, ErrorKind::Message);
    for half in ["a", "b"] {
        client.produce(&[batch(0, &[half])], RETRY_TIME)[0].clone().unwrap();
    }
    let log = log.lock().unwrap();
    assert_eq!(
        (log.values.clone(), log.sequences.len()),
        (vec!["a".to_owned(), "b".to_owned()], 1)
    );
}

#[test]
fn produce_error_codes_are_classified() {
    for (code, kind) in [
        (10, ErrorKind::Message),
        (87, ErrorKind::Message),
        (29, ErrorKind::Config),
        (17, ErrorKind::Config),
        (6, ErrorKind::Retry),
        (19, ErrorKind::Retry),
        (20, ErrorKind::Unknown),
        (7, ErrorKind::Unknown),
        (9999, ErrorKind::Retry),
    ] {
        let host = broker(move |incoming, port| {
            default_response(incoming, &[port])
                .unwrap_or_else(|| Action::Respond(produced(incoming, &[(0, code, -1)])))
        });
        let err = client(&host).produce(&[batch(0, &["a"])], Duration::ZERO).remove(0).unwrap_err();
        assert_eq!((err.kind, err.code), (kind, code), "{err}");
    }
}

#[test]
fn unresponsive_leader_delays_only_its_partitions() {
    let unresponsive = broker(|_, _| Action::Ignore);
    let port = port_of(&unresponsive);
    let host = broker(move |incoming, own| {
        default_response(incoming, &[port, own])
            .unwrap_or_else(|| Action::Respond(produced(incoming, &[(1, 0, 5)])))
    });
    let mut client = client(&host);
    let results = client.produce(&[batch(0, &["a"]), batch(1, &["b"])], Duration::ZERO);
    assert_eq!(results[0].as_ref().unwrap_err().kind, ErrorKind::Unknown);
    assert_eq!(results[1].clone().unwrap(), 5);
    // During its backoff, only the other leader receives a request.
    let start = Instant::now();
    let results = client.produce(&[batch(0, &["a"]), batch(1, &["c"])], Duration::ZERO);
    assert!(results[0].is_err() && results[1].is_ok());
    assert!(start.elapsed() < TIMEOUT, "{:?}", start.elapsed());
}

#[test]
fn quota_delays_only_its_broker() {
    let throttling = broker(|incoming, _| {
        let topic = TopicProduceResponse::default()
            .with_name(topic_name("t"))
            .with_partition_responses(vec![PartitionProduceResponse::default()]);
        let response = ProduceResponse::default().with_throttle_time_ms(60_000);
        incoming.respond::<ProduceRequest>(&response.with_responses(vec![topic]))
    });
    let port = port_of(&throttling);
    let host = broker(move |incoming, own| {
        default_response(incoming, &[port, own])
            .unwrap_or_else(|| Action::Respond(produced(incoming, &[(1, 0, 5)])))
    });
    let mut client = client(&host);
    let both = [batch(0, &["a"]), batch(1, &["b"])];
    assert!(client.produce(&both, RETRY_TIME).iter().all(Result::is_ok));
    let results = client.produce(&both, Duration::from_millis(200));
    let err = results[0].as_ref().unwrap_err();
    assert!(err.kind == ErrorKind::Retry && err.text.contains("quota"), "{err}");
    assert_eq!(results[1].clone().unwrap(), 5);
}

#[test]
fn backoff_applies_across_calls() {
    // NOT_LEADER_OR_FOLLOWER from Produce, and COORDINATOR_LOAD_IN_PROGRESS from InitProducerId.
    for failing in [ProduceRequest::KEY, InitProducerIdRequest::KEY] {
        let tries = Arc::new(Mutex::new(Vec::new()));
        let tried = tries.clone();
        let host = broker(move |incoming, port| {
            if incoming.key == failing {
                tried.lock().unwrap().push(Instant::now());
            }
            match incoming.key {
                InitProducerIdRequest::KEY if incoming.key == failing => {
                    let response = InitProducerIdResponse::default().with_error_code(14);
                    incoming.respond::<InitProducerIdRequest>(&response)
                }
                ProduceRequest::KEY => Action::Respond(produced(incoming, &[(0, 6, -1)])),
                _ => default_response(incoming, &[port]).unwrap(),
            }
        });
        let mut client = client(&host);
        while tries.lock().unwrap().len() < 4 {
            client.produce(&[batch(0, &["a"])], Duration::from_millis(20))[0].clone().unwrap_err();
        }
        let waits: Vec<Duration> =
            tries.lock().unwrap().windows(2).map(|pair| pair[1] - pair[0]).collect();
        for (wait, backoff_ms) in waits.iter().zip([100, 200, 400]) {
            assert!(*wait >= Duration::from_millis(backoff_ms), "{failing}: {waits:?}");
        }
    }
}

fn fetched(incoming: &Incoming, parts: Vec<PartitionData>) -> Action {
    incoming.respond::<FetchRequest>(&FetchResponse::default().with_responses(vec![
        FetchableTopicResponse::default().with_topic(topic_name("t")).with_partitions(parts),
    ]))
}

/// One record at `offset`.
fn part(partition: i32, offset: i64) -> PartitionData {
    let records = record_batch::encode_records(&[value("x")]);
    let sequence =
        record_batch::BatchSequence { producer_id: -1, producer_epoch: -1, base_sequence: -1 };
    let mut bytes =
        record_batch::encode(&records, 1, 0, sequence, Compression::None).unwrap().to_vec();
    bytes[..8].copy_from_slice(&offset.to_be_bytes());
    PartitionData::default()
        .with_partition_index(partition)
        .with_high_watermark(offset + 1)
        .with_records(Some(Bytes::from(bytes)))
}

/// The partitions and fetch offsets of a request.
fn positions_of(request: &FetchRequest) -> Vec<(i32, i64)> {
    let partitions = request.topics.iter().flat_map(|it| &it.partitions);
    partitions.map(|it| (it.partition, it.fetch_offset)).collect()
}

fn at(positions: &[(i32, i64)]) -> Vec<Position> {
    positions.iter().map(|&(partition, next)| Position { partition, next }).collect()
}

fn kinds(data: &[crate::PartitionData]) -> Vec<Option<ErrorKind>> {
    let kind = |err: &Error| err.kind;
    data.iter().map(|it| it.error.as_ref().map(kind)).collect()
}

#[test]
fn unresponsive_leader_does_not_delay_other_fetches() {
    let unresponsive = broker(|_, _| Action::Ignore);
    let port = port_of(&unresponsive);
    let host = broker(move |incoming, own| {
        default_response(incoming, &[port, own]).unwrap_or_else(|| {
            let (_, offset) = positions_of(&incoming.read().unwrap())[0];
            fetched(incoming, vec![part(1, offset)])
        })
    });
    let mut client = client(&host);
    let mut next = 0;
    let (start, mut longest, mut errors) = (Instant::now(), Duration::ZERO, 0);
    while errors < 2 {
        assert!(start.elapsed() < 3 * RETRY_TIME);
        let call = Instant::now();
        let data = client.fetch("t", &at(&[(0, 0), (1, next)]), TIMEOUT).unwrap();
        longest = longest.max(call.elapsed());
        errors += usize::from(data[0].error.is_some());
        next = data[1].next;
    }
    // Two timeouts have passed. A client that waited for both brokers would have two records.
    assert!(next > 20, "{next} records");
    assert!(longest < TIMEOUT, "{longest:?}");
}

#[test]
fn pending_fetch_is_kept_and_stale_data_dropped() {
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let requests = Arc::new(AtomicUsize::new(0));
    let count = requests.clone();
    let host = broker(move |incoming, port| {
        default_response(incoming, &[port]).unwrap_or_else(|| {
            count.fetch_add(1, Ordering::Relaxed);
            released.lock().unwrap().recv().unwrap();
            let (partition, offset) = positions_of(&incoming.read().unwrap())[0];
            fetched(incoming, vec![part(partition, offset)])
        })
    });
    let mut client = client(&host);
    let short = Duration::from_millis(30);
    for _ in 0..3 {
        let data = client.fetch("t", &at(&[(0, 0)]), short).unwrap();
        assert_eq!((data[0].next, kinds(&data)), (0, vec![None]));
    }
    assert_eq!(requests.load(Ordering::Relaxed), 1);
    release.send(()).unwrap();
    release.send(()).unwrap();
    // The caller seeks, so that the response for offset 0 is stale.
    let start = Instant::now();
    let mut next = 40;
    while next == 40 && start.elapsed() < RETRY_TIME {
        next = client.fetch("t", &at(&[(0, next)]), short).unwrap()[0].next;
    }
    assert_eq!((next, requests.load(Ordering::Relaxed)), (41, 2));
}

#[test]
fn partitions_of_a_fetch_have_separate_errors() {
    let host = broker(|incoming, port| {
        default_response(incoming, &[port; 4]).unwrap_or_else(|| {
            let mut corrupt = part(2, 0);
            corrupt.records = Some(Bytes::from(vec![9; 80]));
            fetched(
                incoming,
                vec![
                    part(0, 0),
                    PartitionData::default().with_partition_index(1).with_error_code(1),
                    corrupt,
                    PartitionData::default().with_partition_index(3).with_error_code(6),
                ],
            )
        })
    });
    let data = client(&host).fetch("t", &at(&[(0, 0), (1, 0), (2, 0), (3, 0)]), TIMEOUT).unwrap();
    assert_eq!(
        kinds(&data),
        [None, Some(ErrorKind::Position), Some(ErrorKind::Undecodable), Some(ErrorKind::Retry)]
    );
    assert_eq!((data[0].next, data[0].end, data[0].records.len()), (1, 1, 1));
}

#[test]
fn oversized_response_is_traced_to_its_partition() {
    let host = broker(|incoming, port| {
        default_response(incoming, &[port; 3]).unwrap_or_else(|| {
            let requested = positions_of(&incoming.read().unwrap());
            if requested.iter().any(|(partition, _)| *partition == 1) {
                return Action::Respond(
                    (Fetch::SPEC.response_bytes_max as u32 + 1).to_be_bytes().to_vec(),
                );
            }
            fetched(incoming, requested.into_iter().map(|(it, offset)| part(it, offset)).collect())
        })
    });
    let mut client = client(&host);
    let mut next = [0; 3];
    let mut undecodable = 0;
    let start = Instant::now();
    while undecodable == 0 || next[0] == 0 || next[2] == 0 {
        assert!(start.elapsed() < RETRY_TIME);
        let positions = at(&[(0, next[0]), (1, next[1]), (2, next[2])]);
        for data in client.fetch("t", &positions, TIMEOUT).unwrap() {
            next[data.partition as usize] = data.next;
            if data.error.is_some_and(|err| err.kind == ErrorKind::Undecodable) {
                assert_eq!(data.partition, 1);
                undecodable += 1;
            }
        }
    }
}

#[test]
fn commit_missing_in_the_response_is_retryable() {
    for (partition, code, kind) in [
        (0, 0, None),
        (1, 0, Some(ErrorKind::Retry)),
        (0, 25, Some(ErrorKind::Fenced)),
        (0, 16, Some(ErrorKind::Retry)),
    ] {
        let host = broker(move |incoming, port| {
            default_response(incoming, &[port]).unwrap_or_else(|| match incoming.key {
                FindCoordinatorRequest::KEY => coordinator_at(incoming, port),
                _ => incoming.respond::<OffsetCommitRequest>(
                    &OffsetCommitResponse::default().with_topics(vec![
                        OffsetCommitResponseTopic::default()
                            .with_name(topic_name("t"))
                            .with_partitions(vec![
                                OffsetCommitResponsePartition::default()
                                    .with_partition_index(partition)
                                    .with_error_code(code),
                            ]),
                    ]),
                ),
            })
        });
        let result = client(&host).commit("g", "t", &at(&[(0, 3)]), Duration::ZERO);
        assert_eq!(result.err().map(|err| err.kind), kind, "{partition} {code}");
    }
}

fn sasl(mechanism: Mechanism) -> Option<Sasl> {
    Some(Sasl { mechanism, user: "ann".to_owned(), password: "hunter2".to_owned() })
}

/// Starts a broker that responds to SaslHandshake with `code` and to SaslAuthenticate with
/// `script`.
fn authenticating(
    code: i16,
    script: impl Fn(&[u8]) -> SaslAuthenticateResponse + Send + Sync + 'static,
) -> String {
    broker(move |incoming, port| match incoming.key {
        SaslHandshakeRequest::KEY => {
            let mechanisms = vec![StrBytes::from_static_str("GSSAPI")];
            let response = SaslHandshakeResponse::default().with_mechanisms(mechanisms);
            incoming.respond::<SaslHandshakeRequest>(&response.with_error_code(code))
        }
        SaslAuthenticateRequest::KEY => {
            let request: SaslAuthenticateRequest = incoming.read().unwrap();
            incoming.respond::<SaslAuthenticateRequest>(&script(&request.auth_bytes))
        }
        _ => default_response(incoming, &[port]).unwrap(),
    })
}

fn leaders_as(host: &String, mechanism: Mechanism) -> Result<Vec<i32>> {
    let config = Config { sasl: sasl(mechanism), ..config(&[host]) };
    Client::new(&config).leaders("t", RETRY_TIME)
}

#[test]
fn authenticates_and_reauthenticates_after_session_expiry() {
    let first = AtomicBool::new(true);
    let order = Arc::new(Mutex::new(Vec::new()));
    let seen = order.clone();
    let host = broker(move |incoming, port| {
        seen.lock().unwrap().push(incoming.key);
        match incoming.key {
            SaslHandshakeRequest::KEY => {
                incoming.respond::<SaslHandshakeRequest>(&SaslHandshakeResponse::default())
            }
            SaslAuthenticateRequest::KEY => {
                let request: SaslAuthenticateRequest = incoming.read().unwrap();
                assert_eq!(&request.auth_bytes[..], b"\0ann\0hunter2");
                // The first session expires immediately.
                let lifetime_ms = i64::from(first.swap(false, Ordering::Relaxed));
                incoming.respond::<SaslAuthenticateRequest>(
                    &SaslAuthenticateResponse::default().with_session_lifetime_ms(lifetime_ms),
                )
            }
            _ => default_response(incoming, &[port]).unwrap(),
        }
    });
    let mut client = Client::new(&Config { sasl: sasl(Mechanism::Plain), ..config(&[&host]) });
    client.leaders("t", RETRY_TIME).unwrap();
    std::thread::sleep(Duration::from_millis(2));
    client.leaders("t", RETRY_TIME).unwrap();
    client.leaders("t", RETRY_TIME).unwrap();
    assert_eq!(*order.lock().unwrap(), [17, 36, 3, 17, 36, 3, 3]);
}

#[test]
fn refused_authentication_is_not_retried() {
    let refusing = |code| {
        move |_: &[u8]| {
            let expected = StrBytes::from_static_str("Authentication failed: Invalid username");
            let response = SaslAuthenticateResponse::default().with_error_code(code);
            response.with_error_message(Some(expected))
        }
    };
    for (host, expected) in [
        (authenticating(33, refusing(0)), "SASL mechanism PLAIN is not enabled, only \"GSSAPI\""),
        (authenticating(34, refusing(0)), "no SASL is configured on this port"),
        (authenticating(0, refusing(58)), "user \"ann\", SASL PLAIN: Authentication failed: Inv"),
    ] {
        let err = leaders_as(&host, Mechanism::Plain).unwrap_err();
        assert_eq!((err.kind, err.code), (ErrorKind::Config, 58), "{err}");
        assert!(err.text.contains(expected) && err.text.contains(&host), "{expected}: {err}");
        assert!(!err.text.contains("hunter2"), "{err}");
    }
}

#[test]
#[cfg(feature = "scram")]
fn broker_with_invalid_server_signature_is_refused() {
    let host = authenticating(0, |message| {
        let message = std::str::from_utf8(message).unwrap();
        let response = match message.strip_prefix("n,,n=ann,r=") {
            Some(nonce) => format!("r={nonce}more,s=c2FsdA==,i=4096"),
            None => {
                assert!(message.starts_with("c=biws,r="), "{message}");
                "v=bm90aGluZw==".to_owned()
            }
        };
        SaslAuthenticateResponse::default().with_auth_bytes(response.into_bytes().into())
    });
    for mechanism in [Mechanism::ScramSha256, Mechanism::ScramSha512] {
        let err = leaders_as(&host, mechanism).unwrap_err();
        assert_eq!(err.kind, ErrorKind::Config, "{err}");
        assert!(err.text.contains("cannot prove that it knows the password"), "{err}");
    }
}

#[test]
fn connection_closed_on_first_request_suggests_sasl() {
    let host = broker(|_, _| Action::RespondAndClose(Vec::new()));
    let err = leaders(&host).unwrap_err();
    assert!(
        err.kind == ErrorKind::Retry && err.text.contains("does this port require SASL"),
        "{err}"
    );
}

/// A group coordinator with one member, and the requests that it received.
#[derive(Default)]
struct Coordinator {
    generation: i32,
    /// Member ids of JoinGroup and LeaveGroup.
    joined: Vec<String>,
    left: Vec<String>,
    /// Member ids and generations of OffsetCommit.
    committed: Vec<(String, i32)>,
    /// Error code of the next commit.
    commit_code: i16,
}

fn coordinating(coordinator: &Arc<Mutex<Coordinator>>) -> String {
    let shared = coordinator.clone();
    broker(move |incoming, port| {
        let mut it = shared.lock().unwrap();
        let id = |text: &str| StrBytes::from_string(text.to_owned());
        match incoming.key {
            FindCoordinatorRequest::KEY => coordinator_at(incoming, port),
            JoinGroupRequest::KEY => {
                let request: JoinGroupRequest = incoming.read().unwrap();
                it.joined.push(request.member_id.to_string());
                let response = JoinGroupResponse::default().with_member_id(id("m"));
                let response = if request.member_id.is_empty() {
                    response.with_error_code(79)
                } else {
                    it.generation += 1;
                    let metadata = request.protocols[0].metadata.clone();
                    let member = JoinGroupResponseMember::default().with_member_id(id("m"));
                    response
                        .with_generation_id(it.generation)
                        .with_leader(id("m"))
                        .with_members(vec![member.with_metadata(metadata)])
                };
                incoming.respond::<JoinGroupRequest>(&response)
            }
            SyncGroupRequest::KEY => {
                let request: SyncGroupRequest = incoming.read().unwrap();
                let assignment = request.assignments[0].assignment.clone();
                let response = SyncGroupResponse::default().with_assignment(assignment);
                incoming.respond::<SyncGroupRequest>(&response)
            }
            LeaveGroupRequest::KEY => {
                let request: LeaveGroupRequest = incoming.read().unwrap();
                it.left.extend(request.members.iter().map(|it| it.member_id.to_string()));
                incoming.respond::<LeaveGroupRequest>(&LeaveGroupResponse::default())
            }
            OffsetCommitRequest::KEY => {
                let request: OffsetCommitRequest = incoming.read().unwrap();
                let generation = request.generation_id_or_member_epoch;
                it.committed.push((request.member_id.to_string(), generation));
                let done = OffsetCommitResponsePartition::default();
                let done = done.with_error_code(std::mem::take(&mut it.commit_code));
                incoming.respond::<OffsetCommitRequest>(
                    &OffsetCommitResponse::default().with_topics(vec![
                        OffsetCommitResponseTopic::default()
                            .with_name(topic_name("t"))
                            .with_partitions(vec![done]),
                    ]),
                )
            }
            _ => default_response(incoming, &[port, port]).unwrap(),
        }
    })
}

#[test]
fn member_commits_until_fenced_and_rejoins() {
    let coordinator = Arc::new(Mutex::new(Coordinator::default()));
    let host = coordinating(&coordinator);
    let mut client = client(&host);
    let commit = |client: &mut Client| client.commit("g", "t", &at(&[(0, 3)]), Duration::ZERO);
    let set_commit_code = |code| coordinator.lock().unwrap().commit_code = code;
    let both: Vec<(String, i32)> = [0, 1].map(|it| ("t".to_owned(), it)).into();

    // Without a membership, generation -1 is sent.
    commit(&mut client).unwrap();
    let assignment = client.poll_assignment("g", &["t"], RETRY_TIME).unwrap();
    assert_eq!((assignment.generation, &assignment.partitions), (1, &both));
    commit(&mut client).unwrap();
    assert_eq!(
        client.poll_assignment("g", &["t"], RETRY_TIME).unwrap(),
        assignment,
        "no request is sent"
    );

    // ILLEGAL_GENERATION
    set_commit_code(22);
    assert_eq!(commit(&mut client).unwrap_err().kind, ErrorKind::Fenced);
    assert_eq!(commit(&mut client).unwrap_err().kind, ErrorKind::Fenced, "no request is sent");
    let assignment = client.poll_assignment("g", &["t"], RETRY_TIME).unwrap();
    assert_eq!((assignment.generation, &assignment.partitions), (2, &both));
    commit(&mut client).unwrap();

    // UNKNOWN_MEMBER_ID
    set_commit_code(25);
    assert_eq!(commit(&mut client).unwrap_err().kind, ErrorKind::Fenced);
    assert_eq!(client.poll_assignment("g", &["t"], RETRY_TIME).unwrap().generation, 3);
    client.leave("g").unwrap();
    commit(&mut client).unwrap();

    let it = coordinator.lock().unwrap();
    assert_eq!(it.joined, ["", "m", "m", "", "m"]);
    assert_eq!(it.left, ["m"]);
    let generations: Vec<i32> = it.committed.iter().map(|(_, it)| *it).collect();
    assert_eq!(generations, [-1, 1, 1, 2, 2, -1]);
    assert!(it.committed.iter().all(|(id, generation)| (id == "m") == (*generation >= 0)));
}

#[test]
fn failed_join_returns_its_reason() {
    for (code, kind) in [(23, ErrorKind::Config), (30, ErrorKind::Config), (15, ErrorKind::Retry)] {
        let host = broker(move |incoming, port| match incoming.key {
            FindCoordinatorRequest::KEY => coordinator_at(incoming, port),
            JoinGroupRequest::KEY => {
                let response = JoinGroupResponse::default().with_error_code(code);
                incoming.respond::<JoinGroupRequest>(&response)
            }
            _ => default_response(incoming, &[port]).unwrap(),
        });
        let mut client = client(&host);
        let err = client.poll_assignment("g", &["t"], Duration::ZERO).unwrap_err();
        assert_eq!((err.kind, err.code), (kind, code), "{err}");
        assert!(err.text.contains("join group g"), "{err}");
    }
}

#[test]
fn unresolvable_advertised_address_is_named() {
    let host = broker(|incoming, port| {
        let mut response = metadata(&[port]);
        response.brokers[0].host = StrBytes::from_static_str("no-such-broker.invalid");
        incoming.respond::<MetadataRequest>(&response)
    });
    let advertised =
        format!("no-such-broker.invalid:{0}, which broker {0} advertises", port_of(&host));
    let mut client = client(&host);
    let position = [Position { partition: 0, next: 0 }];
    let errors = [
        client.log_range("t", Duration::ZERO).unwrap_err(),
        client.fetch("t", &position, TIMEOUT).unwrap().remove(0).error.unwrap(),
    ];
    for err in errors {
        assert_eq!(err.kind, ErrorKind::Retry);
        for part in [&advertised, "look up the address", "advertised.listeners"] {
            assert!(err.text.contains(part), "{part} in {err}");
        }
    }
}
