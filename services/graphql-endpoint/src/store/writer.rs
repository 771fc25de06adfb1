//! Stores the records of balance_changed.

use super::connection::{self, COLUMNS, WRITER_SETTINGS, connect, step};
use super::notifications::{CHANNEL, ranges};
use crate::error::Error;
use crate::transaction::Transaction;
use bank::records::BalanceChanged;
use bank::topology::BALANCE_CHANGED;
use postgres::{Client, Row, Statement};
use service::database;
use service::ownership::{Ownership, Positions};
use service::shutdown::Shutdown;
use std::collections::BTreeMap;
use uuid::Uuid;

/// Maximum length of an iban. ISO 13616 allows 34 characters, and an index entry has a limit.
const IBAN_BYTES_MAX: usize = 64;

/// Why PostgreSQL cannot store `record`: the reason in its dead letter. `None` if it can.
pub fn unstorable(record: &BalanceChanged) -> Option<&'static str> {
    let texts = [&record.iban, &record.from_to, &record.description];
    if texts.iter().any(|text| text.contains('\0')) {
        return Some("a text has a NUL character");
    }
    if record.decided_at.is_some_and(|time| time.system_time().is_none()) {
        return Some("decided_at is outside of the years 1970 to 9999");
    }
    (record.iban.len() > IBAN_BYTES_MAX).then_some("the iban has more than 64 bytes")
}

/// A record of balance_changed with its position.
#[derive(Debug, Clone)]
pub struct ChangeRecord {
    pub partition: i32,
    pub offset: i64,
    pub change: BalanceChanged,
}

impl ChangeRecord {
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
        } = self.change.clone();
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

/// A connection that owns partitions of balance_changed.
pub struct TransactionWriter {
    client: Client,
    ownership: Ownership,
    shutdown: Shutdown,
    insert: Statement,
    insert_missing: Statement,
    notify: Statement,
    /// Identifies this writer in notifications.
    id: Uuid,
}

impl TransactionWriter {
    /// Connects and registers this endpoint as the worker `worker`. It owns no partition yet.
    /// balance_changed has `partitions` partitions.
    pub fn open(
        config: &postgres::Config,
        id: Uuid,
        worker: Uuid,
        partitions: i32,
        shutdown: &Shutdown,
    ) -> Result<Self, Error> {
        let _watch = database::watch(shutdown, "connect");
        let mut client = connect(config, WRITER_SETTINGS)?;
        let mut prepare = |sql: &str| client.prepare(sql).map_err(step("prepare the statements"));
        let insert = "INSERT INTO transaction
                 (iban, sequence, new_balance, changed_by, from_to, description,
                  transfer_id, record_partition, record_offset, decided_at)
             SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[],
                                  $5::text[], $6::text[], $7::uuid[], $8::integer[], $9::bigint[],
                                  $10::timestamptz[])";
        let insert_missing =
            prepare(&format!("{insert} ON CONFLICT DO NOTHING RETURNING {COLUMNS}"))?;
        let insert = prepare(&format!("{insert} RETURNING number"))?;
        let notify = prepare("SELECT pg_notify($1, $2)")?;
        let mut ownership = Ownership::new(&mut client, BALANCE_CHANGED.name, worker)?;
        ownership.join(&mut client, partitions)?;
        let shutdown = shutdown.clone();
        Ok(Self { client, ownership, shutdown, insert, insert_missing, notify, id })
    }

    /// Calls a method of [`Ownership`] with its connection.
    ///
    /// # Errors
    /// Those of the method.
    pub fn owning<R>(
        &mut self,
        call: impl FnOnce(&mut Ownership, &mut Client) -> Result<R, database::Error>,
    ) -> Result<R, Error> {
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
        batch: &[ChangeRecord],
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
        batch: &[ChangeRecord],
        positions: &Positions,
        again: bool,
    ) -> Result<Vec<Transaction>, Error> {
        let _watch = database::watch(&self.shutdown, "store transactions");
        let mut transaction = self.client.transaction().map_err(step("begin"))?;
        self.ownership.store(&mut transaction, positions)?;
        let insert = if again { &self.insert_missing } else { &self.insert };
        let rows = match batch {
            [] => Vec::new(),
            _ => insert_all(&mut transaction, insert, batch)?,
        };
        let mut stored: Vec<Transaction> = if again {
            rows.iter().map(connection::transaction).collect()
        } else {
            // One row for each record, in the same order.
            rows.iter().zip(batch).map(|(row, record)| record.stored_as(row.get(0))).collect()
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
    batch: &[ChangeRecord],
) -> Result<Vec<Row>, Error> {
    fn column<'a, T>(batch: &'a [ChangeRecord], field: impl Fn(&'a ChangeRecord) -> T) -> Vec<T> {
        batch.iter().map(field).collect()
    }
    // The position identifies a record only if it has no transfer id.
    let has_no_id = |record: &ChangeRecord| record.change.transfer_id.is_none();
    transaction
        .query(
            insert,
            &[
                &column(batch, |record| record.change.iban.as_str()),
                &column(batch, |record| record.change.sequence),
                &column(batch, |record| record.change.new_balance.get()),
                &column(batch, |record| record.change.changed_by.get()),
                &column(batch, |record| record.change.from_to.as_str()),
                &column(batch, |record| record.change.description.as_str()),
                &column(batch, |record| record.change.transfer_id),
                &column(batch, |record| has_no_id(record).then_some(record.partition)),
                &column(batch, |record| has_no_id(record).then_some(record.offset)),
                &column(batch, |record| record.change.decided_at?.system_time()),
            ],
        )
        .map_err(step("store transactions"))
}
