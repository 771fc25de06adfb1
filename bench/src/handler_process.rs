//! A bank of its own for a handler, and the handler's life in it.

use crate::control::Http;
use crate::error::Error;
use crate::handlers::Handler;
use crate::proc::Process;
use crate::topic_reader::{Cluster, ends};
use bank::topology::{CONFIRM_ACCOUNT_CREATION, CONFIRM_MONEY_TRANSFER};
use postgres::{Client, NoTls};
use service::env::{Env, SCHEMA_REGISTRY_URL, Variable};
use service::shutdown::Shutdown;
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// `BALANCE_DATABASE_URL`: a database on the server where fresh ones are made.
pub const SERVER_URL: Variable = Variable::required(
    "BALANCE_DATABASE_URL",
    "a database whose role may make others, as in postgres://user:password@host:5432/balancedb",
)
.secret();

/// Consumer group of every handler's offsets.
pub const GROUP: &str = "command-handler";

/// How long Kafka may count a killed handler as a member of its group, and then some.
const GROUP_PATIENCE: Duration = Duration::from_secs(60);
/// How long a handler may take until it is ready.
pub const START_PATIENCE: Duration = Duration::from_secs(60);
/// How long it may take to end when it is asked to.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// Time between two looks at a handler.
const LOOK: Duration = Duration::from_millis(2);

/// A bank where nothing has happened: an empty database, and no command that was not read. The
/// topics are the cluster's.
pub struct FreshBank {
    server: String,
    name: String,
    /// What its handler is given.
    variables: Vec<(&'static str, String)>,
    http: Http,
    logs: PathBuf,
}

impl FreshBank {
    /// Makes the topics what they should be (`synchronizer`, in the folder of this program).
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

    /// Makes one; `logs` is the folder for its handler's log. Waits until no other handler is a
    /// member of the group.
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
        Ok(Self { server, name, variables, http: Http::default(), logs: logs.to_owned() })
    }

    /// Starts `handler`; it is not ready yet.
    pub fn start(&self, handler: &Handler) -> Result<HandlerProcess, Error> {
        let log = self.logs.join(format!("{}.log", handler.name));
        let failed = |source| Error::Csv { path: log.clone(), source };
        let out = File::options().create(true).append(true).open(&log).map_err(failed)?;
        let port = free_port().map_err(failed)?;
        let own = |source| Error::Part { part: handler.name.clone(), pid: 0, source };
        let container =
            handler.in_container.then(|| format!("scratchbank-{}", Uuid::new_v4().simple()));
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("exec {}", handler.command)])
            .envs(self.variables.iter().map(|(name, value)| (*name, value.as_str())))
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
        let (http, name) = (self.http.clone(), handler.name.clone());
        Ok(HandlerProcess { name, child, container, process, began, ready, http, log, port })
    }
}

impl Drop for FreshBank {
    /// Whoever is still connected is thrown out.
    fn drop(&mut self) {
        if let Err(err) = run(&self.server, &format!("DROP DATABASE {} WITH (FORCE)", self.name)) {
            log::warn!(error:% = service::log::Chain(&err); "a database is left behind");
        }
    }
}

/// Moves the group past every command there is. Kafka refuses that as long as the group has
/// members.
fn skip_commands(cluster: &Cluster, shutdown: &Shutdown) -> Result<(), Error> {
    let mut kafka_client = cluster.kafka_client();
    let deadline = Instant::now() + GROUP_PATIENCE;
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
    let failed = |source| Error::Database { step: "make or drop a database", source };
    Client::connect(url, NoTls).map_err(failed)?.batch_execute(sql).map_err(failed)
}

/// A free port.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// One life of a handler: from its start to its end, which dropping it is too.
pub struct HandlerProcess {
    /// The handler's.
    pub name: String,
    child: Child,
    /// Name of the container that the child started; it hands on every signal but the one that
    /// kills.
    container: Option<String>,
    /// To look at.
    pub process: Process,
    began: Instant,
    ready: String,
    http: Http,
    log: PathBuf,
    port: u16,
}

impl HandlerProcess {
    /// Waits until it is ready; how long that took since its start.
    pub fn wait_ready(&mut self, shutdown: &Shutdown) -> Result<Duration, Error> {
        loop {
            if self.http.get(&self.ready).is_ok() {
                return Ok(self.began.elapsed());
            }
            if let Some(end) = self.ended() {
                return Err(self.failed(&format!("it ended before it was ready: {end}")));
            }
            if self.began.elapsed() > START_PATIENCE {
                let seconds = START_PATIENCE.as_secs();
                return Err(self.failed(&format!("not ready within {seconds} s")));
            }
            if shutdown.requested() {
                return Err(Error::Stopped);
            }
            thread::sleep(LOOK);
        }
    }

    /// Where it answers about itself.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Ends it at once (SIGKILL).
    pub fn kill(&mut self) {
        if let Some(name) = &self.container {
            let mut remove = Command::new("docker");
            let _ = remove.args(["rm", "--force", name]).output();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end (SIGTERM): how it did and how long that took, or nothing if it goes on.
    pub fn terminate(&mut self) -> Result<Option<(ExitStatus, Duration)>, Error> {
        let asked = Instant::now();
        let pid = self.child.id();
        let sent = Command::new("kill").args(["-TERM", &pid.to_string()]).status();
        sent.map_err(|source| Error::Part { part: self.name.clone(), pid, source })?;
        while asked.elapsed() < STOP_PATIENCE {
            if let Some(end) = self.ended() {
                return Ok(Some((end, asked.elapsed())));
            }
            thread::sleep(LOOK);
        }
        Ok(None)
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
