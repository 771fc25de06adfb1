//! The limit of new accounts for each client address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_secs(60 * 60);
/// Maximum number of addresses that are counted. Further ones are refused until the interval ends.
const ADDRESSES_MAX: usize = 20_000;

/// Counts new accounts by client address.
pub struct Registrations {
    of_address_max: u32,
    counts: Mutex<Counts>,
}

struct Counts {
    since: Instant,
    by_address: HashMap<IpAddr, u32>,
}

impl Registrations {
    /// Allows `of_address_max` new accounts for each address and hour.
    pub fn new(of_address_max: u32) -> Self {
        let counts = Counts { since: Instant::now(), by_address: HashMap::new() };
        Self { of_address_max, counts: Mutex::new(counts) }
    }

    /// Counts a new account. False if it exceeds the limit.
    pub fn count(&self, address: IpAddr) -> bool {
        self.count_at(address, Instant::now())
    }

    fn count_at(&self, address: IpAddr, now: Instant) -> bool {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(counts.since) >= INTERVAL {
            *counts = Counts { since: now, by_address: HashMap::new() };
        }
        let is_full = counts.by_address.len() >= ADDRESSES_MAX;
        if is_full && !counts.by_address.contains_key(&address) {
            return false;
        }
        let count = counts.by_address.entry(address).or_default();
        let is_allowed = *count < self.of_address_max;
        *count += u32::from(is_allowed);
        is_allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn accounts_are_limited_per_address_and_hour() {
        let registrations = Registrations::new(2);
        let (one, other) = (Ipv4Addr::new(192, 0, 2, 1).into(), Ipv4Addr::new(192, 0, 2, 2).into());
        let start = Instant::now();
        let count = |address, after| registrations.count_at(address, start + after);
        let almost = INTERVAL - Duration::from_millis(1);
        assert!(count(one, Duration::ZERO) && count(one, almost));
        assert!(!count(one, almost) && count(other, almost));
        assert!(count(one, INTERVAL + Duration::from_secs(1)));
    }

    #[test]
    fn number_of_counted_addresses_is_limited() {
        let registrations = Registrations::new(2);
        let address = |number: usize| IpAddr::from(Ipv4Addr::from(number as u32));
        assert!((0..ADDRESSES_MAX).all(|number| registrations.count(address(number))));
        assert!(!registrations.count(address(ADDRESSES_MAX)));
        assert!(registrations.count(address(0)));
    }
}
