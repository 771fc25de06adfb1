//! Thread-local free lists on top of the system allocator.
//!
//! The allocator of musl has one lock for all threads: two busy threads do less work than one.
//! docs/decisions/0009-allocator.md has measurements.
//!
//! Small blocks, up to 1 KiB, have size classes of 16 bytes. A thread keeps the small blocks that
//! it frees, up to 8 KiB per class, and reuses them without a lock. When a list is full, it moves
//! to a global depot. A thread with an empty list gets a full one from the depot. Thus blocks that
//! one thread allocates and another frees also circulate without the lock of the system allocator.
//! At its end a thread returns its blocks to the system.
//!
//! Large blocks, up to 1 MiB, go to the depot directly. Their classes are a quarter of a power of
//! two apart. For nearly each of them the system allocator would map and unmap pages. Even larger
//! blocks are passed to the system allocator.

mod classes;
mod depot;
mod sync;

use crate::classes::{ALIGN, CLASSES, SMALL_CLASSES, STEP, class, is_small, kept, layout};
use crate::depot::{Block, Depot, FullLists};
use crate::sync::{AtomicBool, AtomicUsize, UnsafeCell};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr;

/// The allocator, for `#[global_allocator]`.
#[derive(Debug, Clone, Copy)]
pub struct PerThread;

// `alloc`, `dealloc` and `realloc` are not inlined: the binary would grow by 94 kB without a gain.
//
// SAFETY: a block either comes from the system allocator with the requested layout, or it belongs
// to a class. The blocks of a class have the size and alignment of the largest layout of the class.
// A block of a class has one owner at a time: the caller, one list, or the system allocator.
unsafe impl GlobalAlloc for PerThread {
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match class(layout) {
            Some(class) if is_small(class) => LISTS.with(|lists| lists.take(class)),
            Some(class) => take_large(class),
            // SAFETY: the caller fulfills the same contract.
            None => unsafe { System.alloc(layout) },
        }
    }

    #[inline(never)]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match class(layout) {
            Some(class) if is_small(class) => LISTS.with(|lists| {
                // SAFETY: a block of this layout belongs to this class.
                unsafe { lists.put(class, block.cast()) }
            }),
            // SAFETY: a block of this layout belongs to this class.
            Some(class) => unsafe { put_large(class, block.cast()) },
            // SAFETY: a block of this layout came from the system allocator.
            None => unsafe { System.dealloc(block, layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if class(layout).is_none() {
            // The system allocator does not need to clear new pages.
            // SAFETY: the caller fulfills the same contract.
            return unsafe { System.alloc_zeroed(layout) };
        }
        // SAFETY: the caller fulfills the same contract.
        let block = unsafe { self.alloc(layout) };
        if !block.is_null() {
            // SAFETY: the block has at least this size.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    #[inline(never)]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller ensures that the size is valid for this alignment.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (class(layout), class(wanted)) {
            // SAFETY: a block of this layout came from the system allocator.
            (None, None) => unsafe { System.realloc(block, layout, size) },
            (Some(old), Some(new)) if old == new => block,
            _ => {
                // SAFETY: the caller ensures that the size is not zero.
                let moved = unsafe { self.alloc(wanted) };
                if !moved.is_null() {
                    // SAFETY: these are two blocks, each at least as large as the copied range. The
                    // caller owned the old one and does not use it after this call.
                    unsafe {
                        ptr::copy_nonoverlapping(block, moved, layout.size().min(size));
                        self.dealloc(block, layout);
                    }
                }
                moved
            }
        }
    }
}

const _: () = assert!(size_of::<Block>() <= STEP && align_of::<Block>() <= ALIGN);

thread_local! {
    // It needs no drop, so that it is accessible during the whole life of a thread.
    static LISTS: Lists = const { Lists::new() };
    // Its drop runs at the end of the thread.
    static THREAD_END: ThreadEnd = const { ThreadEnd };
}

/// The free blocks of a thread.
struct Lists {
    stage: Cell<Stage>,
    lists: [List; SMALL_CLASSES],
}

struct List {
    head: Cell<*mut Block>,
    /// Number of blocks that may be added. 0 in a thread that keeps no blocks.
    room: Cell<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The thread has not allocated yet.
    New,
    /// The thread keeps blocks.
    Keeping,
    /// The thread keeps no blocks: it is registering its end, which may allocate, or it ends.
    Without,
}

impl Lists {
    const fn new() -> Self {
        Self {
            stage: Cell::new(Stage::New),
            lists: [const { List { head: Cell::new(ptr::null_mut()), room: Cell::new(0) } };
                SMALL_CLASSES],
        }
    }

    /// Returns a block, or null if there is no memory.
    fn take(&self, class: usize) -> *mut u8 {
        let list = &self.lists[class];
        let block = list.head.get();
        if block.is_null() {
            return self.take_elsewhere(class);
        }
        // SAFETY: the list owns its blocks.
        list.head.set(unsafe { (*block).next });
        list.room.set(list.room.get() + 1);
        block.cast()
    }

    #[cold]
    fn take_elsewhere(&self, class: usize) -> *mut u8 {
        if self.stage.get() == Stage::New {
            self.begin();
        }
        if self.stage.get() == Stage::Keeping {
            let fetched = DEPOT.fetch(class);
            if !fetched.is_null() {
                let list = &self.lists[class];
                list.head.set(fetched);
                // The depot has only full lists.
                list.room.set(0);
                return self.take(class);
            }
        }
        from_system(class)
    }

    /// Adds a free block.
    ///
    /// # Safety
    /// `block` belongs to this class, and the caller owns it.
    unsafe fn put(&self, class: usize, block: *mut Block) {
        let list = &self.lists[class];
        let room = list.room.get();
        if room == 0 {
            // SAFETY: the contract is the same.
            return unsafe { self.put_elsewhere(class, block) };
        }
        // SAFETY: this function owns the block.
        unsafe { (*block).next = list.head.get() };
        list.head.set(block);
        list.room.set(room - 1);
    }

    /// # Safety
    /// As [`Self::put`].
    #[cold]
    unsafe fn put_elsewhere(&self, class: usize, block: *mut Block) {
        if self.stage.get() == Stage::New {
            self.begin();
        }
        let list = &self.lists[class];
        if self.stage.get() == Stage::Keeping {
            // The list is full, or the thread has not kept a block yet.
            if list.room.get() == 0 && DEPOT.store(class, list.head.get()) {
                list.head.set(ptr::null_mut());
                list.room.set(kept(class));
            }
            if list.room.get() > 0 {
                // SAFETY: the contract is the same.
                return unsafe { self.put(class, block) };
            }
        }
        // SAFETY: the contract is the same.
        unsafe { to_system(class, block) };
    }

    fn begin(&self) {
        // On some systems the registration below allocates and frees.
        self.stage.set(Stage::Without);
        if THREAD_END.try_with(|_| ()).is_ok() {
            for (class, list) in self.lists.iter().enumerate() {
                list.room.set(kept(class));
            }
            self.stage.set(Stage::Keeping);
        }
    }

    fn end(&self) {
        self.stage.set(Stage::Without);
        for (class, list) in self.lists.iter().enumerate() {
            list.room.set(0);
            let mut block = list.head.replace(ptr::null_mut());
            while !block.is_null() {
                // SAFETY: the block was removed from the list, which owned it.
                unsafe {
                    let next = (*block).next;
                    to_system(class, block);
                    block = next;
                }
            }
        }
    }
}

/// Returns the blocks of a thread to the system allocator when the thread ends.
struct ThreadEnd;

impl Drop for ThreadEnd {
    fn drop(&mut self) {
        LISTS.with(Lists::end);
    }
}

/// Returns a block of a large class, or null if there is no memory.
fn take_large(class: usize) -> *mut u8 {
    let fetched = DEPOT.fetch(class);
    if fetched.is_null() { from_system(class) } else { fetched.cast() }
}

/// Adds a free block of a large class.
///
/// # Safety
/// `block` belongs to this class, and the caller owns it.
unsafe fn put_large(class: usize, block: *mut Block) {
    // SAFETY: this function owns the block.
    unsafe { (*block).next = ptr::null_mut() };
    if !DEPOT.store(class, block) {
        // SAFETY: the contract is the same.
        unsafe { to_system(class, block) };
    }
}

static DEPOT: Depot = Depot::new();

impl Depot {
    const fn new() -> Self {
        let classes = [const {
            let lists = UnsafeCell::new((ptr::null_mut(), 0));
            FullLists { locked: AtomicBool::new(false), lists }
        }; CLASSES];
        Self { classes, bytes: AtomicUsize::new(0) }
    }
}

fn from_system(class: usize) -> *mut u8 {
    #[cfg(test)]
    tests::ALLOCATED[class].fetch_add(1, sync::Ordering::Relaxed);
    // SAFETY: the size of a class is not zero.
    unsafe { System.alloc(layout(class)) }
}

/// # Safety
/// `block` came from [`from_system`] with the same class, and the caller owns it.
unsafe fn to_system(class: usize, block: *mut Block) {
    #[cfg(test)]
    tests::RETURNED[class].fetch_add(1, sync::Ordering::Relaxed);
    // SAFETY: the caller fulfills the contract.
    unsafe { System.dealloc(block.cast(), layout(class)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classes::{DEPOT_BYTES, DEPOT_CLASS_BYTES, LARGE_MAX, SMALL_MAX, size};
    use crate::sync::Ordering;
    use proptest::prelude::*;
    use std::sync::mpsc::sync_channel;
    use std::thread;

    // The test process uses the allocator itself.
    #[global_allocator]
    static GLOBAL: PerThread = PerThread;

    /// Number of blocks allocated by the system allocator and returned to it, per class.
    pub static ALLOCATED: [AtomicUsize; CLASSES] = [const { AtomicUsize::new(0) }; CLASSES];
    pub static RETURNED: [AtomicUsize; CLASSES] = [const { AtomicUsize::new(0) }; CLASSES];

    /// A block filled with a pattern, which reveals writes by other owners.
    struct Owned {
        at: *mut u8,
        layout: Layout,
        seed: u8,
    }

    // SAFETY: the value owns the block.
    unsafe impl Send for Owned {}

    impl Owned {
        fn new(size: usize, align: usize, seed: u8) -> Self {
            let layout = Layout::from_size_align(size, align).unwrap();
            // SAFETY: sizes in these tests are not zero.
            let at = unsafe { PerThread.alloc(layout) };
            let owned = Self { at, layout, seed };
            owned.fill();
            owned
        }

        fn fill(&self) {
            assert!(!self.at.is_null());
            assert_eq!(self.at.addr() % self.layout.align(), 0);
            for index in 0..self.layout.size() {
                // SAFETY: the index is within the block.
                unsafe { self.at.add(index).write(self.byte(index)) };
            }
        }

        fn byte(&self, index: usize) -> u8 {
            (index as u8).wrapping_mul(31).wrapping_add(self.seed)
        }

        fn check(&self, size: usize) {
            for index in 0..size {
                // SAFETY: the index is within the block.
                assert_eq!(unsafe { self.at.add(index).read() }, self.byte(index), "{index}");
            }
        }

        fn resize(&mut self, size: usize) {
            let old = self.layout.size();
            // SAFETY: the block has this layout.
            self.at = unsafe { PerThread.realloc(self.at, self.layout, size) };
            self.layout = Layout::from_size_align(size, self.layout.align()).unwrap();
            self.check(old.min(size));
            self.fill();
        }
    }

    impl Drop for Owned {
        fn drop(&mut self) {
            self.check(self.layout.size());
            // SAFETY: the block has this layout.
            unsafe { PerThread.dealloc(self.at, self.layout) };
        }
    }

    /// Sizes without the classes whose blocks are counted below.
    fn sizes() -> impl Strategy<Value = usize> {
        prop_oneof![3 => 1..=960usize, 1 => 1009..6000usize]
    }

    proptest! {
        #[test]
        fn blocks_are_aligned_and_keep_their_contents(
            steps in proptest::collection::vec((0..3u8, sizes(), 0..8u32, any::<usize>()), 1..400)
        ) {
            let mut blocks = Vec::new();
            for (what, size, align, which) in steps {
                let new = || Owned::new(size, 1 << align, which as u8);
                match what {
                    _ if blocks.is_empty() => blocks.push(new()),
                    0 => blocks.push(new()),
                    1 => {
                        let index = which % blocks.len();
                        blocks[index].resize(size);
                    }
                    _ => drop(blocks.swap_remove(which % blocks.len())),
                }
            }
        }
    }

    #[test]
    fn class_of_a_layout_matches_its_limits() {
        let class = |size, align| class(Layout::from_size_align(size, align).unwrap());
        assert_eq!(class(1, 1), Some(0));
        assert_eq!(class(16, ALIGN), Some(0));
        assert_eq!(class(17, 8), Some(1));
        assert_eq!(class(SMALL_MAX, ALIGN), Some(SMALL_CLASSES - 1));
        assert_eq!(class(SMALL_MAX + 1, 1), Some(SMALL_CLASSES));
        assert_eq!(class(LARGE_MAX, ALIGN), Some(CLASSES - 1));
        assert_eq!(class(LARGE_MAX + 1, 1), None);
        assert_eq!(class(16, 2 * ALIGN), None);
        assert_eq!(class(0, 1), None);
    }

    #[test]
    fn size_of_a_class_is_its_largest_layout() {
        let class = |size| class(Layout::from_size_align(size, 1).unwrap());
        for it in 0..CLASSES {
            assert_eq!(class(size(it)), Some(it));
            assert_eq!(class(size(it) + 1), (it + 1 < CLASSES).then_some(it + 1));
        }
        assert_eq!((size(SMALL_CLASSES), size(CLASSES - 1)), (1280, LARGE_MAX));
    }

    #[test]
    fn block_grows_in_place_within_its_class() {
        let mut block = Owned::new(33, 8, 1);
        let at = block.at;
        block.resize(48);
        assert_eq!(block.at, at);
        block.resize(49);
        assert_ne!(block.at, at);
    }

    #[test]
    fn zeroed_block_is_zero_after_reuse() {
        for size in [100, 5000] {
            let layout = Layout::from_size_align(size, 8).unwrap();
            drop(Owned::new(size, 8, 255));
            // SAFETY: the size is not zero, and the block has this layout.
            unsafe {
                let block = PerThread.alloc_zeroed(layout);
                assert!((0..size).all(|index| block.add(index).read() == 0));
                PerThread.dealloc(block, layout);
            }
        }
    }

    // Sizes of the tests below. Each has a class that no other code of this process uses.
    const THREAD_END_SIZE: usize = 1008;
    const OTHER_THREAD_SIZE: usize = 992;
    const MANY_THREADS_SIZE: usize = 976;
    const LARGE_SIZE: usize = 300_000;

    fn of(size: usize) -> usize {
        class(Layout::from_size_align(size, 8).unwrap()).unwrap()
    }

    fn count(counter: &[AtomicUsize; CLASSES], size: usize) -> usize {
        counter[of(size)].load(Ordering::Relaxed)
    }

    /// The number of blocks that were not returned to the system allocator.
    fn out(size: usize) -> usize {
        count(&ALLOCATED, size) - count(&RETURNED, size)
    }

    #[test]
    fn large_blocks_are_reused() {
        for n in 0..100 {
            drop(Owned::new(LARGE_SIZE, 8, n));
        }
        assert!(count(&ALLOCATED, LARGE_SIZE) < 10, "{}", count(&ALLOCATED, LARGE_SIZE));
    }

    #[test]
    fn depot_keeps_a_bounded_number_of_blocks() {
        // Other threads of this process use the global depot.
        let depot = Depot::new();
        let mut kept = 0;
        for class in SMALL_CLASSES..CLASSES {
            let mut of_class = 0;
            loop {
                let block = from_system(class).cast::<Block>();
                if !depot.store(class, block) {
                    // SAFETY: the depot did not take the block.
                    unsafe { to_system(class, block) };
                    break;
                }
                of_class += size(class);
            }
            assert!(of_class <= DEPOT_CLASS_BYTES, "{of_class} bytes of class {class}");
            kept += of_class;
        }
        assert!((DEPOT_BYTES - LARGE_MAX..=DEPOT_BYTES).contains(&kept), "{kept}");
        for class in SMALL_CLASSES..CLASSES {
            while let block = depot.fetch(class)
                && !block.is_null()
            {
                // SAFETY: the depot gave the block away.
                unsafe { to_system(class, block) };
            }
        }
        assert_eq!(depot.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn ended_threads_return_their_blocks() {
        const THREADS: usize = 50;
        const BLOCKS: usize = 20;
        for _ in 0..THREADS {
            let work = || {
                drop(
                    (0..BLOCKS)
                        .map(|n| Owned::new(THREAD_END_SIZE, 8, n as u8))
                        .collect::<Vec<_>>(),
                )
            };
            thread::spawn(work).join().unwrap();
        }
        assert!(
            out(THREAD_END_SIZE) * THREAD_END_SIZE <= DEPOT_CLASS_BYTES,
            "{} blocks are out",
            out(THREAD_END_SIZE)
        );
        assert!(count(&RETURNED, THREAD_END_SIZE) > 0);
    }

    #[test]
    fn blocks_freed_by_another_thread_are_reused() {
        const BLOCKS: usize = 10_000;
        // The channel holds few blocks, so that few must come from the system allocator.
        let (send, receive) = sync_channel::<Owned>(4);
        let freeing = thread::spawn(move || receive.into_iter().for_each(drop));
        for n in 0..BLOCKS {
            send.send(Owned::new(OTHER_THREAD_SIZE, 8, n as u8)).unwrap();
        }
        drop(send);
        freeing.join().unwrap();
        assert!(
            count(&ALLOCATED, OTHER_THREAD_SIZE) < BLOCKS / 10,
            "{}",
            count(&ALLOCATED, OTHER_THREAD_SIZE)
        );
    }

    #[test]
    fn blocks_passed_between_threads_have_one_owner() {
        const THREADS: usize = 4;
        const ROUNDS: usize = 200;
        let (senders, receivers): (Vec<_>, Vec<_>) =
            (0..THREADS).map(|_| sync_channel::<Vec<Owned>>(THREADS * ROUNDS)).unzip();
        let threads: Vec<_> = receivers
            .into_iter()
            .enumerate()
            .map(|(index, receiver)| {
                let next = senders[(index + 1) % THREADS].clone();
                thread::spawn(move || {
                    for round in 0..ROUNDS {
                        let blocks =
                            (0..20).map(|n| Owned::new(MANY_THREADS_SIZE, 8, (n + round) as u8));
                        next.send(blocks.collect()).unwrap();
                        // The drop checks the contents.
                        drop(receiver.recv().unwrap());
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(
            out(MANY_THREADS_SIZE) * MANY_THREADS_SIZE <= DEPOT_CLASS_BYTES,
            "{} blocks are out",
            out(MANY_THREADS_SIZE)
        );
    }
}
