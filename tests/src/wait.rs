//! Waiting for what must come to be.

use std::thread;
use std::time::{Duration, Instant};

/// Asks `look` again and again until it has something.
///
/// # Panics
/// It has nothing within `limit`; the message tells `what` was waited for.
#[track_caller]
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {limit:?} in vain: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
