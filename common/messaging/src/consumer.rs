//! The consumer: partitions assigned by hand, one fetch thread for each leader, or one for all where the client can wait for all.

use crate::client::KafkaClient;
use crate::config::KafkaConfig;
use crate::{connect, metrics};
use kafka_client::{Error, ErrorKind, PartitionData, Position};
use prometheus::{IntCounterVec, IntGaugeVec};
use service::shutdown::Shutdown;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Least time between two commits of offsets: a commit costs the broker as much as a batch, and only bounds what comes again
/// after a crash.
pub const COMMIT_INTERVAL: Duration = Duration::from_millis(100);

/// How long a broker holds a fetch back while there is nothing to read.
const FETCH_WAIT: Duration = Duration::from_millis(500);
/// Fetches that wait for the caller, beside one in each thread.
const FETCHES_AHEAD: usize = 2;
/// How long a partition rests that can't be read.
const PARKED: Duration = Duration::from_secs(30);
/// Shortest time between two fetches that gave nothing.
const EMPTY_FETCH_MIN: Duration = Duration::from_millis(20);
/// Time for retries of calls beside the fetch, which bounds how late a drop is noticed.
const SLICE: Duration = Duration::from_millis(200);

/// Reads partitions of one topic on threads of its own, ahead of its caller by a bounded amount. Broker restarts, leader
/// moves, closed connections, deleted offsets and too large records are survived inside. Dropping it stops the threads.
pub struct Consumer {
    fetched: Receiver<Result<Vec<PartitionData>, Error>>,
    shared: Arc<Shared>,
    failed: Option<Error>,
}

/// Where to start in a partition that has no committed offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetReset {
    /// At the earliest record.
    Earliest,
    /// At the end: only what comes from now on.
    End,
}

impl Consumer {
    /// Reads `topic` from `positions`.
    pub fn start(config: &KafkaConfig, topic: &'static str, positions: Vec<Position>) -> Self {
        let config = config.clone();
        Self::on(Box::new(move || connect::connect(&config)), topic, positions)
    }

    fn on(connect: Connect, topic: &'static str, positions: Vec<Position>) -> Self {
        let (fetches, fetched) = mpsc::sync_channel(FETCHES_AHEAD);
        let slots = positions.into_iter().map(|it| (it.partition, Slot::new(it.next))).collect();
        let shared = Arc::new(Shared {
            topic,
            connect,
            stop: AtomicBool::new(false),
            state: Mutex::new(State { slots, leaders: HashSet::new() }),
        });
        shared.spawn(&fetches, NOBODY);
        Self { fetched, shared, failed: None }
    }

    /// What has arrived, one data or more; waits at most `wait` for the first, and gives none after that. A data without
    /// records moves the position on: there was nothing to read up to its `next`, as at the end of a transaction.
    ///
    /// # Errors
    /// Only [`ErrorKind::Config`]: everything else is waited for inside, with a log line.
    pub fn poll(&mut self, wait: Duration) -> Result<Vec<PartitionData>, Error> {
        if let Some(err) = &self.failed {
            return Err(err.clone());
        }
        let mut data = match self.fetched.recv_timeout(wait) {
            Ok(first) => first,
            Err(RecvTimeoutError::Timeout) => return Ok(Vec::new()),
            Err(RecvTimeoutError::Disconnected) if self.shared.state().slots.is_empty() => {
                thread::sleep(wait);
                return Ok(Vec::new());
            }
            Err(RecvTimeoutError::Disconnected) => Err(Error {
                kind: ErrorKind::Config,
                code: 0,
                text: format!("nothing reads {} any more", self.shared.topic),
            }),
        };
        while let Ok(data) = &mut data
            && let Ok(more) = self.fetched.try_recv()
        {
            match more {
                Ok(more) => data.extend(more),
                // What was read before is good; the error comes with the next call.
                Err(err) => {
                    self.failed = Some(err);
                    break;
                }
            }
        }
        match &data {
            Ok(data) => data.iter().for_each(|data| self.count(data)),
            Err(err) => self.failed = Some(err.clone()),
        }
        data
    }

    fn count(&self, data: &PartitionData) {
        let topic = self.shared.topic;
        RECORDS.with_label_values(&[topic]).inc_by(data.records.len() as u64);
        let lag = (data.end - data.next).max(0);
        LAG.with_label_values(&[topic, &data.partition.to_string()]).set(lag);
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        // The threads end when their fetch returns, or at once if they wait for a place in the channel.
        self.shared.stop.store(true, Ordering::Relaxed);
        for partition in self.shared.state().slots.keys() {
            let partition = partition.to_string();
            for gauges in [&LAG, &PARKED_PARTITIONS] {
                // An error means that it was never set.
                let _ = gauges.remove_label_values(&[self.shared.topic, &partition]);
            }
        }
    }
}

type Connect = Box<dyn Fn() -> Box<dyn KafkaClient> + Send + Sync>;
type Fetches = SyncSender<Result<Vec<PartitionData>, Error>>;

/// The leader of partitions whose leader isn't known.
const NOBODY: i32 = -1;
/// The leader of all partitions for a client that fetches from all leaders at once.
const EVERYBODY: i32 = -2;

struct Shared {
    topic: &'static str,
    connect: Connect,
    stop: AtomicBool,
    state: Mutex<State>,
}

struct State {
    /// The partitions that this consumer reads.
    slots: BTreeMap<i32, Slot>,
    /// Brokers that have a thread; [`NOBODY`] for the first one, which looks for them.
    leaders: HashSet<i32>,
}

struct Slot {
    next: i64,
    /// Whose thread reads it. Only that thread changes this, between two fetches: with two threads on a partition its
    /// records would come twice or out of order.
    leader: i32,
    /// It can't be read; the next try is then.
    parked_until: Option<Instant>,
}

impl Slot {
    fn new(next: i64) -> Self {
        Self { next, leader: NOBODY, parked_until: None }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the thread of `leader` unless it has one.
    fn spawn(self: &Arc<Self>, fetches: &Fetches, leader: i32) {
        if self.state().leaders.insert(leader) {
            let fetcher = Fetcher {
                client: (self.connect)(),
                shared: self.clone(),
                fetches: fetches.clone(),
                leader,
            };
            let thread = thread::Builder::new().name("fetch".into()).spawn(move || fetcher.run());
            thread.expect("the system has a thread for each broker");
        }
    }
}

/// Fetches the partitions of one leader.
struct Fetcher {
    client: Box<dyn KafkaClient>,
    shared: Arc<Shared>,
    fetches: Fetches,
    leader: i32,
}

/// Why a thread ends.
enum End {
    /// The consumer is gone.
    Dropped,
    Failed(Error),
}

impl Fetcher {
    fn run(mut self) {
        let mut lost = true;
        while !self.shared.stop.load(Ordering::Relaxed) {
            match self.round(lost) {
                Ok(still) => lost = still,
                Err(End::Dropped) => return,
                Err(End::Failed(err)) => {
                    log::error!(topic = self.shared.topic, err:%; "reading ends");
                    // An error means that the consumer is gone, and with it whom this concerns.
                    let _ = self.fetches.send(Err(err));
                    return;
                }
            }
        }
    }

    /// One fetch, after finding the leaders anew if they are `lost`. True if they are now.
    fn round(&mut self, lost: bool) -> Result<bool, End> {
        if lost && self.leader != EVERYBODY {
            match self.regroup() {
                Err(err) if err.is_retryable() => return Ok(true),
                grouped => grouped.map_err(End::Failed)?,
            }
        }
        let positions = self.take()?;
        if positions.is_empty() {
            thread::sleep(SLICE);
            return Ok(false);
        }
        let started = Instant::now();
        let data = match self.client.fetch(self.shared.topic, &positions, FETCH_WAIT) {
            Ok(data) => data,
            Err(err) if err.is_retryable() => return Ok(true),
            Err(err) => return Err(End::Failed(err)),
        };
        let (good, bad): (Vec<PartitionData>, Vec<PartitionData>) =
            data.into_iter().partition(|data| data.error.is_none());
        let asked =
            |data: &PartitionData| positions.iter().find(|it| it.partition == data.partition);
        let news = |data: &PartitionData| asked(data).is_some_and(|it| it.next != data.next);
        let good: Vec<PartitionData> = good.into_iter().filter(news).collect();
        if good.is_empty() {
            // The broker holds an empty fetch back; should it ever not do so, this thread must not spin.
            thread::sleep(EMPTY_FETCH_MIN.saturating_sub(started.elapsed()));
        } else {
            self.hand_over(good)?;
        }
        let mut lost = false;
        for data in bad {
            lost |= self.cope(data)?;
        }
        Ok(lost)
    }

    /// Gives each partition of this thread to its leader's thread, which may be this one.
    fn regroup(&mut self) -> Result<(), Error> {
        let topic = self.shared.topic;
        let mut leaders = self.client.leaders(topic, SLICE)?;
        if self.client.fetches_from_all() {
            leaders.fill(EVERYBODY);
        }
        let mut state = self.shared.state();
        let State { slots, leaders: known } = &mut *state;
        for (&partition, slot) in slots.iter_mut().filter(|(_, slot)| slot.leader == self.leader) {
            let leader = usize::try_from(partition).ok().and_then(|index| leaders.get(index));
            slot.leader =
                *leader.ok_or_else(|| no_such_partition(topic, partition, leaders.len()))?;
        }
        let mut new: BTreeSet<i32> = slots.values().map(|slot| slot.leader).collect();
        new.retain(|leader| !known.contains(leader));
        if self.leader == NOBODY
            && let Some(leader) = new.pop_first()
        {
            known.remove(&NOBODY);
            known.insert(leader);
            self.leader = leader;
        }
        drop(state);
        new.into_iter().for_each(|leader| self.shared.spawn(&self.fetches, leader));
        Ok(())
    }

    /// Positions of this thread's partitions, without the parked ones. Ends the thread if all have gone to others, but not
    /// if the consumer was given none: then there is nothing to read and nothing wrong.
    fn take(&self) -> Result<Vec<Position>, End> {
        let now = Instant::now();
        let mut state = self.shared.state();
        let mut mine = state.slots.iter().filter(|(_, it)| it.leader == self.leader).peekable();
        if mine.peek().is_none() && !state.slots.is_empty() {
            state.leaders.remove(&self.leader);
            return Err(End::Dropped);
        }
        let rested = mine.filter(|(_, it)| it.parked_until.is_none_or(|until| until <= now));
        Ok(rested.map(|(&partition, it)| Position { partition, next: it.next }).collect())
    }

    /// Gives the data to the caller, then moves the positions on: in this order, or another thread could overtake.
    fn hand_over(&self, data: Vec<PartitionData>) -> Result<(), End> {
        let topic = self.shared.topic;
        let positions: Vec<Position> =
            data.iter().map(|it| Position { partition: it.partition, next: it.next }).collect();
        self.fetches.send(Ok(data)).map_err(|_| End::Dropped)?;
        let mut state = self.shared.state();
        for Position { partition, next } in positions {
            let Some(slot) = state.slots.get_mut(&partition) else { continue };
            slot.next = next;
            if slot.parked_until.take().is_some() {
                PARKED_PARTITIONS.with_label_values(&[topic, &partition.to_string()]).set(0);
                log::info!(topic, partition, offset = next; "partition can be read again");
            }
        }
        Ok(())
    }

    /// Deals with a partition that gave nothing. True if its leader is lost.
    fn cope(&mut self, data: PartitionData) -> Result<bool, End> {
        let topic = self.shared.topic;
        let PartitionData { partition, next: offset, .. } = data;
        let Some(err) = data.error else { return Ok(false) };
        match err.kind {
            ErrorKind::Config | ErrorKind::Fenced => return Err(End::Failed(err)),
            ErrorKind::Retry | ErrorKind::Unknown | ErrorKind::Message => return Ok(true),
            ErrorKind::Position => match self.client.log_range(topic, SLICE) {
                Ok(bounds) => {
                    let bounds = usize::try_from(partition).ok().and_then(|it| bounds.get(it));
                    if let Some(&(earliest, end)) = bounds {
                        self.reset(partition, offset, earliest, end);
                    }
                }
                Err(err) if err.is_retryable() => return Ok(true),
                Err(err) => return Err(End::Failed(err)),
            },
            ErrorKind::Undecodable => {
                log::error!(topic, partition, offset, err:%, retry_s = PARKED.as_secs(); "partition can't be read; the others go on");
                PARKED_PARTITIONS.with_label_values(&[topic, &partition.to_string()]).set(1);
                if let Some(slot) = self.shared.state().slots.get_mut(&partition) {
                    slot.parked_until = Some(Instant::now() + PARKED);
                }
            }
        }
        Ok(false)
    }

    fn reset(&self, partition: i32, next: i64, earliest: i64, end: i64) {
        warn_outside(self.shared.topic, partition, next, earliest, end);
        if let Some(slot) = self.shared.state().slots.get_mut(&partition) {
            slot.next = earliest;
        }
    }
}

/// Where `group` goes on in `partitions` of `topic`: its committed offsets, or the earliest where these are outside the log. Once
/// `stop` is requested nothing is tried again.
///
/// # Errors
/// The cluster did not answer within `within`.
pub fn start_positions(
    config: &KafkaConfig,
    group: &str,
    topic: &str,
    partitions: &[i32],
    offset_reset: OffsetReset,
    within: Duration,
    stop: &Shutdown,
) -> Result<Vec<Position>, Error> {
    let mut client = connect::connect_until(config, stop);
    start_positions_on(&mut *client, group, topic, partitions, offset_reset, within, stop)
}

fn start_positions_on(
    client: &mut dyn KafkaClient,
    group: &str,
    topic: &str,
    partitions: &[i32],
    offset_reset: OffsetReset,
    within: Duration,
    stop: &Shutdown,
) -> Result<Vec<Position>, Error> {
    let patience = Patience { deadline: Instant::now() + within, stop };
    let committed = patience.retry(|slice| client.committed(group, topic, slice))?;
    let bounds = patience.retry(|slice| client.log_range(topic, slice))?;
    let mut positions = Vec::with_capacity(partitions.len());
    let mut fresh = Vec::new();
    for &partition in partitions {
        let index = usize::try_from(partition).ok();
        let &(earliest, end) = index
            .and_then(|index| bounds.get(index))
            .ok_or_else(|| no_such_partition(topic, partition, bounds.len()))?;
        let committed = index.and_then(|index| committed.get(index).copied()).flatten();
        let next = match committed {
            Some(next) if (earliest..=end).contains(&next) => next,
            // Past the end means that the log was lost or made anew: what is in it now was never read.
            Some(next) => {
                warn_outside(topic, partition, next, earliest, end);
                earliest
            }
            None if offset_reset == OffsetReset::Earliest => earliest,
            None => {
                fresh.push(Position { partition, next: end });
                end
            }
        };
        positions.push(Position { partition, next });
    }
    if !fresh.is_empty() {
        // At once: after a restart "the end" would be another place, and the records between would never be read.
        patience.retry(|slice| client.commit(group, topic, &fresh, slice))?;
    }
    Ok(positions)
}

/// How long calls are repeated.
struct Patience<'a> {
    deadline: Instant,
    stop: &'a Shutdown,
}

impl Patience<'_> {
    /// Repeats a call, which spaces its attempts, in slices of time, so that the stop is noticed.
    fn retry<T>(&self, mut call: impl FnMut(Duration) -> Result<T, Error>) -> Result<T, Error> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            match call(left.min(SLICE)) {
                Err(err) if err.is_retryable() && left > SLICE && !self.stop.requested() => {}
                result => return result,
            }
        }
    }
}

/// Says that a position is outside the log and that reading starts at the earliest record instead.
fn warn_outside(topic: &str, partition: i32, offset: i64, earliest: i64, end: i64) {
    let lost = (earliest - offset).max(0);
    log::warn!(topic, partition, offset, earliest, end, lost; "the position is outside the log; reading from the earliest record");
    SKIPPED.with_label_values(&[topic]).inc_by(lost.unsigned_abs());
}

fn no_such_partition(topic: &str, partition: i32, partitions: usize) -> Error {
    let text = format!("{topic}/{partition} does not exist: the topic has {partitions} partitions");
    Error { kind: ErrorKind::Config, code: 3, text }
}

static RECORDS: LazyLock<IntCounterVec> =
    LazyLock::new(|| metrics::counters("kafka_consumer_records_total", "Records read", &["topic"]));
static SKIPPED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Offsets that were deleted before they were read";
    metrics::counters("kafka_consumer_skipped_offsets_total", help, &["topic"])
});
static LAG: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "Offsets between what was read last and the end of the log at that time";
    metrics::gauges("kafka_consumer_lag", help, &["topic", "partition"])
});
static PARKED_PARTITIONS: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "1 while a partition can't be read by this client";
    metrics::gauges("kafka_consumer_parked", help, &["topic", "partition"])
});

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Fake, error};
    use std::collections::HashSet;
    use std::sync::atomic::AtomicUsize;
    use std::thread::ThreadId;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn consumer(fake: &Fake, partitions: i32) -> Consumer {
        let fake = fake.clone();
        let positions = (0..partitions).map(|partition| Position { partition, next: 0 });
        Consumer::on(Box::new(move || Box::new(fake.clone())), "t", positions.collect())
    }

    /// Polls until `count` records are there, checking that each partition's come in order and once.
    fn read(consumer: &mut Consumer, count: usize) -> BTreeMap<i32, Vec<i64>> {
        let mut offsets: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
        let start = Instant::now();
        while offsets.values().map(Vec::len).sum::<usize>() < count {
            assert!(start.elapsed() < PATIENCE, "{offsets:?}");
            for data in consumer.poll(Duration::from_millis(10)).unwrap() {
                let so_far = offsets.entry(data.partition).or_default();
                so_far.extend(data.records.iter().map(|record| record.offset));
                assert!(so_far.is_sorted_by(|a, b| a < b), "{so_far:?}");
                assert_eq!(so_far.last().map_or(data.next, |last| last + 1), data.next);
            }
        }
        offsets
    }

    #[test]
    fn without_partitions_there_is_nothing_to_read_and_nothing_wrong() {
        let mut consumer = consumer(&Fake::new(&[1]), 0);
        for _ in 0..3 {
            assert!(consumer.poll(2 * SLICE).unwrap().is_empty());
        }
    }

    #[test]
    fn each_leader_has_a_thread_and_a_moved_partition_goes_on_with_the_new_one() {
        let fake = Fake::new(&[1, 2, 2]);
        let threads = Arc::new(Mutex::new(BTreeMap::<i32, HashSet<ThreadId>>::new()));
        let seen = threads.clone();
        fake.on_fetch(move |positions, _| {
            for it in positions {
                let mut seen = seen.lock().unwrap();
                seen.entry(it.partition).or_default().insert(thread::current().id());
            }
            None
        });
        fake.fill(100);
        let mut consumer = consumer(&fake, 3);
        read(&mut consumer, 300);
        let before = threads.lock().unwrap().clone();
        assert_ne!(before[&0], before[&1]);
        assert_eq!(before[&1], before[&2]);
        assert_eq!(fake.connections(), 2);

        threads.lock().unwrap().clear();
        let moved = AtomicUsize::new(0);
        let seen = threads.clone();
        fake.set_leaders(&[1, 1, 2]);
        fake.on_fetch(move |positions, _| {
            for it in positions {
                let mut seen = seen.lock().unwrap();
                seen.entry(it.partition).or_default().insert(thread::current().id());
            }
            // What the old leader says, once.
            let lost = positions.iter().position(|it| it.partition == 1)?;
            (moved.fetch_add(1, Ordering::Relaxed) == 0).then(|| {
                let mut data: Vec<PartitionData> =
                    positions.iter().map(|it| Fake::empty(*it)).collect();
                data[lost].error = Some(error(ErrorKind::Retry));
                Ok(data)
            })
        });
        fake.fill(100);
        assert_eq!(read(&mut consumer, 300).len(), 3);
        let after = threads.lock().unwrap().clone();
        assert_eq!(after[&0], before[&0]);
        assert!(after[&1].is_superset(&before[&0]));
        assert_eq!(after[&2], before[&2]);
    }

    #[test]
    fn one_leader_needs_one_thread() {
        let fake = Fake::new(&[7, 7, 7]);
        fake.fill(10);
        let mut consumer = consumer(&fake, 3);
        read(&mut consumer, 30);
        assert_eq!(fake.connections(), 1);
    }

    #[test]
    fn threads_end_soon_after_the_drop() {
        let fake = Fake::new(&[1, 2, 3]);
        fake.fill(10);
        let mut consumer = consumer(&fake, 3);
        read(&mut consumer, 30);
        drop(consumer);
        let dropped = Instant::now();
        while fake.connections() > 0 {
            assert!(dropped.elapsed() < Duration::from_secs(2));
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn whoever_does_not_poll_stops_the_fetching() {
        let fake = Fake::new(&[1]);
        let fetches = Arc::new(AtomicUsize::new(0));
        let count = fetches.clone();
        fake.on_fetch(move |positions, _| {
            count.fetch_add(1, Ordering::Relaxed);
            let mut data = Fake::empty(positions[0]);
            data.next += 1;
            Some(Ok(vec![data]))
        });
        let consumer = consumer(&fake, 1);
        let start = Instant::now();
        while fetches.load(Ordering::Relaxed) < FETCHES_AHEAD + 1 {
            assert!(start.elapsed() < PATIENCE);
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_millis(50)); // Time in which it must not go on.
        assert_eq!(fetches.load(Ordering::Relaxed), FETCHES_AHEAD + 1);
        drop(consumer);
    }

    #[test]
    fn a_broker_that_holds_no_fetch_back_is_not_asked_without_pause() {
        let fake = Fake::new(&[1]);
        let fetches = Arc::new(AtomicUsize::new(0));
        let count = fetches.clone();
        fake.on_fetch(move |positions, _| {
            count.fetch_add(1, Ordering::Relaxed);
            Some(Ok(positions.iter().map(|it| Fake::empty(*it)).collect()))
        });
        let start = Instant::now();
        let mut consumer = consumer(&fake, 1);
        assert!(consumer.poll(10 * EMPTY_FETCH_MIN).unwrap().is_empty());
        let pauses = start.elapsed().as_millis() / EMPTY_FETCH_MIN.as_millis();
        assert!(fetches.load(Ordering::Relaxed) <= pauses as usize + 1);
    }

    #[test]
    fn an_offset_outside_the_log_goes_on_at_the_earliest() {
        let fake = Fake::new(&[1, 1]);
        fake.fill(100);
        fake.delete_before(0, 40);
        let offsets = read(&mut consumer(&fake, 2), 160);
        assert_eq!(offsets[&0].first(), Some(&40));
        assert_eq!(offsets[&1].first(), Some(&0));
    }

    #[test]
    fn a_partition_that_cannot_be_read_does_not_hold_up_the_others() {
        let fake = Fake::new(&[1, 1]);
        fake.fill(100);
        let poisoned = Arc::new(AtomicUsize::new(0));
        let count = poisoned.clone();
        fake.on_fetch(move |positions, fake| {
            let mut data = fake.read(positions);
            for data in data.iter_mut().filter(|data| data.partition == 0) {
                count.fetch_add(1, Ordering::Relaxed);
                *data = PartitionData {
                    error: Some(error(ErrorKind::Undecodable)),
                    ..Fake::empty(positions[0])
                };
            }
            Some(Ok(data))
        });
        let mut consumer = consumer(&fake, 2);
        assert_eq!(read(&mut consumer, 100).into_keys().collect::<Vec<_>>(), [1]);
        fake.fill(100);
        assert_eq!(read(&mut consumer, 100).into_keys().collect::<Vec<_>>(), [1]);
        assert_eq!(poisoned.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn what_can_never_work_is_said_at_every_poll() {
        let fake = Fake::new(&[1]);
        fake.on_fetch(|_, _| Some(Err(error(ErrorKind::Config))));
        let mut consumer = consumer(&fake, 1);
        for _ in 0..2 {
            assert_eq!(consumer.poll(PATIENCE).unwrap_err().kind, ErrorKind::Config);
        }
        let mut elsewhere = self::consumer(&Fake::new(&[1]), 2);
        let err = elsewhere.poll(PATIENCE).unwrap_err();
        assert_eq!(err.text, "t/1 does not exist: the topic has 1 partitions");
    }

    #[test]
    fn without_partitions_there_is_nothing_to_read() {
        let mut consumer = consumer(&Fake::new(&[1]), 0);
        for _ in 0..3 {
            assert!(consumer.poll(Duration::from_millis(5)).unwrap().is_empty());
        }
    }

    fn start(
        fake: &mut Fake,
        partition: i32,
        offset_reset: OffsetReset,
    ) -> Result<Vec<Position>, Error> {
        let stop = Shutdown::default();
        start_positions_on(fake, "g", "t", &[partition], offset_reset, PATIENCE, &stop)
    }

    #[test]
    fn a_call_is_repeated_until_it_works_or_the_stop_is_asked_for() {
        let stop = Shutdown::default();
        let patience = Patience { deadline: Instant::now() + PATIENCE, stop: &stop };
        let mut calls = 0;
        let mut fails = |times| {
            patience.retry(|slice| {
                assert!(slice <= SLICE);
                calls += 1;
                if calls < times { Err(error(ErrorKind::Retry)) } else { Ok(calls) }
            })
        };
        assert_eq!(fails(3).unwrap(), 3);
        stop.request();
        assert_eq!(fails(9).unwrap_err().kind, ErrorKind::Retry);
        assert_eq!(calls, 4);
    }

    #[test]
    fn reading_starts_where_the_group_was_if_the_log_still_has_it() {
        let start = |committed: Option<i64>, offset_reset| {
            let mut fake = Fake::new(&[1]);
            fake.fill(100);
            fake.delete_before(0, 40);
            fake.commits(committed);
            let found = start(&mut fake, 0, offset_reset).unwrap();
            (found[0].next, fake.committed(0))
        };
        for (committed, expected) in
            [(39, 40), (40, 40), (41, 41), (99, 99), (100, 100), (101, 40), (0, 40)]
        {
            for offset_reset in [OffsetReset::Earliest, OffsetReset::End] {
                let (next, kept) = start(Some(committed), offset_reset);
                assert_eq!((next, kept), (expected, Some(committed)), "{committed}");
            }
        }
        assert_eq!(start(None, OffsetReset::Earliest), (40, None));
        assert_eq!(start(None, OffsetReset::End), (100, Some(100)));
    }

    #[test]
    fn a_partition_that_does_not_exist_is_a_wrong_setting() {
        let mut fake = Fake::new(&[1]);
        for partition in [1, -1] {
            let offset_reset = OffsetReset::Earliest;
            let found = start(&mut fake, partition, offset_reset);
            assert_eq!(found.unwrap_err().kind, ErrorKind::Config);
        }
    }
}
