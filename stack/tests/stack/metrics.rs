//! The metrics of the running services have the names that the alerts and the dashboard use.

use super::{STATE_LIMIT, Stack, root};
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

/// Files with expressions, and how many each has at least.
const FILES: [(&str, usize); 2] =
    [("deploy/prometheus/alerts.yml", 10), ("deploy/grafana/scratchbank.json", 15)];
/// Metrics of Prometheus itself and of its node_exporter.
const FOREIGN: [&str; 3] = ["up", "node_filesystem_avail_bytes", "node_filesystem_size_bytes"];
/// Words of PromQL between expressions.
const OPERATORS: [&str; 3] = ["and", "or", "unless"];

pub fn have_the_names_of_alerts_and_dashboard(stack: &Stack) {
    let mut used = BTreeSet::new();
    for (file, expressions_min) in FILES {
        let text = fs::read_to_string(root().join(file)).unwrap();
        let expressions = expressions(&text);
        assert!(expressions.len() >= expressions_min, "{file}: {expressions:#?}");
        used.extend(expressions.iter().flat_map(|expression| metric_names(expression)));
    }
    let env = stack.run(&["env"]).succeeds().stdout;
    let addresses: Vec<&str> = env
        .lines()
        .filter_map(|line| line.split_once("_HEALTH_URL=http://"))
        .map(|it| it.1)
        .collect();
    assert_eq!(addresses.len(), 5, "{env}");
    let missing = || {
        let exposed: BTreeSet<String> =
            addresses.iter().filter_map(|address| exposed_names(address).ok()).flatten().collect();
        let foreign = FOREIGN.map(str::to_owned).into();
        &(&used - &foreign) - &exposed
    };
    // Some metrics appear after seconds.
    let since = Instant::now();
    while !missing().is_empty() && since.elapsed() < STATE_LIMIT {
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(missing(), BTreeSet::new(), "no service has these metrics");
}

/// The names at `/metrics`, also those of the series of a histogram.
fn exposed_names(address: &str) -> io::Result<Vec<String>> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let series = text.lines().filter(|line| !line.starts_with('#'));
    Ok(series.filter_map(|line| line.split_once(['{', ' '])).map(|it| it.0.to_owned()).collect())
}

/// The expressions of a rules file or of a dashboard. In a rules file they are in the line of
/// `expr:` or below it, further to the right.
fn expressions(text: &str) -> Vec<String> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut lines = text.lines().peekable();
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        if let Some(json) = line.trim().strip_prefix("\"expr\": \"") {
            found.push(json.trim_end_matches(['"', ',']).replace("\\\"", "\""));
        } else if let Some(first) = line.trim().strip_prefix("expr:") {
            let mut expression = first.trim().trim_end_matches(['|', '>', '-']).to_owned();
            while let Some(next) = lines.next_if(|next| indent(next) > indent(line)) {
                expression = format!("{expression} {}", next.trim());
            }
            found.push(expression);
        }
    }
    found
}

/// The names of metrics in an expression of PromQL.
fn metric_names(expression: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut rest = expression;
    while let Some(start) = rest.find(|it: char| !it.is_whitespace()) {
        rest = &rest[start..];
        let is_name = |it: char| it.is_ascii_alphanumeric() || it == '_';
        let length = rest.find(|it| !is_name(it)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(length);
        let after = after.trim_start();
        if word.is_empty() {
            // The labels between these brackets are no metrics, nor are durations.
            let end = match rest.as_bytes()[0] {
                b'{' => "}",
                b'[' => "]",
                _ => "",
            };
            let length = if end.is_empty() { 1 } else { rest.find(end).unwrap() + 1 };
            rest = &rest[length..];
        } else if ["by", "without", "on", "ignoring"].contains(&word) {
            rest = &after[after.find(')').unwrap() + 1..];
        } else {
            let is_number = word.starts_with(|it: char| it.is_ascii_digit());
            let is_function = ["(", "by", "without"].iter().any(|it| after.starts_with(it));
            if !is_number && !is_function && !OPERATORS.contains(&word) {
                names.insert(word.to_owned());
            }
            rest = after;
        }
    }
    names
}

#[test]
fn metric_names_are_found_in_expressions() {
    let text = [
        "    expr: up{job=~\"a_b|c_d\"} == 0",
        "    for: 1m",
        "    expr: |",
        "      sum by (job) (increase(a_total{topic=\"x_y\"}[2m])) > 0",
        "      unless on () time() - max(b_seconds) < 180",
        "    for: 1m",
        r#"  "expr": "histogram_quantile(0.99, sum by (le) (rate(c_bucket{t=\"x\"}[5m])))","#,
        r#"  "expr": "d / 2""#,
    ]
    .join("\n");
    let names: Vec<BTreeSet<String>> =
        expressions(&text).iter().map(|expression| metric_names(expression)).collect();
    let expected = [vec!["up"], vec!["a_total", "b_seconds"], vec!["c_bucket"], vec!["d"]];
    assert_eq!(names, expected.map(|names| names.into_iter().map(str::to_owned).collect()));
}
