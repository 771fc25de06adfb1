//! The way to the bank: commands go out on their topics, answers come in on theirs.

use crate::consume::STOP_LOOK;
use crate::error::Error;
use avro::registry::Registry;
use avro::{Decoder, Encoder, Record};
use bank::records::{
    AccountCreationConfirmed, AccountCreationFailed, ConfirmAccountCreation, ConfirmMoneyTransfer,
    MoneyTransferConfirmed, MoneyTransferFailed,
};
use messaging::KafkaConfig;
use messaging::consumer::Consumer;
use messaging::producer::{Outgoing, Producer};
use messaging::{ErrorKind, Position};
use service::log::Chain;
use service::shutdown::Shutdown;
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Time for retries of a call that can be made again.
const SLICE: Duration = Duration::from_millis(500);

/// What the bank says to a command.
#[derive(Clone, PartialEq, Eq)]
pub enum Answer {
    /// The account is open.
    Opened {
        /// Its number.
        iban: String,
        /// Its secret.
        token: String,
    },
    /// The money has moved.
    Moved,
    /// No, for this reason.
    Refused(String),
}

/// Sends commands and waits for their answers.
pub struct CommandClient {
    producer: Arc<Producer>,
    creations: Encoder<ConfirmAccountCreation>,
    transfers: Encoder<ConfirmMoneyTransfer>,
    waiting: Arc<Waiting>,
}

impl CommandClient {
    /// Learns the schema ids of the commands; waits for the registry. `None` if the stop was asked for first.
    ///
    /// # Errors
    /// The registry does not have a schema.
    pub fn open(
        producer: Arc<Producer>,
        registry: &Registry,
        shutdown: &Shutdown,
    ) -> Result<Option<Self>, Error> {
        let Some(creations) = Encoder::wait(registry, shutdown)? else { return Ok(None) };
        let Some(transfers) = Encoder::wait(registry, shutdown)? else { return Ok(None) };
        Ok(Some(Self { producer, creations, transfers, waiting: Arc::default() }))
    }

    /// Who waits, for the threads that read answers.
    pub fn waiting(&self) -> &Arc<Waiting> {
        &self.waiting
    }

    /// The value that asks for a transfer.
    pub fn encode(&self, command: &ConfirmMoneyTransfer) -> Vec<u8> {
        self.transfers.encode(command)
    }

    /// Asks for an account; `None` if no answer has come within `wait`.
    pub fn open_account(&self, command: &ConfirmAccountCreation, wait: Duration) -> Option<Answer> {
        let value = self.creations.encode(command);
        self.ask(ConfirmAccountCreation::TOPIC.name, command.id, value, wait)
    }

    /// Asks for a transfer by the `value` of its command; `None` if no answer has come within `wait`.
    pub fn transfer(&self, id: Uuid, value: Vec<u8>, wait: Duration) -> Option<Answer> {
        self.ask(ConfirmMoneyTransfer::TOPIC.name, id, value, wait)
    }

    fn ask(&self, topic: &'static str, id: Uuid, value: Vec<u8>, wait: Duration) -> Option<Answer> {
        let waiter = self.waiting.wait_for(id);
        // The answer shows that it was delivered, and so late that nobody waits any more it does no harm.
        drop(self.producer.send(Outgoing { topic, key: id.to_string(), value }));
        waiter.answer(wait)
    }
}

/// Who waits for which answer.
#[derive(Default)]
pub struct Waiting(Mutex<HashMap<Uuid, Vec<Arc<Slot>>>>);

#[derive(Default)]
struct Slot {
    answer: Mutex<Option<Answer>>,
    answered: Condvar,
}

/// Somebody who waits; no longer when dropped.
struct Waiter<'a> {
    waiting: &'a Waiting,
    id: Uuid,
    slot: Arc<Slot>,
}

impl Waiting {
    fn wait_for(&self, id: Uuid) -> Waiter<'_> {
        let slot = Arc::new(Slot::default());
        self.slots().entry(id).or_default().push(slot.clone());
        Waiter { waiting: self, id, slot }
    }

    fn is_awaited(&self, id: Uuid) -> bool {
        self.slots().contains_key(&id)
    }

    fn tell(&self, id: Uuid, answer: &Answer) {
        for slot in self.slots().get(&id).into_iter().flatten() {
            *slot.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer.clone());
            slot.answered.notify_one();
        }
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<Uuid, Vec<Arc<Slot>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiter<'_> {
    fn answer(&self, wait: Duration) -> Option<Answer> {
        let deadline = Instant::now() + wait;
        let mut answer = self.slot.answer.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if answer.is_some() {
                return answer.take();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            let waited = self.slot.answered.wait_timeout(answer, left);
            answer = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut slots = self.waiting.slots();
        if let Some(same) = slots.get_mut(&self.id) {
            same.retain(|slot| !Arc::ptr_eq(slot, &self.slot));
            if same.is_empty() {
                slots.remove(&self.id);
            }
        }
    }
}

/// A record that answers a command.
pub trait Answers: Record {
    /// What it says.
    fn answer(self) -> Answer;
}

impl Answers for AccountCreationConfirmed {
    fn answer(self) -> Answer {
        Answer::Opened { iban: self.iban, token: self.token }
    }
}

impl Answers for AccountCreationFailed {
    fn answer(self) -> Answer {
        Answer::Refused(self.reason)
    }
}

impl Answers for MoneyTransferConfirmed {
    fn answer(self) -> Answer {
        Answer::Moved
    }
}

impl Answers for MoneyTransferFailed {
    fn answer(self) -> Answer {
        Answer::Refused(self.reason)
    }
}

/// The answers of one topic, from now on.
pub struct Reader<R> {
    consumer: Consumer,
    decoder: Decoder<R>,
}

impl<R: Answers> Reader<R> {
    /// Finds the end of the topic, waiting for the brokers. `None` if the stop was asked for first.
    ///
    /// # Errors
    /// The cluster can't do this.
    pub fn open(
        kafka: &KafkaConfig,
        registry: &Registry,
        shutdown: &Shutdown,
    ) -> Result<Option<Self>, Error> {
        let topic = R::TOPIC.name;
        let mut bus = messaging::connect_until(kafka, shutdown);
        while !shutdown.requested() {
            match bus.log_range(topic, SLICE) {
                Ok(bounds) => {
                    let position = |(partition, (_, next))| Position { partition, next };
                    let positions = (0..).zip(bounds).map(position).collect();
                    let consumer = Consumer::start(kafka, topic, positions);
                    return Ok(Some(Self { consumer, decoder: Decoder::new(registry.clone()) }));
                }
                Err(err) if err.kind == ErrorKind::Config => return Err(err.into()),
                Err(err) => log::warn!(topic, error:% = Chain(&err); "waiting for the brokers"),
            }
        }
        Ok(None)
    }

    /// Hands answers to who waits for them, until the stop is asked for. A restart misses nothing: who does not know an answer
    /// asks again and gets the same.
    ///
    /// # Errors
    /// What can't be waited for.
    pub fn run(mut self, waiting: &Waiting, shutdown: &Shutdown) -> Result<(), Error> {
        while !shutdown.requested() {
            for chunk in self.consumer.poll(STOP_LOOK)? {
                for record in chunk.records {
                    let key = record.key.as_deref().and_then(|key| str::from_utf8(key).ok());
                    // Most answers are for others: the key tells, so that their values are left alone.
                    let Some(id) = key.and_then(|key| Uuid::try_parse(key).ok()) else { continue };
                    if !waiting.is_awaited(id) {
                        continue;
                    }
                    match self.decoder.decode(record.value.as_deref().unwrap_or_default()) {
                        Ok(answer) => waiting.tell(id, &answer.answer()),
                        Err(err) => {
                            let (topic, offset) = (R::TOPIC.name, record.offset);
                            log::warn!(topic, partition = chunk.partition, offset, error:% = Chain(&err); "answer can't be read");
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn all_who_wait_for_an_answer_get_it_and_others_do_not() {
        let waiting = Waiting::default();
        let (asked, other) = (Uuid::new_v4(), Uuid::new_v4());
        let waiters = [waiting.wait_for(asked), waiting.wait_for(asked)];
        let alone = waiting.wait_for(other);
        let refused = Answer::Refused("no".to_owned());
        thread::scope(|scope| {
            let patience = Duration::from_secs(600);
            let answers = waiters.map(|waiter| scope.spawn(move || waiter.answer(patience)));
            waiting.tell(asked, &refused);
            for answer in answers {
                assert!(answer.join().unwrap() == Some(refused.clone()));
            }
        });
        assert!(alone.answer(Duration::ZERO).is_none());
        assert!(!waiting.is_awaited(asked) && waiting.is_awaited(other));
        drop(alone);
        assert!(waiting.slots().is_empty());
    }
}
