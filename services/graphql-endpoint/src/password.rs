//! Password hashes by PBKDF2-HMAC-SHA256, which needs little memory. At most one hash per core is
//! computed at a time, so that logins do not delay all other requests.

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
/// Maximum of hashes that wait for a core: a few seconds of work.
const WAITING_MAX: usize = 32;

pub const HASH_BYTES: usize = 32;
const SALT_BYTES: usize = 16;

/// Computes hashes, one per core at a time.
pub struct Hasher {
    state: Mutex<State>,
    freed: Condvar,
}

struct State {
    free: usize,
    waiting: usize,
}

/// [`WAITING_MAX`] hashes are waiting already.
#[derive(Debug, PartialEq, Eq)]
pub struct Busy;

impl Default for Hasher {
    fn default() -> Self {
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self { state: Mutex::new(State { free: cores, waiting: 0 }), freed: Condvar::new() }
    }
}

impl Hasher {
    /// The hash of `password`. Takes most of a second with [`ROUNDS`].
    pub fn hash(&self, password: &str, salt: &[u8], rounds: u32) -> Result<[u8; HASH_BYTES], Busy> {
        let _core = self.acquire_core()?;
        let mut hash = [0; HASH_BYTES];
        pbkdf2_hmac::<Sha256>(password.as_bytes(), salt, rounds, &mut hash);
        Ok(hash)
    }

    fn acquire_core(&self) -> Result<CoreGuard<'_>, Busy> {
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
        Ok(CoreGuard(self))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct CoreGuard<'a>(&'a Hasher);

impl Drop for CoreGuard<'_> {
    fn drop(&mut self) {
        self.0.state().free += 1;
        self.0.freed.notify_one();
    }
}

/// A new random salt.
pub fn salt() -> Result<[u8; SALT_BYTES], Error> {
    let mut salt = [0; SALT_BYTES];
    SysRng.try_fill_bytes(&mut salt).map_err(Error::Random)?;
    Ok(salt)
}

/// Compares in constant time for inputs of equal length.
pub fn are_equal(a: &[u8], b: &[u8]) -> bool {
    let differences = a.iter().zip(b).fold(0, |sum, (a, b)| black_box(sum | (a ^ b)));
    a.len() == b.len() && differences == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn hash_is_pbkdf2_hmac_sha256() {
        // From Python: hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 4096).
        let hash = Hasher::default().hash("password", b"salt", 4096).unwrap();
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "c5e478d59288c841aa530db6845c4c8d962893a001ce4e11a4963873aa98134a");
    }

    #[test]
    fn hashes_are_compared_byte_by_byte() {
        assert!(are_equal(b"abc", b"abc"));
        for other in [&b"abd"[..], b"bbc", b"ab", b"abcd", b""] {
            assert!(!are_equal(b"abc", other), "{other:?}");
        }
    }

    #[test]
    fn hashes_are_limited_to_one_per_core() {
        let hasher =
            Hasher { state: Mutex::new(State { free: 2, waiting: 0 }), freed: Condvar::new() };
        let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            let cores = [hasher.acquire_core().unwrap(), hasher.acquire_core().unwrap()];
            for _ in 0..WAITING_MAX {
                scope.spawn(|| {
                    let _core = hasher.acquire_core().unwrap();
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    running.fetch_sub(1, Ordering::SeqCst);
                });
            }
            while hasher.state().waiting < WAITING_MAX {
                thread::yield_now();
            }
            assert_eq!(hasher.acquire_core().err(), Some(Busy));
            drop(cores);
        });
        assert!((1..=2).contains(&most.into_inner()));
        assert!(hasher.acquire_core().is_ok());
    }
}
