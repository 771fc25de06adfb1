//! The running bank under load from heartbeat records and simulated users, and its check at the
//! end.

use super::tables::{holdings, report_text, users_fault, users_text, violations};
use crate::control::{HEARTBEAT_URL, Heartbeat};
use crate::error::Error;
use crate::graphql::GRAPHQL_URL;
use crate::observed_bank::{BALANCE_DATABASE_URL, ObservedBank, balances, sum, wait_until_idle};
use crate::output;
use crate::simulated_users::{Driver, SimulatedUsers, UserSteps};
use crate::start::Start;
use crate::topic_reader::Cluster;
use messaging::KafkaClient;
use observer::Report;
use postgres::{Client, NoTls};
use service::shutdown::Shutdown;
use std::time::Instant;

/// The bank, whose records are all read and checked.
pub struct LoadedBank {
    pub observed: ObservedBank,
    pub heartbeat: Heartbeat,
    /// A connection to balancedb.
    pub database: Client,
    kafka_client: Box<dyn KafkaClient>,
    users: SimulatedUsers,
    user_count: u32,
    user_steps: UserSteps,
    graphql_url: String,
    sum_before: i128,
    shutdown: Shutdown,
}

/// The bank after the load.
pub struct CheckedBank {
    pub report: Report,
    /// Sums of all balances before and after the load, cents.
    pub sums: (i128, i128),
    pub user_steps: UserSteps,
    /// Empty if the bank has kept its contract.
    pub faults: Vec<String>,
    users_text: String,
}

impl LoadedBank {
    /// Waits until the bank is idle. Then starts to read, and starts `users` simulated users.
    pub fn start(start: &Start<'_>, cluster: &Cluster, users: u32) -> Result<Self, Error> {
        let url: postgres::Config = start
            .env
            .parse(&BALANCE_DATABASE_URL, "postgres://user:password@host:port/database")?;
        let heartbeat = Heartbeat::new(&start.env.text(&HEARTBEAT_URL)?);
        let graphql_url = start.env.text(&GRAPHQL_URL)?;
        let mut database = url
            .connect(NoTls)
            .map_err(|source| Error::Database { step: "connect to balancedb", source })?;
        let mut kafka_client = cluster.kafka_client();
        heartbeat.set_load(0)?;
        let (ends, before) = wait_until_idle(&mut *kafka_client, &mut database, &start.shutdown)?;
        let sum_before = sum(&before);
        output::progress(&format!("Before the load, {}", holdings(before.len(), sum_before)));
        let observed = ObservedBank::start(cluster, &ends, before);
        let driver = Driver::Graphql(graphql_url.clone());
        Ok(Self {
            observed,
            heartbeat,
            database,
            kafka_client,
            users: SimulatedUsers::start(&driver, users, cluster, &start.shutdown)?,
            user_count: users,
            user_steps: UserSteps::default(),
            graphql_url,
            sum_before,
            shutdown: start.shutdown.clone(),
        })
    }

    /// The steps of users that have ended since the last call.
    pub fn user_steps(&mut self) -> Result<UserSteps, Error> {
        let mut steps = UserSteps::default();
        for step in self.users.steps(Instant::now())? {
            steps.note(&step);
            self.user_steps.note(&step);
        }
        Ok(steps)
    }

    /// Stops the load, which ended with the result `loaded`. Waits until all commands are answered,
    /// and checks the bank.
    pub fn finish(mut self, loaded: Result<(), Error>) -> Result<CheckedBank, Error> {
        // The load ends even if reading failed.
        self.heartbeat.set_load(0)?;
        loaded?;
        let mut user_steps = self.user_steps;
        self.users.stop()?.iter().for_each(|step| user_steps.note(step));
        self.observed.finish(&mut *self.kafka_client, &self.shutdown)?;
        let after = balances(&mut self.database)?;
        let observer = &mut self.observed.observer;
        let report = observer.report();
        let mut faults = match report.unanswered {
            0 => violations(&report, observer.differences(&after)),
            // The command-handler has not decided all commands, so the balances still change.
            _ => vec!["some commands are unanswered, so the balances can't be compared".to_owned()],
        };
        if report.counts.dead_letters > 0 {
            let count = report.counts.dead_letters;
            faults.push(format!("{count} records were written to dead_letter"));
        }
        faults.extend(users_fault(&user_steps));
        Ok(CheckedBank {
            report,
            sums: (self.sum_before, sum(&after)),
            users_text: users_text(self.user_count, &user_steps, &self.graphql_url),
            user_steps,
            faults,
        })
    }
}

impl CheckedBank {
    /// The result of the check, as sentences.
    pub fn text(&self) -> String {
        let mut text = report_text(&self.report, self.sums) + &self.users_text;
        for fault in &self.faults {
            text += &format!("CHECK FAILED: {fault}\n");
        }
        text
    }

    /// True if no cent was lost or made, all commands were answered, and there is no other fault.
    pub fn is_right(&self) -> bool {
        self.is_sum_right() && self.faults.is_empty() && self.report.counts.commands > 0
    }

    /// True if no cent was lost or made, and all commands were answered.
    pub fn is_sum_right(&self) -> bool {
        let (before, after) = self.sums;
        before + self.report.inflow == after && self.report.unanswered == 0
    }
}
