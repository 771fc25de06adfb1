//! The figures of a demo, for people and as the last line.

use crate::measure::Latencies;
use crate::output::{self, short};
use crate::simulated_users::UserSteps;
use observer::{News, Observer, Report, Violation};
use serde::Serialize;
use std::time::{Duration, Instant};

/// Violations that are printed; the rest are counted.
const VIOLATIONS_MAX: usize = 20;

/// The last line.
#[derive(Serialize)]
pub struct Outcome {
    pub commands: u64,
    confirmed: u64,
    failed: u64,
    unanswered: u64,
    pub balance_sum_ok: bool,
    max_per_s: u64,
    graphql: UserOutcome,
}

/// The simulated users' part of it.
#[derive(Serialize)]
struct UserOutcome {
    transfers: u64,
    heard: u64,
    timed_out: u64,
}

impl Outcome {
    pub fn new(
        report: &Report,
        (sum_before, sum_now): (i128, i128),
        steps: &[DemoStep],
        user_steps: &UserSteps,
    ) -> Self {
        let max = steps.iter().map(|step| step.done_per_s()).fold(0.0, f64::max);
        Self {
            commands: report.counts.commands,
            confirmed: report.counts.confirmed,
            failed: report.counts.failed,
            unanswered: report.unanswered,
            balance_sum_ok: sum_before + report.inflow == sum_now && report.unanswered == 0,
            max_per_s: max.round() as u64,
            graphql: UserOutcome {
                transfers: user_steps.count(),
                heard: user_steps.latencies.count(),
                timed_out: user_steps.timed_out,
            },
        }
    }
}

/// Commands, outcomes and the sum of all balances, for people.
pub fn report_text(report: &Report, (sum_before, sum_now): (i128, i128)) -> String {
    let (counts, inflow) = (report.counts, report.inflow);
    let expected = sum_before + inflow;
    format!(
        "{} commands: {} confirmed, {} failed, {} unanswered; {} records came again and were equal\n\
         Balances before {sum_before} + from outside {inflow} = {expected}; in the database {sum_now}: {}\n",
        counts.commands,
        counts.confirmed,
        counts.failed,
        report.unanswered,
        counts.repeated + counts.commands_repeated,
        match (expected == sum_now, report.unanswered) {
            (true, 0) => "no cent is lost",
            (false, 0) => "MONEY WAS LOST OR MADE",
            _ => "not known yet",
        },
    )
}

/// What is wrong, in words.
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

/// What happened in a step of load, or in a second of it.
pub struct DemoStep {
    /// Beats per second.
    load: u32,
    pub started: Instant,
    took: Duration,
    /// Commands; until its end, those before it.
    asked: u64,
    failed: u64,
    latencies: Latencies,
    /// Commands without outcome at its end.
    waiting: u64,
}

impl DemoStep {
    pub fn new(load: u32, asked: u64) -> Self {
        let (started, took) = (Instant::now(), Duration::ZERO);
        Self { load, started, took, asked, failed: 0, latencies: Latencies::default(), waiting: 0 }
    }

    pub fn note(&mut self, news: News) {
        if let News::Outcome(latency, confirmed) = news {
            self.latencies.record(latency);
            self.failed += u64::from(!confirmed);
        }
    }

    pub fn end(&mut self, observer: &Observer) {
        self.took = self.started.elapsed();
        self.asked = observer.counts().commands - self.asked;
        self.waiting = observer.unanswered();
    }

    pub fn done_per_s(&self) -> f64 {
        self.latencies.count() as f64 / self.took.as_secs_f64().max(1e-9)
    }

    fn rejected_percent(&self) -> f64 {
        self.failed as f64 * 100.0 / (self.latencies.count() as f64).max(1.0)
    }

    pub fn line(&self) -> String {
        format!(
            "{:>6}/s  commands {:>6}  done {:>6}  rejected {:>5.1} %  p50 {:>6} ms  p99 {:>6} ms  waiting {}",
            self.load,
            self.asked,
            self.latencies.count(),
            self.rejected_percent(),
            short(self.latencies.percentile_ms(50.0)),
            short(self.latencies.percentile_ms(99.0)),
            self.waiting,
        )
    }
}

/// What the simulated users saw, for people.
pub fn users_text(users: u32, steps: &UserSteps, url: &str) -> String {
    format!(
        "Through GraphQL {users} simulated users opened accounts and sent {} transfers: {} new balances arrived, p50 {} ms, \
         p99 {} ms; {} took more than 5 s\n\
         GraphiQL, while the bank runs (make up): {url}\n",
        steps.count(),
        steps.latencies.count(),
        short(steps.latencies.percentile_ms(50.0)),
        short(steps.latencies.percentile_ms(99.0)),
        steps.timed_out,
    )
}

/// A user's cycle is covered by the money on the account, so there is no reason to reject any of
/// it.
pub fn users_fault(steps: &UserSteps) -> Option<String> {
    match &steps.refusal {
        Some(reason) => {
            Some(format!("{} transfers of simulated users were rejected: {reason}", steps.refused))
        }
        None if steps.latencies.count() == 0 => {
            Some("no new balance arrived at a simulated user".to_owned())
        }
        None => None,
    }
}

pub fn table(steps: &[DemoStep]) -> String {
    let titles = ["load/s", "commands/s", "done/s", "rejected %", "p50 ms", "p99 ms", "waiting"];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    rows.extend(steps.iter().map(|step| {
        vec![
            step.load.to_string(),
            short(step.asked as f64 / step.took.as_secs_f64().max(1e-9)),
            short(step.done_per_s()),
            short(step.rejected_percent()),
            short(step.latencies.percentile_ms(50.0)),
            short(step.latencies.percentile_ms(99.0)),
            step.waiting.to_string(),
        ]
    }));
    output::table(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use observer::{Accounts, History};

    #[test]
    fn step_counts_commands_and_outcomes() {
        let mut step = DemoStep::new(100, 0);
        for _ in 0..3 {
            step.note(News::Outcome(Duration::from_millis(8), true));
        }
        step.note(News::Outcome(Duration::from_millis(8), false));
        step.note(News::Command);
        step.note(News::None);
        step.end(&Observer::new(Accounts::new(), History::Settled));
        (step.took, step.asked, step.waiting) = (Duration::from_secs(2), 6, 2);
        let table = table(&[step]);
        assert_eq!(table.lines().count(), 2);
        let cells: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(cells, ["100", "3.0", "2.0", "25.0", "8.0", "8.0", "2"]);
    }
}
