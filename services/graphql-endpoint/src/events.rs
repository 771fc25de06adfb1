//! Server-sent events. Source: graphql-sse, PROTOCOL.md, "distinct connections mode".

use crate::operation::{Step, Transport};
use crate::operation_response::OperationResponse;
use crate::response::{Headers, JSON, close_of, refuse};
use crate::running::RunningOperation;
use service::http::{Disconnected, Outbox, Responder, Session};
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Media type of a stream of server-sent events.
pub const EVENTS: &str = "text/event-stream";

/// Interval of comments on a stream, so that proxies keep it open.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Events are sent when they have this size together, bytes.
const BUFFER_BYTES: usize = 4 << 10;

/// Sends the steps of one operation as events.
pub struct EventTransport {
    out: Out,
    /// Events that are not sent yet.
    buffer: String,
    running: Arc<RunningOperation>,
}

enum Out {
    /// The head of the response, and how to send it.
    Unopened(Responder, Headers),
    Open(Outbox),
    Closed,
}

/// The connection of a stream.
struct EventSession {
    out: Outbox,
    commented: Mutex<Instant>,
    running: Arc<RunningOperation>,
}

impl Session for EventSession {
    fn tick(&self, now: Instant) {
        let mut commented = self.commented.lock().unwrap_or_else(PoisonError::into_inner);
        if now.duration_since(*commented) >= HEARTBEAT {
            *commented = now;
            // An error means that the connection is closed.
            let _ = self.out.send(b":\n\n".to_vec());
        }
    }

    fn closed(&self) {
        self.running.cancel();
    }
}

impl EventTransport {
    /// The response starts with the first step. `headers` are added to it.
    pub fn new(responder: Responder, headers: Headers, running: Arc<RunningOperation>) -> Self {
        Self { out: Out::Unopened(responder, headers), buffer: String::new(), running }
    }

    /// The outbox, after the head of the response.
    fn open(&mut self) -> Result<&Outbox, Disconnected> {
        if let Out::Unopened(..) = self.out
            && let Out::Unopened(responder, headers) = mem::replace(&mut self.out, Out::Closed)
        {
            let mut head = format!(
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: {EVENTS}\r\n\
                 Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n"
            );
            for (name, value) in headers {
                head += &format!("{name}: {value}\r\n");
            }
            // No Content-Length: the stream ends with the connection.
            head += "\r\n:\n\n";
            let (out, running) = (responder.outbox(), self.running.clone());
            let commented = Mutex::new(Instant::now());
            let session = EventSession { out: out.clone(), commented, running };
            responder.take_over(head.into_bytes(), Arc::new(session))?;
            self.out = Out::Open(out);
        }
        match &self.out {
            Out::Open(out) => Ok(out),
            Out::Unopened(..) | Out::Closed => Err(Disconnected),
        }
    }

    fn next(&mut self, json: &str) -> Result<(), Disconnected> {
        if let Some(id) = self.running.event_id() {
            self.buffer += &format!("id: {id}\n");
        }
        self.buffer += &format!("event: next\ndata: {json}\n\n");
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Disconnected> {
        let events = mem::take(&mut self.buffer).into_bytes();
        let out = self.open()?;
        if events.is_empty() { Ok(()) } else { out.send(events) }
    }

    /// Ends the stream. An EventSource ignores events without a data line, so the event has an
    /// empty one.
    fn complete(&mut self) -> Result<(), Disconnected> {
        self.buffer += "event: complete\ndata:\n\n";
        self.flush()?;
        self.open()?.finish();
        Ok(())
    }
}

impl Transport for EventTransport {
    fn emit(&mut self, step: Step<'_>) -> Result<(), Disconnected> {
        match step {
            Step::Response(response) => self.next(&response.json()),
            Step::Idle => self.flush(),
            Step::Complete => self.complete(),
            // An event with status 200, since EventSource hides the body of other statuses.
            Step::Refused(err) => {
                self.next(&OperationResponse::invalid(err).json())?;
                self.complete()
            }
            Step::CutOff(ending) => {
                let (_, err) = close_of(ending);
                self.next(&OperationResponse::failed(&err).json())?;
                self.complete()
            }
            Step::NotRun(not_run) => match mem::replace(&mut self.out, Out::Closed) {
                Out::Unopened(responder, headers) => {
                    refuse(responder, headers, JSON, not_run);
                    Ok(())
                }
                Out::Open(_) | Out::Closed => Err(Disconnected),
            },
        }
    }

    fn poll_room(&mut self, context: &Context<'_>) -> Poll<Result<(), Disconnected>> {
        match &self.out {
            Out::Unopened(..) => Poll::Ready(Ok(())),
            Out::Open(out) => out.poll_room(context),
            Out::Closed => Poll::Ready(Err(Disconnected)),
        }
    }
}
