//! The records of the bank: the values of the topics in [`crate::topology`]. Amounts are in euro
//! cents.

use crate::money::Cents;
use crate::timestamp::Timestamp;
use uuid::Uuid;

/// The origin of a command to open an account. Avro enum `Atype`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Atype {
    /// The command-generator.
    Auto,
    /// A user.
    Manual,
}

/// A heartbeat record. The heartbeat service sends them with the numbers 0, 1, 2, and so on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    /// Number of the record.
    pub beat: i64,
}

/// Command: open an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfirmAccountCreation {
    /// Id of the command and of its outcome.
    pub id: Uuid,
    pub a_type: Atype,
}

/// Outcome: the account was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountCreationConfirmed {
    /// Id of the command.
    pub id: Uuid,
    /// Number of the new account.
    pub iban: String,
    /// Secret that authorizes transfers from the account: 20 digits, never logged.
    pub token: String,
    pub a_type: Atype,
}

/// Outcome: the account was not opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountCreationFailed {
    /// Id of the command.
    pub id: Uuid,
    pub reason: String,
}

/// Command: transfer money.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfirmMoneyTransfer {
    /// Id of the command and of its outcome.
    pub id: Uuid,
    /// Token of the account `from`; never logged.
    pub token: String,
    /// The amount to transfer. The bank rejects zero and negative amounts.
    pub amount: Cents,
    /// An iban of this bank, or "cash".
    pub from: String,
    /// An iban of this bank, or any other counterparty.
    pub to: String,
    /// Free text, copied to both balance changes.
    pub description: String,
}

/// Outcome: the transfer was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoneyTransferConfirmed {
    /// Id of the command.
    pub id: Uuid,
}

/// Outcome: the transfer was rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoneyTransferFailed {
    /// Id of the command.
    pub id: Uuid,
    pub reason: String,
}

/// A change of the balance of one account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BalanceChanged {
    /// The account.
    pub iban: String,
    /// The balance after the change.
    pub new_balance: Cents,
    /// The change, negative for the paying account.
    pub changed_by: Cents,
    /// The counterparty.
    pub from_to: String,
    /// Description of the transfer.
    pub description: String,
    /// Id of the transfer. `None` in records that are older than this field. (transfer_id, iban) is
    /// unique.
    pub transfer_id: Option<Uuid>,
    /// Number of the change: 1, 2, 3, and so on per iban, without gaps. 0 in records that are older
    /// than this field.
    pub sequence: i64,
    /// When the bank decided the transfer, by the clock of its database. It is equal in all records
    /// of a transfer. It does not decrease with `sequence`, unless that clock is set back. `None`
    /// in records that are older than this field.
    pub decided_at: Option<Timestamp>,
}
