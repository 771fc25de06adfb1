//! A replay of all commands from the start of the topics.

use bank::records::Atype;
use bank::topology::{CONFIRM_ACCOUNT_CREATION, CONFIRM_MONEY_TRANSFER, Topic};
use bank_tests::bank_client::{BankClient, OUTCOMES, check_sums, wait_committed};
use bank_tests::creation;
use bank_tests::handler::Handler;
use bank_tests::load::random_transfer;
use bank_tests::stack::{PATIENCE, Stack};
use messaging::Position;
use observer::{Event, Reader, log_ends, log_starts};
use std::collections::HashSet;
use std::time::{Duration, Instant};
use uuid::Uuid;

const COMMANDS: [Topic; 2] = [CONFIRM_ACCOUNT_CREATION, CONFIRM_MONEY_TRANSFER];

/// The rows of all tables of the bank, as text.
fn table_rows(stack: &Stack) -> Vec<String> {
    let mut database = stack.database();
    let mut lines = Vec::new();
    for table in ["account", "account_creation", "transfer"] {
        let sql = format!("SELECT row::text FROM {table} AS row ORDER BY 1");
        let rows = database.query(&sql, &[]).expect("read balancedb");
        lines.extend(rows.iter().map(|row| row.get::<_, String>(0)));
    }
    lines
}

/// All outcomes and changes that the bank has published.
#[derive(Default)]
struct Published {
    count: usize,
    /// Hashes of the different records.
    different: HashSet<u64>,
    /// Topic, key and transfer of the different records. Fewer than `different` after a test has
    /// restored the database, since the lost transfers were decided again at a later time.
    identities: HashSet<(&'static str, Vec<u8>, Option<Uuid>)>,
}

fn published(stack: &Stack) -> Published {
    let mut kafka = stack.kafka_client();
    let starts = log_starts(&mut *kafka, &OUTCOMES, PATIENCE).expect("topics are there");
    let ends = log_ends(&mut *kafka, &OUTCOMES, PATIENCE).expect("topics are there");
    let mut reader = Reader::start(&stack.kafka, &stack.registry, &starts);
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut published = Published::default();
    while !reader.has_reached(&ends) {
        let batch =
            reader.next(deadline).expect("topics can be read").expect("all is read in time");
        for record in batch.records {
            // Records in another schema come from the client in foreign_client.py.
            let id = stack.schema_ids[record.position.topic].to_be_bytes();
            if record.value.get(1..5) == Some(&id) {
                published.count += 1;
                published.different.insert(record.content_hash());
                let transfer = match &record.event {
                    Event::BalanceChanged(change) => change.transfer_id,
                    _ => None,
                };
                published.identities.insert((record.position.topic, record.key, transfer));
            }
        }
    }
    published
}

/// The commands include those of all earlier tests on this stack.
#[test]
#[ignore = "needs the stack: make test-integration"]
fn replay_of_all_commands_changes_nothing() {
    let stack = Stack::shared();
    let mut client = BankClient::open(&stack);
    let handler = Handler::start(&stack);
    let accounts = client.open_accounts(20, 10_000);
    let orders: Vec<_> = (0..5_000).map(|_| random_transfer(&mut rand::rng(), &accounts)).collect();
    client.send_transfers(&orders);
    client.send_creations(&[creation(Atype::Auto), creation(Atype::Manual)]);
    client.settle(PATIENCE);
    for topic in COMMANDS {
        wait_committed(&stack, topic.name, PATIENCE);
    }
    handler.stop();
    client.read_to_the_end();
    client.check();
    let before = table_rows(&stack);
    let before_replay = published(&stack);
    drop(client);

    let mut kafka = stack.kafka_client();
    let mut database = stack.database();
    for topic in COMMANDS {
        let bounds = kafka.log_range(topic.name, PATIENCE).unwrap();
        let starts: Vec<Position> = (0..)
            .zip(bounds)
            .map(|(partition, (first, _))| Position { partition, next: first })
            .collect();
        kafka.commit("command-handler", topic.name, &starts, PATIENCE).unwrap();
        let sql = "UPDATE topic_partition SET next_offset = $3, resume_offset = $3
                   WHERE topic = $1 AND partition = $2";
        for Position { partition, next } in starts {
            let changed = database.execute(sql, &[&topic.name, &partition, &next]);
            assert_eq!(changed.expect("set the positions back"), 1);
        }
    }
    let handler = Handler::start(&stack);
    for topic in COMMANDS {
        wait_committed(&stack, topic.name, Duration::from_secs(120));
    }
    handler.stop();

    let now = published(&stack);
    assert!(now.different == before_replay.different, "a record is new or differs");
    let replayed = now.count - before_replay.count;
    assert!(replayed >= now.identities.len(), "some records were not published again");
    assert!(table_rows(&stack) == before, "rows of the database have changed");
    check_sums(&stack);
}
