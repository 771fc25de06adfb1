//! The door: HTTP from outside, bounded and checked before tiny_http sees it.
//!
//! tiny_http 0.12 can't face a network: one request with a huge Content-Length aborts the process, an error of accept
//! closes its listener for good, half-sent bodies block its workers, heads and pipelines grow without end. So the
//! visitors come here. Each has a thread that reads one whole request within limits, refuses what is not plain HTTP, and
//! hands the rest to tiny_http over a unix socket, with a head made anew. One connection carries one request.
//!
//! The unix socket has an abstract name (Linux), since an image from scratch has no folder to write to. Such a name has no
//! permissions: whoever shares the network namespace, and so reaches the brokers as well, can pass the door by.

use crate::exit::EXIT_TEMPORARY;
use std::fmt::Display;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{self as unix, UnixListener, UnixStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tiny_http::{Header, Request, Response};
use uuid::Uuid;

/// Longest head of a request, bytes.
pub const HEAD_BYTES_MAX: usize = 8 << 10;
/// Longest body of a request, bytes.
pub const BODY_BYTES_MAX: usize = 64 << 10;
/// Most headers of a request.
pub const HEADERS_MAX: usize = 64;
/// Time a visitor has to send the whole request.
pub const REQUEST_TIME: Duration = Duration::from_secs(5);
/// Time a visitor has to take the next part of the reply, at most [`PART_BYTES`].
pub const REPLY_PART_TIME: Duration = Duration::from_secs(10);

const PART_BYTES: usize = 8 << 10;
const STACK_BYTES: usize = 256 << 10;
/// A visitor costs its socket, our end of the unix socket, and tiny_http's end of it twice.
const DESCRIPTORS_PER_VISITOR: usize = 4;
/// Left for everything that is not a visitor.
const DESCRIPTORS_RESERVED: usize = 64;
/// A door has room for these even where descriptors are few.
const VISITORS_MIN: usize = 4;

/// What a service does with its visitors. Any `Fn(Request)` is a handler that refuses websockets.
pub trait Handler: Send + Sync + 'static {
    /// Answers a request, whose body is here already; many threads do so at once. A reply of its own making, by
    /// [`Request::into_writer`], is flushed part by part; the visitor is gone when a write fails.
    fn answer(&self, request: Request);

    /// Takes over a visitor who asks for a websocket and has got no answer yet, on a thread of its own with 256 KiB of
    /// stack, and keeps a place until it returns. A write that takes longer than [`REPLY_PART_TIME`] fails; reads wait for
    /// ever.
    fn websocket(&self, _handshake: Handshake, visitor: TcpStream) {
        refuse(&visitor, &NO_WEBSOCKETS);
    }
}

impl<F: Fn(Request) + Send + Sync + 'static> Handler for F {
    fn answer(&self, request: Request) {
        self(request);
    }
}

/// The first request of a websocket, as it came: nothing but its form is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake {
    /// Path and query.
    pub target: String,
    /// Names as sent, and values.
    pub headers: Vec<(String, String)>,
}

/// How many a door lets in.
#[derive(Debug, Clone, Copy)]
pub struct Capacity {
    /// Threads that answer requests. A reply of more than about 200 kB, what the sockets buffer, keeps one until the visitor
    /// has taken the rest.
    pub workers: usize,
    /// Open connections; fewer where the process has too few descriptors for all its doors. Others hear 503.
    pub visitors: usize,
}

/// The door could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("listen for HTTP on {addr}")]
pub struct Error {
    addr: SocketAddr,
    source: io::Error,
}

/// `port` on every address of this machine: IPv6 and IPv4 with one socket, or IPv4 alone where there is no IPv6.
pub fn everywhere(port: u16) -> [SocketAddr; 2] {
    [(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()]
}

/// Opens a door on the first of `addrs` that can be had, until the process ends. Gives the address, with the real port for
/// port 0.
///
/// Should tiny_http stop answering, the process exits 75: started again it is whole, and half a service would look alive.
///
/// # Errors
/// None of `addrs` can be had, or the system refuses a thread or a socket.
pub fn serve(
    addrs: &[SocketAddr],
    capacity: Capacity,
    handler: impl Handler,
) -> Result<SocketAddr, Error> {
    let addr = addrs.first().copied().unwrap_or_else(|| (Ipv4Addr::UNSPECIFIED, 0).into());
    open(addrs, capacity, handler).map_err(|source| Error { addr, source })
}

/// A reply with a text; `content_type` is ASCII.
pub fn reply(
    status: u16,
    content_type: &'static str,
    body: impl Into<Vec<u8>>,
) -> Response<io::Cursor<Vec<u8>>> {
    let header = Header::from_bytes("Content-Type", content_type).expect("it is ASCII");
    Response::from_data(body).with_status_code(status).with_header(header)
}

/// A reply with a short text for people; the line end is added.
pub fn text(status: u16, line: &str) -> Response<io::Cursor<Vec<u8>>> {
    reply(status, "text/plain; charset=utf-8", format!("{line}\n"))
}

fn open(addrs: &[SocketAddr], capacity: Capacity, handler: impl Handler) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(addrs)?;
    let addr = listener.local_addr()?;

    let inside =
        unix::SocketAddr::from_abstract_name(format!("scratchbank-http-{}", Uuid::new_v4()))?;
    let server = tiny_http::Server::from_listener(UnixListener::bind_addr(&inside)?, None)
        .map_err(io::Error::other)?;
    // Never dropped, as the workers never end: tiny_http panics when it drops a server without a path.
    let server = Arc::new(server);
    let handler = Arc::new(handler);
    for _ in 0..capacity.workers.max(1) {
        let (server, handler) = (server.clone(), handler.clone());
        thread::Builder::new().name("http-worker".into()).spawn(move || {
            loop {
                match server.recv() {
                    Ok(request) => handler.answer(request),
                    Err(err) => {
                        log::error!(err:%; "tiny_http has stopped, ending the process");
                        std::process::exit(EXIT_TEMPORARY.into());
                    }
                }
            }
        })?;
    }

    let visitors_max = take_places(capacity.visitors);
    thread::Builder::new()
        .name("http-door".into())
        .stack_size(STACK_BYTES)
        .spawn(move || let_in(&listener, visitors_max, &Arc::new(inside), &handler))?;
    Ok(addr)
}

/// Places for visitors that this process has descriptors for, at most `wanted`, and taken from those of the next door.
fn take_places(wanted: usize) -> usize {
    static TAKEN: AtomicUsize = AtomicUsize::new(0);
    let all = descriptors_max().saturating_sub(DESCRIPTORS_RESERVED) / DESCRIPTORS_PER_VISITOR;
    let places = wanted.min(all.saturating_sub(TAKEN.load(Ordering::Relaxed))).max(VISITORS_MIN);
    TAKEN.fetch_add(places, Ordering::Relaxed);
    places
}

/// The soft limit of open files; where it can't be read, what most systems have.
fn descriptors_max() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    match line.and_then(|line| line.split_whitespace().next()) {
        Some("unlimited") => usize::MAX,
        soft => soft.and_then(|soft| soft.parse().ok()).unwrap_or(1024),
    }
}

/// Accepts for ever; `inside` also counts: each visitor's thread holds a clone.
fn let_in(
    listener: &TcpListener,
    visitors_max: usize,
    inside: &Arc<unix::SocketAddr>,
    handler: &Arc<impl Handler>,
) {
    let mut trouble = Trouble(None);
    loop {
        let visitor = match listener.accept() {
            Ok((visitor, _)) => visitor,
            // Most likely no descriptors are left. The visitor waits in the kernel's queue until there are some.
            Err(err) => {
                trouble.log(&err);
                thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        if Arc::strong_count(inside) > visitors_max {
            trouble.log(&BUSY.reason);
            // This fits into the empty buffer of a new socket, so it does not wait.
            let _ = (&visitor).write_all(&BUSY.to_bytes());
            continue;
        }
        let (inside, handler) = (inside.clone(), handler.clone());
        let thread = thread::Builder::new().name("http-visitor".into()).stack_size(STACK_BYTES);
        let spawned = thread.spawn(move || {
            // An error means that the visitor left.
            let _ = visit(visitor, &inside, &*handler);
        });
        if let Err(err) = spawned {
            trouble.log(&err);
        }
    }
}

/// Logs why visitors are not let in, at most each ten seconds: an attack must not fill the log. When it last did.
struct Trouble(Option<Instant>);

impl Trouble {
    fn log(&mut self, reason: &dyn Display) {
        if self.0.is_none_or(|last| last.elapsed() > Duration::from_secs(10)) {
            log::warn!(reason:%; "not all visitors are let in");
            self.0 = Some(Instant::now());
        }
    }
}

/// One visitor, one request.
fn visit(visitor: TcpStream, inside: &unix::SocketAddr, handler: &impl Handler) -> io::Result<()> {
    visitor.set_nodelay(true)?;
    match read_request(&mut Timed::new(&visitor, REQUEST_TIME)) {
        Ok(Ask::Answer { request, more }) => {
            let Ok(mut inner) = enter(&visitor, inside) else {
                refuse(&visitor, &BUSY);
                return Ok(());
            };
            inner.write_all(&request)?;
            relay(&mut inner, &visitor)?;
            if more {
                listen_to_the_end(&visitor);
            }
        }
        Ok(Ask::WebSocket(handshake)) => {
            visitor.set_read_timeout(None)?;
            visitor.set_write_timeout(Some(REPLY_PART_TIME))?;
            handler.websocket(handshake, visitor);
        }
        Ok(Ask::Refuse(refusal)) => refuse(&visitor, refusal),
        Err(err) if err.kind() == io::ErrorKind::TimedOut => refuse(&visitor, &LATE),
        Err(err) => return Err(err),
    }
    Ok(())
}

/// Connects to tiny_http, which panics or goes deaf if it finds no descriptors for its side: so only if there are enough, and
/// one after the other, since looking takes them for a moment. Should others take the last ones before tiny_http has its
/// own, the process ends and is started again.
fn enter(visitor: &TcpStream, inside: &unix::SocketAddr) -> io::Result<UnixStream> {
    static ONE_BY_ONE: Mutex<()> = Mutex::new(());
    let _mine = ONE_BY_ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let spare: [_; DESCRIPTORS_PER_VISITOR] = std::array::from_fn(|_| visitor.try_clone());
    if let Some(err) = spare.into_iter().find_map(Result::err) {
        return Err(err);
    }
    UnixStream::connect_addr(inside)
}

/// Copies a reply, with `Connection: close` after its status line: tiny_http leaves that out whoever asks for it.
fn relay(inner: &mut UnixStream, visitor: &TcpStream) -> io::Result<()> {
    let mut part = [0; PART_BYTES];
    let mut len = 0;
    let status_len = loop {
        match inner.read(&mut part[len..]) {
            // Nothing comes, or no line end for a whole part: that is no reply.
            Ok(0) => {
                refuse(visitor, &NO_REPLY);
                return Ok(());
            }
            Ok(n) => len += n,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
        if let Some(at) = part[..len].windows(2).position(|end| end == b"\r\n") {
            break at + 2;
        }
    };
    let first = [&part[..status_len], b"Connection: close\r\n", &part[status_len..len]].concat();
    Timed::new(visitor, REPLY_PART_TIME).write_all(&first)?;
    loop {
        match inner.read(&mut part) {
            Ok(0) => return Ok(()),
            Ok(n) => Timed::new(visitor, REPLY_PART_TIME).write_all(&part[..n])?,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
}

/// Says no. A visitor who has left does not hear it.
fn refuse(visitor: &TcpStream, refusal: &Refusal) {
    log::debug!(status = refusal.status, reason = refusal.reason; "request refused");
    if Timed::new(visitor, REPLY_PART_TIME).write_all(&refusal.to_bytes()).is_ok() {
        listen_to_the_end(visitor);
    }
}

/// Closing a socket with unread bytes resets the connection, and the reset can overtake the reply: so reads a visitor who
/// may still be sending, for a while, until it has closed its side.
fn listen_to_the_end(visitor: &TcpStream) {
    if visitor.shutdown(Shutdown::Write).is_ok() {
        let rest = Timed::new(visitor, Duration::from_secs(1)).take(1 << 20);
        let _ = io::copy(&mut { rest }, &mut io::sink());
    }
}

/// A socket on which all reads and writes together end by a deadline, else they fail as `TimedOut`.
pub(crate) struct Timed<'a> {
    socket: &'a TcpStream,
    deadline: Instant,
}

impl<'a> Timed<'a> {
    pub(crate) fn new(socket: &'a TcpStream, time: Duration) -> Self {
        Self { socket, deadline: Instant::now() + time }
    }

    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(self.left()?)?;
        self.socket.read(buffer).map_err(timed_out)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(self.left()?)?;
        self.socket.write(bytes).map_err(timed_out)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Linux reports a time-out of a socket as `WouldBlock`.
fn timed_out(err: io::Error) -> io::Error {
    if err.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { err }
}

/// What a visitor wants.
#[derive(Debug, PartialEq, Eq)]
enum Ask {
    /// An answer to `request`, made anew; `more` came behind it, which gets none.
    Answer {
        request: Vec<u8>,
        more: bool,
    },
    WebSocket(Handshake),
    Refuse(&'static Refusal),
}

/// Reads one whole request.
fn read_request(visitor: &mut (impl Read + Write)) -> io::Result<Ask> {
    const HEAD_END: &[u8] = b"\r\n\r\n";
    let mut bytes = Vec::new();
    let head_len = loop {
        // The end may have begun in the part before.
        let from = bytes.len().saturating_sub(HEAD_END.len() - 1);
        read_part(visitor, &mut bytes)?;
        let end = bytes[from..].windows(HEAD_END.len()).position(|end| end == HEAD_END);
        match end.map(|at| from + at + HEAD_END.len()) {
            Some(len) if len <= HEAD_BYTES_MAX => break len,
            None if bytes.len() < HEAD_BYTES_MAX => {}
            _ => return Ok(Ask::Refuse(&HEAD_TOO_LARGE)),
        }
    };
    let head = match check(&bytes[..head_len]) {
        Ok(head) => head,
        Err(refusal) => return Ok(Ask::Refuse(refusal)),
    };
    let whole = head_len + head.body_len;
    if head.expects_continue && bytes.len() < whole {
        visitor.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    bytes.reserve_exact(whole.saturating_sub(bytes.len()));
    while bytes.len() < whole {
        read_part(visitor, &mut bytes)?;
    }
    let more = bytes.len() > whole;
    Ok(match head.websocket {
        // Bytes behind a handshake can't be a websocket's: its visitor waits for the answer.
        Some(_) if more || head.body_len > 0 => Ask::Refuse(&MALFORMED),
        Some(handshake) => Ask::WebSocket(handshake),
        None => {
            let mut request = head.remade;
            request.extend_from_slice(&bytes[head_len..whole]);
            Ask::Answer { request, more }
        }
    })
}

/// Appends what comes next, at least a byte.
fn read_part(visitor: &mut impl Read, bytes: &mut Vec<u8>) -> io::Result<()> {
    let mut part = [0; 4 << 10];
    loop {
        match visitor.read(&mut part) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                bytes.extend_from_slice(&part[..n]);
                return Ok(());
            }
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
}

/// A head that may pass.
#[derive(Debug)]
struct Head {
    /// For tiny_http: the same request line, one Content-Length, `Connection: close`, nothing that is between two hops.
    remade: Vec<u8>,
    body_len: usize,
    expects_continue: bool,
    websocket: Option<Handshake>,
}

/// Judges a head, from the request line to the empty line.
fn check(head: &[u8]) -> Result<Head, &'static Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        // Nothing but ASCII, as tiny_http hangs up on anything else. A head that ends sooner for httparse than for us
        // (bare line feeds) would let the rest be taken for a second request.
        Ok(httparse::Status::Complete(len)) if len == head.len() && head.is_ascii() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(&HEAD_TOO_LARGE),
        _ => return Err(&MALFORMED),
    }
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
    else {
        return Err(&MALFORMED);
    };

    let mut remade = format!("{method} {target} HTTP/1.{minor}\r\n").into_bytes();
    let (mut length, mut expects_continue, mut websocket) = (None, false, false);
    for header in request.headers.iter() {
        match header.name.to_ascii_lowercase().as_str() {
            "content-length" if length.is_some() => return Err(&BAD_LENGTH),
            "content-length" => length = Some(body_len(header.value)?),
            "transfer-encoding" => return Err(&LENGTH_REQUIRED),
            "expect" if header.value.eq_ignore_ascii_case(b"100-continue") => {
                expects_continue = minor > 0;
            }
            "expect" => return Err(&EXPECTATION_FAILED),
            "upgrade" => websocket |= header.value.eq_ignore_ascii_case(b"websocket"),
            "connection" | "keep-alive" | "proxy-connection" | "te" | "trailer" => {}
            _ => {
                for part in [header.name.as_bytes(), b": ", header.value, b"\r\n"] {
                    remade.extend_from_slice(part);
                }
            }
        }
    }
    if let Some(length) = length {
        remade.extend_from_slice(format!("Content-Length: {length}\r\n").as_bytes());
    }
    remade.extend_from_slice(b"Connection: close\r\n\r\n");

    let handshake = || Handshake {
        target: target.to_owned(),
        headers: request
            .headers
            .iter()
            .map(|header| {
                (header.name.to_owned(), String::from_utf8_lossy(header.value).into_owned())
            })
            .collect(),
    };
    Ok(Head {
        remade,
        body_len: length.unwrap_or(0),
        expects_continue,
        websocket: (websocket && method == "GET").then(handshake),
    })
}

/// The value of Content-Length: digits and nothing else.
fn body_len(value: &[u8]) -> Result<usize, &'static Refusal> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(&BAD_LENGTH);
    }
    // No number of digits only is too large to be refused as too large.
    match str::from_utf8(value).ok().and_then(|digits| digits.parse().ok()) {
        Some(len) if len <= BODY_BYTES_MAX => Ok(len),
        _ => Err(&BODY_TOO_LARGE),
    }
}

/// An answer of the door itself.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    status: &'static str,
    reason: &'static str,
}

const MALFORMED: Refusal =
    Refusal { status: "400 Bad Request", reason: "not an HTTP/1.1 request in ASCII" };
const BAD_LENGTH: Refusal =
    Refusal { status: "400 Bad Request", reason: "Content-Length: expected one, of digits" };
const LATE: Refusal =
    Refusal { status: "408 Request Timeout", reason: "the whole request must come within 5 s" };
const LENGTH_REQUIRED: Refusal = Refusal {
    status: "411 Length Required",
    reason: "Transfer-Encoding is not taken: send a Content-Length",
};
const BODY_TOO_LARGE: Refusal =
    Refusal { status: "413 Content Too Large", reason: "a body has at most 65536 bytes" };
const EXPECTATION_FAILED: Refusal =
    Refusal { status: "417 Expectation Failed", reason: "Expect: 100-continue is all there is" };
const HEAD_TOO_LARGE: Refusal = Refusal {
    status: "431 Request Header Fields Too Large",
    reason: "a head has at most 8192 bytes and 64 headers",
};
const NO_REPLY: Refusal =
    Refusal { status: "500 Internal Server Error", reason: "the service gave no answer" };
const NO_WEBSOCKETS: Refusal =
    Refusal { status: "501 Not Implemented", reason: "there are no websockets here" };
const BUSY: Refusal =
    Refusal { status: "503 Service Unavailable", reason: "too many connections, try again" };

impl Refusal {
    fn to_bytes(&self) -> Vec<u8> {
        let Self { status, reason } = self;
        format!(
            "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Length: {}\r\n\r\n{reason}\n",
            reason.len() + 1
        )
        .into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A visitor whose bytes arrive in pieces of `size`, and who then closes its side.
    struct Pieces<'a> {
        rest: &'a [u8],
        size: usize,
        heard: Vec<u8>,
    }

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let len = self.size.min(buffer.len());
            (&mut self.rest).take(len as u64).read(buffer)
        }
    }

    impl Write for Pieces<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.heard.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn read_in_pieces(bytes: &[u8], size: usize) -> io::Result<Ask> {
        read_request(&mut Pieces { rest: bytes, size, heard: Vec::new() })
    }

    fn read(bytes: &[u8]) -> Ask {
        read_in_pieces(bytes, usize::MAX).unwrap()
    }

    fn passes(bytes: &[u8]) -> bool {
        matches!(read(bytes), Ask::Answer { .. })
    }

    #[test]
    fn a_request_passes_with_its_head_made_anew() {
        let asked = b"PUT /a?b=c HTTP/1.1\r\nHost: bank\r\nContent-Length: 3\r\nConnection: keep-alive, x\r\n\
            TE: identity\r\nUpgrade: h2c\r\nExpect: 100-continue\r\n\r\nabcGET";
        let passed = b"PUT /a?b=c HTTP/1.1\r\nHost: bank\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc";
        assert_eq!(read(asked), Ask::Answer { request: passed.to_vec(), more: true });
    }

    #[test]
    fn one_content_length_of_digits_is_taken_and_nothing_else() {
        for (headers, refusal) in [
            ("Content-Length: 5\r\n", None),
            ("Content-Length: 0005\r\n", None),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", Some(&BAD_LENGTH)),
            ("Content-Length: 5\r\ncontent-length: 6\r\n", Some(&BAD_LENGTH)),
            ("Content-Length: 5, 5\r\n", Some(&BAD_LENGTH)),
            ("Content-Length: +5\r\n", Some(&BAD_LENGTH)),
            ("Content-Length: -5\r\n", Some(&BAD_LENGTH)),
            ("Content-Length: 0x5\r\n", Some(&BAD_LENGTH)),
            ("Content-Length: abc\r\n", Some(&BAD_LENGTH)),
            ("Content-Length:\r\n", Some(&BAD_LENGTH)),
            ("Content-Length : 5\r\n", Some(&MALFORMED)),
            ("Content-Length: 18446744073709551615\r\n", Some(&BODY_TOO_LARGE)),
            ("Content-Length: 18446744073709551616\r\n", Some(&BODY_TOO_LARGE)),
            ("Transfer-Encoding: chunked\r\n", Some(&LENGTH_REQUIRED)),
            ("Transfer-Encoding: identity\r\nContent-Length: 5\r\n", Some(&LENGTH_REQUIRED)),
            ("Expect: a miracle\r\n", Some(&EXPECTATION_FAILED)),
            ("X: \u{e9}\r\n", Some(&MALFORMED)),
            ("X: a\n\nGET / HTTP/1.1\r\n", Some(&MALFORMED)),
        ] {
            let ask = read(format!("POST / HTTP/1.1\r\n{headers}\r\n12345").as_bytes());
            match refusal {
                None => assert!(matches!(ask, Ask::Answer { more: false, .. }), "{headers}"),
                Some(refusal) => assert_eq!(ask, Ask::Refuse(refusal), "{headers}"),
            }
        }
    }

    #[test]
    fn a_head_a_body_and_the_headers_may_reach_their_limits_but_not_pass_them() {
        let head = |len: usize| {
            let around = "GET / HTTP/1.1\r\nX: \r\n\r\n".len();
            format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(len - around)).into_bytes()
        };
        assert!(passes(&head(HEAD_BYTES_MAX)));
        assert_eq!(read(&head(HEAD_BYTES_MAX + 1)), Ask::Refuse(&HEAD_TOO_LARGE));
        assert_eq!(read(&[b'x'; HEAD_BYTES_MAX]), Ask::Refuse(&HEAD_TOO_LARGE), "without end");

        let body = |len: usize| {
            let head = format!("PUT / HTTP/1.1\r\nContent-Length: {len}\r\n\r\n");
            [head.into_bytes(), vec![b'x'; len]].concat()
        };
        assert!(passes(&body(BODY_BYTES_MAX)));
        assert_eq!(read(&body(BODY_BYTES_MAX + 1)), Ask::Refuse(&BODY_TOO_LARGE));

        let headers = |count| format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(count));
        assert!(passes(headers(HEADERS_MAX).as_bytes()));
        assert_eq!(read(headers(HEADERS_MAX + 1).as_bytes()), Ask::Refuse(&HEAD_TOO_LARGE));
    }

    #[test]
    fn a_visitor_who_waits_for_it_is_told_to_go_on() {
        let asked = b"PUT / HTTP/1.1\r\nContent-Length: 1\r\nExpect: 100-Continue\r\n\r\nx";
        for (size, heard) in [(asked.len() - 1, "HTTP/1.1 100 Continue\r\n\r\n"), (asked.len(), "")]
        {
            let mut visitor = Pieces { rest: asked, size, heard: Vec::new() };
            assert!(matches!(read_request(&mut visitor).unwrap(), Ask::Answer { .. }));
            assert_eq!(visitor.heard, heard.as_bytes());
        }
    }

    #[test]
    fn a_handshake_is_kept_with_its_headers() {
        let asked = "GET /graphql HTTP/1.1\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: a\r\n\r\n";
        let headers = [("Upgrade", "WebSocket"), ("Sec-WebSocket-Key", "a")];
        assert_eq!(
            read(asked.as_bytes()),
            Ask::WebSocket(Handshake {
                target: "/graphql".to_owned(),
                headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            })
        );
        assert_eq!(read(format!("{asked}frame").as_bytes()), Ask::Refuse(&MALFORMED));
        assert!(passes(asked.replace("GET", "POST").as_bytes()), "only GET can ask for it");
    }

    #[test]
    fn the_places_are_those_that_descriptors_allow() {
        assert!(descriptors_max() > DESCRIPTORS_RESERVED);
        assert_eq!(take_places(0), VISITORS_MIN);
        assert_eq!(take_places(5), 5);
        assert!(take_places(usize::MAX) < descriptors_max() / DESCRIPTORS_PER_VISITOR);
        assert_eq!(take_places(5), VISITORS_MIN, "the doors before took all");
    }

    /// Bytes that look like requests often enough to reach every corner.
    fn requests() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"GET / HTTP/1.1\r\n".to_vec()),
            Just(b"POST /x HTTP/1.0\r\n".to_vec()),
            Just(b"\r\n".to_vec()),
            Just(b"\r\n\r\n".to_vec()),
            Just(b"\n".to_vec()),
            Just(b"Connection: close\r\n".to_vec()),
            Just(b"Upgrade: websocket\r\n".to_vec()),
            Just(b"Expect: 100-continue\r\n".to_vec()),
            Just(b"Transfer-Encoding: chunked\r\n".to_vec()),
            (0..20_u64).prop_map(|len| format!("Content-Length: {len}\r\n").into_bytes()),
            any::<u64>().prop_map(|len| format!("Content-Length: {len}\r\n").into_bytes()),
            "[A-Za-z-]{1,9}: [ -~]{0,20}\r\n".prop_map(String::into_bytes),
            prop::collection::vec(any::<u8>(), 0..40),
            (0..9000_usize).prop_map(|len| vec![b'a'; len]),
        ];
        (any::<bool>(), prop::collection::vec(piece, 0..8)).prop_map(|(starts_well, pieces)| {
            let start: &[u8] = if starts_well { b"PUT / HTTP/1.1\r\n" } else { b"" };
            [start, &pieces.concat()].concat()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

        #[test]
        fn whatever_comes_is_judged_and_what_passes_is_one_request(
            bytes in requests(),
            size in 1..5000_usize,
        ) {
            let ask = read_in_pieces(&bytes, size);
            if let Ok(Ask::Answer { request, .. }) = &ask {
                let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX + 2];
                let mut parsed = httparse::Request::new(&mut headers);
                let head_len = parsed.parse(request).unwrap().unwrap();
                let values = |name: &str| -> Vec<&[u8]> {
                    let same = |header: &&httparse::Header<'_>| header.name.eq_ignore_ascii_case(name);
                    parsed.headers.iter().filter(same).map(|header| header.value).collect()
                };
                prop_assert_eq!(values("connection"), [b"close"]);
                prop_assert!(values("transfer-encoding").is_empty());
                let body = &request[head_len..];
                match values("content-length")[..] {
                    [] => prop_assert!(body.is_empty()),
                    [len] => prop_assert_eq!(str::from_utf8(len), Ok(&*body.len().to_string())),
                    _ => prop_assert!(false, "several lengths"),
                }
            }
            // The judgement does not depend on how the bytes were cut; `more` does, as it tells of bytes already here.
            let whole = read_in_pieces(&bytes, usize::MAX);
            prop_assert_eq!(verdict(&ask), verdict(&whole));
        }
    }

    fn verdict(ask: &io::Result<Ask>) -> String {
        match ask {
            Ok(Ask::Answer { request, .. }) => format!("{request:?}"),
            &Ok(Ask::WebSocket(_) | Ask::Refuse(&MALFORMED)) => "websocket or malformed".to_owned(),
            Ok(other) => format!("{other:?}"),
            Err(err) => err.kind().to_string(),
        }
    }
}
