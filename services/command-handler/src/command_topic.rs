//! The two command topics of the bank: the command, the transaction that decides it, and the
//! records of its outcome.

use crate::domain::{Change, CompletedTransfer, CreationOutcome, TransferOutcome};
use crate::error::Error;
use crate::store::Session;
use avro::registry::Registry;
use avro::{Encoder, Record};
use bank::ids;
use bank::records::{
    AccountCreationConfirmed, AccountCreationFailed, BalanceChanged, ConfirmAccountCreation,
    ConfirmMoneyTransfer, MoneyTransferConfirmed, MoneyTransferFailed,
};
use bank::timestamp::Timestamp;
use messaging::producer::Outgoing;
use service::database::retention::Retention;
use service::ownership::Positions;
use service::shutdown::Shutdown;
use uuid::Uuid;

/// A command topic: how its commands are decided, and the records of their outcomes.
pub trait CommandTopic: Sized + Send + 'static {
    /// The record type of the topic.
    type Command: Record + Send + 'static;
    /// The outcome that the database stores for each command.
    type Outcome: Send + 'static;

    /// Looks up the schema ids of the outcome records. Waits while the registry is unavailable;
    /// returns `None` if shutdown is requested first.
    ///
    /// # Errors
    /// The registry does not have one of the schemas.
    fn open(registry: &Registry, shutdown: &Shutdown) -> Result<Option<Self>, Error>;

    /// Returns the reason for dead_letter if `command` cannot be decided: PostgreSQL cannot store
    /// it, or its outcome may have been deleted.
    fn undecidable(command: &Self::Command, retention: Option<Retention>) -> Option<String>;

    /// Decides `commands` in one transaction, and stores `positions` with the outcomes. Returns one
    /// outcome per command, in the same order.
    ///
    /// # Errors
    /// After an error nothing was written.
    fn decide(
        session: &mut Session,
        commands: Vec<Self::Command>,
        positions: &Positions,
    ) -> Result<Vec<Self::Outcome>, Error>;

    /// False if the command was rejected.
    fn confirmed(outcome: &Self::Outcome) -> bool;

    /// Appends the records of `outcome` to `records`. Equal outcomes produce equal records.
    fn encode(&self, outcome: Self::Outcome, records: &mut Vec<Outgoing>);
}

/// The topic `confirm_account_creation`: commands to open accounts.
pub struct AccountCreations {
    confirmed: Encoder<AccountCreationConfirmed>,
    failed: Encoder<AccountCreationFailed>,
}

impl CommandTopic for AccountCreations {
    type Command = ConfirmAccountCreation;
    type Outcome = CreationOutcome;

    fn open(registry: &Registry, shutdown: &Shutdown) -> Result<Option<Self>, Error> {
        let Some(confirmed) = Encoder::wait(registry, shutdown)? else { return Ok(None) };
        let Some(failed) = Encoder::wait(registry, shutdown)? else { return Ok(None) };
        Ok(Some(Self { confirmed, failed }))
    }

    fn undecidable(
        _command: &ConfirmAccountCreation,
        _retention: Option<Retention>,
    ) -> Option<String> {
        None
    }

    fn decide(
        session: &mut Session,
        commands: Vec<ConfirmAccountCreation>,
        positions: &Positions,
    ) -> Result<Vec<CreationOutcome>, Error> {
        session.open_accounts(&commands, positions)
    }

    fn confirmed(outcome: &CreationOutcome) -> bool {
        outcome.result.is_ok()
    }

    fn encode(&self, outcome: CreationOutcome, records: &mut Vec<Outgoing>) {
        let CreationOutcome { id, a_type, result } = outcome;
        records.push(match result {
            Ok(opened) => {
                let (iban, token) = (opened.iban, opened.token);
                outgoing(
                    id.to_string(),
                    &self.confirmed,
                    &AccountCreationConfirmed { id, iban, token, a_type },
                )
            }
            Err(reason) => outgoing(
                id.to_string(),
                &self.failed,
                &AccountCreationFailed { id, reason: reason.into_owned() },
            ),
        });
    }
}

/// The topic `confirm_money_transfer`: commands to move money.
pub struct MoneyTransfers {
    confirmed: Encoder<MoneyTransferConfirmed>,
    failed: Encoder<MoneyTransferFailed>,
    changed: Encoder<BalanceChanged>,
}

impl CommandTopic for MoneyTransfers {
    type Command = ConfirmMoneyTransfer;
    type Outcome = TransferOutcome;

    fn open(registry: &Registry, shutdown: &Shutdown) -> Result<Option<Self>, Error> {
        let Some(confirmed) = Encoder::wait(registry, shutdown)? else { return Ok(None) };
        let Some(failed) = Encoder::wait(registry, shutdown)? else { return Ok(None) };
        let Some(changed) = Encoder::wait(registry, shutdown)? else { return Ok(None) };
        Ok(Some(Self { confirmed, failed, changed }))
    }

    fn undecidable(command: &ConfirmMoneyTransfer, retention: Option<Retention>) -> Option<String> {
        let texts = [&command.from, &command.to, &command.description];
        if texts.iter().any(|text| text.contains('\0')) {
            return Some("a text has a NUL character".to_owned());
        }
        let (retention, time) = retention.zip(ids::time_ms(command.id))?;
        let days = retention.days;
        let reason = || format!("the time of its id is more than {days} days ago (RETAIN_DAYS)");
        retention.is_past(time).then(reason)
    }

    fn decide(
        session: &mut Session,
        commands: Vec<ConfirmMoneyTransfer>,
        positions: &Positions,
    ) -> Result<Vec<TransferOutcome>, Error> {
        session.transfer(commands, positions)
    }

    fn confirmed(outcome: &TransferOutcome) -> bool {
        outcome.result.is_ok()
    }

    fn encode(&self, outcome: TransferOutcome, records: &mut Vec<Outgoing>) {
        let TransferOutcome { id, result, decided_at } = outcome;
        match result {
            Ok(transfer) => {
                records.push(outgoing(
                    id.to_string(),
                    &self.confirmed,
                    &MoneyTransferConfirmed { id },
                ));
                for changed in balance_changes(id, transfer, decided_at).into_iter().flatten() {
                    records.push(outgoing(changed.iban.clone(), &self.changed, &changed));
                }
            }
            Err(reason) => {
                let failed = MoneyTransferFailed { id, reason: reason.into_owned() };
                records.push(outgoing(id.to_string(), &self.failed, &failed));
            }
        }
    }
}

/// The records of the debited and the credited account; `None` for a counterparty outside this
/// bank.
fn balance_changes(
    id: Uuid,
    transfer: CompletedTransfer,
    decided_at: Option<Timestamp>,
) -> [Option<BalanceChanged>; 2] {
    let CompletedTransfer { amount, from, to, description, changes } = transfer;
    let changed = |change: Change, iban: &str, from_to: &str, changed_by| BalanceChanged {
        iban: iban.to_owned(),
        new_balance: change.balance,
        changed_by,
        from_to: from_to.to_owned(),
        description: description.clone(),
        transfer_id: Some(id),
        sequence: change.sequence,
        decided_at,
    };
    // The amount is positive, so its negation does not overflow.
    let debit = changes
        .from
        .zip(amount.checked_neg())
        .map(|(change, minus)| changed(change, &from, &to, minus));
    let credit = changes.to.map(|change| changed(change, &to, &from, amount));
    [debit, credit]
}

fn outgoing<R: Record>(key: String, encoder: &Encoder<R>, record: &R) -> Outgoing {
    Outgoing { topic: R::TOPIC.name, key, value: encoder.encode(record) }
}
