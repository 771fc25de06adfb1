//! Configuration from the environment: read once at start, checked, and printed by `--help`.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

/// One variable of the environment.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// Name, as in `LINGER_MS`.
    pub name: &'static str,
    /// What it does, with its unit and limits, for `--help`.
    pub meaning: &'static str,
    /// Value if the variable is unset or empty; `None` makes it required.
    pub default: Option<&'static str>,
    /// Its value is never printed.
    pub secret: bool,
}

impl Variable {
    /// A variable with a default.
    pub const fn new(name: &'static str, default: &'static str, meaning: &'static str) -> Self {
        Self { name, meaning, default: Some(default), secret: false }
    }

    /// A variable that must be set.
    pub const fn required(name: &'static str, meaning: &'static str) -> Self {
        Self { name, meaning, default: None, secret: false }
    }

    /// The same, with a value that is never printed.
    pub const fn secret(self) -> Self {
        Self { secret: true, ..self }
    }
}

/// `LOG`: how much to log.
pub const LOG: Variable =
    Variable::new("LOG", "info", "log level: off, error, warn, info, debug or trace");
/// `DATABASE_URL`: the service's own database.
pub const DATABASE_URL: Variable = Variable::required(
    "DATABASE_URL",
    "PostgreSQL database, as in postgres://user:password@host:5432/balancedb",
)
.secret();
/// `SCHEMA_REGISTRY_URL`: where schemas have their ids.
pub const SCHEMA_REGISTRY_URL: Variable = Variable::required(
    "SCHEMA_REGISTRY_URL",
    "schema registry with the Confluent API, as in http://host:8081/apis/ccompat/v7",
);

/// A variable that is missing, invalid or removed. The process exits with code 2.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// A required variable is unset or empty.
    #[error("{name} is not set: {meaning}")]
    Missing {
        /// Its name.
        name: &'static str,
        /// What it is for.
        meaning: &'static str,
    },
    /// The value is not accepted.
    #[error("{name}={value:?}: expected {expected}")]
    Invalid {
        /// Its name.
        name: &'static str,
        /// The value; `***` for a secret.
        value: String,
        /// Which values are accepted.
        expected: String,
    },
    /// A variable that this version no longer reads.
    #[error("{name} was removed: {replacement}")]
    Removed {
        /// Its name.
        name: &'static str,
        /// What to do instead.
        replacement: &'static str,
    },
}

/// Variables of earlier versions, each with its replacement. A start with one of them set is
/// refused, so that a setting without effect is not overlooked. docs/decisions/0016-variables.md
/// says why they went.
const REMOVED: [(&str, &str); 3] = [
    ("BATCH_RECORDS", "set BATCH_BYTES to bound a batch"),
    ("FETCH_BYTES", "unset it, 32768 bytes are fetched from each partition at a time"),
    ("TRANSACTION_RECORDS", "unset it, a transaction has at most 1000 commands"),
];

/// The environment, or a test's replacement of it.
pub struct Env<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
}

impl<'a> Env<'a> {
    /// Variables come from `lookup`.
    pub fn new(lookup: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { lookup }
    }

    /// Refuses variables that this version no longer reads.
    ///
    /// # Errors
    /// [`Error::Removed`].
    pub fn refuse_removed(&self) -> Result<(), Error> {
        let is_set = |name| (self.lookup)(name).is_some_and(|value| !value.is_empty());
        match REMOVED.into_iter().find(|(name, _)| is_set(name)) {
            Some((name, replacement)) => Err(Error::Removed { name, replacement }),
            None => Ok(()),
        }
    }

    /// The text of a variable, or its default. Empty is unset, as Compose files pass unset
    /// variables on.
    ///
    /// # Errors
    /// [`Error::Missing`].
    pub fn text(&self, variable: &Variable) -> Result<String, Error> {
        (self.lookup)(variable.name)
            .filter(|value| !value.is_empty())
            .or_else(|| variable.default.map(str::to_owned))
            .ok_or(Error::Missing { name: variable.name, meaning: variable.meaning })
    }

    /// A variable as `T`; `expected` describes the accepted values.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Invalid`].
    pub fn parse<T: FromStr>(&self, variable: &Variable, expected: &str) -> Result<T, Error> {
        let text = self.text(variable)?;
        text.trim().parse().map_err(|_| invalid(variable, text, expected.to_owned()))
    }

    /// A number within `range`.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Invalid`].
    pub fn number<T: FromStr + PartialOrd + Display>(
        &self,
        variable: &Variable,
        range: RangeInclusive<T>,
    ) -> Result<T, Error> {
        let expected = format!("a number from {} to {}", range.start(), range.end());
        let number = self.parse(variable, &expected)?;
        if range.contains(&number) {
            Ok(number)
        } else {
            Err(invalid(variable, self.text(variable)?, expected))
        }
    }

    /// A time in milliseconds within `range`.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Invalid`].
    pub fn millis(
        &self,
        variable: &Variable,
        range: RangeInclusive<u64>,
    ) -> Result<Duration, Error> {
        self.number(variable, range).map(Duration::from_millis)
    }

    /// One of the words in `choices`.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Invalid`].
    pub fn choice<T: Copy>(&self, variable: &Variable, choices: &[(&str, T)]) -> Result<T, Error> {
        let text = self.text(variable)?;
        choices.iter().find(|(word, _)| *word == text).map(|(_, choice)| *choice).ok_or_else(|| {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            invalid(variable, text, words.join(" or "))
        })
    }
}

/// An [`Error::Invalid`] without the value of a secret.
pub fn invalid(variable: &Variable, value: String, expected: String) -> Error {
    let value = if variable.secret { "***".to_owned() } else { value };
    Error::Invalid { name: variable.name, value, expected }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LINGER: Variable = Variable::new("LINGER_MS", "5", "ms");

    #[test]
    fn number_is_accepted_within_its_limits_only() {
        for (text, expected) in
            [("0", Some(0)), ("9", Some(9)), ("10", None), ("-1", None), ("x", None), ("", Some(5))]
        {
            let lookup = |_: &str| Some(text.to_owned());
            assert_eq!(Env::new(&lookup).number(&LINGER, 0..=9u64).ok(), expected, "{text}");
        }
    }

    #[test]
    fn missing_variable_is_named_with_its_meaning() {
        let unset = |_: &str| None;
        let err = Env::new(&unset).text(&SCHEMA_REGISTRY_URL).unwrap_err();
        assert!(err.to_string().starts_with("SCHEMA_REGISTRY_URL is not set: schema registry"));
    }

    #[test]
    fn removed_variable_is_refused_with_its_replacement() {
        for (name, replacement) in REMOVED {
            let lookup = |it: &str| (it == name).then(|| "1".to_owned());
            let err = Env::new(&lookup).refuse_removed().unwrap_err();
            assert_eq!(err.to_string(), format!("{name} was removed: {replacement}"));
        }
        // Empty is unset, as Compose files pass unset variables on.
        let empty = |_: &str| Some(String::new());
        assert_eq!(Env::new(&empty).refuse_removed(), Ok(()));
    }

    #[test]
    fn secret_is_not_in_the_error() {
        let lookup = |_: &str| Some("hunter2".to_owned());
        let err = Env::new(&lookup).parse::<u16>(&DATABASE_URL, "a URL").unwrap_err();
        assert!(!err.to_string().contains("hunter2"));
    }

    proptest! {
        #[test]
        fn any_value_is_judged_without_panic(value in ".*") {
            let lookup = |_: &str| Some(value.clone());
            let env = Env::new(&lookup);
            let _ = env.number(&LINGER, 0..=9u64);
            let _ = env.millis(&LINGER, 0..=9);
            let _ = env.choice(&LINGER, &[("a", 1)]);
        }
    }
}
