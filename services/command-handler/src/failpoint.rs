//! Points at which a test kills the handler with SIGKILL. Only the feature `failpoints` compiles
//! them in.

/// The effect before which the handler can be killed. ARCHITECTURE.md, "Order of effects", lists
/// all effects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// Outcomes are written; the transaction is not committed.
    Commit,
    /// The transaction is committed; no outcome is produced.
    Produce,
    /// All outcomes are produced; the offsets are not committed.
    Offsets,
}

/// Kills the process if `FAILPOINT` names `point` and the point is reached for the
/// `FAILPOINT_COUNT`-th time (default 1).
#[cfg(feature = "failpoints")]
pub fn reach(point: Point) {
    use std::sync::atomic::{AtomicU32, Ordering};
    static REACHED: AtomicU32 = AtomicU32::new(0);
    let name = match point {
        Point::Commit => "commit",
        Point::Produce => "produce",
        Point::Offsets => "offsets",
    };
    if std::env::var("FAILPOINT").is_ok_and(|value| value == name) {
        let count =
            std::env::var("FAILPOINT_COUNT").ok().and_then(|count| count.parse().ok()).unwrap_or(1);
        if REACHED.fetch_add(1, Ordering::Relaxed) + 1 == count {
            log::warn!(point = name; "failpoint reached, killing the process");
            let _ = signal_hook::low_level::raise(signal_hook::consts::SIGKILL);
        }
    }
}

/// Does nothing: this build has no failpoints.
#[cfg(not(feature = "failpoints"))]
pub fn reach(_point: Point) {}
