//! Reads what the bank tells.

use crate::stack::{PATIENCE, Stack};
use bank::topology::Topic;
use messaging::{FetchedRecord, KafkaClient, Position};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A record as it stands in a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Topic name.
    pub topic: &'static str,
    /// Partition, from 0.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Key bytes.
    pub key: Vec<u8>,
    /// Value bytes; none if it is null.
    pub value: Vec<u8>,
}

/// Records of several topics, read on a thread each from where the topics ended when it was made.
pub struct Tape {
    told: Receiver<Told>,
    positions: HashMap<(&'static str, i32), i64>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Tape {
    /// Reads what comes from now on.
    pub fn from_now(stack: &Stack, topics: &[Topic]) -> Self {
        Self::start(stack, topics, |(_, end)| end)
    }

    /// Reads what is there, and what comes.
    pub fn from_the_start(stack: &Stack, topics: &[Topic]) -> Self {
        Self::start(stack, topics, |(first, _)| first)
    }

    fn start(stack: &Stack, topics: &[Topic], from: fn((i64, i64)) -> i64) -> Self {
        let (sender, told) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let mut starts = HashMap::new();
        let reader = |&topic: &Topic| {
            let mut bus = stack.bus();
            let bounds = bus.log_range(topic.name, PATIENCE).expect("the topic is there");
            let at = |(partition, bounds)| Position { partition, next: from(bounds) };
            let positions: Vec<Position> = (0..).zip(bounds).map(at).collect();
            starts.extend(positions.iter().map(|it| ((topic.name, it.partition), it.next)));
            let reader = Reader { bus, topic, positions, sender: sender.clone() };
            let stop = stop.clone();
            thread::spawn(move || reader.run(&stop))
        };
        let threads = topics.iter().map(reader).collect();
        Self { told, positions: starts, stop, threads }
    }

    /// The next record of any topic; `None` if there is none within `wait`.
    ///
    /// # Panics
    /// A reader has.
    pub fn next(&mut self, wait: Duration) -> Option<Told> {
        match self.told.recv_timeout(wait) {
            Ok(told) => {
                self.positions.insert((told.topic, told.partition), told.offset + 1);
                Some(told)
            }
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => panic!("no reader is left: see above"),
        }
    }
}

impl Tape {
    /// The next offset that [`Self::next`] will give, of each topic and partition.
    pub fn positions(&self) -> &HashMap<(&'static str, i32), i64> {
        &self.positions
    }
}

impl Drop for Tape {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

struct Reader {
    bus: Box<dyn KafkaClient>,
    topic: Topic,
    positions: Vec<Position>,
    sender: Sender<Told>,
}

impl Reader {
    fn run(mut self, stop: &AtomicBool) {
        const WAIT: Duration = Duration::from_millis(100);
        while !stop.load(Ordering::Relaxed) {
            // A cluster in trouble is asked again; the bus spaces the attempts.
            let Ok(chunks) = self.bus.fetch(self.topic.name, &self.positions, WAIT) else {
                continue;
            };
            for chunk in chunks.into_iter().filter(|chunk| chunk.error.is_none()) {
                let position = self.positions.iter_mut().find(|it| it.partition == chunk.partition);
                position.expect("it was asked for").next = chunk.next;
                for FetchedRecord { offset, key, value, .. } in chunk.records {
                    let (topic, partition) = (self.topic.name, chunk.partition);
                    let (key, value) = (key.unwrap_or_default(), value.unwrap_or_default());
                    let _ = self.sender.send(Told { topic, partition, offset, key, value });
                }
            }
        }
    }
}
