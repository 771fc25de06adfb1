//! Metrics of the frontend.

use prometheus::{IntCounterVec, register_int_counter_vec};
use std::sync::LazyLock;

static REQUESTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!("frontend_requests_total", "Requests by kind of response", &["got"])
        .expect("the only metric of this name")
});

/// The label `got` of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseKind {
    Page,
    /// A script, style sheet or icon.
    Asset,
    /// A result or the list of results.
    Result,
    /// Status 304.
    Unchanged,
    /// Status 404, 405 or 503.
    Refusal,
}

impl ResponseKind {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Page, "page"),
        (Self::Asset, "asset"),
        (Self::Result, "result"),
        (Self::Unchanged, "unchanged"),
        (Self::Refusal, "refusal"),
    ];

    fn label(self) -> &'static str {
        Self::ALL.into_iter().find(|(kind, _)| *kind == self).map_or("", |(_, label)| label)
    }
}

/// Registers all kinds with the value 0.
pub fn register() {
    for (_, label) in ResponseKind::ALL {
        REQUESTS.with_label_values(&[label]);
    }
}

pub fn count(kind: ResponseKind) {
    REQUESTS.with_label_values(&[kind.label()]).inc();
}
