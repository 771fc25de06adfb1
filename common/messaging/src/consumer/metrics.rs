//! Metrics of consumers.

use crate::metrics;
use prometheus::{IntCounterVec, IntGaugeVec};
use std::sync::LazyLock;

pub static RECORDS: LazyLock<IntCounterVec> =
    LazyLock::new(|| metrics::counters("kafka_consumer_records_total", "Records read", &["topic"]));
pub static SKIPPED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Offsets deleted before they were read";
    metrics::counters("kafka_consumer_skipped_offsets_total", help, &["topic"])
});
pub static LAG: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "Offsets between the position and the end of the log at the last fetch";
    metrics::gauges("kafka_consumer_lag", help, &["topic", "partition"])
});
pub static PARKED_PARTITIONS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "1 while the partition is undecodable and not read, else 0";
    metrics::gauges("kafka_consumer_parked", help, &["topic", "partition"])
});
