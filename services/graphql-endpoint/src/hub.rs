//! Delivers stored transactions to subscriptions. The publisher never waits: each subscriber has a
//! bounded queue, and a subscriber whose queue is full is cut off.

use crate::metrics;
use crate::transaction::{Filter, Transaction};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Maximum of transactions in the queue of a subscriber: a few batches of the store, which
/// publishes a batch at once.
pub const QUEUE_MAX: usize = 8192;

/// Why a subscription ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Cancelled,
    /// The queue was full.
    TooSlow,
    /// Transactions of other endpoints may have been missed.
    Interrupted,
    Stopping,
}

/// All subscribers of this endpoint.
#[derive(Default)]
pub struct Hub(Mutex<Subscribers>);

#[derive(Default)]
struct Subscribers {
    /// Subscribers of one account, by iban, so that transactions of other accounts skip them.
    by_iban: HashMap<String, Vec<Subscriber>>,
    /// Subscribers of all accounts.
    all: Vec<Subscriber>,
    stopping: bool,
}

struct Subscriber {
    filter: Filter,
    queue: Arc<Queue>,
}

/// A subscription, removed from the hub when dropped.
pub struct Subscription {
    hub: Arc<Hub>,
    iban: Option<String>,
    queue: Arc<Queue>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    Transaction(Arc<Transaction>),
    /// No transaction is waiting.
    Empty,
    End(Ending),
}

impl Hub {
    /// Subscribes to the transactions that `filter` selects, from now on.
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
            None => subscribers.all.push(subscriber),
        }
        metrics::SUBSCRIBERS.inc();
        Subscription { hub: self.clone(), iban, queue }
    }

    /// Queues `transaction` for the subscriptions that select it.
    pub fn publish(&self, transaction: &Arc<Transaction>) {
        let mut subscribers = self.subscribers();
        let Subscribers { by_iban, all, .. } = &mut *subscribers;
        let own = by_iban.get(&transaction.iban).into_iter().flatten();
        for subscriber in own.chain(all.iter()) {
            if subscriber.filter.matches_apart_from_iban(transaction) {
                subscriber.queue.put(transaction);
            }
        }
    }

    /// Ends all subscriptions; after [`Ending::Stopping`] new ones end at once.
    pub fn end_all(&self, ending: Ending) {
        let mut subscribers = self.subscribers();
        subscribers.stopping |= ending == Ending::Stopping;
        for subscriber in subscribers.by_iban.values().flatten().chain(&subscribers.all) {
            subscriber.queue.end(ending);
        }
    }

    pub fn is_empty(&self) -> bool {
        let subscribers = self.subscribers();
        subscribers.by_iban.is_empty() && subscribers.all.is_empty()
    }

    fn subscribers(&self) -> MutexGuard<'_, Subscribers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscription {
    /// For [`Queue::wait`] and [`Queue::end`].
    pub fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// The next event, without waiting.
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
            None => subscribers.all.retain(others),
        }
        metrics::SUBSCRIBERS.dec();
    }
}

/// The queue of one subscriber. Unlike a channel it uses no memory while it is empty.
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
    /// Ends the subscription at once and discards queued transactions. Further calls have no
    /// effect.
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

    /// Why the subscription has ended; `None` if it has not.
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

    /// Waits at most `time` until a transaction is queued or the subscription has ended.
    pub fn wait(&self, time: Duration) {
        let is_empty = |state: &mut State| state.ending.is_none() && state.waiting.is_empty();
        drop(self.changed.wait_timeout_while(self.state(), time, is_empty));
    }

    fn take(&self) -> Event {
        let mut state = self.state();
        match (state.ending, state.waiting.pop_front()) {
            (Some(ending), _) => Event::End(ending),
            (None, Some(transaction)) => Event::Transaction(transaction),
            (None, None) => Event::Empty,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transaction::tests::transaction;
    use std::thread;

    fn of(iban: &str) -> Filter {
        Filter { iban: Some(iban.to_owned()), ..Filter::default() }
    }

    #[test]
    fn subscription_gets_its_account_only() {
        let hub = Arc::new(Hub::default());
        let (a, all) = (hub.subscribe(of("a")), hub.subscribe(Filter::default()));
        let (to_a, to_b) = (Arc::new(transaction(1, "a", 5)), Arc::new(transaction(2, "b", 5)));
        hub.publish(&to_a);
        hub.publish(&to_b);
        assert_eq!(a.next(), Event::Transaction(to_a.clone()));
        assert_eq!(a.next(), Event::Empty);
        assert_eq!(all.next(), Event::Transaction(to_a));
        assert_eq!(all.next(), Event::Transaction(to_b));
    }

    #[test]
    fn full_queue_cuts_off_its_subscriber_only() {
        let hub = Arc::new(Hub::default());
        let (slow, quick) = (hub.subscribe(of("a")), hub.subscribe(of("a")));
        let event = Arc::new(transaction(1, "a", 5));
        for _ in 0..QUEUE_MAX {
            hub.publish(&event);
            assert_eq!(quick.next(), Event::Transaction(event.clone()));
        }
        assert_eq!(
            slow.next(),
            Event::Transaction(event.clone()),
            "the queue is full, not exceeded"
        );
        hub.publish(&event);
        hub.publish(&event);
        assert_eq!(slow.next(), Event::End(Ending::TooSlow));
        assert_eq!(quick.next(), Event::Transaction(event));
    }

    #[test]
    fn dropped_subscription_leaves_the_hub() {
        let hub = Arc::new(Hub::default());
        let subscriptions =
            [hub.subscribe(of("a")), hub.subscribe(of("a")), hub.subscribe(Filter::default())];
        assert!(!hub.is_empty());
        drop(subscriptions);
        assert!(hub.is_empty());
    }

    #[test]
    fn shutdown_ends_waiting_and_new_subscriptions() {
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
