//! The last stage: outcomes become records, are written with acks=all, and after that their offsets are committed, on a thread
//! of its own, in the order of the batches.

use crate::desk::Desk;
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

/// Consumer group of the handler's offsets.
pub const GROUP: &str = "command-handler";

/// Time for retries of a commit in each call to the bus, which bounds how late the stop is noticed.
const COMMIT_SLICE: Duration = Duration::from_millis(200);
/// Time for retries of a commit once the stop was asked for.
const COMMIT_GRACE: Duration = Duration::from_millis(300);

/// Batches handed over and not yet done: one is being written while the next is encoded.
const IN_FLIGHT_MAX: usize = 2;

/// A batch whose outcomes are committed in the database.
pub struct Decided<O> {
    /// In the order of the commands.
    pub outcomes: Vec<O>,
    /// For dead_letter.
    pub letters: Vec<Outgoing>,
    /// Offsets to commit, by partition.
    pub positions: BTreeMap<i32, i64>,
}

/// What the thread is given.
enum Work<O> {
    Tell(Decided<O>),
    /// The offsets of all before, at once.
    Commit,
}

/// Tells outcomes in the order they are handed over.
pub struct Publisher<O> {
    work: Sender<Work<O>>,
    /// An answer to each piece of work.
    done: Receiver<Result<(), Error>>,
    in_flight: usize,
    /// Batches were handed over after the last [`Work::Commit`].
    uncommitted: bool,
    failed: bool,
}

impl<O: Send + 'static> Publisher<O> {
    /// Starts the thread; it ends when the publisher is dropped.
    pub fn start<D: Desk<Outcome = O>>(
        desk: D,
        config: &ProducerConfig,
        shutdown: &Shutdown,
    ) -> Self {
        let (work, inbox) = channel();
        let (outbox, done) = channel();
        let teller = Teller {
            desk,
            sender: KafkaSender::new(config, shutdown),
            offsets: messaging::connect_until(&config.kafka, shutdown),
            told: BTreeMap::new(),
            committed: Instant::now(),
            shutdown: shutdown.clone(),
        };
        thread::Builder::new()
            .name(format!("out-{}", D::Command::TOPIC.name))
            .spawn(move || teller.run(&inbox, &outbox))
            .expect("a thread can be started: the service has a handful");
        Self { work, done, in_flight: 0, uncommitted: false, failed: false }
    }

    /// Hands over a batch, once there is room; `waiting` is called each second until then.
    ///
    /// # Errors
    /// Those of `waiting`, or what stopped the publishing for good.
    pub fn hand_over(
        &mut self,
        decided: Decided<O>,
        mut waiting: impl FnMut() -> Result<(), Error>,
    ) -> Result<(), Error> {
        while self.in_flight >= IN_FLIGHT_MAX {
            if !self.one_done(Duration::from_secs(1))? {
                waiting()?;
            }
        }
        self.uncommitted = true;
        self.send(Work::Tell(decided));
        Ok(())
    }

    fn send(&mut self, work: Work<O>) {
        self.in_flight += 1;
        // A thread that has ended has left its error, which comes next.
        let _ = self.work.send(work);
    }

    /// True after an error of the publishing: nothing more is told. A later batch must not be, for its offsets would move past
    /// those of the one that failed.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// Waits until all that was handed over is told and its offsets are committed, or until `deadline`; true if it is.
    ///
    /// # Errors
    /// What stopped the publishing for good.
    pub fn flush(&mut self, deadline: Option<Instant>) -> Result<bool, Error> {
        if mem::take(&mut self.uncommitted) {
            self.send(Work::Commit);
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
                    "the thread sends its error before it ends, and after that nobody waits"
                )
            }
        }
    }
}

struct Teller<D> {
    desk: D,
    sender: KafkaSender,
    offsets: Box<dyn KafkaClient>,
    /// Where each partition goes on, by what is told and not committed yet.
    told: BTreeMap<i32, i64>,
    committed: Instant,
    shutdown: Shutdown,
}

impl<D: Desk> Teller<D> {
    fn run(mut self, inbox: &Receiver<Work<D::Outcome>>, outbox: &Sender<Result<(), Error>>) {
        loop {
            let done = match self.next(inbox) {
                Ok(Work::Tell(decided)) => self.tell(decided),
                Ok(Work::Commit) => self.commit(),
                // A commit that is due; its error answers the next piece of work.
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

    /// The next piece of work; [`RecvTimeoutError::Timeout`] when a commit is due first.
    fn next(
        &self,
        inbox: &Receiver<Work<D::Outcome>>,
    ) -> Result<Work<D::Outcome>, RecvTimeoutError> {
        if self.told.is_empty() {
            return inbox.recv().map_err(|RecvError| RecvTimeoutError::Disconnected);
        }
        match COMMIT_INTERVAL.checked_sub(self.committed.elapsed()) {
            Some(left) => inbox.recv_timeout(left),
            None => Err(RecvTimeoutError::Timeout),
        }
    }

    fn tell(&mut self, decided: Decided<D::Outcome>) -> Result<(), Error> {
        let started = Instant::now();
        let Decided { outcomes, letters, positions } = decided;
        let mut records = letters;
        records.reserve(outcomes.len() * 3);
        for outcome in outcomes {
            self.desk.tell(outcome, &mut records);
        }
        failpoint::reach(Point::Produce);
        for (result, record) in self.sender.send_all(&records).into_iter().zip(&records) {
            match result {
                Ok(()) => {}
                // Stored and known, but too large to tell: only a dead letter can be, since commands are bounded.
                Err(err) if err.kind == ErrorKind::Message => {
                    log::error!(topic = record.topic, key = record.key.as_str(), error:% = err; "record dropped");
                }
                Err(err) => return Err(err.into()),
            }
        }
        metrics::took(D::Command::TOPIC.name, "produce", started.elapsed());
        failpoint::reach(Point::Offsets);
        self.told.extend(positions);
        Ok(())
    }

    /// Commits what is told.
    fn commit(&mut self) -> Result<(), Error> {
        let told = mem::take(&mut self.told);
        let positions: Vec<Position> =
            told.into_iter().map(|(partition, next)| Position { partition, next }).collect();
        commit(&mut *self.offsets, D::Command::TOPIC.name, &positions, &self.shutdown)?;
        self.committed = Instant::now();
        Ok(())
    }
}

/// Commits, trying again for as long as the service lives: the next batch would only move the offsets further. After the stop was
/// asked for it gives up within a second. The bus spaces the attempts and logs them.
fn commit(
    bus: &mut dyn KafkaClient,
    topic: &str,
    positions: &[Position],
    shutdown: &Shutdown,
) -> Result<(), messaging::Error> {
    let mut give_up_at = None;
    loop {
        let Err(err) = bus.commit(GROUP, topic, positions, COMMIT_SLICE) else { return Ok(()) };
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

    /// A cluster that is away, and after some commits is back.
    struct Away {
        commits: u32,
    }

    impl KafkaClient for Away {
        fn commit(
            &mut self,
            _: &str,
            _: &str,
            _: &[Position],
            within: Duration,
        ) -> messaging::Result<()> {
            if self.commits == 0 {
                return Ok(());
            }
            self.commits -= 1;
            thread::sleep(within);
            Err(messaging::Error { kind: ErrorKind::Retry, code: 0, text: "away".to_owned() })
        }

        fn leaders(&mut self, _: &str, _: Duration) -> messaging::Result<Vec<i32>> {
            unreachable!("only commits are asked for")
        }

        fn produce(&mut self, _: &[Batch<'_>], _: Duration) -> Vec<messaging::Result<i64>> {
            unreachable!("only commits are asked for")
        }

        fn fetch(
            &mut self,
            _: &str,
            _: &[Position],
            _: Duration,
        ) -> messaging::Result<Vec<PartitionData>> {
            unreachable!("only commits are asked for")
        }

        fn log_range(&mut self, _: &str, _: Duration) -> messaging::Result<Vec<(i64, i64)>> {
            unreachable!("only commits are asked for")
        }

        fn committed(
            &mut self,
            _: &str,
            _: &str,
            _: Duration,
        ) -> messaging::Result<Vec<Option<i64>>> {
            unreachable!("only commits are asked for")
        }

        fn fetches_from_all(&self) -> bool {
            true
        }
    }

    #[test]
    fn offsets_are_committed_once_kafka_is_back() {
        let mut bus = Away { commits: 3 };
        commit(&mut bus, "t", &[], &Shutdown::default()).unwrap();
        assert_eq!(bus.commits, 0);
    }

    #[test]
    fn a_commit_does_not_hold_up_the_stop() {
        let shutdown = Shutdown::default();
        let asked = thread::spawn({
            let shutdown = shutdown.clone();
            move || {
                thread::sleep(Duration::from_millis(50));
                shutdown.request();
                Instant::now()
            }
        });
        let end = commit(&mut Away { commits: u32::MAX }, "t", &[], &shutdown);
        assert_eq!(end.unwrap_err().kind, ErrorKind::Retry);
        assert!(asked.join().unwrap().elapsed() < Duration::from_secs(1));
    }
}
