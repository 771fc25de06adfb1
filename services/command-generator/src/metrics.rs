//! Metrics of the generator.

use prometheus::{IntCounterVec, IntGauge, register_int_counter_vec, register_int_gauge};
use std::sync::LazyLock;

/// Commands acknowledged by Kafka, by kind.
pub static COMMANDS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "generator_commands_total",
        "Commands acknowledged by Kafka.",
        &["kind"]
    )
    .expect("the name is used once")
});
/// Records sent to dead_letter, by topic.
pub static UNDECODABLE: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "generator_unreadable_total",
        "Records sent to dead_letter.",
        &["topic"]
    )
    .expect("the name is used once")
});
/// Known accounts.
pub static ACCOUNTS: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!("generator_accounts", "Known accounts.").expect("the name is used once")
});
/// Heartbeats that wait for an account.
pub static WAITING: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!("generator_waiting_beats", "Heartbeats that wait for an account.")
        .expect("the name is used once")
});
