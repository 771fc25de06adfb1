//! All SQL of the service.
//!
//! A [`Writer`] is one connection that owns partitions of balance_changed and stores their records. A [`Store`] is a handful of
//! connections for everything that visitors ask.

use crate::access;
use crate::error::Error;
use crate::ledger::Transaction;
use bank::money::Cents;
use bank::records::BalanceChanged;
use bank::topology::BALANCE_CHANGED;
use postgres::fallible_iterator::FallibleIterator;
use postgres::types::ToSql;
use postgres::{Client, Row, Statement};
use service::database::{self, Ownership};
use service::shutdown::Shutdown;
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;
use uuid::Uuid;

/// The migrations, in order; version n is the n-th.
const MIGRATIONS: [&str; 2] = [
    include_str!("../migrations/1-transactions.sql"),
    include_str!("../migrations/2-accounts-and-transfers.sql"),
];

/// Its name in PostgreSQL, and of the lock on the migrations.
const SERVICE: &str = "graphql-endpoint";

/// Every statement finds its rows by an index, also right after the first start, when the statistics still say "empty".
const SETTINGS: &str = "-c lock_timeout=10s -c enable_seqscan=off -c jit=off -c plan_cache_mode=force_generic_plan \
     -c client_min_messages=warning";
/// A stopped process keeps its connection open: the idle time-outs end its session, and with it its locks, so that another
/// endpoint takes over. A living one says something every second.
const WRITER_SETTINGS: &str = "-c idle_session_timeout=10s -c idle_in_transaction_session_timeout=10s -c statement_timeout=20s";
/// What visitors ask is quick or not answered.
const READER_SETTINGS: &str = "-c statement_timeout=5s";

/// The channel on which endpoints tell each other what they have stored.
const CHANNEL: &str = "transaction_stored";
/// Longest payload of a notification that PostgreSQL takes, bytes, less what stands around the ranges.
const PAYLOAD_BYTES_MAX: usize = 7900;

/// Most ibans and texts of a record that are stored, bytes: an index takes no longer ones, and no bank gives them.
const IBAN_BYTES_MAX: usize = 64;

/// Brings the database to this version. Safe when several endpoints start at once: one migrates, the others wait.
///
/// # Errors
/// The database can't be reached, or is of a newer version.
pub fn migrate(config: &postgres::Config, shutdown: &Shutdown) -> Result<(), Error> {
    let _watch = database::watch(shutdown, "migrate the database");
    let mut client = database::connect(config, SERVICE, WRITER_SETTINGS)?;
    Ok(database::migrate(&mut client, SERVICE, &MIGRATIONS)?)
}

/// Says what failed.
fn step(step: &'static str) -> impl FnOnce(postgres::Error) -> Error {
    move |source| database::step(step)(source).into()
}

fn connect(config: &postgres::Config, more: &str) -> Result<Client, Error> {
    Ok(database::connect(config, SERVICE, &format!("{SETTINGS} {more}"))?)
}

/// What PostgreSQL could not store; said in words for dead_letter.
pub fn unstorable(record: &BalanceChanged) -> Option<&'static str> {
    let texts = [&record.iban, &record.from_to, &record.description];
    if texts.iter().any(|text| text.contains('\0')) {
        return Some("a text has a NUL character");
    }
    (record.iban.len() > IBAN_BYTES_MAX).then_some("the iban has more than 64 bytes")
}

/// A record of balance_changed and where it stands.
#[derive(Debug, Clone)]
pub struct Told {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its value.
    pub change: BalanceChanged,
}

impl Told {
    fn stored_as(&self, number: i64) -> Transaction {
        let BalanceChanged {
            iban, new_balance, changed_by, from_to, description, sequence, ..
        } = self.change.clone();
        Transaction { number, sequence, iban, new_balance, changed_by, from_to, description }
    }
}

const COLUMNS: &str = "number, sequence, iban, new_balance, changed_by, from_to, description";

fn transaction(row: &Row) -> Transaction {
    Transaction {
        number: row.get(0),
        sequence: row.get(1),
        iban: row.get(2),
        new_balance: Cents::new(row.get(3)),
        changed_by: Cents::new(row.get(4)),
        from_to: row.get(5),
        description: row.get(6),
    }
}

/// Tries to log in that are not slowed down.
const FREE_TRIES: i32 = 10;
/// After these the wait is a second, then twice as long each time, this often at most.
const DOUBLINGS_MAX: i32 = 6;

/// Whether somebody may log in.
#[derive(Debug)]
pub enum Login {
    /// Nobody has this name.
    Unknown,
    /// Too many tries have failed lately.
    TooSoon,
    /// With this password.
    Known(User),
}

/// Somebody with a password, and an account once the bank has opened it.
#[derive(Clone)]
pub struct User {
    /// Makes equal passwords different.
    pub salt: Vec<u8>,
    /// Of the hash.
    pub rounds: i32,
    /// Of the password.
    pub hash: Vec<u8>,
    /// Id of the command that opens the account.
    pub creation: Uuid,
    /// Iban and token.
    pub account: Option<(String, String)>,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User").field("creation", &self.creation).finish_non_exhaustive()
    }
}

/// A transfer that somebody has asked for.
#[derive(Clone)]
pub struct Order {
    /// By which it is asked for.
    pub uuid: Uuid,
    /// SHA-256 of all that was asked.
    pub content: Vec<u8>,
    /// Who pays.
    pub from: String,
    /// The value that was sent; kept until the bank has answered, to be sent again.
    pub command: Option<Vec<u8>>,
    /// The bank's answer: done, or why not.
    pub result: Option<Result<(), String>>,
}

/// A connection that owns partitions of balance_changed.
pub struct Writer {
    /// The connection and what it owns.
    pub ownership: Ownership,
    insert: Statement,
    insert_missing: Statement,
    notify: Statement,
    /// Names this endpoint in notifications.
    endpoint: Uuid,
}

impl Writer {
    /// Connects and joins the endpoints; owns nothing yet.
    ///
    /// # Errors
    /// The database can't be reached.
    pub fn open(
        config: &postgres::Config,
        endpoint: Uuid,
        shutdown: &Shutdown,
    ) -> Result<Self, Error> {
        let _watch = database::watch(shutdown, "connect");
        let mut client = connect(config, WRITER_SETTINGS)?;
        let mut prepare = |sql: &str| client.prepare(sql).map_err(step("prepare the statements"));
        let insert = "INSERT INTO transaction (iban, sequence, new_balance, changed_by, from_to, description,
                                      transfer_id, record_partition, record_offset)
             SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[], $6::text[],
                                  $7::uuid[], $8::integer[], $9::bigint[])";
        let insert_missing =
            prepare(&format!("{insert} ON CONFLICT DO NOTHING RETURNING {COLUMNS}"))?;
        let insert = prepare(&format!("{insert} RETURNING number"))?;
        let notify = prepare("SELECT pg_notify($1, $2)")?;
        let ownership =
            Ownership::join(client, BALANCE_CHANGED.name, BALANCE_CHANGED.partitions, shutdown)?;
        Ok(Self { ownership, insert, insert_missing, notify, endpoint })
    }

    /// Stores `batch` in one transaction and tells the other endpoints. Gives those that are new, in order: what was stored
    /// before is left as it is.
    ///
    /// # Errors
    /// Nothing was written.
    pub fn store(&mut self, batch: &[Told]) -> Result<Vec<Transaction>, Error> {
        match self.try_store(batch, false) {
            // Read again after a crash. To look for that in every batch would double what a row costs the database.
            Err(Error::Database(err)) if err.is_duplicate() => self.try_store(batch, true),
            stored => stored,
        }
    }

    /// See [`Self::store`]. A row that is there already is an error, unless `again`.
    fn try_store(&mut self, batch: &[Told], again: bool) -> Result<Vec<Transaction>, Error> {
        fn column<'a, T>(batch: &'a [Told], field: impl Fn(&'a Told) -> T) -> Vec<T> {
            batch.iter().map(field).collect()
        }
        // Where a record stands matters only if nothing else tells it from others.
        let if_nameless = |told: &Told| told.change.transfer_id.is_none();
        let _watch = self.ownership.watch("store transactions");
        let mut transaction = self.ownership.client().transaction().map_err(step("begin"))?;
        let rows = transaction
            .query(
                if again { &self.insert_missing } else { &self.insert },
                &[
                    &column(batch, |told| told.change.iban.as_str()),
                    &column(batch, |told| told.change.sequence),
                    &column(batch, |told| told.change.new_balance.get()),
                    &column(batch, |told| told.change.changed_by.get()),
                    &column(batch, |told| told.change.from_to.as_str()),
                    &column(batch, |told| told.change.description.as_str()),
                    &column(batch, |told| told.change.transfer_id),
                    &column(batch, |told| if_nameless(told).then_some(told.partition)),
                    &column(batch, |told| if_nameless(told).then_some(told.offset)),
                ],
            )
            .map_err(step("store transactions"))?;
        let mut stored: Vec<Transaction> = if again {
            rows.iter().map(self::transaction).collect()
        } else {
            // A row for each record, in their order.
            rows.iter().zip(batch).map(|(row, told)| told.stored_as(row.get(0))).collect()
        };
        stored.sort_unstable_by_key(|transaction| transaction.number);
        for ranges in ranges(&stored) {
            let payload = format!("{}:{ranges}", self.endpoint);
            transaction
                .execute(&self.notify, &[&CHANNEL, &payload])
                .map_err(step("tell the other endpoints"))?;
        }
        transaction.commit().map_err(step("commit transactions"))?;
        Ok(stored)
    }
}

/// The numbers of `stored`, which is sorted, as payloads like `1-5,9-9`.
fn ranges(stored: &[Transaction]) -> Vec<String> {
    let mut payloads = Vec::new();
    let mut payload = String::new();
    for run in stored.chunk_by(|a, b| a.number + 1 == b.number) {
        let [first, ..] = run else { continue };
        let last = run.last().unwrap_or(first);
        if payload.len() > PAYLOAD_BYTES_MAX - 64 {
            payloads.push(std::mem::take(&mut payload));
        }
        let comma = if payload.is_empty() { "" } else { "," };
        let _ = write!(payload, "{comma}{}-{}", first.number, last.number);
    }
    if !payload.is_empty() {
        payloads.push(payload);
    }
    payloads
}

/// The ranges in a notification of another endpoint than `own`; none in one that is not understood.
fn others_ranges(payload: &str, own: Uuid) -> Vec<(i64, i64)> {
    let Some((endpoint, ranges)) = payload.split_once(':') else { return Vec::new() };
    if endpoint == own.to_string() {
        return Vec::new();
    }
    let range = |range: &str| {
        let (first, last) = range.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    ranges.split(',').filter_map(range).collect()
}

/// Hears of what other endpoints store.
pub struct Listener {
    client: Client,
    range: Statement,
    endpoint: Uuid,
    shutdown: Shutdown,
}

impl Listener {
    /// Connects; hears of everything from now on.
    ///
    /// # Errors
    /// The database can't be reached.
    pub fn open(
        config: &postgres::Config,
        endpoint: Uuid,
        shutdown: &Shutdown,
    ) -> Result<Self, Error> {
        let _watch = database::watch(shutdown, "connect");
        let mut client = connect(config, READER_SETTINGS)?;
        client.batch_execute(&format!("LISTEN {CHANNEL}")).map_err(step("listen"))?;
        let sql = format!(
            "SELECT {COLUMNS} FROM transaction WHERE number BETWEEN $1 AND $2 ORDER BY number"
        );
        let range = client.prepare(&sql).map_err(step("prepare the statements"))?;
        Ok(Self { client, range, endpoint, shutdown: shutdown.clone() })
    }

    /// What others have stored; waits at most `wait` for it.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn next(&mut self, wait: Duration) -> Result<Vec<Transaction>, Error> {
        let mut told = Vec::new();
        {
            let mut notifications = self.client.notifications();
            let heard = notifications.timeout_iter(wait).next().map_err(step("listen"))?;
            told.extend(heard);
            while let Some(more) = notifications.iter().next().map_err(step("listen"))? {
                told.push(more);
            }
        }
        let _watch = database::watch(&self.shutdown, "read what others have stored");
        let mut stored = Vec::new();
        for (first, last) in
            told.iter().flat_map(|told| others_ranges(told.payload(), self.endpoint))
        {
            let rows = self
                .client
                .query(&self.range, &[&first, &last])
                .map_err(step("read what others have stored"))?;
            stored.extend(rows.iter().map(transaction));
        }
        Ok(stored)
    }

    /// A sign of life of the connection: one that is lost without a word would be silent for ever.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn check(&mut self) -> Result<(), Error> {
        let _watch = database::watch(&self.shutdown, "listen");
        self.client.batch_execute("").map_err(step("listen"))
    }
}

/// A connection that has its statements parsed and planned once: both take the server longer than the answer.
struct Reader {
    client: Client,
    /// By their text.
    statements: HashMap<String, Statement>,
}

impl Reader {
    fn open(config: &postgres::Config) -> Result<Self, Error> {
        let client = connect(config, READER_SETTINGS)?;
        Ok(Self { client, statements: HashMap::new() })
    }

    fn query(
        &mut self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, postgres::Error> {
        let statement = match self.statements.get(sql) {
            Some(statement) => statement,
            None => {
                let statement = self.client.prepare(sql)?;
                self.statements.entry(sql.to_owned()).or_insert(statement)
            }
        };
        self.client.query(statement, params)
    }
}

/// Connections for visitors, made when they are needed.
pub struct Store {
    config: postgres::Config,
    readers: Vec<Mutex<Option<Reader>>>,
    /// Who waits next, where all are busy.
    turn: AtomicUsize,
    shutdown: Shutdown,
}

impl Store {
    /// At most `connections` at a time.
    pub fn new(config: &postgres::Config, connections: usize, shutdown: &Shutdown) -> Self {
        Self {
            config: config.clone(),
            readers: (0..connections.max(1)).map(|_| Mutex::new(None)).collect(),
            turn: AtomicUsize::new(0),
            shutdown: shutdown.clone(),
        }
    }

    /// The newest transaction with this id.
    ///
    /// # Errors
    /// The database did not answer.
    pub fn by_id(&self, id: i32) -> Result<Option<Transaction>, Error> {
        let sql = format!(
            "SELECT {COLUMNS} FROM transaction WHERE number =
             (SELECT max(number) - ((max(number) - $1) & 2147483647) FROM transaction)"
        );
        Ok(self.query(&sql, &[&i64::from(id)])?.iter().map(transaction).next())
    }

    /// The transaction with this number.
    ///
    /// # Errors
    /// The database did not answer.
    pub fn by_number(&self, number: i64) -> Result<Option<Transaction>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM transaction WHERE number = $1");
        Ok(self.query(&sql, &[&number])?.iter().map(transaction).next())
    }

    /// Transactions of an account, the newest first.
    ///
    /// # Errors
    /// The database did not answer.
    pub fn by_iban(&self, iban: &str, items_max: i64) -> Result<Vec<Transaction>, Error> {
        let sql = format!(
            "SELECT {COLUMNS} FROM transaction WHERE iban = $1
             ORDER BY sequence DESC, number DESC LIMIT $2"
        );
        Ok(self.query(&sql, &[&iban, &items_max])?.iter().map(transaction).collect())
    }

    /// The newest transaction of each account behind `after`, by iban.
    ///
    /// # Errors
    /// The database did not answer.
    pub fn last_of_each(&self, after: &str, items_max: i64) -> Result<Vec<Transaction>, Error> {
        // Jumps from iban to iban in the index: as many steps as items, however many transactions there are.
        let sql = format!(
            "WITH RECURSIVE last AS (
                 (SELECT * FROM transaction WHERE iban > $1
                  ORDER BY iban, sequence DESC, number DESC LIMIT 1)
                 UNION ALL
                 SELECT next.* FROM last CROSS JOIN LATERAL
                     (SELECT * FROM transaction WHERE iban > last.iban
                      ORDER BY iban, sequence DESC, number DESC LIMIT 1) AS next)
             SELECT {COLUMNS} FROM last LIMIT $2"
        );
        Ok(self.query(&sql, &[&after, &items_max])?.iter().map(transaction).collect())
    }

    /// The account with this token.
    ///
    /// # Errors
    /// The database did not answer.
    pub fn iban_of_token(&self, digest: &[u8; 32]) -> Result<Option<String>, Error> {
        let sql = "SELECT iban FROM account WHERE token_digest = $1";
        Ok(self.query(sql, &[&digest.as_slice()])?.first().map(|row| row.get(0)))
    }

    /// Begins a try to log in, which counts as failed until [`Self::logged_in`]: so many tries at once count as so many.
    ///
    /// # Errors
    /// The database did not answer.
    pub fn begin_login(&self, username: &str) -> Result<Login, Error> {
        let tried = self.query(
            "UPDATE account SET failed_tries = failed_tries + 1, failed_at = now()
             WHERE username = $1 AND (failed_tries < $2 OR
                 failed_at + power(2, least(failed_tries - $2, $3)) * interval '1 second' <= now())
             RETURNING salt, rounds, hash, creation, iban, token",
            &[&username, &FREE_TRIES, &DOUBLINGS_MAX],
        )?;
        if let [row, ..] = tried.as_slice() {
            let iban: Option<String> = row.get(4);
            return Ok(Login::Known(User {
                salt: row.get(0),
                rounds: row.get(1),
                hash: row.get(2),
                creation: row.get(3),
                account: iban.zip(row.get(5)),
            }));
        }
        let known = self.query("SELECT FROM account WHERE username = $1", &[&username])?;
        Ok(if known.is_empty() { Login::Unknown } else { Login::TooSoon })
    }

    /// Ends a try with the right password.
    ///
    /// # Errors
    /// The database did not answer.
    pub fn logged_in(&self, username: &str) -> Result<(), Error> {
        let sql = "UPDATE account SET failed_tries = 0 WHERE username = $1";
        self.query(sql, &[&username]).map(drop)
    }

    /// Keeps a new user; false if there is one of this name.
    ///
    /// # Errors
    /// The database did not answer.
    pub fn add_user(&self, username: &str, user: &User) -> Result<bool, Error> {
        let added = self.query(
            "INSERT INTO account (username, salt, rounds, hash, creation) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (username) DO NOTHING RETURNING username",
            &[&username, &user.salt, &user.rounds, &user.hash, &user.creation],
        )?;
        Ok(!added.is_empty())
    }

    /// The bank has opened the account that `creation` asked for.
    ///
    /// # Errors
    /// The database did not answer.
    pub fn opened(&self, creation: Uuid, iban: &str, token: &str) -> Result<(), Error> {
        let sql = "UPDATE account SET iban = $2, token = $3, token_digest = $4
                   WHERE creation = $1 AND iban IS NULL";
        let digest = access::digest(token);
        self.query(sql, &[&creation, &iban, &token, &digest.as_slice()]).map(drop)
    }

    /// The bank has refused `creation`: the command to ask with next, which is `next` or what another visitor of the same
    /// name has taken meanwhile.
    ///
    /// # Errors
    /// The database did not answer.
    pub fn ask_anew(&self, username: &str, creation: Uuid, next: Uuid) -> Result<Uuid, Error> {
        let sql = "UPDATE account SET creation = $3 WHERE username = $1 AND creation = $2";
        self.query(sql, &[&username, &creation, &next])?;
        let sql = "SELECT creation FROM account WHERE username = $1";
        Ok(self.query(sql, &[&username])?.first().map_or(next, |row| row.get(0)))
    }

    /// Keeps an order before it is sent, or gives what is known of its uuid.
    ///
    /// # Errors
    /// The database did not answer.
    pub fn begin_transfer(&self, order: &Order) -> Result<Order, Error> {
        self.query(
            "INSERT INTO transfer (uuid, content, from_party, command) VALUES ($1, $2, $3, $4)
             ON CONFLICT (uuid) DO NOTHING",
            &[&order.uuid, &order.content, &order.from, &order.command],
        )?;
        let kept = self.transfer(order.uuid)?;
        Ok(kept.unwrap_or_else(|| order.clone()))
    }

    /// What is known of a transfer.
    ///
    /// # Errors
    /// The database did not answer.
    pub fn transfer(&self, uuid: Uuid) -> Result<Option<Order>, Error> {
        let sql =
            "SELECT content, from_party, command, success, reason FROM transfer WHERE uuid = $1";
        let rows = self.query(sql, &[&uuid])?;
        Ok(rows.first().map(|row| {
            let success: Option<bool> = row.get(3);
            let result = success.map(|success| {
                if success {
                    Ok(())
                } else {
                    Err(row.get::<_, Option<String>>(4).unwrap_or_default())
                }
            });
            Order { uuid, content: row.get(0), from: row.get(1), command: row.get(2), result }
        }))
    }

    /// The bank has answered.
    ///
    /// # Errors
    /// The database did not answer.
    pub fn end_transfer(&self, uuid: Uuid, result: &Result<(), String>) -> Result<(), Error> {
        let sql = "UPDATE transfer SET success = $2, reason = $3, command = NULL
                   WHERE uuid = $1 AND success IS NULL";
        self.query(sql, &[&uuid, &result.is_ok(), &result.as_ref().err()]).map(drop)
    }

    /// Asks on a connection that is free, and on a new one if the first turns out to be lost before anything was done with it.
    fn query(&self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
        let _watch = database::watch(&self.shutdown, "answer a visitor");
        let mut reader = self.reader();
        for last in [false, true] {
            let reader = match &mut *reader {
                Some(reader) if !reader.client.is_closed() => reader,
                lost => lost.insert(Reader::open(&self.config)?),
            };
            match reader.query(sql, params) {
                // The server has closed it while it lay here: nobody knew until now.
                Err(_) if reader.client.is_closed() && !last => {}
                result => return result.map_err(step("answer a visitor")),
            }
        }
        unreachable!("the last round returns")
    }

    /// The first connection that is free, else the turn of one.
    fn reader(&self) -> MutexGuard<'_, Option<Reader>> {
        for reader in &self.readers {
            match reader.try_lock() {
                Ok(reader) => return reader,
                Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => {}
            }
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.readers.len();
        self.readers[turn].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::ledger::tests::transaction;

    /// A database of the test's own, migrated, on the server of `TRANSACTION_DATABASE_URL`; dropped with it.
    pub(crate) struct Database {
        server: postgres::Config,
        pub(crate) config: postgres::Config,
    }

    impl Database {
        pub(crate) fn new() -> Self {
            let url = std::env::var("TRANSACTION_DATABASE_URL")
                .expect("TRANSACTION_DATABASE_URL: make test sets it");
            let server: postgres::Config = url.parse().unwrap();
            let name = format!("test_{}", Uuid::new_v4().simple());
            let mut client = connect(&server, "").unwrap();
            client.batch_execute(&format!("CREATE DATABASE {name}")).unwrap();
            let mut config = server.clone();
            config.dbname(&name);
            migrate(&config, &Shutdown::default()).unwrap();
            Self { server, config }
        }

        pub(crate) fn store(&self) -> Store {
            Store::new(&self.config, 2, &Shutdown::default())
        }

        fn writer(&self) -> Writer {
            Writer::open(&self.config, Uuid::new_v4(), &Shutdown::default()).unwrap()
        }

        pub(crate) fn execute(&self, sql: &str) {
            connect(&self.config, "").unwrap().batch_execute(sql).unwrap();
        }
    }

    impl Drop for Database {
        fn drop(&mut self) {
            let name = self.config.get_dbname().unwrap();
            let mut client = connect(&self.server, "").unwrap();
            client.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).unwrap();
        }
    }

    fn told(offset: i64, iban: &str, sequence: i64, transfer_id: Option<Uuid>) -> Told {
        let change = BalanceChanged {
            iban: iban.to_owned(),
            new_balance: Cents::new(sequence * 100),
            changed_by: Cents::new(100),
            from_to: "cash".to_owned(),
            description: format!("{iban} {sequence}"),
            transfer_id,
            sequence,
        };
        Told { partition: 3, offset, change }
    }

    fn new(offset: i64, iban: &str, sequence: i64) -> Told {
        told(offset, iban, sequence, Some(Uuid::new_v4()))
    }

    fn texts(transactions: &[Transaction]) -> Vec<&str> {
        transactions.iter().map(|transaction| transaction.description.as_str()).collect()
    }

    #[test]
    fn ranges_are_told_and_understood() {
        let numbers = |numbers: &[i64]| -> Vec<Transaction> {
            numbers.iter().map(|&number| transaction(number, "a", 1)).collect()
        };
        assert_eq!(ranges(&numbers(&[1, 2, 3, 7, 9, 10])), ["1-3,7-7,9-10"]);
        assert!(ranges(&[]).is_empty());
        let scattered: Vec<i64> = (0..2000).map(|n| i64::MAX - 2 * (2000 - n)).collect();
        let payloads = ranges(&numbers(&scattered));
        assert!(payloads.len() > 1 && payloads.iter().all(|it| it.len() <= PAYLOAD_BYTES_MAX));
        let (own, other) = (Uuid::new_v4(), Uuid::new_v4());
        let heard: Vec<i64> = payloads
            .iter()
            .flat_map(|payload| others_ranges(&format!("{other}:{payload}"), own))
            .flat_map(|(first, last)| first..=last)
            .collect();
        assert_eq!(heard, scattered);
        for ignored in
            [&format!("{own}:1-3"), "", "x", "x:", "x:1", "x:a-b", "x:1-99999999999999999999"]
        {
            assert!(others_ranges(ignored, own).is_empty(), "{ignored}");
        }
    }

    #[test]
    fn what_the_database_would_refuse_is_known_before() {
        let change = |iban: &str, description: &str| BalanceChanged {
            description: description.to_owned(),
            ..new(0, iban, 1).change
        };
        assert_eq!(unstorable(&change(&"a".repeat(64), "b")), None);
        assert!(unstorable(&change(&"a".repeat(65), "b")).is_some());
        assert!(unstorable(&change("a", "\0")).is_some());
    }

    #[test]
    #[ignore = "needs PostgreSQL: make test-integration"]
    fn a_batch_that_comes_again_is_stored_once() {
        let database = Database::new();
        let mut writer = database.writer();
        let id = Uuid::new_v4();
        let mut batch =
            vec![told(1, "a", 1, Some(id)), told(2, "b", 1, Some(id)), told(3, "a", 0, None)];
        // Within a batch too.
        batch.push(batch[0].clone());
        let stored = writer.store(&batch).unwrap();
        assert_eq!(texts(&stored), ["a 1", "b 1", "a 0"]);
        assert!(writer.store(&batch).unwrap().is_empty());
        // Another record without transfer_id is another transaction, though equal in every field.
        let other = Told { offset: 4, ..batch[2].clone() };
        let again = writer.store(&[batch[2].clone(), other]).unwrap();
        assert_eq!(texts(&again), ["a 0"]);
        assert_eq!(database.store().by_iban("a", 10).unwrap().len(), 3);
    }

    #[test]
    #[ignore = "needs PostgreSQL: make test-integration"]
    fn an_account_is_read_newest_first_in_whatever_order_it_was_told() {
        let database = Database::new();
        let batch = [new(1, "a", 2), new(2, "b", 1), new(3, "a", 3), new(4, "a", 1)];
        database.writer().store(&batch).unwrap();
        let store = database.store();
        assert_eq!(texts(&store.by_iban("a", 10).unwrap()), ["a 3", "a 2", "a 1"]);
        assert_eq!(texts(&store.by_iban("a", 2).unwrap()), ["a 3", "a 2"]);
        assert!(store.by_iban("c", 10).unwrap().is_empty());
    }

    #[test]
    #[ignore = "needs PostgreSQL: make test-integration"]
    fn the_last_of_each_account_comes_in_pages() {
        let database = Database::new();
        let ibans: Vec<String> = (0..25).map(|n| format!("iban {n:02}")).collect();
        let batch: Vec<Told> =
            (1..=3).flat_map(|n| ibans.iter().map(move |iban| new(n, iban, n))).collect();
        database.writer().store(&batch).unwrap();
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
    fn an_id_finds_the_newest_transaction_that_has_it() {
        let database = Database::new();
        let mut writer = database.writer();
        writer.store(&[new(1, "a", 1), new(2, "a", 2)]).unwrap();
        let store = database.store();
        let found = |id| store.by_id(id).unwrap().map(|it| it.description);
        assert_eq!(found(2), Some("a 2".to_owned()));
        assert_eq!((found(3), found(0), found(-1), found(i32::MAX)), (None, None, None, None));
        database.execute("ALTER TABLE transaction ALTER COLUMN number RESTART WITH 2147483647");
        let wrapped = writer.store(&[new(3, "a", 3), new(4, "a", 4), new(5, "a", 5)]).unwrap();
        assert_eq!(wrapped.iter().map(Transaction::id).collect::<Vec<_>>(), [i32::MAX, 0, 1]);
        assert_eq!(found(i32::MAX), Some("a 3".to_owned()));
        assert_eq!(found(0), Some("a 4".to_owned()));
        assert_eq!(found(1), Some("a 5".to_owned()), "not the first one");
        assert_eq!(found(2), Some("a 2".to_owned()), "nobody has taken it yet");
        assert_eq!(store.by_number(1).unwrap().unwrap().description, "a 1");
        assert_eq!(store.by_number(i64::MAX).unwrap(), None);
    }

    #[test]
    #[ignore = "needs PostgreSQL: make test-integration"]
    fn other_endpoints_hear_of_what_one_has_stored() {
        let database = Database::new();
        let mut writer = database.writer();
        let endpoint = Uuid::new_v4();
        let mut other = Listener::open(&database.config, endpoint, &Shutdown::default()).unwrap();
        let own = writer.endpoint;
        let mut itself = Listener::open(&database.config, own, &Shutdown::default()).unwrap();
        let batch = [new(1, "a", 1), new(2, "b", 1)];
        let stored = writer.store(&batch).unwrap();
        let wait = Duration::from_secs(10);
        assert_eq!(other.next(wait).unwrap(), stored);
        assert!(itself.next(wait).unwrap().is_empty(), "it knows already");
        writer.store(&batch).unwrap();
        assert!(other.next(Duration::from_millis(1)).unwrap().is_empty(), "nothing was new");
    }

    #[test]
    #[ignore = "needs PostgreSQL: make test-integration"]
    fn a_connection_that_the_server_closed_is_made_anew() {
        let database = Database::new();
        let store = Store::new(&database.config, 1, &Shutdown::default());
        assert_eq!(store.by_number(1).unwrap(), None);
        database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE pid <> pg_backend_pid() AND datname = current_database()",
        );
        assert_eq!(store.by_number(1).unwrap(), None);
    }
}
