//! Stores the records of topics in tables.

use super::connection::{self, COLUMNS, WRITER_SETTINGS, connect, step};
use super::copy::{CopiedRows, timestamptz};
use super::notifications::{CHANNEL, ranges};
use crate::error::Error;
use crate::transaction::Transaction;
use avro::Record;
use bank::limits::{BALANCE_CHANGED_BYTES_MAX, OUTCOME_BYTES_MAX};
use bank::records::{AccountCreationConfirmed, BalanceChanged};
use postgres::types::ToSql;
use postgres::{Client, Statement};
use service::database::{self, Tid, check_sql, is_session_lost};
use service::ownership::{Ownership, POSITION_PARAMETERS, PositionRows, Positions, positions_sql};
use service::shutdown::Shutdown;
use std::collections::BTreeMap;
use std::io::Write;
use std::time::SystemTime;
use uuid::Uuid;

/// Maximum length of an iban. ISO 13616 allows 34 characters, and an index entry has a limit.
const IBAN_BYTES_MAX: usize = 64;

/// A record whose topic is stored in a table.
pub trait Projection: Record + Send + 'static {
    /// Consumer group that offsets are committed for, for displays of the lag.
    const GROUP: &'static str;
    /// Largest value. A larger one is a dead letter.
    const VALUE_BYTES_MAX: usize;
    /// True if clients receive what is stored.
    const IS_PUBLISHED: bool;
    /// The prepared statements.
    type Statements;

    /// Why PostgreSQL cannot store the record: the reason in its dead letter. `None` if it can.
    fn unstorable(&self) -> Option<&'static str>;

    fn prepare(client: &mut Client) -> Result<Self::Statements, postgres::Error>;

    /// Inserts `batch`. Returns what clients receive. A row that exists is an error, unless
    /// `again`.
    fn insert(
        transaction: &mut postgres::Transaction<'_>,
        statements: &Self::Statements,
        batch: &[PositionedRecord<Self>],
        again: bool,
    ) -> Result<Vec<Transaction>, Error>
    where
        Self: Sized;

    /// Inserts a small batch by one statement, which also stores its `positions` and notifies the
    /// other endpoints in the name of `writer`. It fails and writes nothing if a row exists, or if
    /// the positions are not as expected. `None` if this record has no such statement.
    fn insert_at_once(
        _client: &mut Client,
        _statements: &Self::Statements,
        _batch: &[PositionedRecord<Self>],
        _positions: &PositionRows,
        _writer: Uuid,
    ) -> Option<Result<StoredAtOnce, postgres::Error>>
    where
        Self: Sized,
    {
        None
    }
}

/// What one statement has stored.
pub struct StoredAtOnce {
    /// What clients receive.
    transactions: Vec<Transaction>,
    /// Where the rows of the positions are now, by partition.
    places: Vec<(i32, Tid)>,
}

/// A record with its position.
#[derive(Debug, Clone)]
pub struct PositionedRecord<R> {
    pub partition: i32,
    pub offset: i64,
    pub record: R,
}

/// Why PostgreSQL cannot store an iban from outside. `None` if it can.
fn unstorable_iban(iban: &str) -> Option<&'static str> {
    (iban.len() > IBAN_BYTES_MAX).then_some("the iban has more than 64 bytes")
}

/// Why PostgreSQL cannot store these texts. `None` if it can.
fn unstorable_text(texts: &[&str]) -> Option<&'static str> {
    texts.iter().any(|text| text.contains('\0')).then_some("a text has a NUL character")
}

/// The number of [`NEW_COLUMNS`].
const INSERT_PARAMETERS: usize = 10;
/// Columns of a new transaction, apart from its number.
const NEW_COLUMNS: &str = "iban, sequence, new_balance, changed_by, from_to, description,
     transfer_id, record_partition, record_offset, decided_at";
/// From this number of rows on, COPY costs less than INSERT, although it has more round trips.
/// docs/decisions/0058-copied-transactions.md has the figures.
pub(super) const COPY_MIN: usize = 50;

/// Statements of the table `transaction`.
pub struct TransactionStatements {
    insert_at_once: Statement,
    insert_missing: Statement,
    numbers: Statement,
    copy: Statement,
}

impl Projection for BalanceChanged {
    const GROUP: &'static str = "graphql-endpoint";
    const VALUE_BYTES_MAX: usize = BALANCE_CHANGED_BYTES_MAX;
    const IS_PUBLISHED: bool = true;
    type Statements = TransactionStatements;

    fn unstorable(&self) -> Option<&'static str> {
        if self.decided_at.is_some_and(|time| time.system_time().is_none()) {
            return Some("decided_at is outside of the years 1970 to 9999");
        }
        unstorable_text(&[&self.iban, &self.from_to, &self.description])
            .or_else(|| unstorable_iban(&self.iban))
    }

    fn prepare(client: &mut Client) -> Result<TransactionStatements, postgres::Error> {
        let insert = format!(
            "INSERT INTO transaction ({NEW_COLUMNS})
             SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[],
                                  $5::text[], $6::text[], $7::uuid[], $8::integer[], $9::bigint[],
                                  $10::timestamptz[])"
        );
        let first = INSERT_PARAMETERS + 1;
        let writer = first + POSITION_PARAMETERS;
        let check = check_sql("are_stored");
        // Its payload is one of `ranges`: numbers of fewer than COPY_MIN rows always fit.
        let insert_at_once = format!(
            "WITH {} stored AS (
                 {insert} WHERE (SELECT are_stored FROM positions) RETURNING number),
             numbers AS (
                 SELECT array_agg(number) AS numbers,
                        CASE WHEN max(number) - min(number) = count(*) - 1
                             THEN min(number) || '-' || max(number)
                             ELSE string_agg(number || '-' || number, ',') END AS ranges
                 FROM stored)
             SELECT numbers, partitions, places, {check},
                    pg_notify('{CHANNEL}', ${writer}::text || ':' || ranges)
             FROM numbers, positions",
            positions_sql(first)
        );
        Ok(TransactionStatements {
            insert_at_once: client.prepare(&insert_at_once)?,
            insert_missing: client
                .prepare(&format!("{insert} ON CONFLICT DO NOTHING RETURNING {COLUMNS}"))?,
            numbers: client.prepare(
                "SELECT array_agg(nextval('transaction_number_seq'))
                 FROM generate_series(1, $1::bigint)",
            )?,
            copy: client.prepare(&format!(
                "COPY transaction (number, {NEW_COLUMNS}) FROM STDIN (FORMAT binary)"
            ))?,
        })
    }

    fn insert(
        transaction: &mut postgres::Transaction<'_>,
        statements: &TransactionStatements,
        batch: &[PositionedRecord<Self>],
        again: bool,
    ) -> Result<Vec<Transaction>, Error> {
        let stored = if again {
            transaction
                .query(&statements.insert_missing, &Columns::of(batch).parameters())
                .map(|rows| rows.iter().map(connection::transaction).collect())
        } else {
            copy_all(transaction, statements, batch).map(|numbers| numbered(numbers, batch))
        };
        stored.map_err(step("store transactions"))
    }

    fn insert_at_once(
        client: &mut Client,
        statements: &TransactionStatements,
        batch: &[PositionedRecord<Self>],
        positions: &PositionRows,
        writer: Uuid,
    ) -> Option<Result<StoredAtOnce, postgres::Error>> {
        let columns = Columns::of(batch);
        let writer = writer.to_string();
        let parameters = [&columns.parameters()[..], &positions.parameters(), &[&writer]].concat();
        let row = client.query_one(&statements.insert_at_once, &parameters);
        Some(row.map(|row| {
            let (partitions, places): (Vec<i32>, Vec<Tid>) = (row.get(1), row.get(2));
            StoredAtOnce {
                transactions: numbered(row.get(0), batch),
                places: partitions.into_iter().zip(places).collect(),
            }
        }))
    }
}

/// The transactions of `batch`, which have these numbers in the same order.
fn numbered(numbers: Vec<i64>, batch: &[PositionedRecord<BalanceChanged>]) -> Vec<Transaction> {
    numbers.into_iter().zip(batch).map(|(number, it)| it.stored_as(number)).collect()
}

impl PositionedRecord<BalanceChanged> {
    /// Partition and offset, which identify a record only if it has no transfer id.
    fn position(&self) -> (Option<i32>, Option<i64>) {
        self.record.transfer_id.map_or((Some(self.partition), Some(self.offset)), |_| (None, None))
    }

    pub(super) fn stored_as(&self, number: i64) -> Transaction {
        let BalanceChanged {
            iban,
            new_balance,
            changed_by,
            from_to,
            description,
            sequence,
            decided_at,
            ..
        } = self.record.clone();
        Transaction {
            number,
            sequence,
            iban,
            new_balance,
            changed_by,
            from_to,
            description,
            decided_at,
        }
    }
}

impl Projection for AccountCreationConfirmed {
    const GROUP: &'static str = "graphql-endpoint-accounts";
    const VALUE_BYTES_MAX: usize = OUTCOME_BYTES_MAX;
    const IS_PUBLISHED: bool = false;
    type Statements = Statement;

    fn unstorable(&self) -> Option<&'static str> {
        unstorable_text(&[&self.iban]).or_else(|| unstorable_iban(&self.iban))
    }

    fn prepare(client: &mut Client) -> Result<Statement, postgres::Error> {
        client.prepare(
            "INSERT INTO opened_account (iban) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING",
        )
    }

    fn insert(
        transaction: &mut postgres::Transaction<'_>,
        statement: &Statement,
        batch: &[PositionedRecord<Self>],
        _again: bool,
    ) -> Result<Vec<Transaction>, Error> {
        let ibans: Vec<&str> = batch.iter().map(|it| it.record.iban.as_str()).collect();
        transaction.execute(statement, &[&ibans]).map_err(step("store accounts"))?;
        Ok(Vec::new())
    }
}

/// A connection that owns partitions of the topic of `R`.
pub struct Writer<R: Projection> {
    client: Client,
    ownership: Ownership,
    shutdown: Shutdown,
    statements: R::Statements,
    notify: Statement,
    /// Identifies this writer in notifications.
    id: Uuid,
}

impl<R: Projection> Writer<R> {
    /// Connects and registers this endpoint as the worker `worker`. It owns no partition yet.
    /// The topic has `partitions` partitions.
    pub fn open(
        config: &postgres::Config,
        id: Uuid,
        worker: Uuid,
        partitions: i32,
        shutdown: &Shutdown,
    ) -> Result<Self, Error> {
        let _watch = database::watch(shutdown, "connect");
        let mut client = connect(config, WRITER_SETTINGS)?;
        let prepared = R::prepare(&mut client)
            .and_then(|statements| Ok((statements, client.prepare("SELECT pg_notify($1, $2)")?)));
        let (statements, notify) = prepared.map_err(step("prepare the statements"))?;
        let mut ownership = Ownership::new(&mut client, R::TOPIC.name, worker)?;
        ownership.join(&mut client, partitions)?;
        let shutdown = shutdown.clone();
        Ok(Self { client, ownership, shutdown, statements, notify, id })
    }

    /// Calls a method of [`Ownership`] with its connection.
    ///
    /// # Errors
    /// Those of the method.
    pub fn owning<T>(
        &mut self,
        call: impl FnOnce(&mut Ownership, &mut Client) -> Result<T, database::Error>,
    ) -> Result<T, Error> {
        let _deadline = database::heartbeat(&self.shutdown, "own partitions");
        Ok(call(&mut self.ownership, &mut self.client)?)
    }

    /// Stores `batch` and the `next` offset of each partition in one database transaction, and
    /// notifies the other endpoints. Returns the new transactions by number; records that are
    /// stored already are skipped.
    ///
    /// # Errors
    /// After [`Error::Commit`] the batch may be stored, or the server may still store it.
    pub fn store(
        &mut self,
        batch: &[PositionedRecord<R>],
        next: &BTreeMap<i32, i64>,
    ) -> Result<Vec<Transaction>, Error> {
        let positions = Positions { next: next.clone(), resume: next.clone() };
        let at_once = self.store_at_once(batch, &positions).transpose();
        match at_once.unwrap_or_else(|| self.try_store(batch, &positions, false)) {
            // The batch contains records that were stored before a crash. A check for duplicates in
            // every batch would double the cost of a row.
            Err(Error::Database(err)) if err.is_duplicate() => {
                self.try_store(batch, &positions, true)
            }
            stored => stored,
        }
    }

    /// See [`Self::store`]. An existing row is an error. Returns `None` if the batch must be stored
    /// in a transaction of several statements.
    fn store_at_once(
        &mut self,
        batch: &[PositionedRecord<R>],
        positions: &Positions,
    ) -> Result<Option<Vec<Transaction>>, Error> {
        if batch.is_empty() || batch.len() >= COPY_MIN {
            return Ok(None);
        }
        let Some(rows) = self.ownership.parameters(positions)? else { return Ok(None) };
        let _watch = database::watch(&self.shutdown, "store records");
        let (client, statements) = (&mut self.client, &self.statements);
        let failed = match R::insert_at_once(client, statements, batch, &rows, self.id) {
            Some(Ok(StoredAtOnce { mut transactions, places })) => {
                self.ownership.set_places(places);
                transactions.sort_unstable_by_key(|transaction| transaction.number);
                return Ok(Some(transactions));
            }
            // The connection was lost while the statement was executed or committed.
            Some(Err(err)) if is_session_lost(&err) => return Err(Error::Commit(err)),
            Some(Err(err)) => database::step("store transactions")(err),
            None => return Ok(None),
        };
        // The positions are not taken back: the next attempt stores the same ones.
        if failed.is_failed_check() { Ok(None) } else { Err(failed.into()) }
    }

    /// See [`Self::store`]. An existing row is an error, unless `again`.
    fn try_store(
        &mut self,
        batch: &[PositionedRecord<R>],
        positions: &Positions,
        again: bool,
    ) -> Result<Vec<Transaction>, Error> {
        let _watch = database::watch(&self.shutdown, "store records");
        let mut transaction = self.client.transaction().map_err(step("begin"))?;
        self.ownership.store(&mut transaction, positions)?;
        let mut stored = match batch {
            [] => Vec::new(),
            _ => R::insert(&mut transaction, &self.statements, batch, again)?,
        };
        stored.sort_unstable_by_key(|transaction| transaction.number);
        for ranges in ranges(&stored) {
            let payload = format!("{}:{ranges}", self.id);
            transaction
                .execute(&self.notify, &[&CHANNEL, &payload])
                .map_err(step("notify the other endpoints"))?;
        }
        transaction.commit().map_err(Error::Commit)?;
        Ok(stored)
    }
}

/// The parameters that insert transactions, by column.
struct Columns<'a> {
    ibans: Vec<&'a str>,
    sequences: Vec<i64>,
    balances: Vec<i64>,
    changes: Vec<i64>,
    parties: Vec<&'a str>,
    descriptions: Vec<&'a str>,
    transfers: Vec<Option<Uuid>>,
    partitions: Vec<Option<i32>>,
    offsets: Vec<Option<i64>>,
    times: Vec<Option<SystemTime>>,
}

impl<'a> Columns<'a> {
    fn of(batch: &'a [PositionedRecord<BalanceChanged>]) -> Self {
        fn column<'a, T>(
            batch: &'a [PositionedRecord<BalanceChanged>],
            field: impl Fn(&'a PositionedRecord<BalanceChanged>) -> T,
        ) -> Vec<T> {
            batch.iter().map(field).collect()
        }
        Self {
            ibans: column(batch, |it| it.record.iban.as_str()),
            sequences: column(batch, |it| it.record.sequence),
            balances: column(batch, |it| it.record.new_balance.get()),
            changes: column(batch, |it| it.record.changed_by.get()),
            parties: column(batch, |it| it.record.from_to.as_str()),
            descriptions: column(batch, |it| it.record.description.as_str()),
            transfers: column(batch, |it| it.record.transfer_id),
            partitions: column(batch, |it| it.position().0),
            offsets: column(batch, |it| it.position().1),
            times: column(batch, |it| it.record.decided_at?.system_time()),
        }
    }

    fn parameters(&self) -> [&(dyn ToSql + Sync); INSERT_PARAMETERS] {
        let Self { ibans, sequences, balances, changes, parties, descriptions, .. } = self;
        let Self { transfers, partitions, offsets, times, .. } = self;
        [
            ibans,
            sequences,
            balances,
            changes,
            parties,
            descriptions,
            transfers,
            partitions,
            offsets,
            times,
        ]
    }
}

/// Takes a number for each record from the sequence, and stores the batch with them.
fn copy_all(
    transaction: &mut postgres::Transaction<'_>,
    statements: &TransactionStatements,
    batch: &[PositionedRecord<BalanceChanged>],
) -> Result<Vec<i64>, postgres::Error> {
    let count = batch.len() as i64;
    let numbers: Vec<i64> = transaction.query_one(&statements.numbers, &[&count])?.get(0);
    let mut rows = CopiedRows::new();
    for (number, it) in numbers.iter().zip(batch) {
        let record = &it.record;
        let (partition, offset) = it.position();
        rows.add([
            Some(&number.to_be_bytes()),
            Some(record.iban.as_bytes()),
            Some(&record.sequence.to_be_bytes()),
            Some(&record.new_balance.get().to_be_bytes()),
            Some(&record.changed_by.get().to_be_bytes()),
            Some(record.from_to.as_bytes()),
            Some(record.description.as_bytes()),
            record.transfer_id.as_ref().map(|id| &id.as_bytes()[..]),
            partition.map(i32::to_be_bytes).as_ref().map(|it| &it[..]),
            offset.map(i64::to_be_bytes).as_ref().map(|it| &it[..]),
            record.decided_at.and_then(timestamptz).as_ref().map(|it| &it[..]),
        ]);
    }
    let mut copy = transaction.copy_in(&statements.copy)?;
    // It fails only if the connection is lost. Then `finish` fails as well.
    let _ = copy.write_all(&rows.end());
    copy.finish()?;
    Ok(numbers)
}
