//! What a command came to.

use crate::model::Reason;
use bank::records::AccountCreationConfirmed;
use std::borrow::Cow;

/// The outcome of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// account_creation_confirmed.
    AccountOpened(Box<AccountCreationConfirmed>),
    /// account_creation_failed.
    AccountNotOpened(String),
    /// money_transfer_confirmed.
    Confirmed,
    /// money_transfer_failed. A text only where the model does not know the reason.
    Failed(Cow<'static, str>),
}

impl Outcome {
    pub(crate) fn failed(reason: &str) -> Self {
        let known = Reason::ALL.into_iter().find(|known| known.text() == reason);
        Self::Failed(known.map_or(Cow::Owned(reason.to_owned()), |known| known.text().into()))
    }

    /// True if the command was carried out.
    pub fn is_confirmed(&self) -> bool {
        matches!(self, Self::AccountOpened(_) | Self::Confirmed)
    }
}
