//! The ways to run the command-handler that are compared.

use std::fmt;

/// How the handler writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Each record by itself.
    Single,
    /// All there are.
    Batched,
    /// The same with today's protocol.
    Modern,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Single, Self::Batched, Self::Modern];

    /// As the user says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Batched => "batched",
            Self::Modern => "modern",
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }

    /// What the handler is given for it.
    pub fn variables(self) -> [(&'static str, &'static str); 2] {
        let (mode, client) = match self {
            Self::Single => ("single", "kafka"),
            Self::Batched => ("batched", "kafka"),
            Self::Modern => ("batched", "modern"),
        };
        [("PRODUCER_MODE", mode), ("KAFKA_CLIENT", client)]
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
