//! The errors that end a command.

use avro::registry;
use observer::ReadError;
use service::env;
use std::io;
use std::path::PathBuf;

/// Each text names the step that failed, its place, and the next step where one is known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Env(#[from] env::Error),
    #[error("{0}")]
    Usage(String),
    #[error("could not register signal handlers")]
    Signals(#[source] io::Error),
    #[error("could not {step}; is the stack up? (make status, make up)")]
    Kafka { step: String, source: messaging::Error },
    #[error("could not look up the schema of {topic}; is the stack up? (make status, make up)")]
    Registry { topic: &'static str, source: registry::Error },
    #[error("could not {step}; is the stack up? (make status, make up)")]
    Database { step: &'static str, source: postgres::Error },
    #[error("{method} {url} failed; is the stack up? (make status, make up)")]
    Http { method: &'static str, url: String, source: Box<ureq::Error> },
    #[error("WebSocket connection to {url} failed; is the stack up? (make status, make up)")]
    Websocket { url: String, source: Box<tungstenite::Error> },
    #[error("could not start the browser {program} (--chromium names another)")]
    Browser { program: String, source: io::Error },
    #[error("could not start a thread")]
    Thread(#[source] io::Error),
    #[error("{what} from {url}: {found:?}")]
    Answer { what: &'static str, url: String, found: String },
    #[error("{command}: {message}")]
    Stack { command: String, message: String },
    #[error(
        "could not read /proc of {part} (pid {pid}): it has ended or was restarted; see its log \
         (make logs)"
    )]
    Part { part: String, pid: u32, source: io::Error },
    #[error("could not write {}", path.display())]
    Csv { path: PathBuf, source: io::Error },
    #[error("could not read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}:{line}: expected {what}", path.display())]
    Row { path: PathBuf, line: usize, what: String },
    #[error("{0}")]
    Bank(String),
    #[error("stopped")]
    Stopped,
}

impl From<ReadError> for Error {
    fn from(err: ReadError) -> Self {
        match err {
            ReadError::Kafka { topic, source } => {
                Self::Kafka { step: format!("read {topic}"), source }
            }
            ReadError::Registry { topic, source, .. } => Self::Registry { topic, source },
        }
    }
}
