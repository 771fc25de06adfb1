//! The report as an HTML page with graphs, and as Markdown for docs/results.md.

use super::graphs::Graph;
use super::mode_summary::ModeSummary;
use super::plot::escape;
use super::summary::Summary;
use crate::flush_times::{FlushTimes, MEDIAN_MAX_MS};
use crate::output::{short, wrap};
use crate::own_pauses;
use crate::process_usage::{disturbance, steal};
use std::fmt::Write;

const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:15px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
figure{margin:2rem 0}figcaption{margin-top:.4rem}\
img{width:100%;height:auto;border:1px solid #8884;border-radius:6px}\
table{border-collapse:collapse;font-size:13px}\
td,th{padding:.15rem .5rem;text-align:right;border-bottom:1px solid #8884}\
.wide{overflow-x:auto}";

/// The page. It is in the folder of the graphs and of the `raw` CSV files.
pub fn html(summary: &Summary, graphs: &[Graph], raw: &[String]) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>scratchbank: results</title>\n<style>{STYLE}</style>\n\
         <h1>Performance of the bank</h1>\n"
    );
    for line in facts(summary).into_iter().chain(findings(summary)) {
        let _ = writeln!(page, "<p>{}</p>", escape(&line));
    }
    for graph in graphs {
        let Graph { name, title, description, .. } = graph;
        let _ = writeln!(
            page,
            "<figure id=\"{name}\"><img src=\"{name}.svg\" alt=\"{}\" loading=\"lazy\">\
             <figcaption>{} <a href=\"{name}.csv\">Points of this graph</a></figcaption></figure>",
            escape(title),
            escape(description),
        );
    }
    page += "<h2>All loads</h2>\n<div class=\"wide\"><table>\n";
    for (n, row) in summary.table().iter().enumerate() {
        let cell = if n == 0 { "th" } else { "td" };
        let cells = row.iter().map(|text| format!("<{cell}>{}</{cell}>", escape(text)));
        let _ = writeln!(page, "<tr>{}</tr>", cells.collect::<String>());
    }
    page += "</table></div>\n<h2>Raw rows</h2>\n<ul>\n";
    for file in raw.iter().map(String::as_str).chain(["raw-talk-2019.csv"]) {
        let file = escape(file);
        let _ = writeln!(page, "<li><a href=\"{file}\">{file}</a></li>");
    }
    page += "</ul>\n<h2>Limits</h2>\n<ul>\n";
    for line in LIMITS {
        let _ = writeln!(page, "<li>{}</li>", escape(line));
    }
    page + "</ul>\n</html>\n"
}

/// The report as Markdown. The graphs are in the folder `folder` next to it.
pub fn markdown(summary: &Summary, graphs: &[Graph], folder: &str) -> String {
    let mut page = "# Results\n\n".to_owned();
    page += &wrap(INTRODUCTION, "");
    for line in facts(summary) {
        let _ = write!(page, "\n{}", wrap(&line, ""));
    }
    page += "\n## Findings\n\n";
    for line in findings(summary) {
        page += &wrap(&format!("- {line}"), "  ");
    }
    page += "\n## Limits\n\n";
    for line in LIMITS {
        page += &wrap(&format!("- {line}"), "  ");
    }
    page += "\n## All loads\n\n";
    for (n, row) in summary.table().iter().enumerate() {
        let _ = writeln!(page, "| {} |", row.join(" | "));
        if n == 0 {
            let _ = writeln!(page, "|{}", "---|".repeat(row.len()));
        }
    }
    page += "\n";
    for line in COLUMNS {
        page += &wrap(&format!("- {line}"), "  ");
    }
    page += "\n## Graphs\n";
    for Graph { name, title, description, .. } in graphs {
        let image = wrap(&format!("![{title}]({folder}/{name}.svg)"), "");
        let caption = wrap(&format!("{description} [Points]({folder}/{name}.csv)"), "");
        let _ = write!(page, "\n{image}\n{caption}");
    }
    page
}

/// Date, commit, machine and settings.
fn facts(summary: &Summary) -> Vec<String> {
    let Summary { date, commit, machine, settings, others, stolen, flushes, .. } = summary;
    let mut facts = vec![
        format!(
            "Measured {date} at commit {commit}. All servers, services and the measuring program \
             ran on \
             one machine: {machine}."
        ),
        format!(
            "Settings: {settings}. Kafka with acks=all, PostgreSQL with synchronous_commit=on."
        ),
    ];
    if let Some(disturbance) = disturbance([*others].into_iter()) {
        facts.push(format!("DISTURBED: {disturbance}, so the figures are distorted."));
    }
    if let Some(steal) = steal([*stolen].into_iter()) {
        facts.push(format!("DISTURBED: {steal}, so the figures are distorted."));
    }
    facts.extend(flushes.map(disk));
    if let Some(warning) = own_pauses::warning(summary.own_pause()) {
        facts.push(format!("DISTURBED: {warning}, which looks like a stall of the bank."));
    }
    facts
}

/// Times of flushes without load, as a sentence.
fn disk([before, after]: [FlushTimes; 2]) -> String {
    let worst = before.median_ms.max(after.median_ms);
    format!(
        "{}The disk flushed 8 kB in {} ms before the runs and in {} ms after them, without load. \
         These are medians, the longest time was {} ms.",
        if worst > MEDIAN_MAX_MS { "DISTURBED: the disk was slow. " } else { "" },
        short(before.median_ms),
        short(after.median_ms),
        short(before.max_ms.max(after.max_ms)),
    )
}

/// The main results as sentences.
fn findings(summary: &Summary) -> Vec<String> {
    let mut findings: Vec<String> =
        summary.modes.iter().filter_map(|mode| finding(summary, mode)).collect();
    let max = |name: &str| summary.mode(name).and_then(ModeSummary::max).filter(|max| *max > 0.0);
    if let Some((single, batched)) = max("single").zip(max("batched")) {
        findings
            .push(format!("Batched holds {} times the load of single.", short(batched / single)));
    }
    if let Some((load, single, batched)) = summary.broker() {
        findings.push(format!(
            "At {load:.0}/s, which single held in every run, 1,000 records cost {} ms of broker \
             CPU in \
             single and {} ms in batched.",
            short(single * 1000.0),
            short(batched * 1000.0),
        ));
    }
    let own = |name: &str| {
        let mode = summary.mode(name)?;
        let held = mode.load(mode.max()?)?;
        Some((held.per_s, held.broker_s?))
    };
    if let Some(((few, single), (many, batched))) = own("single").zip(own("batched")) {
        findings.push(format!(
            "At the highest load held, 1,000 records cost {} ms in single ({few:.0}/s) \
             and \
             {} ms in batched ({many:.0}/s).",
            short(single * 1000.0),
            short(batched * 1000.0),
        ));
    }
    findings
}

fn finding(summary: &Summary, mode: &ModeSummary) -> Option<String> {
    let max = mode.max()?;
    let (held, runs) = (mode.held(max), mode.highest.len());
    let mut text = format!(
        "{}: the highest load held is {max:.0} commands/s, by {held} of {runs} run(s).",
        mode.name
    );
    let idle =
        mode.loads.iter().find(|load| load.per_s == 0.0).and_then(|load| load.percentile(50.0));
    if let Some(idle) = idle {
        let _ = write!(text, " Without load the median latency is {} ms.", short(idle));
    }
    if let Some((p50, p99)) = summary.half(mode) {
        let _ = write!(
            text,
            " At half of each run's highest load p50 is {} ms and p99 {} ms.",
            short(p50),
            short(p99)
        );
    }
    Some(text)
}

const INTRODUCTION: &str = "`make results` writes this file from the rows of the last `make \
                            bench`. \
    The web page of the bank shows the same graphs and links the raw rows.";

/// Explanations of the columns of the table.
const COLUMNS: &[&str] = &[
    "`held`: runs that held this load or a higher one. The highest load held is the highest one \
     that more than half of the runs held",
    "`done/s`: commands answered per second",
    "`timed out`: steps of simulated users without a new balance after 5 s, which count as 5 s",
    "`error ms`: standard error of the mean",
    "`own ms`: longest pause of the measuring program, which looks like a stall of the bank",
    "`recs/req`: mean number of records per produce request of the handler",
    "`broker ms/1000`: CPU time of the broker for 1,000 records, minus its use without load",
    "`%`: CPU use in percent of one core",
];

const LIMITS: &[&str] = &[
    "The talk's figures come from another machine, another Kafka and another database. All its \
     other \
     services were written in Clojure. Compare the shapes of the lines, and the numbers only \
     roughly.",
    "Everything runs on one machine, without a network. Between machines each step takes several \
     network round trips more.",
    "With one broker, acks=all waits for no replica. The broker uses the disk of this machine.",
    "The load is the command-generator's mix of transfers between random accounts. Few of them \
     depend \
     on each other.",
    "The ids of these commands ascend in time. Random ids cost PostgreSQL more; `bench probe` \
     sends \
     random ids.",
    "A step waits for the new balance, which passes GraphQL, two topics and two databases. Its \
     latency is not that of Kafka alone.",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::graphs;
    use crate::report::summary::tests::tables;
    use crate::report::talk::Talk;

    #[test]
    fn page_shows_all_graphs_and_links_raw_rows() {
        let summary = Summary::of(&tables()).unwrap();
        let graphs = graphs::all(&summary, &Talk::read().unwrap());
        let page = html(&summary, &graphs, &["raw-run-x-1-single-loads.csv".to_owned()]);
        for graph in &graphs {
            assert!(page.contains(&format!("src=\"{}.svg\"", graph.name)));
            assert!(page.contains(&format!("href=\"{}.csv\"", graph.name)));
        }
        assert!(page.contains("href=\"raw-run-x-1-single-loads.csv\""));
        assert!(page.contains("a &lt;big&gt; one") && !page.contains("<big>"));
        let docs = markdown(&summary, &graphs, "results");
        assert!(docs.contains("-latency-mean.svg)"));
        assert!(docs.lines().all(|line| line.len() <= 100 || line.starts_with('|')), "{docs}");
        let sentences = docs.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in [
            "Batched holds 4.0 times the load of single.",
            "cost 10.0 ms of broker CPU in single and 1.0 ms in batched",
        ] {
            assert!(sentences.contains(part), "{part} in {docs}");
        }
        let disturbed: Vec<&str> = sentences.split("DISTURBED: ").skip(1).collect();
        let causes = ["other virtual machines took up to 0.20 cores", "the disk", "the measuring"];
        assert_eq!(disturbed.len(), causes.len(), "{docs}");
        assert!(disturbed.iter().zip(causes).all(|(it, cause)| it.starts_with(cause)), "{docs}");
        assert!(sentences.contains("in 2.0 ms before the runs and in 12.0 ms after them"));
    }
}
