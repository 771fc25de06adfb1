//! Compares, changes and reports, with retries for [`Config::wait`].

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

/// Time between two checks while topics are being created.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// Time between two attempts to reach a server.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// A failed step.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request to Kafka failed.
    #[error("Kafka request failed")]
    Kafka(#[source] admin::Error),
    /// A request to the registry failed.
    #[error("schema registry request failed")]
    Registry(#[source] registry::Error),
    /// The cluster is not ready: a broker or a leader is missing.
    #[error("{0}")]
    NotYet(String),
    /// The report could not be written.
    #[error("could not write the report")]
    Report(#[source] io::Error),
}

impl Error {
    /// True if a retry of the same step can succeed.
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
    /// Number of topics checked.
    pub topics: usize,
    /// Number of schemas checked.
    pub schemas: usize,
    /// Number of changes: made, or planned in a dry run.
    pub changes: usize,
    /// Number of differences that cannot be changed safely.
    pub problems: usize,
    /// Changes are planned but not made.
    pub dry_run: bool,
}

impl Summary {
    /// True if a difference from the target state remains.
    pub fn differs(&self) -> bool {
        self.problems > 0 || (self.dry_run && self.changes > 0)
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { topics, schemas, changes, problems, dry_run } = self;
        let done = if *dry_run { "planned" } else { "changed" };
        write!(f, "{topics} topics, {schemas} schemas: {changes} {done}, {problems} problems")
    }
}

/// Brings `topics` and their schemas to the target state. Writes one line per change and per
/// remaining difference to `out`.
///
/// # Errors
/// Returns a retryable error after [`Config::wait`] or after a shutdown request, any other error at
/// once.
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
        let mut rejected = Vec::new();
        loop {
            match self.topics_once(&mut connection, &mut rejected) {
                Ok(Settled::Yes) => return Ok(()),
                Ok(Settled::CheckAgain) => self.pause(CHECK_INTERVAL, None)?,
                Err(err) => {
                    connection = None;
                    self.pause(RETRY_INTERVAL, Some(err))?;
                }
            }
        }
    }

    /// Compares the topics and takes the steps. `rejected` has the steps that the cluster rejected;
    /// they are reported as problems and not repeated.
    fn topics_once(
        &mut self,
        connection: &mut Option<Admin>,
        rejected: &mut Vec<topics::Step>,
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
        plan.steps.retain(|step| !rejected.contains(step));
        if self.summary.dry_run {
            for step in &plan.steps {
                self.report_change(step)?;
            }
        } else if !plan.steps.is_empty() {
            self.take_steps(admin, &state, plan.steps, rejected)?;
            return Ok(Settled::CheckAgain);
        } else if !plan.leaderless.is_empty() {
            let text = format!("no leader for partition {}", plan.leaderless.join(", "));
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
        rejected: &mut Vec<topics::Step>,
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
            // A topic keeps the replication factor that it is created with. So all brokers in
            // KAFKA_BROKERS must be registered first.
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
                    self.report_problem(&format!("rejected: {step}: {}", Chain(err)))?;
                    rejected.push(step);
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

    /// Takes the next step for the schema of `topic`, and returns it; `None` if there is no step.
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
                            self.report_problem(&format!("rejected: {step}: {err}"))?;
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

    /// Waits before the next attempt. Returns `err` if it is not retryable, after the deadline, and
    /// after a shutdown request.
    fn pause(&self, time: Duration, err: Option<Error>) -> Result<(), Error> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let err = err.unwrap_or_else(|| Error::NotYet("topics are being created".to_owned()));
        if !err.is_retryable() || left.is_zero() {
            return Err(err);
        }
        if time == RETRY_INTERVAL {
            log::warn!(
                error:% = Chain(&err), left_s = left.as_secs();
                "waiting for Kafka and the registry"
            );
        }
        if self.shutdown.wait(time.min(left)) { Err(err) } else { Ok(()) }
    }

    fn report_change(&mut self, step: &dyn std::fmt::Display) -> Result<(), Error> {
        self.summary.changes += 1;
        self.report(if self.summary.dry_run { "planned" } else { "changed" }, step)
    }

    fn report_problem(&mut self, text: &str) -> Result<(), Error> {
        self.summary.problems += 1;
        self.report("problem", &text)
    }

    fn report(&mut self, kind: &str, text: &dyn std::fmt::Display) -> Result<(), Error> {
        writeln!(self.out, "{kind}: {text}").map_err(Error::Report)
    }
}

enum Settled {
    Yes,
    CheckAgain,
}
