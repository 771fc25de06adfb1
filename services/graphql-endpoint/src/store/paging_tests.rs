//! Tests of the pages of transactions and accounts. They need a PostgreSQL server.

use super::connection::{READER_SETTINGS, connect};
use super::queries::{SEQUENCE_SQL, accounts_sql, page_sql};
use super::tests::{Database, decided_at, named_record, record};
use super::{KnownAccount, PositionedRecord, Store, User};
use crate::paging::{ConnectionPage, Cursor, PageRange};
use crate::transaction::{Direction, Transaction};
use bank::limits::COMMAND_BYTES_MAX;
use bank::money::Cents;
use bank::records::BalanceChanged;
use bank::timestamp::Timestamp;
use postgres::{Client, SimpleQueryMessage};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};
use uuid::Uuid;

const ALL: PageRange =
    PageRange { items_max: 1000, from_end: false, after: None, before: None, direction: None };

fn sequences(page: &ConnectionPage<Transaction>) -> Vec<i64> {
    page.items.iter().map(|transaction| transaction.sequence).collect()
}

fn cursor_of(store: &Store, sequence: i64) -> Cursor {
    let page = store.page("a", &ALL).unwrap();
    Cursor::from(page.items.iter().find(|it| it.sequence == sequence).unwrap())
}

/// Records of account a with these sequences.
fn records(sequences: impl IntoIterator<Item = i64>) -> Vec<PositionedRecord<BalanceChanged>> {
    sequences.into_iter().map(|sequence| named_record(sequence, "a", sequence)).collect()
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn page_ends_at_its_cursors() {
    let database = Database::new();
    let mut batch = records(1..=9);
    // Other accounts are on no page.
    batch.extend([named_record(1, "A", 5), named_record(2, "b", 5)]);
    database.writer().store(&batch, &BTreeMap::new()).unwrap();
    let store = database.store();
    let cursor = |sequence| cursor_of(&store, sequence);
    let page = |items_max, from_end, after: Option<i64>, before: Option<i64>| {
        let (after, before) = (after.map(cursor), before.map(cursor));
        let range = PageRange { items_max, from_end, after, before, direction: None };
        let page = store.page("a", &range).unwrap();
        (sequences(&page), page.has_more)
    };
    for (items, after, before, first, last) in [
        (3, None, None, (vec![9, 8, 7], true), (vec![3, 2, 1], true)),
        (3, Some(7), None, (vec![6, 5, 4], true), (vec![3, 2, 1], true)),
        (3, None, Some(3), (vec![9, 8, 7], true), (vec![6, 5, 4], true)),
        (3, Some(8), Some(4), (vec![7, 6, 5], false), (vec![7, 6, 5], false)),
        (2, Some(8), Some(4), (vec![7, 6], true), (vec![6, 5], true)),
        (9, None, None, ((1..=9).rev().collect(), false), ((1..=9).rev().collect(), false)),
        (0, None, None, (vec![], true), (vec![], true)),
        (3, Some(1), None, (vec![], false), (vec![], false)),
        (3, None, Some(9), (vec![], false), (vec![], false)),
        (3, Some(4), Some(8), (vec![], false), (vec![], false)),
    ] {
        assert_eq!(page(items, false, after, before), first, "first {items} {after:?} {before:?}");
        assert_eq!(page(items, true, after, before), last, "last {items} {after:?} {before:?}");
    }
    assert_eq!(sequences(&store.page("c", &ALL).unwrap()), Vec::<i64>::new());
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn transactions_without_a_sequence_have_pages() {
    let database = Database::new();
    let batch: Vec<_> = (1..=5).map(|offset| record(offset, "a", 0, None)).collect();
    let stored = database.writer().store(&batch, &BTreeMap::new()).unwrap();
    let store = database.store();
    let (mut after, mut numbers) = (None, Vec::new());
    loop {
        let page = store.page("a", &PageRange { items_max: 2, after, ..ALL }).unwrap();
        numbers.extend(page.items.iter().map(|it| it.number));
        after = page.items.last().map(Cursor::from);
        if !page.has_more {
            break;
        }
    }
    assert_eq!(numbers, stored.iter().rev().map(|it| it.number).collect::<Vec<_>>());
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn pages_are_stable_while_transactions_are_added() {
    let database = Database::new();
    let mut writer = database.writer();
    writer.store(&records(1..=100), &BTreeMap::new()).unwrap();
    let store = database.store();
    for from_end in [false, true] {
        let newest = store.page("a", &PageRange { items_max: 1, ..ALL }).unwrap().items[0].sequence;
        let (mut seen, mut added) = (Vec::new(), newest);
        let mut range = PageRange { items_max: 7, from_end, ..ALL };
        loop {
            let page = store.page("a", &range).unwrap();
            if from_end {
                seen.splice(0..0, sequences(&page));
                range.before = page.items.first().map(Cursor::from);
            } else {
                seen.extend(sequences(&page));
                range.after = page.items.last().map(Cursor::from);
            }
            if !page.has_more {
                break;
            }
            // At most ten times, so that reading from the end ends too.
            if added < newest + 50 {
                writer.store(&records(added + 1..=added + 5), &BTreeMap::new()).unwrap();
                added += 5;
            }
        }
        // From the end the added ones follow. From the start they are before the first page.
        let expected = if from_end { added } else { newest };
        assert_eq!(seen, (1..=expected).rev().collect::<Vec<_>>(), "from_end={from_end}");
    }
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn page_has_one_direction_only() {
    let database = Database::new();
    let mut batch = records(1..=20);
    for record in batch.iter_mut().filter(|it| it.record.sequence % 4 == 0) {
        record.record.changed_by = Cents::new(-100);
    }
    batch[9].record.changed_by = Cents::ZERO;
    database.writer().store(&batch, &BTreeMap::new()).unwrap();
    let store = database.store();
    let page = |items_max, from_end, direction| {
        let range = PageRange { items_max, from_end, direction: Some(direction), ..ALL };
        let page = store.page("a", &range).unwrap();
        assert_eq!(page.examined, None, "all rows were examined");
        (sequences(&page), page.has_more)
    };
    assert_eq!(page(9, false, Direction::Debit), (vec![20, 16, 12, 8, 4], false));
    assert_eq!(page(5, true, Direction::Debit), (vec![20, 16, 12, 8, 4], false));
    assert_eq!(page(2, false, Direction::Debit), (vec![20, 16], true));
    assert_eq!(page(2, true, Direction::Debit), (vec![8, 4], true));
    assert_eq!(page(3, false, Direction::Credit), (vec![19, 18, 17], true));
    assert_eq!(page(15, false, Direction::Credit).0.len(), 15);
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn times_are_found_by_sequence() {
    let database = Database::new();
    // With a gap, two of the same time, and older ones without a time.
    let mut batch = records((1..=20).chain(30..=60));
    for record in batch.iter_mut().filter(|it| it.record.sequence <= 5) {
        record.record.decided_at = None;
    }
    batch[9].record.decided_at = Some(decided_at(9));
    batch.push(record(1, "a", 0, None));
    batch.push(named_record(1, "b", 1));
    database.writer().store(&batch, &BTreeMap::new()).unwrap();
    let store = database.store();
    let found =
        |iban: &str, time: Timestamp| store.sequence_at(iban, time.system_time().unwrap()).unwrap();
    let later = |sequence: i64| Timestamp::from_millis(decided_at(sequence).millis() + 1);
    for (time, sequence) in [
        (Timestamp::from_millis(0), 6),
        (decided_at(6), 6),
        (later(6), 7),
        (decided_at(8), 8),
        (decided_at(9), 9),
        (later(9), 11),
        (decided_at(20), 20),
        (later(20), 21),
        (decided_at(25), 21),
        (decided_at(30), 21),
        (decided_at(60), 60),
        (later(60), 61),
    ] {
        assert_eq!(found("a", time), sequence, "{time:?}");
    }
    assert_eq!((found("c", decided_at(1)), found("b", decided_at(1))), (0, 0));
    let from = Some(found("a", decided_at(10)));
    let page = store.page("a", &ALL.within(from, Some(found("a", decided_at(31))))).unwrap();
    assert_eq!(sequences(&page), [30].into_iter().chain((11..=20).rev()).collect::<Vec<_>>());
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn page_with_long_texts_is_shorter() {
    let database = Database::new();
    let mut batch = records(1..=40);
    for record in &mut batch {
        record.record.description = "x".repeat(COMMAND_BYTES_MAX);
    }
    database.writer().store(&batch, &BTreeMap::new()).unwrap();
    let store = database.store();
    let (mut seen, mut range) = (Vec::new(), PageRange { items_max: 10, ..ALL });
    loop {
        let page = store.page("a", &range).unwrap();
        assert!((2..=3).contains(&page.items.len()) || !page.has_more, "{}", page.items.len());
        assert!(page.items.iter().all(|it| it.description.len() == COMMAND_BYTES_MAX));
        seen.extend(sequences(&page));
        range.after = page.items.last().map(Cursor::from);
        if !page.has_more {
            break;
        }
    }
    assert_eq!(seen, (1..=40).rev().collect::<Vec<_>>());
}

/// Opens an account without transactions.
fn open_account(store: &Store, iban: &str) {
    let creation = Uuid::new_v4();
    let (salt, hash) = (vec![1], vec![0; 32]);
    let user = User { salt, rounds: 600_000, hash, creation, account: None };
    assert!(store.add_user(&format!("user {creation}"), &user).unwrap());
    store.store_account(creation, iban, &format!("token of {iban}")).unwrap();
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn account_is_known_before_its_first_use() {
    let database = Database::new();
    let store = database.store();
    assert_eq!(store.account("a").unwrap(), None);
    open_account(&store, "a");
    database.open(&["b", "c"]);
    // A record may be read twice.
    database.open(&["b"]);
    for iban in ["a", "b"] {
        let unused = KnownAccount { iban: iban.to_owned(), last_change: None };
        assert_eq!(store.account(iban).unwrap(), Some(unused));
    }
    let stored = database.writer().store(&records(1..=3), &BTreeMap::new()).unwrap();
    let used = KnownAccount { iban: "a".to_owned(), last_change: stored.last().cloned() };
    assert_eq!(store.account("a").unwrap(), Some(used));
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn accounts_are_found_by_prefix() {
    let database = Database::new();
    let store = database.store();
    // Used, opened and used, only opened.
    let batch: Vec<_> = ["NL01", "NL02", "NL1\u{e9}", "DE01", "nl01"]
        .iter()
        .flat_map(|iban| (1..=3).map(move |n| named_record(n, iban, n)))
        .collect();
    database.writer().store(&batch, &BTreeMap::new()).unwrap();
    for iban in ["NL02", "NL2"] {
        open_account(&store, iban);
    }
    database.open(&["NL02", "NL015", "NL2", "AT01"]);
    let found = |prefix: &str, after: &str, items_max| {
        let page = store.accounts(prefix, after, items_max).unwrap();
        let accounts = page.items.iter().map(|account| {
            let changes = account.last_change.as_ref().map_or(0, |last| last.sequence);
            (account.iban.clone(), changes)
        });
        (accounts.collect::<Vec<_>>(), page.has_more)
    };
    let of = |accounts: &[(&str, i64)]| -> Vec<(String, i64)> {
        accounts.iter().map(|(iban, changes)| ((*iban).to_owned(), *changes)).collect()
    };
    let dutch = [("NL01", 3), ("NL015", 0), ("NL02", 3), ("NL1\u{e9}", 3), ("NL2", 0)];
    assert_eq!(found("NL", "", 10), (of(&dutch), false));
    assert_eq!(found("NL", "", 5), (of(&dutch), false));
    assert_eq!(found("NL", "", 2), (of(&dutch[..2]), true));
    assert_eq!(found("NL", "NL015", 2), (of(&dutch[2..4]), true));
    assert_eq!(found("NL", "NL2", 2), (of(&[]), false));
    assert_eq!(found("NL01", "", 10), (of(&dutch[..2]), false));
    assert_eq!(found("NL1", "A", 10), (of(&dutch[3..4]), false));
    assert_eq!(found("NL03", "", 10), (of(&[]), false));
    let all = [&[("AT01", 0), ("DE01", 3)], &dutch[..], &[("nl01", 3)]].concat();
    assert_eq!(found("", "", 10), (of(&all), false));
    assert_eq!(found("", "", 0), (of(&[]), true));
}

/// The measured plan of one execution, as PostgreSQL reports it.
struct Plan(Value);

impl Plan {
    /// Executes a prepared statement, whose plan is the generic one, as for clients.
    fn of(client: &mut Client, execute: &str) -> Self {
        let sql = format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {execute}");
        let text =
            client.simple_query(&sql).unwrap().into_iter().find_map(|message| match message {
                SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            });
        Self(serde_json::from_str::<Value>(&text.unwrap()).unwrap()[0].take())
    }

    fn nodes(&self) -> Vec<&Value> {
        let mut nodes = vec![&self.0["Plan"]];
        let mut at = 0;
        while let Some(node) = nodes.get(at) {
            nodes.extend(node["Plans"].as_array().into_iter().flatten());
            at += 1;
        }
        nodes
    }

    /// Rows that are read from tables and indexes, also those that a condition removes.
    fn rows(&self) -> f64 {
        let rows = |node: &Value| {
            let count = |field: &str| node[field].as_f64().unwrap_or_default();
            (count("Actual Rows") + count("Rows Removed by Filter")) * count("Actual Loops")
        };
        self.nodes().iter().filter(|node| node["Index Name"].is_string()).map(|it| rows(it)).sum()
    }

    /// Pages of 8 KiB that are read, cached or not.
    fn buffers(&self) -> i64 {
        let count = |field: &str| self.0["Plan"][field].as_i64().unwrap();
        count("Shared Hit Blocks") + count("Shared Read Blocks")
    }

    /// Panics unless every table is read by an index and nothing is sorted.
    fn assert_index_only(&self) {
        for node in self.nodes() {
            let kind = node["Node Type"].as_str().unwrap();
            assert!(!matches!(kind, "Seq Scan" | "Sort" | "Incremental Sort"), "{}", self.0);
            let is_scan = node["Relation Name"].is_string();
            assert!(!is_scan || node["Index Name"].is_string(), "{}", self.0);
        }
    }
}

const MILLION: i64 = 1_000_000;

/// Stores a million transactions of account a, all of them credits, and as many others.
fn store_million(database: &Database) {
    database.execute(&format!(
        "SET synchronous_commit = off;
         INSERT INTO transaction (iban, sequence, new_balance, changed_by, from_to, description,
                                  transfer_id, decided_at)
         SELECT CASE WHEN n > {MILLION} THEN 'b' || n % 1000 ELSE 'a' END,
                CASE WHEN n > {MILLION} THEN n / 1000 ELSE n END,
                n, 100, 'NL66OPEN0000000000', 'salary ' || n, gen_random_uuid(),
                to_timestamp(n)
         FROM generate_series(1, {MILLION} + 100000) AS n;"
    ));
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn page_of_a_million_reads_few_rows() {
    let database = Database::new();
    store_million(&database);
    let mut client = connect(&database.config, READER_SETTINGS).unwrap();
    client.batch_execute(&format!("PREPARE forward AS {}", page_sql(false))).unwrap();
    client.batch_execute(&format!("PREPARE backward AS {}", page_sql(true))).unwrap();
    client.batch_execute(&format!("PREPARE accounts AS {}", accounts_sql())).unwrap();
    client.batch_execute(&format!("PREPARE sequence_at AS {SEQUENCE_SQL}")).unwrap();
    let number = |sequence: i64| {
        let sql = "SELECT number FROM transaction WHERE iban = 'a' AND sequence = $1";
        let row = connect(&database.config, "").unwrap().query_one(sql, &[&sequence]).unwrap();
        row.get::<_, i64>(0)
    };
    let at = |sequence: i64| Cursor { sequence, number: number(sequence) };
    let middle = Some(at(MILLION / 2));
    for (name, after, before) in [
        ("whole", None, None),
        ("after the first page", Some(at(MILLION - 1000)), None),
        ("in the middle, after", middle, None),
        ("in the middle, before", None, middle),
        ("before the last page", None, Some(at(1000))),
        ("between", Some(at(MILLION / 2 + 300_000)), middle),
    ] {
        for from_end in [false, true] {
            for (direction, items_max) in [
                (None, 100),
                (None, 1000),
                (Some(Direction::Debit), 100),
                (Some(Direction::Credit), 100),
            ] {
                let range = PageRange { items_max, from_end, after, before, direction };
                let (after, before) = (after.unwrap_or(Cursor::MAX), before.unwrap_or(Cursor::MIN));
                let statement = if from_end { "backward" } else { "forward" };
                let is_debit = direction.map_or("NULL".to_owned(), |direction| {
                    (direction == Direction::Debit).to_string()
                });
                let plan = Plan::of(
                    &mut client,
                    &format!(
                        "EXECUTE {statement} ('a', '{}', '{}', '{}', '{}', {}, {is_debit}, {}, {})",
                        after.sequence,
                        after.number,
                        before.sequence,
                        before.number,
                        range.rows_max(),
                        items_max + 1,
                        i64::MAX
                    ),
                );
                eprintln!(
                    "{name}, from_end={from_end}, {direction:?}, {items_max}: {} ms, {} rows, {} \
                     buffers",
                    plan.0["Execution Time"],
                    plan.rows(),
                    plan.buffers()
                );
                plan.assert_index_only();
                let rows_max = match direction {
                    Some(Direction::Debit) => range.rows_max(),
                    // Window functions read ahead.
                    _ => items_max + 3,
                };
                assert!(plan.rows() <= rows_max as f64, "{name}: {}", plan.0);
                // The depth of the index, and at most one page for each row.
                assert!(plan.buffers() <= rows_max + 10, "{name}: {}", plan.0);
            }
        }
    }
    // A page of no matches has a cursor behind the examined rows, in both directions.
    let store = database.store();
    for from_end in [false, true] {
        let direction = Some(Direction::Debit);
        let range = PageRange { items_max: 10, from_end, after: middle, before: None, direction };
        let page = store.page("a", &range).unwrap();
        assert!(page.items.is_empty() && page.has_more);
        let end = page.examined.unwrap();
        let sequence = if from_end { range.rows_max() } else { MILLION / 2 - range.rows_max() };
        assert_eq!(end, at(sequence));
    }
    let execute = format!("EXECUTE sequence_at ('a', to_timestamp({}))", MILLION / 3);
    let search = Plan::of(&mut client, &execute);
    eprintln!("time: {} ms, {} buffers", search.0["Execution Time"], search.buffers());
    search.assert_index_only();
    assert!(search.rows() <= 22.0 && search.buffers() <= 22 * 5, "{}", search.0);
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(MILLION as u64 / 3);
    assert_eq!(store.sequence_at("a", time).unwrap(), MILLION / 3);
    let accounts =
        Plan::of(&mut client, &format!("EXECUTE accounts ('b', '', 'c', 101, {MILLION})"));
    eprintln!("accounts: {} ms, {} buffers", accounts.0["Execution Time"], accounts.buffers());
    accounts.assert_index_only();
    assert!(accounts.rows() <= 3.0 * 102.0, "{}", accounts.0);
}
