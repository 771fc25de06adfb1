//! Arguments: a sub-command, and options that stand for variables of the environment (`--demo-s 10` is `DEMO_S=10`), so that
//! `make` and a shell give the same settings and one place checks them.

use crate::Start;
use crate::error::Error;
use service::env::{Env, LOG, Variable, invalid};
use std::collections::HashMap;
use std::process::ExitCode;

/// A sub-command.
pub struct Command {
    /// As it is typed.
    pub name: &'static str,
    /// A line on what it does.
    pub about: &'static str,
    /// What it measures and how, for `--help`.
    pub details: &'static str,
    /// What it reads from options and environment, beside `LOG`.
    pub variables: &'static [&'static [Variable]],
    /// Its course.
    pub run: fn(&Start<'_>) -> Result<ExitCode, Error>,
}

/// Words separated by commas, at least one, of which `item` makes something.
///
/// # Errors
/// One of them is not `expected`.
pub fn list<T>(
    env: &Env<'_>,
    variable: &Variable,
    item: impl Fn(&str) -> Option<T>,
    expected: &str,
) -> Result<Vec<T>, Error> {
    let text = env.text(variable)?;
    let items = text.split(',').map(|word| item(word.trim())).collect::<Option<Vec<T>>>();
    Ok(items.ok_or_else(|| invalid(variable, text, expected.to_owned()))?)
}

/// What the arguments ask for.
pub enum Asked<'a> {
    /// To print this.
    Text(String),
    /// To run this, with variables set by options.
    Run(&'a Command, HashMap<&'static str, String>),
}

/// Reads the arguments behind the program's name.
///
/// # Errors
/// Says in words what does not fit.
pub fn read<'a>(commands: &'a [Command], args: &[String]) -> Result<Asked<'a>, String> {
    let (name, rest) = match args.split_first() {
        None => return Err("which sub-command? --help tells what there is".to_owned()),
        Some((first, _)) if matches!(first.as_str(), "--help" | "-h" | "help") => {
            return Ok(Asked::Text(overview(commands)));
        }
        Some((first, _)) if matches!(first.as_str(), "--version" | "-V") => {
            return Ok(Asked::Text(format!("bench {}\n", env!("CARGO_PKG_VERSION"))));
        }
        Some((first, rest)) => (first, rest),
    };
    let Some(command) = commands.iter().find(|command| command.name == name) else {
        return Err(format!("unknown sub-command {name:?}; --help tells what there is"));
    };
    let mut options = HashMap::new();
    let mut rest = rest.iter();
    while let Some(arg) = rest.next() {
        if matches!(arg.as_str(), "--help" | "-h") {
            return Ok(Asked::Text(help(command)));
        }
        let (option, value) = match arg.split_once('=') {
            Some((option, value)) => (option, Some(value.to_owned())),
            None => (arg.as_str(), None),
        };
        let Some(variable) = variables(command).find(|variable| self::option(variable) == option)
        else {
            return Err(format!(
                "unknown option {option:?}; bench {name} --help tells what there is"
            ));
        };
        let value = match value {
            Some(value) => value,
            None => rest.next().cloned().ok_or_else(|| format!("{option} needs a value"))?,
        };
        options.insert(variable.name, value);
    }
    Ok(Asked::Run(command, options))
}

/// Variables that have an option: a secret on a command line would be seen by everyone on the machine.
fn variables(command: &Command) -> impl Iterator<Item = &'static Variable> {
    command.variables.iter().copied().flatten().chain([&LOG]).filter(|variable| !variable.secret)
}

/// `--step-s` for `STEP_S`, and `--profile` for `BENCH_PROFILE`: in an environment that others share names are longer.
fn option(variable: &Variable) -> String {
    let name = variable.name.strip_prefix("BENCH_").unwrap_or(variable.name);
    format!("--{}", name.to_ascii_lowercase().replace('_', "-"))
}

fn overview(commands: &[Command]) -> String {
    let mut text = "Measures the running bank\n\nUsage: bench COMMAND [OPTIONS]\n\n".to_owned();
    for command in commands {
        text += &format!("  {:8} {}\n", command.name, command.about);
    }
    text + "\nbench COMMAND --help tells more. bench --version.\n"
}

fn help(command: &Command) -> String {
    let Command { name, about, details, .. } = command;
    let mut text = format!("{about}\n\nUsage: bench {name} [OPTIONS]\n\n{details}\n");
    text += "Each option stands for a variable of the environment and wins over it:\n";
    for variable in command.variables.iter().copied().flatten().chain([&LOG]) {
        let default = match variable.default {
            None => "required".to_owned(),
            Some("") => "default: none".to_owned(),
            Some(default) => format!("default: {default}"),
        };
        let names = if variable.secret {
            variable.name.to_owned()
        } else {
            format!("{}, {} VALUE", variable.name, option(variable))
        };
        text += &format!("  {names}\n      {} [{default}]\n", variable.meaning);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use service::env::DATABASE_URL;

    const SPEED: Variable = Variable::new("SPEED_KM_H", "50", "how fast");
    const GEAR: Variable = Variable::new("BENCH_GEAR", "1", "which gear");
    const COMMANDS: &[Command] = &[Command {
        name: "drive",
        about: "Drives",
        details: "On the right.\n",
        variables: &[&[SPEED, GEAR, DATABASE_URL]],
        run: |_| Ok(ExitCode::SUCCESS),
    }];

    fn read(line: &str) -> Result<Asked<'static>, String> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        super::read(COMMANDS, &args)
    }

    #[test]
    fn an_option_stands_for_a_variable_in_either_form() {
        for line in [
            "drive --speed-km-h 80",
            "drive --speed-km-h=80",
            "drive --speed-km-h=1 --speed-km-h 80",
        ] {
            let Ok(Asked::Run(command, options)) = read(line) else { panic!("{line}") };
            assert_eq!(command.name, "drive");
            assert_eq!(options, HashMap::from([("SPEED_KM_H", "80".to_owned())]));
        }
    }

    #[test]
    fn the_programs_own_name_is_no_part_of_an_option() {
        let Ok(Asked::Run(_, options)) = read("drive --gear 3") else { panic!() };
        assert_eq!(options, HashMap::from([("BENCH_GEAR", "3".to_owned())]));
    }

    #[test]
    fn what_is_not_known_is_refused_and_named() {
        for (line, named) in [
            ("", "sub-command"),
            ("fly", "fly"),
            ("drive --speed 80", "--speed"),
            ("drive 80", "80"),
            ("drive --speed-km-h", "needs a value"),
            ("drive --database-url postgres://secret", "--database-url"),
        ] {
            let Err(err) = read(line) else { panic!("{line:?}") };
            assert!(err.contains(named), "{err}");
        }
    }

    #[test]
    fn help_names_every_variable_with_its_option_and_default() {
        let Ok(Asked::Text(help)) = read("drive --speed-km-h 80 --help") else { panic!() };
        for part in [
            "Drives",
            "On the right.",
            "SPEED_KM_H, --speed-km-h VALUE",
            "[default: 50]",
            "DATABASE_URL\n",
            "--log",
        ] {
            assert!(help.contains(part), "{part} in {help}");
        }
        let Ok(Asked::Text(overview)) = read("--help") else { panic!() };
        assert!(overview.contains("drive    Drives"), "{overview}");
    }
}
