//! `bench report`: joins the rows of runs into a table, graphs that include those of the talk, and
//! a page.

mod graphs;
mod joined_runs;
mod mode_summary;
mod page;
pub mod plot;
mod rows;
mod summary;
mod talk;

use self::graphs::Graph;
use self::rows::CsvTable;
use self::summary::Summary;
use self::talk::Talk;
use crate::error::Error;
use crate::output;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Make tables and graphs of the rows of `bench run`, next to those of the talk
///
/// Joins all runs of a mode. The latencies of a load are those of all steps of all runs. Rates, CPU
/// and memory are means over the runs. The highest load of a mode is the highest one that more than
/// half of its runs held. The graphs also show the talk's four handlers, measured in 2019 on
/// another machine. Each graph has a CSV file with its points, and the raw rows are copied. The
/// last line is JSON: the highest load of each mode, its median without load, and its p99 at half
/// of the highest load of each run; and the broker's CPU time per record, batched divided by
/// single, at the highest load that single held in every run.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct ReportOptions {
    /// Folder to which `bench run` wrote its rows
    #[arg(long, value_name = "FOLDER", default_value = "target/bench")]
    out: PathBuf,
    /// Folders with rows to join, separated by commas [default: the newest in --out]
    #[arg(long, value_name = "FOLDERS", value_delimiter = ',')]
    from: Vec<PathBuf>,
    /// Folder for graphs, rows and index.html, which the web page of `make up` shows; files of an
    /// earlier report are deleted
    #[arg(long, value_name = "FOLDER", default_value = "target/results")]
    results: PathBuf,
    /// File for the report as Markdown, as in docs/results.md; its graphs are written to a folder
    /// of that name, as in docs/results [default: none]
    #[arg(long, value_name = "FILE")]
    docs: Option<PathBuf>,
}

pub fn run(options: &ReportOptions) -> Result<ExitCode, Error> {
    let folders = folders(options)?;
    let tables =
        folders.iter().map(|folder| CsvTable::all_in(folder)).collect::<Result<Vec<_>, _>>()?;
    let tables: Vec<CsvTable> = tables.into_iter().flatten().collect();
    let summary = Summary::of(&tables)?;
    let talk = Talk::read()?;
    let graphs = graphs::all(&summary, &talk);
    let folder = &options.results;
    clear(folder)?;
    write_graphs(folder, &graphs)?;
    let raw: Vec<String> =
        tables.iter().map(|table| format!("raw-{}-{}", table.session, table.name())).collect();
    for (table, to) in tables.iter().zip(&raw) {
        write(&folder.join(to), &table.text)?;
    }
    write(&folder.join("raw-talk-2019.csv"), talk::TALK)?;
    write(&folder.join("index.html"), &page::html(&summary, &graphs, &raw))?;
    if let Some(docs) = &options.docs {
        let beside = docs.with_extension("");
        clear(&beside)?;
        write_graphs(&beside, &graphs)?;
        let beside = beside.file_name().map(|name| name.to_string_lossy().into_owned());
        write(docs, &page::markdown(&summary, &graphs, &beside.unwrap_or_default()))?;
    }
    output::print(&output::table(&summary.table()));
    output::print(&format!("Graphs: {}\n", folder.join("index.html").display()));
    output::print_json(&summary.figures());
    Ok(ExitCode::SUCCESS)
}

/// The folders in the options, or the newest one.
fn folders(options: &ReportOptions) -> Result<Vec<PathBuf>, Error> {
    if !options.from.is_empty() {
        return Ok(options.from.clone());
    }
    let out = &options.out;
    let failed = |source| Error::Read { path: out.clone(), source };
    let mut runs = Vec::new();
    for entry in fs::read_dir(out).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        if path.is_dir() && name.is_some_and(|name| name.starts_with("run-")) {
            runs.push(path);
        }
    }
    // The names contain the time.
    let newest = runs.into_iter().max();
    newest
        .map(|folder| vec![folder])
        .ok_or_else(|| Error::Bank(format!("no rows in {}: run `make bench` first", out.display())))
}

/// Deletes the files of an earlier report in `folder`, which may have had other graphs.
fn clear(folder: &Path) -> Result<(), Error> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let numbered = name.bytes().take(2).all(|byte| byte.is_ascii_digit());
        let ours = numbered && (name.ends_with(".svg") || name.ends_with(".csv"));
        if ours || name.starts_with("raw-") && name.ends_with(".csv") {
            let path = entry.path();
            fs::remove_file(&path).map_err(|source| Error::Csv { path, source })?;
        }
    }
    Ok(())
}

/// Writes each graph and a CSV file with its points.
fn write_graphs(folder: &Path, graphs: &[Graph]) -> Result<(), Error> {
    for graph in graphs {
        write(&folder.join(format!("{}.svg", graph.name)), &graph.svg)?;
        write(&folder.join(format!("{}.csv", graph.name)), &graph.csv)?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    let failed = |source| Error::Csv { path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    fs::write(path, text).map_err(failed)
}
