//! What `/metrics` tells about this service.

use prometheus::{IntCounterVec, register_int_counter_vec};
use std::sync::LazyLock;

/// Requests by what was asked for.
static REQUESTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!("frontend_requests_total", "Requests by what they got", &["got"])
        .expect("the only metric of this name")
});

/// What a visitor got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Got {
    /// A page.
    Page,
    /// A file that belongs to the pages.
    Asset,
    /// A result, or the list of them.
    Result,
    /// The news that theirs is the newest version.
    Unchanged,
    /// A refusal.
    Refusal,
}

impl Got {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Page, "page"),
        (Self::Asset, "asset"),
        (Self::Result, "result"),
        (Self::Unchanged, "unchanged"),
        (Self::Refusal, "refusal"),
    ];

    fn label(self) -> &'static str {
        Self::ALL.into_iter().find(|(got, _)| *got == self).map_or("", |(_, label)| label)
    }
}

/// Shows all of them, as 0.
pub fn register() {
    for (_, label) in Got::ALL {
        REQUESTS.with_label_values(&[label]);
    }
}

/// Counts a request.
pub fn count(got: Got) {
    REQUESTS.with_label_values(&[got.label()]).inc();
}
