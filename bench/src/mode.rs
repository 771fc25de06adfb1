//! The ways to run the command-handler that are compared.

use clap::ValueEnum;
use std::fmt;

/// How the handler sends records, and with which client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Each record by itself, with the kafka crate.
    Single,
    /// In batches, with the kafka crate.
    Batched,
    /// In batches, with the built-in client.
    #[value(alias = "modern")]
    BuiltIn,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Single, Self::Batched, Self::BuiltIn];

    /// As options, tables and rows name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Batched => "batched",
            Self::BuiltIn => "built-in",
        }
    }

    /// The handler's environment in this mode.
    pub fn variables(self) -> [(&'static str, &'static str); 2] {
        let (mode, client) = match self {
            Self::Single => ("single", "kafka-crate"),
            Self::Batched => ("batched", "kafka-crate"),
            Self::BuiltIn => ("batched", "built-in"),
        };
        [("PRODUCER_MODE", mode), ("KAFKA_CLIENT", client)]
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
