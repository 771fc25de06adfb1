//! The results of a verification: the points of the contract, and the faults of each.

use crate::output;
use observer::Kind;
use observer::model::Reason;

/// Number of faults that are printed for a point. The others are only counted.
const FAULTS_MAX: usize = 3;
/// Longest text of a fault, characters, since it may quote the handler's output.
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
    /// The point of the contract that a violation breaks.
    pub fn of(kind: &Kind) -> Self {
        match kind {
            Kind::WrongAccount { .. } | Kind::EqualTokens { .. } => Self::Accounts,
            // The reason expected by the model, or else the one that the handler published.
            Kind::WrongOutcome { found, expected, .. } => (Reason::ALL.into_iter())
                .find(|reason| expected == reason.text() || found.contains(reason.text()))
                .map_or(Self::Accounts, Self::from),
            Kind::NoTransferId { .. }
            | Kind::NoTime { .. }
            | Kind::MissingChange { .. }
            | Kind::UnexpectedChange { .. }
            | Kind::WrongChange { .. }
            | Kind::UnknownCommand(_)
            | Kind::UnknownAccount { .. }
            | Kind::WrongSum { .. }
            | Kind::WrongDatabase { .. }
            | Kind::MissingTransaction { .. }
            | Kind::WrongTransaction { .. }
            | Kind::UnknownTransaction { .. } => Self::Changes,
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

/// All points with their titles.
pub const POINTS: [(Point, &str); 19] = [
    (Point::Life, "is ready in an empty database and keeps running"),
    (Point::Accounts, "opens accounts"),
    (Point::NotPositive, "amount must be positive"),
    (Point::FromInvalid, "from is invalid"),
    (Point::Same, "from and to can't be same for transfer"),
    (Point::BothUnknown, "both to and from not known at this bank"),
    (Point::FromUnknown, "from is not known at this bank"),
    (Point::Token, "invalid token"),
    (Point::Funds, "insufficient funds"),
    (Point::TooLarge, "amount too large"),
    (Point::Precedence, "reports the first reason in order of precedence"),
    (Point::Changes, "publishes a correct change for each account of a transfer"),
    (Point::Records, "keys, partitions, framing, schemas"),
    (Point::Order, "publishes the changes of an account in order of their sequence"),
    (Point::Replays, "answers a replayed command with the same records, without moving money"),
    (Point::Undecodable, "writes undecodable records to dead_letter and continues the partition"),
    (Point::Offsets, "commits the offsets of answered commands"),
    (Point::Kills, "loses and doubles no cent after kill -9"),
    (Point::Stops, "exits with 0 on SIGTERM, without lost or repeated records"),
];

/// The cases of a point and their faults.
#[derive(Debug, Clone, Default)]
struct Finding {
    cases: u64,
    faults: Vec<String>,
    faults_more: u64,
}

/// The cases of all points.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    all: [Finding; POINTS.len()],
}

impl Findings {
    /// Adds a case without fault.
    pub fn good(&mut self, point: Point) {
        self.all[point as usize].cases += 1;
    }

    /// Adds a case with a fault.
    pub fn fault(&mut self, point: Point, fault: String) {
        let finding = &mut self.all[point as usize];
        finding.cases += 1;
        if finding.faults.len() < FAULTS_MAX {
            finding.faults.push(fault.chars().take(FAULT_CHARS).collect());
        } else {
            finding.faults_more += 1;
        }
    }

    /// Adds a case, with a fault if there is one.
    pub fn note(&mut self, point: Point, case: Result<(), String>) {
        match case {
            Ok(()) => self.good(point),
            Err(fault) => self.fault(point, fault),
        }
    }

    /// True if `point` was checked and has no fault.
    pub fn holds(&self, point: Point) -> bool {
        let finding = &self.all[point as usize];
        finding.cases > 0 && finding.faults.is_empty()
    }

    /// True if `point` has enough faults, so that further cases need not be checked.
    pub fn has_enough_faults(&self, point: Point) -> bool {
        self.all[point as usize].faults.len() >= FAULTS_MAX
    }

    /// The titles of the points that were not checked or have faults.
    pub fn broken(&self) -> Vec<&'static str> {
        POINTS.iter().filter(|(point, _)| !self.holds(*point)).map(|(_, title)| *title).collect()
    }

    /// The table and the faults, as they are printed.
    pub fn text(&self, handler: &str) -> String {
        let mut rows = vec![[handler, "holds", "cases"].map(str::to_owned).to_vec()];
        let mut faults = String::new();
        for (point, title) in POINTS {
            let Finding { cases, faults: words, faults_more } = &self.all[point as usize];
            let holds = match (self.holds(point), cases) {
                (true, _) => "yes",
                (false, 0) => "not checked",
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
    fn points_are_listed_in_order_of_their_numbers() {
        for (index, (point, _)) in POINTS.iter().enumerate() {
            assert_eq!(*point as usize, index);
        }
    }

    #[test]
    fn unchecked_point_does_not_hold() {
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
