//! The figures of a demo: tables and sentences for people, and the last line as JSON.

use crate::measure::Latencies;
use crate::output::{self, short};
use crate::simulated_users::UserSteps;
use observer::{News, Observer, Report, Violation};
use serde::Serialize;
use std::time::{Duration, Instant};

/// Number of violations that are printed. The others are only counted.
const VIOLATIONS_MAX: usize = 20;

/// The last line of the output.
#[derive(Serialize)]
pub struct Outcome {
    commands: u64,
    confirmed: u64,
    failed: u64,
    unanswered: u64,
    balance_sum_ok: bool,
    max_per_s: u64,
    graphql: UserOutcome,
}

/// The results of the simulated users.
#[derive(Serialize)]
struct UserOutcome {
    transfers: u64,
    heard: u64,
    timed_out: u64,
}

impl Outcome {
    pub fn new(
        report: &Report,
        balance_sum_ok: bool,
        steps: &[DemoStep],
        user_steps: &UserSteps,
    ) -> Self {
        let max = steps.iter().map(|step| step.done_per_s()).fold(0.0, f64::max);
        Self {
            commands: report.counts.commands,
            confirmed: report.counts.confirmed,
            failed: report.counts.failed,
            unanswered: report.unanswered,
            balance_sum_ok,
            max_per_s: max.round() as u64,
            graphql: UserOutcome {
                transfers: user_steps.count(),
                heard: user_steps.received(),
                timed_out: user_steps.timed_out,
            },
        }
    }
}

/// The accounts of the bank and the sum of their balances, cents.
pub fn holdings(accounts: usize, sum: i128) -> String {
    let (accounts, hold) = if accounts == 1 {
        ("1 account".to_owned(), "holds")
    } else {
        (format!("{accounts} accounts"), "hold")
    };
    format!("{accounts} {hold} {}", euros(sum))
}

/// An amount in cents as euros with thousands separators.
fn euros(cents: i128) -> String {
    let sign = if cents < 0 { "-" } else { "" };
    let whole = (cents.unsigned_abs() / 100).to_string();
    let groups: Vec<_> = whole.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    format!("{sign}{}.{:02} EUR", groups.join(","), cents.unsigned_abs() % 100)
}

/// The counts of commands and outcomes, and the check of the balances, as sentences.
pub fn report_text(report: &Report, (sum_before, sum_now): (i128, i128)) -> String {
    let (counts, inflow) = (report.counts, report.inflow);
    let expected = sum_before + inflow;
    let balances = [
        ("Sum of all balances before the load:", sum_before),
        ("Paid in from outside (cash):", inflow),
        ("Expected sum after the load:", expected),
        ("Sum in the database:", sum_now),
    ]
    .map(|(title, cents)| vec![title.to_owned(), euros(cents)]);
    format!(
        "Commands: {} ({} confirmed, {} rejected by a rule of the bank, {} unanswered)\n\
         Records replayed unchanged: {}\n\
         {}Check of the balances: {}\n",
        counts.commands,
        counts.confirmed,
        counts.failed,
        report.unanswered,
        counts.repeated + counts.commands_repeated,
        output::table(&balances),
        match (expected == sum_now, report.unanswered) {
            (true, 0) => "no cent is lost",
            (false, 0) => "MONEY WAS LOST OR CREATED",
            _ => "not checked, since commands are unanswered",
        },
    )
}

/// The violations of the contract, as sentences.
pub fn violations(report: &Report, differences: Vec<Violation>) -> Vec<String> {
    let all = report.violations.iter().chain(&differences);
    let mut texts: Vec<String> = all.map(Violation::to_string).collect();
    let more = texts.len().saturating_sub(VIOLATIONS_MAX) as u64 + report.violations_more;
    texts.truncate(VIOLATIONS_MAX);
    if more > 0 {
        texts.push(format!("and {more} more like these"));
    }
    texts
}

/// What was counted in a step of the load, or in a second of it.
pub struct DemoStep {
    /// Heartbeat records per second.
    load: u32,
    pub started: Instant,
    took: Duration,
    /// Commands in this step. Until its end: commands before it.
    commands: u64,
    failed: u64,
    pub latencies: Latencies,
    /// Commands without an outcome at the end of the step.
    unanswered: u64,
}

impl DemoStep {
    pub fn new(load: u32, observer: &Observer) -> Self {
        let (started, took) = (Instant::now(), Duration::ZERO);
        Self {
            load,
            started,
            took,
            commands: observer.counts().commands,
            failed: 0,
            latencies: Latencies::default(),
            unanswered: 0,
        }
    }

    pub fn note(&mut self, news: News) {
        if let News::Outcome(latency, confirmed) = news {
            self.latencies.record(latency);
            self.failed += u64::from(!confirmed);
        }
    }

    pub fn end(&mut self, observer: &Observer) {
        self.took = self.started.elapsed();
        self.commands = observer.counts().commands - self.commands;
        self.unanswered = observer.unanswered();
    }

    pub fn done_per_s(&self) -> f64 {
        self.latencies.count() as f64 / self.took.as_secs_f64().max(1e-9)
    }

    fn rejected_percent(&self) -> f64 {
        self.failed as f64 * 100.0 / (self.latencies.count() as f64).max(1.0)
    }

    pub fn line(&self) -> String {
        format!(
            "load {:>6}/s | commands {:>6} | answered {:>6} | rejected {:>5.1} % | \
             latency p50 {:>6} ms, p99 {:>6} ms | unanswered {}",
            self.load,
            self.commands,
            self.latencies.count(),
            self.rejected_percent(),
            short(self.latencies.percentile_ms(50.0)),
            short(self.latencies.percentile_ms(99.0)),
            self.unanswered,
        )
    }
}

/// What the simulated users measured, as sentences.
pub fn users_text(users: u32, steps: &UserSteps, url: &str) -> String {
    format!(
        "GraphQL: {users} simulated users sent {} transfers and received {} new balances.\n\
         Time until the new balance: p50 {} ms, p99 {} ms; {} took longer than 5 s\n\
         GraphiQL, while the bank runs (make up): {url}\n",
        steps.count(),
        steps.received(),
        short(steps.latencies.percentile_ms(50.0)),
        short(steps.latencies.percentile_ms(99.0)),
        steps.timed_out,
    )
}

/// The accounts of a simulated user cover its transfers, so a rejected one is an error.
pub fn users_fault(steps: &UserSteps) -> Option<String> {
    match &steps.refusal {
        Some(reason) => {
            Some(format!("{} transfers of simulated users were rejected: {reason}", steps.refused))
        }
        None if steps.received() == 0 => {
            Some("no simulated user received a new balance".to_owned())
        }
        None => None,
    }
}

pub fn table(steps: &[DemoStep]) -> String {
    let titles = [
        "load, heartbeats/s",
        "commands/s",
        "answered/s",
        "rejected, %",
        "p50, ms",
        "p99, ms",
        "unanswered",
    ];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    rows.extend(steps.iter().map(|step| {
        vec![
            step.load.to_string(),
            short(step.commands as f64 / step.took.as_secs_f64().max(1e-9)),
            short(step.done_per_s()),
            short(step.rejected_percent()),
            short(step.latencies.percentile_ms(50.0)),
            short(step.latencies.percentile_ms(99.0)),
            step.unanswered.to_string(),
        ]
    }));
    output::table(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use observer::{Accounts, History};

    #[test]
    fn euros_have_two_decimals_and_thousands_separators() {
        for (cents, text) in [
            (0, "0.00 EUR"),
            (-5, "-0.05 EUR"),
            (99_999, "999.99 EUR"),
            (100_000, "1,000.00 EUR"),
            (100_000_000_000_000_000, "1,000,000,000,000,000.00 EUR"),
        ] {
            assert_eq!(euros(cents), text);
        }
    }

    #[test]
    fn step_counts_commands_and_outcomes() {
        let observer = Observer::new(Accounts::new(), History::Settled);
        let mut step = DemoStep::new(100, &observer);
        for _ in 0..3 {
            step.note(News::Outcome(Duration::from_millis(8), true));
        }
        step.note(News::Outcome(Duration::from_millis(8), false));
        step.note(News::Command);
        step.note(News::None);
        step.end(&observer);
        (step.took, step.commands, step.unanswered) = (Duration::from_secs(2), 6, 2);
        let table = table(&[step]);
        assert_eq!(table.lines().count(), 2);
        let cells: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(cells, ["100", "3.0", "2.0", "25.0", "8.0", "8.0", "2"]);
    }
}
