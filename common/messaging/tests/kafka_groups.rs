//! Tests of consumer groups (classic protocol) with a real Kafka cluster, with members of the Java
//! client, and with Kafka's command-line tool.

#![allow(clippy::unwrap_used, reason = "tests")]

mod kafka_support;

use kafka_support::members::{Member, shared};
use kafka_support::{
    PATIENCE, built_in, client, config, java, java_client, numbered, output_of, producer_config,
    topic,
};
use messaging::producer::Sender;
use messaging::{ErrorKind, Position};
use service::shutdown::Shutdown;
use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

const PARTITIONS: i32 = 6;

/// Describes the group with Kafka's command-line tool. Returns a map of columns for each line.
fn tool(group: &str, more: &[&str]) -> Vec<BTreeMap<String, String>> {
    let brokers = config().brokers.join(",");
    let args = ["--bootstrap-server", &brokers, "--describe", "--group", group];
    let mut tool = java("org.apache.kafka.tools.consumer.group.ConsumerGroupCommand".as_ref());
    tool.args(args).args(more);
    let output = output_of(tool);
    let mut lines = output.lines().filter(|line| !line.trim().is_empty());
    let names: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    let row = |line: &str| {
        let columns = line.split_whitespace().map(str::to_owned);
        names.iter().map(|it| (*it).to_owned()).zip(columns).collect()
    };
    lines.map(row).collect()
}

#[test]
#[ignore = "needs Kafka: make test-integration"]
fn members_share_partitions_with_java_members() {
    let topic = topic("members", PARTITIONS, &[]);
    if !built_in(topic) {
        let err = client().poll_assignment(topic, &[topic], PATIENCE).unwrap_err();
        assert!(
            err.kind == ErrorKind::Config && err.text.contains("has no consumer groups"),
            "{err}"
        );
        return;
    }
    let mut sender = Sender::new(&producer_config(), &Shutdown::default());
    assert!(sender.send_all(&numbered(topic, 0..600)).iter().all(Result::is_ok));
    let first = Member::join(topic);
    shared(&[&first], &[6]);
    let second = Member::join(topic);
    shared(&[&first, &second], &[3, 3]);

    // A member of the Java client joins, is assigned two partitions, and leaves.
    let java = thread::spawn(move || java_client(topic, &["member:6000"]));
    shared(&[&first, &second], &[2, 2]);
    let output = java.join().unwrap();
    assert_eq!(output.lines().last(), Some("2"), "{output}");
    shared(&[&first, &second], &[3, 3]);

    let bounds = client().log_range(topic, PATIENCE).unwrap();
    let lines = tool(topic, &[]);
    assert_eq!(lines.len(), PARTITIONS as usize);
    for (partition, (_, end)) in bounds.iter().enumerate() {
        let line = lines.iter().find(|it| it["PARTITION"] == partition.to_string()).unwrap();
        let lag = end - 10;
        assert_eq!((&*line["CURRENT-OFFSET"], &*line["LAG"]), ("10", &*lag.to_string()));
        assert_eq!(line["CLIENT-ID"], "scratchbank");
    }
    let members = tool(topic, &["--members"]);
    let counts: Vec<&str> = members.iter().map(|it| &*it["#PARTITIONS"]).collect();
    assert_eq!(counts, ["3", "3"]);

    // The second member stops sending heartbeats. The first one is assigned all partitions, and
    // commits of the second one are rejected.
    let (_, partition) = second.assignment().unwrap().partitions[0];
    let mut second = second.end();
    shared(&[&first], &[6]);
    let position = [Position { partition, next: 20 }];
    let err = second.commit(topic, topic, &position, PATIENCE).unwrap_err();
    assert_eq!(err.kind, ErrorKind::Fenced, "{err}");
    let committed = client().committed(topic, topic, PATIENCE).unwrap();
    assert_eq!(committed[partition as usize], Some(10));
    // A commit by a client that is not a member is also rejected.
    let err = client().commit(topic, topic, &position, PATIENCE).unwrap_err();
    assert_eq!(err.kind, ErrorKind::Fenced, "{err}");

    // After a member leaves, the rebalance does not wait for the session timeout.
    let third = Member::join(topic);
    shared(&[&first, &third], &[3, 3]);
    let left = Instant::now();
    third.end().leave(topic).unwrap();
    shared(&[&first], &[6]);
    assert!(left.elapsed() < Duration::from_secs(8), "{:?}", left.elapsed());
    first.end().leave(topic).unwrap();
}
