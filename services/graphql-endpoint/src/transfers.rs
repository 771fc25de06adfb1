//! Transfers: each uuid moves money once and has one result.

use crate::access::ReadAccess;
use crate::command_client::{CommandClient, CommandOutcome};
use crate::error::Error;
use crate::refusal::{EndpointReason, Refusal};
use crate::store::{Store, StoredTransfer};
use crate::token::digest;
use bank::iban::{self, CASH, COMPANY_IBAN};
use bank::ids;
use bank::money::Cents;
use bank::reasons::Reason;
use bank::records::ConfirmMoneyTransfer;
use service::database::retention::Retention;
use sha2::{Digest, Sha256};
use std::net::IpAddr;
use std::time::Duration;
use uuid::Uuid;

/// Maximum length of a party or a token.
const PARTY_BYTES_MAX: usize = 128;
const DESCRIPTION_BYTES_MAX: usize = 1024;

const NOT_A_UUID: &str = "uuid must be a UUID, as in 2f1c0f6e-3a52-4cf1-8f0a-0c8a1d6a9a11";
const OTHER_CONTENT: &str = "uuid was used for another transfer";
const NO_ANSWER: &str = "the bank has not answered yet, ask transfer_by_uuid later";
const UNKNOWN: &str = "uuid is not known";
const TOO_OLD: &str = "uuid is too old: its outcome, if it has one, is no longer known. Check the \
                       clock of this device";
const FROM_COMPANY: &str = "from is not allowed: it is the company account";
const NO_DEPOSITS: &str = "deposits from cash are switched off";

/// Namespace of command ids. A command id is derived from the client's uuid (UUID version 5 or 8,
/// RFC 9562), never equal to it. The bank finds an outcome by the command id alone. With uuids as
/// command ids, a client that sends the id of another command would get the outcome of that
/// command.
const COMMAND_NAMESPACE: Uuid = Uuid::from_u128(0x9d0f_7a53_1c5e_4d0c_8f2b_6a0d_5c1e_77b4);

pub struct TransferInput<'a> {
    /// Identifies the transfer; in any form of a UUID.
    pub uuid: &'a str,
    /// Token of `from`: the one that the client uses, or the bank's.
    pub token: &'a str,
    pub amount: Cents,
    /// The debited party: an iban or `cash`.
    pub from: &'a str,
    /// The credited party: an iban or any name.
    pub to: &'a str,
    pub description: &'a str,
}

#[derive(Debug, PartialEq, Eq)]
pub struct TransferResult {
    /// In the form that the client sent.
    pub uuid: String,
    /// `None` while the outcome is unknown.
    pub success: Option<bool>,
    /// `None` if the transfer succeeded.
    pub refusal: Option<Refusal>,
}

impl TransferResult {
    /// From the outcome of the bank, which has a reason if it is a rejection.
    fn decided(uuid: &str, outcome: Result<(), String>) -> Self {
        let refusal = outcome.err().map(Refusal::of_bank);
        Self { uuid: uuid.to_owned(), success: Some(refusal.is_none()), refusal }
    }

    fn refused(uuid: &str, refusal: Refusal) -> Self {
        Self { uuid: uuid.to_owned(), success: Some(false), refusal: Some(refusal) }
    }

    /// The outcome is unknown.
    fn unknown(uuid: &str, code: EndpointReason, text: &str) -> Self {
        let refusal = Some(Refusal::new(code, text));
        Self { uuid: uuid.to_owned(), success: None, refusal }
    }
}

#[derive(Clone, Copy)]
pub struct Transfers<'a> {
    pub store: &'a Store,
    pub commands: &'a CommandClient,
    /// Timeout for an outcome.
    pub wait: Duration,
    /// Transfers from cash are allowed.
    pub cash_deposits: bool,
    /// The period for which outcomes are kept; `None`: forever.
    pub retention: Option<Retention>,
}

impl Transfers<'_> {
    /// Moves money. A repeated request returns the same result.
    pub fn make(self, input: &TransferInput<'_>) -> Result<TransferResult, Error> {
        let given = input.uuid;
        let Ok(uuid) = Uuid::try_parse(given) else {
            return Ok(TransferResult::refused(given, not_a_uuid()));
        };
        if let Some(refusal) = invalid(input) {
            return Ok(TransferResult::refused(given, refusal));
        }
        if let Some(refusal) = forbidden(input.from, self.cash_deposits) {
            // A uuid that was accepted before keeps its result, also if `from` was allowed then.
            return match self.store.transfer(uuid)? {
                Some(transfer) if transfer.content == content(input) => {
                    self.finish(given, transfer)
                }
                _ => Ok(TransferResult::refused(given, refusal)),
            };
        }
        if self.is_forgotten(uuid)? {
            return Ok(TransferResult::unknown(given, EndpointReason::UuidTooOld, TOO_OLD));
        }
        let Some(bank_token) = self.bank_token(input)? else {
            return Ok(TransferResult::refused(given, Reason::TokenInvalid.into()));
        };
        // From here on the token of the client has no effect. So a repeated uuid has the same
        // content after the token was replaced.
        let input = &TransferInput { token: &bank_token, ..*input };
        let command = ConfirmMoneyTransfer {
            id: command_id(uuid),
            token: input.token.to_owned(),
            amount: input.amount,
            from: input.from.to_owned(),
            to: input.to.to_owned(),
            description: input.description.to_owned(),
        };
        let transfer = self.store.begin_transfer(&StoredTransfer {
            uuid,
            content: content(input),
            from: input.from.to_owned(),
            command: Some(self.commands.encode(&command)),
            result: None,
        })?;
        if transfer.content != content(input) {
            let refusal = Refusal::new(EndpointReason::UuidReused, OTHER_CONTENT);
            return Ok(TransferResult::refused(given, refusal));
        }
        self.finish(given, transfer)
    }

    /// True if the bank would not execute a transfer with this uuid, because it cannot know whether
    /// it has executed it before.
    fn is_forgotten(self, uuid: Uuid) -> Result<bool, Error> {
        let is_past = self.retention.zip(ids::time_ms(uuid)).is_some_and(|(it, ms)| it.is_past(ms));
        Ok(is_past && self.store.transfer(uuid)?.is_none())
    }

    /// The token for the bank: that of `from` if the account was opened here, else the one that the
    /// client sent, about which the bank decides. `None` if the account was opened here and the
    /// client sent another token than its present one.
    fn bank_token(self, input: &TransferInput<'_>) -> Result<Option<String>, Error> {
        let stored = if input.from == CASH { None } else { self.store.tokens(input.from)? };
        let Some(stored) = stored else { return Ok(Some(input.token.to_owned())) };
        Ok((stored.digest == digest(input.token)).then_some(stored.of_bank))
    }

    /// The result of a transfer. If its outcome is unknown, sends the command again and waits.
    /// `None` if `may_wait` does not allow the wait.
    pub fn find(
        self,
        given: &str,
        access: &ReadAccess,
        may_wait: impl FnOnce() -> bool,
    ) -> Result<Option<TransferResult>, Error> {
        let Ok(uuid) = Uuid::try_parse(given) else {
            return Ok(Some(TransferResult::refused(given, not_a_uuid())));
        };
        match self.store.transfer(uuid)?.filter(|transfer| access.may_read(&transfer.from)) {
            Some(transfer) if transfer.result.is_none() && !may_wait() => Ok(None),
            Some(transfer) => self.finish(given, transfer).map(Some),
            None => Ok(Some(TransferResult::unknown(given, EndpointReason::UuidUnknown, UNKNOWN))),
        }
    }

    /// The result of `transfer`. A command without an outcome is sent again, with the current id of
    /// its schema. The bank executes a command once and publishes the same outcome for each replay.
    fn finish(self, given: &str, transfer: StoredTransfer) -> Result<TransferResult, Error> {
        if let Some(result) = transfer.result {
            return Ok(TransferResult::decided(given, result));
        }
        let value = self.commands.with_current_id(transfer.command.unwrap_or_default());
        // An earlier version may have derived another id from the uuid.
        let id = id_of(&value).unwrap_or_else(|| command_id(transfer.uuid));
        let result = match self.commands.transfer(id, value, self.wait) {
            Some(CommandOutcome::Transferred) => Ok(()),
            Some(CommandOutcome::Refused(reason)) => Err(reason),
            Some(CommandOutcome::AccountOpened { .. }) | None => {
                return Ok(TransferResult::unknown(given, EndpointReason::NoAnswer, NO_ANSWER));
            }
        };
        self.store.end_transfer(transfer.uuid, &result)?;
        Ok(TransferResult::decided(given, result))
    }
}

/// Logs a transfer without its token. Invalid arguments may be long, and are not logged.
pub fn log(input: &TransferInput<'_>, result: &TransferResult, address: IpAddr) {
    let reason = result.refusal.as_ref().map_or("", |refusal| &refusal.text);
    let result = match result.success {
        Some(true) => "succeeded",
        Some(false) => "refused",
        None => "unknown",
    };
    let TransferInput { from, to, amount, .. } = *input;
    match Uuid::try_parse(input.uuid) {
        Ok(uuid) if invalid(input).is_none() => {
            let amount = amount.get();
            log::info!(result, uuid:%, from, to, amount, address:%, reason; "transfer");
        }
        _ => log::info!(result, address:%, reason; "transfer"),
    }
}

/// See [`COMMAND_NAMESPACE`]. The id has the time of the uuid, so that its outcome can be deleted
/// after `RETAIN_DAYS`.
fn command_id(uuid: Uuid) -> Uuid {
    match ids::time_ms(uuid) {
        Some(time) => ids::derived(&COMMAND_NAMESPACE, time, uuid.as_bytes()),
        None => Uuid::new_v5(&COMMAND_NAMESPACE, uuid.as_bytes()),
    }
}

/// The id in the value of a command record: 16 bytes after the five bytes of the framing.
fn id_of(value: &[u8]) -> Option<Uuid> {
    Uuid::from_slice(value.get(5..21)?).ok()
}

/// A digest of all arguments except the uuid, with the token that the bank gets. Each text has a
/// length prefix, so that different arguments never give the same input.
fn content(input: &TransferInput<'_>) -> Vec<u8> {
    let mut digest = Sha256::new();
    digest.update(input.amount.get().to_be_bytes());
    for text in [input.token, input.from, input.to, input.description] {
        digest.update((text.len() as u64).to_be_bytes());
        digest.update(text.as_bytes());
    }
    digest.finalize().to_vec()
}

fn not_a_uuid() -> Refusal {
    Refusal::new(EndpointReason::UuidInvalid, NOT_A_UUID)
}

/// Why the arguments are refused; `None` if they are valid.
fn invalid(input: &TransferInput<'_>) -> Option<Refusal> {
    let invalid = |text| Some(Refusal::new(EndpointReason::ArgumentInvalid, text));
    let texts = [
        ("token", input.token, PARTY_BYTES_MAX),
        ("from", input.from, PARTY_BYTES_MAX),
        ("to", input.to, PARTY_BYTES_MAX),
        ("descr", input.description, DESCRIPTION_BYTES_MAX),
    ];
    for (name, text, bytes_max) in texts {
        if text.len() > bytes_max {
            return invalid(format!("{name} has more than {bytes_max} bytes"));
        }
        // They take six bytes each in responses, and a NUL cannot be stored.
        if text.contains(char::is_control) {
            return invalid(format!("{name} has a control character"));
        }
    }
    // The bank would reject these too, but each command is stored and produced first.
    if input.amount <= Cents::ZERO {
        return Some(Reason::AmountNotPositive.into());
    }
    if input.from != CASH && !iban::is_well_formed(input.from) {
        return Some(Reason::FromInvalid.into());
    }
    None
}

/// Why clients must not debit `from`; `None` if they may. The bank would execute such a transfer,
/// the company's with its token. So the endpoint neither stores nor produces it.
fn forbidden(from: &str, cash_deposits: bool) -> Option<Refusal> {
    match from {
        COMPANY_IBAN => Some(Refusal::new(EndpointReason::FromNotAllowed, FROM_COMPANY)),
        CASH if !cash_deposits => Some(Refusal::new(EndpointReason::CashDepositsOff, NO_DEPOSITS)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INPUT: TransferInput<'_> = TransferInput {
        uuid: "",
        token: "1",
        amount: Cents::new(5),
        from: CASH,
        to: "b",
        description: "c",
    };

    #[test]
    fn other_content_is_detected() {
        let same = content(&INPUT);
        assert_eq!(
            content(&TransferInput { uuid: "x", ..INPUT }),
            same,
            "the uuid is not part of it"
        );
        for other in [
            TransferInput { token: "2", ..INPUT },
            TransferInput { amount: Cents::new(6), ..INPUT },
            TransferInput { from: "x", ..INPUT },
            TransferInput { to: "x", ..INPUT },
            TransferInput { description: "x", ..INPUT },
            TransferInput { from: "ab", to: "", ..INPUT },
            TransferInput { from: "", to: "ab", ..INPUT },
        ] {
            assert_ne!(content(&other), same);
        }
    }

    #[test]
    fn content_is_that_of_stored_transfers() {
        let expected = "6c9965e72d78c0e0220ee3f5ca80a885\
             928aa92c821f7e62cca69ada08d3b470";
        let hex: String = content(&INPUT).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expected);
    }

    #[test]
    fn uuid_forms_give_the_same_command_id() {
        let uuid = Uuid::new_v4();
        for form in [uuid.to_string().to_uppercase(), uuid.simple().to_string()] {
            assert_eq!(command_id(Uuid::try_parse(&form).unwrap()), command_id(uuid));
        }
        assert_ne!(command_id(uuid), uuid);
    }

    #[test]
    fn command_id_has_the_time_of_the_uuid() {
        let uuid = Uuid::from_u128(0x018b_cfe5_6800_7000_8000_0000_0000_0001);
        let id = command_id(uuid);
        assert_eq!(ids::time_ms(id), Some(1_700_000_000_000));
        assert_eq!(id.get_version_num(), 8);
        assert_ne!(id, command_id(Uuid::from_u128(uuid.as_u128() + 1)));
    }

    #[test]
    fn id_is_read_from_the_stored_command() {
        let id = Uuid::new_v4();
        let value = [&[0; 5], &id.as_bytes()[..], b"the rest"].concat();
        assert_eq!(id_of(&value), Some(id));
        assert_eq!(id_of(&value[..20]), None);
    }

    #[test]
    fn texts_are_limited_in_bytes() {
        let text = |len| "x".repeat(len);
        let (fits, too_long) = (text(DESCRIPTION_BYTES_MAX), text(DESCRIPTION_BYTES_MAX + 1));
        assert_eq!(invalid(&TransferInput { description: &fits, ..INPUT }), None);
        assert!(invalid(&TransferInput { description: &too_long, ..INPUT }).is_some());
        assert!(invalid(&TransferInput { to: &text(PARTY_BYTES_MAX + 1), ..INPUT }).is_some());
    }

    #[test]
    fn control_characters_are_refused() {
        for text in ["a\0", "\n", "a\u{1f}", "\u{7f}b"] {
            for input in [
                TransferInput { token: text, ..INPUT },
                TransferInput { from: text, ..INPUT },
                TransferInput { to: text, ..INPUT },
                TransferInput { description: text, ..INPUT },
            ] {
                let refusal = invalid(&input);
                let refusal = refusal.map(|it| (it.code, it.text.contains("control character")));
                assert_eq!(refusal, Some(("ARGUMENT_INVALID", true)), "{text:?}");
            }
        }
        assert_eq!(invalid(&TransferInput { description: "café €5", ..INPUT }), None);
    }

    #[test]
    fn transfers_that_the_bank_always_rejects_are_refused() {
        let text = |input: &TransferInput<'_>| invalid(input).map(|it| it.text);
        for (amount, expected) in [(1, None), (0, Some("amount must be positive"))] {
            let input = TransferInput { amount: Cents::new(amount), ..INPUT };
            assert_eq!(text(&input).as_deref(), expected);
        }
        for (from, expected) in [
            ("NL82OPEN0000000100", None),
            ("NL67OPEN0000000000", Some("from is invalid")),
            ("Cash", Some("from is invalid")),
            ("", Some("from is invalid")),
        ] {
            assert_eq!(text(&TransferInput { from, ..INPUT }).as_deref(), expected, "{from}");
        }
    }

    #[test]
    fn company_account_and_switched_off_cash_are_forbidden() {
        let company = Some(("FROM_NOT_ALLOWED", FROM_COMPANY));
        for (from, with_cash, without_cash) in [
            (CASH, None, Some(("CASH_DEPOSITS_OFF", "deposits from cash are switched off"))),
            (COMPANY_IBAN, company, company),
            ("NL82OPEN0000000100", None, None),
        ] {
            for (cash_deposits, expected) in [(true, with_cash), (false, without_cash)] {
                let refusal = forbidden(from, cash_deposits);
                let refusal = refusal.as_ref().map(|it| (it.code, it.text.as_str()));
                assert_eq!(refusal, expected, "{from}");
            }
        }
    }
}
