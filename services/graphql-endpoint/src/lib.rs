//! GraphQL endpoint of the bank: queries, mutations and live subscriptions.
//!
//! At startup: configuration, database migrations, producer, threads, HTTP listener. One thread
//! stores the records of balance_changed and publishes them to subscribers, another one stores the
//! opened accounts. One thread receives what other endpoints store. One thread for each outcome
//! topic completes pending commands.

mod config;

mod consume;
mod hub;
mod store;
mod transaction;

mod access;
mod accounts;
mod authorizations;
mod catch_up;
mod command_client;
mod date_time;
mod euro;
mod long;
mod paging;
mod password;
mod refusal;
mod registrations;
mod token;
mod transfers;

mod app;
mod budget;
mod capacity;
mod document_rules;
mod operation;
mod operation_response;
mod pool;
mod running;
mod schema;
mod turns;

mod events;
mod pages;
mod request;
mod response;
mod web;
mod websocket;

#[cfg(feature = "fuzzing")]
pub mod fuzzing;

mod error;
mod error_code;
mod metrics;

use crate::app::App;
use crate::authorizations::Authorizations;
use crate::command_client::{CommandClient, OutcomeReader, OutcomeRecord, PendingCommands};
use crate::config::{Config, VARIABLES};
use crate::consume::{Streams, Worker};
use crate::error::Error;
use crate::hub::{Ending, Hub};
use crate::operation::{Executor, QUERY_THREADS};
use crate::password::Hasher;
use crate::registrations::Registrations;
use crate::store::{Database, Projection, WriterId};
use crate::web::Endpoint;
use avro::registry::Registry;
use bank::records::{
    AccountCreationConfirmed, AccountCreationFailed, BalanceChanged, MoneyTransferConfirmed,
    MoneyTransferFailed,
};
use messaging::KafkaConfig;
use messaging::producer::{Producer, ProducerConfig};
use service::health::Health;
use service::http::{self, Limits, Listener};
use service::shutdown::Shutdown;
use service::{BoxError, Service, Start, database};
use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};
use uuid::Uuid;

pub use crate::schema::sdl;

pub const SERVICE: Service = Service {
    name: "graphql-endpoint",
    about: "GraphQL endpoint of the bank: queries, mutations and live subscriptions",
    variables: &[KafkaConfig::VARIABLES, ProducerConfig::VARIABLES, VARIABLES, database::VARIABLES],
    flags: &[(SDL_FLAG, "prints the schema and exits"), database::MIGRATE],
    run,
};

const SDL_FLAG: &str = "--schema";

/// Time at shutdown to send close frames to subscribers.
const CLOSE_TIME: Duration = Duration::from_millis(300);

fn run(start: &Start<'_>) -> Result<ExitCode, BoxError> {
    if start.flags.contains(&SDL_FLAG) {
        std::io::Write::write_all(&mut std::io::stdout(), sdl().as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    if start.flags.contains(&database::MIGRATE.0) {
        return database::run_migrations(start, &store::SCHEMA);
    }
    let config = Config::from_env(&start.env)?;
    let subscriptions_max = capacity::subscriptions_max()?;
    let health = Health::serve(&start.env)?;
    metrics::register();
    let shutdown = &start.shutdown;
    consume::retry(shutdown, "waiting for the database", || {
        store::migrate(&config.database, shutdown)
    })?;
    if let Some(retention) = config.retention {
        store::delete_old_rows(&config.database, retention, shutdown);
    }
    let registry = Registry::new(&config.registry_url);
    let producer = Arc::new(Producer::start(config.producer.clone(), shutdown));
    let Some(commands) = CommandClient::open(producer.clone(), &registry, shutdown)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let hub = Hub::start(subscriptions_max)?;
    let authorizations = Arc::<Authorizations>::default();

    let mut threads = Threads::new();
    read_outcomes(&mut threads, &config, &registry, commands.pending(), shutdown)?;
    let streams = Streams { hub: hub.clone(), authorizations: authorizations.clone() };
    store_transactions(&mut threads, &config, registry, producer, streams, shutdown)?;
    let listener = listen(config, commands, hub.clone(), authorizations, shutdown)?;

    let (stop, to_end) = (shutdown.clone(), hub.clone());
    thread::Builder::new().name("stop".into()).spawn(move || {
        stop.wait_for_ever();
        to_end.end_all(Ending::Stopping);
    })?;
    threads.wait(&health)?;
    let deadline = Instant::now() + CLOSE_TIME;
    while !(hub.is_empty() && listener.unsent_bytes() == 0) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
    Ok(ExitCode::SUCCESS)
}

/// Starts three threads. Two store the accounts and the transactions in this endpoint's partitions.
/// The other one publishes the transactions that other endpoints store.
fn store_transactions(
    threads: &mut Threads,
    config: &Config,
    registry: Registry,
    producer: Arc<Producer>,
    streams: Streams,
    shutdown: &Shutdown,
) -> Result<(), Error> {
    let writer = Arc::<WriterId>::default();
    let Some(listener) = consume::listen_to_other_endpoints(config, &writer, shutdown)? else {
        return Ok(());
    };
    let worker = |is_member| Worker {
        config: config.clone(),
        worker: Uuid::new_v4(),
        is_member,
        writer: writer.clone(),
        registry: registry.clone(),
        producer: producer.clone(),
        hub: streams.hub.clone(),
        shutdown: shutdown.clone(),
    };
    start_worker::<BalanceChanged>(threads, worker(config.is_member));
    // One partition needs no consumer group.
    start_worker::<AccountCreationConfirmed>(threads, worker(false));
    let (config, shutdown) = (config.clone(), shutdown.clone());
    threads.spawn("listen", move || {
        consume::follow_other_endpoints(listener, &config, &writer, &streams, &shutdown)
    });
    Ok(())
}

fn start_worker<R: Projection>(threads: &mut Threads, worker: Worker) {
    let (events, topic) = (threads.events.clone(), R::TOPIC.name);
    threads.unready.insert(topic);
    let ready = move |is_ready| drop(events.send(Event::Ready { topic, is_ready }));
    threads.spawn("store", move || worker.run::<R>(&ready));
}

fn listen(
    config: Config,
    commands: CommandClient,
    hub: Arc<Hub>,
    authorizations: Arc<Authorizations>,
    shutdown: &Shutdown,
) -> Result<Listener, BoxError> {
    let (addr, introspection) = (config.addr, config.introspection);
    let limits = Limits { connections: config.connections_max, proxies: config.proxies.clone() };
    let app = Arc::new(App {
        database: Arc::new(Database::new(&config.database, QUERY_THREADS, shutdown)),
        hub,
        authorizations,
        commands,
        hasher: Hasher::start(),
        registrations: Registrations::new(config.registrations_per_hour),
        config,
    });
    let executor = Executor::start(schema::schema(introspection), app)?;
    let listener = http::serve(addr, limits, Endpoint(executor))?;
    log::info!(port = addr.port(); "listening");
    Ok(listener)
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

/// A report from a thread to [`Threads::wait`].
enum Event {
    Ready { topic: &'static str, is_ready: bool },
    Stopped(Result<(), Error>),
}

/// The threads that the service cannot run without.
struct Threads {
    events: Sender<Event>,
    received: Receiver<Event>,
    running: usize,
    /// The stored topics that are not ready.
    unready: BTreeSet<&'static str>,
}

impl Threads {
    fn new() -> Self {
        let (events, received) = channel();
        Self { events, received, running: 0, unready: BTreeSet::new() }
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce() -> Result<(), Error> + Send + 'static) {
        let events = self.events.clone();
        self.running += 1;
        thread::Builder::new()
            .name(name.into())
            // The channel is closed if `run` has returned the error of another thread. The process
            // then exits.
            .spawn(move || drop(events.send(Event::Stopped(work()))))
            .expect("the service starts fewer than ten threads here");
    }

    /// Waits until all threads have stopped. The first error stops the service, since without one
    /// of its threads it would still look healthy.
    fn wait(mut self, health: &Health) -> Result<(), Error> {
        while self.running > 0 {
            match self.received.recv().expect("`self.events` is a sender") {
                Event::Ready { topic, is_ready } => {
                    if is_ready {
                        self.unready.remove(topic);
                    } else {
                        self.unready.insert(topic);
                    }
                    health.set_ready(self.unready.is_empty());
                }
                Event::Stopped(result) => {
                    result?;
                    self.running -= 1;
                }
            }
        }
        Ok(())
    }
}
