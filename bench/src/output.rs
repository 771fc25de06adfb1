//! Output of a command: progress on stderr, results on stdout, raw rows in CSV files.

use crate::error::Error;
use crate::proc;
use serde::Serialize;
use serde_json::Number;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

/// Writes results to stdout; a closed stdout is ignored.
pub fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

/// Writes a line of progress to stderr.
pub fn progress(line: &str) {
    eprintln!("{line}");
}

/// A CSV file with the raw rows of a run. Each row is written at once. The header describes the
/// run.
pub struct Csv {
    path: PathBuf,
    file: File,
}

impl Csv {
    /// Creates `<folder>/<run>-<time>.csv`. The header lists `settings` as NAME=value.
    pub fn create(
        folder: &Path,
        run: &str,
        settings: &[(&str, String)],
        columns: &str,
    ) -> Result<Self, Error> {
        let path = folder.join(format!("{run}-{}.csv", now_in_name()));
        Self::create_at(path, run, settings, columns)
    }

    /// Creates `path` and its folder.
    pub fn create_at(
        path: PathBuf,
        run: &str,
        settings: &[(&str, String)],
        columns: &str,
    ) -> Result<Self, Error> {
        let failed = |source| Error::Csv { path: path.clone(), source };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let file = File::create(&path).map_err(failed)?;
        let mut csv = Self { path, file };
        let settings: Vec<String> =
            settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
        for (name, value) in [
            ("run", run.to_owned()),
            ("date", now()),
            ("commit", commit()),
            ("machine", proc::machine()),
            ("settings", settings.join(" ")),
        ] {
            csv.line(&format!("# {name}: {value}"))?;
        }
        csv.line(columns)?;
        Ok(csv)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn line(&mut self, line: &str) -> Result<(), Error> {
        writeln!(self.file, "{line}")
            .map_err(|source| Error::Csv { path: self.path.clone(), source })
    }
}

fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

/// The current time as a part of a file name; names sort by time.
pub fn now_in_name() -> String {
    now().replace(':', "")
}

/// The commit that is checked out, marked if files have changed since.
pub fn commit() -> String {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "HEAD"]) else { return "unknown".to_owned() };
    match git(&["status", "--porcelain", "--untracked-files=no"]) {
        Some(changes) if !changes.is_empty() => commit + " (changed)",
        _ => commit,
    }
}

/// Aligns columns: the first to the left, the others to the right.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            line +=
                &if column == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// Wraps a Markdown paragraph at 100 columns; later lines begin with `indent`.
pub fn wrap(text: &str, indent: &str) -> String {
    let (mut wrapped, mut columns) = (String::new(), 0);
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if columns > 0 && columns + 1 + length > 100 {
            wrapped.push('\n');
            wrapped += indent;
            columns = indent.len();
        } else if columns > 0 {
            wrapped.push(' ');
            columns += 1;
        }
        wrapped += word;
        columns += length;
    }
    wrapped.push('\n');
    wrapped
}

/// A number with two or three significant digits, or without decimals: `0.27`, `8.3`, `1240`.
pub fn short(number: f64) -> String {
    match number.abs() {
        size if size < 1.0 => format!("{number:.2}"),
        size if size < 100.0 => format!("{number:.1}"),
        _ => format!("{number:.0}"),
    }
}

/// Rounds to four decimals, without trailing zeros; empty for NaN and infinity.
pub fn rounded(number: f64) -> String {
    if number.is_finite() { ((number * 1e4).round() / 1e4).to_string() } else { String::new() }
}

/// Converts bytes to MiB.
pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// A JSON number, rounded to `digits` decimals; `null` if it was not measured.
pub fn figure(number: Option<f64>, digits: i32) -> Option<Number> {
    let unit = 10f64.powi(digits);
    let number = (number? * unit).round() / unit;
    if number.fract() == 0.0 { Number::from_i128(number as i128) } else { Number::from_f64(number) }
}

/// Writes the last line of results, which is JSON for scripts.
pub fn print_json(figures: &impl Serialize) {
    print(&format!("{}\n", to_json(figures)));
}

/// `figures` as a line of JSON.
pub fn to_json(figures: &impl Serialize) -> String {
    serde_json::to_string(figures).expect("keys are strings, and no figure fails to serialize")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["mode", "p50"], vec!["batched", "1"], vec!["x", "µ 100"]];
        let rows = rows.map(|row| row.into_iter().map(str::to_owned).collect());
        assert_eq!(table(&rows), "mode       p50\nbatched      1\nx        µ 100\n");
        assert_eq!(table(&[]), "");
    }

    #[test]
    fn paragraph_is_wrapped_at_100_columns() {
        let word = "x".repeat(49);
        assert_eq!(wrap(&format!("- {word} {word}"), "  "), format!("- {word}\n  {word}\n"));
        assert_eq!(wrap(&format!("{word} {word} a"), ""), format!("{word} {word}\na\n"));
        let exact = "y".repeat(100);
        assert_eq!(wrap(&format!("{exact} a"), ""), format!("{exact}\na\n"));
    }

    #[test]
    fn numbers_are_rounded_and_missing_ones_are_null() {
        assert_eq!([0.266, 8.26, 99.96, 1240.4].map(short), ["0.27", "8.3", "100.0", "1240"]);
        let figures = [Some(8.26), Some(20_000.0), None, Some(f64::NAN)].map(|it| figure(it, 1));
        assert_eq!(to_json(&figures), "[8.3,20000,null,null]");
        assert_eq!(to_json(&figure(Some(0.1004), 3)), "0.1");
    }

    #[test]
    fn header_describes_the_run() {
        let folder = std::env::temp_dir().join(format!("bench-csv-{}", std::process::id()));
        let settings = [("ACCOUNTS", "9".to_owned()), ("STEP_S", "8".to_owned())];
        let mut csv = Csv::create(&folder, "probe", &settings, "a,b").unwrap();
        csv.line("1,2").unwrap();
        let text = fs::read_to_string(csv.path()).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        let (comments, rows): (Vec<&str>, Vec<&str>) =
            text.lines().partition(|line| line.starts_with("# "));
        assert_eq!(rows, ["a,b", "1,2"]);
        for part in [
            "# run: probe",
            "# date: 2",
            "# commit: ",
            " cores, ",
            "# settings: ACCOUNTS=9 STEP_S=8",
        ] {
            assert!(comments.iter().any(|line| line.contains(part)), "{part} in {text}");
        }
    }

    #[test]
    fn unwritable_path_is_named_in_the_error() {
        let err = Csv::create(Path::new("/dev/null/x"), "probe", &[], "").err().unwrap();
        assert!(err.to_string().contains("/dev/null/x/probe-"), "{err}");
    }
}
