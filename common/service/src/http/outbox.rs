//! What the event loop still has to send on a connection. Any thread may add to it.

use super::response::{Body, NO_REPLY, Response};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// A stream waits while more than this is unsent, bytes.
const ROOM_BYTES: usize = 32 << 10;
/// Small pieces are joined up to this size, bytes.
const PIECE_BYTES: usize = 16 << 10;
/// A file is sent in pieces of this size, bytes.
const FILE_PIECE_BYTES: usize = 64 << 10;

/// The connection is closed.
#[derive(Debug, PartialEq, Eq)]
pub struct Disconnected;

/// Bytes and events of a connection that the handler took over by [`Responder::take_over`]. All
/// methods run on the thread of the event loop and must not block.
pub trait Session: Send + Sync {
    /// The client sent `bytes`.
    fn received(&self, _bytes: &[u8]) {}
    /// Called several times per second.
    fn tick(&self, _now: Instant) {}
    /// The connection was closed, by either side. Called once.
    fn closed(&self);
}

/// Wakes the event loop and lists the connections that have something to send.
pub struct Notifier {
    waker: mio::Waker,
    changed: Mutex<Vec<Arc<Connection>>>,
    /// Bytes in all outboxes.
    pub buffered: AtomicUsize,
}

impl Notifier {
    pub fn new(waker: mio::Waker) -> Self {
        Self { waker, changed: Mutex::default(), buffered: AtomicUsize::new(0) }
    }

    fn notify(&self, connection: &Arc<Connection>) {
        if connection.notified.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut changed = self.changed();
        changed.push(connection.clone());
        if changed.len() == 1
            && let Err(err) = self.waker.wake()
        {
            log::error!(error:% = err; "could not wake the HTTP thread");
        }
    }

    /// The connections that changed since the last call.
    pub fn take_changed(&self) -> Vec<Arc<Connection>> {
        mem::take(&mut *self.changed())
    }

    fn changed(&self) -> MutexGuard<'_, Vec<Arc<Connection>>> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The part of a connection that other threads share with the event loop.
pub struct Connection {
    notifier: Arc<Notifier>,
    /// Key in the event loop.
    pub key: usize,
    notified: AtomicBool,
    out: Mutex<Out>,
}

#[derive(Default)]
struct Out {
    pieces: VecDeque<Piece>,
    /// Bytes of the first piece that are sent already.
    sent: usize,
    /// Unsent bytes in memory.
    len: usize,
    /// All bytes that were ever added and sent. Those of a file are added piece by piece, so that a
    /// slow client has the time limit for each piece.
    added_total: u64,
    sent_total: u64,
    /// Nothing follows; the event loop closes the connection after the last byte.
    finished: bool,
    closed: bool,
    new_session: Option<Arc<dyn Session>>,
    waiting: Option<Waker>,
}

enum Piece {
    Owned(Vec<u8>),
    Static(&'static [u8]),
    /// The next bytes of a file.
    File(File, u64),
}

/// The state of an outbox after [`Connection::send_to`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub added: u64,
    pub sent: u64,
    pub finished: bool,
}

impl Connection {
    pub fn new(notifier: &Arc<Notifier>, key: usize) -> Arc<Self> {
        let (notifier, notified, out) =
            (notifier.clone(), AtomicBool::new(false), Mutex::default());
        Arc::new(Self { notifier, key, notified, out })
    }

    fn out(&self) -> MutexGuard<'_, Out> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(self: &Arc<Self>, change: impl FnOnce(&mut Out)) -> Result<(), Disconnected> {
        let mut out = self.out();
        if out.closed || out.finished {
            return Err(Disconnected);
        }
        let before = out.len;
        change(&mut out);
        self.notifier.buffered.fetch_add(out.len - before, Ordering::Relaxed);
        drop(out);
        self.notifier.notify(self);
        Ok(())
    }

    /// The session that has taken over since the last call.
    pub fn take_new_session(&self) -> Option<Arc<dyn Session>> {
        self.out().new_session.take()
    }

    /// The next [`Notifier::take_changed`] contains the connection again if it changes.
    pub fn listen_for_changes(&self) {
        self.notified.store(false, Ordering::Release);
    }

    /// Sends until the outbox is empty or `socket` would block.
    pub fn send_to(&self, socket: &mut impl Write) -> io::Result<Progress> {
        let mut out = self.out();
        let before = out.len;
        let result = out.send_to(socket);
        // Reading a file adds bytes, so both directions are possible.
        let after = out.len;
        let buffered = &self.notifier.buffered;
        if after > before {
            buffered.fetch_add(after - before, Ordering::Relaxed);
        } else {
            buffered.fetch_sub(before - after, Ordering::Relaxed);
        }
        let waker = if out.len <= ROOM_BYTES { out.waiting.take() } else { None };
        let Out { added_total: added, sent_total: sent, finished, .. } = *out;
        drop(out);
        if let Some(waker) = waker {
            waker.wake();
        }
        result.map(|()| Progress { added, sent, finished })
    }

    /// Discards what is unsent, and fails all further additions.
    pub fn close(&self) {
        let mut out = self.out();
        self.notifier.buffered.fetch_sub(out.len, Ordering::Relaxed);
        let Out { waiting, new_session, .. } =
            mem::replace(&mut *out, Out { closed: true, ..Out::default() });
        drop(out);
        if let Some(waker) = waiting {
            waker.wake();
        }
        if let Some(session) = new_session {
            session.closed();
        }
    }
}

impl Out {
    fn push(&mut self, piece: Piece) {
        let (is_empty, added) = match &piece {
            Piece::Owned(bytes) => (bytes.is_empty(), bytes.len()),
            Piece::Static(bytes) => (bytes.is_empty(), bytes.len()),
            Piece::File(_, left) => (*left == 0, 0),
        };
        if is_empty {
            return;
        }
        self.added_total += added as u64;
        match (self.pieces.back_mut(), piece) {
            (Some(Piece::Owned(last)), Piece::Owned(bytes))
                if last.len() + bytes.len() <= PIECE_BYTES =>
            {
                self.len += bytes.len();
                last.extend_from_slice(&bytes);
            }
            (_, piece) => {
                if let Piece::Owned(bytes) = &piece {
                    self.len += bytes.len();
                }
                self.pieces.push_back(piece);
            }
        }
    }

    fn send_to(&mut self, socket: &mut impl Write) -> io::Result<()> {
        while let Some(piece) = self.pieces.front_mut() {
            let rest = match piece {
                Piece::Owned(bytes) => &bytes[self.sent..],
                Piece::Static(bytes) => &bytes[self.sent..],
                Piece::File(file, left) => {
                    let mut bytes = Vec::new();
                    file.take((*left).min(FILE_PIECE_BYTES as u64)).read_to_end(&mut bytes)?;
                    if bytes.is_empty() {
                        // Content-Length has promised more bytes.
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    *left -= bytes.len() as u64;
                    if *left == 0 {
                        self.pieces.pop_front();
                    }
                    self.len += bytes.len();
                    self.added_total += bytes.len() as u64;
                    self.pieces.push_front(Piece::Owned(bytes));
                    continue;
                }
            };
            let sent = match socket.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => sent,
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
                Err(err) => return Err(err),
            };
            let is_done = sent == rest.len();
            self.sent_total += sent as u64;
            self.sent += sent;
            if matches!(piece, Piece::Owned(_)) {
                self.len -= sent;
            }
            if is_done {
                self.sent = 0;
                self.pieces.pop_front();
            }
        }
        Ok(())
    }
}

/// Sends bytes on a connection that a [`Session`] took over. Clones share the connection.
#[derive(Clone)]
pub struct Outbox(Arc<Connection>);

impl Outbox {
    /// Adds bytes to send.
    ///
    /// # Errors
    /// The connection is closed or finished.
    pub fn send(&self, bytes: Vec<u8>) -> Result<(), Disconnected> {
        self.0.add(|out| out.push(Piece::Owned(bytes)))
    }

    /// Closes the connection after the last byte. Nothing can be added from now on.
    pub fn finish(&self) {
        // An error means that the connection is closed already.
        let _ = self.0.add(|out| out.finished = true);
    }

    /// Ready when at most 32 KiB are unsent.
    pub fn poll_room(&self, context: &Context<'_>) -> Poll<Result<(), Disconnected>> {
        let mut out = self.0.out();
        if out.closed || out.finished {
            return Poll::Ready(Err(Disconnected));
        }
        if out.len <= ROOM_BYTES {
            return Poll::Ready(Ok(()));
        }
        out.waiting = Some(context.waker().clone());
        Poll::Pending
    }
}

/// Responds to one request, from any thread. If it is dropped without a response, the client gets
/// status 500.
pub struct Responder {
    connection: Arc<Connection>,
    is_head: bool,
    is_done: bool,
}

impl Responder {
    pub(super) fn new(connection: Arc<Connection>, is_head: bool) -> Self {
        Self { connection, is_head, is_done: false }
    }

    /// Sends the response. A client that has closed the connection gets nothing.
    pub fn respond(mut self, response: Response) {
        self.is_done = true;
        send(&self.connection, response, self.is_head);
    }

    /// For the session of [`Self::take_over`], which must be called before anything is sent.
    pub fn outbox(&self) -> Outbox {
        Outbox(self.connection.clone())
    }

    /// Sends `head`, the complete head of a response, and hands the connection to `session`.
    ///
    /// # Errors
    /// The client has closed the connection. [`Session::closed`] is not called.
    pub fn take_over(
        mut self,
        head: Vec<u8>,
        session: Arc<dyn Session>,
    ) -> Result<(), Disconnected> {
        self.is_done = true;
        self.connection.add(|out| {
            out.push(Piece::Owned(head));
            out.new_session = Some(session);
        })
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if !self.is_done {
            send(&self.connection, NO_REPLY.response(), self.is_head);
        }
    }
}

fn send(connection: &Arc<Connection>, response: Response, is_head: bool) {
    let (head, body) = response.into_parts();
    // An error means that the client closed the connection.
    let _ = connection.add(|out| {
        out.push(Piece::Owned(head));
        if !is_head {
            out.push(match body {
                Body::Owned(bytes) => Piece::Owned(bytes),
                Body::Static(bytes) => Piece::Static(bytes),
                Body::File(file, len) => Piece::File(file, len),
            });
        }
        out.finished = true;
    });
}

/// Time limit for a client to receive what was unsent when the time began.
pub struct SendDeadline {
    since: Instant,
    /// [`Progress::added`] at that time.
    target: u64,
}

impl SendDeadline {
    /// Begins, continues or ends the deadline `current`. An error means that the client was too
    /// slow.
    pub fn update(
        current: &mut Option<Self>,
        progress: Progress,
        now: Instant,
        limit: Duration,
    ) -> Result<(), Disconnected> {
        match current {
            _ if progress.sent == progress.added => *current = None,
            Some(it) if progress.sent < it.target => {
                if now.duration_since(it.since) > limit {
                    return Err(Disconnected);
                }
            }
            _ => *current = Some(Self { since: now, target: progress.added }),
        }
        Ok(())
    }

    /// The time from which on the client has not received what was unsent then.
    pub fn since(&self) -> Instant {
        self.since
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::text;

    /// A socket that takes `room` bytes and then would block.
    struct Full {
        room: usize,
    }

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.room);
            self.room -= taken;
            if taken == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(taken) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn connection() -> Arc<Connection> {
        let poll = mio::Poll::new().unwrap();
        let waker = mio::Waker::new(poll.registry(), mio::Token(0)).unwrap();
        Connection::new(&Arc::new(Notifier::new(waker)), 0)
    }

    #[test]
    fn file_is_loaded_and_counted_piece_by_piece() {
        const FILE_BYTES: usize = 10 * FILE_PIECE_BYTES;
        let path = std::env::temp_dir().join(format!("outbox-test-{}", std::process::id()));
        std::fs::write(&path, vec![b'x'; FILE_BYTES]).unwrap();
        let connection = connection();
        let body = Body::File(File::open(&path).unwrap(), FILE_BYTES as u64);
        Responder::new(connection.clone(), false).respond(Response::new(200, body));
        let first = connection.send_to(&mut Full { room: 1000 }).unwrap();
        assert!(first.added < 1000 + FILE_PIECE_BYTES as u64, "{first:?}");
        assert_eq!((first.sent, first.finished), (1000, true));
        assert!(connection.notifier.buffered.load(Ordering::Relaxed) <= FILE_PIECE_BYTES);
        let all = connection.send_to(&mut Full { room: usize::MAX }).unwrap();
        assert_eq!(all.sent, all.added);
        assert!(all.sent > FILE_BYTES as u64);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn dropped_responder_sends_status_500() {
        let connection = connection();
        drop(Responder::new(connection.clone(), false));
        let mut sent = Vec::new();
        let progress = connection.send_to(&mut sent).unwrap();
        assert!(sent.starts_with(b"HTTP/1.1 500 ") && progress.finished);
        let late = Outbox(connection).send(Vec::from("late"));
        assert_eq!(late, Err(Disconnected));
    }

    #[test]
    fn closed_connection_frees_its_bytes() {
        let connection = connection();
        Responder::new(connection.clone(), false).respond(text(200, "hello"));
        assert!(connection.notifier.buffered.load(Ordering::Relaxed) > 0);
        connection.close();
        assert_eq!(connection.notifier.buffered.load(Ordering::Relaxed), 0);
    }
}
