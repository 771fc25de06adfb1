//! PostgreSQL: connections and migrations.

use crate::Start;
use crate::env::{self, DATABASE_URL, Env, Variable};
use crate::exit::{BoxError, EXIT_TEMPORARY};
use crate::log::Chain;
use crate::shutdown::Shutdown;
use postgres::{Client, Transaction};
use std::process::ExitCode;
use std::time::Duration;

mod connect;
mod deadline;
mod error;
pub mod retention;
mod tid;

pub use connect::connect;
pub use deadline::Deadline;
pub use error::{Error, check_sql, is_session_lost, step};
pub use tid::Tid;

/// The flag of [`run_migrations`], for [`crate::Service::flags`].
pub const MIGRATE: (&str, &str) = (
    "--migrate",
    "migrates the database as the role of DATABASE_URL, which owns it, grants \
     DATABASE_SERVICE_ROLE the rights that the service needs, and exits",
);

pub const DATABASE_PASSWORD: Variable = Variable::new(
    "DATABASE_PASSWORD",
    "",
    "password of the role in DATABASE_URL, without any encoding, in the normalization form NFKC. \
     DATABASE_URL must not have one then",
)
.secret();

pub const DATABASE_PASSWORD_FILE: Variable = Variable::new(
    "DATABASE_PASSWORD_FILE",
    "",
    "path of a file with that password, instead of DATABASE_PASSWORD. It is read once, at startup. \
     One line break at its end is removed",
);

pub const DATABASE_SERVICE_ROLE: Variable = Variable::new(
    "DATABASE_SERVICE_ROLE",
    "",
    "with --migrate: the role that the running service connects as. It loses all other rights on \
     the tables",
);

/// The variables of a service with a database.
pub const VARIABLES: &[Variable] =
    &[DATABASE_URL, DATABASE_PASSWORD, DATABASE_PASSWORD_FILE, DATABASE_SERVICE_ROLE];

/// Time limit of a call. It is longer than the timeouts of the server itself.
const CALL: Duration = Duration::from_secs(30);
/// Time limit of a call that is also a heartbeat. A session that is idle for 10 s may have ended.
pub const HEARTBEAT: Duration = Duration::from_secs(10);

/// As [`watch`], with the limit of a heartbeat.
pub fn heartbeat(shutdown: &Shutdown, step: &str) -> Deadline {
    Deadline::start(HEARTBEAT, Some(shutdown), step)
}

/// Limits the calls of this thread to 30 s, until the result is dropped. An unresponsive server
/// then fails the call instead of blocking the thread forever.
pub fn watch(shutdown: &Shutdown, step: &str) -> Deadline {
    Deadline::start(CALL, Some(shutdown), step)
}

/// The tables of a service.
#[derive(Debug, Clone, Copy)]
pub struct Schema {
    /// Name of the service.
    pub service: &'static str,
    /// The migrations in order: the n-th one makes version n.
    pub migrations: &'static [&'static str],
    /// What the statements of the service need: privileges and tables, separated by commas.
    pub rights: &'static [(&'static str, &'static str)],
}

/// Reads [`VARIABLES`].
///
/// # Errors
/// A variable is missing or invalid.
pub fn config(env: &Env<'_>) -> Result<postgres::Config, env::Error> {
    let mut config: postgres::Config = env.parse(
        &DATABASE_URL,
        "postgres://user@host:port/database or host=... user=... dbname=...",
    )?;
    let password: Option<String> =
        env.parse_secret(&DATABASE_PASSWORD, &DATABASE_PASSWORD_FILE, "a password")?;
    if let Some(password) = password {
        if config.get_password().is_some() {
            let expected = "a URL without a password, since DATABASE_PASSWORD or \
                            DATABASE_PASSWORD_FILE is set";
            return Err(env::invalid(&DATABASE_URL, String::new(), expected.to_owned()));
        }
        config.password(password);
    }
    if connect::has_unix_socket(&config) {
        deadline::use_unix_sockets();
    }
    Ok(config)
}

/// Does what [`MIGRATE`] describes. Waits for an unavailable database.
///
/// # Errors
/// The environment is invalid, the role may not migrate, or the database has a newer version.
pub fn run_migrations(start: &Start<'_>, schema: &Schema) -> Result<ExitCode, BoxError> {
    let config = config(&start.env)?;
    let role = start.env.text(&DATABASE_SERVICE_ROLE)?;
    while !start.shutdown.requested() {
        let _watch = watch(&start.shutdown, "migrate the database");
        let migrated = connect(&config, schema.service, "")
            .and_then(|mut client| migrate_as_owner(&mut client, schema, &role));
        match migrated {
            Err(err) if err.is_retryable() => {
                log::warn!(error:% = Chain(&err); "waiting for the database");
                start.shutdown.wait(Duration::from_millis(500));
            }
            result => return Ok(result.map(|()| ExitCode::SUCCESS)?),
        }
    }
    Ok(ExitCode::from(EXIT_TEMPORARY))
}

/// Applies the migrations that the database does not have yet, and grants `role` the rights of
/// `schema` and no others. An empty `role` gets none.
///
/// # Errors
/// The role of `client` may not do this, or the database has a newer version.
pub fn migrate_as_owner(client: &mut Client, schema: &Schema, role: &str) -> Result<(), Error> {
    let mut transaction = begin_migration(client, schema)?;
    apply(&mut transaction, schema)?;
    if !role.is_empty() {
        grant(&mut transaction, schema.rights, role).map_err(step("grant rights"))?;
        log::info!(role; "rights granted");
    }
    transaction.commit().map_err(step("migrate the database"))
}

/// Checks the version of the database. Applies the missing migrations if the role of `client` may
/// create tables.
///
/// Several processes of a service may start at once: one migrates, the others wait.
///
/// # Errors
/// The connection is lost, the database has a newer version, or [`Error::Outdated`].
pub fn migrate(client: &mut Client, schema: &Schema) -> Result<(), Error> {
    let needed = schema.migrations.len();
    let failed = "find the table of migrations";
    let mut transaction = client.transaction().map_err(step(failed))?;
    let row = transaction
        .query_one(
            "SELECT to_regclass('migration') IS NOT NULL,
                    coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)",
            &[],
        )
        .map_err(step(failed))?;
    let (exists, may_create): (bool, bool) = (row.get(0), row.get(1));
    let version = if exists { version(&mut transaction)? } else { 0 };
    transaction.commit().map_err(step(failed))?;
    check_version(version, needed)?;
    if version == needed {
        return Ok(());
    }
    if !may_create {
        return Err(Error::Outdated { service: schema.service, version, needed });
    }
    let mut transaction = begin_migration(client, schema)?;
    apply(&mut transaction, schema)?;
    transaction.commit().map_err(step("migrate the database"))
}

/// Begins a transaction that holds the lock of the migrations.
fn begin_migration<'a>(client: &'a mut Client, schema: &Schema) -> Result<Transaction<'a>, Error> {
    let mut transaction = client.transaction().map_err(step("begin the migration"))?;
    transaction
        .batch_execute(&format!(
            "SELECT pg_advisory_xact_lock(hashtext('{}/migrations'));
             CREATE TABLE IF NOT EXISTS migration (
                 version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())",
            schema.service
        ))
        .map_err(step("lock the migrations"))?;
    Ok(transaction)
}

fn apply(transaction: &mut Transaction<'_>, schema: &Schema) -> Result<(), Error> {
    let done = version(transaction)?;
    check_version(done, schema.migrations.len())?;
    for (version, sql) in (1i32..).zip(schema.migrations).skip(done) {
        transaction.batch_execute(sql).map_err(step("migrate the database"))?;
        transaction
            .batch_execute(&format!("INSERT INTO migration (version) VALUES ({version})"))
            .map_err(step("migrate the database"))?;
        log::info!(version; "database migrated");
    }
    Ok(())
}

fn version(transaction: &mut Transaction<'_>) -> Result<usize, Error> {
    let version: i32 = transaction
        .query_one("SELECT coalesce(max(version), 0) FROM migration", &[])
        .map_err(step("read the version of the database"))?
        .get(0);
    Ok(usize::try_from(version).unwrap_or(0))
}

fn check_version(version: usize, supported: usize) -> Result<(), Error> {
    if version <= supported {
        return Ok(());
    }
    Err(Error::Foreign(format!(
        "the database has version {version}, but this program supports versions up to \
         {supported}: start a newer program"
    )))
}

/// Grants `role` exactly `rights` on these tables, and the right to read the version.
fn grant(
    transaction: &mut Transaction<'_>,
    rights: &[(&str, &str)],
    role: &str,
) -> Result<(), postgres::Error> {
    let role: String = transaction.query_one("SELECT quote_ident($1)", &[&role])?.get(0);
    let mut sql = String::new();
    for (privileges, tables) in [("SELECT", "migration")].iter().chain(rights) {
        sql += &format!(
            "REVOKE ALL ON {tables} FROM {role}; GRANT {privileges} ON {tables} TO {role};"
        );
    }
    transaction.batch_execute(&sql)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str, password: &str, file: &str) -> Result<postgres::Config, String> {
        let lookup = |name: &str| match name {
            "DATABASE_URL" => Some(url.to_owned()),
            "DATABASE_PASSWORD" => Some(password.to_owned()),
            "DATABASE_PASSWORD_FILE" => Some(file.to_owned()),
            _ => None,
        };
        config(&Env::new(&lookup)).map_err(|err| err.to_string())
    }

    #[test]
    fn password_needs_no_encoding() {
        const PASSWORD: &str = "p@ss/w%40rd#1";
        let encoded = read("postgres://bank:p%40ss%2Fw%2540rd%231@db/balancedb", "", "");
        let url = read("postgres://bank@db/balancedb", PASSWORD, "");
        let pairs = read("host=db user=bank dbname=balancedb", PASSWORD, "");
        for config in [encoded, url, pairs] {
            let config = config.unwrap();
            assert_eq!(config.get_password(), Some(PASSWORD.as_bytes()));
            assert_eq!(config.get_user(), Some("bank"));
            assert_eq!(config.get_dbname(), Some("balancedb"));
        }
        assert_eq!(read("postgres://bank@db/x", "", "").unwrap().get_password(), None);
    }

    #[test]
    fn second_password_is_rejected_and_not_printed() {
        let err = read("postgres://bank:hunter2@db/balancedb", "hunter3", "").unwrap_err();
        assert!(
            err.starts_with("DATABASE_URL=\"***\": expected a URL without a password"),
            "{err}"
        );
        let err = read("postgres://bank@db/balancedb", "hunter3", "/file").unwrap_err();
        assert!(err.contains("since DATABASE_PASSWORD is set") && !err.contains("hunter"), "{err}");
        let err = read("postgres://bank:hunter2@db:x/balancedb", "", "").unwrap_err();
        assert!(err.contains("DATABASE_URL") && !err.contains("hunter"), "{err}");
    }
}
