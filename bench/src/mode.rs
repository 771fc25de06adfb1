//! The modes of the command-handler that are compared.

use clap::ValueEnum;
use std::fmt;

/// Producer mode and Kafka client of the handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// One record per request, with the kafka crate.
    Single,
    /// Batches, with the kafka crate.
    Batched,
    /// Batches, with the built-in client.
    #[value(alias = "modern")]
    BuiltIn,
}

impl Mode {
    pub const ALL: [Self; 3] = [Self::Single, Self::Batched, Self::BuiltIn];

    /// The name in options, tables and rows.
    pub fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Batched => "batched",
            Self::BuiltIn => "built-in",
        }
    }

    /// Environment variables that select this mode.
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
