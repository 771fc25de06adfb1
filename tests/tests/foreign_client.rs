//! A client that shares no code with the bank asks and understands all that it answers.

use avro::Decoder;
use bank::records::{Atype, BalanceChanged};
use bank::topology::TOPICS;
use bank_tests::handler::Handler;
use bank_tests::ledger::{Answer, Ledger, check_bank};
use bank_tests::stack::{PATIENCE, Stack, target_dir};
use bank_tests::tape::Told;
use messaging::partitioner::partition;
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A Python that has Confluent's client, made once for each list of packages.
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
    fs::write(&complete, wanted).expect("the folder was just made");
    python
}

/// A record of the bank as the client should have read it.
fn as_json(told: &Told, value: Value) -> Value {
    let key = String::from_utf8_lossy(&told.key);
    json!({ "topic": told.topic, "key": key, "partition": told.partition, "value": value })
}

fn answer_as_json(told: &Told, answer: &Answer) -> Value {
    let id = String::from_utf8_lossy(&told.key);
    let value = match answer {
        Answer::Opened(opened) => {
            let a_type = if opened.a_type == Atype::Auto { "AUTO" } else { "MANUAL" };
            json!({ "id": id, "iban": opened.iban, "token": opened.token, "a_type": a_type })
        }
        Answer::NotOpened(failed) => json!({ "id": id, "reason": failed.reason }),
        Answer::Moved => json!({ "id": id }),
        Answer::Refused(failed) => json!({ "id": id, "reason": failed.reason }),
    };
    as_json(told, value)
}

fn change_as_json(told: &Told, change: &BalanceChanged) -> Value {
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
    let mut record = as_json(told, value);
    record["as_the_talk"] = talk;
    record
}

fn sorted(mut records: Vec<Value>) -> Vec<Value> {
    records.sort_by_key(Value::to_string);
    records
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn confluents_client_asks_and_understands_every_answer() {
    let stack = Stack::shared();
    let mut ledger = Ledger::open(&stack);
    let handler = Handler::start(&stack);
    let client = Command::new(python())
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/foreign_client.py"))
        .env("KAFKA_BROKERS", stack.kafka.brokers.join(","))
        .env("SCHEMA_REGISTRY_URL", stack.registry_url())
        .stdin(Stdio::null())
        .output()
        .expect("run the client");
    let errors = String::from_utf8_lossy(&client.stderr);
    assert!(client.status.success(), "{}\n{errors}", client.status);
    let did: Value = serde_json::from_slice(&client.stdout).expect("it prints JSON");
    let list = |name: &str| did[name].as_array().expect("it prints a list").clone();
    ledger.read_to_the_end();

    // Its keys fall where ours do.
    let sent = list("sent");
    assert_eq!(sent.len(), 2 + 50 + 51 + 1);
    for record in &sent {
        let topic = TOPICS.into_iter().find(|it| record["topic"] == it.name).unwrap();
        let ours = partition(record["key"].as_str().unwrap().as_bytes(), topic.partitions);
        assert_eq!(record["partition"], ours, "{record}");
    }

    // It has read what we read: all of it, equal in every field.
    let answers = ledger.answers().map(|(told, answer)| answer_as_json(told, answer));
    let changes = ledger.all_changes().map(|(told, change)| change_as_json(told, change));
    let ours = sorted(answers.chain(changes).collect());
    assert_eq!(ours.len(), 2 + 50 + 51 + 50 + 2 * 49);
    assert_eq!(sorted(list("read")), ours);
    let refused: Vec<&str> = ledger
        .answers()
        .filter_map(|(_, answer)| match answer {
            Answer::Refused(failed) => Some(failed.reason.as_str()),
            _ => None,
        })
        .collect();
    assert!(refused.len() == 2 && refused.contains(&"invalid token"), "{refused:?}");
    check_bank(&stack);

    // What it wrote in the talk's schema, which lacks our two fields, is read.
    let [talk] = &ledger.foreign[..] else { panic!("{:?}", ledger.foreign) };
    let change =
        Decoder::<BalanceChanged>::new(stack.registry.clone()).decode(&talk.value).unwrap();
    assert_eq!((change.transfer_id, change.sequence), (None, 0));
    let read = change_as_json(talk, &change);
    assert_eq!(read["as_the_talk"], did["talk"]);

    // That schema is now the newest of its subject. The bank goes on in its own.
    handler.stop();
    let _next = Handler::start(&stack);
    ledger.open_accounts(1, 1);
    assert_eq!(ledger.foreign.len(), 1);
    ledger.settle(PATIENCE);
    ledger.check();
}
