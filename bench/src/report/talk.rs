//! The talk's results of 2019.

use super::rows::CsvTable;
use crate::error::Error;
use std::collections::BTreeMap;

/// The talk's results as published by its project, in CSV format.
pub const TALK: &str = include_str!("../../../docs/talk-2019.csv");

/// The talk's results by implementation.
pub struct Talk {
    /// Title of each implementation, and its rows.
    pub implementations: Vec<(&'static str, Vec<TalkRow>)>,
}

/// A row of the talk: values by column title.
pub struct TalkRow(BTreeMap<String, f64>);

impl TalkRow {
    /// The value in the column `title`.
    pub fn number(&self, title: &str) -> Option<f64> {
        self.0.get(title).copied()
    }
}

/// Name in the CSV file, title, and the highest load of ten runs: mean and best, from the talk's
/// text.
pub const TALKED_OF: [(&str, &str, f64, f64); 4] = [
    ("clojure", "Clojure, 2019", 287.0, 310.0),
    ("kotlin", "Kotlin, 2019", 292.0, 330.0),
    ("rust-rdkafka", "Rust, rdkafka, 2019", 234.0, 260.0),
    ("rust-kafka", "Rust, kafka, 2019", 195.0, 220.0),
];

impl Talk {
    /// Parses [`TALK`].
    pub fn read() -> Result<Self, Error> {
        let table = CsvTable::parse("docs/talk-2019.csv".into(), TALK.to_owned())?;
        let titles =
            ["samples", "latency_mean_ms", "latency_stderr_ms", "latency_min_ms", "latency_max_ms"];
        let parts = ["db", "handler", "broker", "graphql"];
        let parts =
            parts.iter().flat_map(|part| [format!("{part}_cpu_pct"), format!("{part}_mem_mib")]);
        let titles: Vec<String> = titles
            .map(str::to_owned)
            .into_iter()
            .chain(parts)
            .chain(["load_msg_s".to_owned()])
            .collect();
        let implementations = TALKED_OF.iter().map(|(name, title, ..)| {
            let rows =
                table.rows().filter(|row| row.text("implementation").is_ok_and(|it| it == *name));
            let rows = rows.map(|row| {
                // A cell is empty if the talk's sampling failed.
                let number =
                    |title: &String| Ok(row.number_if_any(title)?.map(|it| (title.clone(), it)));
                let numbers = titles.iter().map(number).collect::<Result<Vec<_>, Error>>();
                numbers.map(|numbers| TalkRow(numbers.into_iter().flatten().collect()))
            });
            Ok((*title, rows.collect::<Result<_, Error>>()?))
        });
        Ok(Self { implementations: implementations.collect::<Result<_, Error>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn talk_has_four_implementations() {
        let talk = Talk::read().unwrap();
        let rows: Vec<usize> = talk.implementations.iter().map(|(_, rows)| rows.len()).collect();
        assert_eq!(rows, [32, 34, 27, 23]);
        let (_, pure_rust) = &talk.implementations[3];
        assert_eq!(pure_rust[0].number("load_msg_s"), Some(0.0));
        assert!((300.0..350.0).contains(&pure_rust[0].number("latency_mean_ms").unwrap()));
    }
}
