//! The load of the talk's test. The heartbeat makes commands, and simulated users measure the time
//! until they receive a new balance.

use super::faults::Fault;
use super::measured_load::{Kind, MeasuredLoad};
use super::raw_rows::{RawRows, Second};
use crate::bank_under_test::BankUnderTest;
use crate::consumer_lag::{ConsumerLag, Records};
use crate::control::{HEARTBEAT_URL, Heartbeat};
use crate::error::Error;
use crate::flush_times::FlushTimes;
use crate::measure::Window;
use crate::metrics::Work;
use crate::mode::Mode;
use crate::output::{self, short};
use crate::own_pauses::{self, OwnPauses};
use crate::process_usage::{self, BROKER, CpuTimes, DATABASE, ENDPOINT, HANDLER};
use crate::schedule::Schedule;
use crate::simulated_users::{SimulatedUsers, StepEnd, TIMEOUT, UserStep, UserSteps};
use crate::start::Start;
use service::log::Chain;
use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

/// Time at each load before it is measured.
const SETTLE: Duration = Duration::from_secs(2);
/// Time between two samples of the lag.
const TICK: Duration = Duration::from_millis(500);
/// Records that are in flight at any load.
const IN_FLIGHT: f64 = 500.0;
/// Longest time without offsets. Killed brokers return within this time.
const NO_OFFSETS_MAX: Duration = Duration::from_secs(60);
/// Timeout for all commands to be answered after the load has stopped.
const SETTLED_WITHIN: Duration = Duration::from_secs(300);
/// Once the load has stopped, at most this many records count as unread.
const UNREAD: i64 = 9;
/// This many more for each step per second of the simulated users, who continue. Consumers commit
/// their offsets up to half a second late.
const UNREAD_PER_STEP: i64 = 2;

/// Puts the running stack under load and measures it.
pub struct HeartbeatLoad {
    bank: BankUnderTest,
    heartbeat: Heartbeat,
    raw: Option<RawRows>,
    /// Faults to come, the next one last, and the time from which their delays count.
    faults: (Vec<Fault>, Instant),
    /// True if the heartbeat may be sending records.
    loaded: bool,
    own_pauses: OwnPauses,
    results: Vec<MeasuredLoad>,
}

/// A sample of all figures.
#[derive(Clone, Copy)]
struct Sample {
    at: Instant,
    records: Records,
    cpu: CpuTimes,
    memory: process_usage::PerPart<u64>,
    work: Work,
}

/// The measurement of a load in progress.
struct Watch {
    kind: Kind,
    window: Window,
    steps: UserSteps,
    /// Due times of the steps that have ended in the window.
    ended: HashSet<Instant>,
    /// Steps that have timed out since the load began.
    timed_out: u64,
    /// True if a fault was made at this load, whose recovery is measured.
    has_fault: bool,
    broken: bool,
}

impl Watch {
    /// Due times of the steps that were due in the window and have not ended.
    fn unfinished(&self, schedule: &Schedule) -> Vec<Instant> {
        let Window { opens, closes, .. } = self.window;
        let steps = schedule.due_by(opens)..schedule.due_by(closes);
        let due = steps.map(|step| schedule.due(step));
        due.filter(|due| !self.ended.contains(due)).collect()
    }
}

impl HeartbeatLoad {
    /// Finds the running stack. Fails if the heartbeat sends records.
    pub fn open(start: &Start<'_>) -> Result<Self, Error> {
        Ok(Self {
            bank: BankUnderTest::open(start)?,
            heartbeat: Heartbeat::new(&start.env.text(&HEARTBEAT_URL)?),
            raw: None,
            faults: (Vec::new(), Instant::now()),
            loaded: false,
            own_pauses: OwnPauses::start()?,
            results: Vec::new(),
        })
    }

    /// Begins a run: restarts the handler in `mode`, and creates the files for its rows.
    pub fn begin(
        &mut self,
        mode: Mode,
        (folder, name): (&Path, &str),
        settings: &[(&str, String)],
        users: &SimulatedUsers,
    ) -> Result<(), Error> {
        self.settle(users)?;
        output::progress(&format!("Run {name}"));
        self.bank.restart_handler(mode)?;
        let mut raw = RawRows::create(folder, name, mode, settings)?;
        raw.flush_times("before", FlushTimes::measure(folder)?)?;
        self.raw = Some(raw);
        // Steps that ended while the handler was down are not measured.
        users.steps(Instant::now()).map(drop)
    }

    /// Ends a run in `folder`.
    pub fn end(&mut self, folder: &Path, users: &SimulatedUsers) -> Result<(), Error> {
        self.settle(users)?;
        match &mut self.raw {
            Some(raw) => raw.flush_times("after", FlushTimes::measure(folder)?),
            None => Ok(()),
        }
    }

    /// Injects `faults`; their delays count from now.
    pub fn arm(&mut self, faults: &[Fault]) {
        let mut faults = faults.to_vec();
        faults.sort_by_key(|fault| std::cmp::Reverse(fault.at));
        self.faults = (faults, Instant::now());
    }

    /// Stops the load and waits until all commands are answered.
    pub fn settle(&mut self, users: &SimulatedUsers) -> Result<(), Error> {
        self.heartbeat.set_load(0)?;
        let unread_max = UNREAD + UNREAD_PER_STEP * i64::from(users.schedule.per_s);
        self.bank.settle(unread_max, SETTLED_WITHIN)
    }

    /// Stops the load and restarts the handler with its default settings.
    pub fn restore(&mut self) -> Result<(), Error> {
        if self.loaded {
            self.heartbeat.set_load(0)?;
        }
        self.bank.restore_handler()
    }

    /// Measures `load` heartbeat records per second for `time`, after [`SETTLE`].
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
            ended: HashSet::new(),
            timed_out: 0,
            has_fault: false,
            broken: false,
        };
        let before = self.watch(&mut watch, opens, users)?;
        self.own_pauses.take();
        let last = self.watch_seconds(&mut watch, before, users)?;
        if watch.broken {
            output::progress(&format!(
                "{:8} load {load:>6}/s | lag too high, load aborted",
                self.bank.name
            ));
            watch.window.close(last.at);
            self.heartbeat.set_load(0)?;
        }
        self.finish_steps(&mut watch, users)?;
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
            own_pause: self.own_pauses.take(),
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

    /// Waits until the steps that were due in the window have ended. A step that has not ended
    /// after [`TIMEOUT`], since its user has no connection, counts as timed out.
    fn finish_steps(&mut self, watch: &mut Watch, users: &SimulatedUsers) -> Result<(), Error> {
        let given_up = Instant::now() + TIMEOUT + Duration::from_secs(1);
        while !watch.unfinished(&users.schedule).is_empty() && Instant::now() < given_up {
            self.read_steps(watch, Instant::now() + TICK, users)?;
        }
        for due in watch.unfinished(&users.schedule) {
            self.note_step(watch, &UserStep { due, end: StepEnd::TimedOut })?;
        }
        Ok(())
    }

    /// Takes a sample each second from `before` on, until the window closes or the load is aborted.
    /// Returns the last sample.
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

    /// Reads the users' steps, sends the signals that are due and samples the lag until `until`.
    /// Returns a sample of all figures.
    fn watch(
        &mut self,
        watch: &mut Watch,
        until: Instant,
        users: &SimulatedUsers,
    ) -> Result<Sample, Error> {
        loop {
            let tick = (Instant::now() + TICK).min(until);
            self.read_steps(watch, tick, users)?;
            watch.has_fault |= self.make_faults(watch.window.per_s)?;
            let lag = self.retried(ConsumerLag::lag)? as f64;
            let now = Instant::now();
            if now >= watch.window.opens {
                // The last sample may be taken a little after the window.
                watch.window.note_lag(now.min(watch.window.closes), lag);
                let too_high = watch.window.cannot_catch_up(lag, IN_FLIGHT);
                watch.broken |= too_high && self.faults.0.is_empty() && !watch.has_fault;
            }
            if now >= until || watch.broken {
                let records = self.retried(ConsumerLag::records)?;
                // A handler that is being restarted has no metrics. Its work in that time is
                // missing in two columns.
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
                self.note_step(watch, &step)?;
            }
            if self.bank.shutdown.requested() {
                return Err(Error::Stopped);
            }
            if Instant::now() >= until {
                return Ok(());
            }
        }
    }

    fn note_step(&mut self, watch: &mut Watch, step: &UserStep) -> Result<(), Error> {
        let Window { opens, closes, per_s, .. } = watch.window;
        let measured = step.due > opens && step.due <= closes;
        if measured {
            watch.steps.note(step);
            watch.ended.insert(step.due);
        }
        watch.timed_out += u64::from(step.end == StepEnd::TimedOut);
        if let StepEnd::Refused(reason) = &step.end {
            output::progress(&format!("The transfer of a simulated user was rejected: {reason}"));
        }
        match &mut self.raw {
            Some(raw) => raw.step(per_s, measured && watch.kind != Kind::WarmUp, step),
            None => Ok(()),
        }
    }

    /// Sends the signals that are due. Returns true if there was one.
    fn make_faults(&mut self, load: u32) -> Result<bool, Error> {
        let mut has_fault = false;
        let (faults, since) = &mut self.faults;
        while let Some(Fault { part, signal, .. }) =
            faults.pop_if(|fault| since.elapsed() >= fault.at)
        {
            has_fault = true;
            output::progress(&format!(
                "{:8} load {load:>6}/s | sending {signal} to {part}",
                self.bank.name
            ));
            self.bank.kill(&part, &signal)?;
            if let Some(raw) = &mut self.raw {
                raw.fault(load, &format!("{part} {signal}"))?;
            }
        }
        Ok(has_fault)
    }

    /// Reads offsets, and retries while no broker is available.
    fn retried<T>(&mut self, read: fn(&mut ConsumerLag) -> Result<T, Error>) -> Result<T, Error> {
        let began = Instant::now();
        loop {
            match read(&mut self.bank.lag) {
                Err(err) if began.elapsed() < NO_OFFSETS_MAX && !self.bank.shutdown.requested() => {
                    output::progress(&format!("{:8} {}", self.bank.name, Chain(&err)));
                }
                read => return read,
            }
        }
    }

    /// Prints a line of progress about the last second.
    fn print_second(&self, watch: &Watch, second: &Second<'_>) {
        let percentile = |percentile| short(watch.steps.latencies.percentile_ms(percentile));
        let cores = second.cpu.cores();
        let percent =
            |part: usize| cores[part].map_or("-".to_owned(), |it| format!("{:.0}", it * 100.0));
        let cpu = format!(
            "CPU % broker {:>3}, database {:>3}, handler {:>3}, endpoint {:>3}",
            percent(BROKER),
            percent(DATABASE),
            percent(HANDLER),
            percent(ENDPOINT),
        );
        output::progress(&format!(
            "{:8} load {:>6}/s | answered {:>6.0}/s | latency p50 {:>6} ms, p99 {:>6} ms | \
             lag {:>6} | {cpu}",
            self.bank.name,
            second.load,
            second.records.commands_done as f64 / second.length.as_secs_f64(),
            percentile(50.0),
            percentile(99.0),
            second.lag,
        ));
    }

    /// A table of the loads measured so far.
    pub fn text(&self) -> String {
        let rows = self.results.iter().map(MeasuredLoad::cells);
        let mut text =
            output::table(&[MeasuredLoad::titles()].into_iter().chain(rows).collect::<Vec<_>>());
        let others = self.results.iter().map(|load| load.cpu.other_cores());
        if let Some(disturbance) = process_usage::disturbance(others) {
            text += &format!("DISTURBED: {disturbance}; the CSV files have the use at each load\n");
        }
        let stolen = self.results.iter().map(|load| load.cpu.stolen_cores());
        if let Some(steal) = process_usage::steal(stolen) {
            text += &format!("DISTURBED: {steal}; the CSV files have the time at each load\n");
        }
        let longest = self.results.iter().map(|load| load.own_pause).max();
        if let Some(warning) = own_pauses::warning(longest.unwrap_or_default()) {
            text +=
                &format!("DISTURBED: {warning}; the column own ms has the pause at each load\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_steps_are_those_due_in_the_window() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let schedule = Schedule::new(start, 1, Duration::from_secs(60));
        let mut watch = Watch {
            kind: Kind::Climb,
            window: Window::new(100, at(10), at(13)),
            steps: UserSteps::default(),
            ended: HashSet::new(),
            timed_out: 0,
            has_fault: false,
            broken: false,
        };
        assert_eq!(watch.unfinished(&schedule), [at(11), at(12), at(13)]);
        watch.ended.insert(at(12));
        assert_eq!(watch.unfinished(&schedule), [at(11), at(13)]);
        // The load was aborted.
        watch.window.close(at(12));
        assert_eq!(watch.unfinished(&schedule), [at(11)]);
    }
}
