//! Keeps one service running, in a separate process that outlives `up`.
//!
//! A service is restarted when it exits with a code other than 0 (done) and 2 (wrong environment,
//! which a restart does not change). The delay is 0.1 s and doubles each time up to 5 s. It is 0.1
//! s
//! again after the service has run for 10 s. SIGTERM is passed on and ends both processes. SIGKILL
//! to the process group ends both too.

use crate::error::{Context, Result};
use crate::foreground;
use crate::interrupt::POLL_INTERVAL;
use crate::process::{PidFiles, Process};
use rustix::process::Signal;
use signal_hook::consts::{SIGCHLD, SIGTERM};
use signal_hook::iterator::Signals;
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

const DELAY_FIRST: Duration = Duration::from_millis(100);
const DELAY_MAX: Duration = Duration::from_secs(5);
/// A service that has run for this time is restarted with the shortest delay.
const HEALTHY: Duration = Duration::from_secs(10);
/// Time between SIGTERM and SIGKILL. `stop` kills the service earlier.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// The delay before the next restart.
#[derive(Debug)]
struct Backoff(Duration);

impl Backoff {
    /// The delay after a run of the duration `lived`.
    fn next(&mut self, lived: Duration) -> Duration {
        if lived >= HEALTHY {
            self.0 = DELAY_FIRST;
        }
        let delay = self.0;
        self.0 = (delay * 2).min(DELAY_MAX);
        delay
    }
}

/// Runs `binary` as service `name` until it is done or SIGTERM is received. Returns its exit code.
pub fn supervise(name: &str, run_dir: &Path, binary: &Path) -> Result<u8> {
    // In a separate session no signal of the terminal arrives, and the group can be killed at once.
    let _ = rustix::process::setsid();
    let signals = Signals::new([SIGCHLD, SIGTERM]).context("could not handle signals")?;
    let pids = PidFiles::new(run_dir);
    let mut supervisor =
        Supervisor { name: name.to_owned(), pids, binary: binary.to_owned(), signals };
    supervisor.run()
}

struct Supervisor {
    name: String,
    pids: PidFiles,
    binary: PathBuf,
    signals: Signals,
}

impl Supervisor {
    fn run(&mut self) -> Result<u8> {
        let mut backoff = Backoff(DELAY_FIRST);
        loop {
            let since = Instant::now();
            let (code, stopping) = match Command::new(&self.binary).stdin(Stdio::null()).spawn() {
                Ok(child) => self.wait(child)?,
                // The exit code of a shell for a command that can't be run.
                Err(err) => {
                    self.log("warn", "could not start the service", &format!("error=\"{err}\""));
                    (127, false)
                }
            };
            let lived = since.elapsed();
            let fields = format!("code={code} lived_s={}", lived.as_secs());
            if stopping || code == 0 || code == 2 {
                self.log("info", "exited", &fields);
                return Ok(code);
            }
            let delay = backoff.next(lived);
            let fields = format!("{fields} delay_ms={}", delay.as_millis());
            self.log("warn", "exited, starting again", &fields);
            if self.pause(delay) {
                return Ok(0);
            }
        }
    }

    /// Waits for the end of `child`. Returns its exit code, and true if SIGTERM was received.
    fn wait(&mut self, mut child: Child) -> Result<(u8, bool)> {
        let pid = i32::try_from(child.id()).unwrap_or(0);
        self.pids.record(&self.name, pid)?;
        loop {
            // Blocks until a signal, since a service may run forever.
            let stopping = self.signals.wait().any(|signal| signal == SIGTERM);
            if stopping {
                return Ok((stop(&mut child, pid)?, true));
            }
            if let Some(status) = child.try_wait().context(&self.name)? {
                // SIGTERM may have been received in between.
                let stopping = self.signals.pending().any(|signal| signal == SIGTERM);
                return Ok((foreground::exit_code(status), stopping));
            }
        }
    }

    /// Waits for `delay`. Returns true when SIGTERM is received.
    fn pause(&mut self, delay: Duration) -> bool {
        let deadline = Instant::now() + delay;
        loop {
            if self.signals.pending().any(|signal| signal == SIGTERM) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            thread::sleep(left.min(POLL_INTERVAL));
        }
    }

    /// Writes a line to stderr, which is the service's log.
    fn log(&self, level: &str, message: &str, fields: &str) {
        let time = humantime::format_rfc3339_seconds(SystemTime::now());
        let name = &self.name;
        let line = format!("ts={time} level={level} msg=\"{message}\" service={name} {fields}\n");
        // A log that can't be written does not stop the service.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}

/// Passes SIGTERM on and waits for the end of the service. Kills it after [`STOP_LIMIT`].
fn stop(child: &mut Child, pid: i32) -> Result<u8> {
    let process = Process::of(pid);
    if let Some(process) = process {
        process.signal(Signal::TERM);
    }
    let since = Instant::now();
    loop {
        if let Some(status) = child.try_wait().context("could not wait for the service")? {
            return Ok(foreground::exit_code(status));
        }
        if since.elapsed() > STOP_LIMIT {
            child.kill().context("could not kill the service")?;
            let status = child.wait().context("could not wait for the service")?;
            return Ok(foreground::exit_code(status));
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// Replaces this process by the program in `words`, in a separate session. Returns only on failure.
pub fn detach(words: &[OsString]) -> Result<u8> {
    use std::os::unix::process::CommandExt;
    let _ = rustix::process::setsid();
    let Some((program, arguments)) = words.split_first() else { return Ok(2) };
    let err = Command::new(program).args(arguments).exec();
    Err(err).context(format!("could not run {}", program.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delay_doubles_up_to_five_seconds() {
        let mut backoff = Backoff(DELAY_FIRST);
        let delays: Vec<u128> =
            (0..8).map(|_| backoff.next(Duration::from_secs(9)).as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    }

    #[test]
    fn delay_is_reset_after_a_long_run() {
        let mut backoff = Backoff(DELAY_MAX);
        assert_eq!(backoff.next(Duration::from_secs(10)), DELAY_FIRST);
        assert_eq!(backoff.next(Duration::ZERO), DELAY_FIRST * 2);
    }
}
