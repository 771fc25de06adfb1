//! Commands that come again.

use crate::accounts::Account;
use crate::error::Error;
use crate::verify::findings::Point;
use crate::verify::verification::Verification;
use bank::money::Cents;
use bank::records::ConfirmMoneyTransfer;
use messaging::producer::Outgoing;
use std::collections::HashMap;
use uuid::Uuid;

/// The same id twice at once, and with another amount: the first counts.
pub fn twins(verification: &mut Verification<'_>, account: &Account) -> Result<(), Error> {
    let first = account.gets(5);
    let second = ConfirmMoneyTransfer { amount: Cents::new(7), ..first.clone() };
    let foretold = verification.foretell(&first);
    let records = [
        verification.transfer(&first),
        verification.transfer(&second),
        verification.transfer(&first),
    ];
    verification.ordered.push(first.clone());
    verification.send(&records)?;
    verification.wait(|it| it.is_told(first.id, Some(&first)))?;
    verification.settle(account)?;
    let told = verification.witness.told(first.id);
    let told = told.and_then(|it| it.changes.get(&account.iban)).map(|(change, _)| change);
    let case = match told {
        Some(change) if Some(change) == foretold.get(&account.iban) => Ok(()),
        told => Err(format!("of two orders with one id the first counts: {told:?}")),
    };
    verification.findings.note(Point::Replays, case);
    Ok(())
}

/// All commands so far once more, and some with another amount. Then one cent to each account shows
/// what the database has.
pub fn replays(verification: &mut Verification<'_>, accounts: &[Account]) -> Result<(), Error> {
    let before: HashMap<Uuid, Vec<u32>> = (verification.asked.iter())
        .map(|command| (command.id, verification.tellings(command.id, None)))
        .chain(
            verification.ordered.iter().map(|it| (it.id, verification.tellings(it.id, Some(it)))),
        )
        .collect();
    let mut records: Vec<Outgoing> =
        verification.asked.iter().map(|it| verification.creation(it)).collect();
    records.extend(verification.ordered.iter().map(|it| verification.transfer(it)));
    for order in verification.ordered.iter().step_by(5) {
        let amount = Cents::new(order.amount.get().wrapping_add(1));
        records.push(verification.transfer(&ConfirmMoneyTransfer { amount, ..order.clone() }));
    }
    verification.send(&records)?;
    let again = |it: &Verification<'_>, order: Option<&ConfirmMoneyTransfer>, id: Uuid| {
        let (before, now) = (&before[&id], it.tellings(id, order));
        before.iter().zip(&now).all(|(before, now)| *before > 0 && now > before)
    };
    verification.wait(|it| {
        it.asked.iter().all(|command| again(it, None, command.id))
            && it.ordered.iter().all(|order| again(it, Some(order), order.id))
    })?;
    let cases: Vec<(Uuid, bool)> = (verification.asked.iter())
        .map(|command| (command.id, again(verification, None, command.id)))
        .chain(verification.ordered.iter().map(|it| (it.id, again(verification, Some(it), it.id))))
        .collect();
    for (id, told) in cases {
        let fault = || format!("command {id} came again, not all that it was answered did");
        verification.findings.note(Point::Replays, told.then_some(()).ok_or_else(fault));
    }
    for account in accounts {
        verification.decide(Point::Replays, account.gets(1), None)?;
    }
    Ok(())
}
