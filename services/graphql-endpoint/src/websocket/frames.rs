//! Websocket frames on a shared socket.

use crate::operation::Disconnected;
use std::io::{self, Cursor, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tungstenite::Message;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, WebSocketContext};

/// Maximum size of a client's message.
const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Write buffer of a connection. It holds several transactions, since the store publishes batches.
const WRITE_BUFFER_BYTES: usize = 2 << 10;

/// A websocket that several threads write to. The lock is held for one message.
pub struct Socket(Mutex<Frames>);

struct Frames {
    context: WebSocketContext,
    stream: SplitStream,
}

/// Bytes that were read from the socket, and the socket for output.
struct SplitStream {
    input: Cursor<Vec<u8>>,
    out: TcpStream,
}

impl Read for SplitStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.input.read(buffer)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            n => Ok(n),
        }
    }
}

impl Write for SplitStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Socket {
    /// A websocket on a clone of `client`.
    pub fn new(client: &TcpStream) -> io::Result<Self> {
        let config = WebSocketConfig::default()
            .read_buffer_size(1 << 10)
            .write_buffer_size(WRITE_BUFFER_BYTES)
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        let context = WebSocketContext::new(Role::Server, Some(config));
        let stream = SplitStream { input: Cursor::default(), out: client.try_clone()? };
        Ok(Self(Mutex::new(Frames { context, stream })))
    }

    /// Sends all buffered messages, then `message`.
    pub fn send(&self, message: Message) -> Result<(), Disconnected> {
        self.output(|context, stream| {
            context.write(stream, message).and_then(|()| context.flush(stream))
        })
    }

    /// Buffers `message` until the next [`Self::send`] or [`Self::flush`], or until the buffer is
    /// full.
    pub fn buffer(&self, message: Message) -> Result<(), Disconnected> {
        self.output(|context, stream| context.write(stream, message))
    }

    /// Sends all buffered messages.
    pub fn flush(&self) -> Result<(), Disconnected> {
        self.output(|context, stream| context.flush(stream))
    }

    fn output(
        &self,
        work: impl FnOnce(&mut WebSocketContext, &mut SplitStream) -> tungstenite::Result<()>,
    ) -> Result<(), Disconnected> {
        let mut frames = self.frames();
        let Frames { context, stream } = &mut *frames;
        work(context, stream).map_err(|_| {
            // A frame may be incomplete, so the connection is unusable. The reading thread notices
            // the shutdown.
            let _ = stream.out.shutdown(Shutdown::Both);
            Disconnected
        })
    }

    /// Sends a close frame.
    pub fn close(&self, code: u16, reason: &str) {
        // Maximum length of the reason in a close frame (RFC 6455, section 5.5).
        let mut reason = reason.to_owned();
        while reason.len() > 123 {
            reason.pop();
        }
        let mut frames = self.frames();
        let Frames { context, stream } = &mut *frames;
        let frame = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
        // An error means that the connection is closed already.
        let _ = context.close(stream, Some(frame));
        let _ = context.flush(stream);
    }

    /// Decodes received bytes. Returns the messages that are complete. An error means invalid
    /// frames or a closed connection.
    pub fn decode(&self, bytes: &[u8]) -> Result<Vec<Message>, tungstenite::Error> {
        let mut frames = self.frames();
        let Frames { context, stream } = &mut *frames;
        stream.input = Cursor::new(bytes.to_vec());
        let mut messages = Vec::new();
        loop {
            match context.read(stream) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener};
    use std::thread;
    use tungstenite::WebSocket;

    /// A thousand transactions with long descriptions exceed a mebibyte.
    #[test]
    fn large_message_is_sent() {
        const BYTES: usize = 10 << 20;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let reader = thread::spawn(move || {
            WebSocket::from_raw_socket(client, Role::Client, None).read().unwrap().len()
        });
        let socket = Socket::new(&server).unwrap();
        assert!(socket.send(Message::text("x".repeat(BYTES))).is_ok());
        assert_eq!(reader.join().unwrap(), BYTES);
    }
}
