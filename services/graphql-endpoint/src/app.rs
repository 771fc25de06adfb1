//! The service as its visitors meet it: everything that an operation may need.

use crate::accounts::Accounts;
use crate::command_client::CommandClient;
use crate::config::Config;
use crate::hub::Hub;
use crate::password::Hasher;
use crate::schema::Schema;
use crate::store::Store;
use crate::transfers::Transfers;
use std::sync::Arc;

/// One for all visitors.
pub struct App {
    /// Configuration.
    pub config: Config,
    /// The schema.
    pub schema: Schema,
    /// What is stored.
    pub store: Store,
    /// Who has subscribed.
    pub hub: Arc<Hub>,
    /// The way to the bank.
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
