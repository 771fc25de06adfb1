//! The last stage, on its own thread: produces the records of the outcomes with acks=all, then
//! commits the offsets of their commands. Batches stay in order.

use crate::command_topic::CommandTopic;
use crate::error::Error;
use crate::failpoint::{self, Point};
use crate::metrics;
use avro::Record;
use messaging::consumer::COMMIT_INTERVAL;
use messaging::producer::{Outgoing, ProducerConfig, Sender as KafkaSender};
use messaging::{ErrorKind, KafkaClient, Position};
use service::shutdown::Shutdown;
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvError, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};
use std::{mem, thread};

/// The consumer group that the handler commits its offsets for.
pub const GROUP: &str = "command-handler";

/// Deadline of one commit call. A shutdown request is noticed at most this late.
const COMMIT_SLICE: Duration = Duration::from_millis(200);
/// Time for further commit attempts after shutdown was requested.
const COMMIT_GRACE: Duration = Duration::from_millis(300);

/// Batches handed over and not yet published: one in production, and the next one queued.
const IN_FLIGHT_MAX: usize = 2;

/// A batch whose outcomes are committed in the database.
pub struct DecidedBatch<O> {
    /// Outcomes, in the order of their commands.
    pub outcomes: Vec<O>,
    /// Records for the topic dead_letter.
    pub dead_letters: Vec<Outgoing>,
    /// Offset to commit for each partition.
    pub positions: BTreeMap<i32, i64>,
}

/// A task of the publishing thread.
enum Task<O> {
    Publish(DecidedBatch<O>),
    /// Commits the offsets of all published batches at once.
    Commit,
}

/// Publishes batches in the order in which they are handed over.
pub struct Publisher<O> {
    tasks: Sender<Task<O>>,
    /// One result per task.
    done: Receiver<Result<(), Error>>,
    in_flight: usize,
    /// A batch was handed over after the last [`Task::Commit`].
    uncommitted: bool,
    failed: bool,
}

impl<O: Send + 'static> Publisher<O> {
    /// Starts the thread, which ends when the publisher is dropped.
    pub fn start<T: CommandTopic<Outcome = O>>(
        encoders: T,
        config: &ProducerConfig,
        shutdown: &Shutdown,
    ) -> Self {
        let (tasks, inbox) = channel();
        let (outbox, done) = channel();
        let writer = OutcomeWriter {
            encoders,
            producer: KafkaSender::new(config, shutdown),
            offsets: messaging::connect_until(&config.kafka, shutdown),
            published: BTreeMap::new(),
            committed: Instant::now(),
            shutdown: shutdown.clone(),
        };
        thread::Builder::new()
            .name(format!("out-{}", T::Command::TOPIC.name))
            .spawn(move || writer.run(&inbox, &outbox))
            .expect("a thread can be started: their number is small and fixed");
        Self { tasks, done, in_flight: 0, uncommitted: false, failed: false }
    }

    /// Hands over a batch once fewer than [`IN_FLIGHT_MAX`] batches are in flight. Until then it
    /// calls `waiting` every second.
    ///
    /// # Errors
    /// The error of `waiting`, or the error that ended the thread.
    pub fn hand_over(
        &mut self,
        decided: DecidedBatch<O>,
        mut waiting: impl FnMut() -> Result<(), Error>,
    ) -> Result<(), Error> {
        while self.in_flight >= IN_FLIGHT_MAX {
            if !self.one_done(Duration::from_secs(1))? {
                waiting()?;
            }
        }
        self.uncommitted = true;
        self.send(Task::Publish(decided));
        Ok(())
    }

    fn send(&mut self, task: Task<O>) {
        self.in_flight += 1;
        // `send` fails only after the thread has ended. Its error is the next result.
        let _ = self.tasks.send(task);
    }

    /// True after a batch could not be published. No later batch may be published then, because its
    /// offsets would move past those of the failed batch.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// Waits until all batches are published and their offsets are committed. Returns false if that
    /// does not happen before `deadline`.
    ///
    /// # Errors
    /// The error that ended the thread.
    pub fn flush(&mut self, deadline: Option<Instant>) -> Result<bool, Error> {
        if mem::take(&mut self.uncommitted) {
            self.send(Task::Commit);
        }
        while self.in_flight > 0 {
            if self.failed {
                return Ok(false);
            }
            let wait = deadline.map_or(Duration::from_secs(1), |deadline| {
                deadline.saturating_duration_since(Instant::now())
            });
            if !self.one_done(wait)? && deadline.is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn one_done(&mut self, wait: Duration) -> Result<bool, Error> {
        match self.done.recv_timeout(wait) {
            Ok(done) => {
                self.in_flight -= 1;
                self.failed = done.is_err();
                done.map(|()| true)
            }
            Err(RecvTimeoutError::Timeout) => Ok(false),
            Err(RecvTimeoutError::Disconnected) => {
                unreachable!(
                    "the thread sends its error before it ends, and no call waits after that"
                )
            }
        }
    }
}

/// Produces the records of outcomes and commits the offsets of their commands.
struct OutcomeWriter<T> {
    encoders: T,
    producer: KafkaSender,
    offsets: Box<dyn KafkaClient>,
    /// Next offset of each partition with published outcomes and an uncommitted offset.
    published: BTreeMap<i32, i64>,
    committed: Instant,
    shutdown: Shutdown,
}

impl<T: CommandTopic> OutcomeWriter<T> {
    fn run(mut self, inbox: &Receiver<Task<T::Outcome>>, outbox: &Sender<Result<(), Error>>) {
        loop {
            let done = match self.next(inbox) {
                Ok(Task::Publish(batch)) => self.publish(batch),
                Ok(Task::Commit) => self.commit(),
                // A commit is due. Its error is reported as the result of the next task.
                Err(RecvTimeoutError::Timeout) => match self.commit() {
                    Ok(()) => continue,
                    failed => failed,
                },
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let ends = done.is_err();
            if outbox.send(done).is_err() || ends {
                return;
            }
        }
    }

    /// Returns the next task, or [`RecvTimeoutError::Timeout`] when a commit is due first.
    fn next(
        &self,
        inbox: &Receiver<Task<T::Outcome>>,
    ) -> Result<Task<T::Outcome>, RecvTimeoutError> {
        if self.published.is_empty() {
            return inbox.recv().map_err(|RecvError| RecvTimeoutError::Disconnected);
        }
        match COMMIT_INTERVAL.checked_sub(self.committed.elapsed()) {
            Some(left) => inbox.recv_timeout(left),
            None => Err(RecvTimeoutError::Timeout),
        }
    }

    fn publish(&mut self, batch: DecidedBatch<T::Outcome>) -> Result<(), Error> {
        let started = Instant::now();
        let DecidedBatch { outcomes, dead_letters, positions } = batch;
        let mut records = dead_letters;
        records.reserve(outcomes.len() * 3);
        for outcome in outcomes {
            self.encoders.encode(outcome, &mut records);
        }
        failpoint::reach(Point::Produce);
        for (result, record) in self.producer.send_all(&records).into_iter().zip(&records) {
            match result {
                Ok(()) => {}
                // The record exceeds `max.message.bytes`. Only a dead letter can, because the size
                // of commands is limited.
                Err(err) if err.kind == ErrorKind::Message => {
                    log::error!(
                        topic = record.topic, key = record.key.as_str(), error:% = err;
                        "record dropped: too large for its topic"
                    );
                }
                Err(err) => return Err(err.into()),
            }
        }
        metrics::took(T::Command::TOPIC.name, "produce", started.elapsed());
        failpoint::reach(Point::Offsets);
        self.published.extend(positions);
        Ok(())
    }

    /// Commits the offsets of the published batches.
    fn commit(&mut self) -> Result<(), Error> {
        let published = mem::take(&mut self.published);
        let positions: Vec<Position> =
            published.into_iter().map(|(partition, next)| Position { partition, next }).collect();
        commit(&mut *self.offsets, T::Command::TOPIC.name, &positions, &self.shutdown)?;
        self.committed = Instant::now();
        Ok(())
    }
}

/// Commits `positions`, with retries until shutdown. Publishing waits meanwhile. After a shutdown
/// request it retries for [`COMMIT_GRACE`]. The client has a backoff and logs each failed attempt.
fn commit(
    client: &mut dyn KafkaClient,
    topic: &str,
    positions: &[Position],
    shutdown: &Shutdown,
) -> Result<(), messaging::Error> {
    let mut give_up_at = None;
    loop {
        let Err(err) = client.commit(GROUP, topic, positions, COMMIT_SLICE) else { return Ok(()) };
        let now = Instant::now();
        let gives_up = shutdown.requested() && *give_up_at.get_or_insert(now + COMMIT_GRACE) <= now;
        if err.kind == ErrorKind::Config || gives_up {
            return Err(err);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use messaging::{Batch, PartitionData};

    /// A cluster that rejects the first commits and accepts the later ones.
    struct UnavailableCluster {
        refused_commits: u32,
    }

    impl KafkaClient for UnavailableCluster {
        fn commit(
            &mut self,
            _: &str,
            _: &str,
            _: &[Position],
            within: Duration,
        ) -> messaging::Result<()> {
            if self.refused_commits == 0 {
                return Ok(());
            }
            self.refused_commits -= 1;
            thread::sleep(within);
            Err(messaging::Error {
                kind: ErrorKind::Retry,
                code: 0,
                text: "unavailable".to_owned(),
            })
        }

        fn leaders(&mut self, _: &str, _: Duration) -> messaging::Result<Vec<i32>> {
            unreachable!("the test only commits")
        }

        fn produce(&mut self, _: &[Batch<'_>], _: Duration) -> Vec<messaging::Result<i64>> {
            unreachable!("the test only commits")
        }

        fn fetch(
            &mut self,
            _: &str,
            _: &[Position],
            _: Duration,
        ) -> messaging::Result<Vec<PartitionData>> {
            unreachable!("the test only commits")
        }

        fn log_range(&mut self, _: &str, _: Duration) -> messaging::Result<Vec<(i64, i64)>> {
            unreachable!("the test only commits")
        }

        fn committed(
            &mut self,
            _: &str,
            _: &str,
            _: Duration,
        ) -> messaging::Result<Vec<Option<i64>>> {
            unreachable!("the test only commits")
        }

        fn fetches_from_all(&self) -> bool {
            true
        }
    }

    #[test]
    fn offsets_are_committed_after_an_outage() {
        let mut client = UnavailableCluster { refused_commits: 3 };
        commit(&mut client, "t", &[], &Shutdown::default()).unwrap();
        assert_eq!(client.refused_commits, 0);
    }

    #[test]
    fn pending_commit_does_not_delay_shutdown() {
        let shutdown = Shutdown::default();
        let requested = thread::spawn({
            let shutdown = shutdown.clone();
            move || {
                thread::sleep(Duration::from_millis(50));
                shutdown.request();
                Instant::now()
            }
        });
        let end =
            commit(&mut UnavailableCluster { refused_commits: u32::MAX }, "t", &[], &shutdown);
        assert_eq!(end.unwrap_err().kind, ErrorKind::Retry);
        assert!(requested.join().unwrap().elapsed() < Duration::from_secs(1));
    }
}
