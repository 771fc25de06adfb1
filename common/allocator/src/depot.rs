//! The global depot: free blocks that no thread keeps.
//!
//! `tests/interleavings.rs` compiles this file with the types of loom and with other limits.

use crate::classes::{CLASSES, DEPOT_BYTES, DEPOT_CLASS_BYTES, kept, size};
use crate::sync::{AtomicBool, AtomicUsize, Ordering, UnsafeCell};
use std::ptr;

/// A free block. The smallest class is large enough for it.
pub struct Block {
    /// The next block of the same list.
    pub next: *mut Block,
    /// In the first block of a list in the depot: the first block of the next list.
    pub next_list: *mut Block,
}

/// The lists of all classes.
pub struct Depot {
    pub classes: [FullLists; CLASSES],
    /// Size of all classes, including lists that are being added.
    pub bytes: AtomicUsize,
}

impl Depot {
    /// Removes and returns a list of [`kept`] blocks. Null if no list is available.
    pub fn fetch(&self, class: usize) -> *mut Block {
        let list = self.classes[class].fetch();
        if !list.is_null() {
            self.bytes.fetch_sub(kept(class) * size(class), Ordering::Relaxed);
        }
        list
    }

    /// Adds a list of [`kept`] blocks. Returns false if the depot is full or the class is locked.
    pub fn store(&self, class: usize, list: *mut Block) -> bool {
        debug_assert!(!list.is_null(), "a full list has blocks");
        let bytes = kept(class) * size(class);
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let stored = before + bytes <= DEPOT_BYTES
            && self.classes[class].store(list, DEPOT_CLASS_BYTES / bytes);
        if !stored {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        stored
    }
}

/// The full lists of one class in the depot. A thread that finds it locked does not wait, but uses
/// the system allocator.
pub struct FullLists {
    pub locked: AtomicBool,
    /// First block of the first list, and number of lists. Only the lock's owner accesses it.
    pub lists: UnsafeCell<(*mut Block, usize)>,
}

// SAFETY: `locked` gives one thread at a time access to `lists`, which owns its blocks.
unsafe impl Sync for FullLists {}

impl FullLists {
    fn fetch(&self) -> *mut Block {
        self.with(|first, count| {
            let list = *first;
            if !list.is_null() {
                // SAFETY: the depot owns the blocks of its lists.
                *first = unsafe { (*list).next_list };
                *count -= 1;
            }
            list
        })
        .unwrap_or(ptr::null_mut())
    }

    /// Adds a list. Returns false if there are already `lists_max`, or if the class is locked.
    fn store(&self, list: *mut Block, lists_max: usize) -> bool {
        let stored = self.with(|first, count| {
            let has_room = *count < lists_max;
            if has_room {
                // SAFETY: the depot now owns the list.
                unsafe { (*list).next_list = *first };
                *first = list;
                *count += 1;
            }
            has_room
        });
        stored.unwrap_or(false)
    }

    /// Runs `access` with the lock. `None` if another thread has the lock.
    fn with<T>(&self, access: impl FnOnce(&mut *mut Block, &mut usize) -> T) -> Option<T> {
        let locked =
            self.locked.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed);
        locked.ok()?;
        let result = self.lists.with_mut(|lists| {
            // SAFETY: `locked` was false, so no other thread has access.
            let (first, count) = unsafe { &mut *lists };
            access(first, count)
        });
        self.locked.store(false, Ordering::Release);
        Some(result)
    }
}
