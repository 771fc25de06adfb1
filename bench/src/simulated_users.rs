//! Simulated users, like the one in the talk's test. Each logs in through GraphQL and subscribes to
//! its balance changes. Every second it takes the next step of a cycle, which withdraws as much as
//! it deposits.

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
use crate::consumer_lag::ConsumerLag;
use crate::error::Error;
use crate::output;
use crate::schedule::Schedule;
use crate::topic_reader::Cluster;
use service::log::Chain;
use service::shutdown::Shutdown;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Steps of one user per second.
const PER_S: u32 = 1;
/// How long and how often a disconnected user tries to reconnect.
const RECONNECT: Duration = Duration::from_secs(30);
const RECONNECT_EVERY: Duration = Duration::from_millis(100);

/// The talk's cycle, cents: deposits, and payments to the company. Their sum is zero.
const CYCLE: [i64; 10] = [1000, 2000, 5000, 10_000, 20_000, -1111, -2323, -3489, -9999, -21_078];

/// Interface that the users use.
#[derive(Debug, Clone)]
pub enum Driver {
    /// The GraphQL endpoint at this URL.
    Graphql(String),
    /// The pages at a URL, in the browser that this program starts.
    Browser(String, String),
}

/// Running simulated users, each on its own thread.
pub struct SimulatedUsers {
    /// Steps of all users together. Step 0 belongs to the first user, step 1 to the second, and so
    /// on in turn.
    pub schedule: Schedule,
    steps: Receiver<Result<UserStep, Error>>,
    stop: Shutdown,
    threads: Vec<JoinHandle<()>>,
    /// Requested if the steps in progress are not waited for either.
    leave: Shutdown,
    /// The browser, which is closed after the users.
    _browser: Option<Chromium>,
}

impl SimulatedUsers {
    /// Waits until the endpoint of `cluster` has stored what was written before. Then logs in
    /// `count` new users and starts them.
    pub fn start(
        driver: &Driver,
        count: u32,
        cluster: &Cluster,
        shutdown: &Shutdown,
    ) -> Result<Self, Error> {
        ConsumerLag::new(cluster).wait_for_endpoint(shutdown)?;
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

    /// Steps that have ended since the last call. Waits until `until` for the first.
    pub fn steps(&self, until: Instant) -> Result<Vec<UserStep>, Error> {
        let wait = until.saturating_duration_since(Instant::now());
        let first = self.steps.recv_timeout(wait).into_iter();
        first.chain(self.steps.try_iter()).collect()
    }

    /// Stops the users. Returns the steps that were in progress, after at most [`TIMEOUT`].
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
        // The users must end before the browser.
        self.end();
    }
}

/// The thread of a user.
struct UserThread {
    client: Box<dyn Client>,
    schedule: Schedule,
    /// Number of the user's next step.
    next: u64,
    /// Difference between the numbers of its steps.
    every: u64,
    /// Steps in progress: number and due time.
    waiting: Vec<(u64, Instant)>,
    stop: Shutdown,
    leave: Shutdown,
    steps: Sender<Result<UserStep, Error>>,
}

impl UserThread {
    fn run(mut self) {
        if let Err(err) = self.work() {
            // The receiver is closed after a stop.
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
                output::progress(&format!("A simulated user reconnects: {}", Chain(&err)));
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

    /// Takes the steps that are due, and receives messages until the next one is due.
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
        // A stop takes effect within this time.
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
    fn cycle_sums_to_zero_and_never_overdraws() {
        let mut balance = 0;
        for cents in CYCLE {
            balance += cents;
            assert!(balance >= 0);
        }
        assert_eq!(balance, 0);
    }
}
