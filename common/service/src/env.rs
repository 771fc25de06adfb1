//! Configuration from environment variables. They are read and checked once, at startup. `--help`
//! lists them.

use crate::url::{self, Check, Problem};
use std::fmt::{self, Display};
use std::hint::black_box;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

/// An environment variable and its documentation.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// Name, such as `LINGER_MS`.
    pub name: &'static str,
    /// Meaning, unit, limits and pitfalls, for `--help`.
    pub meaning: &'static str,
    /// Value if the variable is unset or empty. `None`: the variable is required.
    pub default: Option<&'static str>,
    /// If true, the value never appears in errors and logs.
    pub secret: bool,
    /// Check of the value. [`Env::text`] calls it, so that all services have the same checks.
    pub check: Option<Check>,
}

impl Variable {
    /// Returns an optional variable. An empty default means "no default".
    pub const fn new(name: &'static str, default: &'static str, meaning: &'static str) -> Self {
        Self { name, meaning, default: Some(default), secret: false, check: None }
    }

    /// Returns a required variable.
    pub const fn required(name: &'static str, meaning: &'static str) -> Self {
        Self { name, meaning, default: None, secret: false, check: None }
    }

    /// Returns the variable marked as secret.
    pub const fn secret(self) -> Self {
        Self { secret: true, ..self }
    }

    /// Returns the variable with a check of its value.
    const fn checked(self, check: Check) -> Self {
        Self { check: Some(check), ..self }
    }
}

pub const LOG: Variable = Variable::new(
    "LOG",
    "info",
    "log level: off, error, warn, info, debug or trace. Of other crates only warnings and errors \
     are logged",
);

pub const DATABASE_URL: Variable = Variable::required(
    "DATABASE_URL",
    "PostgreSQL database of this service: a URL such as postgres://user@host:5432/balancedb, or \
     host=... user=... dbname=.... Of several servers, as in db-1:5432,db-2:5432, the one that \
     accepts writes is used. A password in the URL must be percent-encoded: \
     DATABASE_PASSWORD needs no encoding. The connection is not encrypted: sslmode=require is \
      refused. A connection pooler must give each connection its own session: \
      pool_mode=session of PgBouncer",
)
.secret()
.checked(url::check_postgres);

pub const COMPANY_TOKEN: Variable = Variable::new(
    "COMPANY_TOKEN",
    "",
    "token of the company account, 20 digits. command-handler and command-generator need the same \
     value. The handler stores it at startup. Without a value, the handler keeps the stored token, \
     and the generator sends 20 zeros. A new database has 20 zeros, which everyone knows from the \
     talk",
)
.secret();

pub const COMPANY_TOKEN_FILE: Variable = Variable::new(
    "COMPANY_TOKEN_FILE",
    "",
    "path of a file with the token of the company account, instead of COMPANY_TOKEN. It is read \
     once, at startup. One line break at its end is removed",
);

pub const SCHEMA_REGISTRY_URL: Variable = Variable::required(
    "SCHEMA_REGISTRY_URL",
    "schema registry, base URL of its Confluent API, such as http://host:8081/apis/ccompat/v7, or \
     http://user:password@host:8081. https is not supported",
)
.secret()
.checked(url::check_http);

/// A variable is missing, invalid or removed. The process exits with code 2.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// A required variable is unset or empty.
    #[error("{name} is not set: {meaning}")]
    Missing { name: &'static str, meaning: &'static str },
    /// The value is not accepted.
    #[error("{name}={value:?}: expected {expected}")]
    Invalid {
        name: &'static str,
        /// The value; `***` for a secret.
        value: String,
        /// The accepted values.
        expected: String,
    },
    /// The value can never work.
    #[error("{name} {problem}")]
    Unusable {
        name: &'static str,
        /// What is wrong and what to do, without the value.
        problem: Problem,
    },
    /// A variable of an earlier version is set.
    #[error("{name} was removed: {replacement}")]
    Removed {
        name: &'static str,
        /// What to do instead.
        replacement: &'static str,
    },
}

/// Variables of earlier versions, each with its replacement. If one is set, the service does not
/// start, so that a setting without effect is not overlooked. For the reasons, see
/// docs/decisions/0016-variables.md.
const REMOVED: [(&str, &str); 3] = [
    ("BATCH_RECORDS", "set BATCH_BYTES to bound a batch"),
    ("FETCH_BYTES", "unset it; each fetch reads up to 32768 bytes per partition"),
    ("TRANSACTION_RECORDS", "unset it; a transaction has at most 1000 commands"),
];

/// The environment variables of the process, or those of a test.
pub struct Env<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
}

impl<'a> Env<'a> {
    /// `lookup` returns the value of a variable, or `None` if it is unset.
    pub fn new(lookup: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { lookup }
    }

    /// Rejects variables that this version no longer reads.
    ///
    /// # Errors
    /// [`Error::Removed`].
    pub fn refuse_removed(&self) -> Result<(), Error> {
        match REMOVED.into_iter().find(|(name, _)| self.value(name).is_some()) {
            Some((name, replacement)) => Err(Error::Removed { name, replacement }),
            None => Ok(()),
        }
    }

    /// Returns the value of a variable, or `None` if it is unset or empty.
    fn value(&self, name: &str) -> Option<String> {
        (self.lookup)(name).filter(|value| !value.is_empty())
    }

    /// Returns the value of a variable, or its default. An empty value counts as unset, since
    /// Compose files pass unset variables as empty ones.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Unusable`].
    pub fn text(&self, variable: &Variable) -> Result<String, Error> {
        let Variable { name, meaning, check, .. } = *variable;
        let text = self
            .value(name)
            .or_else(|| variable.default.map(str::to_owned))
            .ok_or(Error::Missing { name, meaning })?;
        match check.map_or(Ok(()), |check| check(&text)) {
            Ok(()) => Ok(text),
            Err(problem) => Err(Error::Unusable { name, problem }),
        }
    }

    /// Parses a variable; `expected` describes the accepted values in the error.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Invalid`].
    pub fn parse<T: FromStr>(&self, variable: &Variable, expected: &str) -> Result<T, Error> {
        let text = self.text(variable)?;
        text.trim().parse().map_err(|_| invalid(variable, text, expected.to_owned()))
    }

    /// Parses a secret: the value of `variable`, or the content of the file that `file` names. One
    /// line break at the end of the file is removed. `None` if neither is set. Defaults are not
    /// used.
    ///
    /// # Errors
    /// [`Error::Invalid`]: both are set, the file is not readable, or `expected` describes another
    /// value.
    pub fn parse_secret<T: FromStr>(
        &self,
        variable: &Variable,
        file: &Variable,
        expected: &str,
    ) -> Result<Option<T>, Error> {
        let value = self.value(variable.name);
        let Some(path) = self.value(file.name) else {
            let parse = |text: String| text.parse().map_err(|_| text);
            let parsed = value.map(parse).transpose();
            return parsed.map_err(|text| invalid(variable, text, expected.to_owned()));
        };
        let failed = |expected| invalid(file, path.clone(), expected);
        if value.is_some() {
            return Err(failed(format!("no value, since {} is set", variable.name)));
        }
        let text = std::fs::read_to_string(&path)
            .map_err(|err| failed(format!("a readable file: {err}")))?;
        let text = text.strip_suffix('\n').map_or(&*text, |it| it.trim_end_matches('\r'));
        text.parse().map(Some).map_err(|_| failed(format!("a file with {expected}")))
    }

    /// Returns a number within `range`.
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

    /// Returns a duration given in milliseconds, within `range`.
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

    /// Returns a secret token: 16 to 256 visible ASCII characters. `None` if it is not set.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn token(&self, variable: &Variable) -> Result<Option<Secret>, Error> {
        let token = self.text(variable)?;
        match token.len() {
            0 => Ok(None),
            16..=256 if token.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Ok(Some(Secret(token)))
            }
            _ => {
                let expected = "16 to 256 ASCII characters without spaces".to_owned();
                Err(invalid(variable, token, expected))
            }
        }
    }

    /// Returns the value of the word in `choices` that equals the variable.
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

/// A secret, which `Debug` does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl Secret {
    /// Compares in constant time for texts of equal length.
    pub fn equals(&self, text: &str) -> bool {
        let pairs = self.0.bytes().zip(text.bytes());
        let differences = pairs.fold(0, |sum, (a, b)| black_box(sum | (a ^ b)));
        self.0.len() == text.len() && differences == 0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Returns an [`Error::Invalid`]; the value of a secret is replaced by `***`.
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
    fn number_outside_its_range_is_rejected() {
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
    fn removed_variable_is_rejected_with_its_replacement() {
        for (name, replacement) in REMOVED {
            let lookup = |it: &str| (it == name).then(|| "1".to_owned());
            let err = Env::new(&lookup).refuse_removed().unwrap_err();
            assert_eq!(err.to_string(), format!("{name} was removed: {replacement}"));
        }
        // An empty value counts as unset.
        let empty = |_: &str| Some(String::new());
        assert_eq!(Env::new(&empty).refuse_removed(), Ok(()));
    }

    #[test]
    fn secret_value_is_not_in_the_error() {
        let lookup = |_: &str| Some("hunter2".to_owned());
        let err = Env::new(&lookup).parse::<u16>(&DATABASE_URL, "a URL").unwrap_err();
        assert!(!err.to_string().contains("hunter2"));
    }

    #[test]
    fn unusable_url_is_refused_without_its_value() {
        for (variable, value, start) in [
            (
                &SCHEMA_REGISTRY_URL,
                "https://ann:hunter2@r",
                "SCHEMA_REGISTRY_URL begins with https",
            ),
            (&SCHEMA_REGISTRY_URL, "ann:hunter2@r", "SCHEMA_REGISTRY_URL has no scheme"),
            (&DATABASE_URL, "postgres://ann:hunter2@db/x\r", "DATABASE_URL has a blank"),
        ] {
            let lookup = |_: &str| Some(value.to_owned());
            let err = Env::new(&lookup).text(variable).unwrap_err().to_string();
            assert!(err.starts_with(start) && !err.contains("hunter2"), "{err}");
        }
    }

    #[test]
    fn secret_is_read_from_variable_or_file() {
        let file = std::env::temp_dir().join(format!("secret-{}", std::process::id()));
        let path = file.to_str().unwrap().to_owned();
        let read = |value: &str, path: &str| {
            let lookup = |name: &str| match name {
                "COMPANY_TOKEN" => Some(value.to_owned()),
                "COMPANY_TOKEN_FILE" => Some(path.to_owned()),
                _ => None,
            };
            let env = Env::new(&lookup);
            env.parse_secret::<u32>(&COMPANY_TOKEN, &COMPANY_TOKEN_FILE, "a number")
                .map_err(|err| err.to_string())
        };
        assert_eq!((read("", ""), read("17", "")), (Ok(None), Ok(Some(17))));
        assert_eq!(read("x17", "").unwrap_err(), "COMPANY_TOKEN=\"***\": expected a number");
        for (text, expected) in
            [("17", Some(17)), ("17\n", Some(17)), ("17\r\n", Some(17)), ("17\n\n", None)]
        {
            std::fs::write(&file, text).unwrap();
            assert_eq!(read("", &path).ok().flatten(), expected, "{text:?}");
        }
        let err = read("", &path).unwrap_err();
        assert!(err.contains("expected a file with a number") && !err.contains("17\n"), "{err}");
        let err = read("17", &path).unwrap_err();
        assert!(err.contains("no value, since COMPANY_TOKEN is set"), "{err}");
        std::fs::remove_file(&file).unwrap();
        assert!(read("", &path).unwrap_err().contains("a readable file"));
    }

    proptest! {
        #[test]
        fn arbitrary_value_never_panics(value in ".*") {
            let lookup = |_: &str| Some(value.clone());
            let env = Env::new(&lookup);
            let _ = env.number(&LINGER, 0..=9u64);
            let _ = env.millis(&LINGER, 0..=9);
            let _ = env.choice(&LINGER, &[("a", 1)]);
        }
    }
}
