//! The course of a verification: what is asked of a handler, and what it should tell.

use super::findings::{Findings, Point};
use super::witness::{Answer, Witness, first_balance};
use crate::accounts;
use crate::error::Error;
use crate::handler_process::{FreshBank, GROUP, HandlerProcess};
use crate::handlers::Handler;
use crate::output;
use crate::topic_reader::{Cluster, is_done};
use avro::registry::Registry;
use avro::{Encoder, Record};
use bank::iban::{self, CASH, COMPANY_IBAN, COMPANY_TOKEN};
use bank::money::Cents;
use bank::records::{Atype, BalanceChanged, ConfirmAccountCreation, ConfirmMoneyTransfer};
use bank::topology::{
    CONFIRM_ACCOUNT_CREATION, CONFIRM_MONEY_TRANSFER, DEAD_LETTER, HEARTBEAT, Topic,
};
use messaging::partitioner::partition;
use messaging::producer::{Outgoing, Sender};
use messaging::{Batch, NewRecord};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use service::shutdown::Shutdown;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::thread;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How long a handler may say nothing while something is asked of it. After it has once, less: a dead one is no riddle.
const PATIENCE: Duration = Duration::from_secs(15);
const PATIENCE_LATER: Duration = Duration::from_secs(2);
/// Time between two looks at what was told.
const LOOK: Duration = Duration::from_millis(2);
/// A handler that ends by itself is started again so often.
const LIVES_MAX: u32 = 5;
/// Not of this bank, and not an iban.
const SHOP: &str = "Albert Heijn BV";
/// Accounts that pay each other while the handler is killed.
const PAYERS: usize = 20;
/// What each of them has.
const PAYERS_CENTS: i64 = 1_000_000_000;
/// Largest command that a handler must read, bytes.
const COMMAND_BYTES_MAX: usize = 64 << 10;

/// An account and the right to use it.
#[derive(Debug, Clone)]
struct Account {
    iban: String,
    token: String,
}

impl Account {
    fn pays(&self, cents: i64, to: &str) -> ConfirmMoneyTransfer {
        order(cents, &self.iban, &self.token, to)
    }

    fn gets(&self, cents: i64) -> ConfirmMoneyTransfer {
        order(cents, CASH, CASH, &self.iban)
    }
}

fn order(cents: i64, from: &str, token: &str, to: &str) -> ConfirmMoneyTransfer {
    ConfirmMoneyTransfer {
        id: Uuid::new_v4(),
        token: token.to_owned(),
        amount: Cents::new(cents),
        from: from.to_owned(),
        to: to.to_owned(),
        description: "café € 𝄞".to_owned(),
    }
}

/// A well-formed iban that this bank has not given out: it gives out those with a 0 in front.
fn stranger(number: u32) -> String {
    let account = format!("9{number:09}");
    let check = iban::check_digits(&account).expect("the account is ten digits");
    format!("NL{check:02}OPEN{account}")
}

/// Ten to the last digit's place: another digit there.
fn other_digit(text: &str, at: usize) -> String {
    let other = |(index, digit): (usize, char)| match digit {
        '9' if index == at => '0',
        digit if index == at => char::from(digit as u8 + 1),
        digit => digit,
    };
    text.chars().enumerate().map(other).collect()
}

/// How much work the handler is killed in.
#[derive(Debug, Clone, Copy)]
pub struct Kills {
    /// How often.
    pub count: usize,
    /// Transfers sent before each of them.
    pub transfers: usize,
}

impl Default for Kills {
    fn default() -> Self {
        Self { count: 3, transfers: 2000 }
    }
}

/// One verification.
pub struct Verification<'a> {
    bank: &'a FreshBank,
    cluster: &'a Cluster,
    handler: &'a Handler,
    shutdown: &'a Shutdown,
    life: Option<HandlerProcess>,
    lives: u32,
    sender: Sender,
    creations: Encoder<ConfirmAccountCreation>,
    transfers: Encoder<ConfirmMoneyTransfer>,
    witness: Witness,
    findings: Findings,
    patience: Duration,
    /// Ibans of accounts of this bank.
    known: HashSet<String>,
    /// All that was asked for, in order; of two with the same id the first counts.
    asked: Vec<ConfirmAccountCreation>,
    ordered: Vec<ConfirmMoneyTransfer>,
}

impl<'a> Verification<'a> {
    /// Puts `handler` through everything.
    ///
    /// # Errors
    /// The servers don't answer, or the stop was asked for.
    pub fn run(
        bank: &'a FreshBank,
        cluster: &'a Cluster,
        handler: &'a Handler,
        kills: Kills,
        shutdown: &'a Shutdown,
    ) -> Result<Findings, Error> {
        let mut course = Self {
            bank,
            cluster,
            handler,
            shutdown,
            life: None,
            lives: 0,
            sender: cluster.sender(shutdown),
            creations: cluster.encoder()?,
            transfers: cluster.encoder()?,
            witness: Witness::listen(cluster)?,
            findings: Findings::default(),
            patience: PATIENCE,
            known: HashSet::from([COMPANY_IBAN.to_owned()]),
            asked: Vec::new(),
            ordered: Vec::new(),
        };
        if course.start(true)? {
            course.everything(kills)?;
        }
        Ok(course.findings)
    }

    fn everything(&mut self, kills: Kills) -> Result<(), Error> {
        self.say("accounts and rules");
        let accounts = self.open_accounts(6)?;
        let Some((rules, [rich, poor])) = accounts.split_last_chunk::<2>() else {
            // Without accounts nothing more can be asked.
            return Ok(());
        };
        self.rules(rules, poor)?;
        self.limits(rich, &rules[0])?;
        self.precedence(rich, &rules[0])?;
        let disordered = std::mem::take(&mut self.witness.disordered);
        let ordered = if disordered.is_empty() { Ok(()) } else { Err(disordered.join("; ")) };
        self.findings.note(Point::Order, ordered);

        self.say("replays");
        self.twins(&rules[0])?;
        self.replays(&rules[..2])?;
        self.say("what can't be read");
        self.poison(&rules[0])?;
        self.offsets()?;

        self.say("kill -9");
        self.kills(kills)?;
        self.say("SIGTERM");
        self.stops()?;
        self.audit();
        Ok(())
    }

    fn say(&self, what: &str) {
        output::progress(&format!("{}: {what}", self.handler.name));
    }

    /// Starts the handler and waits until it is ready. False if it does not get ready.
    fn start(&mut self, first: bool) -> Result<bool, Error> {
        self.life = None;
        let mut life = self.bank.start(self.handler)?;
        self.lives += 1;
        match life.wait_ready(self.shutdown) {
            Ok(_) if first => self.findings.good(Point::Life),
            Ok(_) => {}
            Err(Error::Bank(fault)) => {
                self.findings.fault(Point::Life, fault);
                return Ok(false);
            }
            Err(err) => return Err(err),
        }
        self.life = Some(life);
        Ok(true)
    }

    /// A handler may end in trouble, and is started again. Here there is none.
    fn watch(&mut self) -> Result<(), Error> {
        let Some(end) = self.life.as_mut().and_then(HandlerProcess::ended) else { return Ok(()) };
        self.findings.fault(Point::Life, format!("it ended by itself: {end}"));
        self.life = None;
        if self.lives < LIVES_MAX {
            self.start(false)?;
        }
        Ok(())
    }

    // What is asked, and what comes back.

    fn send(&mut self, records: &[Outgoing]) -> Result<(), Error> {
        accounts::sent(self.sender.send_all(records))
    }

    fn creation(&self, command: &ConfirmAccountCreation) -> Outgoing {
        outgoing(command.id, &self.creations, command)
    }

    fn transfer(&self, command: &ConfirmMoneyTransfer) -> Outgoing {
        outgoing(command.id, &self.transfers, command)
    }

    fn order(&mut self, orders: &[ConfirmMoneyTransfer]) -> Result<(), Error> {
        let records: Vec<Outgoing> = orders.iter().map(|it| self.transfer(it)).collect();
        self.ordered.extend(orders.iter().cloned());
        self.send(&records)
    }

    /// Reads until `done`; false if it is not after a time without news.
    fn wait(&mut self, done: impl Fn(&Self) -> bool) -> Result<bool, Error> {
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

    /// True if the command was answered, and all changes that belong to that were told.
    fn is_told(&self, id: Uuid, order: Option<&ConfirmMoneyTransfer>) -> bool {
        self.tellings(id, order).iter().all(|times| *times > 0)
    }

    /// How often the answer to a command was told, and each of the changes that belong to it.
    fn tellings(&self, id: Uuid, order: Option<&ConfirmMoneyTransfer>) -> Vec<u32> {
        let Some(told) = self.witness.told(id) else { return vec![0] };
        let mut times = vec![told.times];
        if let (Some(Answer::Moved), Some(order)) = (&told.answer, order) {
            let changes = self.sides(order).map(|(side, ..)| told.changes.get(side));
            times.extend(changes.map(|change| change.map_or(0, |(_, times)| *times)));
        }
        times
    }

    /// The accounts that `order` touches: iban, change of its balance, the other side.
    fn sides<'o>(
        &self,
        order: &'o ConfirmMoneyTransfer,
    ) -> impl Iterator<Item = (&'o str, i64, &'o str)> + use<'o, '_, 'a> {
        let (from, to, cents) = (order.from.as_str(), order.to.as_str(), order.amount.get());
        [(from, cents.wrapping_neg(), to), (to, cents, from)]
            .into_iter()
            .filter(|(side, ..)| self.known.contains(*side))
    }

    /// The changes that `order` should make now, if it is carried out.
    fn foretell(&self, order: &ConfirmMoneyTransfer) -> BTreeMap<String, BalanceChanged> {
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

    /// Sends one transfer and waits for its answer, which should be this reason, or none: then its changes must be right too.
    fn decide(
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

    fn open_accounts(&mut self, count: usize) -> Result<Vec<Account>, Error> {
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
                // One iban in a thousand million: nobody meets it here.
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

    // The rules, each at both sides of its boundary, one command after the other: their partitions would let them overtake
    // each other.

    fn rules(&mut self, accounts: &[Account], poor: &Account) -> Result<(), Error> {
        let [a, b, ..] = accounts else { return Ok(()) };
        let (a_iban, b_iban) = (a.iban.as_str(), b.iban.as_str());
        let (nobody, no_one) = (stranger(1), stranger(2));
        let not_positive = Some("amount must be positive");
        let from_invalid = Some("from is invalid");
        let same = Some("from and to can't be same for transfer");
        let both_unknown = Some("both to and from not known at this bank");
        let from_unknown = Some("from is not known at this bank");
        let token_invalid = Some("invalid token");
        let insufficient = Some("insufficient funds");
        let with_token = |token: &str, order: ConfirmMoneyTransfer| ConfirmMoneyTransfer {
            token: token.to_owned(),
            ..order
        };
        let invalid =
            |from: &str| (Point::FromInvalid, order(1, from, &a.token, b_iban), from_invalid);
        let cases = vec![
            (Point::NotPositive, a.gets(0), not_positive),
            (Point::NotPositive, a.gets(-1), not_positive),
            (Point::NotPositive, a.gets(i64::MIN), not_positive),
            (Point::NotPositive, a.pays(0, b_iban), not_positive),
            (Point::NotPositive, a.gets(1), None),
            (Point::NotPositive, a.pays(1, b_iban), None),
            invalid(&a_iban[..17]),
            invalid(&format!("{a_iban}0")),
            invalid(&other_digit(a_iban, 3)),
            invalid(&other_digit(a_iban, 17)),
            invalid(&a_iban.replace("OPEN", "INGB")),
            invalid(&a_iban.replace("NL", "DE")),
            invalid(&a_iban.to_lowercase()),
            invalid(&format!(" {a_iban}")),
            invalid("Cash"),
            invalid(""),
            invalid(SHOP),
            // 18 bytes and no iban; 18 characters and more bytes.
            invalid("NL66OPEN00000000é"),
            invalid("NL66OPEN000000000é"),
            (Point::FromInvalid, order(1, CASH, "", b_iban), None),
            (Point::Same, a.pays(1, a_iban), same),
            (Point::Same, order(1, CASH, "", CASH), same),
            (Point::Same, order(1, &nobody, "", &nobody), same),
            (Point::Same, a.pays(1, &a_iban.to_lowercase()), None),
            (Point::BothUnknown, order(1, CASH, "", SHOP), both_unknown),
            (Point::BothUnknown, order(1, CASH, "", &nobody), both_unknown),
            (Point::BothUnknown, order(1, &nobody, "", SHOP), both_unknown),
            (Point::BothUnknown, order(1, &nobody, "", CASH), both_unknown),
            (Point::BothUnknown, order(1, &nobody, "", &no_one), both_unknown),
            (Point::BothUnknown, a.pays(1, &nobody), None),
            (Point::BothUnknown, a.pays(1, SHOP), None),
            (Point::BothUnknown, a.pays(1, CASH), None),
            (Point::BothUnknown, a.pays(1, ""), None),
            (Point::FromUnknown, order(1, &nobody, "", b_iban), from_unknown),
            (Point::FromUnknown, order(1, &nobody, &b.token, b_iban), from_unknown),
            (Point::FromUnknown, b.pays(1, a_iban), None),
            (Point::Token, with_token("", a.pays(1, b_iban)), token_invalid),
            (Point::Token, with_token(&a.token[..19], a.pays(1, b_iban)), token_invalid),
            (Point::Token, with_token(&format!("{}0", a.token), a.pays(1, b_iban)), token_invalid),
            (Point::Token, with_token(&other_digit(&a.token, 0), a.pays(1, b_iban)), token_invalid),
            (
                Point::Token,
                with_token(&other_digit(&a.token, 19), a.pays(1, b_iban)),
                token_invalid,
            ),
            (Point::Token, with_token(&b.token, a.pays(1, b_iban)), token_invalid),
            (Point::Token, with_token(CASH, a.pays(1, b_iban)), token_invalid),
            (Point::Token, order(1, COMPANY_IBAN, &a.token, a_iban), token_invalid),
            (Point::Token, order(1, COMPANY_IBAN, COMPANY_TOKEN, a_iban), None),
            (Point::Token, order(1, CASH, "whatever", a_iban), None),
            (Point::Funds, poor.gets(100), None),
            (Point::Funds, poor.pays(50_101, SHOP), insufficient),
            (Point::Funds, poor.pays(i64::MAX, SHOP), insufficient),
            (Point::Funds, poor.pays(50_100, b_iban), None),
            (Point::Funds, poor.pays(1, b_iban), insufficient),
            // Below zero minus this is no long.
            (Point::Funds, poor.pays(i64::MAX, b_iban), insufficient),
            (Point::Funds, poor.gets(1), None),
            (Point::Funds, poor.pays(2, SHOP), insufficient),
            (Point::Funds, poor.pays(1, SHOP), None),
        ];
        for (point, order, reason) in cases {
            self.decide(point, order, reason)?;
        }
        Ok(())
    }

    /// Ends with `rich` at the end of a long.
    fn limits(&mut self, rich: &Account, other: &Account) -> Result<(), Error> {
        let too_large = Some("amount too large");
        for (order, reason) in [
            (rich.gets(i64::MAX - 1), None),
            (rich.gets(2), too_large),
            (rich.gets(i64::MAX), too_large),
            (other.pays(2, &rich.iban), too_large),
            (other.pays(1, &rich.iban), None),
            (rich.gets(1), too_large),
            (rich.pays(i64::MAX, CASH), None),
            (rich.gets(i64::MAX), None),
        ] {
            self.decide(Point::TooLarge, order, reason)?;
        }
        Ok(())
    }

    /// Everything is wrong with the first order; each next one mends the fault that won.
    fn precedence(&mut self, rich: &Account, a: &Account) -> Result<(), Error> {
        let nobody = stranger(3);
        let (rich, all) = (rich.iban.as_str(), i64::MAX);
        for (order, reason) in [
            (order(0, "x", "", "x"), "amount must be positive"),
            (order(all, "x", "", "x"), "from is invalid"),
            (order(all, &nobody, "", &nobody), "from and to can't be same for transfer"),
            (order(all, &nobody, "", "x"), "both to and from not known at this bank"),
            (order(all, &nobody, "", rich), "from is not known at this bank"),
            (order(all, &a.iban, "", rich), "invalid token"),
            (order(all, &a.iban, &a.token, rich), "insufficient funds"),
            (order(1, &a.iban, &a.token, rich), "amount too large"),
        ] {
            self.decide(Point::Precedence, order, Some(reason))?;
        }
        Ok(())
    }

    // What comes again.

    /// The same id twice at once, and with another amount: the first counts.
    fn twins(&mut self, account: &Account) -> Result<(), Error> {
        let first = account.gets(5);
        let second = ConfirmMoneyTransfer { amount: Cents::new(7), ..first.clone() };
        let foretold = self.foretell(&first);
        let records = [self.transfer(&first), self.transfer(&second), self.transfer(&first)];
        self.ordered.push(first.clone());
        self.send(&records)?;
        self.wait(|it| it.is_told(first.id, Some(&first)))?;
        self.settle(account)?;
        let told = self.witness.told(first.id);
        let told = told.and_then(|it| it.changes.get(&account.iban)).map(|(change, _)| change);
        let case = match told {
            Some(change) if Some(change) == foretold.get(&account.iban) => Ok(()),
            told => Err(format!("of two orders with one id the first counts: {told:?}")),
        };
        self.findings.note(Point::Replays, case);
        Ok(())
    }

    /// All commands so far once more, and some with another amount. Then one cent to each account shows what the database has.
    fn replays(&mut self, accounts: &[Account]) -> Result<(), Error> {
        let before: HashMap<Uuid, Vec<u32>> = (self.asked.iter())
            .map(|command| (command.id, self.tellings(command.id, None)))
            .chain(self.ordered.iter().map(|it| (it.id, self.tellings(it.id, Some(it)))))
            .collect();
        let mut records: Vec<Outgoing> = self.asked.iter().map(|it| self.creation(it)).collect();
        records.extend(self.ordered.iter().map(|it| self.transfer(it)));
        for order in self.ordered.iter().step_by(5) {
            let amount = Cents::new(order.amount.get().wrapping_add(1));
            records.push(self.transfer(&ConfirmMoneyTransfer { amount, ..order.clone() }));
        }
        self.send(&records)?;
        let again = |it: &Self, order: Option<&ConfirmMoneyTransfer>, id: Uuid| {
            let (before, now) = (&before[&id], it.tellings(id, order));
            before.iter().zip(&now).all(|(before, now)| *before > 0 && now > before)
        };
        self.wait(|it| {
            it.asked.iter().all(|command| again(it, None, command.id))
                && it.ordered.iter().all(|order| again(it, Some(order), order.id))
        })?;
        let cases: Vec<(Uuid, bool)> = (self.asked.iter())
            .map(|command| (command.id, again(self, None, command.id)))
            .chain(self.ordered.iter().map(|it| (it.id, again(self, Some(it), it.id))))
            .collect();
        for (id, told) in cases {
            let fault = || format!("command {id} came again, not all that it was answered did");
            self.findings.note(Point::Replays, told.then_some(()).ok_or_else(fault));
        }
        for account in accounts {
            self.decide(Point::Replays, account.gets(1), None)?;
        }
        Ok(())
    }

    /// Sees to it that all that was sent to the partitions is done: a transfer more in each, answered.
    fn settle(&mut self, account: &Account) -> Result<(), Error> {
        let partitions = CONFIRM_MONEY_TRANSFER.partitions;
        let orders: Vec<_> =
            (0..partitions).map(|wanted| in_partition(wanted, || account.gets(1))).collect();
        self.order(&orders)?;
        self.wait(|it| orders.iter().all(|order| it.is_told(order.id, Some(order))))?;
        Ok(())
    }

    // What can't be read.

    fn poison(&mut self, account: &Account) -> Result<(), Error> {
        let mut bus = self.cluster.bus();
        let heartbeat = schema_id(&self.cluster.registry, &HEARTBEAT)?;
        let creation = ConfirmAccountCreation { id: Uuid::new_v4(), a_type: Atype::Auto };
        let creation = self.creation(&creation);
        let transfer = self.transfer(&account.gets(1));
        let mut cases = poisons(&creation, heartbeat);
        cases.extend(poisons(&transfer, heartbeat));
        let nul = ConfirmMoneyTransfer { description: "a\0b".to_owned(), ..account.gets(1) };
        cases.push(Poison::of(&self.transfer(&nul), "a NUL in its description"));
        let nul = ConfirmMoneyTransfer { to: format!("{}\0", account.iban), ..account.gets(1) };
        cases.push(Poison::of(&self.transfer(&nul), "a NUL in its to"));
        let mut not_text = Poison::of(&transfer, "a description that is not UTF-8");
        if let Some(last) = not_text.value.as_mut().and_then(|value| value.last_mut()) {
            *last = 0xff;
        }
        cases.push(not_text);

        for Poison { topic, key, value, what } in cases {
            if self.findings.is_hopeless(Point::Poison) {
                break;
            }
            let (partitions, accounts) = match topic {
                name if name == CONFIRM_ACCOUNT_CREATION.name => (1, true),
                _ => (CONFIRM_MONEY_TRANSFER.partitions, false),
            };
            let at = key.as_ref().map_or(0, |key| partition(key, partitions));
            let record = NewRecord { key: key.as_deref(), value: value.as_deref(), headers: &[] };
            let batch = Batch { topic, partition: at, records: vec![record] };
            let within = Duration::from_secs(10);
            let written = bus.produce(std::slice::from_ref(&batch), within).swap_remove(0);
            let step = || "send a record that can't be read".to_owned();
            let offset = written.map_err(|source| Error::Kafka { step: step(), source })?;
            // A good one behind it shows that the partition goes on.
            let id = if accounts {
                let command = ConfirmAccountCreation { id: Uuid::new_v4(), a_type: Atype::Manual };
                let record = self.creation(&command);
                self.asked.push(command.clone());
                self.send(&[record])?;
                command.id
            } else {
                let order = in_partition(at, || account.gets(1));
                self.order(std::slice::from_ref(&order))?;
                order.id
            };
            let origin = format!("{topic}/{at}/{offset}: ");
            let letters = self.witness.letters.len();
            let arrived = |it: &Self| {
                it.witness.letters[letters..].iter().any(|(key, _)| key.starts_with(&origin))
            };
            let order = self.ordered.last().filter(|order| order.id == id).cloned();
            let went_on = self.wait(|it| arrived(it) && it.is_told(id, order.as_ref()))? || {
                self.is_told(id, order.as_ref())
            };
            if let (true, Some(Answer::Opened(opened))) = (accounts, self.witness.answer(id)) {
                self.known.insert(opened.iban.clone());
            }
            let letter =
                self.witness.letters[letters..].iter().find(|(key, _)| key.starts_with(&origin));
            let case = match letter {
                _ if !went_on => {
                    Err(format!("{what} in {topic}: the next command is not answered"))
                }
                None => {
                    Err(format!("{what} in {topic}: nothing in dead_letter with key {origin:?}"))
                }
                Some((_, bytes)) if *bytes != value.unwrap_or_default() => {
                    Err(format!("{what} in {topic}: other bytes in dead_letter"))
                }
                Some(_) => Ok(()),
            };
            self.findings.note(Point::Poison, case);
        }
        Ok(())
    }

    fn offsets(&mut self) -> Result<(), Error> {
        let mut bus = self.cluster.bus();
        let deadline = Instant::now() + self.patience;
        for topic in [CONFIRM_ACCOUNT_CREATION, CONFIRM_MONEY_TRANSFER] {
            let mut done = is_done(&mut *bus, GROUP, &topic)?;
            while !done && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(50));
                done = is_done(&mut *bus, GROUP, &topic)?;
            }
            let fault = || format!("group {GROUP} is not at the end of {}", topic.name);
            self.findings.note(Point::Offsets, done.then_some(()).ok_or_else(fault));
        }
        Ok(())
    }

    // Ends.

    fn kills(&mut self, kills: Kills) -> Result<(), Error> {
        let payers = self.open_accounts(PAYERS)?;
        if payers.len() < 2 {
            return Ok(());
        }
        let deposits: Vec<_> = payers.iter().map(|payer| payer.gets(PAYERS_CENTS)).collect();
        self.order(&deposits)?;
        self.wait(|it| deposits.iter().all(|order| it.is_told(order.id, Some(order))))?;

        let mut rng = SmallRng::seed_from_u64(1);
        let mut all = Vec::new();
        let mut amid = 0;
        for kill in 0..kills.count {
            let count = kills.transfers;
            // The first at once, the last when half is done.
            let answers = (count * kill / kills.count / 2).max(1);
            let orders: Vec<_> = (0..count)
                .map(|_| {
                    let from = rng.random_range(0..payers.len());
                    let to = (from + rng.random_range(1..payers.len())) % payers.len();
                    payers[from].pays(rng.random_range(1..=1000), &payers[to].iban)
                })
                .collect();
            self.order(&orders)?;
            self.wait(|it| answered_of(it, &orders) >= answers)?;
            if let Some(life) = &mut self.life {
                life.kill();
            }
            self.witness.read(&mut self.findings)?;
            amid += usize::from(answered_of(self, &orders) < count);
            all.extend(orders);
            if !self.start(false)? {
                self.findings.fault(Point::Kills, "it does not start again".to_owned());
                return Ok(());
            }
        }
        self.say(&format!("{amid} of {} kills came in the midst of work", kills.count));
        self.wait(|it| all.iter().all(|order| it.is_told(order.id, Some(order))))?;
        for order in &all {
            let told = self.is_told(order.id, Some(order));
            let case = match self.witness.answer(order.id) {
                Some(Answer::Moved) if told => Ok(()),
                Some(Answer::Moved) => Err(format!("{order:?}: not all changes were told")),
                answer => Err(format!("{order:?}: {answer:?}")),
            };
            self.findings.note(Point::Kills, case);
        }
        self.patience = PATIENCE;
        self.balances(&payers, Point::Kills)?;
        self.replays(&payers[..2])
    }

    /// A cent to each account: its change tells the balance and the sequence that the handler has stored, and they must follow on
    /// what was told.
    fn balances(&mut self, accounts: &[Account], point: Point) -> Result<(), Error> {
        for account in accounts {
            let gaps = self.chain(&account.iban);
            self.findings.note(point, gaps);
            self.decide(point, account.gets(1), None)?;
        }
        Ok(())
    }

    /// The changes of an account count 1, 2, 3 ... and add up.
    fn chain(&self, iban: &str) -> Result<(), String> {
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

    fn stops(&mut self) -> Result<(), Error> {
        let Some(account) = self.open_accounts(1)?.pop() else { return Ok(()) };
        let mut orders = Vec::new();
        // First in the midst of work, then with nothing to do.
        for count in [500, 0] {
            let more: Vec<_> = (0..count).map(|_| account.gets(1)).collect();
            self.order(&more)?;
            orders.extend(more);
            self.wait(|it| answered_of(it, &orders) > 0)?;
            let repeats = self.witness.repeats;
            let Some(life) = &mut self.life else { return Ok(()) };
            let case = match life.terminate()? {
                None => Err("it goes on after SIGTERM".to_owned()),
                Some((end, _)) if end.code() != Some(0) => Err(format!("it ends with {end}")),
                Some(_) => Ok(()),
            };
            self.findings.note(Point::Stops, case);
            if !self.start(false)? {
                self.findings.fault(Point::Stops, "it does not start again".to_owned());
                return Ok(());
            }
            let all =
                self.wait(|it| orders.iter().all(|order| it.is_told(order.id, Some(order))))?;
            let fault = || "not all orders are answered after the next start".to_owned();
            self.findings.note(Point::Stops, all.then_some(()).ok_or_else(fault));
            self.patience = PATIENCE;
            self.settle(&account)?;
            let again = self.witness.repeats - repeats;
            let case = if count > 0 || again == 0 {
                Ok(())
            } else {
                Err(format!("{again} records were told again after a stop without work"))
            };
            self.findings.note(Point::Stops, case);
        }
        self.balances(&[account], Point::Stops)
    }

    /// All that was told, once more: no account has a gap, no change without its order, no order without its changes.
    fn audit(&mut self) {
        let ibans: Vec<String> = self.known.iter().cloned().collect();
        for iban in &ibans {
            let chain = self.chain(iban);
            self.findings.note(Point::Order, chain);
        }
        let mut orders: HashMap<Uuid, &ConfirmMoneyTransfer> = HashMap::new();
        for order in &self.ordered {
            orders.entry(order.id).or_insert(order);
        }
        let mut faults = Vec::new();
        for (id, order) in &orders {
            let told = self.witness.told(*id);
            let moved = told.is_some_and(|told| told.answer == Some(Answer::Moved));
            let changes = told.into_iter().flat_map(|told| told.changes.values());
            let mut found: Vec<(&str, i64, &str)> = changes
                .map(|(it, _)| (it.iban.as_str(), it.changed_by.get(), it.from_to.as_str()))
                .collect();
            let mut wanted: Vec<(&str, i64, &str)> =
                if moved { self.sides(order).collect() } else { Vec::new() };
            found.sort_unstable();
            wanted.sort_unstable();
            if found != wanted {
                faults.push(format!("transfer {id} changed {found:?}, not {wanted:?}"));
            }
        }
        for iban in &ibans {
            let stray = self.witness.changes(iban);
            let stray =
                stray.filter(|it| !it.transfer_id.is_some_and(|id| orders.contains_key(&id)));
            faults.extend(stray.map(|it| format!("nobody ordered {it:?}")));
        }
        for fault in faults {
            self.findings.fault(Point::Changes, fault);
        }
    }
}

/// How many of `orders` have an answer.
fn answered_of(course: &Verification<'_>, orders: &[ConfirmMoneyTransfer]) -> usize {
    orders.iter().filter(|order| course.witness.answer(order.id).is_some()).count()
}

/// An order whose id goes to this partition.
fn in_partition(
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

fn schema_id(registry: &Registry, topic: &Topic) -> Result<u32, Error> {
    registry.id_of(topic).map_err(|source| Error::Registry { topic: topic.name, source })
}

fn outgoing<R: Record>(id: Uuid, encoder: &Encoder<R>, record: &R) -> Outgoing {
    Outgoing { topic: R::TOPIC.name, key: id.to_string(), value: encoder.encode(record) }
}

/// A record that is no command.
struct Poison {
    topic: &'static str,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    what: &'static str,
}

impl Poison {
    fn of(record: &Outgoing, what: &'static str) -> Self {
        let key = Some(record.key.clone().into_bytes());
        Self { topic: record.topic, key, value: Some(record.value.clone()), what }
    }
}

/// What can be wrong with any record, given a good one and the id of another schema.
fn poisons(good: &Outgoing, other_schema: u32) -> Vec<Poison> {
    debug_assert_ne!(good.topic, DEAD_LETTER.name);
    let with = |what: &'static str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut poison = Poison::of(good, what);
        // A key of its own: the good command's may come later.
        poison.key = Some(Uuid::new_v4().to_string().into_bytes());
        change(poison.value.get_or_insert_default());
        poison
    };
    let schema =
        |id: u32| move |value: &mut Vec<u8>| value[1..5].copy_from_slice(&id.to_be_bytes());
    vec![
        with("magic byte 1", &|value| value[0] = 1),
        with("one byte", &|value| value.truncate(1)),
        with("half a schema id", &|value| value.truncate(3)),
        with("no datum", &|value| value.truncate(5)),
        with("a byte too few", &|value| value.truncate(value.len() - 1)),
        with("a byte too many", &|value| value.push(0)),
        with("an unknown schema", &schema(2_000_000_000)),
        with("a schema id that is no int", &schema(u32::MAX)),
        with("another record's schema", &schema(other_schema)),
        with("more than 64 KiB", &|value| value.resize(COMMAND_BYTES_MAX + 1, 0)),
        Poison { value: None, ..with("no value", &|_| {}) },
        Poison { key: None, ..with("no key", &|_| {}) },
    ]
}
