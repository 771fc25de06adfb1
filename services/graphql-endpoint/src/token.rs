//! Bearer tokens.

use sha2::{Digest, Sha256};

/// SHA-256 of a token. Accounts are found by the digest, so that comparison times reveal nothing
/// about tokens.
pub fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// A digest of 64 hexadecimal digits, as sha256sum prints it; `None` if `hex` is something else.
pub fn digest_of_hex(hex: &str) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    if pairs.len() != digest.len() || !rest.is_empty() {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(pairs) {
        let digit = |it: u8| char::from(it).to_digit(16).map(|it| it as u8);
        *byte = 16 * digit(pair[0])? + digit(pair[1])?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_has_64_hexadecimal_digits() {
        // printf abc | sha256sum
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest_of_hex(hex), Some(digest("abc")));
        assert_eq!(digest_of_hex(&hex.to_uppercase()), Some(digest("abc")));
        for wrong in ["", &hex[1..], &hex[2..], &format!("{hex}0"), &hex.replace('b', "g"), "€"] {
            assert_eq!(digest_of_hex(wrong), None, "{wrong}");
        }
    }
}
