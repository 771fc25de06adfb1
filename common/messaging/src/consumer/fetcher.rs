//! The fetch threads of a consumer.

use super::held::{HeldMemory, memory};
use super::metrics::PARKED_PARTITIONS;
use super::shared::{CALL_SLICE, Connect, no_such_partition, recreated, warn_outside_log};
use crate::client::KafkaClient;
use kafka_client::{Error, ErrorKind, PartitionData, Position, TopicDescription, TopicId};
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
/// Time after which a thread describes the topic again, to notice a new topic id and new
/// partitions. It also does so after each failed fetch: the deletion of a topic fails the fetches
/// that are in flight.
pub(super) const TOPIC_MAX_AGE: Duration = Duration::from_secs(5);
/// The same time while one of the thread's partitions has no leader.
const LEADERLESS_MAX_AGE: Duration = Duration::from_secs(1);

/// The leader of a partition is unknown.
const NO_LEADER: i32 = -1;
/// The client fetches from all leaders at the same time.
const ALL_LEADERS: i32 = -2;

type Fetches = SyncSender<Result<Vec<PartitionData>, Error>>;

/// What a consumer reads of its topic.
pub(super) struct Subscription {
    pub topic: &'static str,
    pub positions: Vec<Position>,
    /// The topic id that the positions belong to. `None`: the first one that is seen.
    pub topic_id: Option<TopicId>,
    pub if_recreated: IfRecreated,
    pub new_partitions: NewPartitions,
}

/// What happens when the topic was deleted and created again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IfRecreated {
    /// The consumer ends with an error.
    Fail,
    /// The consumer reads the new topic from its beginning.
    ReadNew,
}

/// What happens with partitions that are added to the topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NewPartitions {
    Ignore,
    /// The consumer reads them from offset 0.
    Read,
}

/// State shared by a consumer and its threads.
pub(super) struct Shared {
    pub topic: &'static str,
    connect: Connect,
    if_recreated: IfRecreated,
    new_partitions: NewPartitions,
    stop: AtomicBool,
    pub held: HeldMemory,
    /// When a broker last answered a fetch.
    answered: Mutex<Option<Instant>>,
    state: Mutex<State>,
}

struct State {
    topic_id: Option<TopicId>,
    /// Increases with each new topic id. A fetch that began before does not change positions.
    topics: u64,
    /// The number of partitions of the topic when it was last described.
    partition_count: Option<usize>,
    partitions: BTreeMap<i32, PartitionState>,
    /// Leaders that have a thread. The first thread has [`NO_LEADER`] until it finds the leaders.
    leaders: HashSet<i32>,
}

struct PartitionState {
    next: i64,
    /// The leader whose thread reads the partition. Only that thread changes this field, between
    /// two fetches. With two threads, records would be duplicated or reordered.
    leader: i32,
    /// The partition has no leader. It is not fetched, so that it does not delay the others.
    leaderless: bool,
    /// Set if the partition is undecodable. It is not fetched until then.
    parked_until: Option<Instant>,
}

impl PartitionState {
    fn new(next: i64, leader: i32) -> Self {
        Self { next, leader, leaderless: false, parked_until: None }
    }
}

impl Shared {
    pub fn new(connect: Connect, subscription: Subscription) -> Self {
        let Subscription { topic, positions, topic_id, if_recreated, new_partitions } =
            subscription;
        let state = |it: Position| (it.partition, PartitionState::new(it.next, NO_LEADER));
        let state = State {
            topic_id,
            topics: 0,
            partition_count: None,
            partitions: positions.into_iter().map(state).collect(),
            leaders: HashSet::new(),
        };
        Self {
            topic,
            connect,
            if_recreated,
            new_partitions,
            stop: AtomicBool::new(false),
            held: HeldMemory::default(),
            answered: Mutex::new(None),
            state: Mutex::new(state),
        }
    }

    pub fn topic_id(&self) -> Option<TopicId> {
        self.state().topic_id
    }

    pub fn partition_count(&self) -> Option<usize> {
        self.state().partition_count
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
                described: None,
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
    /// When the topic was last described.
    described: Option<Instant>,
}

/// The reason why a thread ends.
enum End {
    /// The consumer was dropped, or other leaders have all partitions.
    Stopped,
    Failed(Error),
}

impl Fetcher {
    fn run(mut self) {
        let mut stale = true;
        while !self.shared.stop.load(Ordering::Relaxed) {
            match self.fetch(stale) {
                Ok(after) => stale = after,
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

    /// Fetches once. If the metadata is stale, refreshes it first. Returns true if it is stale
    /// after the fetch.
    fn fetch(&mut self, stale: bool) -> Result<bool, End> {
        if stale || self.metadata_is_old() {
            match self.refresh_metadata() {
                Err(err) if err.is_retryable() && stale => return Ok(true),
                // The leaders may respond although the brokers for metadata do not.
                Err(err) if err.is_retryable() => self.described = Some(Instant::now()),
                refreshed => refreshed.map_err(End::Failed)?,
            }
        }
        let topics = self.shared.state().topics;
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
            self.hand_over(good, topics)?;
        }
        let mut stale = false;
        for data in failed {
            stale |= self.handle_partition_error(data)?;
        }
        Ok(stale)
    }

    /// True if the topic must be described although no fetch failed.
    fn metadata_is_old(&self) -> bool {
        let state = self.shared.state();
        let mut own = state.partitions.values().filter(|it| it.leader == self.leader);
        let age_max = if own.any(|it| it.leaderless) { LEADERLESS_MAX_AGE } else { TOPIC_MAX_AGE };
        self.described.is_none_or(|described| described.elapsed() >= age_max)
    }

    /// Describes the topic: compares its id, adds new partitions, and assigns each partition of
    /// this thread to the thread of its current leader.
    fn refresh_metadata(&mut self) -> Result<(), Error> {
        let TopicDescription { id, leaders } =
            self.client.describe_topic(self.shared.topic, CALL_SLICE)?;
        self.described = Some(Instant::now());
        self.compare_topic(id)?;
        self.add_partitions(leaders.len());
        self.assign_leaders(&leaders)
    }

    /// Handles a new topic id: the positions belong to the former topic.
    fn compare_topic(&self, id: Option<TopicId>) -> Result<(), Error> {
        let topic = self.shared.topic;
        let mut state = self.shared.state();
        let (Some(found), Some(known)) = (id, state.topic_id) else {
            state.topic_id = state.topic_id.or(id);
            return Ok(());
        };
        if found == known {
            return Ok(());
        }
        match self.shared.if_recreated {
            IfRecreated::Fail => Err(recreated(topic, known, found)),
            IfRecreated::ReadNew => {
                log::warn!(
                    topic, topic_id:% = found, former_topic_id:% = known;
                    "topic was deleted and created again, reading it from its beginning"
                );
                state.topic_id = Some(found);
                state.topics += 1;
                for it in state.partitions.values_mut() {
                    it.next = 0;
                    it.parked_until = None;
                }
                Ok(())
            }
        }
    }

    /// Adds new partitions to this thread if the consumer reads all of the topic.
    fn add_partitions(&self, count: usize) {
        let topic = self.shared.topic;
        let mut state = self.shared.state();
        let former = state.partition_count.replace(count);
        if former.is_some_and(|former| former >= count) {
            return;
        }
        let new: Vec<i32> =
            (0..).take(count).filter(|it| !state.partitions.contains_key(it)).collect();
        match self.shared.new_partitions {
            NewPartitions::Read => {
                for &partition in &new {
                    log::warn!(topic, partition; "new partition, reading it from offset 0");
                    state.partitions.insert(partition, PartitionState::new(0, self.leader));
                }
            }
            // A caller that keeps its positions also distributes the partitions.
            NewPartitions::Ignore
                if former.is_some() && self.shared.if_recreated == IfRecreated::ReadNew =>
            {
                log::error!(
                    topic, partitions = count;
                    "topic has new partitions, which this consumer does not read"
                );
            }
            NewPartitions::Ignore => {}
        }
    }

    /// Assigns each partition of this thread to the thread of its current leader, which may be this
    /// one. A partition without a leader stays.
    fn assign_leaders(&mut self, leaders: &[Option<i32>]) -> Result<(), Error> {
        let topic = self.shared.topic;
        let fetches_from_all = self.client.fetches_from_all();
        let mut state = self.shared.state();
        let State { partitions, leaders: known, .. } = &mut *state;
        for (&partition, it) in partitions.iter_mut().filter(|(_, it)| it.leader == self.leader) {
            let leader = usize::try_from(partition).ok().and_then(|index| leaders.get(index));
            let leader =
                leader.ok_or_else(|| no_such_partition(topic, partition, leaders.len()))?;
            if it.leaderless != leader.is_none() {
                it.leaderless = leader.is_none();
                match leader {
                    None => log::warn!(topic, partition; "partition has no leader, waiting"),
                    Some(leader) => log::info!(topic, partition, leader; "partition has a leader"),
                }
            }
            match leader {
                Some(_) if fetches_from_all => it.leader = ALL_LEADERS,
                Some(leader) => it.leader = *leader,
                None => {}
            }
        }
        let mut new: BTreeSet<i32> = partitions.values().map(|it| it.leader).collect();
        new.retain(|leader| *leader != NO_LEADER && !known.contains(leader));
        if self.leader == NO_LEADER
            && let Some(leader) = new.pop_first()
        {
            known.remove(&NO_LEADER);
            known.insert(leader);
            self.leader = leader;
            // Those without a leader.
            let own = partitions.values_mut().filter(|it| it.leader == NO_LEADER);
            own.for_each(|it| it.leader = leader);
        }
        drop(state);
        new.into_iter().for_each(|leader| self.shared.start_thread(&self.fetches, leader));
        Ok(())
    }

    /// The positions of this thread's partitions, without undecodable and leaderless ones. Ends the
    /// thread if it has no partitions left, unless the consumer never had any.
    fn positions(&self) -> Result<Vec<Position>, End> {
        let now = Instant::now();
        let mut state = self.shared.state();
        let mut own = state.partitions.iter().filter(|(_, it)| it.leader == self.leader).peekable();
        if own.peek().is_none() && !state.partitions.is_empty() {
            state.leaders.remove(&self.leader);
            return Err(End::Stopped);
        }
        let ready = own
            .filter(|(_, it)| !it.leaderless && it.parked_until.is_none_or(|until| until <= now));
        Ok(ready.map(|(&partition, it)| Position { partition, next: it.next }).collect())
    }

    /// Passes data to the caller, then advances the positions. In the reverse order, the thread of
    /// a new leader could pass later records first.
    ///
    /// `topics` is [`State::topics`] before the fetch. If it has increased, the data is of a former
    /// topic, or of an offset of it, and is dropped.
    fn hand_over(&self, fetched: Vec<PartitionData>, topics: u64) -> Result<(), End> {
        let topic = self.shared.topic;
        let positions: Vec<Position> =
            fetched.iter().map(|it| Position { partition: it.partition, next: it.next }).collect();
        if self.shared.state().topics != topics {
            return Ok(());
        }
        self.shared.held.add(memory(&fetched));
        self.fetches.send(Ok(fetched)).map_err(|_| End::Stopped)?;
        let mut state = self.shared.state();
        if state.topics != topics {
            return Ok(());
        }
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
            // The caller keeps the positions, so it decides whether it can do without the records.
            ErrorKind::Position if self.shared.if_recreated == IfRecreated::Fail => {
                return Err(End::Failed(match self.refresh_metadata() {
                    // The topic was recreated, which is the cause.
                    Err(cause) if cause.kind == ErrorKind::Position => cause,
                    _ => err,
                }));
            }
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
