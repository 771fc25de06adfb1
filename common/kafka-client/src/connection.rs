//! A connection to a broker: requests go out whole, replies come in as they come, nothing waits for ever.

use crate::protocol::codes;
use crate::protocol::fields::{DecodeError, Reader, Writer};
use crate::protocol::messages::{ApiVersions, SaslAuthenticate, SaslHandshake, SaslMechanisms};
use crate::protocol::{ApiSpec, Request, VersionRange};
use crate::sasl::{Conversation, Sasl};
use std::collections::VecDeque;
use std::fmt::Display;
use std::io::{self, Read, Write};
use std::mem;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Says whether the process is to stop.
pub type Stop = Arc<dyn Fn() -> bool + Send + Sync>;

/// What a connection may take, and what it is called.
#[derive(Clone)]
pub struct Limits {
    /// Longest wait for each address of a broker, and then for it to let this program in.
    pub connect: Duration,
    /// Once it says true, nothing is waited for longer than a second.
    pub stop: Option<Stop>,
    /// How this program calls itself in the brokers' logs and metrics.
    pub client_id: &'static str,
    /// As whom it speaks, to brokers that want to know.
    pub sasl: Option<Sasl>,
}

/// Why a connection is of no use any more.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The broker is not there, does not answer, or the connection broke.
    #[error("{broker}: {step}")]
    Io {
        /// host:port.
        broker: String,
        /// What was tried.
        step: &'static str,
        /// What came of it.
        source: io::Error,
    },
    /// It answers, but not in a way that this program understands.
    #[error("{broker} {what}")]
    Protocol {
        /// host:port.
        broker: String,
        /// What it does.
        what: String,
    },
    /// It is too old or too new.
    #[error("broker {broker} does not serve {request}: Kafka 2.8 to 4.x does")]
    Unserved {
        /// host:port.
        broker: String,
        /// Name and version, and what it serves instead.
        request: String,
    },
    /// It does not let this program in, or must not be trusted with what this program says.
    #[error("broker {broker} {what}")]
    Refused {
        /// host:port.
        broker: String,
        /// What of it, and its words.
        what: String,
    },
    /// Its reply would take too much memory.
    #[error("{broker} announces a reply of {bytes} bytes, more than {bytes_max}")]
    TooLarge {
        /// host:port.
        broker: String,
        /// Announced.
        bytes: usize,
        /// Largest taken.
        bytes_max: usize,
    },
}

impl ConnectionError {
    /// With its cause, on one line.
    pub(crate) fn words(&self) -> String {
        match self {
            Self::Io { source, .. } => format!("{self}: {source}"),
            _ => self.to_string(),
        }
    }
}

/// How much longer a reply is waited for once the process is to stop.
const STOP_GRACE: Duration = Duration::from_secs(1);
/// How often that is looked at.
const STOP_TICK: Duration = Duration::from_millis(100);
/// A connection that idled for so long is looked at before it is used: the broker may have closed it.
const IDLE: Duration = Duration::from_secs(1);
/// Longest pause that a broker is granted.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Bytes read at a time, at least and at most.
const READ: std::ops::RangeInclusive<usize> = 8 << 10..=256 << 10;

/// A connection to one broker.
pub struct Connection {
    broker: String,
    stream: TcpStream,
    limits: Limits,
    correlation: i32,
    /// Requests whose replies are to come, in this order.
    pending: VecDeque<Pending>,
    /// What has come of the next reply.
    inbox: Vec<u8>,
    /// What the broker serves, once it has said so: the first reply.
    served: Option<Vec<VersionRange>>,
    /// It has said that and nothing else.
    greeted_only: bool,
    used_at: Instant,
    /// The broker closes it when it is used later than that: who this is has to be proved again.
    expires: Option<Instant>,
    /// The broker wants to be left alone until then.
    pause_until: Option<Instant>,
}

/// A reply, and what it was read from.
pub struct Arrived<T> {
    /// As it was read.
    pub reply: T,
    /// All of it, from its length on.
    pub bytes: Vec<u8>,
}

struct Pending {
    correlation: i32,
    spec: &'static ApiSpec,
}

impl Connection {
    /// Connects to the first address of `broker` (host:port) that answers, and asks which versions it serves. The reply to that
    /// is read before the next one, so that this doesn't wait for a broker that is connected and silent.
    ///
    /// # Errors
    /// No address answers.
    pub fn open(broker: &str, limits: &Limits) -> Result<Self, ConnectionError> {
        let failed =
            |step| move |source| ConnectionError::Io { broker: broker.to_owned(), step, source };
        let addresses = broker.to_socket_addrs().map_err(failed("look up the address"))?;
        let mut outcome = Err(io::ErrorKind::NotFound.into());
        for address in addresses {
            outcome = TcpStream::connect_timeout(&address, limits.connect);
            if outcome.is_ok() {
                break;
            }
        }
        let stream = outcome.map_err(failed("connect"))?;
        stream
            .set_nodelay(true)
            .and_then(|()| stream.set_nonblocking(true))
            .map_err(failed("set up the connection"))?;
        let mut connection = Self {
            broker: broker.to_owned(),
            stream,
            limits: limits.clone(),
            correlation: 0,
            pending: VecDeque::new(),
            inbox: Vec::new(),
            served: None,
            greeted_only: false,
            used_at: Instant::now(),
            expires: None,
            pause_until: None,
        };
        let deadline = Instant::now() + limits.connect;
        connection.send(&ApiVersions, deadline)?;
        if let Some(sasl) = &limits.sasl {
            connection.authenticate(sasl, deadline)?;
        }
        Ok(connection)
    }

    /// Proves to the broker who this is.
    fn authenticate(&mut self, sasl: &Sasl, deadline: Instant) -> Result<(), ConnectionError> {
        let request = SaslHandshake { mechanism: sasl.mechanism.name() };
        let reply = self.call(&request, deadline)?;
        match reply.code {
            0 => {}
            codes::ILLEGAL_SASL_STATE => {
                return Err(self.refused("wants no SASL at this port".to_owned()));
            }
            _ => return Err(self.refused(unlike(sasl, &reply))),
        }
        let failed = |this: &Self, words: &dyn Display| {
            let Sasl { mechanism, user, .. } = sasl;
            this.refused(format!("and user {user:?}, SASL {}: {words}", mechanism.name()))
        };
        let begun = Conversation::begin(sasl).map_err(|words| failed(self, &words))?;
        let (mut conversation, mut message) = begun;
        loop {
            let reply = self.call(&SaslAuthenticate { message: &message }, deadline)?;
            if reply.code != 0 {
                let words = Some(reply.words).filter(|words| !words.is_empty());
                let words = words.unwrap_or_else(|| codes::Name(reply.code).to_string());
                return Err(failed(self, &words));
            }
            match conversation.answer(&reply.message).map_err(|words| failed(self, &words))? {
                Some(next) => message = next,
                None => {
                    if let Ok(ms @ 1..) = u64::try_from(reply.lifetime_ms) {
                        // Before it is over, or the broker would close it on a request.
                        let lifetime = Duration::from_millis(ms - ms / 5);
                        self.expires = Instant::now().checked_add(lifetime);
                    }
                    return Ok(());
                }
            }
        }
    }

    /// host:port.
    pub fn broker(&self) -> &str {
        &self.broker
    }

    /// True if the broker has closed it while it idled, or will on the next request.
    pub(crate) fn is_stale(&self) -> bool {
        if self.pending.is_empty() && self.expires.is_some_and(|at| at <= Instant::now()) {
            return true;
        }
        self.pending.is_empty()
            && self.used_at.elapsed() > IDLE
            && self
                .stream
                .peek(&mut [0])
                .map_or_else(|err| err.kind() != io::ErrorKind::WouldBlock, |_| true)
    }

    /// The broker wants to be left alone until then.
    pub(crate) fn pause_until(&self) -> Option<Instant> {
        self.pause_until.filter(|until| *until > Instant::now())
    }

    /// Asks, and waits for the reply.
    ///
    /// # Errors
    /// See [`ConnectionError`]; the connection is of no use then.
    pub fn call<R: Request>(
        &mut self,
        request: &R,
        deadline: Instant,
    ) -> Result<R::Reply, ConnectionError> {
        let mut reply = R::Reply::default();
        let put = |to: &mut Writer| request.put(to);
        self.exchange(R::SPEC, &put, &mut |from| reply = R::take(from), deadline)?;
        Ok(reply)
    }

    /// A call of any kind: what is written and how the reply is read is all that differs, so the rest is in a binary once.
    pub(crate) fn exchange(
        &mut self,
        spec: &'static ApiSpec,
        put: &dyn Fn(&mut Writer),
        take: &mut dyn FnMut(&mut Reader<'_>),
        deadline: Instant,
    ) -> Result<(), ConnectionError> {
        self.send_as(spec, put, deadline)?;
        while self.try_receive_as(spec, take)?.is_none() {
            self.wait_to_read(deadline)?;
        }
        Ok(())
    }

    /// Waits until it is known that the broker serves the request.
    ///
    /// # Errors
    /// [`ConnectionError::Unserved`], and those of a call.
    pub fn require<R: Request>(&mut self, deadline: Instant) -> Result<(), ConnectionError> {
        while self.served.is_none() {
            if let Some(frame) = self.frame()? {
                self.greet(&frame)?;
            } else {
                self.wait_to_read(deadline)?;
            }
        }
        self.check(R::SPEC)
    }

    /// Sends a request. After an error the broker has not got it whole, and so has done nothing.
    ///
    /// # Errors
    /// See [`ConnectionError`]; the connection is of no use then.
    pub fn send<R: Request>(
        &mut self,
        request: &R,
        deadline: Instant,
    ) -> Result<(), ConnectionError> {
        self.send_as(R::SPEC, &|to| request.put(to), deadline)
    }

    fn send_as(
        &mut self,
        spec: &'static ApiSpec,
        put: &dyn Fn(&mut Writer),
        deadline: Instant,
    ) -> Result<(), ConnectionError> {
        self.check(spec)?;
        while let Some(until) = self.pause_until() {
            let left = until.min(deadline).saturating_duration_since(Instant::now());
            if left.is_zero() || self.limits.stop.as_ref().is_some_and(|stop| stop()) {
                let source = io::ErrorKind::TimedOut.into();
                return Err(self.io("wait until the broker's quota allows more", source));
            }
            thread::sleep(left.min(STOP_TICK));
        }
        self.correlation = self.correlation.wrapping_add(1);
        let mut writer = Writer(vec![0; 4]);
        spec.put_header(&mut writer, self.correlation, self.limits.client_id);
        put(&mut writer);
        let Writer(mut frame) = writer;
        let Ok(length) = i32::try_from(frame.len() - 4) else {
            return Err(self.protocol("can't be asked: the request is too large".to_owned()));
        };
        frame[..4].copy_from_slice(&length.to_be_bytes());
        self.write(&frame, deadline)?;
        self.pending.push_back(Pending { correlation: self.correlation, spec });
        self.used_at = Instant::now();
        Ok(())
    }

    /// The reply to the oldest request, which was an `R`, if it is there.
    ///
    /// # Errors
    /// See [`ConnectionError`]; the connection is of no use then.
    pub fn try_receive<R: Request>(
        &mut self,
    ) -> Result<Option<Arrived<R::Reply>>, ConnectionError> {
        let mut reply = R::Reply::default();
        let frame = self.try_receive_as(R::SPEC, &mut |from| reply = R::take(from))?;
        Ok(frame.map(|bytes| Arrived { reply, bytes }))
    }

    fn try_receive_as(
        &mut self,
        spec: &ApiSpec,
        take: &mut dyn FnMut(&mut Reader<'_>),
    ) -> Result<Option<Vec<u8>>, ConnectionError> {
        while let Some(frame) = self.frame()? {
            // The first one says what the broker serves.
            if self.served.is_none() {
                self.greet(&frame)?;
                continue;
            }
            let throttle_ms = self.read(&frame, spec, take)?;
            self.greeted_only = false;
            if let Ok(ms @ 1..) = u64::try_from(throttle_ms) {
                let pause = Duration::from_millis(ms).min(PAUSE_MAX);
                log::debug!(broker = self.broker.as_str(), pause_ms = pause.as_millis(); "Kafka's quota is used up");
                self.pause_until = Some(Instant::now() + pause);
            }
            self.used_at = Instant::now();
            return Ok(Some(frame));
        }
        Ok(None)
    }

    /// Reads a reply, if that was asked for before all else. Says for how long the broker wants to be left alone, ms.
    fn read(
        &mut self,
        frame: &[u8],
        asked: &ApiSpec,
        take: &mut dyn FnMut(&mut Reader<'_>),
    ) -> Result<i32, ConnectionError> {
        let mut reader = Reader::new(frame);
        reader.skip(4); // Its length.
        let came = asked.take_header(&mut reader);
        let unreadable = |this: &Self, misfit: DecodeError| {
            let name = asked.name;
            this.protocol(format!("sends an unreadable reply to {name}: {misfit:?}"))
        };
        reader.so_far().map_err(|misfit| unreadable(self, misfit))?;
        let Some(Pending { correlation, spec }) = self.pending.pop_front() else {
            return Err(self.protocol("speaks without having been asked".to_owned()));
        };
        if came != correlation || spec.key != asked.key {
            return Err(self.protocol("answers another request".to_owned()));
        }
        take(&mut reader);
        reader.finish().map_err(|misfit| unreadable(self, misfit))?;
        Ok(reader.throttle_ms)
    }

    /// Takes the first reply: what the broker serves.
    fn greet(&mut self, frame: &[u8]) -> Result<(), ConnectionError> {
        let mut served = Vec::new();
        let mut code = 0;
        self.read(frame, ApiVersions::SPEC, &mut |from| {
            let reply = ApiVersions::take(from);
            (served, code) = (reply.served, reply.code);
        })?;
        if code != 0 {
            return Err(self.protocol(format!("does not say what it serves: error code {code}")));
        }
        self.served = Some(served);
        self.greeted_only = true;
        // What was sent meanwhile is answered by closing the connection if it isn't served.
        self.pending.iter().try_for_each(|it| self.check(it.spec))
    }

    fn check(&self, spec: &ApiSpec) -> Result<(), ConnectionError> {
        let Some(served) = &self.served else { return Ok(()) };
        let ApiSpec { key, name, version, .. } = *spec;
        let range = served.iter().find(|range| range.key == key);
        if range.is_some_and(|range| (range.lowest..=range.highest).contains(&version)) {
            return Ok(());
        }
        let has = range.map_or_else(|| "not at all".to_owned(), ToString::to_string);
        let request = format!("{name} version {version} (it has {has})");
        Err(ConnectionError::Unserved { broker: self.broker.clone(), request })
    }

    /// The next reply behind its length, as soon as all of it is there.
    fn frame(&mut self) -> Result<Option<Vec<u8>>, ConnectionError> {
        loop {
            let mut missing = 4usize.saturating_sub(self.inbox.len());
            if let Some(length) = self.inbox.first_chunk() {
                let length = u32::from_be_bytes(*length) as usize;
                let Some(Pending { spec, .. }) = self.pending.front() else {
                    return Err(self.protocol("speaks without having been asked".to_owned()));
                };
                if length > spec.reply_bytes_max {
                    let (broker, bytes_max) = (self.broker.clone(), spec.reply_bytes_max);
                    return Err(ConnectionError::TooLarge { broker, bytes: length, bytes_max });
                }
                missing = (4 + length).saturating_sub(self.inbox.len());
                if missing == 0 {
                    let next = self.inbox.split_off(4 + length);
                    return Ok(Some(mem::replace(&mut self.inbox, next)));
                }
            }
            // Memory grows with what has really come, not with what was announced.
            let come = self.inbox.len();
            self.inbox.resize(come + missing.clamp(*READ.start(), *READ.end()), 0);
            let read = self.stream.read(&mut self.inbox[come..]);
            self.inbox.truncate(come + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => return Err(self.closed()),
                Ok(_) => {}
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(self.io("await a reply", err)),
            }
        }
    }

    fn write(&mut self, mut frame: &[u8], deadline: Instant) -> Result<(), ConnectionError> {
        while !frame.is_empty() {
            match self.stream.write(frame) {
                Ok(written) => frame = &frame[written..],
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(poll::WRITE, "send a request", deadline)?;
                }
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(self.io("send a request", err)),
            }
        }
        Ok(())
    }

    fn wait_to_read(&self, deadline: Instant) -> Result<(), ConnectionError> {
        self.wait(poll::READ, "await a reply", deadline)
    }

    fn wait(
        &self,
        events: i16,
        step: &'static str,
        deadline: Instant,
    ) -> Result<(), ConnectionError> {
        let mut entry = [poll::Entry::new(&self.stream, events)];
        match wait(&mut entry, deadline, self.limits.stop.as_ref()) {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.io(step, io::ErrorKind::TimedOut.into())),
            Err(err) => Err(self.io(step, err)),
        }
    }

    /// The broker has closed it.
    fn closed(&self) -> ConnectionError {
        let source = if self.greeted_only {
            // What it does with whoever has to say who he is, too.
            io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "it closes the connection on the first request; perhaps it wants SASL",
            )
        } else {
            io::ErrorKind::UnexpectedEof.into()
        };
        self.io("await a reply", source)
    }

    pub(crate) fn timed_out(&self) -> ConnectionError {
        self.io("await a reply", io::ErrorKind::TimedOut.into())
    }

    fn io(&self, step: &'static str, source: io::Error) -> ConnectionError {
        ConnectionError::Io { broker: self.broker.clone(), step, source }
    }

    fn refused(&self, what: String) -> ConnectionError {
        ConnectionError::Refused { broker: self.broker.clone(), what }
    }

    fn protocol(&self, what: String) -> ConnectionError {
        ConnectionError::Protocol { broker: self.broker.clone(), what }
    }
}

/// What is said of a broker that doesn't take the mechanism.
fn unlike(sasl: &Sasl, reply: &SaslMechanisms) -> String {
    let (name, has) = (sasl.mechanism.name(), reply.mechanisms.join(", "));
    format!("does not take SASL {name}, but {has:?}: {}", codes::Name(reply.code))
}

/// Waits until one of the connections has something to read, at most until `until`; less once the process is to stop.
pub(crate) fn wait_for_any<'a>(
    connections: impl Iterator<Item = &'a Connection>,
    until: Instant,
    stop: Option<&Stop>,
) -> io::Result<bool> {
    let entry = |it: &Connection| poll::Entry::new(&it.stream, poll::READ);
    let mut entries: Vec<poll::Entry> = connections.map(entry).collect();
    wait(&mut entries, until, stop)
}

/// True if one is ready, false if the time is over.
fn wait(entries: &mut [poll::Entry], until: Instant, stop: Option<&Stop>) -> io::Result<bool> {
    let (mut until, mut stopping) = (until, false);
    loop {
        if !stopping && stop.is_some_and(|stop| stop()) {
            stopping = true;
            until = until.min(Instant::now() + STOP_GRACE);
        }
        let left = until.saturating_duration_since(Instant::now());
        let slice = if stop.is_some() { left.min(STOP_TICK) } else { left };
        if poll::poll(entries, slice)? {
            return Ok(true);
        }
        if Instant::now() >= until {
            return Ok(false);
        }
    }
}

/// poll(2), which the standard library lacks.
mod poll {
    use std::ffi::{c_int, c_ulong};
    use std::io;
    use std::net::TcpStream;
    use std::os::fd::AsRawFd;
    use std::time::Duration;

    pub const READ: i16 = 1;
    pub const WRITE: i16 = 4;

    #[repr(C)]
    pub struct Entry {
        fd: c_int,
        events: i16,
        happened: i16,
    }

    impl Entry {
        pub fn new(stream: &TcpStream, events: i16) -> Self {
            Self { fd: stream.as_raw_fd(), events, happened: 0 }
        }
    }

    /// Waits until something has happened to one of `entries`; false if nothing has.
    pub fn poll(entries: &mut [Entry], wait: Duration) -> io::Result<bool> {
        // Rounded up: rounded down to 0 it would return at once, again and again, for a millisecond.
        let ms = wait.as_nanos().div_ceil(1_000_000).try_into().unwrap_or(c_int::MAX);
        match sys_poll(entries, ms) {
            0 => Ok(false),
            1.. => Ok(true),
            _ => match io::Error::last_os_error() {
                err if err.kind() == io::ErrorKind::Interrupted => Ok(false),
                err => Err(err),
            },
        }
    }

    #[allow(
        unsafe_code,
        reason = "the one system call that lets a thread wait for several sockets"
    )]
    fn sys_poll(entries: &mut [Entry], ms: c_int) -> c_int {
        unsafe extern "C" {
            fn poll(entries: *mut Entry, count: c_ulong, ms: c_int) -> c_int;
        }
        // SAFETY: `Entry` is laid out as C's `struct pollfd`, `entries` is borrowed for the call and as long as said, and what
        // is written to it is numbers. A descriptor that is closed or another's by now would be an answer, not a fault.
        unsafe { poll(entries.as_mut_ptr(), entries.len() as c_ulong, ms) }
    }
}
