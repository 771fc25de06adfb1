//! Metrics of the frontend.

use prometheus::{IntCounterVec, register_int_counter_vec};
use std::sync::LazyLock;

/// Requests by kind of response.
static REQUESTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!("frontend_requests_total", "Requests by kind of response", &["got"])
        .expect("the only metric of this name")
});

/// The kind of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseKind {
    /// A page.
    Page,
    /// A file that belongs to the pages.
    Asset,
    /// A result, or the list of them.
    Result,
    /// Status 304: the client has the current version.
    Unchanged,
    /// A refusal.
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

/// Counts a request.
pub fn count(kind: ResponseKind) {
    REQUESTS.with_label_values(&[kind.label()]).inc();
}
