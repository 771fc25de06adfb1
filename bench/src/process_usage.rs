//! What each part of the running stack uses of the machine.

use crate::error::Error;
use crate::proc::{self, Process};
use crate::stack::{self, HANDLER, POSTGRES, Stack};
use std::time::Instant;

/// Parts as they are told apart in rows; all brokers are one.
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
/// Their place among [`NAMES`].
pub const BROKER: usize = 0;
/// Their place among [`NAMES`].
pub const DATABASE: usize = 1;
/// Their place among [`NAMES`].
pub const HANDLER_PART: usize = 2;
/// Their place among [`NAMES`].
pub const ENDPOINT: usize = 3;

/// The processes of the running stack, and this one.
pub struct Parts {
    stack: Stack,
    /// Name in the stack, place among [`NAMES`], process as last seen.
    known: Vec<(String, usize, Option<Process>)>,
}

/// What was used until a moment, by place among [`NAMES`]. `None`: it does not run, or did not for a while.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    at: Instant,
    /// CPU seconds so far.
    cpu: [Option<f64>; NAMES.len()],
    /// Memory now, bytes.
    pub memory: [Option<u64>; NAMES.len()],
    /// CPU seconds of everything on the machine so far.
    machine: f64,
}

/// CPU use between two moments, cores.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cores {
    /// By place among [`NAMES`].
    pub parts: [Option<f64>; NAMES.len()],
    /// What is none of the bank's doing: a measurement beside other work says little.
    pub others: f64,
}

impl Parts {
    /// Finds what runs.
    ///
    /// # Errors
    /// A broker, the database, the command-handler or the endpoint does not run.
    pub fn find(stack: &Stack, brokers: usize) -> Result<Self, Error> {
        let mut known = Vec::new();
        for broker in 1..=brokers {
            let name = format!("kafka-{broker}");
            known.push((name.clone(), BROKER, Some(stack.process(&name)?)));
        }
        for (name, place) in
            [(POSTGRES, DATABASE), (HANDLER, HANDLER_PART), (stack::ENDPOINT, ENDPOINT)]
        {
            known.push((name.to_owned(), place, Some(stack.process(name)?)));
        }
        for (place, name) in (4..).zip(["command-generator", "heartbeat", "registry", "frontend"]) {
            if let Ok(process) = stack.process(name) {
                known.push((name.to_owned(), place, Some(process)));
            }
        }
        let own = std::process::id();
        let process = Process::open(own).map_err(|source| Error::Part {
            part: "bench".to_owned(),
            pid: own,
            source,
        })?;
        known.push(("bench".to_owned(), NAMES.len() - 1, Some(process)));
        Ok(Self { stack: stack.clone(), known })
    }

    /// Looks at all of them. One that was started again is found again.
    ///
    /// # Errors
    /// /proc can't be read.
    pub fn usage(&mut self) -> Result<Usage, Error> {
        let failed = |source| Error::Part { part: "the machine".to_owned(), pid: 0, source };
        let machine = proc::machine_cpu().map_err(failed)?.as_secs_f64();
        let mut cpu = NAMES.map(|_| Some(0.0));
        let mut memory = NAMES.map(|_| Some(0));
        let mut seen = [false; NAMES.len()];
        for (name, place, process) in &mut self.known {
            seen[*place] = true;
            let used =
                process.and_then(|it| Some((it.cpu().ok()?.as_secs_f64(), it.memory().ok()?)));
            match used {
                Some((seconds, bytes)) => {
                    cpu[*place] = cpu[*place].map(|sum| sum + seconds);
                    memory[*place] = memory[*place].map(|sum| sum + bytes);
                }
                None => {
                    (cpu[*place], memory[*place]) = (None, None);
                    *process = self.stack.process(name).ok();
                }
            }
        }
        for place in (0..NAMES.len()).filter(|place| !seen[*place]) {
            (cpu[place], memory[place]) = (None, None);
        }
        Ok(Usage { at: Instant::now(), cpu, memory, machine })
    }
}

impl Usage {
    /// What was used since `earlier`. One that was started anew since then is left out.
    pub fn since(&self, earlier: &Self) -> Cores {
        let seconds = self.at.duration_since(earlier.at).as_secs_f64().max(1e-9);
        let mut parts = [None; NAMES.len()];
        for (part, (now, before)) in parts.iter_mut().zip(self.cpu.iter().zip(earlier.cpu)) {
            *part = now.zip(before).map(|(now, before)| now - before).filter(|used| *used >= 0.0);
            *part = part.map(|used| used / seconds);
        }
        let known: f64 = parts.iter().flatten().sum();
        let others = ((self.machine - earlier.machine) / seconds - known).max(0.0);
        Cores { parts, others }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_part_that_was_started_anew_is_left_out_and_the_rest_of_the_machine_is_others() {
        let start = Instant::now();
        let mut cpu = [None; NAMES.len()];
        (cpu[BROKER], cpu[DATABASE], cpu[HANDLER_PART]) = (Some(1.0), Some(5.0), Some(9.0));
        let before = Usage { at: start, cpu, memory: [None; NAMES.len()], machine: 100.0 };
        (cpu[BROKER], cpu[DATABASE], cpu[HANDLER_PART]) = (Some(2.0), Some(5.0), Some(0.1));
        cpu[ENDPOINT] = Some(7.0);
        let now = Usage { at: start + Duration::from_secs(2), cpu, machine: 103.0, ..before };
        let cores = now.since(&before);
        assert_eq!(cores.parts[..4], [Some(0.5), Some(0.0), None, None]);
        assert!((cores.others - 1.0).abs() < 1e-9, "{cores:?}");
    }
}
