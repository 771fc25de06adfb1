//! Passwords, as PBKDF2-HMAC-SHA256 hashes: what takes no memory fits a small container, and what takes time must not take it
//! from everybody, so there is one hash per core at a time.

use crate::error::Error;
use pbkdf2::pbkdf2_hmac;
use rand::TryRng;
use rand::rngs::SysRng;
use sha2::Sha256;
use std::hint::black_box;
use std::num::NonZeroUsize;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Rounds of a new hash. Source: OWASP Password Storage Cheat Sheet, PBKDF2-HMAC-SHA256.
pub const ROUNDS: u32 = 600_000;
/// Hashes that may wait for a core: some seconds' worth.
const WAITING_MAX: usize = 32;

/// Length of a hash, bytes.
pub const HASH_BYTES: usize = 32;
const SALT_BYTES: usize = 16;

/// Makes hashes, one per core at a time.
pub struct Hasher {
    state: Mutex<State>,
    freed: Condvar,
}

struct State {
    free: usize,
    waiting: usize,
}

/// So many hashes wait that this one would take too long.
#[derive(Debug, PartialEq, Eq)]
pub struct Busy;

impl Default for Hasher {
    fn default() -> Self {
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self { state: Mutex::new(State { free: cores, waiting: 0 }), freed: Condvar::new() }
    }
}

impl Hasher {
    /// The hash of `password`; takes a good part of a second.
    ///
    /// # Errors
    /// Too many wait.
    pub fn hash(&self, password: &str, salt: &[u8], rounds: u32) -> Result<[u8; HASH_BYTES], Busy> {
        let _place = self.place()?;
        let mut hash = [0; HASH_BYTES];
        pbkdf2_hmac::<Sha256>(password.as_bytes(), salt, rounds, &mut hash);
        Ok(hash)
    }

    fn place(&self) -> Result<Place<'_>, Busy> {
        let mut state = self.state();
        if state.free == 0 && state.waiting >= WAITING_MAX {
            return Err(Busy);
        }
        state.waiting += 1;
        while state.free == 0 {
            state = self.freed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting -= 1;
        state.free -= 1;
        Ok(Place(self))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Place<'a>(&'a Hasher);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.state().free += 1;
        self.0.freed.notify_one();
    }
}

/// A new salt.
///
/// # Errors
/// The system has no randomness to give.
pub fn salt() -> Result<[u8; SALT_BYTES], Error> {
    let mut salt = [0; SALT_BYTES];
    SysRng.try_fill_bytes(&mut salt).map_err(Error::Random)?;
    Ok(salt)
}

/// Compares in a time that does not depend on where they differ.
pub fn are_equal(a: &[u8], b: &[u8]) -> bool {
    let differences = a.iter().zip(b).fold(0, |sum, (a, b)| black_box(sum | (a ^ b)));
    a.len() == b.len() && differences == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn it_is_pbkdf2_with_hmac_and_sha_256() {
        // Made with Python: hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 4096).
        let hash = Hasher::default().hash("password", b"salt", 4096).unwrap();
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "c5e478d59288c841aa530db6845c4c8d962893a001ce4e11a4963873aa98134a");
    }

    #[test]
    fn hashes_are_equal_if_all_bytes_are() {
        assert!(are_equal(b"abc", b"abc"));
        for other in [&b"abd"[..], b"bbc", b"ab", b"abcd", b""] {
            assert!(!are_equal(b"abc", other), "{other:?}");
        }
    }

    #[test]
    fn there_is_one_hash_per_core_and_a_bounded_queue() {
        let hasher =
            Hasher { state: Mutex::new(State { free: 2, waiting: 0 }), freed: Condvar::new() };
        let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            let places = [hasher.place().unwrap(), hasher.place().unwrap()];
            for _ in 0..WAITING_MAX {
                scope.spawn(|| {
                    let _place = hasher.place().unwrap();
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    running.fetch_sub(1, Ordering::SeqCst);
                });
            }
            while hasher.state().waiting < WAITING_MAX {
                thread::yield_now();
            }
            assert_eq!(hasher.place().err(), Some(Busy));
            drop(places);
        });
        assert!((1..=2).contains(&most.into_inner()));
        assert!(hasher.place().is_ok());
    }
}
