//! Reads the CSV files of `bench run`: column titles and rows, with `# name: value` lines between.

use crate::error::Error;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub struct CsvTable {
    path: PathBuf,
    /// Name of the folder of the file.
    pub session: String,
    /// Content of the file.
    pub text: String,
    /// The `# name: value` lines.
    pub header: HashMap<String, String>,
    titles: HashMap<String, usize>,
    /// The number of each line, and its cells.
    rows: Vec<(usize, Vec<String>)>,
}

#[derive(Clone, Copy)]
pub struct CsvRow<'a> {
    table: &'a CsvTable,
    line: usize,
    cells: &'a [String],
}

impl CsvTable {
    /// All CSV files in `folder`, sorted by name.
    pub fn all_in(folder: &Path) -> Result<Vec<Self>, Error> {
        let failed = |source| Error::Read { path: folder.to_owned(), source };
        let mut paths = Vec::new();
        for entry in fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|extension| extension == "csv") {
                paths.push(path);
            }
        }
        paths.sort();
        if paths.is_empty() {
            return Err(Error::Bank(format!("no rows in {}", folder.display())));
        }
        paths.into_iter().map(Self::read).collect()
    }

    fn read(path: PathBuf) -> Result<Self, Error> {
        let text = fs::read_to_string(&path)
            .map_err(|source| Error::Read { path: path.clone(), source })?;
        Self::parse(path, text)
    }

    /// Parses the content of a file.
    pub fn parse(path: PathBuf, text: String) -> Result<Self, Error> {
        let session = path.parent().and_then(Path::file_name);
        let session = session.map_or(String::new(), |name| name.to_string_lossy().into_owned());
        let mut header = HashMap::new();
        let (mut titles, mut rows) = (None::<HashMap<String, usize>>, Vec::new());
        for (number, line) in (1..).zip(text.lines()) {
            if let Some(comment) = line.strip_prefix("# ") {
                if let Some((name, value)) = comment.split_once(": ") {
                    header.insert(name.to_owned(), value.to_owned());
                }
                continue;
            }
            let cells: Vec<String> = line.split(',').map(str::to_owned).collect();
            match &titles {
                None => titles = Some(cells.into_iter().zip(0..).collect()),
                Some(titles) if titles.len() == cells.len() => rows.push((number, cells)),
                Some(_) => {
                    let what = "as many cells as titles";
                    return Err(Error::Row { path, line: number, what: what.to_owned() });
                }
            }
        }
        Ok(Self { path, session, text, header, titles: titles.unwrap_or_default(), rows })
    }

    pub fn name(&self) -> String {
        self.path.file_name().map_or(String::new(), |name| name.to_string_lossy().into_owned())
    }

    /// The value of a `# name: value` line; empty if it is missing.
    pub fn header(&self, name: &str) -> &str {
        self.header.get(name).map_or("", String::as_str)
    }

    /// A value among the settings above the rows, which are words of the form `NAME=value`.
    pub fn setting(&self, name: &str) -> &str {
        let words = self.header("settings").split_whitespace();
        let found = words.filter_map(|word| word.split_once('=')).find(|(it, _)| *it == name);
        found.map_or("", |(_, value)| value)
    }

    pub fn rows(&self) -> impl Iterator<Item = CsvRow<'_>> {
        self.rows.iter().map(|(line, cells)| CsvRow { table: self, line: *line, cells })
    }
}

impl<'a> CsvRow<'a> {
    pub fn text(&self, title: &str) -> Result<&'a str, Error> {
        let at = self.table.titles.get(title).ok_or_else(|| self.lacks(title))?;
        Ok(&self.cells[*at])
    }

    /// The number in a cell, which must not be empty.
    pub fn number(&self, title: &str) -> Result<f64, Error> {
        self.number_if_any(title)?.ok_or_else(|| self.lacks(title))
    }

    /// The number in a cell that may be empty.
    pub fn number_if_any(&self, title: &str) -> Result<Option<f64>, Error> {
        match self.text(title)? {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| self.lacks(title)),
        }
    }

    fn lacks(&self, title: &str) -> Error {
        let (path, line) = (self.table.path.clone(), self.line);
        Error::Row { path, line, what: format!("a number under {title}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_cells_are_reported_with_their_line() {
        let text = "# run: x\n# settings: A=1 B=a,b\nload,held\n10,1\n20,\nx,1\n# end: y\n";
        let table = CsvTable::parse("f/x.csv".into(), text.to_owned()).unwrap();
        assert_eq!((table.header("run"), table.setting("B"), table.setting("C")), ("x", "a,b", ""));
        assert_eq!(table.header("end"), "y");
        assert_eq!((table.session.as_str(), table.name().as_str()), ("f", "x.csv"));
        let rows: Vec<CsvRow<'_>> = table.rows().collect();
        assert_eq!(rows[0].number("load").unwrap(), 10.0);
        assert_eq!(rows[1].number_if_any("held").unwrap(), None);
        let told = |result: Result<f64, Error>| result.unwrap_err().to_string();
        assert!(told(rows[1].number("held")).contains("f/x.csv:5: expected a number under held"));
        assert!(told(rows[2].number("load")).contains(":6:"));
        assert!(rows[0].text("lag").is_err());
        let err = CsvTable::parse("x.csv".into(), "a,b\n1\n".to_owned()).unwrap_err();
        assert!(err.to_string().contains("x.csv:2"), "{err}");
    }
}
