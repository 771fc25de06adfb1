//! What the resolvers share: configuration, store and services.

use crate::accounts::Accounts;
use crate::authorizations::Authorizations;
use crate::command_client::CommandClient;
use crate::config::Config;
use crate::hub::Hub;
use crate::password::Hasher;
use crate::registrations::Registrations;
use crate::store::{Database, Store};
use crate::transfers::Transfers;
use std::net::IpAddr;
use std::sync::Arc;

pub struct App {
    pub config: Config,
    pub database: Arc<Database>,
    pub hub: Arc<Hub>,
    pub authorizations: Arc<Authorizations>,
    pub commands: CommandClient,
    pub hasher: Hasher,
    pub registrations: Registrations,
}

impl App {
    /// For a client with this address.
    pub fn accounts<'a>(&'a self, store: &'a Store, address: IpAddr) -> Accounts<'a> {
        let Self { commands, hasher, registrations, config, .. } = self;
        Accounts {
            store,
            commands,
            hasher,
            registrations: config.registration.then_some(registrations),
            address,
            wait: config.answer_timeout,
        }
    }

    pub fn transfers<'a>(&'a self, store: &'a Store) -> Transfers<'a> {
        let Self { commands, config, .. } = self;
        let (wait, cash_deposits) = (config.answer_timeout, config.cash_deposits);
        Transfers { store, commands, wait, cash_deposits, retention: config.retention }
    }
}
