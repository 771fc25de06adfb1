//! What the end-to-end tests in `tests/` share: the servers, handlers that they start and kill,
//! load, and a client that checks what must always hold.
//!
//! The servers run without services, and all tests share their topics and database. So each test
//! opens its own accounts, knows its own command ids, starts its own handlers, and reads the
//! outcomes from where the topics end when it starts.

pub mod bank_client;
pub mod handler;
pub mod load;
pub mod stack;
pub mod wait;

use bank::records::{Atype, ConfirmAccountCreation};
pub use observer::rule_cases::{Account, SHOP, transfer};
use uuid::Uuid;

/// A command to open an account, with a new id.
pub fn creation(a_type: Atype) -> ConfirmAccountCreation {
    ConfirmAccountCreation { id: Uuid::new_v4(), a_type }
}

/// An iban of this bank that is well formed and (but for one chance in a thousand million)
/// nobody's.
pub fn nobody() -> String {
    bank::iban::generate(&mut rand::rng())
}
