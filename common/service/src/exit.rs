//! How a service ends.

use std::error::Error;

/// An error that ends a service.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// A failure that a restart may cure (sysexits.h, EX_TEMPFAIL).
pub const EXIT_TEMPORARY: u8 = 75;
/// The environment or the arguments can never work: a restart changes nothing.
pub const EXIT_USAGE: u8 = 2;
