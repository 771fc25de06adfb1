//! The outcome of a command.

use crate::model::Reason;
use bank::records::AccountCreationConfirmed;
use std::borrow::Cow;

/// The outcome of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A record of account_creation_confirmed.
    AccountOpened(Box<AccountCreationConfirmed>),
    /// A record of account_creation_failed, with its reason.
    AccountNotOpened(String),
    /// A record of money_transfer_confirmed.
    Confirmed,
    /// A record of money_transfer_failed, with its reason. Reasons of the model are borrowed.
    Failed(Cow<'static, str>),
}

impl Outcome {
    pub(crate) fn failed(reason: &str) -> Self {
        let known = Reason::ALL.into_iter().find(|known| known.text() == reason);
        Self::Failed(known.map_or(Cow::Owned(reason.to_owned()), |known| known.text().into()))
    }

    /// True if the account was opened or the transfer was made.
    pub fn is_confirmed(&self) -> bool {
        matches!(self, Self::AccountOpened(_) | Self::Confirmed)
    }
}
