//! Reads and checks one request.

use super::limits::{BODY_BYTES_MAX, HEAD_BYTES_MAX, HEADERS_MAX};
use super::response::{
    BAD_LENGTH, BODY_TOO_LARGE, EXPECTATION_FAILED, HEAD_TOO_LARGE, LENGTH_REQUIRED, MALFORMED,
    Refusal,
};
use std::io::{self, Read, Write};

/// The result of reading a request.
#[derive(Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// A request with a rebuilt head.
    Request {
        /// Head and body.
        bytes: Vec<u8>,
        /// True if further bytes followed the request. They are discarded.
        more: bool,
    },
    /// A websocket handshake.
    WebSocket(Handshake),
    /// The request is rejected.
    Refused(&'static Refusal),
}

/// The opening request of a websocket (RFC 6455, section 4). The syntax of its head is checked, the
/// values of its headers are not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake {
    /// Path and query.
    pub target: String,
    /// Names, in the case in which they were sent, and values.
    pub headers: Vec<(String, String)>,
}

impl Handshake {
    fn new(target: &str, headers: &[httparse::Header<'_>]) -> Self {
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let header = |it: &httparse::Header<'_>| (it.name.to_owned(), text(it.value));
        Self { target: target.to_owned(), headers: headers.iter().map(header).collect() }
    }
}

/// Reads one whole request.
pub fn read_request(client: &mut (impl Read + Write)) -> io::Result<ReadOutcome> {
    const HEAD_END: &[u8] = b"\r\n\r\n";
    let mut bytes = Vec::new();
    let head_len = loop {
        // The end of the head may be split across two reads.
        let from = bytes.len().saturating_sub(HEAD_END.len() - 1);
        read_part(client, &mut bytes)?;
        let end = bytes[from..].windows(HEAD_END.len()).position(|end| end == HEAD_END);
        match end.map(|at| from + at + HEAD_END.len()) {
            Some(len) if len <= HEAD_BYTES_MAX => break len,
            None if bytes.len() < HEAD_BYTES_MAX => {}
            _ => return Ok(ReadOutcome::Refused(&HEAD_TOO_LARGE)),
        }
    };
    let head = match check(&bytes[..head_len]) {
        Ok(head) => head,
        Err(refusal) => return Ok(ReadOutcome::Refused(refusal)),
    };
    let whole = head_len + head.body_len;
    if head.expects_continue && bytes.len() < whole {
        client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    bytes.reserve_exact(whole.saturating_sub(bytes.len()));
    while bytes.len() < whole {
        read_part(client, &mut bytes)?;
    }
    let more = bytes.len() > whole;
    Ok(match head.websocket {
        // Bytes after a handshake are not frames: a client waits for the response first.
        Some(_) if more || head.body_len > 0 => ReadOutcome::Refused(&MALFORMED),
        Some(handshake) => ReadOutcome::WebSocket(handshake),
        None => {
            let mut request = head.rebuilt;
            request.extend_from_slice(&bytes[head_len..whole]);
            ReadOutcome::Request { bytes: request, more }
        }
    })
}

/// Appends at least one byte.
fn read_part(client: &mut impl Read, bytes: &mut Vec<u8>) -> io::Result<()> {
    let mut part = [0; 4 << 10];
    loop {
        match client.read(&mut part) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                bytes.extend_from_slice(&part[..n]);
                return Ok(());
            }
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
}

/// An accepted head.
#[derive(Debug)]
struct Head {
    /// The head for tiny_http: the same request line, one Content-Length, `Connection: close`, and
    /// no hop-by-hop headers.
    rebuilt: Vec<u8>,
    body_len: usize,
    expects_continue: bool,
    websocket: Option<Handshake>,
}

/// Checks a head, from the request line to the empty line.
fn check(head: &[u8]) -> Result<Head, &'static Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        // The head must be ASCII, since tiny_http closes the connection otherwise. The length must
        // match: after bare line feeds httparse ends a head early, and tiny_http would parse the
        // rest as a second request (request smuggling).
        Ok(httparse::Status::Complete(len)) if len == head.len() && head.is_ascii() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(&HEAD_TOO_LARGE),
        _ => return Err(&MALFORMED),
    }
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
    else {
        return Err(&MALFORMED);
    };

    let mut rebuilt = format!("{method} {target} HTTP/1.{minor}\r\n").into_bytes();
    let (mut length, mut expects_continue, mut upgrades) = (None, false, false);
    for header in request.headers.iter() {
        match header.name.to_ascii_lowercase().as_str() {
            "content-length" if length.is_some() => return Err(&BAD_LENGTH),
            "content-length" => length = Some(body_len(header.value)?),
            "transfer-encoding" => return Err(&LENGTH_REQUIRED),
            "expect" if header.value.eq_ignore_ascii_case(b"100-continue") => {
                expects_continue = minor > 0;
            }
            "expect" => return Err(&EXPECTATION_FAILED),
            "upgrade" => upgrades |= header.value.eq_ignore_ascii_case(b"websocket"),
            "connection" | "keep-alive" | "proxy-connection" | "te" | "trailer" => {}
            _ => {
                for part in [header.name.as_bytes(), b": ", header.value, b"\r\n"] {
                    rebuilt.extend_from_slice(part);
                }
            }
        }
    }
    if let Some(length) = length {
        rebuilt.extend_from_slice(format!("Content-Length: {length}\r\n").as_bytes());
    }
    rebuilt.extend_from_slice(b"Connection: close\r\n\r\n");
    let websocket = (upgrades && method == "GET").then(|| Handshake::new(target, request.headers));
    Ok(Head { rebuilt, body_len: length.unwrap_or(0), expects_continue, websocket })
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
    use proptest::prelude::*;

    /// A client that sends its bytes in pieces of `size` and then closes its side.
    struct Pieces<'a> {
        rest: &'a [u8],
        size: usize,
        received: Vec<u8>,
    }

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let len = self.size.min(buffer.len());
            (&mut self.rest).take(len as u64).read(buffer)
        }
    }

    impl Write for Pieces<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.received.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn read_in_pieces(bytes: &[u8], size: usize) -> io::Result<ReadOutcome> {
        read_request(&mut Pieces { rest: bytes, size, received: Vec::new() })
    }

    fn read(bytes: &[u8]) -> ReadOutcome {
        read_in_pieces(bytes, usize::MAX).unwrap()
    }

    fn passes(bytes: &[u8]) -> bool {
        matches!(read(bytes), ReadOutcome::Request { .. })
    }

    #[test]
    fn request_passes_with_a_rebuilt_head() {
        let sent = b"PUT /a?b=c HTTP/1.1\r\nHost: bank\r\nContent-Length: 3\r\n\
            Connection: keep-alive, x\r\nTE: identity\r\nUpgrade: h2c\r\nExpect: 100-continue\r\n\
            \r\nabcGET";
        let passed = b"PUT /a?b=c HTTP/1.1\r\nHost: bank\r\nContent-Length: 3\r\n\
            Connection: close\r\n\r\nabc";
        assert_eq!(read(sent), ReadOutcome::Request { bytes: passed.to_vec(), more: true });
    }

    #[test]
    fn invalid_content_length_is_rejected() {
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
            ("Transfer-Encoding: chunked\r\n", Some(&LENGTH_REQUIRED)),
            ("Transfer-Encoding: identity\r\nContent-Length: 5\r\n", Some(&LENGTH_REQUIRED)),
            ("Expect: a miracle\r\n", Some(&EXPECTATION_FAILED)),
            ("X: \u{e9}\r\n", Some(&MALFORMED)),
            ("X: a\n\nGET / HTTP/1.1\r\n", Some(&MALFORMED)),
        ] {
            let outcome = read(format!("POST / HTTP/1.1\r\n{headers}\r\n12345").as_bytes());
            match refusal {
                None => assert!(
                    matches!(outcome, ReadOutcome::Request { more: false, .. }),
                    "{headers}"
                ),
                Some(refusal) => assert_eq!(outcome, ReadOutcome::Refused(refusal), "{headers}"),
            }
        }
    }

    #[test]
    fn request_above_a_limit_is_rejected() {
        let head = |len: usize| {
            let around = "GET / HTTP/1.1\r\nX: \r\n\r\n".len();
            format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(len - around)).into_bytes()
        };
        assert!(passes(&head(HEAD_BYTES_MAX)));
        assert_eq!(read(&head(HEAD_BYTES_MAX + 1)), ReadOutcome::Refused(&HEAD_TOO_LARGE));
        assert_eq!(
            read(&[b'x'; HEAD_BYTES_MAX]),
            ReadOutcome::Refused(&HEAD_TOO_LARGE),
            "no end of the head"
        );

        let body = |len: usize| {
            let head = format!("PUT / HTTP/1.1\r\nContent-Length: {len}\r\n\r\n");
            [head.into_bytes(), vec![b'x'; len]].concat()
        };
        assert!(passes(&body(BODY_BYTES_MAX)));
        assert_eq!(read(&body(BODY_BYTES_MAX + 1)), ReadOutcome::Refused(&BODY_TOO_LARGE));

        let headers = |count| format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(count));
        assert!(passes(headers(HEADERS_MAX).as_bytes()));
        assert_eq!(
            read(headers(HEADERS_MAX + 1).as_bytes()),
            ReadOutcome::Refused(&HEAD_TOO_LARGE)
        );
    }

    #[test]
    fn expect_continue_gets_a_response_before_the_body() {
        let sent = b"PUT / HTTP/1.1\r\nContent-Length: 1\r\nExpect: 100-Continue\r\n\r\nx";
        for (size, received) in
            [(sent.len() - 1, "HTTP/1.1 100 Continue\r\n\r\n"), (sent.len(), "")]
        {
            let mut client = Pieces { rest: sent, size, received: Vec::new() };
            assert!(matches!(read_request(&mut client).unwrap(), ReadOutcome::Request { .. }));
            assert_eq!(client.received, received.as_bytes());
        }
    }

    #[test]
    fn handshake_keeps_its_headers() {
        let sent = "GET /graphql HTTP/1.1\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: a\r\n\r\n";
        let headers = [("Upgrade", "WebSocket"), ("Sec-WebSocket-Key", "a")];
        assert_eq!(
            read(sent.as_bytes()),
            ReadOutcome::WebSocket(Handshake {
                target: "/graphql".to_owned(),
                headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            })
        );
        assert_eq!(read(format!("{sent}frame").as_bytes()), ReadOutcome::Refused(&MALFORMED));
        assert!(passes(sent.replace("GET", "POST").as_bytes()), "only GET can upgrade");
    }

    /// Bytes that are similar enough to requests to reach every branch.
    fn requests() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"GET / HTTP/1.1\r\n".to_vec()),
            Just(b"POST /x HTTP/1.0\r\n".to_vec()),
            Just(b"\r\n".to_vec()),
            Just(b"\r\n\r\n".to_vec()),
            Just(b"\n".to_vec()),
            Just(b"Connection: close\r\n".to_vec()),
            Just(b"Upgrade: websocket\r\n".to_vec()),
            Just(b"Expect: 100-continue\r\n".to_vec()),
            Just(b"Transfer-Encoding: chunked\r\n".to_vec()),
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
        fn accepted_bytes_are_exactly_one_request(
            bytes in requests(),
            size in 1..5000_usize,
        ) {
            let outcome = read_in_pieces(&bytes, size);
            if let Ok(ReadOutcome::Request { bytes: request, .. }) = &outcome {
                let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX + 2];
                let mut parsed = httparse::Request::new(&mut headers);
                let head_len = parsed.parse(request).unwrap().unwrap();
                let values = |name: &str| -> Vec<&[u8]> {
                    let same =
                        |header: &&httparse::Header<'_>| header.name.eq_ignore_ascii_case(name);
                    parsed.headers.iter().filter(same).map(|header| header.value).collect()
                };
                prop_assert_eq!(values("connection"), [b"close"]);
                prop_assert!(values("transfer-encoding").is_empty());
                let body = &request[head_len..];
                match values("content-length")[..] {
                    [] => prop_assert!(body.is_empty()),
                    [len] => prop_assert_eq!(str::from_utf8(len), Ok(&*body.len().to_string())),
                    _ => prop_assert!(false, "several lengths"),
                }
            }
            // The outcome does not depend on how the bytes were split. Only `more` does, since it
            // is about bytes that were already received.
            let whole = read_in_pieces(&bytes, usize::MAX);
            prop_assert_eq!(comparable(&outcome), comparable(&whole));
        }
    }

    fn comparable(outcome: &io::Result<ReadOutcome>) -> String {
        match outcome {
            Ok(ReadOutcome::Request { bytes: request, .. }) => format!("{request:?}"),
            &Ok(ReadOutcome::WebSocket(_) | ReadOutcome::Refused(&MALFORMED)) => {
                "websocket or malformed".to_owned()
            }
            Ok(other) => format!("{other:?}"),
            Err(err) => err.kind().to_string(),
        }
    }
}
