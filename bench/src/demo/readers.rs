//! Threads that read the topics of a demo, each its own, into one channel.

use super::books::Event;
use crate::error::Error;
use crate::topic_reader::{Cluster, TopicReader};
use avro::Record;
use bank::topology::Topic;
use messaging::Position;
use std::collections::HashMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// Batches on their way to the books: a reader that is ahead waits.
const BATCHES_MAX: usize = 16;
/// How long a poll waits, and so how long a thread outlives the readers.
const POLL: Duration = Duration::from_millis(500);

/// Records of one topic, read at once.
pub struct EventBatch {
    /// When they were read.
    pub at: Instant,
    /// In offset order within each partition.
    pub events: Vec<Event>,
}

/// The threads, which end after this is dropped.
pub struct Readers(Receiver<Result<EventBatch, Error>>);

impl Readers {
    /// Reads from `positions` of each topic on.
    pub fn start(cluster: &Cluster, positions: &HashMap<Topic, Vec<Position>>) -> Self {
        let (batches, inbox) = sync_channel(BATCHES_MAX);
        let start = Starter { cluster, positions, batches };
        start.reader(Event::Open);
        start.reader(Event::Transfer);
        start.reader(Event::Opened);
        start.reader(Event::NotOpened);
        start.reader(Event::Confirmed);
        start.reader(Event::Failed);
        start.reader(Event::Changed);
        Self(inbox)
    }

    /// The next batch, or `None` if there is none by `end`.
    pub fn next(&self, end: Instant) -> Result<Option<EventBatch>, Error> {
        // Under a load that never lets the channel run dry, the end still comes.
        let wait = end.saturating_duration_since(Instant::now());
        if wait.is_zero() {
            return Ok(None);
        }
        match self.0.recv_timeout(wait) {
            Ok(batch) => batch.map(Some),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                unreachable!("a thread sends its error before it ends")
            }
        }
    }
}

struct Starter<'a> {
    cluster: &'a Cluster,
    positions: &'a HashMap<Topic, Vec<Position>>,
    batches: SyncSender<Result<EventBatch, Error>>,
}

impl Starter<'_> {
    fn reader<R: Record + 'static>(&self, event: fn(R) -> Event) {
        let topic = R::TOPIC;
        let positions = self.positions.get(&topic).cloned().unwrap_or_default();
        let mut tap = TopicReader::<R>::from(self.cluster, positions);
        let batches = self.batches.clone();
        let run = move || {
            loop {
                let mut events = Vec::new();
                let read = tap.poll(POLL, |record| events.push(event(record)));
                let ends = read.is_err();
                // An empty batch is sent too: that is how a thread notices that the receiver is
                // gone.
                if batches.send(read.map(|at| EventBatch { at, events })).is_err() || ends {
                    return;
                }
            }
        };
        thread::Builder::new()
            .name(topic.name.into())
            .spawn(run)
            .expect("a thread can be started: there are seven");
    }
}
