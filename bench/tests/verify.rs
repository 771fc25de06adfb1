//! `bench verify` on real servers: our handler keeps the contract, and the errors of a wrong
//! handler are found.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

/// Runs `bench verify`. Returns its exit status, and the result of each point.
fn verify(handler: &str) -> (ExitStatus, HashMap<String, String>) {
    let output = Command::new(env!("CARGO_BIN_EXE_bench"))
        // Not passed to the handler: a new bank has the token of the talk.
        .env("COMPANY_TOKEN", "31415926535897932384")
        .args(["verify", "--out", env!("CARGO_TARGET_TMPDIR"), "--handler", handler])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo has built it");
    let text = String::from_utf8_lossy(&output.stdout);
    eprint!("{text}");
    // `title of the point    yes    12`
    let row = |line: &str| {
        let (rest, _cases) = line.rsplit_once("  ")?;
        let (point, holds) = rest.trim_end().rsplit_once("  ")?;
        Some((point.trim_end().to_owned(), holds.to_owned()))
    };
    (output.status, text.lines().filter_map(row).collect())
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn own_handler_keeps_the_contract_in_each_mode() {
    for name in ["scratchbank", "scratchbank-single", "scratchbank-built-in"] {
        let (status, points) = verify(name);
        assert_eq!(status.code(), Some(0));
        let holding = points.values().filter(|holds| *holds == "yes").count();
        assert_eq!((holding, points.len()), (19, 20), "the points and the titles: {points:?}");
    }
}

#[test]
#[ignore = "needs the stack: make test-integration"]
fn wrong_handler_fails_the_points_it_breaks() {
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
        // Its limit is wrong by one cent, it repeats transfers, drops records, and loses accounts.
        ("insufficient funds", "NO"),
        ("answers a replayed command with the same records, without moving money", "NO"),
        ("writes undecodable records to dead_letter and continues the partition", "NO"),
        ("loses and doubles no cent after kill -9", "NO"),
    ] {
        assert_eq!(points.get(point).map(String::as_str), Some(holds), "{point}: {points:?}");
    }
}
