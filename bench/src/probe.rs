//! `bench probe`: transfers straight to the command-handler, in each of its producer modes.

use crate::bank_under_test::{BankUnderTest, conclude};
use crate::control::HEARTBEAT_URL;
use crate::direct_load::{self, DirectLoad, TransferLoad};
use crate::error::Error;
use crate::metrics::HANDLER_URL;
use crate::mode::Mode;
use crate::options::{self, joined, millis, number, seconds};
use crate::output::{self, Csv, figure, mib};
use crate::process_usage::disturbance;
use crate::search::Search;
use crate::stack::STACK;
use crate::start::Start;
use messaging::KafkaConfig;
use serde::Serialize;
use serde_json::Number;
use service::env::SCHEMA_REGISTRY_URL;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Latency, throughput and cost of transfers, with the handler in mode single, batched and built-in
///
/// Opens accounts, gives them cash, and sends transfers between them into confirm_money_transfer,
/// straight and open loop: each is due at its time, whatever became of the ones before. Commands
/// are sent in batches of what is due, in each mode: only the handler's PRODUCER_MODE and
/// KAFKA_CLIENT differ. What the columns mean:
///   load              transfers that fell due per second
///   done/s            transfers answered per second of the measured time
///   p50 p99 p99.9     milliseconds from the time a transfer was due until the second of its two
///                     balance_changed records was read back
///   lag               most transfers that were due and not answered
///   held              yes: the lag grew by less than 2 % of the load from the first half of the
///                     measured time to the second, at least 95 % of what fell due in it was
///                     answered in it, and each transfer got exactly one outcome
///   broker us/rec     CPU time of all brokers per record of the bank: a transfer is a command, a
///                     confirmation and two changes. It includes writing our commands, reading
///                     them by the handler and the other services, writing outcomes, our reading
///                     of changes, and offsets. The use without load, measured before, is taken
///                     off; the CSV has it
///   handler, db       CPU seconds per 1,000 transfers of the command-handler and of PostgreSQL
///                     with all its processes
///   cmds/tx           transfers decided in one database transaction, on average
///   recs/req          records in one request of the handler's producer, on average
///   RSS               highest memory of the handler, MiB
/// The last line is JSON: the highest load held by each mode, broker CPU per record of each at the
/// highest load that single held, p50 at 10/s, p99 at 2000/s and the handler's highest memory,
/// these three in mode batched.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = options::environment(&[
    &[STACK, HANDLER_URL, HEARTBEAT_URL],
    KafkaConfig::VARIABLES,
    &[SCHEMA_REGISTRY_URL],
]))]
pub struct ProbeOptions {
    /// Accounts that pay each other, 2 to 1000000
    #[arg(long, default_value = "1000", value_parser = number(2..=1_000_000usize))]
    accounts: usize,
    /// How the command-handler is run, which is restarted for each; separated by commas
    #[arg(long, value_enum, value_delimiter = ',', default_value = "single,batched,built-in")]
    modes: Vec<Mode>,
    /// Transfers per second to try, separated by commas, each 1 to 1000000; each mode goes up until
    /// one is not held
    #[arg(long, value_delimiter = ',', value_parser = number(1..=1_000_000u32),
        default_value = "10,100,250,500,1000,2000,5000,10000,20000,40000")]
    loads: Vec<u32>,
    /// Loads to try between the last that was held and the first that was not, 0 to 10
    #[arg(long, default_value = "3", value_parser = number(0..=10u32))]
    bisections: u32,
    /// Measured time of each load, 1 to 3600 s, after a second of settling
    #[arg(long, default_value = "10", value_parser = seconds(1..=3600))]
    step_s: Duration,
    /// Transfers for a fresh batched handler at the end, 0 to 1000000000, at four fifths of its
    /// highest load and for at most four minutes, to see its memory half-way and after all; 0
    /// leaves this out
    #[arg(long, default_value = "1000000", value_parser = number(0..=1_000_000_000u64))]
    transfers: u64,
    /// Least time between two batches of commands, 0 to 100 ms
    ///
    /// Each command still counts from its own due time. With less, commands trickle in, the bank
    /// finds fewer of them at once, and the broker is busy with our requests.
    #[arg(long, default_value = "10", value_parser = millis(0..=100))]
    pace_ms: Duration,
    /// Folder for the raw rows, as CSV
    #[arg(long, value_name = "FOLDER", default_value = "target/bench")]
    out: PathBuf,
}

/// Load of `idle_p50_ms`.
const IDLE: u32 = 10;
/// Load of `p99_ms_at_2000`.
const WORKING: u32 = 2000;
/// A new process, and a Java virtual machine that has not compiled its paths yet, get this much to
/// warm up on.
const WARM_UP: (u32, Duration) = (250, Duration::from_secs(6));
/// Longest time of the way to `TRANSFERS`.
const ENDURANCE_MAX: Duration = Duration::from_secs(240);
/// Longest time for the endpoint to store what a mode has left.
const SETTLED_WITHIN: Duration = Duration::from_secs(120);

/// The command.
pub fn run(start: &Start<'_>, options: &ProbeOptions) -> Result<ExitCode, Error> {
    let settings = [
        ("ACCOUNTS", options.accounts.to_string()),
        ("MODES", joined(&options.modes)),
        ("LOADS", joined(&options.loads)),
        ("BISECTIONS", options.bisections.to_string()),
        ("STEP_S", options.step_s.as_secs().to_string()),
        ("TRANSFERS", options.transfers.to_string()),
        ("PACE_MS", options.pace_ms.as_millis().to_string()),
    ];
    let mut load = DirectLoad::new(BankUnderTest::open(start)?, options.pace_ms)?;
    let csv = Csv::create(&options.out, "probe", &settings, direct_load::COLUMNS)?;
    let mut results =
        Results { rows: Vec::new(), held: [None; Mode::ALL.len()], memory: Vec::new(), csv };
    let ended = course(options, &mut load, &mut results);
    // Whatever became of it, the stack is left as it was found: batched is the default.
    let restored = load.bank.restore_handler();
    output::print(&results.text());
    conclude(&start.shutdown, ended, restored, || {
        output::print_json(&results.figures());
        if results.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    })
}

/// Everything in order; `results` grows as it goes.
fn course(
    options: &ProbeOptions,
    load: &mut DirectLoad,
    results: &mut Results,
) -> Result<(), Error> {
    load.open_accounts(options.accounts)?;
    for &mode in &options.modes {
        load.restart_handler(mode)?;
        load.warm_up(WARM_UP.0, WARM_UP.1)?;
        // What the endpoint has yet to store of the last mode's overload would be counted as this
        // one's.
        load.bank.settle(0, SETTLED_WITHIN)?;
        // The other modes are also measured at whatever single could do: the same load for all.
        let single = results.rows.iter().filter(|row| row.held && row.mode == Mode::Single);
        let single = single.map(|row| row.load);
        let loads: Vec<u32> = options.loads.iter().copied().chain(single).collect();
        let mut search = Search::new(&loads, options.bisections);
        while let Some(per_s) = search.next() {
            let row = load.step(per_s, options.step_s)?;
            let (held, unanswered) = (row.held, row.unanswered);
            results.add(row)?;
            if unanswered > 0 {
                return Err(Error::Bank(format!(
                    "{unanswered} transfers have no outcome, or more than one: nothing more is measured"
                )));
            }
            search.tried(per_s, held);
            results.held[mode as usize] = Some(search.held);
        }
        if mode == Mode::Batched {
            endure(options.transfers, search.held, load, results)?;
        }
    }
    Ok(())
}

/// Takes a fresh handler to `transfers` at four fifths of what it held, and looks at its memory
/// half-way and at the end: one load all the time, so that growth would be a leak.
fn endure(
    transfers: u64,
    held: u32,
    load: &mut DirectLoad,
    results: &mut Results,
) -> Result<(), Error> {
    let per_s = (held / 5 * 4).max(1);
    let half = Duration::from_secs_f64(transfers as f64 / 2.0 / f64::from(per_s));
    if half < direct_load::SETTLE * 2 {
        return Ok(());
    }
    if half > ENDURANCE_MAX / 2 {
        let seconds = ENDURANCE_MAX.as_secs();
        output::progress(&format!(
            "{transfers} transfers at {per_s}/s would take too long: {seconds} s of them"
        ));
    }
    load.restart_handler(Mode::Batched)?;
    for _ in 0..2 {
        let row = load.step(per_s, half.min(ENDURANCE_MAX / 2) - direct_load::SETTLE)?;
        results.add(row)?;
        results.memory.push((load.transfers(), load.bank.usage.handler_memory()?));
    }
    Ok(())
}

/// What was measured so far.
struct Results {
    rows: Vec<TransferLoad>,
    /// The highest load held, by mode.
    held: [Option<u32>; Mode::ALL.len()],
    /// Transfers of the batched handler, and its memory then, bytes.
    memory: Vec<(u64, u64)>,
    csv: Csv,
}

impl Results {
    fn add(&mut self, row: TransferLoad) -> Result<(), Error> {
        self.csv.line(&row.csv())?;
        self.rows.push(row);
        Ok(())
    }

    /// True if every transfer got exactly one outcome.
    fn is_complete(&self) -> bool {
        self.rows.iter().all(|row| row.unanswered == 0)
    }

    fn text(&self) -> String {
        let rows = self.rows.iter().map(TransferLoad::cells);
        let mut text =
            output::table(&[TransferLoad::titles()].into_iter().chain(rows).collect::<Vec<_>>());
        if !self.memory.is_empty() {
            let memory = self.memory.iter();
            let memory =
                memory.map(|(transfers, rss)| format!("{:.1} MiB after {transfers}", mib(*rss)));
            text += &format!(
                "Memory of the handler: {} transfers\n",
                memory.collect::<Vec<_>>().join(", ")
            );
        }
        if let Some(disturbance) = disturbance(self.rows.iter().map(|row| row.cpu.other_cores())) {
            text += &format!("DISTURBED: {disturbance}; the CSV has it for each row\n");
        }
        text + &format!("Raw rows: {}\n", self.csv.path().display())
    }

    /// A row of `mode` at `load`, the first: endurance comes after.
    fn row(&self, mode: Mode, load: u32) -> Option<&TransferLoad> {
        self.rows.iter().find(|row| row.mode == mode && row.load == load)
    }

    fn figures(&self) -> Figures {
        let held = |mode: Mode| self.held[mode as usize];
        // All at the same load: the highest that the weakest held.
        let common = held(Mode::Single).or(held(Mode::Batched)).unwrap_or(0);
        let of = |mode| ModeFigures {
            max_per_s: held(mode),
            broker_cpu_us_per_record: figure(
                self.row(mode, common).map(TransferLoad::broker_us_per_record),
                1,
            ),
        };
        let batched = |load| self.row(Mode::Batched, load);
        let rss = self.rows.iter().filter(|row| row.mode == Mode::Batched).map(|row| row.rss);
        Figures {
            single: of(Mode::Single),
            batched: of(Mode::Batched),
            built_in: of(Mode::BuiltIn),
            idle_p50_ms: figure(batched(IDLE).map(|row| row.p50_ms), 1),
            p99_ms_at_2000: figure(batched(WORKING).map(|row| row.p99_ms), 1),
            handler_rss_mib: figure(rss.max().map(mib), 1),
        }
    }
}

/// The last line.
#[derive(Serialize)]
struct Figures {
    single: ModeFigures,
    batched: ModeFigures,
    #[serde(rename = "built-in")]
    built_in: ModeFigures,
    idle_p50_ms: Option<Number>,
    p99_ms_at_2000: Option<Number>,
    handler_rss_mib: Option<Number>,
}

#[derive(Serialize)]
struct ModeFigures {
    max_per_s: Option<u32>,
    broker_cpu_us_per_record: Option<Number>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Command, parse};

    fn options(line: &str) -> Result<ProbeOptions, String> {
        match parse(&format!("probe {line}"))? {
            Command::Probe(options) => Ok(options),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn defaults_are_valid_and_lists_are_checked() {
        let defaults = options("").unwrap();
        assert_eq!(defaults.modes, Mode::ALL);
        assert!(defaults.loads.contains(&IDLE) && defaults.loads.contains(&WORKING));
        assert_eq!(options("--loads 5,7").unwrap().loads, [5, 7]);
        for wrong in ["--loads 5,", "--loads 0", "--modes double", "--accounts 1"] {
            assert!(options(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_last_line_compares_all_modes_at_the_highest_load_of_single() {
        let folder = std::env::temp_dir().join(format!("bench-json-{}", std::process::id()));
        let csv = Csv::create(&folder, "probe", &[], "").unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        let mut results =
            Results { rows: Vec::new(), held: [None; Mode::ALL.len()], memory: Vec::new(), csv };
        assert_eq!(
            output::to_json(&results.figures()),
            "{\"single\":{\"max_per_s\":null,\"broker_cpu_us_per_record\":null},\
             \"batched\":{\"max_per_s\":null,\"broker_cpu_us_per_record\":null},\
             \"built-in\":{\"max_per_s\":null,\"broker_cpu_us_per_record\":null},\
             \"idle_p50_ms\":null,\"p99_ms_at_2000\":null,\"handler_rss_mib\":null}"
        );
        let row =
            |mode, load, broker_s| TransferLoad { mode, load, ..TransferLoad::example(broker_s) };
        results.rows = vec![
            row(Mode::Single, 500, 4.0),
            row(Mode::Batched, 10, 0.5),
            row(Mode::Batched, 500, 0.8),
            row(Mode::Batched, 2000, 1.0),
            row(Mode::BuiltIn, 500, 0.4),
        ];
        results.held = [Some(500), Some(2000), Some(3000)];
        assert_eq!(
            output::to_json(&results.figures()),
            "{\"single\":{\"max_per_s\":500,\"broker_cpu_us_per_record\":250},\
             \"batched\":{\"max_per_s\":2000,\"broker_cpu_us_per_record\":50},\
             \"built-in\":{\"max_per_s\":3000,\"broker_cpu_us_per_record\":25},\
             \"idle_p50_ms\":3.2,\"p99_ms_at_2000\":9.4,\"handler_rss_mib\":12}"
        );
    }
}
