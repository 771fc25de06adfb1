//! `bench verify`: checks that a command-handler keeps the contract in docs/handler-contract.md.
//! The checks use a fresh bank, and only Kafka.

pub mod findings;
pub mod scenarios;
mod verification;

use self::findings::Findings;
use self::scenarios::Kills;
use self::verification::Verification;
use crate::error::Error;
use crate::handler_process::{FreshBank, SERVER_URL};
use crate::handlers::{Handler, HandlerOptions, Handlers, OURS};
use crate::options::{self, number};
use crate::output;
use crate::start::Start;
use crate::topic_reader::Cluster;
use messaging::KafkaConfig;
use service::env::SCHEMA_REGISTRY_URL;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// Check that a command-handler keeps the contract
///
/// Starts the handler with an empty database and with offsets after all earlier commands. Sends
/// commands and reads the outcomes. The checks cover every reason on both sides of its boundary,
/// every field of every record, replays, undecodable records, kill -9 under load, and SIGTERM. They
/// use only topics, exit codes and /readyz. No other command-handler may run at the same time. The
/// table shows for each point of docs/handler-contract.md whether the handler keeps it. The exit
/// code is 1 if it does not keep all of them.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = options::environment(&[
    &[SERVER_URL],
    KafkaConfig::VARIABLES,
    &[SCHEMA_REGISTRY_URL],
]))]
pub struct VerifyOptions {
    /// Handler to verify: scratchbank, scratchbank-single, scratchbank-built-in, a peer, several of
    /// these, all, or a command
    ///
    /// The name of a peer is that of its folder; for a program run-MODE in it, FOLDER-MODE. Several
    /// names are separated by commas. Any other value is the command that starts the handler.
    #[arg(long, default_value = OURS)]
    handler: String,
    /// Docker image of a handler to verify instead; it runs as a container in the network of the
    /// host [default: none]
    #[arg(long, value_name = "NAME")]
    image: Option<String>,
    /// Number of times that it is killed under load, 1 to 100
    #[arg(long, default_value = "3", value_parser = number(1..=100usize))]
    kills: usize,
    /// Transfers sent before each kill, 10 to 100000
    #[arg(long, default_value = "2000", value_parser = number(10..=100_000usize))]
    kill_transfers: usize,
    /// Folder for the logs of handlers
    #[arg(long, value_name = "FOLDER", default_value = "target/bench")]
    out: PathBuf,
    #[command(flatten)]
    handlers: HandlerOptions,
}

pub fn run(start: &Start<'_>, options: &VerifyOptions) -> Result<ExitCode, Error> {
    let handlers = Handlers::new(&options.handlers)?;
    let cluster = Cluster::from_env(&start.env)?;
    let chosen = match &options.image {
        None => choose(&handlers, &options.handler)?,
        Some(image) => vec![Handler::of_image(image)],
    };
    let kills = Kills { count: options.kills, transfers: options.kill_transfers };
    FreshBank::synchronize()?;
    let mut broken = 0;
    for handler in &chosen {
        let began = Instant::now();
        let findings = verify(start, &cluster, handler, kills, &options.out)?;
        output::print(&findings.text(&handler.name));
        output::print(&format!("Verified in {:.0} s\n\n", began.elapsed().as_secs_f64()));
        broken += usize::from(!findings.broken().is_empty());
    }
    if chosen.len() > 1 {
        output::print(&format!(
            "{} handlers keep the contract, {broken} do not\n",
            chosen.len() - broken
        ));
    }
    Ok(if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The handlers with the names in `word`.
pub fn choose(handlers: &Handlers, word: &str) -> Result<Vec<Handler>, Error> {
    let chosen = match word {
        "all" => handlers.all()?,
        // The arguments of a command may contain commas.
        command if command.contains(char::is_whitespace) => vec![handlers.named(command)?],
        names => names.split(',').map(|name| handlers.named(name)).collect::<Result<_, _>>()?,
    };
    match chosen.iter().find(|handler| !handler.is_built()) {
        Some(missing) => Err(Error::Bank(format!(
            "{} is not built: run `make peers` or its build.sh ({} is missing)",
            missing.name,
            missing.artefact.as_deref().unwrap_or(Path::new("")).display()
        ))),
        None => Ok(chosen),
    }
}

/// Runs all checks of `handler` in a fresh bank.
pub fn verify(
    start: &Start<'_>,
    cluster: &Cluster,
    handler: &Handler,
    kills: Kills,
    out: &Path,
) -> Result<Findings, Error> {
    output::progress(&format!("{}: creating a fresh bank", handler.name));
    let bank = FreshBank::create(&start.env, cluster, &out.join("handlers"), &start.shutdown)?;
    let verification = Verification::new(&bank, cluster, handler, &start.shutdown)?;
    scenarios::run(verification, kills)
}
