//! Short forms of the commands of bench, on a running bank.

use bank::topology::HEARTBEAT;
use messaging::KafkaConfig;
use serde_json::Value;
use service::env::Env;
use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

/// The services in the order in which they are started.
const SERVICES: [&str; 5] =
    ["heartbeat", "command-generator", "command-handler", "graphql-endpoint", "frontend"];

/// All services of the test stack. Dropping it stops them.
struct RunningServices;

impl RunningServices {
    fn start() -> Self {
        stack(&["start", "synchronizer"]);
        let bank = Self;
        for service in SERVICES {
            stack(&["start", service]);
        }
        bank
    }

    /// Runs `bench` with `args`. Returns its exit status, the lines on stdout, and the last line as
    /// JSON.
    fn bench(&self, args: &str) -> (ExitStatus, Vec<String>, Value) {
        let out: &[&str] = match args.split_whitespace().next() {
            Some("demo") => &[],
            _ => &["--out", env!("CARGO_TARGET_TMPDIR")],
        };
        let output = Command::new(env!("CARGO_BIN_EXE_bench"))
            .args(args.split_whitespace())
            .args(out)
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

/// Selects the modes with the Kafka client that the bank's services use here: the kafka crate or
/// the built-in client.
fn modes<'a>(kafka_crate: &'a [&str], built_in: &'a [&str]) -> &'a [&'a str] {
    let config = KafkaConfig::from_env(&Env::new(&|name| std::env::var(name).ok()));
    let mut kafka_client =
        messaging::connect(&config.expect("the stack is up: make test-integration"));
    let asked = kafka_client.leaders(HEARTBEAT.name, Duration::from_secs(30));
    asked.expect("the synchronizer has made the topic");
    if kafka_client.fetches_from_all() { built_in } else { kafka_crate }
}

impl Drop for RunningServices {
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
fn short_demo_succeeds_twice_on_one_bank() {
    let bank = RunningServices::start();
    for _ in 0..2 {
        let (status, lines, json) = bank.bench("demo --duration-s 4 --loads 100,400");
        assert!(status.success(), "{status}");
        assert!(lines.iter().any(|line| line.ends_with("no cent is lost")));
        let count = |name: &str| json[name].as_u64().unwrap();
        // Two seconds at 100/s and two at 400/s, minus some at the change of the load.
        assert!(count("commands") > 500, "{json}");
        assert_eq!(count("commands"), count("confirmed") + count("failed"));
        assert_eq!((count("unanswered"), &json["balance_sum_ok"]), (0, &Value::Bool(true)));
        assert!(count("max_per_s") > 200);
        let users = |name: &str| json["graphql"][name].as_u64().unwrap();
        // Three simulated users with one transfer per second each, the first one at once.
        assert!(users("transfers") >= 9 && users("heard") == users("transfers"), "{json}");
        assert!(lines.iter().any(|line| line.starts_with("GraphiQL, while the bank runs")));
    }
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn short_soak_ends_with_its_samples() {
    let _bank = RunningServices::start();
    let results = format!("{}/soak", env!("CARGO_TARGET_TMPDIR"));
    let mut soak = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(["soak", "--duration-s", "300", "--load", "100", "--results", &results])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("cargo has built it");
    let lines = BufReader::new(soak.stderr.take().unwrap()).lines();
    let mut progress = lines.map(Result::unwrap).inspect(|line| eprintln!("{line}"));
    assert!(progress.by_ref().filter(|line| line.contains(" s | load ")).nth(3).is_some());
    let killed = Command::new("kill").args(["-INT", &soak.id().to_string()]).status();
    assert!(killed.unwrap().success());
    progress.for_each(drop);
    let output = soak.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    eprint!("{text}");
    assert!(output.status.success(), "{}", output.status);
    let json: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert!(json["seconds"].as_u64().unwrap() >= 4 && json["commands"].as_u64() > Some(1000));
    assert_eq!((&json["violations"], &json["restarted"]), (&0.into(), &Value::Array(Vec::new())));

    let read = |name: &str| std::fs::read_to_string(format!("{results}/{name}")).unwrap();
    assert!(read("soak.svg").ends_with("</svg>\n"));
    let csv = read("soak.csv");
    let mut rows = csv.lines().filter(|line| !line.starts_with('#')).map(|it| it.split(','));
    let titles: Vec<&str> = rows.next().unwrap().collect();
    let rows: Vec<Vec<&str>> = rows.map(Iterator::collect).collect();
    assert!(rows.len() >= 4, "{csv}");
    for (column, title) in titles.iter().enumerate() {
        // All parts run.
        let values = rows.iter().filter_map(|row| row[column].parse::<f64>().ok());
        let most = values.fold(-1.0, f64::max);
        let may_be_zero = ["cpu", "oldest", "waiting"].iter().any(|it| title.starts_with(it));
        assert!(most > 0.0 || may_be_zero && most == 0.0, "{title}: {csv}");
    }
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn short_probe_measures_all_modes_at_one_load() {
    let bank = RunningServices::start();
    let modes = modes(&["single", "batched"], &["built-in"]);
    let (status, lines, json) = bank.bench(&format!(
        "probe --accounts 20 --loads 10,20 --step-s 2 --bisections 0 --transfers 100 --modes {}",
        modes.join(",")
    ));
    assert!(status.success(), "{status}");
    let rows = |mode: &str| lines.iter().filter(|line| line.starts_with(mode)).count();
    for &mode in modes {
        // At least one load; in batched also the two halves of the memory test.
        assert!(rows(mode) >= if mode == "batched" { 3 } else { 1 }, "{lines:?}");
        assert!(json[mode]["max_per_s"].as_f64().unwrap() > 0.0, "{json}");
        let cost = json[mode]["broker_cpu_us_per_record"].as_f64();
        // The cost is compared with that of single or batched.
        assert!(cost.is_some() || modes == ["built-in"], "{json}");
    }
    if modes.contains(&"batched") {
        assert!(lines.iter().any(|line| line.starts_with("Memory of the handler: ")), "{lines:?}");
        assert!(json["idle_p50_ms"].as_f64().unwrap() > 0.0, "{json}");
        assert!((1.0..64.0).contains(&json["handler_rss_mib"].as_f64().unwrap()), "{json}");
    }
    assert!(json["p99_ms_at_2000"].is_null(), "{json}");

    let csv = lines.iter().find_map(|line| line.strip_prefix("Raw rows: ")).unwrap();
    let raw = std::fs::read_to_string(csv).unwrap();
    let raw = raw.lines().filter(|line| !line.starts_with('#')).count();
    assert_eq!(raw - 1, modes.iter().map(|mode| rows(mode)).sum::<usize>());
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn short_run_writes_rows_of_each_kind() {
    let bank = RunningServices::start();
    let mode = modes(&["single"], &["built-in"])[0];
    let (status, lines, _) = bank.bench(&format!(
        "run --profile sanity --loads 0,40 --step-s 4 --users 2 --modes {mode} --faults \
         3:graphql-endpoint:KILL",
    ));
    assert!(status.success(), "{status}");
    let folder = lines.iter().find_map(|line| line.strip_prefix("Raw rows: ")).unwrap();
    let rows = |kind: &str| -> Vec<HashMap<String, String>> {
        let text = std::fs::read_to_string(format!("{folder}/1-{mode}-{kind}.csv")).unwrap();
        assert!(text.contains(&format!("# settings: MODE={mode} ")), "{text}");
        let mut lines = text.lines().filter(|line| !line.starts_with('#')).map(|it| it.split(','));
        let titles: Vec<&str> = lines.next().unwrap().collect();
        lines
            .map(|row| {
                titles.iter().map(|it| (*it).to_owned()).zip(row.map(str::to_owned)).collect()
            })
            .collect()
    };
    // The histogram is a list of value:count words.
    let number = |row: &HashMap<String, String>, name: &str| -> f64 {
        let counts = row[name].split_whitespace().filter_map(|it| it.split_once(':'));
        match name {
            "histogram_us" => counts.map(|(_, count)| count.parse::<f64>().unwrap()).sum(),
            _ => row[name].parse().unwrap(),
        }
    };

    let loads = rows("loads");
    assert_eq!(loads.iter().map(|row| number(row, "load_per_s")).collect::<Vec<_>>(), [0.0, 40.0]);
    for load in &loads {
        // Two simulated users for four seconds. A step that is due at an edge may be in or out.
        assert!((6.0..=10.0).contains(&number(load, "steps")), "{load:?}");
        // Steps that timed out are in the histogram too.
        let ended = number(load, "histogram_us");
        assert_eq!((ended, number(load, "refused")), (number(load, "steps"), 0.0), "{load:?}");
        for part in ["broker", "database", "handler"] {
            assert!(number(load, &format!("{part}_mib")) > 1.0, "{load:?}");
        }
        // The sums of the seconds match the figures of the load.
        let seconds = rows("seconds");
        let seconds = seconds
            .iter()
            .filter(|row| row["measured"] == "1" && row["load_per_s"] == load["load_per_s"]);
        let answered: f64 = seconds.map(|row| number(row, "answered")).sum();
        let rate = number(load, "answered_per_s") * number(load, "seconds");
        assert!(answered > 0.0 && (answered - rate).abs() < 1.0, "{answered}, {rate}");
    }
    let steps = rows("steps");
    let ends = |end: &str| steps.iter().filter(|row| row["end"].starts_with(end)).count();
    // Two simulated users take steps all the time: two loads of four seconds, two before each.
    assert!(ends("changed") + ends("timed out") >= 20 && ends("changed") > 0, "{steps:?}");
    assert_eq!((ends("fault graphql-endpoint KILL"), ends("refused")), (1, 0));

    let results = format!("{}/results", env!("CARGO_TARGET_TMPDIR"));
    let (status, lines, json) = bank.bench(&format!(
        "report --from {folder} --results {results} --docs {results}/docs/results.md"
    ));
    assert!(status.success(), "{status}");
    let row = |line: &String| line.split_whitespace().take(3).eq([mode, "40", "1"]);
    assert!(lines.iter().any(row), "{lines:?}");
    assert!(json[mode]["max_per_s"].is_u64() && json["batched"]["max_per_s"].is_null(), "{json}");
    let read = |path: &str| std::fs::read_to_string(format!("{results}/{path}")).unwrap();
    let page = read("index.html");
    let linked = page.split('"').filter(|it| it.ends_with(".svg") || it.ends_with(".csv"));
    assert!(linked.map(|path| assert!(!read(path).is_empty(), "{path}")).count() > 30);
    assert!(read(&format!("05-latency-over-time-{mode}.svg")).contains("graphql-endpoint KILL"));
    assert!(read("docs/results.md").contains("](results/06-latency-mean.svg)"));
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn small_scale_test_compares_three_measurements() {
    let bank = RunningServices::start();
    let (status, lines, json) = bank.bench(
        "scale --accounts-few 10 --accounts-many 100 --history 2000 --load 50 --fill 100 --step-s \
         2 --steps 1",
    );
    assert!(status.success(), "{status}");
    for ratio in ["accounts_cost_ratio", "history_cost_ratio"] {
        assert!(json[ratio].as_f64().unwrap() > 0.0, "{json}");
    }
    let csv = lines.iter().find_map(|line| line.strip_prefix("Raw rows: ")).unwrap();
    let raw = std::fs::read_to_string(csv).unwrap();
    let raw: Vec<&str> = raw.lines().filter(|line| !line.starts_with('#')).skip(1).collect();
    let measured: Vec<(u64, u64)> = raw
        .iter()
        .map(|row| row.split(',').take(2).map(|it| it.parse().unwrap()).collect::<Vec<u64>>())
        .map(|cells| (cells[0], cells[1]))
        .collect();
    let [(10, first), (100, second), (100, third)] = measured[..] else { panic!("{measured:?}") };
    // The first deposit of each account is a change.
    assert!(second >= first + 100 && third >= 2000 && third > second, "{measured:?}");
}

#[test]
#[ignore = "needs the stack and Chromium: make test-integration"]
fn simulated_users_in_a_browser_use_the_pages() {
    let bank = RunningServices::start();
    let mode = modes(&["batched"], &["built-in"])[0];
    let (status, lines, _) = bank.bench(&format!(
        "run --driver browser --profile sanity --users 2 --loads 0 --step-s 11 --modes {mode} \
         --chromium {}",
        std::env::var("CHROMIUM").unwrap_or_else(|_| "chromium".to_owned()),
    ));
    assert!(status.success(), "{status}");
    let folder = lines.iter().find_map(|line| line.strip_prefix("Raw rows: ")).unwrap();
    let steps = std::fs::read_to_string(format!("{folder}/1-{mode}-steps.csv")).unwrap();
    let ends = |end: &str| steps.lines().filter(|line| line.contains(end)).count();
    // More than a whole cycle of ten for each user: deposits by buttons, payments by the form.
    assert!(ends(",changed,") > 20 && ends(",refused,") == 0, "{steps}");
}
