//! A replacement of the crate `stringprep`, with only the API that the PostgreSQL client uses:
//! SASLprep (RFC 4013), the normalization of a password before it is hashed.
//!
//! The original crate adds Unicode tables to every service with a database. Only passwords that are
//! not printable ASCII need them. docs/decisions/0007-static-binaries.md has their size.

use std::borrow::Cow;
use std::fmt;

/// The password was not normalized. The client then uses its bytes unchanged, as libpq does with a
/// password that SASLprep prohibits. The login fails only if SASLprep would change the password.
#[derive(Debug)]
pub struct Error;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the password is not printable ASCII, so SASLprep was not applied")
    }
}

impl std::error::Error for Error {}

/// Returns a password of printable ASCII unchanged.
///
/// # Errors
/// The password has other characters.
pub fn saslprep(password: &str) -> Result<Cow<'_, str>, Error> {
    let printable = password.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if printable { Ok(Cow::Borrowed(password)) } else { Err(Error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn password_of_printable_ascii_is_unchanged() {
        for password in ["", "bank", " ~!\"'\\"] {
            assert_eq!(saslprep(password).unwrap(), password);
        }
        for password in ["\n", "\u{7f}", "p\u{e4}ss", "\u{a0}", "\u{ff11}"] {
            assert!(saslprep(password).is_err(), "{password:?}");
        }
    }
}
