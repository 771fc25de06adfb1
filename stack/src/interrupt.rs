//! SIGINT, SIGTERM and SIGHUP: a handler stores the signal, and every wait checks for it.

use crate::error::{Error, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// The last signal received; 0 if none.
static RECEIVED: OnceLock<Arc<AtomicUsize>> = OnceLock::new();
static IGNORED: AtomicBool = AtomicBool::new(false);

/// Time between two checks in a wait.
pub const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Installs the handlers.
pub fn install() -> std::io::Result<()> {
    let received = RECEIVED.get_or_init(Arc::default);
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        // `nohup` makes its command ignore SIGHUP.
        if signal == SIGHUP && is_ignored(signal) {
            continue;
        }
        flag::register_usize(signal, received.clone(), signal.unsigned_abs() as usize)?;
    }
    Ok(())
}

/// True if the caller made this process ignore `signal`.
fn is_ignored(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// Ignores signals from now on. The steps that follow stop processes, and each wait in them has a
/// deadline.
pub fn ignore() {
    IGNORED.store(true, Ordering::Relaxed);
}

/// Fails if a signal was received.
pub fn check() -> Result<()> {
    let signal = RECEIVED.get().map_or(0, |received| received.load(Ordering::Relaxed));
    if signal == 0 || IGNORED.load(Ordering::Relaxed) {
        Ok(())
    } else {
        Err(Error::Interrupted(i32::try_from(signal).unwrap_or(SIGTERM)))
    }
}

/// Waits for `duration`. A signal ends the wait with an error.
pub fn pause(duration: Duration) -> Result<()> {
    let deadline = Instant::now() + duration;
    loop {
        check()?;
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(POLL_INTERVAL));
    }
}
