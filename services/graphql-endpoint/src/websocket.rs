//! GraphQL over a websocket: the protocol `graphql-transport-ws`. Source: graphql-ws, PROTOCOL.md.
//!
//! The thread of the connection reads. Each operation has a thread that writes. They share the
//! socket, which has a lock.

mod frames;
mod handshake;

use crate::access::ReadAccess;
use crate::operation::{Disconnected, Executor, Step};
use crate::operation_thread;
use crate::request::parse_body;
use crate::response::{close_of, errors_of, json};
use crate::running::RunningOperation;
use frames::Socket;
use juniper::http::GraphQLResponse;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use service::http::Handshake;
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tungstenite::{Bytes, Message};

/// Maximum of operations of one connection at a time.
const OPERATIONS_MAX: usize = 32;
/// Timeout for the client's `connection_init`.
const INIT_TIME: Duration = Duration::from_secs(3);
/// Time without a message after which a ping is sent. After the same time without a response the
/// connection is closed.
const PING_AFTER: Duration = Duration::from_secs(10);
/// Timeout for the client to close its side.
const CLOSE_TIME: Duration = Duration::from_secs(1);
/// Maximum length of an operation id.
const ID_BYTES_MAX: usize = 256;

/// Serves a websocket connection until one side closes it.
pub fn serve(executor: &Arc<Executor>, handshake: &Handshake, client: TcpStream) {
    let accepted = match handshake::accept(&executor.app.config.origins, handshake) {
        Ok(accepted) => accepted,
        Err(refusal) => return refuse(&client, refusal),
    };
    if (&client).write_all(accepted.response.as_bytes()).is_err() {
        return;
    }
    let Ok(socket) = Socket::new(&client) else { return };
    let mut connection = Connection {
        executor: executor.clone(),
        socket: Arc::new(socket),
        authorization: accepted.authorization,
        access: None,
        operations: Arc::default(),
    };
    if accepted.offers_protocol {
        let end = connection.read_messages(&client);
        connection.operations.cancel_all();
        if let Err(Close(code, reason)) = end {
            connection.socket.close(code, &reason);
        }
    } else {
        connection.socket.close(4406, "expected the subprotocol graphql-transport-ws");
    }
    drain(&client);
}

fn refuse(client: &TcpStream, (status, reason): handshake::Refusal) {
    let length = reason.len() + 1;
    let response = format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nSec-WebSocket-Version: 13\r\n\
         Content-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\r\n{reason}\n"
    );
    // An error means that the client closed the connection.
    let _ = (&*client).write_all(response.as_bytes());
}

/// Reads and discards until the client has closed its side, at most [`CLOSE_TIME`]. Closing with
/// unread input would send a reset, which can discard the close frame.
fn drain(client: &TcpStream) {
    let _ = client.shutdown(Shutdown::Write);
    let deadline = Instant::now() + CLOSE_TIME;
    let mut buffer = [0; 1024];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || client.set_read_timeout(Some(left)).is_err() {
            return;
        }
        if matches!((&*client).read(&mut buffer), Ok(0) | Err(_)) {
            return;
        }
    }
}

/// Code and reason of a close frame.
struct Close(u16, String);

impl Close {
    fn new(code: u16, reason: &str) -> Self {
        Self(code, reason.to_owned())
    }

    fn bad_request(reason: &str) -> Self {
        Self(4400, reason.to_owned())
    }
}

/// A message from the client.
#[derive(Deserialize)]
struct ClientMessage<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    id: Option<String>,
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
}

/// A message to the client.
#[derive(Serialize)]
struct ServerMessage<'a, P> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<P>,
}

struct Connection {
    executor: Arc<Executor>,
    socket: Arc<Socket>,
    /// Header of the handshake. Browsers cannot set it.
    authorization: Option<String>,
    /// `None` until `connection_init`.
    access: Option<ReadAccess>,
    operations: Arc<Operations>,
}

/// The result of a read from the socket.
enum ReadEvent {
    Bytes(usize),
    /// Timeout or interrupt.
    Nothing,
    /// The client closed the connection, or it is lost.
    End,
}

impl Connection {
    /// Handles messages until the client closes the connection. An error is the close frame to
    /// send.
    fn read_messages(&mut self, client: &TcpStream) -> Result<(), Close> {
        let opened = Instant::now();
        let mut last_message = Instant::now();
        let mut pinged = false;
        let mut buffer = [0; 4 << 10];
        loop {
            let left = match &self.access {
                None => INIT_TIME.saturating_sub(opened.elapsed()),
                Some(_) => PING_AFTER.saturating_sub(last_message.elapsed()),
            };
            if left.is_zero() {
                if self.access.is_none() {
                    return Err(Close::new(4408, "Connection initialisation timeout"));
                }
                if pinged || self.socket.send(Message::Ping(Bytes::new())).is_err() {
                    return Ok(());
                }
                (last_message, pinged) = (Instant::now(), true);
                continue;
            }
            match read_within(client, left, &mut buffer) {
                ReadEvent::Bytes(len) => {
                    (last_message, pinged) = (Instant::now(), false);
                    if self.handle_bytes(&buffer[..len])? {
                        return Ok(());
                    }
                }
                ReadEvent::Nothing => {}
                ReadEvent::End => return Ok(()),
            }
        }
    }

    /// Handles the messages that are complete with `bytes`. True if the connection was closed.
    fn handle_bytes(&mut self, bytes: &[u8]) -> Result<bool, Close> {
        let messages = match self.socket.decode(bytes) {
            Ok(messages) => messages,
            Err(tungstenite::Error::Capacity(_)) => {
                return Err(Close::new(1009, "message exceeds 65536 bytes"));
            }
            Err(tungstenite::Error::Utf8(_)) => {
                return Err(Close::new(1007, "message is not UTF-8"));
            }
            Err(tungstenite::Error::Protocol(err)) => return Err(Close(1002, err.to_string())),
            // Closed by one of the two sides.
            Err(_) => return Ok(true),
        };
        for message in messages {
            match message {
                Message::Text(text) => self.handle_message(&text)?,
                Message::Binary(_) => return Err(Close::bad_request("expected a text message")),
                Message::Close(_) => return Ok(true),
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
        Ok(false)
    }

    fn handle_message(&mut self, text: &str) -> Result<(), Close> {
        let message: ClientMessage<'_> = serde_json::from_str(text)
            .map_err(|_| Close::bad_request("expected a message in JSON"))?;
        match (message.kind.as_str(), message.id) {
            ("connection_init", _) if self.access.is_some() => {
                Err(Close::new(4429, "Too many initialisation requests"))
            }
            ("connection_init", _) => self.initialise(message.payload),
            ("ping", _) => {
                self.send_text(r#"{"type":"pong"}"#);
                Ok(())
            }
            ("pong", _) => Ok(()),
            ("complete", Some(id)) => {
                self.operations.cancel(&id);
                Ok(())
            }
            ("subscribe", Some(id)) => match self.access.clone() {
                Some(access) => self.subscribe(id, access, message.payload),
                None => Err(Close::new(4401, "Unauthorized")),
            },
            _ => Err(Close::bad_request("expected a message of graphql-transport-ws")),
        }
    }

    fn send_text(&self, text: &str) {
        // An error means that the connection is lost, which the next read reports.
        let _ = self.socket.send(Message::text(text));
    }

    /// Handles `connection_init`. Its payload may contain the token, since browsers cannot set
    /// headers of the handshake.
    fn initialise(&mut self, payload: Option<&RawValue>) -> Result<(), Close> {
        let payload: HashMap<String, serde_json::Value> = match payload {
            Some(payload) => serde_json::from_str::<Option<_>>(payload.get())
                .map_err(|_| Close::bad_request("connection_init: expected an object"))?
                .unwrap_or_default(),
            None => HashMap::new(),
        };
        let named = payload.iter().find(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        let named = named.and_then(|(_, value)| value.as_str());
        let authorization = named.or(self.authorization.as_deref());
        let app = &self.executor.app;
        let access = ReadAccess::of(&app.config, &app.store, authorization).map_err(|err| {
            err.log();
            Close::new(1013, "the database is unavailable, try again")
        })?;
        if access == ReadAccess::None && authorization.is_some() {
            return Err(Close::new(4403, "Forbidden"));
        }
        self.access = Some(access);
        self.send_text(r#"{"type":"connection_ack"}"#);
        Ok(())
    }

    fn subscribe(
        &self,
        id: String,
        access: ReadAccess,
        payload: Option<&RawValue>,
    ) -> Result<(), Close> {
        if id.is_empty() || id.len() > ID_BYTES_MAX {
            return Err(Close::bad_request("id: expected 1 to 256 bytes"));
        }
        let payload = payload.map_or("", RawValue::get);
        let request = parse_body(payload.as_bytes()).map_err(|reason| Close(4400, reason))?;
        let running = self.operations.add(&id)?;
        let (executor, socket, operations) =
            (self.executor.clone(), self.socket.clone(), self.operations.clone());
        let spawned = operation_thread::spawn("operation", move || {
            let operation = executor.parse(&request);
            let _ = executor.run(access, &running, &request, operation, &mut |step| {
                send_step(&socket, &operations, &id, &running, &step)
            });
            operations.remove(&id, &running);
        });
        spawned.map_err(|_| Close::new(1013, "too many operations, try again"))
    }
}

fn read_within(client: &TcpStream, time: Duration, buffer: &mut [u8]) -> ReadEvent {
    if client.set_read_timeout(Some(time)).is_err() {
        return ReadEvent::End;
    }
    match (&*client).read(buffer) {
        Ok(0) => ReadEvent::End,
        Ok(len) => ReadEvent::Bytes(len),
        Err(err)
            if matches!(err.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) =>
        {
            ReadEvent::Nothing
        }
        Err(_) => ReadEvent::End,
    }
}

/// The running operations of a connection, by id.
#[derive(Default)]
struct Operations(Mutex<HashMap<String, Arc<RunningOperation>>>);

impl Operations {
    fn add(&self, id: &str) -> Result<Arc<RunningOperation>, Close> {
        let mut operations = self.lock();
        if operations.contains_key(id) {
            return Err(Close(4409, format!("Subscriber for {id} already exists")));
        }
        if operations.len() >= OPERATIONS_MAX {
            return Err(Close::new(1013, "too many operations: a connection may have 32"));
        }
        let running = Arc::new(RunningOperation::default());
        operations.insert(id.to_owned(), running.clone());
        Ok(running)
    }

    /// Removes an operation, so that its id can be reused. False if the client has completed it
    /// already.
    fn remove(&self, id: &str, running: &Arc<RunningOperation>) -> bool {
        let mut operations = self.lock();
        let is_same = operations.get(id).is_some_and(|it| Arc::ptr_eq(it, running));
        if is_same {
            operations.remove(id);
        }
        is_same
    }

    fn cancel(&self, id: &str) {
        if let Some(running) = self.lock().remove(id) {
            running.cancel();
        }
    }

    fn cancel_all(&self) {
        for (_, running) in self.lock().drain() {
            running.cancel();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<RunningOperation>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn send_step(
    socket: &Socket,
    operations: &Operations,
    id: &str,
    running: &Arc<RunningOperation>,
    step: &Step<'_>,
) -> Result<(), Disconnected> {
    let text = match step {
        Step::Response(_) if running.is_cancelled() => return Err(Disconnected),
        Step::Response(response) => {
            let text = json(&ServerMessage { id, kind: "next", payload: Some(response) });
            return socket.buffer(Message::text(text));
        }
        Step::Refused(err) => {
            if !operations.remove(id, running) {
                return Err(Disconnected);
            }
            let payload = errors_in(&errors_of(err));
            json(&ServerMessage { id, kind: "error", payload: Some(payload) })
        }
        // The reading thread sends pings.
        Step::Idle => return socket.flush(),
        Step::Complete => {
            // Removed first: a client may reuse the id as soon as it receives the message.
            if !operations.remove(id, running) {
                return Err(Disconnected);
            }
            json(&ServerMessage::<()> { id, kind: "complete", payload: None })
        }
        Step::CutOff(ending) => {
            let (code, reason) = close_of(*ending);
            socket.close(code, reason);
            return Err(Disconnected);
        }
    };
    socket.send(Message::text(text))
}

/// The errors of a response, as an array.
fn errors_in(response: &GraphQLResponse) -> serde_json::Value {
    let mut value = serde_json::to_value(response).unwrap_or_default();
    match value.get_mut("errors").map(serde_json::Value::take) {
        Some(errors @ serde_json::Value::Array(_)) => errors,
        Some(error) => serde_json::Value::Array(vec![error]),
        None => serde_json::json!([{ "message": "the operation was refused" }]),
    }
}
