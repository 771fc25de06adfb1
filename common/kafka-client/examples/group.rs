//! Reads a topic as a member of a consumer group. Start it several times: the members share the
//! partitions, and a rebalance follows when one of them leaves.
//!
//!     KAFKA_BROKERS=localhost:9092 cargo run --example group -- TOPIC GROUP [IDLE_S]
//!
//! It leaves the group after IDLE_S seconds without records, 30 by default.

#![allow(clippy::print_stdout, reason = "the output of the example")]

use kafka_client::{Assignment, Client, Config, ErrorKind, Position};
use std::env;
use std::error::Error;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

/// Time for retries of each call.
const WITHIN: Duration = Duration::from_secs(10);
/// Longest wait of a fetch for new records; heartbeats are sent between two fetches.
const FETCH_WAIT: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (topic, group, idle_s) = match &arguments[..] {
        [topic, group] => (topic, group, Ok(30)),
        [topic, group, idle_s] => (topic, group, idle_s.parse()),
        _ => {
            eprintln!("usage: group TOPIC GROUP [IDLE_S]");
            return ExitCode::from(2);
        }
    };
    let Ok(idle_s) = idle_s else {
        eprintln!("group: IDLE_S must be a number of seconds");
        return ExitCode::from(2);
    };
    match run(topic, group, Duration::from_secs(idle_s)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("group: {err}");
            ExitCode::FAILURE
        }
    }
}

fn run(topic: &str, group: &str, idle: Duration) -> Result<(), Box<dyn Error>> {
    let mut client = Client::new(&Config::new(brokers()?));
    let result = consume(&mut client, topic, group, idle);
    // Also after an error: else the partitions are not reassigned until the session times out.
    client.leave(group)?;
    Ok(result?)
}

fn consume(
    client: &mut Client,
    topic: &str,
    group: &str,
    idle: Duration,
) -> kafka_client::Result<()> {
    let mut assignment = None;
    let mut positions = Vec::new();
    let mut last_record = Instant::now();
    while last_record.elapsed() < idle {
        // Sends a heartbeat if one is due, and joins again in a rebalance.
        let current = client.poll_assignment(group, &[topic], WITHIN)?;
        if assignment.as_ref() != Some(&current) {
            positions = start_positions(client, topic, group, &current)?;
            let partitions: Vec<i32> = positions.iter().map(|it| it.partition).collect();
            println!("generation {}: partitions {partitions:?}", current.generation);
            assignment = Some(current);
        }
        if positions.is_empty() {
            // There are more members than partitions.
            thread::sleep(FETCH_WAIT);
            continue;
        }
        if fetch(client, topic, &mut positions)? == 0 {
            continue;
        }
        last_record = Instant::now();
        match client.commit(group, topic, &positions, WITHIN) {
            // The partitions were reassigned: their new member reads these records again.
            Err(err) if err.kind == ErrorKind::Fenced => eprintln!("group: {err}"),
            result => result?,
        }
    }
    Ok(())
}

/// The committed offsets of the assigned partitions, or their log start offsets.
fn start_positions(
    client: &mut Client,
    topic: &str,
    group: &str,
    assignment: &Assignment,
) -> kafka_client::Result<Vec<Position>> {
    let ranges = client.log_range(topic, WITHIN)?;
    let committed = client.committed(group, topic, WITHIN)?;
    let position = |(_, partition): &(String, i32)| {
        let index = *partition as usize;
        Position { partition: *partition, next: committed[index].unwrap_or(ranges[index].0) }
    };
    Ok(assignment.partitions.iter().map(position).collect())
}

/// Prints the next records and advances `positions`; returns the number of records.
fn fetch(
    client: &mut Client,
    topic: &str,
    positions: &mut [Position],
) -> kafka_client::Result<usize> {
    let mut count = 0;
    // The results have the order of the positions.
    let fetched = client.fetch(topic, positions, FETCH_WAIT)?;
    for (position, data) in positions.iter_mut().zip(fetched) {
        if let Some(err) = data.error.filter(|err| !err.is_retryable()) {
            return Err(err);
        }
        for record in &data.records {
            let value = String::from_utf8_lossy(record.value.as_deref().unwrap_or_default());
            println!("{topic}/{}/{}: {value}", data.partition, record.offset);
        }
        count += data.records.len();
        position.next = data.next;
    }
    Ok(count)
}

/// The bootstrap brokers, separated by commas.
fn brokers() -> Result<Vec<String>, String> {
    let brokers = env::var("KAFKA_BROKERS")
        .map_err(|_| "KAFKA_BROKERS is not set; an example is localhost:9092")?;
    Ok(brokers.split(',').map(|broker| broker.trim().to_owned()).collect())
}
