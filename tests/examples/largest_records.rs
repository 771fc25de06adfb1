//! Writes the largest and the smallest records that the topics accept into every topic and
//! partition, and waits until the services have handled all of them. `deploy/images/test.sh` runs
//! it while the services run in containers with their memory limits.
//!
//! Reads `KAFKA_BROKERS` and `SCHEMA_REGISTRY_URL`.

#![allow(clippy::print_stdout, reason = "a program of a test")]

use avro::registry::Registry;
use avro::{Encoder, Record};
use bank::iban::{CASH, COMPANY_IBAN};
use bank::limits::{BATCH_BYTES_MAX, BATCH_OVERHEAD_BYTES, COMMAND_BYTES_MAX};
use bank::money::Cents;
use bank::records::{
    AccountCreationConfirmed, AccountCreationFailed, Atype, BalanceChanged, ConfirmAccountCreation,
    ConfirmMoneyTransfer, Heartbeat, MoneyTransferFailed,
};
use bank::topology::{
    ACCOUNT_CREATION_CONFIRMED, BALANCE_CHANGED, CONFIRM_ACCOUNT_CREATION, CONFIRM_MONEY_TRANSFER,
    DEAD_LETTER, HEARTBEAT, TOPICS, Topic,
};
use bank_tests::wait::until;
use messaging::{Batch, ErrorKind, KafkaClient, KafkaConfig, NewRecord};
use service::env::Env;
use std::time::Duration;
use uuid::Uuid;

/// Batches of each kind in each partition.
const ROUNDS: usize = 4;
/// Time for the services to handle everything.
const PATIENCE: Duration = Duration::from_secs(120);
const CALL: Duration = Duration::from_secs(10);

/// The topics whose offsets services commit, and the consumer groups.
const GROUPS: [(&str, Topic); 5] = [
    ("command-handler", CONFIRM_ACCOUNT_CREATION),
    ("command-handler", CONFIRM_MONEY_TRANSFER),
    ("command-generator", HEARTBEAT),
    ("command-generator", ACCOUNT_CREATION_CONFIRMED),
    ("graphql-endpoint", BALANCE_CHANGED),
];

type Value = Option<Vec<u8>>;

fn main() {
    let lookup = |name: &str| std::env::var(name).ok();
    let config = KafkaConfig::from_env(&Env::new(&lookup)).expect("KAFKA_BROKERS is set");
    let url = lookup("SCHEMA_REGISTRY_URL").expect("SCHEMA_REGISTRY_URL is set");
    let registry = Registry::new(&url);
    let mut kafka = messaging::connect(&config);
    let before = end_of(&mut *kafka, DEAD_LETTER);
    let mut undecodable = 0;
    for round in 0..ROUNDS {
        for topic in TOPICS.iter().filter(|topic| topic.schema.is_some()) {
            for partition in 0..topic.partitions {
                for (values, dead_letters) in batches(&registry, topic, partition, round) {
                    write(&mut *kafka, topic, partition, &values);
                    undecodable += dead_letters as i64;
                }
            }
        }
    }
    for (group, topic) in GROUPS {
        until(&format!("{group} has handled {}", topic.name), PATIENCE, || {
            let ends = kafka.log_range(topic.name, CALL).ok()?;
            let committed = kafka.committed(group, topic.name, CALL).ok()?;
            let handled = ends.iter().zip(committed).all(|((_, end), next)| next == Some(*end));
            handled.then_some(())
        });
    }
    until("the undecodable records are in dead_letter", PATIENCE, || {
        (end_of(&mut *kafka, DEAD_LETTER) - before >= undecodable).then_some(())
    });
    println!("all records handled, {undecodable} of them as dead letters");
}

/// The batches for a partition, each with the number of its dead letters.
fn batches(
    registry: &Registry,
    topic: &Topic,
    partition: i32,
    round: usize,
) -> Vec<(Vec<Value>, usize)> {
    let garbage = Some(vec![1; BATCH_BYTES_MAX - BATCH_OVERHEAD_BYTES]);
    let read = GROUPS.iter().any(|(_, read)| read == topic);
    let mut all = vec![(vec![garbage], usize::from(read))];
    let long = |bytes: usize| "\u{1}".repeat(bytes);
    let largest = BATCH_BYTES_MAX - 2 * BATCH_OVERHEAD_BYTES;
    // Only one partition, because each of them becomes a command or a dead letter.
    let first = partition == 0 && round == 0;
    if *topic == CONFIRM_MONEY_TRANSFER {
        let transfer = |id| ConfirmMoneyTransfer {
            id,
            token: CASH.to_owned(),
            amount: Cents::new(1),
            from: CASH.to_owned(),
            to: COMPANY_IBAN.to_owned(),
            description: long(COMMAND_BYTES_MAX - BATCH_OVERHEAD_BYTES),
        };
        let id = Uuid::new_v4();
        let values = [id, id, Uuid::new_v4()].map(|id| encode(registry, &transfer(id)));
        all.push((values.to_vec(), 0));
    } else if *topic == BALANCE_CHANGED {
        let change = |description, offset: usize| BalanceChanged {
            iban: String::new(),
            new_balance: Cents::ZERO,
            changed_by: Cents::ZERO,
            from_to: String::new(),
            description,
            transfer_id: None,
            sequence: offset as i64 & 63,
            decided_at: None,
        };
        all.push((vec![encode(registry, &change(long(largest), 0))], 1));
        let text = long(COMMAND_BYTES_MAX);
        all.push(((0..3).map(|at| encode(registry, &change(text.clone(), at))).collect(), 0));
        if first {
            let small = encode(registry, &change(String::new(), 0));
            all.push((filled_with(small), 0));
        }
    } else if *topic == ACCOUNT_CREATION_CONFIRMED {
        let record = AccountCreationConfirmed {
            id: Uuid::new_v4(),
            iban: long(largest / 2),
            token: long(largest / 2),
            a_type: Atype::Auto,
        };
        all.push((vec![encode(registry, &record)], 0));
    } else if topic.name.ends_with("_failed") {
        let (id, reason) = (Uuid::new_v4(), long(largest));
        let value = if topic.name.starts_with("account") {
            encode(registry, &AccountCreationFailed { id, reason })
        } else {
            encode(registry, &MoneyTransferFailed { id, reason })
        };
        all.push((vec![value], 0));
    } else if *topic == HEARTBEAT && first {
        all.push((filled_with(encode(registry, &Heartbeat { beat: 1 })), 0));
    } else if *topic == CONFIRM_ACCOUNT_CREATION && first {
        let command = ConfirmAccountCreation { id: Uuid::new_v4(), a_type: Atype::Auto };
        all.push((filled_with(encode(registry, &command)), 0));
    }
    let commands = [CONFIRM_ACCOUNT_CREATION, CONFIRM_MONEY_TRANSFER];
    if first && commands.contains(topic) {
        let smallest = filled_with(None);
        let dead_letters = smallest.len();
        all.push((smallest, dead_letters));
    }
    all
}

fn encode<R: Record>(registry: &Registry, record: &R) -> Value {
    let id = registry.id_of(&R::TOPIC).expect("the synchronizer has registered the schema");
    Some(Encoder::<R>::with_id(id).encode(record))
}

/// As many equal records as a batch may have.
fn filled_with(value: Value) -> Vec<Value> {
    // Length, attributes, timestamp and offset deltas, lengths of key and value, headers.
    let bytes = 10 + value.as_ref().map_or(0, |value| 1 + value.len());
    vec![value; (BATCH_BYTES_MAX - BATCH_OVERHEAD_BYTES) / bytes]
}

/// Writes `values` as one batch, without keys where the topic's reader needs none.
fn write(kafka: &mut dyn KafkaClient, topic: &Topic, partition: i32, values: &[Value]) {
    let record = |value: &'_ Value| -> (Option<&'static [u8]>, Value) {
        // A command without a key is undecodable.
        (value.as_ref().map(|_| &b"k"[..]), value.clone())
    };
    let records: Vec<_> = values.iter().map(record).collect();
    let records: Vec<NewRecord<'_>> = records
        .iter()
        .map(|(key, value)| NewRecord { key: *key, value: value.as_deref(), headers: &[] })
        .collect();
    let batch = Batch { topic: topic.name, partition, records };
    let topic = topic.name;
    until("a batch is written", PATIENCE, || {
        match kafka.produce(std::slice::from_ref(&batch), CALL).remove(0) {
            Ok(_) => Some(()),
            Err(err) if err.is_retryable() || err.kind == ErrorKind::Unknown => None,
            Err(err) => panic!("{topic}/{partition}: {err}"),
        }
    });
}

fn end_of(kafka: &mut dyn KafkaClient, topic: Topic) -> i64 {
    let ranges = kafka.log_range(topic.name, CALL).expect("the topic is there");
    ranges.iter().map(|(_, end)| end).sum()
}
