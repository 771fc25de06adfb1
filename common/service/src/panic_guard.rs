//! A panic ends the process, except inside [`guarded`] calls.

use crate::exit::{EXIT_PANIC, exit};
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`. If it panics, the panic is logged and `None` is returned.
///
/// Use it for a request of one client that leaves no partial state, and for calls into a crate that
/// panics where it should return an error.
pub fn guarded<T>(work: impl FnOnce() -> T) -> Option<T> {
    let around = GUARDED.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(around);
    result.ok()
}

/// True while this thread runs inside [`guarded`].
pub fn is_guarded() -> bool {
    GUARDED.get()
}

/// Installs a panic hook that ends the process with code 101 on a panic outside [`guarded`].
/// Without it, a service that lost a thread would look healthy. A restart recovers.
pub fn exit_on_panic() {
    panic::set_hook(Box::new(|info| {
        log::error!(error = info.to_string().as_str(); "a thread panicked");
        // With panic=abort, as in the images without the graphql-endpoint, the stack is not unwound
        // to the guard. The process exits with code 101, since a signal without a handler does not
        // reach process 1.
        if cfg!(panic = "abort") || !is_guarded() {
            exit(EXIT_PANIC);
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guarded_panic_returns_none() {
        assert_eq!(guarded(|| 1), Some(1));
        assert_eq!(guarded(|| guarded(|| panic!("inner")).or(Some(2))), Some(Some(2)));
        assert_eq!(guarded::<()>(|| panic!("outer")), None);
        assert!(!is_guarded());
    }
}
