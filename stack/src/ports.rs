//! Finds the process that listens on a port, in /proc.

use std::fs;
use std::path::Path;

/// Describes the process that listens on `port`, as in "pid 12 (java -Xmx512m ...)". None if the
/// port is free.
pub fn owner(port: u16) -> Option<String> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|table| {
        // The second table is missing without IPv6.
        listening_inode(&fs::read_to_string(table).ok()?, port)
    })?;
    let Some(pid) = holder(&inode) else {
        return Some("a process of another user".to_owned());
    };
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command).replace('\0', " ");
    let command: String = command.trim_end().chars().take(120).collect();
    Some(format!("pid {pid} ({command})"))
}

/// Inode of the listening socket in a table like /proc/net/tcp.
fn listening_inode(table: &str, port: u16) -> Option<String> {
    let port = format!(":{port:04X}");
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let listens = fields.get(3) == Some(&"0A") && fields.get(1)?.ends_with(&port);
        listens.then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
    })
}

/// The lowest pid of the processes that have the socket open.
fn holder(inode: &str) -> Option<i32> {
    let socket = format!("socket:[{inode}]");
    let mut pids: Vec<i32> = fs::read_dir("/proc")
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    pids.into_iter().find(|pid| {
        // Fails for processes of other users, and for those that have ended.
        fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|mut files| {
            files.any(|file| {
                let link = file.ok().and_then(|file| fs::read_link(file.path()).ok());
                link.is_some_and(|link| link == Path::new(&socket))
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn owner_of_a_port_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let owner = owner(port).unwrap();
        assert!(owner.starts_with(&format!("pid {} (", std::process::id())), "{owner}");
        drop(listener);
        assert_eq!(super::owner(port), None);
    }
}
