//! The limits of the listener: bytes, times, and connections.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Largest head of a request, bytes.
pub const HEAD_BYTES_MAX: usize = 8 << 10;
/// Largest body of a request, bytes.
pub const BODY_BYTES_MAX: usize = 64 << 10;
/// Most headers of a request.
pub const HEADERS_MAX: usize = 64;
/// Time for a client to send the whole request.
pub const REQUEST_TIME: Duration = Duration::from_secs(5);
/// Time for a client to take the next part of the response, at most [`PART_BYTES`].
pub const RESPONSE_PART_TIME: Duration = Duration::from_secs(10);

/// Bytes of a response that are copied at once.
pub const PART_BYTES: usize = 8 << 10;
/// Stack of the thread of a connection, bytes.
pub const STACK_BYTES: usize = 256 << 10;
/// A connection costs its socket, our end of the unix socket, and two descriptors at tiny_http's
/// end.
pub const DESCRIPTORS_PER_CONNECTION: usize = 4;
/// Reserved for everything that is not a connection.
const DESCRIPTORS_RESERVED: usize = 64;
/// A listener accepts so many connections even where descriptors are few.
const CONNECTIONS_MIN: usize = 4;

/// Counts the open connections of a listener.
pub struct ConnectionLimit {
    open: AtomicUsize,
    max: usize,
}

impl ConnectionLimit {
    /// At most `wanted` connections, fewer where the process has too few descriptors. They are
    /// taken from those of the listeners that open later.
    pub fn reserve(wanted: usize) -> Arc<Self> {
        Arc::new(Self { open: AtomicUsize::new(0), max: reserve_connections(wanted) })
    }

    /// Counts a connection until the result is dropped; `None` if the limit is reached.
    pub fn acquire(self: &Arc<Self>) -> Option<OpenConnection> {
        let below = |open| (open < self.max).then_some(open + 1);
        self.open.fetch_update(Ordering::AcqRel, Ordering::Acquire, below).ok()?;
        Some(OpenConnection(self.clone()))
    }
}

/// One counted connection of a [`ConnectionLimit`].
pub struct OpenConnection(Arc<ConnectionLimit>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The number of connections, at most `wanted`, for which this process has descriptors left.
fn reserve_connections(wanted: usize) -> usize {
    static RESERVED: AtomicUsize = AtomicUsize::new(0);
    let all = descriptors_max().saturating_sub(DESCRIPTORS_RESERVED) / DESCRIPTORS_PER_CONNECTION;
    let free = all.saturating_sub(RESERVED.load(Ordering::Relaxed));
    let connections = wanted.min(free).max(CONNECTIONS_MIN);
    RESERVED.fetch_add(connections, Ordering::Relaxed);
    connections
}

/// The soft limit of open files; 1024, the usual value, where it cannot be read.
fn descriptors_max() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    match line.and_then(|line| line.split_whitespace().next()) {
        Some("unlimited") => usize::MAX,
        soft => soft.and_then(|soft| soft.parse().ok()).unwrap_or(1024),
    }
}

/// A socket with one deadline for all reads and writes; later ones fail as `TimedOut`.
pub struct Timed<'a> {
    socket: &'a TcpStream,
    deadline: Instant,
}

impl<'a> Timed<'a> {
    /// The deadline is `time` from now.
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

/// Linux reports a time-out of a socket as `WouldBlock`.
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
            "the listeners before reserved all others"
        );
    }

    #[test]
    fn connection_limit_counts_until_the_guard_is_dropped() {
        let limit = Arc::new(ConnectionLimit { open: AtomicUsize::new(0), max: 2 });
        let first = limit.acquire();
        let second = limit.acquire();
        assert!(first.is_some() && second.is_some() && limit.acquire().is_none());
        drop(first);
        assert!(limit.acquire().is_some());
    }
}
