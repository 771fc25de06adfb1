//! CPU time and memory of each part of the bank under test, and of this program.

use crate::error::Error;
use crate::proc::{self, Process};
use crate::stack::{self, Stack};
use std::io;
use std::time::Instant;

/// Names of the parts in rows. All brokers together are one part.
pub const NAMES: [&str; 9] = [
    "broker",
    "database",
    "handler",
    "endpoint",
    "generator",
    "heartbeat",
    "registry",
    "frontend",
    "bench",
];
// Indexes in [`NAMES`].
pub const BROKER: usize = 0;
pub const DATABASE: usize = 1;
pub const HANDLER: usize = 2;
pub const ENDPOINT: usize = 3;
pub const BENCH: usize = 8;

/// A value for each part, by index in [`NAMES`]; none for a part that is not running.
pub type PerPart<T> = [Option<T>; NAMES.len()];

/// CPU use of other processes above which the figures are distorted, cores.
const DISTURBED: f64 = 0.1;

/// The processes of the bank, and this process.
pub struct ProcessUsage {
    stack: Stack,
    watched: Vec<Watched>,
}

struct Watched {
    /// Name of the part in stack.sh.
    name: String,
    part: usize,
    /// The process when last seen; none after its end.
    process: Option<Process>,
}

/// CPU times since the start of each process.
#[derive(Debug, Clone, Copy)]
pub struct CpuTimes {
    at: Instant,
    /// Seconds.
    parts: PerPart<f64>,
    /// Seconds of all processes of the machine.
    machine: f64,
    /// Seconds that the hypervisor gave to other machines.
    stolen: f64,
}

/// CPU time between two times.
#[derive(Debug, Clone, Copy, Default)]
pub struct CpuUse {
    /// Seconds between the two times.
    pub elapsed_s: f64,
    /// CPU seconds; none for a part that was restarted in between.
    pub parts: PerPart<f64>,
    /// CPU seconds of processes that are not part of the bank. They distort a measurement.
    pub others: f64,
    /// CPU seconds that the hypervisor gave to other machines. They distort a measurement.
    pub stolen: f64,
}

impl ProcessUsage {
    /// Finds the running parts. If there is a separate `handler`, only the servers must be running.
    pub fn find(stack: &Stack, brokers: usize, handler: Option<Process>) -> Result<Self, Error> {
        let running = |name: &str, part| {
            let process = Some(stack.process(name)?);
            Ok::<_, Error>(Watched { name: name.to_owned(), part, process })
        };
        let mut watched = Vec::new();
        for broker in 1..=brokers {
            watched.push(running(&format!("kafka-{broker}"), BROKER)?);
        }
        watched.push(running(stack::POSTGRES, DATABASE)?);
        match handler {
            Some(_) => {
                let name = stack::COMMAND_HANDLER.to_owned();
                watched.push(Watched { name, part: HANDLER, process: handler });
            }
            None => {
                watched.push(running(stack::COMMAND_HANDLER, HANDLER)?);
                watched.push(running(stack::GRAPHQL_ENDPOINT, ENDPOINT)?);
                let others = ["command-generator", "heartbeat", "registry", "frontend"];
                watched
                    .extend((4..).zip(others).filter_map(|(part, name)| running(name, part).ok()));
            }
        }
        let own = std::process::id();
        let process = Process::open(own).map_err(failed("bench", own))?;
        watched.push(Watched { name: "bench".to_owned(), part: BENCH, process: Some(process) });
        Ok(Self { stack: stack.clone(), watched })
    }

    /// Current CPU times. A restarted part is looked up again.
    pub fn cpu(&mut self) -> Result<CpuTimes, Error> {
        let (machine, stolen) = proc::machine_cpu().map_err(failed("the machine", 0))?;
        let stack = &self.stack;
        let parts = sums(self.watched.iter_mut().map(|it| {
            let used = it.process.and_then(|process| process.cpu().ok());
            if used.is_none() {
                it.process = stack.process(&it.name).ok();
            }
            (it.part, used.map(|time| time.as_secs_f64()))
        }));
        let (machine, stolen) = (machine.as_secs_f64(), stolen.as_secs_f64());
        Ok(CpuTimes { at: Instant::now(), parts, machine, stolen })
    }

    /// Current memory of each part, bytes.
    pub fn memory(&self) -> PerPart<u64> {
        self.each(Process::memory)
    }

    /// Current number of threads of each part.
    pub fn threads(&self) -> PerPart<u64> {
        self.each(Process::threads)
    }

    /// Current number of open descriptors of each part.
    pub fn descriptors(&self) -> PerPart<u64> {
        self.each(Process::descriptors)
    }

    fn each(&self, value: fn(&Process) -> io::Result<u64>) -> PerPart<u64> {
        sums(
            self.watched
                .iter()
                .map(|it| (it.part, it.process.as_ref().and_then(|process| value(process).ok()))),
        )
    }

    /// Current memory of the command-handler, bytes. Faster than [`Self::memory`].
    pub fn handler_memory(&self) -> Result<u64, Error> {
        let handler = self.watched.iter().find(|it| it.part == HANDLER).and_then(|it| it.process);
        let ended = || Error::Bank(format!("{} has ended", stack::COMMAND_HANDLER));
        let handler = handler.ok_or_else(ended)?;
        handler.rss().map_err(failed(stack::COMMAND_HANDLER, handler.pid))
    }
}

fn failed(part: &str, pid: u32) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::Part { part: part.to_owned(), pid, source }
}

/// The sum over the processes of each part; none if a process is missing.
fn sums<T: Copy + std::ops::Add<Output = T>>(
    values: impl Iterator<Item = (usize, Option<T>)>,
) -> PerPart<T> {
    let mut sums: [Option<Option<T>>; NAMES.len()] = [None; NAMES.len()];
    for (part, value) in values {
        sums[part] = Some(match sums[part] {
            None => value,
            Some(sum) => sum.zip(value).map(|(sum, value)| sum + value),
        });
    }
    sums.map(Option::flatten)
}

impl CpuTimes {
    /// CPU time since `earlier`.
    pub fn since(&self, earlier: &Self) -> CpuUse {
        let elapsed_s = self.at.duration_since(earlier.at).as_secs_f64().max(1e-9);
        let mut parts = [None; NAMES.len()];
        for (part, (now, before)) in parts.iter_mut().zip(self.parts.iter().zip(earlier.parts)) {
            *part = now.zip(before).map(|(now, before)| now - before).filter(|used| *used >= 0.0);
        }
        let known: f64 = parts.iter().flatten().sum();
        let others = (self.machine - earlier.machine - known).max(0.0);
        CpuUse { elapsed_s, parts, others, stolen: self.stolen - earlier.stolen }
    }
}

impl CpuUse {
    /// CPU seconds of a part; 0 if they are not known.
    pub fn seconds(&self, part: usize) -> f64 {
        self.parts[part].unwrap_or(0.0)
    }

    /// Mean CPU use of each part, cores.
    pub fn cores(&self) -> PerPart<f64> {
        self.parts.map(|part| part.map(|seconds| seconds / self.elapsed_s))
    }

    /// Mean CPU use of processes that are not part of the bank, cores.
    pub fn other_cores(&self) -> f64 {
        if self.elapsed_s > 0.0 { self.others / self.elapsed_s } else { 0.0 }
    }

    /// Mean CPU time that the hypervisor gave to other machines, cores.
    pub fn stolen_cores(&self) -> f64 {
        if self.elapsed_s > 0.0 { self.stolen / self.elapsed_s } else { 0.0 }
    }
}

/// A warning if the CPU use of other processes, in cores, distorts the figures.
pub fn disturbance(other_cores: impl Iterator<Item = f64>) -> Option<String> {
    let most = other_cores.fold(0.0, f64::max);
    (most > DISTURBED).then(|| format!("other processes used up to {most:.2} cores"))
}

/// A warning if the time that the hypervisor gave to others, in cores, distorts the figures.
pub fn steal(stolen_cores: impl Iterator<Item = f64>) -> Option<String> {
    let most = stolen_cores.fold(0.0, f64::max);
    (most > DISTURBED).then(|| format!("other virtual machines took up to {most:.2} cores"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn restarted_part_has_no_cpu_time() {
        let start = Instant::now();
        let mut parts = [None; NAMES.len()];
        (parts[BROKER], parts[DATABASE], parts[HANDLER]) = (Some(1.0), Some(5.0), Some(9.0));
        let before = CpuTimes { at: start, parts, machine: 100.0, stolen: 7.0 };
        (parts[BROKER], parts[DATABASE], parts[HANDLER]) = (Some(2.0), Some(5.0), Some(0.1));
        parts[ENDPOINT] = Some(7.0);
        let at = start + Duration::from_secs(2);
        let now = CpuTimes { at, parts, machine: 103.0, stolen: 8.0 };
        let used = now.since(&before);
        assert_eq!(used.cores()[..4], [Some(0.5), Some(0.0), None, None]);
        assert!((used.other_cores() - 1.0).abs() < 1e-9, "{used:?}");
        assert!((used.stolen_cores() - 0.5).abs() < 1e-9, "{used:?}");
    }

    #[test]
    fn part_is_known_if_all_its_processes_are() {
        let sums =
            sums([(0, Some(1)), (0, Some(2)), (1, Some(3)), (1, None), (2, None)].into_iter());
        assert_eq!(sums[..4], [Some(3), None, None, None]);
    }

    #[test]
    fn disturbance_is_reported_above_a_tenth_core() {
        assert_eq!(disturbance([0.0, 0.1].into_iter()), None);
        assert!(disturbance([0.1, 0.2].into_iter()).unwrap().contains("0.20 cores"));
        assert_eq!(steal([0.0, 0.1].into_iter()), None);
        assert!(steal([0.1, 0.2].into_iter()).unwrap().contains("0.20 cores"));
    }
}
