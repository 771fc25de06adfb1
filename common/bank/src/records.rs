//! The records of the bank as Rust types: the values of the topics in [`crate::topology`]. Amounts are euro cents.

use crate::money::Cents;
use uuid::Uuid;

/// Who asked for an account. Avro enum `Atype`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Atype {
    /// The command-generator.
    Auto,
    /// A person.
    Manual,
}

/// One beat: sent by the heartbeat, 0, 1, 2 ...
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    /// Number of the beat.
    pub beat: i64,
}

/// Command: open an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfirmAccountCreation {
    /// Id of the command, and of its answer.
    pub id: Uuid,
    /// Who asks.
    pub a_type: Atype,
}

/// Answer: the account is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountCreationConfirmed {
    /// Id of the command.
    pub id: Uuid,
    /// The new account.
    pub iban: String,
    /// Secret that allows transfers from it: 20 digits, never logged.
    pub token: String,
    /// Who asked.
    pub a_type: Atype,
}

/// Answer: the account was not opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountCreationFailed {
    /// Id of the command.
    pub id: Uuid,
    /// Why.
    pub reason: String,
}

/// Command: move money.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfirmMoneyTransfer {
    /// Id of the command, and of its answer.
    pub id: Uuid,
    /// Token of `from`; never logged.
    pub token: String,
    /// What moves; the bank refuses zero and less.
    pub amount: Cents,
    /// An iban of this bank, or "cash".
    pub from: String,
    /// An iban of this bank or any other counterparty.
    pub to: String,
    /// Free text, kept with both changes.
    pub description: String,
}

/// Answer: the money moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoneyTransferConfirmed {
    /// Id of the command.
    pub id: Uuid,
}

/// Answer: the money did not move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoneyTransferFailed {
    /// Id of the command.
    pub id: Uuid,
    /// Why.
    pub reason: String,
}

/// One change of one balance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BalanceChanged {
    /// Whose balance.
    pub iban: String,
    /// The balance after the change.
    pub new_balance: Cents,
    /// The change: below zero for the side that pays.
    pub changed_by: Cents,
    /// The other side.
    pub from_to: String,
    /// Text of the transfer.
    pub description: String,
    /// The transfer; `None` in records of programs older than this field. (transfer_id, iban) is unique.
    pub transfer_id: Option<Uuid>,
    /// 1, 2, 3 ... per iban without gaps; 0 in records of programs older than this field.
    pub sequence: i64,
}
