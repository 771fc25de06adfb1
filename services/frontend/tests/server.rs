//! Tests of the frontend's binary. They need no other server.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use free_port::free_port;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Timeout of every wait.
const PATIENCE: Duration = Duration::from_secs(30);
const PAGES: [&str; 4] = ["/", "/bank-employee", "/client", "/background"];

/// A frontend process on free ports, killed when dropped.
struct Frontend {
    process: Child,
    port: u16,
    health: u16,
}

struct Reply {
    status: u16,
    /// Names in lower case.
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Reply {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    fn text(&self) -> &str {
        str::from_utf8(&self.body).unwrap()
    }
}

impl Frontend {
    fn start(variables: &[(&str, &str)]) -> Self {
        let (port, health) = (free_port(), free_port());
        let process = Command::new(env!("CARGO_BIN_EXE_frontend"))
            .env_clear()
            .env("FRONTEND_PORT", port.to_string())
            .env("HEALTH_PORT", health.to_string())
            .env("LOG", "warn")
            .envs(variables.iter().copied())
            .spawn()
            .unwrap();
        let frontend = Self { process, port, health };
        let deadline = Instant::now() + PATIENCE;
        while !frontend.is_ready() {
            assert!(Instant::now() < deadline, "not ready after {PATIENCE:?}");
            thread::sleep(Duration::from_millis(10));
        }
        frontend
    }

    /// Runs the health check of the image.
    fn is_ready(&self) -> bool {
        let mut check = Command::new(env!("CARGO_BIN_EXE_frontend"));
        check.arg("healthcheck").env("HEALTH_PORT", self.health.to_string()).stderr(Stdio::null());
        check.status().unwrap().success()
    }

    fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, "Host: localhost\r\n")
    }

    fn ask(&self, method: &str, path: &str, headers: &str) -> Reply {
        let host = if headers.contains("Host: ") { "" } else { "Host: localhost\r\n" };
        ask(self.port, &format!("{method} {path} HTTP/1.1\r\n{host}{headers}\r\n"))
    }

    /// Stops the process by SIGTERM. Returns its exit status and the time until its exit.
    fn terminate(mut self) -> (ExitStatus, Duration) {
        let started = Instant::now();
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        (self.process.wait().unwrap(), started.elapsed())
    }
}

impl Drop for Frontend {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn ask(port: u16, request: &str) -> Reply {
    let mut service = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    service.set_read_timeout(Some(PATIENCE)).unwrap();
    service.write_all(request.as_bytes()).unwrap();
    let mut reply = Vec::new();
    service.read_to_end(&mut reply).unwrap();
    let end = reply.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    let body = reply.split_off(end + 4);
    let head = String::from_utf8(reply).unwrap();
    let mut lines = head.trim_end().lines();
    let status = lines.next().unwrap()["HTTP/1.1 ".len()..][..3].parse().unwrap();
    let headers = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    Reply { status, headers, body }
}

/// Paths of the files that the page refers to.
fn assets(html: &str) -> Vec<String> {
    let paths = html.split('"').filter(|part| part.starts_with("/assets/"));
    paths.map(str::to_owned).collect()
}

#[test]
fn pages_are_one_file_with_strict_policy() {
    let frontend = Frontend::start(&[]);
    let home = frontend.get("/");
    for path in PAGES {
        let page = frontend.get(&format!("{path}?from=test"));
        assert_eq!((page.status, page.text()), (200, home.text()), "{path}");
        assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
        assert_eq!(page.header("content-length"), page.body.len().to_string());
        assert_eq!(page.header("cache-control"), "no-cache");
        assert_eq!(page.header("x-content-type-options"), "nosniff");
        let policy = page.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"));
        let endpoint = "connect-src 'self' ws://localhost:8888 http://localhost:8888";
        assert!(policy.ends_with(endpoint), "{policy}");
        assert!(!policy.contains("unsafe"));
    }
    let head = frontend.ask("HEAD", "/", "");
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), home.header("content-length"));
}

#[test]
fn assets_are_immutable_and_pages_revalidated() {
    let frontend = Frontend::start(&[]);
    let assets = assets(frontend.get("/").text());
    assert_eq!(assets.len(), 3);
    for path in &assets {
        let asset = frontend.get(path);
        assert_eq!(asset.status, 200, "{path}");
        let expected = match path.rsplit_once('.').unwrap().1 {
            "css" => "text/css; charset=utf-8",
            "js" => "text/javascript; charset=utf-8",
            "svg" => "image/svg+xml",
            other => panic!("{other}"),
        };
        assert_eq!(asset.header("content-type"), expected);
        assert_eq!(asset.header("content-encoding"), "gzip");
        assert_eq!(&asset.body[..2], [0x1f, 0x8b], "it is what it says");
        assert_eq!(asset.header("content-length"), asset.body.len().to_string());
        assert_eq!(asset.header("cache-control"), "public, max-age=31536000, immutable");
    }
    for path in assets.iter().map(String::as_str).chain(["/", "/client"]) {
        let etag = frontend.get(path).header("etag").to_owned();
        for tags in [etag.clone(), format!("W/{etag}"), format!("\"other\", {etag}")] {
            let again = frontend.ask("GET", path, &format!("If-None-Match: {tags}\r\n"));
            assert_eq!((again.status, again.body.len()), (304, 0), "{path} {tags}");
            assert_eq!(again.header("etag"), etag);
        }
        let changed = frontend.ask("GET", path, "If-None-Match: \"other\"\r\n");
        assert_eq!(changed.status, 200);
    }
}

#[test]
fn page_may_connect_to_the_endpoint_only() {
    for (url, host, reached) in [
        (":8888/graphql", "localhost:8181", " ws://localhost:8888"),
        (":9999/graphql", "10.0.0.7", " ws://10.0.0.7:9999"),
        (":8888/graphql", "[::1]:8181", " ws://*:8888"),
        (":8888/graphql", "a;script-src *", " ws://*:8888"),
        (":8888/graphql", "", " ws://*:8888"),
        ("https://bank.example/graphql", "localhost", " wss://bank.example"),
        ("http://bank.example:8888/graphql", "localhost", " ws://bank.example:8888"),
        ("/graphql", "localhost", ""),
    ] {
        let frontend = Frontend::start(&[("GRAPHQL_URL", url)]);
        let page = frontend.ask("GET", "/", &format!("Host: {host}\r\n"));
        let meta = format!("<meta name=\"graphql-url\" content=\"{url}\">");
        assert!(page.text().contains(&meta), "{}", page.text());
        let policy = page.header("content-security-policy");
        let (_, connect) = policy.split_once("connect-src 'self'").unwrap();
        // The page opens websockets and sends requests.
        let both = format!("{reached}{}", reached.replace("ws", "http"));
        assert_eq!(connect, both, "{url} at {host:?}");
    }
}

/// Folders with results, and a folder next to them that must not be served. Deleted when dropped.
struct Folders(PathBuf);

impl Folders {
    fn new(test: &str) -> Self {
        let root = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(test);
        let _ = fs::remove_dir_all(&root);
        for dir in ["one/sub.svg", "two", "secret"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        for (name, text) in [
            ("one/latency.svg", "<svg/>"),
            ("one/latency.csv", "load,ms\n1,2\n"),
            ("one/.hidden.csv", "no"),
            ("one/index.html", "no"),
            ("one/notes", "no"),
            ("one/sub.svg/inner.svg", "no"),
            ("two/latency.csv", "ignored: the first folder has this name"),
            ("two/footprint.json", "{}"),
            ("secret/token.csv", "no"),
        ] {
            fs::write(root.join(name), text).unwrap();
        }
        symlink(root.join("secret/token.csv"), root.join("one/link.csv")).unwrap();
        symlink("/etc", root.join("one/etc.svg")).unwrap();
        Self(root)
    }

    fn variable(&self) -> String {
        format!("{0}/one:{0}/nowhere:{0}/two", self.0.display())
    }
}

impl Drop for Folders {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn results_are_listed_and_follow_their_files() {
    let folders = Folders::new("results");
    let frontend = Frontend::start(&[("RESULTS_DIR", &folders.variable())]);
    let list = frontend.get("/results/");
    let expected = r#"[{"name":"footprint.json","bytes":2},{"name":"latency.csv","bytes":12},"#
        .to_owned()
        + r#"{"name":"latency.svg","bytes":6}]"#;
    assert_eq!((list.status, list.text()), (200, expected.as_str()));
    for (name, content_type, text) in [
        ("latency.svg", "image/svg+xml", "<svg/>"),
        ("latency.csv", "text/csv; charset=utf-8", "load,ms\n1,2\n"),
        ("footprint.json", "application/json", "{}"),
    ] {
        let result = frontend.get(&format!("/results/{name}"));
        assert_eq!((result.status, result.text()), (200, text));
        assert_eq!(result.header("content-type"), content_type);
        let policy = result.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none';") && policy.ends_with("sandbox"));
    }

    let etag = frontend.get("/results/latency.csv").header("etag").to_owned();
    let known = format!("If-None-Match: {etag}\r\n");
    assert_eq!(frontend.ask("GET", "/results/latency.csv", &known).status, 304);
    let large = "1,2\n".repeat(1 << 20);
    fs::write(folders.0.join("one/latency.csv"), &large).unwrap();
    let changed = frontend.ask("GET", "/results/latency.csv", &known);
    assert_eq!((changed.status, changed.text() == large), (200, true));
}

#[test]
fn other_files_are_not_served() {
    let folders = Folders::new("traversal");
    let frontend = Frontend::start(&[("RESULTS_DIR", &folders.variable())]);
    for name in [
        "../secret/token.csv",
        "..%2fsecret%2ftoken.csv",
        "%2e%2e/secret/token.csv",
        "..\\secret\\token.csv",
        "....//secret/token.csv",
        "./latency.csv",
        "/etc/passwd",
        "//etc/passwd",
        "../../../../../../etc/passwd",
        "link.csv",
        "etc.svg",
        "etc.svg/passwd",
        "sub.svg",
        "sub.svg/inner.svg",
        ".hidden.csv",
        "index.html",
        "notes",
        "latency.csv/",
        "latency.csv%00.svg",
        "latency",
        ".",
        "..",
        "one",
        "%6catency.csv",
        "LATENCY.CSV",
        &"a".repeat(5000),
    ] {
        let reply = frontend.get(&format!("/results/{name}"));
        assert_eq!(reply.status, 404, "{name}");
        assert!(!reply.text().contains("no\n") && reply.text().len() < 200, "{name}");
    }
    for path in [
        "/results",
        "/client/",
        "/assets/",
        "/assets/app.js",
        "/index.html",
        "//",
        "/../Cargo.toml",
        "/x",
    ] {
        assert_eq!(frontend.get(path).status, 404, "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let refused = frontend.ask(method, "/", "");
        assert_eq!((refused.status, refused.header("allow")), (405, "GET, HEAD"));
    }
}

#[test]
fn stalled_clients_do_not_delay_others() {
    let folders = Folders::new("slow");
    fs::write(folders.0.join("one/large.csv"), vec![b'1'; 16 << 20]).unwrap();
    let frontend = Frontend::start(&[("RESULTS_DIR", &folders.variable())]);
    let slow: Vec<TcpStream> = (0..40)
        .map(|_| {
            let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, frontend.port)).unwrap();
            client.write_all(b"GET /results/large.csv HTTP/1.0\r\n\r\n").unwrap();
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut start = [0; "HTTP/1.1 200".len()];
            client.read_exact(&mut start).unwrap();
            assert_eq!(&start, b"HTTP/1.1 200");
            client
        })
        .collect();
    assert_eq!(frontend.get("/results/large.csv").body.len(), 16 << 20);
    assert_eq!(frontend.get("/").status, 200);
    assert_eq!(frontend.get("/results/").status, 200);
    drop(slow);
}

#[test]
fn responses_are_counted() {
    let frontend = Frontend::start(&[]);
    let etag = frontend.get("/client").header("etag").to_owned();
    frontend.ask("GET", "/", &format!("If-None-Match: {etag}\r\n"));
    frontend.get("/nothing");
    let metrics = ask(frontend.health, "GET /metrics HTTP/1.0\r\n\r\n");
    for (got, count) in [("page", 1), ("asset", 0), ("result", 0), ("unchanged", 1), ("refusal", 1)]
    {
        let line = format!("\nfrontend_requests_total{{got=\"{got}\"}} {count}\n");
        assert!(metrics.text().contains(&line), "{line} in {}", metrics.text());
    }
    let (exit, took) = frontend.terminate();
    assert_eq!(exit.code(), Some(0));
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn invalid_environment_is_one_line() {
    let run = |variables: &[(&str, &str)], args: &[&str]| -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_frontend"));
        command.env_clear().envs(variables.iter().copied()).args(args).output().unwrap()
    };
    for (name, value) in [
        ("FRONTEND_PORT", "0"),
        ("FRONTEND_PORT", "http"),
        ("GRAPHQL_URL", "localhost:8888"),
        ("GRAPHQL_URL", "http://a/\"><script>"),
    ] {
        let refused = run(&[(name, value)], &[]);
        let error = String::from_utf8(refused.stderr).unwrap();
        assert_eq!((refused.status.code(), error.lines().count()), (Some(2), 1), "{error}");
        assert!(error.starts_with(&format!("frontend: {name}=")), "{error}");
    }
    let help = String::from_utf8(run(&[], &["--help"]).stdout).unwrap();
    for name in ["FRONTEND_PORT", "GRAPHQL_URL", "RESULTS_DIR", "HEALTH_PORT", "LOG"] {
        assert!(help.contains(name), "{help}");
    }
}
