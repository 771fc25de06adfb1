//! One verification: the handler and its restarts, the commands sent to it, and what it answered.

use super::findings::{Findings, Point};
use super::witness::{Answer, Witness, first_balance};
use crate::accounts::{self, Account, outgoing};
use crate::error::Error;
use crate::handler_process::{FreshBank, HandlerProcess};
use crate::handlers::Handler;
use crate::output;
use crate::topic_reader::Cluster;
use avro::Encoder;
use bank::iban::{self, CASH, COMPANY_IBAN};
use bank::money::Cents;
use bank::records::{Atype, BalanceChanged, ConfirmAccountCreation, ConfirmMoneyTransfer};
use bank::topology::CONFIRM_MONEY_TRANSFER;
use messaging::partitioner::partition;
use messaging::producer::{Outgoing, Sender};
use service::shutdown::Shutdown;
use std::collections::{BTreeMap, HashSet};
use std::thread;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How long a handler may be silent while commands wait. After it was once, less: it has probably
/// stopped working.
pub const PATIENCE: Duration = Duration::from_secs(15);
const PATIENCE_LATER: Duration = Duration::from_secs(2);
/// Time between two looks at the topics.
const LOOK: Duration = Duration::from_millis(2);
/// How often a handler is started in all: one that ends by itself is restarted.
const STARTS_MAX: u32 = 5;

impl Account {
    /// A transfer from it.
    pub fn pays(&self, cents: i64, to: &str) -> ConfirmMoneyTransfer {
        order(cents, &self.iban, &self.token, to)
    }

    /// A deposit on it.
    pub fn gets(&self, cents: i64) -> ConfirmMoneyTransfer {
        order(cents, CASH, CASH, &self.iban)
    }
}

/// A transfer with a new id.
pub fn order(cents: i64, from: &str, token: &str, to: &str) -> ConfirmMoneyTransfer {
    ConfirmMoneyTransfer {
        id: Uuid::new_v4(),
        token: token.to_owned(),
        amount: Cents::new(cents),
        from: from.to_owned(),
        to: to.to_owned(),
        description: "café € 𝄞".to_owned(),
    }
}

/// One verification.
pub struct Verification<'a> {
    bank: &'a FreshBank,
    pub cluster: &'a Cluster,
    handler: &'a Handler,
    shutdown: &'a Shutdown,
    /// None before its start and after it ended.
    pub process: Option<HandlerProcess>,
    starts: u32,
    sender: Sender,
    creations: Encoder<ConfirmAccountCreation>,
    transfers: Encoder<ConfirmMoneyTransfer>,
    pub witness: Witness,
    pub findings: Findings,
    pub patience: Duration,
    /// Ibans of accounts of this bank.
    pub known: HashSet<String>,
    /// All that was asked for, in order; of two with the same id the first counts.
    pub asked: Vec<ConfirmAccountCreation>,
    pub ordered: Vec<ConfirmMoneyTransfer>,
}

impl<'a> Verification<'a> {
    /// Nothing is sent yet, and the handler does not run.
    pub fn new(
        bank: &'a FreshBank,
        cluster: &'a Cluster,
        handler: &'a Handler,
        shutdown: &'a Shutdown,
    ) -> Result<Self, Error> {
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
            witness: Witness::listen(cluster)?,
            findings: Findings::default(),
            patience: PATIENCE,
            known: HashSet::from([COMPANY_IBAN.to_owned()]),
            asked: Vec::new(),
            ordered: Vec::new(),
        })
    }

    pub fn say(&self, what: &str) {
        output::progress(&format!("{}: {what}", self.handler.name));
    }

    /// Starts the handler and waits until it is ready. False if it does not get ready.
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

    /// A handler may end in trouble, and is started again. Here there is none.
    pub fn watch(&mut self) -> Result<(), Error> {
        let Some(end) = self.process.as_mut().and_then(HandlerProcess::ended) else {
            return Ok(());
        };
        self.findings.fault(Point::Life, format!("it ended by itself: {end}"));
        self.process = None;
        if self.starts < STARTS_MAX {
            self.start(false)?;
        }
        Ok(())
    }

    // What is asked, and what comes back.

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

    /// Reads until `done`; false if it is not after a time without news.
    pub fn wait(&mut self, done: impl Fn(&Self) -> bool) -> Result<bool, Error> {
        let mut news_at = Instant::now();
        loop {
            if self.witness.read(&mut self.findings)? > 0 {
                news_at = Instant::now();
                continue;
            }
            if done(self) {
                return Ok(true);
            }
            if news_at.elapsed() > self.patience {
                self.patience = PATIENCE_LATER;
                return Ok(false);
            }
            if self.shutdown.requested() {
                return Err(Error::Stopped);
            }
            self.watch()?;
            thread::sleep(LOOK);
        }
    }

    /// True if the command was answered, and all changes that belong to it were published.
    pub fn is_told(&self, id: Uuid, order: Option<&ConfirmMoneyTransfer>) -> bool {
        self.tellings(id, order).iter().all(|times| *times > 0)
    }

    /// How often the answer to a command was published, and each of the changes that belong to it.
    pub fn tellings(&self, id: Uuid, order: Option<&ConfirmMoneyTransfer>) -> Vec<u32> {
        let Some(told) = self.witness.told(id) else { return vec![0] };
        let mut times = vec![told.times];
        if let (Some(Answer::Moved), Some(order)) = (&told.answer, order) {
            let changes = self.sides(order).map(|(side, ..)| told.changes.get(side));
            times.extend(changes.map(|change| change.map_or(0, |(_, times)| *times)));
        }
        times
    }

    /// The accounts that `order` touches: iban, change of its balance, the other side.
    pub fn sides<'o>(
        &self,
        order: &'o ConfirmMoneyTransfer,
    ) -> impl Iterator<Item = (&'o str, i64, &'o str)> + use<'o, '_, 'a> {
        let (from, to, cents) = (order.from.as_str(), order.to.as_str(), order.amount.get());
        [(from, cents.wrapping_neg(), to), (to, cents, from)]
            .into_iter()
            .filter(|(side, ..)| self.known.contains(*side))
    }

    /// The changes that `order` should make now, if it is carried out.
    pub fn foretell(&self, order: &ConfirmMoneyTransfer) -> BTreeMap<String, BalanceChanged> {
        let change = |(iban, by, other): (&str, i64, &str)| {
            let (balance, sequence) = self.witness.balance(iban);
            let change = BalanceChanged {
                iban: iban.to_owned(),
                new_balance: Cents::new(balance.wrapping_add(by)),
                changed_by: Cents::new(by),
                from_to: other.to_owned(),
                description: order.description.clone(),
                transfer_id: Some(order.id),
                sequence: sequence + 1,
            };
            (iban.to_owned(), change)
        };
        self.sides(order).map(change).collect()
    }

    /// Sends one transfer and waits for its answer, which should be this reason, or none: then its
    /// changes must be right too.
    pub fn decide(
        &mut self,
        point: Point,
        order: ConfirmMoneyTransfer,
        reason: Option<&str>,
    ) -> Result<(), Error> {
        let foretold = self.foretell(&order);
        self.order(std::slice::from_ref(&order))?;
        self.wait(|it| it.is_told(order.id, Some(&order)))?;
        let expected = reason.map_or(Answer::Moved, |reason| Answer::Refused(reason.to_owned()));
        let asked = format!(
            "{} from {:?} to {:?} with token {:?}",
            order.amount.get(),
            order.from,
            order.to,
            order.token
        );
        let case = match self.witness.answer(order.id) {
            Some(answer) if *answer == expected => Ok(()),
            answer => Err(format!("{asked}: {expected:?} expected, got {answer:?}")),
        };
        self.findings.note(point, case);
        if expected == Answer::Moved {
            let told = self.witness.told(order.id);
            let told: BTreeMap<&String, &BalanceChanged> = told
                .into_iter()
                .flat_map(|it| it.changes.iter().map(|(iban, (change, _))| (iban, change)))
                .collect();
            let case = if told == foretold.iter().collect() {
                Ok(())
            } else {
                Err(format!("{asked}: expected {:?}, got {:?}", foretold.values(), told.values()))
            };
            self.findings.note(Point::Changes, case);
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
        self.wait(|it| commands.iter().all(|command| it.is_told(command.id, None)))?;
        let mut accounts = Vec::new();
        for command in &commands {
            let case = match self.witness.answer(command.id) {
                Some(Answer::Opened(opened)) => {
                    let (iban, token) = (opened.iban.clone(), opened.token.clone());
                    let digits = |text: &str| text.bytes().all(|it| it.is_ascii_digit());
                    let new = self.known.insert(iban.clone());
                    accounts.push(Account { iban: iban.clone(), token: token.clone() });
                    if !iban::is_well_formed(&iban) || !iban[8..].starts_with('0') {
                        Err(format!("iban {iban:?} is none of this bank's"))
                    } else if !new {
                        Err(format!("iban {iban} was given out before"))
                    } else if token.len() != 20 || !digits(&token) {
                        Err(format!("token {token:?} is not 20 digits"))
                    } else if opened.a_type != command.a_type {
                        Err(format!("a_type {:?}, asked for {:?}", opened.a_type, command.a_type))
                    } else {
                        Ok(())
                    }
                }
                // One iban in a thousand million: it does not happen here.
                answer => Err(format!("an account was asked for, the answer is {answer:?}")),
            };
            self.findings.note(Point::Accounts, case);
        }
        let tokens: HashSet<&str> = accounts.iter().map(|it| it.token.as_str()).collect();
        if tokens.len() < accounts.len() {
            self.findings.fault(Point::Accounts, "two accounts have one token".to_owned());
        }
        Ok(accounts)
    }

    /// Sees to it that all that was sent to the partitions is done: a transfer more in each,
    /// answered.
    pub fn settle(&mut self, account: &Account) -> Result<(), Error> {
        let partitions = CONFIRM_MONEY_TRANSFER.partitions;
        let orders: Vec<_> =
            (0..partitions).map(|wanted| in_partition(wanted, || account.gets(1))).collect();
        self.order(&orders)?;
        self.wait(|it| orders.iter().all(|order| it.is_told(order.id, Some(order))))?;
        Ok(())
    }

    /// The changes of an account count 1, 2, 3 ... and add up.
    pub fn chain(&self, iban: &str) -> Result<(), String> {
        let mut balance = first_balance(iban);
        for (expected, change) in (1..).zip(self.witness.changes(iban)) {
            if change.sequence != expected {
                return Err(format!("{iban}: sequence {} is missing", expected));
            }
            balance = balance.wrapping_add(change.changed_by.get());
            if change.new_balance.get() != balance {
                let told = change.new_balance.get();
                return Err(format!(
                    "{iban}: balance {told} at sequence {expected}, not {balance}"
                ));
            }
        }
        Ok(())
    }

    /// A cent to each account: its change has the balance and the sequence that the handler has
    /// stored, and they must follow on what was published before.
    pub fn balances(&mut self, accounts: &[Account], point: Point) -> Result<(), Error> {
        for account in accounts {
            let gaps = self.chain(&account.iban);
            self.findings.note(point, gaps);
            self.decide(point, account.gets(1), None)?;
        }
        Ok(())
    }
}

/// How many of `orders` have an answer.
pub fn answered_of(verification: &Verification<'_>, orders: &[ConfirmMoneyTransfer]) -> usize {
    orders.iter().filter(|order| verification.witness.answer(order.id).is_some()).count()
}

/// An order whose id goes to this partition.
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
