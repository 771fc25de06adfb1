//! Sends commands to the bank and reads their outcomes from the outcome topics.

use crate::consume::POLL_WAIT;
use crate::error::Error;
use avro::registry::Registry;
use avro::{Decoder, Encoder, Record};
use bank::limits::OUTCOME_BYTES_MAX;
use bank::records::{
    AccountCreationConfirmed, AccountCreationFailed, ConfirmAccountCreation, ConfirmMoneyTransfer,
    MoneyTransferConfirmed, MoneyTransferFailed,
};
use messaging::KafkaConfig;
use messaging::Position;
use messaging::consumer::Consumer;
use messaging::producer::{Outgoing, Producer};
use service::log::Chain;
use service::shutdown::Shutdown;
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Timeout of a request to the brokers, which is repeated until shutdown.
const BROKER_WAIT: Duration = Duration::from_millis(500);

/// Time between two requests for the schema of an outcome.
const SCHEMA_RETRY: Duration = Duration::from_millis(500);

/// The outcome of a command.
#[derive(Clone, PartialEq, Eq)]
pub enum CommandOutcome {
    AccountOpened {
        iban: String,
        /// Secret that allows transfers from the account.
        token: String,
    },
    Transferred,
    /// With the bank's reason.
    Refused(String),
}

/// Sends commands and waits for their outcomes.
pub struct CommandClient {
    producer: Arc<Producer>,
    creations: Encoder<ConfirmAccountCreation>,
    transfers: Encoder<ConfirmMoneyTransfer>,
    pending: Arc<PendingCommands>,
}

impl CommandClient {
    /// Looks up the schema ids of the commands and waits until the registry is available. `None` if
    /// shutdown was requested first.
    pub fn open(
        producer: Arc<Producer>,
        registry: &Registry,
        shutdown: &Shutdown,
    ) -> Result<Option<Self>, Error> {
        let Some(creations) = Encoder::wait(registry, shutdown)? else { return Ok(None) };
        let Some(transfers) = Encoder::wait(registry, shutdown)? else { return Ok(None) };
        Ok(Some(Self { producer, creations, transfers, pending: Arc::default() }))
    }

    /// For tests without a registry: with the schema ids of the commands.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn with_ids(producer: Arc<Producer>, creations: u32, transfers: u32) -> Self {
        let (creations, transfers) = (Encoder::with_id(creations), Encoder::with_id(transfers));
        Self { producer, creations, transfers, pending: Arc::default() }
    }

    /// For the threads that read outcomes.
    pub fn pending(&self) -> &Arc<PendingCommands> {
        &self.pending
    }

    /// The value of a command record.
    pub fn encode(&self, command: &ConfirmMoneyTransfer) -> Vec<u8> {
        self.transfers.encode(command)
    }

    /// A stored command record with the schema id of the current registry.
    pub fn with_current_id(&self, value: Vec<u8>) -> Vec<u8> {
        self.transfers.with_current_id(value)
    }

    /// Sends a command to open an account. `None` if no outcome arrives within `wait`.
    pub fn open_account(
        &self,
        command: &ConfirmAccountCreation,
        wait: Duration,
    ) -> Option<CommandOutcome> {
        let value = self.creations.encode(command);
        self.send(ConfirmAccountCreation::TOPIC.name, command.id, value, wait)
    }

    /// Sends a command to transfer money; `value` is the result of [`Self::encode`]. `None` if no
    /// outcome arrives within `wait`.
    pub fn transfer(&self, id: Uuid, value: Vec<u8>, wait: Duration) -> Option<CommandOutcome> {
        self.send(ConfirmMoneyTransfer::TOPIC.name, id, value, wait)
    }

    fn send(
        &self,
        topic: &'static str,
        id: Uuid,
        value: Vec<u8>,
        wait: Duration,
    ) -> Option<CommandOutcome> {
        let deadline = Instant::now() + wait;
        let wait_for = self.pending.register(id);
        // While Kafka is unavailable the queue of the producer is full. Then the command is not
        // sent; a retry of the client sends it. Otherwise the outcome proves the delivery. An
        // outcome after the timeout is ignored.
        let record = Outgoing { topic, key: id.to_string(), value };
        drop(self.producer.send_within(record, wait)?);
        wait_for.outcome(deadline.saturating_duration_since(Instant::now()))
    }
}

/// The commands whose outcome is awaited, by command id.
#[derive(Default)]
pub struct PendingCommands(Mutex<HashMap<Uuid, Vec<Arc<PendingCommand>>>>);

#[derive(Default)]
struct PendingCommand {
    outcome: Mutex<Option<CommandOutcome>>,
    decided: Condvar,
}

/// The wait for one outcome. Dropping it ends the wait.
struct OutcomeWait<'a> {
    pending: &'a PendingCommands,
    id: Uuid,
    command: Arc<PendingCommand>,
}

impl PendingCommands {
    fn register(&self, id: Uuid) -> OutcomeWait<'_> {
        let command = Arc::new(PendingCommand::default());
        self.commands().entry(id).or_default().push(command.clone());
        OutcomeWait { pending: self, id, command }
    }

    fn contains(&self, id: Uuid) -> bool {
        self.commands().contains_key(&id)
    }

    fn complete(&self, id: Uuid, outcome: &CommandOutcome) {
        for command in self.commands().get(&id).into_iter().flatten() {
            *command.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome.clone());
            command.decided.notify_one();
        }
    }

    fn commands(&self) -> MutexGuard<'_, HashMap<Uuid, Vec<Arc<PendingCommand>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OutcomeWait<'_> {
    /// `None` if the outcome does not arrive within `wait`.
    fn outcome(&self, wait: Duration) -> Option<CommandOutcome> {
        let outcome = self.command.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        let waited =
            self.command.decided.wait_timeout_while(outcome, wait, |outcome| outcome.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.take()
    }
}

impl Drop for OutcomeWait<'_> {
    fn drop(&mut self) {
        let mut commands = self.pending.commands();
        if let Some(same_id) = commands.get_mut(&self.id) {
            same_id.retain(|command| !Arc::ptr_eq(command, &self.command));
            if same_id.is_empty() {
                commands.remove(&self.id);
            }
        }
    }
}

/// A record of an outcome topic.
pub trait OutcomeRecord: Record {
    fn outcome(self) -> CommandOutcome;
}

impl OutcomeRecord for AccountCreationConfirmed {
    fn outcome(self) -> CommandOutcome {
        CommandOutcome::AccountOpened { iban: self.iban, token: self.token }
    }
}

impl OutcomeRecord for AccountCreationFailed {
    fn outcome(self) -> CommandOutcome {
        CommandOutcome::Refused(self.reason)
    }
}

impl OutcomeRecord for MoneyTransferConfirmed {
    fn outcome(self) -> CommandOutcome {
        CommandOutcome::Transferred
    }
}

impl OutcomeRecord for MoneyTransferFailed {
    fn outcome(self) -> CommandOutcome {
        CommandOutcome::Refused(self.reason)
    }
}

/// Reads one outcome topic, from its end at startup.
pub struct OutcomeReader<R> {
    consumer: Consumer,
    decoder: Decoder<R>,
}

impl<R: OutcomeRecord> OutcomeReader<R> {
    /// Looks up the end of the topic and waits until the brokers are available. `None` if shutdown
    /// was requested first.
    pub fn open(
        kafka: &KafkaConfig,
        registry: &Registry,
        shutdown: &Shutdown,
    ) -> Result<Option<Self>, Error> {
        let topic = R::TOPIC.name;
        let mut client = messaging::connect_until(kafka, shutdown);
        while !shutdown.requested() {
            match client.log_range(topic, BROKER_WAIT) {
                Ok(ranges) => {
                    let position = |(partition, (_, next))| Position { partition, next };
                    let positions = (0..).zip(ranges).map(position).collect();
                    let consumer = Consumer::start_all(kafka, topic, positions);
                    return Ok(Some(Self { consumer, decoder: Decoder::new(registry.clone()) }));
                }
                Err(err) if !err.kind.is_temporary() => return Err(err.into()),
                Err(err) => log::warn!(topic, error:% = Chain(&err); "waiting for the brokers"),
            }
        }
        Ok(None)
    }

    /// Completes pending commands until shutdown. Outcomes that are missed during a restart are not
    /// lost: a retry sends the command again, and the bank publishes the same outcome again.
    pub fn run(mut self, pending: &PendingCommands, shutdown: &Shutdown) -> Result<(), Error> {
        while !shutdown.requested() {
            for data in self.consumer.poll(POLL_WAIT)? {
                for record in data.records {
                    let key = record.key.as_deref().and_then(|key| str::from_utf8(key).ok());
                    // Most outcomes belong to commands of other programs. The key shows it, so
                    // their values are not decoded.
                    let Some(id) = key.and_then(|key| Uuid::try_parse(key).ok()) else { continue };
                    if !pending.contains(id) {
                        continue;
                    }
                    match self.decode(record.value.as_deref().unwrap_or_default(), shutdown) {
                        Ok(record) => pending.complete(id, &record.outcome()),
                        Err(reason) => {
                            let (topic, offset) = (R::TOPIC.name, record.offset);
                            let partition = data.partition;
                            log::warn!(
                                topic, partition, offset, error = reason;
                                "outcome skipped: undecodable record"
                            );
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns the outcome, or why it is undecodable. Retries until shutdown while the registry is
    /// unavailable or its schema is not registered.
    fn decode(&mut self, value: &[u8], shutdown: &Shutdown) -> Result<R, String> {
        if value.len() > OUTCOME_BYTES_MAX {
            return Err(format!("value of {} bytes, more than {OUTCOME_BYTES_MAX}", value.len()));
        }
        loop {
            match self.decoder.decode(value) {
                Err(err) if err.is_retryable() && !shutdown.wait(SCHEMA_RETRY) => {
                    let topic = R::TOPIC.name;
                    log::warn!(topic, error:% = Chain(&err); "waiting for the schema registry");
                }
                result => return result.map_err(|err| Chain(&err).to_string()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn outcome_completes_all_waits_for_its_command() {
        let pending = PendingCommands::default();
        let (id, other) = (Uuid::new_v4(), Uuid::new_v4());
        let waits = [pending.register(id), pending.register(id)];
        let unrelated = pending.register(other);
        let refused = CommandOutcome::Refused("no".to_owned());
        thread::scope(|scope| {
            let timeout = Duration::from_secs(600);
            let outcomes = waits.map(|wait| scope.spawn(move || wait.outcome(timeout)));
            pending.complete(id, &refused);
            for outcome in outcomes {
                assert!(outcome.join().unwrap() == Some(refused.clone()));
            }
        });
        assert!(unrelated.outcome(Duration::ZERO).is_none());
        assert!(!pending.contains(id) && pending.contains(other));
        drop(unrelated);
        assert!(pending.commands().is_empty());
    }
}
