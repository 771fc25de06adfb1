//! The bank under test: what drives it, reads it and looks at its processes.

use super::row::{Cpu, Row};
use crate::accounts::{self, Customers, wait_for};
use crate::answers::Answers;
use crate::consumer_lag::ConsumerLag;
use crate::control::Http;
use crate::error::Error;
use crate::handler_process::HandlerProcess;
use crate::ids::Ids;
use crate::measure::{Window, latencies, percentile_ms};
use crate::metrics::{HANDLER_URL, Work};
use crate::mode::Mode;
use crate::output;
use crate::proc::{self, Process};
use crate::schedule::{self, Schedule};
use crate::stack::{ENDPOINT, HANDLER, POSTGRES, Stack};
use crate::topic_reader::Cluster;
use hdrhistogram::Histogram;
use messaging::producer::Sender;
use service::env::Env;
use service::shutdown::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// What each load gets to settle before it is measured.
pub const SETTLE: Duration = Duration::from_secs(1);
/// How long the machine without load is looked at.
const IDLE: Duration = Duration::from_secs(4);
/// Time between two looks at lag and memory.
const TICK: Duration = Duration::from_millis(100);
/// Deposits in one batch.
const DEPOSITS: u64 = 1000;

/// Drives and watches the running stack.
pub struct Rig {
    cluster: Cluster,
    stack: Stack,
    http: Http,
    /// Where the handler tells about its work; none if it does not.
    handler_url: Option<String>,
    pace: Duration,
    shutdown: Shutdown,
    ids: Ids,
    sender: Sender,
    answers: Answers,
    customers: Option<Customers>,
    parts: Parts,
    mode: Mode,
    /// What is measured, for lines of progress.
    name: String,
    /// Number of the first command of this handler process.
    first: u64,
    /// CPU seconds per second of the brokers without load.
    broker_idle: f64,
}

impl Rig {
    /// Connects to everything.
    ///
    /// # Errors
    /// A part does not run or does not answer.
    pub fn open(env: &Env<'_>, pace: Duration, shutdown: Shutdown) -> Result<Self, Error> {
        let stack = Stack::from_env(env)?;
        let cluster = Cluster::from_env(env)?;
        let parts = Parts::find(&stack, cluster.kafka.brokers.len())?;
        Self::with(cluster, stack, parts, pace, shutdown, Some(env.text(&HANDLER_URL)?))
    }

    /// The same with `life` as the handler, in a stack of servers only.
    ///
    /// # Errors
    /// A part does not run or does not answer.
    pub fn around(
        env: &Env<'_>,
        life: &HandlerProcess,
        pace: Duration,
        shutdown: Shutdown,
    ) -> Result<Self, Error> {
        let stack = Stack::from_env(env)?;
        let cluster = Cluster::from_env(env)?;
        let parts = Parts::around(&stack, cluster.kafka.brokers.len(), life.process)?;
        // Batch sizes are told by ours; no other has to.
        let url = Some(life.url()).filter(|url| Work::read(&Http::default(), url).is_ok());
        let rig = Self::with(cluster, stack, parts, pace, shutdown, url)?;
        Ok(Self { name: life.name.clone(), ..rig })
    }

    fn with(
        cluster: Cluster,
        stack: Stack,
        parts: Parts,
        pace: Duration,
        shutdown: Shutdown,
        handler_url: Option<String>,
    ) -> Result<Self, Error> {
        let ids = Ids::new(&mut rand::rng());
        Ok(Self {
            parts,
            sender: cluster.sender(&shutdown),
            answers: Answers::open(&cluster, ids)?,
            http: Http::default(),
            handler_url,
            customers: None,
            mode: Mode::Batched,
            name: Mode::Batched.to_string(),
            first: 0,
            broker_idle: 0.0,
            cluster,
            stack,
            pace,
            shutdown,
            ids,
        })
    }

    /// Opens accounts and gives them cash.
    ///
    /// # Errors
    /// The bank does not do it.
    pub fn open_accounts(&mut self, count: usize) -> Result<(), Error> {
        let Self { cluster, sender, answers, ids, shutdown, .. } = self;
        let customers = Customers::open(cluster, sender, *ids, count, shutdown)?;
        let first = answers.ledger.next();
        let count = customers.count();
        for from in (0..count).step_by(DEPOSITS as usize) {
            let some = from..(from + DEPOSITS).min(count);
            answers.ledger.expect(some.end - some.start, true);
            let deposits: Vec<_> =
                some.map(|index| customers.deposit(first + index, index as usize)).collect();
            accounts::sent(sender.send_all(&deposits))?;
        }
        let unsettled = answers.settle(first, shutdown)?;
        if unsettled > 0 || answers.refused > 0 {
            return Err(Error::Bank(format!(
                "of {count} first deposits, {unsettled} have no outcome and {} were refused",
                answers.refused
            )));
        }
        output::progress(&format!("{count} accounts have money"));
        self.customers = Some(customers);
        Ok(())
    }

    /// Starts the handler anew with a producer of this mode.
    ///
    /// # Errors
    /// It does not start.
    pub fn switch(&mut self, mode: Mode) -> Result<(), Error> {
        let variables = mode.variables();
        let [producer, client] = variables.map(|(name, value)| format!("{name}={value}"));
        output::progress(&format!("{HANDLER} starts with {producer} {client}"));
        // Before the restart: one that fails half-way is to be undone too.
        self.mode = mode;
        self.name = mode.to_string();
        self.stack.restart(HANDLER, &variables)?;
        self.parts = Parts::find(&self.stack, self.cluster.kafka.brokers.len())?;
        self.first = self.answers.ledger.next();
        Ok(())
    }

    /// Leaves the stack with the handler that it starts with.
    ///
    /// # Errors
    /// It does not start.
    pub fn leave(&mut self) -> Result<(), Error> {
        self.stack.restart(HANDLER, &[])
    }

    /// Transfers sent to this handler process so far.
    pub fn transfers(&self) -> u64 {
        self.answers.ledger.next() - self.first
    }

    /// Memory of the handler now, bytes.
    ///
    /// # Errors
    /// It has ended.
    pub fn rss(&self) -> Result<u64, Error> {
        self.parts.rss()
    }

    /// Waits until the other services have read all that was told, at most `within`: what they do for it is counted too.
    ///
    /// # Errors
    /// See [`ConsumerLag::settle`].
    pub fn settle(&self, within: Duration) -> Result<(), Error> {
        ConsumerLag::new(&self.cluster).settle(within, &self.shutdown)
    }

    /// Load that is not kept, and then a look at the machine without any.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn warm_up(&mut self, load: u32, time: Duration) -> Result<(), Error> {
        output::progress(&format!("{:7}  warming up at {load}/s", self.name));
        self.step(load, time)?;
        let (before, started) = (self.parts.cpu()?, Instant::now());
        let mut nothing = Vec::new();
        while started.elapsed() < IDLE {
            self.answers.poll(TICK, &mut nothing)?;
            if self.shutdown.requested() {
                return Err(Error::Stopped);
            }
        }
        let used = self.parts.cpu()?.broker - before.broker;
        self.broker_idle = used / started.elapsed().as_secs_f64();
        output::progress(&format!(
            "{:7}  without load the broker uses {:.1} % of a core",
            self.name,
            self.broker_idle * 100.0
        ));
        Ok(())
    }

    /// Sends `load` transfers per second and measures for `time`, after settling.
    ///
    /// # Errors
    /// A part does not answer or has ended, or the stop was asked for.
    pub fn step(&mut self, load: u32, time: Duration) -> Result<Row, Error> {
        let work = self.work()?;
        let first = self.answers.ledger.next();
        let (refused, repeated) = (self.answers.refused, self.answers.ledger.repeated);
        let schedule = Schedule::new(Instant::now() + TICK, load, SETTLE + time);
        self.answers.ledger.expect(schedule.count, false);
        let customers = self.customers.as_mut().expect("accounts are opened before the first step");
        let mut watch = Watch {
            label: format!("{:7} {load:>6}/s", self.name),
            answers: &mut self.answers,
            parts: &self.parts,
            shutdown: &self.shutdown,
            window: Window::new(schedule, SETTLE),
            first,
            answered: Vec::new(),
            second: latencies(),
            done: 0,
            rss: 0,
        };
        let (sender, pace, stop) = (&mut self.sender, self.pace, AtomicBool::new(false));
        let (cpu, broken) = thread::scope(|scope| {
            let command = |index| customers.transfer(first + index);
            let sending = scope.spawn(|| schedule::send(schedule, pace, sender, command, &stop));
            let measured = watch.measure(&stop, || sending.is_finished());
            // An error ends the load too.
            stop.store(true, Ordering::Relaxed);
            let sent = sending.join().expect("a panic ends the process");
            let measured = measured?;
            let sent =
                sent.map_err(|source| Error::Kafka { step: "send commands".to_owned(), source })?;
            watch.answers.ledger.cut(first + sent);
            watch.drain(sent)?;
            Ok::<_, Error>(measured)
        })?;
        let Watch { window, rss, .. } = watch;
        let unanswered = self.answers.settle(first, &self.shutdown)?;
        let work = self.work()? - work;
        let percentile = |percentile| percentile_ms(&window.latencies, percentile);
        Ok(Row {
            mode: self.mode,
            load,
            seconds: window.seconds(),
            answered: window.answered_within,
            p50_ms: percentile(50.0),
            p99_ms: percentile(99.0),
            p999_ms: percentile(99.9),
            max_ms: percentile(100.0),
            lag_max: window.lag_max(),
            growth: window.growth(),
            held: !broken && window.keeps_up() && unanswered == 0,
            unanswered,
            refused: self.answers.refused - refused,
            repeated: self.answers.ledger.repeated - repeated,
            cpu,
            broker_idle: self.broker_idle,
            commands_per_transaction: work.commands_per_transaction(),
            records_per_request: work.records_per_request(),
            rss,
            transfers: self.transfers(),
        })
    }
}

impl Rig {
    fn work(&self) -> Result<Work, Error> {
        self.handler_url.as_ref().map_or(Ok(Work::default()), |url| Work::read(&self.http, url))
    }
}

/// Watches one step while another thread sends.
struct Watch<'a> {
    label: String,
    answers: &'a mut Answers,
    parts: &'a Parts,
    shutdown: &'a Shutdown,
    window: Window,
    /// Number of the step's first command.
    first: u64,
    /// Reused by each poll.
    answered: Vec<u64>,
    /// Latencies since the last line of progress.
    second: Histogram<u64>,
    /// Commands answered.
    done: u64,
    rss: u64,
}

impl Watch<'_> {
    /// Until the window closes and everything is sent. CPU time in the window, and true if the load was broken off because
    /// the bank had fallen behind too far.
    fn measure(
        &mut self,
        stop: &AtomicBool,
        sent: impl Fn() -> bool,
    ) -> Result<(Cpu, bool), Error> {
        let (mut opened, mut closed, mut broken) = (None, None, false);
        let (mut tick, mut line) = (Instant::now(), Instant::now() + Duration::from_secs(1));
        loop {
            let now = Instant::now();
            if opened.is_none() && now >= self.window.opens() {
                opened = Some(self.parts.cpu()?);
            }
            if closed.is_none() && now >= self.window.closes() {
                closed = Some(self.parts.cpu()?);
            }
            if now >= tick {
                tick = now + TICK;
                self.window.sample(now);
                self.rss = self.rss.max(self.parts.rss()?);
            }
            if now >= line {
                line += Duration::from_secs(1);
                self.tell();
            }
            if self.shutdown.requested() {
                return Err(Error::Stopped);
            }
            if self.window.is_hopeless(now) {
                output::progress(&format!("{}  too far behind: broken off", self.label));
                stop.store(true, Ordering::Relaxed);
                self.window.close(now);
                closed = Some(self.parts.cpu()?);
                broken = true;
                break;
            }
            if closed.is_some() && sent() {
                break;
            }
            let edge = if opened.is_none() { self.window.opens() } else { self.window.closes() };
            let next = if closed.is_none() { tick.min(edge) } else { tick };
            self.read(next.saturating_duration_since(Instant::now()))?;
        }
        let cpu = opened.zip(closed).map(|(opened, closed)| closed - opened);
        Ok((cpu.unwrap_or_default(), broken))
    }

    /// Until all `sent` commands are answered, or nothing comes any more.
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
        self.answered.clear();
        let read = self.answers.poll(wait, &mut self.answered)?;
        for number in &self.answered {
            // A late answer to an earlier step is not this step's.
            let Some(index) = number.checked_sub(self.first) else { continue };
            let latency = self.window.answered(index, read);
            self.second.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
            self.done += 1;
        }
        Ok(())
    }

    /// A line of progress about the last second.
    fn tell(&mut self) {
        let Self { label, window, second, rss, .. } = self;
        let percentile = |percentile| output::short(percentile_ms(second, percentile));
        output::progress(&format!(
            "{label}  done {:>6}/s  p50 {:>6} ms  p99 {:>6} ms  lag {:>6}  RSS {:>5.1} MiB",
            second.len(),
            percentile(50.0),
            percentile(99.0),
            window.lag(Instant::now()),
            super::row::mib(*rss),
        ));
        second.reset();
    }
}

/// The processes that are looked at.
struct Parts {
    brokers: Vec<Process>,
    postgres: Process,
    handler: Process,
    /// None in a stack of servers only.
    endpoint: Option<Process>,
    bench: Process,
}

impl Parts {
    fn find(stack: &Stack, brokers: usize) -> Result<Self, Error> {
        let endpoint = Some(stack.process(ENDPOINT)?);
        Ok(Self { endpoint, ..Self::around(stack, brokers, stack.process(HANDLER)?)? })
    }

    fn around(stack: &Stack, brokers: usize, handler: Process) -> Result<Self, Error> {
        let own = std::process::id();
        let bench = Process::open(own).map_err(|source| Error::Part {
            part: "bench".to_owned(),
            pid: own,
            source,
        })?;
        Ok(Self {
            brokers: (1..=brokers)
                .map(|n| stack.process(&format!("kafka-{n}")))
                .collect::<Result<_, _>>()?,
            postgres: stack.process(POSTGRES)?,
            handler,
            endpoint: None,
            bench,
        })
    }

    /// CPU time of each so far.
    fn cpu(&self) -> Result<Cpu, Error> {
        let seconds = |part: &str, process: &Process| {
            let failed = |source| Error::Part { part: part.to_owned(), pid: process.pid, source };
            process.cpu().map(|time| time.as_secs_f64()).map_err(failed)
        };
        let mut broker = 0.0;
        for process in &self.brokers {
            broker += seconds("a broker", process)?;
        }
        Ok(Cpu {
            broker,
            database: seconds(POSTGRES, &self.postgres)?,
            handler: seconds(HANDLER, &self.handler)?,
            endpoint: match &self.endpoint {
                Some(endpoint) => seconds(ENDPOINT, endpoint)?,
                None => 0.0,
            },
            bench: seconds("bench", &self.bench)?,
            machine: proc::machine_cpu()
                .map_err(|source| Error::Part { part: "the machine".to_owned(), pid: 0, source })?
                .as_secs_f64(),
        })
    }

    fn rss(&self) -> Result<u64, Error> {
        let failed =
            |source| Error::Part { part: HANDLER.to_owned(), pid: self.handler.pid, source };
        self.handler.rss().map_err(failed)
    }
}
