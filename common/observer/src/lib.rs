//! Checks the contract of the bank. It reads commands, outcomes and balance changes from the topics
//! and compares them with a model of the rules. It does not depend on the command-handler.

mod account;
mod comparison;
mod contract;
pub mod model;
mod outcome;
mod reader;
mod record;
mod report;
pub mod rule_cases;
pub mod undecodable;
mod violation;

#[cfg(test)]
mod tests;

pub use contract::Observer;
pub use model::{AccountState, Accounts};
pub use outcome::Outcome;
pub use reader::{Batch, Positions, ReadError, Reader, log_ends, log_starts};
pub use record::{Event, ObservedRecord, RecordPosition};
pub use report::{Counts, History, News, Report};
pub use violation::{Kind, Violation};

/// Returns the accounts in the command-handler's database. If the database has no tables yet,
/// returns those of a new bank.
#[cfg(feature = "postgres")]
pub fn stored_accounts(client: &mut postgres::Client) -> Result<Accounts, postgres::Error> {
    let new = client.query_one("SELECT to_regclass('account') IS NULL", &[])?.get(0);
    if new {
        return Ok(model::new_bank());
    }
    let sql = "SELECT iban, token, balance, overdraft_limit, sequence FROM account";
    let state = |row: &postgres::Row| AccountState {
        token: row.get(1),
        balance: row.get(2),
        limit: row.get(3),
        sequence: row.get(4),
    };
    Ok(client.query(sql, &[])?.iter().map(|row| (row.get(0), state(row))).collect())
}
