//! Code shared by the end-to-end tests in `tests/`: the servers, handlers that tests start and
//! kill, load, and a client that checks the contract.
//!
//! The servers run without services, and all tests share their topics and database. So each test
//! opens its own accounts, starts its own handlers, and keeps the ids of its commands. It reads
//! outcomes from the ends of the topics at its start.

pub mod bank_client;
pub mod handler;
pub mod kafka_admin;
pub mod load;
pub mod proxy;
pub mod stack;
pub mod wait;

use bank::records::{Atype, ConfirmAccountCreation};
pub use observer::rule_cases::{Account, SHOP, transfer};
use uuid::Uuid;

/// A command to open an account, with a new id.
pub fn creation(a_type: Atype) -> ConfirmAccountCreation {
    ConfirmAccountCreation { id: Uuid::new_v4(), a_type }
}

/// A well-formed iban of this bank without an account. The probability that it has one is below
/// 1e-9.
pub fn nobody() -> String {
    bank::iban::generate(&mut rand::rng())
}
