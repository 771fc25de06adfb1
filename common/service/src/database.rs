//! PostgreSQL: connections, migrations, and the ownership of partitions.
//!
//! A session owns a partition while it holds the advisory lock of that partition. The transactions
//! of the partition's records use the same connection. A process that loses its locks also loses
//! the connection, so it cannot write. See docs/decisions/0004-ownership.md.

use crate::shutdown::Shutdown;
use crate::watchdog::{self, Watch};
use postgres::error::SqlState;
use postgres::{Client, NoTls, Statement};
use std::collections::BTreeSet;
use std::time::Duration;

/// Time limit of a call. It is longer than the timeouts of the server itself.
const CALL: Duration = Duration::from_secs(30);

/// Second key of the advisory lock that all members of a topic share. The keys of partitions are 0
/// and above.
const MEMBERS: i32 = -1;

/// A database operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A statement or a connection failed.
    #[error("{step}")]
    Step {
        /// The failed step, such as "connect to the database".
        step: &'static str,
        source: postgres::Error,
    },
    /// The database holds a value that this version did not write.
    #[error("{0}")]
    Foreign(String),
}

impl Error {
    /// True if a retry of the same step can succeed.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Step { source, .. } => is_transient(source),
            Self::Foreign(_) => false,
        }
    }

    /// True for a violated unique constraint.
    pub fn is_duplicate(&self) -> bool {
        let Self::Step { source, .. } = self else { return false };
        source.code() == Some(&SqlState::UNIQUE_VIOLATION)
    }
}

/// Adds the name of the failed step to an error of PostgreSQL.
pub fn step(step: &'static str) -> impl FnOnce(postgres::Error) -> Error {
    move |source| Error::Step { step, source }
}

/// False if the statement or its data are wrong. All other errors are transient: lost connections,
/// restarts, full disks, locks. Source: PostgreSQL manual, appendix A.
fn is_transient(err: &postgres::Error) -> bool {
    let Some(state) = err.code() else {
        // The connection failed; the server reported no error.
        return true;
    };
    // Classes of SQLSTATE: 0A not supported, 21 and 22 data, 23 integrity, 26 statement name, 2F,
    // 38 and 39 functions, 42 syntax or privileges, 44 view.
    const PERMANENT: [&str; 10] = ["0A", "21", "22", "23", "26", "2F", "38", "39", "42", "44"];
    !PERMANENT.iter().any(|class| state.code().starts_with(class))
}

/// Ends the process unless the result is dropped within 30 s. Otherwise an unresponsive server
/// would block the thread forever.
pub fn watch(shutdown: &Shutdown, step: &str) -> Watch {
    watchdog::watch(CALL, Some(shutdown), format!("PostgreSQL: {step}"))
}

/// Connects as the application `service`, with `settings` such as `-c jit=off`. Options in the URL
/// take precedence.
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

/// Applies the `migrations` that the database does not have yet. The n-th one makes version n.
///
/// Several processes of `service` may start at once: one migrates, the others wait.
///
/// # Errors
/// The connection is lost, or the database has a newer version.
pub fn migrate(client: &mut Client, service: &str, migrations: &[&str]) -> Result<(), Error> {
    let mut transaction = client.transaction().map_err(step("begin the migration"))?;
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
            "the database has version {version}, but this program supports versions up to {}: \
             start a newer program",
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

/// A connection and the partitions of a topic that it owns. If a call fails, the session is lost,
/// and with it the partitions.
pub struct Ownership {
    client: Client,
    topic: &'static str,
    partitions: i32,
    owned: BTreeSet<i32>,
    members: Statement,
    claim: Statement,
    release: Statement,
    shutdown: Shutdown,
}

impl Ownership {
    /// Joins the members of `topic`. `partitions` is the number of its partitions. The new member
    /// owns no partition yet.
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
        Ok(Self { client, topic, partitions, owned, members, claim, release, shutdown })
    }

    /// The connection, for the transactions of the owned partitions.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// See [`watch`].
    pub fn watch(&self, step: &str) -> Watch {
        watch(&self.shutdown, step)
    }

    /// Releases partitions above an equal share, or claims free ones up to it. Returns the owned
    /// partitions. The caller must have finished all work on the partitions owned before.
    pub fn take_share(&mut self) -> Result<Vec<i32>, Error> {
        let share = self.share()?;
        self.release(share)?;
        self.claim(share)?;
        Ok(self.owned.iter().copied().collect())
    }

    /// Claims free partitions up to an equal share. Returns true if it claimed one, or if this
    /// session owns more than its share. The query also serves as a heartbeat of the session.
    pub fn share_has_changed(&mut self) -> Result<bool, Error> {
        let owned = self.owned.len();
        let share = self.share()?;
        self.claim(share)?;
        Ok(owned > share || self.owned.len() > owned)
    }

    /// The partitions this session owns.
    pub fn owned(&self) -> &BTreeSet<i32> {
        &self.owned
    }

    /// The number of partitions that this session should own: an equal share, rounded up. The query
    /// also serves as a heartbeat of the session.
    pub fn share(&mut self) -> Result<usize, Error> {
        let _watch = self.watch("count the members of the topic");
        let members: i64 = self
            .client
            .query_one(&self.members, &[&self.topic, &MEMBERS])
            .map_err(step("count the members of the topic"))?
            .get(0);
        let partitions = usize::try_from(self.partitions).unwrap_or(0);
        Ok(partitions.div_ceil(usize::try_from(members).unwrap_or(1).max(1)))
    }

    /// Claims free partitions until the session owns `share` of them.
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

    /// Releases partitions until the session owns `share` of them. The caller must have finished
    /// all work on them.
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
