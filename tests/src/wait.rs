//! Waiting for a condition.

use std::thread;
use std::time::{Duration, Instant};

/// Calls `look` repeatedly until it returns a value.
///
/// # Panics
/// If it returns none within `limit`. The message contains `what`.
#[track_caller]
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
