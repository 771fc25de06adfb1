//! PostgreSQL: connections, migrations, and the ownership of partitions.
//!
//! A session owns a partition while it holds its advisory lock, and the same connection runs the
//! transactions of its records. A process that lost its locks lost the connection too, so it cannot
//! write. docs/decisions/0004-ownership.md says why.

use crate::shutdown::Shutdown;
use crate::watchdog::{self, Watch};
use postgres::error::SqlState;
use postgres::{Client, NoTls, Statement};
use std::collections::BTreeSet;
use std::time::Duration;

/// Time for a call. Longer than the time-outs of the server itself.
const CALL: Duration = Duration::from_secs(30);

/// The object key of the lock that every member of a topic shares; partitions count from 0.
const MEMBERS: i32 = -1;

/// A failed step.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A statement or a connection.
    #[error("{step}")]
    Step {
        /// The step that failed, as in "connect to the database".
        step: &'static str,
        /// The error of PostgreSQL.
        source: postgres::Error,
    },
    /// The database holds a value that this version did not write.
    #[error("{0}")]
    Foreign(String),
}

impl Error {
    /// True if the same step can succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Step { source, .. } => is_transient(source),
            Self::Foreign(_) => false,
        }
    }

    /// True for a duplicate key.
    pub fn is_duplicate(&self) -> bool {
        matches!(self, Self::Step { source, .. } if source.code() == Some(&SqlState::UNIQUE_VIOLATION))
    }
}

/// Turns an error of PostgreSQL into one that names the failed step.
pub fn step(step: &'static str) -> impl FnOnce(postgres::Error) -> Error {
    move |source| Error::Step { step, source }
}

/// False if the statement or the data are wrong. All other errors pass: lost connections, restarts,
/// full disks, locks. Source: PostgreSQL manual, appendix A.
fn is_transient(err: &postgres::Error) -> bool {
    let Some(state) = err.code() else {
        // An error of the connection, not of the server.
        return true;
    };
    // 0A not supported, 21 and 22 data, 23 integrity, 26 statement name, 2F, 38, 39 functions, 42
    // syntax or rights, 44 view.
    const PERMANENT: [&str; 10] = ["0A", "21", "22", "23", "26", "2F", "38", "39", "42", "44"];
    !PERMANENT.iter().any(|class| state.code().starts_with(class))
}

/// Ends the process unless the result is dropped in time: a silent server would block the thread
/// forever.
pub fn watch(shutdown: &Shutdown, step: &str) -> Watch {
    watchdog::watch(CALL, Some(shutdown), format!("PostgreSQL: {step}"))
}

/// A connection of `service`, with `settings` as in `-c jit=off`; those in the URL come after them
/// and win.
///
/// # Errors
/// The database can't be reached.
pub fn connect(
    database: &postgres::Config,
    service: &str,
    settings: &str,
) -> Result<Client, Error> {
    let options = match database.get_options() {
        Some(own) => format!("{settings} {own}"),
        None => settings.to_owned(),
    };
    database
        .clone()
        .options(&options)
        .application_name(service)
        .connect_timeout(Duration::from_secs(5))
        .tcp_user_timeout(Duration::from_secs(10))
        .connect(NoTls)
        .map_err(step("connect to the database"))
}

/// Brings the database behind `client` to the version that `migrations` make: version n is the
/// n-th. Safe when several processes of `service` start at once: one migrates, the others wait.
///
/// # Errors
/// The database is lost, or is of a newer version.
pub fn migrate(client: &mut Client, service: &str, migrations: &[&str]) -> Result<(), Error> {
    let mut transaction = client.transaction().map_err(step("begin"))?;
    transaction
        .batch_execute(&format!(
            "SELECT pg_advisory_xact_lock(hashtext('{service}/migrations'));
             CREATE TABLE IF NOT EXISTS migration (
                 version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())",
        ))
        .map_err(step("lock the migrations"))?;
    let version: i32 = transaction
        .query_one("SELECT coalesce(max(version), 0) FROM migration", &[])
        .map_err(step("read the version of the database"))?
        .get(0);
    let done = usize::try_from(version).unwrap_or(0);
    if done > migrations.len() {
        return Err(Error::Foreign(format!(
            "the database is of version {version}, this program knows {}: start a newer one",
            migrations.len()
        )));
    }
    for (version, sql) in (1i32..).zip(migrations).skip(done) {
        transaction.batch_execute(sql).map_err(step("migrate the database"))?;
        transaction
            .execute("INSERT INTO migration (version) VALUES ($1)", &[&version])
            .map_err(step("migrate the database"))?;
        log::info!(version; "database migrated");
    }
    transaction.commit().map_err(step("migrate the database"))
}

/// A connection and the partitions of a topic that it owns: its calls fail only if the session is
/// lost, and the partitions with it.
pub struct Ownership {
    client: Client,
    topic: &'static str,
    partitions: i32,
    owned: BTreeSet<i32>,
    /// The last count found no other member.
    alone: bool,
    members: Statement,
    claim: Statement,
    release: Statement,
    shutdown: Shutdown,
}

impl Ownership {
    /// Joins the members of `topic`, which has this many `partitions`, with `client`; owns nothing
    /// yet.
    ///
    /// # Errors
    /// The session is lost.
    pub fn join(
        mut client: Client,
        topic: &'static str,
        partitions: i32,
        shutdown: &Shutdown,
    ) -> Result<Self, Error> {
        let joined = "join the members of the topic";
        client
            .execute("SELECT pg_advisory_lock_shared(hashtext($1), $2)", &[&topic, &MEMBERS])
            .map_err(step(joined))?;
        let mut prepare = |sql: &str| client.prepare(sql).map_err(step(joined));
        let (members, claim, release) = (
            prepare(
                "SELECT count(*) FROM pg_locks
                 WHERE locktype = 'advisory' AND mode = 'ShareLock' AND granted
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                   AND classid = hashtext($1)::oid AND objid = $2::int4::oid",
            )?,
            prepare("SELECT pg_try_advisory_lock(hashtext($1), $2)")?,
            prepare("SELECT pg_advisory_unlock(hashtext($1), $2)")?,
        );
        let (owned, shutdown) = (BTreeSet::new(), shutdown.clone());
        Ok(Self {
            client,
            topic,
            partitions,
            owned,
            alone: false,
            members,
            claim,
            release,
            shutdown,
        })
    }

    /// The connection, for the transactions of the owned partitions.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// See [`watch`].
    pub fn watch(&self, step: &str) -> Watch {
        watch(&self.shutdown, step)
    }

    /// Releases partitions above an equal share and claims free ones up to it; returns the owned
    /// partitions. The caller has finished all work on the former ones.
    ///
    /// # Errors
    /// The session is lost.
    pub fn take_share(&mut self) -> Result<Vec<i32>, Error> {
        let share = self.share()?;
        self.release(share)?;
        self.claim(share)?;
        Ok(self.owned.iter().copied().collect())
    }

    /// True if the owned partitions change: more are owned than the share, or free ones were
    /// claimed just now. Also a heartbeat of the session.
    ///
    /// # Errors
    /// The session is lost.
    pub fn share_has_changed(&mut self) -> Result<bool, Error> {
        let owned = self.owned.len();
        let share = self.share()?;
        self.claim(share)?;
        Ok(owned > share || self.owned.len() > owned)
    }

    /// True if the last count found no other member.
    pub fn is_alone(&self) -> bool {
        self.alone
    }

    /// The partitions this session owns.
    pub fn owned(&self) -> &BTreeSet<i32> {
        &self.owned
    }

    /// How many partitions this session should own: an equal share of all, rounded up. Also a
    /// heartbeat of the session.
    ///
    /// # Errors
    /// The session is lost.
    pub fn share(&mut self) -> Result<usize, Error> {
        let _watch = self.watch("count the members of the topic");
        let members: i64 = self
            .client
            .query_one(&self.members, &[&self.topic, &MEMBERS])
            .map_err(step("count the members of the topic"))?
            .get(0);
        self.alone = members <= 1;
        let partitions = usize::try_from(self.partitions).unwrap_or(0);
        Ok(partitions.div_ceil(usize::try_from(members).unwrap_or(1).max(1)))
    }

    /// Claims free partitions until `share` are owned.
    ///
    /// # Errors
    /// The session is lost.
    pub fn claim(&mut self, share: usize) -> Result<(), Error> {
        let _watch = self.watch("claim partitions");
        for partition in 0..self.partitions {
            if self.owned.len() >= share {
                break;
            }
            if self.owned.contains(&partition) {
                continue;
            }
            let claimed: bool = self
                .client
                .query_one(&self.claim, &[&self.topic, &partition])
                .map_err(step("claim a partition"))?
                .get(0);
            if claimed {
                self.owned.insert(partition);
            }
        }
        Ok(())
    }

    /// Releases partitions until `share` are owned. The caller has finished all work on them.
    ///
    /// # Errors
    /// The session is lost.
    pub fn release(&mut self, share: usize) -> Result<(), Error> {
        let _watch = self.watch("release partitions");
        while self.owned.len() > share {
            let Some(partition) = self.owned.pop_last() else { break };
            self.client
                .execute(&self.release, &[&self.topic, &partition])
                .map_err(step("release a partition"))?;
        }
        Ok(())
    }
}
