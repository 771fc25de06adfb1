//! A verification in progress: the handler and its restarts, the commands, and their outcomes.

use super::findings::{Findings, Point};
use crate::accounts::{self, outgoing};
use crate::error::Error;
use crate::handler_process::{FreshBank, HandlerProcess};
use crate::handlers::Handler;
use crate::output;
use crate::topic_reader::{Cluster, WITHIN};
use avro::Encoder;
use bank::records::{Atype, ConfirmAccountCreation, ConfirmMoneyTransfer};
use bank::topology::{CONFIRM_MONEY_TRANSFER, TOPICS};
use messaging::partitioner::partition;
use messaging::producer::{Outgoing, Sender};
use observer::model::new_bank;
use observer::rule_cases::Account;
use observer::{Event, History, ObservedRecord, Observer, Outcome, Reader, Violation, log_ends};
use service::shutdown::Shutdown;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Time without records after which outcomes are not waited for. It is shorter after the first
/// timeout, since the handler has probably stopped working.
pub const OUTCOME_TIMEOUT: Duration = Duration::from_secs(15);
const OUTCOME_TIMEOUT_LATER: Duration = Duration::from_secs(2);
/// Timeout of a read.
const POLL_TIMEOUT: Duration = Duration::from_millis(2);
/// A handler that ends by itself is restarted until it was started this many times.
const STARTS_MAX: u32 = 5;

/// A verification in progress.
pub struct Verification<'a> {
    bank: &'a FreshBank,
    pub cluster: &'a Cluster,
    handler: &'a Handler,
    shutdown: &'a Shutdown,
    /// `None` before the start and after the end of the process.
    pub process: Option<HandlerProcess>,
    starts: u32,
    sender: Sender,
    creations: Encoder<ConfirmAccountCreation>,
    transfers: Encoder<ConfirmMoneyTransfer>,
    reader: Reader,
    pub observer: Observer,
    /// Records in dead_letter.
    pub dead_letters: Vec<ObservedRecord>,
    /// Number of times that the outcome of each command was published, and each of its changes by
    /// iban.
    pub times: HashMap<Uuid, BTreeMap<String, u32>>,
    pub findings: Findings,
    pub outcome_timeout: Duration,
    /// All commands sent, in order. Of commands with the same id only the first is listed.
    pub asked: Vec<ConfirmAccountCreation>,
    pub ordered: Vec<ConfirmMoneyTransfer>,
}

impl<'a> Verification<'a> {
    /// Creates a verification. The handler is not started.
    pub fn new(
        bank: &'a FreshBank,
        cluster: &'a Cluster,
        handler: &'a Handler,
        shutdown: &'a Shutdown,
    ) -> Result<Self, Error> {
        let ends = log_ends(&mut *cluster.kafka_client(), &TOPICS, WITHIN);
        let step = || "look up the ends of the topics".to_owned();
        let ends = ends.map_err(|source| Error::Kafka { step: step(), source })?;
        Ok(Self {
            bank,
            cluster,
            handler,
            shutdown,
            process: None,
            starts: 0,
            sender: cluster.sender(shutdown),
            creations: cluster.encoder()?,
            transfers: cluster.encoder()?,
            reader: Reader::start(&cluster.kafka, &cluster.registry, &ends),
            observer: Observer::new(new_bank(), History::Settled),
            dead_letters: Vec::new(),
            times: HashMap::new(),
            findings: Findings::default(),
            outcome_timeout: OUTCOME_TIMEOUT,
            asked: Vec::new(),
            ordered: Vec::new(),
        })
    }

    pub fn progress(&self, what: &str) {
        output::progress(&format!("{}: {what}", self.handler.name));
    }

    /// Starts the handler and waits until it is ready. Returns false if it does not become ready.
    pub fn start(&mut self, first: bool) -> Result<bool, Error> {
        self.process = None;
        let mut process = self.bank.start(self.handler)?;
        self.starts += 1;
        match process.wait_ready(self.shutdown) {
            Ok(_) if first => self.findings.good(Point::Life),
            Ok(_) => {}
            Err(Error::Bank(fault)) => {
                self.findings.fault(Point::Life, fault);
                return Ok(false);
            }
            Err(err) => return Err(err),
        }
        self.process = Some(process);
        Ok(true)
    }

    /// Restarts the handler if it has ended. That is a fault here, since all its servers work.
    pub fn watch(&mut self) -> Result<(), Error> {
        let Some(end) = self.process.as_mut().and_then(HandlerProcess::ended) else {
            return Ok(());
        };
        self.findings.fault(Point::Life, format!("the handler ended by itself: {end}"));
        self.process = None;
        if self.starts < STARTS_MAX {
            self.start(false)?;
        }
        Ok(())
    }

    // Commands and outcomes.

    pub fn send(&mut self, records: &[Outgoing]) -> Result<(), Error> {
        accounts::sent(self.sender.send_all(records))
    }

    pub fn creation(&self, command: &ConfirmAccountCreation) -> Outgoing {
        outgoing(command.id, &self.creations, command)
    }

    pub fn transfer(&self, command: &ConfirmMoneyTransfer) -> Outgoing {
        outgoing(command.id, &self.transfers, command)
    }

    pub fn order(&mut self, orders: &[ConfirmMoneyTransfer]) -> Result<(), Error> {
        let records: Vec<Outgoing> = orders.iter().map(|it| self.transfer(it)).collect();
        self.ordered.extend(orders.iter().cloned());
        self.send(&records)
    }

    /// Reads until `done`. Returns false after [`OUTCOME_TIMEOUT`] without records.
    pub fn wait(&mut self, done: impl Fn(&Self) -> bool) -> Result<bool, Error> {
        let mut news_at = Instant::now();
        loop {
            if self.read()? > 0 {
                news_at = Instant::now();
                continue;
            }
            if done(self) {
                return Ok(true);
            }
            if news_at.elapsed() > self.outcome_timeout {
                self.outcome_timeout = OUTCOME_TIMEOUT_LATER;
                return Ok(false);
            }
            if self.shutdown.requested() {
                return Err(Error::Stopped);
            }
            self.watch()?;
        }
    }

    /// Reads the records published so far. Returns their number.
    pub fn read(&mut self) -> Result<usize, Error> {
        let mut count = 0;
        while let Some(batch) = self.reader.next(Instant::now() + POLL_TIMEOUT)? {
            count += batch.records.len();
            batch.records.into_iter().for_each(|record| self.take(record));
        }
        for violation in self.observer.take_violations() {
            self.fault(&violation);
        }
        Ok(count)
    }

    fn take(&mut self, record: ObservedRecord) {
        self.observer.take(&record);
        let (id, iban) = match &record.event {
            Event::AccountOpened(it) => (it.id, ""),
            Event::AccountNotOpened(it) => (it.id, ""),
            Event::TransferConfirmed(it) => (it.id, ""),
            Event::TransferFailed(it) => (it.id, ""),
            Event::BalanceChanged(it) => (it.transfer_id.unwrap_or_default(), it.iban.as_str()),
            Event::DeadLetter => return self.dead_letters.push(record),
            Event::OpenAccount(_) | Event::Transfer(_) | Event::Undecodable(_) => return,
        };
        self.findings.good(Point::Records);
        *self.times.entry(id).or_default().entry(iban.to_owned()).or_default() += 1;
    }

    /// Adds a violation to its point.
    pub fn fault(&mut self, violation: &Violation) {
        self.findings.fault(Point::of(&violation.kind), violation.to_string());
    }

    /// True if the outcome of the command and all its changes were published.
    pub fn is_answered(&self, id: Uuid) -> bool {
        self.observer.is_answered(id)
    }

    /// True if all of `orders` were answered.
    pub fn are_answered(&self, orders: &[ConfirmMoneyTransfer]) -> bool {
        orders.iter().all(|order| self.is_answered(order.id))
    }

    /// Sends one transfer and checks its outcome: a rejection with `reason`, or a confirmation.
    /// After a confirmation, balances and sequences must be those of the model.
    pub fn decide(
        &mut self,
        point: Point,
        order: ConfirmMoneyTransfer,
        reason: Option<&str>,
    ) -> Result<(), Error> {
        let decision = self.observer.decide(&order);
        self.order(std::slice::from_ref(&order))?;
        self.wait(|it| it.is_answered(order.id))?;
        let (amount, from, to, token) = (order.amount, order.from, order.to, order.token);
        let asked = format!("{amount} from {from:?} to {to:?} with token {token:?}");
        let fits = |outcome: &Outcome| match (outcome, reason) {
            (Outcome::Confirmed, None) => true,
            (Outcome::Failed(found), Some(reason)) => found == reason,
            _ => false,
        };
        let outcome = self.observer.outcome_of(order.id);
        let wrong = || format!("{asked}: expected {reason:?}, found {outcome:?}");
        let case = outcome.is_some_and(fits).then_some(()).ok_or_else(wrong);
        self.findings.note(point, case);
        if reason.is_none() {
            let wrong = decision.unwrap_or_default().into_iter().find(|change| {
                let state = self.observer.state(&change.iban);
                state.map(|it| (it.balance, it.sequence))
                    != Some((change.new_balance.get(), change.sequence))
            });
            let wrong = wrong.map(|change| format!("{asked}: not followed by {change:?}"));
            self.findings.note(Point::Changes, wrong.map_or(Ok(()), Err));
        }
        Ok(())
    }

    pub fn open_accounts(&mut self, count: usize) -> Result<Vec<Account>, Error> {
        let a_type = |index| if index % 2 == 0 { Atype::Manual } else { Atype::Auto };
        let commands: Vec<_> = (0..count)
            .map(|index| ConfirmAccountCreation { id: Uuid::new_v4(), a_type: a_type(index) })
            .collect();
        self.asked.extend(commands.iter().cloned());
        let records: Vec<Outgoing> = commands.iter().map(|it| self.creation(it)).collect();
        self.send(&records)?;
        self.wait(|it| commands.iter().all(|command| it.is_answered(command.id)))?;
        let mut accounts = Vec::new();
        for command in &commands {
            let case = match self.observer.outcome_of(command.id) {
                Some(Outcome::AccountOpened(opened)) => {
                    let (iban, token) = (opened.iban.clone(), opened.token.clone());
                    accounts.push(Account { iban, token });
                    Ok(())
                }
                // A rejection for an iban that is taken has a probability below 1e-9.
                outcome => Err(format!("account not opened, the outcome is {outcome:?}")),
            };
            self.findings.note(Point::Accounts, case);
        }
        Ok(accounts)
    }

    /// Waits until all commands in all partitions are answered, by sending one more transfer to
    /// each. Returns the sum of these transfers, cents.
    pub fn settle(&mut self, account: &Account) -> Result<i64, Error> {
        let partitions = CONFIRM_MONEY_TRANSFER.partitions;
        let orders: Vec<_> =
            (0..partitions).map(|wanted| in_partition(wanted, || account.gets(1))).collect();
        self.order(&orders)?;
        self.wait(|it| it.are_answered(&orders))?;
        Ok(i64::from(partitions))
    }

    /// Transfers one cent to each account. The change contains the balance and sequence that the
    /// handler has stored, which must match the changes published before.
    pub fn balances(&mut self, accounts: &[Account], point: Point) -> Result<(), Error> {
        for account in accounts {
            self.decide(point, account.gets(1), None)?;
            let gap = self.observer.gap(&account.iban).map(|violation| violation.to_string());
            self.findings.note(point, gap.map_or(Ok(()), Err));
        }
        Ok(())
    }
}

/// Number of `orders` that have an outcome.
pub fn answered_of(verification: &Verification<'_>, orders: &[ConfirmMoneyTransfer]) -> usize {
    orders.iter().filter(|order| verification.observer.outcome_of(order.id).is_some()).count()
}

/// An order whose id belongs to this partition.
pub fn in_partition(
    wanted: i32,
    mut order: impl FnMut() -> ConfirmMoneyTransfer,
) -> ConfirmMoneyTransfer {
    loop {
        let order = order();
        let key = order.id.to_string();
        if partition(key.as_bytes(), CONFIRM_MONEY_TRANSFER.partitions) == wanted {
            return order;
        }
    }
}
