//! The state of a running operation that its transport and its resolvers share.

use crate::hub::{Ending, Queue};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// A running operation, which can be cancelled.
#[derive(Default)]
pub struct RunningOperation {
    cancelled: AtomicBool,
    queue: OnceLock<Arc<Queue>>,
    must_not_wait: bool,
    would_wait: AtomicBool,
}

impl RunningOperation {
    /// An operation on a thread that serves other clients as well: its resolvers must not wait for
    /// the bank.
    pub fn without_waiting() -> Self {
        Self { must_not_wait: true, ..Self::default() }
    }

    /// Cancels the operation: a stream ends at once.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        if let Some(queue) = self.queue.get() {
            queue.end(Ending::Cancelled);
        }
    }

    /// True once the operation was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// Why the stream of the operation has ended.
    pub fn ending(&self) -> Ending {
        self.queue.get().and_then(|queue| queue.ending()).unwrap_or(Ending::Cancelled)
    }

    /// Returns when the stream may have a transaction, or after `time`.
    pub fn wait(&self, time: Duration) {
        if let Some(queue) = self.queue.get() {
            queue.wait(time);
        }
    }

    /// Attaches the queue of the operation's subscription, which [`Self::cancel`] ends.
    pub fn attach(&self, queue: &Arc<Queue>) {
        let _ = self.queue.set(queue.clone());
        if self.is_cancelled() {
            queue.end(Ending::Cancelled);
        }
    }

    /// For a resolver that has to wait for the bank: true if it may. If not, the operation runs
    /// again on a thread of its own and this result is discarded.
    pub fn may_wait(&self) -> bool {
        if self.must_not_wait {
            self.would_wait.store(true, Ordering::Relaxed);
        }
        !self.must_not_wait
    }

    /// True if a resolver had to wait and was not allowed to.
    pub fn would_wait(&self) -> bool {
        self.would_wait.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operation_that_may_not_wait_remembers_that_it_would() {
        let operation = RunningOperation::without_waiting();
        assert!(!operation.would_wait());
        assert!(!operation.may_wait() && operation.would_wait());
        let patient = RunningOperation::default();
        assert!(patient.may_wait() && !patient.would_wait());
    }
}
