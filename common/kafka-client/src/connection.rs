//! A connection to a broker. The socket is non-blocking, and each wait has a deadline.

use crate::config::{ConnectionConfig, ShutdownCheck};
use crate::error::ConnectionError;
use crate::protocol::codes;
use crate::protocol::messages::{
    ApiVersions, SaslAuthenticate, SaslHandshake, SaslHandshakeResponse,
};
use crate::protocol::{ApiSpec, DecodeError, Reader, Request, VersionRange, Writer};
use crate::sasl::{Exchange, Sasl};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::VecDeque;
use std::fmt::Display;
use std::io::{self, Read, Write};
use std::mem;
use std::net::{TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

/// Longest wait for a response after shutdown was requested.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);
/// Interval of the shutdown checks.
const SHUTDOWN_TICK: Duration = Duration::from_millis(100);
/// A connection that was idle for longer is tested before use: the broker may have closed it
/// (`connections.max.idle.ms`).
const IDLE: Duration = Duration::from_secs(1);
/// Limit of `throttle_time_ms`.
const THROTTLE_MAX: Duration = Duration::from_secs(60);
/// Smallest and largest buffer of a read, in bytes.
const READ_BYTES: std::ops::RangeInclusive<usize> = 8 << 10..=256 << 10;

const AWAIT_RESPONSE: &str = "await a response";
const SEND_REQUEST: &str = "send a request";

/// A connection to one broker, for requests of [`crate::protocol`]. [`crate::Client`] opens its own
/// connections.
pub struct Connection {
    broker: String,
    stream: TcpStream,
    config: ConnectionConfig,
    correlation_id: i32,
    /// In-flight requests; brokers respond in this order.
    in_flight: VecDeque<InFlightRequest>,
    /// Bytes received of the next response.
    received: Vec<u8>,
    /// The versions that the broker supports, from the first response.
    api_versions: Option<Vec<VersionRange>>,
    /// True while ApiVersions is the only response that was received.
    only_api_versions: bool,
    used_at: Instant,
    /// A time before the session expires (KIP-368). The broker closes a connection that is used
    /// after that.
    reauthenticate_at: Option<Instant>,
    /// The end of `throttle_time_ms` of the last response.
    throttled_until: Option<Instant>,
}

/// A response and its bytes.
pub struct Response<T> {
    /// The decoded fields.
    pub body: T,
    /// The bytes of the response, from its length field on.
    pub frame: Vec<u8>,
}

struct InFlightRequest {
    correlation_id: i32,
    spec: &'static ApiSpec,
}

impl Connection {
    /// Connects to the first reachable address of `broker` (host:port), sends ApiVersions, and
    /// authenticates if SASL is configured. Without SASL it does not wait for a response: the
    /// response to ApiVersions is read before the next one.
    ///
    /// # Errors
    /// [`ConnectionError::Io`] if no address is reachable, and [`ConnectionError::Authentication`].
    pub fn open(broker: &str, config: &ConnectionConfig) -> Result<Self, ConnectionError> {
        let failed =
            |step| move |source| ConnectionError::Io { broker: broker.to_owned(), step, source };
        let addresses = broker.to_socket_addrs().map_err(failed("look up the address"))?;
        let mut result = Err(io::ErrorKind::NotFound.into());
        for address in addresses {
            result = TcpStream::connect_timeout(&address, config.connect_timeout);
            if result.is_ok() {
                break;
            }
        }
        let stream = result.map_err(failed("connect"))?;
        stream
            .set_nodelay(true)
            .and_then(|()| stream.set_nonblocking(true))
            .map_err(failed("set socket options"))?;
        let mut connection = Self {
            broker: broker.to_owned(),
            stream,
            config: config.clone(),
            correlation_id: 0,
            in_flight: VecDeque::new(),
            received: Vec::new(),
            api_versions: None,
            only_api_versions: false,
            used_at: Instant::now(),
            reauthenticate_at: None,
            throttled_until: None,
        };
        let deadline = Instant::now() + config.connect_timeout;
        connection.send(&ApiVersions, deadline)?;
        if let Some(sasl) = &config.sasl {
            connection.authenticate(sasl, deadline)?;
        }
        Ok(connection)
    }

    fn authenticate(&mut self, sasl: &Sasl, deadline: Instant) -> Result<(), ConnectionError> {
        let Sasl { mechanism, user, .. } = sasl;
        let mechanism = mechanism.name();
        let response = self.call(&SaslHandshake { mechanism }, deadline)?;
        match response.error_code {
            0 => {}
            codes::ILLEGAL_SASL_STATE => {
                return Err(self.authentication("no SASL is configured on this port".to_owned()));
            }
            code => {
                let SaslHandshakeResponse { mechanisms, .. } = response;
                return Err(self.authentication(format!(
                    "SASL mechanism {mechanism} is not enabled, only {:?}: {}",
                    mechanisms.join(", "),
                    codes::Name(code)
                )));
            }
        }
        let failed = |this: &Self, why: &dyn Display| {
            this.authentication(format!("user {user:?}, SASL {mechanism}: {why}"))
        };
        let start = Exchange::start(sasl).map_err(|why| failed(self, &why))?;
        let (mut exchange, mut auth_bytes) = start;
        loop {
            let response = self.call(&SaslAuthenticate { auth_bytes: &auth_bytes }, deadline)?;
            if response.error_code != 0 {
                let message = Some(response.error_message).filter(|it| !it.is_empty());
                let name = || codes::Name(response.error_code).to_string();
                return Err(failed(self, &message.unwrap_or_else(name)));
            }
            let next = exchange.respond(&response.auth_bytes).map_err(|why| failed(self, &why))?;
            match next {
                Some(next) => auth_bytes = next,
                None => {
                    if let Ok(ms @ 1..) = u64::try_from(response.session_lifetime_ms) {
                        let lifetime = Duration::from_millis(ms - ms / 5);
                        self.reauthenticate_at = Instant::now().checked_add(lifetime);
                    }
                    return Ok(());
                }
            }
        }
    }

    /// The broker as host:port, as given to [`Connection::open`].
    pub fn broker(&self) -> &str {
        &self.broker
    }

    /// True if the broker closed the connection while it was idle, or its session expires soon.
    pub(crate) fn is_stale(&self) -> bool {
        let expired = || self.reauthenticate_at.is_some_and(|at| at <= Instant::now());
        let open = |err: io::Error| err.kind() == io::ErrorKind::WouldBlock;
        let closed = || !self.stream.peek(&mut [0]).is_err_and(open);
        self.in_flight.is_empty() && (expired() || self.used_at.elapsed() > IDLE && closed())
    }

    /// The end of the throttle time, if it is in the future.
    pub(crate) fn throttled_until(&self) -> Option<Instant> {
        self.throttled_until.filter(|until| *until > Instant::now())
    }

    /// Sends a request and waits for its response.
    ///
    /// # Errors
    /// See [`ConnectionError`]. The connection is not usable after an error.
    pub fn call<R: Request>(
        &mut self,
        request: &R,
        deadline: Instant,
    ) -> Result<R::Response, ConnectionError> {
        let mut response = R::Response::default();
        let encode = |to: &mut Writer| request.encode(to);
        self.call_dyn(R::SPEC, &encode, &mut |from| response = R::decode(from), deadline)?;
        Ok(response)
    }

    /// Not generic, so that a binary contains it once.
    pub(crate) fn call_dyn(
        &mut self,
        spec: &'static ApiSpec,
        encode: &dyn Fn(&mut Writer),
        decode: &mut dyn FnMut(&mut Reader<'_>),
        deadline: Instant,
    ) -> Result<(), ConnectionError> {
        self.send_dyn(spec, encode, deadline)?;
        while self.try_receive_dyn(spec, decode)?.is_none() {
            self.wait_for(PollFlags::IN, AWAIT_RESPONSE, deadline)?;
        }
        Ok(())
    }

    /// Waits for the response to ApiVersions and checks that the broker supports `R`.
    ///
    /// # Errors
    /// [`ConnectionError::UnsupportedVersion`], and the errors of [`Connection::call`].
    pub fn require_version<R: Request>(
        &mut self,
        deadline: Instant,
    ) -> Result<(), ConnectionError> {
        while self.api_versions.is_none() {
            if let Some(frame) = self.try_read_frame()? {
                self.read_api_versions(&frame)?;
            } else {
                self.wait_for(PollFlags::IN, AWAIT_RESPONSE, deadline)?;
            }
        }
        self.check_version(R::SPEC)
    }

    /// Sends a request without waiting for its response. After an error, the broker has received
    /// only a part of the request, which it does not execute.
    ///
    /// # Errors
    /// See [`ConnectionError`]. The connection is not usable after an error.
    pub fn send<R: Request>(
        &mut self,
        request: &R,
        deadline: Instant,
    ) -> Result<(), ConnectionError> {
        self.send_dyn(R::SPEC, &|to| request.encode(to), deadline)
    }

    fn send_dyn(
        &mut self,
        spec: &'static ApiSpec,
        encode: &dyn Fn(&mut Writer),
        deadline: Instant,
    ) -> Result<(), ConnectionError> {
        self.check_version(spec)?;
        while let Some(until) = self.throttled_until() {
            let left = until.min(deadline).saturating_duration_since(Instant::now());
            if left.is_zero() || self.config.shutdown.as_ref().is_some_and(|check| check()) {
                return Err(self.io("wait out the throttle time", io::ErrorKind::TimedOut.into()));
            }
            thread::sleep(left.min(SHUTDOWN_TICK));
        }
        self.correlation_id = self.correlation_id.wrapping_add(1);
        let mut writer = Writer(vec![0; 4]);
        spec.encode_header(&mut writer, self.correlation_id, &self.config.client_id);
        encode(&mut writer);
        let Writer(mut frame) = writer;
        let Ok(length) = i32::try_from(frame.len() - 4) else {
            return Err(self.protocol("request exceeds 2 GiB".to_owned()));
        };
        frame[..4].copy_from_slice(&length.to_be_bytes());
        self.write(&frame, deadline)?;
        let correlation_id = self.correlation_id;
        self.in_flight.push_back(InFlightRequest { correlation_id, spec });
        self.used_at = Instant::now();
        Ok(())
    }

    /// The response to the oldest in-flight request, which was an `R`, if it has been received.
    ///
    /// # Errors
    /// See [`ConnectionError`]. The connection is not usable after an error.
    pub(crate) fn try_receive<R: Request>(
        &mut self,
    ) -> Result<Option<Response<R::Response>>, ConnectionError> {
        let mut body = R::Response::default();
        let frame = self.try_receive_dyn(R::SPEC, &mut |from| body = R::decode(from))?;
        Ok(frame.map(|frame| Response { body, frame }))
    }

    fn try_receive_dyn(
        &mut self,
        spec: &ApiSpec,
        decode: &mut dyn FnMut(&mut Reader<'_>),
    ) -> Result<Option<Vec<u8>>, ConnectionError> {
        while let Some(frame) = self.try_read_frame()? {
            if self.api_versions.is_none() {
                self.read_api_versions(&frame)?;
                continue;
            }
            let throttle_time_ms = self.decode(&frame, spec, decode)?;
            self.only_api_versions = false;
            if let Ok(ms @ 1..) = u64::try_from(throttle_time_ms) {
                let pause = Duration::from_millis(ms).min(THROTTLE_MAX);
                log::debug!(
                    broker = self.broker.as_str(), pause_ms = pause.as_millis();
                    "broker throttles this client"
                );
                self.throttled_until = Some(Instant::now() + pause);
            }
            self.used_at = Instant::now();
            return Ok(Some(frame));
        }
        Ok(None)
    }

    /// Decodes a response after checking that it belongs to the oldest in-flight request. Returns
    /// its `throttle_time_ms`.
    fn decode(
        &mut self,
        frame: &[u8],
        expected: &ApiSpec,
        decode: &mut dyn FnMut(&mut Reader<'_>),
    ) -> Result<i32, ConnectionError> {
        let mut reader = Reader::new(frame);
        reader.skip(4); // length
        let correlation_id = expected.decode_header(&mut reader);
        let unreadable = |this: &Self, err: DecodeError| {
            this.protocol(format!("unreadable response to {}: {err:?}", expected.name))
        };
        reader.so_far().map_err(|err| unreadable(self, err))?;
        let Some(request) = self.in_flight.pop_front() else {
            return Err(self.unrequested());
        };
        if correlation_id != request.correlation_id || request.spec.key != expected.key {
            return Err(self.protocol("response belongs to another request".to_owned()));
        }
        decode(&mut reader);
        reader.finish().map_err(|err| unreadable(self, err))?;
        Ok(reader.throttle_time_ms)
    }

    fn read_api_versions(&mut self, frame: &[u8]) -> Result<(), ConnectionError> {
        let mut versions = Vec::new();
        let mut code = 0;
        self.decode(frame, ApiVersions::SPEC, &mut |from| {
            let response = ApiVersions::decode(from);
            (versions, code) = (response.api_versions, response.error_code);
        })?;
        if code != 0 {
            return Err(self.protocol(format!("ApiVersions failed: error code {code}")));
        }
        self.api_versions = Some(versions);
        self.only_api_versions = true;
        // Requests that were sent before this response are not checked yet.
        self.in_flight.iter().try_for_each(|it| self.check_version(it.spec))
    }

    fn check_version(&self, spec: &ApiSpec) -> Result<(), ConnectionError> {
        let Some(versions) = &self.api_versions else { return Ok(()) };
        let ApiSpec { key, name, version, .. } = *spec;
        let range = versions.iter().find(|range| range.key == key);
        if range.is_some_and(|range| (range.lowest..=range.highest).contains(&version)) {
            return Ok(());
        }
        let served = range.map_or_else(|| "no version".to_owned(), ToString::to_string);
        let request = format!("{name} version {version} (supported: {served})");
        Err(ConnectionError::UnsupportedVersion { broker: self.broker.clone(), request })
    }

    /// The next response with its length field, if all of it was received.
    fn try_read_frame(&mut self) -> Result<Option<Vec<u8>>, ConnectionError> {
        loop {
            let mut missing = 4usize.saturating_sub(self.received.len());
            if let Some(length) = self.received.first_chunk() {
                let length = u32::from_be_bytes(*length) as usize;
                let Some(InFlightRequest { spec, .. }) = self.in_flight.front() else {
                    return Err(self.unrequested());
                };
                let bytes_max = spec.response_bytes_max.min(self.config.response_bytes_max);
                if length > bytes_max {
                    let broker = self.broker.clone();
                    return Err(ConnectionError::ResponseTooLarge {
                        broker,
                        bytes: length,
                        bytes_max,
                    });
                }
                missing = (4 + length).saturating_sub(self.received.len());
                if missing == 0 {
                    let next = self.received.split_off(4 + length);
                    return Ok(Some(mem::replace(&mut self.received, next)));
                }
            }
            // The buffer grows with the bytes received: the announced length may be wrong.
            let received = self.received.len();
            let bytes = missing.clamp(*READ_BYTES.start(), *READ_BYTES.end());
            self.received.resize(received + bytes, 0);
            let read = self.stream.read(&mut self.received[received..]);
            self.received.truncate(received + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => return Err(self.closed()),
                Ok(_) => {}
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(self.io(AWAIT_RESPONSE, err)),
            }
        }
    }

    fn write(&mut self, mut frame: &[u8], deadline: Instant) -> Result<(), ConnectionError> {
        while !frame.is_empty() {
            match self.stream.write(frame) {
                Ok(written) => frame = &frame[written..],
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {
                    self.wait_for(PollFlags::OUT, SEND_REQUEST, deadline)?;
                }
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(self.io(SEND_REQUEST, err)),
            }
        }
        Ok(())
    }

    fn wait_for(
        &self,
        events: PollFlags,
        step: &'static str,
        deadline: Instant,
    ) -> Result<(), ConnectionError> {
        let mut fds = [PollFd::new(&self.stream, events)];
        match poll_until(&mut fds, deadline, self.config.shutdown.as_ref()) {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.io(step, io::ErrorKind::TimedOut.into())),
            Err(err) => Err(self.io(step, err)),
        }
    }

    fn closed(&self) -> ConnectionError {
        let source = if self.only_api_versions {
            // A broker with SASL closes the connection of a client without it.
            io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "connection closed on the first request; does this port require SASL?",
            )
        } else {
            io::ErrorKind::UnexpectedEof.into()
        };
        self.io(AWAIT_RESPONSE, source)
    }

    pub(crate) fn timed_out(&self) -> ConnectionError {
        self.io(AWAIT_RESPONSE, io::ErrorKind::TimedOut.into())
    }

    fn unrequested(&self) -> ConnectionError {
        self.protocol("response without a request".to_owned())
    }

    fn io(&self, step: &'static str, source: io::Error) -> ConnectionError {
        ConnectionError::Io { broker: self.broker.clone(), step, source }
    }

    fn authentication(&self, what: String) -> ConnectionError {
        ConnectionError::Authentication { broker: self.broker.clone(), what }
    }

    fn protocol(&self, what: String) -> ConnectionError {
        ConnectionError::Protocol { broker: self.broker.clone(), what }
    }
}

/// Waits until a connection is readable. Returns false at `deadline`, or 1 s after shutdown was
/// requested.
pub(crate) fn wait_for_any<'a>(
    connections: impl Iterator<Item = &'a Connection>,
    deadline: Instant,
    shutdown: Option<&ShutdownCheck>,
) -> io::Result<bool> {
    let fd = |it: &'a Connection| PollFd::new(&it.stream, PollFlags::IN);
    let mut fds: Vec<PollFd<'_>> = connections.map(fd).collect();
    poll_until(&mut fds, deadline, shutdown)
}

fn poll_until(
    fds: &mut [PollFd<'_>],
    mut deadline: Instant,
    shutdown: Option<&ShutdownCheck>,
) -> io::Result<bool> {
    let mut shutting_down = false;
    loop {
        if !shutting_down && shutdown.is_some_and(|check| check()) {
            shutting_down = true;
            deadline = deadline.min(Instant::now() + SHUTDOWN_GRACE);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let slice = if shutdown.is_some() { left.min(SHUTDOWN_TICK) } else { left };
        // A duration that does not fit into `Timespec` waits without a timeout.
        match poll(fds, Timespec::try_from(slice).ok().as_ref()) {
            Ok(1..) => return Ok(true),
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Err(err) => return Err(err.into()),
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
    }
}
