//! Refusals of requests: `reason` and `reason_code` of the result types.

use bank::reasons::Reason;

/// Why a login or a transfer was refused, or has no outcome yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// For programs. docs/graphql.md lists the codes.
    pub code: &'static str,
    /// For people.
    pub text: String,
}

impl Refusal {
    /// A refusal of the endpoint itself.
    pub fn new(code: EndpointReason, text: impl Into<String>) -> Self {
        Self { code: code.name(), text: text.into() }
    }

    /// A refusal of the bank, from the text in its record. Handlers with other rules may have texts
    /// of their own.
    pub fn of_bank(text: String) -> Self {
        let code = Reason::of_text(&text).map_or(EndpointReason::Other.name(), Reason::code);
        Self { code, text }
    }
}

impl From<Reason> for Refusal {
    /// For requests that the bank would reject for this reason.
    fn from(reason: Reason) -> Self {
        Self { code: reason.code(), text: reason.text().to_owned() }
    }
}

/// The reasons that are not rules of the bank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointReason {
    /// A text is too long, too short, or has a control character.
    ArgumentInvalid,
    UuidInvalid,
    /// The uuid belongs to a transfer with other arguments.
    UuidReused,
    UuidUnknown,
    /// The uuid is older than `RETAIN_DAYS`.
    UuidTooOld,
    /// Clients cannot debit the company account.
    FromNotAllowed,
    CashDepositsOff,
    /// The password is incorrect, or the user name is unknown and registration is closed.
    CredentialsIncorrect,
    TooManyFailedLogins,
    TooManyAccounts,
    /// Too many clients log in at the same time.
    Busy,
    /// The outcome is unknown: the bank has not answered in time.
    NoAnswer,
    /// The bank's reason has no code.
    Other,
}

impl EndpointReason {
    const fn name(self) -> &'static str {
        match self {
            Self::ArgumentInvalid => "ARGUMENT_INVALID",
            Self::UuidInvalid => "UUID_INVALID",
            Self::UuidReused => "UUID_REUSED",
            Self::UuidUnknown => "UUID_UNKNOWN",
            Self::UuidTooOld => "UUID_TOO_OLD",
            Self::FromNotAllowed => "FROM_NOT_ALLOWED",
            Self::CashDepositsOff => "CASH_DEPOSITS_OFF",
            Self::CredentialsIncorrect => "CREDENTIALS_INCORRECT",
            Self::TooManyFailedLogins => "TOO_MANY_FAILED_LOGINS",
            Self::TooManyAccounts => "TOO_MANY_ACCOUNTS",
            Self::Busy => "BUSY",
            Self::NoAnswer => "NO_ANSWER",
            Self::Other => "OTHER",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error_code::tests::documented;

    const OWN: [EndpointReason; EndpointReason::Other as usize + 1] = [
        EndpointReason::ArgumentInvalid,
        EndpointReason::UuidInvalid,
        EndpointReason::UuidReused,
        EndpointReason::UuidUnknown,
        EndpointReason::UuidTooOld,
        EndpointReason::FromNotAllowed,
        EndpointReason::CashDepositsOff,
        EndpointReason::CredentialsIncorrect,
        EndpointReason::TooManyFailedLogins,
        EndpointReason::TooManyAccounts,
        EndpointReason::Busy,
        EndpointReason::NoAnswer,
        EndpointReason::Other,
    ];

    #[test]
    fn docs_list_all_reason_codes() {
        let mut codes = Reason::ALL.map(Reason::code).to_vec();
        codes.extend(OWN.map(EndpointReason::name));
        assert_eq!(documented("### Reason codes"), codes);
    }

    #[test]
    fn unknown_text_of_the_bank_is_other() {
        let of_bank = |text: &str| Refusal::of_bank(text.to_owned()).code;
        assert_eq!(of_bank("insufficient funds"), "INSUFFICIENT_FUNDS");
        for unknown in ["", "daily limit reached", "INSUFFICIENT_FUNDS"] {
            assert_eq!(of_bank(unknown), "OTHER", "{unknown}");
        }
    }

    #[test]
    fn refusal_by_a_rule_equals_the_banks() {
        for reason in Reason::ALL {
            assert_eq!(Refusal::from(reason), Refusal::of_bank(reason.text().to_owned()));
        }
    }
}
