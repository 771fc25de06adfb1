//! Accounts of users. A user logs in with a name and a password and gets an iban and its token, the
//! same ones each time.

use crate::command_client::{CommandClient, CommandOutcome};
use crate::error::Error;
use crate::password::{self, Busy, Hasher, ROUNDS};
use crate::store::{Login, Store, User};
use bank::records::{Atype, ConfirmAccountCreation};
use std::ops::RangeInclusive;
use std::time::Duration;
use uuid::Uuid;

/// Length of a user name and of a password, in characters.
const LENGTHS: RangeInclusive<usize> = 8..=128;
/// Commands that are sent for an account. The bank refuses one if it generates an iban that exists.
const ATTEMPTS: usize = 3;

const INCORRECT: &str = "incorrect password";
const TOO_SOON: &str = "too many failed tries, wait a minute";
const BUSY: &str = "too many log in now, try again";
const NO_ANSWER: &str = "the bank has not answered yet, try again";

/// Iban and token, or the reason of a refusal.
pub type Account = Result<(String, String), String>;

#[derive(Clone, Copy)]
pub struct Accounts<'a> {
    pub store: &'a Store,
    pub commands: &'a CommandClient,
    pub hasher: &'a Hasher,
    /// Timeout for an outcome.
    pub wait: Duration,
}

impl Accounts<'_> {
    /// The account of a user with this password. For an unknown user name, opens a new account.
    pub fn get(self, username: &str, password: &str) -> Result<Account, Error> {
        if let Some(reason) =
            invalid("username", username).or_else(|| invalid("password", password))
        {
            return Ok(Err(reason));
        }
        let user = loop {
            match self.store.begin_login(username)? {
                Login::Known(user) => break user,
                Login::TooSoon => return Ok(Err(TOO_SOON.to_owned())),
                Login::Unknown => {
                    let Some(user) = self.new_user(password)? else {
                        return Ok(Err(BUSY.to_owned()));
                    };
                    // False if another client has added the name meanwhile. Then that client's
                    // password counts.
                    if self.store.add_user(username, &user)? {
                        return self.open(username, user.creation);
                    }
                }
            }
        };
        match self.hasher.hash(password, &user.salt, user.rounds.cast_unsigned()) {
            Ok(hash) if password::are_equal(&hash, &user.hash) => {}
            Ok(_) => return Ok(Err(INCORRECT.to_owned())),
            Err(Busy) => return Ok(Err(BUSY.to_owned())),
        }
        self.store.logged_in(username)?;
        match user.account {
            Some(account) => Ok(Ok(account)),
            None => self.open(username, user.creation),
        }
    }

    /// A user with this password and no account yet; `None` if too many passwords are being hashed.
    fn new_user(self, password: &str) -> Result<Option<User>, Error> {
        let salt = password::salt()?;
        let Ok(hash) = self.hasher.hash(password, &salt, ROUNDS) else { return Ok(None) };
        Ok(Some(User {
            salt: salt.to_vec(),
            rounds: ROUNDS.cast_signed(),
            hash: hash.to_vec(),
            creation: Uuid::new_v4(),
            account: None,
        }))
    }

    /// Sends the stored command to the bank. For the same command the bank returns the same
    /// account.
    fn open(self, username: &str, mut creation: Uuid) -> Result<Account, Error> {
        let mut last_reason = String::new();
        for _ in 0..ATTEMPTS {
            let command = ConfirmAccountCreation { id: creation, a_type: Atype::Manual };
            match self.commands.open_account(&command, self.wait) {
                Some(CommandOutcome::AccountOpened { iban, token }) => {
                    self.store.store_account(creation, &iban, &token)?;
                    return Ok(Ok((iban, token)));
                }
                Some(CommandOutcome::Refused(reason)) => {
                    last_reason = reason;
                    creation = self.store.replace_creation(username, creation, Uuid::new_v4())?;
                }
                Some(CommandOutcome::Transferred) | None => return Ok(Err(NO_ANSWER.to_owned())),
            }
        }
        Ok(Err(last_reason))
    }
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
