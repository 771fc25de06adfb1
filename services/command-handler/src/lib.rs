//! The bank: decides each command once, stores and announces the outcome.
//!
//! Config -> database -> one worker per topic, each with a thread that takes in, one that decides, one that publishes.

mod config;
mod consume;
mod desk;
mod domain;
mod error;
mod failpoint;
mod intake;
mod metrics;
mod publish;
mod store;

use crate::config::{Config, VARIABLES};
use crate::consume::Worker;
use crate::desk::{AccountDesk, Desk, TransferDesk};
use crate::error::Error;
use avro::registry::Registry;
use messaging::KafkaConfig;
use messaging::producer::{Outgoing, ProducerConfig};
use service::health::Health;
use service::log::Chain;
use service::shutdown::Shutdown;
use service::{BoxError, Service, Start};
use std::process::ExitCode;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

/// This service.
pub const SERVICE: Service = Service {
    name: "command-handler",
    about: "The bank: decides each command once, stores and announces the outcome",
    variables: &[KafkaConfig::VARIABLES, ProducerConfig::VARIABLES, VARIABLES],
    flags: &[],
    run,
};

/// What a worker tells `run`.
enum Event {
    Ready(usize, bool),
    Stopped(Result<(), Error>),
}

fn run(start: &Start<'_>) -> Result<ExitCode, BoxError> {
    let config = Config::from_env(&start.env)?;
    let health = Health::serve(&start.env)?;
    migrate(&config, &start.shutdown)?;
    let (events, told) = channel();
    spawn::<AccountDesk>(0, &config, &start.shutdown, &events);
    spawn::<TransferDesk>(1, &config, &start.shutdown, &events);
    let mut ready = [false; 2];
    let mut running = ready.len();
    while running > 0 {
        match told.recv().expect("`events` is still in scope") {
            Event::Ready(worker, served) => {
                ready[worker] = served;
                health.set_ready(ready == [true; 2]);
            }
            // The first error stops the service: no bank beats half a bank.
            Event::Stopped(result) => {
                result?;
                running -= 1;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn migrate(config: &Config, shutdown: &Shutdown) -> Result<(), Error> {
    while !shutdown.requested() {
        match store::migrate(&config.database, shutdown) {
            Err(err) if err.is_retryable() => {
                log::warn!(error:% = Chain(&err); "waiting for the database");
                shutdown.wait(Duration::from_millis(500));
            }
            result => return result,
        }
    }
    Ok(())
}

fn spawn<D: Desk>(worker: usize, config: &Config, shutdown: &Shutdown, events: &Sender<Event>) {
    let events = events.clone();
    let registry = Registry::new(&config.registry_url);
    let work = Worker { config: config.clone(), registry, shutdown: shutdown.clone() };
    let run = move || {
        // `run` may have returned with the other worker's error: then nobody listens, and the process ends.
        let ready = |ready| drop(events.send(Event::Ready(worker, ready)));
        let result = work.run::<D>(&ready);
        let _ = events.send(Event::Stopped(result));
    };
    let name = <D::Command as avro::Record>::TOPIC.name;
    thread::Builder::new()
        .name(name.into())
        .spawn(run)
        .expect("a thread can be started: the service has a handful");
}
