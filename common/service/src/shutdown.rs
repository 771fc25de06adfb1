//! Stopping by SIGTERM and SIGINT.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{io, process, thread};

/// Set once, by a signal or by [`Shutdown::request`]; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Shutdown(Arc<(Mutex<bool>, Condvar)>);

impl Shutdown {
    /// Set by the first SIGTERM or SIGINT; a second one ends the process at once with code 130, for whoever can't wait.
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

    /// Asks for the stop.
    pub fn request(&self) {
        let (requested, changed) = &*self.0;
        *requested.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
    }

    /// True once the stop was asked for.
    pub fn requested(&self) -> bool {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps for `time`, but wakes at once when the stop is asked for; true if it was.
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

    /// Sleeps until the stop is asked for.
    pub fn wait_for_ever(&self) {
        while !self.wait(Duration::from_secs(3600)) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiter_wakes_when_the_stop_is_asked_for() {
        let shutdown = Shutdown::default();
        assert!(!shutdown.wait(Duration::from_millis(1)));
        let asked = shutdown.clone();
        let waiter = thread::spawn(move || asked.wait(Duration::from_secs(600)));
        shutdown.request();
        assert!(waiter.join().unwrap());
        assert!(shutdown.requested());
    }
}
