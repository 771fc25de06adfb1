//! Everything that resolvers need: configuration, stores and services.

use crate::accounts::Accounts;
use crate::command_client::CommandClient;
use crate::config::Config;
use crate::hub::Hub;
use crate::password::Hasher;
use crate::store::Store;
use crate::transfers::Transfers;
use std::sync::Arc;

/// Shared by all operations.
pub struct App {
    /// Configuration.
    pub config: Config,
    /// Transactions, accounts and transfers in the database.
    pub store: Store,
    /// Subscriptions to transactions.
    pub hub: Arc<Hub>,
    /// Sends commands to the bank.
    pub commands: CommandClient,
    /// Hashes passwords.
    pub hasher: Hasher,
}

impl App {
    /// The account service.
    pub fn accounts(&self) -> Accounts<'_> {
        let Self { store, commands, hasher, config, .. } = self;
        Accounts { store, commands, hasher, wait: config.answer_timeout }
    }

    /// The money-transfer service.
    pub fn transfers(&self) -> Transfers<'_> {
        let Self { store, commands, config, .. } = self;
        Transfers { store, commands, wait: config.answer_timeout }
    }
}
