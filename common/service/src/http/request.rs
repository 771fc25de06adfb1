//! Reads and checks one request. Sources: RFC 9110, RFC 9112.

use super::limits::{BODY_BYTES_MAX, HEAD_BYTES_MAX, HEADERS_MAX};
use super::response::{
    BAD_LENGTH, BODY_TOO_LARGE, CODING_UNSUPPORTED, EXPECTATION_FAILED, HEAD_TOO_LARGE,
    HOST_REQUIRED, MALFORMED, Refusal,
};
use http::Method;
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue,
    TRANSFER_ENCODING, UPGRADE,
};
use std::mem;
use std::net::IpAddr;

/// Maximum of bytes for the sizes and extensions of all chunks, and the trailer.
pub const CHUNK_HEADS_BYTES_MAX: usize = 16 << 10;

/// A whole request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub method: Method,
    /// Path and query, as in `/graphql?query=...`. Never contains a host.
    pub target: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    /// The address of the client.
    pub address: IpAddr,
    /// It asks for a websocket (RFC 6455, section 4). The values of `Sec-WebSocket-*` are not
    /// checked.
    pub is_websocket: bool,
}

impl Request {
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// The part after the first `?`.
    pub fn query(&self) -> &str {
        self.target.split_once('?').map_or("", |(_, query)| query)
    }

    /// The first value of a header. `None` also if it is not visible ASCII.
    pub fn header(&self, name: &'static str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The elements of a header whose value is a list, from all its lines.
    pub fn list(&self, name: &'static str) -> impl Iterator<Item = &str> {
        list(&self.headers, name)
    }

    /// The token in the header Authorization, as in `Bearer 01234567890123456789`.
    pub fn bearer(&self) -> Option<&str> {
        self.header("authorization").and_then(bearer)
    }

    /// The host of the request without its port; empty in HTTP/1.0 without a Host.
    pub fn host_name(&self) -> &str {
        let host = self.header("host").unwrap_or_default();
        // An IPv6 address has colons within its brackets.
        let port = host.rfind(':').filter(|at| !host[*at..].contains(']'));
        &host[..port.unwrap_or(host.len())]
    }

    /// True if the host is `localhost`, an IP address, or missing. A page of another site reaches
    /// this machine only under the name of its own site, even if that name leads to this machine
    /// (DNS rebinding).
    pub fn has_local_host(&self) -> bool {
        let name = self.host_name();
        let address = name.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(name);
        name.is_empty()
            || name.eq_ignore_ascii_case("localhost")
            || address.parse::<IpAddr>().is_ok()
    }
}

fn list<'a>(headers: &'a HeaderMap, name: &'static str) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|element| !element.is_empty())
}

/// The token in the value of an Authorization header (RFC 6750, section 2.1).
pub fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The result of [`RequestReader::add`].
#[derive(Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    Incomplete,
    /// The client waits for status 100 before it sends the body.
    Continue,
    Request {
        request: Request,
        /// True if further bytes followed the request. They are discarded.
        more: bool,
    },
    Refused(&'static Refusal),
}

/// Reads one request, in pieces of any size.
pub struct RequestReader {
    address: IpAddr,
    /// Bytes that are not decoded yet.
    bytes: Vec<u8>,
    head: Option<Head>,
    body: Vec<u8>,
}

impl RequestReader {
    pub fn new(address: IpAddr) -> Self {
        Self { address, bytes: Vec::new(), head: None, body: Vec::new() }
    }

    /// Bytes in memory.
    pub fn len(&self) -> usize {
        self.bytes.len() + self.body.len()
    }

    /// Adds bytes that the client sent. After any result except `Incomplete` and `Continue` the
    /// reader must be dropped.
    pub fn add(&mut self, bytes: &[u8]) -> ReadOutcome {
        let had_head = self.head.is_some();
        // The end of the head may be split across two reads.
        let from = self.bytes.len().saturating_sub(HEAD_END.len() - 1);
        self.bytes.extend_from_slice(bytes);
        if !had_head {
            match self.read_head(from) {
                Ok(true) => {}
                Ok(false) => return ReadOutcome::Incomplete,
                Err(refusal) => return ReadOutcome::Refused(refusal),
            }
        }
        let Some(head) = &mut self.head else { return ReadOutcome::Incomplete };
        match head.framing.decode(&mut self.bytes, &mut self.body) {
            Ok(true) => self.finish(),
            Ok(false) if !had_head && head.expects_continue && self.body.is_empty() => {
                ReadOutcome::Continue
            }
            Ok(false) => ReadOutcome::Incomplete,
            Err(refusal) => ReadOutcome::Refused(refusal),
        }
    }

    /// Parses the head if it is complete. `from` is where its end may be.
    fn read_head(&mut self, from: usize) -> Result<bool, &'static Refusal> {
        let end = self.bytes[from..].windows(HEAD_END.len()).position(|end| end == HEAD_END);
        match end.map(|at| from + at + HEAD_END.len()) {
            Some(len) if len <= HEAD_BYTES_MAX => {
                self.head = Some(parse(&self.bytes[..len])?);
                self.bytes.drain(..len);
                Ok(true)
            }
            None if self.bytes.len() < HEAD_BYTES_MAX => Ok(false),
            _ => Err(&HEAD_TOO_LARGE),
        }
    }

    fn finish(&mut self) -> ReadOutcome {
        let Some(head) = self.head.take() else { return ReadOutcome::Incomplete };
        let more = !self.bytes.is_empty();
        let Head { method, target, headers, is_websocket, .. } = head;
        // Bytes after a handshake are not frames: a client waits for the response first.
        if is_websocket && (more || !self.body.is_empty()) {
            return ReadOutcome::Refused(&MALFORMED);
        }
        let (body, address) = (mem::take(&mut self.body), self.address);
        let request = Request { method, target, headers, body, address, is_websocket };
        ReadOutcome::Request { request, more }
    }
}

const HEAD_END: &[u8] = b"\r\n\r\n";

/// An accepted head.
struct Head {
    method: Method,
    target: String,
    headers: HeaderMap,
    framing: Framing,
    expects_continue: bool,
    is_websocket: bool,
}

/// How the length of the body is known.
enum Framing {
    Length(usize),
    Chunked {
        /// Rest of the current chunk, with its line end.
        left: usize,
        /// The last chunk has ended; the trailer follows.
        in_trailer: bool,
        /// Bytes for sizes, extensions and trailer so far.
        overhead: usize,
    },
}

impl Framing {
    /// Moves decoded bytes from `bytes` to `body`. True if the body is complete.
    fn decode(
        &mut self,
        bytes: &mut Vec<u8>,
        body: &mut Vec<u8>,
    ) -> Result<bool, &'static Refusal> {
        match self {
            Self::Length(len) => {
                let part = bytes.len().min(*len - body.len());
                body.extend(bytes.drain(..part));
                Ok(body.len() == *len)
            }
            Self::Chunked { left, in_trailer, overhead } => {
                decode_chunks(left, in_trailer, overhead, bytes, body)
            }
        }
    }
}

/// See [`Framing::decode`]. Source: RFC 9112, section 7.1.
fn decode_chunks(
    left: &mut usize,
    in_trailer: &mut bool,
    overhead: &mut usize,
    bytes: &mut Vec<u8>,
    body: &mut Vec<u8>,
) -> Result<bool, &'static Refusal> {
    const LINE_END: &[u8] = b"\r\n";
    loop {
        if *left > LINE_END.len() {
            let part = bytes.len().min(*left - LINE_END.len());
            body.extend(bytes.drain(..part));
            *left -= part;
        }
        if (1..=LINE_END.len()).contains(left) {
            if bytes.len() < LINE_END.len() {
                return Ok(false);
            }
            if !bytes.starts_with(LINE_END) {
                return Err(&MALFORMED);
            }
            bytes.drain(..LINE_END.len());
            *left = 0;
        }
        if *left > 0 {
            return Ok(false);
        }
        let Some(line) = bytes.windows(LINE_END.len()).position(|it| it == LINE_END) else {
            let unread = *overhead + bytes.len();
            return if unread > CHUNK_HEADS_BYTES_MAX { Err(&BODY_TOO_LARGE) } else { Ok(false) };
        };
        *overhead += line + LINE_END.len();
        if *overhead > CHUNK_HEADS_BYTES_MAX {
            return Err(&BODY_TOO_LARGE);
        }
        let is_empty = line == 0;
        let size = if *in_trailer { 0 } else { chunk_size(&bytes[..line])? };
        bytes.drain(..line + LINE_END.len());
        if *in_trailer {
            if is_empty {
                return Ok(true);
            }
        } else if size == 0 {
            *in_trailer = true;
        } else if body.len() + size > BODY_BYTES_MAX {
            return Err(&BODY_TOO_LARGE);
        } else {
            *left = size + LINE_END.len();
        }
    }
}

/// Parses the size of a chunk. `line` may have extensions, which are ignored.
fn chunk_size(line: &[u8]) -> Result<usize, &'static Refusal> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii_end();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_hexdigit) || line.contains(&b'\n') {
        return Err(&MALFORMED);
    }
    let text = str::from_utf8(digits).map_err(|_| &MALFORMED)?;
    // All characters are digits, so a parse error means overflow.
    usize::from_str_radix(text, 16).ok().filter(|it| *it <= BODY_BYTES_MAX).ok_or(&BODY_TOO_LARGE)
}

/// Parses a head, from the request line to the empty line.
fn parse(bytes: &[u8]) -> Result<Head, &'static Refusal> {
    let mut parsed = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut parsed);
    match request.parse(bytes) {
        // A parser between the client and this service may end lines differently, and then see
        // another request (request smuggling).
        Ok(httparse::Status::Complete(len)) if len == bytes.len() && !has_bare_lf(bytes) => {}
        Err(httparse::Error::TooManyHeaders) => return Err(&HEAD_TOO_LARGE),
        _ => return Err(&MALFORMED),
    }
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
    else {
        return Err(&MALFORMED);
    };
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| &MALFORMED)?;
    let mut headers = HeaderMap::with_capacity(request.headers.len());
    for header in request.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| &MALFORMED)?;
        let value = HeaderValue::from_bytes(header.value).map_err(|_| &MALFORMED)?;
        headers.append(name, value);
    }
    let target = origin_form(target, &mut headers)?;
    let hosts = headers.get_all(HOST).iter().count();
    if hosts > 1 || (hosts == 0 && minor > 0) {
        return Err(&HOST_REQUIRED);
    }
    let framing = framing(&headers, minor)?;
    let expects_continue = match headers.get(EXPECT) {
        Some(value) if value.as_bytes().eq_ignore_ascii_case(b"100-continue") => minor > 0,
        Some(_) => return Err(&EXPECTATION_FAILED),
        None => false,
    };
    let has =
        |name: HeaderName, token: &str| {
            headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).any(|line| {
                line.split(',').any(|element| element.trim().eq_ignore_ascii_case(token))
            })
        };
    let is_websocket = minor > 0
        && method == Method::GET
        && has(UPGRADE, "websocket")
        && has(CONNECTION, "upgrade");
    Ok(Head { method, target, headers, framing, expects_continue, is_websocket })
}

fn has_bare_lf(head: &[u8]) -> bool {
    head.iter().enumerate().any(|(at, byte)| *byte == b'\n' && (at == 0 || head[at - 1] != b'\r'))
}

/// Path and query of a request target. The host of an absolute URL replaces the header Host (RFC
/// 9112, section 3.2.2).
fn origin_form(target: &str, headers: &mut HeaderMap) -> Result<String, &'static Refusal> {
    if target.starts_with('/') || target == "*" {
        return Ok(target.to_owned());
    }
    let (scheme, rest) = target.split_once("://").ok_or(&MALFORMED)?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(&MALFORMED);
    }
    let (host, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    headers.insert(HOST, HeaderValue::from_str(host).map_err(|_| &MALFORMED)?);
    Ok(if path.starts_with('/') { path.to_owned() } else { format!("/{path}") })
}

/// How the body ends. Source: RFC 9112, section 6.
fn framing(headers: &HeaderMap, minor: u8) -> Result<Framing, &'static Refusal> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (lengths.next(), codings.next()) {
        (None, None) => Ok(Framing::Length(0)),
        (Some(length), None) if lengths.next().is_none() => {
            body_len(length.as_bytes()).map(Framing::Length)
        }
        (None, Some(coding)) if minor > 0 && codings.next().is_none() => {
            if coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
                Ok(Framing::Chunked { left: 0, in_trailer: false, overhead: 0 })
            } else {
                Err(&CODING_UNSUPPORTED)
            }
        }
        _ => Err(&BAD_LENGTH),
    }
}

/// Parses the value of Content-Length, which must consist of digits.
fn body_len(value: &[u8]) -> Result<usize, &'static Refusal> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(&BAD_LENGTH);
    }
    // The value has only digits, so a parse error means overflow.
    match str::from_utf8(value).ok().and_then(|digits| digits.parse().ok()) {
        Some(len) if len <= BODY_BYTES_MAX => Ok(len),
        _ => Err(&BODY_TOO_LARGE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::fuzzing::{self, read_in_pieces};
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    const HOST_LINE: &str = "Host: bank\r\n";

    fn read(bytes: &[u8]) -> ReadOutcome {
        read_in_pieces(bytes, usize::MAX)
    }

    fn request(bytes: &[u8]) -> Request {
        match read(bytes) {
            ReadOutcome::Request { request, .. } => request,
            other => panic!("{other:?}"),
        }
    }

    fn passes(bytes: &[u8]) -> bool {
        matches!(read(bytes), ReadOutcome::Request { .. })
    }

    #[test]
    fn request_has_target_headers_and_body() {
        let sent =
            b"PUT /a?b=c HTTP/1.1\r\nHost: bank\r\nContent-Length: 3\r\nX-Y: z\xe9\r\n\r\nabcGET";
        let ReadOutcome::Request { request, more } = read(sent) else { panic!("not a request") };
        assert!(more);
        assert_eq!(
            (request.method.as_str(), request.path(), request.query()),
            ("PUT", "/a", "b=c")
        );
        assert_eq!(request.body, b"abc");
        assert_eq!(request.headers["x-y"].as_bytes(), b"z\xe9", "not ASCII, but allowed");
        assert_eq!(request.header("x-y"), None);
    }

    #[test]
    fn absolute_target_replaces_the_host() {
        for (target, host, path) in
            [("http://a:1/b?c", "a:1", "/b"), ("HTTPS://a", "a", "/"), ("http://a?c", "a", "/")]
        {
            let got = request(format!("GET {target} HTTP/1.1\r\nHost: other\r\n\r\n").as_bytes());
            assert_eq!((got.header("host"), got.path()), (Some(host), path), "{target}");
        }
        for wrong in ["a", "ftp://a/", "//", "a:1"] {
            let outcome = read(format!("GET {wrong} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
            assert_eq!(outcome == ReadOutcome::Refused(&MALFORMED), wrong != "//", "{wrong}");
        }
    }

    #[test]
    fn local_hosts_are_names_of_this_machine() {
        let local = |host: &str| {
            request(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).has_local_host()
        };
        for host in ["localhost", "LOCALHOST:8888", "127.0.0.1", "10.0.0.7:1", "[::1]:8888", ""] {
            assert!(local(host), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:8888", "127.0.0.1.nip.example", "[x]"]
        {
            assert!(!local(host), "{host}");
        }
    }

    #[test]
    fn bearer_token_is_found() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer(" bearer  abc "), Some("abc"));
        for other in ["", "abc", "Basic abc", "Bearer"] {
            assert_eq!(bearer(other), None, "{other}");
        }
    }

    #[test]
    fn lists_span_lines() {
        let got = request(b"GET / HTTP/1.1\r\nHost: a\r\nAccept: a, b;q=1\r\nAccept: c\r\n\r\n");
        assert_eq!(got.list("accept").collect::<Vec<_>>(), ["a", "b;q=1", "c"]);
    }

    #[test]
    fn invalid_framing_is_rejected() {
        for (headers, refusal) in [
            ("Content-Length: 5\r\n", None),
            ("Content-Length: 0005\r\n", None),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", Some(&BAD_LENGTH)),
            ("Content-Length: 5\r\ncontent-length: 6\r\n", Some(&BAD_LENGTH)),
            ("Content-Length: 5, 5\r\n", Some(&BAD_LENGTH)),
            ("Content-Length: +5\r\n", Some(&BAD_LENGTH)),
            ("Content-Length: -5\r\n", Some(&BAD_LENGTH)),
            ("Content-Length: 0x5\r\n", Some(&BAD_LENGTH)),
            ("Content-Length: abc\r\n", Some(&BAD_LENGTH)),
            ("Content-Length:\r\n", Some(&BAD_LENGTH)),
            ("Content-Length : 5\r\n", Some(&MALFORMED)),
            ("Content-Length: 18446744073709551615\r\n", Some(&BODY_TOO_LARGE)),
            ("Content-Length: 18446744073709551616\r\n", Some(&BODY_TOO_LARGE)),
            ("Transfer-Encoding: identity\r\n", Some(&CODING_UNSUPPORTED)),
            ("Transfer-Encoding: xchunked\r\n", Some(&CODING_UNSUPPORTED)),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Some(&BAD_LENGTH)),
            ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", Some(&BAD_LENGTH)),
            ("Expect: a miracle\r\n", Some(&EXPECTATION_FAILED)),
            ("X: a\n\nGET / HTTP/1.1\r\n", Some(&MALFORMED)),
            ("X: a\nY: b\r\n", Some(&MALFORMED)),
            ("Host: second\r\n", Some(&HOST_REQUIRED)),
        ] {
            let sent = format!("POST / HTTP/1.1\r\n{HOST_LINE}{headers}\r\n12345");
            match (read(sent.as_bytes()), refusal) {
                (outcome, Some(refusal)) => {
                    assert_eq!(outcome, ReadOutcome::Refused(refusal), "{headers}");
                }
                (ReadOutcome::Request { request, more: false }, None) => {
                    assert_eq!(request.body, b"12345", "{headers}");
                }
                (other, None) => panic!("{headers}: {other:?}"),
            }
        }
        assert_eq!(read(b"GET / HTTP/1.1\r\n\r\n"), ReadOutcome::Refused(&HOST_REQUIRED));
        assert!(passes(b"GET / HTTP/1.0\r\n\r\n"));
        let chunked = b"PUT / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(read(chunked), ReadOutcome::Refused(&BAD_LENGTH));
    }

    #[test]
    fn chunks_are_joined_within_the_limit() {
        let head = format!("PUT / HTTP/1.1\r\n{HOST_LINE}Transfer-Encoding: Chunked\r\n\r\n");
        let put = |chunks: &str, size| read_in_pieces(format!("{head}{chunks}").as_bytes(), size);
        for size in [1, 2, 3, 7, usize::MAX] {
            let sent = "3;x=y\r\nabc\r\n0A \r\n0123456789\r\n0\r\nTrailer: z\r\n\r\n";
            let ReadOutcome::Request { request, more: false } = put(sent, size) else {
                panic!("in pieces of {size}")
            };
            assert_eq!(request.body, b"abc0123456789");
        }
        for (chunks, refusal) in [
            ("x\r\n", &MALFORMED),
            ("\r\n", &MALFORMED),
            ("-1\r\n", &MALFORMED),
            ("1\r\nab\r\n", &MALFORMED),
            ("1\nx\r\n0\r\n\r\n", &MALFORMED),
            ("10001\r\n", &BODY_TOO_LARGE),
            ("ffffffffffffffffff\r\n", &BODY_TOO_LARGE),
            (&"1\r\na\r\n".repeat(BODY_BYTES_MAX), &BODY_TOO_LARGE),
            (&format!("1;{}", "x".repeat(CHUNK_HEADS_BYTES_MAX)), &BODY_TOO_LARGE),
            (&format!("0\r\n{}", "X: y\r\n".repeat(CHUNK_HEADS_BYTES_MAX)), &BODY_TOO_LARGE),
        ] {
            assert_eq!(put(chunks, 1000), ReadOutcome::Refused(refusal), "{:.20}", chunks);
        }
        let largest = format!("8000\r\n{0}\r\n8000\r\n{0}\r\n0\r\n\r\n", "x".repeat(0x8000));
        assert!(matches!(put(&largest, 4096), ReadOutcome::Request { .. }));
    }

    #[test]
    fn request_above_a_limit_is_rejected() {
        let head = |len: usize| {
            let around = "GET / HTTP/1.0\r\nX: \r\n\r\n".len();
            format!("GET / HTTP/1.0\r\nX: {}\r\n\r\n", "x".repeat(len - around)).into_bytes()
        };
        assert!(passes(&head(HEAD_BYTES_MAX)));
        assert_eq!(read(&head(HEAD_BYTES_MAX + 1)), ReadOutcome::Refused(&HEAD_TOO_LARGE));
        assert_eq!(
            read(&[b'x'; HEAD_BYTES_MAX]),
            ReadOutcome::Refused(&HEAD_TOO_LARGE),
            "no end of the head"
        );

        let body = |len: usize| {
            let head = format!("PUT / HTTP/1.0\r\nContent-Length: {len}\r\n\r\n");
            [head.into_bytes(), vec![b'x'; len]].concat()
        };
        assert!(passes(&body(BODY_BYTES_MAX)));
        assert_eq!(read(&body(BODY_BYTES_MAX + 1)), ReadOutcome::Refused(&BODY_TOO_LARGE));

        let headers = |count| format!("GET / HTTP/1.0\r\n{}\r\n", "X: y\r\n".repeat(count));
        assert!(passes(headers(HEADERS_MAX).as_bytes()));
        assert_eq!(
            read(headers(HEADERS_MAX + 1).as_bytes()),
            ReadOutcome::Refused(&HEAD_TOO_LARGE)
        );
    }

    #[test]
    fn expect_continue_is_reported_once() {
        let head =
            b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-Continue\r\n\r\n";
        let mut reader = RequestReader::new(Ipv4Addr::LOCALHOST.into());
        assert_eq!(reader.add(head), ReadOutcome::Continue);
        assert_eq!(reader.add(b"x"), ReadOutcome::Incomplete);
        assert!(matches!(reader.add(b"y"), ReadOutcome::Request { .. }));
        assert!(passes(&[&head[..], b"xy"].concat()), "the body came along");
    }

    #[test]
    fn websocket_needs_upgrade_and_connection() {
        let sent = "GET /graphql HTTP/1.1\r\nHost: a\r\nUpgrade: WebSocket\r\n\
             Connection: keep-alive, Upgrade\r\n\r\n";
        assert!(request(sent.as_bytes()).is_websocket);
        let with_frame = format!("{sent}frame");
        assert_eq!(read(with_frame.as_bytes()), ReadOutcome::Refused(&MALFORMED));
        for other in [
            sent.replace("GET", "POST"),
            sent.replace("WebSocket", "h2c"),
            sent.replace("Connection: keep-alive, Upgrade\r\n", ""),
            sent.replace("HTTP/1.1", "HTTP/1.0"),
        ] {
            assert!(!request(other.as_bytes()).is_websocket, "{other}");
        }
    }

    /// Bytes that are similar enough to requests to reach every branch.
    fn requests() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"GET / HTTP/1.1\r\n".to_vec()),
            Just(b"POST /x HTTP/1.0\r\n".to_vec()),
            Just(b"\r\n".to_vec()),
            Just(b"\r\n\r\n".to_vec()),
            Just(b"\n".to_vec()),
            Just(b"Connection: upgrade\r\nUpgrade: websocket\r\n".to_vec()),
            Just(b"Expect: 100-continue\r\n".to_vec()),
            Just(b"Transfer-Encoding: chunked\r\n".to_vec()),
            Just(b"Host: a\r\n".to_vec()),
            Just(b"2\r\nab\r\n".to_vec()),
            Just(b"0\r\n\r\n".to_vec()),
            (0..20_u64).prop_map(|len| format!("Content-Length: {len}\r\n").into_bytes()),
            any::<u64>().prop_map(|len| format!("Content-Length: {len}\r\n").into_bytes()),
            "[A-Za-z-]{1,9}: [ -~]{0,20}\r\n".prop_map(String::into_bytes),
            prop::collection::vec(any::<u8>(), 0..40),
            (0..9000_usize).prop_map(|len| vec![b'a'; len]),
        ];
        (any::<bool>(), prop::collection::vec(piece, 0..8)).prop_map(|(starts_well, pieces)| {
            let start: &[u8] = if starts_well { b"PUT / HTTP/1.1\r\n" } else { b"" };
            [start, &pieces.concat()].concat()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

        #[test]
        fn outcome_is_independent_of_the_pieces(bytes in requests(), size: u16) {
            fuzzing::request(&[&size.to_le_bytes()[..], &bytes].concat());
        }
    }
}
