//! Keeps one service running, in a process of its own that outlives `up`.
//!
//! A service is started again when it exits with a code other than 0 (done) and 2 (its environment
//! is wrong, which a restart does not mend): after 0.1 s, then after twice as long each time up to
//! 5 s, and after 0.1 s again once it has lived for 10 s. SIGTERM is passed on and ends both.
//! SIGKILL to the process group ends both too.

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
/// A service that has lived for so long is started again without delay.
const HEALTHY: Duration = Duration::from_secs(10);
/// How long a service may take to end after SIGTERM, before it is killed. `stop` kills it earlier.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// The delay before the next restart.
#[derive(Debug)]
struct Backoff(Duration);

impl Backoff {
    /// The delay after a life of `lived`.
    fn next(&mut self, lived: Duration) -> Duration {
        if lived >= HEALTHY {
            self.0 = DELAY_FIRST;
        }
        let delay = self.0;
        self.0 = (delay * 2).min(DELAY_MAX);
        delay
    }
}

/// Runs `binary` as service `name` until it is done or SIGTERM comes. Returns its exit code.
pub fn supervise(name: &str, run_dir: &Path, binary: &Path) -> Result<u8> {
    // A session of its own: no signal of the terminal reaches it, and its group is killed as one.
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
                // The code of a shell for what it cannot run.
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

    /// Waits for the end of `child`: its exit code, and true if SIGTERM has come.
    fn wait(&mut self, mut child: Child) -> Result<(u8, bool)> {
        let pid = i32::try_from(child.id()).unwrap_or(0);
        self.pids.record(&self.name, pid)?;
        loop {
            // Blocks until a signal: a service may run forever.
            let stopping = self.signals.wait().any(|signal| signal == SIGTERM);
            if stopping {
                return Ok((stop(&mut child, pid)?, true));
            }
            if let Some(status) = child.try_wait().context(&self.name)? {
                // SIGTERM may have come since.
                let stopping = self.signals.pending().any(|signal| signal == SIGTERM);
                return Ok((foreground::exit_code(status), stopping));
            }
        }
    }

    /// Waits for `delay`; true as soon as SIGTERM has come.
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

    /// Writes a line to the service's log, which is stderr here.
    fn log(&self, level: &str, message: &str, fields: &str) {
        let time = humantime::format_rfc3339_seconds(SystemTime::now());
        let name = &self.name;
        let line = format!("ts={time} level={level} msg=\"{message}\" service={name} {fields}\n");
        // A log that cannot be written does not stop a service.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}

/// Passes SIGTERM on and waits for the end; after [`STOP_LIMIT`] the service is killed.
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

/// Becomes the program of `words`, in a session of its own. Returns only if that fails.
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
    fn delay_starts_over_after_a_healthy_life() {
        let mut backoff = Backoff(DELAY_MAX);
        assert_eq!(backoff.next(Duration::from_secs(10)), DELAY_FIRST);
        assert_eq!(backoff.next(Duration::ZERO), DELAY_FIRST * 2);
    }
}
