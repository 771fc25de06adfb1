//! Server-sent events. Source: graphql-sse, PROTOCOL.md, "distinct connections mode".

use std::io::{self, Write};
use std::time::{Duration, Instant};
use tiny_http::Header;

/// Media type of a stream of server-sent events.
pub const EVENTS: &str = "text/event-stream";

/// Interval of comments on an idle stream. A closed connection is detected by a failed write.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Writes server-sent events to one client.
pub struct EventWriter {
    out: Box<dyn Write + Send>,
    /// An event may still be buffered.
    buffered: bool,
    sent: Instant,
}

impl EventWriter {
    pub fn new(out: Box<dyn Write + Send>) -> Self {
        Self { out, buffered: false, sent: Instant::now() }
    }

    /// Sends status and headers of the response.
    pub fn open(&mut self, headers: &[Header]) -> io::Result<()> {
        let mut head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {EVENTS}\r\nCache-Control: no-cache\r\n\
             X-Accel-Buffering: no\r\n"
        );
        for header in headers {
            head += &format!("{}: {}\r\n", header.field, header.value);
        }
        // No Content-Length: the stream ends with the connection.
        self.send(&(head + "\r\n:\n\n"))
    }

    /// Buffers a response. The next call of `idle` or `complete` sends it.
    pub fn next(&mut self, json: &str) -> io::Result<()> {
        self.buffered = true;
        write!(self.out, "event: next\ndata: {json}\n\n")
    }

    /// Ends the stream. An EventSource ignores events without a data line, so the event has an
    /// empty one.
    pub fn complete(&mut self) -> io::Result<()> {
        self.send("event: complete\ndata:\n\n")
    }

    /// Sends buffered events, or a comment if none was sent for [`HEARTBEAT`].
    pub fn idle(&mut self) -> io::Result<()> {
        if self.buffered {
            self.send("")
        } else if self.sent.elapsed() < HEARTBEAT {
            Ok(())
        } else {
            self.send(":\n\n")
        }
    }

    fn send(&mut self, text: &str) -> io::Result<()> {
        (self.buffered, self.sent) = (false, Instant::now());
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }
}
