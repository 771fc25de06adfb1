//! Errors of commands and their exit codes.

use std::fmt;

/// The error of a command.
#[derive(Debug)]
pub enum Error {
    /// The command line or a variable is wrong. Nothing was done.
    Usage(String),
    /// A signal ended the command.
    Interrupted(i32),
    /// A step failed.
    Failed {
        /// What failed, and what to do.
        message: String,
        /// Name of a log with more details, if there is one.
        log: Option<String>,
    },
    /// The wait for this part ended because another part has failed.
    Cancelled,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The exit code: 2 for wrong usage, 128 plus the signal's number after a signal, otherwise 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Interrupted(signal) => u8::try_from(128 + signal).unwrap_or(1),
            Self::Failed { .. } | Self::Cancelled => 1,
        }
    }

    /// Adds the log `name`, which explains the failure.
    #[must_use]
    pub fn logged_in(self, name: &str) -> Self {
        match self {
            Self::Failed { message, log: None } => {
                Self::Failed { message, log: Some(name.to_owned()) }
            }
            other => other,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message) | Self::Failed { message, .. } => f.write_str(message),
            Self::Interrupted(signal) => match signal_hook::low_level::signal_name(*signal) {
                Some(name) => write!(f, "interrupted by {name}"),
                None => write!(f, "interrupted by signal {signal}"),
            },
            Self::Cancelled => f.write_str("cancelled, because another part failed"),
        }
    }
}

/// A step that failed.
pub fn failed(message: impl Into<String>) -> Error {
    Error::Failed { message: message.into(), log: None }
}

/// A wrong command line or variable.
pub fn usage(message: impl Into<String>) -> Error {
    Error::Usage(message.into())
}

/// Adds the file or program to an I/O error.
pub trait Context<T> {
    /// Converts the error to `CONTEXT: error`.
    fn context(self, context: impl fmt::Display) -> Result<T>;
}

impl<T> Context<T> for std::io::Result<T> {
    fn context(self, context: impl fmt::Display) -> Result<T> {
        self.map_err(|err| failed(format!("{context}: {err}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_distinguish_usage_signals_and_failures() {
        assert_eq!(usage("x").exit_code(), 2);
        assert_eq!(Error::Interrupted(2).exit_code(), 130);
        assert_eq!(Error::Interrupted(15).exit_code(), 143);
        assert_eq!(failed("x").exit_code(), 1);
        assert_eq!(Error::Interrupted(2).to_string(), "interrupted by SIGINT");
    }
}
