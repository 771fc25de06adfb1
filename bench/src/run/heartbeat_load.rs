//! The load of the talk's test: the heartbeat makes commands, simulated users measure the time
//! until a new balance arrives.

use super::faults::Fault;
use super::measured_load::{Kind, MeasuredLoad};
use super::raw_rows::{RawRows, Second};
use crate::bank_under_test::BankUnderTest;
use crate::consumer_lag::{ConsumerLag, Records};
use crate::control::{HEARTBEAT_URL, Heartbeat};
use crate::error::Error;
use crate::measure::Window;
use crate::metrics::Work;
use crate::mode::Mode;
use crate::output::{self, short};
use crate::process_usage::{self, BROKER, CpuTimes, DATABASE, ENDPOINT, HANDLER};
use crate::simulated_users::{SimulatedUsers, StepEnd, TIMEOUT, UserSteps};
use crate::start::Start;
use service::log::Chain;
use std::path::Path;
use std::time::{Duration, Instant};

/// Time before each load is measured.
const SETTLE: Duration = Duration::from_secs(2);
/// Time between two samples of the lag.
const TICK: Duration = Duration::from_millis(500);
/// Records that are on their way at any load.
const ON_THEIR_WAY: f64 = 500.0;
/// Longest time without offsets: brokers that are killed on purpose come back sooner.
const BLIND_MAX: Duration = Duration::from_secs(60);
/// Longest time until all commands are done once the load has stopped.
const SETTLED_WITHIN: Duration = Duration::from_secs(300);
/// Records that the users may have on their way at any time.
const UNREAD_MAX: i64 = 9;

/// Loads and watches the running stack.
pub struct HeartbeatLoad {
    bank: BankUnderTest,
    heartbeat: Heartbeat,
    raw: Option<RawRows>,
    /// Those to come, the next one last, and since when they count.
    faults: (Vec<Fault>, Instant),
    /// True while the heartbeat may be making load.
    loaded: bool,
    results: Vec<MeasuredLoad>,
}

/// What was sampled at a moment.
#[derive(Clone, Copy)]
struct Sample {
    at: Instant,
    records: Records,
    cpu: CpuTimes,
    memory: process_usage::PerPart<u64>,
    work: Work,
}

/// A load that is being measured.
struct Watch {
    kind: Kind,
    window: Window,
    steps: UserSteps,
    /// Of all steps that have ended since the load began.
    timed_out: u64,
    broken: bool,
}

impl HeartbeatLoad {
    /// Finds the running stack.
    pub fn open(start: &Start<'_>) -> Result<Self, Error> {
        Ok(Self {
            bank: BankUnderTest::open(start)?,
            heartbeat: Heartbeat::new(&start.env.text(&HEARTBEAT_URL)?),
            raw: None,
            faults: (Vec::new(), Instant::now()),
            loaded: false,
            results: Vec::new(),
        })
    }

    /// Begins a run: the handler is restarted in `mode`, and rows go to new files.
    pub fn begin(
        &mut self,
        mode: Mode,
        (folder, name): (&Path, &str),
        settings: &[(&str, String)],
        users: &SimulatedUsers,
    ) -> Result<(), Error> {
        self.settle()?;
        output::progress(&format!("Run {name}"));
        self.bank.restart_handler(mode)?;
        self.raw = Some(RawRows::create(folder, name, mode, settings)?);
        // Those of the time without a handler are not measured.
        users.steps(Instant::now()).map(drop)
    }

    /// From now on `faults` are due.
    pub fn arm(&mut self, faults: &[Fault]) {
        let mut faults = faults.to_vec();
        faults.sort_by_key(|fault| std::cmp::Reverse(fault.at));
        self.faults = (faults, Instant::now());
    }

    /// Stops the load and waits until all commands are done.
    pub fn settle(&mut self) -> Result<(), Error> {
        self.heartbeat.set_load(0)?;
        self.bank.settle(UNREAD_MAX, SETTLED_WITHIN)
    }

    /// Leaves the stack without load and with the handler that it starts with.
    pub fn restore(&mut self) -> Result<(), Error> {
        if self.loaded {
            self.heartbeat.set_load(0)?;
        }
        self.bank.restore_handler()
    }

    /// `load` beats per second, measured for `time` after settling.
    pub fn step(
        &mut self,
        kind: Kind,
        load: u32,
        time: Duration,
        users: &SimulatedUsers,
    ) -> Result<MeasuredLoad, Error> {
        self.loaded = true;
        self.heartbeat.set_load(load)?;
        let opens = Instant::now() + SETTLE;
        let mut watch = Watch {
            kind,
            window: Window::new(load, opens, opens + time),
            steps: UserSteps::default(),
            timed_out: 0,
            broken: false,
        };
        let before = self.watch(&mut watch, opens, users)?;
        let last = self.watch_seconds(&mut watch, before, users)?;
        if watch.broken {
            output::progress(&format!(
                "{:8} {load:>6}/s  too far behind: broken off",
                self.bank.name
            ));
            watch.window.close(last.at);
        }
        // Steps that were due in time may end later.
        let Window { opens, closes, .. } = watch.window;
        let due = users.schedule.due_by(closes) - users.schedule.due_by(opens);
        let given_up = Instant::now() + TIMEOUT + Duration::from_secs(1);
        while watch.steps.count() < due && Instant::now() < given_up && !watch.broken {
            self.read_steps(&mut watch, Instant::now() + TICK, users)?;
        }
        let mut measured = MeasuredLoad {
            mode: self.bank.mode,
            kind,
            load,
            seconds: (last.at - before.at).as_secs_f64(),
            timed_out: watch.timed_out,
            steps: watch.steps,
            records: last.records - before.records,
            lag_max: watch.window.lag_max(),
            lag_grown: watch.window.lag_grown(),
            cpu: last.cpu.since(&before.cpu),
            memory: last.memory,
            work: last.work - before.work,
            broken: watch.broken,
            held: false,
        };
        measured.judge();
        if kind != Kind::WarmUp {
            if let Some(raw) = &mut self.raw {
                raw.load(&measured)?;
            }
            self.results.push(measured.clone());
        }
        Ok(measured)
    }

    /// Samples each second from `before` on, until the window closes or the load is broken off; the
    /// last sample.
    fn watch_seconds(
        &mut self,
        watch: &mut Watch,
        before: Sample,
        users: &SimulatedUsers,
    ) -> Result<Sample, Error> {
        let mut last = before;
        while last.at < watch.window.closes && !watch.broken {
            let until = (last.at + Duration::from_secs(1)).min(watch.window.closes);
            let now = self.watch(watch, until, users)?;
            let second = Second {
                load: watch.window.per_s,
                measured: watch.kind != Kind::WarmUp,
                length: now.at - last.at,
                records: now.records - last.records,
                lag: now.records.lag(),
                work: now.work - last.work,
                cpu: &now.cpu.since(&last.cpu),
                memory: &now.memory,
            };
            if let Some(raw) = &mut self.raw {
                raw.second(&second)?;
            }
            self.print_second(watch, &second);
            last = now;
        }
        Ok(last)
    }

    /// Reads the users' steps, sends the signals that are due and samples the lag until `until`;
    /// the sample of all then.
    fn watch(
        &mut self,
        watch: &mut Watch,
        until: Instant,
        users: &SimulatedUsers,
    ) -> Result<Sample, Error> {
        loop {
            let tick = (Instant::now() + TICK).min(until);
            self.read_steps(watch, tick, users)?;
            self.make_faults(watch.window.per_s)?;
            let lag = self.retried(ConsumerLag::lag)? as f64;
            let now = Instant::now();
            if now >= watch.window.opens {
                // The last sample may come a little after the window.
                watch.window.note_lag(now.min(watch.window.closes), lag);
                let hopeless = watch.window.is_hopeless(lag, ON_THEIR_WAY);
                watch.broken |= hopeless && self.faults.0.is_empty();
            }
            if now >= until || watch.broken {
                let records = self.retried(ConsumerLag::records)?;
                // A handler that is being restarted has no metrics; what it did meanwhile is lost
                // to these two columns.
                let work = self.bank.work().unwrap_or_default();
                let (cpu, memory) = (self.bank.usage.cpu()?, self.bank.usage.memory());
                return Ok(Sample { at: Instant::now(), records, cpu, memory, work });
            }
        }
    }

    /// Reads the users' steps until `until`.
    fn read_steps(
        &mut self,
        watch: &mut Watch,
        until: Instant,
        users: &SimulatedUsers,
    ) -> Result<(), Error> {
        loop {
            for step in users.steps(until)? {
                let Window { opens, closes, per_s, .. } = watch.window;
                let measured = step.due > opens && step.due <= closes;
                if measured {
                    watch.steps.note(&step);
                }
                watch.timed_out += u64::from(step.end == StepEnd::TimedOut);
                if let StepEnd::Refused(reason) = &step.end {
                    output::progress(&format!(
                        "a simulated user's transfer was rejected: {reason}"
                    ));
                }
                if let Some(raw) = &mut self.raw {
                    raw.step(per_s, measured && watch.kind != Kind::WarmUp, &step)?;
                }
            }
            if self.bank.shutdown.requested() {
                return Err(Error::Stopped);
            }
            if Instant::now() >= until {
                return Ok(());
            }
        }
    }

    /// Sends the signals that are due.
    fn make_faults(&mut self, load: u32) -> Result<(), Error> {
        let (faults, since) = &mut self.faults;
        while let Some(Fault { part, signal, .. }) =
            faults.pop_if(|fault| since.elapsed() >= fault.at)
        {
            output::progress(&format!("{:8} {load:>6}/s  {part} gets {signal}", self.bank.name));
            self.bank.kill(&part, &signal)?;
            if let Some(raw) = &mut self.raw {
                raw.fault(load, &format!("{part} {signal}"))?;
            }
        }
        Ok(())
    }

    /// What `read` finds in the offsets; retried while brokers are away.
    fn retried<T>(&mut self, read: fn(&mut ConsumerLag) -> Result<T, Error>) -> Result<T, Error> {
        let began = Instant::now();
        loop {
            match read(&mut self.bank.lag) {
                Err(err) if began.elapsed() < BLIND_MAX && !self.bank.shutdown.requested() => {
                    output::progress(&format!("{:8} {}", self.bank.name, Chain(&err)));
                }
                read => return read,
            }
        }
    }

    /// A line of progress about the last second.
    fn print_second(&self, watch: &Watch, second: &Second<'_>) {
        let percentile = |percentile| short(watch.steps.latencies.percentile_ms(percentile));
        let cores = second.cpu.cores();
        let percent =
            |part: usize| cores[part].map_or("-".to_owned(), |it| format!("{:.0}", it * 100.0));
        output::progress(&format!(
            "{:8} {:>6}/s  done {:>6.0}/s  p50 {:>6} ms  p99 {:>6} ms  lag {:>6}  CPU %: broker {:>3} db {:>3} handler {:>3} endpoint {:>3}",
            self.bank.name,
            second.load,
            second.records.commands_done as f64 / second.length.as_secs_f64(),
            percentile(50.0),
            percentile(99.0),
            second.lag,
            percent(BROKER),
            percent(DATABASE),
            percent(HANDLER),
            percent(ENDPOINT),
        ));
    }

    /// What was measured so far.
    pub fn text(&self) -> String {
        let rows = self.results.iter().map(MeasuredLoad::cells);
        let mut text =
            output::table(&[MeasuredLoad::titles()].into_iter().chain(rows).collect::<Vec<_>>());
        let others = self.results.iter().map(|load| load.cpu.other_cores());
        if let Some(disturbance) = process_usage::disturbance(others) {
            text += &format!("DISTURBED: {disturbance}; the rows have it for each load\n");
        }
        text
    }
}
