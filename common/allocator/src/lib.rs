//! Free lists per thread before the system's allocator, for a C library whose own takes one lock for everything, as musl's does:
//! two busy threads get less done with it than one. docs/decisions/0009-allocator.md has the figures.
//!
//! Blocks of up to a KiB come in classes of 16 bytes. A thread keeps the ones it frees, up to 8 KiB of a class, and takes from
//! them without a lock. What is more goes in one piece to a depot, from where a thread that has none left fetches it: so blocks
//! that one thread allocates and another frees go round without the system's lock too. A thread that ends gives its blocks back.
//!
//! Blocks of up to a MiB go to the depot one by one, in classes a quarter of a power of two apart: the system maps and unmaps pages
//! for nearly each of them. Larger ones are its business.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, UnsafeCell};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Granularity of the classes, bytes.
const STEP: usize = 16;
/// Largest block of which threads keep lists, bytes.
const SMALL_MAX: usize = 1 << 10;
const SMALL_CLASSES: usize = SMALL_MAX / STEP;
/// Largest block that is kept, bytes.
const LARGE_MAX: usize = 1 << 20;
/// Classes of large blocks between a power of two and the next.
const QUARTERS: usize = 4;
const CLASSES: usize = SMALL_CLASSES + QUARTERS * (LARGE_MAX / SMALL_MAX).ilog2() as usize;
/// What the system's allocator aligns to unasked.
const ALIGN: usize = 2 * size_of::<usize>();
/// Most that a thread keeps of one class: bytes and blocks.
const KEPT_BYTES: usize = 8 << 10;
const KEPT_BLOCKS: usize = 64;
/// Most bytes in the depot: of one class, and of all.
const DEPOT_CLASS_BYTES: usize = LARGE_MAX;
const DEPOT_BYTES: usize = 4 << 20;

/// The allocator, for `#[global_allocator]`.
#[derive(Debug, Clone, Copy)]
pub struct PerThread;

// Never inlined: the binary would grow by 94 kB and gain nothing.
//
// SAFETY: a block is either the system's, with the layout it was asked for, or of a class whose blocks are as large as the largest
// layout of the class and aligned for all of them. A block of a class is in one place at a time: with the caller, in
// one list, or with the system.
unsafe impl GlobalAlloc for PerThread {
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match class(layout) {
            Some(class) if is_small(class) => LISTS.with(|lists| lists.take(class)),
            Some(class) => take_large(class),
            // SAFETY: the caller's promise is the same.
            None => unsafe { System.alloc(layout) },
        }
    }

    #[inline(never)]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match class(layout) {
            Some(class) if is_small(class) => LISTS.with(|lists| {
                // SAFETY: a block of this layout came from the same class.
                unsafe { lists.put(class, block.cast()) }
            }),
            // SAFETY: the same.
            Some(class) => unsafe { put_large(class, block.cast()) },
            // SAFETY: a block of this layout came from the system.
            None => unsafe { System.dealloc(block, layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if class(layout).is_none() {
            // Fresh pages are zero already, which only the system knows.
            // SAFETY: the caller's promise is the same.
            return unsafe { System.alloc_zeroed(layout) };
        }
        // SAFETY: the caller's promise is the same.
        let block = unsafe { self.alloc(layout) };
        if !block.is_null() {
            // SAFETY: the block is at least as large.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    #[inline(never)]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that the size fits the alignment.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (class(layout), class(wanted)) {
            // SAFETY: a block of this layout came from the system.
            (None, None) => unsafe { System.realloc(block, layout, size) },
            (Some(old), Some(new)) if old == new => block,
            _ => {
                // SAFETY: size isn't zero, by the caller's promise.
                let moved = unsafe { self.alloc(wanted) };
                if !moved.is_null() {
                    // SAFETY: two blocks, both at least as large as what is copied; the old one is the caller's until here.
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

/// The class that serves `layout`; none if the system does.
fn class(layout: Layout) -> Option<usize> {
    // A size of zero is not allowed; were it given, it would be the system's.
    let last = layout.size().wrapping_sub(1);
    if last >= LARGE_MAX || layout.align() > ALIGN {
        return None;
    }
    if last < SMALL_MAX {
        return Some(last / STEP);
    }
    // The two bits behind the first one tell the quarter.
    let power = last.ilog2() as usize;
    let quarter = last >> (power - 2) & (QUARTERS - 1);
    Some(SMALL_CLASSES + (power - SMALL_MAX.ilog2() as usize) * QUARTERS + quarter)
}

fn is_small(class: usize) -> bool {
    class < SMALL_CLASSES
}

/// Bytes of a block.
const fn size(class: usize) -> usize {
    if class < SMALL_CLASSES {
        return (class + 1) * STEP;
    }
    let (power, quarter) = ((class - SMALL_CLASSES) / QUARTERS, (class - SMALL_CLASSES) % QUARTERS);
    (SMALL_MAX << power) / QUARTERS * (QUARTERS + quarter + 1)
}

/// What the system is asked for.
const fn layout(class: usize) -> Layout {
    match Layout::from_size_align(size(class), ALIGN) {
        Ok(layout) => layout,
        Err(_) => unreachable!(),
    }
}

/// Blocks in a full list: the most that a thread keeps of a class, and one of a large one.
const fn kept(class: usize) -> usize {
    match KEPT_BYTES / size(class) {
        _ if class >= SMALL_CLASSES => 1,
        blocks if blocks < KEPT_BLOCKS => blocks,
        _ => KEPT_BLOCKS,
    }
}

/// A block that nobody uses. The smallest class has room for it.
struct Block {
    /// In the same list.
    next: *mut Block,
    /// In the depot, of a list's first block: the first one of the next list.
    next_list: *mut Block,
}

const _: () = assert!(size_of::<Block>() <= STEP && align_of::<Block>() <= ALIGN);

thread_local! {
    // Nothing to drop, so that it can be reached at any time in the life of a thread.
    static LISTS: Lists = const { Lists::new() };
    // Dropped with the thread.
    static LEAVE: Leave = const { Leave };
}

/// A thread's blocks.
struct Lists {
    stage: Cell<Stage>,
    lists: [List; SMALL_CLASSES],
}

struct List {
    head: Cell<*mut Block>,
    /// How many blocks may be added; 0 in a thread that keeps none.
    room: Cell<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Has asked for nothing yet.
    New,
    /// Keeps blocks.
    Keeping,
    /// Keeps none: it is about to, in which it may allocate, or it ends.
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

    /// A block, or null if there is no memory.
    fn take(&self, class: usize) -> *mut u8 {
        let list = &self.lists[class];
        let block = list.head.get();
        if block.is_null() {
            return self.take_elsewhere(class);
        }
        // SAFETY: a block in the list is nobody else's.
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
                // Lists come whole.
                list.room.set(0);
                return self.take(class);
            }
        }
        from_system(class)
    }

    /// # Safety
    /// `block` is of this class, and its owner is done with it.
    unsafe fn put(&self, class: usize, block: *mut Block) {
        let list = &self.lists[class];
        let room = list.room.get();
        if room == 0 {
            // SAFETY: the same promise.
            return unsafe { self.put_elsewhere(class, block) };
        }
        // SAFETY: the block is ours now.
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
            // Full, or this is the first block of all.
            if list.room.get() == 0 && DEPOT.store(class, list.head.get()) {
                list.head.set(ptr::null_mut());
                list.room.set(kept(class));
            }
            if list.room.get() > 0 {
                // SAFETY: the same promise.
                return unsafe { self.put(class, block) };
            }
        }
        // SAFETY: the same promise.
        unsafe { to_system(class, block) };
    }

    fn begin(&self) {
        // What follows may allocate and free, on some systems.
        self.stage.set(Stage::Without);
        if LEAVE.try_with(|_| ()).is_ok() {
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
                // SAFETY: a block in the list is nobody else's, and no longer in it.
                unsafe {
                    let next = (*block).next;
                    to_system(class, block);
                    block = next;
                }
            }
        }
    }
}

/// Gives the blocks of a thread back when it ends.
struct Leave;

impl Drop for Leave {
    fn drop(&mut self) {
        LISTS.with(Lists::end);
    }
}

/// A block of a large class, or null if there is no memory.
fn take_large(class: usize) -> *mut u8 {
    let fetched = DEPOT.fetch(class);
    if fetched.is_null() { from_system(class) } else { fetched.cast() }
}

/// # Safety
/// `block` is of this class, and its owner is done with it.
unsafe fn put_large(class: usize, block: *mut Block) {
    // SAFETY: the block is ours now.
    unsafe { (*block).next = ptr::null_mut() };
    if !DEPOT.store(class, block) {
        // SAFETY: the same promise.
        unsafe { to_system(class, block) };
    }
}

static DEPOT: Depot =
    Depot { shelves: [const { Shelf::new() }; CLASSES], bytes: AtomicUsize::new(0) };

/// What no thread keeps and the system doesn't get back yet.
struct Depot {
    shelves: [Shelf; CLASSES],
    /// On all shelves, and on the way there.
    bytes: AtomicUsize,
}

impl Depot {
    /// A list of [`kept`] blocks; null if there is none to be had.
    fn fetch(&self, class: usize) -> *mut Block {
        let list = self.shelves[class].fetch();
        if !list.is_null() {
            self.bytes.fetch_sub(kept(class) * size(class), Ordering::Relaxed);
        }
        list
    }

    /// Takes over a list of [`kept`] blocks; false if there is no place for it.
    fn store(&self, class: usize, list: *mut Block) -> bool {
        debug_assert!(!list.is_null(), "a list without room has blocks");
        let bytes = kept(class) * size(class);
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let stored = before + bytes <= DEPOT_BYTES
            && self.shelves[class].store(list, DEPOT_CLASS_BYTES / bytes);
        if !stored {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        stored
    }
}

/// Full lists of one class, for whichever thread needs one. Nobody waits for it: who finds it taken goes to the system.
struct Shelf {
    taken: AtomicBool,
    /// First block of the first list, and number of lists; for the one who has it taken.
    lists: UnsafeCell<(*mut Block, usize)>,
}

// SAFETY: `taken` lets one thread at a time to `lists`, whose blocks are nobody else's.
unsafe impl Sync for Shelf {}

impl Shelf {
    const fn new() -> Self {
        Self { taken: AtomicBool::new(false), lists: UnsafeCell::new((ptr::null_mut(), 0)) }
    }

    fn fetch(&self) -> *mut Block {
        self.with(|first, count| {
            let list = *first;
            if !list.is_null() {
                // SAFETY: blocks in here are nobody else's.
                *first = unsafe { (*list).next_list };
                *count -= 1;
            }
            list
        })
        .unwrap_or(ptr::null_mut())
    }

    /// False if there are `lists_max` already.
    fn store(&self, list: *mut Block, lists_max: usize) -> bool {
        let stored = self.with(|first, count| {
            let place = *count < lists_max;
            if place {
                // SAFETY: the list is ours from here on.
                unsafe { (*list).next_list = *first };
                *first = list;
                *count += 1;
            }
            place
        });
        stored.unwrap_or(false)
    }

    fn with<T>(&self, use_it: impl FnOnce(&mut *mut Block, &mut usize) -> T) -> Option<T> {
        if self.taken.swap(true, Ordering::Acquire) {
            return None;
        }
        // SAFETY: `taken` was not set before, so that no other thread is here.
        let (first, count) = unsafe { &mut *self.lists.get() };
        let result = use_it(first, count);
        self.taken.store(false, Ordering::Release);
        Some(result)
    }
}

fn from_system(class: usize) -> *mut u8 {
    #[cfg(test)]
    tests::ASKED[class].fetch_add(1, Ordering::Relaxed);
    // SAFETY: the size of a class isn't zero.
    unsafe { System.alloc(layout(class)) }
}

/// # Safety
/// `block` came from [`from_system`] with the same class, and nobody uses it.
unsafe fn to_system(class: usize, block: *mut Block) {
    #[cfg(test)]
    tests::RETURNED[class].fetch_add(1, Ordering::Relaxed);
    // SAFETY: the caller's promise.
    unsafe { System.dealloc(block.cast(), layout(class)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::mpsc::sync_channel;
    use std::thread;

    // The tests themselves run on it.
    #[global_allocator]
    static GLOBAL: PerThread = PerThread;

    /// Blocks that the system was asked for and was given back, per class.
    pub static ASKED: [AtomicUsize; CLASSES] = [const { AtomicUsize::new(0) }; CLASSES];
    pub static RETURNED: [AtomicUsize; CLASSES] = [const { AtomicUsize::new(0) }; CLASSES];

    /// A block with a pattern in it, which shows whether somebody else wrote there.
    struct Owned {
        at: *mut u8,
        layout: Layout,
        seed: u8,
    }

    // SAFETY: it owns the block.
    unsafe impl Send for Owned {}

    impl Owned {
        fn new(size: usize, align: usize, seed: u8) -> Self {
            let layout = Layout::from_size_align(size, align).unwrap();
            // SAFETY: sizes in these tests aren't zero.
            let at = unsafe { PerThread.alloc(layout) };
            let owned = Self { at, layout, seed };
            owned.fill();
            owned
        }

        fn fill(&self) {
            assert!(!self.at.is_null());
            assert_eq!(self.at.addr() % self.layout.align(), 0);
            for index in 0..self.layout.size() {
                // SAFETY: inside of the block.
                unsafe { self.at.add(index).write(self.byte(index)) };
            }
        }

        fn byte(&self, index: usize) -> u8 {
            (index as u8).wrapping_mul(31).wrapping_add(self.seed)
        }

        fn check(&self, size: usize) {
            for index in 0..size {
                // SAFETY: inside of the block.
                assert_eq!(unsafe { self.at.add(index).read() }, self.byte(index), "{index}");
            }
        }

        fn resize(&mut self, size: usize) {
            let old = self.layout.size();
            // SAFETY: the block is of that layout.
            self.at = unsafe { PerThread.realloc(self.at, self.layout, size) };
            self.layout = Layout::from_size_align(size, self.layout.align()).unwrap();
            self.check(old.min(size));
            self.fill();
        }
    }

    impl Drop for Owned {
        fn drop(&mut self) {
            self.check(self.layout.size());
            // SAFETY: the block is of that layout.
            unsafe { PerThread.dealloc(self.at, self.layout) };
        }
    }

    /// Leaves out the classes whose blocks are counted below.
    fn sizes() -> impl Strategy<Value = usize> {
        prop_oneof![3 => 1..=960usize, 1 => 1009..6000usize]
    }

    proptest! {
        #[test]
        fn blocks_are_aligned_apart_and_keep_what_is_in_them(
            steps in proptest::collection::vec((0..3u8, sizes(), 0..8u32, any::<usize>()), 1..400)
        ) {
            let mut blocks = Vec::new();
            for (what, size, align, which) in steps {
                match what {
                    _ if blocks.is_empty() => blocks.push(Owned::new(size, 1 << align, which as u8)),
                    0 => blocks.push(Owned::new(size, 1 << align, which as u8)),
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
    fn classes_end_where_they_should() {
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
    fn a_block_is_as_large_as_the_largest_of_its_class_and_the_next_is_larger() {
        let class = |size| class(Layout::from_size_align(size, 1).unwrap());
        for it in 0..CLASSES {
            assert_eq!(class(size(it)), Some(it));
            assert_eq!(class(size(it) + 1), (it + 1 < CLASSES).then_some(it + 1));
        }
        assert_eq!((size(SMALL_CLASSES), size(CLASSES - 1)), (1280, LARGE_MAX));
    }

    #[test]
    fn a_block_grows_in_place_within_its_class() {
        let mut block = Owned::new(33, 8, 1);
        let at = block.at;
        block.resize(48);
        assert_eq!(block.at, at);
        block.resize(49);
        assert_ne!(block.at, at);
    }

    #[test]
    fn zeroed_blocks_are_zero_when_used_before() {
        for size in [100, 5000] {
            let layout = Layout::from_size_align(size, 8).unwrap();
            drop(Owned::new(size, 8, 255));
            // SAFETY: the size isn't zero, and the block is of that layout.
            unsafe {
                let block = PerThread.alloc_zeroed(layout);
                assert!((0..size).all(|index| block.add(index).read() == 0));
                PerThread.dealloc(block, layout);
            }
        }
    }

    // A class that no other test and nothing else here uses, for each of the next ones.
    const ENDING: usize = 1008;
    const WANDERING: usize = 992;
    const STORMING: usize = 976;
    const LARGE: usize = 300_000;
    const TOO_MANY: usize = 400_000;

    fn of(size: usize) -> usize {
        class(Layout::from_size_align(size, 8).unwrap()).unwrap()
    }

    fn count(counter: &[AtomicUsize; CLASSES], size: usize) -> usize {
        counter[of(size)].load(Ordering::Relaxed)
    }

    /// That the system was asked for and has not got back.
    fn out(size: usize) -> usize {
        count(&ASKED, size) - count(&RETURNED, size)
    }

    #[test]
    fn large_blocks_are_used_again() {
        for n in 0..100 {
            drop(Owned::new(LARGE, 8, n));
        }
        assert!(count(&ASKED, LARGE) < 10, "{}", count(&ASKED, LARGE));
    }

    #[test]
    fn the_depot_keeps_a_bounded_number_of_blocks() {
        let blocks: Vec<_> = (0..20).map(|n| Owned::new(TOO_MANY, 8, n)).collect();
        drop(blocks);
        assert!(out(TOO_MANY) <= DEPOT_CLASS_BYTES / size(of(TOO_MANY)), "{}", out(TOO_MANY));
        assert!(DEPOT.bytes.load(Ordering::Relaxed) <= 2 * DEPOT_BYTES);
    }

    #[test]
    fn threads_that_end_keep_nothing() {
        const THREADS: usize = 50;
        const BLOCKS: usize = 20;
        for _ in 0..THREADS {
            let work =
                || drop((0..BLOCKS).map(|n| Owned::new(ENDING, 8, n as u8)).collect::<Vec<_>>());
            thread::spawn(work).join().unwrap();
        }
        assert!(out(ENDING) * ENDING <= DEPOT_CLASS_BYTES, "{} blocks are out", out(ENDING));
        assert!(count(&RETURNED, ENDING) > 0);
    }

    #[test]
    fn blocks_freed_by_another_thread_come_back() {
        const BLOCKS: usize = 10_000;
        // Few are under way, so that there is no reason to ask the system for many.
        let (send, receive) = sync_channel::<Owned>(4);
        let freeing = thread::spawn(move || receive.into_iter().for_each(drop));
        for n in 0..BLOCKS {
            send.send(Owned::new(WANDERING, 8, n as u8)).unwrap();
        }
        drop(send);
        freeing.join().unwrap();
        assert!(count(&ASKED, WANDERING) < BLOCKS / 10, "{}", count(&ASKED, WANDERING));
    }

    #[test]
    fn many_threads_hand_blocks_round_and_none_is_given_twice() {
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
                        let blocks = (0..20).map(|n| Owned::new(STORMING, 8, (n + round) as u8));
                        next.send(blocks.collect()).unwrap();
                        // Checks what is in them.
                        drop(receiver.recv().unwrap());
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(out(STORMING) * STORMING <= DEPOT_CLASS_BYTES, "{} blocks are out", out(STORMING));
    }
}
