//! Measures the running bank.
//!
//! `main` picks a sub-command; each is a module that tells its course ([`run`], [`results`], [`probe`], [`scale`], [`demo`], [`verify`], [`compare`]) with the help of the ones below it.

mod args;
mod compare;
mod demo;
mod probe;
mod results;
mod run;
mod scale;
mod verify;

// The load, and what comes back.
mod answers;
mod browser;
mod control;
mod customers;
mod flow;
mod graphql;
mod handlers;
mod ids;
mod ledger;
mod life;
mod load;
mod measure;
mod search;
mod tap;
mod visitors;
mod websocket;

// What it costs.
mod metrics;
mod mode;
mod parts;
mod proc;
mod stack;

// What is told about it.
mod error;
mod report;

use crate::args::{Asked, Command};
use crate::error::Error;
use service::EXIT_USAGE;
use service::env::{self, Env, LOG};
use service::log::Chain;
use service::shutdown::Shutdown;
use std::panic;
use std::process::ExitCode;

/// What a sub-command is started with.
pub(crate) struct Start<'a> {
    /// Options and environment.
    pub env: Env<'a>,
    /// Set by SIGTERM and SIGINT: end cleanly, and tell what was measured.
    pub shutdown: Shutdown,
}

const COMMANDS: &[Command] = &[
    run::COMMAND,
    results::COMMAND,
    probe::COMMAND,
    scale::COMMAND,
    demo::COMMAND,
    verify::COMMAND,
    compare::COMMAND,
];

/// Runs the sub-command that the arguments name.
///
/// Exit codes: 0 all is well, 1 it is not (or could not be found out), 2 for wrong arguments or environment.
pub fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args::read(COMMANDS, &args) {
        Ok(Asked::Text(text)) => {
            report::tell(&text);
            ExitCode::SUCCESS
        }
        Ok(Asked::Run(command, options)) => {
            let lookup =
                |name: &str| options.get(name).cloned().or_else(|| std::env::var(name).ok());
            start(command, Env::new(&lookup)).unwrap_or_else(|err| fail(&err))
        }
        Err(usage) => {
            eprintln!("bench: {usage}");
            ExitCode::from(EXIT_USAGE)
        }
    }
}

fn start(command: &Command, env: Env<'_>) -> Result<ExitCode, Error> {
    service::log::init(env.parse(&LOG, "off, error, warn, info, debug or trace")?);
    let printed = panic::take_hook();
    // Half a bench would measure nonsense: a thread that panics ends all. Panics inside the guard are the kafka crate's own.
    panic::set_hook(Box::new(move |info| {
        if !service::panic_guard::is_guarded() {
            printed(info);
            std::process::exit(101);
        }
    }));
    let shutdown = Shutdown::on_signals().map_err(Error::Signals)?;
    (command.run)(&Start { env, shutdown })
}

fn fail(err: &Error) -> ExitCode {
    eprintln!("bench: {}", Chain(err));
    match err {
        Error::Env(env::Error::Missing { .. }) => {
            eprintln!(
                "The running stack's addresses come from `make -s env`; `make demo` and `make bench-probe` start it and set them."
            );
            ExitCode::from(EXIT_USAGE)
        }
        Error::Env(_) => ExitCode::from(EXIT_USAGE),
        _ => ExitCode::FAILURE,
    }
}
