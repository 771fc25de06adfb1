//! The rules of the bank: decides, and knows no Kafka, SQL, clock or randomness.

use bank::iban::{CASH, is_well_formed};
use bank::money::Cents;
use bank::records::ConfirmMoneyTransfer;
use std::collections::HashMap;

/// Lowest balance of a new account.
pub const OVERDRAFT_LIMIT: Cents = Cents::new(-50_000);

/// Why an account was not opened.
pub const IBAN_EXISTS: &str = "generated iban already exists, try again";

/// An account of this bank as a transfer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Secret that allows transfers from it.
    pub token: String,
    /// What is there.
    pub balance: Cents,
    /// The balance may reach this and not pass it.
    pub limit: Cents,
    /// Number of balance changes so far.
    pub sequence: i64,
}

/// The accounts that a batch touches, by iban. Who is not in it has no balance at this bank.
pub type Accounts = HashMap<String, Account>;

/// An account after a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The balance then.
    pub balance: Cents,
    /// The number of this change.
    pub sequence: i64,
}

/// A transfer that was made. A side that is not of this bank has no change; one of the two is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changes {
    /// The side that paid.
    pub from: Option<Change>,
    /// The side that was paid.
    pub to: Option<Change>,
}

/// The bank says no. Variants stand in order of precedence: the first that holds is the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rejection {
    /// Nothing, or less, would move.
    AmountNotPositive,
    /// Neither cash nor a well-formed iban of this bank.
    FromInvalid,
    /// Both sides are one.
    SameAccount,
    /// Neither side has a balance here.
    BothUnknown,
    /// A well-formed iban that has no balance here.
    FromUnknown,
    /// Not the token of the paying account.
    TokenInvalid,
    /// The balance would pass the limit.
    InsufficientFunds,
    /// The balance would leave the range of a `long`.
    AmountTooLarge,
}

impl Rejection {
    /// The exact text of the answer: part of the bank's contract.
    pub const fn reason(self) -> &'static str {
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

/// Decides `order` and changes the balances and sequences in `accounts`; a rejection changes nothing.
pub fn transfer(
    order: &ConfirmMoneyTransfer,
    accounts: &mut Accounts,
) -> Result<Changes, Rejection> {
    if order.amount <= Cents::ZERO {
        return Err(Rejection::AmountNotPositive);
    }
    let from_cash = order.from == CASH;
    if !from_cash && !is_well_formed(&order.from) {
        return Err(Rejection::FromInvalid);
    }
    if order.from == order.to {
        return Err(Rejection::SameAccount);
    }
    let from = accounts.get(&order.from);
    let to = accounts.get(&order.to);
    if from.is_none() && to.is_none() {
        return Err(Rejection::BothUnknown);
    }
    let debited = match from {
        None if from_cash => None,
        None => return Err(Rejection::FromUnknown),
        Some(from) => Some(debit(from, order)?),
    };
    let credited = match to {
        None => None,
        Some(to) => Some(to.balance.checked_add(order.amount).ok_or(Rejection::AmountTooLarge)?),
    };
    let mut change = |iban: &str, balance: Option<Cents>| {
        let account = accounts.get_mut(iban)?;
        account.balance = balance?;
        account.sequence += 1;
        Some(Change { balance: account.balance, sequence: account.sequence })
    };
    Ok(Changes { from: change(&order.from, debited), to: change(&order.to, credited) })
}

/// The balance of `from` after paying.
fn debit(from: &Account, order: &ConfirmMoneyTransfer) -> Result<Cents, Rejection> {
    if !same_secret(&from.token, &order.token) {
        return Err(Rejection::TokenInvalid);
    }
    // A difference below the range of a `long` is below every limit.
    from.balance
        .checked_sub(order.amount)
        .filter(|debited| *debited >= from.limit)
        .ok_or(Rejection::InsufficientFunds)
}

/// Compares in a time that depends on the lengths only, so that a token can't be guessed digit by digit.
fn same_secret(ours: &str, theirs: &str) -> bool {
    let differences = ours
        .bytes()
        .zip(theirs.bytes())
        .fold(0, |seen, (a, b)| std::hint::black_box(seen | (a ^ b)));
    ours.len() == theirs.len() && differences == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const A: &str = "NL66OPEN0000000000";
    const TOKEN: &str = "01234567890123456789";

    fn b() -> String {
        let account = "0000000001";
        format!("NL{:02}OPEN{account}", bank::iban::check_digits(account).unwrap())
    }

    fn bank(balance_a: i64, balance_b: i64) -> Accounts {
        let account = |balance| Account {
            token: TOKEN.to_owned(),
            balance: Cents::new(balance),
            limit: OVERDRAFT_LIMIT,
            sequence: 0,
        };
        Accounts::from([(A.to_owned(), account(balance_a)), (b(), account(balance_b))])
    }

    fn order(amount: i64, from: &str, to: &str) -> ConfirmMoneyTransfer {
        ConfirmMoneyTransfer {
            id: Uuid::nil(),
            token: TOKEN.to_owned(),
            amount: Cents::new(amount),
            from: from.to_owned(),
            to: to.to_owned(),
            description: String::new(),
        }
    }

    fn refused(order: &ConfirmMoneyTransfer, accounts: &Accounts) -> Rejection {
        let mut after = accounts.clone();
        let rejection = transfer(order, &mut after).unwrap_err();
        assert_eq!(&after, accounts, "a rejection changes nothing");
        rejection
    }

    #[test]
    fn one_cent_moves_and_none_does_not() {
        let mut accounts = bank(0, 0);
        let changes = transfer(&order(1, A, &b()), &mut accounts).unwrap();
        assert_eq!(changes.from, Some(Change { balance: Cents::new(-1), sequence: 1 }));
        assert_eq!(changes.to, Some(Change { balance: Cents::new(1), sequence: 1 }));
        assert_eq!(accounts[A].balance, Cents::new(-1));
        for amount in [0, -1, i64::MIN] {
            assert_eq!(refused(&order(amount, A, &b()), &accounts), Rejection::AmountNotPositive);
        }
    }

    #[test]
    fn from_is_cash_or_well_formed() {
        let accounts = bank(100, 0);
        assert_eq!(refused(&order(1, "Cash", A), &accounts), Rejection::FromInvalid);
        assert_eq!(refused(&order(1, "NL67OPEN0000000000", A), &accounts), Rejection::FromInvalid);
        assert_eq!(refused(&order(1, "", ""), &accounts), Rejection::FromInvalid);
        transfer(&order(1, CASH, A), &mut bank(0, 0)).unwrap();
    }

    #[test]
    fn a_side_can_not_pay_itself() {
        assert_eq!(refused(&order(1, A, A), &bank(100, 0)), Rejection::SameAccount);
        assert_eq!(refused(&order(1, CASH, CASH), &bank(100, 0)), Rejection::SameAccount);
    }

    #[test]
    fn one_side_must_be_known_and_it_must_be_from_unless_cash() {
        let nobody = Accounts::new();
        assert_eq!(refused(&order(1, A, &b()), &nobody), Rejection::BothUnknown);
        assert_eq!(refused(&order(1, CASH, "Albert Heijn BV"), &nobody), Rejection::BothUnknown);
        let mut only_b = bank(0, 0);
        only_b.remove(A);
        assert_eq!(refused(&order(1, A, &b()), &only_b), Rejection::FromUnknown);
    }

    #[test]
    fn a_counterparty_outside_has_no_change() {
        let mut accounts = bank(100, 0);
        let pin = transfer(&order(10, A, "Albert Heijn BV"), &mut accounts).unwrap();
        assert_eq!(
            pin,
            Changes { from: Some(Change { balance: Cents::new(90), sequence: 1 }), to: None }
        );
        let deposit = transfer(&order(10, CASH, A), &mut accounts).unwrap();
        assert_eq!(
            deposit,
            Changes { from: None, to: Some(Change { balance: Cents::new(100), sequence: 2 }) }
        );
    }

    #[test]
    fn the_token_must_be_right_in_every_digit() {
        for token in [
            "",
            "0123456789012345678",
            "01234567890123456780",
            "11234567890123456789",
            "012345678901234567890",
        ] {
            let order = ConfirmMoneyTransfer { token: token.to_owned(), ..order(1, A, "cash") };
            assert_eq!(refused(&order, &bank(100, 0)), Rejection::TokenInvalid, "{token}");
        }
        let from_cash = ConfirmMoneyTransfer { token: "cash".to_owned(), ..order(1, CASH, A) };
        transfer(&from_cash, &mut bank(0, 0)).unwrap();
    }

    #[test]
    fn a_transfer_may_reach_the_limit_but_not_pass_it() {
        let changes = transfer(&order(50_100, A, &b()), &mut bank(100, 0)).unwrap();
        assert_eq!(changes.from.unwrap().balance, OVERDRAFT_LIMIT);
        assert_eq!(refused(&order(50_101, A, &b()), &bank(100, 0)), Rejection::InsufficientFunds);
        assert_eq!(
            refused(&order(i64::MAX, A, &b()), &bank(-50_000, 0)),
            Rejection::InsufficientFunds
        );
    }

    #[test]
    fn a_balance_may_reach_the_end_of_a_long_but_not_pass_it() {
        let changes = transfer(&order(100, CASH, A), &mut bank(i64::MAX - 100, 0)).unwrap();
        assert_eq!(changes.to.unwrap().balance, Cents::new(i64::MAX));
        assert_eq!(
            refused(&order(101, CASH, A), &bank(i64::MAX - 100, 0)),
            Rejection::AmountTooLarge
        );
        assert_eq!(
            refused(&order(100, A, &b()), &bank(100, i64::MAX - 99)),
            Rejection::AmountTooLarge
        );
    }

    #[test]
    fn reasons_come_in_the_order_of_their_precedence() {
        // Everything is wrong with the first order; each next one mends the fault that won.
        let mut bank = bank(0, i64::MAX);
        let unknown =
            format!("NL{:02}OPEN0999999999", bank::iban::check_digits("0999999999").unwrap());
        let wrong = |amount, from: &str, to: &str| ConfirmMoneyTransfer {
            token: String::new(),
            ..order(amount, from, to)
        };
        let cases = [
            (wrong(0, "x", "x"), Rejection::AmountNotPositive),
            (wrong(i64::MAX, "x", "x"), Rejection::FromInvalid),
            (wrong(i64::MAX, &unknown, &unknown), Rejection::SameAccount),
            (wrong(i64::MAX, &unknown, "x"), Rejection::BothUnknown),
            (wrong(i64::MAX, &unknown, &b()), Rejection::FromUnknown),
            (wrong(i64::MAX, A, &b()), Rejection::TokenInvalid),
            (order(i64::MAX, A, &b()), Rejection::InsufficientFunds),
            (order(1, A, &b()), Rejection::AmountTooLarge),
        ];
        let mut last = None;
        for (order, expected) in cases {
            assert_eq!(refused(&order, &bank), expected);
            assert!(last < Some(expected), "variants stand in order of precedence");
            last = Some(expected);
        }
        bank.get_mut(&b()).unwrap().balance = Cents::ZERO;
        transfer(&order(1, A, &b()), &mut bank).unwrap();
    }
}
