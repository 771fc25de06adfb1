//! Reads everything that a handler tells, and keeps the first telling of each thing.

use super::findings::{Findings, Point};
use crate::error::Error;
use crate::topic_reader::{Cluster, ends};
use avro::{Decoder, Record};
use bank::iban::COMPANY_IBAN;
use bank::records::{
    AccountCreationConfirmed, AccountCreationFailed, BalanceChanged, MoneyTransferConfirmed,
    MoneyTransferFailed,
};
use bank::topology::DEAD_LETTER;
use messaging::consumer::Consumer;
use messaging::partitioner::partition;
use service::log::Chain;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use uuid::Uuid;

/// What the company has when a bank is founded.
pub const COMPANY_CENTS: i64 = 100_000_000_000_000_000;

/// What a command is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Opened(AccountCreationConfirmed),
    NotOpened(AccountCreationFailed),
    Moved,
    Refused(String),
}

/// What is known of a command.
#[derive(Debug, Default)]
pub struct Told {
    /// The first answer.
    pub answer: Option<Answer>,
    /// How often it was told.
    pub times: u32,
    /// The changes it made, by iban; how often each was told.
    pub changes: BTreeMap<String, (BalanceChanged, u32)>,
}

/// What was told since it began to listen.
pub struct Witness {
    sources: Sources,
    commands: HashMap<Uuid, Told>,
    /// The changes of each account by sequence.
    accounts: HashMap<String, BTreeMap<i64, BalanceChanged>>,
    /// Key and value of what went to dead_letter.
    pub letters: Vec<(String, Vec<u8>)>,
    /// Records that were told again.
    pub repeats: u64,
    /// Changes that were first told before one with a lower sequence.
    pub disordered: Vec<String>,
}

struct Sources {
    opened: Source<AccountCreationConfirmed>,
    not_opened: Source<AccountCreationFailed>,
    moved: Source<MoneyTransferConfirmed>,
    refused: Source<MoneyTransferFailed>,
    changed: Source<BalanceChanged>,
    letters: Consumer,
}

struct Source<R> {
    consumer: Consumer,
    decoder: Decoder<R>,
}

impl Witness {
    /// Listens from now on.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub fn listen(cluster: &Cluster) -> Result<Self, Error> {
        let letters = ends(&mut *cluster.bus(), &DEAD_LETTER)?;
        Ok(Self {
            sources: Sources {
                opened: Source::listen(cluster)?,
                not_opened: Source::listen(cluster)?,
                moved: Source::listen(cluster)?,
                refused: Source::listen(cluster)?,
                changed: Source::listen(cluster)?,
                letters: Consumer::start(&cluster.kafka, DEAD_LETTER.name, letters),
            },
            commands: HashMap::new(),
            accounts: HashMap::new(),
            letters: Vec::new(),
            repeats: 0,
            disordered: Vec::new(),
        })
    }

    /// Takes what has been told; how many records that was.
    ///
    /// # Errors
    /// The cluster can't be read.
    pub fn read(&mut self, findings: &mut Findings) -> Result<u64, Error> {
        let Self { sources, .. } = self;
        let mut opened = Vec::new();
        sources.opened.read(findings, |it| it.id.to_string(), |it| opened.push(it))?;
        let mut not_opened = Vec::new();
        sources.not_opened.read(findings, |it| it.id.to_string(), |it| not_opened.push(it))?;
        let mut moved = Vec::new();
        sources.moved.read(findings, |it| it.id.to_string(), |it| moved.push(it))?;
        let mut refused = Vec::new();
        sources.refused.read(findings, |it| it.id.to_string(), |it| refused.push(it))?;
        let mut changed = Vec::new();
        sources.changed.read(findings, |it| it.iban.clone(), |it| changed.push(it))?;
        let letters = poll(&mut sources.letters, DEAD_LETTER.name)?;

        let mut answers: Vec<(Uuid, Answer)> = Vec::new();
        answers.extend(opened.into_iter().map(|it| (it.id, Answer::Opened(it))));
        answers.extend(not_opened.into_iter().map(|it| (it.id, Answer::NotOpened(it))));
        answers.extend(moved.into_iter().map(|it| (it.id, Answer::Moved)));
        answers.extend(refused.into_iter().map(|it| (it.id, Answer::Refused(it.reason))));
        let count = answers.len() + changed.len() + letters.len();
        for (id, answer) in answers {
            self.answered(id, answer, findings);
        }
        for change in changed {
            self.changed(change, findings);
        }
        for (_, _, key, value) in letters {
            self.letters.push((String::from_utf8_lossy(&key).into_owned(), value));
        }
        Ok(count as u64)
    }

    fn answered(&mut self, id: Uuid, answer: Answer, findings: &mut Findings) {
        let told = self.commands.entry(id).or_default();
        told.times += 1;
        match &told.answer {
            None => told.answer = Some(answer),
            Some(first) if *first == answer => self.repeats += 1,
            Some(first) => {
                let fault = format!("command {id} was answered {first:?} and then {answer:?}");
                findings.fault(Point::Replays, fault);
            }
        }
    }

    fn changed(&mut self, change: BalanceChanged, findings: &mut Findings) {
        let Some(id) = change.transfer_id else {
            return findings.fault(Point::Changes, format!("no transfer_id: {change:?}"));
        };
        let told = self.commands.entry(id).or_default();
        if let Some((first, times)) = told.changes.get_mut(&change.iban) {
            *times += 1;
            if *first == change {
                self.repeats += 1;
            } else {
                findings.fault(Point::Replays, format!("{first:?} and then {change:?}"));
            }
            return;
        }
        told.changes.insert(change.iban.clone(), (change.clone(), 1));
        let account = self.accounts.entry(change.iban.clone()).or_default();
        let last = account.last_key_value().map_or(0, |(sequence, _)| *sequence);
        if change.sequence < last {
            let (iban, sequence) = (&change.iban, change.sequence);
            self.disordered.push(format!("{iban}: sequence {sequence} after {last}"));
        }
        if let Some(other) = account.insert(change.sequence, change) {
            let (iban, sequence) = (&other.iban, other.sequence);
            let fault = format!("{iban}: two transfers have sequence {sequence}");
            findings.fault(Point::Changes, fault);
        }
    }

    /// What is known of the command `id`.
    pub fn told(&self, id: Uuid) -> Option<&Told> {
        self.commands.get(&id)
    }

    /// The first answer to the command `id`.
    pub fn answer(&self, id: Uuid) -> Option<&Answer> {
        self.told(id)?.answer.as_ref()
    }

    /// The changes of `iban` so far, by sequence.
    pub fn changes(&self, iban: &str) -> impl Iterator<Item = &BalanceChanged> {
        self.accounts.get(iban).into_iter().flat_map(BTreeMap::values)
    }

    /// Balance and sequence of `iban` as last told.
    pub fn balance(&self, iban: &str) -> (i64, i64) {
        let last = self.accounts.get(iban).and_then(BTreeMap::last_key_value);
        last.map_or((first_balance(iban), 0), |(sequence, it)| (it.new_balance.get(), *sequence))
    }
}

/// What an account has before its first change.
pub fn first_balance(iban: &str) -> i64 {
    if iban == COMPANY_IBAN { COMPANY_CENTS } else { 0 }
}

impl<R: Record> Source<R> {
    fn listen(cluster: &Cluster) -> Result<Self, Error> {
        let positions = ends(&mut *cluster.bus(), &R::TOPIC)?;
        Ok(Self {
            consumer: Consumer::start(&cluster.kafka, R::TOPIC.name, positions),
            decoder: Decoder::new(cluster.registry.clone()),
        })
    }

    fn read(
        &mut self,
        findings: &mut Findings,
        key_of: impl Fn(&R) -> String,
        mut take: impl FnMut(R),
    ) -> Result<(), Error> {
        let topic = R::TOPIC;
        for (at, offset, key, value) in poll(&mut self.consumer, topic.name)? {
            let place = format!("{}/{at}/{offset}", topic.name);
            let record = match self.decoder.decode(&value) {
                Ok(record) => record,
                Err(avro::Error::Registry { source, .. }) => {
                    return Err(Error::Registry { topic: topic.name, source });
                }
                Err(err @ avro::Error::Undecodable(_)) => {
                    findings.fault(Point::Records, format!("{place}: {}", Chain(&err)));
                    continue;
                }
            };
            let wanted = key_of(&record);
            let belongs = partition(wanted.as_bytes(), topic.partitions);
            findings.note(
                Point::Records,
                if key != wanted.as_bytes() {
                    Err(format!("{place}: key {:?}, not {wanted:?}", String::from_utf8_lossy(&key)))
                } else if at != belongs {
                    Err(format!("{place}: key {wanted} belongs to partition {belongs}"))
                } else {
                    Ok(())
                },
            );
            take(record);
        }
        Ok(())
    }
}

/// A record as it came: partition, offset, key and value.
type Raw = (i32, i64, Vec<u8>, Vec<u8>);

/// The records that have arrived.
fn poll(consumer: &mut Consumer, topic: &'static str) -> Result<Vec<Raw>, Error> {
    let failed = |source| Error::Kafka { step: format!("read {topic}"), source };
    let mut records = Vec::new();
    for chunk in consumer.poll(Duration::ZERO).map_err(failed)? {
        let partition = chunk.partition;
        records.extend(chunk.records.into_iter().map(|it| {
            (partition, it.offset, it.key.unwrap_or_default(), it.value.unwrap_or_default())
        }));
        if let Some(source) = chunk.error {
            return Err(failed(source));
        }
    }
    Ok(records)
}
