//! `bench run`: the talk's test. Visitors move money through GraphQL and wait for the new balance, while the heartbeat's load
//! rises.

mod bank;
mod raw;
mod step;

use self::bank::Bank;
#[cfg(test)]
pub use self::step::parts_columns;
pub use self::step::rounded;
use self::step::{Kind, Step};
use crate::Start;
use crate::args::{Command, list};
use crate::control::HEARTBEAT_URL;
use crate::error::Error;
use crate::graphql::GRAPHQL_URL;
use crate::metrics::HANDLER_URL;
use crate::mode::Mode;
use crate::report;
use crate::search::Search;
use crate::stack::STACK;
use crate::tap::Cluster;
use crate::visitors::{Driver, Visitors};
use rand::seq::SliceRandom;
use service::env::{Env, Variable, invalid};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

const PROFILE: Variable = Variable::new(
    "BENCH_PROFILE",
    "talk",
    "talk: the talk's steps; max: up to the highest load held; quick: the same, shorter and coarser; sanity: half a minute in all",
);
const MODES: Variable = Variable::new(
    "MODES",
    "batched",
    "how the command-handler is run, which is restarted for it: single or batched by the kafka crate, modern (batched by our own \
     client), or some of them separated by commas",
);
const RUNS: Variable = Variable::new(
    "RUNS",
    "1",
    "runs of each mode, 1 to 100: round by round, the modes of a round in random order",
);
const LOADS: Variable = Variable::new(
    "LOADS",
    "",
    "beats per second of each step, separated by commas, each 0 to 1000000; otherwise the profile's",
);
const STEP_S: Variable =
    Variable::new("STEP_S", "", "measured time of each step, 2 to 3600 s; otherwise the profile's");
const VISITORS: Variable = Variable::new(
    "BENCH_VISITORS",
    "",
    "visitors, each with an account and a transfer a second, 1 to 500; otherwise the profile's",
);
const DRIVER: Variable = Variable::new(
    "BENCH_DRIVER",
    "graphql",
    "how visitors come: graphql, or browser: they use the pages in a Chromium, a tab each",
);
const FRONTEND_URL: Variable = Variable::new(
    "FRONTEND_URL",
    "",
    "the pages, as in http://127.0.0.1:8181; needed by visitors with a browser",
);
const CHROMIUM: Variable =
    Variable::new("CHROMIUM", "chromium", "the browser, or another of its kind");
const BISECTIONS: Variable = Variable::new(
    "BISECTIONS",
    "",
    "steps between the last load that was held and the first that was not, 0 to 10; otherwise the profile's",
);
const FAULTS: Variable = Variable::new(
    "FAULTS",
    "",
    "signals for parts, separated by commas, as in 20:command-handler:KILL: so many seconds after a run's first step began",
);
const OUT: Variable = Variable::new(
    "OUT",
    "target/bench",
    "folder for the raw rows: one is made in it for each call",
);

/// The sub-command.
pub const COMMAND: Command = Command {
    name: "run",
    about: "The talk's test: time until a visitor sees the new balance, under a rising load",
    details: DETAILS,
    variables: &[
        &[
            PROFILE,
            MODES,
            RUNS,
            LOADS,
            STEP_S,
            VISITORS,
            DRIVER,
            FRONTEND_URL,
            CHROMIUM,
            BISECTIONS,
            FAULTS,
            OUT,
            STACK,
            GRAPHQL_URL,
            HANDLER_URL,
            HEARTBEAT_URL,
        ],
        Cluster::VARIABLES[0],
        Cluster::VARIABLES[1],
    ],
    run,
};

const DETAILS: &str = "\
Visitors log in through GraphQL and subscribe to their account. Every second each takes one step of the talk's cycle of ten,
deposits and payments that cancel out, and the time until the new balance arrives is measured from when the step was due, whatever
became of the ones before. A step that takes 5 s has timed out. The heartbeat makes the load: a beat is a command.
  talk     loads 0, 10, 20 ... 400 per second, 20 s each, one visitor; ends after three time-outs
  max      doubles the load from 100/s until one is not held, twice, then closes in on the highest that is, and measures half of
           it; 30 s each, ten visitors, without load first
  quick    the same with coarser steps of 3 s
  sanity   0, 100 and 500 per second, 5 s each, three visitors: half a minute in all
A load is held if its beats came and were answered (95 % of them within the measured time), the lag of all readers grew from the
first half of that time to the second by less than 2 % of what fell due in a half (or by less than 0.7 s of the load, which readers may commit later),
nothing timed out and p99 is below a second.
Visitors speak GraphQL themselves, or use the pages in a Chromium (--driver browser), as the talk's did: then its own time is in it.
CPU and memory of every part are sampled each second. Rows are on disk as soon as they are known: NAME-loads.csv, NAME-seconds.csv
and NAME-steps.csv for each run. `bench report` makes tables and graphs of them. Ctrl-C ends cleanly and keeps what was measured.
";

/// Answers to too many of the talk's steps did not come: the run is over.
const TIMEOUTS_MAX: u64 = 3;
/// A Java virtual machine that has not compiled its paths yet gets this much to warm up on, before the first run of a search.
const WARM_UP_FIRST: (u32, Duration) = (1000, Duration::from_secs(8));
/// A new process gets this much, before each other run.
const WARM_UP: (u32, Duration) = (250, Duration::from_secs(3));

/// What to do.
#[derive(Debug)]
struct Config {
    profile: Profile,
    modes: Vec<Mode>,
    runs: u32,
    faults: Vec<Fault>,
}

/// Loads and their length.
#[derive(Debug, Clone)]
struct Profile {
    name: &'static str,
    loads: Vec<u32>,
    step: Duration,
    visitors: u32,
    /// `None`: every load is measured, held or not, until [`TIMEOUTS_MAX`] steps have timed out.
    bisections: Option<u32>,
}

/// A signal for a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// After the first step of load began.
    pub at: Duration,
    /// As the stack calls it.
    pub part: String,
    /// As in KILL.
    pub signal: String,
}

impl Profile {
    fn named(name: &str) -> Option<Self> {
        let doubled = |first: u32| (0..12).map(move |n| first << n);
        let seconds = Duration::from_secs;
        Some(match name {
            "talk" => Self {
                name: "talk",
                loads: (0..=40).map(|n| n * 10).collect(),
                step: seconds(20),
                visitors: 1,
                bisections: None,
            },
            "max" => Self {
                name: "max",
                loads: [0, 100].into_iter().chain(doubled(250)).collect(),
                step: seconds(30),
                visitors: 10,
                bisections: Some(3),
            },
            "quick" => Self {
                name: "quick",
                loads: [0, 1000, 4000].into_iter().chain(doubled(16_000)).collect(),
                step: seconds(3),
                visitors: 10,
                bisections: Some(1),
            },
            "sanity" => Self {
                name: "sanity",
                loads: vec![0, 100, 500],
                step: seconds(5),
                visitors: 3,
                bisections: None,
            },
            _ => return None,
        })
    }
}

impl Config {
    fn from_env(env: &Env<'_>) -> Result<Self, Error> {
        let name = env.text(&PROFILE)?;
        let expected = || "talk, max, quick or sanity".to_owned();
        let mut profile =
            Profile::named(&name).ok_or_else(|| invalid(&PROFILE, name, expected()))?;
        let given = |variable: &Variable| Ok::<_, Error>(!env.text(variable)?.is_empty());
        if given(&LOADS)? {
            let load = |word: &str| word.parse().ok().filter(|load| *load <= 1_000_000);
            profile.loads =
                list(env, &LOADS, load, "numbers from 0 to 1000000, separated by commas")?;
        }
        if given(&STEP_S)? {
            profile.step = Duration::from_secs(env.number(&STEP_S, 2..=3600)?);
        }
        if given(&VISITORS)? {
            profile.visitors = env.number(&VISITORS, 1..=500)?;
        }
        if given(&BISECTIONS)? && profile.bisections.is_some() {
            profile.bisections = Some(env.number(&BISECTIONS, 0..=10)?);
        }
        let faults = if given(&FAULTS)? {
            list(env, &FAULTS, fault, "seconds:part:signal, separated by commas")?
        } else {
            Vec::new()
        };
        Ok(Self {
            profile,
            modes: list(env, &MODES, Mode::named, "single, batched, modern or some of them")?,
            runs: env.number(&RUNS, 1..=100)?,
            faults,
        })
    }
}

fn fault(word: &str) -> Option<Fault> {
    let mut words = word.split(':');
    let (at, part, signal) = (words.next()?.parse().ok()?, words.next()?, words.next()?);
    let fits = words.next().is_none() && !part.is_empty() && !signal.is_empty();
    fits.then(|| Fault {
        at: Duration::from_secs(at),
        part: part.to_owned(),
        signal: signal.to_owned(),
    })
}

fn run(start: &Start<'_>) -> Result<ExitCode, Error> {
    let config = Config::from_env(&start.env)?;
    let profile = &config.profile;
    let driver = driver(&start.env)?;
    let folder =
        PathBuf::from(start.env.text(&OUT)?).join(format!("run-{}", report::now_in_name()));
    let loads: Vec<String> = profile.loads.iter().map(u32::to_string).collect();
    let settings = [
        ("BENCH_PROFILE", profile.name.to_owned()),
        ("LOADS", loads.join(",")),
        ("STEP_S", profile.step.as_secs().to_string()),
        ("BENCH_VISITORS", profile.visitors.to_string()),
        ("BENCH_DRIVER", start.env.text(&DRIVER)?),
        ("RUNS", config.runs.to_string()),
        ("FAULTS", start.env.text(&FAULTS)?),
    ];
    let mut bank = Bank::open(&start.env, start.shutdown.clone())?;
    let ended = (|| {
        // A visitor's account lives as long as the bank: the same visitors come to every run.
        let visitors = Visitors::start(&driver, profile.visitors, &start.shutdown)?;
        let searches = profile.bisections.is_some();
        let mut warm_up = if searches { WARM_UP_FIRST } else { WARM_UP };
        for round in 1..=config.runs {
            let mut modes = config.modes.clone();
            modes.shuffle(&mut rand::rng());
            for mode in modes {
                let name = format!("{round}-{mode}");
                bank.begin(mode, &folder, &name, &settings, &visitors)?;
                course(&config, warm_up, &mut bank, &visitors)?;
                warm_up = WARM_UP;
            }
        }
        Ok(())
    })();
    // Whatever became of it, the stack is left as it was found: without load, the handler batched.
    let restored = bank.leave();
    report::tell(&bank.text());
    tell_where(&folder);
    match (ended, restored) {
        (Ok(()), Ok(())) => Ok(ExitCode::SUCCESS),
        // Ctrl-C reaches the stack's script too: whatever error came of it is its doing.
        (Err(_), Ok(())) if start.shutdown.requested() => {
            report::progress("Stopped: what was measured until then is above.");
            Ok(ExitCode::from(130))
        }
        (Err(err), _) | (_, Err(err)) => Err(err),
    }
}

fn driver(env: &Env<'_>) -> Result<Driver, Error> {
    if !env.choice(&DRIVER, &[("graphql", false), ("browser", true)])? {
        return Ok(Driver::Graphql(env.text(&GRAPHQL_URL)?));
    }
    let url = env.text(&FRONTEND_URL)?;
    if url.is_empty() {
        return Err(Error::Bank("a browser needs FRONTEND_URL (make -s env)".to_owned()));
    }
    Ok(Driver::Browser(url, env.text(&CHROMIUM)?))
}

fn tell_where(folder: &Path) {
    report::tell(&format!("Raw rows: {}\n", folder.display()));
}

/// One run.
fn course(
    config: &Config,
    warm_up: (u32, Duration),
    bank: &mut Bank,
    visitors: &Visitors,
) -> Result<(), Error> {
    let Config { profile, faults, .. } = config;
    let (load, time) = warm_up;
    let load = load.min(profile.loads.iter().copied().max().unwrap_or(load));
    bank.step(Kind::WarmUp, load, time, visitors)?;
    bank.settle()?;
    bank.arm(faults);
    let step = |bank: &mut Bank, kind, load| bank.step(kind, load, profile.step, visitors);
    let Some(bisections) = profile.bisections else {
        let mut timed_out = 0;
        for &load in &profile.loads {
            timed_out += step(bank, Kind::Climb, load)?.timed_out;
            if timed_out >= TIMEOUTS_MAX && faults.is_empty() {
                report::progress("three steps of visitors have timed out: the run is over");
                break;
            }
        }
        return Ok(());
    };
    let (idle, loads): (Vec<u32>, Vec<u32>) = profile.loads.iter().partition(|load| **load == 0);
    if !idle.is_empty() {
        step(bank, Kind::Climb, 0)?;
    }
    let mut search = Search::new(&loads, bisections);
    let mut doubted = false;
    while let Some(load) = search.next() {
        let first = step(bank, Kind::Climb, load)?;
        let mut held = first.held;
        if !held {
            bank.settle()?;
        }
        // The first that is not held ends the way up: once more, unless it was hopeless, since a stall of the machine is no limit.
        if !held && !first.is_hopeless() && !doubted {
            doubted = true;
            Step { held, .. } = step(bank, Kind::Climb, load)?;
            if !held {
                bank.settle()?;
            }
        }
        search.tried(load, held);
    }
    if search.held > 1 {
        step(bank, Kind::Half, search.held / 2)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn config(set: &[(&str, &str)]) -> Result<Config, Error> {
        let set: HashMap<&str, &str> = set.iter().copied().collect();
        Config::from_env(&Env::new(&|name| set.get(name).map(|value| (*value).to_owned())))
    }

    #[test]
    fn a_profile_can_be_changed_in_part() {
        let talk = config(&[]).unwrap();
        assert_eq!((talk.profile.loads.len(), talk.profile.visitors, talk.runs), (41, 1, 1));
        assert_eq!(talk.modes[0].name(), "batched");
        let max = config(&[("BENCH_PROFILE", "max"), ("MODES", "single,batched")]).unwrap();
        assert_eq!(max.profile.loads[..4], [0, 100, 250, 500]);
        assert_eq!(max.modes.len(), 2);
        let other = config(&[("LOADS", "7, 9"), ("STEP_S", "2"), ("BENCH_VISITORS", "5")]).unwrap();
        assert_eq!((other.profile.loads, other.profile.visitors), (vec![7, 9], 5));
        for wrong in [
            ("BENCH_PROFILE", "fast"),
            ("LOADS", "5,"),
            ("STEP_S", "1"),
            ("MODES", "double"),
            ("RUNS", "0"),
            ("FAULTS", "x:postgres:KILL"),
        ] {
            assert!(config(&[wrong]).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_fault_has_a_time_a_part_and_a_signal() {
        let kill = Fault {
            at: Duration::from_secs(20),
            part: "postgres".to_owned(),
            signal: "KILL".to_owned(),
        };
        assert_eq!(fault("20:postgres:KILL"), Some(kill));
        for wrong in ["", "20", "20:postgres", "20::KILL", "-1:postgres:KILL", "1:a:b:c"] {
            assert_eq!(fault(wrong), None, "{wrong}");
        }
    }
}
