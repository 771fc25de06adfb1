//! The figures of one load of transfers that were sent directly to the command-handler.

use crate::mode::Mode;
use crate::output::{mib, rounded, short};
use crate::process_usage::{BENCH, BROKER, CpuUse, DATABASE, ENDPOINT, HANDLER};

/// Records of a transfer: the command, its confirmation, and two balance changes.
const RECORDS_PER_TRANSFER: f64 = 4.0;

/// Columns of the CSV file, as [`TransferLoad::csv`] writes them.
pub const COLUMNS: &str = "mode,load_per_s,seconds,answered,done_per_s,p50_ms,p99_ms,p999_ms,\
     max_ms,lag_max,lag_growth,held,unanswered,refused,repeated,broker_cpu_s,broker_idle_cpu_s,\
     database_cpu_s,handler_cpu_s,endpoint_cpu_s,bench_cpu_s,other_cpu_s,broker_cpu_us_per_record,\
     commands_per_transaction,records_per_request,handler_rss_bytes,handler_transfers";

/// The figures of a load. Counts and CPU times are those of the measured window.
#[derive(Debug, Clone)]
pub struct TransferLoad {
    pub mode: Mode,
    /// Transfers due per second.
    pub load: u32,
    /// Duration of the window.
    pub seconds: f64,
    /// Transfers answered in the window.
    pub answered: u64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
    pub lag_max: u64,
    /// Growth of the lag, as a fraction of the load.
    pub growth: f64,
    pub held: bool,
    /// Transfers of the whole step that do not have exactly one outcome.
    pub unanswered: u64,
    /// Transfers of the whole step that the bank rejected.
    pub refused: u64,
    /// Replayed answers of the whole step.
    pub repeated: u64,
    pub cpu: CpuUse,
    /// CPU seconds per second that the brokers use without load.
    pub broker_idle: f64,
    /// Mean over the whole step.
    pub commands_per_transaction: f64,
    /// Mean over the whole step, for the handler's producer.
    pub records_per_request: f64,
    /// Highest memory of the handler in the step, bytes.
    pub rss: u64,
    /// Transfers sent to this handler process until the end of the step.
    pub transfers: u64,
}

impl TransferLoad {
    /// CPU seconds of the brokers, minus what they use without load.
    fn broker_s(&self) -> f64 {
        (self.cpu.seconds(BROKER) - self.broker_idle * self.seconds).max(0.0)
    }

    /// CPU microseconds of the brokers per record, minus what they use without load.
    pub fn broker_us_per_record(&self) -> f64 {
        self.broker_s() * 1e6 / (self.answered as f64 * RECORDS_PER_TRANSFER).max(1.0)
    }

    /// CPU seconds per 1,000 transfers of brokers, database, handler and endpoint. Those of the
    /// brokers are without what they use without load.
    pub fn costs(&self) -> [f64; 4] {
        let [database, handler, endpoint] =
            [DATABASE, HANDLER, ENDPOINT].map(|part| self.cpu.seconds(part));
        [self.broker_s(), database, handler, endpoint].map(|cpu| self.per_1000(cpu))
    }

    fn per_1000(&self, cpu: f64) -> f64 {
        cpu * 1000.0 / (self.answered as f64).max(1.0)
    }

    /// Titles of [`Self::cells`].
    pub fn titles() -> Vec<String> {
        [
            "mode",
            "load",
            "done/s",
            "p50 ms",
            "p99 ms",
            "p99.9 ms",
            "lag",
            "held",
            "broker us/rec",
            "handler s/1000",
            "db s/1000",
            "cmds/tx",
            "recs/req",
            "RSS MiB",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    /// The cells of a row in the table that is printed.
    pub fn cells(&self) -> Vec<String> {
        let held = if self.held { "yes" } else { "no" };
        vec![
            self.mode.to_string(),
            self.load.to_string(),
            short(self.answered as f64 / self.seconds),
            short(self.p50_ms),
            short(self.p99_ms),
            short(self.p999_ms),
            self.lag_max.to_string(),
            held.to_owned(),
            short(self.broker_us_per_record()),
            format!("{:.3}", self.per_1000(self.cpu.seconds(HANDLER))),
            format!("{:.3}", self.per_1000(self.cpu.seconds(DATABASE))),
            short(self.commands_per_transaction),
            short(self.records_per_request),
            format!("{:.1}", mib(self.rss)),
        ]
    }

    /// A row of the CSV file, in the order of [`COLUMNS`].
    pub fn csv(&self) -> String {
        let cpu = |part| self.cpu.seconds(part);
        let idle = self.broker_idle * self.seconds;
        let numbers = [
            f64::from(self.load),
            self.seconds,
            self.answered as f64,
            self.answered as f64 / self.seconds,
            self.p50_ms,
            self.p99_ms,
            self.p999_ms,
            self.max_ms,
            self.lag_max as f64,
            self.growth,
            f64::from(u8::from(self.held)),
            self.unanswered as f64,
            self.refused as f64,
            self.repeated as f64,
            cpu(BROKER),
            idle,
            cpu(DATABASE),
            cpu(HANDLER),
            cpu(ENDPOINT),
            cpu(BENCH),
            self.cpu.others,
            self.broker_us_per_record(),
            self.commands_per_transaction,
            self.records_per_request,
            self.rss as f64,
            self.transfers as f64,
        ];
        format!("{},{}", self.mode, numbers.map(rounded).join(","))
    }

    #[cfg(test)]
    pub fn example(broker_s: f64) -> Self {
        let mut parts = [None; crate::process_usage::NAMES.len()];
        for (part, seconds) in
            [(BROKER, broker_s), (DATABASE, 1.2), (HANDLER, 0.4), (ENDPOINT, 0.3), (BENCH, 0.2)]
        {
            parts[part] = Some(seconds);
        }
        Self {
            mode: Mode::Single,
            load: 500,
            seconds: 8.0,
            answered: 4000,
            p50_ms: 3.21,
            p99_ms: 9.42,
            p999_ms: 30.0,
            max_ms: 31.5,
            lag_max: 7,
            growth: 0.001,
            held: true,
            unanswered: 0,
            refused: 0,
            repeated: 0,
            cpu: CpuUse { elapsed_s: 8.0, parts, others: 1.0, stolen: 0.0 },
            broker_idle: 0.0,
            commands_per_transaction: 2.5,
            records_per_request: 7.5,
            rss: 12 << 20,
            transfers: 4500,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_row_has_a_value_for_each_column() {
        let row = TransferLoad::example(4.0).csv();
        assert_eq!(row.split(',').count(), COLUMNS.split(',').count());
        assert!(
            row.starts_with(
                "single,500,8,4000,500,3.21,9.42,30,31.5,7,0.001,1,0,0,0,4,0,1.2,0.4,0.3,0.2,1,\
                 250,2.5,7.5,"
            ),
            "{row}"
        );
        assert_eq!(TransferLoad::titles().len(), TransferLoad::example(4.0).cells().len());
    }

    #[test]
    fn broker_cpu_excludes_use_without_load() {
        let row = TransferLoad { broker_idle: 0.1, ..TransferLoad::example(4.0) };
        assert!((row.broker_us_per_record() - 200.0).abs() < 1e-6);
        let row = TransferLoad { broker_idle: 9.0, ..TransferLoad::example(4.0) };
        assert_eq!(row.broker_us_per_record(), 0.0);
    }
}
