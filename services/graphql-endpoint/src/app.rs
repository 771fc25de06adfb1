//! What the resolvers share: configuration, store and services.

use crate::accounts::Accounts;
use crate::command_client::CommandClient;
use crate::config::Config;
use crate::hub::Hub;
use crate::password::Hasher;
use crate::store::Store;
use crate::transfers::Transfers;
use std::sync::Arc;

pub struct App {
    pub config: Config,
    pub store: Store,
    pub hub: Arc<Hub>,
    pub commands: CommandClient,
    pub hasher: Hasher,
}

impl App {
    pub fn accounts(&self) -> Accounts<'_> {
        let Self { store, commands, hasher, config, .. } = self;
        Accounts { store, commands, hasher, wait: config.answer_timeout }
    }

    pub fn transfers(&self) -> Transfers<'_> {
        let Self { store, commands, config, .. } = self;
        let (wait, cash_deposits) = (config.answer_timeout, config.cash_deposits);
        Transfers { store, commands, wait, cash_deposits }
    }
}
