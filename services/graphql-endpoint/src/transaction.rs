//! Transactions and the filters of subscriptions, without I/O.

use bank::money::Cents;
use bank::timestamp::Timestamp;

/// A stored change of a balance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// Number in the store, from 1.
    pub number: i64,
    /// Number among the changes of its account: 1, 2, 3 ... It is 0 if the record lacks this field.
    pub sequence: i64,
    pub iban: String,
    /// The balance after the change.
    pub new_balance: Cents,
    /// Negative for the debited account.
    pub changed_by: Cents,
    /// The other party: an iban, `cash` or a name.
    pub from_to: String,
    pub description: String,
    /// When the bank decided the transfer. `None` if the record lacks this field.
    pub decided_at: Option<Timestamp>,
}

/// The direction of a change, seen from the account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Money left the account.
    Debit,
    /// Money entered the account.
    Credit,
}

impl Transaction {
    /// The talk's id: the lower 31 bits of the number, so it starts again at 0 after 2,147,483,647.
    pub fn id(&self) -> i32 {
        i32::try_from(self.number & i64::from(i32::MAX)).expect("31 bits fit")
    }

    pub fn direction(&self) -> Direction {
        if self.changed_by < Cents::ZERO { Direction::Debit } else { Direction::Credit }
    }
}

/// Selects the transactions of a subscription; `None` selects all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Transactions of this account.
    pub iban: Option<String>,
    /// Minimum of the signed change.
    pub min_amount: Option<Cents>,
    pub direction: Option<Direction>,
}

impl Filter {
    /// True if `transaction` is selected by all criteria except `iban`.
    pub fn matches_apart_from_iban(&self, transaction: &Transaction) -> bool {
        self.min_amount.is_none_or(|min| transaction.changed_by >= min)
            && self.direction.is_none_or(|direction| transaction.direction() == direction)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn transaction(number: i64, iban: &str, cents: i64) -> Transaction {
        Transaction {
            number,
            sequence: number,
            iban: iban.to_owned(),
            new_balance: Cents::new(1000),
            changed_by: Cents::new(cents),
            from_to: "cash".to_owned(),
            description: "test".to_owned(),
            decided_at: None,
        }
    }

    #[test]
    fn id_has_the_lower_31_bits() {
        for (number, id) in [
            (1, 1),
            (i64::from(i32::MAX), i32::MAX),
            (1 << 31, 0),
            ((1 << 31) + 1, 1),
            (i64::MAX, i32::MAX),
        ] {
            assert_eq!(transaction(number, "a", 1).id(), id);
        }
    }

    #[test]
    fn filter_compares_the_signed_change() {
        let selects = |min: Option<i64>, direction, cents| {
            let filter = Filter { iban: None, min_amount: min.map(Cents::new), direction };
            filter.matches_apart_from_iban(&transaction(1, "a", cents))
        };
        assert!(selects(None, None, -5));
        assert!(selects(Some(100), None, 100) && !selects(Some(100), None, 99));
        assert!(!selects(Some(100), None, -1000));
        assert!(selects(Some(-100), None, -100) && !selects(Some(-100), None, -101));
        assert!(
            selects(None, Some(Direction::Debit), -1) && !selects(None, Some(Direction::Debit), 1)
        );
        assert!(selects(None, Some(Direction::Credit), 0));
    }
}
