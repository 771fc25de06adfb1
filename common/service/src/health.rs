//! Health checks and metrics over HTTP: `/healthz`, `/readyz` and `/metrics`.

use crate::env::{self, Env, Variable};
use crate::exit::BoxError;
use crate::http::{self, Limits, Request, Response, Timed};
use crate::log::{self, Chain};
use ::http::Method;
use prometheus::{Encoder, TextEncoder};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub const HEALTH_PORT: Variable = Variable::new(
    "HEALTH_PORT",
    "9090",
    "TCP port of /healthz, /readyz and /metrics, without authentication, 1 to 65535",
);
pub const HEALTH_ADDR: Variable = Variable::new(
    "HEALTH_ADDR",
    "127.0.0.1",
    "IP address that HEALTH_PORT listens on; :: for all, which probes and Prometheus on other \
     machines need",
);

/// Maximum of connections to the health port.
const CONNECTIONS_MAX: usize = 32;

/// Problems by name, and when each of them ends by itself.
static PROBLEMS: Mutex<BTreeMap<String, Instant>> = Mutex::new(BTreeMap::new());

/// Makes the process "not ready" until [`solve`] is called with the same name, at most for `lasts`.
/// Any thread may call it, as it may count a metric.
pub fn report_problem(name: &str, lasts: Duration) {
    problems().insert(name.to_owned(), Instant::now() + lasts);
}

/// Ends the problem with this name, if there is one.
pub fn solve(name: &str) {
    problems().remove(name);
}

fn problems() -> MutexGuard<'static, BTreeMap<String, Instant>> {
    let mut problems = PROBLEMS.lock().unwrap_or_else(PoisonError::into_inner);
    problems.retain(|_, ends| *ends > Instant::now());
    problems
}

/// The health of this process, served until the process ends. Clones share the state. `/metrics`
/// shows `prometheus::default_registry()`.
#[derive(Debug, Clone)]
pub struct Health(Arc<AtomicBool>);

impl Health {
    /// Listens on `HEALTH_ADDR` and `HEALTH_PORT`. The state is "not ready" at first.
    ///
    /// # Errors
    /// A variable is invalid, or the port is in use.
    pub fn serve(env: &Env<'_>) -> Result<Self, BoxError> {
        let (health, _) = Self::open(addr(env)?)?;
        Ok(health)
    }

    /// Sets whether the service is ready: it is connected and has its partitions.
    pub fn set_ready(&self, ready: bool) {
        self.0.store(ready, Ordering::Relaxed);
    }

    fn open(addr: SocketAddr) -> Result<(Self, SocketAddr), http::Error> {
        let health = Self(Arc::new(AtomicBool::new(false)));
        let state = health.clone();
        let limits = Limits { connections: CONNECTIONS_MAX, ..Limits::default() };
        let listener = http::serve(addr, limits, move |request: &Request| state.response(request))?;
        Ok((health, listener.addr))
    }

    fn response(&self, request: &Request) -> Response {
        match (&request.method, request.path()) {
            (&Method::GET | &Method::HEAD, "/healthz") => http::text(200, "alive"),
            (&Method::GET | &Method::HEAD, "/readyz") => self.readiness(),
            (&Method::GET | &Method::HEAD, "/metrics") => metrics(),
            (_, "/healthz" | "/readyz" | "/metrics") => {
                http::text(405, "method not allowed: use GET or HEAD")
                    .with_header("Allow", "GET, HEAD")
            }
            _ => http::text(404, "not found; try /healthz, /readyz or /metrics"),
        }
    }

    fn readiness(&self) -> Response {
        let problems: Vec<String> = problems().keys().cloned().collect();
        if !self.0.load(Ordering::Relaxed) {
            http::text(503, "not ready")
        } else if !problems.is_empty() {
            http::text(503, &format!("not ready: {}", problems.join(", ")))
        } else {
            http::text(200, "ready")
        }
    }
}

/// The address of the health port.
///
/// # Errors
/// A variable is invalid.
fn addr(env: &Env<'_>) -> Result<SocketAddr, env::Error> {
    let port = env.number(&HEALTH_PORT, 1..=u16::MAX)?;
    Ok(SocketAddr::new(env.parse(&HEALTH_ADDR, http::IP_ADDRESS)?, port))
}

fn metrics() -> Response {
    let mut text = Vec::new();
    match TextEncoder::new().encode(&prometheus::gather(), &mut text) {
        Ok(()) => http::reply(200, prometheus::TEXT_FORMAT, text),
        Err(err) => http::text(500, &Chain(&err).to_string()),
    }
}

/// Checks whether the service on this machine with this environment is ready. Exit code 0 if so,
/// else 1. Takes at most 2 s.
///
/// # Errors
/// A variable is invalid.
pub fn check(env: &Env<'_>) -> Result<ExitCode, env::Error> {
    Ok(check_at(addr(env)?))
}

fn check_at(mut addr: SocketAddr) -> ExitCode {
    if addr.ip().is_unspecified() {
        addr.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    match ready(addr) {
        Ok(status) if status == "200" => ExitCode::SUCCESS,
        Ok(status) => {
            log::write_last(&format!("{addr} is not ready: /readyz returned status {status:?}"));
            ExitCode::FAILURE
        }
        Err(err) => {
            log::write_last(&format!("{addr} is not ready: no response from /readyz: {err}"));
            ExitCode::FAILURE
        }
    }
}

/// The status code of `/readyz`, three characters.
fn ready(addr: SocketAddr) -> io::Result<String> {
    const TIME: Duration = Duration::from_secs(1);
    let service = TcpStream::connect_timeout(&addr, TIME)?;
    let mut service = Timed::new(&service, TIME);
    service.write_all(b"GET /readyz HTTP/1.0\r\n\r\n")?;
    let mut start = [0; "HTTP/1.0 200".len()];
    service.read_exact(&mut start)?;
    Ok(String::from_utf8_lossy(&start["HTTP/1.0 ".len()..]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn ask(addr: SocketAddr, request: &str) -> String {
        let mut service = TcpStream::connect(addr).unwrap();
        service.write_all(request.as_bytes()).unwrap();
        let mut reply = String::new();
        service.read_to_string(&mut reply).unwrap();
        reply
    }

    #[test]
    fn endpoints_reflect_the_ready_state() {
        let (health, addr) = Health::open((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let get = |path: &str| ask(addr, &format!("GET {path} HTTP/1.0\r\n\r\n"));

        assert!(get("/healthz").starts_with("HTTP/1.1 200 OK\r\nConnection: close\r\n"));
        assert!(get("/readyz").starts_with("HTTP/1.1 503 "));
        assert_eq!(check_at(addr), ExitCode::FAILURE);
        health.set_ready(true);
        assert!(get("/readyz?verbose").starts_with("HTTP/1.1 200 "));
        assert_eq!(check_at(addr), ExitCode::SUCCESS);
        report_problem("dead letters of a", Duration::from_secs(60));
        report_problem("over", Duration::ZERO);
        assert!(get("/readyz").ends_with("\r\n\r\nnot ready: dead letters of a\n"));
        assert_eq!(check_at(addr), ExitCode::FAILURE);
        solve("dead letters of a");
        assert_eq!(check_at(addr), ExitCode::SUCCESS);
        health.set_ready(false);
        assert!(get("/readyz").ends_with("\r\n\r\nnot ready\n"));

        assert!(get("/").starts_with("HTTP/1.1 404 "));
        let refused = ask(addr, "POST /readyz HTTP/1.0\r\n\r\n");
        assert!(
            refused.starts_with("HTTP/1.1 405 ") && refused.contains("\r\nAllow: GET, HEAD\r\n")
        );
        assert!(ask(addr, "HEAD /readyz HTTP/1.0\r\n\r\n").ends_with("\r\n\r\n"), "no body");
    }

    #[test]
    fn metrics_come_from_the_default_registry() {
        let counter = prometheus::IntCounter::new("health_test_total", "For this test.").unwrap();
        prometheus::default_registry().register(Box::new(counter.clone())).unwrap();
        counter.inc_by(7);
        let (_, addr) = Health::open((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let reply = ask(addr, "GET /metrics HTTP/1.0\r\n\r\n");
        assert!(reply.contains("\r\nContent-Type: text/plain; version=0.0.4\r\n"), "{reply}");
        assert!(
            reply.contains("\n# TYPE health_test_total counter\nhealth_test_total 7\n"),
            "{reply}"
        );
    }

    #[test]
    fn port_without_a_response_is_not_ready() {
        let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = silent.local_addr().unwrap();
        assert_eq!(check_at(addr), ExitCode::FAILURE);
        drop(silent);
        assert_eq!(check_at(addr), ExitCode::FAILURE);
    }

    #[test]
    fn bind_error_names_the_address() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let err = Health::open(taken.local_addr().unwrap()).unwrap_err();
        assert!(err.to_string().contains(&taken.local_addr().unwrap().to_string()), "{err}");
    }
}
