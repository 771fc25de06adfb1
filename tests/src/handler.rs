//! Command-handlers that a test starts, kills, freezes and stops.

use crate::stack::{PATIENCE, Stack, binary};
use crate::wait::until;
use free_port::free_port;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const SIGKILL: i32 = 9;

/// Timeout for the shutdown of a handler at the end of a test.
const STOP_MAX: Duration = Duration::from_secs(2);

/// Settings of a handler.
#[derive(Debug, Default, Clone, Copy)]
pub struct Settings<'a> {
    /// Environment variables in addition to the addresses of the servers.
    pub env: &'a [(&'a str, &'a str)],
    /// Environment variables of the first process only.
    pub env_first: &'a [(&'a str, &'a str)],
    /// The handler is not restarted when it ends.
    pub once: bool,
}

/// A command-handler. It is restarted when it ends, as the stack's supervisor does. Dropping it
/// stops it, so that the handler of the next test has no records to repeat. It is killed if it does
/// not stop.
pub struct Handler {
    shared: Arc<Mutex<Shared>>,
    supervisor: Option<JoinHandle<()>>,
    port: u16,
    log: PathBuf,
}

struct Shared {
    /// The process while it runs.
    child: Option<Child>,
    /// Exit statuses of its processes so far.
    exits: Vec<ExitStatus>,
    /// The current process is not restarted.
    last: bool,
}

impl Handler {
    /// Starts a handler and waits until it serves both topics.
    pub fn start(stack: &Stack) -> Self {
        Self::start_with(stack, Settings::default())
    }

    /// Starts a handler with settings and waits until it is ready.
    pub fn start_with(stack: &Stack, settings: Settings<'_>) -> Self {
        let handler = Self::launch(stack, settings);
        handler.wait_ready(PATIENCE);
        handler
    }

    /// Starts a handler without waiting until it is ready.
    ///
    /// # Panics
    /// If it can't be started.
    pub fn launch(stack: &Stack, settings: Settings<'_>) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let test = thread::current().name().unwrap_or("test").replace("::", "-");
        let log = stack.log_dir().join(format!("{test}-{}-{number}.log", std::process::id()));
        File::create(&log).unwrap_or_else(|err| panic!("{}: {err}", log.display()));
        let port = free_port();
        let command = |env: &[(&str, &str)]| {
            let mut command = Command::new(binary("command-handler"));
            command
                .env("KAFKA_BROKERS", stack.kafka.brokers.join(","))
                .env("SCHEMA_REGISTRY_URL", stack.registry_url())
                .env("DATABASE_URL", stack.database_url())
                .env("HEALTH_PORT", port.to_string())
                .envs(settings.env.iter().chain(env).copied())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(appending(&log));
            command
        };
        let shared = Arc::new(Mutex::new(Shared {
            child: Some(spawn(&mut command(settings.env_first))),
            exits: Vec::new(),
            last: settings.once,
        }));
        let supervisor = thread::spawn({
            let (shared, command) = (shared.clone(), command(&[]));
            move || supervise(&shared, command)
        });
        Self { shared, supervisor: Some(supervisor), port, log }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True if `/readyz` reports that it consumes both topics.
    pub fn is_ready(&self) -> bool {
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(1)))
            .build()
            .new_agent();
        let url = format!("http://127.0.0.1:{}/readyz", self.port);
        agent.get(&url).call().is_ok_and(|answer| answer.status() == 200)
    }

    /// Waits until it is ready.
    ///
    /// # Panics
    /// If it is not after `limit`.
    #[track_caller]
    pub fn wait_ready(&self, limit: Duration) {
        until("the handler is ready", limit, || self.is_ready().then_some(()));
    }

    /// The value in the line of `/metrics` that starts with `name`; `None` without such a line.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let url = format!("http://127.0.0.1:{}/metrics", self.port);
        let text = ureq::get(&url).call().ok()?.body_mut().read_to_string().ok()?;
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Exit statuses of its processes so far.
    pub fn exits(&self) -> Vec<ExitStatus> {
        self.shared().exits.clone()
    }

    /// Kills it (SIGKILL). It is restarted unless `once` is set.
    pub fn kill(&self) {
        self.signal("KILL");
    }

    /// Kills it (SIGKILL) without a restart.
    pub fn kill_for_good(&self) {
        self.shared().last = true;
        self.kill();
        self.wait_gone(PATIENCE);
    }

    /// Stops all its threads (SIGSTOP).
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// Continues all its threads (SIGCONT).
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    /// The lock keeps the supervisor from reaping the child, so its pid is not reused.
    fn signal(&self, signal: &str) {
        if let Some(child) = &self.shared().child {
            let pid = child.id().to_string();
            let sent = Command::new("kill").arg(format!("-{signal}")).arg(&pid).status();
            assert!(sent.is_ok_and(|status| status.success()), "kill -{signal} {pid}");
        }
    }

    /// Waits until it has ended `count` times. Returns the last exit status.
    ///
    /// # Panics
    /// If it has not after `limit`.
    #[track_caller]
    pub fn wait_exits(&self, count: usize, limit: Duration) -> ExitStatus {
        until(&format!("the handler ends (time {count})"), limit, || {
            self.exits().get(count - 1).copied()
        })
    }

    fn wait_gone(&self, limit: Duration) {
        until("the handler is gone", limit, || self.shared().child.is_none().then_some(()));
    }

    /// Stops it (SIGTERM). Returns the time until its end.
    ///
    /// # Panics
    /// If the exit code is not 0.
    #[track_caller]
    pub fn stop(&self) -> Duration {
        let (end, took) = self.terminate();
        assert_eq!(end.code(), Some(0), "{end:?}");
        took
    }

    /// Stops it (SIGTERM). Returns the exit status and the time until its end.
    ///
    /// # Panics
    /// If it does not end.
    #[track_caller]
    pub fn terminate(&self) -> (ExitStatus, Duration) {
        let started = Instant::now();
        self.shared().last = true;
        self.signal("TERM");
        self.wait_gone(PATIENCE);
        let took = started.elapsed();
        (*self.exits().last().expect("the process has ended"), took)
    }

    fn end_of_log(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(25)..].join("\n");
        format!("the end of {}:\n{end}", self.log.display())
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.end_of_log());
        }
        self.shared().last = true;
        self.signal("TERM");
        self.signal("CONT");
        let deadline = Instant::now() + STOP_MAX;
        while self.shared().child.is_some() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        if let Some(child) = &mut self.shared().child {
            let _ = child.kill();
        }
        if let Some(supervisor) = self.supervisor.take() {
            let _ = supervisor.join();
        }
    }
}

/// True if the process was ended by SIGKILL.
pub fn was_killed(end: ExitStatus) -> bool {
    end.signal() == Some(SIGKILL)
}

/// Restarts the handler when it ends with an exit code other than 0 (done) and 2 (usage error).
fn supervise(shared: &Mutex<Shared>, mut command: Command) {
    const CHECK_INTERVAL: Duration = Duration::from_millis(5);
    const PAUSE: Duration = Duration::from_millis(100);
    let lock = || shared.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        thread::sleep(CHECK_INTERVAL);
        {
            let mut shared = lock();
            let Some(child) = &mut shared.child else { return };
            let Ok(Some(end)) = child.try_wait() else { continue };
            shared.child = None;
            shared.exits.push(end);
            if shared.last || matches!(end.code(), Some(0 | 2)) {
                return;
            }
        }
        thread::sleep(PAUSE);
        let mut shared = lock();
        if shared.last {
            return;
        }
        shared.child = Some(spawn(&mut command));
    }
}

fn spawn(command: &mut Command) -> Child {
    let program = command.get_program().to_owned();
    command.spawn().unwrap_or_else(|err| {
        panic!("{}: {err}: make test-integration builds it", program.display())
    })
}

fn appending(log: &Path) -> File {
    let file = File::options().append(true).open(log);
    file.unwrap_or_else(|err| panic!("{}: {err}", log.display()))
}
