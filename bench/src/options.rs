//! Checks of option values that several commands share, and the section of `--help` on environment
//! variables.

use service::env::{LOG, Variable};
use std::fmt::{Display, Write};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

/// Parses a number within `range`.
pub fn number<T: FromStr + PartialOrd + Display>(
    range: RangeInclusive<T>,
) -> impl Fn(&str) -> Result<T, String> + Clone
where
    RangeInclusive<T>: Clone,
{
    move |text| {
        let number = text.trim().parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("expected a number from {} to {}", range.start(), range.end()))
    }
}

/// Parses a number of seconds within `range`.
pub fn seconds(range: RangeInclusive<u64>) -> impl Fn(&str) -> Result<Duration, String> + Clone {
    let seconds = number(range);
    move |text| seconds(text).map(Duration::from_secs)
}

/// Parses a number of milliseconds within `range`.
pub fn millis(range: RangeInclusive<u64>) -> impl Fn(&str) -> Result<Duration, String> + Clone {
    let millis = number(range);
    move |text| millis(text).map(Duration::from_millis)
}

/// A list separated by commas, as on the command line.
pub fn joined<T: Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

/// The section of `--help` on the environment variables of a command.
pub fn environment(groups: &[&[Variable]]) -> String {
    let mut text =
        "Environment (make -s env prints the addresses of the running stack):\n".to_owned();
    for variable in groups.iter().copied().flatten().chain([&LOG]) {
        let default = match variable.default {
            None => "required".to_owned(),
            Some("") => "default: none".to_owned(),
            Some(default) => format!("default: {default}"),
        };
        let _ = writeln!(text, "  {}\n          {} [{default}]", variable.name, variable.meaning);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use service::env::DATABASE_URL;

    #[test]
    fn number_outside_its_limits_is_rejected() {
        let read = number(2..=9u32);
        assert_eq!([read("2"), read(" 9")], [Ok(2), Ok(9)]);
        for wrong in ["1", "10", "", "x", "-3"] {
            assert_eq!(read(wrong), Err("expected a number from 2 to 9".to_owned()), "{wrong}");
        }
        assert_eq!(seconds(1..=2)("2"), Ok(Duration::from_secs(2)));
        assert_eq!(millis(1..=2)("2"), Ok(Duration::from_millis(2)));
        assert_eq!(joined(&[5, 7]), "5,7");
    }

    #[test]
    fn environment_lists_variables_with_their_defaults() {
        let text = environment(&[&[DATABASE_URL]]);
        assert!(text.contains("DATABASE_URL\n") && text.contains("[required]"), "{text}");
        assert!(text.contains("LOG\n") && text.contains("[default: info]"), "{text}");
    }
}
