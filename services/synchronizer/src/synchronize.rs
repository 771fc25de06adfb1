//! Compares, changes and reports, with retries until [`Config::wait`] is over.

use crate::admin::{self, Admin};
use crate::config::Config;
use crate::{schemas, topics};
use avro::registry::{self, Registry};
use bank::topology::Topic;
use messaging::KafkaConfig;
use service::log::Chain;
use service::shutdown::Shutdown;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// Time between two checks of topics that are being created.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// Time between two attempts to reach a server.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Why topics and schemas could not be synchronized.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request to Kafka failed.
    #[error("Kafka")]
    Kafka(#[source] admin::Error),
    /// A request to the registry failed.
    #[error("schema registry")]
    Registry(#[source] registry::Error),
    /// The cluster is not complete yet.
    #[error("{0}")]
    NotYet(String),
    /// The report could not be written.
    #[error("write the report")]
    Report(#[source] io::Error),
}

impl Error {
    /// True if the same step can succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Kafka(err) => err.is_retryable(),
            Self::Registry(err) => err.retryable,
            Self::NotYet(_) => true,
            Self::Report(_) => false,
        }
    }
}

/// The result of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Topics checked.
    pub topics: usize,
    /// Schemas checked.
    pub schemas: usize,
    /// Changes made, or to make in a dry run.
    pub changes: usize,
    /// Differences that cannot or must not be changed.
    pub problems: usize,
    /// Nothing was changed.
    pub dry_run: bool,
}

impl Summary {
    /// True if something differs from what is wanted.
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

/// Brings `topics` and their schemas to the wanted state; writes every change and difference to
/// `out`, a line each.
///
/// # Errors
/// See [`Error`]; a retryable one after [`Config::wait`], or after shutdown was requested.
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
                Ok(Settled::CheckAgain) => self.pause(CHECK_INTERVAL, None)?,
                Err(err) => {
                    connection = None;
                    self.pause(RETRY_INTERVAL, Some(err))?;
                }
            }
        }
    }

    /// Compares the topics and takes the steps. `refused` are steps that the cluster refused, which
    /// are problems by now.
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
        let state = admin.describe(&names).map_err(Error::Kafka)?;
        let mut plan = topics::plan(&state, self.topics);
        plan.steps.retain(|step| !refused.contains(step));
        if self.summary.dry_run {
            for step in &plan.steps {
                self.report_change(step)?;
            }
        } else if !plan.steps.is_empty() {
            self.take_steps(admin, &state, plan.steps, refused)?;
            return Ok(Settled::CheckAgain);
        } else if !plan.leaderless.is_empty() {
            let text = format!("no leader yet for {}", plan.leaderless.join(", "));
            return Err(Error::NotYet(text));
        }
        for text in &plan.foreign {
            self.report("note", text)?;
        }
        for text in &plan.problems {
            self.report_problem(text)?;
        }
        Ok(Settled::Yes)
    }

    fn take_steps(
        &mut self,
        admin: &mut Admin,
        state: &admin::ClusterState,
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
            // A topic keeps the replication factor that it is created with, so all brokers in the
            // environment must have registered.
            let (registered, named) = (state.brokers, self.config.kafka.brokers.len());
            if registered < named {
                let text =
                    format!("{registered} of the {named} brokers in KAFKA_BROKERS are registered");
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
                Ok(()) => self.report_change(&step)?,
                Err(err) if err.is_retryable() => retry = Some(*topic),
                Err(err) => {
                    self.report_problem(&format!("{step}: refused: {}", Chain(err)))?;
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
                    Err(err) => self.pause(RETRY_INTERVAL, Some(err))?,
                }
            }
        }
        Ok(())
    }

    /// Takes the next step for the schema of `topic`; `None` if there is none.
    fn schema_once(
        &mut self,
        registry: &Registry,
        topic: &Topic,
        level_set: bool,
    ) -> Result<Option<schemas::Step>, Error> {
        match schemas::next(registry, topic, level_set).map_err(Error::Registry)? {
            schemas::Next::Settled => Ok(None),
            schemas::Next::Problem(text) => self.report_problem(&text).map(|()| None),
            schemas::Next::Step(step) => {
                if !self.summary.dry_run {
                    match step.take(registry) {
                        Err(err) if !err.retryable => {
                            self.report_problem(&format!("{step}: refused: {err}"))?;
                            return Ok(None);
                        }
                        outcome => outcome.map_err(Error::Registry)?,
                    }
                }
                self.report_change(&step)?;
                Ok(Some(step))
            }
        }
    }

    /// Waits before the next attempt. Returns `err` if the time is over or `err` is not retryable.
    fn pause(&self, time: Duration, err: Option<Error>) -> Result<(), Error> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let err = err.unwrap_or_else(|| Error::NotYet("topics are being created".to_owned()));
        if !err.is_retryable() || left.is_zero() {
            return Err(err);
        }
        if time == RETRY_INTERVAL {
            log::warn!(error:% = Chain(&err), left_s = left.as_secs(); "waiting for Kafka and the registry");
        }
        if self.shutdown.wait(time.min(left)) { Err(err) } else { Ok(()) }
    }

    fn report_change(&mut self, step: &dyn std::fmt::Display) -> Result<(), Error> {
        self.summary.changes += 1;
        self.report(if self.summary.dry_run { "would" } else { "done" }, step)
    }

    fn report_problem(&mut self, text: &str) -> Result<(), Error> {
        self.summary.problems += 1;
        self.report("wrong", &text)
    }

    fn report(&mut self, kind: &str, text: &dyn std::fmt::Display) -> Result<(), Error> {
        writeln!(self.out, "{kind}: {text}").map_err(Error::Report)
    }
}

enum Settled {
    Yes,
    CheckAgain,
}
