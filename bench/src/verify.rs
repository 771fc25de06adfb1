//! `bench verify`: does a command-handler do what the bank's contract says (docs/handler-contract.md)? Asked and answered through Kafka
//! alone, in a fresh bank.

pub mod course;
pub mod findings;
pub mod witness;

use self::course::{Course, Kills};
use self::findings::Findings;
use crate::Start;
use crate::args::Command;
use crate::error::Error;
use crate::handlers::{Handler, Handlers, OURS};
use crate::life::{Bank, SERVER_URL};
use crate::report;
use crate::tap::Cluster;
use service::env::Variable;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

const HANDLER: Variable = Variable::new(
    "BENCH_HANDLER",
    OURS,
    "what to verify: scratchbank, scratchbank-single, scratchbank-modern, the folder's name of a peer (and a dash and what follows \
     run- there), several of these separated by commas, all, or else the command that starts it",
);
const IMAGE: Variable = Variable::new(
    "BENCH_IMAGE",
    "",
    "Docker image of a handler, to be verified instead; it is run as a container in this machine's network",
);
const KILLS: Variable =
    Variable::new("KILLS", "3", "how often it is killed in the midst of work, 1 to 100");
const KILL_TRANSFERS: Variable =
    Variable::new("KILL_TRANSFERS", "2000", "transfers sent before each kill, 10 to 100000");
const OUT: Variable = Variable::new("OUT", "target/bench", "folder for the logs of handlers");

/// The sub-command.
pub const COMMAND: Command = Command {
    name: "verify",
    about: "Checks that a command-handler, ours or another, keeps the bank's contract",
    details: DETAILS,
    variables: &[
        &[HANDLER, IMAGE, KILLS, KILL_TRANSFERS, OUT, SERVER_URL],
        Handlers::VARIABLES,
        Cluster::VARIABLES[0],
        Cluster::VARIABLES[1],
    ],
    run,
};

const DETAILS: &str = "\
Starts it in an empty database and with all earlier commands skipped, sends commands and reads what it tells: every reason on both
sides of its boundary, every field of every record, replays, records that can't be read, kill -9 in the midst of work, SIGTERM. It
looks at nothing but topics, exit codes and /readyz. No other handler may run meanwhile. The table says for each point of
docs/handler-contract.md whether it holds; exit code 1 if one does not.
";

fn run(start: &Start<'_>) -> Result<ExitCode, Error> {
    let handlers = Handlers::from_env(&start.env)?;
    let cluster = Cluster::from_env(&start.env)?;
    let chosen = match start.env.text(&IMAGE)? {
        none if none.is_empty() => choose(&handlers, &start.env.text(&HANDLER)?)?,
        image => vec![Handler::of_image(&image)],
    };
    let out = start.env.text(&OUT)?;
    Bank::synchronize()?;
    let mut broken = 0;
    for handler in &chosen {
        let began = Instant::now();
        let findings = verify(start, &cluster, handler, out.as_ref())?;
        report::tell(&findings.text(&handler.name));
        report::tell(&format!("{:.0} s\n\n", began.elapsed().as_secs_f64()));
        broken += usize::from(!findings.broken().is_empty());
    }
    if chosen.len() > 1 {
        report::tell(&format!("{} hold the contract, {broken} don't\n", chosen.len() - broken));
    }
    Ok(if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The handlers that `word` says.
///
/// # Errors
/// One of them was not built, or a folder can't be read.
pub fn choose(handlers: &Handlers, word: &str) -> Result<Vec<Handler>, Error> {
    let chosen = match word {
        "all" => handlers.all()?,
        // A command may well have commas among its arguments.
        command if command.contains(char::is_whitespace) => vec![handlers.named(command)?],
        names => names.split(',').map(|name| handlers.named(name)).collect::<Result<_, _>>()?,
    };
    match chosen.iter().find(|handler| !handler.is_built()) {
        Some(missing) => Err(Error::Bank(format!(
            "{} was not built: make peers, or its build.sh ({})",
            missing.name,
            missing.artefact.as_deref().unwrap_or(Path::new("")).display()
        ))),
        None => Ok(chosen),
    }
}

/// Puts `handler` to the test in a bank of its own.
///
/// # Errors
/// The servers don't answer, or the stop was asked for. What the handler does wrong is among the findings.
pub fn verify(
    start: &Start<'_>,
    cluster: &Cluster,
    handler: &Handler,
    out: &Path,
) -> Result<Findings, Error> {
    let kills = Kills {
        count: start.env.number(&KILLS, 1..=100)?,
        transfers: start.env.number(&KILL_TRANSFERS, 10..=100_000)?,
    };
    report::progress(&format!("{}: a fresh bank", handler.name));
    let bank = Bank::found(&start.env, cluster, &out.join("handlers"), &start.shutdown)?;
    Course::run(&bank, cluster, handler, kills, &start.shutdown)
}
