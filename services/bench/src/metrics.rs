//! What the command-handler tells about itself at `/metrics`: sizes of its batches.

use crate::control::Http;
use crate::error::Error;
use common::env::Variable;
use common::topology::CONFIRM_MONEY_TRANSFER;
use std::ops::Sub;

/// `COMMAND_HANDLER_HEALTH_URL`: where its metrics are.
pub const HANDLER_URL: Variable = Variable::required(
    "COMMAND_HANDLER_HEALTH_URL",
    "the command-handler's health endpoint, as in http://127.0.0.1:17502",
);

/// Transfers decided so far, and in how many batches.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Batches {
    /// Transactions.
    pub batches: f64,
    /// Commands in them.
    pub commands: f64,
}

impl Batches {
    /// Asks the handler at `url`.
    ///
    /// # Errors
    /// It does not answer.
    pub fn read(http: &Http, url: &str) -> Result<Self, Error> {
        let text = http.get(&format!("{}/metrics", url.trim_end_matches('/')))?;
        // A histogram without an observation yet is not there.
        let value =
            |name| metric(&text, name, ("topic", CONFIRM_MONEY_TRANSFER.name)).unwrap_or(0.0);
        Ok(Self {
            batches: value("bank_batch_commands_count"),
            commands: value("bank_batch_commands_sum"),
        })
    }

    /// Commands per batch; 0 if there was none.
    pub fn mean(self) -> f64 {
        if self.batches > 0.0 { self.commands / self.batches } else { 0.0 }
    }
}

impl Sub for Batches {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self { batches: self.batches - earlier.batches, commands: self.commands - earlier.commands }
    }
}

/// The value of the metric with this name and label in Prometheus' text format.
fn metric(text: &str, name: &str, (label, value): (&str, &str)) -> Option<f64> {
    let wanted = format!("{label}=\"{value}\"");
    text.lines().find_map(|line| {
        let (labels, value) = line.strip_prefix(name)?.strip_prefix('{')?.rsplit_once("} ")?;
        labels.split(',').any(|label| label == wanted).then(|| value.trim().parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_found_by_name_and_label() {
        let text = "# TYPE b histogram\n\
            b_bucket{topic=\"x\",le=\"1\"} 1\nb_sum{topic=\"y\"} 3\nb_sum{stage=\"s\",topic=\"x\"} 4.5\nb_summary 9\n";
        assert_eq!(metric(text, "b_sum", ("topic", "x")), Some(4.5));
        assert_eq!(metric(text, "b_sum", ("topic", "y")), Some(3.0));
        assert_eq!(metric(text, "b_sum", ("topic", "z")), None);
        assert_eq!(metric(text, "b_count", ("topic", "x")), None);
    }
}
