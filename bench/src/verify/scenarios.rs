//! The scenarios of a verification, in their order.

mod audit;
mod replays;
mod restarts;
mod rules;
mod undecodable;

pub use self::restarts::Kills;
use super::findings::{Findings, Point};
use super::verification::Verification;
use crate::error::Error;

/// Puts the handler of `verification` through everything.
pub fn run(mut verification: Verification<'_>, kills: Kills) -> Result<Findings, Error> {
    if verification.start(true)? {
        all(&mut verification, kills)?;
    }
    Ok(verification.findings)
}

fn all(verification: &mut Verification<'_>, kills: Kills) -> Result<(), Error> {
    verification.say("accounts and rules");
    let accounts = verification.open_accounts(6)?;
    let [a, b, .., rich, poor] = &accounts[..] else {
        // Without accounts nothing more can be asked.
        return Ok(());
    };
    rules::rules(verification, [a, b], poor)?;
    rules::limits(verification, rich, a)?;
    rules::precedence(verification, rich, a)?;
    let disordered = std::mem::take(&mut verification.witness.disordered);
    let ordered = if disordered.is_empty() { Ok(()) } else { Err(disordered.join("; ")) };
    verification.findings.note(Point::Order, ordered);

    verification.say("replays");
    replays::twins(verification, a)?;
    replays::replays(verification, &[a.clone(), b.clone()])?;
    verification.say("undecodable records");
    undecodable::undecodable(verification, a)?;
    undecodable::offsets(verification)?;

    verification.say("kill -9");
    restarts::kills(verification, kills)?;
    verification.say("SIGTERM");
    restarts::stops(verification)?;
    audit::audit(verification);
    Ok(())
}
