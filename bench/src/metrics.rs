//! Reads the command-handler's metrics at `/metrics`: sizes of its batches and requests.

use crate::control::Http;
use crate::error::Error;
use bank::topology::CONFIRM_MONEY_TRANSFER;
use service::env::Variable;
use std::ops::Sub;

/// `COMMAND_HANDLER_HEALTH_URL`: address of the metrics.
pub const HANDLER_URL: Variable = Variable::required(
    "COMMAND_HANDLER_HEALTH_URL",
    "the command-handler's health endpoint, as in http://127.0.0.1:17502",
);

/// Work of the handler since its start, or between two times.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Work {
    /// Database transactions that decided transfers.
    pub transactions: f64,
    /// Commands in these transactions.
    pub commands: f64,
    /// Produce requests.
    pub requests: f64,
    /// Records in these requests.
    pub records: f64,
}

impl Work {
    /// Reads the metrics of the handler at `url`.
    pub fn read(http: &Http, url: &str) -> Result<Self, Error> {
        let text = http.get(&format!("{}/metrics", url.trim_end_matches('/')))?;
        // Prometheus metrics with labels are absent until the first event.
        let value = |name, label| metric(&text, name, label).unwrap_or(0.0);
        let transfers = Some(("topic", CONFIRM_MONEY_TRANSFER.name));
        Ok(Self {
            transactions: value("bank_batch_commands_count", transfers),
            commands: value("bank_batch_commands_sum", transfers),
            requests: value("kafka_producer_request_seconds_count", None),
            records: value("kafka_producer_batch_records_sum", None),
        })
    }

    /// Mean number of commands per transaction; 0 without transactions.
    pub fn commands_per_transaction(&self) -> f64 {
        self.commands / self.transactions.max(1.0)
    }

    /// Mean number of records per request; 0 without requests.
    pub fn records_per_request(&self) -> f64 {
        self.records / self.requests.max(1.0)
    }
}

impl Sub for Work {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            transactions: self.transactions - earlier.transactions,
            commands: self.commands - earlier.commands,
            requests: self.requests - earlier.requests,
            records: self.records - earlier.records,
        }
    }
}

/// Age of the oldest snapshot in balancedb, s, from the metrics of the handler at `url`.
pub fn oldest_snapshot_s(http: &Http, url: &str) -> Result<Option<f64>, Error> {
    let text = http.get(&format!("{}/metrics", url.trim_end_matches('/')))?;
    Ok(metric(&text, "bank_oldest_snapshot_seconds", None))
}

/// Finds the value of a metric by its name, and by a label if there is one, in Prometheus' text
/// format.
fn metric(text: &str, name: &str, label: Option<(&str, &str)>) -> Option<f64> {
    let wanted = label.map(|(label, value)| format!("{label}=\"{value}\""));
    text.lines().find_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = match &wanted {
            None => rest.strip_prefix(' ')?,
            Some(wanted) => {
                let (labels, value) = rest.strip_prefix('{')?.rsplit_once("} ")?;
                labels.split(',').any(|label| label == wanted).then_some(value)?
            }
        };
        value.trim().parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metric_is_found_by_name_and_label() {
        let text = "# TYPE b histogram\n\
            b_bucket{topic=\"x\",le=\"1\"} 1\nb_sum{topic=\"y\"} \
            3\nb_sum{stage=\"s\",topic=\"x\"} 4.5\nb_summary 9\nb_sums 2\n";
        assert_eq!(metric(text, "b_sum", Some(("topic", "x"))), Some(4.5));
        assert_eq!(metric(text, "b_sum", Some(("topic", "y"))), Some(3.0));
        assert_eq!(metric(text, "b_sum", Some(("topic", "z"))), None);
        assert_eq!(metric(text, "b_sums", None), Some(2.0));
        assert_eq!(metric(text, "b_sum", None), None);
        assert_eq!(metric(text, "b_count", Some(("topic", "x"))), None);
    }
}
