//! Visitors of the bank as the talk's test had one: each logs in through GraphQL, listens to the changes of its account, and
//! every second takes the next step of a cycle that takes out as much as it puts in.

use crate::error::Error;
use crate::graphql::{Connection, Heard};
use crate::load::Schedule;
use crate::report;
use common::iban::{CASH, COMPANY_IBAN};
use common::log::Chain;
use common::shutdown::Shutdown;
use serde_json::{Value, json};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// After this long a step counts as timed out, as in the talk.
pub const TIMEOUT: Duration = Duration::from_secs(5);
/// Steps of one visitor in a second.
const PER_S: u32 = 1;
/// How long a visitor who lost the connection tries to get a new one, and how often.
const RECONNECT: Duration = Duration::from_secs(30);
const RECONNECT_EVERY: Duration = Duration::from_millis(100);

/// The talk's cycle, cents: deposits, and payments to the company. As much in as out.
const CYCLE: [i64; 10] = [1000, 2000, 5000, 10_000, 20_000, -1111, -2323, -3489, -9999, -21_078];

const LOG_IN: &str = "mutation($username: String!, $password: String!) {
    get_account(username: $username, password: $password) { iban token reason } }";
const LISTEN: &str =
    "subscription($iban: String!) { stream_transactions(iban: $iban) { descr new_balance } }";
const TRANSFER: &str = "mutation($uuid: String!, $token: String!, $amount: Int!, $from: String!, $to: String!, $descr: String!) {
    money_transfer(uuid: $uuid, token: $token, amount: $amount, from: $from, to: $to, descr: $descr) { success reason } }";
/// Id of the operation that listens; those of steps are numbers.
const LISTENING: &str = "changes";

/// A step of a visitor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Act {
    /// When it was due; it may have begun later.
    pub due: Instant,
    /// What became of it.
    pub end: End,
}

/// What became of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The new balance arrived, this long after the step was due.
    Changed(Duration),
    /// It did not arrive within [`TIMEOUT`].
    TimedOut,
    /// The bank said no, for this reason.
    Refused(String),
}

/// Visitors at work, each on a thread of its own.
pub struct Visitors {
    /// Steps of all visitors together: number 0 is the first visitor's, 1 the second's, and so on round and round.
    pub schedule: Schedule,
    acts: Receiver<Result<Act, Error>>,
    stop: Shutdown,
    threads: Vec<JoinHandle<()>>,
}

impl Visitors {
    /// `count` new visitors log in at the endpoint at `url` and begin.
    ///
    /// # Errors
    /// The endpoint or the bank does not answer, or not with an account; or `shutdown` is set meanwhile.
    pub fn start(url: &str, count: u32, shutdown: &Shutdown) -> Result<Self, Error> {
        let mut visitors = Vec::new();
        for _ in 0..count {
            if shutdown.requested() {
                return Err(Error::Stopped);
            }
            visitors.push(Visitor::log_in(url)?);
        }
        let schedule =
            Schedule { start: Instant::now(), per_s: count * PER_S, count: u64::from(u32::MAX) };
        let (sender, acts) = channel();
        let stop = Shutdown::default();
        let threads = (0..).zip(visitors).map(|(first, visitor)| {
            let visit = Visit {
                visitor,
                schedule,
                next: first,
                every: u64::from(count),
                waiting: Vec::new(),
                stop: stop.clone(),
                acts: sender.clone(),
            };
            let thread = thread::Builder::new().name("visitor".into());
            thread.spawn(|| visit.run()).map_err(Error::Thread)
        });
        let threads = threads.collect::<Result<_, _>>()?;
        Ok(Self { schedule, acts, stop, threads })
    }

    /// The steps that have ended since the last call; waits until `until` for the first.
    ///
    /// # Errors
    /// A visitor could not go on.
    pub fn acts(&self, until: Instant) -> Result<Vec<Act>, Error> {
        let wait = until.saturating_duration_since(Instant::now());
        let first = self.acts.recv_timeout(wait).into_iter();
        first.chain(self.acts.try_iter()).collect()
    }

    /// No new steps. The ones that were still under way; takes [`TIMEOUT`] at most.
    ///
    /// # Errors
    /// A visitor could not go on.
    pub fn stop(mut self) -> Result<Vec<Act>, Error> {
        self.stop.request();
        for thread in self.threads.drain(..) {
            thread.join().expect("a panic ends the process");
        }
        self.acts.try_iter().collect()
    }
}

impl Drop for Visitors {
    fn drop(&mut self) {
        self.stop.request();
    }
}

/// A customer with an account and a connection.
struct Visitor {
    url: String,
    connection: Connection,
    iban: String,
    token: String,
}

impl Visitor {
    /// A new customer, who listens to the new account: its first cent has been heard of.
    fn log_in(url: &str) -> Result<Self, Error> {
        let mut connection = Connection::open(url)?;
        let username = format!("bench-{}", Uuid::new_v4().simple());
        let password = Uuid::new_v4().to_string();
        let asked = json!({ "username": username, "password": password });
        connection.ask("log in", LOG_IN, &asked)?;
        let answer = connection.hear(Instant::now() + 4 * TIMEOUT)?;
        let account = match &answer {
            Some(Heard::Data(_, data)) => &data["get_account"],
            _ => &Value::Null,
        };
        let (Some(iban), Some(token)) = (account["iban"].as_str(), account["token"].as_str())
        else {
            // Without an iban there is no token in it either.
            let found = format!("{answer:?}");
            return Err(Error::Answer {
                what: "no account in the answer",
                url: url.to_owned(),
                found,
            });
        };
        let (iban, token) = (iban.to_owned(), token.to_owned());
        let mut visitor = Self { url: url.to_owned(), connection, iban, token };
        visitor.listen()?;
        visitor.transfer("first", 1, "a first cent")?;
        let deadline = Instant::now() + 4 * TIMEOUT;
        let mut answer = None;
        while let Some(heard) = visitor.connection.hear(deadline)? {
            match heard {
                Heard::Data(id, _) if id == LISTENING => return Ok(visitor),
                other => answer = Some(other),
            }
        }
        let found = format!("{answer:?}");
        Err(Error::Answer { what: "a first deposit without a change", url: url.to_owned(), found })
    }

    fn listen(&mut self) -> Result<(), Error> {
        self.connection.ask(LISTENING, LISTEN, &json!({ "iban": self.iban }))
    }

    /// Moves `cents` to the account, or away from it if below zero; does not wait.
    fn transfer(&mut self, id: &str, cents: i64, description: &str) -> Result<(), Error> {
        let (token, from, to) = if cents > 0 {
            (CASH, CASH, self.iban.as_str())
        } else {
            (self.token.as_str(), self.iban.as_str(), COMPANY_IBAN)
        };
        let variables = json!({
            "uuid": Uuid::new_v4(), "token": token, "amount": cents.abs(), "from": from, "to": to, "descr": description,
        });
        self.connection.ask(id, TRANSFER, &variables)
    }

    /// The same customer with a new connection.
    fn reconnect(&mut self, stop: &Shutdown) -> Result<(), Error> {
        let deadline = Instant::now() + RECONNECT;
        loop {
            let connected = Connection::open(&self.url).and_then(|connection| {
                self.connection = connection;
                self.listen()
            });
            match connected {
                Err(_) if Instant::now() < deadline && !stop.wait(RECONNECT_EVERY) => {}
                done => return done,
            }
        }
    }
}

/// A visitor at work.
struct Visit {
    visitor: Visitor,
    schedule: Schedule,
    /// Number of its next step.
    next: u64,
    /// From one of its steps to the next.
    every: u64,
    /// Steps that have not ended: number, due.
    waiting: Vec<(u64, Instant)>,
    stop: Shutdown,
    acts: Sender<Result<Act, Error>>,
}

impl Visit {
    fn run(mut self) {
        if let Err(err) = self.work() {
            // Nobody listens any more if it was stopped.
            let _ = self.acts.send(Err(err));
        }
    }

    fn work(&mut self) -> Result<(), Error> {
        loop {
            let stopped = self.stop.requested();
            if stopped && self.waiting.is_empty() {
                return Ok(());
            }
            let worked = self.turn(stopped);
            if let Err(err) = worked {
                report::progress(&format!("a visitor connects anew: {}", Chain(&err)));
                self.visitor.reconnect(&self.stop)?;
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
            self.visitor.transfer(&number.to_string(), cents, &number.to_string())?;
        }
        while let Some((number, _)) = self.waiting.first().filter(|(_, due)| *due + TIMEOUT <= now)
        {
            self.end(*number, End::TimedOut);
        }
        // A stop is seen within this time.
        let look = now + Duration::from_millis(200);
        let next = self.schedule.due(self.next);
        let timeout = self.waiting.first().map_or(look, |(_, due)| *due + TIMEOUT);
        if let Some(heard) = self.visitor.connection.hear(next.min(look).min(timeout))? {
            self.note(heard);
        }
        Ok(())
    }

    fn note(&mut self, heard: Heard) {
        let arrived = Instant::now();
        match heard {
            Heard::Data(id, data) if id == LISTENING => {
                let number = data["stream_transactions"]["descr"].as_str();
                let Some(number) = number.and_then(|number| number.parse().ok()) else { return };
                if let Some((_, due)) = self.waiting.iter().find(|(it, _)| *it == number) {
                    let latency = arrived.saturating_duration_since(*due);
                    self.end(number, End::Changed(latency));
                }
            }
            Heard::Data(id, data) => {
                let answer = &data["money_transfer"];
                // `null`: not yet known, and the time-out is near.
                if let (Ok(number), Some(false)) = (id.parse(), answer["success"].as_bool()) {
                    let reason = answer["reason"].as_str().unwrap_or_default();
                    self.end(number, End::Refused(reason.to_owned()));
                }
            }
            Heard::Failed(id, errors) => match id.parse() {
                Ok(number) => self.end(number, End::Refused(errors)),
                Err(_) => report::progress(&format!("{id}: {errors}")),
            },
        }
    }

    fn end(&mut self, number: u64, end: End) {
        let Some(at) = self.waiting.iter().position(|(it, _)| *it == number) else { return };
        let (_, due) = self.waiting.remove(at);
        let _ = self.acts.send(Ok(Act { due, end }));
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
