//! A command-handler with four errors, for the test of `bench verify`. Its overdraft limit is one
//! cent too low, it executes replayed commands again, it drops undecodable records, and it loses
//! all accounts when it ends.

use avro::registry::Registry;
use avro::{Decoder, Encoder, Record};
use bank::iban::{self, CASH, COMPANY_IBAN, COMPANY_TOKEN};
use bank::money::Cents;
use bank::records::{
    AccountCreationConfirmed, BalanceChanged, ConfirmAccountCreation, ConfirmMoneyTransfer,
    MoneyTransferConfirmed, MoneyTransferFailed,
};
use messaging::KafkaConfig;
use messaging::Position;
use messaging::consumer::{Consumer, OffsetReset, start_positions};
use messaging::producer::{Outgoing, ProducerConfig, Sender};
use service::health::Health;
use service::shutdown::Shutdown;
use service::{BoxError, Service, Start};
use std::collections::HashMap;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

const GROUP: &str = "command-handler";
const WITHIN: Duration = Duration::from_secs(30);

const SERVICE: Service = Service {
    name: "wrong-handler",
    about: "A command-handler with errors, for tests",
    variables: &[],
    flags: &[],
    run,
};

fn main() -> ExitCode {
    service::main(&SERVICE)
}

struct Account {
    token: String,
    balance: i64,
    sequence: i64,
}

struct Wrong {
    accounts: HashMap<String, Account>,
    opened: Encoder<AccountCreationConfirmed>,
    moved: Encoder<MoneyTransferConfirmed>,
    refused: Encoder<MoneyTransferFailed>,
    changed: Encoder<BalanceChanged>,
}

fn run(start: &Start<'_>) -> Result<ExitCode, BoxError> {
    let kafka = KafkaConfig::from_env(&start.env)?;
    let registry = Registry::new(&start.env.text(&service::env::SCHEMA_REGISTRY_URL)?);
    let health = Health::serve(&start.env)?;
    let mut sender = Sender::new(&ProducerConfig::from_env(&start.env)?, &start.shutdown);
    let company =
        Account { token: COMPANY_TOKEN.to_owned(), balance: 100_000_000_000_000_000, sequence: 0 };
    let mut wrong = Wrong {
        accounts: HashMap::from([(COMPANY_IBAN.to_owned(), company)]),
        opened: Encoder::new(&registry)?,
        moved: Encoder::new(&registry)?,
        refused: Encoder::new(&registry)?,
        changed: Encoder::new(&registry)?,
    };
    let mut creations = reader::<ConfirmAccountCreation>(&kafka)?;
    let mut transfers = reader::<ConfirmMoneyTransfer>(&kafka)?;
    let mut creation_decoder = Decoder::<ConfirmAccountCreation>::new(registry.clone());
    let mut transfer_decoder = Decoder::<ConfirmMoneyTransfer>::new(registry);
    let mut kafka_client = messaging::connect(&kafka);
    health.set_ready(true);
    while !start.shutdown.requested() {
        let mut answers = Vec::new();
        let mut done: Vec<(&str, Position)> = Vec::new();
        for chunk in creations.poll(Duration::from_millis(5))? {
            done.push((ConfirmAccountCreation::TOPIC.name, position(&chunk)));
            for record in chunk.records {
                if let Ok(command) = creation_decoder.decode(&record.value.unwrap_or_default()) {
                    answers.push(wrong.open(command)?);
                }
            }
        }
        for chunk in transfers.poll(Duration::from_millis(5))? {
            done.push((ConfirmMoneyTransfer::TOPIC.name, position(&chunk)));
            for record in chunk.records {
                if let Ok(command) = transfer_decoder.decode(&record.value.unwrap_or_default()) {
                    answers.extend(wrong.transfer(command));
                }
            }
        }
        sender.send_all(&answers).into_iter().collect::<Result<(), _>>()?;
        for (topic, position) in done {
            kafka_client.commit(GROUP, topic, &[position], WITHIN)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn reader<R: Record>(kafka: &KafkaConfig) -> Result<Consumer, messaging::Error> {
    let topic = R::TOPIC;
    let all: Vec<i32> = (0..topic.partitions).collect();
    let (offset_reset, stop) = (OffsetReset::Earliest, Shutdown::default());
    let positions = start_positions(kafka, GROUP, topic.name, &all, offset_reset, WITHIN, &stop)?;
    Ok(Consumer::start(kafka, topic.name, positions))
}

fn position(chunk: &messaging::PartitionData) -> Position {
    Position { partition: chunk.partition, next: chunk.next }
}

impl Wrong {
    fn open(&mut self, command: ConfirmAccountCreation) -> Result<Outgoing, BoxError> {
        let iban = iban::generate(&mut rand::rng());
        let token = iban::generate_token()?;
        let account = Account { token: token.clone(), balance: 0, sequence: 0 };
        self.accounts.insert(iban.clone(), account);
        let id = command.id;
        let answer = AccountCreationConfirmed { id, iban, token, a_type: command.a_type };
        Ok(outgoing(id.to_string(), &self.opened, &answer))
    }

    fn transfer(&mut self, order: ConfirmMoneyTransfer) -> Vec<Outgoing> {
        let id = order.id;
        if let Err(reason) = self.judge(&order) {
            let answer = MoneyTransferFailed { id, reason: reason.to_owned() };
            return vec![outgoing(id.to_string(), &self.refused, &answer)];
        }
        let mut answers =
            vec![outgoing(id.to_string(), &self.moved, &MoneyTransferConfirmed { id })];
        let cents = order.amount.get();
        let decided_at = Some(SystemTime::now().into());
        for (iban, by, other) in [(&order.from, -cents, &order.to), (&order.to, cents, &order.from)]
        {
            let Some(account) = self.accounts.get_mut(iban) else { continue };
            account.balance += by;
            account.sequence += 1;
            let change = BalanceChanged {
                iban: iban.clone(),
                new_balance: Cents::new(account.balance),
                changed_by: Cents::new(by),
                from_to: other.clone(),
                description: order.description.clone(),
                transfer_id: Some(id),
                sequence: account.sequence,
                decided_at,
            };
            answers.push(outgoing(iban.clone(), &self.changed, &change));
        }
        answers
    }

    fn judge(&self, order: &ConfirmMoneyTransfer) -> Result<(), &'static str> {
        let cents = order.amount.get();
        if cents <= 0 {
            return Err("amount must be positive");
        }
        if order.from != CASH && !iban::is_well_formed(&order.from) {
            return Err("from is invalid");
        }
        if order.from == order.to {
            return Err("from and to can't be same for transfer");
        }
        let (from, to) = (self.accounts.get(&order.from), self.accounts.get(&order.to));
        if from.is_none() && to.is_none() {
            return Err("both to and from not known at this bank");
        }
        match from {
            None if order.from != CASH => return Err("from is not known at this bank"),
            Some(from) if from.token != order.token => return Err("invalid token"),
            Some(from) if from.balance.saturating_sub(cents) <= -50_000 => {
                return Err("insufficient funds");
            }
            _ => {}
        }
        match to.map(|to| to.balance.checked_add(cents)) {
            Some(None) => Err("amount too large"),
            _ => Ok(()),
        }
    }
}

fn outgoing<R: Record>(key: String, encoder: &Encoder<R>, record: &R) -> Outgoing {
    Outgoing { topic: R::TOPIC.name, key, value: encoder.encode(record) }
}
