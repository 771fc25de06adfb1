//! A panic ends the process, except in calls that are guarded.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`; a panic in it is logged and returns `None` instead of ending the process. For work
/// on behalf of one client that leaves nothing half done, and for calls of a crate that panics
/// where it should return an error.
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

/// Makes a panic outside [`guarded`] end the process with code 101: half a service would look alive
/// and do nothing. After a restart it continues where it was.
pub fn exit_on_panic() {
    panic::set_hook(Box::new(|info| {
        log::error!(panic = info.to_string().as_str(); "a thread panicked");
        // A binary that aborts never unwinds to the guard: code 101 instead of a signal, which
        // process 1 cannot receive.
        if cfg!(panic = "abort") || !is_guarded() {
            std::process::exit(101);
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guarded_panic_returns_none_and_the_thread_continues() {
        assert_eq!(guarded(|| 1), Some(1));
        assert_eq!(guarded(|| guarded(|| panic!("inner")).or(Some(2))), Some(Some(2)));
        assert_eq!(guarded::<()>(|| panic!("outer")), None);
        assert!(!is_guarded());
    }
}
