//! Logs: one line of key=value pairs on stderr for each event, such as
//! `ts=2026-11-23T10:00:00.000Z level=info msg="..." topic=heartbeat`.

use log::kv::{self, Key, Value, VisitSource};
use log::{LevelFilter, Log, Metadata, Record};
use std::error::Error;
use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::time::SystemTime;

/// Installs the logger with the maximum `level`. A second call changes only the level.
pub fn init(level: LevelFilter) {
    // An error means that this logger is already set.
    let _ = log::set_logger(&Stderr);
    log::set_max_level(level);
}

/// An error with its causes on one line: `store outcomes: db error: connection closed`.
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(err) = cause {
            write!(f, ": {err}")?;
            cause = err.source();
        }
        Ok(())
    }
}

struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
            && (metadata.level() <= LevelFilter::Warn || is_ours(metadata.target()))
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = line(SystemTime::now(), record);
            // A closed stderr cannot be reported anywhere.
            let _ = io::stderr().lock().write_all(line.as_bytes());
        }
    }

    fn flush(&self) {}
}

/// Crates whose records at `info` and below are logged. The postgres crate is not one of them: at
/// `debug` it logs the parameters of statements, which contain tokens.
const OURS: [&str; 12] = [
    "avro",
    "bank",
    "bench",
    "command_generator",
    "command_handler",
    "frontend",
    "graphql_endpoint",
    "heartbeat",
    "kafka_client",
    "messaging",
    "service",
    "synchronizer",
];

fn is_ours(target: &str) -> bool {
    target.split("::").next().is_some_and(|name| OURS.contains(&name))
}

fn line(now: SystemTime, record: &Record<'_>) -> String {
    let mut line = String::with_capacity(160);
    let level = record.level().as_str().to_ascii_lowercase();
    let _ = write!(line, "ts={} level={level} msg=", humantime::format_rfc3339_millis(now));
    quote(&mut line, &record.args().to_string());
    let _ = record.key_values().visit(&mut Pairs(&mut line));
    line.push('\n');
    line
}

struct Pairs<'a>(&'a mut String);

impl<'kvs> VisitSource<'kvs> for Pairs<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        let _ = write!(self.0, " {key}=");
        quote(self.0, &value.to_string());
        Ok(())
    }
}

/// Appends `text`. If it contains a space, quote, equals sign or control character, it is quoted
/// and escaped, so that an event stays on one line.
fn quote(line: &mut String, text: &str) {
    let bare = !text.is_empty()
        && !text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"' || c == '=');
    if bare {
        line.push_str(text);
    } else {
        let _ = write!(line, "{text:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_is_one_line_of_key_value_pairs() {
        let pairs = [("topic", Value::from("heartbeat")), ("reason", Value::from("a \"b\"\nc"))];
        let record = Record::builder()
            .level(log::Level::Warn)
            .args(format_args!("batch committed"))
            .key_values(&pairs)
            .build();
        assert_eq!(
            line(SystemTime::UNIX_EPOCH, &record),
            "ts=1970-01-01T00:00:00.000Z level=warn msg=\"batch committed\" topic=heartbeat \
             reason=\"a \\\"b\\\"\\nc\"\n"
        );
    }

    #[test]
    fn info_records_of_other_crates_are_dropped() {
        log::set_max_level(LevelFilter::Trace);
        let enabled = |target, level| {
            Stderr.enabled(&Metadata::builder().target(target).level(level).build())
        };
        assert!(enabled("command_handler::store", log::Level::Trace));
        assert!(enabled("tokio_postgres::query", log::Level::Warn));
        assert!(!enabled("tokio_postgres::query", log::Level::Info));
        assert!(!enabled("services", log::Level::Debug));
    }

    #[test]
    fn error_chain_contains_every_cause() {
        #[derive(Debug, thiserror::Error)]
        #[error("store outcomes")]
        struct Outer(#[source] io::Error);
        assert_eq!(Chain(&Outer(io::Error::other("closed"))).to_string(), "store outcomes: closed");
    }
}
