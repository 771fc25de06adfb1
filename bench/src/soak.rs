//! `bench soak`: runs the bank under a constant load for an hour and shows what grows.

mod growth;
mod sampler;
mod samples;

use self::sampler::{DATA_DIR, LOG_DIR, Sampler};
use self::samples::Samples;
use crate::control::HEARTBEAT_URL;
use crate::demo::{DemoStep, LoadedBank};
use crate::error::Error;
use crate::graphql::GRAPHQL_URL;
use crate::metrics::HANDLER_URL;
use crate::observed_bank::BALANCE_DATABASE_URL;
use crate::options::{self, number, seconds};
use crate::output::{self, figure, mib};
use crate::stack::STACK;
use crate::start::Start;
use crate::topic_reader::Cluster;
use messaging::KafkaConfig;
use serde::Serialize;
use serde_json::Number;
use service::env::SCHEMA_REGISTRY_URL;
use service::shutdown::Shutdown;
use std::collections::BTreeMap;
use std::mem;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Run the bank under a constant load for an hour and show what grows
///
/// The load is heartbeat records, which become commands, and ten simulated users with one transfer
/// per second each. After ten seconds of it the measurement begins. 360 times, but at most once a
/// second, these quantities are sampled:
///   - CPU, memory, threads and open descriptors of each part of the bank
///   - connections to PostgreSQL, and the space on disk of Kafka, PostgreSQL and the logs
///   - commands answered per second, and the time until their outcome
///   - the time until a simulated user receives the new balance
///   - records that are not consumed, the oldest command without an outcome, and the oldest
///     snapshot in balancedb
///
/// A table compares the means of the first and the last tenth of the samples: docs/soak.md has the
/// rule. All records are read and checked as by bench demo, which takes memory of this program:
/// docs/soak.md has the figure. Writes soak.csv and soak.svg to --results. Ctrl-C, or less than 4
/// GiB of free space on disk, ends the load early. Then the results so far are printed, and the
/// bank is checked. The exit code is 0 if all checks pass and no part was restarted, else 1. The
/// last line is JSON.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = options::environment(&[
    &[STACK, DATA_DIR, LOG_DIR, HEARTBEAT_URL, GRAPHQL_URL, HANDLER_URL, BALANCE_DATABASE_URL],
    KafkaConfig::VARIABLES,
    &[SCHEMA_REGISTRY_URL],
]))]
pub struct SoakOptions {
    /// Measured time, 10 to 86400 s
    #[arg(long, default_value = "3600", value_parser = seconds(10..=86_400))]
    duration_s: Duration,
    /// Heartbeat records per second, 1 to 1000000; the default is half of the highest load held in
    /// docs/results.md
    #[arg(long, default_value = "16000", value_parser = number(1..=1_000_000u32))]
    load: u32,
    /// Folder for the graphs and the samples, which the web page of `make up` shows
    #[arg(long, value_name = "FOLDER", default_value = "target/results")]
    results: PathBuf,
}

const USERS: u32 = 10;
/// Load before the first sample.
const WARM_UP: Duration = Duration::from_secs(10);
/// Number of samples, unless that would be more than one per second.
const SAMPLES: u32 = 360;
/// Time within which a shutdown request takes effect.
const LOOK: Duration = Duration::from_millis(500);
/// Space that a command takes on disk: 425 bytes in Kafka, 340 in balancedb, 445 in transactiondb.
/// The WAL takes up to 4 GB in addition. Measured at 1,000/s for a minute.
const DISK_BYTES: u64 = 1210;
/// Memory of the observer for each command, measured in the same run.
const MEMORY_BYTES: u64 = 220;
/// Free space on disk below which the load ends. Kafka and PostgreSQL stop on a full disk.
const DISK_FREE_MIN: u64 = 4 << 30;

/// The last line of the output.
#[derive(Serialize)]
struct Summary {
    seconds: Option<Number>,
    load_per_s: u32,
    commands: u64,
    user_p50_ms: Option<Number>,
    user_p99_ms: Option<Number>,
    /// Quantities that grew, and their growth per hour.
    growing: BTreeMap<String, Option<Number>>,
    restarted: Vec<&'static str>,
    violations: usize,
}

pub fn run(start: &Start<'_>, options: &SoakOptions) -> Result<ExitCode, Error> {
    let cluster = Cluster::from_env(&start.env)?;
    let mut sampler = Sampler::open(start, &cluster)?;
    let settings = [
        ("LOAD", options.load.to_string()),
        ("DURATION_S", options.duration_s.as_secs().to_string()),
        ("USERS", USERS.to_string()),
    ];
    let mut samples = Samples::create(&options.results, &settings)?;
    let mut bank = LoadedBank::start(start, &cluster, USERS)?;
    let loaded = load(&mut bank, options, &start.shutdown, &mut sampler, &mut samples);
    bank.heartbeat.set_load(0)?;
    // The samples are shown also if the load has failed.
    samples.write_graphs()?;
    output::print(&output::table(&samples.table()));
    let restarted = samples.restarted_parts();
    for part in &restarted {
        output::print(&format!("RESTARTED: {part} had ended during the load\n"));
    }
    output::print(&format!("Graphs and samples: {}\n", options.results.join("soak.svg").display()));
    let checked = bank.finish(loaded)?;
    output::print(&checked.text());
    let latencies = &checked.user_steps.latencies;
    let is_right = checked.is_right() && restarted.is_empty();
    output::print_json(&Summary {
        seconds: figure(Some(samples.seconds()), 0),
        load_per_s: options.load,
        commands: checked.report.counts.commands,
        user_p50_ms: figure(Some(latencies.percentile_ms(50.0)), 1),
        user_p99_ms: figure(Some(latencies.percentile_ms(99.0)), 1),
        growing: samples.growing(),
        violations: checked.faults.len() + usize::from(!checked.is_sum_right()),
        restarted,
    });
    Ok(if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Puts the bank under load and samples it. Ends early, without an error, when shutdown is
/// requested or the disk is almost full.
fn load(
    bank: &mut LoadedBank,
    options: &SoakOptions,
    shutdown: &Shutdown,
    sampler: &mut Sampler,
    samples: &mut Samples,
) -> Result<(), Error> {
    let SoakOptions { duration_s: duration, load, .. } = *options;
    let interval = (duration / SAMPLES).max(Duration::from_secs(1));
    let seconds = (duration + WARM_UP).as_secs();
    let gib = |bytes_per_command: u64| {
        (u64::from(load) * seconds * bytes_per_command) as f64 / f64::from(1 << 30)
    };
    output::progress(&format!(
        "Load of {load}/s for {seconds} s; it takes about {:.1} GiB of disk of {:.1} GiB free, and \
         {:.1} GiB of memory of this program. One line per sample:",
        gib(DISK_BYTES),
        sampler.disk_free()? as f64 / f64::from(1 << 30),
        gib(MEMORY_BYTES),
    ));
    bank.heartbeat.set_load(load)?;
    let mut step = DemoStep::new(load, &bank.observed.observer);
    let began = step.started + WARM_UP;
    if !read(bank, &mut step, began, shutdown)? {
        return Ok(());
    }
    // Steps and CPU time of the warm-up do not count.
    bank.user_steps()?;
    sampler.begin()?;
    step = DemoStep::new(load, &bank.observed.observer);
    for number in 1.. {
        let end = began + interval * number;
        if end > began + duration {
            break;
        }
        if !read(bank, &mut step, end, shutdown)? {
            break;
        }
        // The time that the sample takes belongs to the next interval.
        let ended = mem::replace(&mut step, DemoStep::new(load, &bank.observed.observer));
        let sample = sampler.sample(bank, &ended)?;
        let seconds = Instant::now().duration_since(began).as_secs_f64();
        samples.add(seconds, sample)?;
        output::progress(&format!("{seconds:>5.0} s | {}", ended.line()));
        let free = sampler.disk_free()?;
        if free < DISK_FREE_MIN {
            output::print(&format!("Ended early: the disk has {:.0} MiB left\n", mib(free)));
            break;
        }
    }
    Ok(())
}

/// Reads records until `end`. Returns false if shutdown was requested before.
fn read(
    bank: &mut LoadedBank,
    step: &mut DemoStep,
    end: Instant,
    shutdown: &Shutdown,
) -> Result<bool, Error> {
    while Instant::now() < end {
        if shutdown.requested() {
            return Ok(false);
        }
        bank.observed.read(end.min(Instant::now() + LOOK), |news| step.note(news))?;
    }
    step.end(&bank.observed.observer);
    Ok(true)
}
