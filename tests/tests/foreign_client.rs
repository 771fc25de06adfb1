//! A client that shares no code with the bank sends commands and reads all outcomes.

use avro::Decoder;
use bank::records::{Atype, BalanceChanged};
use bank::topology::TOPICS;
use bank_tests::bank_client::{BankClient, check_sums};
use bank_tests::handler::Handler;
use bank_tests::stack::{PATIENCE, Stack, target_dir};
use messaging::partitioner::partition;
use observer::{Event, ObservedRecord};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A Python environment with Confluent's client. It is created once for each list of packages.
fn python() -> PathBuf {
    let packages = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/foreign_client.txt");
    let wanted = fs::read_to_string(packages).expect("the list of packages is there");
    let venv = target_dir().join("foreign-client");
    let python = venv.join("bin/python");
    let complete = venv.join("complete");
    if fs::read_to_string(&complete).is_ok_and(|made| made == wanted) {
        return python;
    }
    let venv = venv.to_str().expect("paths of this build are text");
    let python_text = python.to_str().expect("paths of this build are text");
    for (words, hint) in [
        (vec!["python3", "-m", "venv", "--clear", venv], "apt-get install python3-venv"),
        (vec![python_text, "-m", "pip", "install", "--quiet", "-r", packages], "see above"),
    ] {
        let done = Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).status();
        assert!(done.is_ok_and(|status| status.success()), "{words:?} failed: {hint}");
    }
    fs::write(&complete, wanted).expect("the folder was just created");
    python
}

/// A record of the bank in the format in which the client prints it.
fn as_json(record: &ObservedRecord, value: Value) -> Value {
    let position = &record.position;
    json!({
        "topic": position.topic,
        "key": record.key_text(),
        "partition": position.partition,
        "value": value,
    })
}

fn record_as_json(record: &ObservedRecord) -> Value {
    let id = record.key_text();
    let value = match &record.event {
        Event::AccountOpened(opened) => {
            let a_type = if opened.a_type == Atype::Auto { "AUTO" } else { "MANUAL" };
            json!({ "id": id, "iban": opened.iban, "token": opened.token, "a_type": a_type })
        }
        Event::AccountNotOpened(failed) => json!({ "id": id, "reason": failed.reason }),
        Event::TransferConfirmed(_) => json!({ "id": id }),
        Event::TransferFailed(failed) => json!({ "id": id, "reason": failed.reason }),
        Event::BalanceChanged(change) => return change_as_json(record, change),
        other => panic!("{other:?} is not an outcome"),
    };
    as_json(record, value)
}

fn change_as_json(record: &ObservedRecord, change: &BalanceChanged) -> Value {
    let talk = json!({
        "iban": change.iban,
        "new_balance": change.new_balance.get(),
        "changed_by": change.changed_by.get(),
        "from_to": change.from_to,
        "description": change.description,
    });
    let mut value = talk.clone();
    value["transfer_id"] = json!(change.transfer_id.map(|id| id.to_string()));
    value["sequence"] = json!(change.sequence);
    let mut record = as_json(record, value);
    record["as_the_talk"] = talk;
    record
}

fn sorted(mut records: Vec<Value>) -> Vec<Value> {
    records.sort_by_key(Value::to_string);
    records
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn confluent_client_reads_every_outcome() {
    let stack = Stack::shared();
    let mut client = BankClient::open(&stack);
    let handler = Handler::start(&stack);
    let process = Command::new(python())
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/foreign_client.py"))
        .env("KAFKA_BROKERS", stack.kafka.brokers.join(","))
        .env("SCHEMA_REGISTRY_URL", stack.registry_url())
        .stdin(Stdio::null())
        .output()
        .expect("run the client");
    let errors = String::from_utf8_lossy(&process.stderr);
    assert!(process.status.success(), "{}\n{errors}", process.status);
    let output: Value = serde_json::from_slice(&process.stdout).expect("the client prints JSON");
    let list = |name: &str| output[name].as_array().expect("the field is a list").clone();
    client.read_to_the_end();

    // Both clients assign a key to the same partition.
    let sent = list("sent");
    assert_eq!(sent.len(), 2 + 50 + 51 + 1);
    for record in &sent {
        let topic = TOPICS.into_iter().find(|it| record["topic"] == it.name).unwrap();
        let ours = partition(record["key"].as_str().unwrap().as_bytes(), topic.partitions);
        assert_eq!(record["partition"], ours, "{record}");
    }

    // Both clients have read the same records, equal in every field.
    let ours = sorted(client.records.iter().map(record_as_json).collect());
    assert_eq!(ours.len(), 2 + 50 + 51 + 50 + 2 * 49);
    assert_eq!(sorted(list("read")), ours);
    let refused: Vec<&str> = client
        .records
        .iter()
        .filter_map(|record| match &record.event {
            Event::TransferFailed(failed) => Some(failed.reason.as_str()),
            _ => None,
        })
        .collect();
    assert!(refused.len() == 2 && refused.contains(&"invalid token"), "{refused:?}");
    check_sums(&stack);

    // The bank decodes a record in the talk's schema, which lacks two fields.
    let [talk] = &client.foreign[..] else { panic!("{:?}", client.foreign) };
    let change =
        Decoder::<BalanceChanged>::new(stack.registry.clone()).decode(&talk.value).unwrap();
    assert_eq!((change.transfer_id, change.sequence), (None, 0));
    let read = change_as_json(talk, &change);
    assert_eq!(read["as_the_talk"], output["talk"]);

    // That schema is now the newest of its subject. The bank continues with its own schema.
    handler.stop();
    let _next = Handler::start(&stack);
    client.open_accounts(1, 1);
    assert_eq!(client.foreign.len(), 1);
    client.settle(PATIENCE);
    client.check();
}
