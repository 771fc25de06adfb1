//! Stores the records of topics in tables.

use super::connection::{self, COLUMNS, WRITER_SETTINGS, connect, step};
use super::copy::{CopiedRows, timestamptz};
use super::notifications::{CHANNEL, ranges};
use crate::error::Error;
use crate::transaction::Transaction;
use avro::Record;
use bank::limits::{BALANCE_CHANGED_BYTES_MAX, OUTCOME_BYTES_MAX};
use bank::records::{AccountCreationConfirmed, BalanceChanged};
use postgres::{Client, Row, Statement};
use service::database;
use service::ownership::{Ownership, Positions};
use service::shutdown::Shutdown;
use std::collections::BTreeMap;
use std::io::Write;
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

/// Columns of a new transaction, apart from its number.
const NEW_COLUMNS: &str = "iban, sequence, new_balance, changed_by, from_to, description,
     transfer_id, record_partition, record_offset, decided_at";
/// From this number of rows on, COPY costs less than INSERT, although it has two more round trips.
/// docs/decisions/0058-copied-transactions.md has the figures.
pub(super) const COPY_MIN: usize = 50;

/// Statements of the table `transaction`.
pub struct TransactionStatements {
    insert: Statement,
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
        Ok(TransactionStatements {
            insert: client.prepare(&format!("{insert} RETURNING number"))?,
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
        if again {
            let rows = insert_all(transaction, &statements.insert_missing, batch)?;
            return Ok(rows.iter().map(connection::transaction).collect());
        }
        // One number for each record, in the same order.
        let numbers: Vec<i64> = if batch.len() < COPY_MIN {
            let rows = insert_all(transaction, &statements.insert, batch)?;
            rows.iter().map(|row| row.get(0)).collect()
        } else {
            copy_all(transaction, statements, batch).map_err(step("store transactions"))?
        };
        Ok(numbers.into_iter().zip(batch).map(|(number, it)| it.stored_as(number)).collect())
    }
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
        match self.try_store(batch, &positions, false) {
            // The batch contains records that were stored before a crash. A check for duplicates in
            // every batch would double the cost of a row.
            Err(Error::Database(err)) if err.is_duplicate() => {
                self.try_store(batch, &positions, true)
            }
            stored => stored,
        }
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

fn insert_all(
    transaction: &mut postgres::Transaction<'_>,
    insert: &Statement,
    batch: &[PositionedRecord<BalanceChanged>],
) -> Result<Vec<Row>, Error> {
    fn column<'a, T>(
        batch: &'a [PositionedRecord<BalanceChanged>],
        field: impl Fn(&'a PositionedRecord<BalanceChanged>) -> T,
    ) -> Vec<T> {
        batch.iter().map(field).collect()
    }
    transaction
        .query(
            insert,
            &[
                &column(batch, |it| it.record.iban.as_str()),
                &column(batch, |it| it.record.sequence),
                &column(batch, |it| it.record.new_balance.get()),
                &column(batch, |it| it.record.changed_by.get()),
                &column(batch, |it| it.record.from_to.as_str()),
                &column(batch, |it| it.record.description.as_str()),
                &column(batch, |it| it.record.transfer_id),
                &column(batch, |it| it.position().0),
                &column(batch, |it| it.position().1),
                &column(batch, |it| it.record.decided_at?.system_time()),
            ],
        )
        .map_err(step("store transactions"))
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
