//! Exit codes, and the error type of a service.

use std::error::Error;

/// An error that ends the service.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Exit code of a failure that a restart may fix. Source: sysexits.h, `EX_TEMPFAIL`.
pub const EXIT_TEMPORARY: u8 = 75;
/// Exit code of invalid arguments or environment variables. A restart does not help.
pub const EXIT_USAGE: u8 = 2;
