//! Stores the records of topics in tables.

use super::connection::{self, COLUMNS, WRITER_SETTINGS, connect, step};
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

/// Statements of the table `transaction`.
pub struct TransactionStatements {
    insert: Statement,
    insert_missing: Statement,
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
        let insert = "INSERT INTO transaction
                 (iban, sequence, new_balance, changed_by, from_to, description,
                  transfer_id, record_partition, record_offset, decided_at)
             SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[],
                                  $5::text[], $6::text[], $7::uuid[], $8::integer[], $9::bigint[],
                                  $10::timestamptz[])";
        Ok(TransactionStatements {
            insert: client.prepare(&format!("{insert} RETURNING number"))?,
            insert_missing: client
                .prepare(&format!("{insert} ON CONFLICT DO NOTHING RETURNING {COLUMNS}"))?,
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
        // One row for each record, in the same order.
        let rows = insert_all(transaction, &statements.insert, batch)?;
        Ok(rows.iter().zip(batch).map(|(row, record)| record.stored_as(row.get(0))).collect())
    }
}

impl PositionedRecord<BalanceChanged> {
    fn stored_as(&self, number: i64) -> Transaction {
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
    // The position identifies a record only if it has no transfer id.
    let has_no_id = |it: &PositionedRecord<BalanceChanged>| it.record.transfer_id.is_none();
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
                &column(batch, |record| has_no_id(record).then_some(record.partition)),
                &column(batch, |record| has_no_id(record).then_some(record.offset)),
                &column(batch, |it| it.record.decided_at?.system_time()),
            ],
        )
        .map_err(step("store transactions"))
}
