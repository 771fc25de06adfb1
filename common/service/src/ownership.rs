//! Which worker owns which partitions of a topic, and the positions of their effects.
//!
//! Both are in the database that holds the effects. The transaction that stores the effects of a
//! batch also stores its positions, by one statement that finds only rows with the epoch of this
//! worker. So a worker that was taken for dead writes nothing. No session and no advisory lock is
//! part of this: it also works after a failover of the database.
//! See docs/decisions/0040-positions-in-the-database.md.

use crate::database::{Error, Tid, step};
use postgres::types::ToSql;
use postgres::{Client, GenericClient, Row, Statement};
use std::collections::BTreeMap;
use std::mem;
use std::time::Duration;
use uuid::Uuid;

/// The tables, as a migration of each service that uses this module.
pub const TABLES: &str = include_str!("ownership/tables.sql");
/// The rights on [`TABLES`] that the service needs.
pub const RIGHTS: [(&str, &str); 2] =
    [("SELECT, INSERT, UPDATE", "topic_partition"), ("SELECT, INSERT, UPDATE, DELETE", "worker")];

/// Interval at which a worker renews its lease and claims free partitions.
pub const RENEW_INTERVAL: Duration = Duration::from_secs(1);
/// Time without a renewal after which other workers take the partitions over. A transaction keeps
/// its partitions also after that time, until it ends.
const LEASE_S: f64 = 3.0;

/// Where the effects of a partition end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// This database has no effects of it.
    New,
    /// See the columns of topic_partition.
    Stored { next: i64, resume: i64 },
}

impl Progress {
    /// The offset at which the next owner begins to read, if it is stored.
    pub fn resume(self) -> Option<i64> {
        match self {
            Self::Stored { resume, .. } => Some(resume),
            Self::New => None,
        }
    }
}

/// A partition of this worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owned {
    epoch: i64,
    /// Where its row was written last, unless that transaction was rolled back.
    place: Option<Tid>,
    /// Where its effects end.
    pub progress: Progress,
    /// The id of the topic that the offsets belong to.
    pub topic_id: Option<Uuid>,
}

/// Records were deleted from the topic before their effects were stored and published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deleted {
    /// The first of these offsets.
    pub from: i64,
    /// The log start offset.
    pub earliest: i64,
}

impl Owned {
    /// Where to begin to read the partition, whose log has the offsets `earliest` to `end`.
    /// `committed` is the offset in Kafka, for a new database, and `topic_id` the id of the present
    /// topic. If it is another topic than before, or its log is shorter, reads it from its
    /// beginning: the effects of known records are found and repeated.
    ///
    /// # Errors
    /// [`Deleted`].
    pub fn start(
        &self,
        topic: &str,
        partition: i32,
        committed: Option<i64>,
        topic_id: Option<Uuid>,
        (earliest, end): (i64, i64),
    ) -> Result<i64, Deleted> {
        let resume = match self.progress {
            Progress::New => committed.unwrap_or(earliest),
            Progress::Stored { resume, .. } => resume,
        };
        if self.topic_id.zip(topic_id).is_some_and(|(known, id)| known != id) {
            log::warn!(
                topic, partition, offset = resume, earliest;
                "the topic was recreated, reading it from its beginning"
            );
            Ok(earliest)
        } else if resume > end {
            log::warn!(
                topic, partition, offset = resume, end, earliest;
                "the log ends before the offset, reading it from its beginning"
            );
            Ok(earliest)
        } else if resume < earliest {
            Err(Deleted { from: resume, earliest })
        } else {
            Ok(resume)
        }
    }
}

/// Positions of one batch or of several.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Positions {
    /// The next offset of each partition of which this transaction stores effects.
    pub next: BTreeMap<i32, i64>,
    /// The offset of each partition up to which everything is published.
    pub resume: BTreeMap<i32, i64>,
}

/// A worker of a topic, and the partitions that it owns. Its methods must be called with the same
/// database, but the connection may be another one each time.
pub struct Ownership {
    topic: &'static str,
    worker: Uuid,
    partitions: i32,
    owned: BTreeMap<i32, Owned>,
    statements: Statements,
}

impl Ownership {
    /// Returns the worker with the id `worker`, which is no member of the topic yet. A worker keeps
    /// its id when it connects again, so that it need not wait for its own lease.
    ///
    /// # Errors
    /// The connection fails, or the tables do not exist.
    pub fn new(client: &mut Client, topic: &'static str, worker: Uuid) -> Result<Self, Error> {
        let statements = Statements::prepare(client).map_err(step("prepare the statements"))?;
        Ok(Self { topic, worker, partitions: 0, owned: BTreeMap::new(), statements })
    }

    /// Becomes a member of the topic, which has `partitions` partitions. It owns none of them yet.
    ///
    /// # Errors
    /// The connection fails.
    pub fn join(&mut self, client: &mut Client, partitions: i32) -> Result<(), Error> {
        self.leave(client)?;
        let joined =
            client.execute(&self.statements.add_partitions, &[&self.topic, &partitions]).and_then(
                |_| client.execute(&self.statements.join, &[&self.topic, &self.worker, &LEASE_S]),
            );
        joined.map_err(step("join the workers of the topic"))?;
        self.partitions = partitions;
        Ok(())
    }

    /// The partitions of this worker.
    pub fn owned(&self) -> &BTreeMap<i32, Owned> {
        &self.owned
    }

    /// Releases partitions above an equal share, or claims free ones up to it. The caller must have
    /// finished all work on the partitions owned before.
    ///
    /// # Errors
    /// [`Error::Fenced`], or the connection fails.
    pub fn take_share(&mut self, client: &mut Client) -> Result<(), Error> {
        let share = self.renew(client)?;
        while self.owned.len() > share {
            let Some((partition, owned)) = self.owned.pop_last() else { break };
            client
                .execute(&self.statements.release, &[&self.topic, &partition, &owned.epoch])
                .map_err(step("release a partition"))?;
        }
        self.claim(client, share)
    }

    /// Renews the lease and claims free partitions up to an equal share. Returns true if it claimed
    /// one, or if this worker owns more than its share.
    ///
    /// # Errors
    /// As [`Self::take_share`].
    pub fn share_has_changed(&mut self, client: &mut Client) -> Result<bool, Error> {
        let owned = self.owned.len();
        let share = self.renew(client)?;
        self.claim(client, share)?;
        Ok(owned > share || self.owned.len() > owned)
    }

    /// Renews the lease. Returns the number of partitions that this worker should own: an equal
    /// share, rounded up.
    ///
    /// # Errors
    /// As [`Self::take_share`].
    pub fn renew(&mut self, client: &mut Client) -> Result<usize, Error> {
        let (members, owned) = self.heartbeat(client)?;
        if usize::try_from(owned) != Ok(self.owned.len()) {
            return Err(Error::Fenced);
        }
        let partitions = usize::try_from(self.partitions).unwrap_or(0);
        Ok(partitions.div_ceil(usize::try_from(members).unwrap_or(1).max(1)))
    }

    /// Renews the lease. Returns the number of workers of the topic and the number of partitions
    /// that this one owns.
    ///
    /// # Errors
    /// As [`Self::take_share`].
    pub fn heartbeat(&mut self, client: &mut Client) -> Result<(i64, i64), Error> {
        let row = client
            .query_opt(&self.statements.renew, &[&self.topic, &self.worker, &LEASE_S])
            .map_err(step("renew the lease of the worker"))?
            .ok_or(Error::Fenced)?;
        Ok((row.get(0), row.get(1)))
    }

    fn claim(&mut self, client: &mut Client, share: usize) -> Result<(), Error> {
        let missing = share.saturating_sub(self.owned.len());
        if missing > 0 {
            let missing = i64::try_from(missing).unwrap_or(i64::MAX);
            let Self { topic, worker, partitions, .. } = self;
            let rows = client
                .query(&self.statements.claim, &[topic, worker, &missing, partitions])
                .map_err(step("claim partitions"))?;
            self.owned.extend(rows.iter().map(owned));
        }
        Ok(())
    }

    /// Takes exactly `partitions`, also from a running worker: for a consumer group, in which Kafka
    /// assigns them.
    ///
    /// # Errors
    /// The connection fails.
    pub fn seize(&mut self, client: &mut Client, partitions: &[i32]) -> Result<(), Error> {
        let rows = client
            .query(&self.statements.seize, &[&self.topic, &self.worker, &partitions])
            .map_err(step("take assigned partitions"))?;
        self.owned = rows.iter().map(owned).collect();
        Ok(())
    }

    /// Sets where this worker begins to read its partitions, see [`Owned::start`]. `topic_id` is
    /// the id of the present topic.
    ///
    /// # Errors
    /// As [`Self::take_share`].
    pub fn begin(
        &mut self,
        client: &mut Client,
        starts: &BTreeMap<i32, i64>,
        topic_id: Option<Uuid>,
    ) -> Result<(), Error> {
        let mut rows = PositionRows::new(self.topic);
        for (&partition, owned) in &mut self.owned {
            let before = *owned;
            if let Some(&start) = starts.get(&partition)
                && owned.progress.resume() != Some(start)
            {
                owned.progress = Progress::Stored { next: start, resume: start };
            }
            owned.topic_id = topic_id.or(owned.topic_id);
            if *owned != before {
                rows.add(partition, owned);
            }
        }
        self.update(client, &rows)
    }

    /// Stores positions in the transaction that stores their effects. Call it before all other
    /// statements: it locks the rows of the partitions, so no other worker can claim them before
    /// the transaction ends.
    ///
    /// # Errors
    /// [`Error::Fenced`] if another worker has taken one of the partitions, or the connection
    /// fails.
    pub fn store(
        &mut self,
        transaction: &mut impl GenericClient,
        positions: &Positions,
    ) -> Result<(), Error> {
        let rows = self.advance(positions)?;
        self.update(transaction, &rows)
    }

    /// The parameters of a statement that stores positions and their effects, see
    /// [`positions_sql`]. `None` if the place of a row is not known: then a transaction must store
    /// them. After the statement, call [`Self::set_places`], or [`Self::restore`] if it failed.
    ///
    /// # Errors
    /// [`Error::Fenced`].
    pub fn parameters(&mut self, positions: &Positions) -> Result<Option<PositionRows>, Error> {
        if self.owned.values().any(|owned| owned.place.is_none()) {
            return Ok(None);
        }
        self.advance(positions).map(Some)
    }

    /// Sets the new positions. Returns the rows to update.
    fn advance(&mut self, positions: &Positions) -> Result<PositionRows, Error> {
        if positions.next.keys().any(|partition| !self.owned.contains_key(partition)) {
            return Err(Error::Fenced);
        }
        let mut rows = PositionRows::new(self.topic);
        for (partition, owned) in &mut self.owned {
            let Progress::Stored { next, resume } = owned.progress else { continue };
            let (new_next, new_resume) =
                (positions.next.get(partition), positions.resume.get(partition));
            // Records are read again after a crash, from `resume`.
            let next = new_next.map_or(next, |&new| new.max(next));
            let resume = new_resume.map_or(resume, |&new| new.clamp(resume, next));
            let before = mem::replace(&mut owned.progress, Progress::Stored { next, resume });
            // An unchanged position is stored as well, to check the epoch.
            if new_next.is_some() || before != owned.progress {
                rows.add(*partition, owned);
            }
        }
        Ok(rows)
    }

    /// Writes the rows if all of them still have the epoch of this worker. Searches them by key if
    /// their places are not known.
    fn update(
        &mut self,
        client: &mut impl GenericClient,
        rows: &PositionRows,
    ) -> Result<(), Error> {
        let count = rows.partitions.len();
        if count == 0 {
            return Ok(());
        }
        let Statements { store, store_in_place, .. } = &self.statements;
        let parameters = rows.parameters();
        let mut stored = Vec::new();
        if rows.places.len() == count {
            stored = client.query(store_in_place, &parameters).map_err(step("store positions"))?;
        }
        if stored.len() < count {
            stored = client.query(store, &parameters).map_err(step("store positions"))?;
        }
        if stored.len() < count {
            return Err(Error::Fenced);
        }
        self.set_places(stored.iter().map(|row| (row.get(0), row.get(1))));
        Ok(())
    }

    /// Sets where the rows of partitions are now.
    pub fn set_places(&mut self, places: impl IntoIterator<Item = (i32, Tid)>) {
        for (partition, place) in places {
            if let Some(owned) = self.owned.get_mut(&partition) {
                owned.place = Some(place);
            }
        }
    }

    /// Takes back what [`Self::store`] has set, after its transaction was rolled back. `owned` are
    /// the partitions as they were before.
    pub fn restore(&mut self, owned: BTreeMap<i32, Owned>) {
        self.owned = owned;
    }

    /// Gives all partitions back and leaves the topic, so that others need not wait for the lease.
    ///
    /// # Errors
    /// The connection fails.
    pub fn leave(&mut self, client: &mut Client) -> Result<(), Error> {
        self.owned.clear();
        client
            .execute(&self.statements.leave, &[&self.worker])
            .map(drop)
            .map_err(step("leave the workers of the topic"))
    }
}

/// The rows of one update, by column.
#[derive(Default)]
pub struct PositionRows {
    topic: &'static str,
    partitions: Vec<i32>,
    epochs: Vec<i64>,
    next: Vec<i64>,
    resume: Vec<i64>,
    topic_ids: Vec<Option<Uuid>>,
    /// Shorter than the others if the place of a row is not known.
    places: Vec<Tid>,
}

impl PositionRows {
    fn new(topic: &'static str) -> Self {
        Self { topic, ..Self::default() }
    }

    /// The parameters of [`positions_sql`].
    pub fn parameters(&self) -> [&(dyn ToSql + Sync); POSITION_PARAMETERS] {
        let Self { topic, partitions, epochs, next, resume, topic_ids, places } = self;
        [topic, partitions, epochs, next, resume, topic_ids, places]
    }

    /// Adds a partition whose progress is stored here.
    fn add(&mut self, partition: i32, owned: &Owned) {
        let Progress::Stored { next, resume } = owned.progress else { return };
        self.partitions.push(partition);
        self.epochs.push(owned.epoch);
        self.next.push(next);
        self.resume.push(resume);
        self.topic_ids.push(owned.topic_id);
        self.places.extend(owned.place);
    }
}

fn owned(row: &Row) -> (i32, Owned) {
    let (next, resume): (Option<i64>, Option<i64>) = (row.get(2), row.get(3));
    let progress = match next.zip(resume) {
        None => Progress::New,
        Some((next, resume)) => Progress::Stored { next, resume },
    };
    (row.get(0), Owned { epoch: row.get(1), place: None, progress, topic_id: row.get(4) })
}

/// The number of parameters of [`positions_sql`].
pub const POSITION_PARAMETERS: usize = 7;

/// Common table expressions that store positions. The number of their first parameter is `first`.
/// They end with a comma. `positions` then has one row: `partitions`, their new `places`, and
/// `are_stored`, which is false if another worker has taken one of the partitions, or a row is not
/// at its place any more. The effects must depend on `are_stored`. So the rows of the partitions
/// are locked first, as by [`Ownership::store`].
pub fn positions_sql(first: usize) -> String {
    let store = store_sql(in_place, first);
    let count = first + 1;
    format!(
        "position AS ({store}),
         positions AS (
             SELECT coalesce(array_agg(partition), '{{}}') AS partitions,
                    coalesce(array_agg(place), '{{}}') AS places,
                    count(*) = cardinality(${count}) AS are_stored
             FROM position),"
    )
}

/// Stores positions, with parameters from number `first` on. `is_row` finds the row of a partition
/// of a topic.
fn store_sql(is_row: fn(&str) -> String, first: usize) -> String {
    let [topic, partitions, epochs, next, resume, topic_ids, places] =
        std::array::from_fn(|index| format!("${}", first + index));
    let is_row = is_row(&topic);
    format!(
        "UPDATE topic_partition AS old
         SET next_offset = new.next_offset, resume_offset = new.resume_offset,
             topic_id = new.topic_id
         FROM unnest({partitions}::integer[], {epochs}::bigint[], {next}::bigint[],
                     {resume}::bigint[], {topic_ids}::uuid[], {places}::tid[])
              AS new (partition, epoch, next_offset, resume_offset, topic_id, place)
         WHERE {is_row} AND old.epoch = new.epoch
         RETURNING old.partition, old.ctid AS place"
    )
}

fn by_key(topic: &str) -> String {
    format!("old.topic = {topic} AND old.partition = new.partition")
}

/// With `=` PostgreSQL could use the index of the key.
fn in_place(topic: &str) -> String {
    format!(
        "old.ctid = new.place AND old.topic IS NOT DISTINCT FROM {topic}
           AND old.partition IS NOT DISTINCT FROM new.partition"
    )
}

/// SQL that is true if the worker has renewed its lease in time. A lease that ends later than twice
/// its length was set before the clock of the database went back: it would keep the partitions of a
/// dead worker until the clock has reached that time again.
fn has_lease_sql() -> String {
    let longest_s = 2.0 * LEASE_S;
    format!(
        "worker.lease_until > clock_timestamp()
         AND worker.lease_until < clock_timestamp() + interval '{longest_s} s'"
    )
}

struct Statements {
    add_partitions: Statement,
    join: Statement,
    renew: Statement,
    claim: Statement,
    seize: Statement,
    release: Statement,
    store: Statement,
    store_in_place: Statement,
    leave: Statement,
}

impl Statements {
    fn prepare(client: &mut Client) -> Result<Self, postgres::Error> {
        let mut prepare = |sql: &str| client.prepare(sql);
        let has_lease = has_lease_sql();
        Ok(Self {
            // ON CONFLICT alone would wait for the transactions of the owners.
            add_partitions: prepare(
                "INSERT INTO topic_partition (topic, partition)
                 SELECT $1, n FROM generate_series(0, $2::integer - 1) AS n
                 WHERE NOT EXISTS (SELECT FROM topic_partition WHERE topic = $1 AND partition = n)
                 ON CONFLICT DO NOTHING",
            )?,
            join: prepare(
                "WITH dead AS (
                     DELETE FROM worker WHERE lease_until < clock_timestamp() - interval '1 hour')
                 INSERT INTO worker (topic, id, lease_until)
                 VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3))",
            )?,
            // The rows are those of the snapshot, so this worker is among them, with its old lease.
            renew: prepare(&format!(
                "WITH renewed AS (
                     UPDATE worker SET lease_until = clock_timestamp() + make_interval(secs => $3)
                     WHERE id = $2 RETURNING id)
                 SELECT (SELECT count(*) FROM worker
                         WHERE topic = $1 AND (id = $2 OR {has_lease})),
                        (SELECT count(*) FROM topic_partition WHERE topic = $1 AND owner = $2)
                 FROM renewed"
            ))?,
            // A row that is locked belongs to a transaction of its owner, or to another claim.
            claim: prepare(&format!(
                "UPDATE topic_partition AS new SET owner = $2, epoch = new.epoch + 1
                 FROM (SELECT topic, partition FROM topic_partition AS free
                       WHERE topic = $1 AND partition < $4
                         AND NOT EXISTS (SELECT FROM worker
                                         WHERE worker.id = free.owner AND {has_lease})
                       ORDER BY partition LIMIT $3 FOR UPDATE SKIP LOCKED) AS free
                 WHERE new.topic = free.topic AND new.partition = free.partition
                 RETURNING new.partition, new.epoch, new.next_offset, new.resume_offset,
                           new.topic_id"
            ))?,
            seize: prepare(
                "UPDATE topic_partition SET owner = $2, epoch = epoch + 1
                 WHERE topic = $1 AND partition = ANY($3)
                 RETURNING partition, epoch, next_offset, resume_offset, topic_id",
            )?,
            release: prepare(
                "UPDATE topic_partition SET owner = NULL
                 WHERE topic = $1 AND partition = $2 AND epoch = $3",
            )?,
            store: prepare(&store_sql(by_key, 1))?,
            store_in_place: prepare(&store_sql(in_place, 1))?,
            leave: prepare(
                "WITH released AS (UPDATE topic_partition SET owner = NULL WHERE owner = $1)
                 DELETE FROM worker WHERE id = $1",
            )?,
        })
    }
}
