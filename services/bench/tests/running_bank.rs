//! A short probe and a short demo of the bank on real servers.

use serde_json::Value;
use std::collections::HashMap;
use std::process::{Command, ExitStatus, Stdio};

/// The services, in the order of their start.
const SERVICES: [&str; 4] =
    ["heartbeat", "command-generator", "command-handler", "graphql-endpoint"];

/// All services of the test stack run while this lives.
struct Bank;

impl Bank {
    fn start() -> Self {
        stack(&["start", "synchronizer"]);
        let bank = Self;
        for service in SERVICES {
            stack(&["start", service]);
        }
        bank
    }

    /// Runs `bench` with settings; its exit code, the lines on stdout, and the last of them as JSON.
    fn bench(&self, args: &str) -> (ExitStatus, Vec<String>, Value) {
        let output = Command::new(env!("CARGO_BIN_EXE_bench"))
            .args(args.split_whitespace())
            .env("OUT", env!("CARGO_TARGET_TMPDIR"))
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .expect("cargo has built it");
        let text = String::from_utf8_lossy(&output.stdout);
        eprint!("{text}");
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let json = lines.last().and_then(|line| serde_json::from_str(line).ok());
        (output.status, lines, json.unwrap_or_default())
    }
}

impl Drop for Bank {
    fn drop(&mut self) {
        for service in SERVICES.into_iter().rev() {
            stack(&["stop", service]);
        }
    }
}

fn stack(args: &[&str]) {
    let script = std::env::var("STACK").expect("STACK is set: make test-integration");
    let status = Command::new(script).args(args).status().expect("the script runs");
    assert!(status.success() || std::thread::panicking(), "{args:?}: {status}");
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn a_short_demo_comes_out_even_and_a_second_one_too() {
    let bank = Bank::start();
    for _ in 0..2 {
        let (status, lines, json) = bank.bench("demo --demo-s 4 --demo-loads 100,400");
        assert!(status.success(), "{status}");
        assert!(lines.iter().any(|line| line.ends_with("no cent is lost")));
        let count = |name: &str| json[name].as_u64().unwrap();
        // Two seconds at 100/s and two at 400/s, less what the steps lose at their seams.
        assert!(count("commands") > 500, "{json}");
        assert_eq!(count("commands"), count("confirmed") + count("failed"));
        assert_eq!((count("unanswered"), &json["balance_sum_ok"]), (0, &Value::Bool(true)));
        assert!(count("max_per_s") > 200);
        let visits = |name: &str| json["graphql"][name].as_u64().unwrap();
        // Three visitors, a transfer a second each; the first at once.
        assert!(visits("transfers") >= 9 && visits("heard") == visits("transfers"), "{json}");
        assert!(lines.iter().any(|line| line.starts_with("GraphiQL, while the bank runs")));
    }
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn a_short_probe_measures_both_modes_at_the_same_load() {
    let bank = Bank::start();
    let (status, lines, json) = bank.bench(
        "probe --accounts 20 --loads 10,20 --step-s 2 --bisections 0 --transfers 100 --modes single,batched",
    );
    assert!(status.success(), "{status}");
    assert!(lines.iter().any(|line| line.starts_with("Memory of the handler: ")), "{lines:?}");
    let rows = |mode: &str| lines.iter().filter(|line| line.starts_with(mode)).count();
    // One load at least; batched also the two halves of the way to 100.
    assert!(rows("single") >= 1 && rows("batched") >= 3, "{lines:?}");
    for (mode, number) in [("single", "max_per_s"), ("batched", "broker_cpu_us_per_record")] {
        assert!(json[mode][number].as_f64().is_some(), "{json}");
    }
    assert!(json["idle_p50_ms"].as_f64().unwrap() > 0.0, "{json}");
    assert!(json["p99_ms_at_2000"].is_null(), "{json}");
    assert!((1.0..64.0).contains(&json["handler_rss_mib"].as_f64().unwrap()), "{json}");

    let csv = lines.iter().find_map(|line| line.strip_prefix("Raw rows: ")).unwrap();
    let raw = std::fs::read_to_string(csv).unwrap();
    let raw = raw.lines().filter(|line| !line.starts_with('#')).count();
    assert_eq!(raw - 1, rows("single") + rows("batched"));
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn a_short_run_keeps_a_row_for_each_load_second_and_step() {
    let bank = Bank::start();
    let (status, lines, _) = bank.bench(
        "run --profile sanity --loads 0,40 --step-s 4 --visitors 2 --modes single --faults 3:graphql-endpoint:KILL",
    );
    assert!(status.success(), "{status}");
    let folder = lines.iter().find_map(|line| line.strip_prefix("Raw rows: ")).unwrap();
    let rows = |kind: &str| -> Vec<HashMap<String, String>> {
        let text = std::fs::read_to_string(format!("{folder}/1-single-{kind}.csv")).unwrap();
        assert!(text.contains("# settings: MODE=single "), "{text}");
        let mut lines = text.lines().filter(|line| !line.starts_with('#')).map(|it| it.split(','));
        let titles: Vec<&str> = lines.next().unwrap().collect();
        lines
            .map(|row| {
                titles.iter().map(|it| (*it).to_owned()).zip(row.map(str::to_owned)).collect()
            })
            .collect()
    };
    let number = |row: &HashMap<String, String>, name: &str| row[name].parse::<f64>().unwrap();

    let loads = rows("loads");
    assert_eq!(loads.iter().map(|row| number(row, "load_per_s")).collect::<Vec<_>>(), [0.0, 40.0]);
    for row in &loads {
        // Two visitors for four seconds; a step that was due at an edge is in or out.
        assert!((6.0..=10.0).contains(&number(row, "steps")), "{row:?}");
        let (min, mean, max) =
            (number(row, "min_ms"), number(row, "mean_ms"), number(row, "max_ms"));
        assert!(0.0 < min && min <= mean && mean <= max + 1.0, "{row:?}");
        assert_eq!(number(row, "refused"), 0.0);
        for part in ["broker", "database", "handler"] {
            assert!(number(row, &format!("{part}_mib")) > 1.0, "{row:?}");
        }
    }
    let answered = number(&loads[1], "answered_per_s");
    assert!((30.0..60.0).contains(&answered), "{answered} of 40 and 2");
    assert!(number(&loads[0], "answered_per_s") < 10.0);

    let seconds = rows("seconds");
    assert!(seconds.len() >= 8, "{}", seconds.len());
    let steps = rows("steps");
    let ends = |end: &str| steps.iter().filter(|row| row["end"].starts_with(end)).count();
    assert!(ends("changed") >= 12 && ends("refused") == 0, "{steps:?}");
    assert_eq!(ends("fault graphql-endpoint KILL"), 1, "and the visitors came back");
}
