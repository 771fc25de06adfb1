//! `RETAIN_DAYS`: how long rows are kept, and their deletion. See docs/decisions/0060-retention.md.

use super::{Error, connect, step, watch};
use crate::env::{self, Env, Variable};
use crate::log::Chain;
use crate::shutdown::Shutdown;
use postgres::Client;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use uuid::Uuid;

pub const RETAIN_DAYS: Variable = Variable::new(
    "RETAIN_DAYS",
    "",
    "days for which outcomes of transfers and transactions are kept, 1 to 36500; without a value, \
     forever. The time of a transfer is that of its id, a UUID of version 7 or 8. Outcomes with \
     other ids are kept. A transfer whose id is older is refused, also one that waited in Kafka. \
     command-handler and graphql-endpoint need the same value",
);

/// Interval of the deletions.
const INTERVAL: Duration = Duration::from_secs(60 * 60);
/// Time until the next attempt after an error.
const RETRY: Duration = Duration::from_secs(60);
/// Rows are kept for this much longer than their ids are accepted, so that no host whose clock is
/// behind accepts the id of a deleted row.
const CLOCK_DIFFERENCE: Duration = Duration::from_secs(24 * 60 * 60);

/// No statement reads more than its 1,000 rows, also with statistics of an empty table.
const SETTINGS: &str = "-c lock_timeout=10s -c statement_timeout=20s -c enable_seqscan=off \
     -c enable_hashjoin=off -c enable_mergejoin=off -c jit=off -c client_min_messages=warning";

/// How long outcomes and transactions are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    pub days: u32,
}

impl Retention {
    /// Reads [`RETAIN_DAYS`]. `None`: forever.
    ///
    /// # Errors
    /// The value is invalid.
    pub fn from_env(env: &Env<'_>) -> Result<Option<Self>, env::Error> {
        if env.text(&RETAIN_DAYS)?.is_empty() {
            return Ok(None);
        }
        env.number(&RETAIN_DAYS, 1..=36_500).map(|days| Some(Self { days }))
    }

    /// True if an id with the time `time_ms`, since 1970, is older than the period. Its outcome may
    /// be deleted, so its transfer could be executed a second time.
    pub fn is_past(self, time_ms: u64) -> bool {
        time_ms < unix_ms(self.begin())
    }

    /// The time before which rows are deleted, ms since 1970.
    pub fn deleted_before(self) -> u64 {
        unix_ms(self.begin().checked_sub(CLOCK_DIFFERENCE).unwrap_or(UNIX_EPOCH))
    }

    /// The time at which the period begins.
    fn begin(self) -> SystemTime {
        let period = Duration::from_secs(u64::from(self.days) * 24 * 60 * 60);
        SystemTime::now().checked_sub(period).unwrap_or(UNIX_EPOCH)
    }
}

fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Which rows of a table are deleted. They are read in the order of a key, in slices.
pub struct OldRows {
    /// Name of the table, for the log.
    pub table: &'static str,
    /// Reads the slice after the key $1 and deletes its rows that are before $2. Both are texts.
    /// Returns the last key of the slice and the number of deleted rows. No key ends the deletion.
    pub sql: String,
    /// A key below all keys.
    pub first: String,
    /// Converts the time before which rows are deleted, ms since 1970, to $2.
    pub before: fn(u64) -> String,
}

impl OldRows {
    /// The rows of `table` whose primary key `id` is a UUID with a time: of version 7 or 8. The ids
    /// of one period are a range, apart from one in 150 ids of other versions, which are kept.
    pub fn by_id(table: &'static str, id: &str) -> Self {
        let sql = format!(
            "WITH slice AS (
                 SELECT {id} AS id FROM {table}
                 WHERE {id} > $1::text::uuid AND {id} < $2::text::uuid ORDER BY {id} LIMIT 1000),
             deleted AS (
                 DELETE FROM {table} USING slice
                 WHERE {table}.{id} = slice.id
                   AND substr(slice.id::text, 15, 1) IN ('7', '8')
                   AND substr(slice.id::text, 20, 1) IN ('8', '9', 'a', 'b')
                 RETURNING 1)
             SELECT (SELECT id::text FROM slice ORDER BY id DESC LIMIT 1),
                    (SELECT count(*) FROM deleted)"
        );
        let first_of = |ms| Uuid::from_u64_pair(ms << 16, 0).to_string();
        Self { table, sql, first: first_of(1), before: first_of }
    }

    /// Deletes the rows that are older than the period `retention`. Pauses after each slice, so
    /// that the database has half of the time for others. Returns the number of deleted rows.
    ///
    /// # Errors
    /// The connection is lost, or the role may not delete rows.
    pub fn delete(
        &self,
        client: &mut Client,
        retention: Retention,
        shutdown: &Shutdown,
    ) -> Result<u64, Error> {
        let failed = || step("delete old rows");
        let before = (self.before)(retention.deleted_before());
        let statement = client.prepare(&self.sql).map_err(failed())?;
        let (mut last, mut deleted) = (Some(self.first.clone()), 0);
        while let Some(after) = last {
            let began = Instant::now();
            let watch = watch(shutdown, "delete old rows");
            let row = client.query_one(&statement, &[&after, &before]).map_err(failed())?;
            drop(watch);
            let in_slice: i64 = row.get(1);
            deleted += in_slice.unsigned_abs();
            last = row.get(0);
            if shutdown.wait(began.elapsed()) {
                break;
            }
        }
        Ok(deleted)
    }
}

/// Deletes old rows every hour until shutdown, on a thread of its own. Of several processes of
/// `service`, one deletes at a time.
pub fn start(
    config: &postgres::Config,
    service: &'static str,
    retention: Retention,
    tables: Vec<OldRows>,
    shutdown: &Shutdown,
) {
    let (config, shutdown) = (config.clone(), shutdown.clone());
    let run = move || loop {
        let pause = match delete_all(&config, service, retention, &tables, &shutdown) {
            Ok(()) => INTERVAL,
            Err(err) => {
                log::warn!(error:% = Chain(&err); "old rows not deleted");
                RETRY
            }
        };
        if shutdown.wait(pause) {
            return;
        }
    };
    thread::Builder::new()
        .name("retention".into())
        .spawn(run)
        .expect("a thread can be started: their number is small and fixed");
}

fn delete_all(
    config: &postgres::Config,
    service: &str,
    retention: Retention,
    tables: &[OldRows],
    shutdown: &Shutdown,
) -> Result<(), Error> {
    // The connection exists only while rows are deleted. Its end also releases the lock.
    let mut client = {
        let _watch = watch(shutdown, "connect");
        connect(config, service, SETTINGS)?
    };
    let locked = client
        .query_one("SELECT pg_try_advisory_lock(hashtext($1))", &[&format!("{service}/retention")])
        .map_err(step("lock the deletion of old rows"))?;
    if !locked.get::<_, bool>(0) {
        return Ok(());
    }
    for rows in tables {
        let began = Instant::now();
        let deleted = rows.delete(&mut client, retention, shutdown)?;
        let (table, ms) = (rows.table, began.elapsed().as_millis());
        log::info!(table, deleted, ms; "old rows deleted");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_past_after_the_period() {
        let retention = Retention { days: 30 };
        let days_ago = |days: f64| unix_ms(SystemTime::now()) - (days * 86_400e3) as u64;
        assert!(!retention.is_past(days_ago(29.999)));
        assert!(retention.is_past(days_ago(30.001)));
        assert!(!retention.is_past(u64::MAX), "of a clock that is ahead");
    }

    #[test]
    fn number_of_days_is_checked() {
        let read = |text: &str| {
            let lookup = |_: &str| Some(text.to_owned());
            Retention::from_env(&Env::new(&lookup)).map_err(|err| err.to_string())
        };
        assert_eq!(read(""), Ok(None));
        assert_eq!(read("30"), Ok(Some(Retention { days: 30 })));
        for text in ["0", "36501", "-1", "1.5", "x"] {
            let expected = format!("RETAIN_DAYS={text:?}: expected a number from 1 to 36500");
            assert_eq!(read(text), Err(expected));
        }
    }
}
