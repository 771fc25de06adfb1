//! Sends transfers directly to the command-handler and reads their outcomes from the topics.

mod row;

pub use self::row::{COLUMNS, TransferLoad};
use crate::accounts::{self, Accounts, wait_for};
use crate::answers::Answers;
use crate::bank_under_test::BankUnderTest;
use crate::error::Error;
use crate::ids::Ids;
use crate::measure::{Answered, Latencies};
use crate::mode::Mode;
use crate::output::{self, mib};
use crate::process_usage::{BROKER, CpuUse, ProcessUsage};
use crate::schedule::{self, Schedule};
use messaging::producer::Sender;
use service::shutdown::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Time at each load before it is measured.
pub const SETTLE: Duration = Duration::from_secs(1);
/// Duration of the measurement without load.
const IDLE: Duration = Duration::from_secs(4);
/// Time between two samples of lag and memory.
const TICK: Duration = Duration::from_millis(100);
/// Number of deposits in a batch.
const DEPOSITS: u64 = 1000;

/// Sends transfers to the bank and measures them.
pub struct DirectLoad {
    pub bank: BankUnderTest,
    /// Shortest time between two batches of commands.
    batch_interval: Duration,
    ids: Ids,
    sender: Sender,
    answers: Answers,
    accounts: Option<Accounts>,
    /// Number of the first command that was sent to this handler process.
    first: u64,
    /// CPU seconds per second that the brokers use without load.
    broker_idle: f64,
}

impl DirectLoad {
    /// Connects to the bank's topics.
    pub fn new(bank: BankUnderTest, batch_interval: Duration) -> Result<Self, Error> {
        let ids = Ids::new(&mut rand::rng());
        Ok(Self {
            sender: bank.cluster.sender(&bank.shutdown),
            answers: Answers::open(&bank.cluster, ids)?,
            bank,
            batch_interval,
            ids,
            accounts: None,
            first: 0,
            broker_idle: 0.0,
        })
    }

    /// Opens accounts and deposits cash in each.
    pub fn open_accounts(&mut self, count: usize) -> Result<(), Error> {
        let Self { bank, sender, answers, ids, .. } = self;
        let opened = Accounts::open(&bank.cluster, sender, *ids, count, &bank.shutdown)?;
        let first = answers.ledger.next();
        let count = opened.count();
        for from in (0..count).step_by(DEPOSITS as usize) {
            let some = from..(from + DEPOSITS).min(count);
            answers.ledger.expect(some.end - some.start, true);
            let deposits: Vec<_> =
                some.map(|index| opened.deposit(first + index, index as usize)).collect();
            accounts::sent(sender.send_all(&deposits))?;
        }
        let unsettled = answers.settle(first, &bank.shutdown)?;
        if unsettled > 0 || answers.refused > 0 {
            return Err(Error::Bank(format!(
                "of {count} first deposits, {unsettled} have no outcome and {} were rejected",
                answers.refused
            )));
        }
        output::progress(&format!("Deposited cash in {count} accounts"));
        self.accounts = Some(opened);
        Ok(())
    }

    /// Restarts the handler in `mode`.
    pub fn restart_handler(&mut self, mode: Mode) -> Result<(), Error> {
        self.bank.restart_handler(mode)?;
        self.first = self.answers.ledger.next();
        Ok(())
    }

    /// Number of transfers sent to this handler process so far.
    pub fn transfers(&self) -> u64 {
        self.answers.ledger.next() - self.first
    }

    /// Runs a load that is not recorded, and then measures the CPU time without load.
    pub fn warm_up(&mut self, load: u32, time: Duration) -> Result<(), Error> {
        output::progress(&format!("{:8} warming up at {load} transfers/s", self.bank.name));
        self.step(load, time)?;
        let (before, started) = (self.bank.usage.cpu()?, Instant::now());
        let mut nothing = Vec::new();
        while started.elapsed() < IDLE {
            self.answers.poll(TICK, &mut nothing)?;
            if self.bank.shutdown.requested() {
                return Err(Error::Stopped);
            }
        }
        let used = self.bank.usage.cpu()?.since(&before);
        self.broker_idle = used.seconds(BROKER) / used.elapsed_s;
        output::progress(&format!(
            "{:8} without load the brokers use {:.1} % of a core",
            self.bank.name,
            self.broker_idle * 100.0
        ));
        Ok(())
    }

    /// Sends `load` transfers per second for [`SETTLE`] and `time`, and measures the latter.
    pub fn step(&mut self, load: u32, time: Duration) -> Result<TransferLoad, Error> {
        let work = self.bank.work()?;
        let first = self.answers.ledger.next();
        let (refused, repeated) = (self.answers.refused, self.answers.ledger.repeated);
        let schedule = Schedule::new(Instant::now() + TICK, load, SETTLE + time);
        self.answers.ledger.expect(schedule.count, false);
        let measured = self.send_and_watch(schedule, first)?;
        let unanswered = self.answers.settle(first, &self.bank.shutdown)?;
        let work = self.bank.work()? - work;
        let Measured { answered, cpu, broken, memory } = measured;
        let percentile = |percentile| answered.latencies.percentile_ms(percentile);
        Ok(TransferLoad {
            mode: self.bank.mode,
            load,
            seconds: answered.window.seconds(),
            answered: answered.within,
            p50_ms: percentile(50.0),
            p99_ms: percentile(99.0),
            p999_ms: percentile(99.9),
            max_ms: percentile(100.0),
            lag_max: answered.window.lag_max() as u64,
            growth: answered.growth(),
            held: !broken && answered.keeps_up() && unanswered == 0,
            unanswered,
            refused: self.answers.refused - refused,
            repeated: self.answers.ledger.repeated - repeated,
            cpu,
            broker_idle: self.broker_idle,
            commands_per_transaction: work.commands_per_transaction(),
            records_per_request: work.records_per_request(),
            rss: memory,
            transfers: self.transfers(),
        })
    }

    /// Sends the commands of `schedule` on a separate thread, numbered from `first` on, and reads
    /// the answers on this one.
    fn send_and_watch(&mut self, schedule: Schedule, first: u64) -> Result<Measured, Error> {
        let accounts = self.accounts.as_mut().expect("accounts are opened before the first step");
        let mut watch = Watch {
            label: format!("{:8} {:>6}/s", self.bank.name, schedule.per_s),
            answers: &mut self.answers,
            usage: &mut self.bank.usage,
            shutdown: &self.bank.shutdown,
            answered: Answered::new(schedule, SETTLE),
            first,
            numbers: Vec::new(),
            second: Latencies::default(),
            done: 0,
            memory: 0,
        };
        let (sender, batch_interval, stop) =
            (&mut self.sender, self.batch_interval, AtomicBool::new(false));
        let (cpu, broken) = thread::scope(|scope| {
            let command = |index| accounts.transfer(first + index);
            let sending =
                scope.spawn(|| schedule::send(schedule, batch_interval, sender, command, &stop));
            let measured = watch.measure(&stop, || sending.is_finished());
            // Stops the sender also after an error.
            stop.store(true, Ordering::Relaxed);
            let sent = sending.join().expect("a panic ends the process");
            let measured = measured?;
            let sent =
                sent.map_err(|source| Error::Kafka { step: "send commands".to_owned(), source })?;
            watch.answers.ledger.cut(first + sent);
            watch.drain(sent)?;
            Ok::<_, Error>(measured)
        })?;
        Ok(Measured { answered: watch.answered, cpu, broken, memory: watch.memory })
    }
}

struct Measured {
    answered: Answered,
    /// CPU time in the window.
    cpu: CpuUse,
    /// True if the load was aborted.
    broken: bool,
    /// Highest memory of the handler, bytes.
    memory: u64,
}

/// Measures a load that another thread sends.
struct Watch<'a> {
    label: String,
    answers: &'a mut Answers,
    usage: &'a mut ProcessUsage,
    shutdown: &'a Shutdown,
    answered: Answered,
    /// Number of the load's first command.
    first: u64,
    /// Numbers of answered commands; the buffer is reused by each poll.
    numbers: Vec<u64>,
    /// Latencies since the last line of progress.
    second: Latencies,
    /// Commands answered.
    done: u64,
    memory: u64,
}

impl Watch<'_> {
    /// Reads until the window is closed and all commands are sent. Returns the CPU time in the
    /// window, and true if the load was aborted because the lag was too high.
    fn measure(
        &mut self,
        stop: &AtomicBool,
        sent: impl Fn() -> bool,
    ) -> Result<(CpuUse, bool), Error> {
        let (mut opened, mut closed, mut broken) = (None, None, false);
        let (mut tick, mut line) = (Instant::now(), Instant::now() + Duration::from_secs(1));
        while closed.is_none() || !sent() {
            let now = Instant::now();
            if opened.is_none() && now >= self.answered.window.opens {
                opened = Some(self.usage.cpu()?);
            }
            if closed.is_none() && now >= self.answered.window.closes {
                closed = Some(self.usage.cpu()?);
            }
            if now >= tick {
                tick = now + TICK;
                let lag = self.answered.lag(now) as f64;
                self.answered.window.note_lag(now, lag);
                self.memory = self.memory.max(self.usage.handler_memory()?);
            }
            if now >= line {
                line += Duration::from_secs(1);
                self.print_second();
            }
            if self.shutdown.requested() {
                return Err(Error::Stopped);
            }
            if self.answered.cannot_catch_up(now) {
                output::progress(&format!("{} | lag too high, load aborted", self.label));
                stop.store(true, Ordering::Relaxed);
                self.answered.window.close(now);
                closed = Some(self.usage.cpu()?);
                broken = true;
                break;
            }
            let window = &self.answered.window;
            let edge = if opened.is_none() { window.opens } else { window.closes };
            let next = if closed.is_none() { tick.min(edge) } else { tick };
            self.read(next.saturating_duration_since(Instant::now()))?;
        }
        let cpu = opened.zip(closed).map(|(opened, closed)| closed.since(&opened));
        Ok((cpu.unwrap_or_default(), broken))
    }

    /// Reads until all `sent` commands are answered, or until no answer comes for 10 s.
    fn drain(&mut self, sent: u64) -> Result<(), Error> {
        let (mut done, mut news_at) = (self.done, Instant::now());
        while self.done < sent && news_at.elapsed() < Duration::from_secs(10) {
            wait_for(&news_at, "waiting for answers", self.shutdown)?;
            self.read(TICK)?;
            if self.done > done {
                (done, news_at) = (self.done, Instant::now());
            }
        }
        Ok(())
    }

    fn read(&mut self, wait: Duration) -> Result<(), Error> {
        self.numbers.clear();
        let read = self.answers.poll(wait, &mut self.numbers)?;
        for number in &self.numbers {
            // A late answer to a command of an earlier load.
            let Some(index) = number.checked_sub(self.first) else { continue };
            self.second.record(self.answered.note(index, read));
            self.done += 1;
        }
        Ok(())
    }

    /// Prints a line of progress about the last second.
    fn print_second(&mut self) {
        let percentile = |percentile| output::short(self.second.percentile_ms(percentile));
        output::progress(&format!(
            "{} | answered {:>6}/s | latency p50 {:>6} ms, p99 {:>6} ms | lag {:>6} | \
             memory {:>5.1} MiB",
            self.label,
            self.second.count(),
            percentile(50.0),
            percentile(99.0),
            self.answered.lag(Instant::now()),
            mib(self.memory),
        ));
        self.second.reset();
    }
}
