//! Records which commands of a run were answered, and how often. Each command takes one byte, so a
//! run of millions stays small.

/// An answer to a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mark {
    /// The balance change of the payer.
    Paid = 1,
    /// The balance change of the payee.
    Got = 2,
    /// The confirmation.
    Confirmed = 4,
    /// The rejection.
    Failed = 8,
}

const CHANGES: u8 = Mark::Paid as u8 | Mark::Got as u8;
const OUTCOMES: u8 = Mark::Confirmed as u8 | Mark::Failed as u8;
/// The payer has no account here, so the command has only one balance change.
const FROM_OUTSIDE: u8 = 16;

/// The commands of a run by number: 0, 1, 2 ...
#[derive(Debug, Default)]
pub struct Ledger {
    marks: Vec<u8>,
    /// Answers that had come before: a replay publishes the same answer again.
    pub repeated: u64,
}

impl Ledger {
    /// The number of the next command.
    pub fn next(&self) -> u64 {
        self.marks.len() as u64
    }

    /// Adds `count` commands; `from_outside` if their payers have no account here.
    pub fn expect(&mut self, count: u64, from_outside: bool) {
        let length = self.marks.len() + usize::try_from(count).expect("as many fit in memory");
        self.marks.resize(length, if from_outside { FROM_OUTSIDE } else { 0 });
    }

    /// Removes the commands from `number` on, which were never sent.
    pub fn cut(&mut self, number: u64) {
        self.marks.truncate(usize::try_from(number).unwrap_or(usize::MAX));
    }

    /// Enters an answer. Returns true if it is the one that a customer waits for: the second of
    /// both changes, or a rejection.
    pub fn note(&mut self, number: u64, mark: Mark) -> bool {
        let known = usize::try_from(number).ok().and_then(|number| self.marks.get_mut(number));
        // The command was removed after an error, and was written all the same.
        let Some(marks) = known else { return false };
        if *marks & mark as u8 != 0 {
            self.repeated += 1;
            return false;
        }
        let before = is_answered(*marks);
        *marks |= mark as u8;
        !before && is_answered(*marks)
    }

    /// Number of commands from `number` on that are not settled. A settled command has all changes
    /// and one confirmation, or only one rejection.
    pub fn unsettled(&self, number: u64) -> u64 {
        let from = usize::try_from(number).unwrap_or(usize::MAX).min(self.marks.len());
        self.marks[from..].iter().filter(|marks| !is_settled(**marks)).count() as u64
    }
}

fn is_answered(marks: u8) -> bool {
    marks & Mark::Failed as u8 != 0 || has_changes(marks)
}

fn is_settled(marks: u8) -> bool {
    match marks & OUTCOMES {
        outcome if outcome == Mark::Confirmed as u8 => has_changes(marks),
        outcome if outcome == Mark::Failed as u8 => marks & CHANGES == 0,
        _ => false,
    }
}

fn has_changes(marks: u8) -> bool {
    let wanted = if marks & FROM_OUTSIDE == 0 { CHANGES } else { Mark::Got as u8 };
    marks & CHANGES == wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfer_needs_both_changes_and_a_confirmation() {
        let mut ledger = Ledger::default();
        ledger.expect(1, false);
        assert!(!ledger.note(0, Mark::Got));
        assert!(!ledger.note(0, Mark::Got), "the same change again");
        assert!(ledger.note(0, Mark::Paid));
        assert_eq!(ledger.unsettled(0), 1);
        assert!(!ledger.note(0, Mark::Confirmed));
        assert_eq!(ledger.unsettled(0), 0);
        assert_eq!(ledger.repeated, 1);
    }

    #[test]
    fn deposit_has_one_change() {
        let mut ledger = Ledger::default();
        ledger.expect(1, true);
        assert!(ledger.note(0, Mark::Got));
        ledger.note(0, Mark::Confirmed);
        assert_eq!(ledger.unsettled(0), 0);
        ledger.note(0, Mark::Paid);
        assert_eq!(ledger.unsettled(0), 1, "and no other");
    }

    #[test]
    fn rejection_settles_unless_money_moved_too() {
        let mut ledger = Ledger::default();
        ledger.expect(3, false);
        assert!((0..3).all(|number| ledger.note(number, Mark::Failed)));
        assert_eq!(ledger.unsettled(0), 0);
        ledger.note(1, Mark::Paid);
        ledger.note(2, Mark::Confirmed);
        assert_eq!((ledger.unsettled(0), ledger.unsettled(2), ledger.unsettled(3)), (2, 1, 0));
    }

    #[test]
    fn unsent_command_is_not_expected() {
        let mut ledger = Ledger::default();
        ledger.expect(5, false);
        ledger.cut(2);
        assert_eq!((ledger.next(), ledger.unsettled(0)), (2, 2));
        assert!(!ledger.note(3, Mark::Failed));
    }
}
