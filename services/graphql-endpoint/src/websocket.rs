//! GraphQL over a websocket: the protocol `graphql-transport-ws`. Source: graphql-ws, PROTOCOL.md.
//!
//! One thread reads, the visitor's own from the door; each operation has one that writes. What they share is behind a lock that
//! is held for one message: the reader waits for bytes without it.

use crate::access::{self, Viewer};
use crate::app::App;
use crate::hub::{Ending, QUEUE_MAX};
use crate::log_failure;
use crate::run::{self, Gone, Step};
use crate::schema::Running;
use crate::web::{self, json};
use juniper::http::GraphQLResponse;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use service::http::Handshake;
use std::collections::HashMap;
use std::io::{self, Cursor, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, WebSocketContext};
use tungstenite::{Bytes, Message};

const PROTOCOL: &str = "graphql-transport-ws";

/// Operations of one visitor at a time.
const OPERATIONS_MAX: usize = 32;
/// Time until the first message must have come.
const INIT_TIME: Duration = Duration::from_secs(3);
/// Silence after which the visitor is asked whether it is there; as long again without a word, and it is not.
const PING_AFTER: Duration = Duration::from_secs(10);
/// Time for the visitor to close its side.
const CLOSE_TIME: Duration = Duration::from_secs(1);
/// Largest message from a visitor, bytes.
const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// What may wait to be written at once, bytes: a handful of transactions, which the store gives in batches.
const WRITE_BUFFER_BYTES: usize = 2 << 10;
/// Longest id of an operation, bytes.
const ID_BYTES_MAX: usize = 256;

/// Close code and reason for subscribers whose stream ended against their will.
pub fn close_of(ending: Ending) -> (u16, &'static str) {
    const _: () = assert!(QUEUE_MAX == 8192);
    match ending {
        // "Try again later"; clients that follow the protocol do.
        Ending::TooSlow => (1013, "too slow: 8192 transactions were waiting"),
        // "Service restart".
        Ending::Interrupted => (1012, "transactions may have been missed, subscribe again"),
        // "Going away".
        Ending::Stopping | Ending::Cancelled => (1001, "the service stops"),
    }
}

/// Serves a visitor who asks for a websocket, until one side closes it.
pub fn serve(app: &Arc<App>, handshake: &Handshake, visitor: TcpStream) {
    let shaken = match shake_hands(app, handshake) {
        Ok(shaken) => shaken,
        Err((status, reason)) => {
            let length = reason.len() + 1;
            let reply = format!(
                "HTTP/1.1 {status}\r\nConnection: close\r\nSec-WebSocket-Version: 13\r\n\
                 Content-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\r\n{reason}\n"
            );
            // An error means that the visitor left.
            let _ = (&visitor).write_all(reply.as_bytes());
            return;
        }
    };
    if (&visitor).write_all(shaken.reply.as_bytes()).is_err() {
        return;
    }
    let Ok(socket) = Socket::new(&visitor) else { return };
    let mut session = Session {
        app: app.clone(),
        socket: Arc::new(socket),
        authorization: shaken.authorization,
        viewer: None,
        operations: Arc::default(),
    };
    if shaken.speaks_protocol {
        let end = session.listen(&visitor);
        session.cancel_all();
        if let Err(Close(code, reason)) = end {
            session.socket.close(code, &reason);
        }
    } else {
        session.socket.close(4406, "expected the subprotocol graphql-transport-ws");
    }
    listen_to_the_end(&visitor);
}

/// Reads on until the visitor has closed its side, for a moment: a reset could overtake our close.
fn listen_to_the_end(visitor: &TcpStream) {
    let _ = visitor.shutdown(Shutdown::Write);
    let deadline = Instant::now() + CLOSE_TIME;
    let mut buffer = [0; 1024];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || visitor.set_read_timeout(Some(left)).is_err() {
            return;
        }
        if matches!((&*visitor).read(&mut buffer), Ok(0) | Err(_)) {
            return;
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Shaken {
    reply: String,
    speaks_protocol: bool,
    authorization: Option<String>,
}

/// Source: RFC 6455, section 4.2.
fn shake_hands(app: &App, handshake: &Handshake) -> Result<Shaken, (&'static str, &'static str)> {
    let value = |name: &str| {
        let header = handshake.headers.iter().find(|(it, _)| it.eq_ignore_ascii_case(name));
        header.map(|(_, value)| value.trim())
    };
    if handshake.target.split('?').next() != Some(web::PATH) {
        return Err(("404 Not Found", "there is /graphql"));
    }
    if value("Sec-WebSocket-Version") != Some("13") {
        return Err(("426 Upgrade Required", "Sec-WebSocket-Version: expected 13"));
    }
    // Sixteen bytes in base64.
    let Some(key) = value("Sec-WebSocket-Key").filter(|key| key.len() == 24) else {
        return Err(("400 Bad Request", "Sec-WebSocket-Key: expected 24 characters"));
    };
    // Browsers let every page open websockets to everywhere, and say whose page it is.
    if let Some(origin) = value("Origin") {
        let own = origin.split_once("://").map(|(_, host)| host);
        let is_own =
            own.is_some_and(|own| value("Host").is_some_and(|it| it.eq_ignore_ascii_case(own)));
        if !is_own && !app.config.origins.allow(origin) {
            return Err(("403 Forbidden", "CORS_ORIGINS does not name the origin of this page"));
        }
    }
    let speaks_protocol = handshake
        .headers
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("Sec-WebSocket-Protocol"))
        .any(|(_, value)| value.split(',').any(|it| it.trim() == PROTOCOL));
    let protocol = if speaks_protocol {
        format!("Sec-WebSocket-Protocol: {PROTOCOL}\r\n")
    } else {
        String::new()
    };
    let accept = derive_accept_key(key.as_bytes());
    Ok(Shaken {
        reply: format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n{protocol}\r\n"
        ),
        speaks_protocol,
        authorization: value("Authorization").map(str::to_owned),
    })
}

/// Why the visitor's socket is closed: code and reason.
struct Close(u16, String);

impl Close {
    fn new(code: u16, reason: &str) -> Self {
        Self(code, reason.to_owned())
    }

    fn bad_request(reason: &str) -> Self {
        Self(4400, reason.to_owned())
    }
}

/// Websocket frames on a socket that several threads write to.
struct Socket(Mutex<Frames>);

struct Frames {
    context: WebSocketContext,
    pipe: Pipe,
}

/// What has been read is here already.
struct Pipe {
    input: Cursor<Vec<u8>>,
    out: TcpStream,
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.input.read(buffer)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            n => Ok(n),
        }
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Socket {
    fn new(visitor: &TcpStream) -> io::Result<Self> {
        let config = WebSocketConfig::default()
            .read_buffer_size(1 << 10)
            .write_buffer_size(WRITE_BUFFER_BYTES)
            .max_write_buffer_size(1 << 20)
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        let context = WebSocketContext::new(Role::Server, Some(config));
        let pipe = Pipe { input: Cursor::default(), out: visitor.try_clone()? };
        Ok(Self(Mutex::new(Frames { context, pipe })))
    }

    /// Sends `message` and what was put before it.
    fn send(&self, message: Message) -> Result<(), Gone> {
        self.output(|context, pipe| context.write(pipe, message).and_then(|()| context.flush(pipe)))
    }

    /// Leaves `message` for the next [`Self::send`] or [`Self::flush`], unless much is waiting already.
    fn put(&self, message: Message) -> Result<(), Gone> {
        self.output(|context, pipe| context.write(pipe, message))
    }

    /// Sends what was put.
    fn flush(&self) -> Result<(), Gone> {
        self.output(|context, pipe| context.flush(pipe))
    }

    fn output(
        &self,
        work: impl FnOnce(&mut WebSocketContext, &mut Pipe) -> tungstenite::Result<()>,
    ) -> Result<(), Gone> {
        let mut frames = self.frames();
        let Frames { context, pipe } = &mut *frames;
        work(context, pipe).map_err(|_| {
            // Whatever was half written can't be mended; the reader sees it as the end.
            let _ = pipe.out.shutdown(Shutdown::Both);
            Gone
        })
    }

    fn close(&self, code: u16, reason: &str) {
        // A close frame has room for 123 bytes of it.
        let mut reason = reason.to_owned();
        while reason.len() > 123 {
            reason.pop();
        }
        let mut frames = self.frames();
        let Frames { context, pipe } = &mut *frames;
        let frame = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
        // An error means that it is closed already.
        let _ = context.close(pipe, Some(frame));
        let _ = context.flush(pipe);
    }

    /// Takes in bytes that have arrived, and gives the whole messages among them.
    fn take(&self, bytes: &[u8]) -> Result<Vec<Message>, tungstenite::Error> {
        let mut frames = self.frames();
        let Frames { context, pipe } = &mut *frames;
        pipe.input = Cursor::new(bytes.to_vec());
        let mut messages = Vec::new();
        loop {
            match context.read(pipe) {
                Ok(message) => messages.push(message),
                Err(tungstenite::Error::Io(err)) if err.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(messages);
                }
                Err(err) => return Err(err),
            }
        }
    }

    fn frames(&self) -> MutexGuard<'_, Frames> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Operations = Mutex<HashMap<String, Arc<Running>>>;

fn locked(operations: &Operations) -> MutexGuard<'_, HashMap<String, Arc<Running>>> {
    operations.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A message of the protocol.
#[derive(Deserialize)]
struct Incoming<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    id: Option<String>,
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct Outgoing<'a, P> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<P>,
}

/// One visitor.
struct Session {
    app: Arc<App>,
    socket: Arc<Socket>,
    /// Of the handshake, for clients that can set it there.
    authorization: Option<String>,
    /// Known once the connection is initialised.
    viewer: Option<Viewer>,
    operations: Arc<Operations>,
}

impl Session {
    /// Ends when the visitor has left or closed; else with the reason to close.
    fn listen(&mut self, visitor: &TcpStream) -> Result<(), Close> {
        let opened = Instant::now();
        let mut heard = Instant::now();
        let mut asked = false;
        let mut buffer = [0; 4 << 10];
        loop {
            let left = match &self.viewer {
                None => INIT_TIME.saturating_sub(opened.elapsed()),
                Some(_) => PING_AFTER.saturating_sub(heard.elapsed()),
            };
            if left.is_zero() {
                if self.viewer.is_none() {
                    return Err(Close::new(4408, "Connection initialisation timeout"));
                }
                if asked || self.socket.send(Message::Ping(Bytes::new())).is_err() {
                    return Ok(());
                }
                (heard, asked) = (Instant::now(), true);
                continue;
            }
            if visitor.set_read_timeout(Some(left)).is_err() {
                return Ok(());
            }
            let len = match (&*visitor).read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(len) => len,
                Err(err)
                    if matches!(
                        err.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) =>
                {
                    continue;
                }
                Err(_) => return Ok(()),
            };
            (heard, asked) = (Instant::now(), false);
            let messages = match self.socket.take(&buffer[..len]) {
                Ok(messages) => messages,
                Err(tungstenite::Error::Capacity(_)) => {
                    return Err(Close::new(1009, "a message has at most 65536 bytes"));
                }
                Err(tungstenite::Error::Utf8(_)) => return Err(Close::new(1007, "not UTF-8")),
                Err(tungstenite::Error::Protocol(err)) => {
                    return Err(Close(1002, err.to_string()));
                }
                // Closed, by them or by us.
                Err(_) => return Ok(()),
            };
            for message in messages {
                match message {
                    Message::Text(text) => self.hear(&text)?,
                    Message::Binary(_) => return Err(Close::bad_request("expected text")),
                    Message::Close(_) => return Ok(()),
                    Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
                }
            }
        }
    }

    fn hear(&mut self, text: &str) -> Result<(), Close> {
        let message: Incoming<'_> = serde_json::from_str(text)
            .map_err(|_| Close::bad_request("expected a message in JSON"))?;
        match (message.kind.as_str(), message.id) {
            ("connection_init", _) if self.viewer.is_some() => {
                Err(Close::new(4429, "Too many initialisation requests"))
            }
            ("connection_init", _) => self.init(message.payload),
            ("ping", _) => self.say(r#"{"type":"pong"}"#.to_owned()),
            ("pong", _) => Ok(()),
            ("complete", Some(id)) => {
                if let Some(running) = locked(&self.operations).remove(&id) {
                    running.cancel();
                }
                Ok(())
            }
            ("subscribe", Some(id)) => match self.viewer.clone() {
                Some(viewer) => self.subscribe(id, viewer, message.payload),
                None => Err(Close::new(4401, "Unauthorized")),
            },
            _ => Err(Close::bad_request("expected a message of graphql-transport-ws")),
        }
    }

    /// An error means that the visitor is gone, which the reader sees as well.
    fn say(&self, text: String) -> Result<(), Close> {
        let _ = self.socket.send(Message::text(text));
        Ok(())
    }

    /// Browsers can't set headers of a handshake: the payload may name the token.
    fn init(&mut self, payload: Option<&RawValue>) -> Result<(), Close> {
        let payload: HashMap<String, serde_json::Value> = match payload {
            Some(payload) => serde_json::from_str::<Option<_>>(payload.get())
                .map_err(|_| Close::bad_request("connection_init: expected an object"))?
                .unwrap_or_default(),
            None => HashMap::new(),
        };
        let named = payload.iter().find(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        let named = named.and_then(|(_, value)| value.as_str());
        let authorization = named.or(self.authorization.as_deref());
        let viewer = access::viewer(&self.app.config, &self.app.store, authorization);
        let viewer = viewer.map_err(|err| {
            log_failure(&err);
            Close::new(1013, "the bank's store does not answer, try again")
        })?;
        if viewer == Viewer::Nobody && authorization.is_some() {
            return Err(Close::new(4403, "Forbidden"));
        }
        self.viewer = Some(viewer);
        self.say(r#"{"type":"connection_ack"}"#.to_owned())
    }

    fn subscribe(
        &self,
        id: String,
        viewer: Viewer,
        payload: Option<&RawValue>,
    ) -> Result<(), Close> {
        if id.is_empty() || id.len() > ID_BYTES_MAX {
            return Err(Close::bad_request("id: expected 1 to 256 bytes"));
        }
        let payload = payload.map_or("", RawValue::get);
        let request = web::parse_body(payload.as_bytes()).map_err(|reason| Close(4400, reason))?;
        let running = Arc::new(Running::default());
        {
            let mut operations = locked(&self.operations);
            if operations.contains_key(&id) {
                return Err(Close(4409, format!("Subscriber for {id} already exists")));
            }
            if operations.len() >= OPERATIONS_MAX {
                return Err(Close::new(1013, "a connection has at most 32 operations"));
            }
            operations.insert(id.clone(), running.clone());
        }
        let (app, socket, operations) =
            (self.app.clone(), self.socket.clone(), self.operations.clone());
        let spawned = web::spawn("operation", move || {
            let operation = run::parse(&app, &request);
            let _ = run::run(&app, viewer, &running, &request, operation, &mut |step| {
                tell(&socket, &operations, &id, &running, &step)
            });
            forget(&operations, &id, &running);
        });
        spawned.map_err(|_| Close::new(1013, "too many operations, try again"))
    }

    fn cancel_all(&self) {
        for (_, running) in locked(&self.operations).drain() {
            running.cancel();
        }
    }
}

/// The id may be taken anew from now on. True if it was this operation's still: its visitor has not completed it.
fn forget(operations: &Operations, id: &str, running: &Arc<Running>) -> bool {
    let mut operations = locked(operations);
    let own = operations.get(id).is_some_and(|it| Arc::ptr_eq(it, running));
    if own {
        operations.remove(id);
    }
    own
}

/// Sends a step of an operation.
fn tell(
    socket: &Socket,
    operations: &Operations,
    id: &str,
    running: &Arc<Running>,
    step: &Step<'_>,
) -> Result<(), Gone> {
    let text = match step {
        Step::Answer(_) if running.is_cancelled() => return Err(Gone),
        Step::Answer(answer) => {
            let text = json(&Outgoing { id, kind: "next", payload: Some(answer) });
            return socket.put(Message::text(text));
        }
        Step::Refused(err) => {
            if !forget(operations, id, running) {
                return Err(Gone);
            }
            let response: GraphQLResponse = web::errors_of(err);
            let payload = errors_in(&response);
            json(&Outgoing { id, kind: "error", payload: Some(payload) })
        }
        // The reader looks whether the visitor is there.
        Step::Idle => return socket.flush(),
        Step::Complete => {
            // Forgotten first: who hears of the end may use the id again.
            if !forget(operations, id, running) {
                return Err(Gone);
            }
            json(&Outgoing::<()> { id, kind: "complete", payload: None })
        }
        Step::CutOff(ending) => {
            let (code, reason) = close_of(*ending);
            socket.close(code, reason);
            return Err(Gone);
        }
    };
    socket.send(Message::text(text))
}

/// The list of errors alone.
fn errors_in(response: &GraphQLResponse) -> serde_json::Value {
    let mut value = serde_json::to_value(response).unwrap_or_default();
    match value.get_mut("errors").map(serde_json::Value::take) {
        Some(errors @ serde_json::Value::Array(_)) => errors,
        Some(error) => serde_json::Value::Array(vec![error]),
        None => serde_json::json!([{ "message": "the operation was refused" }]),
    }
}
