//! Responses: constructors for services, rejections by the listener, and the copy from tiny_http to
//! the client.

use super::limits::{PART_BYTES, RESPONSE_PART_TIME, Timed};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use tiny_http::{Header, Response};

/// Returns a response with a body. `content_type` must be ASCII.
pub fn reply(
    status: u16,
    content_type: &'static str,
    body: impl Into<Vec<u8>>,
) -> Response<io::Cursor<Vec<u8>>> {
    let header = Header::from_bytes("Content-Type", content_type).expect("it is ASCII");
    Response::from_data(body).with_status_code(status).with_header(header)
}

/// Returns a response with one line of text. A line end is appended.
pub fn text(status: u16, line: &str) -> Response<io::Cursor<Vec<u8>>> {
    reply(status, "text/plain; charset=utf-8", format!("{line}\n"))
}

/// Copies a response of tiny_http to the client. Inserts `Connection: close` after the status line,
/// since tiny_http never sends it.
pub fn relay(server: &mut UnixStream, client: &TcpStream) -> io::Result<()> {
    let mut part = [0; PART_BYTES];
    let mut len = 0;
    let status_len = loop {
        match server.read(&mut part[len..]) {
            // The end of the stream, or no line end within the buffer: not a response.
            Ok(0) => {
                refuse(client, &NO_REPLY);
                return Ok(());
            }
            Ok(n) => len += n,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
        if let Some(at) = part[..len].windows(2).position(|end| end == b"\r\n") {
            break at + 2;
        }
    };
    let first = [&part[..status_len], b"Connection: close\r\n", &part[status_len..len]].concat();
    Timed::new(client, RESPONSE_PART_TIME).write_all(&first)?;
    loop {
        match server.read(&mut part) {
            Ok(0) => return Ok(()),
            Ok(n) => Timed::new(client, RESPONSE_PART_TIME).write_all(&part[..n])?,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
}

/// Sends `refusal`, unless the client has closed the connection.
pub fn refuse(client: &TcpStream, refusal: &Refusal) {
    log::debug!(status = refusal.status, error = refusal.reason; "request rejected");
    if Timed::new(client, RESPONSE_PART_TIME).write_all(&refusal.to_bytes()).is_ok() {
        drain(client);
    }
}

/// Discards what the client still sends, for at most one second or until the client closes its
/// side. Closing a socket with unread bytes resets the connection, and the reset can overtake the
/// response.
pub fn drain(client: &TcpStream) {
    if client.shutdown(Shutdown::Write).is_ok() {
        let rest = Timed::new(client, Duration::from_secs(1)).take(1 << 20);
        let _ = io::copy(&mut { rest }, &mut io::sink());
    }
}

/// A response that rejects a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Status code and phrase.
    pub status: &'static str,
    /// The body, without a line end.
    pub reason: &'static str,
}

/// Not HTTP.
pub const MALFORMED: Refusal =
    Refusal { status: "400 Bad Request", reason: "not an HTTP/1.1 request in ASCII" };
/// Several Content-Length headers, or one that is not a number.
pub const BAD_LENGTH: Refusal = Refusal {
    status: "400 Bad Request",
    reason: "expected at most one Content-Length, with digits only",
};
/// The request took longer than [`REQUEST_TIME`](super::limits::REQUEST_TIME).
pub const LATE: Refusal =
    Refusal { status: "408 Request Timeout", reason: "the request was not complete within 5 s" };
/// The request has a Transfer-Encoding.
pub const LENGTH_REQUIRED: Refusal = Refusal {
    status: "411 Length Required",
    reason: "Transfer-Encoding is not supported: send a Content-Length",
};
/// The body exceeds [`BODY_BYTES_MAX`](super::limits::BODY_BYTES_MAX).
pub const BODY_TOO_LARGE: Refusal =
    Refusal { status: "413 Content Too Large", reason: "request body exceeds 65536 bytes" };
/// The Expect header is not `100-continue`.
pub const EXPECTATION_FAILED: Refusal =
    Refusal { status: "417 Expectation Failed", reason: "only Expect: 100-continue is supported" };
/// The head exceeds [`HEAD_BYTES_MAX`](super::limits::HEAD_BYTES_MAX) or
/// [`HEADERS_MAX`](super::limits::HEADERS_MAX).
pub const HEAD_TOO_LARGE: Refusal = Refusal {
    status: "431 Request Header Fields Too Large",
    reason: "request head exceeds 8192 bytes or 64 headers",
};
/// The service sent no response.
pub const NO_REPLY: Refusal =
    Refusal { status: "500 Internal Server Error", reason: "the service sent no response" };
/// A websocket handshake to a service without websockets.
pub const NO_WEBSOCKETS: Refusal =
    Refusal { status: "501 Not Implemented", reason: "websockets are not supported" };
/// The connection limit is reached.
pub const BUSY: Refusal =
    Refusal { status: "503 Service Unavailable", reason: "too many connections, try again" };

impl Refusal {
    /// The response, head and body.
    pub fn to_bytes(&self) -> Vec<u8> {
        let Self { status, reason } = self;
        format!(
            "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Length: {}\r\n\r\n{reason}\n",
            reason.len() + 1
        )
        .into_bytes()
    }
}
