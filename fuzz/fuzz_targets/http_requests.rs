//! Reads libFuzzer's input as an HTTP request, and passes it to the handlers of the services.
#![no_main]

use heartbeat::config::{BATCH_SIZES, Load, SLEEPS_MS};
use heartbeat::control::Control;
use std::time::Duration;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some(request) = service::http::fuzzing::request(bytes) else { return };
    // Without the size of the pieces.
    let sent = &bytes[2..];
    graphql_endpoint::fuzzing::http_requests(sent);
    frontend::fuzzing::http_requests(sent);
    let control = Control::new(Load { batch_size: 7, sleep: Duration::from_secs(1) });
    let before = control.status();
    let changed = control.change(&request.body, request.address);
    let after = control.status();
    assert!(BATCH_SIZES.contains(&after.batch_size) && SLEEPS_MS.contains(&after.sleep_ms));
    assert!(changed.is_ok() || after == before);
});
