//! The model: the rules of the bank in their simplest form, written from the specification. Sums
//! are 128-bit numbers, so they do not overflow.

use bank::iban::{CASH, COMPANY_IBAN, COMPANY_TOKEN};
use bank::money::Cents;
use bank::records::{BalanceChanged, ConfirmMoneyTransfer};
use std::collections::HashMap;

/// Initial balance of the company account, cents.
pub const COMPANY_CENTS: i64 = 100_000_000_000_000_000;
/// Minimum balance of an account, cents.
pub const LIMIT_CENTS: i64 = -50_000;
/// The only reason why an account is not opened.
pub const IBAN_EXISTS: &str = "generated iban already exists, try again";

/// The state of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountState {
    /// Secret that authorizes transfers from the account.
    pub token: String,
    /// Balance, cents.
    pub balance: i64,
    /// Minimum balance, cents.
    pub limit: i64,
    /// Sequence of the last balance change, 0 before the first one.
    pub sequence: i64,
}

impl AccountState {
    /// Returns a new account: balance and sequence are 0.
    pub fn new(token: &str) -> Self {
        Self { token: token.to_owned(), balance: 0, limit: LIMIT_CENTS, sequence: 0 }
    }
}

/// Accounts by iban.
pub type Accounts = HashMap<String, AccountState>;

/// Returns the accounts of a new bank: only the company account.
pub fn new_bank() -> Accounts {
    let company = AccountState { balance: COMPANY_CENTS, ..AccountState::new(COMPANY_TOKEN) };
    HashMap::from([(COMPANY_IBAN.to_owned(), company)])
}

/// The reason why a transfer is rejected, in order of precedence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The amount is zero or negative.
    AmountNotPositive,
    /// `from` is neither cash nor an iban of this bank's form.
    FromInvalid,
    /// `from` and `to` are equal.
    SameAccount,
    /// Neither `from` nor `to` has an account.
    BothUnknown,
    /// `from` has no account.
    FromUnknown,
    /// The token is not that of the paying account.
    TokenInvalid,
    /// The new balance of the paying account would be below its limit.
    InsufficientFunds,
    /// The new balance of the receiving account would overflow an `i64`.
    AmountTooLarge,
}

impl Reason {
    pub const ALL: [Self; 8] = [
        Self::AmountNotPositive,
        Self::FromInvalid,
        Self::SameAccount,
        Self::BothUnknown,
        Self::FromUnknown,
        Self::TokenInvalid,
        Self::InsufficientFunds,
        Self::AmountTooLarge,
    ];

    /// Returns the exact text in money_transfer_failed.
    pub const fn text(self) -> &'static str {
        match self {
            Self::AmountNotPositive => "amount must be positive",
            Self::FromInvalid => "from is invalid",
            Self::SameAccount => "from and to can't be same for transfer",
            Self::BothUnknown => "both to and from not known at this bank",
            Self::FromUnknown => "from is not known at this bank",
            Self::TokenInvalid => "invalid token",
            Self::InsufficientFunds => "insufficient funds",
            Self::AmountTooLarge => "amount too large",
        }
    }
}

/// Decides `command`. Returns its balance changes without a time, that of `from` first, or the
/// first reason that applies. `account` returns the account of an iban.
pub fn decide(
    command: &ConfirmMoneyTransfer,
    account: impl Fn(&str) -> Option<AccountState>,
) -> Result<Vec<BalanceChanged>, Reason> {
    let (from, to) = (account(&command.from), account(&command.to));
    let amount = i128::from(command.amount.get());
    let cash = command.from == CASH;
    let after = |it: &AccountState, by: i128| i128::from(it.balance) + by;
    let rules = [
        (amount <= 0, Reason::AmountNotPositive),
        (!cash && !is_iban(&command.from), Reason::FromInvalid),
        (command.from == command.to, Reason::SameAccount),
        (from.is_none() && to.is_none(), Reason::BothUnknown),
        (from.is_none() && !cash, Reason::FromUnknown),
        (from.as_ref().is_some_and(|it| it.token != command.token), Reason::TokenInvalid),
        (
            from.as_ref().is_some_and(|it| after(it, -amount) < i128::from(it.limit)),
            Reason::InsufficientFunds,
        ),
        (
            to.as_ref().is_some_and(|it| after(it, amount) > i128::from(i64::MAX)),
            Reason::AmountTooLarge,
        ),
    ];
    if let Some((_, reason)) = rules.into_iter().find(|(holds, _)| *holds) {
        return Err(reason);
    }
    let amount = command.amount.get();
    let change = |iban: &str, state: Option<AccountState>, by: i64, other: &str| {
        state.map(|state| BalanceChanged {
            iban: iban.to_owned(),
            new_balance: Cents::new(state.balance + by),
            changed_by: Cents::new(by),
            from_to: other.to_owned(),
            description: command.description.clone(),
            transfer_id: Some(command.id),
            sequence: state.sequence + 1,
            decided_at: None,
        })
    };
    let paid = change(&command.from, from, -amount, &command.to);
    let received = change(&command.to, to, amount, &command.from);
    Ok(paid.into_iter().chain(received).collect())
}

/// True if `text` has the form of this bank's account numbers: "NL", two check digits, "OPEN", ten
/// digits. The check digits are 98 - (number("24251423" + ten digits + "232100") mod 97).
pub fn is_iban(text: &str) -> bool {
    let digits = text.strip_prefix("NL").and_then(|rest| rest.split_once("OPEN"));
    let Some((check, account)) = digits else { return false };
    let is_number =
        |text: &str, length| text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = || format!("24251423{account}232100").parse::<u128>().ok();
    is_number(check, 2)
        && is_number(account, 10)
        && number().is_some_and(|number| check.parse() == Ok(98 - number % 97))
}

/// Returns a well-formed iban that the bank never assigns, since its own have a 0 after "OPEN".
///
/// # Panics
/// `number` has more than nine digits.
pub fn unused_iban(number: u32) -> String {
    let account = format!("9{number:09}");
    let check = (2..=98).find(|check| is_iban(&format!("NL{check:02}OPEN{account}")));
    format!("NL{:02}OPEN{account}", check.expect("ten digits have a check number"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule_cases::{self, Account, RuleCase};

    /// Decides the cases one after the other. Returns the state after them.
    fn run(cases: Vec<RuleCase>, mut accounts: Accounts) -> Accounts {
        for RuleCase { rule, command, holds } in cases {
            let decision = decide(&command, |iban| accounts.get(iban).cloned());
            let expected = holds.then_some(rule);
            assert_eq!(decision.as_ref().err(), expected.as_ref(), "{rule:?} {command:?}");
            for change in decision.unwrap_or_default() {
                let state = accounts.get_mut(&change.iban).unwrap();
                (state.balance, state.sequence) = (change.new_balance.get(), change.sequence);
            }
        }
        accounts
    }

    fn account(number: u32) -> Account {
        Account { iban: unused_iban(number), token: format!("{number:020}") }
    }

    fn bank(accounts: &[&Account]) -> Accounts {
        let new = |it: &&Account| (it.iban.clone(), AccountState::new(&it.token));
        new_bank().into_iter().chain(accounts.iter().map(new)).collect()
    }

    #[test]
    fn rule_cases_are_decided_as_expected() {
        let (a, b, poor) = (account(91), account(92), account(93));
        let after = run(rule_cases::boundaries(&a, &b, &poor), bank(&[&a, &b, &poor]));
        assert_eq!(after[&poor.iban].balance, LIMIT_CENTS);
        run(rule_cases::range(&a, &b), bank(&[&a, &b]));
        run(rule_cases::precedence(&a, &b), bank(&[&a, &b]));
    }

    #[test]
    fn iban_check_equals_that_of_the_bank() {
        for text in
            [COMPANY_IBAN, "NL67OPEN0000000000", "NL66OPEN00000000é", "NL6OPEN0000000000", ""]
        {
            assert_eq!(is_iban(text), bank::iban::is_well_formed(text), "{text}");
        }
        assert!((0..200).all(|number| bank::iban::is_well_formed(&unused_iban(number))));
    }

    #[test]
    fn decision_has_every_field_of_both_changes() {
        let command = account(1).pays(5, COMPANY_IBAN);
        let accounts = bank(&[&account(1)]);
        let changes = decide(&command, |iban| accounts.get(iban).cloned()).unwrap();
        let expected = BalanceChanged {
            iban: command.from.clone(),
            new_balance: Cents::new(-5),
            changed_by: Cents::new(-5),
            from_to: COMPANY_IBAN.to_owned(),
            description: command.description.clone(),
            transfer_id: Some(command.id),
            sequence: 1,
            decided_at: None,
        };
        let received = BalanceChanged {
            iban: COMPANY_IBAN.to_owned(),
            new_balance: Cents::new(COMPANY_CENTS + 5),
            changed_by: Cents::new(5),
            from_to: command.from.clone(),
            ..expected.clone()
        };
        assert_eq!(changes, [expected, received]);
    }
}
