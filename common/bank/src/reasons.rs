//! Reasons of rejections that more than one service gives. Clients compare them as strings.

/// The amount of a transfer is zero or less.
pub const AMOUNT_NOT_POSITIVE: &str = "amount must be positive";
/// `from` of a transfer is neither `cash` nor a well-formed iban of this bank.
pub const FROM_INVALID: &str = "from is invalid";
/// The token of a transfer is not that of the debited account.
pub const TOKEN_INVALID: &str = "invalid token";
