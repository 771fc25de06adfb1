//! The limits of the listener: bytes, times, connections.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Maximum size of a request's head, bytes.
pub const HEAD_BYTES_MAX: usize = 8 << 10;
/// Maximum size of a request's body, bytes.
pub const BODY_BYTES_MAX: usize = 64 << 10;
/// Maximum number of headers of a request.
pub const HEADERS_MAX: usize = 64;
/// Time limit for a client to send the whole request.
pub const REQUEST_TIME: Duration = Duration::from_secs(5);
/// Time limit for a client to receive the next part of the response, up to [`PART_BYTES`].
pub const RESPONSE_PART_TIME: Duration = Duration::from_secs(10);

/// Size of the buffer that copies a response, bytes.
pub const PART_BYTES: usize = 8 << 10;
/// Stack size of a connection's thread, bytes.
pub const STACK_BYTES: usize = 256 << 10;
/// File descriptors of a connection: the client's socket, the listener's end of the unix socket,
/// and two at tiny_http's end.
pub const DESCRIPTORS_PER_CONNECTION: usize = 4;
/// File descriptors reserved for everything that is not a connection.
const DESCRIPTORS_RESERVED: usize = 64;
/// Minimum connection limit of a listener, however few file descriptors are left.
const CONNECTIONS_MIN: usize = 4;

/// Counts the open connections of a listener.
pub struct ConnectionLimit {
    open: AtomicUsize,
    max: usize,
}

impl ConnectionLimit {
    /// Returns a limit of up to `wanted` connections. It is lower if the process has too few file
    /// descriptors. Listeners that open later share the remaining descriptors.
    pub fn reserve(wanted: usize) -> Arc<Self> {
        Arc::new(Self { open: AtomicUsize::new(0), max: reserve_connections(wanted) })
    }

    /// Counts a connection until the result is dropped. `None` if the limit is reached.
    pub fn acquire(self: &Arc<Self>) -> Option<OpenConnection> {
        let below = |open| (open < self.max).then_some(open + 1);
        self.open.fetch_update(Ordering::AcqRel, Ordering::Acquire, below).ok()?;
        Some(OpenConnection(self.clone()))
    }
}

/// A counted connection of a [`ConnectionLimit`].
pub struct OpenConnection(Arc<ConnectionLimit>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The number of connections, up to `wanted`, for which this process has file descriptors left.
fn reserve_connections(wanted: usize) -> usize {
    static RESERVED: AtomicUsize = AtomicUsize::new(0);
    let all = descriptors_max().saturating_sub(DESCRIPTORS_RESERVED) / DESCRIPTORS_PER_CONNECTION;
    let free = all.saturating_sub(RESERVED.load(Ordering::Relaxed));
    let connections = wanted.min(free).max(CONNECTIONS_MIN);
    RESERVED.fetch_add(connections, Ordering::Relaxed);
    connections
}

/// The soft limit of open files. If it cannot be read: 1024, the usual value.
fn descriptors_max() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    match line.and_then(|line| line.split_whitespace().next()) {
        Some("unlimited") => usize::MAX,
        soft => soft.and_then(|soft| soft.parse().ok()).unwrap_or(1024),
    }
}

/// A socket with one deadline for all reads and writes. After the deadline they fail with
/// `TimedOut`.
pub struct Timed<'a> {
    socket: &'a TcpStream,
    deadline: Instant,
}

impl<'a> Timed<'a> {
    /// Sets the deadline to `time` from now.
    pub fn new(socket: &'a TcpStream, time: Duration) -> Self {
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

/// Linux reports the timeout of a socket as `WouldBlock`.
fn timed_out(err: io::Error) -> io::Error {
    if err.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { err }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_limited_by_descriptors() {
        assert!(descriptors_max() > DESCRIPTORS_RESERVED);
        assert_eq!(reserve_connections(0), CONNECTIONS_MIN);
        assert_eq!(reserve_connections(5), 5);
        assert!(reserve_connections(usize::MAX) < descriptors_max() / DESCRIPTORS_PER_CONNECTION);
        assert_eq!(
            reserve_connections(5),
            CONNECTIONS_MIN,
            "earlier listeners reserved all other descriptors"
        );
    }

    #[test]
    fn dropped_guard_frees_a_connection() {
        let limit = Arc::new(ConnectionLimit { open: AtomicUsize::new(0), max: 2 });
        let first = limit.acquire();
        let second = limit.acquire();
        assert!(first.is_some() && second.is_some() && limit.acquire().is_none());
        drop(first);
        assert!(limit.acquire().is_some());
    }
}
