//! Free ports for servers that tests and `bench` start.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// Below 32768, the first port that Linux assigns to outgoing connections, and above the servers of
/// the tests.
const FIRST: u16 = 30_000;
const COUNT: u16 = 2_700;

/// Returns a port on which nothing listens, another one in each of 2,700 calls. The system does not
/// assign it to an outgoing connection.
///
/// # Panics
/// If none of the ports is free.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Processes with neighbouring ids begin 100 ports apart.
    let begin = std::process::id().wrapping_mul(100);
    let mut ports = (0..COUNT).map(|_| {
        let number = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        FIRST + (number % u32::from(COUNT)) as u16
    });
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok();
    ports.find(is_free).expect("one of 2,700 ports is free")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ports_differ_and_are_never_assigned() {
        let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
        let assigned: u16 = range.split_whitespace().next().unwrap().parse().unwrap();
        let ports: BTreeSet<u16> = (0..100).map(|_| free_port()).collect();
        assert_eq!(ports.len(), 100);
        assert!(ports.iter().all(|port| *port < assigned), "{ports:?}");
    }

    #[test]
    fn used_port_is_skipped() {
        let listeners: Vec<_> = (0..10)
            .map(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, free_port())).unwrap())
            .collect();
        let used: Vec<u16> = listeners.iter().map(|it| it.local_addr().unwrap().port()).collect();
        assert!((0..COUNT).all(|_| !used.contains(&free_port())), "{used:?}");
    }
}
