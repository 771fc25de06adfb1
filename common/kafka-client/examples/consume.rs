//! Prints the records of a topic up to its present end, and commits the offsets for a group. The
//! next run continues there.
//!
//!     KAFKA_BROKERS=localhost:9092 cargo run --example consume -- TOPIC GROUP
//!
//! It reads all partitions and does not join the group. The example `group` shares the partitions
//! with other members.

#![allow(clippy::print_stdout, reason = "the output of the example")]

use kafka_client::{Client, Config, ErrorKind, PartitionData, Position};
use std::env;
use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

/// Time for retries of each call.
const WITHIN: Duration = Duration::from_secs(10);
/// Longest wait of a fetch for new records.
const FETCH_WAIT: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [topic, group] = &arguments[..] else {
        eprintln!("usage: consume TOPIC GROUP");
        return ExitCode::from(2);
    };
    match run(topic, group) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("consume: {err}");
            ExitCode::FAILURE
        }
    }
}

fn run(topic: &str, group: &str) -> Result<(), Box<dyn Error>> {
    let mut client = Client::new(&Config::new(brokers()?));
    let ranges = client.log_range(topic, WITHIN)?;
    let committed = client.committed(group, topic, WITHIN)?;

    // Partitions without a committed offset are read from the log start offset.
    let mut positions: Vec<Position> = (0..)
        .zip(ranges.iter().zip(committed))
        .map(|(partition, ((start, _), committed))| Position {
            partition,
            next: committed.unwrap_or(*start),
        })
        .collect();
    let end_of = |it: &Position| ranges[it.partition as usize].1;
    loop {
        // The log may grow meanwhile: the run ends at the offsets that were its end at the start.
        let behind: Vec<Position> =
            positions.iter().copied().filter(|it| it.next < end_of(it)).collect();
        if behind.is_empty() {
            return Ok(());
        }
        let mut read = Vec::new();
        for data in client.fetch(topic, &behind, FETCH_WAIT)? {
            let position = &mut positions[data.partition as usize];
            let next = next_position(&mut client, topic, &data)?;
            print(topic, &data);
            if next != *position {
                *position = next;
                read.push(next);
            }
        }
        // After the records are processed: after a crash they are read again, not skipped.
        if !read.is_empty() {
            client.commit(group, topic, &read, WITHIN)?;
        }
    }
}

/// Where to continue in a partition.
fn next_position(
    client: &mut Client,
    topic: &str,
    data: &PartitionData,
) -> Result<Position, kafka_client::Error> {
    let PartitionData { partition, next, .. } = *data;
    match &data.error {
        None => Ok(Position { partition, next }),
        Some(err) if err.is_retryable() => Ok(Position { partition, next }),
        // The records at this offset were deleted: an offset reset to the log start offset.
        Some(err) if err.kind == ErrorKind::Position => {
            eprintln!("consume: {err}; continuing at the log start offset");
            let (start, _) = client.log_range(topic, WITHIN)?[partition as usize];
            Ok(Position { partition, next: start })
        }
        Some(err) => Err(err.clone()),
    }
}

fn print(topic: &str, data: &PartitionData) {
    for record in &data.records {
        let value = String::from_utf8_lossy(record.value.as_deref().unwrap_or_default());
        println!("{topic}/{}/{}: {value}", data.partition, record.offset);
    }
}

/// The bootstrap brokers, separated by commas.
fn brokers() -> Result<Vec<String>, String> {
    let brokers = env::var("KAFKA_BROKERS")
        .map_err(|_| "KAFKA_BROKERS is not set; an example is localhost:9092")?;
    Ok(brokers.split(',').map(|broker| broker.trim().to_owned()).collect())
}
