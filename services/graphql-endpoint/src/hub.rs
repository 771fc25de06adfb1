//! Hands stored transactions to whoever has subscribed. The publisher never waits: each subscriber has a bounded queue, and
//! one that is full cuts its subscriber off.

use crate::ledger::{Filter, Transaction};
use crate::metrics;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Transactions that may wait for a subscriber: some batches of the store, which come at once.
pub const QUEUE_MAX: usize = 8192;

/// Why a subscription ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Its subscriber wanted no more.
    Cancelled,
    /// [`QUEUE_MAX`] transactions were waiting for its subscriber.
    TooSlow,
    /// Transactions of other endpoints may have been missed.
    Interrupted,
    /// The service stops.
    Stopping,
}

/// All subscribers of this endpoint.
#[derive(Default)]
pub struct Hub(Mutex<Subscribers>);

#[derive(Default)]
struct Subscribers {
    /// Those of one account: an event costs nothing for subscribers of others.
    by_iban: HashMap<String, Vec<Subscriber>>,
    /// Those of all accounts.
    of_all: Vec<Subscriber>,
    stopping: bool,
}

struct Subscriber {
    filter: Filter,
    queue: Arc<Queue>,
}

/// What a subscriber gets; leaves the hub when dropped.
pub struct Subscription {
    hub: Arc<Hub>,
    iban: Option<String>,
    queue: Arc<Queue>,
}

/// What has come for a subscriber.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A transaction.
    Transaction(Arc<Transaction>),
    /// Nothing for now.
    Nothing,
    /// Nothing ever again.
    End(Ending),
}

impl Hub {
    /// Subscribes to what `filter` wants from now on.
    pub fn subscribe(self: &Arc<Self>, filter: Filter) -> Subscription {
        let queue = Arc::new(Queue::default());
        let iban = filter.iban.clone();
        let subscriber = Subscriber { filter, queue: queue.clone() };
        let mut subscribers = self.subscribers();
        if subscribers.stopping {
            queue.end(Ending::Stopping);
        }
        match &iban {
            Some(iban) => subscribers.by_iban.entry(iban.clone()).or_default().push(subscriber),
            None => subscribers.of_all.push(subscriber),
        }
        metrics::SUBSCRIBERS.inc();
        Subscription { hub: self.clone(), iban, queue }
    }

    /// Tells every subscriber who wants it.
    pub fn publish(&self, transaction: &Arc<Transaction>) {
        let mut subscribers = self.subscribers();
        let Subscribers { by_iban, of_all, .. } = &mut *subscribers;
        let own = by_iban.get(&transaction.iban).into_iter().flatten();
        for subscriber in own.chain(of_all.iter()) {
            if subscriber.filter.wants_of_any(transaction) {
                subscriber.queue.put(transaction);
            }
        }
    }

    /// Ends all subscriptions; after [`Ending::Stopping`] new ones end at once.
    pub fn end_all(&self, ending: Ending) {
        let mut subscribers = self.subscribers();
        subscribers.stopping |= ending == Ending::Stopping;
        for subscriber in subscribers.by_iban.values().flatten().chain(&subscribers.of_all) {
            subscriber.queue.end(ending);
        }
    }

    /// True if nobody listens.
    pub fn is_empty(&self) -> bool {
        let subscribers = self.subscribers();
        subscribers.by_iban.is_empty() && subscribers.of_all.is_empty()
    }

    fn subscribers(&self) -> MutexGuard<'_, Subscribers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscription {
    /// The queue, to end the subscription from elsewhere.
    pub fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// What has come; does not wait.
    pub fn next(&self) -> Event {
        self.queue.take()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut subscribers = self.hub.subscribers();
        let others = |it: &Subscriber| !Arc::ptr_eq(&it.queue, &self.queue);
        match &self.iban {
            Some(iban) => {
                if let Some(same) = subscribers.by_iban.get_mut(iban) {
                    same.retain(others);
                    if same.is_empty() {
                        subscribers.by_iban.remove(iban);
                    }
                }
            }
            None => subscribers.of_all.retain(others),
        }
        metrics::SUBSCRIBERS.dec();
    }
}

/// What waits for one subscriber. Unlike a channel's it takes no memory while it is empty.
#[derive(Default)]
pub struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Arc<Transaction>>,
    ending: Option<Ending>,
}

impl Queue {
    /// Ends the subscription, at once: what waits is thrown away. The first reason counts.
    pub fn end(&self, ending: Ending) {
        let mut state = self.state();
        if state.ending.is_none() {
            state.ending = Some(ending);
            state.waiting = VecDeque::new();
            if ending == Ending::TooSlow {
                metrics::CUT_OFF.inc();
            }
            self.changed.notify_all();
        }
    }

    /// Why the subscription has ended, if it has.
    pub fn ending(&self) -> Option<Ending> {
        self.state().ending
    }

    fn put(&self, transaction: &Arc<Transaction>) {
        let mut state = self.state();
        if state.ending.is_some() {
            return;
        }
        if state.waiting.len() >= QUEUE_MAX {
            drop(state);
            return self.end(Ending::TooSlow);
        }
        state.waiting.push_back(transaction.clone());
        self.changed.notify_one();
    }

    /// Returns when something has come or `time` is over.
    pub fn wait(&self, time: Duration) {
        let nothing = |state: &mut State| state.ending.is_none() && state.waiting.is_empty();
        drop(self.changed.wait_timeout_while(self.state(), time, nothing));
    }

    fn take(&self) -> Event {
        let mut state = self.state();
        match (state.ending, state.waiting.pop_front()) {
            (Some(ending), _) => Event::End(ending),
            (None, Some(transaction)) => Event::Transaction(transaction),
            (None, None) => Event::Nothing,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::tests::transaction;
    use std::thread;

    fn of(iban: &str) -> Filter {
        Filter { iban: Some(iban.to_owned()), ..Filter::default() }
    }

    #[test]
    fn a_subscriber_hears_of_its_account_and_of_nothing_else() {
        let hub = Arc::new(Hub::default());
        let (a, all) = (hub.subscribe(of("a")), hub.subscribe(Filter::default()));
        let (to_a, to_b) = (Arc::new(transaction(1, "a", 5)), Arc::new(transaction(2, "b", 5)));
        hub.publish(&to_a);
        hub.publish(&to_b);
        assert_eq!(a.next(), Event::Transaction(to_a.clone()));
        assert_eq!(a.next(), Event::Nothing);
        assert_eq!(all.next(), Event::Transaction(to_a));
        assert_eq!(all.next(), Event::Transaction(to_b));
    }

    #[test]
    fn a_full_queue_cuts_off_its_subscriber_and_no_other() {
        let hub = Arc::new(Hub::default());
        let (slow, quick) = (hub.subscribe(of("a")), hub.subscribe(of("a")));
        let event = Arc::new(transaction(1, "a", 5));
        for _ in 0..QUEUE_MAX {
            hub.publish(&event);
            assert_eq!(quick.next(), Event::Transaction(event.clone()));
        }
        assert_eq!(slow.next(), Event::Transaction(event.clone()), "it may wait so long");
        hub.publish(&event);
        hub.publish(&event);
        assert_eq!(slow.next(), Event::End(Ending::TooSlow));
        assert_eq!(quick.next(), Event::Transaction(event));
    }

    #[test]
    fn who_leaves_is_forgotten() {
        let hub = Arc::new(Hub::default());
        let subscriptions =
            [hub.subscribe(of("a")), hub.subscribe(of("a")), hub.subscribe(Filter::default())];
        assert!(!hub.is_empty());
        drop(subscriptions);
        assert!(hub.is_empty());
    }

    #[test]
    fn the_end_wakes_who_waits_and_meets_who_comes_later() {
        let hub = Arc::new(Hub::default());
        let subscription = hub.subscribe(of("a"));
        let waiter = thread::spawn(move || {
            subscription.queue().wait(Duration::from_secs(600));
            subscription.next()
        });
        hub.end_all(Ending::Stopping);
        assert_eq!(waiter.join().unwrap(), Event::End(Ending::Stopping));
        assert_eq!(hub.subscribe(of("b")).next(), Event::End(Ending::Stopping));
    }
}
