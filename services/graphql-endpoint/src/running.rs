//! The state of a running operation, shared by its transport and its resolvers.

use crate::authorizations::{Authorization, Authorized};
use crate::hub::{Ending, Reader};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};

#[derive(Default)]
pub struct RunningOperation {
    cancelled: AtomicBool,
    reader: OnceLock<Arc<Reader>>,
    /// Why the operation was ended from outside. Its lock is held while the reader is attached.
    ended: Mutex<Option<Ending>>,
    /// Of the token that a stream was opened with.
    authorization: OnceLock<Authorization>,
    must_not_wait: AtomicBool,
    would_wait: AtomicBool,
    /// Id of the last value of a stream; 0 if its values have no ids.
    event_id: AtomicI64,
    /// Id of the last value that the client received before it connected again.
    resumed_after: Option<i64>,
}

impl RunningOperation {
    /// An operation of a client that has received the values until `id`.
    pub fn resumed_after(id: Option<i64>) -> Self {
        Self { resumed_after: id, ..Self::default() }
    }

    /// See [`Self::resumed_after`].
    pub fn last_received(&self) -> Option<i64> {
        self.resumed_after
    }

    /// Sets the id of the value that is emitted next.
    pub fn set_event_id(&self, id: i64) {
        self.event_id.store(id, Ordering::Relaxed);
    }

    /// Id of the value that is emitted.
    pub fn event_id(&self) -> Option<i64> {
        Some(self.event_id.load(Ordering::Relaxed)).filter(|id| *id > 0)
    }

    /// Cancels the operation and ends its stream at once.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        self.end(Ending::Cancelled);
    }

    /// Keeps the entry of this operation until the operation is dropped.
    pub fn set_authorization(&self, authorization: Authorization) {
        let _ = self.authorization.set(authorization);
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// Ready when the stream of the operation has ended, whether or not it was read to its end.
    pub fn poll_end(&self, context: &Context<'_>) -> Poll<()> {
        self.reader.get().map_or(Poll::Pending, |reader| reader.poll_end(context))
    }

    /// Why the stream of the operation has ended.
    pub fn ending(&self) -> Ending {
        self.reader.get().and_then(|reader| reader.ending()).unwrap_or(Ending::Cancelled)
    }

    /// Attaches the subscription, so that [`Self::cancel`] and [`Authorized::end`] end it.
    pub fn attach(&self, reader: &Arc<Reader>) {
        let ended = self.ended();
        let _ = self.reader.set(reader.clone());
        if let Some(ending) = *ended {
            reader.end(ending);
        }
    }

    fn ended(&self) -> MutexGuard<'_, Option<Ending>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on resolvers must not wait for an outcome, because the thread serves other clients
    /// as well.
    pub fn forbid_waiting(&self) {
        self.must_not_wait.store(true, Ordering::Relaxed);
    }

    /// From now on resolvers may wait for an outcome.
    pub fn allow_waiting(&self) {
        self.must_not_wait.store(false, Ordering::Relaxed);
        self.would_wait.store(false, Ordering::Relaxed);
    }

    /// True if a resolver may wait for an outcome. If false, its result is discarded and the
    /// operation runs again on another thread.
    pub fn may_wait(&self) -> bool {
        let may_wait = !self.must_not_wait.load(Ordering::Relaxed);
        if !may_wait {
            self.would_wait.store(true, Ordering::Relaxed);
        }
        may_wait
    }

    /// True if [`Self::may_wait`] has returned false.
    pub fn would_wait(&self) -> bool {
        self.would_wait.load(Ordering::Relaxed)
    }
}

impl Authorized for RunningOperation {
    /// Ends the stream of the operation, also one that is attached later.
    fn end(&self, ending: Ending) {
        let mut ended = self.ended();
        ended.get_or_insert(ending);
        if let Some(reader) = self.reader.get() {
            reader.end(ending);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Hub;
    use crate::transaction::Filter;
    use std::net::Ipv4Addr;

    #[test]
    fn ended_operation_ends_a_later_stream() {
        let hub = Hub::start(10).unwrap();
        let [before, after] =
            [(); 2].map(|()| hub.subscribe(Ipv4Addr::LOCALHOST.into(), Filter::default()).unwrap());
        for (operation, early) in [(before, true), (after, false)] {
            let running = RunningOperation::default();
            if early {
                running.attach(operation.reader());
            }
            running.end(Ending::LoggedOut);
            running.attach(operation.reader());
            running.cancel();
            assert_eq!(running.ending(), Ending::LoggedOut);
        }
    }

    #[test]
    fn refused_wait_is_remembered() {
        let operation = RunningOperation::default();
        assert!(operation.may_wait() && !operation.would_wait());
        operation.forbid_waiting();
        assert!(!operation.may_wait() && operation.would_wait());
        operation.allow_waiting();
        assert!(operation.may_wait() && !operation.would_wait());
    }
}
