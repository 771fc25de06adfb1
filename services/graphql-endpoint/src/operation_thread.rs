//! Threads for operations that wait for an outcome or for transactions.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Maximum of such threads at a time.
const OPERATIONS_MAX: usize = 4096;
/// Stack size of such a thread: four times the need of the deepest query within the limits.
const STACK_BYTES: usize = 256 << 10;

static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// Counts a thread in [`RUNNING`] until dropped.
struct RunningThread;

impl Drop for RunningThread {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Starts a thread for an operation. Fails if [`OPERATIONS_MAX`] are running or the system cannot
/// start a thread.
pub fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let before = RUNNING.fetch_add(1, Ordering::Relaxed);
    let running = RunningThread;
    if before >= OPERATIONS_MAX {
        return Err(io::Error::other("too many operations"));
    }
    let run = move || {
        let _running = running;
        work();
    };
    thread::Builder::new().name(name.into()).stack_size(STACK_BYTES).spawn(run).map(drop)
}
