//! Read access: which transactions a client may read.

use crate::config::{Config, Secret};
use crate::error::Error;
use crate::store::Store;
use crate::token::{bearer, digest};

/// Which transactions a client may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadAccess {
    /// All transactions.
    All,
    /// Those of one account.
    Account(String),
    /// No transactions.
    None,
}

impl ReadAccess {
    /// The access that an `Authorization` header gives, as in `Bearer 01234567890123456789`.
    ///
    /// # Errors
    /// The database did not answer.
    pub fn of(config: &Config, store: &Store, authorization: Option<&str>) -> Result<Self, Error> {
        if config.public_ledger {
            return Ok(Self::All);
        }
        let Some(token) = authorization.and_then(bearer) else { return Ok(Self::None) };
        let token = digest(token);
        if config.employee_token.as_ref().is_some_and(|Secret(employee)| digest(employee) == token)
        {
            return Ok(Self::All);
        }
        Ok(store.iban_of_token(&token)?.map_or(Self::None, Self::Account))
    }

    /// True if transactions of `iban` may be read.
    pub fn may_read(&self, iban: &str) -> bool {
        match self {
            Self::All => true,
            Self::Account(own) => own == iban,
            Self::None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_reads_itself_only() {
        assert!(ReadAccess::All.may_read("a"));
        let own = ReadAccess::Account("a".to_owned());
        assert!(own.may_read("a") && !own.may_read("b"));
        assert!(!ReadAccess::None.may_read("a"));
    }
}
