//! Websocket frames on a shared socket.

use service::http::{Disconnected, Outbox};
use std::io::{self, Cursor, Read, Write};
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use tungstenite::Message;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, WebSocketContext};

/// Maximum size of a client's message.
const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Messages are sent when they have this size together, bytes.
const BUFFER_BYTES: usize = 4 << 10;

/// A websocket that several threads write to. The lock is held for one message.
pub struct Socket {
    frames: Mutex<Frames>,
    out: Outbox,
}

struct Frames {
    context: WebSocketContext,
    stream: MemoryStream,
}

/// Bytes that the client sent, and bytes for the client.
#[derive(Default)]
struct MemoryStream {
    input: Cursor<Vec<u8>>,
    output: Vec<u8>,
}

impl Read for MemoryStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.input.read(buffer)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            n => Ok(n),
        }
    }
}

impl Write for MemoryStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Socket {
    /// A websocket whose frames go to `out`.
    pub fn new(out: Outbox) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(1 << 10)
            .write_buffer_size(0)
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        let context = WebSocketContext::new(Role::Server, Some(config));
        Self { frames: Mutex::new(Frames { context, stream: MemoryStream::default() }), out }
    }

    /// Sends all buffered messages, then `message`.
    pub fn send(&self, message: Message) -> Result<(), Disconnected> {
        self.buffer(message)?;
        self.flush()
    }

    /// Buffers `message` until the next [`Self::send`] or [`Self::flush`], or until the buffer is
    /// full.
    pub fn buffer(&self, message: Message) -> Result<(), Disconnected> {
        let mut frames = self.frames();
        let Frames { context, stream } = &mut *frames;
        // An error means that one side has sent a close frame.
        context.write(stream, message).map_err(|_| Disconnected)?;
        if stream.output.len() < BUFFER_BYTES { Ok(()) } else { self.send_output(frames) }
    }

    /// Sends all buffered messages.
    pub fn flush(&self) -> Result<(), Disconnected> {
        self.send_output(self.frames())
    }

    /// The lock is held meanwhile, since the order of frames matters.
    fn send_output(&self, mut frames: MutexGuard<'_, Frames>) -> Result<(), Disconnected> {
        let output = mem::take(&mut frames.stream.output);
        if output.is_empty() { Ok(()) } else { self.out.send(output) }
    }

    /// Sends a close frame and closes the connection.
    pub fn close(&self, code: u16, reason: &str) {
        // Maximum length of the reason in a close frame (RFC 6455, section 5.5).
        let mut reason = reason.to_owned();
        while reason.len() > 123 {
            reason.pop();
        }
        let mut frames = self.frames();
        let Frames { context, stream } = &mut *frames;
        let frame = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
        // Errors mean that the connection is closed already.
        let _ = context.close(stream, Some(frame));
        let _ = self.send_output(frames);
        self.out.finish();
    }

    /// Closes the connection after what was sent.
    pub fn finish(&self) {
        let _ = self.flush();
        self.out.finish();
    }

    /// Ready when the client has received most of what was sent.
    pub fn poll_room(&self, context: &Context<'_>) -> Poll<Result<(), Disconnected>> {
        self.out.poll_room(context)
    }

    /// Decodes received bytes and answers pings. Returns the messages that are complete. An error
    /// means invalid frames or a closed connection.
    pub fn decode(&self, bytes: &[u8]) -> Result<Vec<Message>, tungstenite::Error> {
        let mut frames = self.frames();
        let Frames { context, stream } = &mut *frames;
        stream.input = Cursor::new(bytes.to_vec());
        let mut messages = Vec::new();
        loop {
            match context.read(stream) {
                Ok(message) => messages.push(message),
                Err(tungstenite::Error::Io(err)) if err.kind() == io::ErrorKind::WouldBlock => {
                    // The pongs. An error means that the connection is closed.
                    let _ = self.send_output(frames);
                    return Ok(messages);
                }
                Err(err) => return Err(err),
            }
        }
    }

    fn frames(&self) -> MutexGuard<'_, Frames> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
