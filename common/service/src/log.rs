//! Logs: one line of key=value pairs on stderr for each event, such as
//! `ts=2026-11-23T10:00:00.000Z level=info msg="..." topic=heartbeat`.
//!
//! A thread writes the lines, so that no other thread ever waits for stderr (`queue.rs`). Warnings
//! and errors are limited to one line per second and cause (`repetitions.rs`). Lines at `info` are
//! not limited: logins and transfers are an audit log.
//!
//! docs/decisions/0037-bounded-logs.md has the reasons.

use log::kv::{self, Key, Value, VisitSource};
use log::{LevelFilter, Log, Metadata, Record};
use queue::{DROPPED, Queue};
use std::error::Error;
use std::fmt::{self, Write as _};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::sync::{LazyLock, Once};
use std::thread;
use std::time::Duration;

mod queue;
mod repetitions;

/// Maximum wait for stderr before an exit.
const FLUSH_MAX: Duration = Duration::from_millis(250);
/// Stack size of the thread that writes the lines.
const STACK_BYTES: usize = 64 << 10;

static QUEUE: Queue = Queue::new();

/// Installs the logger with the maximum `level`. A second call changes only the level.
pub fn init(level: LevelFilter) {
    LazyLock::force(&DROPPED);
    // An error means that this logger is already set.
    let _ = log::set_logger(&Stderr);
    log::set_max_level(level);
}

/// Writes `line` to stderr after all other lines. Waits at most [`FLUSH_MAX`].
pub fn write_last(line: &str) {
    start_writer();
    QUEUE.push_last(line);
    QUEUE.flush(FLUSH_MAX);
}

/// Waits until all lines are written, at most [`FLUSH_MAX`].
pub fn flush() {
    QUEUE.flush(FLUSH_MAX);
}

fn start_writer() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        let thread = thread::Builder::new().name("log".into()).stack_size(STACK_BYTES);
        // Without a thread the lines are dropped, and the metric counts them.
        let _ = thread.spawn(|| QUEUE.write_to(io::stderr()));
    });
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
            start_writer();
            let is_failure = record.level() <= log::Level::Warn;
            QUEUE.push(is_failure.then(|| cause(record)), line(record));
        }
    }

    fn flush(&self) {
        flush();
    }
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

/// Two failures have the same cause if module, message and topic are equal. The messages of other
/// crates contain values, so their place in the source counts instead.
fn cause(record: &Record<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    record.target().hash(&mut hasher);
    if is_ours(record.target()) {
        record.args().to_string().hash(&mut hasher);
    } else {
        record.line().hash(&mut hasher);
    }
    if let Some(topic) = record.key_values().get(Key::from_str("topic")) {
        topic.to_string().hash(&mut hasher);
    }
    hasher.finish()
}

fn line(record: &Record<'_>) -> String {
    let mut line = String::with_capacity(160);
    let level = record.level().as_str().to_ascii_lowercase();
    let _ = write!(line, "level={level} msg=");
    quote(&mut line, &record.args().to_string());
    let _ = record.key_values().visit(&mut Pairs(&mut line));
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
            line(&record),
            "level=warn msg=\"batch committed\" topic=heartbeat reason=\"a \\\"b\\\"\\nc\""
        );
    }

    #[test]
    fn cause_is_module_message_and_topic() {
        let cause = |target: &str, message: &str, line, pairs: &[(&str, &str)]| {
            let pairs: Vec<_> = pairs.iter().map(|(key, it)| (*key, Value::from(*it))).collect();
            let mut record = Record::builder();
            record.level(log::Level::Warn).target(target).line(Some(line)).key_values(&pairs);
            cause(&record.args(format_args!("{message}")).build())
        };
        let known = cause("avro", "failed", 1, &[("topic", "a"), ("error", "x")]);
        assert_eq!(known, cause("avro", "failed", 1, &[("topic", "a"), ("error", "y")]));
        assert_ne!(known, cause("avro", "failed", 1, &[("topic", "b"), ("error", "x")]));
        assert_ne!(known, cause("avro", "refused", 1, &[("topic", "a"), ("error", "x")]));
        assert_ne!(known, cause("bank", "failed", 1, &[("topic", "a"), ("error", "x")]));
        let foreign = cause("kafka", "broker 1", 1, &[]);
        assert_eq!(foreign, cause("kafka", "broker 2", 1, &[]));
        assert_ne!(foreign, cause("kafka", "broker 1", 2, &[]));
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
