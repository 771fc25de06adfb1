//! The fetch threads of a consumer.

use super::held::{HeldMemory, memory};
use super::metrics::PARKED_PARTITIONS;
use super::shared::{CALL_SLICE, Connect, no_such_partition, warn_outside_log};
use crate::client::KafkaClient;
use kafka_client::{Error, ErrorKind, PartitionData, Position};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// `max_wait_ms` of fetches.
const FETCH_WAIT: Duration = Duration::from_millis(500);
/// Time for which an undecodable partition is not fetched.
const PARKED: Duration = Duration::from_secs(30);
/// Minimum time between two fetches without data.
pub(super) const EMPTY_FETCH_MIN: Duration = Duration::from_millis(20);

/// The leader of a partition is unknown.
const NO_LEADER: i32 = -1;
/// The client fetches from all leaders at the same time.
const ALL_LEADERS: i32 = -2;

type Fetches = SyncSender<Result<Vec<PartitionData>, Error>>;

/// State shared by a consumer and its threads.
pub(super) struct Shared {
    pub topic: &'static str,
    connect: Connect,
    stop: AtomicBool,
    pub held: HeldMemory,
    /// When a broker last answered a fetch.
    answered: Mutex<Option<Instant>>,
    state: Mutex<State>,
}

struct State {
    partitions: BTreeMap<i32, PartitionState>,
    /// Leaders that have a thread. The first thread has [`NO_LEADER`] until it finds the leaders.
    leaders: HashSet<i32>,
}

struct PartitionState {
    next: i64,
    /// The leader whose thread reads the partition. Only that thread changes this field, between
    /// two fetches. With two threads, records would be duplicated or reordered.
    leader: i32,
    /// Set if the partition is undecodable. It is not fetched until then.
    parked_until: Option<Instant>,
}

impl Shared {
    pub fn new(topic: &'static str, connect: Connect, positions: Vec<Position>) -> Self {
        let state = |next| PartitionState { next, leader: NO_LEADER, parked_until: None };
        let partitions = positions.into_iter().map(|it| (it.partition, state(it.next))).collect();
        let state = Mutex::new(State { partitions, leaders: HashSet::new() });
        let (held, answered) = (HeldMemory::default(), Mutex::new(None));
        Self { topic, connect, stop: AtomicBool::new(false), held, answered, state }
    }

    /// Time since a broker last answered a fetch.
    pub fn silence(&self) -> Option<Duration> {
        let answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        answered.map(|at| at.elapsed())
    }

    fn answered_now(&self) {
        let now = Some(Instant::now());
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    pub fn has_no_partitions(&self) -> bool {
        self.state().partitions.is_empty()
    }

    /// Stops the threads. Returns the partitions.
    pub fn stop(&self) -> Vec<i32> {
        self.stop.store(true, Ordering::Relaxed);
        self.state().partitions.keys().copied().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn start_first_thread(self: &Arc<Self>, fetches: &Fetches) {
        self.start_thread(fetches, NO_LEADER);
    }

    /// Starts a thread for `leader`, unless there is already one.
    fn start_thread(self: &Arc<Self>, fetches: &Fetches, leader: i32) {
        if self.state().leaders.insert(leader) {
            let fetcher = Fetcher {
                client: (self.connect)(),
                shared: self.clone(),
                fetches: fetches.clone(),
                leader,
            };
            let thread = thread::Builder::new().name("fetch".into()).spawn(move || fetcher.run());
            thread.expect("a thread can be started for each broker");
        }
    }
}

/// A thread that fetches the partitions of one leader.
struct Fetcher {
    client: Box<dyn KafkaClient>,
    shared: Arc<Shared>,
    fetches: Fetches,
    leader: i32,
}

/// The reason why a thread ends.
enum End {
    /// The consumer was dropped, or other leaders have all partitions.
    Stopped,
    Failed(Error),
}

impl Fetcher {
    fn run(mut self) {
        let mut leaders_stale = true;
        while !self.shared.stop.load(Ordering::Relaxed) {
            match self.fetch(leaders_stale) {
                Ok(stale) => leaders_stale = stale,
                Err(End::Stopped) => return,
                Err(End::Failed(err)) => {
                    let topic = self.shared.topic;
                    log::error!(topic, error:% = err; "consumer failed, no longer reading");
                    // An error means that the consumer was dropped.
                    let _ = self.fetches.send(Err(err));
                    return;
                }
            }
        }
    }

    /// Fetches once. If the leaders are stale, refreshes them first. Returns true if they are stale
    /// after the fetch.
    fn fetch(&mut self, leaders_stale: bool) -> Result<bool, End> {
        if leaders_stale && self.leader != ALL_LEADERS {
            match self.find_leaders() {
                Err(err) if err.is_retryable() => return Ok(true),
                found => found.map_err(End::Failed)?,
            }
        }
        let positions = self.positions()?;
        if positions.is_empty() {
            thread::sleep(CALL_SLICE);
            return Ok(false);
        }
        if !self.shared.held.wait_for_space(CALL_SLICE) {
            return Ok(false);
        }
        let started = Instant::now();
        let fetched = match self.client.fetch(self.shared.topic, &positions, FETCH_WAIT) {
            Ok(fetched) => fetched,
            Err(err) if err.is_retryable() => return Ok(true),
            Err(err) => return Err(End::Failed(err)),
        };
        if fetched.iter().any(|data| data.error.is_none()) {
            self.shared.answered_now();
        }
        let (mut good, failed): (Vec<PartitionData>, Vec<PartitionData>) =
            fetched.into_iter().partition(|data| data.error.is_none());
        good.retain(|data| {
            positions.iter().any(|it| it.partition == data.partition && it.next != data.next)
        });
        if good.is_empty() {
            // Brokers delay empty responses. This limits the load if one does not.
            thread::sleep(EMPTY_FETCH_MIN.saturating_sub(started.elapsed()));
        } else {
            self.hand_over(good)?;
        }
        let mut leaders_stale = false;
        for data in failed {
            leaders_stale |= self.handle_partition_error(data)?;
        }
        Ok(leaders_stale)
    }

    /// Assigns each partition of this thread to the thread of its current leader, which may be this
    /// one.
    fn find_leaders(&mut self) -> Result<(), Error> {
        let topic = self.shared.topic;
        let mut leaders = self.client.leaders(topic, CALL_SLICE)?;
        if self.client.fetches_from_all() {
            leaders.fill(ALL_LEADERS);
        }
        let mut state = self.shared.state();
        let State { partitions, leaders: known } = &mut *state;
        for (&partition, it) in partitions.iter_mut().filter(|(_, it)| it.leader == self.leader) {
            let leader = usize::try_from(partition).ok().and_then(|index| leaders.get(index));
            it.leader =
                *leader.ok_or_else(|| no_such_partition(topic, partition, leaders.len()))?;
        }
        let mut new: BTreeSet<i32> = partitions.values().map(|it| it.leader).collect();
        new.retain(|leader| !known.contains(leader));
        if self.leader == NO_LEADER
            && let Some(leader) = new.pop_first()
        {
            known.remove(&NO_LEADER);
            known.insert(leader);
            self.leader = leader;
        }
        drop(state);
        new.into_iter().for_each(|leader| self.shared.start_thread(&self.fetches, leader));
        Ok(())
    }

    /// The positions of this thread's partitions, without undecodable ones. Ends the thread if it
    /// has no partitions left, unless the consumer never had any.
    fn positions(&self) -> Result<Vec<Position>, End> {
        let now = Instant::now();
        let mut state = self.shared.state();
        let mut own = state.partitions.iter().filter(|(_, it)| it.leader == self.leader).peekable();
        if own.peek().is_none() && !state.partitions.is_empty() {
            state.leaders.remove(&self.leader);
            return Err(End::Stopped);
        }
        let ready = own.filter(|(_, it)| it.parked_until.is_none_or(|until| until <= now));
        Ok(ready.map(|(&partition, it)| Position { partition, next: it.next }).collect())
    }

    /// Passes data to the caller, then advances the positions. In the reverse order, the thread of
    /// a new leader could pass later records first.
    fn hand_over(&self, fetched: Vec<PartitionData>) -> Result<(), End> {
        let topic = self.shared.topic;
        let positions: Vec<Position> =
            fetched.iter().map(|it| Position { partition: it.partition, next: it.next }).collect();
        self.shared.held.add(memory(&fetched));
        self.fetches.send(Ok(fetched)).map_err(|_| End::Stopped)?;
        let mut state = self.shared.state();
        for Position { partition, next } in positions {
            let Some(it) = state.partitions.get_mut(&partition) else { continue };
            it.next = next;
            if it.parked_until.take().is_some() {
                PARKED_PARTITIONS.with_label_values(&[topic, &partition.to_string()]).set(0);
                log::info!(topic, partition, offset = next; "partition decodable again, resuming");
            }
        }
        Ok(())
    }

    /// Handles the error of one partition. Returns true if its leader may have changed.
    fn handle_partition_error(&mut self, data: PartitionData) -> Result<bool, End> {
        let topic = self.shared.topic;
        let PartitionData { partition, next: offset, .. } = data;
        let Some(err) = data.error else { return Ok(false) };
        match err.kind {
            ErrorKind::Config | ErrorKind::Fenced => return Err(End::Failed(err)),
            ErrorKind::Retry | ErrorKind::Unknown | ErrorKind::Message => return Ok(true),
            ErrorKind::Position => match self.client.log_range(topic, CALL_SLICE) {
                Ok(ranges) => {
                    let range = usize::try_from(partition).ok().and_then(|it| ranges.get(it));
                    if let Some(range) = range {
                        self.reset(partition, offset, *range);
                    }
                }
                Err(err) if err.is_retryable() => return Ok(true),
                Err(err) => return Err(End::Failed(err)),
            },
            ErrorKind::Undecodable => {
                log::error!(
                    topic, partition, offset, error:% = err, retry_s = PARKED.as_secs();
                    "partition is undecodable, reading only the others"
                );
                PARKED_PARTITIONS.with_label_values(&[topic, &partition.to_string()]).set(1);
                if let Some(it) = self.shared.state().partitions.get_mut(&partition) {
                    it.parked_until = Some(Instant::now() + PARKED);
                }
            }
        }
        Ok(false)
    }

    fn reset(&self, partition: i32, next: i64, range: (i64, i64)) {
        warn_outside_log(self.shared.topic, partition, next, range);
        if let Some(it) = self.shared.state().partitions.get_mut(&partition) {
            it.next = range.0;
        }
    }
}
