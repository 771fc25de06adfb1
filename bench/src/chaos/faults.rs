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

/// Limit of the steps `answered`, `stalled` and `ended`.
const STEP_LIMIT: Duration = Duration::from_secs(60);
/// Age of an unanswered command with which the bank counts as stalled.
const STALLED: Duration = Duration::from_secs(2);
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
    /// Servers with a disk of their own, and those whose disk is full.
    own_disks: Vec<String>,
    full: Vec<String>,
    /// Parts with a limit of descriptors.
    limited: Vec<String>,
    /// Parts whose clock is wrong.
    wrong_clocks: Vec<String>,
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
            own_disks: Vec::new(),
            full: Vec::new(),
            limited: Vec::new(),
            wrong_clocks: Vec::new(),
            handlers: BTreeMap::new(),
        }
    }

    /// Takes all steps. Then all parts must be up again.
    pub fn run(&mut self, steps: &[Step]) -> Result<(), Error> {
        self.take(steps)?;
        let Self { down, frozen, lossy, own_disks, full, limited, wrong_clocks, .. } = &self;
        let left = [down, frozen, lossy, own_disks, full, limited, wrong_clocks];
        let left = left.into_iter().flatten().chain(self.handlers.keys());
        let left: Vec<_> = left.map(String::as_str).collect();
        if left.is_empty() {
            return Ok(());
        }
        Err(Error::Usage(format!(
            "the scenario leaves a fault in {}: end it with start, resume, heal, disk 0, free, \
             unlimit, clock 0 or stop",
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
                self.target.stack.run(&["lose", &part, &percent.to_string()], &[])?;
            }
            Step::Heal => self.heal()?,
            Step::Add(name) => self.add(name)?,
            Step::Upgrade(part) => self.command(&["upgrade", part])?,
            Step::Promote(part) => self.command(&["promote", part])?,
            Step::Disk(..)
            | Step::Fill(_)
            | Step::Free
            | Step::Descriptors(..)
            | Step::Unlimit
            | Step::Clock(..) => self.change_resource(step)?,
            Step::Sql(database, statement) => self.execute(*database, statement)?,
            Step::Wait(_) | Step::Answered | Step::Stalled | Step::Ended(_) => {
                self.wait_for(step)?;
            }
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
            self.target.stack.run(&["up", "--servers-only"], &variables)?;
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

    /// Takes a step that changes the disk, the descriptors or the clock of a part.
    fn change_resource(&mut self, step: &Step) -> Result<(), Error> {
        match step {
            Step::Disk(mib, part) => {
                self.command(&["disk", part, &mib.to_string()])?;
                note(&mut self.own_disks, part, *mib > 0);
            }
            Step::Fill(part) => {
                note(&mut self.full, part, true);
                self.command(&["fill", part])?;
            }
            Step::Free => self.free()?,
            Step::Descriptors(count, parts) => {
                let part = self.choose(&format!("{count} descriptors for"), parts);
                note(&mut self.limited, &part, true);
                self.command(&["descriptors", &part, &count.to_string()])?;
            }
            Step::Unlimit => self.unlimit()?,
            Step::Clock(seconds, part) => {
                note(&mut self.wrong_clocks, part, *seconds != 0);
                self.command(&["clock", part, &seconds.to_string()])?;
            }
            _ => unreachable!("the caller passes only these steps"),
        }
        Ok(())
    }

    /// Runs a command of stack.sh and reports it.
    fn command(&self, words: &[&str]) -> Result<(), Error> {
        output::progress(&format!("  {}", words.join(" ")));
        self.target.stack.run(words, &[]).map(drop)
    }

    fn heal(&mut self) -> Result<(), Error> {
        self.end_all(|it| &mut it.lossy, |part| vec!["lose", part, "0"])
    }

    fn free(&mut self) -> Result<(), Error> {
        self.end_all(|it| &mut it.full, |part| vec!["free", part])
    }

    fn unlimit(&mut self) -> Result<(), Error> {
        self.end_all(|it| &mut it.limited, |part| vec!["descriptors", part, "0"])
    }

    fn reset_clocks(&mut self) -> Result<(), Error> {
        self.end_all(|it| &mut it.wrong_clocks, |part| vec!["clock", part, "0"])
    }

    /// Ends a fault of all parts in `list`, the newest first. `words` is the command of stack.sh.
    fn end_all(
        &mut self,
        list: fn(&mut Self) -> &mut Vec<String>,
        words: fn(&str) -> Vec<&str>,
    ) -> Result<(), Error> {
        while let Some(part) = list(self).last().cloned() {
            self.command(&words(&part))?;
            list(self).pop();
        }
        Ok(())
    }

    /// Moves the data of all servers back. Each of them must be down for that.
    fn remove_disks(&mut self) -> Result<(), Error> {
        while let Some(part) = self.own_disks.last().cloned() {
            if !self.down.contains(&part) {
                self.end(part.clone(), "TERM")?;
            }
            self.command(&["disk", &part, "0"])?;
            self.own_disks.pop();
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

    /// Takes a step that only waits.
    fn wait_for(&mut self, step: &Step) -> Result<(), Error> {
        match step {
            Step::Wait(seconds) => {
                let seconds = self.rng.random_range(seconds.clone());
                if self.shutdown.wait(Duration::from_secs_f64(seconds)) {
                    return Err(Error::Stopped);
                }
            }
            Step::Answered => {
                let wanted = self.answered.millis(Instant::now());
                self.wait_until("commands are still unanswered", || {
                    self.answered.until_ms.load(Ordering::Relaxed) >= wanted
                })?;
            }
            Step::Stalled => {
                output::progress("  stalled");
                self.wait_until("no command had to wait for 2 s", || {
                    let now = self.answered.millis(Instant::now());
                    let age = now.saturating_sub(self.answered.until_ms.load(Ordering::Relaxed));
                    u128::from(age) >= STALLED.as_millis()
                })?;
            }
            Step::Ended(part) => {
                output::progress(&format!("  ended {part}"));
                self.wait_until(&format!("{part} has not ended"), || {
                    self.target.stack.process(part).is_err()
                })?;
                self.down.push(part.clone());
            }
            _ => unreachable!("the caller passes only these steps"),
        }
        Ok(())
    }

    /// Waits for `condition`. `message` says what has not happened.
    fn wait_until(&self, message: &str, condition: impl Fn() -> bool) -> Result<(), Error> {
        let since = Instant::now();
        while !condition() {
            if since.elapsed() > STEP_LIMIT {
                let seconds = STEP_LIMIT.as_secs();
                return Err(Error::Bank(format!("{message} after {seconds} s")));
            }
            if self.shutdown.wait(LOOK_INTERVAL) {
                return Err(Error::Stopped);
            }
        }
        Ok(())
    }
}

/// Adds `part` to `parts`, or removes it.
fn note(parts: &mut Vec<String>, part: &str, is_in: bool) {
    parts.retain(|it| it != part);
    if is_in {
        parts.push(part.to_owned());
    }
}

impl Drop for Faults<'_> {
    fn drop(&mut self) {
        let results = [
            self.resume(),
            self.heal(),
            self.free(),
            self.unlimit(),
            self.reset_clocks(),
            self.remove_disks(),
            self.start(&[]),
        ];
        for result in results {
            if let Err(err) = result {
                output::progress(&format!("could not undo a fault: {}", Chain(&err)));
            }
        }
    }
}
