//! The limits of the listener: bytes, times, connections.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv6Addr, TcpStream};
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
/// Time limit for a client to receive the whole response, or the part of a stream or file that was
/// unsent when the time began.
pub const RESPONSE_TIME: Duration = Duration::from_secs(30);
/// Time after which a connection without a complete request may be closed in favour of a new one.
pub const IDLE_TIME: Duration = Duration::from_secs(1);
/// Time for a client to close its side after the response.
pub const DRAIN_TIME: Duration = Duration::from_secs(1);

/// Maximum of requests and responses in memory, bytes. Above it, the connections that stall longest
/// are closed.
pub const BUFFERS_BYTES_MAX: usize = 3 << 20;
/// Size of each of the two buffers of a connection in the kernel, bytes. The kernel doubles it. By
/// itself it would use megabytes for a client that does not read, and they count as memory of the
/// container.
pub const SOCKET_BUFFER_BYTES: usize = 32 << 10;

/// Stack size of the listener's thread, bytes.
pub const STACK_BYTES: usize = 256 << 10;
/// File descriptors reserved for everything that is not a connection.
const DESCRIPTORS_RESERVED: usize = 64;
/// Minimum connection limit of a listener, however few file descriptors are left.
const CONNECTIONS_MIN: usize = 4;

/// Counts the open connections of a listener.
pub struct ConnectionLimit {
    max: usize,
    open: usize,
    /// See [`client_of`].
    by_client: HashMap<IpAddr, usize>,
}

/// Why a connection is refused.
#[derive(Debug, PartialEq, Eq)]
pub enum Full {
    /// Of all clients.
    Total,
    /// Of this client.
    Client,
}

impl ConnectionLimit {
    /// Returns a limit of up to `wanted` connections. It is lower if the process has too few file
    /// descriptors. Listeners that open later share the remaining descriptors.
    pub fn reserve(wanted: usize) -> Self {
        Self::new(reserve_connections(wanted))
    }

    fn new(max: usize) -> Self {
        Self { max, open: 0, by_client: HashMap::new() }
    }

    /// Counts a connection. A proxy has no limit of its own.
    pub fn add(&mut self, client: IpAddr, is_proxy: bool) -> Result<(), Full> {
        if self.open >= self.max {
            return Err(Full::Total);
        }
        let count = self.by_client.entry(client).or_default();
        if *count >= client_share(self.max) && !is_proxy {
            return Err(Full::Client);
        }
        *count += 1;
        self.open += 1;
        Ok(())
    }

    /// Open connections of a client.
    pub fn count(&self, client: IpAddr) -> usize {
        self.by_client.get(&client).copied().unwrap_or(0)
    }

    pub fn remove(&mut self, client: IpAddr) {
        self.open -= 1;
        if let Some(count) = self.by_client.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                self.by_client.remove(&client);
            }
        }
    }
}

/// Who counts as one client in limits: an IPv4 address, or the first 64 bits of an IPv6 address,
/// since a provider gives at least this network to one customer (RFC 6177).
pub fn client_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address => address,
    }
}

/// What one client can have of `all` places: three quarters, so that it cannot take the places of
/// all others.
pub fn client_share(all: usize) -> usize {
    all - all / 4
}

/// The number of connections, up to `wanted`, for which this process has file descriptors left.
fn reserve_connections(wanted: usize) -> usize {
    static RESERVED: AtomicUsize = AtomicUsize::new(0);
    let all = descriptors_max().saturating_sub(DESCRIPTORS_RESERVED);
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
        assert!(reserve_connections(usize::MAX) < descriptors_max());
        assert_eq!(
            reserve_connections(5),
            CONNECTIONS_MIN,
            "earlier listeners reserved all other descriptors"
        );
    }

    #[test]
    fn ipv6_clients_count_by_their_network() {
        for (address, expected) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:0:7:1:2:3:4", "2001:db8:0:7::"),
            ("2001:db8:0:8::1", "2001:db8:0:8::"),
        ] {
            let expected: IpAddr = expected.parse().unwrap();
            assert_eq!(client_of(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn client_cannot_take_all_places() {
        let address = |text: &str| client_of(text.parse().unwrap());
        let mut limit = ConnectionLimit::new(4);
        for _ in 0..3 {
            assert_eq!(limit.add(address("::ffff:10.0.0.1"), false), Ok(()));
        }
        assert_eq!(limit.add(address("10.0.0.1"), false), Err(Full::Client));
        assert_eq!(limit.add(address("2001:db8::1"), false), Ok(()));
        assert_eq!(limit.add(address("10.0.0.2"), false), Err(Full::Total));
        limit.remove(address("2001:db8::2"));
        assert_eq!(limit.add(address("10.0.0.2"), false), Ok(()));
        limit.remove(address("10.0.0.1"));
        assert_eq!(limit.add(address("10.0.0.1"), false), Ok(()));
    }
}
