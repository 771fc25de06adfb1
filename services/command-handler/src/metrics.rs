//! Metrics of the handler.

use prometheus::{
    GaugeVec, HistogramVec, IntCounterVec, IntGauge, register_gauge_vec, register_histogram_vec,
    register_int_counter_vec, register_int_gauge,
};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

static COMMANDS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "bank_commands_total",
        "Commands decided, by outcome; a replayed command counts again",
        &["topic", "outcome"]
    )
    .expect("no other metric has this name")
});

static STAGES: LazyLock<HistogramVec> = LazyLock::new(|| {
    let buckets = vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
    register_histogram_vec!(
        "bank_batch_seconds",
        "Seconds that a batch takes, by stage: decide or produce",
        &["topic", "stage"],
        buckets
    )
    .expect("no other metric has this name")
});

static BATCHES: LazyLock<HistogramVec> = LazyLock::new(|| {
    let buckets = vec![1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0];
    register_histogram_vec!(
        "bank_batch_commands",
        "Commands decided in one transaction",
        &["topic"],
        buckets
    )
    .expect("no other metric has this name")
});

static LAST_DECISION: LazyLock<GaugeVec> = LazyLock::new(|| {
    register_gauge_vec!(
        "bank_last_decision_timestamp_seconds",
        "Unix time at which the last batch of commands was decided",
        &["topic"]
    )
    .expect("no other metric has this name")
});

static OLDEST_SNAPSHOT: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!(
        "bank_oldest_snapshot_seconds",
        "Seconds for which other sessions have kept the oldest snapshot of the database, at least"
    )
    .expect("no other metric has this name")
});

/// Age of a snapshot that is logged.
const OLD_SNAPSHOT: Duration = Duration::from_secs(60);

/// The oldest snapshot that other sessions keep.
static SNAPSHOT: Mutex<Option<OldestSnapshot>> = Mutex::new(None);

/// Counts the records of a decided batch, by outcome.
pub fn decided(topic: &str, confirmed: usize, failed: usize, dead_letters: usize) {
    for (outcome, count) in
        [("confirmed", confirmed), ("failed", failed), ("dead_letter", dead_letters)]
    {
        COMMANDS
            .with_label_values(&[topic, outcome])
            .inc_by(u64::try_from(count).unwrap_or(u64::MAX));
    }
    BATCHES
        .with_label_values(&[topic])
        .observe(f64::from(u32::try_from(confirmed + failed).unwrap_or(u32::MAX)));
    if let Ok(now) = SystemTime::now().duration_since(UNIX_EPOCH) {
        LAST_DECISION.with_label_values(&[topic]).set(now.as_secs_f64());
    }
}

/// Observes the time of a batch in `stage`: `decide` or `produce`.
pub fn took(topic: &str, stage: &str, time: Duration) {
    STAGES.with_label_values(&[topic, stage]).observe(time.as_secs_f64());
}

/// Sets the age of the oldest snapshot. `id` is its transaction id, or `None` if no other session
/// keeps one.
pub fn oldest_snapshot(id: Option<i64>) {
    let mut snapshot = SNAPSHOT.lock().unwrap_or_else(PoisonError::into_inner);
    *snapshot = OldestSnapshot::next(*snapshot, id, Instant::now());
    let age = snapshot.map_or(Duration::ZERO, |it| it.since.elapsed());
    if snapshot.as_mut().is_some_and(|it| it.is_old_now(age)) {
        log::warn!(
            seconds = age.as_secs();
            "another session has an open transaction, so PostgreSQL keeps all row versions: see \
             old snapshots in docs/operations.md"
        );
    }
    OLDEST_SNAPSHOT.set(i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
}

/// The id of the oldest snapshot, and when it was first seen. Its id stays the same until the
/// transaction with it ends, while new transactions get higher ids. The service's role may read
/// these ids, but not the start times of other roles' transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct OldestSnapshot {
    id: i64,
    since: Instant,
    is_logged: bool,
}

impl OldestSnapshot {
    fn next(known: Option<Self>, id: Option<i64>, now: Instant) -> Option<Self> {
        let id = id?;
        Some(known.filter(|known| known.id == id).unwrap_or(Self {
            id,
            since: now,
            is_logged: false,
        }))
    }

    /// True once, when it becomes old.
    fn is_old_now(&mut self, age: Duration) -> bool {
        age >= OLD_SNAPSHOT && !std::mem::replace(&mut self.is_logged, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshot_ages_until_another_one_is_oldest() {
        let start = Instant::now();
        let later = start + Duration::from_secs(5);
        let first = OldestSnapshot::next(None, Some(7), start);
        assert_eq!(first, Some(OldestSnapshot { id: 7, since: start, is_logged: false }));
        assert_eq!(OldestSnapshot::next(first, Some(7), later), first);
        let second = Some(OldestSnapshot { id: 8, since: later, is_logged: false });
        assert_eq!(OldestSnapshot::next(first, Some(8), later), second);
        assert_eq!(OldestSnapshot::next(first, None, later), None);
    }

    #[test]
    fn old_snapshot_is_logged_once() {
        let since = Instant::now();
        let mut snapshot = OldestSnapshot { id: 7, since, is_logged: false };
        let ages = [0, 59, 60, 65];
        let logged = ages.map(|age| snapshot.is_old_now(Duration::from_secs(age)));
        assert_eq!(logged, [false, false, true, false]);
    }
}
