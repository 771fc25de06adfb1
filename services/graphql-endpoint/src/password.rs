//! Password hashes by PBKDF2-HMAC-SHA256, which needs little memory. Threads of low priority
//! compute them on half of the cores, so that logins do not delay all other requests.

use crate::error::Error;
use crate::turns::Turns;
use pbkdf2::pbkdf2_hmac;
use rand::TryRng;
use rand::rngs::SysRng;
use rustix::process::nice;
use sha2::Sha256;
use std::collections::HashMap;
use std::hint::black_box;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Rounds of a new hash. Source: OWASP Password Storage Cheat Sheet, PBKDF2-HMAC-SHA256.
pub const ROUNDS: u32 = 600_000;
/// Maximum number of logins at the same time, and of one client address. Each occupies a thread for
/// effects, which transfers need too.
const LOGINS_MAX: usize = 16;
const LOGINS_OF_ADDRESS_MAX: usize = 8;
/// Maximum wait for a hash.
const HASH_WAIT: Duration = Duration::from_secs(10);
/// Added to the nice value of the threads: other threads get about nine times as much CPU time.
const NICE: i32 = 10;
const STACK_BYTES: usize = 64 << 10;
/// Maximum of threads. All threads of the endpoint together stay below those in capacity.rs.
const THREADS_MAX: usize = 4;

pub const HASH_BYTES: usize = 32;
const SALT_BYTES: usize = 16;

pub type Hash = [u8; HASH_BYTES];

/// Computes hashes, in turn for each client address. Dropping it ends its threads.
pub struct Hasher(Arc<Queue>);

/// Too many logins at the same time, or the hash takes too long.
#[derive(Debug, PartialEq, Eq)]
pub struct Busy;

/// A login, which may compute hashes. Dropping it frees its place.
pub struct LoginPlace<'a> {
    hasher: &'a Hasher,
    address: IpAddr,
}

impl Hasher {
    /// Starts threads for half of the cores, one to [`THREADS_MAX`].
    pub fn start() -> Self {
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let queue = Arc::<Queue>::default();
        for _ in 0..(cores / 2).clamp(1, THREADS_MAX) {
            let queue = queue.clone();
            thread::Builder::new()
                .name("password".into())
                .stack_size(STACK_BYTES)
                .spawn(move || compute(&queue))
                .expect("threads can be started at startup");
        }
        Self(queue)
    }

    /// A place for a login of a client. The number of places is limited, in total and for each
    /// address.
    pub fn enter(&self, address: IpAddr) -> Result<LoginPlace<'_>, Busy> {
        let mut state = self.0.state();
        let places = state.places.values().sum::<usize>();
        let of_address = state.places.get(&address).copied().unwrap_or_default();
        if places >= LOGINS_MAX || of_address >= LOGINS_OF_ADDRESS_MAX {
            return Err(Busy);
        }
        state.places.insert(address, of_address + 1);
        Ok(LoginPlace { hasher: self, address })
    }
}

impl Drop for Hasher {
    fn drop(&mut self) {
        self.0.state().closed = true;
        self.0.changed.notify_all();
    }
}

impl LoginPlace<'_> {
    /// The hash of `password`. Takes most of a second with [`ROUNDS`].
    pub fn hash(&self, password: &str, salt: &[u8], rounds: u32) -> Result<Hash, Busy> {
        let (password, salt) = (password.to_owned(), salt.to_vec());
        let job = Arc::new(Job { password, salt, rounds, ..Job::default() });
        let queue = &self.hasher.0;
        queue.push(self.address, job.clone());
        let hash = job.hash.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = job.computed.wait_timeout_while(hash, HASH_WAIT, |hash| hash.is_none());
        let hash = waited.unwrap_or_else(PoisonError::into_inner).0.take();
        if hash.is_none() {
            queue.remove(self.address, &job);
        }
        hash.ok_or(Busy)
    }
}

impl Drop for LoginPlace<'_> {
    fn drop(&mut self) {
        let mut state = self.hasher.0.state();
        match state.places.get_mut(&self.address) {
            Some(count @ 2..) => *count -= 1,
            _ => drop(state.places.remove(&self.address)),
        }
    }
}

/// A hash to compute.
#[derive(Default)]
struct Job {
    password: String,
    salt: Vec<u8>,
    rounds: u32,
    hash: Mutex<Option<Hash>>,
    computed: Condvar,
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Number of logins by client address.
    places: HashMap<IpAddr, usize>,
    waiting: Turns<Arc<Job>>,
    closed: bool,
}

impl Queue {
    fn push(&self, address: IpAddr, job: Arc<Job>) {
        self.state().waiting.push(address, job);
        self.changed.notify_one();
    }

    /// The next job. Addresses take turns. `None` once the hasher is dropped.
    fn next(&self) -> Option<Arc<Job>> {
        let mut state = self.state();
        while !state.closed {
            match state.waiting.take(|_| true) {
                Some((_, job)) => return Some(job),
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
        None
    }

    /// Removes a job that its caller no longer waits for.
    fn remove(&self, address: IpAddr, job: &Arc<Job>) {
        self.state().waiting.remove(address, |it| Arc::ptr_eq(it, job));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn compute(queue: &Queue) {
    // On Linux this is the nice value of the calling thread.
    if let Err(err) = nice(NICE) {
        log::warn!(error:% = err; "password hashes have normal priority");
    }
    while let Some(job) = queue.next() {
        let mut hash = [0; HASH_BYTES];
        pbkdf2_hmac::<Sha256>(job.password.as_bytes(), &job.salt, job.rounds, &mut hash);
        *job.hash.lock().unwrap_or_else(PoisonError::into_inner) = Some(hash);
        job.computed.notify_one();
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
    use std::net::Ipv4Addr;

    fn address(number: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, number).into()
    }

    #[test]
    fn hash_is_pbkdf2_hmac_sha256() {
        // From Python: hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 4096).
        let hasher = Hasher::start();
        let hash = hasher.enter(address(1)).unwrap().hash("password", b"salt", 4096).unwrap();
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
    fn logins_are_limited_per_address_and_in_total() {
        let hasher = Hasher(Arc::default());
        let enter = |number| hasher.enter(address(number));
        let mut places: Vec<_> = (0..LOGINS_OF_ADDRESS_MAX).map(|_| enter(0).unwrap()).collect();
        assert_eq!(enter(0).err(), Some(Busy));
        for number in 1.. {
            if places.len() == LOGINS_MAX {
                break;
            }
            places.push(enter(number).unwrap());
        }
        assert_eq!(enter(255).err(), Some(Busy));
        places.remove(0);
        places.push(enter(0).unwrap());
        drop(places);
        assert!(hasher.0.state().places.is_empty());
    }

    #[test]
    fn hashing_threads_have_low_priority() {
        let hasher = Hasher::start();
        hasher.enter(address(1)).unwrap().hash("password", b"salt", 1).unwrap();
        let nice_values: Vec<i32> = std::fs::read_dir("/proc/self/task")
            .unwrap()
            .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok())
            .filter(|stat| stat.contains("(password)"))
            // Field 19 of proc_pid_stat(5). The name, which is field 2, ends with a parenthesis.
            .map(|stat| stat.rsplit(')').next().unwrap().split(' ').nth(17).unwrap().parse())
            .collect::<Result<_, _>>()
            .unwrap();
        let expected = (nice(0).unwrap() + NICE).min(19);
        assert!(nice_values.contains(&expected), "{nice_values:?}, expected {expected}");
    }
}
