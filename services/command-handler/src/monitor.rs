//! Watches a command topic on a thread of its own: whether Kafka answers, how many partitions the
//! topic has, and whether it is still the same topic. It also commits offsets to Kafka. The handler
//! does not need them: they are for displays of the lag.

use crate::publish::Published;
use messaging::{KafkaClient, KafkaConfig, Position, TopicDescription, TopicId};
use service::shutdown::Shutdown;
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The consumer group that the handler commits offsets for.
pub const GROUP: &str = "command-handler";

/// Interval of requests for the topic and of commits.
const INTERVAL: Duration = Duration::from_secs(1);
/// Time limit of each request, and of the last commit.
const WITHIN: Duration = Duration::from_millis(200);

/// The last known state of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicState {
    pub partitions: i32,
    /// `None` if the broker has no topic ids.
    pub id: Option<TopicId>,
    answered: Instant,
}

impl TopicState {
    /// Time since Kafka reported it.
    pub fn age(&self) -> Duration {
        self.answered.elapsed()
    }
}

/// The thread that watches a topic.
pub struct TopicMonitor {
    state: Arc<Mutex<Option<TopicState>>>,
    stop: SyncSender<()>,
    stopped: Receiver<()>,
}

impl TopicMonitor {
    /// Starts the thread, which ends with [`Self::stop`].
    pub fn start(
        kafka: &KafkaConfig,
        topic: &'static str,
        published: Arc<Published>,
        shutdown: &Shutdown,
    ) -> Self {
        let state = Arc::default();
        let (stop, stop_requested) = sync_channel(1);
        let (done, stopped) = sync_channel(1);
        let mut watch = Watch {
            client: messaging::connect_until(kafka, shutdown),
            topic,
            state: Arc::clone(&state),
            published,
            uncommitted: BTreeMap::new(),
            fails: false,
        };
        thread::Builder::new()
            .name(format!("see-{topic}"))
            .spawn(move || {
                watch.look();
                while stop_requested.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                    watch.look();
                    watch.commit();
                }
                watch.commit();
                let _ = done.send(());
            })
            .expect("a thread can be started: their number is small and fixed");
        Self { state, stop, stopped }
    }

    /// The last known state; `None` before Kafka's first answer.
    pub fn topic(&self) -> Option<TopicState> {
        *lock(&self.state)
    }

    /// Commits what is published and ends the thread. Waits for it a moment only.
    pub fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.stopped.recv_timeout(WITHIN);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Watch {
    client: Box<dyn KafkaClient>,
    topic: &'static str,
    state: Arc<Mutex<Option<TopicState>>>,
    published: Arc<Published>,
    uncommitted: BTreeMap<i32, i64>,
    /// True if the last commit failed.
    fails: bool,
}

impl Watch {
    /// Asks for the topic. The client logs why Kafka does not answer.
    fn look(&mut self) {
        let described = self.client.describe_topic(self.topic, WITHIN);
        let Ok(TopicDescription { id, leaders }) = described else { return };
        let partitions = i32::try_from(leaders.len()).unwrap_or(i32::MAX);
        *lock(&self.state) = Some(TopicState { partitions, id, answered: Instant::now() });
    }

    fn commit(&mut self) {
        self.uncommitted.append(&mut self.published.take_uncommitted());
        if self.uncommitted.is_empty() {
            return;
        }
        let position = |(&partition, &next): (&i32, &i64)| Position { partition, next };
        let positions: Vec<Position> = self.uncommitted.iter().map(position).collect();
        let failed = match self.client.commit(GROUP, self.topic, &positions, WITHIN) {
            Ok(()) => {
                self.uncommitted.clear();
                None
            }
            Err(err) => Some(err),
        };
        let failed_before = std::mem::replace(&mut self.fails, failed.is_some());
        match failed {
            Some(err) if !failed_before => log::warn!(
                topic = self.topic, group = GROUP, error:% = err;
                "offsets not committed to Kafka: only displays of the lag need them"
            ),
            None if failed_before => {
                log::info!(topic = self.topic, group = GROUP; "offsets committed to Kafka again");
            }
            Some(_) | None => {}
        }
    }
}
