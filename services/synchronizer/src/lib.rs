//! Brings the topics and schemas of the bank to the wanted state: compares, changes what may be
//! changed, reports the rest. Runs once and exits.

pub mod admin;
pub mod config;
pub mod schemas;
mod synchronize;
pub mod topics;

pub use config::Config;
pub use synchronize::{Error, Summary, synchronize};

use bank::topology::TOPICS;
use config::WAIT_S;
use messaging::{
    KAFKA_BROKERS, KAFKA_SASL_MECHANISM, KAFKA_SASL_PASSWORD, KAFKA_SASL_PASSWORD_FILE,
    KAFKA_SASL_USERNAME,
};
use service::env::SCHEMA_REGISTRY_URL;
use service::log::Chain;
use service::{BoxError, EXIT_TEMPORARY, Service, Start};
use std::io::{self, Write};
use std::process::ExitCode;

const DRY_RUN: &str = "--dry-run";
/// This service.
pub const SERVICE: Service = Service {
    name: "synchronizer",
    about: "Brings the topics and schemas of the bank to the wanted state. Exit codes: 0 all is as wanted, 1 something differs that \
            cannot or must not be changed (with --dry-run: anything differs), 2 invalid environment, 75 the servers were not available \
            within WAIT_S",
    variables: &[&[
        KAFKA_BROKERS,
        KAFKA_SASL_MECHANISM,
        KAFKA_SASL_USERNAME,
        KAFKA_SASL_PASSWORD,
        KAFKA_SASL_PASSWORD_FILE,
        SCHEMA_REGISTRY_URL,
        WAIT_S,
    ]],
    flags: &[(DRY_RUN, "prints what it would do, and changes nothing")],
    run,
};

fn run(start: &Start<'_>) -> Result<ExitCode, BoxError> {
    let config = Config::from_env(&start.env)?;
    let dry_run = start.flags.contains(&DRY_RUN);
    let mut out = io::stdout();
    match synchronize(&config, &TOPICS, dry_run, &start.shutdown, &mut out) {
        Ok(summary) => {
            writeln!(out, "{summary}")?;
            Ok(if summary.differs() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
        Err(err) if err.is_retryable() => {
            log::error!(error:% = Chain(&err); "gave up waiting");
            Ok(ExitCode::from(EXIT_TEMPORARY))
        }
        Err(err) => Err(err.into()),
    }
}
