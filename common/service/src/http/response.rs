//! Responses: constructors for services, and the rejections by the listener.

use http::{HeaderValue, StatusCode};
use std::borrow::Cow;
use std::fs::File;
use std::io::Write;
use std::time::SystemTime;

/// The body of a response.
#[derive(Debug)]
pub enum Body {
    Owned(Vec<u8>),
    Static(&'static [u8]),
    /// The next bytes of a file, as many as the number says. The connection is closed if the file
    /// has fewer.
    File(File, u64),
}

impl Body {
    fn len(&self) -> u64 {
        match self {
            Self::Owned(bytes) => bytes.len() as u64,
            Self::Static(bytes) => bytes.len() as u64,
            Self::File(_, len) => *len,
        }
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Owned(bytes)
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Self::Owned(text.into_bytes())
    }
}

impl From<&'static [u8]> for Body {
    fn from(bytes: &'static [u8]) -> Self {
        Self::Static(bytes)
    }
}

/// A response to one request.
#[derive(Debug)]
pub struct Response {
    status: StatusCode,
    headers: Vec<(&'static str, Cow<'static, str>)>,
    body: Body,
}

impl Response {
    /// A response without headers.
    ///
    /// # Panics
    /// `status` is not 200 to 599.
    pub fn new(status: u16, body: impl Into<Body>) -> Self {
        assert!((200..600).contains(&status), "status {status}");
        let status = StatusCode::from_u16(status).expect("three digits");
        Self { status, headers: Vec::new(), body: body.into() }
    }

    /// Adds a header.
    ///
    /// # Panics
    /// The value has a control character.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        let value = value.into();
        assert!(HeaderValue::from_str(&value).is_ok(), "value of {name}");
        self.headers.push((name, value));
        self
    }

    /// The head in bytes, and the body.
    pub(super) fn into_parts(self) -> (Vec<u8>, Body) {
        let Self { status, headers, body } = self;
        let reason = status.canonical_reason().unwrap_or_default();
        let date = httpdate::fmt_http_date(SystemTime::now());
        let mut head = format!(
            "HTTP/1.1 {} {reason}\r\nConnection: close\r\nDate: {date}\r\n",
            status.as_u16()
        )
        .into_bytes();
        for (name, value) in headers {
            // A write to memory cannot fail.
            let _ = write!(head, "{name}: {value}\r\n");
        }
        // RFC 9110, section 8.6: these have no length.
        if !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            let _ = write!(head, "Content-Length: {}\r\n", body.len());
        }
        head.extend_from_slice(b"\r\n");
        (head, body)
    }
}

/// Returns a response with a body.
pub fn reply(status: u16, content_type: &'static str, body: impl Into<Body>) -> Response {
    Response::new(status, body).with_header("Content-Type", content_type)
}

/// Returns a response with one line of text. A line end is appended.
pub fn text(status: u16, line: &str) -> Response {
    reply(status, "text/plain; charset=utf-8", format!("{line}\n"))
}

/// A response of the listener itself.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    /// The body, without a line end.
    pub reason: &'static str,
}

impl Refusal {
    const fn new(status: u16, reason: &'static str) -> Self {
        Self { status, reason }
    }

    pub fn response(&self) -> Response {
        text(self.status, self.reason)
    }

    /// The response, head and body.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (mut head, body) = self.response().into_parts();
        if let Body::Owned(body) = body {
            head.extend_from_slice(&body);
        }
        head
    }
}

pub const MALFORMED: Refusal = Refusal::new(400, "not an HTTP/1.1 request");
pub const HOST_REQUIRED: Refusal = Refusal::new(400, "expected one Host header");
/// Several lengths, a length that is not a number, or a length and a Transfer-Encoding.
pub const BAD_LENGTH: Refusal =
    Refusal::new(400, "expected at most one Content-Length, with digits only");
/// The request took longer than [`REQUEST_TIME`](super::limits::REQUEST_TIME).
pub const LATE: Refusal = Refusal::new(408, "the request was not complete within 5 s");
/// The body exceeds [`BODY_BYTES_MAX`](super::limits::BODY_BYTES_MAX).
pub const BODY_TOO_LARGE: Refusal = Refusal::new(413, "request body exceeds 65536 bytes");
pub const EXPECTATION_FAILED: Refusal = Refusal::new(417, "only Expect: 100-continue is supported");
/// One address has too many connections.
pub const TOO_MANY: Refusal =
    Refusal::new(429, "too many connections from this address, try again");
/// The head exceeds [`HEAD_BYTES_MAX`](super::limits::HEAD_BYTES_MAX) or
/// [`HEADERS_MAX`](super::limits::HEADERS_MAX).
pub const HEAD_TOO_LARGE: Refusal =
    Refusal::new(431, "request head exceeds 8192 bytes or 64 headers");
/// The service sent no response.
pub const NO_REPLY: Refusal = Refusal::new(500, "the service sent no response");
pub const CODING_UNSUPPORTED: Refusal =
    Refusal::new(501, "the only supported Transfer-Encoding is chunked");
/// A websocket handshake to a service without websockets.
pub const NO_WEBSOCKETS: Refusal = Refusal::new(501, "websockets are not supported");
/// The connection limit is reached.
pub const BUSY: Refusal = Refusal::new(503, "too many connections, try again");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_has_length_and_close() {
        let head = |response: Response| {
            let head = String::from_utf8(response.into_parts().0).unwrap();
            let without_date = head.lines().filter(|line| !line.starts_with("Date: "));
            without_date.map(|line| format!("{line}\n")).collect::<String>()
        };
        assert_eq!(
            head(text(404, "not found").with_header("Allow", "GET")),
            "HTTP/1.1 404 Not Found\nConnection: close\n\
             Content-Type: text/plain; charset=utf-8\nAllow: GET\nContent-Length: 10\n\n"
        );
        let empty = head(Response::new(204, Vec::new()));
        assert_eq!(empty, "HTTP/1.1 204 No Content\nConnection: close\n\n");
    }

    #[test]
    #[should_panic(expected = "value of Vary")]
    fn header_with_a_line_end_is_refused() {
        let _ = Response::new(200, Vec::new()).with_header("Vary", "a\r\nb: c");
    }
}
