//! A WebSocket connection for JSON messages, read with a deadline.

use crate::error::Error;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde_json::Value;
use std::io::{self, ErrorKind};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::HandshakeError;
use tungstenite::http::HeaderValue;
use tungstenite::{Message, WebSocket};

/// Timeout of the connection, of the handshake, and of each write.
pub const TIMEOUT: Duration = Duration::from_secs(5);

pub struct Socket {
    url: String,
    socket: WebSocket<TcpStream>,
}

impl Socket {
    /// Connects to `url`, as in `ws://127.0.0.1:8888/graphql`, with the subprotocol `protocol` if
    /// there is one.
    pub fn open(url: &str, protocol: Option<&'static str>) -> Result<Self, Error> {
        let failed = |source| failed(url, source);
        let mut request = url.into_client_request().map_err(failed)?;
        if let Some(protocol) = protocol {
            let protocol = HeaderValue::from_static(protocol);
            request.headers_mut().insert("Sec-WebSocket-Protocol", protocol);
        }
        let address = request.uri().authority().map_or(String::new(), ToString::to_string);
        let stream = connect(&address).map_err(|err| failed(err.into()))?;
        let (socket, _) = tungstenite::client(request, stream).map_err(|err| match err {
            HandshakeError::Failure(source) => failed(source),
            HandshakeError::Interrupted(_) => failed(io::Error::from(ErrorKind::TimedOut).into()),
        })?;
        Ok(Self { url: url.to_owned(), socket })
    }

    pub fn send(&mut self, message: &Value) -> Result<(), Error> {
        let sent = self.socket.send(Message::text(message.to_string()));
        sent.map_err(|source| failed(&self.url, source))
    }

    /// Waits until `until` for a message. The timeouts of sockets are not exact enough: Linux
    /// rounds them up to clock ticks of 4 ms, plus one, and a user would begin its steps late.
    pub fn receive(&mut self, until: Instant) -> Result<Option<Value>, Error> {
        self.set_nonblocking(true)?;
        let received = self.read_until(until);
        self.set_nonblocking(false)?;
        received
    }

    fn set_nonblocking(&self, nonblocking: bool) -> Result<(), Error> {
        let set = self.socket.get_ref().set_nonblocking(nonblocking);
        set.map_err(|err| failed(&self.url, err.into()))
    }

    fn read_until(&mut self, until: Instant) -> Result<Option<Value>, Error> {
        loop {
            match self.socket.read() {
                Ok(Message::Text(text)) => {
                    let message = serde_json::from_str(&text);
                    return message
                        .map(Some)
                        .map_err(|_| self.odd("invalid JSON", text.to_string()));
                }
                Ok(Message::Close(frame)) => {
                    let frame = frame.map(|it| it.to_string()).unwrap_or_default();
                    return Err(self.odd("a closed connection", frame));
                }
                // The library answers pings.
                Ok(_) => {}
                Err(tungstenite::Error::Io(err)) if err.kind() == ErrorKind::WouldBlock => {
                    let wait = until.saturating_duration_since(Instant::now());
                    if wait.is_zero() {
                        return Ok(None);
                    }
                    let wait = Timespec::try_from(wait).expect("deadlines are seconds away");
                    let mut sockets = [PollFd::new(self.socket.get_ref(), PollFlags::IN)];
                    match poll(&mut sockets, Some(&wait)) {
                        // A wait is interrupted when the process continues after a stop.
                        Ok(_) | Err(Errno::INTR) => {}
                        Err(err) => return Err(failed(&self.url, io::Error::from(err).into())),
                    }
                }
                Err(source) => return Err(failed(&self.url, source)),
            }
        }
    }

    /// An error about an unexpected message.
    pub fn odd(&self, what: &'static str, found: String) -> Error {
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
