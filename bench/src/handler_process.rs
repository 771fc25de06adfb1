//! A fresh bank for one command-handler, and the process of that handler.

use crate::control::Http;
use crate::error::Error;
use crate::handlers::Handler;
use crate::proc::Process;
use crate::topic_reader::{Cluster, ends};
use bank::topology::{CONFIRM_ACCOUNT_CREATION, CONFIRM_MONEY_TRANSFER};
use free_port::free_port;
use postgres::{Client, NoTls};
use service::env::{COMPANY_TOKEN, COMPANY_TOKEN_FILE, Env, SCHEMA_REGISTRY_URL, Variable};
use service::shutdown::Shutdown;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// `BALANCE_DATABASE_URL`: a database on the server where fresh databases are created.
pub const SERVER_URL: Variable = Variable::required(
    "BALANCE_DATABASE_URL",
    "a database whose role may create others, as in postgres://user:password@host:5432/balancedb",
)
.secret();

/// Consumer group of every command-handler.
pub const GROUP: &str = "command-handler";

/// Longer than the session timeout, after which Kafka removes a killed handler from its group.
const GROUP_TIMEOUT: Duration = Duration::from_secs(60);
/// Timeout of a handler's start, until it is ready.
pub const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Timeout of a handler's shutdown after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// Time between two checks of a handler.
const CHECK_INTERVAL: Duration = Duration::from_millis(2);

/// A bank without history: an empty database, and offsets past all commands. The topics are shared
/// with other banks.
pub struct FreshBank {
    server: String,
    name: String,
    /// Environment of its handler.
    variables: Vec<(&'static str, String)>,
    logs: PathBuf,
}

impl FreshBank {
    /// Creates topics and schemas by running `synchronizer` from the folder of this program.
    pub fn synchronize() -> Result<(), Error> {
        let program = std::env::current_exe().unwrap_or_default().with_file_name("synchronizer");
        let failed =
            |message: String| Error::Stack { command: program.display().to_string(), message };
        let output = Command::new(&program)
            .stdin(Stdio::null())
            .output()
            .map_err(|err| failed(err.to_string()))?;
        if output.status.success() {
            Ok(())
        } else {
            Err(failed(String::from_utf8_lossy(&output.stderr).into_owned()))
        }
    }

    /// Creates a bank; the handler's log is written to the folder `logs`. Waits until no other
    /// handler is a member of the consumer group.
    pub fn create(
        env: &Env<'_>,
        cluster: &Cluster,
        logs: &Path,
        shutdown: &Shutdown,
    ) -> Result<Self, Error> {
        fs::create_dir_all(logs).map_err(|source| Error::Csv { path: logs.to_owned(), source })?;
        skip_commands(cluster, shutdown)?;
        let server = env.text(&SERVER_URL)?;
        let name = format!("bank_{}", Uuid::new_v4().simple());
        run(&server, &format!("CREATE DATABASE {name}"))?;
        let (start, _) = server.rsplit_once('/').unwrap_or((&server, ""));
        let url = format!("{start}/{name}");
        let brokers = cluster.kafka.brokers.join(",");
        let variables = vec![
            ("KAFKA_BROKERS", brokers),
            ("SCHEMA_REGISTRY_URL", env.text(&SCHEMA_REGISTRY_URL)?),
            ("DATABASE_URL", url),
        ];
        Ok(Self { server, name, variables, logs: logs.to_owned() })
    }

    /// Starts `handler` without waiting until it is ready.
    pub fn start(&self, handler: &Handler) -> Result<HandlerProcess, Error> {
        start(handler, &self.variables, &self.logs)
    }
}

/// Starts `handler` without waiting until it is ready, with `variables` in its environment. Its log
/// is written to the folder `logs`.
pub fn start(
    handler: &Handler,
    variables: &[(&'static str, String)],
    logs: &Path,
) -> Result<HandlerProcess, Error> {
    let log = logs.join(format!("{}.log", handler.name));
    let failed = |source| Error::Csv { path: log.clone(), source };
    let out = File::options().create(true).append(true).open(&log).map_err(failed)?;
    let port = free_port();
    let own = |source| Error::Part { part: handler.name.clone(), pid: 0, source };
    let container =
        handler.in_container.then(|| format!("scratchbank-{}", Uuid::new_v4().simple()));
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("exec {}", handler.command)])
        // By the contract, a new bank has the token of the talk.
        .env_remove(COMPANY_TOKEN.name)
        .env_remove(COMPANY_TOKEN_FILE.name)
        .envs(variables.iter().map(|(name, value)| (*name, value.as_str())))
        .envs(handler.variables.iter().map(|(name, value)| (name.as_str(), value.as_str())))
        .env("HEALTH_PORT", port.to_string())
        .envs(container.iter().map(|name| ("CONTAINER", name)))
        .stdin(Stdio::null())
        .stdout(out.try_clone().map_err(failed)?)
        .stderr(out);
    let began = Instant::now();
    let child = command.spawn().map_err(own)?;
    let process = Process::open(child.id()).map_err(own)?;
    let ready = format!("http://127.0.0.1:{port}/readyz");
    let (http, name) = (Http::default(), handler.name.clone());
    Ok(HandlerProcess { name, child, container, process, began, ready, http, log, port })
}

impl Drop for FreshBank {
    /// Drops the database, and ends the sessions that still use it.
    fn drop(&mut self) {
        if let Err(err) = run(&self.server, &format!("DROP DATABASE {} WITH (FORCE)", self.name)) {
            log::warn!(error:% = service::log::Chain(&err); "could not drop a test database");
        }
    }
}

/// Moves the consumer group past all commands. Kafka rejects that while the group has members.
fn skip_commands(cluster: &Cluster, shutdown: &Shutdown) -> Result<(), Error> {
    let mut kafka_client = cluster.kafka_client();
    let deadline = Instant::now() + GROUP_TIMEOUT;
    for topic in [CONFIRM_ACCOUNT_CREATION, CONFIRM_MONEY_TRANSFER] {
        let positions = ends(&mut *kafka_client, &topic)?;
        while let Err(source) =
            kafka_client.commit(GROUP, topic.name, &positions, Duration::from_secs(1))
        {
            if Instant::now() >= deadline {
                let step = format!("move group {GROUP} to the end of {}", topic.name);
                return Err(Error::Kafka { step, source });
            }
            if shutdown.wait(Duration::from_millis(200)) {
                return Err(Error::Stopped);
            }
        }
    }
    Ok(())
}

fn run(url: &str, sql: &str) -> Result<(), Error> {
    let failed = |source| Error::Database { step: "create or drop a database", source };
    Client::connect(url, NoTls).map_err(failed)?.batch_execute(sql).map_err(failed)
}

/// A running command-handler; dropping it kills the process.
pub struct HandlerProcess {
    /// Name of the handler.
    pub name: String,
    child: Child,
    /// Name of the container that the child started. The child passes on every signal except
    /// SIGKILL.
    container: Option<String>,
    pub process: Process,
    began: Instant,
    ready: String,
    http: Http,
    log: PathBuf,
    port: u16,
}

impl HandlerProcess {
    /// Waits until the handler is ready. Returns the time since its start.
    pub fn wait_ready(&mut self, shutdown: &Shutdown) -> Result<Duration, Error> {
        loop {
            if self.http.get(&self.ready).is_ok() {
                return Ok(self.began.elapsed());
            }
            if let Some(end) = self.ended() {
                return Err(self.failed(&format!("ended before it was ready: {end}")));
            }
            if self.began.elapsed() > START_TIMEOUT {
                let seconds = START_TIMEOUT.as_secs();
                return Err(self.failed(&format!("not ready within {seconds} s")));
            }
            if shutdown.requested() {
                return Err(Error::Stopped);
            }
            thread::sleep(CHECK_INTERVAL);
        }
    }

    /// Base address of its health endpoint.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The exit status, if the process has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Kills the process (SIGKILL) and waits for its end.
    pub fn kill(&mut self) {
        if let Some(name) = &self.container {
            let mut remove = Command::new("docker");
            let _ = remove.args(["rm", "--force", name]).output();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends SIGTERM. Returns the exit status and the time until then; none if it does not end.
    pub fn terminate(&mut self) -> Result<Option<(ExitStatus, Duration)>, Error> {
        let asked = Instant::now();
        self.signal("TERM")?;
        while asked.elapsed() < STOP_TIMEOUT {
            if let Some(end) = self.ended() {
                return Ok(Some((end, asked.elapsed())));
            }
            thread::sleep(CHECK_INTERVAL);
        }
        Ok(None)
    }

    /// Sends a signal, such as STOP.
    pub fn signal(&self, signal: &str) -> Result<(), Error> {
        let pid = self.child.id();
        let sent = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status();
        sent.map(drop).map_err(|source| Error::Part { part: self.name.clone(), pid, source })
    }

    fn failed(&self, what: &str) -> Error {
        Error::Bank(format!("{}: {what}; see {}", self.name, self.log.display()))
    }
}

impl Drop for HandlerProcess {
    fn drop(&mut self) {
        self.kill();
    }
}
