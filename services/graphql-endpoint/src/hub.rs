//! Delivers stored transactions to subscriptions. The publisher never waits. It appends to bounded
//! logs, and each subscription reads the log of its account, or that of all accounts, at its own
//! pace. A subscription that falls behind its log is cut off.

use crate::metrics;
use crate::transaction::{Filter, Transaction};
use service::http::{client_of, client_share};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::mem;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;

/// Maximum of transactions in a log: a few batches of the store, which publishes a batch at once.
pub const LOG_MAX: usize = 8192;
/// Maximum weight of all logs: of 32,768 usual transactions, or of 8 MiB.
const LOGS_MAX: usize = 4 * LOG_MAX;
/// A transaction with longer texts has more weight, bytes. The texts of the bank's own commands are
/// shorter.
const USUAL_BYTES: usize = 256;
/// Maximum of transactions that a subscription takes at a time.
const BATCH: usize = 32;
/// Maximum weight of these transactions. The last one may exceed it.
const BATCH_WEIGHT: usize = 2 * BATCH;
/// The log of all accounts.
const ALL: &str = "";

/// Why a subscription ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Cancelled,
    /// It fell behind its log.
    TooSlow,
    /// Transactions of other endpoints may have been missed.
    Interrupted,
    /// All places are taken, and another client has fewer of them.
    Crowded,
    /// The token that opened it was replaced.
    LoggedOut,
    Stopping,
}

/// All subscriptions of this endpoint.
pub struct Hub {
    state: Mutex<State>,
    news: Condvar,
    open_max: usize,
}

#[derive(Default)]
struct State {
    /// Number of the next entry in all logs.
    next: u64,
    /// By iban, and [`ALL`]. An account without subscriptions has no log.
    logs: HashMap<String, Log>,
    /// Weight of the entries in all logs.
    weight: usize,
    /// Logs with entries for which no subscription has been woken yet.
    fresh: Vec<String>,
    stopping: bool,
    /// Open subscriptions, in total and by client.
    open: usize,
    open_by_client: HashMap<IpAddr, usize>,
}

#[derive(Default)]
struct Log {
    entries: VecDeque<(u64, Arc<Transaction>)>,
    /// Weight of the entries.
    weight: usize,
    /// Entries with a lower number may have been dropped before all subscriptions read them.
    lost_before: u64,
    readers: Vec<Arc<Reader>>,
    is_fresh: bool,
}

/// The part of a subscription that other threads use.
pub struct Reader {
    client: IpAddr,
    /// Number of the first entry that it has not read.
    position: AtomicU64,
    state: Mutex<ReaderState>,
}

#[derive(Default)]
struct ReaderState {
    ending: Option<Ending>,
    /// To be woken by new entries, and by the end.
    waker: Option<Waker>,
    /// To be woken by the end.
    end_waker: Option<Waker>,
}

impl Reader {
    /// Ends the subscription at once. Further calls have no effect.
    pub fn end(&self, ending: Ending) {
        let mut state = self.state();
        if state.ending.is_some() {
            return;
        }
        state.ending = Some(ending);
        let wakers = [state.waker.take(), state.end_waker.take()];
        drop(state);
        if ending == Ending::TooSlow {
            metrics::CUT_OFF.inc();
        }
        for waker in wakers.into_iter().flatten() {
            waker.wake();
        }
    }

    /// Ready when the subscription has ended.
    pub fn poll_end(&self, context: &Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if state.ending.is_some() {
            return Poll::Ready(());
        }
        state.end_waker = Some(context.waker().clone());
        Poll::Pending
    }

    /// Why the subscription has ended; `None` if it has not.
    pub fn ending(&self) -> Option<Ending> {
        self.state().ending
    }

    fn wake(&self) {
        let waker = self.state().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn state(&self) -> MutexGuard<'_, ReaderState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A subscription, removed from the hub when dropped.
pub struct Subscription {
    hub: Arc<Hub>,
    client: IpAddr,
    filter: Filter,
    reader: Arc<Reader>,
    /// Entries that were taken from the log.
    taken: VecDeque<Arc<Transaction>>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    Transaction(Arc<Transaction>),
    End(Ending),
}

/// There are as many subscriptions as the memory allows, and no client has more than this one. Or
/// this client has three quarters of them.
#[derive(Debug, PartialEq, Eq)]
pub struct TooMany;

impl Hub {
    /// A hub for at most `open_max` subscriptions. Starts the thread that wakes them.
    pub fn start(open_max: usize) -> io::Result<Arc<Self>> {
        let hub = Self::new(open_max);
        let waking = hub.clone();
        thread::Builder::new().name("fan-out".into()).spawn(move || {
            loop {
                waking.wait_for_news();
                waking.wake_readers();
            }
        })?;
        Ok(hub)
    }

    fn new(open_max: usize) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), news: Condvar::new(), open_max })
    }

    /// Subscribes a client to the transactions that `filter` selects, from now on.
    pub fn subscribe(
        self: &Arc<Self>,
        client: IpAddr,
        filter: Filter,
    ) -> Result<Subscription, TooMany> {
        let client = client_of(client);
        let mut state = self.state();
        let own = state.open_by_client.get(&client).copied().unwrap_or(0);
        if own >= client_share(self.open_max) {
            return Err(TooMany);
        }
        let victim = if state.open >= self.open_max {
            // Its place becomes free soon.
            Some(state.reader_of_largest_client(own + 1).ok_or(TooMany)?)
        } else {
            None
        };
        state.open += 1;
        state.open_by_client.insert(client, own + 1);
        metrics::SUBSCRIBERS.inc();
        let ending = state.stopping.then_some(Ending::Stopping);
        let reader = Arc::new(Reader {
            client,
            position: AtomicU64::new(state.next),
            state: Mutex::new(ReaderState { ending, ..ReaderState::default() }),
        });
        let log = state.logs.entry(log_of(&filter).to_owned()).or_default();
        log.readers.push(reader.clone());
        drop(state);
        if let Some(victim) = victim {
            victim.end(Ending::Crowded);
        }
        Ok(Subscription { hub: self.clone(), client, filter, reader, taken: VecDeque::new() })
    }

    /// Appends transactions to the logs of their accounts and to the log of all accounts.
    pub fn publish(&self, transactions: impl IntoIterator<Item = Transaction>) {
        let mut state = self.state();
        for transaction in transactions {
            let transaction = Arc::new(transaction);
            let number = state.next;
            state.next += 1;
            for name in [&transaction.iban[..], ALL] {
                state.append(name, number, &transaction);
            }
        }
        if !state.fresh.is_empty() {
            self.news.notify_one();
        }
    }

    /// Ends all subscriptions; after [`Ending::Stopping`] new ones end at once.
    pub fn end_all(&self, ending: Ending) {
        let mut state = self.state();
        state.stopping |= ending == Ending::Stopping;
        let readers: Vec<Arc<Reader>> =
            state.logs.values().flat_map(|log| log.readers.iter().cloned()).collect();
        drop(state);
        for reader in readers {
            reader.end(ending);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.state().open == 0
    }

    fn wait_for_news(&self) {
        let nothing = |state: &mut State| state.fresh.is_empty();
        drop(self.news.wait_while(self.state(), nothing));
    }

    /// Wakes the subscriptions with new entries, cuts off those that have fallen behind, and drops
    /// entries that all have read.
    fn wake_readers(&self) {
        let (mut readers, mut slow) = (Vec::new(), Vec::new());
        let mut state = self.state();
        for name in mem::take(&mut state.fresh) {
            if let Some(log) = state.logs.get_mut(&name) {
                log.is_fresh = false;
                let is_slow =
                    |it: &&Arc<Reader>| it.position.load(Ordering::Acquire) < log.lost_before;
                slow.extend(log.readers.iter().filter(is_slow).cloned());
                readers.extend(log.readers.iter().cloned());
                let dropped = log.drop_read();
                state.weight -= dropped;
            }
        }
        drop(state);
        for reader in slow {
            reader.end(Ending::TooSlow);
        }
        for reader in readers {
            reader.wake();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// 1 for a usual transaction, more for one with longer texts.
fn weight(transaction: &Transaction) -> usize {
    let Transaction { iban, from_to, description, .. } = transaction;
    (iban.len() + from_to.len() + description.len()).div_ceil(USUAL_BYTES).max(1)
}

/// The log that has the transactions of `filter`.
fn log_of(filter: &Filter) -> &str {
    filter.iban.as_deref().unwrap_or(ALL)
}

impl State {
    /// A subscription of the client that has most of them, if these are more than `count`.
    fn reader_of_largest_client(&self, count: usize) -> Option<Arc<Reader>> {
        let largest = self.open_by_client.iter().max_by_key(|(_, open)| **open);
        let (client, _) = largest.filter(|(_, open)| **open > count)?;
        let mut readers = self.logs.values().flat_map(|log| &log.readers);
        readers.find(|it| it.client == *client && it.ending().is_none()).cloned()
    }

    fn append(&mut self, name: &str, number: u64, transaction: &Arc<Transaction>) {
        let Some(log) = self.logs.get_mut(name) else { return };
        log.entries.push_back((number, transaction.clone()));
        log.weight += weight(transaction);
        self.weight += weight(transaction);
        if !mem::replace(&mut log.is_fresh, true) {
            self.fresh.push(name.to_owned());
        }
        if log.entries.len() > LOG_MAX {
            self.weight -= log.lose(1);
        }
        while self.weight > LOGS_MAX
            && let Some(largest) = self.logs.values_mut().max_by_key(|log| log.weight)
        {
            self.weight -= largest.lose(largest.entries.len().div_ceil(2));
        }
    }
}

impl Log {
    /// Drops the oldest `count` entries. Returns their weight.
    fn lose(&mut self, count: usize) -> usize {
        if let Some((number, _)) = self.entries.range(..count).next_back() {
            self.lost_before = number + 1;
        }
        self.drop_oldest(count)
    }

    /// Drops the entries that all subscriptions have read. Returns their weight.
    fn drop_read(&mut self) -> usize {
        let positions = self.readers.iter().map(|reader| reader.position.load(Ordering::Acquire));
        let read = positions.min().unwrap_or(u64::MAX);
        let count = self.entries.partition_point(|(number, _)| *number < read);
        self.drop_oldest(count)
    }

    fn drop_oldest(&mut self, count: usize) -> usize {
        let dropped = self.entries.drain(..count).map(|(_, it)| weight(&it)).sum();
        self.weight -= dropped;
        dropped
    }
}

impl Subscription {
    /// To end the subscription from another thread.
    pub fn reader(&self) -> &Arc<Reader> {
        &self.reader
    }

    /// Skips what was published until now.
    pub fn skip(&mut self) {
        self.taken.clear();
        self.reader.position.store(self.hub.state().next, Ordering::Release);
    }

    pub fn poll_next(&mut self, context: &Context<'_>) -> Poll<Event> {
        {
            // First, so that news after the look into the log wake this task.
            let mut state = self.reader.state();
            if let Some(ending) = state.ending {
                return Poll::Ready(Event::End(ending));
            }
            state.waker = Some(context.waker().clone());
        }
        if self.taken.is_empty() && !self.take() {
            self.reader.end(Ending::TooSlow);
            return Poll::Ready(Event::End(Ending::TooSlow));
        }
        match self.taken.pop_front() {
            Some(transaction) => Poll::Ready(Event::Transaction(transaction)),
            None => Poll::Pending,
        }
    }

    /// Takes entries from the log, if there are any. False if some were lost.
    fn take(&mut self) -> bool {
        let mut state = self.hub.state();
        let Some(log) = state.logs.get_mut(log_of(&self.filter)) else { return true };
        let position = self.reader.position.load(Ordering::Relaxed);
        if position < log.lost_before {
            return false;
        }
        let first = log.entries.partition_point(|(number, _)| *number < position);
        let mut taken_weight = 0;
        for (number, transaction) in log.entries.range(first..) {
            if self.taken.len() >= BATCH || taken_weight >= BATCH_WEIGHT {
                break;
            }
            self.reader.position.store(number + 1, Ordering::Release);
            if self.filter.matches_apart_from_iban(transaction) {
                taken_weight += weight(transaction);
                self.taken.push_back(transaction.clone());
            }
        }
        true
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.hub.state();
        let State { logs, weight, open, open_by_client, .. } = &mut *state;
        *open -= 1;
        if let Some(own) = open_by_client.get_mut(&self.client) {
            *own -= 1;
            if *own == 0 {
                open_by_client.remove(&self.client);
            }
        }
        if let Some(log) = logs.get_mut(log_of(&self.filter)) {
            log.readers.retain(|reader| !Arc::ptr_eq(reader, &self.reader));
            if log.readers.is_empty() {
                *weight -= log.weight;
                logs.remove(log_of(&self.filter));
            }
        }
        drop(state);
        metrics::SUBSCRIBERS.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transaction::tests::transaction;
    use std::net::Ipv4Addr;
    use std::sync::atomic::AtomicBool;
    use std::task::Wake;

    fn of(iban: &str) -> Filter {
        Filter { iban: Some(iban.to_owned()), ..Filter::default() }
    }

    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn next(subscription: &mut Subscription) -> Option<Event> {
        match subscription.poll_next(&Context::from_waker(Waker::noop())) {
            Poll::Ready(event) => Some(event),
            Poll::Pending => None,
        }
    }

    fn numbers(subscription: &mut Subscription) -> Vec<i64> {
        let transactions = std::iter::from_fn(|| match next(subscription) {
            Some(Event::Transaction(transaction)) => Some(transaction.number),
            _ => None,
        });
        transactions.collect()
    }

    #[test]
    fn subscription_gets_its_account_only() {
        let hub = Hub::new(10);
        let mut a = hub.subscribe(CLIENT, of("a")).unwrap();
        let mut all = hub.subscribe(CLIENT, Filter::default()).unwrap();
        hub.publish([transaction(1, "a", 5), transaction(2, "b", 5)]);
        assert_eq!(numbers(&mut a), [1]);
        assert_eq!(numbers(&mut all), [1, 2]);
        hub.publish((3..1000).map(|number| transaction(number, "a", 5)));
        assert_eq!(numbers(&mut a), (3..1000).collect::<Vec<_>>());
        let mut later = hub.subscribe(CLIENT, of("a")).unwrap();
        assert_eq!(next(&mut later), None);
    }

    #[test]
    fn subscription_behind_its_log_is_cut_off() {
        let hub = Hub::new(10);
        let mut slow = hub.subscribe(CLIENT, of("a")).unwrap();
        let mut quick = hub.subscribe(CLIENT, of("a")).unwrap();
        let mut other = hub.subscribe(CLIENT, of("b")).unwrap();
        for number in 0..LOG_MAX as i64 {
            hub.publish([transaction(number, "a", 5)]);
            assert_eq!(numbers(&mut quick), [number]);
        }
        let mut full = hub.subscribe(CLIENT, of("a")).unwrap();
        hub.publish([transaction(0, "a", 5), transaction(1, "b", 5)]);
        assert_eq!(next(&mut slow), Some(Event::End(Ending::TooSlow)));
        assert_eq!(next(&mut slow), Some(Event::End(Ending::TooSlow)));
        assert_eq!(numbers(&mut quick), [0]);
        assert_eq!(numbers(&mut full), [0]);
        assert_eq!(numbers(&mut other), [1]);
    }

    #[test]
    fn logs_together_are_bounded() {
        let hub = Hub::new(100);
        let ibans: Vec<String> = (0..10).map(|n| n.to_string()).collect();
        let mut stalled: Vec<Subscription> =
            ibans.iter().map(|iban| hub.subscribe(CLIENT, of(iban)).unwrap()).collect();
        for iban in &ibans {
            hub.publish((0..5000).map(|number| transaction(number, iban, 5)));
            let entries: usize = hub.state().logs.values().map(|log| log.entries.len()).sum();
            assert_eq!(hub.state().weight, entries);
            assert!(entries <= LOGS_MAX);
        }
        let cut_off =
            stalled.iter_mut().filter_map(next).filter(|it| matches!(it, Event::End(_))).count();
        assert!((1..10).contains(&cut_off), "{cut_off}");
        drop(stalled);
        let state = hub.state();
        assert_eq!((state.weight, state.logs.len()), (0, 0));
    }

    #[test]
    fn long_texts_are_bounded_too() {
        const TEXT: usize = 64 << 10;
        let hub = Hub::new(1000);
        let long = |number: i64, iban: &str| Transaction {
            description: "x".repeat(TEXT),
            ..transaction(number, iban, 5)
        };
        let ibans: Vec<String> = (0..150).map(|n| n.to_string()).collect();
        let mut one = hub.subscribe(CLIENT, of("one")).unwrap();
        let others: Vec<Subscription> =
            ibans.iter().map(|iban| hub.subscribe(CLIENT, of(iban)).unwrap()).collect();
        for iban in &ibans {
            hub.publish([long(1, iban)]);
            let state = hub.state();
            let texts = state.logs.values().flat_map(|log| &log.entries).count() * TEXT;
            assert!(texts <= LOGS_MAX * USUAL_BYTES, "{texts}");
        }
        drop(others);
        hub.publish((0..100).map(|number| long(number, "one")));
        assert_eq!(next(&mut one).map(|it| matches!(it, Event::Transaction(_))), Some(true));
        assert_eq!(one.taken.len(), 0, "a subscription takes one of them at a time");
        assert_eq!(numbers(&mut one), (1..100).collect::<Vec<_>>());
    }

    #[test]
    fn read_entries_are_dropped() {
        let hub = Hub::new(10);
        let (mut one, mut two) =
            (hub.subscribe(CLIENT, of("a")).unwrap(), hub.subscribe(CLIENT, of("a")).unwrap());
        hub.publish((0..100).map(|number| transaction(number, "a", 5)));
        numbers(&mut one);
        hub.wake_readers();
        assert_eq!(hub.state().weight, 100);
        numbers(&mut two);
        hub.publish([transaction(0, "a", 5)]);
        hub.wake_readers();
        assert_eq!(hub.state().weight, 1);
    }

    #[test]
    fn filter_skips_entries_without_waiting() {
        let hub = Hub::new(10);
        let filter = Filter { min_amount: Some(bank::money::Cents::new(6)), ..of("a") };
        let mut subscription = hub.subscribe(CLIENT, filter).unwrap();
        hub.publish((0..1000).map(|number| transaction(number, "a", number % 7)));
        assert_eq!(numbers(&mut subscription).len(), 142);
    }

    #[test]
    fn dropped_subscription_frees_its_place() {
        let hub = Hub::new(4);
        let other = Ipv4Addr::new(192, 0, 2, 1).into();
        let subscriptions = [
            hub.subscribe(CLIENT, of("a")),
            hub.subscribe(CLIENT, Filter::default()),
            hub.subscribe(CLIENT, Filter::default()),
        ];
        assert!(subscriptions.iter().all(Result::is_ok) && !hub.is_empty());
        assert_eq!(hub.subscribe(CLIENT, of("a")).err(), Some(TooMany), "three quarters");
        let [first, second, third] = subscriptions;
        drop(third);
        let others = [hub.subscribe(other, of("a")), hub.subscribe(other, of("a"))];
        assert!(others.iter().all(Result::is_ok));
        assert_eq!(hub.subscribe(other, of("a")).err(), Some(TooMany));
        drop((first, second, others));
        assert!(hub.is_empty());
        assert!(hub.subscribe(CLIENT, of("a")).is_ok());
    }

    #[test]
    fn crowd_gives_a_place_to_a_newcomer() {
        let hub = Hub::new(8);
        let other = |number| Ipv4Addr::new(192, 0, 2, number).into();
        let mut crowd: Vec<Subscription> =
            (0..6).map(|_| hub.subscribe(CLIENT, of("a")).unwrap()).collect();
        let _second: Vec<Subscription> =
            (0..2).map(|_| hub.subscribe(other(2), of("a")).unwrap()).collect();
        assert!(hub.subscribe(other(1), of("a")).is_ok());
        let ended = crowd.iter_mut().filter_map(next).collect::<Vec<_>>();
        assert_eq!(ended, [Event::End(Ending::Crowded)]);
    }

    struct Flag(AtomicBool);

    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[test]
    fn news_and_ends_wake_subscriptions() {
        let hub = Hub::new(10);
        let mut subscription = hub.subscribe(CLIENT, of("a")).unwrap();
        let flag = Arc::new(Flag(AtomicBool::new(false)));
        let waker = Waker::from(flag.clone());
        let mut is_woken_by = |action: &dyn Fn()| {
            while let Poll::Ready(Event::Transaction(_)) =
                subscription.poll_next(&Context::from_waker(&waker))
            {}
            action();
            flag.0.swap(false, Ordering::SeqCst)
        };
        assert!(!is_woken_by(&|| hub.publish([transaction(1, "b", 5)])));
        assert!(is_woken_by(&|| {
            hub.publish([transaction(1, "a", 5)]);
            hub.wake_readers();
        }));
        assert!(is_woken_by(&|| hub.end_all(Ending::Stopping)));
        let mut later = hub.subscribe(CLIENT, of("b")).unwrap();
        assert_eq!(next(&mut later), Some(Event::End(Ending::Stopping)));
    }
}
