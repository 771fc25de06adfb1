//! The two desks of the bank: what is asked on a topic, who decides it, and which records tell the outcome.

use crate::Outgoing;
use crate::domain::Change;
use crate::error::Error;
use crate::store::{Creation, Moved, Session, Transfer};
use avro::registry::Registry;
use avro::{Encoder, Record};
use bank::records::{
    AccountCreationConfirmed, AccountCreationFailed, BalanceChanged, ConfirmAccountCreation,
    ConfirmMoneyTransfer, MoneyTransferConfirmed, MoneyTransferFailed,
};
use service::shutdown::Shutdown;
use uuid::Uuid;

/// One kind of command.
pub trait Desk: Sized + Send + 'static {
    /// What is asked.
    type Command: Record + Send + 'static;
    /// What was decided.
    type Outcome: Send + 'static;

    /// Learns the schema ids of its answers; waits for the registry. `None` if the stop was asked for first.
    ///
    /// # Errors
    /// The registry does not have a schema.
    fn open(registry: &Registry, shutdown: &Shutdown) -> Result<Option<Self>, Error>;

    /// What PostgreSQL could not store; said in words for dead_letter.
    fn unstorable(command: &Self::Command) -> Option<&'static str>;

    /// Decides `commands` in one transaction: an outcome each, in order.
    ///
    /// # Errors
    /// Nothing was written.
    fn decide(
        session: &mut Session,
        commands: Vec<Self::Command>,
    ) -> Result<Vec<Self::Outcome>, Error>;

    /// True if the bank said yes.
    fn confirmed(outcome: &Self::Outcome) -> bool;

    /// The records that tell `outcome`: the same ones whenever it is told.
    fn tell(&self, outcome: Self::Outcome, records: &mut Vec<Outgoing>);
}

/// Opens accounts.
pub struct AccountDesk {
    confirmed: Encoder<AccountCreationConfirmed>,
    failed: Encoder<AccountCreationFailed>,
}

impl Desk for AccountDesk {
    type Command = ConfirmAccountCreation;
    type Outcome = Creation;

    fn open(registry: &Registry, shutdown: &Shutdown) -> Result<Option<Self>, Error> {
        let Some(confirmed) = Encoder::wait(registry, shutdown)? else { return Ok(None) };
        let Some(failed) = Encoder::wait(registry, shutdown)? else { return Ok(None) };
        Ok(Some(Self { confirmed, failed }))
    }

    fn unstorable(_command: &ConfirmAccountCreation) -> Option<&'static str> {
        None
    }

    fn decide(
        session: &mut Session,
        commands: Vec<ConfirmAccountCreation>,
    ) -> Result<Vec<Creation>, Error> {
        session.open_accounts(&commands)
    }

    fn confirmed(outcome: &Creation) -> bool {
        outcome.result.is_ok()
    }

    fn tell(&self, outcome: Creation, records: &mut Vec<Outgoing>) {
        let Creation { id, a_type, result } = outcome;
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

/// Moves money.
pub struct TransferDesk {
    confirmed: Encoder<MoneyTransferConfirmed>,
    failed: Encoder<MoneyTransferFailed>,
    changed: Encoder<BalanceChanged>,
}

impl Desk for TransferDesk {
    type Command = ConfirmMoneyTransfer;
    type Outcome = Transfer;

    fn open(registry: &Registry, shutdown: &Shutdown) -> Result<Option<Self>, Error> {
        let Some(confirmed) = Encoder::wait(registry, shutdown)? else { return Ok(None) };
        let Some(failed) = Encoder::wait(registry, shutdown)? else { return Ok(None) };
        let Some(changed) = Encoder::wait(registry, shutdown)? else { return Ok(None) };
        Ok(Some(Self { confirmed, failed, changed }))
    }

    fn unstorable(command: &ConfirmMoneyTransfer) -> Option<&'static str> {
        let texts = [&command.from, &command.to, &command.description];
        texts.iter().any(|text| text.contains('\0')).then_some("a text has a NUL character")
    }

    fn decide(
        session: &mut Session,
        commands: Vec<ConfirmMoneyTransfer>,
    ) -> Result<Vec<Transfer>, Error> {
        session.transfer(commands)
    }

    fn confirmed(outcome: &Transfer) -> bool {
        outcome.result.is_ok()
    }

    fn tell(&self, outcome: Transfer, records: &mut Vec<Outgoing>) {
        let Transfer { id, result } = outcome;
        match result {
            Ok(moved) => {
                records.push(outgoing(
                    id.to_string(),
                    &self.confirmed,
                    &MoneyTransferConfirmed { id },
                ));
                for changed in balances_changed(id, moved).into_iter().flatten() {
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

/// The changes of the paying and of the paid side; none for a side that is not of this bank.
fn balances_changed(id: Uuid, moved: Moved) -> [Option<BalanceChanged>; 2] {
    let Moved { amount, from, to, description, changes } = moved;
    let changed = |change: Change, iban: &str, from_to: &str, changed_by| BalanceChanged {
        iban: iban.to_owned(),
        new_balance: change.balance,
        changed_by,
        from_to: from_to.to_owned(),
        description: description.clone(),
        transfer_id: Some(id),
        sequence: change.sequence,
    };
    // An amount is positive, so it has an opposite.
    let paid = changes
        .from
        .zip(amount.checked_neg())
        .map(|(change, minus)| changed(change, &from, &to, minus));
    let got = changes.to.map(|change| changed(change, &to, &from, amount));
    [paid, got]
}

fn outgoing<R: Record>(key: String, encoder: &Encoder<R>, record: &R) -> Outgoing {
    Outgoing { topic: R::TOPIC.name, key, value: encoder.encode(record) }
}
