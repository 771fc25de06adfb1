//! `bench verify` on real servers: our handler holds the contract, and a wrong one is caught in
//! what it does wrong.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

/// Runs `bench verify`; its exit code, and what it says about each point.
fn verify(handler: &str) -> (ExitStatus, HashMap<String, String>) {
    let output = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(["verify", "--out", env!("CARGO_TARGET_TMPDIR"), "--handler", handler])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo has built it");
    let text = String::from_utf8_lossy(&output.stdout);
    eprint!("{text}");
    // `what is checked    yes    12`
    let row = |line: &str| {
        let (rest, _cases) = line.rsplit_once("  ")?;
        let (point, holds) = rest.trim_end().rsplit_once("  ")?;
        Some((point.trim_end().to_owned(), holds.to_owned()))
    };
    (output.status, text.lines().filter_map(row).collect())
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn our_handler_holds_the_contract_in_each_of_its_modes() {
    for name in ["scratchbank", "scratchbank-single", "scratchbank-built-in"] {
        let (status, points) = verify(name);
        assert_eq!(status.code(), Some(0));
        let holding = points.values().filter(|holds| *holds == "yes").count();
        assert_eq!((holding, points.len()), (19, 20), "and the line of titles: {points:?}");
    }
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn a_wrong_handler_is_caught_in_what_it_does_wrong() {
    let bench = Path::new(env!("CARGO_BIN_EXE_bench"));
    let wrong = bench.with_file_name("examples").join("wrong_handler");
    let (status, points) = verify(wrong.to_str().expect("the path is text"));
    assert_eq!(status.code(), Some(1));
    for (point, holds) in [
        ("opens accounts", "yes"),
        ("amount must be positive", "yes"),
        ("from is invalid", "yes"),
        ("invalid token", "yes"),
        ("keys, partitions, framing, schemas", "yes"),
        // It is one cent off, executes twice, drops, and forgets.
        ("insufficient funds", "NO"),
        ("a command that comes again: the same records, and no money moves", "NO"),
        ("what can't be read goes to dead_letter, and its partition goes on", "NO"),
        ("kill -9 and restart: no cent lost or doubled", "NO"),
    ] {
        assert_eq!(points.get(point).map(String::as_str), Some(holds), "{point}: {points:?}");
    }
}
