//! Starts Kafka, the schema registry, PostgreSQL and the bank's services on this machine, keeps the
//! services running, and stops what it started. README.md in this folder describes commands and
//! variables; `stack.sh` builds and runs this program.

mod arguments;
mod clock;
mod commands;
mod disk;
mod environment;
mod error;
mod foreground;
mod http;
mod interrupt;
mod kafka;
mod network;
mod output;
mod parts;
mod ports;
mod postgres;
mod process;
mod registry;
mod services;
mod settings;
mod stack;
mod start;
mod stop;
mod supervise;

use arguments::Command;
use error::{Context, Result};
use stack::Stack;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    match run() {
        Ok(code) => ExitCode::from(code),
        Err(err) => {
            output::say(format!("stack: {err}"));
            ExitCode::from(err.exit_code())
        }
    }
}

fn run() -> Result<u8> {
    let mut words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let root = root(&mut words);
    let command = arguments::parse(words)?;
    match &command {
        Command::Supervise(name, run_dir, binary) => {
            return supervise::supervise(name, run_dir, binary);
        }
        Command::Detach(words) => return supervise::detach(words),
        Command::Help => return commands::help().map(|()| 0),
        _ => interrupt::install().context("could not handle signals")?,
    }
    let mut stack = Stack::open(&root)?;
    match command {
        Command::Up(scope) => commands::up(&mut stack, scope),
        Command::Down => commands::down(&stack),
        Command::Status => commands::status(&stack),
        Command::Logs(part) => commands::logs(&stack, part),
        Command::Env => commands::env(&stack),
        Command::With(scope, words) => return commands::with(&mut stack, scope, &words),
        Command::Start(part) => commands::start(&stack, &part),
        Command::Stop(part, how) => commands::stop(&stack, &part, how),
        Command::Kill(part, signal) => commands::kill(&stack, &part, signal),
        Command::Pid(part) => commands::pid(&stack, &part),
        Command::Upgrade(part) => commands::upgrade(&stack, &part),
        Command::Lose(part, percent) => commands::lose(&stack, &part, percent),
        Command::Promote(part) => commands::promote(&stack, &part),
        Command::Disk(part, mib) => commands::give_disk(&stack, &part, mib),
        Command::Fill(part) => commands::fill(&stack, &part),
        Command::Free(part) => commands::free(&stack, &part),
        Command::Descriptors(part, count) => commands::limit_descriptors(&stack, &part, count),
        Command::Clock(part, seconds) => commands::set_clock(&stack, &part, seconds),
        Command::Build => commands::build(&mut stack),
        Command::Wipe => commands::wipe(&stack),
        Command::Help | Command::Supervise(..) | Command::Detach(_) => Ok(()),
    }?;
    Ok(0)
}

/// The checkout: `--root DIR` before the command, as `stack.sh` passes it, or the folder of the
/// build.
fn root(words: &mut Vec<OsString>) -> PathBuf {
    if words.len() >= 2 && words[0] == "--root" {
        let root = PathBuf::from(&words[1]);
        words.drain(..2);
        return root;
    }
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}
