//! CPU time and memory of processes, from /proc.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;
use std::{fs, io};

/// Clock ticks per second in /proc (USER_HZ), which do not depend on the kernel's timer frequency.
const TICKS_PER_S: u64 = 100;
/// Attempts to read a process tree in which no process starts or ends.
const LOOKS_MAX: usize = 10;

/// CPU times of a process, ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    /// Of the process itself, all threads.
    own: u64,
    /// Of its ended children and their descendants.
    ended: u64,
    threads: u64,
    /// Start time since boot. It distinguishes processes that had the same pid.
    birth: u64,
}

/// A process with a known start time.
#[derive(Debug, Clone, Copy)]
pub struct Process {
    pub pid: u32,
    birth: u64,
}

impl Process {
    /// The current process with this `pid`.
    pub fn open(pid: u32) -> io::Result<Self> {
        Ok(Self { pid, birth: stat(pid)?.birth })
    }

    /// CPU time of the process and all its descendants, including ended ones. PostgreSQL starts a
    /// process for each connection.
    pub fn cpu(&self) -> io::Result<Duration> {
        // When a child ends, its time moves to its parent. A read at that moment would miss it or
        // count it twice. So the tree is read until two reads find the same processes and the same
        // times of ended children.
        let mut before = self.family()?;
        for _ in 0..LOOKS_MAX {
            let now = self.family()?;
            let same =
                |((pid, stat), (pid_before, stat_before)): ((&u32, &Stat), (&u32, &Stat))| {
                    pid == pid_before
                        && stat.birth == stat_before.birth
                        && stat.ended == stat_before.ended
                };
            let settled = now.len() == before.len() && now.iter().zip(&before).all(same);
            before = now;
            if settled {
                break;
            }
        }
        let ticks: u64 = before.values().map(|stat| stat.own + stat.ended).sum();
        Ok(Duration::from_millis(ticks * (1000 / TICKS_PER_S)))
    }

    /// Current resident memory of the process without its children, bytes.
    pub fn rss(&self) -> io::Result<u64> {
        kib(&fs::read_to_string(format!("/proc/{}/status", self.pid))?, "VmRSS:")
            .ok_or_else(|| io::Error::other("no VmRSS in /proc: the process has ended"))
    }

    /// Current memory of the process and all its descendants, bytes. Shared memory counts once
    /// where the kernel reports it (PSS). Reading PSS is slow for a large process, so a process
    /// without children reports its resident memory.
    pub fn memory(&self) -> io::Result<u64> {
        let family = self.family()?;
        if family.len() == 1 {
            return self.rss();
        }
        let of = |pid: &u32| {
            let shared = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"));
            let shared = shared.ok().and_then(|text| kib(&text, "Pss:"));
            // A child that has just ended has no PSS.
            shared
                .or_else(|| kib(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "VmRSS:"))
        };
        Ok(family.keys().filter_map(of).sum())
    }

    /// Number of threads of the process and all its descendants.
    pub fn threads(&self) -> io::Result<u64> {
        Ok(self.family()?.values().map(|stat| stat.threads).sum())
    }

    /// Number of open descriptors of the process and all its descendants.
    pub fn descriptors(&self) -> io::Result<u64> {
        let family = self.family()?;
        // A child that has just ended has none.
        let open = family.keys().filter_map(|pid| fs::read_dir(format!("/proc/{pid}/fd")).ok());
        Ok(open.map(|entries| entries.count() as u64).sum())
    }

    /// The files that the process has mapped, each once: its program, libraries and other files.
    pub fn mapped_files(&self) -> io::Result<Vec<PathBuf>> {
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.pid))?;
        Ok(mapped_files(&maps).into_iter().filter(|path| path.is_file()).collect())
    }

    fn family(&self) -> io::Result<BTreeMap<u32, Stat>> {
        let root = stat(self.pid)?;
        if root.birth != self.birth {
            return Err(io::ErrorKind::NotFound.into());
        }
        let mut family = BTreeMap::from([(self.pid, root)]);
        let mut rest = children(self.pid);
        while let Some(pid) = rest.pop() {
            // A child that has just ended is included in its parent's time by the next read.
            if let Ok(stat) = stat(pid) {
                family.insert(pid, stat);
                rest.extend(children(pid));
            }
        }
        Ok(family)
    }
}

fn stat(pid: u32) -> io::Result<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_stat(&text).ok_or_else(|| io::Error::other(format!("unexpected format: {text:?}")))
}

/// Parses /proc/PID/stat. Source: proc_pid_stat(5), which counts fields from 1.
fn parse_stat(text: &str) -> Option<Stat> {
    // The second field is the name in parentheses, which may contain any characters.
    let (_, after_name) = text.rsplit_once(") ")?;
    let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Stat {
        own: field(14)? + field(15)?,
        ended: field(16)? + field(17)?,
        threads: field(20)?,
        birth: field(22)?,
    })
}

/// The children of all threads of `pid`.
fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists =
        threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| {
            list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()
        })
        .collect()
}

/// The value of a line like `VmRSS: 12 kB`, in bytes.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// The mapped files in /proc/PID/maps. Source: proc_pid_maps(5). Other mappings have no path, or a
/// name in brackets. Deleted files are marked.
fn mapped_files(maps: &str) -> BTreeSet<PathBuf> {
    let path = |line: &str| {
        let (_, path) = line.split_once(" /")?;
        (!path.ends_with(" (deleted)")).then(|| PathBuf::from(format!("/{path}")))
    };
    maps.lines().filter_map(path).collect()
}

/// CPU time of all processes of this machine since boot, and the time that its hypervisor gave to
/// other machines while a process was ready to run.
pub fn machine_cpu() -> io::Result<(Duration, Duration)> {
    let text = fs::read_to_string("/proc/stat")?;
    let time = |ticks| Duration::from_millis(ticks * (1000 / TICKS_PER_S));
    busy_and_stolen(&text)
        .map(|(busy, stolen)| (time(busy), time(stolen)))
        .ok_or_else(|| io::Error::other("unexpected first line of /proc/stat"))
}

/// Ticks of user, nice, system, irq and softirq, and those of steal. Source: proc_stat(5). The time
/// of guests is part of user.
fn busy_and_stolen(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = line.split_ascii_whitespace().map_while(|n| n.parse().ok()).collect();
    let busy = |index: &usize| ticks.get(*index).copied();
    Some(([0, 1, 2, 5, 6].iter().map(busy).sum::<Option<u64>>()?, *ticks.get(7)?))
}

/// Cores, memory and processor of this machine, as in `2 cores, 24105 MiB, AMD EPYC`.
pub fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = memory.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, model)| model);
    format!("{cores} cores, {} MiB, {model}", kib.unwrap_or(0) / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn times_are_parsed_after_a_name_with_parentheses() {
        let text = "42 (a) b) (c) S 1 42 42 0 -1 4194560 9 8 7 6 100 20 3 4 20 0 12 0 777 1234 5";
        let stat = Stat { own: 120, ended: 7, threads: 12, birth: 777 };
        assert_eq!(parse_stat(text), Some(stat));
        assert_eq!(parse_stat("42 (a) S 1 42"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn busy_time_excludes_idle_iowait_and_steal() {
        let text = "cpu  1 2 4 1000 2000 8 16 32 64 128\ncpu0 5 5 5 5\n";
        assert_eq!(busy_and_stolen(text), Some((31, 32)));
        assert_eq!(busy_and_stolen("cpu0 1 2"), None);
        assert!(machine_cpu().unwrap().0 > Duration::ZERO);
    }

    #[test]
    fn mapped_files_are_listed_once() {
        let maps = "55d0-55d1 r--p 0000 fe:00 7       /usr/bin/my program\n\
            55d1-55d2 r-xp 1000 fe:00 7       /usr/bin/my program\n\
            7f00-7f01 rw-p 0000 00:00 0       [heap]\n7f01-7f02 rw-p 0000 00:00 0 \n\
            7f02-7f03 rw-s 0000 00:01 9       /dev/shm/gone (deleted)\n";
        assert_eq!(mapped_files(maps), BTreeSet::from(["/usr/bin/my program".into()]));
        let own = Process::open(std::process::id()).unwrap().mapped_files().unwrap();
        assert!(own.contains(&std::env::current_exe().unwrap()), "{own:?}");
    }

    #[test]
    fn resident_memory_is_in_bytes() {
        assert_eq!(kib("VmHWM:\t  9 kB\nVmRSS:\t    12 kB\n", "VmRSS:"), Some(12 * 1024));
        assert_eq!(kib("State:\tZ (zombie)\n", "VmRSS:"), None);
    }

    #[test]
    fn child_counts_while_running_and_after_its_end() {
        // The shell uses CPU in a child process, prints a line, and waits for a line before it
        // ends.
        let burn = "(i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo done; read line); \
                    echo dead; read line";
        let mut shell = Command::new("sh")
            .args(["-c", burn])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let process = Process::open(shell.id()).unwrap();
        let mut printed = io::BufRead::lines(io::BufReader::new(shell.stdout.take().unwrap()));
        let mut stdin = shell.stdin.take().unwrap();

        assert_eq!(printed.next().unwrap().unwrap(), "done");
        let family = process.family().unwrap();
        let alive = process.cpu().unwrap();
        assert_eq!(family.len(), 2, "{family:?}");
        assert!(alive >= Duration::from_millis(50), "{alive:?} while the child lives");
        assert_eq!(process.threads().unwrap(), 2);
        // Each has stdin, stdout and stderr.
        assert!((6..40).contains(&process.descriptors().unwrap()));
        let together = process.memory().unwrap();
        assert!((100_000..10_000_000).contains(&together), "{together}");

        io::Write::write_all(&mut stdin, b"\n").unwrap();
        assert_eq!(printed.next().unwrap().unwrap(), "dead");
        let dead = process.cpu().unwrap();
        assert_eq!(process.family().unwrap().len(), 1);
        assert!(dead >= alive && dead < alive * 3 / 2, "{alive:?}, then {dead:?}");
        assert!(process.rss().unwrap() > 0 && process.memory().unwrap() > 0);

        io::Write::write_all(&mut stdin, b"\n").unwrap();
        shell.wait().unwrap();
        assert!(process.cpu().is_err() && process.rss().is_err());
    }
}
