//! `bench demo`: runs the whole bank under load for a minute and checks the contract.

mod loaded_bank;
mod tables;

pub use self::loaded_bank::LoadedBank;
pub use self::tables::{DemoStep, violations};
use self::tables::{Outcome, table};
use crate::control::HEARTBEAT_URL;
use crate::error::Error;
use crate::graphql::GRAPHQL_URL;
use crate::observed_bank::BALANCE_DATABASE_URL;
use crate::options::{self, number, seconds};
use crate::output;
use crate::start::Start;
use crate::topic_reader::Cluster;
use messaging::KafkaConfig;
use service::env::SCHEMA_REGISTRY_URL;
use service::shutdown::Shutdown;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Run the bank under load for a minute and check that no cent is lost
///
/// Raises the load in steps. Each heartbeat record becomes a command: the first ones open accounts,
/// the others transfer money. Every command, outcome and balance change is read from the topics. At
/// the same time three simulated users open accounts through GraphQL. Each sends a transfer once a
/// second and waits for the new balance. Then the load stops. When all commands are answered, these
/// checks run:
///   - Every command has exactly one outcome. A replayed outcome counts as the same one if it is
///     equal in every field.
///   - The changes of each account are numbered 1, 2, 3 ... without gaps, and lead to its balance
///     in the database.
///   - The sum of all balances is the sum before, plus cash that confirmed transfers paid in, minus
///     cash that they paid out.
///
/// A new bank begins with the company's 100000000000000000 cents. Latency is the time from reading
/// a command to reading its outcome, and 0 if the outcome was read first. Only records written
/// after the start are counted. The exit code is 0 if all checks pass, else 1. The last line is
/// JSON.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = options::environment(&[
    &[HEARTBEAT_URL, GRAPHQL_URL, BALANCE_DATABASE_URL],
    KafkaConfig::VARIABLES,
    &[SCHEMA_REGISTRY_URL],
]))]
pub struct DemoOptions {
    /// Duration of the load, 1 to 3600 s; starting and checking take some seconds more
    #[arg(long, default_value = "60", value_parser = seconds(1..=3600))]
    duration_s: Duration,
    /// Heartbeat records per second of each step, separated by commas, each 1 to 1000000; the steps
    /// have equal durations
    #[arg(long, value_delimiter = ',', value_parser = number(1..=1_000_000u32),
        default_value = "100,500,2000,5000,10000,20000")]
    loads: Vec<u32>,
}

const USERS: u32 = 3;

/// Runs the command `bench demo`.
pub fn run(start: &Start<'_>, options: &DemoOptions) -> Result<ExitCode, Error> {
    let cluster = Cluster::from_env(&start.env)?;
    let mut bank = LoadedBank::start(start, &cluster, USERS)?;
    let step_s = options.duration_s.as_secs_f64() / options.loads.len() as f64;
    output::progress(&format!(
        "Raising the load in {} steps of {step_s:.0} s each; one line per second:",
        options.loads.len()
    ));
    let mut steps = Vec::new();
    let loaded = load(&mut bank, &options.loads, options.duration_s, &start.shutdown, &mut steps);
    let checked = bank.finish(loaded)?;
    output::print(&table(&steps));
    output::print(&checked.text());
    output::print_json(&Outcome::new(
        &checked.report,
        checked.is_sum_right(),
        &steps,
        &checked.user_steps,
    ));
    Ok(if checked.is_right() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the steps and appends them to `steps`. Ends early, without an error, when shutdown is
/// requested.
fn load(
    bank: &mut LoadedBank,
    loads: &[u32],
    time: Duration,
    shutdown: &Shutdown,
    steps: &mut Vec<DemoStep>,
) -> Result<(), Error> {
    let length = time / u32::try_from(loads.len()).unwrap_or(u32::MAX);
    for &load in loads {
        if shutdown.requested() {
            return Ok(());
        }
        bank.heartbeat.set_load(load)?;
        let (mut step, mut second) = (begin(bank, load), begin(bank, load));
        while step.started.elapsed() < length && !shutdown.requested() {
            let line = second.started + Duration::from_secs(1);
            let end = (step.started + length).min(line);
            bank.observed.read(end, |news| {
                step.note(news);
                second.note(news);
            })?;
            if Instant::now() >= line {
                second.end(&bank.observed.observer);
                output::progress(&second.line());
                second = begin(bank, load);
            }
        }
        step.end(&bank.observed.observer);
        steps.push(step);
    }
    Ok(())
}

fn begin(bank: &LoadedBank, load: u32) -> DemoStep {
    DemoStep::new(load, &bank.observed.observer)
}

#[cfg(test)]
mod tests {
    use crate::{Command, parse};

    #[test]
    fn loads_outside_the_limits_are_rejected() {
        let loads = |line: &str| match parse(&format!("demo {line}"))? {
            Command::Demo(options) => Ok(options.loads),
            other => Err(format!("{other:?}")),
        };
        assert_eq!(loads("--loads 1,2"), Ok(vec![1, 2]));
        assert_eq!(loads("").unwrap().len(), 6);
        for wrong in ["0", "1,", "many"] {
            assert!(loads(&format!("--loads {wrong}")).is_err(), "{wrong}");
        }
    }
}
