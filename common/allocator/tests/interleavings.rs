//! Runs the depot in each interleaving of two threads, in loom's model of the memory orderings.
//! loom reports two accesses to a block of which neither happens before the other.

mod sync {
    pub use loom::cell::UnsafeCell;
    pub use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
}

/// The limits of a depot so small that two threads reach them.
mod classes {
    pub const CLASSES: usize = 2;
    pub const DEPOT_BYTES: usize = 3 * size(0);
    pub const DEPOT_CLASS_BYTES: usize = 2 * size(0);

    /// Number of blocks in a list.
    pub const fn kept(_class: usize) -> usize {
        1
    }

    pub const fn size(_class: usize) -> usize {
        64
    }
}

#[path = "../src/depot.rs"]
mod depot;

use classes::{CLASSES, DEPOT_BYTES, size};
use depot::{Block, Depot, FullLists};
use loom::sync::Arc;
use std::iter::repeat_with;
use std::ptr;
use sync::{AtomicBool, AtomicUsize, Ordering, UnsafeCell};

struct Shared(Depot);

// SAFETY: the blocks of a depot belong to no thread.
unsafe impl Send for Shared {}
// SAFETY: as for the static depot of the crate.
unsafe impl Sync for Shared {}

impl Shared {
    fn new() -> Arc<Self> {
        let lists = || UnsafeCell::new((ptr::null_mut(), 0));
        let class = || FullLists { locked: AtomicBool::new(false), lists: lists() };
        let bytes = AtomicUsize::new(0);
        Arc::new(Self(Depot { classes: [class(), class()], bytes }))
    }

    /// Stores a new block. Returns the number of blocks that the depot did not take.
    fn store(&self, class: usize) -> usize {
        let block = Box::into_raw(Box::new(Tracked::new()));
        Tracked::access(block);
        usize::from(!self.0.store(class, block.cast()) && free(block))
    }

    /// Fetches a block and frees it. Returns the number of fetched blocks.
    fn fetch(&self, class: usize) -> usize {
        usize::from(free(self.0.fetch(class).cast()))
    }

    /// Fetches all blocks. Returns their number.
    fn drain(&self) -> usize {
        let drain = |class| repeat_with(|| self.fetch(class)).take_while(|it| *it > 0).count();
        (0..CLASSES).map(drain).sum()
    }
}

/// A block whose accesses loom records.
#[repr(C)]
struct Tracked {
    block: Block,
    accesses: UnsafeCell<()>,
}

impl Tracked {
    fn new() -> Self {
        let block = Block { next: ptr::null_mut(), next_list: ptr::null_mut() };
        Self { block, accesses: UnsafeCell::new(()) }
    }

    /// Writes to the block, which must not be free.
    fn access(block: *mut Self) {
        // SAFETY: the caller owns the block.
        unsafe { (*block).accesses.with_mut(|_| ()) };
    }
}

/// Frees a block. False if it is null.
fn free(block: *mut Tracked) -> bool {
    if block.is_null() {
        return false;
    }
    Tracked::access(block);
    // SAFETY: `Shared::store` made the block, and the caller owns it.
    let tracked = unsafe { Box::from_raw(block) };
    assert!(tracked.block.next.is_null(), "the depot changes only the first block of a list");
    true
}

/// Runs `work` on two threads. Returns the number of blocks that they have freed, and the depot.
fn run(work: fn(&Shared) -> usize) -> (usize, Arc<Shared>) {
    let depot = Shared::new();
    let other = depot.clone();
    let thread = loom::thread::spawn(move || work(&other));
    let freed = work(&depot);
    (freed + thread.join().expect("the thread does not panic"), depot)
}

#[test]
fn block_has_one_owner_at_a_time() {
    loom::model(|| {
        let (freed, depot) = run(|depot| depot.store(0) + depot.fetch(0));
        assert_eq!(freed + depot.drain(), 2);
        assert_eq!(depot.0.bytes.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn depot_stays_within_its_limits() {
    loom::model(|| {
        let (freed, depot) = run(|depot| depot.store(0) + depot.store(1));
        let bytes = depot.0.bytes.load(Ordering::Relaxed);
        let kept = depot.drain();
        assert_eq!((freed + kept, bytes), (4, kept * size(0)));
        assert!(kept <= DEPOT_BYTES / size(0), "{kept}");
    });
}
