//! Makes the faults of a scenario.

use super::scenario::{Database, Step};
use crate::error::Error;
use crate::handler_process::{self, HandlerProcess};
use crate::handlers::Handler;
use crate::output;
use crate::stack::Stack;
use postgres::config::TargetSessionAttrs;
use postgres::{Client, NoTls};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use service::log::Chain;
use service::shutdown::Shutdown;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Limit of the step `answered`.
const ANSWERED_LIMIT: Duration = Duration::from_secs(60);
/// Limit of the wait for a killed service to be started again by its supervisor.
const START_LIMIT: Duration = Duration::from_secs(10);

/// Time between two looks at the records and at the answers.
pub const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// What the steps act on.
pub struct Target {
    pub stack: Stack,
    /// URLs of the databases.
    pub balances: String,
    pub transactions: String,
    /// Environment of further command-handlers.
    pub handler_variables: Vec<(&'static str, String)>,
    /// Binary of the command-handler.
    pub handler: PathBuf,
    /// Folder for the logs of further command-handlers.
    pub logs: PathBuf,
}

/// The time up to which all commands are answered, for the step `answered`.
pub struct Answered {
    start: Instant,
    until_ms: AtomicU64,
}

impl Answered {
    pub fn new() -> Self {
        Self { start: Instant::now(), until_ms: AtomicU64::new(0) }
    }

    pub fn set(&self, until: Instant) {
        self.until_ms.store(self.millis(until), Ordering::Relaxed);
    }

    fn millis(&self, at: Instant) -> u64 {
        let millis = at.saturating_duration_since(self.start).as_millis();
        u64::try_from(millis).unwrap_or(u64::MAX)
    }
}

/// Makes the faults of one scenario. Dropping it ends them.
pub struct Faults<'a> {
    target: &'a Target,
    answered: &'a Answered,
    shutdown: &'a Shutdown,
    rng: SmallRng,
    /// Parts that are down or frozen.
    down: Vec<String>,
    frozen: Vec<String>,
    /// Parts that lose packets.
    lossy: Vec<String>,
    /// Further command-handlers by name.
    handlers: BTreeMap<String, HandlerProcess>,
}

impl<'a> Faults<'a> {
    /// The same `seed` and `name` make the same random choices.
    pub fn new(
        target: &'a Target,
        answered: &'a Answered,
        shutdown: &'a Shutdown,
        seed: u64,
        name: &str,
    ) -> Self {
        let mut hasher = DefaultHasher::new();
        (seed, name).hash(&mut hasher);
        Self {
            target,
            answered,
            shutdown,
            rng: SmallRng::seed_from_u64(hasher.finish()),
            down: Vec::new(),
            frozen: Vec::new(),
            lossy: Vec::new(),
            handlers: BTreeMap::new(),
        }
    }

    /// Takes all steps. Then all parts must be up again.
    pub fn run(&mut self, steps: &[Step]) -> Result<(), Error> {
        self.take(steps)?;
        let left = [&self.down[..], &self.frozen[..], &self.lossy[..]].concat();
        let left: Vec<_> = left.into_iter().chain(self.handlers.keys().cloned()).collect();
        if left.is_empty() {
            return Ok(());
        }
        Err(Error::Usage(format!(
            "the scenario leaves a fault in {}: end it with start, resume, heal or stop",
            left.join(", ")
        )))
    }

    fn take(&mut self, steps: &[Step]) -> Result<(), Error> {
        for step in steps {
            if self.shutdown.requested() {
                return Err(Error::Stopped);
            }
            self.step(step)?;
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<(), Error> {
        let stack = &self.target.stack;
        match step {
            Step::Kill(parts) => {
                let part = self.choose("kill", parts);
                self.kill(&part)?;
            }
            Step::Crash(parts) => {
                let part = self.choose("crash", parts);
                self.end(part, "KILL")?;
            }
            Step::Stop(parts) => {
                let part = self.choose("stop", parts);
                self.end(part, "TERM")?;
            }
            Step::Start(variables) => self.start(variables)?,
            Step::Freeze(parts) => {
                let part = self.choose("freeze", parts);
                self.signal(&part, "STOP")?;
                self.frozen.push(part);
            }
            Step::Resume => self.resume()?,
            Step::Lose(percent, parts) => {
                let part = self.choose(&format!("lose {percent} % of"), parts);
                self.lossy.push(part.clone());
                stack.run(&["lose", &part, &percent.to_string()], &[])?;
            }
            Step::Heal => self.heal()?,
            Step::Add(name) => self.add(name)?,
            Step::Upgrade(part) => {
                output::progress(&format!("  upgrade {part}"));
                stack.run(&["upgrade", part], &[])?;
            }
            Step::Promote(part) => {
                output::progress(&format!("  promote {part}"));
                stack.run(&["promote", part], &[])?;
            }
            Step::Sql(database, statement) => self.execute(*database, statement)?,
            Step::Wait(seconds) => {
                let seconds = self.rng.random_range(seconds.clone());
                if self.shutdown.wait(Duration::from_secs_f64(seconds)) {
                    return Err(Error::Stopped);
                }
            }
            Step::Answered => self.wait_until_answered()?,
            Step::Repeat(count, steps) => {
                for _ in 0..*count {
                    self.take(steps)?;
                }
            }
        }
        Ok(())
    }

    fn choose(&mut self, verb: &str, parts: &[String]) -> String {
        let part = parts[self.rng.random_range(0..parts.len())].clone();
        output::progress(&format!("  {verb} {part}"));
        part
    }

    /// Kills a part. Its supervisor may be about to start it again after an earlier kill.
    fn kill(&self, part: &str) -> Result<(), Error> {
        let limit = Instant::now() + START_LIMIT;
        while let Err(err) = self.signal(part, "KILL") {
            if Instant::now() > limit {
                return Err(err);
            }
            if self.shutdown.wait(LOOK_INTERVAL) {
                return Err(Error::Stopped);
            }
        }
        Ok(())
    }

    fn end(&mut self, part: String, signal: &str) -> Result<(), Error> {
        if let Some(mut handler) = self.handlers.remove(&part) {
            if signal == "TERM" {
                handler.terminate()?;
            }
            // Dropped here, which kills it.
            return Ok(());
        }
        // Also if it fails: the part may have ended all the same.
        self.down.push(part.clone());
        self.target.stack.run(&["stop", &part, signal], &[]).map(drop)
    }

    fn start(&mut self, variables: &[(String, String)]) -> Result<(), Error> {
        let variables: Vec<_> =
            variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        if self.down.len() > 1 {
            // A broker is ready only with a majority, so all servers must start at the same time.
            self.target.stack.run(&["up", "--servers-only"], &[])?;
        }
        while let Some(part) = self.down.first().cloned() {
            output::progress(&format!("  start {part}"));
            self.target.stack.run(&["start", &part], &variables)?;
            self.down.remove(0);
        }
        Ok(())
    }

    fn resume(&mut self) -> Result<(), Error> {
        while let Some(part) = self.frozen.last().cloned() {
            output::progress(&format!("  resume {part}"));
            self.signal(&part, "CONT")?;
            self.frozen.pop();
        }
        Ok(())
    }

    fn heal(&mut self) -> Result<(), Error> {
        while let Some(part) = self.lossy.last().cloned() {
            output::progress(&format!("  heal {part}"));
            self.target.stack.run(&["lose", &part, "0"], &[])?;
            self.lossy.pop();
        }
        Ok(())
    }

    fn signal(&self, part: &str, signal: &str) -> Result<(), Error> {
        match self.handlers.get(part) {
            Some(handler) => handler.signal(signal),
            None => self.target.stack.kill(part, signal),
        }
    }

    fn add(&mut self, name: &str) -> Result<(), Error> {
        output::progress(&format!("  add {name}"));
        let handler = Handler {
            name: name.to_owned(),
            command: format!("'{}'", self.target.handler.display()),
            variables: Vec::new(),
            artefact: None,
            in_container: false,
        };
        let (variables, logs) = (&self.target.handler_variables, &self.target.logs);
        let mut process = handler_process::start(&handler, variables, logs)?;
        process.wait_ready(self.shutdown)?;
        self.handlers.insert(name.to_owned(), process);
        Ok(())
    }

    fn execute(&self, database: Database, statement: &str) -> Result<(), Error> {
        output::progress(&format!("  sql {statement}"));
        let url = match database {
            Database::Balances => &self.target.balances,
            Database::Transactions => &self.target.transactions,
        };
        let failed = |source| Error::Database { step: "run a statement of the scenario", source };
        // A statement may have made the primary read-only.
        let connect = || {
            let mut any = postgres::Config::from_str(url)?;
            Client::connect(url, NoTls)
                .or_else(|_| any.target_session_attrs(TargetSessionAttrs::Any).connect(NoTls))
        };
        connect().and_then(|mut client| client.batch_execute(statement)).map_err(failed)
    }

    fn wait_until_answered(&self) -> Result<(), Error> {
        let now = Instant::now();
        let wanted = self.answered.millis(now);
        while self.answered.until_ms.load(Ordering::Relaxed) < wanted {
            if now.elapsed() > ANSWERED_LIMIT {
                let seconds = ANSWERED_LIMIT.as_secs();
                return Err(Error::Bank(format!(
                    "commands are still unanswered after {seconds} s"
                )));
            }
            if self.shutdown.wait(LOOK_INTERVAL) {
                return Err(Error::Stopped);
            }
        }
        Ok(())
    }
}

impl Drop for Faults<'_> {
    fn drop(&mut self) {
        for result in [self.resume(), self.heal(), self.start(&[])] {
            if let Err(err) = result {
                output::progress(&format!("could not undo a fault: {}", Chain(&err)));
            }
        }
    }
}
