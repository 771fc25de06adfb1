//! What happened in each second of a scenario, as a graph and a CSV file.

use crate::error::Error;
use crate::output::{Csv, rounded};
use crate::report::plot::{Hue, Plot, Point, Scale, Series, column, lines};
use postgres::{Client, NoTls};
use service::shutdown::Shutdown;
use std::fs;
use std::path::Path;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

/// Width of a row.
const SECOND: Duration = Duration::from_secs(1);

/// A row for each second since the start.
pub struct Timeline {
    start: Instant,
    rows: Vec<Row>,
    /// Seconds of the first and last fault.
    pub faults: (f64, f64),
}

#[derive(Debug, Clone, Copy, Default)]
struct Row {
    /// Commands answered.
    answered: u32,
    /// Longest time that a client waited for an answer that came in this second.
    longest: Duration,
    /// Sum of all balances without what came from outside, minus the initial sum, cents.
    sum: Option<i64>,
}

impl Timeline {
    pub fn new(start: Instant) -> Self {
        Self { start, rows: Vec::new(), faults: (0.0, 0.0) }
    }

    /// Seconds since the start.
    pub fn seconds(&self, at: Instant) -> f64 {
        at.saturating_duration_since(self.start).as_secs_f64()
    }

    fn row(&mut self, at: Instant) -> &mut Row {
        let second = self.seconds(at) as usize;
        if self.rows.len() <= second {
            self.rows.resize(second + 1, Row::default());
        }
        &mut self.rows[second]
    }

    pub fn note_outcome(&mut self, at: Instant) {
        self.row(at).answered += 1;
    }

    pub fn note_answer(&mut self, sent: Instant, answered: Instant) {
        let row = self.row(answered);
        row.longest = row.longest.max(answered - sent);
    }

    pub fn note_sum(&mut self, at: Instant, cents: i64) {
        self.row(at).sum = Some(cents);
    }

    /// Writes chaos-NAME.svg and chaos-NAME.csv to `folder`.
    pub fn write(&self, folder: &Path, name: &str, seed: u64) -> Result<(), Error> {
        let columns = "second,answered_per_s,longest_wait_ms,sum_cents";
        let path = folder.join(format!("chaos-{name}.csv"));
        let settings = [("seed", seed.to_string())];
        let mut csv = Csv::create_at(path, &format!("chaos {name}"), &settings, columns)?;
        for (second, row) in self.rows.iter().enumerate() {
            let longest = rounded(row.longest.as_secs_f64() * 1000.0);
            let sum = row.sum.map(|sum| sum.to_string()).unwrap_or_default();
            csv.line(&format!("{second},{},{longest},{sum}", row.answered))?;
        }
        let path = folder.join(format!("chaos-{name}.svg"));
        fs::write(&path, self.svg(name)).map_err(|source| Error::Csv { path, source })
    }

    fn svg(&self, name: &str) -> String {
        let graph = |title: &str, unit: &str, value: &dyn Fn(&Row) -> Option<f64>| {
            let point = |(second, row): (u32, &Row)| {
                value(row).map(|y| Point { x: f64::from(second), y, range: None })
            };
            let points = (0..).zip(&self.rows).filter_map(point).collect();
            lines(&Plot {
                title: format!("{name}: {title}"),
                description: "The background shows the time from the first to the last fault."
                    .to_owned(),
                x: ("seconds".to_owned(), Scale::Linear),
                y: (unit.to_owned(), Scale::Linear),
                series: vec![Series { name: title.to_owned(), hue: Hue::Own(1), points }],
                marks: Vec::new(),
                band: Some(self.faults),
            })
        };
        column(&[
            graph("answered commands", "commands/s", &|row| Some(f64::from(row.answered))),
            graph("longest wait", "ms", &|row| Some(row.longest.as_secs_f64() * 1000.0)),
            graph("cents lost or made", "cents", &|row| row.sum.map(|it| it.abs() as f64)),
        ])
    }
}

/// The sum of all balances, minus the initial sum and what has come from outside the bank, cents.
/// It is 0 at any time.
const SUM: &str = "SELECT ((SELECT sum(balance) FROM account) - $1::text::numeric
     - coalesce(sum(amount) FILTER (WHERE from_sequence IS NULL), 0)
     + coalesce(sum(amount) FILTER (WHERE to_sequence IS NULL), 0))::bigint
     FROM transfer WHERE reason IS NULL";

/// Reads [`SUM`] once a second until `stop`, and connects again after each error.
pub fn watch_sum(url: &str, stop: &Shutdown, sums: &Sender<(Instant, i64)>) {
    let mut client: Option<Client> = None;
    let initial = observer::model::COMPANY_CENTS.to_string();
    while !stop.wait(SECOND) {
        if client.is_none() {
            client = Client::connect(url, NoTls).ok();
        }
        let row = client.as_mut().and_then(|client| client.query_one(SUM, &[&initial]).ok());
        match row {
            Some(row) => drop(sums.send((Instant::now(), row.get(0)))),
            None => client = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_seconds_since_the_start() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut timeline = Timeline::new(start);
        timeline.faults = (0.5, 1.5);
        timeline.note_outcome(at(100));
        timeline.note_outcome(at(2_900));
        timeline.note_answer(at(100), at(2_100));
        timeline.note_answer(at(2_000), at(2_200));
        timeline.note_sum(at(1_000), 0);
        let answered: Vec<u32> = timeline.rows.iter().map(|row| row.answered).collect();
        assert_eq!(answered, [1, 0, 1]);
        assert_eq!(timeline.rows[2].longest, Duration::from_secs(2));
        assert_eq!(timeline.rows[1].sum, Some(0));
        assert_eq!(timeline.svg("name").matches("class=\"band\"").count(), 3);
    }
}
