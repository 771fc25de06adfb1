//! Processes, identified by pid and start time. The system reuses pids, so a process with another
//! start time is never signalled.

use crate::error::{Context, Result};
use rustix::process::{Pid, Signal};
use std::fs;
use std::path::{Path, PathBuf};

/// A process that was running when it was looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    /// Start time, in clock ticks since boot.
    born: u64,
}

impl Process {
    /// The current process with this `pid`.
    pub fn of(pid: i32) -> Option<Self> {
        birth(pid).map(|born| Self { pid, born })
    }

    /// True until it has ended.
    pub fn is_alive(self) -> bool {
        birth(self.pid) == Some(self.born)
    }

    /// Sends `signal`, unless the process has ended.
    pub fn signal(self, signal: Signal) {
        if let (true, Some(pid)) = (self.is_alive(), Pid::from_raw(self.pid)) {
            // The process may have ended since the check.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Sends `signal` to the process group that it leads.
    pub fn signal_group(self, signal: Signal) {
        if self.is_alive() {
            signal_group(self.pid, signal);
        }
    }

    /// True when SIGSTOP has stopped every thread. The threads stop one after the other, some time
    /// after the signal.
    pub fn is_stopped(self) -> bool {
        let Ok(threads) = fs::read_dir(format!("/proc/{}/task", self.pid)) else { return true };
        threads.filter_map(std::result::Result::ok).all(|thread| {
            let stat = fs::read(thread.path().join("stat")).unwrap_or_default();
            let stat = String::from_utf8_lossy(&stat);
            // A thread that has just ended has no stat file.
            stat.rsplit_once(") ").is_none_or(|(_, fields)| fields.starts_with(['T', 'Z', 'X']))
        })
    }

    /// The process and its children. Only PostgreSQL has children.
    pub fn family(self) -> Vec<Self> {
        let path = format!("/proc/{0}/task/{0}/children", self.pid);
        let children = fs::read_to_string(path).unwrap_or_default();
        let children = children.split_whitespace().filter_map(|pid| Self::of(pid.parse().ok()?));
        [self].into_iter().chain(children).collect()
    }

    /// Memory with children, MiB. Shared memory counts once.
    pub fn memory_mib(self) -> u64 {
        self.family().into_iter().map(Self::memory_kib).sum::<u64>() / 1024
    }

    fn memory_kib(self) -> u64 {
        // Reading PSS needs permission for the process; reading RSS does not.
        field_kib(self.pid, "smaps_rollup", "Pss:")
            .or_else(|| field_kib(self.pid, "status", "VmRSS:"))
            .unwrap_or(0)
    }
}

fn field_kib(pid: i32, file: &str, field: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// Sends `signal` to the process group `group`, if it exists.
pub fn signal_group(group: i32, signal: Signal) {
    if let Some(group) = Pid::from_raw(group) {
        let _ = rustix::process::kill_process_group(group, signal);
    }
}

/// True while the process group has a member.
pub fn group_exists(group: i32) -> bool {
    Pid::from_raw(group).is_some_and(|it| rustix::process::test_kill_process_group(it).is_ok())
}

/// Start time of the process. None if it has ended, even if its parent has not yet read the exit
/// code. A process whose main thread alone has ended still has its ports open.
fn birth(pid: i32) -> Option<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse_birth(&String::from_utf8_lossy(&stat))
}

fn parse_birth(stat: &str) -> Option<u64> {
    // The command name may contain any characters, so fields are counted from its end.
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ended = matches!(*fields.first()?, "Z" | "X");
    let threads: u32 = fields.get(17)?.parse().ok()?;
    if ended && threads <= 1 {
        return None;
    }
    fields.get(19)?.parse().ok()
}

/// A folder of pid files. Each contains the pid and the start time of a process.
#[derive(Debug, Clone)]
pub struct PidFiles {
    dir: PathBuf,
}

impl PidFiles {
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes the file of `name` atomically.
    pub fn record(&self, name: &str, pid: i32) -> Result<()> {
        let born = birth(pid).map_or_else(|| "dead".to_owned(), |born| born.to_string());
        let new = self.dir.join(format!("{name}.pid.new"));
        let path = self.dir.join(format!("{name}.pid"));
        fs::write(&new, format!("{pid} {born}\n")).context(new.display())?;
        fs::rename(&new, &path).context(path.display())
    }

    /// The process of `name`, if it is running.
    pub fn find(&self, name: &str) -> Option<Process> {
        let text = fs::read_to_string(self.dir.join(format!("{name}.pid"))).ok()?;
        let (pid, born) = text.trim().split_once(' ')?;
        let process = Process { pid: pid.parse().ok()?, born: born.parse().ok()? };
        process.is_alive().then_some(process)
    }
}

/// Name of the pid file of a service's supervisor.
pub fn supervisor(name: &str) -> String {
    format!("{name}.supervisor")
}

/// Parses the name of a signal, with or without SIG, or its number.
pub fn parse_signal(text: &str) -> Option<Signal> {
    let name = text.strip_prefix("SIG").unwrap_or(text);
    let named = [
        ("HUP", Signal::HUP),
        ("INT", Signal::INT),
        ("QUIT", Signal::QUIT),
        ("ABRT", Signal::ABORT),
        ("KILL", Signal::KILL),
        ("SEGV", Signal::SEGV),
        ("PIPE", Signal::PIPE),
        ("ALRM", Signal::ALARM),
        ("TERM", Signal::TERM),
        ("USR1", Signal::USR1),
        ("USR2", Signal::USR2),
        ("CONT", Signal::CONT),
        ("STOP", Signal::STOP),
    ];
    let by_name = named.iter().find(|(known, _)| *known == name).map(|(_, signal)| *signal);
    by_name.or_else(|| Signal::from_named_raw(text.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn sleep() -> std::process::Child {
        Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap()
    }

    fn pid_files(name: &str) -> PidFiles {
        let dir = std::env::temp_dir().join(format!("stack-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        PidFiles::new(&dir)
    }

    #[test]
    fn start_time_is_parsed_after_any_command_name() {
        let tail = "S 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 1 1";
        assert_eq!(parse_birth(&format!("7 (a) b ) {tail}")), Some(12345));
        assert_eq!(parse_birth(&format!("7 (z) {}", tail.replace('S', "Z"))), None);
        assert_eq!(parse_birth("7 (cut"), None);
    }

    #[test]
    fn dead_process_is_not_found() {
        let files = pid_files("dead");
        let mut child = sleep();
        let pid = i32::try_from(child.id()).unwrap();
        files.record("part", pid).unwrap();
        let process = files.find("part").unwrap();
        process.signal(Signal::KILL);
        // The parent has not read the exit code yet.
        while process.is_alive() {
            std::thread::yield_now();
        }
        assert_eq!(files.find("part"), None);
        child.wait().unwrap();
        fs::remove_dir_all(files.dir()).unwrap();
    }

    #[test]
    fn reused_pid_is_neither_found_nor_signalled() {
        let files = pid_files("reused");
        let mut child = sleep();
        fs::write(files.dir().join("part.pid"), format!("{} 1\n", child.id())).unwrap();
        assert_eq!(files.find("part"), None);
        Process { pid: i32::try_from(child.id()).unwrap(), born: 1 }.signal(Signal::KILL);
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        fs::remove_dir_all(files.dir()).unwrap();
    }

    #[test]
    fn stopped_process_differs_from_a_running_one() {
        let mut child = sleep();
        let process = Process::of(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(!process.is_stopped());
        process.signal(Signal::STOP);
        while !process.is_stopped() {
            std::thread::yield_now();
        }
        process.signal(Signal::CONT);
        while process.is_stopped() {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn signals_are_parsed_by_name_and_number() {
        assert_eq!(parse_signal("STOP"), Some(Signal::STOP));
        assert_eq!(parse_signal("SIGCONT"), Some(Signal::CONT));
        assert_eq!(parse_signal("9"), Some(Signal::KILL));
        assert_eq!(parse_signal("NONSENSE"), None);
    }
}
