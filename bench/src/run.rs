//! `bench run`: the talk's test. Simulated users transfer money through GraphQL and wait for the
//! new balance, while the load of the heartbeat rises.

mod faults;
mod heartbeat_load;
mod measured_load;
mod raw_rows;

use self::faults::{Fault, fault};
use self::heartbeat_load::HeartbeatLoad;
#[cfg(test)]
pub use self::measured_load::parts_columns;
use self::measured_load::{Kind, MeasuredLoad};
use crate::bank_under_test::conclude;
use crate::control::HEARTBEAT_URL;
use crate::error::Error;
use crate::graphql::GRAPHQL_URL;
use crate::metrics::HANDLER_URL;
use crate::mode::Mode;
use crate::options::{self, joined, number, seconds};
use crate::output;
use crate::own_pauses::PAUSE_MAX;
use crate::search::Search;
use crate::simulated_users::{Driver, SimulatedUsers};
use crate::stack::STACK;
use crate::start::Start;
use crate::topic_reader::Cluster;
use clap::ValueEnum;
use messaging::KafkaConfig;
use rand::seq::SliceRandom;
use service::env::{Env, SCHEMA_REGISTRY_URL, Variable};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Measure the time until a simulated user receives the new balance, under a rising load
///
/// This is the talk's test. Simulated users log in through GraphQL and subscribe to their account.
/// Every second each takes one step of the talk's cycle: ten deposits and payments whose sum is
/// zero. The latency of a step counts from its due time, which does not depend on earlier steps. A
/// step without a new balance after 5 s has timed out and counts as 5 s. The heartbeat makes the
/// load: each heartbeat record becomes a command. Profiles:
///   talk     loads 0, 10, 20 ... 400 per second, 20 s each, one user; ends after three timeouts
///   max      first without load; then doubles the load from 100/s until a load is not held twice;
///            then bisects to the highest load held, and measures half of it; 30 s each, ten users
///   quick    like max, with fewer loads of 3 s each
///   sanity   0, 100 and 500 per second, 5 s each, three users: half a minute in all
/// A load is held if all of these hold:
///   - The heartbeat records were sent, and 95 % of their commands were answered in the measured
///     time.
///   - The lag of all consumer groups grew from the first half of that time to the second by less
///     than 2 % of the records due in a half, or by less than 0.7 s of the load, since consumers
///     commit later.
///   - No step timed out, and p99 is below one second.
///
/// With --driver browser the users are tabs of a Chromium on the web pages, as in the talk. The
/// latency then includes the browser. The column own ms has the longest pause of this program at
/// each load: more than 100 ms distort the figures. Before and after each run, the disk is measured
/// without load, by writes of 8 kB with fdatasync. CPU and memory of each part are sampled every
/// second. Each run writes NAME-loads.csv, NAME-seconds.csv and NAME-steps.csv while it measures.
/// `bench report` makes tables and graphs of these files. Ctrl-C ends the measurement and keeps its
/// rows.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = options::environment(&[
    &[STACK, GRAPHQL_URL, FRONTEND_URL, HANDLER_URL, HEARTBEAT_URL],
    KafkaConfig::VARIABLES,
    &[SCHEMA_REGISTRY_URL],
]))]
pub struct RunOptions {
    /// Loads, their duration and the number of users
    #[arg(long, value_enum, default_value = "talk")]
    profile: ProfileName,
    /// Modes to measure, separated by commas; the command-handler is restarted in each
    #[arg(long, value_enum, value_delimiter = ',', default_value = "batched")]
    modes: Vec<Mode>,
    /// Runs of each mode, 1 to 100, in rounds; each round runs the modes in random order
    #[arg(long, default_value = "1", value_parser = number(1..=100u32))]
    runs: u32,
    /// Heartbeat records per second of each step, separated by commas, each 0 to 1000000 [default:
    /// the profile's]
    #[arg(long, value_delimiter = ',', value_parser = number(0..=1_000_000u32))]
    loads: Option<Vec<u32>>,
    /// Measured time of each step, 2 to 3600 s [default: the profile's]
    #[arg(long, value_parser = seconds(2..=3600))]
    step_s: Option<Duration>,
    /// Simulated users, each with an account and one transfer per second, 1 to 500 [default: the
    /// profile's]
    #[arg(long, alias = "visitors", value_parser = number(1..=500u32))]
    users: Option<u32>,
    /// Interface that the simulated users use
    #[arg(long, value_enum, default_value = "graphql")]
    driver: DriverName,
    /// The browser: Chromium or one based on it
    #[arg(long, value_name = "PROGRAM", default_value = "chromium")]
    chromium: String,
    /// Loads to try between the last one held and the first one not held, 0 to 10 [default: the
    /// profile's]
    #[arg(long, value_parser = number(0..=10u32))]
    bisections: Option<u32>,
    /// Signals to send to parts, separated by commas, as in 20:command-handler:KILL: 20 s after the
    /// start of the first step
    #[arg(long, value_delimiter = ',', value_name = "S:PART:SIGNAL", value_parser = fault)]
    faults: Vec<Fault>,
    /// Folder for the raw rows; each call creates a subfolder
    #[arg(long, value_name = "FOLDER", default_value = "target/bench")]
    out: PathBuf,
}

/// `FRONTEND_URL`: address of the web pages. Required with a browser.
const FRONTEND_URL: Variable = Variable::new(
    "FRONTEND_URL",
    "",
    "the web pages, as in http://127.0.0.1:8181; required with --driver browser",
);

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ProfileName {
    /// The talk's loads
    Talk,
    /// Search for the highest load held
    Max,
    /// The same with fewer and shorter loads
    Quick,
    /// Half a minute in all
    Sanity,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DriverName {
    /// The GraphQL endpoint
    Graphql,
    /// The web pages in a Chromium, one tab for each user
    Browser,
}

/// Timeouts after which a run of the talk's profile ends.
const TIMEOUTS_MAX: u64 = 3;
/// Warm-up of a Java virtual machine that has not compiled its code yet, before the first run of a
/// search.
const WARM_UP_FIRST: (u32, Duration) = (1000, Duration::from_secs(8));
/// Warm-up of a new process, before each other run.
const WARM_UP: (u32, Duration) = (250, Duration::from_secs(3));

/// Loads and their duration.
#[derive(Debug, Clone)]
struct Profile {
    name: &'static str,
    loads: Vec<u32>,
    step: Duration,
    users: u32,
    /// `None`: all loads are measured until [`TIMEOUTS_MAX`] steps have timed out.
    bisections: Option<u32>,
}

impl Profile {
    /// The profile in `options`, with their changes.
    fn new(options: &RunOptions) -> Self {
        let doubled = |first: u32| (0..12).map(move |n| first << n);
        let (name, loads, step_s, users, bisections): (_, Vec<u32>, _, _, _) = match options.profile
        {
            ProfileName::Talk => ("talk", (0..=40).map(|n| n * 10).collect(), 20, 1, None),
            ProfileName::Max => {
                ("max", [0, 100].into_iter().chain(doubled(250)).collect(), 30, 10, Some(3))
            }
            ProfileName::Quick => {
                let loads = [0, 1000, 4000].into_iter().chain(doubled(16_000));
                ("quick", loads.collect(), 3, 10, Some(1))
            }
            ProfileName::Sanity => ("sanity", vec![0, 100, 500], 5, 3, None),
        };
        Self {
            name,
            loads: options.loads.clone().unwrap_or(loads),
            step: options.step_s.unwrap_or(Duration::from_secs(step_s)),
            users: options.users.unwrap_or(users),
            bisections: bisections.map(|default| options.bisections.unwrap_or(default)),
        }
    }
}

pub fn run(start: &Start<'_>, options: &RunOptions) -> Result<ExitCode, Error> {
    let profile = Profile::new(options);
    let driver = driver(&start.env, options)?;
    let folder = options.out.join(format!("run-{}", output::now_in_name()));
    let driver_name = match options.driver {
        DriverName::Graphql => "graphql",
        DriverName::Browser => "browser",
    };
    let settings = [
        ("PROFILE", profile.name.to_owned()),
        ("LOADS", joined(&profile.loads)),
        ("STEP_S", profile.step.as_secs().to_string()),
        ("USERS", profile.users.to_string()),
        ("DRIVER", driver_name.to_owned()),
        ("RUNS", options.runs.to_string()),
        ("FAULTS", joined(&options.faults)),
    ];
    let cluster = Cluster::from_env(&start.env)?;
    let mut load = HeartbeatLoad::open(start)?;
    let ended = (|| {
        // The same users take part in every run, since accounts can't be closed.
        let users = SimulatedUsers::start(&driver, profile.users, &cluster, &start.shutdown)?;
        let searches = profile.bisections.is_some();
        let mut warm_up = if searches { WARM_UP_FIRST } else { WARM_UP };
        for round in 1..=options.runs {
            let mut modes = options.modes.clone();
            modes.shuffle(&mut rand::rng());
            for mode in modes {
                let name = format!("{round}-{mode}");
                load.begin(mode, (&folder, &name), &settings, &users)?;
                course(&profile, &options.faults, warm_up, &mut load, &users)?;
                load.end(&folder, &users)?;
                warm_up = WARM_UP;
            }
        }
        Ok(())
    })();
    // The stack is restored also after an error: without load, and with its own handler.
    let restored = load.restore();
    output::print(&load.text());
    output::print(&format!("Raw rows: {}\n", folder.display()));
    conclude(&start.shutdown, ended, restored, || ExitCode::SUCCESS)
}

fn driver(env: &Env<'_>, options: &RunOptions) -> Result<Driver, Error> {
    if options.driver == DriverName::Graphql {
        return Ok(Driver::Graphql(env.text(&GRAPHQL_URL)?));
    }
    let url = env.text(&FRONTEND_URL)?;
    if url.is_empty() {
        return Err(Error::Usage("--driver browser needs FRONTEND_URL (make -s env)".to_owned()));
    }
    Ok(Driver::Browser(url, options.chromium.clone()))
}

/// Measures the loads of one run.
fn course(
    profile: &Profile,
    faults: &[Fault],
    warm_up: (u32, Duration),
    bank: &mut HeartbeatLoad,
    users: &SimulatedUsers,
) -> Result<(), Error> {
    let (load, time) = warm_up;
    let load = load.min(profile.loads.iter().copied().max().unwrap_or(load));
    bank.step(Kind::WarmUp, load, time, users)?;
    bank.settle(users)?;
    bank.arm(faults);
    let step = |bank: &mut HeartbeatLoad, kind, load| bank.step(kind, load, profile.step, users);
    let Some(bisections) = profile.bisections else {
        let mut timed_out = 0;
        for &load in &profile.loads {
            timed_out += step(bank, Kind::Climb, load)?.timed_out;
            if timed_out >= TIMEOUTS_MAX && faults.is_empty() {
                output::progress("Three steps of simulated users have timed out: the run ends");
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
            bank.settle(users)?;
        }
        // A stall of the machine may have caused the first load that is not held. It is measured
        // again, unless it was far from being held. So is a load in which this program was paused.
        let was_paused = first.own_pause > PAUSE_MAX;
        if !held && (was_paused || !first.needs_no_retry() && !doubted) {
            doubted |= !was_paused;
            MeasuredLoad { held, .. } = step(bank, Kind::Climb, load)?;
            if !held {
                bank.settle(users)?;
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
    use crate::{Command, parse};

    fn options(line: &str) -> Result<RunOptions, String> {
        match parse(&format!("run {line}"))? {
            Command::Run(options) => Ok(options),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn options_override_parts_of_a_profile() {
        let talk = options("").unwrap();
        let profile = Profile::new(&talk);
        assert_eq!((profile.loads.len(), profile.users, talk.runs), (41, 1, 1));
        assert_eq!((profile.bisections, talk.modes[0].name()), (None, "batched"));
        let max = options("--profile max --modes single,modern --bisections 5").unwrap();
        assert_eq!(max.modes, [Mode::Single, Mode::BuiltIn]);
        let max = Profile::new(&max);
        assert_eq!((&max.loads[..4], max.bisections), (&[0, 100, 250, 500][..], Some(5)));
        let other = Profile::new(&options("--loads 7,9 --step-s 2 --users 5").unwrap());
        assert_eq!((other.loads, other.users), (vec![7, 9], 5));
        for wrong in [
            "--profile fast",
            "--loads 5,",
            "--step-s 1",
            "--modes double",
            "--runs 0",
            "--faults x:postgres:KILL",
        ] {
            assert!(options(wrong).is_err(), "{wrong}");
        }
    }
}
