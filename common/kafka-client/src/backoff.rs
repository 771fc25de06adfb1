//! Spacing of attempts.

use crate::{Error, Result};
use std::thread;
use std::time::{Duration, Instant};

/// Wait after the first failed attempt, doubled after each further one.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest wait after a failed attempt.
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// Spaces attempts: after a failure the next one waits, also when the call that failed has long returned.
#[derive(Debug)]
pub struct Backoff {
    failures: u32,
    not_before: Instant,
    last: Option<Error>,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { failures: 0, not_before: Instant::now(), last: None }
    }
}

impl Backoff {
    /// Attempts that failed since the last one that did not.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// When the next attempt may start.
    pub fn turn(&self) -> Instant {
        self.not_before
    }

    /// True while the next attempt may not start.
    pub fn is_waiting(&self) -> bool {
        self.not_before > Instant::now()
    }

    /// Why the last attempt failed, if none has succeeded since.
    pub fn last(&self) -> Option<&Error> {
        self.last.as_ref()
    }

    /// Waits until the next attempt may start.
    ///
    /// # Errors
    /// The last attempt's, if that is not before `deadline`.
    pub fn wait(&self, deadline: Instant) -> Result<()> {
        let now = Instant::now();
        let turn = self.not_before.min(deadline.max(now));
        thread::sleep(turn.saturating_duration_since(now));
        match &self.last {
            Some(err) if turn < self.not_before => Err(err.clone()),
            _ => Ok(()),
        }
    }

    /// After an attempt that may be repeated: holds the next one back.
    pub fn failed(&mut self, err: &Error) {
        let backoff = (BACKOFF_MIN * (1 << self.failures.min(16))).min(BACKOFF_MAX);
        self.failures += 1;
        self.not_before = Instant::now() + backoff;
        self.last = Some(err.clone());
        log::warn!(err:%, attempt = self.failures, retry_ms = backoff.as_millis(); "Kafka: trying again");
    }

    /// The next attempt waits at least until then, though nothing failed.
    pub fn hold_until(&mut self, turn: Instant) {
        self.not_before = self.not_before.max(turn);
    }

    /// After an attempt that did what the service is for.
    pub fn succeeded(&mut self) {
        if self.failures > 0 {
            log::info!(attempts = self.failures + 1; "Kafka answers again");
            self.failures = 0;
            self.last = None;
        }
    }

    /// Repeats `attempt` while its error allows, until the deadline.
    ///
    /// # Errors
    /// The last attempt's.
    pub fn retry<T>(
        &mut self,
        within: Duration,
        mut attempt: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        let mut value = None;
        self.repeat(within, &mut || {
            value = Some(attempt()?);
            Ok(())
        })?;
        Ok(value.expect("the last attempt gave it"))
    }

    /// The same for whatever is tried: in a binary once.
    fn repeat(&mut self, within: Duration, attempt: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let deadline = Instant::now() + within;
        loop {
            self.wait(deadline)?;
            match attempt() {
                Ok(()) => {
                    self.succeeded();
                    return Ok(());
                }
                Err(err) if err.is_retryable() => {
                    self.failed(&err);
                    if Instant::now() >= deadline {
                        return Err(err);
                    }
                }
                Err(err) => return Err(err),
            }
        }
    }
}
