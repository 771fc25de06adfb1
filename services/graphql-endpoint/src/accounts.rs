//! The account service: a name and a password give an iban and its token, the same ones whenever.

use crate::command_client::{Answer, CommandClient};
use crate::error::Error;
use crate::password::{self, Busy, Hasher, ROUNDS};
use crate::store::{Login, Store, User};
use bank::records::{Atype, ConfirmAccountCreation};
use std::ops::RangeInclusive;
use std::time::Duration;
use uuid::Uuid;

/// Characters of a name, and of a password.
const LENGTHS: RangeInclusive<usize> = 8..=128;
/// How often the bank is asked for an account while it happens upon ibans that exist.
const ATTEMPTS: usize = 3;

const INCORRECT: &str = "incorrect password";
const TOO_SOON: &str = "too many failed tries, wait a minute";
const BUSY: &str = "too many log in now, try again";
const NO_ANSWER: &str = "the bank has not answered yet, try again";

/// Iban and token, or why there are none.
pub type Account = Result<(String, String), String>;

/// What the service needs.
#[derive(Clone, Copy)]
pub struct Accounts<'a> {
    /// Who is known.
    pub store: &'a Store,
    /// Who opens accounts.
    pub commands: &'a CommandClient,
    /// Who makes hashes.
    pub hasher: &'a Hasher,
    /// How long the bank may take.
    pub wait: Duration,
}

impl Accounts<'_> {
    /// The account of somebody who knows the password, or who comes for the first time.
    ///
    /// # Errors
    /// The database did not answer.
    pub fn get(self, username: &str, password: &str) -> Result<Account, Error> {
        if let Some(reason) = unfit("username", username).or_else(|| unfit("password", password)) {
            return Ok(Err(reason));
        }
        let user = loop {
            match self.store.begin_login(username)? {
                Login::Known(user) => break user,
                Login::TooSoon => return Ok(Err(TOO_SOON.to_owned())),
                Login::Unknown => {
                    let salt = password::salt()?;
                    let Ok(hash) = self.hasher.hash(password, &salt, ROUNDS) else {
                        return Ok(Err(BUSY.to_owned()));
                    };
                    let user = User {
                        salt: salt.to_vec(),
                        rounds: ROUNDS.cast_signed(),
                        hash: hash.to_vec(),
                        creation: Uuid::new_v4(),
                        account: None,
                    };
                    // Else somebody else has come with the same name meanwhile: their password counts.
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

    /// Asks the bank, with the command that is kept: asked again, it gives the same account.
    fn open(self, username: &str, mut creation: Uuid) -> Result<Account, Error> {
        let mut refused = String::new();
        for _ in 0..ATTEMPTS {
            let command = ConfirmAccountCreation { id: creation, a_type: Atype::Manual };
            match self.commands.open_account(&command, self.wait) {
                Some(Answer::Opened { iban, token }) => {
                    self.store.opened(creation, &iban, &token)?;
                    return Ok(Ok((iban, token)));
                }
                Some(Answer::Refused(reason)) => {
                    refused = reason;
                    creation = self.store.ask_anew(username, creation, Uuid::new_v4())?;
                }
                Some(Answer::Moved) | None => return Ok(Err(NO_ANSWER.to_owned())),
            }
        }
        Ok(Err(refused))
    }
}

/// Why `text` can't be a name or a password.
fn unfit(what: &str, text: &str) -> Option<String> {
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
    fn names_and_passwords_may_reach_the_limits_but_not_pass_them() {
        for (text, fits) in [
            ("1234567", false),
            ("12345678", true),
            ("€€€€€€€€", true),
            ("1234567\0", false),
            (&"x".repeat(128), true),
            (&"x".repeat(129), false),
            (&"€".repeat(128), true),
        ] {
            assert_eq!(unfit("name", text).is_none(), fits, "{text:?}");
        }
    }
}
