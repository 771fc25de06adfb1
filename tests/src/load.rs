//! A constant load of transfers.

use crate::stack::{Post, Stack, post};
use crate::{Account, SHOP, nobody};
use bank::records::ConfirmMoneyTransfer;
use bank::topology::CONFIRM_MONEY_TRANSFER;
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// A thread that sends transfers between accounts until it is stopped. It retries while Kafka is
/// unavailable.
pub struct Load {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    thread: Option<JoinHandle<Vec<ConfirmMoneyTransfer>>>,
}

impl Load {
    /// Sends `per_second` transfers between `accounts`.
    pub fn start(stack: &Stack, accounts: &[Account], per_second: usize) -> Self {
        const TICK: Duration = Duration::from_millis(20);
        let stop = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicUsize::new(0));
        let mut kafka = stack.kafka_client();
        let transfers = stack.transfers.clone();
        let accounts = accounts.to_vec();
        let (stopped, counted) = (stop.clone(), count.clone());
        let thread = thread::spawn(move || {
            let mut rng = SmallRng::seed_from_u64(7);
            let mut ordered = Vec::new();
            let started = Instant::now();
            let mut due = 0;
            while !stopped.load(Ordering::Relaxed) {
                // When Kafka is available again, at most the transfers of one second are sent.
                let passed = usize::try_from(started.elapsed().as_millis()).expect("it is short");
                let behind = (passed * per_second / 1000).saturating_sub(due);
                due += behind;
                let batch: Vec<ConfirmMoneyTransfer> = (0..behind.min(per_second))
                    .map(|_| random_transfer(&mut rng, &accounts))
                    .collect();
                let record = |order: &ConfirmMoneyTransfer| {
                    let key = order.id.to_string();
                    Post::keyed(&CONFIRM_MONEY_TRANSFER, key, transfers.encode(order))
                };
                post(&mut *kafka, &batch.iter().map(record).collect::<Vec<_>>());
                ordered.extend(batch);
                counted.store(ordered.len(), Ordering::Relaxed);
                thread::sleep(TICK);
            }
            ordered
        });
        Self { stop, count, thread: Some(thread) }
    }

    /// Number of transfers sent so far.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Stops the load. Returns the transfers that were sent.
    ///
    /// # Panics
    /// If the thread has panicked.
    pub fn stop(mut self) -> Vec<ConfirmMoneyTransfer> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("a load is stopped once");
        thread.join().expect("the thread sent its transfers")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A random transfer. Some are of kinds that the bank rejects.
pub fn random_transfer(rng: &mut impl Rng, accounts: &[Account]) -> ConfirmMoneyTransfer {
    let any = |rng: &mut _| &accounts[RngExt::random_range(rng, 0..accounts.len())];
    let from = any(rng);
    match rng.random_range(0..20) {
        0 => from.gets(rng.random_range(1..20_000)),
        1 => from.pays(rng.random_range(1..5_000), SHOP),
        2 => from.pays(rng.random_range(1..5_000), &from.iban),
        3 => Account { token: "wrong".to_owned(), ..from.clone() }.pays(1, SHOP),
        4 => from.pays(rng.random_range(50_000..500_000), SHOP),
        5 => Account { iban: nobody(), ..from.clone() }.pays(1, &from.iban),
        _ => from.pays(rng.random_range(1..5_000), &any(rng).iban),
    }
}
