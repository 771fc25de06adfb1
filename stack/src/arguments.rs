//! The command line.

use crate::error::{Result, usage};
use crate::process::parse_signal;
use crate::stop::How;
use rustix::process::Signal;
use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

/// A command.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Start the parts that are down.
    Up(Scope),
    /// Stop everything.
    Down,
    /// Print a line for each part.
    Status,
    /// Follow or print the logs of one part or of all.
    Logs(Option<String>),
    /// Print addresses.
    Env,
    /// Run a command while the stack is up.
    With(Scope, Vec<OsString>),
    /// Start one part.
    Start(String),
    /// Stop one part.
    Stop(String, How),
    /// Send a signal to a part.
    Kill(String, Signal),
    /// Print a part's pid.
    Pid(String),
    /// Restart a broker of Kafka 3.9 as Kafka 4.
    Upgrade(String),
    /// Lose a percentage of the packets of a part.
    Lose(String, u8),
    /// Make the standby of PostgreSQL its primary.
    Promote(String),
    /// Move the data of a server to a disk of its own with this free space in MiB, or back.
    Disk(String, u32),
    /// Fill the disk of a server.
    Fill(String),
    /// Delete what has filled it.
    Free(String),
    /// Limit the descriptors of a part, or end that.
    Descriptors(String, u64),
    /// Set the clock of a part this many seconds ahead.
    Clock(String, i32),
    /// Build the services.
    Build,
    /// Stop everything and delete its data.
    Wipe,
    /// List the commands.
    Help,
    /// Hidden: supervise a service (name, folder of pid files, binary).
    Supervise(String, PathBuf, PathBuf),
    /// Hidden: run a program in a separate session.
    Detach(Vec<OsString>),
}

/// The parts that a command starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All of them.
    All,
    /// Kafka, registry and PostgreSQL.
    Servers,
}

/// Parses `words`, which follow the program's name.
pub fn parse(words: Vec<OsString>) -> Result<Command> {
    let mut words = Words { words: words.into(), command: String::new() };
    let Some(command) = words.next_text()? else { return Ok(Command::Help) };
    words.command.clone_from(&command);
    let parsed = match command.as_str() {
        "up" => Command::Up(words.scope()),
        "down" => Command::Down,
        "status" => Command::Status,
        "logs" => Command::Logs(words.next_text()?),
        "env" => Command::Env,
        "with" => return words.with(),
        "start" => Command::Start(words.required("a part")?),
        "stop" => Command::Stop(words.required("a part")?, words.how()?),
        "kill" => Command::Kill(words.required("a part")?, words.signal()?),
        "pid" => Command::Pid(words.required("a part")?),
        "upgrade" => Command::Upgrade(words.required("a broker")?),
        "lose" => Command::Lose(words.required("a part")?, words.percent()?),
        "promote" => Command::Promote(words.required("postgres or standby")?),
        "disk" => Command::Disk(words.required("a server")?, words.number("MiB, as in 300")?),
        "fill" => Command::Fill(words.required("a server")?),
        "free" => Command::Free(words.required("a server")?),
        "descriptors" => {
            Command::Descriptors(words.required("a part")?, words.number("a number, as in 20")?)
        }
        "clock" => Command::Clock(words.required("a part")?, words.number("seconds, as in -60")?),
        "build" => Command::Build,
        "wipe" => Command::Wipe,
        "help" | "--help" | "-h" => Command::Help,
        "supervise" => {
            let name = words.required("a name")?;
            let mut path = || words.words.pop_front().map(PathBuf::from);
            let (Some(run_dir), Some(binary)) = (path(), path()) else {
                return Err(usage("supervise: expected NAME RUN_DIR BINARY"));
            };
            Command::Supervise(name, run_dir, binary)
        }
        "detach" => return Ok(Command::Detach(words.words.into())),
        other => {
            return Err(usage(format!("unknown command {other}; stack.sh help lists them")));
        }
    };
    words.end()?;
    Ok(parsed)
}

struct Words {
    words: std::collections::VecDeque<OsString>,
    command: String,
}

impl Words {
    fn next_text(&mut self) -> Result<Option<String>> {
        let word = self.words.pop_front().map(OsString::into_string).transpose();
        word.map_err(|word| usage(format!("{}: expected UTF-8", word.display())))
    }

    fn required(&mut self, what: &str) -> Result<String> {
        self.next_text()?.ok_or_else(|| usage(format!("{}: expected {what}", self.command)))
    }

    fn scope(&mut self) -> Scope {
        if self.words.front().is_some_and(|word| word == "--servers-only") {
            self.words.pop_front();
            Scope::Servers
        } else {
            Scope::All
        }
    }

    fn with(mut self) -> Result<Command> {
        let scope = self.scope();
        if self.words.is_empty() {
            return Err(usage("with: expected a command"));
        }
        Ok(Command::With(scope, self.words.into()))
    }

    fn how(&mut self) -> Result<How> {
        match self.next_text()?.as_deref() {
            None | Some("TERM") => Ok(How::Gracefully),
            Some("KILL") => Ok(How::Killed),
            Some(other) => {
                Err(usage(format!("stop: {other}: expected TERM or KILL; kill sends any signal")))
            }
        }
    }

    fn signal(&mut self) -> Result<Signal> {
        let text = self.required("a signal after the part, as in STOP")?;
        parse_signal(&text)
            .ok_or_else(|| usage(format!("kill: {text}: expected a signal, as in STOP")))
    }

    fn percent(&mut self) -> Result<u8> {
        let text = self.required("a percentage after the part, as in 100")?;
        let percent = text.parse().ok().filter(|percent| *percent <= 100);
        percent.ok_or_else(|| usage(format!("lose: {text}: expected a percentage from 0 to 100")))
    }

    fn number<T: FromStr>(&mut self, what: &str) -> Result<T> {
        let text = self.required(&format!("{what}, after the part"))?;
        text.parse().map_err(|_| usage(format!("{}: {text}: expected {what}", self.command)))
    }

    fn end(self) -> Result<()> {
        match self.words.front() {
            None => Ok(()),
            Some(word) => {
                Err(usage(format!("{}: unexpected argument {}", self.command, word.display())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command> {
        super::parse(line.split_whitespace().map(OsString::from).collect())
    }

    #[test]
    fn commands_are_parsed_with_their_arguments() {
        assert_eq!(parse("").unwrap(), Command::Help);
        assert_eq!(parse("up").unwrap(), Command::Up(Scope::All));
        assert_eq!(parse("up --servers-only").unwrap(), Command::Up(Scope::Servers));
        assert_eq!(parse("stop a").unwrap(), Command::Stop("a".into(), How::Gracefully));
        assert_eq!(parse("stop a KILL").unwrap(), Command::Stop("a".into(), How::Killed));
        assert_eq!(parse("kill a STOP").unwrap(), Command::Kill("a".into(), Signal::STOP));
        let words = vec!["ls".into(), "--servers-only".into()];
        assert_eq!(
            parse("with --servers-only ls --servers-only").unwrap(),
            Command::With(Scope::Servers, words)
        );
    }

    #[test]
    fn wrong_command_lines_are_rejected() {
        for (line, expected) in [
            ("upp", "unknown command upp; stack.sh help lists them"),
            ("up --server", "up: unexpected argument --server"),
            ("down now", "down: unexpected argument now"),
            ("with", "with: expected a command"),
            ("with --servers-only", "with: expected a command"),
            ("start", "start: expected a part"),
            ("upgrade", "upgrade: expected a broker"),
            ("lose a", "lose: expected a percentage after the part, as in 100"),
            ("lose a 101", "lose: 101: expected a percentage from 0 to 100"),
            ("promote", "promote: expected postgres or standby"),
            ("disk kafka-1", "disk: expected MiB, as in 300, after the part"),
            ("disk kafka-1 -1", "disk: -1: expected MiB, as in 300"),
            ("clock a x", "clock: x: expected seconds, as in -60"),
            ("stop a HUP", "stop: HUP: expected TERM or KILL; kill sends any signal"),
            ("kill a", "kill: expected a signal after the part, as in STOP"),
            ("kill a NONSENSE", "kill: NONSENSE: expected a signal, as in STOP"),
        ] {
            let err = parse(line).unwrap_err();
            assert_eq!((err.to_string().as_str(), err.exit_code()), (expected, 2));
        }
    }
}
