//! Places where a test kills the handler as by `kill -9`. They are compiled in by feature
//! `failpoints` only.

/// An effect right before which the handler can be killed (docs: ARCHITECTURE.md, "Effects in
/// order").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// Outcomes are written, the transaction is open.
    Commit,
    /// Outcomes are committed, nothing is produced.
    Produce,
    /// All outcomes are produced, the offsets are not committed.
    Offsets,
}

/// Kills the process if `FAILPOINT` names `point` and it is reached for the `FAILPOINT_COUNT`-th
/// time (default 1).
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

/// Does nothing: this build has no failpoints.
#[cfg(not(feature = "failpoints"))]
pub fn reach(_point: Point) {}
