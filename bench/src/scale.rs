//! `bench scale`: measures the cost of a transfer with many accounts and with a long history.

use crate::bank_under_test::{BankUnderTest, conclude};
use crate::control::HEARTBEAT_URL;
use crate::direct_load::{self, DirectLoad, TransferLoad};
use crate::error::Error;
use crate::metrics::HANDLER_URL;
use crate::options::{self, number, seconds};
use crate::output::{self, Csv, figure, short};
use crate::stack::STACK;
use crate::start::Start;
use messaging::KafkaConfig;
use serde::Serialize;
use serde_json::Number;
use service::env::SCHEMA_REGISTRY_URL;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Measure the cost of a transfer with few and many accounts, and with a long history
///
/// Sends transfers directly to the command-handler, as `bench probe` does, at the same load three
/// times: between few accounts, between many accounts, and between many accounts after many balance
/// changes. The bank itself opens the accounts and creates the history; with the defaults that
/// takes about ten minutes and 10 GB. A separate stack is needed to begin without history (make
/// bench-scale). The cost is the CPU time that broker, database, command-handler and
/// graphql-endpoint use for 1,000 transfers without other load. The last line is JSON: each cost
/// divided by the previous one.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = options::environment(&[
    &[STACK, HANDLER_URL, HEARTBEAT_URL],
    KafkaConfig::VARIABLES,
    &[SCHEMA_REGISTRY_URL],
]))]
pub struct ScaleOptions {
    /// Accounts in the first measurement, 2 to 1000000
    #[arg(long, default_value = "1000", value_parser = number(2..=1_000_000usize))]
    accounts_few: usize,
    /// Accounts in the other two measurements, 2 to 10000000
    #[arg(long, default_value = "1000000", value_parser = number(2..=10_000_000usize))]
    accounts_many: usize,
    /// Balance changes before the last measurement, 0 to 1000000000; a transfer makes two
    #[arg(long, default_value = "10000000", value_parser = number(0..=1_000_000_000i64))]
    history: i64,
    /// Transfers per second in the measurements, 1 to 1000000
    #[arg(long, default_value = "5000", value_parser = number(1..=1_000_000u32))]
    load: u32,
    /// Transfers per second that create the history, 1 to 1000000; reduced when the bank does not
    /// hold the load
    #[arg(long, default_value = "15000", value_parser = number(1..=1_000_000u32))]
    fill: u32,
    /// Measured time of each step, 1 to 3600 s, after one second that is not measured
    #[arg(long, default_value = "20", value_parser = seconds(1..=3600))]
    step_s: Duration,
    /// Steps of each measurement, 1 to 100
    #[arg(long, default_value = "3", value_parser = number(1..=100u32))]
    steps: u32,
    /// Folder for the raw rows in CSV files
    #[arg(long, value_name = "FOLDER", default_value = "target/bench")]
    out: PathBuf,
}

/// Warm-up of a new process, and of a Java virtual machine that has not compiled its code yet.
const WARM_UP: (u32, Duration) = (1000, Duration::from_secs(5));
/// Duration of a step that creates history.
const FILL_STEP: Duration = Duration::from_secs(20);
/// Timeout for the graphql-endpoint to store all records.
const SETTLED_WITHIN: Duration = Duration::from_secs(3600);

/// One of the three measurements.
struct Measurement {
    accounts: usize,
    /// Balance changes before the measurement.
    history: i64,
    rows: Vec<TransferLoad>,
}

impl Measurement {
    /// Mean CPU seconds per 1,000 transfers of brokers, database, handler and endpoint.
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

pub fn run(start: &Start<'_>, options: &ScaleOptions) -> Result<ExitCode, Error> {
    let settings = [
        ("ACCOUNTS_FEW", options.accounts_few.to_string()),
        ("ACCOUNTS_MANY", options.accounts_many.to_string()),
        ("HISTORY", options.history.to_string()),
        ("LOAD", options.load.to_string()),
        ("FILL", options.fill.to_string()),
        ("STEP_S", options.step_s.as_secs().to_string()),
        ("STEPS", options.steps.to_string()),
    ];
    let batch_interval = Duration::from_millis(10);
    let mut load = DirectLoad::new(BankUnderTest::open(start)?, batch_interval)?;
    let columns = format!("accounts,history,{}", direct_load::COLUMNS);
    let mut csv = Csv::create(&options.out, "scale", &settings, &columns)?;
    let mut done = Vec::new();
    let ended = course(options, &mut load, &mut done, &mut csv);
    output::print(&output::table(&table(&done)));
    output::print(&format!("Raw rows: {}\n", csv.path().display()));
    conclude(&start.shutdown, ended, Ok(()), || {
        output::print_json(&Ratios::of(&done));
        ExitCode::SUCCESS
    })
}

/// Measures everything in order and adds it to `done`.
fn course(
    options: &ScaleOptions,
    load: &mut DirectLoad,
    done: &mut Vec<Measurement>,
    csv: &mut Csv,
) -> Result<(), Error> {
    let mut measure = |load: &mut DirectLoad, accounts| {
        load.bank.settle(0, SETTLED_WITHIN)?;
        let history = load.bank.lag.records()?.changes;
        output::progress(&format!(
            "Measuring with {accounts} accounts after {history} balance changes"
        ));
        done.push(Measurement { accounts, history, rows: Vec::new() });
        for _ in 0..options.steps {
            let row = load.step(options.load, options.step_s)?;
            csv.line(&format!("{accounts},{history},{}", row.csv()))?;
            if let Some(measurement) = done.last_mut() {
                measurement.rows.push(row);
            }
        }
        Ok::<_, Error>(())
    };
    let (few, many) = (options.accounts_few, options.accounts_many);
    load.open_accounts(few)?;
    load.warm_up(WARM_UP.0.min(options.load), WARM_UP.1)?;
    measure(load, few)?;
    load.open_accounts(many)?;
    measure(load, many)?;
    let mut fill = options.fill;
    loop {
        let history = load.bank.lag.records()?.changes;
        if history >= options.history {
            break;
        }
        output::progress(&format!("{history} of {} balance changes", options.history));
        // The last step makes no more changes than needed.
        let wanted = (options.history - history) as f64 / 2.0 / f64::from(fill);
        let time = FILL_STEP.min(Duration::from_secs_f64(wanted.max(1.0)));
        if !load.step(fill, time)?.held {
            fill = (fill / 4 * 3).max(1);
        }
        // Otherwise the graphql-endpoint would fall further and further behind.
        load.bank.settle(0, SETTLED_WITHIN)?;
    }
    if options.history > 0 { measure(load, many) } else { Ok(()) }
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
        "ratio to first",
    ];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    let first = done.first().map_or(0.0, Measurement::cost);
    for measurement in done.iter().filter(|it| !it.rows.is_empty()) {
        let Measurement { accounts, history, rows: steps } = measurement;
        let mean = |value: fn(&TransferLoad) -> f64| {
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

/// The last line of the output.
#[derive(Serialize)]
struct Ratios {
    accounts_cost_ratio: Option<Number>,
    history_cost_ratio: Option<Number>,
}

impl Ratios {
    fn of(done: &[Measurement]) -> Self {
        let ratio = |at: usize| {
            let (before, after) = (done.get(at)?.cost(), done.get(at + 1)?.cost());
            figure((before > 0.0).then(|| after / before), 2)
        };
        Self { accounts_cost_ratio: ratio(0), history_cost_ratio: ratio(1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_divided_by_the_previous_ones() {
        // In the example, 4,000 transfers take the given CPU seconds of the brokers and 1.9 s of
        // the other parts.
        let measured = |accounts, brokers: &[f64]| Measurement {
            accounts,
            history: 10,
            rows: brokers.iter().map(|broker| TransferLoad::example(*broker)).collect(),
        };
        let done = [measured(10, &[2.0, 2.2]), measured(100, &[6.1]), measured(100, &[2.1])];
        assert!((done[0].cost() - 1.0).abs() < 1e-9, "{}", done[0].cost());
        assert_eq!(
            output::to_json(&Ratios::of(&done)),
            "{\"accounts_cost_ratio\":2,\"history_cost_ratio\":0.5}"
        );
        assert_eq!(
            output::to_json(&Ratios::of(&done[..2])),
            "{\"accounts_cost_ratio\":2,\"history_cost_ratio\":null}"
        );
        let table = table(&done);
        assert_eq!(table[2].last().unwrap(), "2.00");
        assert!(table.iter().all(|row| row.len() == table[0].len()));
    }
}
