//! The connection of a simulated user to the bank.

use crate::error::Error;
use std::time::{Duration, Instant};

/// A step without a new balance after this time counts as timed out, as in the talk.
pub const TIMEOUT: Duration = Duration::from_secs(5);
/// A connection of a user who has an account.
pub trait Client: Send {
    /// Deposits `cents`, or pays them to the company if negative; does not wait for the outcome.
    fn transfer(&mut self, number: u64, cents: i64) -> Result<(), Error>;

    /// The end of a transfer; `None` if no transfer ends until `until`.
    fn receive(&mut self, until: Instant) -> Result<Option<TransferEnd>, Error>;

    /// Connects again with the same account.
    fn reconnect(&mut self) -> Result<(), Error>;
}

#[derive(Debug, PartialEq, Eq)]
pub enum TransferEnd {
    /// The new balance of the step with this number was received.
    Changed(u64),
    /// The bank rejected the step with this number for this reason.
    Refused(u64, String),
}
