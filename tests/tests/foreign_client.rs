//! Clients that share no code with the bank send commands and read their outcomes.

use avro::Decoder;
use bank::records::{Atype, BalanceChanged};
use bank::timestamp::Timestamp;
use bank::topology::TOPICS;
use bank_tests::bank_client::{BankClient, check_sums};
use bank_tests::handler::Handler;
use bank_tests::stack::{PATIENCE, Stack, target_dir};
use messaging::partitioner::partition;
use observer::{Event, ObservedRecord};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

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

/// A folder with these files, whose `program` installs their packages. It is filled again after a
/// change of the files.
fn installed(name: &str, files: &[&str], program: &str, words: &[&str]) -> PathBuf {
    let sources = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests"));
    let read = |file: &&str| fs::read_to_string(sources.join(file)).expect("the file is there");
    let wanted: String = files.iter().map(read).collect();
    let dir = target_dir().join(name);
    let complete = dir.join("complete");
    let copy = |file: &str| {
        let from = sources.join(file);
        let to = dir.join(from.file_name().expect("the path has a name"));
        fs::copy(from, to).expect("target/ is writable");
    };
    if !fs::read_to_string(&complete).is_ok_and(|made| made == wanted) {
        fs::create_dir_all(&dir).expect("target/ is writable");
        files.iter().for_each(|file| copy(file));
        let done =
            Command::new(program).args(words).current_dir(&dir).stdin(Stdio::null()).status();
        assert!(done.is_ok_and(|status| status.success()), "{program} {words:?} failed");
        fs::write(&complete, wanted).expect("target/ is writable");
    }
    dir
}

/// Runs a client with the addresses of the stack. Returns the JSON that it prints.
fn run(stack: &Stack, client: &mut Command) -> Value {
    let process = client
        .env("KAFKA_BROKERS", stack.kafka.brokers.join(","))
        .env("SCHEMA_REGISTRY_URL", stack.registry_url())
        .stdin(Stdio::null())
        .output()
        .expect("run the client");
    let errors = String::from_utf8_lossy(&process.stderr);
    assert!(process.status.success(), "{}\n{errors}", process.status);
    serde_json::from_slice(&process.stdout).expect("the client prints JSON")
}

/// Asserts that the client assigned the key of each record to the same partition as the bank.
fn check_partitions(records: &[Value]) {
    for record in records {
        let topic = TOPICS.into_iter().find(|it| record["topic"] == it.name);
        let key = record["key"].as_str().expect("keys are text");
        let topic = topic.expect("records are on topics of the bank");
        let ours = partition(key.as_bytes(), topic.partitions);
        assert_eq!(record["partition"], ours, "{record}");
    }
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
    value["decided_at"] = json!(change.decided_at.map(Timestamp::millis));
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
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/foreign_client.py");
    let output = run(&stack, Command::new(python()).arg(script));
    let list = |name: &str| output[name].as_array().expect("the field is a list").clone();
    client.read_to_the_end();

    let sent = list("sent");
    assert_eq!(sent.len(), 2 + 50 + 51 + 1);
    check_partitions(&sent);

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

    // The bank decodes a record in the talk's schema, which lacks three fields.
    let [talk] = &client.foreign[..] else { panic!("{:?}", client.foreign) };
    let change =
        Decoder::<BalanceChanged>::new(stack.registry.clone()).decode(&talk.value).unwrap();
    assert_eq!((change.transfer_id, change.sequence, change.decided_at), (None, 0, None));
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

/// Runs a client that opens an account and deposits 1234 cents; checks the records sent and read.
fn deposits(client: &mut Command) {
    let stack = Stack::shared();
    let _handler = Handler::start(&stack);
    let started = Timestamp::from(SystemTime::now());
    let output = run(&stack, client);
    let list = |name: &str| output[name].as_array().expect("the field is a list").clone();
    let sent = list("sent");
    assert_eq!(sent.len(), 2);
    check_partitions(&sent);
    // The client has the schema from the registry. Its text, looked up or registered, has the id
    // that the bank uses.
    for record in &sent {
        let id = &json!(stack.schema_ids[record["topic"].as_str().expect("a topic is text")]);
        let ids = record["ids"].as_array().expect("the ids are a list");
        assert!(!ids.is_empty() && ids.iter().all(|it| it == id), "{record} instead of {id}");
    }
    let read = list("read");
    check_partitions(&read);
    let value = |topic: &str, key: &Value| {
        let record = read.iter().find(|it| it["topic"] == topic && it["key"] == *key);
        record.unwrap_or_else(|| panic!("no record of {topic}: {output}"))["value"].clone()
    };
    let opened = value("account_creation_confirmed", &sent[0]["key"]);
    let confirmed = value("money_transfer_confirmed", &sent[1]["key"]);
    let changed = value("balance_changed", &opened["iban"]);
    let decided_at = changed["decided_at"].as_i64().expect("the time is a number");
    let ended = Timestamp::from(SystemTime::now()).millis();
    assert!((started.millis()..=ended).contains(&decided_at), "{decided_at}");
    let expected = json!({
        "iban": opened["iban"], "new_balance": 1234, "changed_by": 1234, "from_to": "cash",
        "description": "émigré €", "transfer_id": confirmed["id"], "sequence": 1,
        "decided_at": decided_at,
    });
    assert_eq!(changed, expected);
    check_sums(&stack);
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn client_from_npm_deposits_and_reads_outcomes() {
    let (list, lock) = ("foreign_client_npm/package.json", "foreign_client_npm/package-lock.json");
    let words = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"];
    // Node.js resolves packages from the folder of the script.
    let files = [list, lock, "foreign_client.mjs"];
    let dir = installed("foreign-client-npm", &files, "npm", &words);
    deposits(Command::new("node").arg(dir.join("foreign_client.mjs")));
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn apicurio_client_deposits_and_reads_outcomes() {
    let (goal, folder) = ("dependency:copy-dependencies", "-DoutputDirectory=jars");
    let words = ["-q", "-B", "-Dstyle.color=never", goal, folder];
    let files = ["foreign_client_java/pom.xml", "ForeignClient.java"];
    let dir = installed("foreign-client-java", &files, "mvn", &words);
    let jars = dir.join("jars/*");
    deposits(Command::new("java").arg("-cp").arg(jars).arg(dir.join("ForeignClient.java")));
}
