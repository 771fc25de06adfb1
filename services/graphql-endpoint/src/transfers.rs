//! The money-transfer service: each uuid moves money once and has one result, whenever and wherever it is asked for.

use crate::access::Viewer;
use crate::command_client::{Answer, CommandClient};
use crate::error::Error;
use crate::store::{Order, Store};
use bank::money::Cents;
use bank::records::ConfirmMoneyTransfer;
use sha2::{Digest, Sha256};
use std::time::Duration;
use uuid::Uuid;

/// Most bytes of a party or a token, and of a description.
const PARTY_BYTES_MAX: usize = 128;
const DESCRIPTION_BYTES_MAX: usize = 1024;

const NOT_A_UUID: &str = "uuid must be a UUID, as in 2f1c0f6e-3a52-4cf1-8f0a-0c8a1d6a9a11";
const OTHER_CONTENT: &str = "uuid was used for another transfer";
const NO_ANSWER: &str = "the bank has not answered yet, ask transfer_by_uuid later";
const UNKNOWN: &str = "uuid is not known";

/// Commands that come through GraphQL get ids of their own. The bank answers by id alone: with the visitors' uuids as ids, one
/// who gives the id of a command of somebody else would get the answer to that.
const COMMANDS: Uuid = Uuid::from_u128(0x9d0f_7a53_1c5e_4d0c_8f2b_6a0d_5c1e_77b4);

/// What somebody asks for.
pub struct Request<'a> {
    /// Names the transfer.
    pub uuid: &'a str,
    /// Token of `from`.
    pub token: &'a str,
    /// What moves.
    pub amount: Cents,
    /// Who pays.
    pub from: &'a str,
    /// Who is paid.
    pub to: &'a str,
    /// Any text.
    pub description: &'a str,
}

/// What became of a transfer.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// As it was given.
    pub uuid: String,
    /// `None` if nobody knows yet.
    pub success: Option<bool>,
    /// Why there is no success.
    pub reason: Option<String>,
}

impl Outcome {
    fn new(uuid: &str, result: Result<(), String>) -> Self {
        Self { uuid: uuid.to_owned(), success: Some(result.is_ok()), reason: result.err() }
    }

    fn refused(uuid: &str, reason: &str) -> Self {
        Self::new(uuid, Err(reason.to_owned()))
    }

    fn unanswered(uuid: &str) -> Self {
        Self { uuid: uuid.to_owned(), success: None, reason: Some(NO_ANSWER.to_owned()) }
    }
}

/// What the service needs.
#[derive(Clone, Copy)]
pub struct Transfers<'a> {
    /// Which are known.
    pub store: &'a Store,
    /// Who makes them.
    pub commands: &'a CommandClient,
    /// How long the bank may take.
    pub wait: Duration,
}

impl Transfers<'_> {
    /// Moves money, or gives what became of it if it was asked for before.
    ///
    /// # Errors
    /// The database did not answer.
    pub fn make(self, request: &Request<'_>) -> Result<Outcome, Error> {
        let given = request.uuid;
        let Ok(uuid) = Uuid::try_parse(given) else {
            return Ok(Outcome::refused(given, NOT_A_UUID));
        };
        if let Some(reason) = unfit(request) {
            return Ok(Outcome::refused(given, &reason));
        }
        let command = ConfirmMoneyTransfer {
            id: command_id(uuid),
            token: request.token.to_owned(),
            amount: request.amount,
            from: request.from.to_owned(),
            to: request.to.to_owned(),
            description: request.description.to_owned(),
        };
        let order = self.store.begin_transfer(&Order {
            uuid,
            content: content(request),
            from: request.from.to_owned(),
            command: Some(self.commands.encode(&command)),
            result: None,
        })?;
        if order.content != content(request) {
            return Ok(Outcome::refused(given, OTHER_CONTENT));
        }
        self.finish(given, order)
    }

    /// What became of a transfer; asks the bank again if that is not known.
    ///
    /// # Errors
    /// The database did not answer.
    pub fn find(self, given: &str, viewer: &Viewer) -> Result<Outcome, Error> {
        let Ok(uuid) = Uuid::try_parse(given) else {
            return Ok(Outcome::refused(given, NOT_A_UUID));
        };
        match self.store.transfer(uuid)?.filter(|order| viewer.may_read(&order.from)) {
            Some(order) => self.finish(given, order),
            None => Ok(Outcome {
                uuid: given.to_owned(),
                success: None,
                reason: Some(UNKNOWN.to_owned()),
            }),
        }
    }

    /// The result of `order`. A command that has no answer yet is sent again, the same bytes: the bank handles an id once and
    /// answers it whenever it is asked.
    fn finish(self, given: &str, order: Order) -> Result<Outcome, Error> {
        if let Some(result) = order.result {
            return Ok(Outcome::new(given, result));
        }
        let value = order.command.unwrap_or_default();
        let result = match self.commands.transfer(command_id(order.uuid), value, self.wait) {
            Some(Answer::Moved) => Ok(()),
            Some(Answer::Refused(reason)) => Err(reason),
            Some(Answer::Opened { .. }) | None => return Ok(Outcome::unanswered(given)),
        };
        self.store.end_transfer(order.uuid, &result)?;
        Ok(Outcome::new(given, result))
    }
}

/// Id of the command for a visitor's uuid.
fn command_id(uuid: Uuid) -> Uuid {
    Uuid::new_v5(&COMMANDS, uuid.as_bytes())
}

/// A digest of all that is asked for beside the uuid. Lengths stand before texts, so that no two requests run together alike.
fn content(request: &Request<'_>) -> Vec<u8> {
    let mut digest = Sha256::new();
    digest.update(request.amount.get().to_be_bytes());
    for text in [request.token, request.from, request.to, request.description] {
        digest.update((text.len() as u64).to_be_bytes());
        digest.update(text.as_bytes());
    }
    digest.finalize().to_vec()
}

/// Why the bank is not even asked.
fn unfit(request: &Request<'_>) -> Option<String> {
    let texts = [
        ("token", request.token, PARTY_BYTES_MAX),
        ("from", request.from, PARTY_BYTES_MAX),
        ("to", request.to, PARTY_BYTES_MAX),
        ("descr", request.description, DESCRIPTION_BYTES_MAX),
    ];
    for (name, text, bytes_max) in texts {
        if text.len() > bytes_max {
            return Some(format!("{name} has more than {bytes_max} bytes"));
        }
        if text.contains('\0') {
            return Some(format!("{name} has a NUL character"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: Request<'_> = Request {
        uuid: "",
        token: "1",
        amount: Cents::new(5),
        from: "a",
        to: "b",
        description: "c",
    };

    #[test]
    fn any_other_content_is_seen() {
        let same = content(&REQUEST);
        assert_eq!(content(&Request { uuid: "x", ..REQUEST }), same, "the uuid finds it");
        for other in [
            Request { token: "2", ..REQUEST },
            Request { amount: Cents::new(6), ..REQUEST },
            Request { from: "x", ..REQUEST },
            Request { to: "x", ..REQUEST },
            Request { description: "x", ..REQUEST },
            Request { from: "ab", to: "", ..REQUEST },
            Request { from: "", to: "ab", ..REQUEST },
        ] {
            assert_ne!(content(&other), same);
        }
    }

    #[test]
    fn a_uuid_in_any_spelling_is_the_same_command_and_not_the_id_itself() {
        let uuid = Uuid::new_v4();
        for spelling in [uuid.to_string().to_uppercase(), uuid.simple().to_string()] {
            assert_eq!(command_id(Uuid::try_parse(&spelling).unwrap()), command_id(uuid));
        }
        assert_ne!(command_id(uuid), uuid);
    }

    #[test]
    fn texts_may_reach_their_limits_but_not_pass_them() {
        let text = |len| "x".repeat(len);
        let (fits, too_long) = (text(DESCRIPTION_BYTES_MAX), text(DESCRIPTION_BYTES_MAX + 1));
        assert_eq!(unfit(&Request { description: &fits, ..REQUEST }), None);
        assert!(unfit(&Request { description: &too_long, ..REQUEST }).is_some());
        assert!(unfit(&Request { to: &text(PARTY_BYTES_MAX + 1), ..REQUEST }).is_some());
        assert!(unfit(&Request { from: "a\0", ..REQUEST }).is_some());
    }
}
