//! What the memory and the threads of the container allow.

use service::cgroup;

/// Memory besides subscriptions, bytes: program, responses, logs of transactions.
const BASE_BYTES: u64 = 23 << 20;
/// Memory of a subscription with its own websocket, bytes.
const SUBSCRIPTION_BYTES: u64 = 19 << 10;
/// Maximum of subscriptions, also with more memory.
const SUBSCRIPTIONS_MAX: u64 = 10_000;
/// Threads of this service at most.
const THREADS: u64 = 64;

/// The limits of the container are too low.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("the container has {0} bytes of memory: expected {min} or more", min = BASE_BYTES)]
    Memory(u64),
    #[error("the container may have {0} threads (pids.max): expected {THREADS} or more")]
    Threads(u64),
}

/// The maximum number of live subscriptions in this container.
pub fn subscriptions_max() -> Result<usize, Error> {
    of(cgroup::memory_max(), cgroup::threads_max())
}

fn of(memory: Option<u64>, threads: Option<u64>) -> Result<usize, Error> {
    if let Some(threads) = threads.filter(|it| *it < THREADS) {
        return Err(Error::Threads(threads));
    }
    let Some(memory) = memory else { return Ok(SUBSCRIPTIONS_MAX as usize) };
    let left = memory.checked_sub(BASE_BYTES).ok_or(Error::Memory(memory))?;
    Ok((left / SUBSCRIPTION_BYTES).min(SUBSCRIPTIONS_MAX) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscriptions_follow_from_the_memory() {
        assert_eq!(of(None, None), Ok(10_000));
        assert_eq!(of(Some(32 << 20), Some(500)), Ok(485));
        assert_eq!(of(Some(1 << 40), None), Ok(10_000));
        assert_eq!(of(Some(22 << 20), None), Err(Error::Memory(22 << 20)));
        assert_eq!(of(None, Some(63)), Err(Error::Threads(63)));
        assert!(of(None, Some(64)).is_ok());
    }
}
