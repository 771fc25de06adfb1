//! Read access of clients.

use crate::config::Config;
use crate::error::Error;
use crate::store::Store;
use crate::token::{bearer, digest};
use service::env::Secret;

/// Which transactions a client may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadAccess {
    All,
    /// The transactions of one account, by iban.
    Account(String),
    None,
}

impl ReadAccess {
    /// The access of a client with this `Authorization` header, as in
    /// `Bearer 01234567890123456789`.
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
