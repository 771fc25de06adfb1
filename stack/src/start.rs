//! Starts parts: all servers at the same time, then all services. After a failure stops what was
//! started.

use crate::error::{Error, Result, failed};
use crate::foreground;
use crate::interrupt::{self, POLL_INTERVAL};
use crate::kafka;
use crate::output::{self, say, seconds};
use crate::parts::{self, Part};
use crate::ports;
use crate::postgres;
use crate::registry;
use crate::services;
use crate::stack::{Launch, Stack};
use crate::stop::{self, How};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Timeout until a part is ready, for busy machines.
const READY_LIMIT: Duration = Duration::from_secs(120);
/// Time between two readiness checks of a part.
const READY_INTERVAL: Duration = Duration::from_millis(50);

/// The start of several parts.
pub struct Start<'a> {
    stack: &'a Stack,
    started: Mutex<Vec<Part>>,
    failed: AtomicBool,
}

impl<'a> Start<'a> {
    /// A start without parts.
    pub fn new(stack: &'a Stack) -> Self {
        Self { stack, started: Mutex::default(), failed: AtomicBool::new(false) }
    }

    /// Starts `parts` at the same time and waits until all are ready. A broker is ready when it
    /// lists `brokers` brokers as alive.
    pub fn start(&self, parts: &[Part], brokers: u16) -> Result<()> {
        let since = Instant::now();
        thread::scope(|scope| {
            let starts: Vec<_> = parts
                .iter()
                .map(|&part| scope.spawn(move || self.start_part(part, brokers)))
                .collect();
            // This loop ends, since each start has a timeout.
            while starts.iter().any(|start| !start.is_finished()) {
                let waiting: Vec<Part> = parts
                    .iter()
                    .zip(&starts)
                    .filter(|(_, start)| !start.is_finished())
                    .map(|(&part, _)| part)
                    .collect();
                output::progress(format!("Waiting for {}", parts::names(&waiting, ", ")), since);
                thread::sleep(POLL_INTERVAL);
            }
            output::clear_progress();
            let results = starts.into_iter().map(|start| {
                start.join().unwrap_or_else(|_| Err(failed("internal error: a start panicked")))
            });
            first_cause(results)
        })
    }

    fn start_part(&self, part: Part, brokers: u16) -> Result<()> {
        let since = Instant::now();
        let result = self.launch(part).and_then(|()| self.await_ready(part, brokers, since));
        if let Err(err) = result {
            self.failed.store(true, Ordering::Relaxed);
            return Err(err.logged_in(&part.to_string()));
        }
        let took = seconds(since.elapsed());
        let port = part.first_port(&self.stack.settings);
        say(format!("{part:<18} up after {took}, port {port}"));
        Ok(())
    }

    fn launch(&self, part: Part) -> Result<()> {
        let stack = self.stack;
        foreground::rotate(&stack.log(&part.to_string()))?;
        let launched = match part {
            Part::Kafka(n) => {
                kafka::prepare(stack, n)?;
                Launch::Server(kafka::command(stack, n))
            }
            Part::Registry => {
                registry::prepare(stack)?;
                Launch::Server(registry::command(stack)?)
            }
            Part::Postgres | Part::Standby => {
                postgres::prepare(stack, part)?;
                Launch::Server(postgres::command(stack, part)?)
            }
            Part::Service(_) => services::launch(stack, part)?,
        };
        interrupt::check()?;
        self.started.lock().unwrap_or_else(PoisonError::into_inner).push(part);
        stack.launch(part, launched)
    }

    fn await_ready(&self, part: Part, brokers: u16, since: Instant) -> Result<()> {
        while !is_ready(self.stack, part, brokers) {
            interrupt::check()?;
            if !self.stack.is_up(part) {
                return Err(failed(format!("{part} has exited")));
            }
            if self.failed.load(Ordering::Relaxed) {
                return Err(Error::Cancelled);
            }
            if since.elapsed() > READY_LIMIT {
                let limit = READY_LIMIT.as_secs();
                return Err(failed(format!("{part} is not ready after {limit} s")));
            }
            interrupt::pause(READY_INTERVAL)?;
        }
        Ok(())
    }

    /// After a failure, prints the log that explains it and stops what was started.
    pub fn undo(self, err: &Error) {
        interrupt::ignore();
        if let Error::Failed { log: Some(name), .. } = err {
            say(format!("{name} failed."));
            output::end_of_log(&self.stack.log(name));
        }
        let started = self.started.into_inner().unwrap_or_else(PoisonError::into_inner);
        if started.is_empty() {
            return;
        }
        say("Stopping the parts that were started.");
        if let Err(err) = stop::stop(self.stack, &started, How::Gracefully) {
            say(format!("stack: {err}"));
        }
    }
}

/// The first failure. One that is only a consequence of another comes last.
fn first_cause(results: impl Iterator<Item = Result<()>>) -> Result<()> {
    let (consequences, causes): (Vec<Error>, Vec<Error>) =
        results.filter_map(Result::err).partition(|err| matches!(err, Error::Cancelled));
    causes.into_iter().chain(consequences).next().map_or(Ok(()), Err)
}

/// True if `part` is ready.
pub fn is_ready(stack: &Stack, part: Part, brokers: u16) -> bool {
    match part {
        Part::Kafka(n) => kafka::is_ready(&stack.settings, n, brokers),
        Part::Registry => registry::is_ready(&stack.settings),
        Part::Postgres | Part::Standby => postgres::is_ready(part.first_port(&stack.settings)),
        Part::Service(_) => services::is_ready(&stack.settings, part),
    }
}

/// Checks that the ports of `parts` are free.
pub fn check_ports(stack: &Stack, parts: &[Part]) -> Result<()> {
    // A service whose supervisor was killed would occupy its own port.
    let orphans: Vec<Part> =
        parts.iter().copied().filter(|&part| stack.process(part).is_some()).collect();
    stop::stop(stack, &orphans, How::Gracefully)?;
    let mut taken = false;
    for &part in parts {
        for port in part.ports(&stack.settings) {
            if let Some(owner) = ports::owner(port) {
                say(format!("Port {port} of {part} is taken by {owner}."));
                taken = true;
            }
        }
    }
    if taken {
        return Err(failed(
            "nothing was started: stop those programs, or set other ports (stack/README.md)",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cause_precedes_its_consequences() {
        let results = [Err(Error::Cancelled), Ok(()), Err(failed("kafka-2 has exited"))];
        let err = first_cause(results.into_iter()).unwrap_err();
        assert_eq!(err.to_string(), "kafka-2 has exited");
        assert!(first_cause([Ok(())].into_iter()).is_ok());
    }
}
