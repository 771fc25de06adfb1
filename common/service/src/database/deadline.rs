//! Deadlines of calls to PostgreSQL.
//!
//! The crate `postgres` waits for a response without a limit and cannot cancel a call. But it runs
//! a call on the thread of its caller, and it reads and writes through a stream of our choice. This
//! stream fails once a [`Deadline`] of the thread is over. The call then returns an error, and the
//! connection is lost. docs/decisions/0038-database-deadlines.md has the alternatives.

use crate::shutdown::Shutdown;
use crate::watchdog::{self, Watch};
use postgres::Socket;
use postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use std::cell::RefCell;
use std::convert::Infallible;
use std::future::{self, Future as _, Ready};
use std::io;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// A deadline is a number of ticks, so that the time in which the process was suspended does not
/// count: responses may be waiting in its sockets.
const TICK: Duration = Duration::from_millis(250);
const TICKS_PER_SECOND: u64 = 4;
/// Ticks that a call may still take after shutdown was requested: 2 s.
const STOP_TICKS: u64 = 2 * TICKS_PER_SECOND;

thread_local! {
    /// The calls of this thread, the outermost first.
    static CALLS: RefCell<Vec<Call>> = const { RefCell::new(Vec::new()) };
}

/// True if connections use a Unix socket, to which the crate adds no stream of ours.
static IS_UNIX: AtomicBool = AtomicBool::new(false);

struct Call {
    ticks: u64,
    stop: Option<Shutdown>,
}

/// Limits the calls of this thread while it exists.
#[must_use]
pub struct Deadline {
    /// Ends the process, since a call over a Unix socket can't be ended.
    _watch: Option<Watch>,
    /// It belongs to its thread.
    _not_send: PhantomData<*const ()>,
}

impl Deadline {
    /// Calls fail that wait longer than `limit` in total, in whole seconds. After `stop` is
    /// requested, the limit is 2 s.
    pub fn start(limit: Duration, stop: Option<&Shutdown>, step: &str) -> Self {
        let ticks = limit.as_secs() * TICKS_PER_SECOND;
        CALLS.with_borrow_mut(|calls| calls.push(Call { ticks, stop: stop.cloned() }));
        let is_unix = IS_UNIX.load(Ordering::Relaxed);
        let watch = is_unix.then(|| watchdog::watch(limit, stop, format!("PostgreSQL: {step}")));
        Self { _watch: watch, _not_send: PhantomData }
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        CALLS.with_borrow_mut(|calls| calls.pop());
    }
}

/// From now on each [`Deadline`] ends the process, as the only limit of a Unix socket.
pub fn use_unix_sockets() {
    IS_UNIX.store(true, Ordering::Relaxed);
}

/// Counts a tick for each call of this thread. True if the deadline of one is over.
fn tick() -> bool {
    CALLS.with_borrow_mut(|calls| {
        for call in calls.iter_mut() {
            if call.stop.as_ref().is_some_and(Shutdown::requested) {
                call.stop = None;
                call.ticks = call.ticks.min(STOP_TICKS);
            }
            call.ticks = call.ticks.saturating_sub(1);
        }
        calls.iter().any(|call| call.ticks == 0)
    })
}

/// A stream that fails when a [`Deadline`] of the thread is over.
pub struct Limited<S> {
    inner: S,
    /// The next tick, once the stream has waited.
    tick: Option<Pin<Box<Sleep>>>,
    failed: bool,
}

impl<S> Limited<S> {
    fn new(inner: S) -> Self {
        Self { inner, tick: None, failed: false }
    }

    /// Waits for the end of the deadline. Without one, it waits forever: a thread that receives
    /// notifications has its own limit.
    fn poll_deadline(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        if CALLS.with_borrow(Vec::is_empty) {
            return Poll::Pending;
        }
        let next = self.tick.get_or_insert_with(|| Box::pin(sleep(TICK)));
        loop {
            ready!(next.as_mut().poll(context));
            if tick() {
                self.failed = true;
                return Poll::Ready(overdue());
            }
            next.as_mut().reset(Instant::now() + TICK);
        }
    }

    fn limited<T>(
        &mut self,
        context: &mut Context<'_>,
        poll: impl FnOnce(&mut Self, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if self.failed {
            return Poll::Ready(Err(overdue()));
        }
        match poll(self, context) {
            Poll::Pending => self.poll_deadline(context).map(Err),
            done => done,
        }
    }
}

fn overdue() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no response from PostgreSQL before the deadline")
}

impl<S: AsyncRead + Unpin> AsyncRead for Limited<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.limited(context, |it, context| Pin::new(&mut it.inner).poll_read(context, buffer))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Limited<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.limited(context, |it, context| Pin::new(&mut it.inner).poll_write(context, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.limited(context, |it, context| Pin::new(&mut it.inner).poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.limited(context, |it, context| Pin::new(&mut it.inner).poll_shutdown(context))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Limited<S> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

/// Takes the place of TLS: it passes the bytes on unchanged.
#[derive(Clone, Copy)]
pub struct LimitedConnect;

impl MakeTlsConnect<Socket> for LimitedConnect {
    type Stream = Limited<Socket>;
    type TlsConnect = Self;
    type Error = Infallible;

    fn make_tls_connect(&mut self, _: &str) -> Result<Self, Infallible> {
        Ok(*self)
    }
}

impl TlsConnect<Socket> for LimitedConnect {
    type Stream = Limited<Socket>;
    type Error = Infallible;
    type Future = Ready<Result<Limited<Socket>, Infallible>>;

    fn connect(self, socket: Socket) -> Self::Future {
        future::ready(Ok(Limited::new(socket)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks_left() -> usize {
        (1..).find(|_| tick()).unwrap()
    }

    #[test]
    fn deadline_is_over_after_its_ticks() {
        let _deadline = Deadline::start(Duration::from_secs(30), None, "x");
        assert_eq!(ticks_left(), 120);
    }

    #[test]
    fn shortest_deadline_of_a_thread_counts() {
        assert!(!tick(), "a thread without a deadline");
        let outer = Deadline::start(Duration::from_secs(2), None, "x");
        {
            let _inner = Deadline::start(Duration::from_secs(1), None, "x");
            assert_eq!(ticks_left(), 4);
        }
        assert_eq!(ticks_left(), 4);
        drop(outer);
        assert!(!tick());
    }

    #[test]
    fn shutdown_shortens_the_deadline() {
        let stop = Shutdown::default();
        let _deadline = Deadline::start(Duration::from_secs(30), Some(&stop), "x");
        assert!(!tick());
        stop.request();
        assert_eq!(ticks_left(), 8);
        assert!(tick(), "it stays over");
    }
}
