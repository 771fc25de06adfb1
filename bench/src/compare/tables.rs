//! The results of a comparison as a table, as Markdown, as JSON and as graphs.

use super::figures::{COSTS_AT, Costs, Figures, IDLE};
use crate::direct_load::TransferLoad;
use crate::error::Error;
use crate::handlers::OURS;
use crate::output::{self, mib, short, wrap};
use crate::proc;
use crate::process_usage::disturbance;
use crate::report::plot::{Bar, Hue, Plot, Point, Scale, Series, bars, lines};
use serde_json::{Map, Value, json};
use std::fs;
use std::path::Path;

/// The talk's table, in JSON format.
const TALK: &str = include_str!("../../../docs/talk-2019.json");
/// Loads whose p99 the table contains.
const LATENCIES: [u32; 5] = [IDLE, 100, 300, 1000, 5000];
/// Mark of a handler that breaks the contract.
const BROKEN: &str = " (!)";

/// The conditions of the comparison.
const CONDITIONS: [&str; 9] = [
    "All handlers run on one machine with the same servers, topics, accounts and loads. Each has \
     an \
     empty database. Their order is random.",
    "No other service of the bank runs in that time. The measuring program does, and uses CPU \
     time.",
    "Latency counts from the due time of a command until the last of its answers is read.",
    "All handlers keep the same contract and store the same rows with similar SQL statements. The \
     peers in Rust share domain and store with scratchbank, so they differ only in the Kafka \
     client.",
    "scratchbank was tuned for this bank for longer than its peers, by the same people. \
     Improvements \
     of the peers are welcome.",
    "With one broker on the same two cores, a handler that uses the broker less has an advantage.",
    "The artefact is what is built. scratchbank's is a binary that needs at most libc, librdkafka \
     is \
     linked into its binary, and the JVM's contains its runtime.",
    "\"With libraries\" adds the files of the system that the process has mapped.",
    "A JVM compiles while it runs. It has the same warm-up as the others; a longer one would help \
     it.",
];

/// Writes comparison.md, comparison.json and the graphs into `folder`.
pub fn write(folder: &Path, all: &[Figures], settings: &str, rows: &Path) -> Result<(), Error> {
    let measured: Vec<&Figures> = all.iter().filter(|figures| !figures.runs.is_empty()).collect();
    let markdown = markdown(&measured, settings, rows);
    for (name, text) in [
        ("comparison.md", markdown),
        ("comparison.json", json(&measured)),
        ("comparison-latency.svg", latency(&measured)),
        ("comparison-broker.svg", broker(&measured)),
        ("comparison-memory.svg", memory(&measured)),
    ] {
        let path = folder.join(name);
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&path, text))
            .map_err(|source| Error::Csv { path, source })?;
    }
    Ok(())
}

/// The table that is printed.
pub fn text(all: &[Figures]) -> String {
    let all: Vec<&Figures> = all.iter().collect();
    let mut text = output::table(&table(&all));
    for figures in all.iter().filter(|figures| !figures.broken.is_empty()) {
        let broken = figures.broken.join("; ");
        text += &format!("(!) {} breaks the contract: {broken}\n", figures.handler.name);
    }
    text
}

fn table(all: &[&Figures]) -> Vec<Vec<String>> {
    let mut titles: Vec<String> = [
        "handler",
        "artefact, MB",
        "with libraries, MB",
        "start, ms",
        "RSS idle, MiB",
        "RSS, MiB",
        "highest load, /s",
    ]
    .map(str::to_owned)
    .to_vec();
    titles.push("p50 idle, ms".to_owned());
    titles.extend(LATENCIES.map(|load| match load {
        IDLE => "p99 idle, ms".to_owned(),
        load => format!("p99 at {load}/s"),
    }));
    titles.extend(["handler", "broker", "database"].map(|part| format!("{part} CPU s/1000")));
    let mut rows = vec![titles];
    rows.extend(all.iter().map(|figures| cells(figures)));
    rows
}

fn cells(figures: &Figures) -> Vec<String> {
    let none = || "-".to_owned();
    let mb = |bytes: u64| format!("{:.1}", bytes as f64 / 1e6);
    let mebibytes =
        |bytes: Option<f64>| bytes.map_or_else(none, |it| format!("{:.1}", mib(it as u64)));
    let ms = |value: Option<f64>| value.map_or_else(none, short);
    let mark = if figures.broken.is_empty() { "" } else { BROKEN };
    let bytes = figures.bytes();
    let mut cells = vec![
        format!("{}{mark}", figures.handler.name),
        bytes.and_then(|(artefact, _)| artefact).map_or_else(none, mb),
        bytes.map_or_else(none, |(_, image)| mb(image)),
        figures.start_ms().map_or_else(none, |it| format!("{it:.0}")),
        mebibytes(figures.rss_idle()),
        mebibytes(figures.rss()),
        figures.max_per_s().map_or_else(none, |it| format!("{it:.0}")),
        ms(figures.at(IDLE, |row| row.p50_ms)),
    ];
    cells.extend(LATENCIES.map(|load| ms(figures.at(load, |row| row.p99_ms))));
    let costs = figures.costs();
    let cost = |of: fn(Costs) -> f64| costs.map(of).map_or_else(none, |it| format!("{it:.3}"));
    cells.extend([cost(|it| it.handler), cost(|it| it.broker), cost(|it| it.database)]);
    cells
}

fn markdown(all: &[&Figures], settings: &str, rows: &Path) -> String {
    let date = output::now_in_name();
    let date = date.split('T').next().unwrap_or_default();
    let commit = output::commit();
    let file = rows.file_name().unwrap_or_default().to_string_lossy();
    let runs = all.iter().map(|figures| figures.runs.len()).max().unwrap_or(0);
    let mut text = "# Comparison of command-handlers\n\n\
         `make compare-handlers` writes this file and [comparison.json](comparison.json).\n\
         [handler-contract.md](handler-contract.md) describes how to add a handler.\n\n"
        .to_owned();
    for line in [
        format!("- Date: {date}"),
        format!("- Commit: {commit}"),
        format!("- Machine: {}", proc::machine()),
        format!("- Runs of each handler: {runs}"),
        format!("- Settings: {settings}"),
        format!("- Raw rows: {file}"),
    ] {
        text += &wrap(&line, "  ");
    }
    text += "\n";
    text += &grid(&table(all));
    text += &format!(
        "\nAll values are medians of the runs.\n\n\
         - Start: from exec to ready, in an empty database.\n\
         - RSS idle: memory before the first command. RSS: the highest memory.\n\
         - p50 idle, p99 idle: latency at {IDLE}/s.\n\
         - CPU s/1000: CPU seconds for 1,000 commands at {COSTS_AT}/s. The broker's use without \
         load is\n  \
           subtracted.\n\
         - \"-\": the load was not held.\n\n",
    );
    for figures in all.iter().filter(|figures| !figures.broken.is_empty()) {
        let broken = figures.broken.join("; ");
        let name = &figures.handler.name;
        text += &wrap(&format!("**(!) {name} does not keep the contract**: {broken}."), "");
        text += "\n";
    }
    if let Some(disturbance) = disturbance(all.iter().map(|figures| figures.others())) {
        text += &format!("**DISTURBED**: {disturbance}.\n\n");
    }
    text += "![p99 by load](comparison-latency.svg)\n\n\
             ![CPU of the broker by load](comparison-broker.svg)\n\n\
             ![Memory](comparison-memory.svg)\n\n## Conditions\n\n";
    for line in CONDITIONS {
        text += &wrap(&format!("- {line}"), "  ");
    }
    text += "\n## The talk's table\n\n";
    text + &talk()
}

/// The talk's results of 2019.
fn talk() -> String {
    let talk: Value = serde_json::from_str(TALK).unwrap_or_default();
    let field = |it: &Value, name: &str| match &it[name] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut rows = vec![
        ["handler", "image, MB", "start, ms", "memory, MiB", "highest load, messages/s"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for it in talk["implementations"].as_array().into_iter().flatten() {
        let names = ["name", "image_mb", "start_ms", "memory_mib", "highest_load_per_s"];
        rows.push(names.map(|name| field(it, name)).to_vec());
    }
    let (source, conditions) = (field(&talk, "source"), field(&talk, "conditions"));
    let remarks = format!(
        "{source}. {conditions} The machine, the year and the bank were different, so only the \
         sizes \
         can be compared. The talk's pure-Rust handler sent one record per request, like \
         `{OURS}-single` here."
    );
    format!("{}\n{}", grid(&rows), wrap(&remarks, ""))
}

/// A table in Markdown.
fn grid(rows: &[Vec<String>]) -> String {
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        text += &format!("| {} |\n", row.join(" | "));
        if index == 0 {
            text += &format!("|{}\n", "---|".repeat(row.len()));
        }
    }
    text
}

/// The figures by handler.
fn json(all: &[&Figures]) -> String {
    let mut handlers = Map::new();
    for figures in all {
        type Digits = fn(Option<f64>) -> Option<f64>;
        let rounded: Digits = |value| value.map(|it| (it * 100.0).round() / 100.0);
        let precise: Digits = |value| value.map(|it| (it * 1e5).round() / 1e5);
        let at = |of: fn(&TransferLoad) -> f64, digits: Digits| -> Map<String, Value> {
            let loads = figures.loads().into_iter().chain(LATENCIES);
            loads.map(|load| (load.to_string(), json!(digits(figures.at(load, of))))).collect()
        };
        let costs = figures.costs();
        let bytes = figures.bytes();
        handlers.insert(
            figures.handler.name.clone(),
            json!({
                "verified": figures.broken.is_empty(),
                "broken": figures.broken,
                "runs": figures.runs.len(),
                "artefact_bytes": bytes.and_then(|(artefact, _)| artefact),
                "image_bytes": bytes.map(|(_, image)| image),
                "start_ms": rounded(figures.start_ms()),
                "rss_idle_mib": rounded(figures.rss_idle().map(|bytes| mib(bytes as u64))),
                "rss_mib": rounded(figures.rss().map(|bytes| mib(bytes as u64))),
                "max_per_s": figures.max_per_s(),
                "p50_ms": at(|row| row.p50_ms, rounded),
                "p99_ms": at(|row| row.p99_ms, rounded),
                "broker_cpu_s_per_1000": at(|row| row.costs()[0], precise),
                "cpu_s_per_1000": {
                    "at_per_s": COSTS_AT,
                    "handler": precise(costs.map(|it| it.handler)),
                    "broker": precise(costs.map(|it| it.broker)),
                    "database": precise(costs.map(|it| it.database)),
                },
            }),
        );
    }
    // One value per line, so that diffs are readable.
    serde_json::to_string_pretty(&Value::Object(handlers)).unwrap_or_default() + "\n"
}

/// Ours has colours, the others are grey.
fn hue(index: usize, all: &[&Figures]) -> Hue {
    let ours = |figures: &&&Figures| figures.handler.name.starts_with(OURS);
    if ours(&&all[index]) {
        Hue::Own(index)
    } else {
        Hue::Talk(index - all.iter().filter(ours).count().min(index))
    }
}

fn plot(
    all: &[&Figures],
    title: &str,
    description: &str,
    unit: &str,
    of: impl Fn(&Figures, u32) -> Option<f64>,
) -> String {
    let series = |(index, figures): (usize, &&Figures)| Series {
        name: figures.handler.name.clone(),
        hue: hue(index, all),
        points: figures
            .loads()
            .into_iter()
            .filter_map(|load| {
                Some(Point { x: f64::from(load), y: of(figures, load)?, range: None })
            })
            .collect(),
    };
    lines(&Plot {
        title: title.to_owned(),
        description: description.to_owned(),
        x: ("load, commands per second".to_owned(), Scale::Log),
        y: (unit.to_owned(), Scale::Log),
        series: all.iter().enumerate().map(series).collect(),
        marks: Vec::new(),
        band: None,
    })
}

fn latency(all: &[&Figures]) -> String {
    let description = "From the due time of a command until its last answer was read. A line \
                       ends where the next load was not held.";
    plot(all, "p99 of answers", description, "milliseconds", |figures, load| {
        figures.at(load, |row| row.p99_ms)
    })
}

fn broker(all: &[&Figures]) -> String {
    let description = "CPU time of the broker for a command and its answers, minus its use \
                       without load. It is highest for handlers that send one record per request.";
    plot(
        all,
        "CPU of the broker for 1,000 commands",
        description,
        "milliseconds",
        |figures, load| figures.at(load, |row| row.costs()[0] * 1000.0).filter(|it| *it > 0.0),
    )
}

fn memory(all: &[&Figures]) -> String {
    let bar = |(index, figures): (usize, &&Figures)| {
        let value = mib(figures.rss()? as u64);
        let idle = figures.rss_idle().map_or(value, |bytes| mib(bytes as u64));
        Some(Bar {
            name: figures.handler.name.clone(),
            hue: hue(index, all),
            value,
            range: (idle, value),
        })
    };
    let all: Vec<Bar> = all.iter().enumerate().filter_map(bar).collect();
    bars(
        "Memory of the handler",
        "The highest resident memory. The mark is the memory before the first command.",
        "MiB",
        &all,
    )
}

#[cfg(test)]
mod tests {
    use super::super::figures::tests::figures;
    use super::*;

    #[test]
    fn handler_that_breaks_the_contract_is_marked() {
        let ours = figures(OURS, &[&[(10, true), (1000, true), (5000, true)]]);
        let mut peer = figures("java", &[&[(10, true), (1000, false)]]);
        peer.broken = vec!["kill -9".to_owned()];
        let all = [&ours, &peer];
        let table = table(&all);
        assert!(table.iter().all(|row| row.len() == table[0].len()));
        let markdown = markdown(&all, "RUNS=1", Path::new("target/rows.csv"));
        for part in [
            "| java (!) |",
            "| scratchbank |",
            "does not keep the contract**: kill -9",
            "Clojure",
            "rows.csv",
        ] {
            assert!(markdown.contains(part), "{part} in {markdown}");
        }
        let json: Value = serde_json::from_str(&json(&all)).unwrap();
        assert_eq!(json[OURS]["p99_ms"]["5000"], 50.0);
        assert_eq!(json["java"]["p99_ms"]["1000"], Value::Null);
        assert_eq!(json["java"]["verified"], false);
        assert_eq!(json[OURS]["artefact_bytes"], 2_000_000);
        assert!(json[OURS]["cpu_s_per_1000"]["broker"].is_number());
        for svg in [latency(&all), broker(&all), memory(&all)] {
            assert!(svg.contains("java") && svg.ends_with("</svg>\n"), "{svg}");
        }
    }

    #[test]
    fn talk_table_has_four_handlers() {
        assert_eq!(talk().lines().filter(|line| line.starts_with("| ")).count(), 5);
    }
}
