//! The rules, each on both sides of its boundary, one command after the other: on their partitions
//! they could overtake each other.

use crate::accounts::Account;
use crate::error::Error;
use crate::verify::findings::Point;
use crate::verify::verification::{Verification, order};
use bank::iban::{self, CASH, COMPANY_IBAN, COMPANY_TOKEN};
use bank::records::ConfirmMoneyTransfer;

/// Not of this bank, and not an iban.
const SHOP: &str = "Albert Heijn BV";

/// What is checked, the transfer, and the reason of its rejection if any.
type Case = (Point, ConfirmMoneyTransfer, Option<&'static str>);

/// A well-formed iban that this bank has not given out: it gives out those with a 0 in front.
fn stranger(number: u32) -> String {
    let account = format!("9{number:09}");
    let check = iban::check_digits(&account).expect("the account is ten digits");
    format!("NL{check:02}OPEN{account}")
}

/// `text` with another digit at this index.
fn other_digit(text: &str, at: usize) -> String {
    let other = |(index, digit): (usize, char)| match digit {
        '9' if index == at => '0',
        digit if index == at => char::from(digit as u8 + 1),
        digit => digit,
    };
    text.chars().enumerate().map(other).collect()
}

/// Sends transfers between `accounts`, and from `poor`, which gets 1 euro and may be overdrawn by
/// 500.
pub fn rules(
    verification: &mut Verification<'_>,
    [a, b]: [&Account; 2],
    poor: &Account,
) -> Result<(), Error> {
    let mut cases = amounts(a, b);
    cases.extend(senders(a, b));
    cases.extend(known_accounts(a, b));
    cases.extend(tokens(a, b));
    cases.extend(funds(poor, b));
    for (point, order, reason) in cases {
        verification.decide(point, order, reason)?;
    }
    Ok(())
}

fn amounts(a: &Account, b: &Account) -> Vec<Case> {
    let not_positive = Some("amount must be positive");
    vec![
        (Point::NotPositive, a.gets(0), not_positive),
        (Point::NotPositive, a.gets(-1), not_positive),
        (Point::NotPositive, a.gets(i64::MIN), not_positive),
        (Point::NotPositive, a.pays(0, &b.iban), not_positive),
        (Point::NotPositive, a.gets(1), None),
        (Point::NotPositive, a.pays(1, &b.iban), None),
    ]
}

fn senders(a: &Account, b: &Account) -> Vec<Case> {
    let (a_iban, b_iban) = (a.iban.as_str(), b.iban.as_str());
    let from_invalid = Some("from is invalid");
    let invalid = |from: &str| (Point::FromInvalid, order(1, from, &a.token, b_iban), from_invalid);
    vec![
        invalid(&a_iban[..17]),
        invalid(&format!("{a_iban}0")),
        invalid(&other_digit(a_iban, 3)),
        invalid(&other_digit(a_iban, 17)),
        invalid(&a_iban.replace("OPEN", "INGB")),
        invalid(&a_iban.replace("NL", "DE")),
        invalid(&a_iban.to_lowercase()),
        invalid(&format!(" {a_iban}")),
        invalid("Cash"),
        invalid(""),
        invalid(SHOP),
        // 18 bytes and no iban; 18 characters and more bytes.
        invalid("NL66OPEN00000000é"),
        invalid("NL66OPEN000000000é"),
        (Point::FromInvalid, order(1, CASH, "", b_iban), None),
    ]
}

fn known_accounts(a: &Account, b: &Account) -> Vec<Case> {
    let (a_iban, b_iban) = (a.iban.as_str(), b.iban.as_str());
    let (nobody, no_one) = (stranger(1), stranger(2));
    let same = Some("from and to can't be same for transfer");
    let both_unknown = Some("both to and from not known at this bank");
    let from_unknown = Some("from is not known at this bank");
    vec![
        (Point::Same, a.pays(1, a_iban), same),
        (Point::Same, order(1, CASH, "", CASH), same),
        (Point::Same, order(1, &nobody, "", &nobody), same),
        (Point::Same, a.pays(1, &a_iban.to_lowercase()), None),
        (Point::BothUnknown, order(1, CASH, "", SHOP), both_unknown),
        (Point::BothUnknown, order(1, CASH, "", &nobody), both_unknown),
        (Point::BothUnknown, order(1, &nobody, "", SHOP), both_unknown),
        (Point::BothUnknown, order(1, &nobody, "", CASH), both_unknown),
        (Point::BothUnknown, order(1, &nobody, "", &no_one), both_unknown),
        (Point::BothUnknown, a.pays(1, &nobody), None),
        (Point::BothUnknown, a.pays(1, SHOP), None),
        (Point::BothUnknown, a.pays(1, CASH), None),
        (Point::BothUnknown, a.pays(1, ""), None),
        (Point::FromUnknown, order(1, &nobody, "", b_iban), from_unknown),
        (Point::FromUnknown, order(1, &nobody, &b.token, b_iban), from_unknown),
        (Point::FromUnknown, b.pays(1, a_iban), None),
    ]
}

fn tokens(a: &Account, b: &Account) -> Vec<Case> {
    let (a_iban, b_iban) = (a.iban.as_str(), b.iban.as_str());
    let token_invalid = Some("invalid token");
    let with_token = |token: &str| (Point::Token, order(1, a_iban, token, b_iban), token_invalid);
    vec![
        with_token(""),
        with_token(&a.token[..19]),
        with_token(&format!("{}0", a.token)),
        with_token(&other_digit(&a.token, 0)),
        with_token(&other_digit(&a.token, 19)),
        with_token(&b.token),
        with_token(CASH),
        (Point::Token, order(1, COMPANY_IBAN, &a.token, a_iban), token_invalid),
        (Point::Token, order(1, COMPANY_IBAN, COMPANY_TOKEN, a_iban), None),
        (Point::Token, order(1, CASH, "whatever", a_iban), None),
    ]
}

fn funds(poor: &Account, b: &Account) -> Vec<Case> {
    let b_iban = b.iban.as_str();
    let insufficient = Some("insufficient funds");
    vec![
        (Point::Funds, poor.gets(100), None),
        (Point::Funds, poor.pays(50_101, SHOP), insufficient),
        (Point::Funds, poor.pays(i64::MAX, SHOP), insufficient),
        (Point::Funds, poor.pays(50_100, b_iban), None),
        (Point::Funds, poor.pays(1, b_iban), insufficient),
        // Below zero minus this is no long.
        (Point::Funds, poor.pays(i64::MAX, b_iban), insufficient),
        (Point::Funds, poor.gets(1), None),
        (Point::Funds, poor.pays(2, SHOP), insufficient),
        (Point::Funds, poor.pays(1, SHOP), None),
    ]
}

/// Ends with `rich` at the end of a long.
pub fn limits(
    verification: &mut Verification<'_>,
    rich: &Account,
    other: &Account,
) -> Result<(), Error> {
    let too_large = Some("amount too large");
    for (order, reason) in [
        (rich.gets(i64::MAX - 1), None),
        (rich.gets(2), too_large),
        (rich.gets(i64::MAX), too_large),
        (other.pays(2, &rich.iban), too_large),
        (other.pays(1, &rich.iban), None),
        (rich.gets(1), too_large),
        (rich.pays(i64::MAX, CASH), None),
        (rich.gets(i64::MAX), None),
    ] {
        verification.decide(Point::TooLarge, order, reason)?;
    }
    Ok(())
}

/// Everything is wrong with the first order; each next one mends the fault that won.
pub fn precedence(
    verification: &mut Verification<'_>,
    rich: &Account,
    a: &Account,
) -> Result<(), Error> {
    let nobody = stranger(3);
    let (rich, all) = (rich.iban.as_str(), i64::MAX);
    for (order, reason) in [
        (order(0, "x", "", "x"), "amount must be positive"),
        (order(all, "x", "", "x"), "from is invalid"),
        (order(all, &nobody, "", &nobody), "from and to can't be same for transfer"),
        (order(all, &nobody, "", "x"), "both to and from not known at this bank"),
        (order(all, &nobody, "", rich), "from is not known at this bank"),
        (order(all, &a.iban, "", rich), "invalid token"),
        (order(all, &a.iban, &a.token, rich), "insufficient funds"),
        (order(1, &a.iban, &a.token, rich), "amount too large"),
    ] {
        verification.decide(Point::Precedence, order, Some(reason))?;
    }
    Ok(())
}
