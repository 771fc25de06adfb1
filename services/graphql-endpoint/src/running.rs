//! The state of a running operation, shared by its transport and its resolvers.

use crate::hub::{Ending, Queue};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

#[derive(Default)]
pub struct RunningOperation {
    cancelled: AtomicBool,
    queue: OnceLock<Arc<Queue>>,
    must_not_wait: bool,
    would_wait: AtomicBool,
}

impl RunningOperation {
    /// An operation whose resolvers must not wait for an outcome, because its thread serves other
    /// clients as well.
    pub fn without_waiting() -> Self {
        Self { must_not_wait: true, ..Self::default() }
    }

    /// Cancels the operation and ends its stream at once.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        if let Some(queue) = self.queue.get() {
            queue.end(Ending::Cancelled);
        }
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// Why the stream of the operation has ended.
    pub fn ending(&self) -> Ending {
        self.queue.get().and_then(|queue| queue.ending()).unwrap_or(Ending::Cancelled)
    }

    /// Waits at most `time` until the stream has a transaction or ends.
    pub fn wait(&self, time: Duration) {
        if let Some(queue) = self.queue.get() {
            queue.wait(time);
        }
    }

    /// Attaches the queue of the subscription, so that [`Self::cancel`] ends it.
    pub fn attach(&self, queue: &Arc<Queue>) {
        let _ = self.queue.set(queue.clone());
        if self.is_cancelled() {
            queue.end(Ending::Cancelled);
        }
    }

    /// True if a resolver may wait for an outcome. If false, its result is discarded and the
    /// operation runs again on its own thread.
    pub fn may_wait(&self) -> bool {
        if self.must_not_wait {
            self.would_wait.store(true, Ordering::Relaxed);
        }
        !self.must_not_wait
    }

    /// True if [`Self::may_wait`] has returned false.
    pub fn would_wait(&self) -> bool {
        self.would_wait.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_wait_is_remembered() {
        let operation = RunningOperation::without_waiting();
        assert!(!operation.would_wait());
        assert!(!operation.may_wait() && operation.would_wait());
        let waiting = RunningOperation::default();
        assert!(waiting.may_wait() && !waiting.would_wait());
    }
}
