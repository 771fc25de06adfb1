//! `bench probe`: transfers straight to the command-handler, in each of its producer modes.

pub mod rig;
pub mod row;

use self::rig::Rig;
use self::row::Row;
use crate::Start;
use crate::args::{Command, list};
use crate::control::{HEARTBEAT_URL, Heartbeat};
use crate::error::Error;
use crate::metrics::HANDLER_URL;
use crate::mode::Mode;
use crate::report::{self, Csv, json};
use crate::search::Search;
use crate::stack::STACK;
use crate::tap::Cluster;
use service::env::{Env, Variable};
use std::process::ExitCode;
use std::time::Duration;

const ACCOUNTS: Variable =
    Variable::new("ACCOUNTS", "1000", "accounts that pay each other, 2 to 1000000");
const MODES: Variable = Variable::new(
    "MODES",
    "single,batched,modern",
    "how the handler writes, separated by commas; it is restarted for each: single, batched (PRODUCER_MODE, with the kafka crate as \
     client), modern (batched, with KAFKA_CLIENT=modern)",
);
const LOADS: Variable = Variable::new(
    "LOADS",
    "10,100,250,500,1000,2000,5000,10000,20000,40000",
    "transfers per second to try, separated by commas, each 1 to 1000000; each mode goes up until one is not held",
);
const BISECTIONS: Variable = Variable::new(
    "BISECTIONS",
    "3",
    "loads to try between the last that was held and the first that was not, 0 to 10",
);
const STEP_S: Variable = Variable::new(
    "STEP_S",
    "10",
    "measured time of each load, 1 to 3600 s, after a second of settling",
);
const TRANSFERS: Variable = Variable::new(
    "TRANSFERS",
    "1000000",
    "transfers that a fresh batched handler is given at the end, at four fifths of its highest load and for at most four \
     minutes, to see its memory half-way and after all; 0 leaves this out",
);
const PACE_MS: Variable = Variable::new(
    "PACE_MS",
    "10",
    "least time between two batches of commands of this program, 0 to 100 ms. Each command still counts from its own due \
     time. With less, commands trickle in, the bank finds fewer of them at once, and the broker is busy with our requests",
);
const OUT: Variable = Variable::new("OUT", "target/bench", "folder for the raw rows, as CSV");

/// The sub-command.
pub const COMMAND: Command = Command {
    name: "probe",
    about: "Latency, throughput and cost of transfers, with the handler's producer in mode single, batched and modern",
    details: DETAILS,
    variables: &[
        &[
            ACCOUNTS,
            MODES,
            LOADS,
            BISECTIONS,
            STEP_S,
            TRANSFERS,
            PACE_MS,
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
Opens accounts, gives them cash, and sends transfers between them into confirm_money_transfer, straight and open loop: each
is due at its time, whatever became of the ones before. Commands are sent in batches of what is due, in each mode: only
the handler's PRODUCER_MODE and KAFKA_CLIENT differ. What the columns mean:
  load              transfers that fell due per second
  done/s            transfers answered per second of the measured time
  p50 p99 p99.9     milliseconds from the time a transfer was due until the second of its two balance_changed records was
                    read back
  lag               most transfers that were due and not answered
  held              yes: the lag grew by less than 2 % of the load from the first half of the measured time to the second,
                    at least 95 % of what fell due in it was answered in it, and each transfer got exactly one outcome
  broker us/rec     CPU time of all brokers per record of the bank: a transfer is a command, a confirmation and two changes.
                    It covers whatever the broker does for them: our commands written, read by the handler and by the other
                    services, answers written, changes read by us, offsets. What the broker uses without load, measured
                    before, is taken off; the CSV has it
  handler, db       CPU seconds per 1,000 transfers of the command-handler and of PostgreSQL with all its processes
  cmds/tx           transfers decided in one database transaction, on average
  recs/req          records in one request of the handler's producer, on average
  RSS               highest memory of the handler, MiB
The last line is JSON: the highest load held by each mode, broker CPU per record of each at the highest load that single
held, p50 at 10/s, p99 at 2000/s and the handler's highest memory, these three in mode batched.
";

/// Load of `idle_p50_ms`.
const IDLE: u32 = 10;
/// Load of `p99_ms_at_2000`.
const WORKING: u32 = 2000;
/// A new process, and a Java virtual machine that has not compiled its paths yet, get this much to warm up on.
const WARM_UP: (u32, Duration) = (250, Duration::from_secs(6));
/// Cores in use by others from which on the figures say more about them.
const DISTURBED: f64 = 0.1;
/// Longest time of the way to `TRANSFERS`.
const ENDURANCE_MAX: Duration = Duration::from_secs(240);
/// Longest time for the endpoint to store what a mode has left.
const SETTLED_WITHIN: Duration = Duration::from_secs(120);

/// What to do.
struct Config {
    accounts: usize,
    modes: Vec<Mode>,
    loads: Vec<u32>,
    bisections: u32,
    step: Duration,
    transfers: u64,
}

impl Config {
    fn from_env(env: &Env<'_>) -> Result<Self, Error> {
        let load = |word: &str| word.parse().ok().filter(|load| (1..=1_000_000).contains(load));
        Ok(Self {
            accounts: env.number(&ACCOUNTS, 2..=1_000_000)?,
            modes: list(
                env,
                &MODES,
                Mode::named,
                "single, batched and modern, separated by commas",
            )?,
            loads: list(env, &LOADS, load, "numbers from 1 to 1000000, separated by commas")?,
            bisections: env.number(&BISECTIONS, 0..=10)?,
            step: Duration::from_secs(env.number(&STEP_S, 1..=3600)?),
            transfers: env.number(&TRANSFERS, 0..=1_000_000_000)?,
        })
    }
}

fn run(start: &Start<'_>) -> Result<ExitCode, Error> {
    let config = Config::from_env(&start.env)?;
    let settings: Vec<(&str, String)> =
        [ACCOUNTS, MODES, LOADS, BISECTIONS, STEP_S, TRANSFERS, PACE_MS]
            .iter()
            .map(|variable| Ok((variable.name, start.env.text(variable)?)))
            .collect::<Result<_, Error>>()?;
    let heartbeat = Heartbeat::new(&start.env.text(&HEARTBEAT_URL)?);
    let pace = start.env.millis(&PACE_MS, 0..=100)?;
    let folder = start.env.text(&OUT)?;
    if heartbeat.batch_size()? > 0 {
        return Err(Error::Bank(
            "the heartbeat makes load of its own, which would be measured too: set its batch_size to 0".to_owned(),
        ));
    }
    let mut rig = Rig::open(&start.env, pace, start.shutdown.clone())?;
    let csv = Csv::create(folder.as_ref(), "probe", &settings, row::COLUMNS)?;
    let mut results =
        Results { rows: Vec::new(), held: [None; Mode::ALL.len()], memory: Vec::new(), csv };
    let ended = course(&config, &mut rig, &mut results);
    // Whatever became of it, the stack is left as it was found: batched is the default.
    let restored = rig.leave();
    report::tell(&results.text());
    match (ended, restored) {
        (Ok(()), Ok(())) => {
            report::tell(&results.json());
            Ok(if results.is_complete() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        // Ctrl-C reaches the stack's script too, and the producer gives up: whatever error came of it is its doing.
        (Err(_), Ok(())) if start.shutdown.requested() => {
            report::progress("Stopped: what was measured until then is above.");
            Ok(ExitCode::from(130))
        }
        (Err(err), _) | (_, Err(err)) => Err(err),
    }
}

/// Everything in order; `results` grows as it goes.
fn course(config: &Config, rig: &mut Rig, results: &mut Results) -> Result<(), Error> {
    rig.open_accounts(config.accounts)?;
    for &mode in &config.modes {
        rig.switch(mode)?;
        rig.warm_up(WARM_UP.0, WARM_UP.1)?;
        // What the endpoint has yet to store of the last mode's overload would be counted as this one's.
        rig.settle(SETTLED_WITHIN)?;
        // The other modes are also measured at whatever single could do: the same load for all.
        let single = results.rows.iter().filter(|row| row.held && row.mode == Mode::Single);
        let single = single.map(|row| row.load);
        let loads: Vec<u32> = config.loads.iter().copied().chain(single).collect();
        let mut search = Search::new(&loads, config.bisections);
        while let Some(load) = search.next() {
            let row = rig.step(load, config.step)?;
            let (held, unanswered) = (row.held, row.unanswered);
            results.add(row)?;
            if unanswered > 0 {
                return Err(Error::Bank(format!(
                    "{unanswered} transfers have no outcome, or more than one: nothing more is measured"
                )));
            }
            search.tried(load, held);
            results.held[mode as usize] = Some(search.held);
        }
        if mode == Mode::Batched {
            endure(config.transfers, search.held, rig, results)?;
        }
    }
    Ok(())
}

/// Takes a fresh handler to `transfers` at four fifths of what it held, and looks at its memory half-way and at the end: one
/// load all the time, so that growth would be a leak.
fn endure(transfers: u64, held: u32, rig: &mut Rig, results: &mut Results) -> Result<(), Error> {
    let load = (held / 5 * 4).max(1);
    let half = Duration::from_secs_f64(transfers as f64 / 2.0 / f64::from(load));
    if half < rig::SETTLE * 2 {
        return Ok(());
    }
    if half > ENDURANCE_MAX / 2 {
        let seconds = ENDURANCE_MAX.as_secs();
        report::progress(&format!(
            "{transfers} transfers at {load}/s would take too long: {seconds} s of them"
        ));
    }
    rig.switch(Mode::Batched)?;
    for _ in 0..2 {
        let row = rig.step(load, half.min(ENDURANCE_MAX / 2) - rig::SETTLE)?;
        results.add(row)?;
        results.memory.push((rig.transfers(), rig.rss()?));
    }
    Ok(())
}

/// What was measured so far.
struct Results {
    rows: Vec<Row>,
    /// The highest load held, by mode.
    held: [Option<u32>; Mode::ALL.len()],
    /// Transfers of the batched handler, and its memory then, bytes.
    memory: Vec<(u64, u64)>,
    csv: Csv,
}

impl Results {
    fn add(&mut self, row: Row) -> Result<(), Error> {
        self.csv.line(&row.csv())?;
        self.rows.push(row);
        Ok(())
    }

    /// True if every transfer got exactly one outcome.
    fn is_complete(&self) -> bool {
        self.rows.iter().all(|row| row.unanswered == 0)
    }

    fn text(&self) -> String {
        let rows = self.rows.iter().map(Row::cells);
        let mut text = report::table(&[Row::titles()].into_iter().chain(rows).collect::<Vec<_>>());
        if !self.memory.is_empty() {
            let memory = self.memory.iter();
            let memory = memory
                .map(|(transfers, rss)| format!("{:.1} MiB after {transfers}", row::mib(*rss)));
            text += &format!(
                "Memory of the handler: {} transfers\n",
                memory.collect::<Vec<_>>().join(", ")
            );
        }
        let others = |row: &Row| row.cpu.others() / row.seconds;
        let others = self.rows.iter().map(others).fold(0.0, f64::max);
        if others > DISTURBED {
            text += &format!(
                "DISTURBED: other processes used up to {others:.2} cores meanwhile; the CSV has it for each row\n"
            );
        }
        text + &format!("Raw rows: {}\n", self.csv.path().display())
    }

    /// A row of `mode` at `load`, the first: endurance comes after.
    fn row(&self, mode: Mode, load: u32) -> Option<&Row> {
        self.rows.iter().find(|row| row.mode == mode && row.load == load)
    }

    fn json(&self) -> String {
        let held = |mode: Mode| self.held[mode as usize];
        // All at the same load: the highest that the weakest held.
        let common = held(Mode::Single).or(held(Mode::Batched)).unwrap_or(0);
        let broker = |mode| json(self.row(mode, common).map(|row| row.broker_us_per_record()));
        let of = |mode| {
            let max = json(held(mode).map(f64::from));
            format!("{{\"max_per_s\":{max},\"broker_cpu_us_per_record\":{}}}", broker(mode))
        };
        let batched = |load| self.row(Mode::Batched, load);
        let rss = self.rows.iter().filter(|row| row.mode == Mode::Batched).map(|row| row.rss);
        format!(
            "{{\"single\":{},\"batched\":{},\"modern\":{},\"idle_p50_ms\":{},\"p99_ms_at_2000\":{},\"handler_rss_mib\":{}}}\n",
            of(Mode::Single),
            of(Mode::Batched),
            of(Mode::Modern),
            json(batched(IDLE).map(|row| row.p50_ms)),
            json(batched(WORKING).map(|row| row.p99_ms)),
            json(rss.max().map(row::mib)),
        )
    }
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
    fn the_defaults_fit_and_lists_are_checked() {
        let defaults = config(&[]).unwrap();
        assert_eq!(defaults.modes, Mode::ALL);
        assert!(defaults.loads.contains(&IDLE) && defaults.loads.contains(&WORKING));
        assert_eq!(config(&[("LOADS", "5, 7")]).unwrap().loads, [5, 7]);
        for wrong in [("LOADS", "5,"), ("LOADS", "0"), ("MODES", "double"), ("ACCOUNTS", "1")] {
            assert!(config(&[wrong]).is_err(), "{wrong:?}");
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
            results.json(),
            "{\"single\":{\"max_per_s\":null,\"broker_cpu_us_per_record\":null},\
             \"batched\":{\"max_per_s\":null,\"broker_cpu_us_per_record\":null},\
             \"modern\":{\"max_per_s\":null,\"broker_cpu_us_per_record\":null},\
             \"idle_p50_ms\":null,\"p99_ms_at_2000\":null,\"handler_rss_mib\":null}\n"
        );
        let row = |mode, load, broker_s| Row { mode, load, ..Row::example(broker_s) };
        results.rows = vec![
            row(Mode::Single, 500, 4.0),
            row(Mode::Batched, 10, 0.5),
            row(Mode::Batched, 500, 0.8),
            row(Mode::Batched, 2000, 1.0),
            row(Mode::Modern, 500, 0.4),
        ];
        results.held = [Some(500), Some(2000), Some(3000)];
        assert_eq!(
            results.json(),
            "{\"single\":{\"max_per_s\":500,\"broker_cpu_us_per_record\":250},\
             \"batched\":{\"max_per_s\":2000,\"broker_cpu_us_per_record\":50},\
             \"modern\":{\"max_per_s\":3000,\"broker_cpu_us_per_record\":25},\
             \"idle_p50_ms\":3.2,\"p99_ms_at_2000\":9.4,\"handler_rss_mib\":12}\n"
        );
        let parsed: serde_json::Value = serde_json::from_str(&results.json()).unwrap();
        assert_eq!(parsed["batched"]["max_per_s"], 2000);
    }
}
