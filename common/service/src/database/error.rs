//! Errors of database operations, and which of them are retryable.

use postgres::error::{DbError, Severity, SqlState};

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
    /// Another worker has taken a partition over, since the lease of this one had ended. Nothing
    /// was written.
    #[error("another worker owns the partition now")]
    Fenced,
    /// The database must be migrated first, which this role may not do.
    #[error(
        "the database has version {version}, this program needs {needed}, and its role may not \
         create tables: run `{service} --migrate` as the owner"
    )]
    Outdated { service: &'static str, version: usize, needed: usize },
    /// A connection is not one session.
    #[error(
        "a connection pooler assigns another session to each transaction: connect to PostgreSQL \
         directly, or set pool_mode=session in PgBouncer"
    )]
    Pooled,
}

impl Error {
    /// True if a retry of the same step can succeed.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Step { source, .. } => is_transient(source),
            Self::Foreign(_) | Self::Pooled => false,
            // The migration may be running.
            Self::Fenced | Self::Outdated { .. } => true,
        }
    }

    /// True for a violated unique constraint.
    pub fn is_duplicate(&self) -> bool {
        let Self::Step { source, .. } = self else { return false };
        source.code() == Some(&SqlState::UNIQUE_VIOLATION)
    }

    /// True for a failed [`check_sql`].
    pub fn is_failed_check(&self) -> bool {
        let Self::Step { source, .. } = self else { return false };
        source.code() == Some(&SqlState::INVALID_TEXT_REPRESENTATION)
    }

    /// True for a text with a NUL character, which PostgreSQL cannot store or compare.
    pub fn is_nul_in_text(&self) -> bool {
        let Self::Step { source, .. } = self else { return false };
        source.code() == Some(&SqlState::CHARACTER_NOT_IN_REPERTOIRE)
    }
}

/// Adds the name of the failed step to an error of PostgreSQL.
pub fn step(step: &'static str) -> impl FnOnce(postgres::Error) -> Error {
    move |source| Error::Step { step, source }
}

/// A column that fails its statement unless `condition` is true. So one statement can store changes
/// and check them, without the round trips of a transaction. PostgreSQL has no function that only
/// fails: this converts a text, which its log then shows, to a number.
pub fn check_sql(condition: &str) -> String {
    // Without the time the planner would convert the text already.
    format!(
        "CASE WHEN {condition} THEN 0
         ELSE ('another session has changed a row: ' || clock_timestamp())::integer END"
    )
}

/// True if the connection is lost, or ends with this error of the server. The statement may have
/// been committed.
pub fn is_session_lost(err: &postgres::Error) -> bool {
    let severity = err.as_db_error().map(DbError::parsed_severity);
    !matches!(severity, Some(Some(Severity::Error)))
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
