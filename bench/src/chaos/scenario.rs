//! Scenario files: one step in each line, described in docs/chaos.md.

use crate::error::Error;
use std::fs;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

/// Limit of the time to recover if the file has none.
const RECOVERY_MAX: Duration = Duration::from_secs(5);
/// Maximum number of repetitions.
const REPEAT_MAX: u32 = 1000;

/// Faults in the order in which they happen.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// Name of the file without its extension.
    pub name: String,
    /// First line of the file.
    pub description: String,
    /// True if the scenario belongs to the short form.
    pub is_short: bool,
    /// Limit of the time from the last step until the bank answers.
    pub recovery_max: Duration,
    pub steps: Vec<Step>,
}

/// A step. Of several parts, one is chosen at random.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// SIGKILL. The supervisor starts a service again.
    Kill(Vec<String>),
    /// SIGKILL. The part stays down until the next [`Self::Start`].
    Crash(Vec<String>),
    /// SIGTERM, and wait until the part has ended. It stays down until the next [`Self::Start`].
    Stop(Vec<String>),
    /// Starts all parts that are down, with these variables.
    Start(Vec<(String, String)>),
    /// SIGSTOP.
    Freeze(Vec<String>),
    /// SIGCONT to all frozen parts.
    Resume,
    /// Loses a percentage of the packets to and from the part.
    Lose(u8, Vec<String>),
    /// Ends all losses of packets.
    Heal,
    /// Starts another command-handler with this name.
    Add(String),
    /// Restarts a broker as Kafka 4.
    Upgrade(String),
    /// Makes a standby of PostgreSQL the primary.
    Promote(String),
    /// Moves the data of a server, which is down, to a disk of its own with this number of free
    /// MiB, or back.
    Disk(u32, String),
    /// Fills the disk of a server.
    Fill(String),
    /// Frees the disks of all servers.
    Free,
    /// Limits the descriptors of a part.
    Descriptors(u32, Vec<String>),
    /// Ends all limits of descriptors.
    Unlimit,
    /// Sets the clock of a part this number of seconds ahead of the machine's.
    Clock(i32, String),
    /// Runs a statement in the database of the command-handler or of the graphql-endpoint.
    Sql(Database, String),
    /// Waits for a random number of seconds.
    Wait(RangeInclusive<f64>),
    /// Waits until all commands sent so far are answered.
    Answered,
    /// Waits until a command has been unanswered for two seconds.
    Stalled,
    /// Waits until the part has ended by itself. It stays down until the next [`Self::Start`].
    Ended(String),
    Repeat(u32, Vec<Step>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Database {
    Balances,
    Transactions,
}

impl Scenario {
    /// Reads all files of `folder`, in the order of their names.
    pub fn all(folder: &Path) -> Result<Vec<Self>, Error> {
        let failed = |source| Error::Read { path: folder.to_owned(), source };
        let entries = fs::read_dir(folder).map_err(failed)?;
        let paths = entries.map(|entry| entry.map(|it| it.path())).collect::<Result<Vec<_>, _>>();
        let mut paths = paths.map_err(failed)?;
        paths.retain(|path| path.extension().is_some_and(|it| it == "txt"));
        paths.sort();
        paths.iter().map(|path| Self::read(path)).collect()
    }

    fn read(path: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(path)
            .map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        parse(&name, &text).map_err(|(line, what)| Error::Row {
            path: path.to_owned(),
            line,
            what: what.to_owned(),
        })
    }
}

/// Number of a line, and what was expected there.
type Unexpected = (usize, &'static str);

fn parse(name: &str, text: &str) -> Result<Scenario, Unexpected> {
    let first = text.lines().next().and_then(|line| line.strip_prefix("# "));
    let mut scenario = Scenario {
        name: name.to_owned(),
        description: first.ok_or((1, "# and a description"))?.to_owned(),
        is_short: false,
        recovery_max: RECOVERY_MAX,
        steps: Vec::new(),
    };
    // The steps of each `repeat` that has not ended, with its number.
    let mut outer: Vec<(u32, Vec<Step>)> = Vec::new();
    let mut steps = Vec::new();
    for (at, line) in (1..).zip(text.lines()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [] | ["#", ..] => {}
            ["short"] => scenario.is_short = true,
            ["recovery", limit] => {
                let limit = limit.parse().map_err(|_| (at, "recovery SECONDS"))?;
                scenario.recovery_max = Duration::from_secs(limit);
            }
            ["repeat", count] => {
                let count = count.parse().ok().filter(|count| (1..=REPEAT_MAX).contains(count));
                outer.push((count.ok_or((at, "repeat 1 to 1000"))?, std::mem::take(&mut steps)));
            }
            ["end"] => {
                let (count, before) = outer.pop().ok_or((at, "repeat before end"))?;
                let repeated = Step::Repeat(count, std::mem::replace(&mut steps, before));
                steps.push(repeated);
            }
            _ => steps.push(step(&words).map_err(|what| (at, what))?),
        }
    }
    if !outer.is_empty() {
        return Err((text.lines().count(), "end after repeat"));
    }
    if steps.is_empty() {
        return Err((text.lines().count(), "a step"));
    }
    Ok(Scenario { steps, ..scenario })
}

fn step(words: &[&str]) -> Result<Step, &'static str> {
    let parts = |parts: &[&str]| parts.iter().map(|&part| part.to_owned()).collect();
    Ok(match *words {
        ["kill", ref rest @ ..] if !rest.is_empty() => Step::Kill(parts(rest)),
        ["crash", ref rest @ ..] if !rest.is_empty() => Step::Crash(parts(rest)),
        ["stop", ref rest @ ..] if !rest.is_empty() => Step::Stop(parts(rest)),
        ["freeze", ref rest @ ..] if !rest.is_empty() => Step::Freeze(parts(rest)),
        ["start", ref variables @ ..] => Step::Start(
            variables
                .iter()
                .map(|it| it.split_once('=').map(|(name, value)| (name.into(), value.into())))
                .collect::<Option<_>>()
                .ok_or("start NAME=VALUE")?,
        ),
        ["resume"] => Step::Resume,
        ["lose", percent, ref rest @ ..] if !rest.is_empty() => {
            let percent = percent.parse().ok().filter(|it| (1..=100).contains(it));
            Step::Lose(percent.ok_or("lose PERCENT PART, 1 to 100")?, parts(rest))
        }
        ["heal"] => Step::Heal,
        ["add", name] => Step::Add(name.to_owned()),
        ["upgrade", part] => Step::Upgrade(part.to_owned()),
        ["promote", part] => Step::Promote(part.to_owned()),
        ["disk", mib, part] => {
            Step::Disk(mib.parse().map_err(|_| "disk MIB PART")?, part.to_owned())
        }
        ["fill", part] => Step::Fill(part.to_owned()),
        ["free"] => Step::Free,
        ["descriptors", count, ref rest @ ..] if !rest.is_empty() => {
            let count = count.parse().ok().filter(|count| *count > 0);
            Step::Descriptors(count.ok_or("descriptors COUNT PART, from 1 on")?, parts(rest))
        }
        ["unlimit"] => Step::Unlimit,
        ["clock", seconds, part] => {
            Step::Clock(seconds.parse().map_err(|_| "clock SECONDS PART")?, part.to_owned())
        }
        ["sql", database, ref statement @ ..] if !statement.is_empty() => {
            let database = match database {
                "balancedb" => Database::Balances,
                "transactiondb" => Database::Transactions,
                _ => return Err("sql balancedb or sql transactiondb"),
            };
            Step::Sql(database, statement.join(" "))
        }
        ["wait", seconds] => {
            let (from, to) = seconds.split_once("..").unwrap_or((seconds, seconds));
            match (from.parse(), to.parse()) {
                (Ok(from), Ok(to)) if 0.0 <= from && from <= to && to <= 3600.0 => {
                    Step::Wait(from..=to)
                }
                _ => return Err("wait SECONDS or wait FROM..TO, at most 3600"),
            }
        }
        ["answered"] => Step::Answered,
        ["stalled"] => Step::Stalled,
        ["ended", part] => Step::Ended(part.to_owned()),
        _ => return Err("a step with its arguments (docs/chaos.md)"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_steps() {
        let text = "# What happens.\nshort\nrecovery 12\n\nrepeat 2\n  kill a b\n  wait 0.5..1\n\
                    end\nstart A=1\nsql balancedb SELECT 1\n# why\nresume\n";
        let scenario = parse("name", text).unwrap();
        assert_eq!(scenario.description, "What happens.");
        assert!(scenario.is_short);
        assert_eq!(scenario.recovery_max, Duration::from_secs(12));
        let kill = Step::Kill(vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(
            scenario.steps,
            [
                Step::Repeat(2, vec![kill, Step::Wait(0.5..=1.0)]),
                Step::Start(vec![("A".to_owned(), "1".to_owned())]),
                Step::Sql(Database::Balances, "SELECT 1".to_owned()),
                Step::Resume,
            ]
        );
    }

    #[test]
    fn unexpected_line_is_named() {
        for (text, line) in [
            ("kill a", 1),
            ("# x", 1),
            ("# x\nkill", 2),
            ("# x\nexplode a", 2),
            ("# x\nlose 0 a", 2),
            ("# x\ndisk kafka-1 300", 2),
            ("# x\ndescriptors 0 a", 2),
            ("# x\nclock fast a", 2),
            ("# x\nwait 2..1", 2),
            ("# x\nwait NaN", 2),
            ("# x\nstart A", 2),
            ("# x\nsql otherdb SELECT 1", 2),
            ("# x\nrepeat 0", 2),
            ("# x\nresume\nend", 3),
            ("# x\nrepeat 2\nresume", 3),
        ] {
            assert_eq!(parse("name", text).unwrap_err().0, line, "{text}");
        }
    }

    #[test]
    fn scenarios_of_the_project_are_valid() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let scenarios = Scenario::all(&folder).unwrap();
        assert!(scenarios.iter().any(|it| it.is_short) && !scenarios.iter().all(|it| it.is_short));
    }
}
