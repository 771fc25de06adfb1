//! A client of the GraphQL endpoint as a browser has one: a websocket, protocol `graphql-transport-ws`. Source: graphql-ws,
//! PROTOCOL.md.

use crate::error::Error;
use common::env::Variable;
use serde_json::{Value, json};
use std::io::{self, ErrorKind};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::HandshakeError;
use tungstenite::http::HeaderValue;
use tungstenite::{Message, WebSocket};

/// `GRAPHQL_ENDPOINT_URL`: where GraphQL is, and GraphiQL.
pub const GRAPHQL_URL: Variable =
    Variable::required("GRAPHQL_ENDPOINT_URL", "the GraphQL endpoint, as in http://127.0.0.1:8888");

/// For the connection, the handshake, and each write.
const TIMEOUT: Duration = Duration::from_secs(5);

/// One websocket.
pub struct Connection {
    url: String,
    socket: WebSocket<TcpStream>,
}

/// What the endpoint says about the operation with an id.
#[derive(Debug, PartialEq)]
pub enum Heard {
    /// An answer: the `data`.
    Data(String, Value),
    /// The operation failed: its errors, as JSON.
    Failed(String, String),
}

impl Connection {
    /// Connects to the endpoint at `url` and says who we are: nobody.
    ///
    /// # Errors
    /// It does not answer, or not as the protocol says.
    pub fn open(url: &str) -> Result<Self, Error> {
        let url = url.trim_end_matches('/').to_owned();
        let failed = |source| failed(&url, source);
        let address = url.strip_prefix("http://").unwrap_or(&url);
        let mut request =
            format!("ws://{address}/graphql").into_client_request().map_err(failed)?;
        let protocol = HeaderValue::from_static("graphql-transport-ws");
        request.headers_mut().insert("Sec-WebSocket-Protocol", protocol);
        let stream = connect(address).map_err(|err| failed(err.into()))?;
        let (socket, _) = tungstenite::client(request, stream).map_err(|err| match err {
            HandshakeError::Failure(source) => failed(source),
            HandshakeError::Interrupted(_) => failed(io::Error::from(ErrorKind::TimedOut).into()),
        })?;
        let mut connection = Self { url, socket };
        connection.say(&json!({ "type": "connection_init" }))?;
        match connection.read()? {
            Some(message) if message["type"] == "connection_ack" => Ok(connection),
            other => {
                Err(connection.odd("no connection_ack", other.unwrap_or_default().to_string()))
            }
        }
    }

    /// Starts an operation, under an `id` that no running one has.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn ask(&mut self, id: &str, query: &str, variables: &Value) -> Result<(), Error> {
        let payload = json!({ "query": query, "variables": variables });
        self.say(&json!({ "type": "subscribe", "id": id, "payload": payload }))
    }

    /// What is said next; `None` if nothing is by `until`.
    ///
    /// # Errors
    /// The connection is lost, or the endpoint does not keep to the protocol.
    pub fn hear(&mut self, until: Instant) -> Result<Option<Heard>, Error> {
        loop {
            let wait = until.saturating_duration_since(Instant::now());
            // Zero would mean: for ever.
            let wait = wait.max(Duration::from_millis(1));
            let set = self.socket.get_ref().set_read_timeout(Some(wait));
            set.map_err(|err| failed(&self.url, err.into()))?;
            match self.read()? {
                Some(message) if message["type"] == "ping" => {
                    self.say(&json!({ "type": "pong" }))?
                }
                Some(message) => match heard(message) {
                    Ok(None) => {}
                    Ok(some) => return Ok(some),
                    Err(message) => return Err(self.odd("a message", message.to_string())),
                },
                None if Instant::now() >= until => return Ok(None),
                None => {}
            }
        }
    }

    fn say(&mut self, message: &Value) -> Result<(), Error> {
        let said = self.socket.send(Message::text(message.to_string()));
        said.map_err(|source| failed(&self.url, source))
    }

    /// A message; `None` if the time for it is over.
    fn read(&mut self) -> Result<Option<Value>, Error> {
        let text = match self.socket.read() {
            Ok(Message::Text(text)) => text,
            Ok(Message::Close(frame)) => {
                let frame = frame.map(|it| it.to_string()).unwrap_or_default();
                return Err(self.odd("the connection was closed", frame));
            }
            // The library answers a ping itself.
            Ok(_) => return Ok(None),
            Err(tungstenite::Error::Io(err))
                if matches!(err.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
            {
                return Ok(None);
            }
            Err(source) => return Err(failed(&self.url, source)),
        };
        match serde_json::from_str(&text) {
            Ok(message) => Ok(Some(message)),
            Err(_) => Err(self.odd("no JSON", text.to_string())),
        }
    }

    fn odd(&self, what: &'static str, found: String) -> Error {
        Error::Answer { what, url: self.url.clone(), found }
    }
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::from(ErrorKind::AddrNotAvailable);
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, TIMEOUT) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(TIMEOUT))?;
                stream.set_write_timeout(Some(TIMEOUT))?;
                return Ok(stream);
            }
            Err(err) => last = err,
        }
    }
    Err(last)
}

fn failed(url: &str, source: tungstenite::Error) -> Error {
    Error::Websocket { url: url.to_owned(), source: Box::new(source) }
}

/// What a message says about an operation; `None` if nothing.
fn heard(mut message: Value) -> Result<Option<Heard>, Value> {
    let Some(id) = message["id"].as_str().map(str::to_owned) else {
        return if message["type"] == "pong" { Ok(None) } else { Err(message) };
    };
    let payload = &message["payload"];
    let errors = payload["errors"].as_array().filter(|errors| !errors.is_empty());
    match (message["type"].as_str(), errors) {
        (Some("next"), Some(errors)) => {
            Ok(Some(Heard::Failed(id, Value::from(errors.clone()).to_string())))
        }
        (Some("next"), None) => {
            let data = message.pointer_mut("/payload/data").map(Value::take);
            Ok(Some(Heard::Data(id, data.unwrap_or_default())))
        }
        (Some("error"), _) => Ok(Some(Heard::Failed(id, payload.to_string()))),
        (Some("complete"), _) => Ok(None),
        _ => Err(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_from_errors_and_ends() {
        let next = json!({ "type": "next", "id": "1", "payload": { "data": { "a": 5 } } });
        assert_eq!(heard(next), Ok(Some(Heard::Data("1".to_owned(), json!({ "a": 5 })))));
        let half =
            json!({ "type": "next", "id": "1", "payload": { "data": null, "errors": ["x"] } });
        assert_eq!(heard(half), Ok(Some(Heard::Failed("1".to_owned(), r#"["x"]"#.to_owned()))));
        let error = json!({ "type": "error", "id": "2", "payload": ["y"] });
        assert_eq!(heard(error), Ok(Some(Heard::Failed("2".to_owned(), r#"["y"]"#.to_owned()))));
        assert_eq!(heard(json!({ "type": "complete", "id": "1" })), Ok(None));
        assert_eq!(heard(json!({ "type": "pong" })), Ok(None));
        let hollow = json!({ "type": "next", "id": "1", "payload": "x" });
        assert_eq!(heard(hollow), Ok(Some(Heard::Data("1".to_owned(), Value::Null))));
        for odd in [json!({ "type": "other", "id": "1" }), json!({ "type": "next" }), json!(5)] {
            assert_eq!(heard(odd.clone()), Err(odd));
        }
    }
}
