//! Commands that this program waits for. Each runs in a separate process group with a deadline, and
//! is stopped on a signal.

use crate::error::{Context, Error, Result, failed};
use crate::interrupt::{self, POLL_INTERVAL};
use crate::output;
use crate::process::{group_exists, signal_group};
use rustix::process::Signal;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Time between the signal and SIGKILL.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Time for the kernel to end a killed process.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// What is printed during the wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// A line of progress.
    Progress,
    /// Nothing, since the command prints itself or another thread reports.
    Nothing,
}

/// Runs `command` until it ends or `limit` has passed. After a signal it is stopped.
pub fn run(
    command: &mut Command,
    what: &str,
    limit: Duration,
    report: Report,
) -> Result<ExitStatus> {
    let child = command.process_group(0).spawn().context(format!("could not run {what}"))?;
    wait(child, what, limit, report)
}

/// Like [`run`], with output appended to `log`, and with `input` on stdin.
pub fn run_logged(
    command: &mut Command,
    what: &str,
    log: &Path,
    input: &str,
    report: Report,
    limit: Duration,
) -> Result<ExitStatus> {
    let output = append(log)?;
    let errors = output.try_clone().context(log.display())?;
    let stdin = if input.is_empty() { Stdio::null() } else { Stdio::piped() };
    command.stdin(stdin).stdout(output).stderr(errors).process_group(0);
    let mut child = command.spawn().context(format!("could not run {what}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read its input fails, which its exit code shows.
        let _ = stdin.write_all(input.as_bytes());
    }
    wait(child, what, limit, report)
}

/// Runs `command` without output. True if it succeeds within `limit`.
pub fn succeeds(command: &mut Command, limit: Duration) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    run(command, "a check", limit, Report::Nothing).is_ok_and(|status| status.success())
}

/// Waits until `child`, the leader of a process group, has ended.
pub fn wait(mut child: Child, what: &str, limit: Duration, report: Report) -> Result<ExitStatus> {
    let since = Instant::now();
    let group = i32::try_from(child.id()).unwrap_or(0);
    loop {
        if let Some(status) = child.try_wait().context(what)? {
            if report == Report::Progress {
                output::clear_progress();
            }
            return Ok(status);
        }
        if let Err(interrupted) = interrupt::check() {
            let signal = match interrupted {
                Error::Interrupted(number) => Signal::from_named_raw(number),
                _ => None,
            };
            stop(&mut child, group, signal.unwrap_or(Signal::TERM));
            return Err(interrupted);
        }
        if since.elapsed() > limit {
            stop(&mut child, group, Signal::TERM);
            return Err(failed(format!(
                "{what} did not end within {} s and was stopped",
                limit.as_secs()
            )));
        }
        if report == Report::Progress {
            output::progress(what, since);
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// Sends `signal` to the group, and SIGKILL after [`STOP_LIMIT`].
fn stop(child: &mut Child, group: i32, signal: Signal) {
    signal_group(group, signal);
    for (limit, then) in [(STOP_LIMIT, Some(Signal::KILL)), (KILL_LIMIT, None)] {
        let since = Instant::now();
        while since.elapsed() < limit {
            // The group exists until the exit code is read.
            let _ = child.try_wait();
            if !group_exists(group) {
                return;
            }
            output::progress("Waiting for the command to stop", since);
            thread::sleep(POLL_INTERVAL);
        }
        if let Some(signal) = then {
            signal_group(group, signal);
        }
    }
}

/// The exit code as a shell returns it: 128 plus the signal's number after a signal.
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// Opens a log for appending.
pub fn append(log: &Path) -> Result<File> {
    OpenOptions::new().create(true).append(true).open(log).context(log.display())
}

/// Renames a log above 10 MiB, which limits its size.
pub fn rotate(log: &Path) -> Result<()> {
    match fs::metadata(log) {
        Ok(metadata) if metadata.len() > 10 << 20 => {
            let mut old = log.as_os_str().to_owned();
            old.push(".old");
            fs::rename(log, old).context(log.display())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]);
        shell
    }

    #[test]
    fn exit_codes_match_those_of_a_shell() {
        let limit = Duration::from_secs(10);
        let status = run(&mut shell("exit 7"), "sh", limit, Report::Nothing).unwrap();
        assert_eq!(exit_code(status), 7);
        let status = run(&mut shell("kill -9 $$"), "sh", limit, Report::Nothing).unwrap();
        assert_eq!(exit_code(status), 137);
    }

    #[test]
    fn command_and_its_children_stop_at_the_limit() {
        let since = Instant::now();
        let mut command = shell("sleep 60 & sleep 60");
        let limit = Duration::from_millis(100);
        let err = run(&mut command, "sleep", limit, Report::Nothing).unwrap_err();
        assert!(err.to_string().starts_with("sleep did not end within"), "{err}");
        assert!(since.elapsed() < STOP_LIMIT);
    }
}
