//! Reads the outcomes of the commands of a run.

use crate::accounts::wait_for;
use crate::error::Error;
use crate::ids::Ids;
use crate::ledger::{Ledger, Mark};
use crate::topic_reader::{Cluster, TopicReader};
use bank::money::Cents;
use bank::records::{BalanceChanged, MoneyTransferConfirmed, MoneyTransferFailed};
use service::shutdown::Shutdown;
use std::time::{Duration, Instant};

/// Reads outcomes from the topics and enters them in the ledger.
pub struct Answers {
    ids: Ids,
    changed: TopicReader<BalanceChanged>,
    failed: TopicReader<MoneyTransferFailed>,
    /// Only read between steps, so that reading it is not measured.
    confirmed: TopicReader<MoneyTransferConfirmed>,
    /// All commands of the run, by number.
    pub ledger: Ledger,
    /// Commands that the bank rejected.
    pub refused: u64,
}

impl Answers {
    /// Starts at the current end of each topic.
    pub fn open(cluster: &Cluster, ids: Ids) -> Result<Self, Error> {
        Ok(Self {
            ids,
            changed: TopicReader::from_end(cluster)?,
            failed: TopicReader::from_end(cluster)?,
            confirmed: TopicReader::from_end(cluster)?,
            ledger: Ledger::default(),
            refused: 0,
        })
    }

    /// Waits at most `wait` for balance changes. Appends the numbers of the commands that are now
    /// answered to `answered`. Returns when the changes were read.
    pub fn poll(&mut self, wait: Duration, answered: &mut Vec<u64>) -> Result<Instant, Error> {
        let Self { ids, ledger, .. } = self;
        let read = self.changed.poll(wait, |changed| {
            let Some(number) = changed.transfer_id.and_then(|id| ids.number(&id)) else { return };
            let mark = if changed.changed_by < Cents::ZERO { Mark::Paid } else { Mark::Got };
            if ledger.note(number, mark) {
                answered.push(number);
            }
        })?;
        self.failed.poll(Duration::ZERO, |failed| {
            let Some(number) = ids.number(&failed.id) else { return };
            if ledger.note(number, Mark::Failed) {
                self.refused += 1;
                answered.push(number);
            }
        })?;
        Ok(read)
    }

    /// Reads until every command from `first` on has exactly one outcome, or until nothing has come
    /// for 10 s. Returns the number of commands without exactly one outcome.
    pub fn settle(&mut self, first: u64, shutdown: &Shutdown) -> Result<u64, Error> {
        const QUIET: Duration = Duration::from_secs(10);
        let (mut left, mut news_at) = (u64::MAX, Instant::now());
        let mut completed = Vec::new();
        loop {
            self.poll(Duration::ZERO, &mut completed)?;
            let Self { ids, ledger, .. } = self;
            self.confirmed.poll(Duration::from_millis(20), |confirmed| {
                if let Some(number) = ids.number(&confirmed.id) {
                    ledger.note(number, Mark::Confirmed);
                }
            })?;
            let now = self.ledger.unsettled(first);
            if now < left {
                (left, news_at) = (now, Instant::now());
            }
            if left == 0 || news_at.elapsed() > QUIET {
                return Ok(left);
            }
            wait_for(&news_at, "waiting for outcomes", shutdown)?;
        }
    }
}
