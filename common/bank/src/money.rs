//! Amounts of money.

use std::fmt;

/// An amount in euro cents; below zero is overdrawn. An Avro `long`, a PostgreSQL `bigint`.
///
/// There is no `Add`: `checked_add` and `checked_sub` give `None` on overflow, so money never wraps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cents(i64);

impl Cents {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// Marks where a number becomes money.
    pub const fn new(cents: i64) -> Self {
        Self(cents)
    }

    /// The number of cents, for Avro and SQL.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// `self + other`, or `None` if that is not a `long`.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// `self - other`, or `None` if that is not a `long`.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// `-self`, or `None` for the one `long` that has no opposite.
    pub fn checked_neg(self) -> Option<Self> {
        self.0.checked_neg().map(Self)
    }
}

impl fmt::Display for Cents {
    /// Plain cents, as in logs: `-1050`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sums_at_the_ends_of_a_long_are_exact_and_past_them_none() {
        let max = Cents::new(i64::MAX);
        let one = Cents::new(1);
        assert_eq!(Cents::new(i64::MAX - 1).checked_add(one), Some(max));
        assert_eq!(max.checked_add(one), None);
        assert_eq!(Cents::new(i64::MIN + 1).checked_sub(one), Some(Cents::new(i64::MIN)));
        assert_eq!(Cents::new(i64::MIN).checked_sub(one), None);
        assert_eq!(max.checked_neg(), Some(Cents::new(-i64::MAX)));
        assert_eq!(Cents::new(i64::MIN).checked_neg(), None);
    }

    proptest! {
        #[test]
        fn money_is_exact_or_none(a: i64, b: i64) {
            let exact = |sum: i128| i64::try_from(sum).ok().map(Cents::new);
            let (left, right) = (Cents::new(a), Cents::new(b));
            prop_assert_eq!(left.checked_add(right), exact(i128::from(a) + i128::from(b)));
            prop_assert_eq!(left.checked_sub(right), exact(i128::from(a) - i128::from(b)));
            prop_assert_eq!(left.checked_neg(), exact(-i128::from(a)));
        }
    }
}
