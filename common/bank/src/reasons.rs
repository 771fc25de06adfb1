//! Why the bank rejects a command. The text is in the `_failed` record and part of the contract
//! (docs/handler-contract.md); the code is for programs.

/// A rejection of the bank. Those of transfers are in order of precedence: the first that applies
/// is the outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The amount of a transfer is zero or less.
    AmountNotPositive,
    /// `from` of a transfer is neither `cash` nor a well-formed iban of this bank.
    FromInvalid,
    /// `from` and `to` are equal.
    SameAccount,
    /// Neither `from` nor `to` has an account at this bank.
    BothUnknown,
    /// `from` is well-formed but has no account at this bank.
    FromUnknown,
    /// The token of a transfer is not that of the debited account.
    TokenInvalid,
    /// The debited balance would fall below the limit.
    InsufficientFunds,
    /// The credited balance would exceed the range of a `long`.
    AmountTooLarge,
    /// The iban that was generated for a new account belongs to another one.
    IbanExists,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; Self::IbanExists as usize + 1] = [
        Self::AmountNotPositive,
        Self::FromInvalid,
        Self::SameAccount,
        Self::BothUnknown,
        Self::FromUnknown,
        Self::TokenInvalid,
        Self::InsufficientFunds,
        Self::AmountTooLarge,
        Self::IbanExists,
    ];

    /// The code that clients receive.
    pub const fn code(self) -> &'static str {
        self.row().0
    }

    /// The text in the `_failed` record.
    pub const fn text(self) -> &'static str {
        self.row().1
    }

    /// `None` if no rule of the bank has this text, as that of a handler with other rules.
    pub fn of_text(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.text() == text)
    }

    const fn row(self) -> (&'static str, &'static str) {
        match self {
            Self::AmountNotPositive => ("AMOUNT_NOT_POSITIVE", "amount must be positive"),
            Self::FromInvalid => ("FROM_INVALID", "from is invalid"),
            Self::SameAccount => ("SAME_ACCOUNT", "from and to can't be same for transfer"),
            Self::BothUnknown => ("BOTH_UNKNOWN", "both to and from not known at this bank"),
            Self::FromUnknown => ("FROM_UNKNOWN", "from is not known at this bank"),
            Self::TokenInvalid => ("TOKEN_INVALID", "invalid token"),
            Self::InsufficientFunds => ("INSUFFICIENT_FUNDS", "insufficient funds"),
            Self::AmountTooLarge => ("AMOUNT_TOO_LARGE", "amount too large"),
            Self::IbanExists => ("IBAN_EXISTS", "generated iban already exists, try again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn reason_is_found_by_its_text() {
        for reason in Reason::ALL {
            assert_eq!(Reason::of_text(reason.text()), Some(reason));
        }
        for unknown in ["", "Insufficient funds", "insufficient funds ", "INSUFFICIENT_FUNDS"] {
            assert_eq!(Reason::of_text(unknown), None, "{unknown:?}");
        }
    }

    #[test]
    fn codes_and_texts_are_unique() {
        let codes: HashSet<_> = Reason::ALL.into_iter().map(Reason::code).collect();
        let texts: HashSet<_> = Reason::ALL.into_iter().map(Reason::text).collect();
        assert_eq!((codes.len(), texts.len()), (Reason::ALL.len(), Reason::ALL.len()));
    }
}
