//! Metrics of the generator.

use prometheus::{IntCounterVec, IntGauge, register_int_counter_vec, register_int_gauge};
use std::sync::LazyLock;

/// Records acknowledged by Kafka, by kind of command; `dead_letter` is a kind too.
pub static COMMANDS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "generator_commands_total",
        "Commands and dead letters acknowledged by Kafka, by kind",
        &["kind"]
    )
    .expect("no other metric has this name")
});
/// Undecodable records, by the topic that they came from.
pub static UNDECODABLE: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "generator_unreadable_total",
        "Undecodable records sent to dead_letter, by source topic",
        &["topic"]
    )
    .expect("no other metric has this name")
});
/// Accounts that commands can use.
pub static ACCOUNTS: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!("generator_accounts", "Accounts that commands can use")
        .expect("no other metric has this name")
});
/// Heartbeats that wait for an account.
pub static WAITING: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!("generator_waiting_beats", "Heartbeats that wait for an account")
        .expect("no other metric has this name")
});
