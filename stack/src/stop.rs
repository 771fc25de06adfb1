//! Stops parts: services first, then servers, each group at the same time. Parts that do not end
//! are killed.

use crate::error::{Result, failed};
use crate::interrupt;
use crate::network;
use crate::output::{self, say, seconds};
use crate::parts::{self, Part};
use crate::process::Process;
use crate::stack::Stack;
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// Time between the signal and SIGKILL.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// Time for the kernel to end a killed process.
const KILL_LIMIT: Duration = Duration::from_secs(20);

/// The signal with which parts are stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// The signal for a shutdown, and after [`STOP_LIMIT`] SIGKILL.
    Gracefully,
    /// With SIGKILL.
    Killed,
}

/// Stops `parts` and waits until they have ended.
pub fn stop(stack: &Stack, parts: &[Part], how: How) -> Result<()> {
    let (services, servers): (Vec<Part>, Vec<Part>) =
        parts.iter().partition(|part| part.service().is_some());
    stop_at_once(stack, services, how)?;
    stop_at_once(stack, servers, how)?;
    parts.iter().try_for_each(|&part| network::heal(stack, part))
}

/// Stops parts at the same time, since the last of several brokers would wait for the others.
fn stop_at_once(stack: &Stack, parts: Vec<Part>, how: How) -> Result<()> {
    let since = Instant::now();
    let mut left: Vec<Part> = parts.into_iter().filter(|&part| runs(stack, part)).collect();
    for &part in &left {
        signal(stack, part, how);
    }
    let mut killed = how == How::Killed;
    loop {
        left.retain(|&part| {
            let still = runs(stack, part);
            if !still {
                say(format!("{part:<18} stopped after {}", seconds(since.elapsed())));
            }
            still
        });
        if left.is_empty() {
            return Ok(());
        }
        let names = parts::names(&left, ", ");
        if !killed && since.elapsed() > STOP_LIMIT {
            let limit = STOP_LIMIT.as_secs();
            say(format!("{names} did not stop within {limit} s: sending SIGKILL."));
            for &part in &left {
                signal(stack, part, How::Killed);
            }
            killed = true;
        }
        if since.elapsed() > STOP_LIMIT + KILL_LIMIT {
            return Err(failed(format!("{names} is still running after SIGKILL: stop it by hand")));
        }
        output::progress(format!("Stopping {names}"), since);
        interrupt::pause(interrupt::POLL_INTERVAL)?;
    }
}

/// True if the part or its supervisor runs.
fn runs(stack: &Stack, part: Part) -> bool {
    stack.supervisor(part).is_some() || stack.process(part).is_some()
}

fn signal(stack: &Stack, part: Part, how: How) {
    let supervisor = stack.supervisor(part);
    let process = stack.process(part);
    if how == How::Killed {
        // The supervisor leads a process group that contains the service. Both are killed at once,
        // so the service is not restarted.
        if let Some(supervisor) = supervisor {
            supervisor.signal_group(Signal::KILL);
            supervisor.signal(Signal::KILL);
        }
        for member in process.into_iter().flat_map(Process::family) {
            member.signal(Signal::KILL);
        }
        return;
    }
    match (supervisor, process) {
        // The supervisor passes SIGTERM on to the service.
        (Some(supervisor), _) => supervisor.signal(Signal::TERM),
        // On SIGTERM PostgreSQL waits for its clients; on SIGINT it ends their sessions.
        (None, Some(process)) if matches!(part, Part::Postgres | Part::Standby) => {
            process.signal(Signal::INT);
        }
        (None, Some(process)) => process.signal(Signal::TERM),
        (None, None) => {}
    }
    // A frozen process handles the signal only when it continues.
    for member in supervisor.into_iter().chain(process.into_iter().flat_map(Process::family)) {
        member.signal(Signal::CONT);
    }
}
