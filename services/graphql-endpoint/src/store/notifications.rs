//! PostgreSQL notifications (LISTEN and NOTIFY) of transactions that other endpoints store, and of
//! tokens that were replaced.

use super::connection::{COLUMNS, READER_SETTINGS, connect, step, transaction};
use crate::error::Error;
use crate::token::digest_of_hex;
use crate::transaction::Transaction;
use postgres::fallible_iterator::FallibleIterator;
use postgres::{Client, Statement};
use service::database::{self, Deadline};
use service::shutdown::Shutdown;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use uuid::Uuid;

pub const CHANNEL: &str = "transaction_stored";
/// Notifications of replaced tokens. The payload is the digest of the old one, in hexadecimal.
pub const TOKENS_CHANNEL: &str = "token_replaced";
/// Maximum length of the ranges in a payload. PostgreSQL allows 7999 bytes; the rest is for the id
/// of the endpoint.
pub const PAYLOAD_BYTES_MAX: usize = 7900;

/// Random id of the writer of this process in its notifications. The listener ignores notifications
/// with this id.
pub struct WriterId(Mutex<Uuid>);

impl Default for WriterId {
    fn default() -> Self {
        Self(Mutex::new(Uuid::new_v4()))
    }
}

impl WriterId {
    pub fn get(&self) -> Uuid {
        *self.id()
    }

    /// Replaces the id. From now on, notifications with the previous id are those of another
    /// endpoint.
    pub fn replace(&self) {
        *self.id() = Uuid::new_v4();
    }

    fn id(&self) -> MutexGuard<'_, Uuid> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a notification is about.
pub enum Notification {
    /// Transactions of another endpoint.
    Stored(Vec<Transaction>),
    /// Digest of the token that is no longer valid, from this or another endpoint.
    TokenReplaced([u8; 32]),
}

/// Receives notifications.
pub struct NotificationListener {
    client: Client,
    range: Statement,
    own: Arc<WriterId>,
    shutdown: Shutdown,
}

impl NotificationListener {
    /// Connects and subscribes to the notifications.
    pub fn open(
        config: &postgres::Config,
        own: &Arc<WriterId>,
        shutdown: &Shutdown,
    ) -> Result<Self, Error> {
        let _watch = database::watch(shutdown, "connect");
        let mut client = connect(config, READER_SETTINGS)?;
        let listen = format!("LISTEN {CHANNEL}; LISTEN {TOKENS_CHANNEL}");
        client.batch_execute(&listen).map_err(step("listen"))?;
        let sql = format!(
            "SELECT {COLUMNS} FROM transaction WHERE number BETWEEN $1 AND $2 ORDER BY number"
        );
        let range = client.prepare(&sql).map_err(step("prepare the statements"))?;
        Ok(Self { client, range, own: own.clone(), shutdown: shutdown.clone() })
    }

    /// Waits at most `wait` for a notification. Calls `handle` for each received one, except those
    /// of the own writer: together their transactions may exceed the memory.
    pub fn next(
        &mut self,
        wait: Duration,
        mut handle: impl FnMut(Notification),
    ) -> Result<(), Error> {
        let mut received = Vec::new();
        {
            let mut notifications = self.client.notifications();
            let first = notifications.timeout_iter(wait).next().map_err(step("listen"))?;
            received.extend(first);
            while let Some(more) = notifications.iter().next().map_err(step("listen"))? {
                received.push(more);
            }
        }
        let _watch = database::watch(&self.shutdown, "read transactions of other endpoints");
        let own = self.own.get();
        // Before the queries, which may fail.
        let tokens = received.iter().filter(|it| it.channel() == TOKENS_CHANNEL);
        for token in tokens.filter_map(|it| digest_of_hex(it.payload())) {
            handle(Notification::TokenReplaced(token));
        }
        let stored = received.iter().filter(|it| it.channel() == CHANNEL);
        for (first, last) in stored.flat_map(|it| ranges_of_others(it.payload(), own)) {
            let rows = self
                .client
                .query(&self.range, &[&first, &last])
                .map_err(step("read transactions of other endpoints"))?;
            handle(Notification::Stored(rows.iter().map(transaction).collect()));
        }
        Ok(())
    }

    /// Checks the connection, since a lost one looks like one without notifications.
    pub fn check(&mut self) -> Result<(), Error> {
        let _deadline = Deadline::start(database::HEARTBEAT, Some(&self.shutdown), "listen");
        self.client.batch_execute("").map_err(step("listen"))
    }
}

/// The numbers of `stored` as payloads of ranges, as in `1-5,9-9`. `stored` must be sorted.
pub fn ranges(stored: &[Transaction]) -> Vec<String> {
    let mut payloads = Vec::new();
    let mut payload = String::new();
    for run in stored.chunk_by(|a, b| a.number + 1 == b.number) {
        let [first, ..] = run else { continue };
        let last = run.last().unwrap_or(first);
        if payload.len() > PAYLOAD_BYTES_MAX - 64 {
            payloads.push(std::mem::take(&mut payload));
        }
        let comma = if payload.is_empty() { "" } else { "," };
        let _ = write!(payload, "{comma}{}-{}", first.number, last.number);
    }
    if !payload.is_empty() {
        payloads.push(payload);
    }
    payloads
}

/// The ranges in a payload, which has the form `WRITER:RANGES`. Empty if the writer is `own` or the
/// payload is malformed.
pub fn ranges_of_others(payload: &str, own: Uuid) -> Vec<(i64, i64)> {
    let Some((writer, ranges)) = payload.split_once(':') else { return Vec::new() };
    if writer == own.to_string() {
        return Vec::new();
    }
    let range = |range: &str| {
        let (first, last) = range.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    ranges.split(',').filter_map(range).collect()
}
