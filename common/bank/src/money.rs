//! Amounts of money.

use std::fmt;

/// An amount in euro cents. A negative balance is overdrawn. In Avro a `long`, in PostgreSQL a
/// `bigint`.
///
/// `Add` is not implemented. `checked_add` and `checked_sub` return `None` on overflow, so amounts
/// never wrap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cents(i64);

/// Lowest balance that an account may reach: -500 euro. The bank opens each account with it.
pub const OVERDRAFT_LIMIT: Cents = Cents::new(-50_000);

impl Cents {
    pub const ZERO: Self = Self(0);

    /// Returns an amount of `cents`.
    pub const fn new(cents: i64) -> Self {
        Self(cents)
    }

    /// Returns the number of cents, for Avro and SQL.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// Returns `self + other`. `None` on overflow of an `i64`.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// Returns `self - other`. `None` on overflow of an `i64`.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// Returns `-self`. `None` for `i64::MIN`.
    pub fn checked_neg(self) -> Option<Self> {
        self.0.checked_neg().map(Self)
    }
}

impl fmt::Display for Cents {
    /// Writes the number of cents, for logs: `-1050`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn overflow_returns_none() {
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
        fn arbitrary_sum_is_exact_or_none(a: i64, b: i64) {
            let exact = |sum: i128| i64::try_from(sum).ok().map(Cents::new);
            let (left, right) = (Cents::new(a), Cents::new(b));
            prop_assert_eq!(left.checked_add(right), exact(i128::from(a) + i128::from(b)));
            prop_assert_eq!(left.checked_sub(right), exact(i128::from(a) - i128::from(b)));
            prop_assert_eq!(left.checked_neg(), exact(-i128::from(a)));
        }
    }
}
