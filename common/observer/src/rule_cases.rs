//! Test transfers on both sides of each rule's boundary, with the expected decision.
//!
//! Send each transfer only after the outcome of the previous one. In different partitions they
//! could be decided in another order.

use crate::model::{Reason, unused_iban};
use bank::iban::{CASH, COMPANY_IBAN, COMPANY_TOKEN};
use bank::money::Cents;
use bank::records::ConfirmMoneyTransfer;
use uuid::Uuid;

/// A party outside the bank. It is not an iban.
pub const SHOP: &str = "Albert Heijn BV";

/// An account number and its token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub iban: String,
    /// Secret that authorizes transfers from the account.
    pub token: String,
}

impl Account {
    /// Returns a command to transfer `cents` from this account to `to`.
    pub fn pays(&self, cents: i64, to: &str) -> ConfirmMoneyTransfer {
        transfer(cents, &self.iban, &self.token, to)
    }

    /// Returns a command to deposit `cents`.
    pub fn gets(&self, cents: i64) -> ConfirmMoneyTransfer {
        transfer(cents, CASH, CASH, &self.iban)
    }
}

/// Returns a command to transfer money, with a new id.
pub fn transfer(cents: i64, from: &str, token: &str, to: &str) -> ConfirmMoneyTransfer {
    ConfirmMoneyTransfer {
        id: Uuid::new_v4(),
        token: token.to_owned(),
        amount: Cents::new(cents),
        from: from.to_owned(),
        to: to.to_owned(),
        description: "café € 𝄞".to_owned(),
    }
}

/// A transfer at the boundary of `rule`.
#[derive(Debug, Clone)]
pub struct RuleCase {
    pub rule: Reason,
    pub command: ConfirmMoneyTransfer,
    /// True if the transfer must be rejected for this reason, false if it must be confirmed.
    pub holds: bool,
}

fn rejected(rule: Reason, command: ConfirmMoneyTransfer) -> RuleCase {
    RuleCase { rule, command, holds: true }
}

fn confirmed(rule: Reason, command: ConfirmMoneyTransfer) -> RuleCase {
    RuleCase { rule, command, holds: false }
}

/// Returns `text` with another digit at `index`.
fn other_digit(text: &str, index: usize) -> String {
    let digit = if &text[index..=index] == "9" { "0" } else { "9" };
    format!("{}{digit}{}", &text[..index], &text[index + 1..])
}

/// Returns cases of all rules except [`Reason::AmountTooLarge`]. All accounts must be new. `poor`
/// ends at its limit.
pub fn boundaries(a: &Account, b: &Account, poor: &Account) -> Vec<RuleCase> {
    let mut cases = amounts_and_sides(a, b);
    cases.extend(tokens(a, b));
    cases.extend(funds(poor, &b.iban));
    cases
}

fn amounts_and_sides(a: &Account, b: &Account) -> Vec<RuleCase> {
    use Reason::{AmountNotPositive, BothUnknown, FromInvalid, FromUnknown, SameAccount};
    let (a_iban, b_iban) = (a.iban.as_str(), b.iban.as_str());
    let (unused, other) = (unused_iban(1), unused_iban(2));
    let mut cases = vec![
        rejected(AmountNotPositive, a.gets(0)),
        rejected(AmountNotPositive, a.gets(-1)),
        rejected(AmountNotPositive, a.gets(i64::MIN)),
        rejected(AmountNotPositive, a.pays(0, b_iban)),
        confirmed(AmountNotPositive, a.gets(1)),
        confirmed(AmountNotPositive, a.pays(1, b_iban)),
    ];
    let invalid = [
        a_iban[..17].to_owned(),
        format!("{a_iban}0"),
        other_digit(a_iban, 3),
        other_digit(a_iban, 17),
        a_iban.replace("OPEN", "INGB"),
        a_iban.replace("NL", "DE"),
        a_iban.to_lowercase(),
        format!(" {a_iban}"),
        "Cash".to_owned(),
        String::new(),
        SHOP.to_owned(),
        // The first one has 18 bytes, the second one 18 characters.
        "NL66OPEN00000000é".to_owned(),
        "NL66OPEN000000000é".to_owned(),
    ];
    cases.extend(invalid.map(|from| rejected(FromInvalid, transfer(1, &from, &a.token, b_iban))));
    cases.extend([
        confirmed(FromInvalid, transfer(1, CASH, "", b_iban)),
        // This rule applies even if neither account exists.
        rejected(SameAccount, a.pays(1, a_iban)),
        rejected(SameAccount, transfer(1, CASH, "", CASH)),
        rejected(SameAccount, transfer(1, &unused, "", &unused)),
        confirmed(SameAccount, a.pays(1, &a_iban.to_lowercase())),
        rejected(BothUnknown, transfer(1, CASH, "", SHOP)),
        rejected(BothUnknown, transfer(1, CASH, "", &unused)),
        rejected(BothUnknown, transfer(1, &unused, "", SHOP)),
        rejected(BothUnknown, transfer(1, &unused, "", CASH)),
        rejected(BothUnknown, transfer(1, &unused, "", &other)),
        confirmed(BothUnknown, a.pays(1, &unused)),
        confirmed(BothUnknown, a.pays(1, SHOP)),
        confirmed(BothUnknown, a.pays(1, CASH)),
        confirmed(BothUnknown, a.pays(1, "")),
        rejected(FromUnknown, transfer(1, &unused, "", b_iban)),
        rejected(FromUnknown, transfer(1, &unused, &b.token, b_iban)),
        confirmed(FromUnknown, b.pays(1, a_iban)),
    ]);
    cases
}

/// Returns cases of the token rule. Cash needs no token.
fn tokens(a: &Account, b: &Account) -> Vec<RuleCase> {
    let wrong = [
        String::new(),
        a.token[..19].to_owned(),
        format!("{}0", a.token),
        other_digit(&a.token, 0),
        other_digit(&a.token, 19),
        b.token.clone(),
        CASH.to_owned(),
    ];
    let rule = Reason::TokenInvalid;
    let with = |token: String| rejected(rule, transfer(1, &a.iban, &token, &b.iban));
    let mut cases: Vec<RuleCase> = wrong.map(with).into();
    cases.extend([
        rejected(rule, transfer(1, COMPANY_IBAN, &a.token, &a.iban)),
        confirmed(rule, transfer(1, COMPANY_IBAN, COMPANY_TOKEN, &a.iban)),
        confirmed(rule, transfer(1, CASH, "any token", &a.iban)),
    ]);
    cases
}

/// Returns cases of the limit rule. The balance may be equal to the limit.
fn funds(poor: &Account, other: &str) -> Vec<RuleCase> {
    let rule = Reason::InsufficientFunds;
    vec![
        confirmed(rule, poor.gets(100)),
        rejected(rule, poor.pays(50_101, SHOP)),
        rejected(rule, poor.pays(i64::MAX, SHOP)),
        confirmed(rule, poor.pays(50_100, other)),
        rejected(rule, poor.pays(1, other)),
        // The balance would be less than `i64::MIN`.
        rejected(rule, poor.pays(i64::MAX, other)),
        confirmed(rule, poor.gets(1)),
        rejected(rule, poor.pays(2, SHOP)),
        confirmed(rule, poor.pays(1, SHOP)),
    ]
}

/// Returns cases of [`Reason::AmountTooLarge`]. Both accounts must be new. The balance of `rich`
/// reaches `i64::MAX`, and all of it can be withdrawn.
pub fn range(rich: &Account, other: &Account) -> Vec<RuleCase> {
    let rule = Reason::AmountTooLarge;
    vec![
        confirmed(rule, rich.gets(i64::MAX - 1)),
        rejected(rule, rich.gets(2)),
        rejected(rule, rich.gets(i64::MAX)),
        rejected(rule, other.pays(2, &rich.iban)),
        confirmed(rule, other.pays(1, &rich.iban)),
        rejected(rule, rich.gets(1)),
        rejected(rule, other.pays(1, &rich.iban)),
        confirmed(rule, rich.pays(i64::MAX, CASH)),
        confirmed(rule, rich.gets(1)),
    ]
}

/// Returns cases in which a rejected transfer violates its rule and every later one. Both accounts
/// must be new.
pub fn precedence(poor: &Account, full: &Account) -> Vec<RuleCase> {
    let (unused, full_iban, most) = (unused_iban(3), full.iban.as_str(), i64::MAX);
    vec![
        confirmed(Reason::AmountTooLarge, full.gets(most)),
        rejected(Reason::AmountNotPositive, transfer(0, "x", "", "x")),
        rejected(Reason::FromInvalid, transfer(most, "x", "", "x")),
        rejected(Reason::SameAccount, transfer(most, &unused, "", &unused)),
        rejected(Reason::BothUnknown, transfer(most, &unused, "", "x")),
        rejected(Reason::FromUnknown, transfer(most, &unused, "", full_iban)),
        rejected(Reason::TokenInvalid, transfer(most, &poor.iban, "", full_iban)),
        rejected(Reason::InsufficientFunds, poor.pays(most, full_iban)),
        rejected(Reason::AmountTooLarge, poor.pays(1, full_iban)),
        confirmed(Reason::InsufficientFunds, full.pays(most, CASH)),
        confirmed(Reason::AmountTooLarge, poor.pays(1, full_iban)),
    ]
}
