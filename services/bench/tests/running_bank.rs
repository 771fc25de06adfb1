//! A short probe and a short demo of the bank on real servers.

use serde_json::Value;
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
