//! The start of a service: arguments, environment, logs, signals, exit code.

use crate::env::{self, Env, LOG, Variable};
use crate::exit::{BoxError, EXIT_USAGE};
use crate::health::{self, HEALTH_ADDR, HEALTH_PORT};
use crate::log::Chain;
use crate::panic_guard;
use crate::shutdown::Shutdown;
use std::env::VarError;
use std::error::Error;
use std::io;
use std::process::ExitCode;

/// Width of the help text in columns.
const HELP_COLUMNS: usize = 100;

/// The description of a service, for its `main.rs` and for the multi-call binary.
pub struct Service {
    /// Name of the binary.
    pub name: &'static str,
    /// One line for `--help`.
    pub about: &'static str,
    /// The environment variables of the service, in addition to `LOG`,
    /// `HEALTH_ADDR` and `HEALTH_PORT`.
    pub variables: &'static [&'static [Variable]],
    /// Command-line flags such as `--dry-run`, each with its meaning.
    pub flags: &'static [(&'static str, &'static str)],
    /// Returns once the work is done or shutdown was requested.
    pub run: fn(&Start<'_>) -> Result<ExitCode, BoxError>,
}

/// The arguments of a service's `run`.
pub struct Start<'a> {
    pub env: Env<'a>,
    /// Requested by SIGTERM and SIGINT.
    pub shutdown: Shutdown,
    /// The given flags, a subset of [`Service::flags`].
    pub flags: Vec<&'static str>,
}

/// Runs `service` with the arguments and environment variables of this process.
///
/// Exit codes: the result of `run`, 2 for an invalid environment or argument, 1 for any other
/// error.
pub fn main(service: &Service) -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    run(service, &args)
}

/// Like [`main`], with the given arguments, for a binary with several services.
pub fn run(service: &Service, args: &[String]) -> ExitCode {
    exit_code(service.name, start(service, args, &lookup))
}

/// Checks whether the service on this machine is ready. Exit code 0 if so, else 1.
/// `program` is the prefix of error messages.
pub fn healthcheck(program: &str) -> ExitCode {
    exit_code(program, check(&Env::new(&lookup)))
}

/// Prints `text` on stdout, as for `--help`. `program` is the prefix of error messages.
pub fn answer(program: &str, text: &str) -> ExitCode {
    exit_code(program, print(text))
}

fn lookup(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn exit_code(program: &str, result: Result<ExitCode, BoxError>) -> ExitCode {
    match result {
        Ok(code) => {
            crate::log::flush();
            code
        }
        Err(err) => {
            crate::log::write_last(&format!("{program}: {}", Chain(&*err)));
            if caused_by_environment(&*err) {
                ExitCode::from(EXIT_USAGE)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

fn start(
    service: &Service,
    args: &[String],
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<ExitCode, BoxError> {
    let env = Env::new(lookup);
    let mut flags = Vec::new();
    for arg in args {
        match arg.as_str() {
            "--help" | "-h" => return print(&help(service)),
            "--version" | "-V" => {
                return print(&format!("{} {}\n", service.name, env!("CARGO_PKG_VERSION")));
            }
            "healthcheck" => return check(&env),
            other => match service.flags.iter().find(|(flag, _)| *flag == other) {
                Some((flag, _)) => flags.push(*flag),
                None => {
                    let name = service.name;
                    let refusal = format!("{name}: unknown argument {other:?}, see --help");
                    crate::log::write_last(&refusal);
                    return Ok(ExitCode::from(EXIT_USAGE));
                }
            },
        }
    }
    env.refuse_removed()?;
    refuse_other_encodings(service)?;
    crate::log::init(env.parse(&LOG, "off, error, warn, info, debug or trace")?);
    panic_guard::exit_on_panic();
    let shutdown = Shutdown::on_signals()?;
    (service.run)(&Start { env, shutdown, flags })
}

/// Rejects variables that are not UTF-8. They would look like unset ones.
fn refuse_other_encodings(service: &Service) -> Result<(), env::Error> {
    let is_other =
        |variable: &&Variable| matches!(std::env::var(variable.name), Err(VarError::NotUnicode(_)));
    match service.variables.iter().copied().flatten().find(is_other) {
        Some(variable) => Err(env::invalid(variable, String::new(), "UTF-8".to_owned())),
        None => Ok(()),
    }
}

fn check(env: &Env<'_>) -> Result<ExitCode, BoxError> {
    Ok(health::check(env)?)
}

fn caused_by_environment(err: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(err);
    while let Some(err) = cause {
        if err.is::<env::Error>() {
            return true;
        }
        cause = err.source();
    }
    false
}

/// Writes to stdout. A closed pipe (`--help | head -1`) is not an error.
fn print(text: &str) -> Result<ExitCode, BoxError> {
    match io::Write::write_all(&mut io::stdout(), text.as_bytes()) {
        Err(err) if err.kind() != io::ErrorKind::BrokenPipe => Err(err.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn help(service: &Service) -> String {
    let Service { name, about, .. } = service;
    let about = wrap(about, "");
    let mut text = format!("{about}\n\nUsage: {name} [--help | --version | healthcheck]");
    for (flag, _) in service.flags {
        text += &format!(" [{flag}]");
    }
    text += "\n\nhealthcheck: exit code 0 if the running service is ready, else 1.\n";
    for (flag, meaning) in service.flags {
        text += &format!("{}\n", wrap(&format!("{flag}: {meaning}."), ""));
    }
    text += "\nEnvironment:\n";
    let own = service.variables.iter().copied().flatten();
    for variable in own.chain([&HEALTH_ADDR, &HEALTH_PORT, &LOG]) {
        let default = match variable.default {
            None => "required".to_owned(),
            Some("") => "default: none".to_owned(),
            Some(default) => format!("default: {default}"),
        };
        let meaning = wrap(&format!("{} [{default}]", variable.meaning), "      ");
        text += &format!("  {}\n{meaning}\n", variable.name);
    }
    text
}

/// Wraps `text` at [`HELP_COLUMNS`]; each line begins with `indent`.
pub fn wrap(text: &str, indent: &str) -> String {
    let mut wrapped = indent.to_owned();
    let mut columns = indent.len();
    for word in text.split_whitespace() {
        let word_columns = word.chars().count();
        if columns > indent.len() {
            if columns + 1 + word_columns > HELP_COLUMNS {
                wrapped += "\n";
                wrapped += indent;
                columns = indent.len();
            } else {
                wrapped.push(' ');
                columns += 1;
            }
        }
        wrapped += word;
        columns += word_columns;
    }
    wrapped
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: Service = Service {
        name: "counter",
        about: "Counts money",
        variables: &[&[env::DATABASE_URL]],
        flags: &[(
            "--dry-run",
            "prints what it would do with each account of the bank, in the order of the numbers of \
             the accounts, and exits",
        )],
        run: |start| {
            start.env.text(&env::DATABASE_URL)?;
            Ok(ExitCode::SUCCESS)
        },
    };

    #[test]
    fn help_lists_every_variable_with_its_default() {
        let help = help(&SERVICE);
        for part in [
            "counter",
            "DATABASE_URL",
            "[required]",
            "HEALTH_PORT",
            "LOG",
            "[default: info]",
            "--dry-run",
        ] {
            assert!(help.contains(part), "{part} in {help}");
        }
    }

    #[test]
    fn help_is_wrapped_at_its_width() {
        assert!(help(&SERVICE).lines().all(|line| line.chars().count() <= HELP_COLUMNS));
        let words = "word ".repeat(20);
        let exact = wrap(words.trim(), " ");
        assert_eq!(exact.lines().map(str::len).collect::<Vec<_>>(), [100]);
        let longer = wrap(&format!("s{words}"), " ");
        assert_eq!(longer.lines().map(str::len).collect::<Vec<_>>(), [96, 5]);
        assert_eq!(wrap("", "  "), "  ");
    }

    #[test]
    fn missing_variable_is_a_usage_error() {
        let err = start(&SERVICE, &[], &|_| None).unwrap_err();
        assert!(caused_by_environment(&*err));
    }

    #[test]
    fn removed_variable_is_a_usage_error() {
        let set = |_: &str| Some("1".to_owned());
        let err = start(&SERVICE, &[], &set).unwrap_err();
        assert!(caused_by_environment(&*err) && err.to_string().contains("was removed"), "{err}");
    }

    #[test]
    fn unknown_argument_is_a_usage_error() {
        let code = start(&SERVICE, &["--dryrun".to_owned()], &|_| None).unwrap();
        assert_eq!(code, ExitCode::from(EXIT_USAGE));
    }
}
