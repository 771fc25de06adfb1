//! Database connections: settings, migrations, rows of transactions.

use crate::error::Error;
use crate::transaction::Transaction;
use bank::money::Cents;
use bank::timestamp::Timestamp;
use postgres::{Client, Row};
use service::database;
use service::database::retention::{self, OldRows, Retention};
use service::ownership;
use service::shutdown::Shutdown;
use std::time::SystemTime;

/// `application_name` in PostgreSQL, and name of the lock for migrations.
const SERVICE: &str = "graphql-endpoint";

/// The tables, and what the statements of this service do with them.
pub const SCHEMA: database::Schema = database::Schema {
    service: SERVICE,
    migrations: &[
        include_str!("../../migrations/1-transactions.sql"),
        include_str!("../../migrations/2-accounts-and-transfers.sql"),
        include_str!("../../migrations/3-failed-logins.sql"),
        ownership::TABLES,
        include_str!("../../migrations/5-decision-times.sql"),
        include_str!("../../migrations/6-opened-accounts.sql"),
        include_str!("../../migrations/7-token-rotation.sql"),
        include_str!("../../migrations/8-number-sequence.sql"),
    ],
    rights: &[
        ("SELECT, INSERT", "opened_account"),
        ("SELECT, INSERT, DELETE", "transaction"),
        ("SELECT, INSERT, UPDATE", "account"),
        ("SELECT, INSERT, UPDATE, DELETE", "transfer, failed_login"),
        ("USAGE", "transaction_number_seq"),
        ownership::RIGHTS[0],
        ownership::RIGHTS[1],
    ],
};

/// Every statement finds its rows by an index, also after the first start, when the statistics
/// still describe empty tables.
const SETTINGS: &str = "-c lock_timeout=10s -c enable_seqscan=off -c jit=off \
     -c plan_cache_mode=force_generic_plan -c client_min_messages=warning";
/// A stopped process keeps its connection open. The idle timeouts end its transaction, so that
/// another endpoint takes over, and its session. A running process sends a statement every second.
pub const WRITER_SETTINGS: &str = "-c idle_session_timeout=10s \
     -c idle_in_transaction_session_timeout=10s -c statement_timeout=20s";
/// A slow query of a client fails instead of occupying a connection.
pub const READER_SETTINGS: &str = "-c statement_timeout=5s";

/// Migrates the database, or checks its version if the role may not create tables. If several
/// endpoints start at once, one migrates and the others wait.
///
/// # Errors
/// The database is unavailable or not migrated, or its version is newer than this program.
pub fn migrate(config: &postgres::Config, shutdown: &Shutdown) -> Result<(), Error> {
    let _watch = database::watch(shutdown, "migrate the database");
    let mut client = database::connect(config, SERVICE, WRITER_SETTINGS)?;
    Ok(database::migrate(&mut client, &SCHEMA)?)
}

/// Starts to delete transfers and transactions that are older than the period.
pub fn delete_old_rows(config: &postgres::Config, retention: Retention, shutdown: &Shutdown) {
    retention::start(config, SERVICE, retention, old_rows(), shutdown);
}

/// Of each account, the transaction with the highest sequence stays: it has the balance. The
/// numbers of transactions ascend with their times, apart from those that were stored later.
pub fn old_rows() -> Vec<OldRows> {
    let transactions = OldRows {
        table: "transaction",
        sql: "WITH slice AS (
                  SELECT number, iban, sequence, decided_at FROM transaction
                  WHERE number > $1::text::bigint ORDER BY number LIMIT 1000),
              deleted AS (
                  DELETE FROM transaction USING slice
                  WHERE transaction.number = slice.number
                    AND slice.decided_at < to_timestamp($2::text::bigint / 1000.0)
                    AND EXISTS (
                        SELECT FROM transaction AS later
                        WHERE later.iban = slice.iban AND later.sequence > slice.sequence)
                  RETURNING 1)
              SELECT (SELECT number::text FROM slice
                      WHERE NOT EXISTS (
                          SELECT FROM slice
                          WHERE decided_at >= to_timestamp($2::text::bigint / 1000.0))
                      ORDER BY number DESC LIMIT 1),
                     (SELECT count(*) FROM deleted)"
            .to_owned(),
        first: "0".to_owned(),
        before: |ms| ms.to_string(),
    };
    vec![OldRows::by_id("transfer", "uuid"), transactions]
}

/// Converts an error of PostgreSQL into one that names the failed step.
pub fn step(step: &'static str) -> impl FnOnce(postgres::Error) -> Error {
    move |source| database::step(step)(source).into()
}

/// Connects with [`SETTINGS`] and `more`.
pub fn connect(config: &postgres::Config, more: &str) -> Result<Client, Error> {
    Ok(database::connect(config, SERVICE, &format!("{SETTINGS} {more}"))?)
}

/// Columns of a transaction, in the order that [`transaction`] expects.
pub const COLUMNS: &str =
    "number, sequence, iban, new_balance, changed_by, from_to, description, decided_at";

/// Converts a row of [`COLUMNS`].
pub fn transaction(row: &Row) -> Transaction {
    Transaction {
        number: row.get(0),
        sequence: row.get(1),
        iban: row.get(2),
        new_balance: Cents::new(row.get(3)),
        changed_by: Cents::new(row.get(4)),
        from_to: row.get(5),
        description: row.get(6),
        decided_at: row.get::<_, Option<SystemTime>>(7).map(Timestamp::from),
    }
}
