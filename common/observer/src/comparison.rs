//! Compares a command, its outcome and its changes with the model.
//!
//! The state before a confirmed transfer is computed from its own changes. `account` checks that
//! the changes of each account are in sequence.

use crate::account::ObservedAccount;
use crate::model::{AccountState, IBAN_EXISTS, Reason, decide, is_iban};
use crate::outcome::Outcome;
use crate::record::RecordPosition;
use crate::violation::{Kind, Violation};
use bank::records::{BalanceChanged, ConfirmAccountCreation, ConfirmMoneyTransfer};
use uuid::Uuid;

/// The result of a comparison.
#[derive(Debug)]
pub struct Comparison {
    /// Empty if everything equals the decision of the model.
    pub violations: Vec<Violation>,
    /// Amount from parties outside the bank minus amount to them, cents.
    pub inflow: i128,
    /// False if records that were not read yet can change the result.
    pub is_final: bool,
}

type Changes = [(RecordPosition, BalanceChanged)];

/// Compares a command to open an account. `opened_by` returns the command that opened an iban.
pub fn opening(
    command: &ConfirmAccountCreation,
    at: RecordPosition,
    outcome: &Outcome,
    opened_by: impl Fn(&str) -> Option<Uuid>,
) -> Comparison {
    let kind = match outcome {
        Outcome::AccountNotOpened(reason) if reason == IBAN_EXISTS => None,
        Outcome::AccountOpened(opened) => {
            let (iban, token) = (opened.iban.as_str(), opened.token.as_str());
            let rules = [
                (!is_iban(iban) || !iban[8..].starts_with('0'), "not an iban of this bank"),
                (opened_by(iban) != Some(command.id), "the iban already existed"),
                (
                    token.len() != 20 || !token.bytes().all(|byte| byte.is_ascii_digit()),
                    "the token does not have 20 digits",
                ),
                (opened.a_type != command.a_type, "the a_type differs from the command"),
            ];
            let broken = rules.into_iter().find(|(broken, _)| *broken);
            broken.map(|(_, text)| Kind::WrongAccount { iban: iban.to_owned(), text })
        }
        other => Some(Kind::WrongOutcome {
            id: command.id,
            found: format!("{other:?}"),
            expected: "a new account".to_owned(),
        }),
    };
    let violations = kind.map(|kind| Violation { position: Some(at), kind }).into_iter().collect();
    Comparison { violations, inflow: 0, is_final: true }
}

/// Compares a command to transfer money. `account` returns an account that was opened.
pub fn transfer<'a>(
    command: &ConfirmMoneyTransfer,
    at: RecordPosition,
    outcome: &Outcome,
    changes: &Changes,
    account: impl Fn(&str) -> Option<&'a ObservedAccount>,
) -> Comparison {
    let confirmed = *outcome == Outcome::Confirmed;
    let violations = match (outcome, decision(command, outcome, changes, &account)) {
        (Outcome::Confirmed, Ok(expected)) => compare_changes(command.id, at, &expected, changes),
        (Outcome::Failed(reason), Err(expected)) if expected.text() == reason => {
            compare_changes(command.id, at, &[], changes)
        }
        (found, expected) => {
            let expected = match expected {
                Ok(_) => "Confirmed",
                Err(reason) => reason.text(),
            };
            let (found, expected) = (format!("{found:?}"), expected.to_owned());
            let kind = Kind::WrongOutcome { id: command.id, found, expected };
            vec![Violation { position: Some(at), kind }]
        }
    };
    // The opening of an account, or a balance that explains the rejection, may be read later.
    let unknown = |iban: &str| account(iban).is_none() && is_iban(iban);
    let complete = !confirmed || has_all_changes(command, changes, &account);
    let explained = confirmed || violations.is_empty();
    let amount = i128::from(command.amount.get());
    let flow = |iban: &str| if account(iban).is_none() { amount } else { 0 };
    Comparison {
        violations,
        inflow: if confirmed { flow(&command.from) - flow(&command.to) } else { 0 },
        is_final: complete && explained && !unknown(&command.from) && !unknown(&command.to),
    }
}

/// True if there is a change for each side that has an account at this bank.
pub fn has_all_changes<'a>(
    command: &ConfirmMoneyTransfer,
    changes: &Changes,
    account: impl Fn(&str) -> Option<&'a ObservedAccount>,
) -> bool {
    let has = |iban: &String| changes.iter().any(|(_, change)| change.iban == *iban);
    [&command.from, &command.to].into_iter().all(|side| account(side).is_none() || has(side))
}

/// Returns the decision of the model.
///
/// The balances at the time of a rejected transfer are unknown. A reason is accepted if it holds
/// for the last, the lowest or the highest balances.
fn decision<'a>(
    command: &ConfirmMoneyTransfer,
    outcome: &Outcome,
    changes: &Changes,
    account: impl Fn(&str) -> Option<&'a ObservedAccount>,
) -> Result<Vec<BalanceChanged>, Reason> {
    let Outcome::Failed(reason) = outcome else {
        return decide(command, |iban| {
            let mut state = account(iban)?.state.clone();
            if let Some((_, change)) = changes.iter().find(|(_, change)| change.iban == iban) {
                let (balance, by) = (change.new_balance.get(), change.changed_by.get());
                state.balance = balance.wrapping_sub(by);
                state.sequence = change.sequence - 1;
            }
            Some(state)
        });
    };
    let with = |balance: fn(&ObservedAccount) -> i64| {
        decide(command, |iban| {
            let account = account(iban)?;
            Some(AccountState { balance: balance(account), ..account.state.clone() })
        })
    };
    let mut decisions = [with(|it| it.balances.0), with(|it| it.balances.1)].into_iter();
    let holds = |it: &Result<_, Reason>| matches!(it, Err(expected) if expected.text() == reason);
    decisions.find(holds).unwrap_or_else(|| with(|it| it.state.balance))
}

fn compare_changes(
    id: Uuid,
    at: RecordPosition,
    expected: &[BalanceChanged],
    found: &Changes,
) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut violate = |at, kind| violations.push(Violation { position: Some(at), kind });
    // The model has no clock: the time of one change must be that of all.
    let decided_at = found.first().and_then(|(_, change)| change.decided_at);
    for expected in expected {
        let expected = &BalanceChanged { decided_at, ..expected.clone() };
        let mut of_iban = found.iter().filter(|(_, found)| found.iban == expected.iban);
        match of_iban.next() {
            Some((_, found)) if found == expected => {}
            Some((at, found)) => {
                let (found, expected) = (Box::new(found.clone()), Box::new(expected.clone()));
                violate(*at, Kind::WrongChange { found, expected });
            }
            None => violate(at, Kind::MissingChange { id, iban: expected.iban.clone() }),
        }
        for (at, change) in of_iban {
            violate(*at, Kind::AnotherChange { id, iban: change.iban.clone() });
        }
    }
    let unexpected = |change: &BalanceChanged| expected.iter().all(|it| it.iban != change.iban);
    for (at, change) in found.iter().filter(|(_, change)| unexpected(change)) {
        violate(*at, Kind::UnexpectedChange { id, iban: change.iban.clone() });
    }
    violations
}
