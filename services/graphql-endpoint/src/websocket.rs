//! GraphQL over a websocket: the protocol `graphql-transport-ws`. Source: graphql-ws, PROTOCOL.md.
//!
//! The event loop of the HTTP server decodes messages. The threads of the operations send theirs.
//! They share the socket, which has a lock.

mod frames;
mod handshake;

use crate::access::ReadAccess;
use crate::authorizations::{Authorization, Authorized};
use crate::hub::Ending;
use crate::operation::{Executor, NotRun, OPERATION_BYTES, Operation, Step, Transport};
use crate::operation_response::OperationResponse;
use crate::pool::Busy;
use crate::request::parse_body;
use crate::response::{close_of, error_of, reason_of};
use crate::running::RunningOperation;
use frames::Socket;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use service::http::{self, Disconnected, Request, Responder, Session};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tungstenite::{Bytes, Message};

/// Maximum of operations of one connection at a time.
const OPERATIONS_MAX: usize = 32;
/// Timeout for the client's `connection_init`.
const INIT_TIME: Duration = Duration::from_secs(3);
/// Time without a message after which a ping is sent. After the same time without a response the
/// connection is closed.
const PING_AFTER: Duration = Duration::from_secs(10);
/// Maximum length of an operation id.
const ID_BYTES_MAX: usize = 256;

/// Responds to a handshake.
pub fn open(executor: &Arc<Executor>, handshake: &Request, responder: Responder) {
    let accepted = match handshake::accept(&executor.app.config.origins, handshake) {
        Ok(accepted) => accepted,
        Err((status, reason)) => {
            let response = http::text(status, reason).with_header("Sec-WebSocket-Version", "13");
            return responder.respond(response);
        }
    };
    let socket = Arc::new(Socket::new(responder.outbox()));
    let connection = Connection {
        executor: executor.clone(),
        socket: socket.clone(),
        authorization: handshake.header("authorization").map(str::to_owned),
        address: handshake.address,
        state: Arc::new(Mutex::new(State {
            access: Access::None,
            authorization: None,
            last_message: Instant::now(),
            pinged: false,
            closed: !accepted.offers_protocol,
        })),
        operations: Arc::default(),
    };
    let taken_over = responder.take_over(accepted.response.into_bytes(), Arc::new(connection));
    // An error means that the client closed the connection.
    if taken_over.is_ok() && !accepted.offers_protocol {
        socket.close(4406, "expected the subprotocol graphql-transport-ws");
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

impl<P: Serialize> ServerMessage<'_, P> {
    fn text(&self) -> Message {
        Message::text(serde_json::to_string(self).expect("messages can be serialized"))
    }
}

struct Connection {
    executor: Arc<Executor>,
    socket: Arc<Socket>,
    /// Header of the handshake. Browsers cannot set it.
    authorization: Option<String>,
    /// The client's address.
    address: IpAddr,
    state: Arc<Mutex<State>>,
    operations: Arc<Operations>,
}

struct State {
    access: Access,
    /// If the token is that of an account.
    authorization: Option<Authorization>,
    last_message: Instant,
    pinged: bool,
    /// A close frame was sent or received; further bytes are ignored.
    closed: bool,
}

/// What the client may read.
enum Access {
    /// There was no `connection_init` yet.
    None,
    /// The token of `connection_init` is being looked up.
    Pending,
    Known(ReadAccess),
}

impl Session for Connection {
    fn received(&self, bytes: &[u8]) {
        {
            let mut state = lock(&self.state);
            if state.closed {
                return;
            }
            (state.last_message, state.pinged) = (Instant::now(), false);
        }
        match self.handle_bytes(bytes) {
            Ok(false) => return,
            Ok(true) => self.socket.finish(),
            Err(Close(code, reason)) => self.socket.close(code, &reason),
        }
        // Invalid frames leave the decoder in an undefined state.
        lock(&self.state).closed = true;
    }

    fn tick(&self, now: Instant) {
        let mut state = lock(&self.state);
        let silent = now.saturating_duration_since(state.last_message);
        if matches!(state.access, Access::None) {
            // No other message is accepted before, so this is the time since the handshake.
            if silent >= INIT_TIME {
                self.socket.close(4408, "Connection initialisation timeout");
            }
        } else if silent >= PING_AFTER {
            if state.pinged || self.socket.send(Message::Ping(Bytes::new())).is_err() {
                self.socket.finish();
            }
            (state.last_message, state.pinged) = (now, true);
        }
    }

    fn closed(&self) {
        self.operations.cancel_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connection {
    /// Handles the messages that are complete with `bytes`. True if the connection was closed.
    fn handle_bytes(&self, bytes: &[u8]) -> Result<bool, Close> {
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

    fn handle_message(&self, text: &str) -> Result<(), Close> {
        let message: ClientMessage<'_> = serde_json::from_str(text)
            .map_err(|_| Close::bad_request("expected a message in JSON"))?;
        match (message.kind.as_str(), message.id) {
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
            ("subscribe", Some(id)) => self.subscribe(&id, message.payload),
            _ => Err(Close::bad_request("expected a message of graphql-transport-ws")),
        }
    }

    fn send_text(&self, text: &str) {
        // An error means that the connection is lost, which the next read reports.
        let _ = self.socket.send(Message::text(text));
    }

    /// Handles `connection_init`. Its payload may contain the token, since browsers cannot set
    /// headers of the handshake.
    fn initialise(&self, payload: Option<&RawValue>) -> Result<(), Close> {
        let payload: HashMap<String, serde_json::Value> = match payload {
            Some(payload) => serde_json::from_str::<Option<_>>(payload.get())
                .map_err(|_| Close::bad_request("connection_init: expected an object"))?
                .unwrap_or_default(),
            None => HashMap::new(),
        };
        {
            let mut state = lock(&self.state);
            if !matches!(state.access, Access::None) {
                return Err(Close::new(4429, "Too many initialisation requests"));
            }
            state.access = Access::Pending;
        }
        let named = payload.iter().find(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        let named = named.and_then(|(_, value)| value.as_str());
        let authorization = named.or(self.authorization.as_deref()).map(str::to_owned);
        let app = &self.executor.app;
        let token = match ReadAccess::without_lookup(&app.config, authorization.as_deref()) {
            Ok(access) => {
                return accept(&self.state, &self.socket, access, authorization.is_some());
            }
            Err(token) => token,
        };
        let authorization = app.authorizations.add(token, &self.socket);
        lock(&self.state).authorization = Some(authorization);
        let (executor, socket, state) =
            (self.executor.clone(), self.socket.clone(), self.state.clone());
        // The lookup waits for the database.
        let job = move |admitted: Result<(), Busy>| {
            let access = match admitted {
                Ok(()) => access(&executor, &token),
                Err(busy) => Err(Close::new(1013, reason_of(busy))),
            };
            let accepted = access.and_then(|it| accept(&state, &socket, it, true));
            if let Err(Close(code, reason)) = accepted {
                socket.close(code, &reason);
            }
        };
        self.executor.queries.submit(self.address, OPERATION_BYTES, Box::new(job));
        Ok(())
    }

    fn subscribe(&self, id: &str, payload: Option<&RawValue>) -> Result<(), Close> {
        let access = match &lock(&self.state).access {
            Access::Known(access) => access.clone(),
            Access::None | Access::Pending => return Err(Close::new(4401, "Unauthorized")),
        };
        if id.is_empty() || id.len() > ID_BYTES_MAX {
            return Err(Close::bad_request("id: expected 1 to 256 bytes"));
        }
        let payload = payload.map_or("", RawValue::get).to_owned();
        let running = Operations::add(&self.operations, id)?;
        let transport = SocketTransport { socket: self.socket.clone(), running };
        let (executor, address) = (self.executor.clone(), self.address);
        let bytes = OPERATION_BYTES + payload.len();
        let job = move |admitted| run(&executor, access, address, &payload, transport, admitted);
        self.executor.queries.submit(self.address, bytes, Box::new(job));
        Ok(())
    }
}

fn access(executor: &Executor, token: &[u8; 32]) -> Result<ReadAccess, Close> {
    ReadAccess::of_account(&executor.app.database.store(), token).map_err(|err| {
        err.log();
        Close::new(1013, &err.for_client().text)
    })
}

/// Ends the initialisation. A client with a token must be known.
fn accept(
    state: &Mutex<State>,
    socket: &Socket,
    access: ReadAccess,
    has_token: bool,
) -> Result<(), Close> {
    if access == ReadAccess::None && has_token {
        return Err(Close::new(4403, "Forbidden"));
    }
    lock(state).access = Access::Known(access);
    // An error means that the connection is closed.
    let _ = socket.send(Message::text(r#"{"type":"connection_ack"}"#));
    Ok(())
}

/// Runs the operation of a `subscribe` message.
fn run(
    executor: &Arc<Executor>,
    access: ReadAccess,
    address: IpAddr,
    payload: &str,
    mut transport: SocketTransport,
    admitted: Result<(), Busy>,
) {
    if let Err(busy) = admitted {
        // An error means that the client closed the connection.
        let _ = transport.emit(Step::NotRun(NotRun::Busy(busy)));
        return;
    }
    let running = transport.running.operation.clone();
    if running.is_cancelled() {
        return;
    }
    let request = match parse_body(payload.as_bytes()) {
        Ok(request) => request,
        Err(reason) => return transport.socket.close(4400, &reason),
    };
    let transport = Box::new(transport);
    let (may_write, may_stream) = (true, true);
    let bytes = payload.len();
    let operation =
        Operation { request, bytes, access, address, may_write, may_stream, transport, running };
    // An error means that the client closed the connection.
    let _ = executor.run(operation);
}

impl Authorized for Socket {
    fn end(&self, ending: Ending) {
        let (code, err) = close_of(ending);
        self.close(code, &err.text);
    }
}

/// The operations of a connection.
#[derive(Default)]
struct Operations(Mutex<OperationsState>);

#[derive(Default)]
struct OperationsState {
    /// By id, without those that the client has cancelled.
    by_id: HashMap<String, Arc<RunningOperation>>,
    /// Number of operations whose work has not ended yet.
    running: usize,
}

/// An operation of a connection. It counts until dropped, when its work has ended.
struct ConnectionOperation {
    operations: Arc<Operations>,
    id: String,
    operation: Arc<RunningOperation>,
}

impl Operations {
    fn add(operations: &Arc<Self>, id: &str) -> Result<ConnectionOperation, Close> {
        let mut state = lock(&operations.0);
        if state.by_id.contains_key(id) {
            return Err(Close(4409, format!("Subscriber for {id} already exists")));
        }
        if state.running >= OPERATIONS_MAX {
            return Err(Close::new(1013, "too many operations: a connection may have 32"));
        }
        let operation = Arc::<RunningOperation>::default();
        state.by_id.insert(id.to_owned(), operation.clone());
        state.running += 1;
        let (operations, id) = (operations.clone(), id.to_owned());
        Ok(ConnectionOperation { operations: operations.clone(), id, operation })
    }

    fn cancel(&self, id: &str) {
        let cancelled = lock(&self.0).by_id.remove(id);
        if let Some(operation) = cancelled {
            operation.cancel();
        }
    }

    fn cancel_all(&self) {
        let all = std::mem::take(&mut lock(&self.0).by_id);
        for (_, operation) in all {
            operation.cancel();
        }
    }
}

impl ConnectionOperation {
    /// Frees the id, so that the client can reuse it. An error means that the client has completed
    /// the operation already.
    fn free_id(&self) -> Result<(), Disconnected> {
        let mut state = lock(&self.operations.0);
        match state.by_id.get(&self.id) {
            Some(same) if Arc::ptr_eq(same, &self.operation) => {
                state.by_id.remove(&self.id);
                Ok(())
            }
            _ => Err(Disconnected),
        }
    }
}

impl Drop for ConnectionOperation {
    fn drop(&mut self) {
        let _ = self.free_id();
        lock(&self.operations.0).running -= 1;
    }
}

/// Sends the steps of one operation as messages.
struct SocketTransport {
    socket: Arc<Socket>,
    running: ConnectionOperation,
}

impl SocketTransport {
    fn send(
        &self,
        kind: &'static str,
        payload: Option<impl Serialize>,
    ) -> Result<(), Disconnected> {
        let message = ServerMessage { id: &self.running.id, kind, payload };
        self.socket.send(message.text())
    }
}

impl Transport for SocketTransport {
    fn emit(&mut self, step: Step<'_>) -> Result<(), Disconnected> {
        // The id is free before the last message: a client may reuse it as soon as it receives it.
        match step {
            Step::Response(_) if self.running.operation.is_cancelled() => Err(Disconnected),
            Step::Response(response) => {
                let (id, payload) = (&self.running.id, Some(response));
                self.socket.buffer(ServerMessage { id, kind: "next", payload }.text())
            }
            Step::Idle => self.socket.flush(),
            Step::Refused(err) => {
                self.running.free_id()?;
                self.send("error", Some(OperationResponse::invalid(err).errors()))
            }
            Step::Complete => {
                self.running.free_id()?;
                self.send("complete", None::<()>)
            }
            Step::NotRun(not_run) => {
                self.running.free_id()?;
                let response = OperationResponse::not_run(&error_of(not_run));
                self.send("error", Some(response.errors()))
            }
            Step::CutOff(ending) => {
                self.socket.end(ending);
                Err(Disconnected)
            }
        }
    }

    fn poll_room(&mut self, context: &Context<'_>) -> Poll<Result<(), Disconnected>> {
        self.socket.poll_room(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document_rules::fuzz::APP;
    use crate::schema::schema;
    use crate::web::Endpoint;
    use service::http::Limits;
    use std::net::{Ipv4Addr, TcpStream};
    use tungstenite::client::{IntoClientRequest, client};

    #[test]
    fn ping_is_answered_without_another_message() {
        let executor = Executor::start(schema(true), APP.clone()).unwrap();
        let limits = Limits { connections: 4, ..Limits::default() };
        let local = (Ipv4Addr::LOCALHOST, 0).into();
        let addr = http::serve(local, limits, Endpoint(executor)).unwrap().addr;
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let mut request = format!("ws://{addr}/graphql").into_client_request().unwrap();
        let protocol = handshake::PROTOCOL.parse().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", protocol);
        let (mut socket, _) = client(request, stream).unwrap();
        for payload in ["a", "b"] {
            socket.send(Message::Ping(payload.into())).unwrap();
            assert_eq!(socket.read().unwrap(), Message::Pong(payload.into()));
        }
    }
}
