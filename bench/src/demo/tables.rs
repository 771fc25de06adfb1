//! The figures of a demo, for people and as the last line.

use super::books::{Books, News};
use crate::measure::Latencies;
use crate::output::{self, short};
use crate::simulated_users::UserSteps;
use serde::Serialize;
use std::time::{Duration, Instant};

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
        books: &Books,
        (sum_before, sum_now): (i128, i128),
        steps: &[DemoStep],
        user_steps: &UserSteps,
    ) -> Self {
        let max = steps.iter().map(|step| step.done_per_s()).fold(0.0, f64::max);
        Self {
            commands: books.asked,
            confirmed: books.confirmed,
            failed: books.failed,
            unanswered: books.unanswered(),
            balance_sum_ok: sum_before + books.flow == sum_now && books.unanswered() == 0,
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
pub fn books_text(books: &Books, (sum_before, sum_now): (i128, i128)) -> String {
    let expected = sum_before + books.flow;
    format!(
        "{} commands: {} confirmed, {} failed, {} unanswered; {} records came again and were equal\n\
         Balances before {sum_before} + from outside {} = {expected}; in the database {sum_now}: {}\n",
        books.asked,
        books.confirmed,
        books.failed,
        books.unanswered(),
        books.repeated,
        books.flow,
        match (expected == sum_now, books.unanswered()) {
            (true, 0) => "no cent is lost",
            (false, 0) => "MONEY WAS LOST OR MADE",
            _ => "not known yet",
        },
    )
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
        if let News::Answered(latency, yes) = news {
            self.latencies.record(latency);
            self.failed += u64::from(!yes);
        }
    }

    pub fn end(&mut self, books: &Books) {
        self.took = self.started.elapsed();
        self.asked = books.asked - self.asked;
        self.waiting = books.unanswered();
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

    #[test]
    fn a_step_tells_what_was_asked_done_and_refused() {
        let mut books = Books::default();
        books.asked = 7;
        let mut step = DemoStep::new(100, books.asked);
        for _ in 0..3 {
            step.note(News::Answered(Duration::from_millis(8), true));
        }
        step.note(News::Answered(Duration::from_millis(8), false));
        step.note(News::Asked);
        step.note(News::None);
        (books.asked, books.confirmed) = (13, 11);
        step.end(&books);
        step.took = Duration::from_secs(2);
        let table = table(&[step]);
        assert_eq!(table.lines().count(), 2);
        let cells: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(cells, ["100", "3.0", "2.0", "25.0", "8.0", "8.0", "2"]);
    }
}
