//! Tests of the store. The ignored ones need a PostgreSQL server.

use super::connection::{SCHEMA, connect, old_rows};
use super::notifications::{PAYLOAD_BYTES_MAX, ranges, ranges_of_others};
use super::writer::COPY_MIN;
use super::*;
use crate::error::Error;
use crate::token::digest;
use crate::transaction::Transaction;
use crate::transaction::tests::transaction;
use bank::limits::COMMAND_BYTES_MAX;
use bank::money::Cents;
use bank::records::{AccountCreationConfirmed, Atype, BalanceChanged};
use bank::timestamp::Timestamp;
use service::database;
use service::database::retention::{OldRows, Retention};
use service::shutdown::Shutdown;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// A new, migrated database on the server of `TRANSACTION_DATABASE_URL`. Dropped with this value.
pub(crate) struct Database {
    server: postgres::Config,
    owner: postgres::Config,
    /// The role of the running service, with the rights that `--migrate` grants.
    pub(crate) config: postgres::Config,
}

impl Database {
    pub(crate) fn new() -> Self {
        let database = Self::empty();
        database.migrate();
        database
    }

    /// A database that is not migrated.
    fn empty() -> Self {
        let url = std::env::var("TRANSACTION_DATABASE_URL")
            .expect("TRANSACTION_DATABASE_URL: make test sets it");
        let server: postgres::Config = url.parse().unwrap();
        let name = format!("test_{}", Uuid::new_v4().simple());
        let mut client = connect(&server, "").unwrap();
        client.batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
        client
            .batch_execute(&format!(
                "CREATE ROLE {name} LOGIN PASSWORD '{name}'; GRANT {name} TO CURRENT_USER"
            ))
            .unwrap();
        let mut owner = server.clone();
        owner.dbname(&name);
        let mut config = owner.clone();
        config.user(&name).password(&name);
        Self { server, owner, config }
    }

    fn migrate(&self) {
        let mut client = connect(&self.owner, "").unwrap();
        let role = self.config.get_user().unwrap();
        database::migrate_as_owner(&mut client, &SCHEMA, role).unwrap();
        // As at the start of the service.
        migrate(&self.config, &Shutdown::default()).unwrap();
    }

    pub(crate) fn store(&self) -> Store {
        self.store_with(2)
    }

    /// The queries of an operation, with a pool of its own.
    fn store_with(&self, connections: usize) -> Store {
        let database = super::Database::new(&self.config, connections, &Shutdown::default());
        Arc::new(database).store()
    }

    /// Stores opened accounts with these ibans.
    pub(super) fn open(&self, ibans: &[&str]) {
        let (id, worker) = (Uuid::new_v4(), Uuid::new_v4());
        let mut writer = Writer::open(&self.config, id, worker, 1, &Shutdown::default()).unwrap();
        let opened = |iban: &&str| AccountCreationConfirmed {
            id: Uuid::new_v4(),
            iban: (*iban).to_owned(),
            token: "01234567890123456789".to_owned(),
            a_type: Atype::Auto,
        };
        let position = |record| PositionedRecord { partition: 0, offset: 0, record };
        let batch: Vec<_> = ibans.iter().map(opened).map(position).collect();
        assert_eq!(writer.store(&batch, &BTreeMap::new()).unwrap(), []);
    }

    pub(super) fn writer(&self) -> Writer<BalanceChanged> {
        self.writer_as(Uuid::new_v4())
    }

    fn writer_as(&self, id: Uuid) -> Writer<BalanceChanged> {
        let worker = Uuid::new_v4();
        Writer::open(&self.config, id, worker, 9, &Shutdown::default()).unwrap()
    }

    pub(crate) fn execute(&self, sql: &str) {
        connect(&self.owner, "").unwrap().batch_execute(sql).unwrap();
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let name = self.config.get_dbname().unwrap();
        let mut client = connect(&self.server, "").unwrap();
        client.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).unwrap();
        client.batch_execute(&format!("DROP ROLE {name}")).unwrap();
    }
}

/// Times with milliseconds.
pub(super) fn decided_at(sequence: i64) -> Timestamp {
    Timestamp::from_millis(1_795_996_800_000 + 1001 * sequence)
}

pub(super) fn record(
    offset: i64,
    iban: &str,
    sequence: i64,
    transfer_id: Option<Uuid>,
) -> PositionedRecord<BalanceChanged> {
    let record = BalanceChanged {
        iban: iban.to_owned(),
        new_balance: Cents::new(sequence * 100),
        changed_by: Cents::new(100),
        from_to: "cash".to_owned(),
        description: format!("{iban} {sequence}"),
        transfer_id,
        sequence,
        decided_at: transfer_id.map(|_| decided_at(sequence)),
    };
    PositionedRecord { partition: 3, offset, record }
}

pub(super) fn named_record(
    offset: i64,
    iban: &str,
    sequence: i64,
) -> PositionedRecord<BalanceChanged> {
    record(offset, iban, sequence, Some(Uuid::new_v4()))
}

fn texts(transactions: &[Transaction]) -> Vec<&str> {
    transactions.iter().map(|transaction| transaction.description.as_str()).collect()
}

#[test]
fn ranges_are_encoded_and_decoded() {
    let numbers = |numbers: &[i64]| -> Vec<Transaction> {
        numbers.iter().map(|&number| transaction(number, "a", 1)).collect()
    };
    assert_eq!(ranges(&numbers(&[1, 2, 3, 7, 9, 10])), ["1-3,7-7,9-10"]);
    assert!(ranges(&[]).is_empty());
    let scattered: Vec<i64> = (0..2000).map(|n| i64::MAX - 2 * (2000 - n)).collect();
    let payloads = ranges(&numbers(&scattered));
    assert!(payloads.len() > 1 && payloads.iter().all(|it| it.len() <= PAYLOAD_BYTES_MAX));
    let (own, other) = (Uuid::new_v4(), Uuid::new_v4());
    let received: Vec<i64> = payloads
        .iter()
        .flat_map(|payload| ranges_of_others(&format!("{other}:{payload}"), own))
        .flat_map(|(first, last)| first..=last)
        .collect();
    assert_eq!(received, scattered);
    for ignored in
        [&format!("{own}:1-3"), "", "x", "x:", "x:1", "x:a-b", "x:1-99999999999999999999"]
    {
        assert!(ranges_of_others(ignored, own).is_empty(), "{ignored}");
    }
}

#[test]
fn unstorable_changes_are_detected() {
    let change = |iban: &str, description: &str| BalanceChanged {
        description: description.to_owned(),
        ..named_record(0, iban, 1).record
    };
    assert_eq!(change(&"a".repeat(64), "b").unstorable(), None);
    assert!(change(&"a".repeat(65), "b").unstorable().is_some());
    assert!(change("a", "\0").unstorable().is_some());
    let decided_at = |millis| BalanceChanged {
        decided_at: Some(Timestamp::from_millis(millis)),
        ..change("a", "b")
    };
    assert_eq!(decided_at(0).unstorable(), None);
    assert!(decided_at(-1).unstorable().is_some() && decided_at(i64::MAX).unstorable().is_some());
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn replayed_batch_is_stored_once() {
    let database = Database::new();
    let mut writer = database.writer();
    let id = Uuid::new_v4();
    let mut batch =
        vec![record(1, "a", 1, Some(id)), record(2, "b", 1, Some(id)), record(3, "a", 0, None)];
    // A duplicate within the batch.
    batch.push(batch[0].clone());
    let stored = writer.store(&batch, &BTreeMap::new()).unwrap();
    assert_eq!(texts(&stored), ["a 1", "b 1", "a 0"]);
    let times: Vec<_> = stored.iter().map(|it| it.decided_at).collect();
    assert_eq!(times, [Some(decided_at(1)), Some(decided_at(1)), None]);
    assert!(writer.store(&batch, &BTreeMap::new()).unwrap().is_empty());
    // Without a transfer_id, a record at another offset is another transaction.
    let other = PositionedRecord { offset: 4, ..batch[2].clone() };
    let again = writer.store(&[batch[2].clone(), other], &BTreeMap::new()).unwrap();
    assert_eq!(texts(&again), ["a 0"]);
    let read = database.store().by_iban("a", 10).unwrap();
    assert_eq!(read.len(), 3);
    assert_eq!(read[0], stored[0], "equal to the published one in every field");
}

/// A bank whose database was restored decides lost transfers again, in another order and with
/// other sequences. So neither is a sequence unique, nor does a transfer keep its sequence.
#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn transfer_decided_again_keeps_its_first_record() {
    let database = Database::new();
    let mut writer = database.writer();
    let [first, second, new] = [(); 3].map(|()| Some(Uuid::new_v4()));
    let before = [record(1, "a", 1, first), record(2, "a", 2, second)];
    let before = writer.store(&before, &BTreeMap::new()).unwrap();
    let again = [record(3, "a", 1, new), record(4, "a", 2, second), record(5, "a", 3, first)];
    let again = writer.store(&again, &BTreeMap::new()).unwrap();
    assert_eq!(texts(&again), ["a 1"], "only the new transfer");
    let expected = [before[1].clone(), again[0].clone(), before[0].clone()];
    assert_eq!(database.store().by_iban("a", 10).unwrap(), expected);
}

/// A small batch is stored by one statement, which finds the positions by the places of their rows.
#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn small_batch_is_stored_with_its_positions() {
    let database = Database::new();
    let mut writer = database.writer();
    let seize = |writer: &mut Writer<BalanceChanged>| {
        writer.owning(|ownership, client| ownership.seize(client, &[3, 4])).unwrap();
    };
    seize(&mut writer);
    let starts = BTreeMap::from([(3, 0), (4, 0)]);
    writer.owning(|ownership, client| ownership.begin(client, &starts, None)).unwrap();
    let mut listener =
        NotificationListener::open(&database.config, &Arc::default(), &Shutdown::default())
            .unwrap();
    let mut store = |writer: &mut Writer<BalanceChanged>, numbers: [i64; 2]| {
        let record = |number| record(number, "a", number, Some(Uuid::from_u128(number as u128)));
        let batch = numbers.map(record);
        let next = BTreeMap::from([(3, numbers[0]), (4, numbers[1])]);
        let stored = writer.store(&batch, &next)?;
        assert_eq!(published(&mut listener, Duration::from_secs(10)), stored);
        Ok::<_, Error>(stored.len())
    };
    let positions = || {
        let sql = "SELECT next_offset FROM topic_partition WHERE partition IN (3, 4)
                   ORDER BY partition";
        let rows = connect(&database.owner, "").unwrap().query(sql, &[]).unwrap();
        rows.iter().map(|row| row.get(0)).collect::<Vec<i64>>()
    };
    assert_eq!(store(&mut writer, [1, 2]).unwrap(), 2);
    // As if another endpoint took each second number.
    database.execute("ALTER SEQUENCE transaction_number_seq INCREMENT 2");
    assert_eq!(store(&mut writer, [3, 4]).unwrap(), 2);
    // The rows have other places.
    database.execute("VACUUM FULL topic_partition");
    assert_eq!(store(&mut writer, [5, 6]).unwrap(), 2);
    assert_eq!(store(&mut writer, [6, 7]).unwrap(), 1, "one is known");
    assert_eq!(positions(), [6, 7]);
    seize(&mut database.writer());
    let err = store(&mut writer, [8, 9]).unwrap_err();
    assert!(matches!(err, Error::Database(database::Error::Fenced)), "{err}");
    assert_eq!(positions(), [6, 7]);
    assert_eq!(database.store().by_iban("a", 10).unwrap().len(), 7);
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn copied_batch_is_stored_once() {
    let database = Database::new();
    let (mut writer, mut other) = (database.writer(), database.writer());
    let mut batch: Vec<_> = (1..COPY_MIN as i64).map(|n| named_record(n, "a", n)).collect();
    // All that may be missing is missing.
    batch.push(record(0, "\u{e9}", 0, None));
    let stored = writer.store(&batch, &BTreeMap::new()).unwrap();
    let expected: Vec<_> = (1..).zip(&batch).map(|(number, it)| it.stored_as(number)).collect();
    assert_eq!(stored, expected);
    let store = database.store();
    let of_a = store.by_iban("a", 1000).unwrap();
    assert!(of_a.iter().rev().eq(&stored[..stored.len() - 1]));
    assert_eq!(store.by_iban("\u{e9}", 1000).unwrap(), stored[stored.len() - 1..]);
    // PostgreSQL notices a duplicate after it has stored rows before it.
    for known in [&batch[0], &batch[COPY_MIN - 1]] {
        let new: Vec<_> = (1..=1500).map(|n| named_record(n, "b", n)).collect();
        let batch = [&new[..], std::slice::from_ref(known)].concat();
        let stored = other.store(&batch, &BTreeMap::new()).unwrap();
        assert!(stored.iter().map(|it| it.sequence).eq(1..=1500));
        assert!(stored.iter().all(|it| it.iban == "b"));
    }
    assert!(writer.store(&batch, &BTreeMap::new()).unwrap().is_empty());
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn account_is_read_newest_first() {
    let database = Database::new();
    let batch = [
        named_record(1, "a", 2),
        named_record(2, "b", 1),
        named_record(3, "a", 3),
        named_record(4, "a", 1),
    ];
    database.writer().store(&batch, &BTreeMap::new()).unwrap();
    let store = database.store();
    assert_eq!(texts(&store.by_iban("a", 10).unwrap()), ["a 3", "a 2", "a 1"]);
    assert_eq!(texts(&store.by_iban("a", 2).unwrap()), ["a 3", "a 2"]);
    assert!(store.by_iban("c", 10).unwrap().is_empty());
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn later_transactions_are_read_in_bounded_pages() {
    let database = Database::new();
    let mut batch: Vec<PositionedRecord<BalanceChanged>> =
        (1..=70).map(|n| named_record(n, "a", n)).collect();
    batch.push(named_record(71, "b", 50));
    // One that is larger than a page, with its neighbours.
    batch[67].record.description = "x".repeat(40_000);
    database.writer().store(&batch, &BTreeMap::new()).unwrap();
    let store = database.store();
    let page = |after| {
        let page = store.after_sequence("a", after).unwrap();
        let sequences: Vec<i64> = page.transactions.iter().map(|it| it.sequence).collect();
        (sequences, page.has_more)
    };
    assert_eq!(page(0), ((1..=8).collect(), true));
    assert_eq!(page(8), ((9..=16).collect(), true));
    assert_eq!(page(62), ((63..=67).collect(), true), "cut by its size");
    assert_eq!(page(67), (vec![68], true));
    assert_eq!(page(68), (vec![69, 70], false));
    assert_eq!(page(70), (vec![], false));
    assert_eq!(store.after_sequence("c", 0).unwrap().transactions, []);
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn last_transactions_are_read_in_pages() {
    let database = Database::new();
    let ibans: Vec<String> = (0..25).map(|n| format!("iban {n:02}")).collect();
    let batch: Vec<PositionedRecord<BalanceChanged>> =
        (1..=3).flat_map(|n| ibans.iter().map(move |iban| named_record(n, iban, n))).collect();
    database.writer().store(&batch, &BTreeMap::new()).unwrap();
    let store = database.store();
    let mut all = Vec::new();
    loop {
        let after = all.last().map_or(String::new(), |it: &Transaction| it.iban.clone());
        let page = store.last_of_each(&after, 10).unwrap();
        if page.is_empty() {
            break;
        }
        all.extend(page);
    }
    assert_eq!(all.iter().map(|it| it.iban.clone()).collect::<Vec<_>>(), ibans);
    assert!(all.iter().all(|it| it.new_balance == Cents::new(300)));
    assert_eq!(store.last_of_each("", 1000).unwrap(), all);
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn id_finds_its_newest_transaction() {
    let database = Database::new();
    let mut writer = database.writer();
    writer.store(&[named_record(1, "a", 1), named_record(2, "a", 2)], &BTreeMap::new()).unwrap();
    let store = database.store();
    let found = |id| store.by_id(id).unwrap().map(|it| it.description);
    assert_eq!(found(2), Some("a 2".to_owned()));
    assert_eq!((found(3), found(0), found(-1), found(i32::MAX)), (None, None, None, None));
    database.execute("ALTER TABLE transaction ALTER COLUMN number RESTART WITH 2147483647");
    let wrapped = writer
        .store(
            &[named_record(3, "a", 3), named_record(4, "a", 4), named_record(5, "a", 5)],
            &BTreeMap::new(),
        )
        .unwrap();
    assert_eq!(wrapped.iter().map(Transaction::id).collect::<Vec<_>>(), [i32::MAX, 0, 1]);
    assert_eq!(found(i32::MAX), Some("a 3".to_owned()));
    assert_eq!(found(0), Some("a 4".to_owned()));
    assert_eq!(found(1), Some("a 5".to_owned()), "not the first one");
    assert_eq!(found(2), Some("a 2".to_owned()), "the id is not used again yet");
    assert_eq!(store.by_number(1).unwrap().unwrap().description, "a 1");
    assert_eq!(store.by_number(i64::MAX).unwrap(), None);
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn list_with_long_texts_is_not_read() {
    let database = Database::new();
    let long = |n: i64, iban: &str| {
        let mut record = named_record(n, iban, n);
        record.record.description = "x".repeat(COMMAND_BYTES_MAX);
        record
    };
    let of_one = (1..=40).map(|n| long(n, "a"));
    let of_many = (41..=80).map(|n| long(n, &format!("b{n}")));
    let records: Vec<_> = of_one.chain(of_many).collect();
    database.writer().store(&records, &BTreeMap::new()).unwrap();
    let store = database.store();
    for items in [1, 2] {
        assert_eq!(store.by_iban("a", items).unwrap().len(), items as usize);
        assert_eq!(store.last_of_each("b", items).unwrap().len(), items as usize);
    }
    for items in [40, 1000] {
        assert!(matches!(store.by_iban("a", items), Err(Error::TooLarge)));
        assert!(matches!(store.last_of_each("b", items), Err(Error::TooLarge)));
    }
}

/// The transactions of the notifications that the listener receives.
fn published(listener: &mut NotificationListener, wait: Duration) -> Vec<Transaction> {
    let mut all = Vec::new();
    let handle = |notification| match notification {
        Notification::Stored(transactions) => all.extend(transactions),
        Notification::TokenReplaced(_) => panic!("no token was replaced"),
    };
    listener.next(wait, handle).unwrap();
    all
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn other_endpoints_are_notified_of_stored_transactions() {
    let database = Database::new();
    let id = Arc::<WriterId>::default();
    let mut writer = database.writer_as(id.get());
    let listener = |own: &Arc<WriterId>| {
        NotificationListener::open(&database.config, own, &Shutdown::default()).unwrap()
    };
    let (mut other, mut itself) = (listener(&Arc::default()), listener(&id));
    let batch = [named_record(1, "a", 1), named_record(2, "b", 1)];
    let stored = writer.store(&batch, &BTreeMap::new()).unwrap();
    let wait = Duration::from_secs(10);
    assert_eq!(published(&mut other, wait), stored);
    assert!(published(&mut itself, wait).is_empty(), "an endpoint ignores its own notifications");
    writer.store(&batch, &BTreeMap::new()).unwrap();
    assert!(published(&mut other, Duration::from_millis(1)).is_empty(), "nothing was new");
    id.replace();
    let late = writer.store(&[named_record(3, "a", 2)], &BTreeMap::new()).unwrap();
    assert_eq!(published(&mut itself, wait), late, "the id is no longer its own");
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn closed_connection_is_reopened() {
    let database = Database::new();
    let store = database.store_with(1);
    assert_eq!(store.by_number(1).unwrap(), None);
    database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE pid <> pg_backend_pid() AND datname = current_database()",
    );
    assert_eq!(store.by_number(1).unwrap(), None);
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn failed_logins_are_counted_per_address() {
    let database = Database::new();
    let store = database.store();
    let stranger: IpAddr = "2001:db8::".parse().unwrap();
    let owner: IpAddr = "192.0.2.1".parse().unwrap();
    for _ in 0..10 {
        assert!(store.begin_login("abcdefgh", stranger).unwrap());
    }
    assert!(!store.begin_login("abcdefgh", stranger).unwrap());
    assert!(store.begin_login("abcdefgh", owner).unwrap());
    assert!(store.begin_login("ijklmnop", stranger).unwrap());
    // The delay is over: one more login.
    database.execute("UPDATE failed_login SET failed_at = failed_at - interval '2 seconds'");
    assert!(store.begin_login("abcdefgh", stranger).unwrap());
    assert!(!store.begin_login("abcdefgh", stranger).unwrap());
    store.logged_in("abcdefgh", stranger).unwrap();
    assert!(store.begin_login("abcdefgh", stranger).unwrap());
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn failed_logins_of_a_fast_clock_are_forgotten() {
    let database = Database::new();
    let store = database.store();
    let address: IpAddr = "192.0.2.1".parse().unwrap();
    while store.begin_login("abcdefgh", address).unwrap() {}
    // As far ahead as a concurrent login can be.
    database.execute("UPDATE failed_login SET failed_at = now() + interval '50 seconds'");
    assert!(!store.begin_login("abcdefgh", address).unwrap());
    // Before the login, the clock of the database has gone back by an hour.
    database.execute("UPDATE failed_login SET failed_at = now() + interval '1 hour'");
    assert!(store.begin_login("abcdefgh", address).unwrap());
    assert!(!store.begin_login("abcdefgh", address).unwrap());
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn service_role_stores_users_and_transfers() {
    let database = Database::new();
    let store = database.store();
    let (first, creation) = (Uuid::new_v4(), Uuid::new_v4());
    let user =
        User { salt: vec![1], rounds: 600_000, hash: vec![0; 32], creation: first, account: None };
    assert!(store.add_user("username", &user).unwrap());
    assert!(!store.add_user("username", &user).unwrap());
    assert_eq!(store.replace_creation("username", first, creation).unwrap(), creation);
    store.store_account(creation, "NL66OPEN0000000000", "12345678901234567890").unwrap();
    assert_eq!(store.iban_of_token(&[0; 32]).unwrap(), None);

    let (uuid, from) = (Uuid::new_v4(), "cash".to_owned());
    let transfer =
        StoredTransfer { uuid, content: vec![0; 32], from, command: Some(vec![1]), result: None };
    store.begin_transfer(&transfer).unwrap();
    store.end_transfer(uuid, &Ok(())).unwrap();
    assert_eq!(store.transfer(uuid).unwrap().unwrap().result, Some(Ok(())));
}

/// A user with an account, whose token is `token`.
fn account(store: &Store, iban: &str, token: &str) -> Uuid {
    let (salt, hash, creation) = (vec![1], vec![0; 32], Uuid::new_v4());
    let user = User { salt, rounds: 600_000, hash, creation, account: None };
    assert!(store.add_user(&format!("user of {iban}"), &user).unwrap());
    assert_eq!(store.store_account(creation, iban, token).unwrap(), token);
    creation
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn replaced_token_is_unknown_and_banks_remains() {
    let database = Database::new();
    let store = database.store();
    let creation = account(&store, "a", "bank's");
    account(&store, "b", "other");
    let of_a = || {
        let tokens = store.tokens("a").unwrap().unwrap();
        (tokens.digest, tokens.of_bank)
    };
    assert_eq!(of_a(), (digest("bank's").to_vec(), "bank's".to_owned()));
    assert_eq!(store.rotate_token(&digest("unknown"), "new").unwrap(), None);
    for (old, new) in [("bank's", "first"), ("first", "second")] {
        let rotated = || store.rotate_token(&digest(old), new).unwrap();
        assert_eq!(rotated().as_deref(), Some("a"));
        assert_eq!(rotated().as_deref(), Some("a"), "a repeated statement has the same result");
        assert_eq!(store.rotate_token(&digest(old), "third").unwrap(), None);
        assert_eq!(of_a(), (digest(new).to_vec(), "bank's".to_owned()));
        assert_eq!(store.iban_of_token(&digest(old)).unwrap(), None);
        assert_eq!(store.iban_of_token(&digest(new)).unwrap().as_deref(), Some("a"));
        let user = store.user("user of a").unwrap().unwrap();
        assert_eq!(user.account, Some(("a".to_owned(), new.to_owned())));
        // A login that has opened the account late.
        assert_eq!(store.store_account(creation, "a", "bank's").unwrap(), new);
    }
    assert_eq!(store.iban_of_token(&digest("other")).unwrap().as_deref(), Some("b"));
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn concurrent_rotations_replace_a_token_once() {
    let database = Database::new();
    let store = database.store_with(8);
    account(&store, "a", "bank's");
    let rotated = std::thread::scope(|scope| {
        let rotate = |number: usize| store.rotate_token(&digest("bank's"), &number.to_string());
        let clients: Vec<_> =
            (0..8).map(|number| scope.spawn(move || rotate(number).unwrap())).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(rotated.iter().flatten().count(), 1, "{rotated:?}");
    let winner = rotated.iter().position(Option::is_some).unwrap();
    assert_eq!(store.tokens("a").unwrap().unwrap().digest, digest(&winner.to_string()));
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn endpoints_are_notified_of_replaced_tokens() {
    let database = Database::new();
    let store = database.store();
    account(&store, "a", "bank's");
    let mut listener =
        NotificationListener::open(&database.config, &Arc::default(), &Shutdown::default())
            .unwrap();
    store.rotate_token(&digest("unknown"), "new").unwrap();
    store.rotate_token(&digest("bank's"), "new").unwrap();
    let mut replaced = Vec::new();
    let handle = |notification| match notification {
        Notification::Stored(_) => panic!("nothing was stored"),
        Notification::TokenReplaced(token) => replaced.push(token),
    };
    listener.next(Duration::from_secs(10), handle).unwrap();
    assert_eq!(replaced, [digest("bank's")]);
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn database_of_version_5_is_migrated() {
    let database = Database::empty();
    let mut owner = connect(&database.owner, "").unwrap();
    let version_5 = database::Schema { migrations: &SCHEMA.migrations[..5], rights: &[], ..SCHEMA };
    database::migrate_as_owner(&mut owner, &version_5, "").unwrap();
    let sql =
        "INSERT INTO account (username, salt, rounds, hash, creation, iban, token, token_digest)
               SELECT 'username', '', 600000, sha256(''), $1, 'a', 'bank''s', sha256('bank''s')";
    owner.execute(sql, &[&Uuid::new_v4()]).unwrap();
    database.migrate();
    let store = database.store();
    assert_eq!(store.tokens("a").unwrap().unwrap().of_bank, "bank's");
    assert_eq!(store.rotate_token(&digest("bank's"), "new").unwrap().as_deref(), Some("a"));
    let tokens = store.tokens("a").unwrap().unwrap();
    assert_eq!((tokens.digest, tokens.of_bank.as_str()), (digest("new").to_vec(), "bank's"));
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn old_failed_logins_are_deleted() {
    let database = Database::new();
    let store = database.store();
    let address: IpAddr = "192.0.2.1".parse().unwrap();
    for user in 0..10 {
        assert!(store.begin_login(&format!("name {user:04}"), address).unwrap());
    }
    let count = || {
        let sql = "SELECT count(*) FROM failed_login";
        connect(&database.config, "").unwrap().query_one(sql, &[]).unwrap().get::<_, i64>(0)
    };
    database.execute("UPDATE failed_login SET failed_at = failed_at - interval '59 minutes'");
    assert!(store.begin_login("abcdefgh", address).unwrap());
    assert_eq!(count(), 11);
    database.execute("UPDATE failed_login SET failed_at = failed_at - interval '2 minutes'");
    assert!(store.begin_login("abcdefgh", address).unwrap());
    assert_eq!(count(), 1);
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn service_role_has_no_other_rights() {
    let database = Database::new();
    let mut client = connect(&database.config, "").unwrap();
    for sql in [
        "UPDATE transaction SET new_balance = 0",
        "SELECT setval('transaction_number_seq', 1)",
        "DELETE FROM account",
        "DELETE FROM opened_account",
        "TRUNCATE transfer",
        "INSERT INTO migration (version) VALUES (99)",
        "DROP TABLE account",
        "CREATE TABLE other (id integer)",
    ] {
        let err = client.batch_execute(sql).unwrap_err();
        assert_eq!(err.code(), Some(&postgres::error::SqlState::INSUFFICIENT_PRIVILEGE), "{sql}");
    }
}

#[test]
#[ignore = "needs PostgreSQL: make test-integration"]
fn rows_are_deleted_after_the_period() {
    let database = Database::new();
    let mut writer = database.writer();
    let mut store = |range: std::ops::RangeInclusive<i64>| {
        let new = |sequence| record(sequence, "a", sequence, Some(Uuid::new_v4()));
        let batch: Vec<_> = range.map(new).collect();
        writer.store(&batch, &BTreeMap::new()).unwrap();
    };
    // More than two slices.
    store(1..=2_500);
    database.execute("UPDATE transaction SET decided_at = now() - interval '32 days'");
    store(2_501..=2_502);
    let foreign = [record(7, "b", 0, None), record(8, "b", 0, None), record(9, "c", 1, None)];
    writer.store(&foreign, &BTreeMap::new()).unwrap();
    database.execute(
        "UPDATE transaction SET decided_at = now() - interval '30 days'
             WHERE iban = 'a' AND sequence > 2500;
         UPDATE transaction SET decided_at = NULL WHERE iban = 'b';
         UPDATE transaction SET decided_at = to_timestamp(1) WHERE iban = 'c';
         INSERT INTO transfer (uuid, content, from_party, success)
         SELECT id, sha256(''), 'a', true
         FROM (VALUES ('018bcfe5-6800-7000-8000-000000000001'::uuid),
                      ('018bcfe5-6800-4000-8000-000000000001')) AS ids (id)",
    );

    let mut client = connect(&database.config, "").unwrap();
    let mut delete = |days| {
        let delete = |rows: OldRows| {
            rows.delete(&mut client, Retention { days }, &Shutdown::default()).unwrap()
        };
        old_rows().into_iter().map(delete).collect::<Vec<u64>>()
    };
    assert_eq!(delete(30), [1, 2_500]);
    assert_eq!(delete(30), [0, 0]);
    // Of each account, the last one stays.
    assert_eq!(delete(1), [0, 1]);
    let store = database.store();
    let last = store.last_of_each("", 10).unwrap();
    let last: Vec<_> = last.iter().map(|it| (it.iban.as_str(), it.sequence)).collect();
    assert_eq!(last, [("a", 2_502), ("b", 0), ("c", 1)]);
}
