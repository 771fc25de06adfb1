//! Metrics of the endpoint. Their help texts describe them.

use prometheus::{
    Histogram, IntCounter, IntCounterVec, IntGauge, register_histogram, register_int_counter,
    register_int_counter_vec, register_int_gauge,
};
use std::sync::LazyLock;

const UNIQUE: &str = "the only metric of this name";

/// Registers the counter of stored transactions with the value 0. Prometheus sees no increase in a
/// counter that appears with its first event.
pub fn register() {
    LazyLock::force(&STORED);
}

pub static STORED: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!("graphql_transactions_stored_total", "Transactions stored").expect(UNIQUE)
});
pub static STORE_SECONDS: LazyLock<Histogram> = LazyLock::new(|| {
    let buckets = vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
    let help = "Time to store a batch of transactions";
    register_histogram!("graphql_store_seconds", help, buckets).expect(UNIQUE)
});
pub static SUBSCRIBERS: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!("graphql_subscribers", "Open subscriptions to transactions").expect(UNIQUE)
});
pub static CUT_OFF: LazyLock<IntCounter> = LazyLock::new(|| {
    let help = "Subscribers cut off because they did not keep up";
    register_int_counter!("graphql_subscribers_cut_off_total", help).expect(UNIQUE)
});
/// `kind`: query, mutation, subscription, or refused by validation.
pub static OPERATIONS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!("graphql_operations_total", "Operations received", &["kind"])
        .expect(UNIQUE)
});
/// `kind`: succeeded, failed (wrong password), refused, busy, registered (a new user name).
pub static LOGINS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!("graphql_logins_total", "Logins by result", &["kind"]).expect(UNIQUE)
});
/// `kind`: succeeded, failed (no account has this token).
pub static ROTATIONS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Replaced tokens by result";
    register_int_counter_vec!("graphql_token_rotations_total", help, &["kind"]).expect(UNIQUE)
});
/// `name`: of the employee, or EMPLOYEE_TOKEN for the token without a name.
pub static EMPLOYEES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Requests and websockets with the token of an employee, by name";
    register_int_counter_vec!("graphql_employee_requests_total", help, &["name"]).expect(UNIQUE)
});
