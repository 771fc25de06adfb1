//! The budget of an operation. Aliases repeat a list field, and fields within it, hundreds of times
//! in one document, so limits for each field alone do not bound the work and the response.

use crate::transaction::Transaction;
use juniper::{DefaultScalarValue, LookAheadSelection};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Rows that an operation may read: two full lists.
pub const ROWS_MAX: usize = 2000;
/// Cost of a query, in rows, if it reads fewer.
const QUERY_ROWS: usize = 20;
/// Size of the transactions in a response, in bytes of JSON. It admits a list of 1,000 transactions
/// with all fields and the longest descriptions that clients can send, 1,024 bytes.
pub const RESPONSE_BYTES_MAX: usize = 2 << 20;
/// Size of a value without `descr` and `from_to`, in bytes: at most an amount or a ref.
const VALUE_BYTES: usize = 32;

/// What is left for an operation.
pub struct Budget {
    rows: AtomicUsize,
    bytes: AtomicUsize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { rows: AtomicUsize::new(ROWS_MAX), bytes: AtomicUsize::new(RESPONSE_BYTES_MAX) }
    }
}

impl Budget {
    /// Charges a query for at most `rows` rows, before it is executed. The error is for the client.
    pub fn charge_rows(&self, rows: usize) -> Result<(), String> {
        charge(&self.rows, rows.max(QUERY_ROWS)).ok_or_else(|| {
            format!(
                "the operation reads more than {ROWS_MAX} rows, counting each query as \
                 {QUERY_ROWS} or more: reduce max_items or the number of fields"
            )
        })
    }

    /// Charges the fields that `selected` selects of each of `transactions`. The error is for the
    /// client.
    pub fn charge_response(
        &self,
        selected: &LookAheadSelection<'_, DefaultScalarValue>,
        transactions: &[Transaction],
    ) -> Result<(), String> {
        let mut bytes = 0;
        for field in selected.children().iter() {
            // Quotes, colon and comma.
            let name_bytes = field.field_name().len() + 6;
            let value_bytes = |transaction: &Transaction| match field.field_original_name() {
                "descr" => json_bytes(&transaction.description),
                "from_to" => json_bytes(&transaction.from_to),
                _ => VALUE_BYTES,
            };
            bytes += transactions.iter().map(|it| name_bytes + value_bytes(it)).sum::<usize>();
        }
        charge(&self.bytes, bytes).ok_or_else(|| {
            format!(
                "the response exceeds {RESPONSE_BYTES_MAX} bytes: reduce max_items or the number \
                 of fields"
            )
        })
    }
}

/// Subtracts `amount`, or returns `None` if less is left.
fn charge(left: &AtomicUsize, amount: usize) -> Option<()> {
    let subtract = |left: usize| left.checked_sub(amount);
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, subtract).ok().map(drop)
}

/// Size of `text` as a JSON string without quotes, at most. A control character takes six bytes.
fn json_bytes(text: &str) -> usize {
    let escaped = |byte: u8| match byte {
        0..0x20 => 6,
        b'"' | b'\\' => 2,
        _ => 1,
    };
    text.bytes().map(escaped).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_limited_for_the_whole_operation() {
        let budget = Budget::default();
        assert_eq!(budget.charge_rows(1000), Ok(()));
        assert_eq!(budget.charge_rows(980), Ok(()));
        assert_eq!(budget.charge_rows(1), Ok(()), "a query counts as {QUERY_ROWS} rows");
        assert!(budget.charge_rows(1).is_err());
    }

    #[test]
    fn json_bytes_are_those_of_serde() {
        for text in ["", "a", "€", "\"\\", "\u{1}\u{1f}", "salary 2019"] {
            let encoded = serde_json::to_string(text).unwrap();
            assert_eq!(json_bytes(text), encoded.len() - 2, "{text:?}");
        }
        assert!(json_bytes("\n") >= 2);
    }
}
