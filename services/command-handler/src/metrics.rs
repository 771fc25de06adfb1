//! Metrics of the handler.

use prometheus::{HistogramVec, IntCounterVec, register_histogram_vec, register_int_counter_vec};
use std::sync::LazyLock;
use std::time::Duration;

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
}

/// Observes the time of a batch in `stage`: `decide` or `produce`.
pub fn took(topic: &str, stage: &str, time: Duration) {
    STAGES.with_label_values(&[topic, stage]).observe(time.as_secs_f64());
}
