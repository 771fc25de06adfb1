//! The bank for browsers: queries, mutations and live subscriptions over GraphQL.
//!
//! Config -> database -> Kafka -> threads that store and publish transactions and read outcomes ->
//! the HTTP listener.

mod config;

mod consume;
mod hub;
mod store;
mod transaction;

mod access;
mod accounts;
mod command_client;
mod euro;
mod password;
mod token;
mod transfers;

mod app;
mod operation;
mod operation_thread;
mod running;
mod schema;

mod events;
mod pages;
mod request;
mod response;
mod web;
mod websocket;

mod error;
mod metrics;

use crate::app::App;
use crate::command_client::{CommandClient, OutcomeReader, OutcomeRecord, PendingCommands};
use crate::config::{Config, VARIABLES};
use crate::consume::Worker;
use crate::error::Error;
use crate::hub::{Ending, Hub};
use crate::operation::Executor;
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
use service::http::{self, Capacity};
use service::shutdown::Shutdown;
use service::{BoxError, Service, Start};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};
use uuid::Uuid;

pub use crate::schema::sdl;

/// This service.
pub const SERVICE: Service = Service {
    name: "graphql-endpoint",
    about: "The bank for browsers: queries, mutations and live subscriptions over GraphQL",
    variables: &[KafkaConfig::VARIABLES, ProducerConfig::VARIABLES, VARIABLES],
    flags: &[(SDL_FLAG, "prints the schema and exits")],
    run,
};

const SDL_FLAG: &str = "--schema";

/// Threads that run queries, and connections to the database.
const WORKERS: usize = 4;
/// Time to notify subscribers of a shutdown.
const GOODBYE: Duration = Duration::from_millis(300);

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
    let hub = Arc::new(Hub::default());

    let mut threads = Threads::new();
    read_outcomes(&mut threads, &config, &registry, commands.pending(), shutdown)?;
    store_transactions(&mut threads, &config, registry, producer, &hub, shutdown);
    listen(config, commands, hub.clone(), shutdown)?;

    let (stop, to_end) = (shutdown.clone(), hub.clone());
    thread::Builder::new().name("stop".into()).spawn(move || {
        stop.wait_for_ever();
        to_end.end_all(Ending::Stopping);
    })?;
    threads.wait(&health)?;
    let deadline = Instant::now() + GOODBYE;
    while !hub.is_empty() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
    Ok(ExitCode::SUCCESS)
}

/// Starts the threads that store and publish transactions: those of this endpoint's partitions, and
/// those of other endpoints.
fn store_transactions(
    threads: &mut Threads,
    config: &Config,
    registry: Registry,
    producer: Arc<Producer>,
    hub: &Arc<Hub>,
    shutdown: &Shutdown,
) {
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
    let events = threads.events.clone();
    threads.spawn("store", move || worker.run(&|served| drop(events.send(Event::Ready(served)))));
    let (config, hub, shutdown) = (config.clone(), hub.clone(), shutdown.clone());
    threads.spawn("listen", move || {
        consume::follow_other_endpoints(&config, endpoint, &hub, &others, &shutdown)
    });
}

/// Starts the HTTP listener.
fn listen(
    config: Config,
    commands: CommandClient,
    hub: Arc<Hub>,
    shutdown: &Shutdown,
) -> Result<(), BoxError> {
    let port = config.port;
    let capacity = Capacity { workers: WORKERS, connections: config.visitors };
    let executor = Executor {
        schema: schema::schema(config.introspection),
        app: Arc::new(App {
            store: Store::new(&config.database, WORKERS, shutdown),
            hub,
            commands,
            hasher: Hasher::default(),
            config,
        }),
    };
    http::serve(&http::everywhere(port), capacity, Endpoint(Arc::new(executor)))?;
    log::info!(port; "listening");
    Ok(())
}

/// Starts a thread for each outcome topic.
fn read_outcomes(
    threads: &mut Threads,
    config: &Config,
    registry: &Registry,
    pending: &Arc<PendingCommands>,
    shutdown: &Shutdown,
) -> Result<(), Error> {
    let kafka = &config.producer.kafka;
    read::<AccountCreationConfirmed>(threads, kafka, registry, pending, shutdown)?;
    read::<AccountCreationFailed>(threads, kafka, registry, pending, shutdown)?;
    read::<MoneyTransferConfirmed>(threads, kafka, registry, pending, shutdown)?;
    read::<MoneyTransferFailed>(threads, kafka, registry, pending, shutdown)
}

fn read<R: OutcomeRecord + Send + 'static>(
    threads: &mut Threads,
    kafka: &KafkaConfig,
    registry: &Registry,
    pending: &Arc<PendingCommands>,
    shutdown: &Shutdown,
) -> Result<(), Error> {
    if let Some(reader) = OutcomeReader::<R>::open(kafka, registry, shutdown)? {
        let (pending, shutdown) = (pending.clone(), shutdown.clone());
        threads.spawn(R::TOPIC.name, move || reader.run(&pending, &shutdown));
    }
    Ok(())
}

/// What a thread reports.
enum Event {
    Ready(bool),
    Stopped(Result<(), Error>),
}

/// The threads whose end is the end of the service.
struct Threads {
    events: Sender<Event>,
    received: Receiver<Event>,
    running: usize,
}

impl Threads {
    fn new() -> Self {
        let (events, received) = channel();
        Self { events, received, running: 0 }
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce() -> Result<(), Error> + Send + 'static) {
        let events = self.events.clone();
        self.running += 1;
        thread::Builder::new()
            .name(name.into())
            // `run` may have returned with another thread's error: then the channel is closed, and
            // the process ends.
            .spawn(move || drop(events.send(Event::Stopped(work()))))
            .expect("a thread can be started: the service has a handful");
    }

    /// Waits until all have stopped. The first error stops the service: a part of it would look
    /// healthy.
    fn wait(mut self, health: &Health) -> Result<(), Error> {
        while self.running > 0 {
            match self.received.recv().expect("`self.events` is a sender") {
                Event::Ready(served) => health.set_ready(served),
                Event::Stopped(result) => {
                    result?;
                    self.running -= 1;
                }
            }
        }
        Ok(())
    }
}
