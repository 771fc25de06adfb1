//! Connections: sockets, the settings of a session, and a check for a connection pooler.

use super::deadline::{Deadline, LimitedConnect};
use super::error::{Error, step};
use postgres::config::{Host, SslMode, SslNegotiation, TargetSessionAttrs};
use postgres::{Client, Config, SimpleQueryMessage};
use std::fmt::Write;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

/// Limit of a connection attempt, with authentication and settings.
const CONNECT: Duration = Duration::from_secs(10);

/// A commit is on disk before it is reported, also if the server, the database or the role has
/// another default. `remote_apply` is stronger and stays.
const DURABLE_COMMITS: &str = "SELECT set_config('synchronous_commit', 'on', false)
     WHERE current_setting('synchronous_commit') NOT IN ('on', 'remote_apply');";

/// Connects as the application `service`, with `settings` such as `-c jit=off`. Options in the URL
/// take precedence, except for `synchronous_commit`.
///
/// The settings are statements and not part of the connection request, which PgBouncer would
/// refuse.
///
/// # Errors
/// The server cannot be reached within 10 s, refuses the connection, or [`Error::Pooled`].
pub fn connect(database: &Config, service: &str, settings: &str) -> Result<Client, Error> {
    static IS_CHECKED: AtomicBool = AtomicBool::new(false);
    let _deadline = Deadline::start(CONNECT, None, "connect");
    let connected = open(database, service).and_then(|mut client| {
        let sql = set_statements(settings, database.get_options().unwrap_or_default());
        client.batch_execute(&(sql + DURABLE_COMMITS)).map_err(step("set up the session"))?;
        if !IS_CHECKED.load(Ordering::Relaxed) {
            check_session(&mut client, &mut open(database, service)?)?;
        }
        Ok(client)
    });
    // After an outage the pooler may have been started with another configuration.
    IS_CHECKED.store(connected.is_ok(), Ordering::Relaxed);
    connected
}

fn open(database: &Config, service: &str) -> Result<Client, Error> {
    let mut config = database.clone();
    config
        .application_name(service)
        // Of several servers in the URL, such as a primary and its standby, the primary.
        .target_session_attrs(TargetSessionAttrs::ReadWrite)
        .connect_timeout(Duration::from_secs(5))
        .tcp_user_timeout(Duration::from_secs(10))
        .keepalives_idle(Duration::from_secs(10))
        .keepalives_interval(Duration::from_secs(5))
        .keepalives_retries(3);
    // "Direct" TLS begins with the first byte, so the server sees no request for it. Over a Unix
    // socket the crate uses none, and so not our stream either.
    let mode = if has_unix_socket(database) { SslMode::Disable } else { SslMode::Require };
    config.ssl_mode(mode).ssl_negotiation(SslNegotiation::Direct);
    // The crate needs a name for TLS, which ours ignores.
    if config.get_hosts().is_empty() {
        for address in database.get_hostaddrs() {
            config.host(&address.to_string());
        }
    }
    config.connect(LimitedConnect).map_err(step("connect to the database"))
}

/// True if the URL has a Unix socket.
pub fn has_unix_socket(database: &Config) -> bool {
    database.get_hosts().iter().any(|host| matches!(host, Host::Unix(_)))
}

/// The statements for `settings`, without those that `options` of the URL have.
fn set_statements(settings: &str, options: &str) -> String {
    let mut sql = String::new();
    for setting in settings.split_whitespace() {
        let Some((name, value)) = setting.split_once('=') else { continue };
        if !options.contains(&format!("{name}=")) {
            let _ = write!(sql, "SET {name} = '{value}';");
        }
    }
    sql
}

/// Checks that a connection is one session. A pooler that assigns a session to each transaction
/// gives `other` the idle session of `client`, or `client` another one.
///
/// Locks, settings and prepared statements belong to a session, so such a pooler would give them to
/// other clients.
fn check_session(client: &mut Client, other: &mut Client) -> Result<(), Error> {
    // Unique, since a pooler may keep settings of an earlier client.
    let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let (seconds, nanos) = (since_1970.as_secs(), since_1970.subsec_nanos());
    let mark = format!("{}-{seconds}-{nanos}", process::id());
    let failed = "check the session";
    let set = format!("SET scratchbank.session = '{mark}'");
    client.batch_execute(&set).map_err(step(failed))?;
    // Not in the extended protocol, whose messages such a pooler may send to different sessions.
    let has_mark = |client: &mut Client| {
        let sql = "SELECT current_setting('scratchbank.session', true)";
        let messages = client.simple_query(sql).map_err(step(failed))?;
        let mut rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        Ok::<_, Error>(rows.next() == Some(&*mark))
    };
    // Another client may be given the session in between.
    for _ in 0..3 {
        if has_mark(other)? || !has_mark(client)? {
            return Err(Error::Pooled);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_the_url_take_precedence() {
        let settings = "-c jit=off -c  lock_timeout=10s";
        assert_eq!(set_statements("", ""), "");
        assert_eq!(set_statements(settings, ""), "SET jit = 'off';SET lock_timeout = '10s';");
        assert_eq!(set_statements(settings, "-c lock_timeout=1s"), "SET jit = 'off';");
    }
}
