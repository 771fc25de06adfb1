//! What the PostgreSQL client asks of the crate that this one stands in for: how a password is written before it is hashed (RFC 4013,
//! SASLprep). That crate brings tables of Unicode into every service with a database, for passwords that nearly nobody has.
//! docs/decisions/0007-static-binaries.md has the bytes.

use std::borrow::Cow;
use std::fmt;

/// A password that is not prepared. The client then takes its bytes as they are, as PostgreSQL's own does with one that may not be
/// prepared; that fits unless Unicode's form NFKC writes it differently.
#[derive(Debug)]
pub struct Error;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a password that is not printable ASCII is not prepared")
    }
}

impl std::error::Error for Error {}

/// Printable ASCII, which stays as it is.
///
/// # Errors
/// There is anything else in it.
pub fn saslprep(password: &str) -> Result<Cow<'_, str>, Error> {
    let printable = password.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if printable { Ok(Cow::Borrowed(password)) } else { Err(Error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printable_ascii_stays_and_nothing_else_is_prepared() {
        for password in ["", "bank", " ~!\"'\\"] {
            assert_eq!(saslprep(password).unwrap(), password);
        }
        for password in ["\n", "\u{7f}", "p\u{e4}ss", "\u{a0}", "\u{ff11}"] {
            assert!(saslprep(password).is_err(), "{password:?}");
        }
    }
}
