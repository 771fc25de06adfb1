//! The batching producer: a queue, and a thread that sends batches from it.

use super::config::ProducerConfig;
use super::outgoing::Outgoing;
use super::sender::Sender;
use bank::limits::{PRODUCED_REQUEST_BYTES_MAX, PRODUCER_QUEUE_BYTES};
use kafka_client::Error;
use service::shutdown::Shutdown;
use std::collections::VecDeque;
use std::mem;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Maximum number of batches, of which one is in flight.
pub(super) const QUEUE_BATCHES: usize = 4;

/// The batching producer. Many threads queue records, and one thread sends them. While a request is
/// in flight, the next batch is collected. Dropping the producer flushes it.
pub struct Producer {
    queue: Arc<Queue>,
    closing: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// The future result of one record, or of all records of one call.
#[must_use = "a record may be rejected"]
pub struct Delivery {
    first: QueuedRecords,
    more: Vec<QueuedRecords>,
}

impl Producer {
    /// Starts the producer and its thread.
    pub fn start(config: ProducerConfig, shutdown: &Shutdown) -> Self {
        Self::with_sender(Sender::new(&config, shutdown), &config)
    }

    pub(super) fn with_sender(mut sender: Sender, config: &ProducerConfig) -> Self {
        let closing = sender.closing.clone();
        let queue = Arc::new(Queue::new(config));
        let sending = queue.clone();
        let run = move || {
            while let Some(batch) = sending.next_batch() {
                let results = sender.send_all(&batch.records);
                sending.done(&batch);
                batch.result.set(results);
            }
        };
        let thread = thread::Builder::new().name("producer".into()).spawn(run);
        Self { queue, closing, thread: Some(thread.expect("a thread can be started at startup")) }
    }

    /// Queues a record. Blocks while the queue is full.
    pub fn send(&self, record: Outgoing) -> Delivery {
        let queued = self.queue.push(record, None).expect("a push without a deadline waits");
        Delivery { first: queued, more: Vec::new() }
    }

    /// Queues a record. `None` if the queue is full for `wait`: then the record is not sent.
    pub fn send_within(&self, record: Outgoing, wait: Duration) -> Option<Delivery> {
        let queued = self.queue.push(record, Some(Instant::now() + wait))?;
        Some(Delivery { first: queued, more: Vec::new() })
    }

    /// Queues records in order. Blocks while the queue is full.
    pub fn send_all(&self, records: Vec<Outgoing>) -> Delivery {
        let mut delivery = Delivery { first: QueuedRecords::settled(), more: Vec::new() };
        for record in records {
            let queued = self.queue.push(record, None).expect("a push without a deadline waits");
            let last = delivery.more.last_mut().unwrap_or(&mut delivery.first);
            if Arc::ptr_eq(&last.result, &queued.result) {
                last.records.end = queued.records.end;
            } else {
                delivery.more.push(queued);
            }
        }
        delivery
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        self.queue.close();
        if let Some(thread) = self.thread.take() {
            // An error means that the thread panicked, and the panic hook ends the service.
            let _ = thread.join();
        }
    }
}

impl Delivery {
    /// Waits until all records are written or rejected.
    ///
    /// # Errors
    /// The error of the first record that was not written.
    pub fn wait(self) -> Result<(), Error> {
        let mut result = self.first.wait();
        for queued in self.more {
            result = result.and(queued.wait());
        }
        result
    }
}

/// Records of one batch.
struct QueuedRecords {
    result: Arc<BatchResult>,
    /// Their indexes in the batch.
    records: Range<usize>,
}

impl QueuedRecords {
    fn settled() -> Self {
        let result = BatchResult::default();
        result.set(Vec::new());
        Self { result: Arc::new(result), records: 0..0 }
    }

    fn wait(self) -> Result<(), Error> {
        let mut failures = self.result.failures.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(failures) = &*failures {
                let mine = failures.iter().find(|(record, _)| self.records.contains(record));
                return mine.map_or(Ok(()), |(_, err)| Err(err.clone()));
            }
            failures = self.result.settled.wait(failures).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The result of a batch. Its records share it, so a [`Delivery`] needs no allocation.
#[derive(Default)]
struct BatchResult {
    /// Index and error of each record that was not written. `None` until the batch was sent.
    failures: Mutex<Option<Vec<(usize, Error)>>>,
    settled: Condvar,
}

impl BatchResult {
    fn set(&self, results: Vec<Result<(), Error>>) {
        let failures = results.into_iter().enumerate().filter_map(|(i, it)| Some((i, it.err()?)));
        let failures = failures.collect();
        *self.failures.lock().unwrap_or_else(PoisonError::into_inner) = Some(failures);
        self.settled.notify_all();
    }
}

/// The queue between the threads that produce records and the sending thread.
struct Queue {
    state: Mutex<QueueState>,
    /// Wakes the sending thread.
    filled: Condvar,
    /// Wakes threads that wait for free space.
    drained: Condvar,
    linger: Duration,
    batch_records: usize,
}

#[derive(Default)]
struct QueueState {
    full: VecDeque<QueuedBatch>,
    open: QueuedBatch,
    /// Number of queued and in-flight records, and their size in bytes.
    records: usize,
    bytes: usize,
    closed: bool,
}

#[derive(Default)]
struct QueuedBatch {
    records: Vec<Outgoing>,
    bytes: usize,
    first_at: Option<Instant>,
    result: Arc<BatchResult>,
}

impl Queue {
    fn new(config: &ProducerConfig) -> Self {
        Self {
            state: Mutex::default(),
            filled: Condvar::new(),
            drained: Condvar::new(),
            linger: config.linger,
            batch_records: config.request_records(),
        }
    }

    /// `None` if the queue is full until `deadline`.
    fn push(&self, record: Outgoing, deadline: Option<Instant>) -> Option<QueuedRecords> {
        let bytes = record.bytes();
        let mut state = self.state();
        while state.records > 0
            && (state.records >= QUEUE_BATCHES * self.batch_records
                || state.bytes + bytes > PRODUCER_QUEUE_BYTES)
        {
            state = match deadline.map(|it| it.saturating_duration_since(Instant::now())) {
                None => self.drained.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return None,
                Some(left) => {
                    let waited = self.drained.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        state.records += 1;
        state.bytes += bytes;
        let open = &mut state.open;
        open.bytes += bytes;
        open.records.push(record);
        let queued = QueuedRecords {
            result: open.result.clone(),
            records: open.records.len() - 1..open.records.len(),
        };
        if open.first_at.is_none() {
            open.first_at = Some(Instant::now());
            self.filled.notify_one();
        }
        let is_full = open.bytes >= PRODUCED_REQUEST_BYTES_MAX / 2;
        if open.records.len() >= self.batch_records || is_full {
            let full = mem::take(open);
            state.full.push_back(full);
            self.filled.notify_one();
        }
        Some(queued)
    }

    /// Returns the next batch: a full batch immediately, another one after `linger`. `None` once
    /// the queue is closed and empty.
    fn next_batch(&self) -> Option<QueuedBatch> {
        let mut state = self.state();
        loop {
            if let Some(batch) = state.full.pop_front() {
                return Some(batch);
            }
            state = match state.open.first_at {
                Some(first_at) => {
                    let left = self.linger.saturating_sub(first_at.elapsed());
                    if left.is_zero() || state.closed {
                        return Some(mem::take(&mut state.open));
                    }
                    self.filled.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
                None if state.closed => return None,
                None => self.filled.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Frees the space of a sent batch.
    fn done(&self, batch: &QueuedBatch) {
        let mut state = self.state();
        state.records -= batch.records.len();
        state.bytes -= batch.bytes;
        self.drained.notify_all();
    }

    fn close(&self) {
        self.state().closed = true;
        self.filled.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
