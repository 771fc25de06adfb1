//! HTTP control of the load: `GET /` returns it, `PUT /` changes it from the next heartbeat on.

use crate::config::{BATCH_SIZES, Load, SLEEPS_MS};
use crate::schedule::Schedule;
use serde_json::{Map, Value};
use service::env::Secret;
use service::http::{self, Limits, Method, Request, Response};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The current load. The HTTP listener and the sending thread share it.
#[derive(Debug)]
pub struct Control {
    state: Mutex<State>,
    changed: Condvar,
    sent: AtomicU64,
}

#[derive(Debug)]
struct State {
    load: Load,
    stopped: bool,
}

/// The response to `GET /` and to a successful `PUT /`, as JSON.
#[derive(Debug, PartialEq, Eq, serde::Serialize)]
pub struct Status {
    /// Records per heartbeat.
    pub batch_size: u64,
    /// Interval between heartbeats, ms.
    pub sleep_ms: u64,
    /// Records that Kafka acknowledged since the service started.
    pub sent: u64,
}

/// Maximum of connections to the control port.
const CONNECTIONS_MAX: usize = 32;

/// Listens on `addr` until the process ends. Requests must have `token`, if there is one.
///
/// # Errors
/// The port is in use.
pub fn serve(
    addr: SocketAddr,
    token: Option<Secret>,
    control: Arc<Control>,
) -> Result<http::Listener, http::Error> {
    let limits = Limits { connections: CONNECTIONS_MAX, ..Limits::default() };
    http::serve(addr, limits, move |request: &Request| {
        if let Some(refusal) = refusal(token.as_ref(), request) {
            return refusal;
        }
        control.response(request)
    })
}

/// The response to a request that is not allowed.
fn refusal(token: Option<&Secret>, request: &Request) -> Option<Response> {
    match token {
        Some(token) if !request.bearer().is_some_and(|given| token.equals(given)) => {
            let reason = "expected Authorization: Bearer and the value of CONTROL_TOKEN";
            Some(http::text(401, reason).with_header("WWW-Authenticate", "Bearer"))
        }
        // A page of another site in a browser on this machine (DNS rebinding).
        None if !request.has_local_host() => {
            Some(http::text(421, "expected localhost or an IP address as Host, or a CONTROL_TOKEN"))
        }
        _ => None,
    }
}

impl Control {
    pub fn new(load: Load) -> Self {
        let state = Mutex::new(State { load, stopped: false });
        Self { state, changed: Condvar::new(), sent: AtomicU64::new(0) }
    }

    /// Waits until the next heartbeat is due and returns its number of records. A changed load is
    /// effective during the wait. Returns `None` after [`Self::stop`].
    pub fn wait(&self, schedule: &mut Schedule) -> Option<u64> {
        let mut state = self.state();
        while !state.stopped {
            let now = Instant::now();
            let left = schedule.left(state.load.sleep, now);
            if left.is_zero() {
                schedule.begin(now);
                return Some(state.load.batch_size);
            }
            state =
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        None
    }

    /// Ends the current wait and all later ones.
    pub fn stop(&self) {
        self.state().stopped = true;
        self.changed.notify_all();
    }

    /// Adds acknowledged records to [`Status::sent`].
    pub fn count(&self, records: u64) {
        self.sent.fetch_add(records, Ordering::Relaxed);
    }

    pub fn status(&self) -> Status {
        let Load { batch_size, sleep } = self.state().load;
        let sleep_ms = sleep.as_millis() as u64;
        Status { batch_size, sleep_ms, sent: self.sent.load(Ordering::Relaxed) }
    }

    /// Applies the settings in `json`, for example `{"batch_size": 10, "sleep_ms": 1000}`.
    ///
    /// `client` is logged.
    ///
    /// # Errors
    /// The message for the client. No setting is changed then.
    pub fn change(&self, json: &[u8], client: IpAddr) -> Result<(), String> {
        let changes: Map<String, Value> = serde_json::from_slice(json).map_err(|err| {
            format!("{err}: expected JSON such as {{\"batch_size\": 10, \"sleep_ms\": 1000}}")
        })?;
        let mut state = self.state();
        let mut load = state.load;
        for (name, value) in &changes {
            match name.as_str() {
                "batch_size" => load.batch_size = number(name, value, BATCH_SIZES)?,
                "sleep_ms" => {
                    load.sleep = Duration::from_millis(number(name, value, SLEEPS_MS)?);
                }
                _ => {
                    return Err(format!(
                        "unknown setting {name:?}: expected batch_size or sleep_ms"
                    ));
                }
            }
        }
        state.load = load.checked()?;
        self.changed.notify_all();
        let Load { batch_size, sleep } = load;
        log::info!(batch_size, sleep_ms = sleep.as_millis(), client:%; "load changed");
        Ok(())
    }

    fn response(&self, request: &Request) -> Response {
        match (&request.method, request.path()) {
            (&Method::GET | &Method::HEAD, "/") => self.status_response(),
            (&Method::PUT, "/") => match self.change(&request.body, request.address) {
                Ok(()) => self.status_response(),
                Err(reason) => http::text(400, &reason),
            },
            (_, "/") => http::text(405, "method not allowed: use GET, HEAD or PUT")
                .with_header("Allow", "GET, HEAD, PUT"),
            _ => http::text(404, "not found: the only path is /"),
        }
    }

    fn status_response(&self) -> Response {
        let json =
            serde_json::to_vec(&self.status()).expect("a struct of three numbers is valid JSON");
        http::reply(200, "application/json", json)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn number(name: &str, value: &Value, range: RangeInclusive<u64>) -> Result<u64, String> {
    let number = value.as_u64().filter(|number| range.contains(number));
    number.ok_or_else(|| {
        let (from, to) = (range.start(), range.end());
        format!("{name}={value}: expected a whole number from {from} to {to}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, SocketAddr, TcpStream};
    use std::thread;

    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn control(batch_size: u64, sleep_ms: u64) -> Arc<Control> {
        let sleep = Duration::from_millis(sleep_ms);
        Arc::new(Control::new(Load { batch_size, sleep }))
    }

    #[test]
    fn settings_out_of_range_are_rejected() {
        for (json, expected) in [
            (r#"{"batch_size": 0, "sleep_ms": 1}"#, Ok((0, 1))),
            (r#"{"batch_size": 1000, "sleep_ms": 1}"#, Ok((1000, 1))),
            (
                r#"{"batch_size": 1001, "sleep_ms": 1}"#,
                Err("batch_size=1001 and sleep_ms=1: expected at most 1000000 records"),
            ),
            (r#"{"batch_size": 100000}"#, Ok((100_000, 1000))),
            (r#"{"sleep_ms": 3600000}"#, Ok((7, 3_600_000))),
            ("{}", Ok((7, 1000))),
            (
                r#"{"batch_size": 100001}"#,
                Err("batch_size=100001: expected a whole number from 0 to 100000"),
            ),
            (
                r#"{"batch_size": -1}"#,
                Err("batch_size=-1: expected a whole number from 0 to 100000"),
            ),
            (r#"{"batch_size": 1.5}"#, Err("batch_size=1.5: expected")),
            (r#"{"batch_size": "5"}"#, Err("batch_size=\"5\": expected")),
            (r#"{"batch_size": null}"#, Err("batch_size=null: expected")),
            (r#"{"sleep_ms": 0}"#, Err("sleep_ms=0: expected a whole number from 1 to 3600000")),
            (r#"{"sleep_ms": 3600001}"#, Err("sleep_ms=3600001: expected")),
            (r#"{"sleep_ms": 99999999999999999999999}"#, Err("sleep_ms=1e")),
            (
                r#"{"batch_size": 5, "sleep": 5}"#,
                Err("unknown setting \"sleep\": expected batch_size or sleep_ms"),
            ),
            (r#"{"sent": 0}"#, Err("unknown setting \"sent\": expected batch_size or sleep_ms")),
            ("[]", Err("invalid type")),
            ("", Err("EOF")),
            ("{\"batch_size\": 5", Err("EOF")),
        ] {
            let control = control(7, 1000);
            let result = control.change(json.as_bytes(), CLIENT);
            let Status { batch_size, sleep_ms, .. } = control.status();
            match expected {
                Ok(expected) => assert_eq!((result, (batch_size, sleep_ms)), (Ok(()), expected)),
                Err(reason) => {
                    assert!(result.clone().unwrap_err().starts_with(reason), "{result:?}");
                    assert_eq!((batch_size, sleep_ms), (7, 1000), "nothing is changed");
                }
            }
        }
    }

    #[test]
    fn change_is_effective_during_a_long_interval() {
        let control = control(1, 3_600_000);
        let waiting = control.clone();
        let records = thread::spawn(move || waiting.wait(&mut Schedule::new(Instant::now())));
        control.change(br#"{"batch_size": 5}"#, CLIENT).unwrap();
        control.change(br#"{"sleep_ms": 5}"#, CLIENT).unwrap();
        assert_eq!(records.join().unwrap(), Some(5));
    }

    #[test]
    fn stop_ends_the_longest_interval() {
        let control = control(1, 3_600_000);
        let waiting = control.clone();
        let records = thread::spawn(move || waiting.wait(&mut Schedule::new(Instant::now())));
        control.stop();
        assert_eq!(records.join().unwrap(), None);
    }

    fn response(addr: SocketAddr, request: &str) -> String {
        let mut service = TcpStream::connect(addr).unwrap();
        service.write_all(request.as_bytes()).unwrap();
        let mut response = String::new();
        service.read_to_string(&mut response).unwrap();
        response
    }

    #[test]
    fn control_responds_over_http() {
        let control = control(7, 1000);
        control.count(42);
        let addr = serve((Ipv4Addr::LOCALHOST, 0).into(), None, control).unwrap().addr;
        let put = |json: &str| {
            response(
                addr,
                &format!("PUT / HTTP/1.0\r\nContent-Length: {}\r\n\r\n{json}", json.len()),
            )
        };

        let status = response(addr, "GET / HTTP/1.0\r\n\r\n");
        assert!(status.contains("\r\nContent-Type: application/json\r\n"), "{status}");
        assert!(status.ends_with(r#"{"batch_size":7,"sleep_ms":1000,"sent":42}"#), "{status}");
        let changed = put(r#"{"batch_size": 200, "sleep_ms": 10}"#);
        assert!(changed.starts_with("HTTP/1.1 200 "), "{changed}");
        assert!(changed.ends_with(r#"{"batch_size":200,"sleep_ms":10,"sent":42}"#), "{changed}");
        let rejected = put(r#"{"batch_size": "many"}"#);
        assert!(rejected.starts_with("HTTP/1.1 400 "), "{rejected}");
        assert!(rejected.ends_with("expected a whole number from 0 to 100000\n"), "{rejected}");
        let status = response(addr, "GET /?pretty HTTP/1.0\r\n\r\n");
        assert!(status.ends_with(r#"{"batch_size":200,"sleep_ms":10,"sent":42}"#), "{status}");
        assert!(response(addr, "GET /other HTTP/1.0\r\n\r\n").starts_with("HTTP/1.1 404 "));
        let rejected = response(addr, "DELETE / HTTP/1.0\r\n\r\n");
        assert!(
            rejected.starts_with("HTTP/1.1 405 ") && rejected.contains("Allow: GET, HEAD, PUT")
        );
    }

    #[test]
    fn token_is_required_if_configured() {
        let token = "0123456789abcdef";
        let local = (Ipv4Addr::LOCALHOST, 0).into();
        let guarded = serve(local, Some(Secret(token.to_owned())), control(7, 1000)).unwrap().addr;
        let status = |addr, headers: &str| {
            let response = response(addr, &format!("GET / HTTP/1.1\r\n{headers}\r\n\r\n"));
            response["HTTP/1.1 ".len()..][..3].parse::<u16>().unwrap()
        };
        for (headers, expected) in [
            ("Host: localhost", 401),
            ("Host: heartbeat\r\nAuthorization: Bearer 0123456789abcdeg", 401),
            ("Host: heartbeat\r\nAuthorization: Bearer 0123456789abcde", 401),
            ("Host: heartbeat\r\nAuthorization: Basic 0123456789abcdef", 401),
            ("Host: heartbeat\r\nAuthorization: bearer 0123456789abcdef", 200),
        ] {
            assert_eq!(status(guarded, headers), expected, "{headers}");
        }
        let open = serve(local, None, control(7, 1000)).unwrap().addr;
        for (host, expected) in [("localhost:1", 200), ("[::1]", 200), ("evil.example", 421)] {
            assert_eq!(status(open, &format!("Host: {host}")), expected, "{host}");
        }
    }
}
