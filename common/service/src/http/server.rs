//! The event loop: accepts connections, reads requests, and sends what the outboxes contain.

use super::limits::{
    BUFFERS_BYTES_MAX, ConnectionLimit, DRAIN_TIME, Full, IDLE_TIME, REQUEST_TIME, RESPONSE_TIME,
    SOCKET_BUFFER_BYTES, STACK_BYTES, client_of,
};
use super::outbox::{Connection, Notifier, Progress, Responder, SendDeadline, Session};
use super::request::{ReadOutcome, Request, RequestReader};
use super::response::{BUSY, LATE, NO_WEBSOCKETS, Refusal, Response, TOO_MANY};
use crate::exit::{EXIT_TEMPORARY, exit};
use crate::panic_guard::guarded;
use http::Method;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use slab::Slab;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::io::{self, Read, Write};
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

/// Interval at which deadlines are checked while there are connections.
const TICK: Duration = Duration::from_millis(250);
/// Maximum of bytes that are read from a connection before others have their turn.
const TURN_BYTES: usize = 64 << 10;
/// Maximum of connections that are accepted before others have their turn.
const ACCEPTS_PER_TURN: usize = 64;
/// Size of the buffer that bytes are read into.
const READ_BYTES: usize = 16 << 10;
/// Minimum interval between a failed search for an idle connection to close and the next one for
/// the same or a larger client.
const SEARCH_INTERVAL: Duration = Duration::from_millis(10);
const BACKLOG: i32 = 1024;

const LISTENER: Token = Token(usize::MAX);
const WAKER: Token = Token(usize::MAX - 1);

/// Handles the requests of a service. Any `Fn(&Request) -> Response` is a handler that rejects
/// websockets. All methods run on the thread of the event loop and must not block.
pub trait Handler: Send + 'static {
    /// Responds to a request, now or later from another thread.
    fn answer(&self, request: Request, responder: Responder);

    /// Responds to a websocket handshake.
    fn websocket(&self, _handshake: Request, responder: Responder) {
        responder.respond(NO_WEBSOCKETS.response());
    }
}

impl<F: Fn(&Request) -> Response + Send + 'static> Handler for F {
    fn answer(&self, request: Request, responder: Responder) {
        responder.respond(self(&request));
    }
}

/// The limits of a listener.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// Maximum number of open connections. It is lower if the process has too few file descriptors
    /// for all its listeners. One client can have three quarters of them. A further connection gets
    /// the place of one that has sent no complete request for a second, or has its response but
    /// does not close its side, else status 503 or 429.
    pub connections: usize,
    /// Addresses of proxies. They have no limit per client, and the last address in their
    /// X-Forwarded-For is the address of the client.
    pub proxies: Vec<IpAddr>,
}

/// The listener could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("listen for HTTP on {addr}")]
pub struct Error {
    addr: SocketAddr,
    source: io::Error,
}

/// A listener, which lives until the process ends.
#[derive(Clone)]
pub struct Listener {
    /// The bound address. For port 0 it contains the assigned port.
    pub addr: SocketAddr,
    notifier: Arc<Notifier>,
}

impl Listener {
    /// Bytes that clients have not received yet.
    pub fn unsent_bytes(&self) -> usize {
        self.notifier.buffered.load(Ordering::Acquire)
    }
}

/// Listens on `addr` until the process ends. The address `::` means all addresses of IPv6 and IPv4;
/// where there is no IPv6, those of IPv4.
///
/// If the event loop fails, the process exits with code 75. Otherwise a service that no longer
/// responds would look healthy.
///
/// # Errors
/// The address cannot be bound, or the thread could not be started.
pub fn serve(addr: SocketAddr, limits: Limits, handler: impl Handler) -> Result<Listener, Error> {
    open(addr, limits, handler).map_err(|source| Error { addr, source })
}

fn open(addr: SocketAddr, limits: Limits, handler: impl Handler) -> io::Result<Listener> {
    let listener = match bind(addr) {
        Err(err) if addr.ip() == Ipv6Addr::UNSPECIFIED && is_unsupported(&err) => {
            bind((Ipv4Addr::UNSPECIFIED, addr.port()).into())?
        }
        bound => bound?,
    };
    let addr = listener.local_addr()?;
    let mut server = Server::new(listener, limits, handler)?;
    let notifier = server.notifier.clone();
    thread::Builder::new().name("http".into()).stack_size(STACK_BYTES).spawn(move || {
        let Err(err) = server.run();
        log::error!(error:% = err; "the HTTP thread failed, exiting with code 75");
        exit(EXIT_TEMPORARY);
    })?;
    Ok(Listener { addr, notifier })
}

fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    let family = if addr.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if addr.is_ipv6() {
        // The system's default may be IPv6 only.
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    // Accepted connections inherit both.
    sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES)?;
    sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER_BYTES)?;
    rustix::net::bind(&socket, &addr)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

/// True if this machine has no IPv6.
fn is_unsupported(err: &io::Error) -> bool {
    use rustix::io::Errno;
    let codes = [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL];
    codes.iter().any(|code| err.raw_os_error() == Some(code.raw_os_error()))
}

struct Server<H> {
    poll: Poll,
    listener: TcpListener,
    notifier: Arc<Notifier>,
    handler: H,
    limit: ConnectionLimit,
    proxies: Vec<IpAddr>,
    connections: Slab<Entry>,
    /// Bytes of incomplete requests.
    input_bytes: usize,
    /// Connections that had their turn, but have more to read.
    unread: BTreeSet<usize>,
    /// True if connections may wait to be accepted.
    must_accept: bool,
    accept_failed: bool,
    /// When the last search for an idle connection failed, and the number of connections of the
    /// client for which it was.
    failed_search: Option<(Instant, usize)>,
    refusals: RefusalLog,
    buffer: Vec<u8>,
}

/// A connection of the event loop.
struct Entry {
    socket: TcpStream,
    client: IpAddr,
    is_proxy: bool,
    opened: Instant,
    phase: Phase,
    shared: Arc<Connection>,
    deadline: Option<SendDeadline>,
}

enum Phase {
    /// The request is incomplete.
    Reading(Box<RequestReader>),
    /// The request is being handled, or the response is being sent. Counts the bytes that the
    /// client sent meanwhile, which are discarded.
    Responding {
        client_closed: bool,
        discarded: usize,
    },
    Session(Arc<dyn Session>),
    /// The response is sent. Closing with unread bytes would reset the connection, and the reset
    /// can overtake the response. So bytes are discarded until the client closes its side.
    Draining {
        since: Instant,
        discarded: usize,
    },
}

impl<H: Handler> Server<H> {
    fn new(mut listener: TcpListener, limits: Limits, handler: H) -> io::Result<Self> {
        let poll = Poll::new()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let notifier = Arc::new(Notifier::new(Waker::new(poll.registry(), WAKER)?));
        Ok(Self {
            poll,
            listener,
            notifier,
            handler,
            limit: ConnectionLimit::reserve(limits.connections),
            proxies: limits.proxies.into_iter().map(|it| it.to_canonical()).collect(),
            connections: Slab::new(),
            input_bytes: 0,
            unread: BTreeSet::new(),
            must_accept: false,
            accept_failed: false,
            failed_search: None,
            refusals: RefusalLog(None),
            buffer: vec![0; READ_BYTES],
        })
    }

    fn run(&mut self) -> io::Result<std::convert::Infallible> {
        let mut events = Events::with_capacity(256);
        let mut swept = Instant::now();
        loop {
            let timeout = if self.must_accept || !self.unread.is_empty() {
                Some(Duration::ZERO)
            } else {
                (self.accept_failed || !self.connections.is_empty()).then_some(TICK)
            };
            match self.poll.poll(&mut events, timeout) {
                Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            }
            for key in mem::take(&mut self.unread) {
                self.read(key);
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.must_accept = true,
                    WAKER => {}
                    Token(key) => {
                        if event.is_writable() {
                            self.send(key);
                        }
                        if event.is_readable() || event.is_error() {
                            self.read(key);
                        }
                    }
                }
            }
            for connection in self.notifier.take_changed() {
                connection.listen_for_changes();
                self.apply(&connection);
                self.shed();
            }
            if self.must_accept {
                self.accept();
            }
            if swept.elapsed() >= TICK {
                swept = Instant::now();
                self.sweep(swept);
                self.must_accept |= mem::take(&mut self.accept_failed);
            }
        }
    }

    fn accept(&mut self) {
        for _ in 0..ACCEPTS_PER_TURN {
            match self.listener.accept() {
                Ok((socket, addr)) => self.admit(socket, addr.ip().to_canonical()),
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {
                    self.must_accept = false;
                    return;
                }
                Err(err) if err.kind() == io::ErrorKind::ConnectionAborted => {}
                // Most likely no file descriptors are left. Until some are free, the connection
                // waits in the kernel's backlog.
                Err(err) => {
                    self.refusals.log(&err);
                    (self.must_accept, self.accept_failed) = (false, true);
                    return;
                }
            }
        }
    }

    fn admit(&mut self, socket: TcpStream, address: IpAddr) {
        let is_proxy = self.proxies.contains(&address);
        let client = client_of(address);
        if let Err(full) = self.limit.add(client, is_proxy) {
            let refusal = if full == Full::Total { &BUSY } else { &TOO_MANY };
            if !self.close_idle(full, client) || self.limit.add(client, is_proxy).is_err() {
                self.refusals.log(&refusal.reason);
                // The response fits into the empty send buffer.
                let _ = (&socket).write(&refusal.to_bytes());
                return;
            }
        }
        if let Err(err) = self.insert(socket, address, client, is_proxy) {
            self.limit.remove(client);
            self.refusals.log(&err);
        }
    }

    fn insert(
        &mut self,
        mut socket: TcpStream,
        address: IpAddr,
        client: IpAddr,
        is_proxy: bool,
    ) -> io::Result<()> {
        socket.set_nodelay(true)?;
        let slot = self.connections.vacant_entry();
        let key = slot.key();
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut socket, Token(key), interest)?;
        slot.insert(Entry {
            socket,
            client,
            is_proxy,
            opened: Instant::now(),
            phase: Phase::Reading(Box::new(RequestReader::new(address))),
            shared: Connection::new(&self.notifier, key),
            deadline: None,
        });
        Ok(())
    }

    /// Closes a connection that waits for its client in favour of a new one of `client`. It has no
    /// complete request, or its response is sent. The choice is the oldest one after
    /// [`IDLE_TIME`], or at any age one of a client that has more connections than `client`, most
    /// of all. If `client` has too many itself, it must be its own connection. Returns false if it
    /// found no such connection.
    fn close_idle(&mut self, full: Full, client: IpAddr) -> bool {
        let now = Instant::now();
        let own = self.limit.count(client);
        // A search for a client with fewer connections may succeed all the same.
        let is_early = |(last, count)| own >= count && now.duration_since(last) < SEARCH_INTERVAL;
        if own > 0 && self.failed_search.is_some_and(is_early) {
            return false;
        }
        self.failed_search = Some((now, own));
        let rank = |entry: &Entry| {
            let count = self.limit.count(entry.client);
            let is_old = now.duration_since(entry.opened) >= IDLE_TIME;
            let fits = match full {
                Full::Client => entry.client == client && is_old,
                Full::Total => is_old || count > own + 1,
            };
            // Many can be drained at the same time, since those opened together time out together.
            let waits = matches!(entry.phase, Phase::Reading(_) | Phase::Draining { .. });
            (fits && waits).then_some((count, Reverse(entry.opened)))
        };
        let ranked = self.connections.iter();
        let ranked = ranked.filter_map(|(key, entry)| Some((rank(entry)?, key)));
        let Some((_, key)) = ranked.max() else { return false };
        self.close(key);
        // The next one may be idle as well.
        self.failed_search = None;
        true
    }

    /// Reads until the socket would block or the turn is over.
    fn read(&mut self, key: usize) {
        let mut turn = 0;
        loop {
            if turn >= TURN_BYTES {
                self.unread.insert(key);
                return;
            }
            let Some(entry) = self.connections.get_mut(key) else { return };
            match entry.socket.read(&mut self.buffer) {
                Ok(0) => return self.client_closed(key),
                Ok(len) => {
                    turn += len;
                    if !self.received(key, len) {
                        return;
                    }
                }
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.close(key),
            }
        }
    }

    fn client_closed(&mut self, key: usize) {
        match self.connections.get_mut(key).map(|entry| &mut entry.phase) {
            // It may have closed its sending side only.
            Some(Phase::Responding { client_closed, .. }) => *client_closed = true,
            _ => self.close(key),
        }
    }

    /// Handles the first `len` bytes of the buffer. False if no more must be read now.
    fn received(&mut self, key: usize, len: usize) -> bool {
        let bytes = &self.buffer[..len];
        let entry = &mut self.connections[key];
        match &mut entry.phase {
            Phase::Session(session) => {
                if guarded(|| session.received(bytes)).is_none() {
                    self.close(key);
                    return false;
                }
            }
            Phase::Responding { discarded, .. } | Phase::Draining { discarded, .. } => {
                *discarded += len;
                if *discarded > TURN_BYTES {
                    // The client sends without end. The rest stays in the kernel.
                    return false;
                }
            }
            Phase::Reading(reader) => {
                let before = reader.len();
                let outcome = reader.add(bytes);
                self.input_bytes = self.input_bytes + reader.len() - before;
                self.outcome(key, outcome);
                self.shed();
            }
        }
        true
    }

    fn outcome(&mut self, key: usize, outcome: ReadOutcome) {
        match outcome {
            ReadOutcome::Incomplete => {}
            ReadOutcome::Continue => {
                let socket = &mut self.connections[key].socket;
                // It fits into the empty send buffer.
                if socket.write(b"HTTP/1.1 100 Continue\r\n\r\n").is_err() {
                    self.close(key);
                }
            }
            ReadOutcome::Refused(refusal) => self.refuse(key, refusal),
            ReadOutcome::Request { mut request, more } => {
                let entry = &mut self.connections[key];
                if entry.is_proxy
                    && let Some(client) = request.list("x-forwarded-for").last()
                    && let Ok(client) = client.parse::<IpAddr>()
                {
                    request.address = client.to_canonical();
                }
                let shared = entry.shared.clone();
                let responder = Responder::new(shared.clone(), request.method == Method::HEAD);
                self.respond(key, usize::from(more));
                // After a panic the client gets status 500, since the responder was dropped.
                guarded(|| {
                    if request.is_websocket {
                        self.handler.websocket(request, responder);
                    } else {
                        self.handler.answer(request, responder);
                    }
                });
                // Many responses at once would use too much memory.
                self.apply(&shared);
            }
        }
    }

    /// Ends the phase in which the request is read.
    fn respond(&mut self, key: usize, discarded: usize) {
        let phase = Phase::Responding { client_closed: false, discarded };
        let before = mem::replace(&mut self.connections[key].phase, phase);
        self.forget_input(&before);
    }

    fn forget_input(&mut self, phase: &Phase) {
        if let Phase::Reading(reader) = phase {
            self.input_bytes -= reader.len();
        }
    }

    fn refuse(&mut self, key: usize, refusal: &Refusal) {
        log::debug!(status = refusal.status, error = refusal.reason; "request rejected");
        self.respond(key, 0);
        Responder::new(self.connections[key].shared.clone(), false).respond(refusal.response());
    }

    /// Sends what another thread has added, unless the connection was closed meanwhile.
    fn apply(&mut self, connection: &Arc<Connection>) {
        let key = connection.key;
        let Some(entry) = self.connections.get_mut(key) else { return };
        if !Arc::ptr_eq(&entry.shared, connection) {
            return;
        }
        if let Some(session) = connection.take_new_session() {
            entry.phase = Phase::Session(session);
            // The client may have sent bytes or closed its side before.
            self.unread.insert(key);
        }
        self.send(key);
    }

    fn send(&mut self, key: usize) {
        let Some(entry) = self.connections.get_mut(key) else { return };
        match entry.shared.send_to(&mut entry.socket) {
            Ok(progress) if progress.finished && progress.sent == progress.added => {
                self.drain(key);
            }
            Ok(progress) => self.check_deadline(key, progress, Instant::now()),
            Err(_) => self.close(key),
        }
    }

    fn check_deadline(&mut self, key: usize, progress: Progress, now: Instant) {
        let deadline = &mut self.connections[key].deadline;
        if SendDeadline::update(deadline, progress, now, RESPONSE_TIME).is_err() {
            self.close(key);
        }
    }

    /// The last byte is sent.
    fn drain(&mut self, key: usize) {
        let entry = &mut self.connections[key];
        entry.deadline = None;
        let since = Instant::now();
        let draining = Phase::Draining { since, discarded: 0 };
        match mem::replace(&mut entry.phase, draining) {
            Phase::Responding { client_closed: true, .. } => return self.close(key),
            Phase::Draining { since, discarded } => {
                entry.phase = Phase::Draining { since, discarded };
                return;
            }
            Phase::Session(session) => {
                let _ = guarded(|| session.closed());
            }
            Phase::Responding { .. } | Phase::Reading(_) => {}
        }
        if self.connections[key].socket.shutdown(Shutdown::Write).is_err() {
            self.close(key);
        } else {
            self.unread.insert(key);
        }
    }

    /// Checks all deadlines.
    fn sweep(&mut self, now: Instant) {
        let keys: Vec<usize> = self.connections.iter().map(|(key, _)| key).collect();
        for key in keys {
            let Some(entry) = self.connections.get_mut(key) else { continue };
            match &entry.phase {
                Phase::Reading(_) if now.duration_since(entry.opened) > REQUEST_TIME => {
                    self.refuse(key, &LATE);
                }
                Phase::Draining { since, .. } if now.duration_since(*since) > DRAIN_TIME => {
                    self.close(key);
                }
                Phase::Session(session) => {
                    if guarded(|| session.tick(now)).is_some() {
                        self.send(key);
                    } else {
                        self.close(key);
                    }
                }
                Phase::Responding { .. } => self.send(key),
                Phase::Reading(_) | Phase::Draining { .. } => {}
            }
        }
    }

    /// Closes connections while requests and responses use too much memory.
    fn shed(&mut self) {
        while self.input_bytes + self.notifier.buffered.load(Ordering::Relaxed) > BUFFERS_BYTES_MAX
        {
            let since = |entry: &Entry| match &entry.phase {
                Phase::Reading(reader) => (reader.len() > 0).then_some(entry.opened),
                _ => entry.deadline.as_ref().map(SendDeadline::since),
            };
            let stalled = self.connections.iter();
            let stalled = stalled.filter_map(|(key, entry)| Some((since(entry)?, key)));
            let Some((_, key)) = stalled.min() else { return };
            self.refusals.log(&"requests and responses use too much memory");
            self.close(key);
        }
    }

    fn close(&mut self, key: usize) {
        let Some(mut entry) = self.connections.try_remove(key) else { return };
        let _ = self.poll.registry().deregister(&mut entry.socket);
        self.limit.remove(entry.client);
        self.forget_input(&entry.phase);
        entry.shared.close();
        if let Phase::Session(session) = entry.phase {
            let _ = guarded(|| session.closed());
        }
    }
}

/// Logs the reason why connections are refused, at most once per 10 s, so that an attack does not
/// fill the log. Holds the time of the last line.
struct RefusalLog(Option<Instant>);

impl RefusalLog {
    fn log(&mut self, reason: &dyn Display) {
        if self.0.is_none_or(|last| last.elapsed() > Duration::from_secs(10)) {
            log::warn!(error:% = reason; "refusing connections");
            self.0 = Some(Instant::now());
        }
    }
}
