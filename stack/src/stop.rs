//! Stopping parts: services first, then servers, each group at the same time. What does not end is
//! killed.

use crate::error::{Result, failed};
use crate::interrupt;
use crate::output::{self, say, seconds};
use crate::parts::{self, Part};
use crate::process::Process;
use crate::stack::Stack;
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// How long a part may take to end before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// How long the kernel may take to end what was killed.
const KILL_LIMIT: Duration = Duration::from_secs(20);

/// How parts are stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// With the signal that asks for it; after [`STOP_LIMIT`] with SIGKILL.
    Gracefully,
    /// With SIGKILL.
    Killed,
}

/// Stops `parts` and waits until they are gone.
pub fn stop(stack: &Stack, parts: &[Part], how: How) -> Result<()> {
    let (services, servers): (Vec<Part>, Vec<Part>) =
        parts.iter().partition(|part| part.service().is_some());
    stop_at_once(stack, services, how)?;
    stop_at_once(stack, servers, how)
}

/// Brokers especially: the last one alone would wait for the others.
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
            say(format!("{names} did not stop within {limit} s, so it is killed."));
            for &part in &left {
                signal(stack, part, How::Killed);
            }
            killed = true;
        }
        if since.elapsed() > STOP_LIMIT + KILL_LIMIT {
            return Err(failed(format!("{names} still runs after SIGKILL: stop it by hand")));
        }
        output::progress(format!("stopping {names}"), since);
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
        // The supervisor leads a group with the service, which ends at once: it is not started
        // again.
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
        // It passes SIGTERM on to the service.
        (Some(supervisor), _) => supervisor.signal(Signal::TERM),
        // PostgreSQL waits for its clients on SIGTERM, and ends their sessions on SIGINT.
        (None, Some(process)) if part == Part::Postgres => process.signal(Signal::INT),
        (None, Some(process)) => process.signal(Signal::TERM),
        (None, None) => {}
    }
    // A frozen process ends when it goes on.
    for member in supervisor.into_iter().chain(process.into_iter().flat_map(Process::family)) {
        member.signal(Signal::CONT);
    }
}
