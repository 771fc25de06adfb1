//! Replayed commands.

use crate::error::Error;
use crate::verify::findings::Point;
use crate::verify::verification::Verification;
use bank::money::Cents;
use bank::records::ConfirmMoneyTransfer;
use messaging::producer::Outgoing;
use observer::Outcome;
use observer::rule_cases::Account;
use uuid::Uuid;

/// Sends a command three times at once, once with another amount. Only the first one counts.
pub fn duplicates(verification: &mut Verification<'_>, account: &Account) -> Result<(), Error> {
    let first = account.gets(5);
    let second = ConfirmMoneyTransfer { amount: Cents::new(7), ..first.clone() };
    let before = verification.observer.state(&account.iban).map_or(0, |state| state.balance);
    let records = [
        verification.transfer(&first),
        verification.transfer(&second),
        verification.transfer(&first),
    ];
    verification.ordered.push(first.clone());
    verification.send(&records)?;
    verification.wait(|it| it.is_answered(first.id))?;
    let settled = verification.settle(account)?;
    let found = verification.observer.state(&account.iban).map_or(0, |state| state.balance);
    let expected = before + first.amount.get() + settled;
    let fault = || {
        format!(
            "the first of several commands with one id counts: expected {expected}, found {found}"
        )
    };
    let confirmed = verification.observer.outcome_of(first.id) == Some(&Outcome::Confirmed);
    let case = (confirmed && found == expected).then_some(()).ok_or_else(fault);
    verification.findings.note(Point::Replays, case);
    Ok(())
}

/// Sends all commands so far again, and some with another amount. Then transfers one cent to each
/// account to check the stored balances.
pub fn replays(verification: &mut Verification<'_>, accounts: &[Account]) -> Result<(), Error> {
    let before = verification.times.clone();
    let asked = verification.asked.iter().map(|command| command.id);
    let ids: Vec<Uuid> = asked.chain(verification.ordered.iter().map(|it| it.id)).collect();
    let mut records: Vec<Outgoing> =
        verification.asked.iter().map(|it| verification.creation(it)).collect();
    records.extend(verification.ordered.iter().map(|it| verification.transfer(it)));
    for order in verification.ordered.iter().step_by(5) {
        let amount = Cents::new(order.amount.get().wrapping_add(1));
        records.push(verification.transfer(&ConfirmMoneyTransfer { amount, ..order.clone() }));
    }
    verification.send(&records)?;
    // The outcome and all changes.
    let again = |it: &Verification<'_>, id: &Uuid| {
        let Some(before) = before.get(id) else { return false };
        before.iter().all(|(iban, times)| it.times[id][iban] > *times)
    };
    verification.wait(|it| ids.iter().all(|id| again(it, id)))?;
    for id in &ids {
        let fault = || format!("command {id} was replayed, but not all its records were repeated");
        let case = again(verification, id).then_some(()).ok_or_else(fault);
        verification.findings.note(Point::Replays, case);
    }
    for account in accounts {
        verification.decide(Point::Replays, account.gets(1), None)?;
    }
    Ok(())
}
