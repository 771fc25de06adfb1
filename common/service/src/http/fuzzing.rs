//! Entry points of the fuzz targets in the folder fuzz: what clients send to the HTTP server.

use super::limits::{BODY_BYTES_MAX, HEAD_BYTES_MAX, HEADERS_MAX};
use super::outbox::{Connection, Notifier, Responder, Session};
use super::request::{CHUNK_HEADS_BYTES_MAX, ReadOutcome, Request, RequestReader};
use super::response::MALFORMED;
use super::server::Handler;
use http::header::{CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING};
use http::{HeaderMap, Method};
use mio::{Events, Poll, Token, Waker};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Time limit for a handler to respond, and to end its work after the client has disconnected.
const TIME_MAX: Duration = Duration::from_secs(5);

/// Reads a request that arrives as a whole and in pieces. The first two bytes are the size of a
/// piece. Returns the request if the bytes are one.
pub fn request(bytes: &[u8]) -> Option<Request> {
    let (size, sent) = bytes.split_first_chunk()?;
    let whole = read_in_pieces(sent, usize::MAX);
    let pieces = read_in_pieces(sent, usize::from(u16::from_le_bytes(*size)) + 1);
    assert_eq!(comparable(&pieces), comparable(&whole));
    let ReadOutcome::Request { request, .. } = whole else { return None };
    assert!(request.body.len() <= BODY_BYTES_MAX);
    // The host of an absolute URL is added.
    assert!(request.headers.len() <= HEADERS_MAX + 1);
    assert!(request.target.starts_with('/') || request.target == "*");
    assert!(!request.query().is_empty() || request.path() == request.target.trim_end_matches('?'));
    assert!(request.header("host").unwrap_or_default().starts_with(request.host_name()));
    request.has_local_host();
    let again = encode(&request);
    if again.len() - request.body.len() <= HEAD_BYTES_MAX && request.headers.len() <= HEADERS_MAX {
        let ReadOutcome::Request { request: mut decoded, more: false } =
            read_in_pieces(&again, usize::MAX)
        else {
            panic!("{request:?} is not a request again")
        };
        let mut request = request.clone();
        for headers in [&mut request.headers, &mut decoded.headers] {
            remove_framing(headers);
        }
        assert_eq!(decoded, request);
    }
    Some(request)
}

/// Adds pieces of `size` bytes to a reader until its outcome is known.
pub fn read_in_pieces(bytes: &[u8], size: usize) -> ReadOutcome {
    let mut reader = RequestReader::new(Ipv4Addr::LOCALHOST.into());
    for piece in bytes.chunks(size) {
        match reader.add(piece) {
            ReadOutcome::Incomplete | ReadOutcome::Continue => {
                assert!(reader.len() <= BODY_BYTES_MAX + CHUNK_HEADS_BYTES_MAX);
            }
            outcome => return outcome,
        }
    }
    ReadOutcome::Incomplete
}

/// The part of an outcome that does not depend on the pieces. `more` does, since it is about bytes
/// that were received already. A head that is malformed and followed by a websocket's bytes has
/// either refusal.
fn comparable(outcome: &ReadOutcome) -> String {
    match outcome {
        ReadOutcome::Request { request, .. } if request.is_websocket => {
            "websocket or malformed".to_owned()
        }
        &ReadOutcome::Refused(&MALFORMED) => "websocket or malformed".to_owned(),
        ReadOutcome::Request { request, .. } => format!("{request:?}"),
        other => format!("{other:?}"),
    }
}

/// The bytes of a request, with another framing of the body.
fn encode(request: &Request) -> Vec<u8> {
    let Request { method, target, headers, body, is_websocket, .. } = request;
    // A request of HTTP/1.0 needs no Host and has no other transfer coding.
    let minor = u8::from(*is_websocket);
    let mut bytes = format!("{method} {target} HTTP/1.{minor}\r\n").into_bytes();
    let mut headers = headers.clone();
    remove_framing(&mut headers);
    for (name, value) in &headers {
        bytes.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    if !body.is_empty() {
        bytes.extend(format!("Content-Length: {}\r\n", body.len()).into_bytes());
    }
    [&bytes, &b"\r\n"[..], body].concat()
}

fn remove_framing(headers: &mut HeaderMap) {
    for name in [CONTENT_LENGTH, TRANSFER_ENCODING, EXPECT] {
        headers.remove(name);
    }
}

/// Sends a request to a handler as the event loop does, without a socket. Returns what a client
/// receives; `None` if the bytes are not a request.
///
/// If the handler opens a session, the session gets `messages` in pieces of `size` bytes.
/// `before_end` runs before the client disconnects.
pub fn exchange(
    handler: &impl Handler,
    request: &[u8],
    messages: &[u8],
    size: usize,
    before_end: impl FnOnce(),
) -> Option<Vec<u8>> {
    let ReadOutcome::Request { request, .. } = read_in_pieces(request, usize::MAX) else {
        return None;
    };
    let is_head = request.method == Method::HEAD;
    let mut client = Client::connect();
    let responder = Responder::new(client.connection.clone(), is_head);
    if request.is_websocket {
        handler.websocket(request, responder);
    } else {
        handler.answer(request, responder);
    }
    client.wait_for_response();
    if let Some(session) = &client.session {
        for piece in messages.chunks(size) {
            session.received(piece);
        }
        session.tick(Instant::now());
        before_end();
    }
    let received = client.disconnect();
    assert_is_response(&received, is_head);
    Some(received)
}

/// A client of a handler.
struct Client {
    poll: Poll,
    notifier: Arc<Notifier>,
    connection: Arc<Connection>,
    session: Option<Arc<dyn Session>>,
    received: Vec<u8>,
}

impl Client {
    fn connect() -> Self {
        let poll = Poll::new().expect("a file descriptor is free");
        let waker = Waker::new(poll.registry(), Token(0)).expect("a file descriptor is free");
        let notifier = Arc::new(Notifier::new(waker));
        let connection = Connection::new(&notifier, 0);
        Self { poll, notifier, connection, session: None, received: Vec::new() }
    }

    /// Waits until the response is complete or a session has begun.
    fn wait_for_response(&mut self) {
        let deadline = Instant::now() + TIME_MAX;
        while !self.receive() {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no response within {TIME_MAX:?}");
            // An error means that libFuzzer has interrupted the wait.
            let _ = self.poll.poll(&mut Events::with_capacity(1), Some(left));
        }
    }

    /// Receives what was sent. True if the response is complete or a session has begun.
    fn receive(&mut self) -> bool {
        for changed in self.notifier.take_changed() {
            changed.listen_for_changes();
        }
        if let Some(session) = self.connection.take_new_session() {
            self.session = Some(session);
        }
        let progress = self.connection.send_to(&mut self.received).expect("memory takes all bytes");
        progress.finished || self.session.is_some()
    }

    /// Disconnects, and waits until the handler has dropped the connection.
    fn disconnect(mut self) -> Vec<u8> {
        self.receive();
        self.connection.close();
        if let Some(session) = self.session.take() {
            session.closed();
        }
        let deadline = Instant::now() + TIME_MAX;
        while Arc::strong_count(&self.connection) > 1 {
            drop(self.notifier.take_changed());
            assert!(Instant::now() < deadline, "work has not ended within {TIME_MAX:?}");
            thread::yield_now();
        }
        self.received
    }
}

/// Returns what follows the head of a response.
pub fn after_head(received: &[u8]) -> &[u8] {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(received) {
        Ok(httparse::Status::Complete(len)) => &received[len..],
        other => panic!("{other:?}: {}", String::from_utf8_lossy(received)),
    }
}

/// Asserts that a response has one head, and a body of the announced length.
fn assert_is_response(received: &[u8], is_head: bool) {
    let body = after_head(received);
    let head = String::from_utf8_lossy(&received[..received.len() - body.len()]);
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    if let Some(length) = length {
        let length = if is_head { "0" } else { length };
        assert_eq!(length.parse(), Ok(body.len()), "{head}");
    }
}
