//! Attacks on the HTTP listener. Each test attacks its own server process, so that memory, threads
//! and file descriptors can be measured.

// These lints skip test functions, but not their helpers.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use service::http::{self, Handler, Limits, Outbox, Request, Responder, Response, Session};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Lines, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::panic::{self, AssertUnwindSafe};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

/// Set in the server process of a test.
const SERVES: &str = "LISTENER_TEST_SERVES";
const LOCALHOST: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const CONNECTIONS: usize = 1000;
const HELLO: &[u8] = b"GET / HTTP/1.1\r\nHost: bank\r\n\r\n";
/// Body of `/large`: more than fits into the buffers of both sockets.
const LARGE_BYTES: usize = 4 << 20;
/// Time limit for a response. It is generous, since other programs may load this machine.
const SOON: Duration = Duration::from_secs(2);
/// Maximum memory under attack, MiB. 1000 bodies of 64 KiB would need 64.
const RSS_MIB_MAX: u64 = 24;

/// A process with a listener. It responds to `GET /` with "hello" and echoes the body of any other
/// request.
struct Served {
    process: Child,
    commands: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    /// `RssAnon` before the listener was opened, kB.
    before_kb: u64,
    addr: SocketAddr,
}

impl Served {
    fn start() -> Self {
        Self::with_descriptors("$(ulimit -n)")
    }

    fn with_descriptors(limit: &str) -> Self {
        let mut process = Command::new("sh")
            .args(["-c", &format!("ulimit -n {limit}; exec \"$@\""), "sh"])
            .arg(std::env::current_exe().unwrap())
            .args(["request_is_answered", "--exact", "--nocapture"])
            .env(SERVES, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap()).lines();
        let commands = process.stdin.take().unwrap();
        let mut served = Self { process, commands, output, before_kb: 0, addr: LOCALHOST };
        served.before_kb = served.wait_for_line("before ").parse().unwrap();
        served.addr = served.wait_for_line("serves ").parse().unwrap();
        served
    }

    /// Waits for a line that starts with `word`. Returns the rest of the line.
    fn wait_for_line(&mut self, word: &str) -> String {
        let mut rest =
            self.output.by_ref().map(|line| line.unwrap().strip_prefix(word).map(str::to_owned));
        rest.find_map(|rest| rest).unwrap()
    }

    fn tell(&mut self, command: &str) {
        writeln!(self.commands, "{command}").unwrap();
        self.wait_for_line("done");
    }

    fn status(&self, field: &str) -> u64 {
        status_of(&self.process.id().to_string(), field)
    }

    /// Sends a valid request. Returns the response time.
    fn answers(&self) -> Duration {
        let start = Instant::now();
        let reply = ask(self.addr, HELLO).unwrap();
        assert!(reply.starts_with("HTTP/1.1 200 OK\r\nConnection: close\r\n"), "{reply}");
        assert!(reply.ends_with("hello\n"), "{reply}");
        start.elapsed()
    }

    /// Sends valid requests while `attack` runs. Asserts that each response arrives within
    /// [`SOON`].
    fn answers_during<T>(&self, attack: impl FnOnce() -> T) -> T {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let mut slowest = Duration::ZERO;
                while !over.load(Ordering::Relaxed) {
                    slowest = slowest.max(self.answers());
                }
                slowest
            });
            let result = panic::catch_unwind(AssertUnwindSafe(attack));
            over.store(true, Ordering::Relaxed);
            let slowest = asking.join().unwrap();
            assert!(slowest < SOON, "a response took {slowest:?}");
            result.unwrap_or_else(|reason| panic::resume_unwind(reason))
        })
    }

    /// Asserts that the listener responds and that its peak memory is below the limit.
    fn is_well(&self) {
        assert!(self.answers() < SOON);
        let peak_mib = self.status("VmHWM") >> 10;
        assert!(peak_mib < RSS_MIB_MAX, "{peak_mib} MiB");
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A number from `/proc/<pid>/status`: kB, or a count.
fn status_of(pid: &str, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_start_matches(':').split_whitespace().next().unwrap().parse().unwrap()
}

fn connect(addr: SocketAddr) -> TcpStream {
    let connection = TcpStream::connect(addr).unwrap();
    connection.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    connection.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    connection
}

/// Sends `request` and reads until the listener closes the connection.
fn ask(addr: SocketAddr, request: &[u8]) -> io::Result<String> {
    let mut connection = connect(addr);
    connection.write_all(request)?;
    read_all(connection)
}

fn read_all(mut connection: TcpStream) -> io::Result<String> {
    let mut reply = String::new();
    connection.read_to_string(&mut reply).map(|_| reply)
}

/// Waits until `done` returns true. Fails after `time`.
fn wait_until(time: Duration, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + time;
    while !done() {
        assert!(Instant::now() < deadline, "condition not met within {time:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn limits() -> Limits {
    Limits { connections: CONNECTIONS, ..Limits::default() }
}

fn hello(request: &Request) -> Response {
    match request.path() {
        "/" => http::text(200, "hello"),
        "/large" => http::reply(200, "text/plain", vec![b'x'; LARGE_BYTES]),
        "/address" => http::text(200, &request.address.to_string()),
        _ => http::reply(200, "text/plain", request.body.clone()),
    }
}

#[test]
fn request_is_answered() {
    let before_kb = status_of("self", "RssAnon");
    let addr = http::serve(LOCALHOST, limits(), hello).unwrap().addr;
    if std::env::var(SERVES).is_ok() {
        println!("\nbefore {before_kb}");
        println!("serves {addr}");
        serve_until_closed();
        return;
    }
    let reply =
        ask(addr, b"PUT /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nworld").unwrap();
    assert!(reply.starts_with("HTTP/1.1 200 OK\r\nConnection: close\r\n"), "{reply}");
    assert!(reply.ends_with("\r\n\r\nworld"), "{reply}");
}

/// Executes the commands of the test. `leave N` opens files until only N more can be opened.
/// `release` closes them.
fn serve_until_closed() {
    let mut hoard: Vec<File> = Vec::new();
    for line in io::stdin().lines() {
        let line = line.unwrap();
        match line.split_once(' ') {
            Some(("leave", left)) => {
                while let Ok(file) = File::open("/dev/null") {
                    hoard.push(file);
                }
                hoard.truncate(hoard.len() - left.parse::<usize>().unwrap());
            }
            _ => hoard.clear(),
        }
        println!("done {line}");
    }
}

#[test]
fn idle_listener_uses_less_than_a_megabyte() {
    let served = Served::start();
    served.answers();
    let idle_kb = served.status("RssAnon") - served.before_kb;
    assert!(idle_kb < 1024, "{idle_kb} kB");
}

#[test]
fn invalid_content_lengths_are_rejected() {
    let served = Served::start();
    for (headers, status) in [
        ("Content-Length: 30000000000000", "413 "),
        ("Content-Length: 18446744073709551615", "413 "),
        ("Content-Length: 18446744073709551616", "413 "),
        ("Content-Length: 65537", "413 "),
        ("Content-Length: +5", "400 "),
        ("Content-Length: abc", "400 "),
        ("Content-Length: -1", "400 "),
        ("Content-Length: 5\r\nContent-Length: 5", "400 "),
        ("Content-Length: 5\r\nContent-Length: 50", "400 "),
        ("Transfer-Encoding: chunked", "200 "),
        ("Transfer-Encoding: identity", "501 "),
        ("Transfer-Encoding: identity\r\nContent-Length: 5", "400 "),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", "400 "),
        ("Content-Length: 5", "200 "),
    ] {
        for path in ["/", "/echo"] {
            let request = format!(
                "POST {path} HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\n0\r\n\r\n\
                 GET /smuggled HTTP/1.0\r\n\r\n"
            );
            let reply = ask(served.addr, request.as_bytes()).unwrap();
            assert!(reply.starts_with(&format!("HTTP/1.1 {status}")), "{headers}: {reply}");
            assert_eq!(reply.matches("HTTP/1.1").count(), 1, "{headers}: {reply}");
        }
    }
    let largest = "x".repeat(http::BODY_BYTES_MAX);
    let request =
        format!("PUT /echo HTTP/1.0\r\nContent-Length: {}\r\n\r\n{largest}", largest.len());
    assert!(ask(served.addr, request.as_bytes()).unwrap().ends_with(&largest));
    served.is_well();
}

#[test]
fn half_sent_bodies_do_not_delay_other_requests() {
    let served = Served::start();
    let start = Instant::now();
    served.answers_during(|| {
        let halves: Vec<TcpStream> = (0..400)
            .map(|_| {
                let mut connection = connect(served.addr);
                connection
                    .write_all(b"POST /echo HTTP/1.0\r\nContent-Length: 60000\r\n\r\n")
                    .unwrap();
                connection.write_all(&[b'x'; 30_000]).unwrap();
                connection
            })
            .collect();
        // All of them use more memory than allowed, so some are closed before their time.
        let late = |half| read_all(half).is_ok_and(|reply| reply.starts_with("HTTP/1.1 408 "));
        let late = halves.into_iter().map(late).filter(|it| *it).count();
        assert!((80..400).contains(&late), "{late}");
    });
    assert!(start.elapsed() < http::REQUEST_TIME + 2 * SOON, "{:?}", start.elapsed());
    served.is_well();
}

#[test]
fn endless_head_is_rejected() {
    let served = Served::start();
    let sent = served.answers_during(|| {
        let mut connection = connect(served.addr);
        connection.write_all(b"GET / HTTP/1.1\r\n").unwrap();
        let header = format!("X: {}\r\n", "x".repeat(1000)).repeat(1000);
        let mut sent = 0;
        while sent < 100 << 20 {
            match connection.write(header.as_bytes()) {
                Ok(n) => sent += n,
                Err(_) => break,
            }
        }
        sent
    });
    assert!(sent < 32 << 20, "the listener took {sent} bytes");
    let head = format!("GET / HTTP/1.0\r\nX: {}", "x".repeat(http::HEAD_BYTES_MAX));
    assert!(ask(served.addr, head.as_bytes()).unwrap().starts_with("HTTP/1.1 431 "));
    served.is_well();
}

#[test]
fn only_first_pipelined_request_is_answered() {
    let served = Served::start();
    served.answers_during(|| {
        let connection = connect(served.addr);
        let mut sending = connection.try_clone().unwrap();
        // The write may fail, since the listener does not read all requests.
        let pipeline = thread::spawn(move || {
            let _ = sending.write_all(&b"GET / HTTP/1.0\r\n\r\n".repeat(200_000));
        });
        let reply = BufReader::new(&connection).lines().map_while(Result::ok);
        assert_eq!(reply.filter(|line| line.contains("HTTP/1.1 200 OK")).count(), 1);
        pipeline.join().unwrap();
    });
    served.is_well();
}

#[test]
fn slow_request_is_rejected_at_its_deadline() {
    let served = Served::start();
    let start = Instant::now();
    served.answers_during(|| {
        let mut connection = connect(served.addr);
        // The pauses are short, so that a timeout per read would not end the request.
        while connection.write_all(b"G").is_ok() && start.elapsed() < 4 * http::REQUEST_TIME {
            thread::sleep(Duration::from_millis(50));
        }
    });
    assert!(start.elapsed() >= http::REQUEST_TIME);
    assert!(start.elapsed() < http::REQUEST_TIME + 2 * SOON, "{:?}", start.elapsed());
    served.is_well();
}

#[test]
fn ten_thousand_idle_connections_block_no_requests() {
    let served = Served::start();
    let mut idle = Vec::new();
    for _ in 0..100 {
        // There are fewer connections if this process has too few file descriptors.
        idle.extend((0..100).map_while(|_| TcpStream::connect(served.addr).ok()));
        // The next request gets a response or 429 immediately. This also shows that the listener
        // has accepted the connections before it.
        match ask(served.addr, HELLO) {
            Ok(reply) => assert!(reply.ends_with("hello\n") || reply.contains(" 429 "), "{reply}"),
            // The request was rejected before it was read, and the reset overtook the 429.
            Err(err) => assert_eq!(err.kind(), io::ErrorKind::ConnectionReset),
        }
    }
    assert!(idle.len() > CONNECTIONS, "{}", idle.len());
    assert!(served.status("Threads") < 8);
    // The listener closes all connections, although no client closes its side.
    let descriptors = format!("/proc/{}/fd", served.process.id());
    wait_until(http::REQUEST_TIME + 2 * SOON, || fs::read_dir(&descriptors).unwrap().count() < 30);
    served.is_well();
    drop(idle);
}

#[test]
fn idle_connection_gives_its_place_to_a_request() {
    let served = Served::start();
    let places = CONNECTIONS - CONNECTIONS / 4;
    let idle: Vec<TcpStream> = (0..places).map(|_| connect(served.addr)).collect();
    let start = Instant::now();
    wait_until(2 * SOON, || ask(served.addr, HELLO).is_ok_and(|reply| reply.ends_with("hello\n")));
    assert!(
        start.elapsed() < http::REQUEST_TIME,
        "the place was free before: {:?}",
        start.elapsed()
    );
    drop(idle);
}

/// A connection from another address of this machine.
fn connect_from(source: Ipv4Addr, addr: SocketAddr) -> TcpStream {
    use rustix::net::{AddressFamily, SocketType};
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddr::from((source, 0))).unwrap();
    rustix::net::connect(&socket, &addr).unwrap();
    socket.into()
}

#[test]
fn crowd_gives_a_place_to_a_newcomer() {
    let limits = Limits { connections: 8, ..Limits::default() };
    let addr = http::serve(LOCALHOST, limits, hello).unwrap().addr;
    let crowd: Vec<TcpStream> =
        (0..24_u8).map(|n| connect_from(Ipv4Addr::new(127, 0, 0, 2 + n % 4), addr)).collect();
    // None of them is idle for a second yet.
    assert!(ask(addr, HELLO).unwrap().ends_with("hello\n"));
    drop(crowd);
}

#[test]
fn client_with_few_connections_gets_another_place() {
    let limits = Limits { connections: 8, ..Limits::default() };
    let addr = http::serve(LOCALHOST, limits, hello).unwrap().addr;
    let connect_n = |n: u8| connect_from(Ipv4Addr::new(127, 0, 0, 2 + n % 2), addr);
    let crowd: Vec<TcpStream> = (0..8).map(connect_n).collect();
    let first = connect(addr);
    // The search for a place for one of the crowd fails.
    assert!(read_all(connect_n(0)).unwrap().contains(" 503 "));
    assert!(ask(addr, HELLO).unwrap().ends_with("hello\n"));
    drop((crowd, first));
}

#[test]
fn answered_crowd_gives_a_place_to_a_newcomer() {
    let limits = Limits { connections: 8, ..Limits::default() };
    let addr = http::serve(LOCALHOST, limits, hello).unwrap().addr;
    let crowd: Vec<TcpStream> =
        (0..8_u8).map(|n| connect_from(Ipv4Addr::new(127, 0, 0, 2 + n % 4), addr)).collect();
    for connection in &crowd {
        (&*connection).write_all(HELLO).unwrap();
        // The client has the whole response, but does not close its side.
        assert!(io::read_to_string(connection).unwrap().ends_with("hello\n"));
    }
    assert!(ask(addr, HELLO).unwrap().ends_with("hello\n"));
    drop(crowd);
}

#[test]
fn slow_readers_do_not_delay_other_requests() {
    let served = Served::start();
    let slow = served.answers_during(|| {
        let ask = |_| {
            let mut connection = connect(served.addr);
            connection.write_all(b"GET /large HTTP/1.0\r\n\r\n").unwrap();
            connection
        };
        let slow: Vec<TcpStream> = (0..100).map(ask).collect();
        for mut connection in &slow {
            // A connection is closed early if all responses use too much memory.
            let _ = connection.read(&mut [0; 1]);
        }
        slow
    });
    served.is_well();
    drop(slow);
}

#[test]
fn listener_with_64_descriptors_stays_open() {
    let served = Served::with_descriptors("64");
    let idle: Vec<TcpStream> = (0..500).map(|_| connect(served.addr)).collect();
    let refused = |connection| {
        read_all(connection).is_ok_and(|it| [" 503 ", " 429 "].iter().any(|no| it.contains(no)))
    };
    let refused = idle.into_iter().map(refused).filter(|it| *it).count();
    assert!(refused > 400, "{refused}");
    served.is_well();
}

#[test]
fn process_without_descriptors_recovers() {
    let mut served = Served::with_descriptors("64");
    for left in 0..4 {
        served.tell(&format!("leave {left}"));
        let waiting = connect(served.addr);
        let asked = (&waiting).write_all(HELLO);
        served.tell("release");
        asked.unwrap();
        let reply = read_all(waiting).unwrap();
        assert!(reply.ends_with("hello\n") || reply.contains(" 503 "), "{left} left: {reply}");
        served.answers();
    }
    served.is_well();
}

/// Parts of requests, valid and invalid.
fn parts() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(b"GET / HTTP/1.1\r\n".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"Expect: 100-continue\r\n".to_vec()),
        Just(b"Connection: upgrade\r\nUpgrade: websocket\r\n".to_vec()),
        Just(b"TE: chunked;q=x, identity\r\n".to_vec()),
        (0..3000_usize).prop_map(|len| format!("Content-Length: {len}\r\n\r\n").into_bytes()),
        (0..3000_usize).prop_map(|len| vec![b'x'; len]),
        "[!-~]{1,9}:[ -~]{0,20}\r\n".prop_map(String::into_bytes),
        "[A-Z]{1,9} [!-~]{1,20} HTTP/1.[01]\r\n".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..40),
    ]
}

#[test]
fn arbitrary_requests_leave_the_listener_well() {
    let served = Served::start();
    let mut runner = TestRunner::new(ProptestConfig::with_cases(500));
    let requests = prop::collection::vec(parts(), 0..8).prop_map(|parts| parts.concat());
    let result = runner.run(&requests, |request| {
        let mut connection = connect(served.addr);
        // The listener may already have closed the connection. After the shutdown it closes it.
        let _ = connection.write_all(&request).and_then(|()| connection.shutdown(Shutdown::Write));
        let mut reply = Vec::new();
        match connection.read_to_end(&mut reply) {
            Err(err) => prop_assert_eq!(err.kind(), io::ErrorKind::ConnectionReset),
            Ok(_) => prop_assert!(!reply.starts_with(b"HTTP/1.1 500")),
        }
        Ok(())
    });
    result.unwrap();
    served.is_well();
}

#[test]
fn proxy_names_the_address_of_the_client() {
    let proxies = vec![Ipv4Addr::LOCALHOST.into()];
    let addr = http::serve(LOCALHOST, Limits { proxies, ..limits() }, hello).unwrap().addr;
    let direct = http::serve(LOCALHOST, limits(), hello).unwrap().addr;
    let headers = "Host: a\r\nX-Forwarded-For: 192.0.2.1, 192.0.2.2\r\nX-Forwarded-For: 192.0.2.3";
    let request = format!("GET /address HTTP/1.1\r\n{headers}\r\n\r\n");
    assert!(ask(addr, request.as_bytes()).unwrap().ends_with("\r\n\r\n192.0.2.3\n"));
    assert!(ask(direct, request.as_bytes()).unwrap().ends_with("\r\n\r\n127.0.0.1\n"));
}

#[test]
fn unspecified_address_serves_both_families() {
    let addr = http::serve("[::]:0".parse().unwrap(), limits(), hello).unwrap().addr;
    for ip in ["127.0.0.1", "::1"] {
        let addr = SocketAddr::new(ip.parse().unwrap(), addr.port());
        // A machine without IPv6 has no ::1.
        if ip == "127.0.0.1" || TcpStream::connect(addr).is_ok() {
            assert!(ask(addr, HELLO).unwrap().ends_with("hello\n"), "{ip}");
        }
    }
}

/// A stream of numbers, or an echo.
struct Stream {
    out: Outbox,
    is_echo: bool,
    is_closed: Arc<AtomicBool>,
}

impl Session for Stream {
    fn received(&self, bytes: &[u8]) {
        if self.is_echo {
            self.out.send(bytes.to_vec()).unwrap();
        }
    }

    fn tick(&self, _now: Instant) {
        let context = Context::from_waker(Waker::noop());
        while !self.is_echo && self.out.poll_room(&context) == Poll::Ready(Ok(())) {
            self.out.send(b"data: number\n\n".to_vec()).unwrap();
        }
    }

    fn closed(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
    }
}

/// Streams its responses. On a websocket it sends the target and echoes bytes.
struct Streamer(Arc<AtomicBool>);

impl Streamer {
    fn take_over(&self, responder: Responder, head: &str, is_echo: bool) {
        let stream = Stream { out: responder.outbox(), is_echo, is_closed: self.0.clone() };
        responder.take_over(head.as_bytes().to_vec(), Arc::new(stream)).unwrap();
    }
}

impl Handler for Streamer {
    fn answer(&self, _: Request, responder: Responder) {
        self.take_over(responder, "HTTP/1.1 200 OK\r\n\r\n", false);
    }

    fn websocket(&self, handshake: Request, responder: Responder) {
        self.take_over(responder, &handshake.target, true);
    }
}

#[test]
fn session_streams_until_disconnect() {
    let is_closed = Arc::new(AtomicBool::new(false));
    let addr = http::serve(LOCALHOST, limits(), Streamer(is_closed.clone())).unwrap().addr;
    let mut connection = connect(addr);
    connection.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut lines = BufReader::new(connection).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "HTTP/1.1 200 OK");
    assert_eq!(lines.filter(|line| line == "data: number").take(10_000).count(), 10_000);
    wait_until(SOON, || is_closed.load(Ordering::Relaxed));
}

#[test]
fn websocket_is_rejected_without_a_handler() {
    let handshake =
        b"GET /talk HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let rejecting = http::serve(LOCALHOST, limits(), hello).unwrap().addr;
    assert!(ask(rejecting, handshake).unwrap().starts_with("HTTP/1.1 501 "));

    let is_closed = Arc::new(AtomicBool::new(false));
    let streaming = http::serve(LOCALHOST, limits(), Streamer(is_closed.clone())).unwrap().addr;
    let mut connection = connect(streaming);
    connection.write_all(handshake).unwrap();
    let mut received = [0; 5];
    connection.read_exact(&mut received).unwrap();
    assert_eq!(&received, b"/talk");
    connection.write_all(b" back").unwrap();
    connection.read_exact(&mut received).unwrap();
    assert_eq!(&received, b" back");
    assert!(!is_closed.load(Ordering::Relaxed));
    connection.shutdown(Shutdown::Write).unwrap();
    assert_eq!(connection.read(&mut received).unwrap(), 0);
    assert!(is_closed.load(Ordering::Relaxed));
}
