//! When dead versions of accounts are removed.
//!
//! PostgreSQL removes dead row versions from a page when a search by index visits it, but not when
//! a row is found by its place. Full pages would move each update to another page and into the
//! index. So some accounts are searched by index as well.

use service::database::Tid;
use std::mem;

/// About one of this many versions in a page causes a visit. Half of a page is free for versions of
/// accounts, which is room for about 40.
const VERSIONS: u16 = 16;

/// The accounts to search.
#[derive(Default)]
pub struct DeadVersions {
    ibans: Vec<String>,
    /// The oldest snapshot that another session kept at the last look, and whether it is the same
    /// as at the look before. PostgreSQL then removes no versions, and a search visits all of them.
    snapshot: Option<i64>,
    is_kept: bool,
}

impl DeadVersions {
    /// The row of an account has a new version at `place`. PostgreSQL uses the items of a page in
    /// their order.
    pub fn record(&mut self, iban: &str, place: Tid) {
        if place.item().is_multiple_of(VERSIONS) && !self.is_kept {
            self.ibans.push(iban.to_owned());
        }
    }

    /// The accounts whose search visits pages with dead versions.
    pub fn take(&mut self) -> Vec<String> {
        mem::take(&mut self.ibans)
    }

    /// `id` is the oldest snapshot that another session keeps now.
    pub fn look_at_snapshot(&mut self, id: Option<i64>) {
        self.is_kept = id.is_some() && id == self.snapshot;
        self.snapshot = id;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_versions_of_each_page_cause_a_visit() {
        let mut dead = DeadVersions::default();
        for item in 1..=40 {
            dead.record(&item.to_string(), Tid::new(7, item));
        }
        assert_eq!(dead.take(), ["16", "32"]);
        assert!(dead.take().is_empty());
    }

    #[test]
    fn kept_snapshot_prevents_visits() {
        let mut dead = DeadVersions::default();
        let is_visited = |dead: &mut DeadVersions, id| {
            dead.look_at_snapshot(id);
            dead.record("a", Tid::new(7, VERSIONS));
            !dead.take().is_empty()
        };
        let visits = [None, None, Some(7), Some(7), Some(7), Some(8), None];
        let visits = visits.map(|id| is_visited(&mut dead, id));
        assert_eq!(visits, [true, true, true, false, false, true, true]);
    }
}
