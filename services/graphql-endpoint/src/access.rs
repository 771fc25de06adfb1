//! Read access of clients.

use crate::config::Config;
use crate::error::Error;
use crate::metrics;
use crate::store::Store;
use crate::token::digest;
use service::http::bearer;

/// Which transactions a client may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadAccess {
    All,
    /// The transactions of one account, by iban.
    Account(String),
    None,
}

impl ReadAccess {
    /// The access by the token of an account with this digest. What is opened with it must be in
    /// [`Authorizations`](crate::authorizations::Authorizations) already.
    pub fn of_account(store: &Store, token: &[u8; 32]) -> Result<Self, Error> {
        Ok(store.iban_of_token(token)?.map_or(Self::None, Self::Account))
    }

    /// The access of a client with this `Authorization` header, as in
    /// `Bearer 01234567890123456789`, if it is known without the store. The error is the digest of
    /// a token for [`Self::of_account`].
    pub fn without_lookup(config: &Config, authorization: Option<&str>) -> Result<Self, [u8; 32]> {
        if config.public_ledger {
            return Ok(Self::All);
        }
        let Some(token) = authorization.and_then(bearer) else { return Ok(Self::None) };
        let token = digest(token);
        let employee = config.employees.iter().find(|it| it.token_digest == token).ok_or(token)?;
        metrics::EMPLOYEES.with_label_values(&[&employee.name]).inc();
        Ok(Self::All)
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
