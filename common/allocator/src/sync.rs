//! Atomics and cells. `tests/interleavings.rs` replaces this module by the types of loom.

pub use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// An `UnsafeCell` with the interface of loom's.
pub struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

impl<T> UnsafeCell<T> {
    pub const fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    pub fn with_mut<R>(&self, access: impl FnOnce(*mut T) -> R) -> R {
        access(self.0.get())
    }
}
