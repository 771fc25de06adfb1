//! The scenarios of a verification, in order.

mod replays;
mod restarts;
mod undecodable;

pub use self::restarts::Kills;
use super::findings::{Findings, Point};
use super::verification::Verification;
use crate::error::Error;
use observer::rule_cases::{self, RuleCase};

/// Runs all scenarios.
pub fn run(mut verification: Verification<'_>, kills: Kills) -> Result<Findings, Error> {
    if verification.start(true)? {
        all(&mut verification, kills)?;
    }
    Ok(verification.findings)
}

fn all(verification: &mut Verification<'_>, kills: Kills) -> Result<(), Error> {
    verification.progress("checking accounts and rules");
    let accounts = verification.open_accounts(7)?;
    let [a, b, poor, rich, other, overdrawn, full] = &accounts[..] else {
        // Without accounts the other scenarios are impossible.
        return Ok(());
    };
    rules(verification, rule_cases::boundaries(a, b, poor), None)?;
    rules(verification, rule_cases::range(rich, other), None)?;
    rules(verification, rule_cases::precedence(overdrawn, full), Some(Point::Precedence))?;
    let disordered = verification.observer.counts().disordered;
    let fault = || format!("{disordered} changes were published after one with a higher sequence");
    verification.findings.note(Point::Order, (disordered == 0).then_some(()).ok_or_else(fault));

    verification.progress("checking replays");
    replays::duplicates(verification, a)?;
    replays::replays(verification, &[a.clone(), b.clone()])?;
    verification.progress("checking undecodable records");
    undecodable::undecodable(verification, a)?;
    undecodable::offsets(verification)?;

    verification.progress("checking kill -9");
    restarts::kills(verification, kills)?;
    verification.progress("checking SIGTERM");
    restarts::stops(verification)?;
    audit(verification);
    Ok(())
}

/// Sends the transfers one after the other. Each counts for the point of its rule, or for `point`.
fn rules(
    verification: &mut Verification<'_>,
    cases: Vec<RuleCase>,
    point: Option<Point>,
) -> Result<(), Error> {
    for RuleCase { rule, command, holds } in cases {
        let point = point.unwrap_or(rule.into());
        verification.decide(point, command, holds.then_some(rule.text()))?;
    }
    Ok(())
}

/// Checks all records together: no account has gaps, and changes and commands match.
fn audit(verification: &mut Verification<'_>) {
    let report = verification.observer.report();
    verification.findings.good(Point::Order);
    report.violations.iter().for_each(|violation| verification.fault(violation));
}
