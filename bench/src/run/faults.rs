//! Faults that are injected while the bank is measured.

use std::fmt;
use std::time::Duration;

/// A signal to send to a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Time after the start of the first step.
    pub at: Duration,
    /// Name of the part in stack.sh.
    pub part: String,
    /// Name of the signal, as in KILL.
    pub signal: String,
}

/// Parses `seconds:part:signal`.
pub fn fault(word: &str) -> Result<Fault, &'static str> {
    let words: Vec<&str> = word.split(':').collect();
    match (&words[..], words[0].parse()) {
        ([_, part, signal], Ok(at)) if !part.is_empty() && !signal.is_empty() => Ok(Fault {
            at: Duration::from_secs(at),
            part: (*part).to_owned(),
            signal: (*signal).to_owned(),
        }),
        _ => Err("expected seconds:part:signal, as in 20:command-handler:KILL"),
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.at.as_secs(), self.part, self.signal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_has_time_part_and_signal() {
        assert_eq!(fault("20:postgres:KILL").unwrap().to_string(), "20:postgres:KILL");
        for wrong in ["", "20", "20:postgres", "20::KILL", "-1:postgres:KILL", "1:a:b:c"] {
            assert!(fault(wrong).is_err(), "{wrong}");
        }
    }
}
