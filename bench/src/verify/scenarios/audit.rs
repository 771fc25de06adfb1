//! All records of a verification once more.

use crate::verify::findings::Point;
use crate::verify::verification::Verification;
use crate::verify::witness::Answer;
use bank::records::ConfirmMoneyTransfer;
use std::collections::HashMap;
use uuid::Uuid;

/// All records once more: no account has a gap, no change without its order, no order without its
/// changes.
pub fn audit(verification: &mut Verification<'_>) {
    let ibans: Vec<String> = verification.known.iter().cloned().collect();
    for iban in &ibans {
        let chain = verification.chain(iban);
        verification.findings.note(Point::Order, chain);
    }
    let mut orders: HashMap<Uuid, &ConfirmMoneyTransfer> = HashMap::new();
    for order in &verification.ordered {
        orders.entry(order.id).or_insert(order);
    }
    let mut faults = Vec::new();
    for (id, order) in &orders {
        let told = verification.witness.told(*id);
        let moved = told.is_some_and(|told| told.answer == Some(Answer::Moved));
        let changes = told.into_iter().flat_map(|told| told.changes.values());
        let mut found: Vec<(&str, i64, &str)> = changes
            .map(|(it, _)| (it.iban.as_str(), it.changed_by.get(), it.from_to.as_str()))
            .collect();
        let mut wanted: Vec<(&str, i64, &str)> =
            if moved { verification.sides(order).collect() } else { Vec::new() };
        found.sort_unstable();
        wanted.sort_unstable();
        if found != wanted {
            faults.push(format!("transfer {id} changed {found:?}, not {wanted:?}"));
        }
    }
    for iban in &ibans {
        let stray = verification.witness.changes(iban);
        let stray = stray.filter(|it| !it.transfer_id.is_some_and(|id| orders.contains_key(&id)));
        faults.extend(stray.map(|it| format!("nobody ordered {it:?}")));
    }
    for fault in faults {
        verification.findings.fault(Point::Changes, fault);
    }
}
