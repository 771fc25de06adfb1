//! Accounts of users. A user logs in with a name and a password and gets an iban and its token, the
//! same ones each time.

use crate::command_client::{CommandClient, CommandOutcome};
use crate::error::Error;
use crate::metrics;
use crate::password::{self, Busy, Hasher, LoginPlace, ROUNDS};
use crate::refusal::{EndpointReason, Refusal};
use crate::registrations::Registrations;
use crate::store::{Store, User};
use crate::token::digest;
use bank::iban::generate_token;
use bank::reasons::Reason;
use bank::records::{Atype, ConfirmAccountCreation};
use service::http::client_of;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;
use uuid::Uuid;

/// Length of a user name and of a password, in characters.
const LENGTHS: RangeInclusive<usize> = 8..=128;
/// Commands that are sent for an account. The bank refuses one if it generates an iban that exists.
const ATTEMPTS: usize = 3;

const INCORRECT: &str = "incorrect password";
const UNKNOWN: &str = "unknown user name or incorrect password";
const TOO_SOON: &str = "too many failed tries, wait a minute";
const TOO_MANY_ACCOUNTS: &str = "too many new accounts from this address, try again in an hour";
const BUSY: &str = "too many log in now, try again";
const NO_ANSWER: &str = "the bank has not answered yet, try again";

/// Iban and token, or the reason of a refusal.
pub type Account = Result<(String, String), Refusal>;

#[derive(Clone, Copy)]
pub struct Accounts<'a> {
    pub store: &'a Store,
    pub commands: &'a CommandClient,
    pub hasher: &'a Hasher,
    /// `None` if new user names are refused.
    pub registrations: Option<&'a Registrations>,
    /// Of the client.
    pub address: IpAddr,
    /// Timeout for an outcome.
    pub wait: Duration,
}

/// How a login ended.
#[derive(Clone, Copy)]
enum LoginResult {
    Succeeded,
    /// The user name was new.
    Registered,
    /// The password is incorrect.
    Failed,
    Refused,
    Busy,
}

impl LoginResult {
    /// The label of the metric.
    fn name(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Registered => "registered",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Busy => "busy",
        }
    }
}

type Login = (LoginResult, Account);

fn refused(result: LoginResult, code: EndpointReason, text: &str) -> Login {
    (result, Err(Refusal::new(code, text)))
}

fn failed(text: &str) -> Login {
    refused(LoginResult::Failed, EndpointReason::CredentialsIncorrect, text)
}

fn busy() -> Login {
    refused(LoginResult::Busy, EndpointReason::Busy, BUSY)
}

fn too_soon() -> Login {
    refused(LoginResult::Refused, EndpointReason::TooManyFailedLogins, TOO_SOON)
}

impl Accounts<'_> {
    /// The account of a user with this password. For an unknown user name, opens a new account.
    pub fn get(self, username: &str, password: &str) -> Result<Account, Error> {
        let invalid = invalid("username", username).or_else(|| invalid("password", password));
        // An invalid name may be long, and is not logged.
        let (name, login) = match invalid {
            Some(text) => {
                ("", refused(LoginResult::Refused, EndpointReason::ArgumentInvalid, &text))
            }
            None => (username, self.log_in(username, password)?),
        };
        let (result, account) = login;
        self.report(name, result, &account);
        Ok(account)
    }

    /// Replaces the token of an account. The old one is no longer valid then.
    pub fn rotate_token(self, old: &str) -> Result<Account, Error> {
        let new = generate_token().map_err(Error::Random)?;
        let iban = self.store.rotate_token(&digest(old), &new)?;
        let result = if iban.is_some() { "succeeded" } else { "failed" };
        metrics::ROTATIONS.with_label_values(&[result]).inc();
        let address = self.address;
        log::info!(result, iban = iban.as_deref().unwrap_or(""), address:%; "token rotation");
        Ok(iban.map(|iban| (iban, new)).ok_or_else(|| Reason::TokenInvalid.into()))
    }

    /// Counts and logs a login, without its secrets.
    fn report(self, name: &str, result: LoginResult, account: &Account) {
        let (result, address) = (result.name(), self.address);
        metrics::LOGINS.with_label_values(&[result]).inc();
        match account {
            Ok((iban, _token)) => log::info!(result, name, iban, address:%; "login"),
            Err(Refusal { text, .. }) => {
                log::info!(result, name, address:%, reason = text; "login");
            }
        }
    }

    fn log_in(self, username: &str, password: &str) -> Result<Login, Error> {
        let Ok(place) = self.hasher.enter(client_of(self.address)) else {
            return Ok(busy());
        };
        loop {
            if let Some(user) = self.store.user(username)? {
                return self.check(username, password, user, place);
            }
            let Some(registrations) = self.registrations else {
                return self.refuse_unknown(username, password, &place);
            };
            if !registrations.count(client_of(self.address)) {
                let code = EndpointReason::TooManyAccounts;
                return Ok(refused(LoginResult::Refused, code, TOO_MANY_ACCOUNTS));
            }
            let Some(user) = new_user(password, &place)? else {
                return Ok(busy());
            };
            // False if another client has added the name meanwhile. Then that client's password
            // counts.
            if self.store.add_user(username, &user)? {
                drop(place);
                let account = self.open(username, user.creation)?;
                return Ok((LoginResult::Registered, account));
            }
        }
    }

    /// Logs in a known user.
    fn check(
        self,
        username: &str,
        password: &str,
        user: User,
        place: LoginPlace<'_>,
    ) -> Result<Login, Error> {
        let network = client_of(self.address);
        if !self.store.begin_login(username, network)? {
            return Ok(too_soon());
        }
        match place.hash(password, &user.salt, user.rounds.cast_unsigned()) {
            Ok(hash) if password::are_equal(&hash, &user.hash) => {}
            Ok(_) => {
                let text = if self.registrations.is_some() { INCORRECT } else { UNKNOWN };
                return Ok(failed(text));
            }
            Err(Busy) => return Ok(busy()),
        }
        drop(place);
        self.store.logged_in(username, network)?;
        // Read again, since the token may have been replaced while the hash was computed.
        let account = match self.store.user(username)?.and_then(|user| user.account) {
            Some(account) => Ok(account),
            None => self.open(username, user.creation)?,
        };
        Ok((LoginResult::Succeeded, account))
    }

    /// Refuses an unknown user name. It takes as long, and is delayed as often, as an incorrect
    /// password, so that user names cannot be guessed.
    fn refuse_unknown(
        self,
        username: &str,
        password: &str,
        place: &LoginPlace<'_>,
    ) -> Result<Login, Error> {
        if !self.store.begin_login(username, client_of(self.address))? {
            return Ok(too_soon());
        }
        Ok(match place.hash(password, &password::salt()?, ROUNDS) {
            Ok(_) => failed(UNKNOWN),
            Err(Busy) => busy(),
        })
    }

    /// Sends the stored command to the bank. For the same command the bank returns the same
    /// account.
    fn open(self, username: &str, mut creation: Uuid) -> Result<Account, Error> {
        let mut last_reason = String::new();
        for _ in 0..ATTEMPTS {
            let command = ConfirmAccountCreation { id: creation, a_type: Atype::Manual };
            match self.commands.open_account(&command, self.wait) {
                Some(CommandOutcome::AccountOpened { iban, token }) => {
                    let token = self.store.store_account(creation, &iban, &token)?;
                    return Ok(Ok((iban, token)));
                }
                Some(CommandOutcome::Refused(reason)) => {
                    last_reason = reason;
                    creation = self.store.replace_creation(username, creation, Uuid::new_v4())?;
                }
                Some(CommandOutcome::Transferred) | None => {
                    return Ok(Err(Refusal::new(EndpointReason::NoAnswer, NO_ANSWER)));
                }
            }
        }
        Ok(Err(Refusal::of_bank(last_reason)))
    }
}

/// A user with this password and no account yet; `None` if the hash takes too long.
fn new_user(password: &str, place: &LoginPlace<'_>) -> Result<Option<User>, Error> {
    let salt = password::salt()?;
    let Ok(hash) = place.hash(password, &salt, ROUNDS) else { return Ok(None) };
    Ok(Some(User {
        salt: salt.to_vec(),
        rounds: ROUNDS.cast_signed(),
        hash: hash.to_vec(),
        creation: Uuid::new_v4(),
        account: None,
    }))
}

/// Why `text` is not valid as a user name or a password; `None` if it is valid.
fn invalid(what: &str, text: &str) -> Option<String> {
    let (from, to) = (LENGTHS.start(), LENGTHS.end());
    if !LENGTHS.contains(&text.chars().count()) {
        return Some(format!("{what} must have {from} to {to} characters"));
    }
    text.chars().any(char::is_control).then(|| format!("{what} has a control character"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_passwords_have_8_to_128_characters() {
        for (text, fits) in [
            ("1234567", false),
            ("12345678", true),
            ("€€€€€€€€", true),
            ("1234567\0", false),
            (&"x".repeat(128), true),
            (&"x".repeat(129), false),
            (&"€".repeat(128), true),
        ] {
            assert_eq!(invalid("name", text).is_none(), fits, "{text:?}");
        }
    }
}
