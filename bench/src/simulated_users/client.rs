//! A user's connection to the bank.

use crate::error::Error;
use std::time::{Duration, Instant};

/// After this long a step counts as timed out, as in the talk.
pub const TIMEOUT: Duration = Duration::from_secs(5);
/// A connection with an account.
pub trait Client: Send {
    /// Puts `cents` on the account, or passes them on if below zero; does not wait.
    fn transfer(&mut self, number: u64, cents: i64) -> Result<(), Error>;

    /// The next end of a transfer; `None` if there is none by `until`.
    fn receive(&mut self, until: Instant) -> Result<Option<TransferEnd>, Error>;

    /// A new connection for the same customer.
    fn reconnect(&mut self) -> Result<(), Error>;
}

/// The end of a transfer.
#[derive(Debug, PartialEq, Eq)]
pub enum TransferEnd {
    /// The new balance of the step with this number arrived.
    Changed(u64),
    /// The bank rejected it, for this reason.
    Refused(u64, String),
}
