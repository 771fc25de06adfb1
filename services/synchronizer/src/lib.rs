//! Makes the topics and schemas of the bank what they should be: looks, compares, changes what may be changed, tells the rest.
//! Runs once and exits.

pub mod admin;
pub mod schemas;
pub mod topics;

use admin::Admin;
use avro::registry::{self, Registry};
use bank::topology::{TOPICS, Topic};
use messaging::{
    KAFKA_BROKERS, KAFKA_SASL_MECHANISM, KAFKA_SASL_PASSWORD, KAFKA_SASL_PASSWORD_FILE,
    KAFKA_SASL_USERNAME, KafkaConfig,
};
use service::env::{self, Env, SCHEMA_REGISTRY_URL, Variable};
use service::log::Chain;
use service::shutdown::Shutdown;
use service::{BoxError, EXIT_TEMPORARY, Service, Start};
use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// `WAIT_S`: how long to wait for the servers.
pub const WAIT_S: Variable = Variable::new(
    "WAIT_S",
    "60",
    "how long to wait until Kafka and the registry are there and all partitions have leaders, 0 to 3600 s",
);

const DRY_RUN: &str = "--dry-run";
/// Between two looks at what is on its way.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Between two attempts to reach a server.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// This service.
pub const SERVICE: Service = Service {
    name: "synchronizer",
    about: "Makes the topics and schemas of the bank what they should be. Exit codes: 0 all is as wanted, 1 something differs that \
            can't or may not be changed (with --dry-run: anything differs), 2 wrong environment, 75 the servers were not there within WAIT_S",
    variables: &[&[
        KAFKA_BROKERS,
        KAFKA_SASL_MECHANISM,
        KAFKA_SASL_USERNAME,
        KAFKA_SASL_PASSWORD,
        KAFKA_SASL_PASSWORD_FILE,
        SCHEMA_REGISTRY_URL,
        WAIT_S,
    ]],
    flags: &[(DRY_RUN, "says what it would do, and changes nothing")],
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
            log::error!(reason = Chain(&err).to_string().as_str(); "gave up waiting");
            Ok(ExitCode::from(EXIT_TEMPORARY))
        }
        Err(err) => Err(err.into()),
    }
}

/// Where the servers are.
#[derive(Debug, Clone)]
pub struct Config {
    /// The cluster.
    pub kafka: KafkaConfig,
    /// `SCHEMA_REGISTRY_URL`.
    pub registry_url: String,
    /// `WAIT_S`.
    pub wait: Duration,
}

impl Config {
    /// Reads and checks the environment.
    ///
    /// # Errors
    /// A variable is missing or does not fit.
    pub fn from_env(env: &Env<'_>) -> Result<Self, env::Error> {
        Ok(Self {
            kafka: KafkaConfig::from_env(env)?,
            registry_url: env.text(&SCHEMA_REGISTRY_URL)?,
            wait: Duration::from_secs(env.number(&WAIT_S, 0..=3600)?),
        })
    }
}

/// Why the work could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Kafka refused.
    #[error("Kafka")]
    Kafka(#[source] admin::Error),
    /// The registry refused.
    #[error("schema registry")]
    Registry(#[source] registry::Error),
    /// The servers are there, but not all that is needed of them.
    #[error("{0}")]
    NotYet(String),
    /// The report could not be written.
    #[error("write the report")]
    Report(#[source] io::Error),
}

impl Error {
    /// True if the same may work later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Kafka(err) => err.is_retryable(),
            Self::Registry(err) => err.retryable,
            Self::NotYet(_) => true,
            Self::Report(_) => false,
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Topics looked at.
    pub topics: usize,
    /// Schemas looked at.
    pub schemas: usize,
    /// Changes made, or that would be made.
    pub changes: usize,
    /// What differs and can't or may not be changed.
    pub problems: usize,
    /// Nothing was changed.
    pub dry_run: bool,
}

impl Summary {
    /// True if something is not as wanted now.
    pub fn differs(&self) -> bool {
        self.problems > 0 || (self.dry_run && self.changes > 0)
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { topics, schemas, changes, problems, dry_run } = self;
        let would = if *dry_run { "to change" } else { "changed" };
        write!(f, "{topics} topics, {schemas} schemas: {changes} {would}, {problems} wrong")
    }
}

/// Makes `topics` and their schemas what they should be, and tells every change and difference to `out`, a line each.
///
/// # Errors
/// See [`Error`]; a retryable one after [`Config::wait`], or when the stop was asked for.
pub fn synchronize(
    config: &Config,
    topics: &[Topic],
    dry_run: bool,
    shutdown: &Shutdown,
    out: &mut dyn Write,
) -> Result<Summary, Error> {
    let mut run = Run {
        config,
        topics,
        deadline: Instant::now() + config.wait,
        shutdown,
        summary: Summary {
            topics: topics.len(),
            schemas: topics.iter().filter(|topic| topic.schema.is_some()).count(),
            changes: 0,
            problems: 0,
            dry_run,
        },
        out,
    };
    run.topics()?;
    run.schemas()?;
    Ok(run.summary)
}

struct Run<'a> {
    config: &'a Config,
    topics: &'a [Topic],
    deadline: Instant,
    shutdown: &'a Shutdown,
    summary: Summary,
    out: &'a mut dyn Write,
}

impl Run<'_> {
    fn topics(&mut self) -> Result<(), Error> {
        let mut connection = None;
        let mut refused = Vec::new();
        loop {
            match self.topics_once(&mut connection, &mut refused) {
                Ok(Settled::Yes) => return Ok(()),
                Ok(Settled::LookAgain) => self.pause(LOOK_AGAIN, None)?,
                Err(err) => {
                    connection = None;
                    self.pause(TRY_AGAIN, Some(err))?;
                }
            }
        }
    }

    /// Looks, compares and takes the steps. `refused` are steps that the cluster will not take, which are problems by now.
    fn topics_once(
        &mut self,
        connection: &mut Option<Admin>,
        refused: &mut Vec<topics::Step>,
    ) -> Result<Settled, Error> {
        let admin = match connection {
            Some(admin) => admin,
            None => {
                let KafkaConfig { brokers, sasl, .. } = &self.config.kafka;
                connection.insert(Admin::connect(brokers, sasl.as_ref()).map_err(Error::Kafka)?)
            }
        };
        let names: Vec<&'static str> = self.topics.iter().map(|topic| topic.name).collect();
        let seen = admin.look(&names).map_err(Error::Kafka)?;
        let mut plan = topics::plan(&seen, self.topics);
        plan.steps.retain(|step| !refused.contains(step));
        if self.summary.dry_run {
            for step in &plan.steps {
                self.tell_change(step)?;
            }
        } else if !plan.steps.is_empty() {
            self.take(admin, &seen, plan.steps, refused)?;
            return Ok(Settled::LookAgain);
        } else if !plan.leaderless.is_empty() {
            let text = format!("no leader yet for {}", plan.leaderless.join(", "));
            return Err(Error::NotYet(text));
        }
        for text in &plan.foreign {
            self.tell("note", text)?;
        }
        for text in &plan.problems {
            self.tell_problem(text)?;
        }
        Ok(Settled::Yes)
    }

    fn take(
        &mut self,
        admin: &mut Admin,
        seen: &admin::Seen,
        steps: Vec<topics::Step>,
        refused: &mut Vec<topics::Step>,
    ) -> Result<(), Error> {
        let mut new = Vec::new();
        let mut configs: BTreeMap<&'static str, Vec<(&'static str, String)>> = BTreeMap::new();
        for step in &steps {
            match step {
                topics::Step::Create(topic) => new.push(topic),
                topics::Step::Set { topic, name, to, .. } => {
                    configs.entry(topic).or_default().push((name, to.clone()));
                }
            }
        }
        let mut results = BTreeMap::new();
        if !new.is_empty() {
            // A topic keeps the replication that it is made with, so all brokers that the environment names have to be there.
            let (there, named) = (seen.brokers, self.config.kafka.brokers.len());
            if there < named {
                let text = format!("{there} of the {named} brokers in KAFKA_BROKERS are there");
                return Err(Error::NotYet(text));
            }
            let outcomes = admin.create(&new).map_err(Error::Kafka)?;
            results.extend(new.iter().map(|topic| topic.name).zip(outcomes));
        }
        if !configs.is_empty() {
            let outcomes = admin.set_configs(&configs).map_err(Error::Kafka)?;
            results.extend(configs.keys().copied().zip(outcomes));
        }
        let mut retry = None;
        for step in steps {
            let (topics::Step::Create(admin::NewTopic { name: topic, .. })
            | topics::Step::Set { topic, .. }) = &step;
            match &results[topic] {
                Ok(()) => self.tell_change(&step)?,
                Err(err) if err.is_retryable() => retry = Some(*topic),
                Err(err) => {
                    self.tell_problem(&format!("{step}: refused: {}", Chain(err)))?;
                    refused.push(step);
                }
            }
        }
        match retry.and_then(|topic| results.remove(topic)) {
            Some(Err(err)) => Err(Error::Kafka(err)),
            _ => Ok(()),
        }
    }

    fn schemas(&mut self) -> Result<(), Error> {
        let registry = Registry::new(&self.config.registry_url);
        for topic in self.topics {
            let mut level_set = false;
            loop {
                match self.schema_once(&registry, topic, level_set) {
                    Ok(Some(schemas::Step::SetCompatibility { .. })) => level_set = true,
                    Ok(_) => break,
                    Err(err) => self.pause(TRY_AGAIN, Some(err))?,
                }
            }
        }
        Ok(())
    }

    /// Takes the next step for the schema of `topic`; `None` if there is no more to do.
    fn schema_once(
        &mut self,
        registry: &Registry,
        topic: &Topic,
        level_set: bool,
    ) -> Result<Option<schemas::Step>, Error> {
        match schemas::next(registry, topic, level_set).map_err(Error::Registry)? {
            schemas::Next::Settled => Ok(None),
            schemas::Next::Problem(text) => self.tell_problem(&text).map(|()| None),
            schemas::Next::Step(step) => {
                if !self.summary.dry_run {
                    match step.take(registry) {
                        Err(err) if !err.retryable => {
                            self.tell_problem(&format!("{step}: refused: {err}"))?;
                            return Ok(None);
                        }
                        outcome => outcome.map_err(Error::Registry)?,
                    }
                }
                self.tell_change(&step)?;
                Ok(Some(step))
            }
        }
    }

    /// Waits before the next attempt, or gives up: with `err`, if the wait is over or `err` can't pass.
    fn pause(&self, time: Duration, err: Option<Error>) -> Result<(), Error> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let err = err.unwrap_or_else(|| Error::NotYet("topics are on their way".to_owned()));
        if !err.is_retryable() || left.is_zero() {
            return Err(err);
        }
        if time == TRY_AGAIN {
            let reason = Chain(&err as &(dyn StdError + 'static)).to_string();
            log::warn!(reason = reason.as_str(), left_s = left.as_secs(); "waiting");
        }
        if self.shutdown.wait(time.min(left)) { Err(err) } else { Ok(()) }
    }

    fn tell_change(&mut self, step: &dyn std::fmt::Display) -> Result<(), Error> {
        self.summary.changes += 1;
        self.tell(if self.summary.dry_run { "would" } else { "done" }, step)
    }

    fn tell_problem(&mut self, text: &str) -> Result<(), Error> {
        self.summary.problems += 1;
        self.tell("wrong", &text)
    }

    fn tell(&mut self, kind: &str, text: &dyn std::fmt::Display) -> Result<(), Error> {
        writeln!(self.out, "{kind}: {text}").map_err(Error::Report)
    }
}

enum Settled {
    Yes,
    LookAgain,
}
