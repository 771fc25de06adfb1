//! Measures the running bank.
//!
//! Each command is a module: [`run`], [`report`], [`probe`], [`scale`], [`demo`], [`soak`],
//! [`verify`], [`compare`], [`check`] and [`chaos`].

mod chaos;
mod check;
mod compare;
mod demo;
mod probe;
mod report;
mod run;
mod scale;
mod soak;
mod verify;

// The load and its results.
mod accounts;
mod answers;
mod browser;
mod consumer_lag;
mod control;
mod direct_load;
mod flush_times;
mod graphql;
mod handler_process;
mod handlers;
mod ids;
mod ledger;
mod measure;
mod observed_bank;
mod own_pauses;
mod schedule;
mod search;
mod simulated_users;
mod topic_reader;
mod websocket;

// The bank under test.
mod bank_under_test;
mod metrics;
mod mode;
mod proc;
mod process_usage;
mod stack;

// Options, errors and output.
mod error;
mod options;
mod output;
mod start;

use crate::error::Error;
use crate::start::Start;
use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use service::EXIT_USAGE;
use service::env::{self, Env, LOG};
use service::log::Chain;
use service::shutdown::Shutdown;
use std::panic;
use std::process::ExitCode;

/// Measure and verify the running bank
#[derive(Debug, Parser)]
#[command(name = "bench", version, term_width = 100)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::RunOptions),
    Report(report::ReportOptions),
    Probe(probe::ProbeOptions),
    Scale(scale::ScaleOptions),
    Demo(demo::DemoOptions),
    Soak(soak::SoakOptions),
    Verify(verify::VerifyOptions),
    Compare(compare::CompareOptions),
    Check(check::CheckOptions),
    Chaos(chaos::ChaosOptions),
}

/// Runs the command in the arguments.
///
/// Exit codes: 0 success, 1 a check or measurement failed, 2 wrong options or environment.
pub fn main() -> ExitCode {
    match CommandLine::try_parse() {
        Ok(line) => start(&line.command).unwrap_or_else(|err| fail(&err)),
        Err(err) if matches!(err.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            output::print(&err.to_string());
            ExitCode::SUCCESS
        }
        Err(err) => {
            eprintln!("bench: {}", usage_error(&err));
            ExitCode::from(EXIT_USAGE)
        }
    }
}

/// clap's error as one line, without the usage.
fn usage_error(err: &clap::Error) -> String {
    if err.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "no command is given (--help lists them)".to_owned();
    }
    let text = err.to_string();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines =
        lines.take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let line = lines.collect::<Vec<_>>().join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned() + " (--help lists the options)"
}

fn start(command: &Command) -> Result<ExitCode, Error> {
    let lookup = |name: &str| std::env::var(name).ok();
    let env = Env::new(&lookup);
    service::log::init(env.parse(&LOG, "off, error, warn, info, debug or trace")?);
    let default_hook = panic::take_hook();
    // A panic of any thread ends the process, since measurements without that thread would be
    // wrong. The adapter of the kafka crate catches panics of that crate.
    panic::set_hook(Box::new(move |info| {
        if !service::panic_guard::is_guarded() {
            default_hook(info);
            std::process::exit(101);
        }
    }));
    let start = Start { env, shutdown: Shutdown::on_signals().map_err(Error::Signals)? };
    match command {
        Command::Run(options) => run::run(&start, options),
        Command::Report(options) => report::run(options),
        Command::Probe(options) => probe::run(&start, options),
        Command::Scale(options) => scale::run(&start, options),
        Command::Demo(options) => demo::run(&start, options),
        Command::Soak(options) => soak::run(&start, options),
        Command::Verify(options) => verify::run(&start, options),
        Command::Compare(options) => compare::run(&start, options),
        Command::Check(options) => check::run(&start, options),
        Command::Chaos(options) => chaos::run(&start, options),
    }
}

fn fail(err: &Error) -> ExitCode {
    eprintln!("bench: {}", Chain(err));
    match err {
        Error::Env(env::Error::Missing { .. }) => {
            eprintln!(
                "`make -s env` prints the addresses of the running stack; `make demo` and `make \
                 bench-probe` start the stack and set them."
            );
            ExitCode::from(EXIT_USAGE)
        }
        Error::Env(_) | Error::Usage(_) => ExitCode::from(EXIT_USAGE),
        _ => ExitCode::FAILURE,
    }
}

/// Parses `line` as arguments; for the tests of commands.
#[cfg(test)]
fn parse(line: &str) -> Result<Command, String> {
    let args = ["bench"].into_iter().chain(line.split_whitespace());
    let parsed = CommandLine::try_parse_from(args);
    parsed.map(|line| line.command).map_err(|err| usage_error(&err))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn options_are_consistent_and_have_help() {
        let mut bench = CommandLine::command();
        bench.build();
        bench.clone().debug_assert();
        for command in bench.get_subcommands().filter(|it| it.get_name() != "help") {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for option in command.get_arguments() {
                assert!(option.get_help().is_some(), "{} {}", command.get_name(), option.get_id());
            }
        }
    }

    #[test]
    fn wrong_arguments_are_reported_in_one_line() {
        for (line, named) in [
            ("", "no command"),
            ("fly", "fly"),
            ("probe --speed 80", "--speed"),
            ("probe 80", "80"),
            ("probe --step-s", "--step-s"),
            ("probe --step-s 0", "expected a number from 1 to 3600"),
            ("probe --modes double", "batched"),
        ] {
            let err = parse(line).unwrap_err();
            assert!(err.contains(named) && !err.contains('\n'), "{line}: {err}");
        }
    }
}
