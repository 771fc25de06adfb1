//! GraphQL clients that record what the bank has promised to them.

use crate::error::Error;
use crate::graphql::{LOG_IN, TRANSFER};
use bank::iban::CASH;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use service::shutdown::Shutdown;
use std::collections::BTreeMap;
use std::sync::mpsc::Sender;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use ureq::Agent;
use uuid::Uuid;

/// Time between two transfers of a client.
const INTERVAL: Duration = Duration::from_millis(100);
/// Timeout of a request. Longer than the endpoint waits for an outcome.
const TIMEOUT: Duration = Duration::from_secs(12);
/// Time before a request is repeated.
const RETRY: Duration = Duration::from_millis(100);
/// Time after which a request without an outcome is a violation.
const ANSWER_LIMIT: Duration = Duration::from_secs(90);
/// Time for the endpoint to store the last changes.
const STORED_LIMIT: Duration = Duration::from_secs(10);

const BALANCE: &str = "query($iban: String!) { account(iban: $iban) { balance_cents } }";

/// The answer to a transfer, which must stay the same.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    success: bool,
    reason: Option<String>,
}

/// A transfer and what the bank has answered.
struct Promise {
    transfer: Transfer,
    outcome: Outcome,
}

#[derive(Debug, Clone)]
struct Transfer {
    uuid: Uuid,
    token: String,
    amount: u32,
    from: String,
    to: String,
}

/// When a client got the outcome of a transfer.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    /// Number of the client.
    pub client: usize,
    pub sent: Instant,
    pub answered: Instant,
    /// Number of requests for it.
    pub requests: u32,
}

#[derive(Debug, Clone)]
struct Account {
    iban: String,
    token: String,
}

/// A connection to the endpoint.
#[derive(Clone)]
struct Endpoint {
    agent: Agent,
    url: String,
}

/// Clients with an account each.
pub struct Clients {
    endpoint: Endpoint,
    accounts: Vec<Account>,
    /// Balance of each account after all promised transfers, cents.
    balances: BTreeMap<String, i64>,
}

/// Clients that transfer money until they are stopped.
pub struct RunningClients {
    stop: Shutdown,
    threads: Vec<JoinHandle<Result<Vec<Promise>, String>>>,
}

impl Clients {
    /// Opens `count` accounts at the endpoint `url`.
    pub fn log_in(url: &str, count: usize) -> Result<Self, Error> {
        let config = Agent::config_builder().proxy(None).timeout_global(Some(TIMEOUT)).build();
        let url = format!("{}/graphql", url.trim_end_matches('/'));
        let endpoint = Endpoint { agent: config.new_agent(), url };
        let accounts = (0..count).map(|_| endpoint.log_in()).collect::<Result<Vec<_>, _>>()?;
        let balances = accounts.iter().map(|account| (account.iban.clone(), 0)).collect();
        Ok(Self { endpoint, accounts, balances })
    }

    /// Number of clients.
    pub fn count(&self) -> usize {
        self.accounts.len()
    }

    /// Starts all clients. They send to `answers` when they got an outcome.
    pub fn start(&self, seed: u64, answers: &Sender<Answer>) -> Result<RunningClients, Error> {
        let stop = Shutdown::default();
        let thread = |number: usize| {
            let client = Client {
                number,
                endpoint: self.endpoint.clone(),
                own: self.accounts[number].clone(),
                other: self.accounts[(number + 1) % self.accounts.len()].iban.clone(),
                rng: SmallRng::seed_from_u64(seed ^ number as u64),
                stop: stop.clone(),
                answers: answers.clone(),
            };
            let thread = thread::Builder::new().name("client".into());
            thread.spawn(|| client.run()).map_err(Error::Thread)
        };
        let threads = (0..self.accounts.len()).map(thread).collect::<Result<_, _>>()?;
        Ok(RunningClients { stop, threads })
    }

    /// Checks that all promises are kept: each repeated transfer has the same outcome, and each
    /// account its balance. Returns the number of promises, and the violations.
    pub fn check(&mut self, clients: RunningClients) -> (usize, Vec<String>) {
        let (promises, mut violations) = clients.stop();
        for Promise { transfer, outcome } in &promises {
            let uuid = transfer.uuid;
            match self.endpoint.ask(transfer) {
                Ok((repeated, _)) if repeated == *outcome => {}
                Ok((repeated, _)) => violations.push(format!(
                    "transfer {uuid} of a client had {outcome:?}, and now has {repeated:?}"
                )),
                Err(violation) => violations.push(violation),
            }
            if outcome.success {
                for (side, sign) in [(&transfer.from, -1), (&transfer.to, 1)] {
                    if let Some(balance) = self.balances.get_mut(side) {
                        *balance += sign * i64::from(transfer.amount);
                    }
                }
            }
        }
        for (iban, expected) in &self.balances {
            let limit = Instant::now() + STORED_LIMIT;
            loop {
                let found = self.endpoint.balance(iban);
                if matches!(found, Ok(found) if found == *expected) {
                    break;
                }
                if Instant::now() >= limit {
                    let text = format!("{iban} of a client has {found:?} cents, not {expected}");
                    violations.push(text);
                    break;
                }
                thread::sleep(RETRY);
            }
        }
        (promises.len(), violations)
    }
}

impl RunningClients {
    /// Stops the clients after their present transfers. Returns all promises, and the violations.
    fn stop(mut self) -> (Vec<Promise>, Vec<String>) {
        self.stop.request();
        let (mut promises, mut violations) = (Vec::new(), Vec::new());
        for thread in self.threads.drain(..) {
            match thread.join().expect("a panic ends the process") {
                Ok(more) => promises.extend(more),
                Err(violation) => violations.push(violation),
            }
        }
        (promises, violations)
    }
}

impl Drop for RunningClients {
    fn drop(&mut self) {
        self.stop.request();
    }
}

struct Client {
    number: usize,
    endpoint: Endpoint,
    own: Account,
    /// Iban of the next client.
    other: String,
    rng: SmallRng,
    stop: Shutdown,
    answers: Sender<Answer>,
}

impl Client {
    /// Returns the promises, or a violation.
    fn run(mut self) -> Result<Vec<Promise>, String> {
        let mut promises = Vec::new();
        while !self.stop.wait(INTERVAL) {
            let transfer = self.transfer();
            let sent = Instant::now();
            let (outcome, requests) = self.endpoint.ask(&transfer)?;
            let answered = Instant::now();
            // The receiver is gone after a failure.
            let _ = self.answers.send(Answer { client: self.number, sent, answered, requests });
            promises.push(Promise { transfer, outcome });
        }
        Ok(promises)
    }

    /// A deposit, a payment to the next client, or a payment that the bank must refuse.
    fn transfer(&mut self) -> Transfer {
        let Account { iban, token } = self.own.clone();
        let amount = self.rng.random_range(1..1000);
        let uuid = Uuid::now_v7();
        match self.rng.random_range(0..10) {
            0..5 => Transfer { uuid, token: CASH.into(), amount, from: CASH.into(), to: iban },
            5..9 => Transfer { uuid, token, amount, from: iban, to: self.other.clone() },
            _ => {
                let amount = 1_000_000_000;
                Transfer { uuid, token, amount, from: iban, to: self.other.clone() }
            }
        }
    }
}

impl Endpoint {
    fn log_in(&self) -> Result<Account, Error> {
        let name = format!("chaos-{}", Uuid::new_v4().simple());
        let variables = json!({ "username": name, "password": Uuid::new_v4().to_string() });
        let mut answer = self.execute(LOG_IN, &variables).unwrap_or_else(Value::String);
        let found = &mut answer["get_account"];
        match (found["iban"].as_str(), found["token"].as_str()) {
            (Some(iban), Some(token)) => Ok(Account { iban: iban.into(), token: token.into() }),
            _ => Err(Error::Answer {
                what: "no account in the response",
                url: self.url.clone(),
                found: answer.to_string(),
            }),
        }
    }

    /// Repeats a transfer until it has an outcome. Returns it, and the number of requests.
    fn ask(&self, transfer: &Transfer) -> Result<(Outcome, u32), String> {
        let limit = Instant::now() + ANSWER_LIMIT;
        for requests in 1.. {
            match self.transfer(transfer) {
                Ok(Some(outcome)) => return Ok((outcome, requests)),
                last if Instant::now() >= limit => {
                    let (uuid, seconds) = (transfer.uuid, ANSWER_LIMIT.as_secs());
                    return Err(format!(
                        "transfer {uuid} of a client had no outcome after {seconds} s: {last:?}"
                    ));
                }
                _ => thread::sleep(RETRY),
            }
        }
        unreachable!("the limit is reached first")
    }

    /// Requests a transfer. Returns its outcome if it is known, or the text of an error.
    fn transfer(&self, transfer: &Transfer) -> Result<Option<Outcome>, String> {
        let Transfer { uuid, token, amount, from, to } = transfer;
        let variables = json!({
            "uuid": uuid, "token": token, "amount": amount, "from": from, "to": to,
            "descr": "chaos",
        });
        let answer = &self.execute(TRANSFER, &variables)?["money_transfer"];
        let reason = answer["reason"].as_str().map(str::to_owned);
        Ok(answer["success"].as_bool().map(|success| Outcome { success, reason }))
    }

    /// Returns the balance in cents, or the text of an error.
    fn balance(&self, iban: &str) -> Result<i64, String> {
        let answer = self.execute(BALANCE, &json!({ "iban": iban }))?;
        let cents = answer["account"]["balance_cents"].as_str().and_then(|it| it.parse().ok());
        cents.ok_or_else(|| answer.to_string())
    }

    /// Returns the data of an operation, or the text of an error.
    fn execute(&self, query: &str, variables: &Value) -> Result<Value, String> {
        let body = json!({ "query": query, "variables": variables }).to_string();
        let request = self.agent.post(&self.url).content_type("application/json");
        let mut response = request.send(body).map_err(|err| err.to_string())?;
        let text = response.body_mut().read_to_string().map_err(|err| err.to_string())?;
        let mut response: Value = serde_json::from_str(&text).map_err(|_| text)?;
        match &response["errors"] {
            Value::Null => Ok(response["data"].take()),
            errors => Err(errors.to_string()),
        }
    }
}
