//! The accounts that a session has read or written, as they were then, and where their rows are.
//!
//! Another handler may have changed an account since. So the statement that stores a batch compares
//! each account with its row, and a difference fails the batch: optimistic concurrency control.

use crate::domain::Account;
use bank::iban::Token;
use bank::money::Cents;
use service::database::Tid;
use std::collections::HashMap;
use std::mem;

/// Most accounts of a generation: as many as a hash table of 8,192 places holds, 660 kB.
const GENERATION_MAX: usize = 7168;
/// Most batches that lock their accounts after a conflict.
const PAUSE_MAX: u32 = 64;

type Iban = [u8; 18];

/// An account in 56 bytes.
struct Entry {
    place: Tid,
    token: Token,
    balance: Cents,
    limit: Cents,
    sequence: i64,
}

/// Up to 14,336 accounts, and when to use them. When the young generation is full, it takes
/// the place of the old one, whose accounts are forgotten. An account that is used becomes young.
#[derive(Default)]
pub struct AccountCache {
    young: HashMap<Iban, Entry>,
    old: HashMap<Iban, Entry>,
    /// Length of the last pause, in batches.
    pause: u32,
    /// Batches until the end of the pause.
    rest: u32,
}

impl AccountCache {
    pub fn get(&mut self, iban: &str) -> Option<(Account, Tid)> {
        let iban: Iban = iban.as_bytes().try_into().ok()?;
        if let Some(entry) = self.old.remove(&iban) {
            self.add(iban, entry);
        }
        let Entry { place, token, balance, limit, sequence } = self.young.get(&iban)?;
        let token = token.as_str().to_owned();
        let account = Account { token, balance: *balance, limit: *limit, sequence: *sequence };
        Some((account, *place))
    }

    /// Replaces the account. Ignores one whose iban or token has an unusual form.
    pub fn insert(&mut self, iban: &str, account: &Account, place: Tid) {
        let (Ok(iban), Ok(token)) = (iban.as_bytes().try_into(), account.token.parse()) else {
            return;
        };
        let Account { balance, limit, sequence, .. } = *account;
        self.old.remove(&iban);
        self.add(iban, Entry { place, token, balance, limit, sequence });
    }

    fn add(&mut self, iban: Iban, entry: Entry) {
        if self.young.len() >= GENERATION_MAX && !self.young.contains_key(&iban) {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(iban, entry);
    }

    /// Counts a batch. Returns true if it should use the cache: it is not part of a pause.
    pub fn begin_batch(&mut self) -> bool {
        let uses_cache = self.rest == 0;
        self.rest = self.rest.saturating_sub(1);
        uses_cache
    }

    /// Call it after a batch that used the cache was stored.
    pub fn record_success(&mut self) {
        self.pause = 0;
    }

    /// Call it after a batch that used the cache was rolled back. A pause begins, twice as long as
    /// the one before, since handlers that share accounts have many conflicts.
    pub fn record_conflict(&mut self) {
        self.pause = (2 * self.pause).clamp(1, PAUSE_MAX);
        self.rest = self.pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(sequence: i64) -> Account {
        let token = "01234567890123456789".to_owned();
        Account { token, balance: Cents::new(5), limit: Cents::new(-7), sequence }
    }

    fn place(item: u16) -> Tid {
        Tid::new(1, item)
    }

    fn iban(number: usize) -> String {
        format!("NL00OPEN{number:010}")
    }

    #[test]
    fn account_is_returned_as_it_was_inserted() {
        let mut cache = AccountCache::default();
        assert_eq!(cache.get(&iban(1)), None);
        cache.insert(&iban(1), &account(1), place(1));
        cache.insert(&iban(1), &account(2), place(1));
        assert_eq!(cache.get(&iban(1)), Some((account(2), place(1))));
        cache.insert(&iban(2), &Account { token: "x".to_owned(), ..account(1) }, place(1));
        assert_eq!((cache.get(&iban(2)), cache.get("cash")), (None, None));
    }

    #[test]
    fn least_used_accounts_are_forgotten() {
        let mut cache = AccountCache::default();
        for number in 0..5 * GENERATION_MAX {
            cache.insert(&iban(number), &account(number as i64), place(1));
            assert_eq!(cache.get(&iban(0)), Some((account(0), place(1))));
            assert!(cache.young.len() + cache.old.len() <= 2 * GENERATION_MAX);
        }
        assert_eq!(cache.get(&iban(1)), None);
        // An account in the old generation has no second, older state.
        let number = 4 * GENERATION_MAX;
        cache.insert(&iban(number), &account(-1), place(1));
        assert_eq!(cache.get(&iban(number)), Some((account(-1), place(1))));
    }

    #[test]
    fn pauses_grow_until_a_batch_is_stored() {
        let mut cache = AccountCache::default();
        let pause = |cache: &mut AccountCache| {
            cache.record_conflict();
            (0..).find(|_| cache.begin_batch()).unwrap()
        };
        let pauses: Vec<u32> = (0..8).map(|_| pause(&mut cache)).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 64]);
        cache.record_success();
        assert_eq!(pause(&mut cache), 1);
    }
}
