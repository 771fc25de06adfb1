//! Tests with Kafka and a schema registry, at `KAFKA_BROKERS` and `SCHEMA_REGISTRY_URL`. Each test
//! has its own topics.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]
use avro::registry::Registry;
use avro::{WriterSchema, registered_form};
use bank::topology::{BALANCE_CHANGED, DEAD_LETTER, HEARTBEAT, Topic};
use service::env::Env;
use service::shutdown::Shutdown;
use std::collections::BTreeMap;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use synchronizer::admin::{Admin, ClusterState, NewTopic};
use synchronizer::{Config, Summary, synchronize};

fn config() -> Config {
    Config::from_env(&Env::new(&|name| std::env::var(name).ok())).expect("needs Kafka and registry")
}

/// A topic as `like`, with a name that no other test and no other run has.
fn own(like: Topic, label: &str) -> Topic {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let name = format!("{label}_{}_{now}", like.name);
    Topic { name: Box::leak(name.into_boxed_str()), ..like }
}

/// Runs the synchronizer; returns the lines of its report and the summary.
fn run(topics: &[Topic], dry_run: bool) -> (Vec<String>, Summary) {
    let mut out = Vec::new();
    let summary = synchronize(&config(), topics, dry_run, &Shutdown::default(), &mut out).unwrap();
    (String::from_utf8(out).unwrap().lines().map(str::to_owned).collect(), summary)
}

fn describe(topics: &[Topic]) -> ClusterState {
    let names: Vec<&'static str> = topics.iter().map(|topic| topic.name).collect();
    Admin::connect(&config().kafka.brokers, None).unwrap().describe(&names).unwrap()
}

fn registry() -> Registry {
    Registry::new(&config().registry_url)
}

fn binary(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_synchronizer"));
    command.args(args).envs(variables.iter().copied()).output().unwrap()
}

#[test]
#[ignore = "needs Kafka and registry: make test-integration"]
fn missing_topics_are_created_once() {
    let topics = [own(HEARTBEAT, "fresh"), own(BALANCE_CHANGED, "fresh")];
    let (lines, summary) = run(&topics, false);
    // Three changes per topic: the topic, its compatibility level and its schema.
    assert_eq!((summary.changes, summary.problems), (6, 0), "{lines:#?}");
    let state = describe(&topics);
    for topic in &topics {
        let found = &state.topics[topic.name];
        assert_eq!(found.partitions, topic.partitions as usize);
        assert_eq!(found.replication, state.brokers.min(3));
        assert!(found.leaderless.is_empty());
        assert_eq!(found.configs["compression.type"].value, "uncompressed");
        assert_eq!(found.configs["message.timestamp.type"].value, "LogAppendTime");
        assert!(registry().id_of(topic).is_ok());
        let level = registry().compatibility(&topic.subject()).unwrap();
        assert_eq!(level.as_deref(), Some("BACKWARD"));
    }
    assert_eq!(state.topics[topics[0].name].configs["retention.ms"].value, "900000");
    let (lines, summary) = run(&topics, false);
    assert_eq!((lines, summary.changes, summary.problems), (Vec::new(), 0, 0));
}

#[test]
#[ignore = "needs Kafka and registry: make test-integration"]
fn changed_configs_are_restored() {
    let topic = own(HEARTBEAT, "drift");
    run(&[topic], false);
    let wrong = vec![("retention.ms", "1000".to_owned()), ("compression.type", "gzip".to_owned())];
    let foreign = ("segment.ms", "100000".to_owned());
    let configs = BTreeMap::from([(topic.name, [wrong, vec![foreign]].concat())]);
    Admin::connect(&config().kafka.brokers, None).unwrap().set_configs(&configs).unwrap();
    registry().set_compatibility(&topic.subject(), "NONE").unwrap();

    let (lines, summary) = run(&[topic], false);
    let name = topic.name;
    assert_eq!(
        lines,
        [
            format!("changed: set compression.type of topic {name}: gzip -> uncompressed"),
            format!("changed: set retention.ms of topic {name}: 1000 -> 900000"),
            format!(
                "note: topic {name} keeps segment.ms=100000, which the synchronizer does not manage"
            ),
            format!("changed: set compatibility of {name}-value: NONE -> BACKWARD"),
        ]
    );
    assert!(!summary.differs());
    let found = &describe(&[topic]).topics[name].configs;
    assert_eq!(found["retention.ms"].value, "900000");
    assert_eq!(found["segment.ms"].value, "100000");
}

#[test]
#[ignore = "needs Kafka and registry: make test-integration"]
fn retention_of_existing_dead_letters_is_removed() {
    let topic = own(DEAD_LETTER, "kept");
    let name = topic.name;
    // As an earlier version created it.
    run(&[Topic { config: &[], ..topic }], false);
    let (lines, summary) = run(&[topic], false);
    assert_eq!(lines, [format!("changed: set retention.ms of topic {name}: 604800000 -> -1")]);
    assert!(!summary.differs());
    assert_eq!(describe(&[topic]).topics[name].configs["retention.ms"].value, "-1");
    let (lines, _) = run(&[topic], false);
    assert_eq!(lines, Vec::<String>::new());
}

#[test]
#[ignore = "needs Kafka and registry: make test-integration"]
fn dry_run_reports_and_changes_nothing() {
    let topics = [own(HEARTBEAT, "dry"), own(BALANCE_CHANGED, "dry")];
    let (lines, summary) = run(&topics, true);
    assert_eq!((summary.changes, summary.problems), (6, 0), "{lines:#?}");
    assert!(summary.differs());
    assert!(lines.iter().all(|line| line.starts_with("planned: ")), "{lines:#?}");
    assert!(describe(&topics).topics.is_empty());
    for topic in topics {
        assert!(registry().id_of(&topic).is_err());
        assert_eq!(registry().compatibility(&topic.subject()).unwrap(), None);
    }
}

#[test]
#[ignore = "needs Kafka and registry: make test-integration"]
fn wrong_partition_counts_are_reported_and_kept() {
    let topics = [own(BALANCE_CHANGED, "few"), own(HEARTBEAT, "many")];
    let new = topics.map(|topic| NewTopic {
        name: topic.name,
        partitions: 3,
        replication: 1,
        configs: Vec::new(),
    });
    let results =
        Admin::connect(&config().kafka.brokers, None).unwrap().create(&[&new[0], &new[1]]);
    assert!(results.unwrap().iter().all(Result::is_ok));
    let (lines, summary) = run(&topics, false);
    assert!(summary.differs());
    let few = format!("problem: topic {} has 3 partitions instead of 9", topics[0].name);
    let many = format!("problem: topic {} has 3 partitions instead of 1", topics[1].name);
    for start in [few, many] {
        assert!(lines.iter().any(|line| line.starts_with(&start)), "{lines:#?}");
    }
    for topic in topics {
        assert_eq!(describe(&[topic]).topics[topic.name].partitions, 3);
    }
}

#[test]
#[ignore = "needs Kafka and registry: make test-integration"]
fn incompatible_schema_is_reported() {
    let topic = own(HEARTBEAT, "clash");
    let theirs = r#"{"type":"record","namespace":"nl.openweb.data","name":"Heartbeat",
        "fields":[{"name":"beat","type":"string"}]}"#;
    registry().register(&topic.subject(), theirs).unwrap();
    let (lines, summary) = run(&[topic], false);
    assert!(summary.differs());
    assert_eq!(summary.problems, 1);
    let output = lines.last().unwrap();
    assert!(
        output.starts_with(&format!("problem: the bank's schema of {}", topic.subject())),
        "{output}"
    );
    assert!(output.contains("LONG not compatible with writer type: STRING"), "{output}");
    assert!(registry().id_of(&topic).is_err(), "an incompatible schema is not registered");
}

#[test]
#[ignore = "needs Kafka and registry: make test-integration"]
fn schemas_of_the_talk_are_compatible() {
    // The talk's schema has no transfer_id and no sequence.
    let talks = own(BALANCE_CHANGED, "talk");
    let mut old: serde_json::Value = serde_json::from_str(talks.schema.unwrap()).unwrap();
    old["fields"].as_array_mut().unwrap().truncate(5);
    let id = registry().register(&talks.subject(), &old.to_string()).unwrap();
    let (lines, summary) = run(&[talks], false);
    assert!(!summary.differs(), "{lines:#?}");
    assert_ne!(registry().id_of(&talks).unwrap(), id, "the bank's schema is a new version");
}

#[test]
#[ignore = "needs Kafka and registry: make test-integration"]
fn schema_with_whitespace_is_registered_without_it() {
    // Earlier versions registered the text of the file.
    let topic = own(HEARTBEAT, "blanks");
    let text = topic.schema.unwrap();
    let old = registry().register(&topic.subject(), text).unwrap();
    assert_eq!(registry().id_of(&topic).unwrap(), old, "writers find it before the migration");
    let (lines, summary) = run(&[topic], false);
    assert!(!summary.differs(), "{lines:#?}");
    assert!(lines.contains(&format!("changed: register the schema of {}", topic.subject())));
    let new = registry().id_of(&topic).unwrap();
    assert_ne!(new, old, "writers use the new version");
    let found = |id| registry().schema(id).unwrap();
    assert_eq!(found(new), WriterSchema::Found(vec![registered_form(text)]));
    assert!(matches!(found(old), WriterSchema::Found(_)), "readers find both");
    assert_eq!(run(&[topic], false).1.changes, 0);
}

#[test]
#[ignore = "needs Kafka and registry: make test-integration"]
fn rejected_config_is_reported() {
    let bad = Topic { config: &[("retention.ms", "soon")], ..own(HEARTBEAT, "invalid") };
    let good = own(HEARTBEAT, "valid");
    let (lines, summary) = run(&[bad, good], false);
    assert_eq!(summary.problems, 1);
    let output = lines.iter().find(|line| line.starts_with("problem: ")).unwrap();
    assert!(output.contains("rejected") && output.contains("retention.ms"), "{output}");
    assert!(describe(&[good]).topics.contains_key(good.name));
}

#[test]
#[ignore = "needs Kafka and registry: make test-integration"]
fn binary_reports_by_exit_code() {
    let first = binary(&[], &[]);
    assert_eq!(first.status.code(), Some(0), "{first:?}");
    let second = binary(&[], &[]);
    assert_eq!(second.status.code(), Some(0));
    assert_eq!(
        String::from_utf8_lossy(&second.stdout),
        "9 topics, 8 schemas: 0 changed, 0 problems\n"
    );
    let dry = binary(&["--dry-run"], &[]);
    assert_eq!(dry.status.code(), Some(0));
    assert_eq!(
        String::from_utf8_lossy(&dry.stdout),
        "9 topics, 8 schemas: 0 planned, 0 problems\n"
    );
}

#[test]
fn unavailable_servers_are_waited_for_until_wait_s() {
    let unreachable =
        [("KAFKA_BROKERS", "127.0.0.1:1"), ("SCHEMA_REGISTRY_URL", "http://127.0.0.1:1")];
    let started = SystemTime::now();
    let output = binary(&[], &[&unreachable[..], &[("WAIT_S", "2")]].concat());
    assert_eq!(output.status.code(), Some(75), "{output:?}");
    let took = started.elapsed().unwrap();
    assert!((Duration::from_secs(2)..Duration::from_secs(10)).contains(&took), "{took:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("deadline WAIT_S reached"));
}

#[test]
fn invalid_environment_exits_with_2() {
    let output = binary(&[], &[("KAFKA_BROKERS", "nonsense"), ("SCHEMA_REGISTRY_URL", "http://r")]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn registry_url_that_cannot_work_exits_with_2() {
    for (url, problem) in [
        ("https://ann:hunter2@registry:8081", "SCHEMA_REGISTRY_URL begins with https"),
        ("ann:hunter2@registry:8081", "SCHEMA_REGISTRY_URL has no scheme"),
        ("http://ann:hunter2@registry:8081\r", "SCHEMA_REGISTRY_URL has a blank or a line break"),
    ] {
        let output = binary(&[], &[("KAFKA_BROKERS", "a:1"), ("SCHEMA_REGISTRY_URL", url)]);
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), log.lines().count()), (Some(2), 1), "{log}");
        assert!(log.contains(problem) && !log.contains("hunter2"), "{log}");
    }
}
