//! Attacks on the HTTP listener. Each test attacks its own server process, so that memory, threads
//! and file descriptors can be measured.

// These lints skip test functions, but not their helpers.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use service::EXIT_TEMPORARY;
use service::http::{self, Capacity, Handler, Handshake};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Lines, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::panic::{self, AssertUnwindSafe};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tiny_http::{Request, Response};

/// Set in the server process of a test.
const SERVES: &str = "LISTENER_TEST_SERVES";
const LOCALHOST: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const CAPACITY: Capacity = Capacity { workers: 4, connections: 1000 };
/// Time limit for a response. It is generous, since other programs may load this machine.
const SOON: Duration = Duration::from_secs(2);
/// Maximum memory under attack, MiB. 1000 threads with half a body of 64 KiB each would need 80.
const RSS_MIB_MAX: u64 = 40;

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
        let reply = ask(self.addr, b"GET / HTTP/1.1\r\nHost: bank\r\n\r\n").unwrap();
        assert!(reply.starts_with("HTTP/1.1 200 OK\r\nConnection: close\r\n"), "{reply}");
        assert!(reply.ends_with("hello"), "{reply}");
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

fn hello(mut request: Request) {
    let reply = match request.url() {
        "/" => Response::from_string("hello"),
        "/unread" => http::text(200, "body not read"),
        _ => {
            let mut body = Vec::new();
            request.as_reader().read_to_end(&mut body).unwrap();
            http::reply(200, "text/plain", body)
        }
    };
    let _ = request.respond(reply);
}

#[test]
fn request_is_answered() {
    let before_kb = status_of("self", "RssAnon");
    let addr = http::serve(&[LOCALHOST], CAPACITY, hello).unwrap();
    if std::env::var(SERVES).is_ok() {
        println!("\nbefore {before_kb}");
        println!("serves {addr}");
        serve_until_closed();
        return;
    }
    let reply = ask(addr, b"PUT /echo HTTP/1.1\r\nContent-Length: 5\r\n\r\nworld").unwrap();
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
        ("Transfer-Encoding: chunked", "411 "),
        ("Transfer-Encoding: identity\r\nContent-Length: 5", "411 "),
        ("Content-Length: 5\r\nTransfer-Encoding: xchunked", "411 "),
        ("Content-Length: 5", "200 "),
    ] {
        for path in ["/", "/echo", "/unread"] {
            let request = format!(
                "POST {path} HTTP/1.1\r\n{headers}\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n"
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
                    .write_all(b"POST /echo HTTP/1.1\r\nContent-Length: 60000\r\n\r\n")
                    .unwrap();
                connection.write_all(&[b'x'; 30_000]).unwrap();
                connection
            })
            .collect();
        for half in halves {
            assert!(read_all(half).unwrap().starts_with("HTTP/1.1 408 "));
        }
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
    let head = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(http::HEAD_BYTES_MAX));
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
            let _ = sending.write_all(&b"GET / HTTP/1.1\r\n\r\n".repeat(200_000));
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
        // The next request gets a response or 503 immediately. This also shows that the listener
        // has accepted the connections before it.
        match ask(served.addr, b"GET / HTTP/1.1\r\n\r\n") {
            Ok(reply) => assert!(reply.ends_with("hello") || reply.contains(" 503 "), "{reply}"),
            // The request was rejected before it was read, and the reset overtook the 503.
            Err(err) => assert_eq!(err.kind(), io::ErrorKind::ConnectionReset),
        }
    }
    assert!(idle.len() > CAPACITY.connections, "{}", idle.len());
    let threads_max = (CAPACITY.connections + CAPACITY.workers) as u64 + 20;
    assert!(served.status("Threads") < threads_max);
    // The listener closes all connections, although no client closes its side.
    let descriptors = format!("/proc/{}/fd", served.process.id());
    wait_until(http::REQUEST_TIME + 2 * SOON, || fs::read_dir(&descriptors).unwrap().count() < 30);
    served.is_well();
    drop(idle);
}

#[test]
fn listener_with_64_descriptors_stays_open() {
    let served = Served::with_descriptors("64");
    let idle: Vec<TcpStream> = (0..500).map(|_| connect(served.addr)).collect();
    let mut refused = 0;
    for connection in idle {
        refused += u32::from(read_all(connection).unwrap().starts_with("HTTP/1.1 503 "));
    }
    assert!(refused > 400, "{refused}");
    served.is_well();
}

/// If the file descriptors run out between the listener's check and tiny_http's accept, the process
/// exits and is restarted. It must never stay alive without accepting connections.
#[test]
fn process_without_descriptors_recovers_or_exits() {
    let mut served = Served::with_descriptors("64");
    for left in 0..10 {
        served.tell(&format!("leave {left}"));
        for _ in 0..3 {
            let Ok(mut connection) = TcpStream::connect(served.addr) else { break };
            connection.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            let mut start = [0; "HTTP/1.1 200".len()];
            let asked = connection.write_all(b"GET / HTTP/1.1\r\n\r\n");
            match asked.and_then(|()| connection.read_exact(&mut start)) {
                Ok(()) => assert!([b"200", b"503"].contains(&&start[9..].try_into().unwrap())),
                // The connection waits in the kernel's backlog, or it was refused.
                Err(err) => assert!(
                    [
                        io::ErrorKind::WouldBlock,
                        io::ErrorKind::ConnectionReset,
                        io::ErrorKind::BrokenPipe,
                        io::ErrorKind::UnexpectedEof,
                    ]
                    .contains(&err.kind()),
                    "with {left} left: {err}"
                ),
            }
        }
        // This fails if the process has ended.
        let _ = writeln!(served.commands, "release");
        let mut ended = None;
        wait_until(SOON, || {
            ended = served.process.try_wait().unwrap();
            let hello = || {
                let mut connection = TcpStream::connect(served.addr)?;
                connection.set_read_timeout(Some(SOON))?;
                connection.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
                read_all(connection)
            };
            ended.is_some() || hello().is_ok_and(|reply| reply.ends_with("hello"))
        });
        match ended {
            None => served.wait_for_line("done"),
            Some(status) => {
                assert_eq!(status.code(), Some(EXIT_TEMPORARY.into()), "with {left} left");
                served = Served::with_descriptors("64");
                String::new()
            }
        };
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
fn tiny_http_survives_all_accepted_requests() {
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
            // Status 500 means that tiny_http closed the connection without a response.
            Ok(_) => prop_assert!(!reply.starts_with(b"HTTP/1.1 500")),
        }
        Ok(())
    });
    result.unwrap();
    served.is_well();
}

/// Streams its responses. On a websocket it sends the target and echoes bytes.
struct Streamer;

impl Handler for Streamer {
    fn answer(&self, request: Request) {
        let mut reply = request.into_writer();
        let mut write = |part: &str| reply.write_all(part.as_bytes()).and_then(|()| reply.flush());
        write("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n").unwrap();
        let mut count = 0;
        while write(&format!("data: {count}\n\n")).is_ok() && count < 1_000_000 {
            count += 1;
        }
    }

    fn websocket(&self, handshake: Handshake, mut client: TcpStream) {
        client.write_all(handshake.target.as_bytes()).unwrap();
        io::copy(&mut client.try_clone().unwrap(), &mut client).unwrap();
    }
}

#[test]
fn handler_streams_a_response_until_disconnect() {
    let over = Arc::new(AtomicBool::new(false));
    let ended = over.clone();
    let addr = http::serve(&[LOCALHOST], CAPACITY, move |request| {
        Streamer.answer(request);
        ended.store(true, Ordering::Relaxed);
    })
    .unwrap();
    let mut connection = connect(addr);
    connection.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut lines = BufReader::new(connection).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "HTTP/1.1 200 OK");
    assert_eq!(lines.next().unwrap(), "Connection: close");
    assert!(lines.any(|line| line == "data: 1000"));
    assert!(!over.load(Ordering::Relaxed));
    drop(lines);
    wait_until(SOON, || over.load(Ordering::Relaxed));
}

#[test]
fn websocket_is_rejected_without_a_handler() {
    let handshake = b"GET /talk HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let rejecting = http::serve(&[LOCALHOST], CAPACITY, hello).unwrap();
    assert!(ask(rejecting, handshake).unwrap().starts_with("HTTP/1.1 501 "));

    let streaming = http::serve(&[LOCALHOST], CAPACITY, Streamer).unwrap();
    let mut connection = connect(streaming);
    connection.write_all(handshake).unwrap();
    let mut received = [0; 5];
    connection.read_exact(&mut received).unwrap();
    assert_eq!(&received, b"/talk");
    connection.write_all(b" back").unwrap();
    connection.read_exact(&mut received).unwrap();
    assert_eq!(&received, b" back");
    connection.shutdown(Shutdown::Write).unwrap();
    assert_eq!(connection.read(&mut received).unwrap(), 0);
}
