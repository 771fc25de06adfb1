//! Ids of the commands that a run sends. Each id contains the number of its command, so no table is
//! needed to find the command of an answer. The ids are as scattered as random ones, since a
//! database index stores ascending keys much more cheaply than random ones.

use rand::{Rng, RngExt};
use uuid::Uuid;

/// Numbers have 48 bits.
const MASK: u64 = (1 << 48) - 1;
/// Odd, so that it has an inverse modulo 2^48. From splitmix64.
const FACTOR: u64 = 0xbf58_476d_1ce4_e5b9 & MASK;
const INVERSE: u64 = inverse(FACTOR);

/// The ids of one run.
#[derive(Debug, Clone, Copy)]
pub struct Ids {
    /// The last ten bytes of each id: version and variant of a random UUID, and bits that identify
    /// the run.
    run: [u8; 10],
}

impl Ids {
    /// Chooses random bits for a new run.
    pub fn new(rng: &mut impl Rng) -> Self {
        let mut run: [u8; 10] = rng.random();
        run[0] = 0x40 | run[0] & 0x0f;
        run[2] = 0x80 | run[2] & 0x3f;
        Self { run }
    }

    /// The id of command `number`, which is below 2^48.
    pub fn id(&self, number: u64) -> Uuid {
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&scatter(number & MASK).to_be_bytes()[2..]);
        bytes[6..].copy_from_slice(&self.run);
        Uuid::from_bytes(bytes)
    }

    /// The number of the command with this id; `None` for an id of another run.
    pub fn number(&self, id: &Uuid) -> Option<u64> {
        let (head, run) = id.as_bytes().split_at(6);
        if run != self.run {
            return None;
        }
        let mut bytes = [0; 8];
        bytes[2..].copy_from_slice(head);
        Some(gather(u64::from_be_bytes(bytes)))
    }
}

fn scatter(number: u64) -> u64 {
    let mixed = fold(number.wrapping_mul(FACTOR) & MASK);
    fold(mixed.wrapping_mul(FACTOR) & MASK)
}

fn gather(scattered: u64) -> u64 {
    let mixed = fold(scattered).wrapping_mul(INVERSE) & MASK;
    fold(mixed).wrapping_mul(INVERSE) & MASK
}

/// Its own inverse, since the upper half of the bits does not change.
fn fold(bits: u64) -> u64 {
    bits ^ (bits >> 24)
}

/// Newton's method: each round doubles the number of correct bits.
const fn inverse(odd: u64) -> u64 {
    let mut inverse = odd;
    let mut round = 0;
    while round < 6 {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(inverse)));
        round += 1;
    }
    inverse & MASK
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    #[test]
    fn id_returns_its_number_only_in_its_run() {
        let mut rng = SmallRng::seed_from_u64(1);
        let (ids, other) = (Ids::new(&mut rng), Ids::new(&mut rng));
        for number in (0..1000).chain([123_456_789, MASK - 1, MASK]) {
            let id = ids.id(number);
            assert_eq!(ids.number(&id), Some(number));
            assert_eq!(other.number(&id), None);
            assert_eq!(id.get_version_num(), 4);
            assert_eq!(id.get_variant(), uuid::Variant::RFC4122);
        }
        assert_eq!(ids.number(&Uuid::nil()), None);
    }

    #[test]
    fn consecutive_numbers_have_scattered_ids() {
        let ids = Ids::new(&mut SmallRng::seed_from_u64(1));
        let mut firsts: Vec<u8> = (0..4096).map(|number| ids.id(number).as_bytes()[0]).collect();
        let ascending = firsts.windows(2).filter(|pair| pair[0] < pair[1]).count();
        assert!((1500..2600).contains(&ascending), "{ascending} of 4095 ascend");
        firsts.sort_unstable();
        firsts.dedup();
        assert_eq!(firsts.len(), 256);
    }
}
