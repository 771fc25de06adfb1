//! Exit codes, and the error type of a service.

use std::error::Error;
use std::process;

/// An error that ends the service.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Exit code of a failure that a restart may fix. Source: sysexits.h, `EX_TEMPFAIL`.
pub const EXIT_TEMPORARY: u8 = 75;
/// Exit code of invalid arguments or environment variables. A restart does not help.
pub const EXIT_USAGE: u8 = 2;
/// Exit code after a second signal: 128 + SIGINT, as of a shell.
pub const EXIT_INTERRUPTED: u8 = 130;
/// Exit code of a panic, as of Rust's own handler.
pub const EXIT_PANIC: u8 = 101;

/// Ends the process after the last log lines are written.
pub fn exit(code: u8) -> ! {
    crate::log::flush();
    process::exit(code.into());
}
