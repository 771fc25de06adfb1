//! The sockets on which the processes of a stack listen, from /proc.

use super::Stack;
use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The addresses on which `pids` listen.
fn listening(pids: &[String]) -> BTreeSet<SocketAddr> {
    let inodes: BTreeSet<String> = pids.iter().flat_map(|pid| socket_inodes(pid)).collect();
    let mut found = BTreeSet::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        // The second table is missing without IPv6.
        let text = fs::read_to_string(table).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // State 0A is LISTEN.
            if fields[3] == "0A" && inodes.contains(fields[9]) {
                found.insert(address(fields[1]));
            }
        }
    }
    found
}

fn socket_inodes(pid: &str) -> Vec<String> {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
    files
        .filter_map(|file| {
            let link = fs::read_link(file.ok()?.path()).ok()?;
            let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            Some(inode.to_owned())
        })
        .collect()
}

/// Parses an address of /proc/net/tcp, as in `0100007F:1F90`. The kernel prints each 32-bit word in
/// the byte order of the machine.
fn address(text: &str) -> SocketAddr {
    let (ip, port) = text.split_once(':').unwrap();
    let port = u16::from_str_radix(port, 16).unwrap();
    let bytes: Vec<u8> = (0..ip.len())
        .step_by(8)
        .flat_map(|at| u32::from_str_radix(&ip[at..at + 8], 16).unwrap().to_ne_bytes())
        .collect();
    let ip = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(v4) => IpAddr::from(v4),
        Err(_) => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).unwrap()).to_canonical(),
    };
    SocketAddr::new(ip, port)
}

/// Checks that each part that is up listens on its port, and that all sockets of the stack are on
/// loopback addresses.
pub fn all_are_on_loopback(stack: &Stack) {
    let pids: Vec<String> = stack.processes().iter().map(|process| pid(process)).collect();
    let found = listening(&pids);
    let status = stack.run(&["status"]).succeeds().stdout;
    for line in status.lines().filter(|line| line.contains(" up")) {
        let port = line.split_once(" port ").unwrap().1.split_whitespace().next().unwrap();
        let port: u16 = port.parse().unwrap();
        assert!(found.iter().any(|it| it.port() == port), "{line}: {found:?}");
    }
    let open: Vec<_> = found.iter().filter(|it| !it.ip().is_loopback()).collect();
    assert!(open.is_empty(), "these sockets are reachable from other machines: {open:?}");
}

/// The pid of a process as in `/proc/12 java ...`.
fn pid(process: &str) -> String {
    process.split(' ').next().unwrap().trim_start_matches("/proc/").to_owned()
}

#[test]
fn kernel_address_is_parsed() {
    let v4 = u32::from_ne_bytes([127, 0, 0, 1]);
    assert_eq!(address(&format!("{v4:08X}:1F90")), "127.0.0.1:8080".parse().unwrap());
    let words = [0, 0, u32::from_ne_bytes([0, 0, 0xff, 0xff]), v4];
    let mapped: String = words.iter().map(|word| format!("{word:08X}")).collect();
    assert_eq!(address(&format!("{mapped}:1F90")), "127.0.0.1:8080".parse().unwrap());
    assert_eq!(address(&format!("{}:0050", "0".repeat(32))), "[::]:80".parse().unwrap());
}
