//! Accepts connections, passes each request to tiny_http, and returns the response.

use super::limits::{
    ConnectionLimit, DESCRIPTORS_PER_CONNECTION, REQUEST_TIME, RESPONSE_PART_TIME, STACK_BYTES,
    Timed,
};
use super::request::{Handshake, ReadOutcome, read_request};
use super::response::{self, BUSY, LATE, NO_WEBSOCKETS, relay};
use crate::exit::EXIT_TEMPORARY;
use std::fmt::Display;
use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{self as unix, UnixListener, UnixStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tiny_http::{Request, Server};
use uuid::Uuid;

/// Handles the requests of a service. Any `Fn(Request)` is a handler that rejects websockets.
pub trait Handler: Send + Sync + 'static {
    /// Responds to a request, whose body has already been received. Several threads call this at
    /// the same time.
    ///
    /// A response written through [`Request::into_writer`] is sent part by part. A failed write
    /// means that the client closed the connection.
    fn answer(&self, request: Request);

    /// Takes over a connection on which the client sent a websocket handshake. No response has been
    /// sent yet.
    ///
    /// This runs on the thread of the connection, with 256 KiB of stack. The connection counts
    /// against the limit until this returns. A write that takes longer than [`RESPONSE_PART_TIME`]
    /// fails. Reads have no timeout.
    fn websocket(&self, _handshake: Handshake, client: TcpStream) {
        response::refuse(&client, &NO_WEBSOCKETS);
    }
}

impl<F: Fn(Request) + Send + Sync + 'static> Handler for F {
    fn answer(&self, request: Request) {
        self(request);
    }
}

/// The concurrency limits of a listener.
#[derive(Debug, Clone, Copy)]
pub struct Capacity {
    /// Number of threads that respond to requests. A response larger than the socket buffers (about
    /// 200 kB) occupies its thread until the client has received the rest.
    pub workers: usize,
    /// Maximum number of open connections. It is lower if the process has too few file descriptors
    /// for all its listeners. Further connections get status 503.
    pub connections: usize,
}

/// The listener could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("listen for HTTP on {addr}")]
pub struct Error {
    addr: SocketAddr,
    source: io::Error,
}

/// `port` on all addresses: one socket for IPv6 and IPv4. Where there is no IPv6, IPv4 only.
pub fn everywhere(port: u16) -> [SocketAddr; 2] {
    [(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()]
}

/// Listens on the first of `addrs` that can be bound, until the process ends. Returns the bound
/// address. For port 0 it contains the assigned port.
///
/// If tiny_http stops serving, the process exits with code 75. Otherwise a service that no longer
/// responds would look healthy.
///
/// # Errors
/// None of `addrs` can be bound, or a thread or socket could not be created.
pub fn serve(
    addrs: &[SocketAddr],
    capacity: Capacity,
    handler: impl Handler,
) -> Result<SocketAddr, Error> {
    let addr = addrs.first().copied().unwrap_or_else(|| (Ipv4Addr::UNSPECIFIED, 0).into());
    open(addrs, capacity, handler).map_err(|source| Error { addr, source })
}

fn open(addrs: &[SocketAddr], capacity: Capacity, handler: impl Handler) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(addrs)?;
    let addr = listener.local_addr()?;
    let handler = Arc::new(handler);
    let inside = start_workers(capacity.workers, &handler)?;
    let limit = ConnectionLimit::reserve(capacity.connections);
    thread::Builder::new()
        .name("http-listener".into())
        .stack_size(STACK_BYTES)
        .spawn(move || accept(&listener, &limit, &inside, &handler))?;
    Ok(addr)
}

/// Starts tiny_http on a unix socket, and the threads that respond to its requests.
fn start_workers(workers: usize, handler: &Arc<impl Handler>) -> io::Result<unix::SocketAddr> {
    let inside =
        unix::SocketAddr::from_abstract_name(format!("scratchbank-http-{}", Uuid::new_v4()))?;
    let server =
        Server::from_listener(UnixListener::bind_addr(&inside)?, None).map_err(io::Error::other)?;
    // The workers never end, so the server is never dropped. The drop would panic, since the socket
    // has no path.
    let server = Arc::new(server);
    for _ in 0..workers.max(1) {
        let (server, handler) = (server.clone(), handler.clone());
        thread::Builder::new().name("http-worker".into()).spawn(move || {
            loop {
                match server.recv() {
                    Ok(request) => handler.answer(request),
                    Err(err) => {
                        log::error!(error:% = err; "tiny_http stopped, exiting with code 75");
                        std::process::exit(EXIT_TEMPORARY.into());
                    }
                }
            }
        })?;
    }
    Ok(inside)
}

/// Accepts connections until the process ends.
fn accept(
    listener: &TcpListener,
    limit: &Arc<ConnectionLimit>,
    inside: &unix::SocketAddr,
    handler: &Arc<impl Handler>,
) {
    let mut refusals = RefusalLog(None);
    loop {
        let client = match listener.accept() {
            Ok((client, _)) => client,
            // Most likely no file descriptors are left. Until some are free, the connection waits
            // in the kernel's backlog.
            Err(err) => {
                refusals.log(&err);
                thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        let Some(open) = limit.acquire() else {
            refusals.log(&BUSY.reason);
            // The response fits into the empty send buffer, so the write does not block.
            let _ = (&client).write_all(&BUSY.to_bytes());
            continue;
        };
        let (inside, handler) = (inside.clone(), handler.clone());
        let thread = thread::Builder::new().name("http-connection".into()).stack_size(STACK_BYTES);
        let spawned = thread.spawn(move || {
            // An error means that the client closed the connection.
            let _ = serve_connection(client, &inside, &*handler);
            drop(open);
        });
        if let Err(err) = spawned {
            refusals.log(&err);
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

/// Serves the one request of a connection.
fn serve_connection(
    client: TcpStream,
    inside: &unix::SocketAddr,
    handler: &impl Handler,
) -> io::Result<()> {
    client.set_nodelay(true)?;
    match read_request(&mut Timed::new(&client, REQUEST_TIME)) {
        Ok(ReadOutcome::Request { bytes, more }) => {
            let Ok(mut server) = connect(&client, inside) else {
                response::refuse(&client, &BUSY);
                return Ok(());
            };
            server.write_all(&bytes)?;
            relay(&mut server, &client)?;
            if more {
                response::drain(&client);
            }
        }
        Ok(ReadOutcome::WebSocket(handshake)) => {
            client.set_read_timeout(None)?;
            client.set_write_timeout(Some(RESPONSE_PART_TIME))?;
            handler.websocket(handshake, client);
        }
        Ok(ReadOutcome::Refused(refusal)) => response::refuse(&client, refusal),
        Err(err) if err.kind() == io::ErrorKind::TimedOut => response::refuse(&client, &LATE),
        Err(err) => return Err(err),
    }
    Ok(())
}

/// Connects to tiny_http.
///
/// Without free file descriptors tiny_http panics or stops accepting. Therefore this function first
/// checks that enough are free, by opening them for a moment. A lock serializes the check. If
/// another part of the process uses the last descriptors before tiny_http does, the process exits.
fn connect(client: &TcpStream, inside: &unix::SocketAddr) -> io::Result<UnixStream> {
    static ONE_BY_ONE: Mutex<()> = Mutex::new(());
    let _lock = ONE_BY_ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let spare: [_; DESCRIPTORS_PER_CONNECTION] = std::array::from_fn(|_| client.try_clone());
    if let Some(err) = spare.into_iter().find_map(Result::err) {
        return Err(err);
    }
    UnixStream::connect_addr(inside)
}
