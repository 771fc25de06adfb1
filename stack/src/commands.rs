//! The commands.

use crate::arguments::Scope;
use crate::clock;
use crate::disk;
use crate::environment;
use crate::error::{Context, Error, Result, failed, usage};
use crate::foreground::{self, Report};
use crate::interrupt;
use crate::kafka;
use crate::network;
use crate::output::{self, say};
use crate::parts::{self, Part, SYNCHRONIZER};
use crate::postgres;
use crate::services;
use crate::settings::Settings;
use crate::stack::Stack;
use crate::start::{self, Start};
use crate::stop::{self, How};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use std::ffi::OsString;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// The command of `with` may run for days.
const COMMAND_LIMIT: Duration = Duration::from_secs(30 * 24 * 3600);

/// Starts the parts that are down. After a failure or a signal, stops what it has started.
pub fn up(stack: &mut Stack, scope: Scope) -> Result<()> {
    let _lock = stack.lock()?;
    // Another command may have changed the settings.
    take_settings(stack)?;
    let mut wanted = parts::servers(&stack.settings);
    if scope == Scope::All {
        wanted.extend(parts::services());
    }
    wanted.retain(|&part| !stack.is_up(part));
    if wanted.is_empty() {
        say("All parts are up already.");
        return Ok(());
    }
    stack.prerequisites("servers")?;
    let start = Start::new(stack);
    let result = start_down(stack, &start, scope, wanted);
    if let Err(err) = &result {
        start.undo(err);
    }
    result
}

fn start_down(stack: &Stack, start: &Start, scope: Scope, down: Vec<Part>) -> Result<()> {
    services::download_servers(stack, &stack.settings.kafka)?;
    if scope == Scope::All {
        services::build(stack)?;
    }
    start::check_ports(stack, &down)?;
    stack.settings.memorize(&stack.dir)?;
    let (services, servers): (Vec<Part>, Vec<Part>) =
        down.into_iter().partition(|part| part.service().is_some());
    start.start(&servers, stack.settings.brokers)?;
    if scope == Scope::All {
        services::prepare(stack)?;
        start.start(&services, 1)?;
    }
    Ok(())
}

/// Uses the settings of the running stack or, if nothing runs, those of the caller.
fn take_settings(stack: &mut Stack) -> Result<()> {
    stack.settings = Settings::remembered(&stack.given, &stack.dir)?;
    if stack.parts_up().is_empty() {
        stack.settings = Settings::configured(&stack.given)?;
        return Ok(());
    }
    match stack.settings.difference(&stack.given) {
        None => Ok(()),
        Some((name, here, given)) => Err(usage(format!(
            "the running stack has {name}={here}, not {given}: run `make down` first, or use \
             another STACK_DIR"
        ))),
    }
}

/// Stops everything.
pub fn down(stack: &Stack) -> Result<()> {
    let _lock = stack.lock()?;
    stop::stop(stack, &stack.parts(), How::Gracefully)
}

/// Runs a command while the stack is up, with its addresses in the environment. Afterwards stops
/// the parts that were down before, in any case. Returns the command's exit code.
pub fn with(stack: &mut Stack, scope: Scope, words: &[OsString]) -> Result<u8> {
    let up_before = stack.parts_up();
    up(stack, scope)?;
    let result = run_with(stack, words);
    put_back(stack, &up_before);
    result
}

fn run_with(stack: &Stack, words: &[OsString]) -> Result<u8> {
    let Some((program, arguments)) = words.split_first() else { return Ok(0) };
    let mut command = Command::new(program);
    command.args(arguments).envs(environment::variables(stack)?);
    // PATH begins with the folder of the services' binaries.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = [stack.bin_dir()?].into_iter().chain(std::env::split_paths(&path));
    command.env("PATH", std::env::join_paths(path).map_err(|err| failed(err.to_string()))?);
    // `Command` searches the program in the new PATH, which is in the command's environment.
    let what = program.display().to_string();
    match command.process_group(0).spawn() {
        Ok(child) => {
            let status = foreground::wait(child, &what, COMMAND_LIMIT, Report::Nothing)?;
            Ok(foreground::exit_code(status))
        }
        Err(err) => {
            say(format!("stack: could not run {what}: {err}"));
            // The codes of a shell.
            Ok(if err.kind() == io::ErrorKind::NotFound { 127 } else { 126 })
        }
    }
}

/// Stops the parts that `with` and its command have started, and stacks whose STACK_DIR is this
/// one's with a dash and a suffix. Messages go to a log, so the command's output stays the last.
fn put_back(stack: &Stack, up_before: &[Part]) {
    interrupt::ignore();
    if let Ok(log) = foreground::append(&stack.log("stack")) {
        output::redirect(log);
    }
    let mut parts = stack.parts();
    parts.retain(|part| !up_before.contains(part));
    if let Err(err) = stop::stop(stack, &parts, How::Gracefully) {
        say(format!("stack: {err}"));
    }
    for dir in dirs_beside(stack) {
        let stopped = Stack::open_in(&stack.root, dir).and_then(|other| down(&other));
        if let Err(err) = stopped {
            say(format!("stack: {err}"));
        }
    }
}

/// Folders of stacks whose name is this one's with a dash and a suffix.
fn dirs_beside(stack: &Stack) -> Vec<PathBuf> {
    let (Some(parent), Some(name)) = (stack.dir.parent(), stack.dir.file_name()) else {
        return Vec::new();
    };
    let prefix = format!("{}-", name.display());
    let Ok(entries) = fs::read_dir(parent) else { return Vec::new() };
    entries
        .filter_map(std::result::Result::ok)
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)))
        .map(|entry| entry.path())
        .filter(|path| path.join("settings").is_file())
        .collect()
}

/// Prints the addresses.
pub fn env(stack: &Stack) -> Result<()> {
    let variables = environment::variables(stack)?;
    print(variables.iter().map(|(name, value)| format!("{name}={value}\n")).collect())
}

fn print(text: String) -> Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        // The reader, such as `head`, has closed the pipe.
        Err(err) if err.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("stdout"),
    }
}

/// Prints a line for each part.
pub fn status(stack: &Stack) -> Result<()> {
    for part in stack.parts() {
        let line = match stack.process(part) {
            Some(process) => {
                let ready = start::is_ready(stack, part, 1);
                format!(
                    "{part:<18} {:<13}  pid {:<7}  port {:<5}  memory {:>5} MiB\n",
                    if ready { "up" } else { "up, not ready" },
                    process.pid,
                    part.first_port(&stack.settings),
                    process.memory_mib()
                )
            }
            None if stack.supervisor(part).is_some() => format!("{part:<18} restarting\n"),
            None => format!("{part:<18} down\n"),
        };
        print(line)?;
    }
    Ok(())
}

/// Follows the logs on a terminal; otherwise prints their last lines.
pub fn logs(stack: &Stack, part: Option<String>) -> Result<()> {
    let names = part.map_or_else(
        || {
            let parts = stack.parts().into_iter().map(|part| part.to_string());
            parts.chain([SYNCHRONIZER.to_owned()]).collect()
        },
        |name| vec![name],
    );
    let mut files: Vec<PathBuf> = names.iter().map(|name| stack.log(name)).collect();
    files.retain(|file| file.is_file());
    if files.is_empty() {
        let dir = stack.dir.join("log");
        return Err(failed(format!("{} has no log of {}", dir.display(), names.join(", "))));
    }
    let mut tail = Command::new("tail");
    if io::stdout().is_terminal() {
        tail.args(["-n", "10", "-F"]);
    } else {
        tail.args(["-n", "40"]);
    }
    Err(tail.arg("--").args(files).exec()).context("could not run tail")
}

/// Starts one part and waits until it is ready. The synchronizer runs to its end, and after it the
/// migrations of the databases.
pub fn start(stack: &Stack, name: &str) -> Result<()> {
    let _lock = stack.lock()?;
    if name == SYNCHRONIZER {
        return services::prepare(stack).inspect_err(|err| Start::new(stack).undo(err));
    }
    let part = known(stack, name)?;
    if stack.is_up(part) {
        say(format!("{part} is up already."));
        return Ok(());
    }
    start_one(stack, part)
}

fn start_one(stack: &Stack, part: Part) -> Result<()> {
    start::check_ports(stack, &[part])?;
    let start = Start::new(stack);
    let result = start.start(&[part], 1);
    if let Err(err) = &result {
        start.undo(err);
    }
    result
}

/// Stops a broker, and starts it as Kafka 4 with its data. Later starts use that version too.
pub fn upgrade(stack: &Stack, name: &str) -> Result<()> {
    let _lock = stack.lock()?;
    let part = known(stack, name)?;
    let Part::Kafka(n) = part else {
        return Err(usage(format!("upgrade: {name}: expected a broker")));
    };
    services::download_servers(stack, kafka::NEWEST)?;
    stop::stop(stack, &[part], How::Gracefully)?;
    kafka::upgrade(stack, n)?;
    start_one(stack, part)
}

/// Loses a percentage of the packets of a part.
pub fn lose(stack: &Stack, name: &str, percent: u8) -> Result<()> {
    let _lock = stack.lock()?;
    network::lose(stack, known(stack, name)?, percent)
}

/// Makes a standby of PostgreSQL the primary. When the former primary starts again, its data is
/// replaced by a copy, and it is the standby.
pub fn promote(stack: &Stack, name: &str) -> Result<()> {
    let _lock = stack.lock()?;
    let part = known(stack, name)?;
    let other = match part {
        Part::Postgres => Part::Standby,
        Part::Standby => Part::Postgres,
        _ => return Err(usage(format!("promote: {name}: expected postgres or standby"))),
    };
    if stack.is_up(other) {
        return Err(failed(format!("{other} is up: stop it first, or there are two primaries")));
    }
    postgres::promote(stack, part)
}

/// Moves the data of a server to a small disk, or back.
pub fn give_disk(stack: &Stack, name: &str, mib: u32) -> Result<()> {
    let _lock = stack.lock()?;
    disk::give(stack, known(stack, name)?, mib)
}

/// Fills the disk of a server.
pub fn fill(stack: &Stack, name: &str) -> Result<()> {
    let _lock = stack.lock()?;
    disk::fill(stack, known(stack, name)?)
}

/// Ends [`fill`].
pub fn free(stack: &Stack, name: &str) -> Result<()> {
    let _lock = stack.lock()?;
    disk::free(stack, known(stack, name)?)
}

/// Limits the descriptors of a part, also of processes that it will start. Those that are open stay
/// open. 0 sets the highest limit that the part may have.
pub fn limit_descriptors(stack: &Stack, name: &str, count: u64) -> Result<()> {
    let part = known(stack, name)?;
    let process = stack.process(part).ok_or_else(|| not_running(part))?;
    let path = format!("/proc/{}/limits", process.pid);
    let maximum = hard_limit(&fs::read_to_string(&path).context(&path)?)
        .ok_or_else(|| failed(format!("{path} has no limit of descriptors")))?;
    let current = Some(if count == 0 { maximum } else { count.min(maximum) });
    let limit = Rlimit { current, maximum: Some(maximum) };
    prlimit(Pid::from_raw(process.pid), Resource::Nofile, limit)
        .map(drop)
        .map_err(io::Error::from)
        .context(format!("could not limit the descriptors of {part}"))
}

/// The hard limit of descriptors in /proc/PID/limits.
fn hard_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Lets the clock of a part jump.
pub fn set_clock(stack: &Stack, name: &str, seconds: i32) -> Result<()> {
    clock::set(stack, known(stack, name)?, seconds)
}

/// Stops one part. The supervisor does not restart a stopped service.
pub fn stop(stack: &Stack, name: &str, how: How) -> Result<()> {
    let _lock = stack.lock()?;
    stop::stop(stack, &[known(stack, name)?], how)
}

/// Sends a signal to a part and its children.
pub fn kill(stack: &Stack, name: &str, signal: Signal) -> Result<()> {
    const KILL_LIMIT: Duration = Duration::from_secs(20);
    let part = known(stack, name)?;
    let process = stack.process(part).ok_or_else(|| not_running(part))?;
    let family = process.family();
    for member in &family {
        member.signal(signal);
    }
    // A large process takes a moment to end, and a process with many threads a moment to stop.
    let since = Instant::now();
    let takes_effect = || match signal {
        Signal::KILL => !process.is_alive(),
        Signal::STOP => family.iter().all(|member| member.is_stopped()),
        _ => true,
    };
    while !takes_effect() {
        if since.elapsed() > KILL_LIMIT {
            return Err(failed(format!("{part} still runs after the signal")));
        }
        thread::sleep(interrupt::POLL_INTERVAL);
    }
    Ok(())
}

/// Prints a part's pid.
pub fn pid(stack: &Stack, name: &str) -> Result<()> {
    let part = known(stack, name)?;
    let process = stack.process(part).ok_or_else(|| not_running(part))?;
    print(format!("{}\n", process.pid))
}

fn not_running(part: Part) -> Error {
    failed(format!("{part} is not running"))
}

fn known(stack: &Stack, name: &str) -> Result<Part> {
    let parts = stack.parts();
    parts.iter().copied().find(|part| part.to_string() == name).ok_or_else(|| {
        usage(format!("no part is named {name}; there are: {}", parts::names(&parts, " ")))
    })
}

/// Builds the services.
pub fn build(stack: &mut Stack) -> Result<()> {
    // With the caller's profile and features, not those of the running stack.
    stack.settings = Settings::configured(&stack.given)?;
    services::build(stack)
}

/// Stops everything and deletes its data, of all versions of Kafka.
pub fn wipe(stack: &Stack) -> Result<()> {
    let _lock = stack.lock()?;
    stop::stop(stack, &stack.parts(), How::Gracefully)?;
    disk::unmount_all(&stack.dir)?;
    let entries = fs::read_dir(&stack.dir).context(stack.dir.display())?;
    for entry in entries.filter_map(std::result::Result::ok) {
        let path = entry.path();
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        let result = match name.as_str() {
            "settings" | "postgres.password" => fs::remove_file(&path),
            name if name.ends_with(".clock") => fs::remove_file(&path),
            name if is_data(name) => fs::remove_dir_all(&path),
            _ => continue,
        };
        result.context(format!("could not delete {}", path.display()))?;
    }
    Ok(())
}

/// True for folders that `up` creates, also for those of an earlier layout.
fn is_data(name: &str) -> bool {
    matches!(name, "run" | "log" | "registry" | "postgres" | "postgres.new")
        || name.starts_with("kafka-")
        || ["3.9", "4"].iter().any(|version| {
            name.strip_prefix(version)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with("-brokers-"))
        })
}

/// Lists the commands.
pub fn help() -> Result<()> {
    let readme = include_str!("../README.md");
    let lines = readme.lines().skip_while(|line| *line != "## Commands").skip(1);
    let lines = lines.take_while(|line| !line.starts_with("## "));
    let commands = lines.filter_map(|line| line.strip_prefix("    "));
    print(commands.map(|line| format!("{line}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_stack_folders_are_data() {
        for name in ["3.9", "4", "4-brokers-3", "kafka-1", "run", "log"] {
            assert!(is_data(name), "{name}");
        }
        for name in ["4x", "lock", "src", "3.9.txt", "output"] {
            assert!(!is_data(name), "{name}");
        }
    }

    #[test]
    fn hard_limit_is_the_second_number() {
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files  10  20  files\n";
        assert_eq!(hard_limit(limits), Some(20));
        assert_eq!(hard_limit("Max processes  10  20  processes\n"), None);
    }
}
