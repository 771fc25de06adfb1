//! A subscription to one account from a given transaction on: first those that are stored, then new
//! ones, each once and in the order of their sequence.

use crate::error::Error;
use crate::hub::{Event, Subscription};
use crate::pool::{Busy, Pool};
use crate::running::RunningOperation;
use crate::store::Page;
use crate::transaction::{Filter, Transaction};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::task::{Context, Poll, Waker};

/// Memory of a page with usual texts, for the limits of waiting work.
const PAGE_BYTES: usize = 4 << 10;
/// A page with more text is large, bytes. The texts of this endpoint's clients are shorter.
const LARGE_TEXT_BYTES: usize = 4 << 10;
/// Maximum of large pages in memory. Each can have 256 KiB, and a subscription keeps its page while
/// its client receives nothing.
const LARGE_PAGES_MAX: usize = 8;

static LARGE_PAGES: AtomicUsize = AtomicUsize::new(0);

/// The right to keep a large page, until dropped.
struct LargePage;

impl LargePage {
    fn new() -> Option<Self> {
        let add = |count: usize| (count < LARGE_PAGES_MAX).then_some(count + 1);
        LARGE_PAGES.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).ok().map(|_| Self)
    }
}

impl Drop for LargePage {
    fn drop(&mut self) {
        LARGE_PAGES.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A page, and the right to keep it if it is large.
type LimitedPage = (Page, Option<LargePage>);

/// Reads the transactions of an account after a sequence.
pub type ReadPage = Arc<dyn Fn(&str, i64) -> Result<Page, Error> + Send + Sync>;

/// Where the pages come from.
pub struct Source {
    pub read: ReadPage,
    /// Threads that call `read`, since a task must not block.
    pub queries: Arc<Pool>,
    /// Of the client.
    pub address: IpAddr,
}

/// The stream.
pub struct CatchUp {
    source: Source,
    running: Arc<RunningOperation>,
    iban: String,
    filter: Filter,
    /// All new transactions of the account.
    live: Subscription,
    /// Sequence of the last transaction that was emitted or filtered out.
    last: i64,
    /// Stored transactions that are not emitted yet.
    page: Page,
    /// Held while the page is large.
    large: Option<LargePage>,
    reading: Option<Receiver<Result<LimitedPage, Error>>>,
    has_failed: bool,
}

impl CatchUp {
    /// The transactions of `iban` after `last` that `filter` selects. `live` has all transactions
    /// of the account.
    pub fn new(
        source: Source,
        running: Arc<RunningOperation>,
        iban: String,
        filter: Filter,
        live: Subscription,
        last: i64,
    ) -> Self {
        let page = Page { has_more: true, ..Page::default() };
        let (large, reading, has_failed) = (None, None, false);
        Self { source, running, iban, filter, live, last, page, large, reading, has_failed }
    }

    /// `None` at the end: the subscription was ended, or the last item was an error.
    pub fn poll_next(
        &mut self,
        context: &Context<'_>,
    ) -> Poll<Option<Result<Arc<Transaction>, Error>>> {
        loop {
            if self.has_failed || self.live.reader().ending().is_some() {
                return Poll::Ready(None);
            }
            if let Some(transaction) = self.page.transactions.pop_front() {
                if let Some(selected) = self.advance(Arc::new(transaction)) {
                    return Poll::Ready(Some(Ok(selected)));
                }
            } else if let Some(reading) = &self.reading {
                let read = match reading.try_recv() {
                    Ok(read) => read,
                    Err(TryRecvError::Empty) => return Poll::Pending,
                    // The query panicked. The guard of the thread has logged it.
                    Err(TryRecvError::Disconnected) => Err(Error::Unresponsive),
                };
                self.reading = None;
                match read {
                    Ok((page, large)) => (self.page, self.large) = (page, large),
                    Err(err) => {
                        self.has_failed = true;
                        return Poll::Ready(Some(Err(err)));
                    }
                }
            } else if self.page.has_more {
                self.read(context.waker().clone());
            } else {
                self.large = None;
                match self.live.poll_next(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Event::End(_)) => return Poll::Ready(None),
                    Poll::Ready(Event::Transaction(new))
                        if new.sequence > self.last.saturating_add(1) =>
                    {
                        // Another endpoint has stored those in between. Their notification comes
                        // later, but they can be read, since they were committed before this one.
                        self.page.has_more = true;
                    }
                    Poll::Ready(Event::Transaction(new)) if new.sequence > self.last => {
                        if let Some(selected) = self.advance(new) {
                            return Poll::Ready(Some(Ok(selected)));
                        }
                    }
                    Poll::Ready(Event::Transaction(_)) => {}
                }
            }
        }
    }

    /// Counts `next` as seen. Returns it if the filter selects it.
    fn advance(&mut self, next: Arc<Transaction>) -> Option<Arc<Transaction>> {
        self.last = next.sequence;
        self.running.set_event_id(next.sequence);
        self.filter.matches_apart_from_iban(&next).then_some(next)
    }

    /// Reads the next page on another thread, which then wakes the task.
    fn read(&mut self, waker: Waker) {
        // The next pages have all that was published until now.
        self.live.skip();
        self.large = None;
        let (page, reading) = sync_channel(1);
        let (read, iban, last) = (self.source.read.clone(), self.iban.clone(), self.last);
        let job = move |admitted: Result<(), Busy>| {
            let _wake = WakeOnDrop(waker);
            // Moved here, so that it is dropped before the task is woken, also by a panic.
            let page = page;
            let result =
                admitted.map_err(|_| Error::Busy).and_then(|()| limited(read(&iban, last)?));
            // An error means that the subscription has ended.
            let _ = page.send(result);
        };
        self.reading = Some(reading);
        self.source.queries.submit(self.source.address, PAGE_BYTES, Box::new(job));
    }
}

/// # Errors
/// [`Error::Busy`] if too many large pages are in memory.
fn limited(page: Page) -> Result<LimitedPage, Error> {
    let text = |it: &Transaction| it.from_to.len() + it.description.len();
    if page.transactions.iter().map(text).sum::<usize>() <= LARGE_TEXT_BYTES {
        return Ok((page, None));
    }
    let large = LargePage::new().ok_or(Error::Busy)?;
    Ok((page, Some(large)))
}

struct WakeOnDrop(Waker);

impl Drop for WakeOnDrop {
    fn drop(&mut self) {
        self.0.wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Hub;
    use crate::pool::PoolLimits;
    use crate::transaction::tests::transaction;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;
    use std::sync::Mutex;
    use std::sync::mpsc::{Sender, channel};
    use std::task::Wake;
    use std::time::Duration;

    const IBAN: &str = "a";
    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    struct Signal(Mutex<Sender<()>>);

    impl Wake for Signal {
        fn wake(self: Arc<Self>) {
            // An error means that the test has ended.
            let _ = self.0.lock().unwrap().send(());
        }
    }

    /// A store, a hub, and a stream from them.
    struct Bank {
        stored: Arc<Mutex<Vec<Transaction>>>,
        hub: Arc<Hub>,
        stream: CatchUp,
        waker: Waker,
        woken: Receiver<()>,
    }

    impl Bank {
        fn new(last: i64, filter: Filter, fail: bool) -> Self {
            let stored = Arc::<Mutex<Vec<Transaction>>>::default();
            let of_reader = stored.clone();
            let read: ReadPage = Arc::new(move |_, after| {
                if fail {
                    return Err(Error::Unresponsive);
                }
                let stored = of_reader.lock().unwrap();
                let later = || stored.iter().filter(|it| it.sequence > after);
                let transactions = later().take(3).cloned().collect();
                Ok(Page { transactions, has_more: later().count() > 3 })
            });
            let wait = Duration::from_secs(60);
            let limits = PoolLimits { threads: 1, waiting: 9, waiting_bytes: 1 << 20, wait };
            let queries = Pool::start("test", limits).unwrap();
            let source = Source { read, queries, address: CLIENT };
            let hub = Hub::start(10).unwrap();
            let all = Filter { iban: Some(IBAN.to_owned()), ..Filter::default() };
            let live = hub.subscribe(CLIENT, all).unwrap();
            let running = Arc::<RunningOperation>::default();
            let stream = CatchUp::new(source, running, IBAN.to_owned(), filter, live, last);
            let (signal, woken) = channel();
            let waker = Waker::from(Arc::new(Signal(Mutex::new(signal))));
            Self { stored, hub, stream, waker, woken }
        }

        fn store(&self, sequences: std::ops::Range<i64>) {
            self.stored.lock().unwrap().extend(sequences.map(change));
        }

        /// Waits for the next item.
        fn next(&mut self) -> Option<Result<i64, Error>> {
            loop {
                match self.stream.poll_next(&Context::from_waker(&self.waker)) {
                    Poll::Ready(next) => return next.map(|it| it.map(|it| it.sequence)),
                    Poll::Pending => {
                        let woken = self.woken.recv_timeout(Duration::from_secs(10));
                        woken.expect("the stream waits for an item");
                    }
                }
            }
        }

        fn sequences(&mut self, count: usize) -> Vec<i64> {
            (0..count).map(|_| self.next().unwrap().unwrap()).collect()
        }
    }

    fn change(sequence: i64) -> Transaction {
        transaction(sequence, IBAN, sequence)
    }

    #[test]
    fn stored_transactions_come_before_new_ones() {
        let mut bank = Bank::new(2, Filter::default(), false);
        bank.store(1..11);
        assert_eq!(bank.sequences(8), [3, 4, 5, 6, 7, 8, 9, 10]);
        bank.store(11..13);
        // The last ones are published again, as after a restart of another endpoint.
        bank.hub.publish([10, 11, 12, 12].map(change));
        assert_eq!(bank.sequences(2), [11, 12]);
        bank.hub.end_all(crate::hub::Ending::Stopping);
        assert!(bank.next().is_none());
    }

    #[test]
    fn filter_selects_of_both() {
        let min_amount = Some(bank::money::Cents::new(9));
        let mut bank = Bank::new(0, Filter { min_amount, ..Filter::default() }, false);
        bank.store(1..11);
        assert_eq!(bank.sequences(2), [9, 10]);
        bank.store(11..12);
        bank.hub.publish([change(11)]);
        assert_eq!(bank.sequences(1), [11]);
    }

    #[test]
    fn failed_query_ends_the_stream() {
        let mut bank = Bank::new(0, Filter::default(), true);
        assert!(matches!(bank.next(), Some(Err(Error::Unresponsive))));
        assert!(bank.next().is_none());
    }

    #[test]
    fn panic_of_a_query_is_no_regular_end() {
        let mut bank = Bank::new(0, Filter::default(), false);
        bank.stream.source.read = Arc::new(|_, _| panic!("a test"));
        assert!(matches!(bank.next(), Some(Err(Error::Unresponsive))));
        assert!(bank.next().is_none());
    }

    #[test]
    fn large_pages_are_limited() {
        let page = |bytes| Page {
            transactions: [Transaction { description: "x".repeat(bytes), ..change(1) }].into(),
            has_more: false,
        };
        let usual = limited(page(LARGE_TEXT_BYTES - "cash".len())).unwrap();
        assert!(usual.1.is_none());
        let large: Vec<_> = (0..LARGE_PAGES_MAX).map(|_| limited(page(5000)).unwrap()).collect();
        assert!(matches!(limited(page(5000)), Err(Error::Busy)));
        assert!(limited(page(1)).is_ok());
        drop(large);
        assert!(limited(page(5000)).is_ok_and(|(_, large)| large.is_some()));
    }

    #[test]
    fn largest_sequence_is_accepted() {
        let mut bank = Bank::new(i64::MAX, Filter::default(), false);
        bank.hub.publish([change(1)]);
        bank.hub.end_all(crate::hub::Ending::Stopping);
        assert!(bank.next().is_none());
    }

    proptest! {
        /// Two endpoints store batches in order. Their publications come late, in any order.
        #[test]
        fn publications_out_of_order_leave_no_gap(
            batches in prop::collection::vec((1i64..8, 0usize..4, 0usize..9), 1..20),
            last in 0i64..5,
        ) {
            let mut bank = Bank::new(last, Filter::default(), false);
            let (mut next, mut unpublished, mut received) = (1, Vec::new(), Vec::new());
            for (length, publish, receive) in batches {
                bank.store(next..next + length);
                unpublished.push(next..next + length);
                next += length;
                for _ in 0..publish.min(unpublished.len()) {
                    let at = receive % unpublished.len();
                    bank.hub.publish(unpublished.swap_remove(at).map(change));
                }
                // The stream comes at least this far, since all that is published was stored.
                while received.len() < receive {
                    match bank.stream.poll_next(&Context::from_waker(&bank.waker)) {
                        Poll::Ready(next) => received.push(next.unwrap().unwrap().sequence),
                        Poll::Pending => break,
                    }
                }
            }
            bank.store(next..next + 1);
            bank.hub.publish([change(next)]);
            let missing = usize::try_from(next - last).unwrap_or_default() - received.len();
            received.extend(bank.sequences(missing));
            prop_assert_eq!(received, (last + 1..=next).collect::<Vec<_>>());
        }
    }
}
