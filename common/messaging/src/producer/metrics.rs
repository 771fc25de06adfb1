//! Metrics of producers.

use crate::metrics;
use bank::topology::DEAD_LETTER;
use prometheus::{Histogram, IntCounter, IntCounterVec};
use std::sync::LazyLock;

/// Registers the counters of rare events with the value 0. Prometheus sees no increase in a counter
/// that appears with its first event.
pub fn register() {
    RECORDS.with_label_values(&[DEAD_LETTER.name]);
    LazyLock::force(&RETRIES);
}

pub static RECORDS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    metrics::counters("kafka_producer_records_total", "Records written", &["topic"])
});
pub static BYTES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    metrics::counters("kafka_producer_bytes_total", "Bytes of records written", &["topic"])
});
pub static BATCHES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    metrics::counters("kafka_producer_batches_total", "Batches written", &["topic"])
});
pub static BATCH_SIZE: LazyLock<Histogram> = LazyLock::new(|| {
    let buckets = [1., 2., 5., 10., 20., 50., 100., 200., 500., 1000., 2000., 5000., 10_000.];
    metrics::histogram("kafka_producer_batch_records", "Records per written batch", &buckets)
});
pub static REQUEST_SECONDS: LazyLock<Histogram> = LazyLock::new(|| {
    let buckets = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1., 2., 5., 10.];
    metrics::histogram(
        "kafka_producer_request_seconds",
        "Time until a request is acknowledged or fails, seconds",
        &buckets,
    )
});
pub static ERRORS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    metrics::counters(
        "kafka_producer_errors_total",
        "Records not written, by kind of error",
        &["kind"],
    )
});
pub static RETRIES: LazyLock<IntCounter> = LazyLock::new(|| {
    metrics::counter("kafka_producer_retries_total", "Requests retried completely or in part")
});
