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

use bank::ids;
use bank::records::{Atype, ConfirmAccountCreation};
pub use observer::rule_cases::{Account, SHOP, transfer};
use std::time::{Duration, SystemTime};
use uuid::Uuid;

/// A command to open an account, with a new id.
pub fn creation(a_type: Atype) -> ConfirmAccountCreation {
    ConfirmAccountCreation { id: Uuid::new_v4(), a_type }
}

/// The id of a command with the time some days ago, and a random rest.
///
/// # Panics
/// If that was before 1970.
pub fn id_of_days_ago(days: u64) -> Uuid {
    let time = SystemTime::now() - Duration::from_secs(days * 24 * 60 * 60);
    let time = time.duration_since(SystemTime::UNIX_EPOCH).expect("it is after 1970");
    ids::derived(&Uuid::nil(), time.as_millis() as u64, Uuid::new_v4().as_bytes())
}

/// A well-formed iban of this bank without an account. The probability that it has one is below
/// 1e-9.
pub fn nobody() -> String {
    bank::iban::generate(&mut rand::rng())
}
