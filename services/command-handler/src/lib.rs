//! The bank: decides each command once, stores the outcome and publishes it.
//!
//! The service has one worker per command topic, and a worker has three threads: one reads and
//! decodes, one decides and stores, one publishes. The modules are in the order in which a record
//! meets them.

mod config;
mod worker;

pub mod consume;

pub mod command_topic;

pub mod domain;
pub mod store;

mod monitor;
mod publish;

pub mod error;
mod failpoint;
mod metrics;

use crate::command_topic::{AccountCreations, CommandTopic, MoneyTransfers};
use crate::config::{Config, VARIABLES};
use crate::error::Error;
use crate::store::CompanyToken;
use crate::worker::Worker;
use avro::registry::Registry;
use messaging::KafkaConfig;
use messaging::producer::ProducerConfig;
use service::health::Health;
use service::log::Chain;
use service::shutdown::Shutdown;
use service::{BoxError, Service, Start, database};
use std::process::ExitCode;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

/// Name, help text and entry point of the service.
pub const SERVICE: Service = Service {
    name: "command-handler",
    about: "The bank: decides each command once, stores the outcome and publishes it",
    variables: &[KafkaConfig::VARIABLES, ProducerConfig::VARIABLES, VARIABLES, database::VARIABLES],
    flags: &[database::MIGRATE],
    run,
};

/// A report of a worker to [`run`].
enum Event {
    /// Index of the worker, and whether its topic is served.
    Ready(usize, bool),
    Stopped(Result<(), Error>),
}

fn run(start: &Start<'_>) -> Result<ExitCode, BoxError> {
    if start.flags.contains(&database::MIGRATE.0) {
        return database::run_migrations(start, &store::SCHEMA);
    }
    let config = Config::from_env(&start.env)?;
    let health = Health::serve(&start.env)?;
    prepare_database(&config, &start.shutdown)?;
    if let Some(retention) = config.retention {
        store::delete_old_outcomes(&config.database, retention, &start.shutdown);
    }
    let (sender, events) = channel();
    spawn::<AccountCreations>(0, &config, &start.shutdown, &sender);
    spawn::<MoneyTransfers>(1, &config, &start.shutdown, &sender);
    let mut ready = [false; 2];
    let mut running = ready.len();
    while running > 0 {
        match events.recv().expect("`sender` is still in scope") {
            Event::Ready(worker, served) => {
                ready[worker] = served;
                health.set_ready(ready == [true; 2]);
            }
            // The first error stops the service. A handler that serves only one topic would still
            // be reported as alive.
            Event::Stopped(result) => {
                result?;
                running -= 1;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Migrates the database and stores the configured token of the company account, before a worker
/// decides a command. Waits for the database.
fn prepare_database(config: &Config, shutdown: &Shutdown) -> Result<(), Error> {
    let prepare = || {
        store::migrate(&config.database, shutdown)?;
        store::set_company_token(&config.database, config.company_token, shutdown)
    };
    while !shutdown.requested() {
        match prepare() {
            Ok(CompanyToken::WellKnown) => {
                log::warn!(
                    "the company account has the token of the talk, 20 zeros: set COMPANY_TOKEN \
                     of command-handler and command-generator to 20 random digits"
                );
                return Ok(());
            }
            Ok(CompanyToken::Own) => return Ok(()),
            Err(err) if err.is_retryable() => {
                log::warn!(error:% = Chain(&err); "waiting for the database");
                shutdown.wait(Duration::from_millis(500));
            }
            Err(err) => return Err(err),
        }
    }
    Ok(())
}

fn spawn<T: CommandTopic>(
    worker: usize,
    config: &Config,
    shutdown: &Shutdown,
    events: &Sender<Event>,
) {
    let events = events.clone();
    let registry = Registry::new(&config.registry_url);
    let work = Worker { config: config.clone(), registry, shutdown: shutdown.clone() };
    let run = move || {
        // The channel is closed after `run` returned the error of the other worker. The process
        // ends then, so the result of `send` does not matter.
        let ready = |ready| drop(events.send(Event::Ready(worker, ready)));
        let result = work.run::<T>(&ready);
        let _ = events.send(Event::Stopped(result));
    };
    let name = <T::Command as avro::Record>::TOPIC.name;
    thread::Builder::new()
        .name(name.into())
        .spawn(run)
        .expect("a thread can be started: their number is small and fixed");
}
