//! Who may read what.

use crate::config::{Config, Secret};
use crate::error::Error;
use crate::store::Store;
use sha2::{Digest, Sha256};

/// What a visitor may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Viewer {
    /// All transactions.
    All,
    /// Those of one account.
    Account(String),
    /// None.
    Nobody,
}

impl Viewer {
    /// True if the viewer may read transactions of `iban`.
    pub fn may_read(&self, iban: &str) -> bool {
        match self {
            Self::All => true,
            Self::Account(own) => own == iban,
            Self::Nobody => false,
        }
    }
}

/// Knows a visitor by what stands behind `Authorization`, as in `Bearer 01234567890123456789`.
///
/// # Errors
/// The database did not answer.
pub fn viewer(
    config: &Config,
    store: &Store,
    authorization: Option<&str>,
) -> Result<Viewer, Error> {
    if config.public_ledger {
        return Ok(Viewer::All);
    }
    let Some(token) = authorization.and_then(bearer) else { return Ok(Viewer::Nobody) };
    let token = digest(token);
    // Digests are compared: how long that takes tells nothing about the tokens.
    if config.employee_token.as_ref().is_some_and(|Secret(employee)| digest(employee) == token) {
        return Ok(Viewer::All);
    }
    Ok(store.iban_of_token(&token)?.map_or(Viewer::Nobody, Viewer::Account))
}

/// SHA-256 of a token.
pub fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_token_is_found() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer(" bearer  abc "), Some("abc"));
        for other in ["", "abc", "Basic abc", "Bearer"] {
            assert_eq!(bearer(other), None, "{other}");
        }
    }

    #[test]
    fn an_account_reads_itself_only() {
        assert!(Viewer::All.may_read("a"));
        let own = Viewer::Account("a".to_owned());
        assert!(own.may_read("a") && !own.may_read("b"));
        assert!(!Viewer::Nobody.may_read("a"));
    }
}
