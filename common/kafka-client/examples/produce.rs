//! Produces each argument after the topic as the value of one record, spread over the partitions.
//!
//!     KAFKA_BROKERS=localhost:9092 cargo run --example produce -- TOPIC VALUE...
//!
//! The topic must exist.

#![allow(clippy::print_stdout, reason = "the output of the example")]

use kafka_client::{Batch, Client, Config, NewRecord};
use std::env;
use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

/// Time for retries of each call.
const WITHIN: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [topic, values @ ..] = &arguments[..] else {
        eprintln!("usage: produce TOPIC VALUE...");
        return ExitCode::from(2);
    };
    match run(topic, values) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("produce: {err}");
            ExitCode::FAILURE
        }
    }
}

fn run(topic: &str, values: &[String]) -> Result<(), Box<dyn Error>> {
    let mut client = Client::new(&Config::new(brokers()?));
    let partitions = client.leaders(topic, WITHIN)?.len();

    // A call takes at most one batch for each partition.
    let mut batches: Vec<Batch<'_>> = (0..)
        .take(partitions.min(values.len()))
        .map(|partition| Batch { topic, partition, records: Vec::new() })
        .collect();
    for (i, value) in values.iter().enumerate() {
        let record = NewRecord { value: Some(value.as_bytes()), ..NewRecord::default() };
        batches[i % partitions].records.push(record);
    }

    let results = client.produce(&batches, WITHIN);
    for (Batch { partition, records, .. }, result) in batches.iter().zip(results) {
        println!("{topic}/{partition}: {} records at offset {}", records.len(), result?);
    }
    Ok(())
}

/// The bootstrap brokers, separated by commas.
fn brokers() -> Result<Vec<String>, String> {
    let brokers = env::var("KAFKA_BROKERS")
        .map_err(|_| "KAFKA_BROKERS is not set; an example is localhost:9092")?;
    Ok(brokers.split(',').map(|broker| broker.trim().to_owned()).collect())
}
