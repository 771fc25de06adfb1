//! Reads all quantities of a soak test.

use super::samples::Sample;
use crate::consumer_lag::ConsumerLag;
use crate::control::Http;
use crate::demo::{DemoStep, LoadedBank};
use crate::error::Error;
use crate::measure::Latencies;
use crate::metrics::{HANDLER_URL, oldest_snapshot_s};
use crate::output::mib;
use crate::process_usage::{CpuTimes, ProcessUsage};
use crate::stack::Stack;
use crate::start::Start;
use crate::topic_reader::Cluster;
use postgres::Client;
use service::env::Variable;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// `STACK_DATA_DIR`: folder with the data of the servers.
pub const DATA_DIR: Variable =
    Variable::required("STACK_DATA_DIR", "folder with the data of Kafka and PostgreSQL");
/// `STACK_DIR`: folder of the stack.
pub const LOG_DIR: Variable =
    Variable::required("STACK_DIR", "folder of the stack, for the size of its logs");

/// Connections to each database, without this one, and the sizes of both databases. Other roles see
/// the user and the database of a session, and background processes have no user.
const DATABASES: &str = "
    SELECT count(*) FILTER (WHERE datname = 'balancedb'),
           count(*) FILTER (WHERE datname = 'transactiondb'),
           pg_database_size('balancedb'), pg_database_size('transactiondb')
    FROM pg_stat_activity WHERE usename IS NOT NULL AND pid <> pg_backend_pid()";

pub struct Sampler {
    usage: ProcessUsage,
    before: CpuTimes,
    lag: ConsumerLag,
    http: Http,
    handler_url: String,
    data: PathBuf,
    kafka: Vec<PathBuf>,
    wal: PathBuf,
    logs: PathBuf,
}

impl Sampler {
    /// Finds the processes of the running stack.
    pub fn open(start: &Start<'_>, cluster: &Cluster) -> Result<Self, Error> {
        let brokers = cluster.kafka.brokers.len();
        let mut usage = ProcessUsage::find(&Stack::from_env(&start.env)?, brokers, None)?;
        let data = PathBuf::from(start.env.text(&DATA_DIR)?);
        Ok(Self {
            before: usage.cpu()?,
            usage,
            lag: ConsumerLag::new(cluster),
            http: Http::default(),
            handler_url: start.env.text(&HANDLER_URL)?,
            kafka: (1..=brokers).map(|broker| data.join(format!("kafka-{broker}"))).collect(),
            wal: data.join("postgres/pg_wal"),
            data,
            logs: PathBuf::from(start.env.text(&LOG_DIR)?).join("log"),
        })
    }

    /// Begins the first interval.
    pub fn begin(&mut self) -> Result<(), Error> {
        self.before = self.usage.cpu()?;
        Ok(())
    }

    /// Reads all quantities at the end of an interval, in which `step` was counted.
    pub fn sample(&mut self, bank: &mut LoadedBank, step: &DemoStep) -> Result<Sample, Error> {
        let users = bank.user_steps()?;
        let cpu = self.usage.cpu()?;
        let used = cpu.since(&self.before);
        self.before = cpu;
        let oldest = bank.observed.observer.oldest_unanswered();
        let oldest = oldest.map_or(0.0, |since| since.elapsed().as_secs_f64());
        // A stall of Kafka or of the handler must not end the run: the value is missing.
        let lag = self.lag.lag().ok().map(|records| records as f64);
        let snapshot = oldest_snapshot_s(&self.http, &self.handler_url).ok().flatten();
        let [balance_connections, transaction_connections, balances, transactions] =
            databases(&mut bank.database)
                .map_err(|source| Error::Database { step: "read its statistics", source })?;
        let kafka: u64 = self.kafka.iter().map(|folder| disk_bytes(folder)).sum();
        let disk = [kafka, balances, transactions, disk_bytes(&self.wal), disk_bytes(&self.logs)];
        Ok([
            vec![Some(step.done_per_s())],
            [percentiles(&users.latencies), percentiles(&step.latencies)].concat(),
            vec![Some(oldest), snapshot],
            vec![lag],
            self.usage.memory().map(|bytes| bytes.map(mib)).to_vec(),
            counts(self.usage.threads()),
            counts(self.usage.descriptors()),
            counts([Some(balance_connections), Some(transaction_connections)]),
            disk.map(|bytes| Some(mib(bytes))).to_vec(),
            vec![Some(used.other_cores()), Some(used.stolen_cores())],
            used.cores().to_vec(),
        ])
    }

    /// Free space on the disk of the data, bytes.
    pub fn disk_free(&self) -> Result<u64, Error> {
        let disk = rustix::fs::statvfs(&self.data);
        let path = self.data.clone();
        let disk = disk.map_err(|err| Error::Read { path, source: err.into() })?;
        Ok(disk.f_bavail * disk.f_frsize)
    }
}

fn counts<const N: usize>(counts: [Option<u64>; N]) -> Vec<Option<f64>> {
    counts.map(|count| count.map(|it| it as f64)).to_vec()
}

/// p50 and p99, ms; none without latencies.
fn percentiles(latencies: &Latencies) -> Vec<Option<f64>> {
    let percentile = |it| (latencies.count() > 0).then(|| latencies.percentile_ms(it));
    vec![percentile(50.0), percentile(99.0)]
}

/// The figures of [`DATABASES`].
fn databases(client: &mut Client) -> Result<[u64; 4], postgres::Error> {
    let row = client.query_one(DATABASES, &[])?;
    Ok([0, 1, 2, 3].map(|column| row.get::<_, i64>(column).unsigned_abs()))
}

/// Space that a file, or a folder with its files, takes on disk. A deleted file takes none.
fn disk_bytes(path: &Path) -> u64 {
    let Ok(file) = fs::symlink_metadata(path) else { return 0 };
    let entries = file.is_dir().then(|| fs::read_dir(path).ok()).flatten();
    let entries = entries.into_iter().flatten().flatten();
    file.blocks() * 512 + entries.map(|entry| disk_bytes(&entry.path())).sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_takes_the_space_of_its_files() {
        let folder = std::env::temp_dir().join(format!("bench-disk-{}", std::process::id()));
        fs::create_dir_all(folder.join("deep")).unwrap();
        let empty = disk_bytes(&folder);
        fs::write(folder.join("deep/file"), vec![1; 100_000]).unwrap();
        let sparse = fs::File::create(folder.join("sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        let full = disk_bytes(&folder) - empty;
        fs::remove_dir_all(&folder).unwrap();
        assert!((100_000..1_000_000).contains(&full), "{full}");
        assert_eq!(disk_bytes(&folder), 0);
    }
}
