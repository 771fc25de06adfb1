//! Simulated users, as the talk's test had one: each logs in through GraphQL, subscribes to the
//! changes of its account, and every second takes the next step of a cycle that takes out as much
//! as it puts in.

mod browser_user;
mod client;
mod graphql_user;
mod steps;

use self::browser_user::BrowserUser;
pub use self::client::TIMEOUT;
use self::client::{Client, TransferEnd};
use self::graphql_user::GraphqlUser;
#[cfg(test)]
pub use self::steps::tests::changed;
pub use self::steps::{StepEnd, UserStep, UserSteps};
use crate::browser::Chromium;
use crate::error::Error;
use crate::output;
use crate::schedule::Schedule;
use service::log::Chain;
use service::shutdown::Shutdown;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Steps of one user in a second.
const PER_S: u32 = 1;
/// How long a user without connection tries to reconnect, and how often.
const RECONNECT: Duration = Duration::from_secs(30);
const RECONNECT_EVERY: Duration = Duration::from_millis(100);

/// The talk's cycle, cents: deposits, and payments to the company. As much in as out.
const CYCLE: [i64; 10] = [1000, 2000, 5000, 10_000, 20_000, -1111, -2323, -3489, -9999, -21_078];

/// What the users use.
#[derive(Debug, Clone)]
pub enum Driver {
    /// The GraphQL endpoint at this address.
    Graphql(String),
    /// The pages at an address, in the browser that this program is.
    Browser(String, String),
}

/// SimulatedUsers at work, each on a thread of its own.
pub struct SimulatedUsers {
    /// Steps of all users together: number 0 is the first user's, 1 the second's, and so on round
    /// and round.
    pub schedule: Schedule,
    steps: Receiver<Result<UserStep, Error>>,
    stop: Shutdown,
    threads: Vec<JoinHandle<()>>,
    /// Set: what is under way is not waited for either.
    leave: Shutdown,
    /// Lives as long as they.
    _browser: Option<Chromium>,
}

impl SimulatedUsers {
    /// `count` new users log in and begin.
    pub fn start(driver: &Driver, count: u32, shutdown: &Shutdown) -> Result<Self, Error> {
        let browser = match driver {
            Driver::Graphql(_) => None,
            Driver::Browser(_, program) => Some(Chromium::start(program)?),
        };
        let mut clients: Vec<Box<dyn Client>> = Vec::new();
        for _ in 0..count {
            if shutdown.requested() {
                return Err(Error::Stopped);
            }
            clients.push(match (driver, &browser) {
                (Driver::Browser(url, _), Some(browser)) => {
                    Box::new(BrowserUser::log_in(browser, url)?)
                }
                (Driver::Graphql(url) | Driver::Browser(url, _), _) => {
                    Box::new(GraphqlUser::log_in(url)?)
                }
            });
        }
        let schedule =
            Schedule { start: Instant::now(), per_s: count * PER_S, count: u64::from(u32::MAX) };
        let (sender, steps) = channel();
        let (stop, leave) = (Shutdown::default(), Shutdown::default());
        let threads = (0..).zip(clients).map(|(first, client)| {
            let user = UserThread {
                client,
                schedule,
                next: first,
                every: u64::from(count),
                waiting: Vec::new(),
                stop: stop.clone(),
                leave: leave.clone(),
                steps: sender.clone(),
            };
            let thread = thread::Builder::new().name("user".into());
            thread.spawn(|| user.run()).map_err(Error::Thread)
        });
        let threads = threads.collect::<Result<_, _>>()?;
        Ok(Self { schedule, steps, stop, threads, leave, _browser: browser })
    }

    /// The steps that have ended since the last call; waits until `until` for the first.
    pub fn steps(&self, until: Instant) -> Result<Vec<UserStep>, Error> {
        let wait = until.saturating_duration_since(Instant::now());
        let first = self.steps.recv_timeout(wait).into_iter();
        first.chain(self.steps.try_iter()).collect()
    }

    /// No new steps. The ones that were still under way; takes [`TIMEOUT`] at most.
    pub fn stop(mut self) -> Result<Vec<UserStep>, Error> {
        self.end();
        self.steps.try_iter().collect()
    }

    fn end(&mut self) {
        self.stop.request();
        for thread in self.threads.drain(..) {
            thread.join().expect("a panic ends the process");
        }
    }
}

impl Drop for SimulatedUsers {
    fn drop(&mut self) {
        self.leave.request();
        // Before the browser goes.
        self.end();
    }
}

/// The thread of a user.
struct UserThread {
    client: Box<dyn Client>,
    schedule: Schedule,
    /// Number of its next step.
    next: u64,
    /// From one of its steps to the next.
    every: u64,
    /// Steps that have not ended: number, due.
    waiting: Vec<(u64, Instant)>,
    stop: Shutdown,
    leave: Shutdown,
    steps: Sender<Result<UserStep, Error>>,
}

impl UserThread {
    fn run(mut self) {
        if let Err(err) = self.work() {
            // The receiver is gone after a stop.
            let _ = self.steps.send(Err(err));
        }
    }

    fn work(&mut self) -> Result<(), Error> {
        loop {
            let stopped = self.stop.requested();
            if stopped && (self.waiting.is_empty() || self.leave.requested()) {
                return Ok(());
            }
            let worked = self.turn(stopped);
            if let Err(err) = worked {
                output::progress(&format!("a simulated user reconnects: {}", Chain(&err)));
                self.reconnect()?;
            }
        }
    }

    fn reconnect(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + RECONNECT;
        loop {
            match self.client.reconnect() {
                Err(_) if Instant::now() < deadline && !self.stop.wait(RECONNECT_EVERY) => {}
                done => return done,
            }
        }
    }

    /// Takes the steps that are due and hears what comes until the next one is.
    fn turn(&mut self, stopped: bool) -> Result<(), Error> {
        let now = Instant::now();
        while !stopped && self.schedule.due(self.next) <= now {
            let number = self.next;
            self.next += self.every;
            self.waiting.push((number, self.schedule.due(number)));
            let cents = CYCLE[usize::try_from(number / self.every).unwrap_or(0) % CYCLE.len()];
            self.client.transfer(number, cents)?;
        }
        while let Some((number, _)) = self.waiting.first().filter(|(_, due)| *due + TIMEOUT <= now)
        {
            self.end(*number, StepEnd::TimedOut);
        }
        // A stop is seen within this time.
        let look = now + Duration::from_millis(200);
        let next = self.schedule.due(self.next);
        let timeout = self.waiting.first().map_or(look, |(_, due)| *due + TIMEOUT);
        match self.client.receive(next.min(look).min(timeout))? {
            Some(TransferEnd::Changed(number)) => {
                let arrived = Instant::now();
                if let Some((_, due)) = self.waiting.iter().find(|(it, _)| *it == number) {
                    let latency = arrived.saturating_duration_since(*due);
                    self.end(number, StepEnd::Changed(latency));
                }
            }
            Some(TransferEnd::Refused(number, reason)) => {
                self.end(number, StepEnd::Refused(reason))
            }
            None => {}
        }
        Ok(())
    }

    fn end(&mut self, number: u64, end: StepEnd) {
        let Some(at) = self.waiting.iter().position(|(it, _)| *it == number) else { return };
        let (_, due) = self.waiting.remove(at);
        let _ = self.steps.send(Ok(UserStep { due, end }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cycle_takes_out_what_it_puts_in_and_never_overdraws() {
        let mut balance = 0;
        for cents in CYCLE {
            balance += cents;
            assert!(balance >= 0);
        }
        assert_eq!(balance, 0);
    }
}
