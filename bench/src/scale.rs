//! `bench scale`: what a transfer costs when there are many accounts, and when much has happened already.

use crate::Start;
use crate::args::Command;
use crate::control::HEARTBEAT_URL;
use crate::error::Error;
use crate::flow::Flow;
use crate::metrics::HANDLER_URL;
use crate::probe::rig::Rig;
use crate::probe::row::{self, Row};
use crate::report::{self, Csv, short};
use crate::stack::STACK;
use crate::tap::Cluster;
use service::env::{Env, Variable};
use service::shutdown::Shutdown;
use std::process::ExitCode;
use std::time::Duration;

const ACCOUNTS_FEW: Variable =
    Variable::new("BENCH_ACCOUNTS_FEW", "1000", "accounts at first, 2 to 1000000");
const ACCOUNTS_MANY: Variable =
    Variable::new("BENCH_ACCOUNTS_MANY", "1000000", "accounts then, 2 to 10000000");
const HISTORY: Variable = Variable::new(
    "BENCH_HISTORY",
    "10000000",
    "changes of balances that there are at last, 0 to 1000000000; a transfer makes two",
);
const LOAD: Variable =
    Variable::new("BENCH_LOAD", "5000", "transfers per second while it is measured, 1 to 1000000");
const FILL: Variable = Variable::new(
    "BENCH_FILL",
    "15000",
    "transfers per second that make the history, 1 to 1000000; less when the bank does not hold it",
);
const STEP_S: Variable = Variable::new(
    "STEP_S",
    "20",
    "measured time of each step, 1 to 3600 s, after a second of settling",
);
const STEPS: Variable = Variable::new("BENCH_STEPS", "3", "steps of each measurement, 1 to 100");
const OUT: Variable = Variable::new("OUT", "target/bench", "folder for the raw rows, as CSV");

/// The sub-command.
pub const COMMAND: Command = Command {
    name: "scale",
    about: "Cost of a transfer with few and with many accounts, with and without a long history",
    details: DETAILS,
    variables: &[
        &[
            ACCOUNTS_FEW,
            ACCOUNTS_MANY,
            HISTORY,
            LOAD,
            FILL,
            STEP_S,
            STEPS,
            OUT,
            STACK,
            HANDLER_URL,
            HEARTBEAT_URL,
        ],
        Cluster::VARIABLES[0],
        Cluster::VARIABLES[1],
    ],
    run,
};

const DETAILS: &str = "\
Sends transfers between accounts straight to the command-handler, as `bench probe` does, at the same load three times: between few
accounts, between many, and between many once much has happened. Accounts are opened and the history is made by the bank itself;
with the defaults that takes some ten minutes and 10 GB. To begin with an empty history it needs a stack of its own
(make bench-scale). Measured is the CPU that broker, database, command-handler and graphql-endpoint spend on 1,000 transfers, when
nothing else is on its way. The last line is JSON: the cost with many accounts and with a history, divided by the one before.
";

/// A new process, and a Java virtual machine that has not compiled its paths yet, get this much to warm up on.
const WARM_UP: (u32, Duration) = (1000, Duration::from_secs(5));
/// Length of a step that makes history.
const FILL_STEP: Duration = Duration::from_secs(20);
/// Longest time for the endpoint to store what the handler has told.
const SETTLED_WITHIN: Duration = Duration::from_secs(3600);

/// What to do.
struct Config {
    accounts: [usize; 2],
    history: i64,
    load: u32,
    fill: u32,
    step: Duration,
    steps: u32,
}

impl Config {
    fn from_env(env: &Env<'_>) -> Result<Self, Error> {
        Ok(Self {
            accounts: [
                env.number(&ACCOUNTS_FEW, 2..=1_000_000)?,
                env.number(&ACCOUNTS_MANY, 2..=10_000_000)?,
            ],
            history: env.number(&HISTORY, 0..=1_000_000_000)?,
            load: env.number(&LOAD, 1..=1_000_000)?,
            fill: env.number(&FILL, 1..=1_000_000)?,
            step: Duration::from_secs(env.number(&STEP_S, 1..=3600)?),
            steps: env.number(&STEPS, 1..=100)?,
        })
    }
}

/// One of the three measurements.
struct Measurement {
    accounts: usize,
    /// Changes of balances before it.
    history: i64,
    rows: Vec<Row>,
}

impl Measurement {
    /// Mean CPU seconds per 1,000 transfers of broker, database, handler and endpoint.
    fn costs(&self) -> [f64; 4] {
        let mut costs = [0.0; 4];
        for row in &self.rows {
            for (sum, cost) in costs.iter_mut().zip(row.costs()) {
                *sum += cost / self.rows.len() as f64;
            }
        }
        costs
    }

    fn cost(&self) -> f64 {
        self.costs().iter().sum()
    }
}

fn run(start: &Start<'_>) -> Result<ExitCode, Error> {
    let config = Config::from_env(&start.env)?;
    let variables = [ACCOUNTS_FEW, ACCOUNTS_MANY, HISTORY, LOAD, FILL, STEP_S, STEPS];
    let settings = variables.iter().map(|it| Ok((it.name, start.env.text(it)?)));
    let settings = settings.collect::<Result<Vec<_>, Error>>()?;
    let pace = Duration::from_millis(10);
    let mut rig = Rig::open(&start.env, pace, start.shutdown.clone())?;
    let mut flow = Flow::new(&Cluster::from_env(&start.env)?);
    let columns = format!("accounts,history,{}", row::COLUMNS);
    let folder = start.env.text(&OUT)?;
    let mut csv = Csv::create(folder.as_ref(), "scale", &settings, &columns)?;
    let mut done = Vec::new();
    let ended = course(&config, &mut rig, &mut flow, &start.shutdown, &mut done, &mut csv);
    report::tell(&report::table(&table(&done)));
    report::tell(&format!("Raw rows: {}\n", csv.path().display()));
    match ended {
        Ok(()) => {
            report::tell(&json(&done));
            Ok(ExitCode::SUCCESS)
        }
        Err(_) if start.shutdown.requested() => {
            report::progress("Stopped: what was measured until then is above.");
            Ok(ExitCode::from(130))
        }
        Err(err) => Err(err),
    }
}

/// Everything in order; `done` grows as it goes.
fn course(
    config: &Config,
    rig: &mut Rig,
    flow: &mut Flow,
    shutdown: &Shutdown,
    done: &mut Vec<Measurement>,
    csv: &mut Csv,
) -> Result<(), Error> {
    let mut measure = |rig: &mut Rig, flow: &mut Flow, accounts| {
        flow.settle(SETTLED_WITHIN, shutdown)?;
        let history = flow.look()?.changes;
        report::progress(&format!(
            "measured now: {accounts} accounts, {history} changes of balances"
        ));
        done.push(Measurement { accounts, history, rows: Vec::new() });
        for _ in 0..config.steps {
            let row = rig.step(config.load, config.step)?;
            csv.line(&format!("{accounts},{history},{}", row.csv()))?;
            if let Some(measurement) = done.last_mut() {
                measurement.rows.push(row);
            }
        }
        Ok::<_, Error>(())
    };
    let [few, many] = config.accounts;
    rig.open_accounts(few)?;
    rig.warm_up(WARM_UP.0.min(config.load), WARM_UP.1)?;
    measure(rig, flow, few)?;
    rig.open_accounts(many)?;
    measure(rig, flow, many)?;
    let mut fill = config.fill;
    loop {
        let history = flow.look()?.changes;
        if history >= config.history {
            break;
        }
        report::progress(&format!("{history} of {} changes of balances", config.history));
        // The last ones are not more than are wanted.
        let wanted = (config.history - history) as f64 / 2.0 / f64::from(fill);
        let time = FILL_STEP.min(Duration::from_secs_f64(wanted.max(1.0)));
        if !rig.step(fill, time)?.held {
            fill = (fill / 4 * 3).max(1);
        }
        // A rig does not wait for the endpoint; it must not fall behind for ever.
        flow.settle(SETTLED_WITHIN, shutdown)?;
    }
    if config.history > 0 { measure(rig, flow, many) } else { Ok(()) }
}

fn table(done: &[Measurement]) -> Vec<Vec<String>> {
    let titles = [
        "accounts",
        "history",
        "done/s",
        "p50 ms",
        "p99 ms",
        "broker s/1000",
        "db s/1000",
        "handler s/1000",
        "endpoint s/1000",
        "all",
        "of the first",
    ];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    let first = done.first().map_or(0.0, Measurement::cost);
    for measurement in done.iter().filter(|it| !it.rows.is_empty()) {
        let Measurement { accounts, history, rows: steps } = measurement;
        let mean = |value: fn(&Row) -> f64| {
            short(steps.iter().map(value).sum::<f64>() / steps.len() as f64)
        };
        let mut row = vec![
            accounts.to_string(),
            history.to_string(),
            mean(|row| row.answered as f64 / row.seconds),
            mean(|row| row.p50_ms),
            mean(|row| row.p99_ms),
        ];
        row.extend(
            measurement
                .costs()
                .iter()
                .chain([&measurement.cost()])
                .map(|cost| format!("{cost:.4}")),
        );
        row.push(format!("{:.2}", measurement.cost() / first));
        rows.push(row);
    }
    rows
}

/// The line that scripts read.
fn json(done: &[Measurement]) -> String {
    let ratio = |at: usize| match (done.get(at), done.get(at + 1)) {
        (Some(before), Some(after)) if before.cost() > 0.0 => {
            format!("{:.2}", after.cost() / before.cost())
        }
        _ => "null".to_owned(),
    };
    format!("{{\"accounts_cost_ratio\":{},\"history_cost_ratio\":{}}}\n", ratio(0), ratio(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_compared_with_those_before() {
        // The example's 4,000 transfers take the broker as many seconds as it is told, and the others 1.9.
        let measured = |accounts, brokers: &[f64]| Measurement {
            accounts,
            history: 10,
            rows: brokers.iter().map(|broker| Row::example(*broker)).collect(),
        };
        let done = [measured(10, &[2.0, 2.2]), measured(100, &[6.1]), measured(100, &[2.1])];
        assert!((done[0].cost() - 1.0).abs() < 1e-9, "{}", done[0].cost());
        assert_eq!(json(&done), "{\"accounts_cost_ratio\":2.00,\"history_cost_ratio\":0.50}\n");
        assert_eq!(
            json(&done[..2]),
            "{\"accounts_cost_ratio\":2.00,\"history_cost_ratio\":null}\n"
        );
        let table = table(&done);
        assert_eq!(table[2].last().unwrap(), "2.00");
        assert!(table.iter().all(|row| row.len() == table[0].len()));
    }
}
