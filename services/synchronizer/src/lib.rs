//! Brings the topics and schemas of the bank to the target state: compares them, makes the changes
//! that are safe, and reports the other differences. Runs once and exits.

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

/// Name, help text and entry point of the service.
pub const SERVICE: Service = Service {
    name: "synchronizer",
    about: "Creates and checks the topics and schemas of the bank. Exit code 0: all are in the \
            target state. 1: a difference cannot be changed safely; with --dry-run, any \
            difference. 2: invalid environment. 75: a server was unavailable for WAIT_S",
    variables: &[&[
        KAFKA_BROKERS,
        KAFKA_SASL_MECHANISM,
        KAFKA_SASL_USERNAME,
        KAFKA_SASL_PASSWORD,
        KAFKA_SASL_PASSWORD_FILE,
        SCHEMA_REGISTRY_URL,
        WAIT_S,
    ]],
    flags: &[(DRY_RUN, "prints the planned changes and makes none")],
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
            log::error!(error:% = Chain(&err); "deadline WAIT_S reached, exiting");
            Ok(ExitCode::from(EXIT_TEMPORARY))
        }
        Err(err) => Err(err.into()),
    }
}
