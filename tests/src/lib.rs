//! What the end-to-end tests in `tests/` share: the servers, handlers that they start and kill, load, and a ledger that
//! checks what must always hold.
//!
//! The servers run without services, and all tests share their topics and database. So each test opens its own accounts, knows
//! its own command ids, starts its own handlers, and reads the outcomes from where the topics end when it starts.

pub mod handler;
pub mod ledger;
pub mod load;
pub mod stack;
pub mod tape;
pub mod wait;

use bank::iban::CASH;
use bank::money::Cents;
use bank::records::{Atype, ConfirmAccountCreation, ConfirmMoneyTransfer};
use uuid::Uuid;

/// A party outside the bank.
pub const SHOP: &str = "Albert Heijn BV";

/// An account that a test has opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its number.
    pub iban: String,
    /// Its secret.
    pub token: String,
}

impl Account {
    /// A payment of `cents` to `to`.
    pub fn pays(&self, cents: i64, to: &str) -> ConfirmMoneyTransfer {
        transfer(cents, &self.iban, &self.token, to)
    }

    /// A deposit of `cents`.
    pub fn gets(&self, cents: i64) -> ConfirmMoneyTransfer {
        transfer(cents, CASH, CASH, &self.iban)
    }
}

/// A command to open an account, with a new id.
pub fn creation(a_type: Atype) -> ConfirmAccountCreation {
    ConfirmAccountCreation { id: Uuid::new_v4(), a_type }
}

/// A command to move money, with a new id.
pub fn transfer(cents: i64, from: &str, token: &str, to: &str) -> ConfirmMoneyTransfer {
    ConfirmMoneyTransfer {
        id: Uuid::new_v4(),
        token: token.to_owned(),
        amount: Cents::new(cents),
        from: from.to_owned(),
        to: to.to_owned(),
        description: "test".to_owned(),
    }
}

/// An iban of this bank that is well formed and (but for one chance in a thousand million) nobody's.
pub fn nobody() -> String {
    bank::iban::generate(&mut rand::rng())
}
