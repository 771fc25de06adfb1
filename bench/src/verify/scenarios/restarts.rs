//! kill -9 under load, and SIGTERM.

use super::replays::replays;
use crate::error::Error;
use crate::verify::findings::Point;
use crate::verify::verification::{OUTCOME_TIMEOUT, Verification, answered_of};
use observer::Outcome;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// Accounts with transfers between them while the handler is killed.
const PAYERS: usize = 20;
/// Deposit in each of them.
const PAYERS_CENTS: i64 = 1_000_000_000;

/// Number of kills and the load of each.
#[derive(Debug, Clone, Copy)]
pub struct Kills {
    /// Number of kills.
    pub count: usize,
    /// Transfers sent before each kill.
    pub transfers: usize,
}

impl Default for Kills {
    fn default() -> Self {
        Self { count: 3, transfers: 2000 }
    }
}

pub fn kills(verification: &mut Verification<'_>, kills: Kills) -> Result<(), Error> {
    let payers = verification.open_accounts(PAYERS)?;
    if payers.len() < 2 {
        return Ok(());
    }
    let deposits: Vec<_> = payers.iter().map(|payer| payer.gets(PAYERS_CENTS)).collect();
    verification.order(&deposits)?;
    verification.wait(|it| it.are_answered(&deposits))?;

    let mut rng = SmallRng::seed_from_u64(1);
    let mut all = Vec::new();
    let mut amid = 0;
    for kill in 0..kills.count {
        let count = kills.transfers;
        // The first kill is at once, the last one when half of the transfers are answered.
        let answers = (count * kill / kills.count / 2).max(1);
        let orders: Vec<_> = (0..count)
            .map(|_| {
                let from = rng.random_range(0..payers.len());
                let to = (from + rng.random_range(1..payers.len())) % payers.len();
                payers[from].pays(rng.random_range(1..=1000), &payers[to].iban)
            })
            .collect();
        verification.order(&orders)?;
        verification.wait(|it| answered_of(it, &orders) >= answers)?;
        if let Some(process) = &mut verification.process {
            process.kill();
        }
        verification.read()?;
        amid += usize::from(answered_of(verification, &orders) < count);
        all.extend(orders);
        if !verification.start(false)? {
            verification.findings.fault(Point::Kills, "the handler does not restart".to_owned());
            return Ok(());
        }
    }
    verification.progress(&format!("{amid} of {} kills hit unanswered commands", kills.count));
    verification.wait(|it| it.are_answered(&all))?;
    for order in &all {
        let answered = verification.is_answered(order.id);
        let case = match verification.observer.outcome_of(order.id) {
            Some(Outcome::Confirmed) if answered => Ok(()),
            Some(Outcome::Confirmed) => Err(format!("{order:?}: some changes were not published")),
            outcome => Err(format!("{order:?}: {outcome:?}")),
        };
        verification.findings.note(Point::Kills, case);
    }
    verification.outcome_timeout = OUTCOME_TIMEOUT;
    verification.balances(&payers, Point::Kills)?;
    replays(verification, &payers[..2])
}

pub fn stops(verification: &mut Verification<'_>) -> Result<(), Error> {
    let Some(account) = verification.open_accounts(1)?.pop() else { return Ok(()) };
    let mut orders = Vec::new();
    // First under load, then without.
    for count in [500, 0] {
        let more: Vec<_> = (0..count).map(|_| account.gets(1)).collect();
        verification.order(&more)?;
        orders.extend(more);
        verification.wait(|it| answered_of(it, &orders) > 0)?;
        let repeats = verification.observer.counts().repeated;
        let Some(process) = &mut verification.process else { return Ok(()) };
        let case = match process.terminate()? {
            None => Err("the handler still runs after SIGTERM".to_owned()),
            Some((end, _)) if end.code() != Some(0) => Err(format!("the handler ended with {end}")),
            Some(_) => Ok(()),
        };
        verification.findings.note(Point::Stops, case);
        if !verification.start(false)? {
            verification.findings.fault(Point::Stops, "the handler does not restart".to_owned());
            return Ok(());
        }
        let all = verification.wait(|it| it.are_answered(&orders))?;
        let fault = || "some commands are unanswered after the restart".to_owned();
        verification.findings.note(Point::Stops, all.then_some(()).ok_or_else(fault));
        verification.outcome_timeout = OUTCOME_TIMEOUT;
        verification.settle(&account)?;
        let again = verification.observer.counts().repeated - repeats;
        let case = if count > 0 || again == 0 {
            Ok(())
        } else {
            Err(format!("{again} records were published again after a shutdown without load"))
        };
        verification.findings.note(Point::Stops, case);
    }
    verification.balances(&[account], Point::Stops)
}
