//! Bearer tokens.

use sha2::{Digest, Sha256};

/// SHA-256 of a token. Accounts are found by the digest, so that comparison times reveal nothing
/// about tokens.
pub fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}
