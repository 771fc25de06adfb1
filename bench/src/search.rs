//! Searches for the highest load that is held: first upwards in a list of loads, then by bisection
//! between the last load held and the first not held.

#[derive(Debug)]
pub struct Search {
    /// Loads to try, the next one last.
    rest: Vec<u32>,
    /// Remaining bisections, which begin after the first load that is not held.
    bisections: u32,
    /// The highest load held; 0 if none was held.
    pub held: u32,
    /// The lowest load not held.
    missed: Option<u32>,
}

impl Search {
    /// Tries `loads` in ascending order, and then `bisections` loads in between.
    pub fn new(loads: &[u32], bisections: u32) -> Self {
        let mut rest = loads.to_vec();
        rest.sort_unstable_by(|a, b| b.cmp(a));
        rest.dedup();
        Self { rest, bisections, held: 0, missed: None }
    }

    /// The next load to try; `None` at the end.
    pub fn next(&mut self) -> Option<u32> {
        let Some(missed) = self.missed else { return self.rest.pop() };
        if self.held == 0 || self.bisections == 0 {
            return None;
        }
        self.bisections -= 1;
        let between = between(self.held, missed);
        // An interval of less than 5 % is within the noise of the machine.
        (between > self.held + self.held / 40 && between < missed).then_some(between)
    }

    /// Enters whether `load` was held.
    pub fn tried(&mut self, load: u32, held: bool) {
        if held {
            self.held = self.held.max(load);
        } else {
            self.missed = Some(self.missed.map_or(load, |missed| missed.min(load)));
        }
    }
}

/// The geometric mean, rounded to two digits, or to three if it begins with 1.
fn between(low: u32, high: u32) -> u32 {
    let mean = (u64::from(low) * u64::from(high)).isqrt();
    let mean = u32::try_from(mean).expect("it is below `high`");
    let digits = mean.checked_ilog10().unwrap_or(0);
    let unit = 10u32.pow(digits.saturating_sub(if mean / 10u32.pow(digits) == 1 { 2 } else { 1 }));
    (mean + unit / 2) / unit * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(capacity: u32, bisections: u32) -> (u32, Vec<u32>) {
        let mut search = Search::new(&[10, 100, 1000, 2000, 4000], bisections);
        let mut tried = Vec::new();
        while let Some(load) = search.next() {
            tried.push(load);
            search.tried(load, load <= capacity);
        }
        (search.held, tried)
    }

    #[test]
    fn search_goes_up_and_then_bisects() {
        let (held, tried) = search(1500, 3);
        assert_eq!(tried, [10, 100, 1000, 2000, 1410, 1680, 1540]);
        assert_eq!(held, 1410);
    }

    #[test]
    fn search_ends_at_either_end_of_the_list() {
        assert_eq!(search(1_000_000, 3), (4000, vec![10, 100, 1000, 2000, 4000]));
        assert_eq!(search(5, 3), (0, vec![10]));
        assert_eq!(search(1500, 0).0, 1000);
    }

    #[test]
    fn capacity_is_found_within_the_last_interval() {
        for capacity in 10..4000 {
            let (held, tried) = search(capacity, 5);
            assert!(tried.len() <= 10 && held <= capacity);
            assert!(
                f64::from(held) >= f64::from(capacity) * 0.9,
                "{held} of {capacity}: {tried:?}"
            );
        }
    }
}
