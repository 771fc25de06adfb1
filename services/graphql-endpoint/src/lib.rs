//! The bank for browsers: queries, mutations and live subscriptions over GraphQL.
//!
//! Config -> database -> Kafka -> threads that store and publish transactions and read answers -> the door for visitors.

mod access;
mod accounts;
mod app;
mod command_client;
mod config;
mod consume;
mod error;
mod euro;
mod hub;
mod ledger;
mod metrics;
mod pages;
mod password;
mod run;
mod schema;
mod store;
mod transfers;
mod web;
mod websocket;

use crate::app::App;
use crate::command_client::{Answers, CommandClient, Reader, Waiting};
use crate::config::{Config, VARIABLES};
use crate::consume::Worker;
use crate::error::Error;
use crate::hub::{Ending, Hub};
use crate::password::Hasher;
use crate::store::Store;
use crate::web::Endpoint;
use avro::registry::Registry;
use bank::records::{
    AccountCreationConfirmed, AccountCreationFailed, MoneyTransferConfirmed, MoneyTransferFailed,
};
use messaging::KafkaConfig;
use messaging::producer::{Producer, ProducerConfig};
use service::health::Health;
use service::http::Capacity;
use service::log::Chain;
use service::shutdown::Shutdown;
use service::{BoxError, Service, Start};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};
use uuid::Uuid;

pub use crate::schema::sdl;

/// This service.
pub const SERVICE: Service = Service {
    name: "graphql-endpoint",
    about: "The bank for browsers: queries, mutations and live subscriptions over GraphQL",
    variables: &[KafkaConfig::VARIABLES, ProducerConfig::VARIABLES, VARIABLES],
    flags: &[(SDL_FLAG, "prints the schema and ends")],
    run,
};

const SDL_FLAG: &str = "--schema";

/// Threads that answer queries, and connections to the database.
const WORKERS: usize = 4;
/// What is left to tell subscribers that the service stops.
const GOODBYE: Duration = Duration::from_millis(300);

/// What a thread tells `run`.
enum Event {
    Ready(bool),
    Stopped(Result<(), Error>),
}

fn run(start: &Start<'_>) -> Result<ExitCode, BoxError> {
    if start.flags.contains(&SDL_FLAG) {
        std::io::Write::write_all(&mut std::io::stdout(), sdl().as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let config = Config::from_env(&start.env)?;
    let health = Health::serve(&start.env)?;
    let shutdown = &start.shutdown;
    consume::retry(shutdown, "waiting for the database", || {
        store::migrate(&config.database, shutdown)
    })?;
    let registry = Registry::new(&config.registry_url);
    let producer = Arc::new(Producer::start(config.producer.clone(), shutdown));
    let Some(commands) = CommandClient::open(producer.clone(), &registry, shutdown)? else {
        return Ok(ExitCode::SUCCESS);
    };

    let (events, told) = channel();
    let mut running = 0;
    let waiting = commands.waiting();
    let kafka = &config.producer.kafka;
    read::<AccountCreationConfirmed>(kafka, &registry, waiting, shutdown, &events, &mut running)?;
    read::<AccountCreationFailed>(kafka, &registry, waiting, shutdown, &events, &mut running)?;
    read::<MoneyTransferConfirmed>(kafka, &registry, waiting, shutdown, &events, &mut running)?;
    read::<MoneyTransferFailed>(kafka, &registry, waiting, shutdown, &events, &mut running)?;

    let hub = Arc::new(Hub::default());
    let endpoint = Uuid::new_v4();
    let others = Arc::new(AtomicBool::new(false));
    let worker = Worker {
        config: config.clone(),
        endpoint,
        registry,
        producer,
        hub: hub.clone(),
        others: others.clone(),
        shutdown: shutdown.clone(),
    };
    let ready = events.clone();
    spawn("store", &events, &mut running, move || {
        worker.run(&|served| drop(ready.send(Event::Ready(served))))
    });
    let (to, listening, stop) = (hub.clone(), config.clone(), shutdown.clone());
    spawn("listen", &events, &mut running, move || {
        consume::listen(&listening, endpoint, &to, &others, &stop)
    });

    let (port, visitors) = (config.port, config.visitors);
    let app = Arc::new(App {
        schema: schema::schema(config.introspection),
        store: Store::new(&config.database, WORKERS, shutdown),
        hub: hub.clone(),
        commands,
        hasher: Hasher::default(),
        config,
    });
    let capacity = Capacity { workers: WORKERS, visitors };
    service::http::serve(&service::http::everywhere(port), capacity, Endpoint(app))?;
    log::info!(port; "open");

    let stop = shutdown.clone();
    let goodbye = hub.clone();
    thread::Builder::new().name("stop".into()).spawn(move || {
        stop.wait_for_ever();
        goodbye.end_all(Ending::Stopping);
    })?;
    while running > 0 {
        match told.recv().expect("`events` is still in scope") {
            Event::Ready(served) => health.set_ready(served),
            // The first error stops the service: half of it would look alive.
            Event::Stopped(result) => {
                result?;
                running -= 1;
            }
        }
    }
    let deadline = Instant::now() + GOODBYE;
    while !hub.is_empty() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads the answers of one topic on a thread of its own.
fn read<R: Answers + Send + 'static>(
    kafka: &KafkaConfig,
    registry: &Registry,
    waiting: &Arc<Waiting>,
    shutdown: &Shutdown,
    events: &Sender<Event>,
    running: &mut usize,
) -> Result<(), Error> {
    if let Some(reader) = Reader::<R>::open(kafka, registry, shutdown)? {
        let (waiting, shutdown) = (waiting.clone(), shutdown.clone());
        spawn(R::TOPIC.name, events, running, move || reader.run(&waiting, &shutdown));
    }
    Ok(())
}

/// A thread whose end `run` hears of.
fn spawn(
    name: &str,
    events: &Sender<Event>,
    running: &mut usize,
    work: impl FnOnce() -> Result<(), Error> + Send + 'static,
) {
    let events = events.clone();
    *running += 1;
    thread::Builder::new()
        .name(name.into())
        // `run` may have returned with another thread's error: then nobody listens, and the process ends.
        .spawn(move || drop(events.send(Event::Stopped(work()))))
        .expect("a thread can be started: the service has a handful");
}

/// Logs what a visitor is only told in general.
fn log_failure(err: &Error) {
    log::warn!(error:% = Chain(err); "a visitor could not be answered");
}
