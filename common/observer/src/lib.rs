//! Checks the contract of the bank. It reads commands, outcomes and balance changes from the topics
//! and compares them with a model of the rules. It does not depend on the command-handler.

mod account;
mod comparison;
mod contract;
pub mod model;
mod observed_changes;
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
pub use observed_changes::ObservedChanges;
pub use outcome::Outcome;
pub use reader::{Batch, Positions, ReadError, Reader, log_ends, log_starts};
pub use record::{Event, ObservedRecord, RecordPosition};
pub use report::{Counts, History, News, Report};
pub use violation::{Kind, Violation};

/// Compares `changes` with the transactions in the graphql-endpoint's database. Returns the
/// first `max` violations. See [`ObservedChanges::compare`].
///
/// # Errors
/// The database failed.
#[cfg(feature = "postgres")]
pub fn compare_transactions(
    client: &mut postgres::Client,
    changes: &mut ObservedChanges,
    deleted_before: i64,
    max: usize,
) -> Result<Vec<Violation>, postgres::Error> {
    use bank::money::Cents;
    use bank::records::BalanceChanged;
    use bank::timestamp::Timestamp;
    use postgres::fallible_iterator::FallibleIterator as _;

    let sql = "SELECT iban, sequence, new_balance, changed_by, from_to, description, transfer_id,
                      decided_at FROM transaction";
    let change = |row: postgres::Row| {
        let decided_at: Option<std::time::SystemTime> = row.get(7);
        Ok(BalanceChanged {
            iban: row.get(0),
            sequence: row.get(1),
            new_balance: Cents::new(row.get(2)),
            changed_by: Cents::new(row.get(3)),
            from_to: row.get(4),
            description: row.get(5),
            transfer_id: row.get(6),
            decided_at: decided_at.map(Timestamp::from),
        })
    };
    let no_parameters = std::iter::empty::<&str>();
    let rows = client.query_raw(sql, no_parameters)?.map(change);
    changes.compare(rows.iterator(), deleted_before, max)
}

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
