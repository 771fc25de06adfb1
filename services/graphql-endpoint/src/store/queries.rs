//! The queries and updates for the requests of clients.

use super::connection::{COLUMNS, transaction};
use super::notifications::TOKENS_CHANNEL;
use super::pool::{Parameter, Pool, TimeLeft};
use crate::error::Error;
use crate::paging::{ConnectionPage, Cursor, PageRange};
use crate::token::digest;
use crate::transaction::{Direction, Transaction};
use bank::limits::BALANCE_CHANGED_BYTES_MAX;
use postgres::Row;
use service::shutdown::Shutdown;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;
use uuid::Uuid;

/// Connections for the requests of clients, opened on demand.
pub struct Database(Pool);

impl Database {
    /// A pool of `connections`.
    pub fn new(config: &postgres::Config, connections: usize, shutdown: &Shutdown) -> Self {
        Self(Pool::start(config, connections, shutdown))
    }

    /// The queries of one operation.
    pub fn store(self: &Arc<Self>) -> Store {
        Store { database: self.clone(), left: Mutex::default() }
    }
}

/// The queries of one operation, which share its time.
pub struct Store {
    database: Arc<Database>,
    left: Mutex<TimeLeft>,
}

/// The parameters of a statement. Texts and bytes are copied, because another thread runs it.
macro_rules! parameters {
    ($($value:expr),*) => { vec![$(Box::new($value.to_owned()) as Parameter),*] };
}

impl Store {
    /// The newest transaction with this id.
    pub fn by_id(&self, id: i32) -> Result<Option<Transaction>, Error> {
        let sql = format!(
            "SELECT {COLUMNS} FROM transaction WHERE number =
             (SELECT max(number) - ((max(number) - $1) & 2147483647) FROM transaction)"
        );
        Ok(self.query(&sql, parameters![i64::from(id)])?.iter().map(transaction).next())
    }

    pub fn by_number(&self, number: i64) -> Result<Option<Transaction>, Error> {
        let sql = format!("SELECT {COLUMNS} FROM transaction WHERE number = $1");
        Ok(self.query(&sql, parameters![number])?.iter().map(transaction).next())
    }

    /// Transactions of an account, newest first.
    pub fn by_iban(&self, iban: &str, items_max: i64) -> Result<Vec<Transaction>, Error> {
        let sql = "SELECT * FROM transaction WHERE iban = $1
                   ORDER BY sequence DESC, number DESC LIMIT $2";
        self.list(sql, iban, items_max)
    }

    /// Transactions of an account with a sequence above `after`, in order: at most [`PAGE_MAX`],
    /// and fewer if their texts are long.
    pub fn after_sequence(&self, iban: &str, after: i64) -> Result<Page, Error> {
        let sql = format!(
            "SELECT {COLUMNS}, item < count AS has_more
             FROM (SELECT *, row_number() OVER (ORDER BY sequence, number) AS item,
                          count(*) OVER () AS count,
                          sum(octet_length(from_to) + octet_length(description))
                              OVER (ORDER BY sequence, number ROWS UNBOUNDED PRECEDING) AS bytes
                   FROM (SELECT * FROM transaction WHERE iban = $1 AND sequence > $2
                         ORDER BY sequence, number LIMIT $3::bigint + 1) AS next) AS counted
             WHERE item = 1 OR (item <= $3 AND bytes <= $4) ORDER BY item"
        );
        let parameters = parameters![iban, after, PAGE_MAX, PAGE_TEXT_BYTES_MAX];
        let rows = self.query(&sql, parameters)?;
        let has_more = rows.last().is_some_and(|row| row.get(8));
        Ok(Page { transactions: rows.iter().map(transaction).collect(), has_more })
    }

    /// The newest transaction of each account with an iban after `after`, ordered by iban.
    pub fn last_of_each(&self, after: &str, items_max: i64) -> Result<Vec<Transaction>, Error> {
        // A loose index scan: the number of steps depends on the accounts, not on the transactions.
        let sql = "WITH RECURSIVE last AS (
                 (SELECT * FROM transaction WHERE iban > $1
                  ORDER BY iban, sequence DESC, number DESC LIMIT 1)
                 UNION ALL
                 SELECT next.* FROM last CROSS JOIN LATERAL
                     (SELECT * FROM transaction WHERE iban > last.iban
                      ORDER BY iban, sequence DESC, number DESC LIMIT 1) AS next)
             SELECT * FROM last LIMIT $2";
        self.list(sql, after, items_max)
    }

    /// A page of the transactions of an account, newest first. It has fewer transactions than
    /// requested if it ends by the filter, or by [`texts_bytes_max`].
    ///
    /// # Errors
    /// [`Error::TooLarge`] if the texts of the first transaction exceed that limit.
    pub fn page(
        &self,
        iban: &str,
        range: &PageRange,
    ) -> Result<ConnectionPage<Transaction>, Error> {
        let after = range.after.unwrap_or(Cursor::MAX);
        let before = range.before.unwrap_or(Cursor::MIN);
        let is_debit = range.direction.map(|direction| direction == Direction::Debit);
        let rows = self.query(
            &page_sql(range.from_end),
            parameters![
                iban,
                after.sequence,
                after.number,
                before.sequence,
                before.number,
                range.rows_max(),
                is_debit,
                range.items_max + 1,
                texts_bytes_max(range.items_max)
            ],
        )?;
        let mut page = ConnectionPage { items: Vec::new(), has_more: false, examined: None };
        for row in &rows {
            let (fits, is_selected): (bool, bool) = (row.get("fits"), row.get("is_selected"));
            if is_selected && (!fits || page.items.len() as i64 == range.items_max) {
                if !fits && page.items.is_empty() {
                    return Err(Error::TooLarge);
                }
                page.has_more = true;
                break;
            }
            if is_selected {
                page.items.push(transaction(row));
            }
            if row.get("is_last") {
                page.has_more = true;
                page.examined = Some(Cursor::from(&transaction(row)));
            }
        }
        if range.from_end {
            page.items.reverse();
        }
        Ok(page)
    }

    /// The lowest sequence of an account from which on all transactions were decided at `time` or
    /// later. Transactions without a time are older than all others.
    pub fn sequence_at(&self, iban: &str, time: SystemTime) -> Result<i64, Error> {
        let rows = self.query(SEQUENCE_SQL, parameters![iban, time])?;
        Ok(rows.first().map_or(0, |row| row.get(0)))
    }

    /// An account that was opened here, or has a transaction.
    pub fn account(&self, iban: &str) -> Result<Option<KnownAccount>, Error> {
        if let Some(last_change) = self.by_iban(iban, 1)?.pop() {
            return Ok(Some(KnownAccount {
                iban: iban.to_owned(),
                last_change: Some(last_change),
            }));
        }
        let sql = "SELECT iban FROM opened_account WHERE iban = $1
                   UNION ALL SELECT iban FROM account WHERE iban = $1";
        let rows = self.query(sql, parameters![iban])?;
        Ok(rows.first().map(|row| KnownAccount { iban: row.get(0), last_change: None }))
    }

    /// Accounts as in [`Self::account`] whose iban begins with `prefix` and is greater than
    /// `after`, ordered by iban. It has fewer accounts than requested if the texts of their last
    /// transactions exceed [`texts_bytes_max`].
    pub fn accounts(
        &self,
        prefix: &str,
        after: &str,
        items_max: i64,
    ) -> Result<ConnectionPage<KnownAccount>, Error> {
        // The greatest character follows all ibans with this prefix.
        let end = format!("{prefix}\u{10ffff}");
        let rows = self.query(
            &accounts_sql(),
            parameters![prefix, after, end, items_max + 1, texts_bytes_max(items_max)],
        )?;
        let fitting = rows.iter().take_while(|row| row.get("fits")).take(items_max as usize);
        let items: Vec<KnownAccount> = fitting
            .map(|row| {
                let number: Option<i64> = row.get("number");
                let last_change = number.map(|_| transaction(row));
                KnownAccount { iban: row.get("known_iban"), last_change }
            })
            .collect();
        if items.is_empty() && rows.first().is_some_and(|row| !row.get::<_, bool>("fits")) {
            return Err(Error::TooLarge);
        }
        Ok(ConnectionPage { has_more: rows.len() > items.len(), items, examined: None })
    }

    /// Runs the query `list`, whose parameters are a text and a number of items.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if the texts exceed [`texts_bytes_max`]. They are not read then, since
    /// they would not fit into the memory of the container.
    fn list(&self, list: &str, text: &str, items_max: i64) -> Result<Vec<Transaction>, Error> {
        let sql = format!(
            "SELECT {FITTING_COLUMNS}
             FROM (SELECT *, sum(octet_length(from_to) + octet_length(description))
                             OVER (ROWS UNBOUNDED PRECEDING) <= $3 AS fits
                   FROM ({list}) AS listed) AS counted"
        );
        let rows = self.query(&sql, parameters![text, items_max, texts_bytes_max(items_max)])?;
        if rows.iter().all(|row| row.get("fits")) {
            Ok(rows.iter().map(transaction).collect())
        } else {
            Err(Error::TooLarge)
        }
    }

    /// The account whose token has this digest.
    pub fn iban_of_token(&self, digest: &[u8; 32]) -> Result<Option<String>, Error> {
        let sql = "SELECT iban FROM account WHERE token_digest = $1";
        Ok(self.query(sql, parameters![digest.as_slice()])?.first().map(|row| row.get(0)))
    }

    /// The tokens of an account that was opened here.
    pub fn tokens(&self, iban: &str) -> Result<Option<AccountTokens>, Error> {
        let sql = "SELECT token_digest, coalesce(bank_token, token) FROM account WHERE iban = $1";
        let rows = self.query(sql, parameters![iban])?;
        let tokens = |row: &Row| AccountTokens { digest: row.get(0), of_bank: row.get(1) };
        Ok(rows.first().map(tokens))
    }

    /// Replaces the token with the digest `old`, and notifies all endpoints. Returns the account.
    /// `None` if no account has this token: of two at the same time, one replaces it.
    pub fn rotate_token(&self, old: &[u8; 32], new: &str) -> Result<Option<String>, Error> {
        let new_digest = digest(new);
        // The pool repeats a statement whose connection was lost. It may have been executed, so it
        // also finds the new token.
        let rows = self.query(
            "WITH rotated AS (
                 UPDATE account
                 SET bank_token = coalesce(bank_token, token), token = $3, token_digest = $2
                 WHERE token_digest IN ($1, $2) RETURNING iban)
             SELECT iban, pg_notify($4, encode($1, 'hex')) FROM rotated",
            parameters![old.as_slice(), new_digest.as_slice(), new, TOKENS_CHANNEL],
        )?;
        Ok(rows.first().map(|row| row.get(0)))
    }

    /// The user with this name.
    pub fn user(&self, username: &str) -> Result<Option<User>, Error> {
        let sql =
            "SELECT salt, rounds, hash, creation, iban, token FROM account WHERE username = $1";
        let rows = self.query(sql, parameters![username])?;
        Ok(rows.first().map(|row| {
            let iban: Option<String> = row.get(4);
            User {
                salt: row.get(0),
                rounds: row.get(1),
                hash: row.get(2),
                creation: row.get(3),
                account: iban.zip(row.get(5)),
            }
        }))
    }

    /// Begins a login. It counts as failed until [`Self::logged_in`], so that concurrent logins are
    /// all counted. False if too many logins with this name from this address have failed recently.
    /// A failure of more than a minute ahead is from before the clock of the database went back,
    /// and does not count: it would keep the user out until the clock has reached its time again. A
    /// concurrent login can be ahead by less.
    pub fn begin_login(&self, username: &str, address: IpAddr) -> Result<bool, Error> {
        self.query(
            "DELETE FROM failed_login WHERE (username, address) IN
                 (SELECT username, address FROM failed_login
                  WHERE failed_at < now() - interval '1 hour'
                  ORDER BY failed_at LIMIT 10 FOR UPDATE SKIP LOCKED)",
            Vec::new(),
        )?;
        let counted = self.query(
            "INSERT INTO failed_login AS login (username, address, tries, failed_at)
             VALUES ($1, $2, 1, now())
             ON CONFLICT (username, address) DO UPDATE
                 SET tries = login.tries + 1, failed_at = now()
                 WHERE login.tries < $3
                     OR login.failed_at > now() + interval '1 minute'
                     OR login.failed_at +
                         power(2, least(login.tries - $3, $4)) * interval '1 second' <= now()
             RETURNING tries",
            parameters![username, address, FREE_TRIES, DOUBLINGS_MAX],
        )?;
        Ok(!counted.is_empty())
    }

    /// Ends a login with the correct password: resets the counter of failed logins.
    pub fn logged_in(&self, username: &str, address: IpAddr) -> Result<(), Error> {
        let sql = "DELETE FROM failed_login WHERE username = $1 AND address = $2";
        self.query(sql, parameters![username, address]).map(drop)
    }

    /// Stores a new user. False if the user name exists.
    pub fn add_user(&self, username: &str, user: &User) -> Result<bool, Error> {
        let added = self.query(
            "INSERT INTO account (username, salt, rounds, hash, creation)
             VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (username) DO NOTHING RETURNING username",
            parameters![username, user.salt, user.rounds, user.hash, user.creation],
        )?;
        Ok(!added.is_empty())
    }

    /// Stores the account that the bank opened for the command `creation`. Returns its present
    /// token: another client of the user may have stored the account and replaced the token.
    pub fn store_account(&self, creation: Uuid, iban: &str, token: &str) -> Result<String, Error> {
        let sql = "UPDATE account SET iban = coalesce(iban, $2), token = coalesce(token, $3),
                       token_digest = coalesce(token_digest, $4)
                   WHERE creation = $1 RETURNING token";
        let digest = digest(token);
        let rows = self.query(sql, parameters![creation, iban, token, digest.as_slice()])?;
        Ok(rows.first().map_or_else(|| token.to_owned(), |row| row.get(0)))
    }

    /// Replaces the id of a refused command. Returns `next`, or the id that another client of the
    /// same user has stored meanwhile.
    pub fn replace_creation(
        &self,
        username: &str,
        creation: Uuid,
        next: Uuid,
    ) -> Result<Uuid, Error> {
        let sql = "UPDATE account SET creation = $3 WHERE username = $1 AND creation = $2";
        self.query(sql, parameters![username, creation, next])?;
        let sql = "SELECT creation FROM account WHERE username = $1";
        Ok(self.query(sql, parameters![username])?.first().map_or(next, |row| row.get(0)))
    }

    /// Stores a transfer before its command is sent. If the uuid is known, returns the stored
    /// transfer instead.
    pub fn begin_transfer(&self, transfer: &StoredTransfer) -> Result<StoredTransfer, Error> {
        let added = self.query(
            "INSERT INTO transfer (uuid, content, from_party, command) VALUES ($1, $2, $3, $4)
             ON CONFLICT (uuid) DO NOTHING RETURNING uuid",
            parameters![transfer.uuid, transfer.content, transfer.from, transfer.command],
        )?;
        let known = if added.is_empty() { self.transfer(transfer.uuid)? } else { None };
        Ok(known.unwrap_or_else(|| transfer.clone()))
    }

    pub fn transfer(&self, uuid: Uuid) -> Result<Option<StoredTransfer>, Error> {
        let sql =
            "SELECT content, from_party, command, success, reason FROM transfer WHERE uuid = $1";
        let rows = self.query(sql, parameters![uuid])?;
        Ok(rows.first().map(|row| {
            let success: Option<bool> = row.get(3);
            let result = success.map(|success| {
                if success {
                    Ok(())
                } else {
                    Err(row.get::<_, Option<String>>(4).unwrap_or_default())
                }
            });
            StoredTransfer {
                uuid,
                content: row.get(0),
                from: row.get(1),
                command: row.get(2),
                result,
            }
        }))
    }

    /// Stores the outcome of a transfer.
    pub fn end_transfer(&self, uuid: Uuid, result: &Result<(), String>) -> Result<(), Error> {
        let sql = "UPDATE transfer SET success = $2, reason = $3, command = NULL
                   WHERE uuid = $1 AND success IS NULL";
        self.query(sql, parameters![uuid, result.is_ok(), result.clone().err()]).map(drop)
    }

    fn query(&self, sql: &str, parameters: Vec<Parameter>) -> Result<Vec<Row>, Error> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        self.database.0.query(sql.to_owned(), parameters, &mut left)
    }
}

/// Columns of a transaction, with texts only if `fits` is true, then `fits`.
const FITTING_COLUMNS: &str = "number, sequence, iban, new_balance, changed_by,
     CASE WHEN fits THEN from_to ELSE '' END,
     CASE WHEN fits THEN description ELSE '' END, decided_at, fits";

/// The query of [`Store::page`]. It examines at most $6 rows, in the order of an index, and selects
/// at most $8 of them by their direction. The last examined row is returned in any case, without
/// texts if it is not selected.
pub(super) fn page_sql(from_end: bool) -> String {
    let order = if from_end { "" } else { "DESC" };
    format!(
        "SELECT {FITTING_COLUMNS}, is_selected, is_last
         FROM (SELECT *, is_selected AND sum(octet_length(from_to) + octet_length(description))
                             FILTER (WHERE is_selected) OVER (ROWS UNBOUNDED PRECEDING) <= $9
                         AS fits
               FROM (SELECT *, row_number() OVER (ROWS UNBOUNDED PRECEDING) = $6 AS is_last,
                            coalesce((changed_by < 0) = $7, true) AS is_selected
                     FROM (SELECT * FROM transaction
                           WHERE iban = $1 AND (sequence, number) < ($2, $3)
                               AND (sequence, number) > ($4, $5)
                           ORDER BY sequence {order}, number {order} LIMIT $6) AS examined
                    ) AS numbered
               WHERE is_selected OR is_last LIMIT $8) AS counted"
    )
}

/// The query of [`Store::sequence_at`]: a binary search, since times do not decrease with the
/// sequence. Transactions below `low` are earlier than $2, those from `high` on are not. A step
/// reads the first transaction in the upper half, so gaps do not matter.
pub(super) const SEQUENCE_SQL: &str = "
     WITH RECURSIVE search AS (
         SELECT 0::bigint AS low,
                coalesce((SELECT sequence + 1 FROM transaction WHERE iban = $1
                          ORDER BY sequence DESC, number DESC LIMIT 1), 0) AS high
         UNION ALL
         SELECT CASE WHEN is_earlier THEN found + 1 ELSE low END,
                CASE WHEN is_earlier THEN high ELSE middle END
         FROM (SELECT low, high, low + (high - low) / 2 AS middle
               FROM search WHERE low < high) AS halves
         CROSS JOIN LATERAL
             (SELECT sequence AS found, coalesce(decided_at < $2, true) AS is_earlier
              FROM transaction WHERE iban = $1 AND sequence >= middle
              ORDER BY sequence, number LIMIT 1) AS probe)
     SELECT low FROM search WHERE low >= high";

/// The query of [`Store::accounts`]. A loose index scan, as in [`Store::last_of_each`], of the
/// ibans in two tables: `least` ignores null.
pub(super) fn accounts_sql() -> String {
    let next = |condition: &str| {
        let next_in = |table: &str| {
            format!(
                "(SELECT iban FROM {table} WHERE {condition} AND iban < $3 ORDER BY iban LIMIT 1)"
            )
        };
        let tables = ["transaction", "account", "opened_account"];
        format!("least({})", tables.map(next_in).join(", "))
    };
    format!(
        "WITH RECURSIVE known AS (
             SELECT {} AS known_iban
             UNION ALL SELECT {} FROM known WHERE known_iban IS NOT NULL)
         SELECT {FITTING_COLUMNS}, known_iban
         FROM (SELECT *, coalesce(sum(octet_length(from_to) + octet_length(description))
                                  OVER (ROWS UNBOUNDED PRECEDING), 0) <= $5 AS fits
               FROM (SELECT known_iban FROM known WHERE known_iban IS NOT NULL LIMIT $4) AS listed
               LEFT JOIN LATERAL
                   (SELECT * FROM transaction WHERE iban = known_iban
                    ORDER BY sequence DESC, number DESC LIMIT 1) AS last ON true) AS counted",
        next("iban >= $1 AND iban > $2"),
        next("iban > known_iban")
    )
}

/// Limit of the texts of `items_max` transactions, in bytes. The texts that clients of this
/// endpoint send fit. Other programs may write longer ones, of which two always fit.
fn texts_bytes_max(items_max: i64) -> i64 {
    const CLIENTS_TEXTS: i64 = 1500;
    items_max * CLIENTS_TEXTS + 2 * BALANCE_CHANGED_BYTES_MAX as i64
}

/// Stored transactions of an account, in order.
#[derive(Debug, Default)]
pub struct Page {
    pub transactions: VecDeque<Transaction>,
    /// True if the store has more after these.
    pub has_more: bool,
}

/// Maximum of transactions in a [`Page`]. Each subscription that catches up has one in memory.
const PAGE_MAX: i64 = 8;
/// Limit of the texts of a [`Page`] with more than one transaction, bytes.
const PAGE_TEXT_BYTES_MAX: i64 = 1 << 10;

/// Failed logins before further attempts are delayed.
const FREE_TRIES: i32 = 10;
/// The delay starts at one second and doubles with each failed login, at most this often.
const DOUBLINGS_MAX: i32 = 6;

/// An account that was opened here, or has a transaction.
#[derive(Debug, PartialEq, Eq)]
pub struct KnownAccount {
    pub iban: String,
    /// `None` if the account was opened here and has no transaction.
    pub last_change: Option<Transaction>,
}

/// A user. The account is `None` until the bank has opened it.
#[derive(Clone)]
pub struct User {
    pub salt: Vec<u8>,
    /// Of PBKDF2.
    pub rounds: i32,
    pub hash: Vec<u8>,
    /// Id of the command that opens the account.
    pub creation: Uuid,
    /// Iban and the token that clients use.
    pub account: Option<(String, String)>,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User").field("creation", &self.creation).finish_non_exhaustive()
    }
}

/// The tokens of an account.
pub struct AccountTokens {
    /// Digest of the token that clients use.
    pub digest: Vec<u8>,
    /// The token in commands to the bank, which clients use until they replace it.
    pub of_bank: String,
}

#[derive(Clone)]
pub struct StoredTransfer {
    /// Chosen by the client.
    pub uuid: Uuid,
    /// SHA-256 of all other arguments.
    pub content: Vec<u8>,
    /// The debited party.
    pub from: String,
    /// Value of the command record, for retries; `None` once the outcome is known.
    pub command: Option<Vec<u8>>,
    /// The outcome; an error is the reason of a refusal.
    pub result: Option<Result<(), String>>,
}
