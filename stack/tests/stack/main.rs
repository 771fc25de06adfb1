//! Tests of the commands of stack.sh on real servers (make test-stack). They use a separate folder
//! and the ports in the environment.
//!
//! Every command has a time limit, so a command that hangs fails its test.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod metrics;
mod roles;
mod sockets;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Timeout of a command. It may wait for a build, or start servers on a busy machine.
const COMMAND_LIMIT: Duration = Duration::from_secs(150);
/// Timeout for a change of state.
const STATE_LIMIT: Duration = Duration::from_secs(30);
/// Timeout for an interrupted command to stop the parts that it has started.
const INTERRUPT_LIMIT: Duration = Duration::from_secs(45);
const PARTS: usize = 8;

/// The result of a command.
#[derive(Debug)]
struct Outcome {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Outcome {
    #[track_caller]
    fn succeeds(self) -> Self {
        assert_eq!(self.code, 0, "{}", self.stderr);
        self
    }

    #[track_caller]
    fn fails_with(self, code: i32, text: &str) -> Self {
        assert_eq!(self.code, code, "{}", self.stderr);
        assert!(self.stderr.contains(text), "expected {text:?} in {}", self.stderr);
        self
    }
}

/// A stack in a folder, with variables. Dropping it stops it.
struct Stack {
    dir: PathBuf,
    variables: BTreeMap<&'static str, String>,
    bystander: Option<Child>,
    /// False for a copy with other variables.
    is_owner: bool,
}

impl Stack {
    /// The stack of these tests, stopped. The space in its path reveals missing quotes.
    fn new() -> Self {
        let stack = Self::in_folder("stack tests");
        stack.run(&["down"]).succeeds();
        stack
    }

    fn in_folder(name: &str) -> Self {
        let dir = root().join("target").join(name);
        let variables = BTreeMap::from([("STACK_DIR", dir.display().to_string())]);
        Self { dir, variables, bystander: None, is_owner: true }
    }

    fn with(&self, name: &'static str, value: &str) -> Self {
        let mut variables = self.variables.clone();
        variables.insert(name, value.to_owned());
        Self { dir: self.dir.clone(), variables, bystander: None, is_owner: false }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(root().join("stack/stack.sh"));
        for name in
            ["BROKERS", "KAFKA", "RAFT_PORT", "SASL_PORT", "KAFKA_OPTIONS", "POSTGRES_OPTIONS"]
        {
            command.env_remove(name);
        }
        command.args(words).envs(&self.variables).stdin(Stdio::null()).process_group(0);
        command
    }

    fn spawn(&self, words: &[&str]) -> Running {
        let output = |stream: &str| {
            let name = format!("stack-test-{}-{stream}", std::process::id());
            let path = std::env::temp_dir().join(name);
            (File::create(&path).unwrap(), path)
        };
        let (stdout, stdout_path) = output("stdout");
        let (stderr, stderr_path) = output("stderr");
        let child = self.command(words).stdout(stdout).stderr(stderr).spawn().unwrap();
        Running { name: words.join(" "), child, stdout_path, stderr_path }
    }

    fn run(&self, words: &[&str]) -> Outcome {
        self.spawn(words).finish(COMMAND_LIMIT)
    }

    /// Number of parts that are up or will be restarted.
    fn count_up(&self) -> usize {
        let status = self.run(&["status"]).succeeds().stdout;
        status.lines().filter(|line| line.contains(" up") || line.contains(" restarting")).count()
    }

    fn is_ready(&self, part: &str) -> bool {
        let status = self.run(&["status"]).succeeds().stdout;
        let line = status.lines().find(|line| line.starts_with(&format!("{part} "))).unwrap();
        line[part.len()..].trim_start().starts_with("up  ")
    }

    fn pid(&self, part: &str) -> Option<i32> {
        let outcome = self.run(&["pid", part]);
        (outcome.code == 0).then(|| outcome.stdout.trim().parse().unwrap())
    }

    fn pid_file(&self, name: &str) -> PathBuf {
        self.dir.join(format!("run/{name}.pid"))
    }

    fn log(&self, part: &str) -> String {
        fs::read_to_string(self.dir.join(format!("log/{part}.log"))).unwrap()
    }

    /// Processes with the stack's folder in their arguments or environment.
    fn processes(&self) -> Vec<String> {
        let folder = self.dir.display().to_string();
        let mut found = Vec::new();
        for process in fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
            let read = |file: &str| {
                let bytes = fs::read(process.path().join(file)).unwrap_or_default();
                String::from_utf8_lossy(&bytes).replace('\0', " ")
            };
            let (command, variables) = (read("cmdline"), read("environ"));
            if command.contains(&folder) || variables.contains(&format!("STACK_DIR={folder} ")) {
                found.push(format!("{} {command}", process.path().display()));
            }
        }
        found
    }

    #[track_caller]
    fn assert_nothing_runs(&self) {
        // The kernel removes ended processes a moment later.
        let since = Instant::now();
        while !self.processes().is_empty() && since.elapsed() < Duration::from_secs(2) {
            thread::sleep(Duration::from_millis(20));
        }
        let left = self.processes();
        assert!(left.is_empty(), "processes are left: {left:#?}");
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if let Some(mut bystander) = self.bystander.take() {
            let _ = bystander.kill();
            let _ = bystander.wait();
        }
        if self.is_owner && self.dir.join("run").exists() {
            let down = self.spawn(&["down"]).finish(COMMAND_LIMIT);
            assert!(down.code == 0 || thread::panicking(), "{}", down.stderr);
        }
    }
}

/// A running command of stack.sh, in a separate process group.
struct Running {
    name: String,
    child: Child,
    stdout_path: PathBuf,
    stderr_path: PathBuf,
}

impl Running {
    #[track_caller]
    fn finish(&mut self, limit: Duration) -> Outcome {
        let since = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if since.elapsed() > limit {
                self.signal("KILL");
                let errors = fs::read_to_string(&self.stderr_path).unwrap_or_default();
                panic!("`stack.sh {}` did not end within {limit:?}:\n{errors}", self.name);
            }
            thread::sleep(Duration::from_millis(5));
        };
        let read = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
        Outcome {
            code: exit_code(status),
            stdout: read(&self.stdout_path),
            stderr: read(&self.stderr_path),
        }
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Sends a signal to its process group, as a terminal does.
    fn signal(&self, name: &str) {
        signal(&format!("-{}", self.child.id()), name);
    }
}

fn exit_code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap()
}

fn signal(target: &str, name: &str) {
    let status = Command::new("kill").args(["-s", name, "--", target]).status().unwrap();
    assert!(status.success(), "kill -s {name} -- {target}");
}

#[track_caller]
fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_true() {
        assert!(since.elapsed() < STATE_LIMIT, "not within {STATE_LIMIT:?}: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn kafka_port() -> u16 {
    std::env::var("KAFKA_PORT").map_or(19_092, |port| port.parse().unwrap())
}

#[test]
#[ignore = "starts Kafka, registry and PostgreSQL: make test-stack"]
fn wrong_commands_exit_with_2() {
    let stack = Stack::new();
    stack.run(&["upp"]).fails_with(2, "unknown command upp");
    stack.run(&["up", "--all"]).fails_with(2, "up: unexpected argument --all");
    stack.run(&["start", "kafka-2"]).fails_with(2, "no part is named kafka-2; there are: kafka-1");
    stack.run(&["upgrade", "registry"]).fails_with(2, "upgrade: registry: expected a broker");
    stack.with("KAFKA", "5").run(&["up"]).fails_with(2, "KAFKA=5: expected 3.9 or 4");
    stack.run(&["env"]).fails_with(1, "nothing runs in");
    stack.run(&["pid", "registry"]).fails_with(1, "registry is not running");
    let help = stack.run(&["help"]).succeeds().stdout;
    assert!(help.starts_with("stack.sh up [--servers-only]"), "{help}");
}

#[test]
#[ignore = "starts Kafka, registry and PostgreSQL: make test-stack"]
fn up_starts_all_parts_and_supervises_services() {
    let stack = Stack::new();
    stack.run(&["wipe"]).succeeds();
    // Metrics of commands appear with the first one.
    stack.with("BATCH_SIZE", "1").run(&["up"]).succeeds();
    assert_eq!(stack.count_up(), PARTS);
    logs_are_readable_by_their_owner_only(&stack);
    sockets::all_are_on_loopback(&stack);
    a_second_up_starts_nothing(&stack);
    env_names_the_servers(&stack);
    metrics::have_the_names_of_alerts_and_dashboard(&stack);
    a_killed_service_is_started_again(&stack);
    a_stopped_service_stays_down(&stack);
    a_service_with_a_wrong_environment_is_not_started_again(&stack);
    another_stack_on_these_ports_is_refused(&stack);
    frozen_and_killed_servers_come_back(&stack);
    disks_descriptors_and_clocks_are_checked(&stack);
    stack.run(&["kill", "heartbeat", "STOP"]).succeeds();
    stack.run(&["down"]).succeeds();
    assert_eq!(stack.count_up(), 0);
    stack.assert_nothing_runs();
}

fn logs_are_readable_by_their_owner_only(stack: &Stack) {
    let mode = fs::metadata(stack.dir.join("log")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

fn a_second_up_starts_nothing(stack: &Stack) {
    let pids = || -> Vec<String> {
        let files = fs::read_dir(stack.dir.join("run")).unwrap();
        files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap()).collect()
    };
    let before = pids();
    let second = stack.run(&["up"]).succeeds();
    assert!(second.stderr.contains("up already"), "{}", second.stderr);
    assert_eq!(pids(), before);
}

fn env_names_the_servers(stack: &Stack) {
    let env = stack.run(&["env"]).succeeds().stdout;
    for line in [
        format!("KAFKA_BROKERS=127.0.0.1:{}", kafka_port()),
        format!("STACK_DIR={}", stack.dir.display()),
        format!("STACK_DATA_DIR={}/3.9", stack.dir.display()),
        format!("STACK={}/stack/stack.sh", root().display()),
    ] {
        assert!(env.lines().any(|it| it == line), "{line}: {env}");
    }
}

fn a_killed_service_is_started_again(stack: &Stack) {
    let before = stack.pid("command-handler");
    stack.run(&["kill", "command-handler", "KILL"]).succeeds();
    eventually("the command-handler has another pid", || {
        stack.pid("command-handler").is_some_and(|pid| Some(pid) != before)
    });
    eventually("the command-handler is ready", || stack.is_ready("command-handler"));
    let log = stack.log("command-handler");
    let line = log.lines().find(|line| line.contains("exited, starting again")).unwrap();
    assert!(line.contains("service=command-handler code=137 "), "{line}");
    assert!(line.contains("delay_ms=100"), "{line}");
}

fn a_stopped_service_stays_down(stack: &Stack) {
    stack.run(&["stop", "command-handler", "KILL"]).succeeds();
    assert_eq!(stack.count_up(), PARTS - 1);
    let supervisor = fs::read_to_string(stack.pid_file("heartbeat.supervisor")).unwrap();
    signal(supervisor.split_once(' ').unwrap().0, "KILL");
    let up = stack.run(&["up"]).succeeds();
    assert!(up.stderr.contains("heartbeat          stopped after"), "{}", up.stderr);
    assert_eq!(stack.count_up(), PARTS);
}

fn a_service_with_a_wrong_environment_is_not_started_again(stack: &Stack) {
    stack.run(&["stop", "heartbeat"]).succeeds();
    let before = stack.log("heartbeat").len();
    let refused = stack.with("LOG", "nonsense").run(&["start", "heartbeat"]);
    refused.fails_with(1, "heartbeat has exited");
    assert_eq!(stack.log("heartbeat")[before..].matches("msg=\"exited\"").count(), 1);
    assert!(stack.log("heartbeat")[before..].contains("service=heartbeat code=2 "));
    stack.run(&["start", "heartbeat"]).succeeds();
}

fn another_stack_on_these_ports_is_refused(stack: &Stack) {
    let other = Stack::in_folder("stack-elsewhere");
    let refused = other.run(&["up", "--servers-only"]);
    let broker = stack.pid("kafka-1").unwrap();
    let expected = format!("Port {} of kafka-1 is taken by pid {broker} (java", kafka_port());
    refused.fails_with(1, &expected).fails_with(1, "nothing was started");
    assert!(!other.pid_file("kafka-1").exists());
    fs::remove_dir_all(&other.dir).unwrap();
    stack.with("BROKERS", "3").run(&["up"]).fails_with(2, "has BROKERS=1, not 3");
}

fn frozen_and_killed_servers_come_back(stack: &Stack) {
    stack.run(&["kill", "registry", "STOP"]).succeeds();
    eventually("the registry is not ready", || !stack.is_ready("registry"));
    stack.run(&["kill", "registry", "CONT"]).succeeds();
    eventually("the registry is ready", || stack.is_ready("registry"));
    stack.run(&["kill", "postgres", "KILL"]).succeeds();
    stack.run(&["start", "postgres"]).succeeds();
    assert!(stack.is_ready("postgres"));
    stack.run(&["stop", "kafka-1", "KILL"]).succeeds();
    stack.run(&["start", "kafka-1"]).succeeds();
    assert!(stack.is_ready("kafka-1"));
}

/// The faults themselves are part of `make chaos`: disks need root, clocks a library.
fn disks_descriptors_and_clocks_are_checked(stack: &Stack) {
    stack.run(&["disk", "postgres", "100"]).fails_with(1, "postgres is up: stop it first");
    stack.run(&["disk", "heartbeat", "100"]).fails_with(2, "heartbeat is a service");
    stack.run(&["fill", "postgres"]).fails_with(1, "postgres has no disk of its own");
    stack.run(&["free", "postgres"]).succeeds();
    stack.run(&["clock", "heartbeat", "60"]).fails_with(1, "without FAKE_CLOCK=1");
    let limits = || {
        let pid = stack.pid("heartbeat").unwrap();
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
        let numbers = line.split_whitespace().filter_map(|word| word.parse().ok());
        numbers.collect::<Vec<u64>>()
    };
    let highest = limits()[1];
    stack.run(&["descriptors", "heartbeat", "20"]).succeeds();
    assert_eq!(limits(), [20, highest]);
    stack.run(&["descriptors", "heartbeat", "0"]).succeeds();
    assert_eq!(limits(), [highest, highest]);
}

#[test]
#[ignore = "starts Kafka, registry and PostgreSQL: make test-stack"]
fn process_with_a_reused_pid_is_not_signalled() {
    let mut stack = Stack::new();
    let bystander = Command::new("sleep").arg("600").spawn().unwrap();
    fs::write(stack.pid_file("registry"), format!("{} 1\n", bystander.id())).unwrap();
    stack.bystander = Some(bystander);
    stack.run(&["down"]).succeeds();
    stack.run(&["kill", "registry", "KILL"]).fails_with(1, "registry is not running");
    assert!(stack.bystander.as_mut().unwrap().try_wait().unwrap().is_none());
}

#[test]
#[ignore = "starts Kafka, registry and PostgreSQL: make test-stack"]
fn kafka_versions_have_separate_data() {
    let stack = Stack::new();
    stack.run(&["wipe"]).succeeds();
    let id_of = |folder: &str| {
        fs::read_to_string(stack.dir.join(folder).join("kafka-1/data/meta.properties")).unwrap()
    };
    stack.run(&["up", "--servers-only"]).succeeds();
    sockets::all_are_on_loopback(&stack);
    stack.run(&["down"]).succeeds();
    let first = id_of("3.9");
    let newer = stack.with("KAFKA", "4");
    newer.run(&["up", "--servers-only"]).succeeds();
    sockets::all_are_on_loopback(&newer);
    let env = newer.run(&["env"]).succeeds().stdout;
    assert!(env.contains("/stack tests/4\n") && env.contains("/kafka-4\n"), "{env}");
    stack.run(&["down"]).succeeds();
    for folder in ["3.9", "4"] {
        for part in ["kafka-1", "registry", "postgres"] {
            assert!(stack.dir.join(folder).join(part).is_dir(), "{folder}/{part}");
        }
    }
    stack.run(&["up", "--servers-only"]).succeeds();
    assert_eq!(id_of("3.9"), first);
    stack.run(&["wipe"]).succeeds();
    assert!(!stack.dir.join("3.9").exists() && !stack.dir.join("4").exists());
    stack.assert_nothing_runs();
}

#[test]
#[ignore = "starts Kafka, registry and PostgreSQL: make test-stack"]
fn broken_start_shows_the_log_and_leaves_nothing() {
    let stack = Stack::new();
    let broken = stack.with("KAFKA_OPTIONS", "log.segment.bytes=10");
    broken
        .run(&["up", "--servers-only"])
        .fails_with(1, "kafka-1 failed")
        .fails_with(1, "Invalid value 10 for configuration log.segment.bytes");
    stack.assert_nothing_runs();
}

#[test]
#[ignore = "starts Kafka, registry and PostgreSQL: make test-stack"]
fn interrupted_start_ends_and_leaves_nothing() {
    const MOMENTS: u64 = 20;
    let stack = Stack::new();
    let seed = std::env::var("SEED").map_or_else(|_| now_ns(), |seed| seed.parse().unwrap());
    eprintln!("SEED={seed}");
    let mut random = Random(seed | 1);
    let since = Instant::now();
    stack.run(&["up", "--servers-only"]).succeeds();
    let start_ms = u64::try_from(since.elapsed().as_millis()).unwrap();
    stack.run(&["down"]).succeeds();
    let mut longest = Duration::ZERO;
    let (mut hits, mut tries) = (0, 0);
    while hits < MOMENTS {
        tries += 1;
        assert!(tries <= 2 * MOMENTS, "starts end before they are interrupted");
        // Some starts also format data and create databases.
        if tries % 5 == 0 {
            stack.run(&["wipe"]).succeeds();
        }
        // Early times are more likely, since more happens then.
        let moment = random.below(start_ms).min(random.below(start_ms));
        let moment = Duration::from_millis(moment);
        let (name, code) = if random.below(2) == 0 { ("INT", 130) } else { ("TERM", 143) };
        let mut up = stack.spawn(&["up", "--servers-only"]);
        thread::sleep(moment);
        if up.has_ended() {
            up.finish(COMMAND_LIMIT).succeeds();
            stack.run(&["down"]).succeeds();
            continue;
        }
        hits += 1;
        up.signal(name);
        let signalled = Instant::now();
        let outcome = up.finish(INTERRUPT_LIMIT);
        longest = longest.max(signalled.elapsed());
        eprintln!("{name} after {moment:?}: ended after {:?}", signalled.elapsed());
        // A start may be complete before a late signal.
        if outcome.code == 0 {
            stack.run(&["down"]).succeeds();
            hits -= 1;
        } else {
            assert_eq!(outcome.code, code, "{name} after {moment:?}: {}", outcome.stderr);
        }
        stack.assert_nothing_runs();
    }
    eprintln!("longest: {longest:?}");
    // The remaining data can be used.
    stack.run(&["up", "--servers-only"]).succeeds();
}

/// A xorshift generator.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn now_ns() -> u64 {
    u64::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos())
}

#[test]
#[ignore = "starts Kafka, registry and PostgreSQL: make test-stack"]
fn command_runs_with_servers_that_stop_afterwards() {
    let stack = Stack::new();
    let echo = "echo \"brokers $KAFKA_BROKERS\"; exit 7";
    let with = stack.run(&["with", "--servers-only", "sh", "-c", echo]);
    assert_eq!(with.code, 7, "{}", with.stderr);
    assert_eq!(with.stdout, format!("brokers 127.0.0.1:{}\n", kafka_port()));
    stack.assert_nothing_runs();

    stack.run(&["up", "--servers-only"]).succeeds();
    let missing = stack.run(&["with", "--servers-only", "no-such-command"]);
    missing.fails_with(127, "could not run no-such-command");
    let reaches = "trap 'sleep 1; echo ended; exit' TERM; echo begun; while :; do sleep 0.1; done";
    let mut with = stack.spawn(&["with", "--servers-only", "bash", "-c", reaches]);
    let path = with.stdout_path.clone();
    eventually("the command has begun", || fs::read_to_string(&path).unwrap() == "begun\n");
    signal(&with.child.id().to_string(), "TERM");
    let outcome = with.finish(INTERRUPT_LIMIT);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (143, "begun\nended\n"));
    // Parts that were up before stay up.
    assert!(stack.is_ready("kafka-1") && stack.is_ready("postgres"));
    a_stack_beside_is_stopped(&stack);
    stack.run(&["down"]).succeeds();
    stack.assert_nothing_runs();
}

fn a_stack_beside_is_stopped(stack: &Stack) {
    let beside = Stack::in_folder("stack tests-2");
    let port = |offset: u16| (kafka_port() + offset).to_string();
    let up = format!(
        "STACK_DIR='{}' KAFKA_PORT={} RAFT_PORT={} REGISTRY_PORT={} POSTGRES_PORT={} \
         \"$STACK\" up --servers-only",
        beside.dir.display(),
        port(50),
        port(51),
        port(52),
        port(53)
    );
    stack.run(&["with", "--servers-only", "sh", "-c", &up]).succeeds();
    assert!(beside.dir.join("3.9/kafka-1").is_dir());
    assert_eq!(beside.count_up(), 0);
    beside.assert_nothing_runs();
    beside.run(&["wipe"]).succeeds();
}
