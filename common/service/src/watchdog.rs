//! Ends the process when a call hangs.
//!
//! If a broker accepts the connection and then sends nothing, the kafka crate waits two minutes. It
//! does not give access to its sockets, so an overdue call cannot be cancelled. A restart recovers.
//! The same holds for the postgres crate at a Unix socket. Its other calls have deadlines: see
//! `database/deadline.rs`.

use crate::exit::{EXIT_TEMPORARY, exit};
use crate::shutdown::Shutdown;
use std::sync::{Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Interval between checks of the deadlines while a call runs.
const TICK: Duration = Duration::from_millis(250);
/// If a tick is late by more than this, the whole process was suspended.
const STALL: Duration = Duration::from_secs(1);
/// Time that a call may still take after shutdown was requested. A service shuts down within a
/// second if its brokers respond. If one hangs, the service does not wait for the whole timeout.
const STOP_GRACE: Duration = Duration::from_secs(2);

static WATCHDOG: Watchdog = Watchdog::new();

/// A watched call; dropping it ends the watch.
pub struct Watch(u64);

/// Watches a call. Unless the result is dropped within `limit`, the process ends with
/// [`EXIT_TEMPORARY`]. After `stop` is requested the limit is 2 s. `what` names the call and its
/// server, for the log.
pub fn watch(limit: Duration, stop: Option<&Shutdown>, what: String) -> Watch {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        let started = thread::Builder::new().name("watchdog".into()).spawn(|| {
            let what = WATCHDOG.wait_for_overdue();
            log::error!(call = what.as_str(); "call exceeded its deadline, exiting with code 75");
            exit(EXIT_TEMPORARY);
        });
        if let Err(err) = started {
            log::error!(error:% = err; "could not start the watchdog, a hung call will block");
        }
    });
    let deadline = Instant::now() + limit;
    Watch(WATCHDOG.register(Call { id: 0, deadline, stop: stop.cloned(), stopping: false, what }))
}

impl Drop for Watch {
    fn drop(&mut self) {
        WATCHDOG.calls().list.retain(|call| call.id != self.0);
    }
}

struct Call {
    id: u64,
    deadline: Instant,
    stop: Option<Shutdown>,
    stopping: bool,
    what: String,
}

struct Calls {
    list: Vec<Call>,
    last_id: u64,
    idle: bool,
}

struct Watchdog {
    calls: Mutex<Calls>,
    wake: Condvar,
}

impl Watchdog {
    const fn new() -> Self {
        Self {
            calls: Mutex::new(Calls { list: Vec::new(), last_id: 0, idle: false }),
            wake: Condvar::new(),
        }
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn register(&self, mut call: Call) -> u64 {
        let mut calls = self.calls();
        calls.last_id += 1;
        call.id = calls.last_id;
        calls.list.push(call);
        if calls.idle {
            calls.idle = false;
            self.wake.notify_one();
        }
        calls.last_id
    }

    /// Waits until a call misses its deadline. Returns its name.
    fn wait_for_overdue(&self) -> String {
        let mut calls = self.calls();
        loop {
            while calls.list.is_empty() {
                calls.idle = true;
                calls = self.wake.wait(calls).unwrap_or_else(PoisonError::into_inner);
            }
            let before = Instant::now();
            drop(calls);
            thread::sleep(TICK);
            calls = self.calls();
            if let Some(what) = calls.overdue(before, Instant::now()) {
                return what;
            }
        }
    }
}

impl Calls {
    /// The name of an overdue call. The last tick lasted from `before` to `now`.
    ///
    /// If the tick took too long, the process was suspended (SIGSTOP, a suspended machine).
    /// Responses may be waiting in its sockets, so that time does not count.
    fn overdue(&mut self, before: Instant, now: Instant) -> Option<String> {
        let stalled = now.duration_since(before).saturating_sub(TICK);
        for call in &mut self.list {
            if stalled > STALL {
                call.deadline += stalled;
            }
            if !call.stopping && call.stop.as_ref().is_some_and(Shutdown::requested) {
                call.stopping = true;
                call.deadline = call.deadline.min(now + STOP_GRACE);
            }
        }
        self.list.iter().find(|call| call.deadline <= now).map(|call| call.what.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(deadline: Instant, stop: &Shutdown) -> Calls {
        let call =
            Call { id: 1, deadline, stop: Some(stop.clone()), stopping: false, what: "x".into() };
        Calls { list: vec![call], last_id: 1, idle: false }
    }

    #[test]
    fn call_is_overdue_from_its_deadline_on() {
        let start = Instant::now();
        let deadline = start + 2 * TICK;
        let mut calls = calls(deadline, &Shutdown::default());
        assert_eq!(calls.overdue(start, start + TICK), None);
        assert_eq!(calls.overdue(start + TICK, deadline).as_deref(), Some("x"));
    }

    #[test]
    fn suspended_time_does_not_count() {
        let start = Instant::now();
        let mut calls = calls(start + Duration::from_secs(10), &Shutdown::default());
        let resumed = start + Duration::from_secs(30);
        assert_eq!(calls.overdue(start, resumed), None);
        assert_eq!(calls.overdue(resumed, resumed + TICK), None);
        let later = resumed + Duration::from_secs(10);
        assert_eq!(calls.overdue(later - TICK, later).as_deref(), Some("x"));
    }

    #[test]
    fn shutdown_shortens_the_deadline() {
        let start = Instant::now();
        let stop = Shutdown::default();
        let mut calls = calls(start + Duration::from_secs(10), &stop);
        stop.request();
        assert_eq!(calls.overdue(start, start + TICK), None);
        let end = start + TICK + STOP_GRACE;
        assert_eq!(calls.overdue(end - TICK, end).as_deref(), Some("x"));
    }

    #[test]
    fn returned_call_is_removed() {
        let watchdog = Watchdog::new();
        let id = watchdog.register(Call {
            id: 0,
            deadline: Instant::now(),
            stop: None,
            stopping: false,
            what: "x".into(),
        });
        assert_eq!(watchdog.calls().list.len(), 1);
        watchdog.calls().list.retain(|call| call.id != id);
        assert!(watchdog.calls().list.is_empty());
    }
}
