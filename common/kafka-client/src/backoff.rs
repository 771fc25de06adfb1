//! Exponential backoff between attempts.

use crate::error::{Error, Result};
use std::thread;
use std::time::{Duration, Instant};

/// Backoff after the first failed attempt, doubled after each further one.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// An exponential backoff: 100 ms after the first failed attempt, doubling up to 2 s. It lasts
/// across calls until an attempt succeeds.
#[derive(Debug)]
pub struct Backoff {
    failures: u32,
    retry_at: Instant,
    last_error: Option<Error>,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { failures: 0, retry_at: Instant::now(), last_error: None }
    }
}

impl Backoff {
    /// The number of failed attempts since the last successful one.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// The earliest time of the next attempt.
    pub fn retry_at(&self) -> Instant {
        self.retry_at
    }

    /// True before [`Backoff::retry_at`].
    pub fn is_waiting(&self) -> bool {
        self.retry_at > Instant::now()
    }

    /// The error of the last attempt if it failed.
    pub fn last_error(&self) -> Option<&Error> {
        self.last_error.as_ref()
    }

    /// Waits until [`Backoff::retry_at`] or `deadline`, whichever is earlier.
    ///
    /// # Errors
    /// The error of the last attempt, if `deadline` is earlier.
    pub fn wait(&self, deadline: Instant) -> Result<()> {
        let now = Instant::now();
        let until = self.retry_at.min(deadline.max(now));
        thread::sleep(until.saturating_duration_since(now));
        match &self.last_error {
            Some(err) if until < self.retry_at => Err(err.clone()),
            _ => Ok(()),
        }
    }

    /// Delays the next attempt after one that failed with a retryable error.
    pub fn failed(&mut self, err: &Error) {
        let backoff = (BACKOFF_MIN * (1 << self.failures.min(16))).min(BACKOFF_MAX);
        self.failures += 1;
        self.retry_at = Instant::now() + backoff;
        self.last_error = Some(err.clone());
        log::warn!(
            error:% = err, attempt = self.failures, retry_ms = backoff.as_millis();
            "Kafka request failed, retrying"
        );
    }

    /// Delays the next attempt until `retry_at`, for example for a throttle time.
    pub fn hold_until(&mut self, retry_at: Instant) {
        self.retry_at = self.retry_at.max(retry_at);
    }

    /// Ends the backoff after a successful attempt.
    pub fn succeeded(&mut self) {
        if self.failures > 0 {
            log::info!(attempts = self.failures + 1; "Kafka request succeeded after retries");
            self.failures = 0;
            self.last_error = None;
        }
    }

    /// [`Backoff::failed`] with `failure`, or [`Backoff::succeeded`] without one.
    pub fn update(&mut self, failure: Option<&Error>) {
        match failure {
            Some(err) => self.failed(err),
            None => self.succeeded(),
        }
    }

    /// Repeats `attempt` while its error is retryable and `within` has not passed.
    ///
    /// # Errors
    /// The error of the last attempt.
    pub fn retry<T>(
        &mut self,
        within: Duration,
        mut attempt: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        let mut value = None;
        self.retry_dyn(within, &mut || {
            value = Some(attempt()?);
            Ok(())
        })?;
        Ok(value.expect("the last attempt succeeded and set it"))
    }

    /// Not generic, so that a binary contains it once.
    fn retry_dyn(
        &mut self,
        within: Duration,
        attempt: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
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
