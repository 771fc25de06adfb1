//! The rules of the bank. No I/O, no clock, no randomness.

use bank::iban::{CASH, is_well_formed};
use bank::money::Cents;
use bank::reasons::Reason;
use bank::records::{Atype, ConfirmMoneyTransfer};
use bank::timestamp::Timestamp;
use std::borrow::Cow;
use std::collections::HashMap;
use uuid::Uuid;

/// Reason of a rejected account: the generated iban belongs to another account.
pub const IBAN_EXISTS: &str = Reason::IbanExists.text();

/// The outcome of a command to open an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreationOutcome {
    /// Id of the command.
    pub id: Uuid,
    /// `MANUAL` for an account of a user, `AUTO` for one of the command-generator.
    pub a_type: Atype,
    /// The account, or the reason of the rejection.
    pub result: Result<OpenedAccount, Cow<'static, str>>,
}

/// A new account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedAccount {
    /// Account number (ISO 13616), for example NL66OPEN0000000000.
    pub iban: String,
    /// Secret of 20 digits that authorizes transfers from the account.
    pub token: String,
}

/// The outcome of a command to move money.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransferOutcome {
    /// Id of the command.
    pub id: Uuid,
    /// The transfer, or the reason of the rejection.
    pub result: Result<CompletedTransfer, Cow<'static, str>>,
    /// By the clock of the database. `None` in outcomes that are older than this field.
    pub decided_at: Option<Timestamp>,
}

impl TransferOutcome {
    /// The outcome of `command`, which was decided with this `result`.
    pub fn new(
        command: ConfirmMoneyTransfer,
        result: Result<Changes, Reason>,
        decided_at: Timestamp,
    ) -> Self {
        let ConfirmMoneyTransfer { id, amount, from, to, description, .. } = command;
        let result = match result {
            Ok(changes) => Ok(CompletedTransfer { amount, from, to, description, changes }),
            Err(reason) => Err(Cow::Borrowed(reason.text())),
        };
        Self { id, result, decided_at: Some(decided_at) }
    }
}

/// An accepted transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompletedTransfer {
    /// The amount; above zero.
    pub amount: Cents,
    /// The debited party: an iban of this bank, or `cash`.
    pub from: String,
    /// The credited party: an iban of this bank, `cash`, or the name of a shop.
    pub to: String,
    /// Description from the command.
    pub description: String,
    /// The accounts after the transfer.
    pub changes: Changes,
}

/// An account of this bank, with the fields that a transfer needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Secret that authorizes transfers from the account.
    pub token: String,
    /// Balance before the transfer.
    pub balance: Cents,
    /// Lowest balance allowed.
    pub limit: Cents,
    /// Number of balance changes so far.
    pub sequence: i64,
}

/// The accounts that a batch names, by iban. A party without an entry has no account at this bank.
pub type Accounts = HashMap<String, Account>;

/// The change of one account by a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Balance after the transfer.
    pub balance: Cents,
    /// Number of this change within its account; counts from 1 without gaps.
    pub sequence: i64,
}

/// The changes of a transfer. A party outside this bank has no change. At least one side has a
/// change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changes {
    /// The debited account.
    pub from: Option<Change>,
    /// The credited account.
    pub to: Option<Change>,
}

/// Decides `order` and changes the balances and sequences in `accounts`. A rejection changes
/// nothing.
pub fn transfer(order: &ConfirmMoneyTransfer, accounts: &mut Accounts) -> Result<Changes, Reason> {
    if order.amount <= Cents::ZERO {
        return Err(Reason::AmountNotPositive);
    }
    let from_cash = order.from == CASH;
    if !from_cash && !is_well_formed(&order.from) {
        return Err(Reason::FromInvalid);
    }
    if order.from == order.to {
        return Err(Reason::SameAccount);
    }
    let from = accounts.get(&order.from);
    let to = accounts.get(&order.to);
    if from.is_none() && to.is_none() {
        return Err(Reason::BothUnknown);
    }
    let debited = match from {
        None if from_cash => None,
        None => return Err(Reason::FromUnknown),
        Some(from) => Some(debit(from, order)?),
    };
    let credited = match to {
        None => None,
        Some(to) => Some(to.balance.checked_add(order.amount).ok_or(Reason::AmountTooLarge)?),
    };
    let mut change = |iban: &str, balance: Option<Cents>| {
        let account = accounts.get_mut(iban)?;
        account.balance = balance?;
        account.sequence += 1;
        Some(Change { balance: account.balance, sequence: account.sequence })
    };
    Ok(Changes { from: change(&order.from, debited), to: change(&order.to, credited) })
}

/// The balance of `from` after the debit.
fn debit(from: &Account, order: &ConfirmMoneyTransfer) -> Result<Cents, Reason> {
    if !same_secret(&from.token, &order.token) {
        return Err(Reason::TokenInvalid);
    }
    // A difference below the range of a `long` is also below every limit.
    from.balance
        .checked_sub(order.amount)
        .filter(|debited| *debited >= from.limit)
        .ok_or(Reason::InsufficientFunds)
}

/// Compares in constant time if the lengths are equal, so that response times do not reveal how
/// many digits of a token are right.
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
    use bank::money::OVERDRAFT_LIMIT;
    use std::collections::HashSet;

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

    fn refused(order: &ConfirmMoneyTransfer, accounts: &Accounts) -> Reason {
        let mut after = accounts.clone();
        let rejection = transfer(order, &mut after).unwrap_err();
        assert_eq!(&after, accounts, "a rejection changes nothing");
        rejection
    }

    #[test]
    fn amount_below_one_cent_is_rejected() {
        let mut accounts = bank(0, 0);
        let changes = transfer(&order(1, A, &b()), &mut accounts).unwrap();
        assert_eq!(changes.from, Some(Change { balance: Cents::new(-1), sequence: 1 }));
        assert_eq!(changes.to, Some(Change { balance: Cents::new(1), sequence: 1 }));
        assert_eq!(accounts[A].balance, Cents::new(-1));
        for amount in [0, -1, i64::MIN] {
            assert_eq!(refused(&order(amount, A, &b()), &accounts), Reason::AmountNotPositive);
        }
    }

    #[test]
    fn from_is_cash_or_well_formed() {
        let accounts = bank(100, 0);
        assert_eq!(refused(&order(1, "Cash", A), &accounts), Reason::FromInvalid);
        assert_eq!(refused(&order(1, "NL67OPEN0000000000", A), &accounts), Reason::FromInvalid);
        assert_eq!(refused(&order(1, "", ""), &accounts), Reason::FromInvalid);
        transfer(&order(1, CASH, A), &mut bank(0, 0)).unwrap();
    }

    #[test]
    fn transfer_to_the_same_party_is_rejected() {
        assert_eq!(refused(&order(1, A, A), &bank(100, 0)), Reason::SameAccount);
        assert_eq!(refused(&order(1, CASH, CASH), &bank(100, 0)), Reason::SameAccount);
    }

    #[test]
    fn unknown_parties_are_rejected_unless_from_is_cash() {
        let empty = Accounts::new();
        assert_eq!(refused(&order(1, A, &b()), &empty), Reason::BothUnknown);
        assert_eq!(refused(&order(1, CASH, "Albert Heijn BV"), &empty), Reason::BothUnknown);
        let mut only_b = bank(0, 0);
        only_b.remove(A);
        assert_eq!(refused(&order(1, A, &b()), &only_b), Reason::FromUnknown);
    }

    #[test]
    fn counterparty_outside_the_bank_has_no_change() {
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
    fn token_must_match_in_every_digit() {
        for token in [
            "",
            "0123456789012345678",
            "01234567890123456780",
            "11234567890123456789",
            "012345678901234567890",
        ] {
            let order = ConfirmMoneyTransfer { token: token.to_owned(), ..order(1, A, "cash") };
            assert_eq!(refused(&order, &bank(100, 0)), Reason::TokenInvalid, "{token}");
        }
        let from_cash = ConfirmMoneyTransfer { token: "cash".to_owned(), ..order(1, CASH, A) };
        transfer(&from_cash, &mut bank(0, 0)).unwrap();
    }

    #[test]
    fn balance_may_reach_the_limit_exactly() {
        let changes = transfer(&order(50_100, A, &b()), &mut bank(100, 0)).unwrap();
        assert_eq!(changes.from.unwrap().balance, OVERDRAFT_LIMIT);
        assert_eq!(refused(&order(50_101, A, &b()), &bank(100, 0)), Reason::InsufficientFunds);
        assert_eq!(
            refused(&order(i64::MAX, A, &b()), &bank(-50_000, 0)),
            Reason::InsufficientFunds
        );
    }

    #[test]
    fn balance_may_reach_the_maximum_of_a_long() {
        let changes = transfer(&order(100, CASH, A), &mut bank(i64::MAX - 100, 0)).unwrap();
        assert_eq!(changes.to.unwrap().balance, Cents::new(i64::MAX));
        assert_eq!(refused(&order(101, CASH, A), &bank(i64::MAX - 100, 0)), Reason::AmountTooLarge);
        assert_eq!(
            refused(&order(100, A, &b()), &bank(100, i64::MAX - 99)),
            Reason::AmountTooLarge
        );
    }

    #[test]
    fn rejections_follow_their_order_of_precedence() {
        // The first order breaks every rule. Each next order corrects the rule that decided before.
        let mut bank = bank(0, i64::MAX);
        let unknown =
            format!("NL{:02}OPEN0999999999", bank::iban::check_digits("0999999999").unwrap());
        let wrong = |amount, from: &str, to: &str| ConfirmMoneyTransfer {
            token: String::new(),
            ..order(amount, from, to)
        };
        let cases = [
            (wrong(0, "x", "x"), Reason::AmountNotPositive),
            (wrong(i64::MAX, "x", "x"), Reason::FromInvalid),
            (wrong(i64::MAX, &unknown, &unknown), Reason::SameAccount),
            (wrong(i64::MAX, &unknown, "x"), Reason::BothUnknown),
            (wrong(i64::MAX, &unknown, &b()), Reason::FromUnknown),
            (wrong(i64::MAX, A, &b()), Reason::TokenInvalid),
            (order(i64::MAX, A, &b()), Reason::InsufficientFunds),
            (order(1, A, &b()), Reason::AmountTooLarge),
        ];
        let (mut last, mut codes) = (None, HashSet::new());
        for (order, expected) in cases {
            assert_eq!(refused(&order, &bank), expected);
            assert!(last < Some(expected), "variants are in order of precedence");
            last = Some(expected);
            assert_eq!(Reason::of_text(expected.text()), Some(expected));
            assert!(codes.insert(expected.code()), "each has its own code");
        }
        bank.get_mut(&b()).unwrap().balance = Cents::ZERO;
        transfer(&order(1, A, &b()), &mut bank).unwrap();
    }
}
