//! `bench probe`: measures transfers that are sent directly to the command-handler, in each mode.

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

/// Measure latency, throughput and CPU cost of transfers in modes single, batched and built-in
///
/// Opens accounts, deposits cash in them, and writes transfers between them directly to
/// confirm_money_transfer. The load is open loop: each transfer has a due time that does not depend
/// on earlier answers. In each mode, commands are sent in batches of those that are due. The modes
/// differ only in the handler's PRODUCER_MODE and KAFKA_CLIENT. Columns:
///   load              transfers due per second
///   done/s            transfers answered per second of the measured time
///   p50 p99 p99.9     milliseconds from the due time of a transfer until the second of its two
///                     balance_changed records was read
///   lag               highest number of transfers that were due and unanswered
///   held              yes if all of these hold: the lag grew by less than 2 % of the load from
///                     the first half of the measured time to the second; at least 95 % of the
///                     due transfers were answered in that time; each transfer has exactly one
///                     outcome
///   broker us/rec     CPU time of all brokers per record. A transfer has four records: a command,
///                     a confirmation and two balance changes. The time includes commands written
///                     by bench and read by the handler and other services, outcomes, balance
///                     changes read by bench, and offset commits. The brokers' CPU time without
///                     load is subtracted; the CSV file contains it
///   handler, db       CPU seconds per 1,000 transfers of the command-handler, and of PostgreSQL
///                     with all its processes
///   cmds/tx           mean number of transfers decided in one database transaction
///   recs/req          mean number of records in one produce request of the handler
///   RSS               highest memory of the handler, MiB
/// The last line is JSON: the highest load held in each mode; the broker CPU per record of each
/// mode at the highest load that single held; and in mode batched p50 at 10/s, p99 at 2000/s and
/// the highest memory of the handler.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = options::environment(&[
    &[STACK, HANDLER_URL, HEARTBEAT_URL],
    KafkaConfig::VARIABLES,
    &[SCHEMA_REGISTRY_URL],
]))]
pub struct ProbeOptions {
    /// Accounts between which money is transferred, 2 to 1000000
    #[arg(long, default_value = "1000", value_parser = number(2..=1_000_000usize))]
    accounts: usize,
    /// Modes to measure, separated by commas; the command-handler is restarted in each
    #[arg(long, value_enum, value_delimiter = ',', default_value = "single,batched,built-in")]
    modes: Vec<Mode>,
    /// Transfers per second to try, separated by commas, each 1 to 1000000; each mode stops at the
    /// first load that is not held
    #[arg(long, value_delimiter = ',', value_parser = number(1..=1_000_000u32),
        default_value = "10,100,250,500,1000,2000,5000,10000,20000,40000")]
    loads: Vec<u32>,
    /// Loads to try between the last one held and the first one not held, 0 to 10
    #[arg(long, default_value = "3", value_parser = number(0..=10u32))]
    bisections: u32,
    /// Measured time of each load, 1 to 3600 s, after one second that is not measured
    #[arg(long, default_value = "10", value_parser = seconds(1..=3600))]
    step_s: Duration,
    /// Transfers of the final memory test, 0 to 1000000000; 0 disables it. A restarted batched
    /// handler runs at four fifths of its highest load for at most four minutes, and its memory is
    /// printed at half time and at the end
    #[arg(long, default_value = "1000000", value_parser = number(0..=1_000_000_000u64))]
    transfers: u64,
    /// Shortest time between two batches of commands, 0 to 100 ms
    ///
    /// The latency of each command counts from its due time. With a shorter time the batches are
    /// smaller, and the broker spends more CPU time on requests of bench.
    #[arg(long, default_value = "10", value_parser = millis(0..=100))]
    pace_ms: Duration,
    /// Folder for the raw rows in CSV files
    #[arg(long, value_name = "FOLDER", default_value = "target/bench")]
    out: PathBuf,
}

/// Load of `idle_p50_ms`.
const IDLE: u32 = 10;
/// Load of `p99_ms_at_2000`.
const WORKING: u32 = 2000;
/// Warm-up of a new process, and of a Java virtual machine that has not compiled its code yet.
const WARM_UP: (u32, Duration) = (250, Duration::from_secs(6));
/// Longest duration of the memory test.
const ENDURANCE_MAX: Duration = Duration::from_secs(240);
/// Timeout for the graphql-endpoint to store the records of the previous mode.
const SETTLED_WITHIN: Duration = Duration::from_secs(120);

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
    // The handler is restored also after an error. Its default mode is batched.
    let restored = load.bank.restore_handler();
    output::print(&results.text());
    conclude(&start.shutdown, ended, restored, || {
        output::print_json(&results.figures());
        if results.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    })
}

/// Measures everything in order and adds it to `results`.
fn course(
    options: &ProbeOptions,
    load: &mut DirectLoad,
    results: &mut Results,
) -> Result<(), Error> {
    load.open_accounts(options.accounts)?;
    for &mode in &options.modes {
        load.restart_handler(mode)?;
        load.warm_up(WARM_UP.0, WARM_UP.1)?;
        // The graphql-endpoint may still store records of the previous mode, which would be
        // counted as work of this mode.
        load.bank.settle(0, SETTLED_WITHIN)?;
        // The other modes are also measured at the highest load of single, to compare at one load.
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
                    "{unanswered} transfers do not have exactly one outcome, so the measurement \
                     was stopped"
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

/// Runs a restarted handler for `transfers` transfers at four fifths of the load that it held.
/// Records its memory at half time and at the end. The load is constant, so growth is a leak.
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
            "{transfers} transfers at {per_s}/s would take too long, so the memory test ends \
             after {seconds} s"
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
    /// The highest load held in each mode.
    held: [Option<u32>; Mode::ALL.len()],
    /// Samples of the batched handler: transfers since its start, and its memory, bytes.
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
            text += &format!("DISTURBED: {disturbance}; the CSV file has the use for each row\n");
        }
        text + &format!("Raw rows: {}\n", self.csv.path().display())
    }

    /// The first row of `mode` at `load`; rows of the memory test come later.
    fn row(&self, mode: Mode, load: u32) -> Option<&TransferLoad> {
        self.rows.iter().find(|row| row.mode == mode && row.load == load)
    }

    fn figures(&self) -> Figures {
        let held = |mode: Mode| self.held[mode as usize];
        // All modes are compared at the highest load of the slowest mode.
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

/// The last line of the output.
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
    fn json_compares_modes_at_the_highest_single_load() {
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
