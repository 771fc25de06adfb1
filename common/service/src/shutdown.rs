//! Shutdown by SIGTERM and SIGINT.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{io, process, thread};

/// Requested once, by a signal or by [`Shutdown::request`]; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Shutdown(Arc<(Mutex<bool>, Condvar)>);

impl Shutdown {
    /// Requested by the first SIGTERM or SIGINT; a second one ends the process at once with code
    /// 130.
    ///
    /// # Errors
    /// The system refuses the signal handlers.
    pub fn on_signals() -> io::Result<Self> {
        use signal_hook::consts::{SIGINT, SIGTERM};
        let shutdown = Self::default();
        let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
        let on_signal = shutdown.clone();
        thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in signals.forever() {
                if on_signal.requested() {
                    process::exit(130);
                }
                log::info!(signal; "stopping");
                on_signal.request();
            }
        })?;
        Ok(shutdown)
    }

    /// Requests shutdown.
    pub fn request(&self) {
        let (requested, changed) = &*self.0;
        *requested.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
    }

    /// True once shutdown was requested.
    pub fn requested(&self) -> bool {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps for `time`, but wakes at once when shutdown is requested; true if it was.
    pub fn wait(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        let (requested, changed) = &*self.0;
        let mut stop = requested.lock().unwrap_or_else(PoisonError::into_inner);
        while !*stop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            stop = changed.wait_timeout(stop, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        *stop
    }

    /// Sleeps until shutdown is requested.
    pub fn wait_for_ever(&self) {
        while !self.wait(Duration::from_secs(3600)) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_ends_when_shutdown_is_requested() {
        let shutdown = Shutdown::default();
        assert!(!shutdown.wait(Duration::from_millis(1)));
        let requested = shutdown.clone();
        let waiter = thread::spawn(move || requested.wait(Duration::from_secs(600)));
        shutdown.request();
        assert!(waiter.join().unwrap());
        assert!(shutdown.requested());
    }
}
