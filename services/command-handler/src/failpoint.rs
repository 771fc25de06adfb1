//! Places where a test lets the handler die as by `kill -9`. Without feature `failpoints` nothing of this is compiled in.

/// An effect that the handler may die right before (docs: ARCHITECTURE.md, "Effects in order").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// Outcomes are written, the transaction is open.
    Commit,
    /// Outcomes are committed, nothing is produced.
    Produce,
    /// All is produced, the offsets are not committed.
    Offsets,
}

/// Dies here if `FAILPOINT` names `point` and it is reached for the `FAILPOINT_COUNT`-th time (default 1).
#[cfg(feature = "failpoints")]
pub fn reach(point: Point) {
    use std::sync::atomic::{AtomicU32, Ordering};
    static REACHED: AtomicU32 = AtomicU32::new(0);
    let name = match point {
        Point::Commit => "commit",
        Point::Produce => "produce",
        Point::Offsets => "offsets",
    };
    if std::env::var("FAILPOINT").is_ok_and(|wanted| wanted == name) {
        let count =
            std::env::var("FAILPOINT_COUNT").ok().and_then(|count| count.parse().ok()).unwrap_or(1);
        if REACHED.fetch_add(1, Ordering::Relaxed) + 1 == count {
            log::warn!(point = name; "failpoint reached: dying");
            let _ = signal_hook::low_level::raise(signal_hook::consts::SIGKILL);
        }
    }
}

/// Nothing: this build has no failpoints.
#[cfg(not(feature = "failpoints"))]
pub fn reach(_point: Point) {}
