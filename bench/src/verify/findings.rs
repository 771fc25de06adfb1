//! What holds of the contract and what does not.

use crate::output;
use observer::Kind;
use observer::model::Reason;

/// Faults of a point in words; the rest are counted.
const FAULTS_MAX: usize = 3;
/// Most characters of a fault: a handler may say anything.
const FAULT_CHARS: usize = 400;

/// The points of docs/handler-contract.md, in the order of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    Life,
    Accounts,
    NotPositive,
    FromInvalid,
    Same,
    BothUnknown,
    FromUnknown,
    Token,
    Funds,
    TooLarge,
    Precedence,
    Changes,
    Records,
    Order,
    Replays,
    Undecodable,
    Offsets,
    Kills,
    Stops,
}

impl Point {
    /// Where a violation counts.
    pub fn of(kind: &Kind) -> Self {
        match kind {
            Kind::WrongAccount { .. } | Kind::EqualTokens { .. } => Self::Accounts,
            // The model's reason, or the one that the model does not find.
            Kind::WrongOutcome { found, expected, .. } => (Reason::ALL.into_iter())
                .find(|reason| expected == reason.text() || found.contains(reason.text()))
                .map_or(Self::Accounts, Self::from),
            Kind::NoTransferId { .. }
            | Kind::MissingChange { .. }
            | Kind::UnexpectedChange { .. }
            | Kind::WrongChange { .. }
            | Kind::UnknownCommand(_)
            | Kind::UnknownAccount { .. }
            | Kind::WrongSum { .. }
            | Kind::WrongDatabase { .. } => Self::Changes,
            Kind::Undecodable(_) | Kind::WrongKey { .. } | Kind::WrongPartition { .. } => {
                Self::Records
            }
            Kind::OldSequence { .. } | Kind::MissingSequence { .. } | Kind::WrongBalance { .. } => {
                Self::Order
            }
            Kind::TwoOutcomes(_) | Kind::TwoChanges { .. } | Kind::AnotherChange { .. } => {
                Self::Replays
            }
            Kind::NoOutcome(_)
            | Kind::NoDeadLetter(_)
            | Kind::WrongDeadLetter { .. }
            | Kind::OutcomeAndDeadLetter(_) => Self::Undecodable,
        }
    }
}

impl From<Reason> for Point {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::AmountNotPositive => Self::NotPositive,
            Reason::FromInvalid => Self::FromInvalid,
            Reason::SameAccount => Self::Same,
            Reason::BothUnknown => Self::BothUnknown,
            Reason::FromUnknown => Self::FromUnknown,
            Reason::TokenInvalid => Self::Token,
            Reason::InsufficientFunds => Self::Funds,
            Reason::AmountTooLarge => Self::TooLarge,
        }
    }
}

/// All of them.
pub const POINTS: [(Point, &str); 19] = [
    (Point::Life, "gets ready in an empty database, and lives"),
    (Point::Accounts, "opens accounts"),
    (Point::NotPositive, "amount must be positive"),
    (Point::FromInvalid, "from is invalid"),
    (Point::Same, "from and to can't be same for transfer"),
    (Point::BothUnknown, "both to and from not known at this bank"),
    (Point::FromUnknown, "from is not known at this bank"),
    (Point::Token, "invalid token"),
    (Point::Funds, "insufficient funds"),
    (Point::TooLarge, "amount too large"),
    (Point::Precedence, "the first reason that holds is the answer"),
    (Point::Changes, "a change for each account that a transfer touches, right in every field"),
    (Point::Records, "keys, partitions, framing, schemas"),
    (Point::Order, "changes of an account in the order of their sequence"),
    (Point::Replays, "a command that comes again: the same records, and no money moves"),
    (Point::Undecodable, "what can't be read goes to dead_letter, and its partition goes on"),
    (Point::Offsets, "offsets of what is done are committed"),
    (Point::Kills, "kill -9 and restart: no cent lost or doubled"),
    (Point::Stops, "SIGTERM: exit code 0, nothing lost, nothing told again"),
];

/// What was tried of a point.
#[derive(Debug, Clone, Default)]
struct Finding {
    cases: u64,
    faults: Vec<String>,
    faults_more: u64,
}

/// What was found so far.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    all: [Finding; POINTS.len()],
}

impl Findings {
    /// Notes that a case of `point` went as it should.
    pub fn good(&mut self, point: Point) {
        self.all[point as usize].cases += 1;
    }

    /// Notes a case that did not.
    pub fn fault(&mut self, point: Point, fault: String) {
        let finding = &mut self.all[point as usize];
        finding.cases += 1;
        if finding.faults.len() < FAULTS_MAX {
            finding.faults.push(fault.chars().take(FAULT_CHARS).collect());
        } else {
            finding.faults_more += 1;
        }
    }

    /// Notes a case: good, or what is wrong with it.
    pub fn note(&mut self, point: Point, case: Result<(), String>) {
        match case {
            Ok(()) => self.good(point),
            Err(fault) => self.fault(point, fault),
        }
    }

    /// True if `point` was tried and held in every case.
    pub fn holds(&self, point: Point) -> bool {
        let finding = &self.all[point as usize];
        finding.cases > 0 && finding.faults.is_empty()
    }

    /// True once enough faults of `point` are known: more of them would only take time.
    pub fn is_hopeless(&self, point: Point) -> bool {
        self.all[point as usize].faults.len() >= FAULTS_MAX
    }

    /// The points that do not hold.
    pub fn broken(&self) -> Vec<&'static str> {
        POINTS.iter().filter(|(point, _)| !self.holds(*point)).map(|(_, title)| *title).collect()
    }

    /// As it is printed.
    pub fn text(&self, handler: &str) -> String {
        let mut rows = vec![[handler, "holds", "cases"].map(str::to_owned).to_vec()];
        let mut faults = String::new();
        for (point, title) in POINTS {
            let Finding { cases, faults: words, faults_more } = &self.all[point as usize];
            let holds = match (self.holds(point), cases) {
                (true, _) => "yes",
                (false, 0) => "not tried",
                (false, _) => "NO",
            };
            rows.push(vec![title.to_owned(), holds.to_owned(), cases.to_string()]);
            for fault in words {
                faults += &format!("{title}: {fault}\n");
            }
            if *faults_more > 0 {
                faults += &format!("{title}: and {faults_more} more like these\n");
            }
        }
        output::table(&rows) + &faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_stand_where_their_number_says() {
        for (index, (point, _)) in POINTS.iter().enumerate() {
            assert_eq!(*point as usize, index);
        }
    }

    #[test]
    fn what_was_not_tried_does_not_hold() {
        let mut findings = Findings::default();
        assert_eq!(findings.broken().len(), POINTS.len());
        for (point, _) in POINTS {
            findings.good(point);
        }
        assert!(findings.broken().is_empty());
        for number in 0..9 {
            findings.fault(Point::Kills, format!("{number} {}", "x".repeat(1000)));
        }
        assert_eq!(findings.broken(), [POINTS[Point::Kills as usize].1]);
        let text = findings.text("ours");
        assert!(text.contains("and 6 more") && text.len() < 4000, "{text}");
    }
}
