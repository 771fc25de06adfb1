//! The bank under test: what makes its load, and what is seen of it meanwhile.

use super::Fault;
use super::raw::{Raw, Second};
use super::step::{Kind, Step, Visits};
use crate::consumer_lag::{ConsumerLag, Records};
use crate::control::{HEARTBEAT_URL, Heartbeat, Http};
use crate::error::Error;
use crate::measure::{Lags, percentile_ms};
use crate::metrics::{HANDLER_URL, Work};
use crate::mode::Mode;
use crate::output::{self, short};
use crate::process_usage::{BROKER, DATABASE, ENDPOINT, HANDLER_PART, Parts, Usage};
use crate::simulated_users::{SimulatedUsers, TIMEOUT};
use crate::stack::{HANDLER, Stack};
use crate::topic_reader::Cluster;
use service::env::Env;
use service::log::Chain;
use service::shutdown::Shutdown;
use std::path::Path;
use std::time::{Duration, Instant};

/// What each load gets to settle before it is measured.
const SETTLE: Duration = Duration::from_secs(2);
/// Time between two looks at the lag.
const TICK: Duration = Duration::from_millis(500);
/// A lag of this much of the load, and of the records that are on their way at any load, can't become a hold any more: the
/// step is broken off.
const HOPELESS_S: f64 = 3.0;
const HOPELESS: f64 = 500.0;
/// Longest time without a look at the offsets: brokers that are killed on purpose come back sooner.
const BLIND_MAX: Duration = Duration::from_secs(60);
/// Longest time for what was asked to be done once the load has stopped.
const SETTLED_WITHIN: Duration = Duration::from_secs(300);
/// Cores in use by others from which on the figures say more about them.
const DISTURBED: f64 = 0.1;

/// Drives and watches the running stack.
pub struct Bank {
    stack: Stack,
    brokers: usize,
    heartbeat: Heartbeat,
    http: Http,
    handler_url: String,
    flow: ConsumerLag,
    parts: Parts,
    shutdown: Shutdown,
    mode: &'static str,
    raw: Option<Raw>,
    /// Those to come, the next one last, and since when they count.
    faults: (Vec<Fault>, Instant),
    /// True while the heartbeat may be at it.
    loaded: bool,
    /// True if the handler was started anew.
    changed: bool,
    results: Vec<Step>,
}

/// What was seen at a moment.
#[derive(Clone, Copy)]
struct Seen {
    at: Instant,
    records: Records,
    usage: Usage,
    work: Work,
}

impl Bank {
    /// Connects to everything.
    ///
    /// # Errors
    /// A part does not run or does not answer.
    pub fn open(env: &Env<'_>, shutdown: Shutdown) -> Result<Self, Error> {
        let cluster = Cluster::from_env(env)?;
        let stack = Stack::from_env(env)?;
        let heartbeat = Heartbeat::new(&env.text(&HEARTBEAT_URL)?);
        if heartbeat.batch_size()? > 0 {
            return Err(Error::Bank(
                "the heartbeat makes load of its own, which would be measured too: set its batch_size to 0".to_owned(),
            ));
        }
        let brokers = cluster.kafka.brokers.len();
        Ok(Self {
            parts: Parts::find(&stack, brokers)?,
            flow: ConsumerLag::new(&cluster),
            http: Http::default(),
            handler_url: env.text(&HANDLER_URL)?,
            faults: (Vec::new(), Instant::now()),
            stack,
            brokers,
            heartbeat,
            shutdown,
            mode: "",
            raw: None,
            loaded: false,
            changed: false,
            results: Vec::new(),
        })
    }

    /// Begins a run: the handler is started anew in `mode`, and rows go to new files.
    ///
    /// # Errors
    /// It does not start; the files can't be written.
    pub fn begin(
        &mut self,
        mode: Mode,
        folder: &Path,
        name: &str,
        settings: &[(&str, String)],
        visitors: &SimulatedUsers,
    ) -> Result<(), Error> {
        self.settle()?;
        let variables: Vec<String> =
            mode.variables().iter().map(|(name, value)| format!("{name}={value}")).collect();
        output::progress(&format!("Run {name}: {HANDLER} starts with {}", variables.join(" ")));
        // Before the restart: one that fails half-way is to be undone too.
        self.changed = true;
        self.mode = mode.name();
        self.stack.restart(HANDLER, &mode.variables())?;
        self.parts = Parts::find(&self.stack, self.brokers)?;
        self.raw = Some(Raw::create(folder, name, mode.name(), settings)?);
        // Those of the time without a handler are nobody's.
        visitors.acts(Instant::now()).map(drop)
    }

    /// From now on `faults` are due.
    pub fn arm(&mut self, faults: &[Fault]) {
        let mut faults = faults.to_vec();
        faults.sort_by_key(|fault| std::cmp::Reverse(fault.at));
        self.faults = (faults, Instant::now());
    }

    /// Stops the load and waits until all that was asked is done.
    ///
    /// # Errors
    /// It takes too long, or the stop was asked for.
    pub fn settle(&mut self) -> Result<(), Error> {
        self.heartbeat.set_load(0)?;
        let (began, mut told) = (Instant::now(), Instant::now());
        loop {
            let lag = self.flow.lag()?;
            // SimulatedUsers go on: one of their steps may be under way whenever.
            if lag < 10 {
                return Ok(());
            }
            if began.elapsed() > SETTLED_WITHIN {
                return Err(Error::Bank(format!(
                    "{lag} records are still unread {} s after the load stopped; do all services run? (make status, make logs)",
                    SETTLED_WITHIN.as_secs()
                )));
            }
            if told.elapsed() > Duration::from_secs(1) {
                told = Instant::now();
                output::progress(&format!("{:7}  the load has stopped; lag {lag}", self.mode));
            }
            if self.shutdown.wait(TICK) {
                return Err(Error::Stopped);
            }
        }
    }

    /// Leaves the stack without load and with the handler that it starts with.
    ///
    /// # Errors
    /// A part does not answer or start.
    pub fn leave(&mut self) -> Result<(), Error> {
        if self.loaded {
            self.heartbeat.set_load(0)?;
        }
        if self.changed { self.stack.restart(HANDLER, &[]) } else { Ok(()) }
    }

    /// `load` beats per second, measured for `time` after settling.
    ///
    /// # Errors
    /// A part does not answer, or the stop was asked for.
    pub fn step(
        &mut self,
        kind: Kind,
        load: u32,
        time: Duration,
        visitors: &SimulatedUsers,
    ) -> Result<Step, Error> {
        self.loaded = true;
        self.heartbeat.set_load(load)?;
        let opens = Instant::now() + SETTLE;
        let mut watch = Watch {
            kind,
            load,
            opens,
            closes: opens + time,
            visits: Visits::default(),
            lags: Lags::default(),
            timed_out: 0,
            broken: false,
        };
        let before = self.watch(&mut watch, opens, visitors)?;
        let mut last = before;
        while last.at < watch.closes && !watch.broken {
            let until = (last.at + Duration::from_secs(1)).min(watch.closes);
            let now = self.watch(&mut watch, until, visitors)?;
            let second = Second {
                load,
                measured: kind != Kind::WarmUp,
                length: now.at - last.at,
                records: now.records - last.records,
                lag: now.records.lag(),
                work: now.work - last.work,
                cores: &now.usage.since(&last.usage),
                memory: &now.usage.memory,
            };
            if let Some(raw) = &mut self.raw {
                raw.second(&second)?;
            }
            self.tell(&watch, &second);
            last = now;
        }
        if watch.broken {
            output::progress(&format!("{:7} {load:>6}/s  too far behind: broken off", self.mode));
            watch.closes = last.at;
        }
        // Steps that were due in time may end later.
        let due = visitors.schedule.due_by(watch.closes) - visitors.schedule.due_by(watch.opens);
        let given_up = Instant::now() + TIMEOUT + Duration::from_secs(1);
        while watch.visits.count() < due && Instant::now() < given_up && !watch.broken {
            self.hear(&mut watch, Instant::now() + TICK, visitors)?;
        }
        let mut step = Step {
            mode: self.mode,
            kind,
            load,
            seconds: (last.at - before.at).as_secs_f64(),
            timed_out: watch.timed_out,
            visits: watch.visits,
            records: last.records - before.records,
            lags: watch.lags,
            cores: last.usage.since(&before.usage),
            memory: last.usage.memory,
            work: last.work - before.work,
            broken: watch.broken,
            held: false,
        };
        step.judge();
        if kind != Kind::WarmUp {
            if let Some(raw) = &mut self.raw {
                raw.load(&step)?;
            }
            self.results.push(step.clone());
        }
        Ok(step)
    }

    /// Hears of visitors, and looks at the lag, until `until`; what is seen then.
    fn watch(
        &mut self,
        watch: &mut Watch,
        until: Instant,
        visitors: &SimulatedUsers,
    ) -> Result<Seen, Error> {
        loop {
            let tick = (Instant::now() + TICK).min(until);
            self.hear(watch, tick, visitors)?;
            self.strike(watch.load)?;
            let lag = self.patiently(ConsumerLag::lag)? as f64;
            let now = Instant::now();
            if now >= watch.opens {
                watch.lags.note((now - watch.opens).as_secs_f64(), lag);
                let hopeless = f64::from(watch.load) * HOPELESS_S + HOPELESS;
                watch.broken |= lag > hopeless && self.faults.0.is_empty();
            }
            if now >= until || watch.broken {
                let records = self.patiently(ConsumerLag::look)?;
                // A handler that is being started again has no metrics; what it did meanwhile is lost to these two columns.
                let work = Work::read(&self.http, &self.handler_url).unwrap_or_default();
                return Ok(Seen { at: Instant::now(), records, usage: self.parts.usage()?, work });
            }
        }
    }

    /// What visitors tell until `until`.
    fn hear(
        &mut self,
        watch: &mut Watch,
        until: Instant,
        visitors: &SimulatedUsers,
    ) -> Result<(), Error> {
        loop {
            for act in visitors.acts(until)? {
                let measured = act.due > watch.opens && act.due <= watch.closes;
                if measured {
                    watch.visits.note(&act);
                }
                watch.timed_out += u64::from(act.end == crate::simulated_users::StepEnd::TimedOut);
                if let crate::simulated_users::StepEnd::Refused(reason) = &act.end {
                    output::progress(&format!("a visitor's step was refused: {reason}"));
                }
                if let Some(raw) = &mut self.raw {
                    raw.act(watch.load, measured && watch.kind != Kind::WarmUp, &act)?;
                }
            }
            if self.shutdown.requested() {
                return Err(Error::Stopped);
            }
            if Instant::now() >= until {
                return Ok(());
            }
        }
    }

    /// Sends the signals that are due.
    fn strike(&mut self, load: u32) -> Result<(), Error> {
        let (faults, since) = &mut self.faults;
        while faults.last().is_some_and(|fault| since.elapsed() >= fault.at) {
            let Some(Fault { part, signal, .. }) = faults.pop() else { break };
            output::progress(&format!("{:7} {load:>6}/s  {part} gets {signal}", self.mode));
            self.stack.kill(&part, &signal)?;
            if let Some(raw) = &mut self.raw {
                raw.fault(load, &format!("{part} {signal}"))?;
            }
        }
        Ok(())
    }

    /// What `look` finds in the offsets; waits for brokers that are away.
    fn patiently<T>(&mut self, look: fn(&mut ConsumerLag) -> Result<T, Error>) -> Result<T, Error> {
        let began = Instant::now();
        loop {
            match look(&mut self.flow) {
                Err(err) if began.elapsed() < BLIND_MAX && !self.shutdown.requested() => {
                    output::progress(&format!("{:7}  {}", self.mode, Chain(&err)));
                }
                looked => return looked,
            }
        }
    }

    /// A line of progress about the last second.
    fn tell(&self, watch: &Watch, second: &Second<'_>) {
        let seconds = second.length.as_secs_f64();
        let percentile = |percentile| short(percentile_ms(&watch.visits.latencies, percentile));
        let percent = |place: usize| {
            second.cores.parts[place]
                .map_or("-".to_owned(), |cores| format!("{:.0}", cores * 100.0))
        };
        output::progress(&format!(
            "{:7} {:>6}/s  done {:>6.0}/s  p50 {:>6} ms  p99 {:>6} ms  lag {:>6}  CPU %: broker {:>3} db {:>3} handler {:>3} endpoint {:>3}",
            self.mode,
            watch.load,
            second.records.commands_done as f64 / seconds,
            percentile(50.0),
            percentile(99.0),
            second.lag,
            percent(BROKER),
            percent(DATABASE),
            percent(HANDLER_PART),
            percent(ENDPOINT),
        ));
    }

    /// What was measured so far.
    pub fn text(&self) -> String {
        let rows = self.results.iter().map(Step::cells);
        let mut text = output::table(&[Step::titles()].into_iter().chain(rows).collect::<Vec<_>>());
        let others = self.results.iter().map(|step| step.cores.others).fold(0.0, f64::max);
        if others > DISTURBED {
            text += &format!(
                "DISTURBED: other processes used up to {others:.2} cores meanwhile; the rows have it for each load\n"
            );
        }
        text
    }
}

/// A load that is being measured.
struct Watch {
    kind: Kind,
    load: u32,
    opens: Instant,
    closes: Instant,
    visits: Visits,
    lags: Lags,
    /// Of all steps that have ended since the load began.
    timed_out: u64,
    broken: bool,
}
