//! The report for people: a page with the graphs, and the same as Markdown for the project's docs.

use super::graphs::Graph;
use super::mode_summary::ModeSummary;
use super::plot::escape;
use super::summary::Summary;
use crate::output::short;
use crate::process_usage::disturbance;
use std::fmt::Write;

const STYLE: &str = "\
:root{color-scheme:light dark}body{font:15px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}\
figure{margin:2rem 0}img{width:100%;height:auto;border:1px solid #8884;border-radius:6px}figcaption{margin-top:.4rem}\
table{border-collapse:collapse;font-size:13px}td,th{padding:.15rem .5rem;text-align:right;border-bottom:1px solid #8884}\
.wide{overflow-x:auto}";

/// The page in the folder of the graphs; `raw` are the files of rows in it.
pub fn html(summary: &Summary, graphs: &[Graph], raw: &[String]) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>scratchbank: results</title>\n<style>{STYLE}</style>\n<h1>What the bank can do</h1>\n"
    );
    for line in facts(summary).into_iter().chain(findings(summary)) {
        let _ = writeln!(page, "<p>{}</p>", escape(&line));
    }
    for graph in graphs {
        let Graph { name, title, says, .. } = graph;
        let _ = writeln!(
            page,
            "<figure id=\"{name}\"><img src=\"{name}.svg\" alt=\"{}\" loading=\"lazy\"><figcaption>{} <a href=\"{name}.csv\">Rows of this graph</a></figcaption></figure>",
            escape(title),
            escape(says),
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
    page += "</ul>\n<h2>What it does not say</h2>\n<ul>\n";
    for line in LIMITS {
        let _ = writeln!(page, "<li>{}</li>", escape(line));
    }
    page + "</ul>\n</html>\n"
}

/// The same for the docs; the graphs are in the folder `beside` it.
pub fn markdown(summary: &Summary, graphs: &[Graph], beside: &str) -> String {
    let mut page = "# Results\n\nWritten by `bench report` from the rows of `make bench`. The page that it makes has all graphs and links \
                    to the raw rows.\n\n"
        .to_owned();
    for line in facts(summary) {
        let _ = writeln!(page, "{line}\n");
    }
    page += "## What it means\n\n";
    for line in findings(summary) {
        let _ = writeln!(page, "- {line}");
    }
    page += "\n## What it does not mean\n\n";
    for line in LIMITS {
        let _ = writeln!(page, "- {line}");
    }
    page += "\n## All loads\n\n";
    for (n, row) in summary.table().iter().enumerate() {
        let _ = writeln!(page, "| {} |", row.join(" | "));
        if n == 0 {
            let _ = writeln!(page, "|{}", "---|".repeat(row.len()));
        }
    }
    page += "\n`done/s` commands answered; `late` steps of simulated users that took more than 5 s; `error` standard error of the mean; `broker ms/1000` \
             CPU of the broker for 1,000 records, without what it uses when there is no load; % of a core.\n\n## Graphs\n";
    for Graph { name, title, says, .. } in graphs {
        let _ = write!(
            page,
            "\n![{title}]({beside}/{name}.svg)\n\n{says} [Rows]({beside}/{name}.csv)\n"
        );
    }
    page
}

/// Where, when and how.
fn facts(summary: &Summary) -> Vec<String> {
    let Summary { date, commit, machine, settings, others, .. } = summary;
    let mut facts = vec![
        format!(
            "Measured {date} at commit {commit}, on one machine with everything on it, this program too: {machine}."
        ),
        format!(
            "Settings: {settings}. Kafka with acks=all, PostgreSQL with synchronous_commit=on."
        ),
    ];
    if let Some(disturbance) = disturbance([*others].into_iter()) {
        facts.push(format!("DISTURBED: {disturbance}, so these figures are not the bank's."));
    }
    facts
}

/// What the figures come to, in sentences.
fn findings(summary: &Summary) -> Vec<String> {
    let mut findings: Vec<String> =
        summary.modes.iter().filter_map(|mode| finding(summary, mode)).collect();
    let max = |name: &str| summary.mode(name).and_then(ModeSummary::max).filter(|max| *max > 0.0);
    if let Some((single, batched)) = max("single").zip(max("batched")) {
        findings
            .push(format!("Batched carries {} times the load of single.", short(batched / single)));
    }
    if let Some((load, single, batched)) = summary.broker() {
        findings.push(format!(
            "At {load:.0}/s, which single held in every run, 1,000 records cost the broker {} ms of CPU single and {} ms batched.",
            short(single * 1000.0),
            short(batched * 1000.0),
        ));
    }
    let own = |name: &str| {
        let held = summary.mode(name)?.loads.iter().rev().find(|load| load.held > 0)?;
        Some((held.per_s, held.broker_s?))
    };
    if let Some(((few, single), (many, batched))) = own("single").zip(own("batched")) {
        findings.push(format!(
            "At the highest load that any run held, {few:.0}/s single and {many:.0}/s batched, they cost it {} and {} ms.",
            short(single * 1000.0),
            short(batched * 1000.0),
        ));
    }
    findings
}

fn finding(summary: &Summary, mode: &ModeSummary) -> Option<String> {
    let max = mode.max()?;
    let error = mode
        .max_error()
        .map_or(String::new(), |error| format!(" (standard error {})", short(error)));
    let runs = mode.highest.len();
    let mut text = format!(
        "{}: highest load held {max:.0} commands/s{error}, mean of {runs} run(s).",
        mode.name
    );
    let idle =
        mode.loads.iter().find(|load| load.per_s == 0.0).and_then(|load| load.percentile(50.0));
    if let Some(idle) = idle {
        let _ = write!(text, " Without load half of the steps took {} ms or less.", short(idle));
    }
    if let Some((p50, p99)) = summary.half(mode) {
        let _ = write!(
            text,
            " At half of the highest load p50 was {} ms and p99 {} ms.",
            short(p50),
            short(p99)
        );
    }
    Some(text)
}

const LIMITS: &[&str] = &[
    "The talk's figures are of another machine, another Kafka and another database, with all other parts in Clojure: the shapes of the lines can be compared, the numbers only roughly.",
    "One machine with everything on it has no network: between machines each step takes some round trips longer.",
    "The broker's disk is this machine's; acks=all on one broker waits for no replica.",
    "The load is the generator's mixture of transfers between random accounts; few of them wait for each other.",
    "Its commands have ids that ascend in time. Scattered ones cost PostgreSQL more; `bench probe` sends such.",
    "A step waits for the new balance through the whole bank: GraphQL, two topics, two databases. It is no time of Kafka alone.",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::graphs;
    use crate::report::summary::tests::tables;
    use crate::report::talk::Talk;

    #[test]
    fn the_page_shows_every_graph_and_links_every_row() {
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
        assert!(docs.contains("Batched carries 2.7 times the load of single."), "{docs}");
        assert!(
            docs.contains("cost the broker 10.0 ms of CPU single and 1.0 ms batched"),
            "{docs}"
        );
        assert!(!docs.contains("DISTURBED"));
    }
}
