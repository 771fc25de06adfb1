//! Amounts in Dutch notation.

use bank::money::Cents;
use std::fmt::Write;

/// Formats with a decimal comma and dots between thousands: `€10,00`, `€1.234,56`, `-€0,05`.
pub fn format(amount: Cents) -> String {
    let cents = amount.get().unsigned_abs();
    let euros = (cents / 100).to_string();
    let mut text = String::with_capacity(2 + euros.len() * 4 / 3 + 6);
    text.push_str(if amount < Cents::ZERO { "-€" } else { "€" });
    for (at, digit) in euros.char_indices() {
        if at > 0 && (euros.len() - at).is_multiple_of(3) {
            text.push('.');
        }
        text.push(digit);
    }
    let _ = write!(text, ",{:02}", cents % 100);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn amounts_are_in_dutch_notation() {
        for (cents, text) in [
            (0, "€0,00"),
            (5, "€0,05"),
            (-5, "-€0,05"),
            (1000, "€10,00"),
            (99_999, "€999,99"),
            (100_000, "€1.000,00"),
            (123_456, "€1.234,56"),
            (-50_000, "-€500,00"),
            (99_999_999, "€999.999,99"),
            (100_000_000, "€1.000.000,00"),
            (100_000_000_000_000_000, "€1.000.000.000.000.000,00"),
            (i64::MAX, "€92.233.720.368.547.758,07"),
            (i64::MIN, "-€92.233.720.368.547.758,08"),
        ] {
            assert_eq!(format(Cents::new(cents)), text);
        }
    }

    proptest! {
        #[test]
        fn formatted_amount_keeps_its_digits(cents: i64) {
            let text = format(Cents::new(cents));
            let is_kept = |it: &char| it.is_ascii_digit() || *it == '-';
            let digits: String = text.chars().filter(is_kept).collect();
            prop_assert_eq!(digits.parse::<i64>().unwrap(), cents);
            for group in text.split(',').next().unwrap().split('.').skip(1) {
                prop_assert_eq!(group.len(), 3);
            }
        }
    }
}
