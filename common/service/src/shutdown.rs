//! Shutdown by SIGTERM and SIGINT.

use crate::exit::{EXIT_INTERRUPTED, exit};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

/// A shutdown request, made by a signal or by [`Shutdown::request`]. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Shutdown(Arc<(Mutex<bool>, Condvar)>);

impl Shutdown {
    /// Returns a request that the first SIGTERM or SIGINT makes. A second signal ends the process
    /// immediately, with [`EXIT_INTERRUPTED`].
    ///
    /// # Errors
    /// The signal handlers could not be installed.
    pub fn on_signals() -> io::Result<Self> {
        use signal_hook::consts::{SIGINT, SIGTERM};
        let shutdown = Self::default();
        let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
        let on_signal = shutdown.clone();
        thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in signals.forever() {
                if on_signal.requested() {
                    exit(EXIT_INTERRUPTED);
                }
                on_signal.request();
                log::info!(signal; "signal received, shutting down");
            }
        })?;
        Ok(shutdown)
    }

    pub fn request(&self) {
        let (requested, changed) = &*self.0;
        *requested.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
    }

    /// True once shutdown was requested.
    pub fn requested(&self) -> bool {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps for `time`, or until shutdown is requested. Returns true if it was requested.
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
    fn shutdown_request_ends_a_wait() {
        let shutdown = Shutdown::default();
        assert!(!shutdown.wait(Duration::from_millis(1)));
        let requested = shutdown.clone();
        let waiter = thread::spawn(move || requested.wait(Duration::from_secs(600)));
        shutdown.request();
        assert!(waiter.join().unwrap());
        assert!(shutdown.requested());
    }
}
