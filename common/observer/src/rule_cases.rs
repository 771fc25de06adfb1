//! Each rule of the bank on both sides of its boundary: transfers, and whether the rule refuses
//! them. To be sent one after the other: in different partitions they could overtake each other.

use crate::model::{Reason, unused_iban};
use bank::iban::{CASH, COMPANY_IBAN, COMPANY_TOKEN};
use bank::money::Cents;
use bank::records::ConfirmMoneyTransfer;
use uuid::Uuid;

/// A party outside the bank, and not an iban.
pub const SHOP: &str = "Albert Heijn BV";

/// An account and the right to use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its number.
    pub iban: String,
    /// Allows transfers from it.
    pub token: String,
}

impl Account {
    /// A payment of `cents` to `to`.
    pub fn pays(&self, cents: i64, to: &str) -> ConfirmMoneyTransfer {
        transfer(cents, &self.iban, &self.token, to)
    }

    /// A deposit of `cents`.
    pub fn gets(&self, cents: i64) -> ConfirmMoneyTransfer {
        transfer(cents, CASH, CASH, &self.iban)
    }
}

/// A command to move money, with a new id.
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
    /// The rule.
    pub rule: Reason,
    /// The transfer.
    pub command: ConfirmMoneyTransfer,
    /// True if it must be refused for this reason, false if it must be confirmed.
    pub holds: bool,
}

fn refused(rule: Reason, command: ConfirmMoneyTransfer) -> RuleCase {
    RuleCase { rule, command, holds: true }
}

fn confirmed(rule: Reason, command: ConfirmMoneyTransfer) -> RuleCase {
    RuleCase { rule, command, holds: false }
}

/// `text` with another digit at `index`.
fn other_digit(text: &str, index: usize) -> String {
    let digit = if &text[index..=index] == "9" { "0" } else { "9" };
    format!("{}{digit}{}", &text[..index], &text[index + 1..])
}

/// Every rule but that of the range. All accounts are new; `poor` ends at its limit.
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
        refused(AmountNotPositive, a.gets(0)),
        refused(AmountNotPositive, a.gets(-1)),
        refused(AmountNotPositive, a.gets(i64::MIN)),
        refused(AmountNotPositive, a.pays(0, b_iban)),
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
        // 18 bytes that are not an iban; 18 characters in more bytes.
        "NL66OPEN00000000é".to_owned(),
        "NL66OPEN000000000é".to_owned(),
    ];
    cases.extend(invalid.map(|from| refused(FromInvalid, transfer(1, &from, &a.token, b_iban))));
    cases.extend([
        confirmed(FromInvalid, transfer(1, CASH, "", b_iban)),
        // Also where neither is known.
        refused(SameAccount, a.pays(1, a_iban)),
        refused(SameAccount, transfer(1, CASH, "", CASH)),
        refused(SameAccount, transfer(1, &unused, "", &unused)),
        confirmed(SameAccount, a.pays(1, &a_iban.to_lowercase())),
        refused(BothUnknown, transfer(1, CASH, "", SHOP)),
        refused(BothUnknown, transfer(1, CASH, "", &unused)),
        refused(BothUnknown, transfer(1, &unused, "", SHOP)),
        refused(BothUnknown, transfer(1, &unused, "", CASH)),
        refused(BothUnknown, transfer(1, &unused, "", &other)),
        confirmed(BothUnknown, a.pays(1, &unused)),
        confirmed(BothUnknown, a.pays(1, SHOP)),
        confirmed(BothUnknown, a.pays(1, CASH)),
        confirmed(BothUnknown, a.pays(1, "")),
        refused(FromUnknown, transfer(1, &unused, "", b_iban)),
        refused(FromUnknown, transfer(1, &unused, &b.token, b_iban)),
        confirmed(FromUnknown, b.pays(1, a_iban)),
    ]);
    cases
}

/// The token of the paying account, whole. Cash needs none.
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
    let with = |token: String| refused(rule, transfer(1, &a.iban, &token, &b.iban));
    let mut cases: Vec<RuleCase> = wrong.map(with).into();
    cases.extend([
        refused(rule, transfer(1, COMPANY_IBAN, &a.token, &a.iban)),
        confirmed(rule, transfer(1, COMPANY_IBAN, COMPANY_TOKEN, &a.iban)),
        confirmed(rule, transfer(1, CASH, "whatever", &a.iban)),
    ]);
    cases
}

/// The balance may reach the limit.
fn funds(poor: &Account, other: &str) -> Vec<RuleCase> {
    let rule = Reason::InsufficientFunds;
    vec![
        confirmed(rule, poor.gets(100)),
        refused(rule, poor.pays(50_101, SHOP)),
        refused(rule, poor.pays(i64::MAX, SHOP)),
        confirmed(rule, poor.pays(50_100, other)),
        refused(rule, poor.pays(1, other)),
        // Less than the least long.
        refused(rule, poor.pays(i64::MAX, other)),
        confirmed(rule, poor.gets(1)),
        refused(rule, poor.pays(2, SHOP)),
        confirmed(rule, poor.pays(1, SHOP)),
    ]
}

/// The range of a long. Both accounts are new; `rich` reaches the end, and all of it can leave
/// again.
pub fn range(rich: &Account, other: &Account) -> Vec<RuleCase> {
    let rule = Reason::AmountTooLarge;
    vec![
        confirmed(rule, rich.gets(i64::MAX - 1)),
        refused(rule, rich.gets(2)),
        refused(rule, rich.gets(i64::MAX)),
        refused(rule, other.pays(2, &rich.iban)),
        confirmed(rule, other.pays(1, &rich.iban)),
        refused(rule, rich.gets(1)),
        refused(rule, other.pays(1, &rich.iban)),
        confirmed(rule, rich.pays(i64::MAX, CASH)),
        confirmed(rule, rich.gets(1)),
    ]
}

/// Each refused transfer breaks its rule and every later one. Both accounts are new.
pub fn precedence(poor: &Account, full: &Account) -> Vec<RuleCase> {
    let (unused, full_iban, most) = (unused_iban(3), full.iban.as_str(), i64::MAX);
    vec![
        confirmed(Reason::AmountTooLarge, full.gets(most)),
        refused(Reason::AmountNotPositive, transfer(0, "x", "", "x")),
        refused(Reason::FromInvalid, transfer(most, "x", "", "x")),
        refused(Reason::SameAccount, transfer(most, &unused, "", &unused)),
        refused(Reason::BothUnknown, transfer(most, &unused, "", "x")),
        refused(Reason::FromUnknown, transfer(most, &unused, "", full_iban)),
        refused(Reason::TokenInvalid, transfer(most, &poor.iban, "", full_iban)),
        refused(Reason::InsufficientFunds, poor.pays(most, full_iban)),
        refused(Reason::AmountTooLarge, poor.pays(1, full_iban)),
        confirmed(Reason::InsufficientFunds, full.pays(most, CASH)),
        confirmed(Reason::AmountTooLarge, poor.pays(1, full_iban)),
    ]
}
