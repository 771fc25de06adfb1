//! Account numbers and tokens.

use rand::TryRng;
use rand::rngs::SysRng;
use rand::{Rng, RngExt};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// The account of the company. It pays salaries, and exists in a new bank.
pub const COMPANY_IBAN: &str = "NL66OPEN0000000000";
/// Token of [`COMPANY_IBAN`] unless another one is configured. Everyone knows it.
pub const COMPANY_TOKEN: &str = "00000000000000000000";
/// The counterparty of deposits and withdrawals. It has no balance, token or limit.
pub const CASH: &str = "cash";

const LENGTH: usize = 18;
const TOKEN_DIGITS: usize = 20;
/// "OPEN" with each letter as two digits (A = 10), which precede the account number.
const BANK_DIGITS: &str = "24251423";
/// "NL" with each letter as two digits, and "00", which follow the account number.
const COUNTRY_DIGITS: &str = "232100";

/// The token of an account: 20 decimal digits. `Debug` does not print it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Token([u8; TOKEN_DIGITS]);

/// A text is not 20 decimal digits.
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidToken;

impl Token {
    /// Returns the digits, for Avro and SQL.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).expect("a token has ASCII digits only")
    }
}

impl FromStr for Token {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let digits = text.as_bytes().try_into().map_err(|_| InvalidToken)?;
        let token = Self(digits);
        if token.0.iter().all(u8::is_ascii_digit) { Ok(token) } else { Err(InvalidToken) }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Returns the check digits of the IBAN `NL__OPEN{account}`, 2 to 98. `None` unless `account` is
/// ten ASCII digits. Source: ISO 13616; ISO 7064 MOD 97-10.
pub fn check_digits(account: &str) -> Option<u8> {
    if account.len() != 10 || !account.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits = BANK_DIGITS.bytes().chain(account.bytes()).chain(COUNTRY_DIGITS.bytes());
    let remainder = digits.fold(0u32, |rest, digit| (rest * 10 + u32::from(digit - b'0')) % 97);
    u8::try_from(98 - remainder).ok()
}

/// True if `iban` has the form of this bank's account numbers: `NL`, two correct check digits,
/// `OPEN`, ten digits.
pub fn is_well_formed(iban: &str) -> bool {
    if iban.len() != LENGTH || !iban.is_ascii() || !iban.starts_with("NL") || &iban[4..8] != "OPEN"
    {
        return false;
    }
    check_digits(&iban[8..]).is_some_and(|check| iban[2..4] == format!("{check:02}"))
}

/// Generates an iban. Its account number is "0" and nine digits from `rng`.
pub fn generate(rng: &mut impl Rng) -> String {
    number(rng.random_range(0..1_000_000_000))
}

fn number(number: u32) -> String {
    let account = format!("0{number:09}");
    let check = check_digits(&account).expect("the account is ten digits");
    format!("NL{check:02}OPEN{account}")
}

/// Returns the iban of the account that the command `id` opens. Its account number is "0" and nine
/// digits from the id. Two ids can have the same iban.
pub fn of_command(id: Uuid) -> String {
    number(u32::try_from(id.as_u128() % 1_000_000_000).expect("it is below 10^9"))
}

/// Generates a token: 20 decimal digits from the random number generator of the system.
///
/// # Errors
/// The system returned no random bytes.
pub fn generate_token() -> Result<String, rand::rngs::SysError> {
    let mut digits = String::with_capacity(TOKEN_DIGITS);
    while digits.len() < TOKEN_DIGITS {
        // 10^19 is the largest power of ten below 2^64. Larger draws are discarded, since they
        // would make the digits biased.
        let draw = SysRng.try_next_u64()?;
        if draw < 10_000_000_000_000_000_000 {
            digits.push_str(&format!("{:010}", draw % 10_000_000_000));
        }
    }
    Ok(digits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    #[test]
    fn company_iban_is_well_formed() {
        assert_eq!(check_digits("0000000000"), Some(66));
        assert!(is_well_formed(COMPANY_IBAN));
    }

    #[test]
    fn iban_of_another_form_is_rejected() {
        for iban in [
            "",
            "cash",
            "NL66OPEN000000000",
            "NL66OPEN00000000000",
            "NL67OPEN0000000000",
            "NL66INGB0000000000",
            "DE66OPEN0000000000",
            "NL66OPEN00000000é",
            "nl66OPEN0000000000",
        ] {
            assert!(!is_well_formed(iban), "{iban}");
        }
    }

    #[test]
    fn generated_ibans_are_well_formed_and_differ() {
        let mut rng = SmallRng::seed_from_u64(7);
        let (first, second) = (generate(&mut rng), generate(&mut rng));
        assert!(is_well_formed(&first) && is_well_formed(&second));
        assert_ne!(first, second);
        assert_eq!(&first[8..9], "0");
    }

    #[test]
    fn iban_follows_from_the_command() {
        let iban = |id| of_command(Uuid::from_u128(id));
        assert_eq!(&iban(7_123_456_789)[8..], "0123456789");
        assert!(is_well_formed(&iban(u128::MAX)));
        assert_ne!(iban(1), iban(2));
    }

    #[test]
    fn token_is_exactly_twenty_ascii_digits() {
        let text = "01234567890123456789";
        assert_eq!(text.parse::<Token>().unwrap().as_str(), text);
        assert!(COMPANY_TOKEN.parse::<Token>().is_ok());
        for other in [
            "",
            "0123456789012345678",
            "012345678901234567890",
            "0123456789012345678x",
            "٠٠٠٠٠٠٠٠٠٠",
        ] {
            assert_eq!(other.parse::<Token>(), Err(InvalidToken), "{other}");
        }
    }

    #[test]
    fn token_is_not_in_its_debug_text() {
        let token: Token = "01234567890123456789".parse().unwrap();
        assert_eq!(format!("{token:?}"), "***");
    }

    #[test]
    fn generated_token_has_twenty_digits() {
        let token = generate_token().unwrap();
        assert_eq!(token.len(), 20);
        assert!(token.bytes().all(|b| b.is_ascii_digit()));
        assert_ne!(token, generate_token().unwrap());
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".{0,30}") {
            let _ = is_well_formed(&text);
        }

        #[test]
        fn changed_digit_is_always_detected(
            account in 0u64..10_000_000_000, at in 0usize..10, by in 1u8..10
        ) {
            let account = format!("{account:010}");
            let check = check_digits(&account).unwrap();
            let mut changed = account.clone().into_bytes();
            changed[at] = (changed[at] - b'0' + by) % 10 + b'0';
            let changed = String::from_utf8(changed).unwrap();
            let iban = format!("NL{check:02}OPEN{changed}");
            prop_assert!(!is_well_formed(&iban));
        }
    }
}
