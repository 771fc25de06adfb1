//! The budget of an operation. Aliases repeat a list field, and fields within it, hundreds of times
//! in one document, so limits for each field alone do not bound the work and the response.

use crate::error_code::{ClientError, ErrorCode};
use crate::transaction::Transaction;
use juniper::{DefaultScalarValue, LookAheadSelection};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};

/// Rows that an operation may read: two full lists.
pub const ROWS_MAX: usize = 2000;
/// Cost of a query, in rows, if it reads fewer.
const QUERY_ROWS: usize = 20;
/// Size of the transactions in a response, in bytes of JSON. It admits a list of 1,000 transactions
/// with all fields and the longest descriptions that clients can send, 1,024 bytes.
pub const RESPONSE_BYTES_MAX: usize = 2 << 20;
/// Size of a value without `descr` and `from_to`, in bytes: at most an amount or a ref.
const VALUE_BYTES: usize = 32;

/// An operation that reads more rows is large. Large operations run one at a time, since each needs
/// several times the memory of its response.
const LARGE_ROWS: usize = 200;

/// What is left for an operation.
pub struct Budget {
    rows: AtomicUsize,
    bytes: AtomicUsize,
    large: OnceLock<LargeOperation>,
}

/// The right to run a large operation, until dropped.
struct LargeOperation;

static LARGE_IS_RUNNING: Mutex<bool> = Mutex::new(false);
static LARGE_ENDED: Condvar = Condvar::new();

impl LargeOperation {
    /// Waits until no other large operation runs.
    fn begin() -> Self {
        let running = LARGE_IS_RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = LARGE_ENDED.wait_while(running, |running| *running);
        *waited.unwrap_or_else(PoisonError::into_inner) = true;
        Self
    }
}

impl Drop for LargeOperation {
    fn drop(&mut self) {
        *LARGE_IS_RUNNING.lock().unwrap_or_else(PoisonError::into_inner) = false;
        LARGE_ENDED.notify_one();
    }
}

impl Default for Budget {
    fn default() -> Self {
        let (rows, bytes) = (AtomicUsize::new(ROWS_MAX), AtomicUsize::new(RESPONSE_BYTES_MAX));
        Self { rows, bytes, large: OnceLock::new() }
    }
}

impl Budget {
    /// Charges a query for at most `rows` rows, before it is executed. Waits while another large
    /// operation runs, if this one becomes large. The error is for the client.
    pub fn charge_rows(&self, rows: usize) -> Result<(), ClientError> {
        charge(&self.rows, rows.max(QUERY_ROWS)).ok_or_else(|| {
            too_costly(format!(
                "the operation reads more than {ROWS_MAX} rows, counting each query as \
                 {QUERY_ROWS} or more: reduce the number of items or fields"
            ))
        })?;
        if ROWS_MAX - self.rows.load(Ordering::Relaxed) > LARGE_ROWS {
            self.large.get_or_init(LargeOperation::begin);
        }
        Ok(())
    }

    /// Charges the fields that `selected` selects of each of `rows`, which are transactions or
    /// accounts with their last transaction. The error is for the client.
    pub fn charge_response(
        &self,
        selected: &LookAheadSelection<'_, DefaultScalarValue>,
        rows: &[Option<&Transaction>],
    ) -> Result<(), ClientError> {
        charge(&self.bytes, response_bytes(selected, rows)).ok_or_else(|| {
            too_costly(format!(
                "the response exceeds {RESPONSE_BYTES_MAX} bytes: reduce the number of items or \
                 fields"
            ))
        })
    }
}

fn too_costly(text: String) -> ClientError {
    ClientError::new(ErrorCode::TooCostly, text)
}

/// Size of the fields that `selected` selects of each of `rows`, in bytes of JSON.
fn response_bytes(
    selected: &LookAheadSelection<'_, DefaultScalarValue>,
    rows: &[Option<&Transaction>],
) -> usize {
    let bytes = |field: &LookAheadSelection<'_, DefaultScalarValue>| {
        // Quotes, colon and comma.
        let name_bytes = field.field_name().len() + 6;
        let text_bytes = |text: fn(&Transaction) -> &str| {
            rows.iter().flatten().map(|row| json_bytes(text(row))).sum::<usize>()
        };
        let value_bytes = match field.field_original_name() {
            "descr" => text_bytes(|row| &row.description),
            "from_to" => text_bytes(|row| &row.from_to),
            "edges" | "node" | "last_change" => response_bytes(field, rows),
            // Once in a page.
            "pageInfo" => return 0,
            _ => rows.len() * VALUE_BYTES,
        };
        rows.len() * name_bytes + value_bytes
    };
    selected.children().iter().map(bytes).sum()
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
    use std::sync::mpsc::{TryRecvError, channel};
    use std::thread;

    #[test]
    fn large_operations_run_one_at_a_time() {
        let first = Budget::default();
        assert_eq!(first.charge_rows(LARGE_ROWS), Ok(()));
        assert_eq!(Budget::default().charge_rows(1), Ok(()));
        assert_eq!(first.charge_rows(1), Ok(()));
        assert_eq!(first.charge_rows(ROWS_MAX / 2), Ok(()), "it is large already");
        let (done, ended) = channel();
        let second = thread::spawn(move || {
            assert_eq!(Budget::default().charge_rows(1000), Ok(()));
            done.send(()).unwrap();
        });
        assert_eq!(Budget::default().charge_rows(LARGE_ROWS), Ok(()), "it is not large");
        assert_eq!(ended.try_recv(), Err(TryRecvError::Empty));
        drop(first);
        second.join().unwrap();
        assert_eq!(ended.recv(), Ok(()));
    }

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
