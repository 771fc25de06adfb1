//! Compares the transactions in the graphql-endpoint's database with balance_changed.

use crate::record::{RecordPosition, hash};
use crate::violation::{Kind, Violation};
use bank::records::BalanceChanged;
use std::collections::{BTreeMap, HashMap};

/// The changes that were read.
#[derive(Debug, Default)]
pub struct ObservedChanges {
    /// By iban and sequence.
    changes: HashMap<String, BTreeMap<i64, ObservedChange>>,
    /// Number of comparisons so far.
    comparisons: u32,
}

#[derive(Debug)]
struct ObservedChange {
    hash: u64,
    position: RecordPosition,
    /// Ms since 1970.
    decided_at: Option<i64>,
    /// The last comparison in which its row was found.
    found_in: u32,
}

impl ObservedChanges {
    /// Adds a change. Ignores one whose sequence was read before: the observer compares them.
    pub fn take(&mut self, position: RecordPosition, change: &BalanceChanged) {
        let account = self.changes.entry(change.iban.clone()).or_default();
        let decided_at = change.decided_at.map(|time| time.millis());
        let observed =
            || ObservedChange { hash: hash_of(change), position, decided_at, found_in: 0 };
        account.entry(change.sequence).or_insert_with(observed);
    }

    /// Compares the changes with the rows of the database. Returns the first `max` violations. The
    /// rows of changes that were decided before `deleted_before`, ms since 1970, may be missing,
    /// apart from the last one of each account.
    ///
    /// # Errors
    /// The first error of `rows`.
    pub fn compare<E>(
        &mut self,
        rows: impl Iterator<Item = Result<BalanceChanged, E>>,
        deleted_before: i64,
        max: usize,
    ) -> Result<Vec<Violation>, E> {
        self.comparisons += 1;
        let mut violations = Vec::new();
        for row in rows {
            let row = row?;
            let account = self.changes.get_mut(&row.iban);
            let change = account.and_then(|account| account.get_mut(&row.sequence));
            let (position, kind) = match change {
                Some(change) => {
                    change.found_in = self.comparisons;
                    if change.hash == hash_of(&row) {
                        continue;
                    }
                    (Some(change.position), Kind::WrongTransaction { row: Box::new(row) })
                }
                None => (None, Kind::UnknownTransaction { row: Box::new(row) }),
            };
            if violations.len() < max {
                violations.push(Violation { position, kind });
            }
        }
        let found_in = self.comparisons;
        let missing = self.changes.iter().flat_map(|(iban, account)| {
            let last = account.keys().next_back();
            let missing = account.iter().filter(move |(sequence, it)| {
                let is_old = it.decided_at.is_some_and(|time| time < deleted_before);
                it.found_in != found_in && (!is_old || Some(*sequence) == last)
            });
            missing.map(move |(sequence, it)| Violation {
                position: Some(it.position),
                kind: Kind::MissingTransaction { iban: iban.clone(), sequence: *sequence },
            })
        });
        let room = max - violations.len();
        violations.extend(missing.take(room));
        Ok(violations)
    }
}

fn hash_of(change: &BalanceChanged) -> u64 {
    let BalanceChanged {
        iban,
        new_balance,
        changed_by,
        from_to,
        description,
        transfer_id,
        sequence,
        decided_at,
    } = change;
    let decided_at = decided_at.map(|time| time.millis());
    let amounts = (new_balance.get(), changed_by.get());
    hash((iban, amounts, from_to, description, transfer_id, sequence, decided_at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bank::money::Cents;
    use bank::timestamp::Timestamp;
    use std::convert::Infallible;
    use uuid::Uuid;

    fn change(iban: &str, sequence: i64) -> BalanceChanged {
        BalanceChanged {
            iban: iban.to_owned(),
            new_balance: Cents::new(5),
            changed_by: Cents::new(-7),
            from_to: "cash".to_owned(),
            description: "rent".to_owned(),
            transfer_id: Some(Uuid::nil()),
            sequence,
            decided_at: Some(Timestamp::from_millis(1)),
        }
    }

    fn position(offset: i64) -> RecordPosition {
        RecordPosition { topic: "balance_changed", partition: 3, offset }
    }

    fn kinds(rows: &[BalanceChanged], deleted_before: i64) -> Vec<(Option<i64>, String)> {
        let mut observed = ObservedChanges::default();
        for (offset, iban, sequence) in [(1, "a", 1), (2, "a", 2), (3, "b", 1), (4, "a", 2)] {
            observed.take(position(offset), &change(iban, sequence));
        }
        let mut found = Vec::new();
        // A second comparison finds the same.
        for _ in 0..2 {
            let rows = rows.iter().cloned().map(Ok::<_, Infallible>);
            found = observed.compare(rows, deleted_before, 100).unwrap();
            found.sort_by_key(|it| it.position.map(|at| at.offset));
        }
        let name = |kind: &Kind| format!("{kind:?}").split([' ', '(']).next().unwrap().to_owned();
        found.iter().map(|it| (it.position.map(|at| at.offset), name(&it.kind))).collect()
    }

    #[test]
    fn differences_to_each_row_are_found() {
        let rows = [change("a", 1), change("a", 2), change("b", 1)];
        assert_eq!(kinds(&rows, 0), []);
        assert_eq!(kinds(&rows[..2], 0), [(Some(3), "MissingTransaction".to_owned())]);
        let unknown = [&rows[..], &[change("c", 1)]].concat();
        assert_eq!(kinds(&unknown, 0), [(None, "UnknownTransaction".to_owned())]);
        let alterations: [fn(&mut BalanceChanged); 6] = [
            |it| it.new_balance = Cents::new(6),
            |it| it.changed_by = Cents::new(7),
            |it| it.from_to.push('!'),
            |it| it.description.push('!'),
            |it| it.transfer_id = None,
            |it| it.decided_at = None,
        ];
        for alter in alterations {
            let mut rows = rows.clone();
            alter(&mut rows[1]);
            assert_eq!(kinds(&rows, 0), [(Some(2), "WrongTransaction".to_owned())]);
        }
    }

    #[test]
    fn rows_before_the_period_may_be_missing() {
        let (missing, last) = ("MissingTransaction".to_owned(), change("b", 1));
        // Each change was decided at 1 ms.
        let rows = [change("a", 2), last];
        assert_eq!(kinds(&rows, 1), [(Some(1), missing.clone())]);
        assert_eq!(kinds(&rows, 2), []);
        assert_eq!(kinds(&rows[1..], 2), [(Some(2), missing.clone())]);
        assert_eq!(kinds(&rows[..1], 2), [(Some(3), missing)]);
    }
}
