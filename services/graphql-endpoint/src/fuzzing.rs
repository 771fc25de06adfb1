//! Entry points of the fuzz targets in the folder fuzz: what clients send to the endpoint, and its
//! configuration. The endpoint runs without servers.

use crate::config::Config;
use crate::document_rules::fuzz::{APP, Generator, run};
use crate::operation::{Executor, OPERATION_BYTES};
use crate::pool::Job;
use crate::request::{parse_body, parse_query};
use crate::schema::schema;
use crate::web::Endpoint;
use juniper::http::GraphQLRequest;
use serde_json::{Value, json};
use service::env::{self, Env};
use service::http::fuzzing::{after_head, exchange};
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::sync::LazyLock;
use std::sync::mpsc::channel;
use tungstenite::Message;
use tungstenite::protocol::{Role, WebSocketContext};

static ENDPOINT: LazyLock<Endpoint> = LazyLock::new(|| {
    let executor = Executor::start(schema(true), APP.clone());
    Endpoint(executor.expect("threads can be started"))
});

/// Reads the variables of the endpoint.
pub fn configuration(env: &Env<'_>) -> Result<(), env::Error> {
    Config::from_env(env).map(drop)
}

/// Sends an HTTP request to the endpoint.
pub fn http_requests(bytes: &[u8]) {
    exchange(&*ENDPOINT, bytes, &[], 1, || {});
}

/// Runs a document and, after a zero byte each, its variables and the name of an operation.
pub fn documents(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let mut parts = text.split('\0');
    let query = json!(parts.next());
    let variables = parts.next().filter(|text| !text.is_empty()).unwrap_or("null");
    let name = json!(parts.next());
    run(&format!(r#"{{"query":{query},"variables":{variables},"operationName":{name}}}"#));
}

/// Runs a document and variables that are generated from the grammar by the input.
pub fn generated_documents(bytes: &[u8]) {
    let (numbers, _) = bytes.as_chunks();
    let numbers: Vec<u16> = numbers.iter().map(|number| u16::from_le_bytes(*number)).collect();
    run(&Generator::new(&numbers).request());
}

/// Parses a query string, and what it contains as another query string and as a JSON body.
pub fn query_strings(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let Ok(request) = parse_query(text) else { return };
    let GraphQLRequest { query, operation_name, variables, .. } = &request;
    let name_bytes = operation_name.as_deref().map_or(0, str::len);
    assert!(query.len() + name_bytes <= text.len());
    let variables = json!(variables).to_string();
    // The last digit of a number with a fraction may change.
    if variables.contains(['.', 'e', 'E']) {
        return;
    }
    let encode = |text: &str| text.bytes().map(|it| format!("%{it:02x}")).collect::<String>();
    let name = operation_name.as_deref().unwrap_or_default();
    let [encoded, encoded_name, encoded_variables] = [query, name, &variables].map(encode);
    let again =
        format!("variables={encoded_variables}&operationName={encoded_name}&query={encoded}");
    let body = json!({ "query": query, "operationName": operation_name });
    let body = body.to_string().replacen('{', &format!("{{\"variables\":{variables},"), 1);
    for again in [parse_query(&again), parse_body(body.as_bytes())] {
        let again = again.expect("the parts of a request are a request");
        assert_eq!((&again.query, &again.operation_name), (query, operation_name));
        assert_eq!(json!(again.variables).to_string(), variables);
    }
}

const HANDSHAKE: &[u8] = b"GET /graphql HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n";
const TEXT: u8 = 1;
const PING: u8 = 9;

/// Sends messages to a websocket and checks what it sends. The first two bytes are the size of the
/// pieces in which they arrive. Each line is a text message. After a zero byte it is frames as they
/// are, after a byte 1 the payload of a ping.
pub fn websocket_messages(bytes: &[u8]) {
    let Some((size, lines)) = bytes.split_first_chunk() else { return };
    let (mut frames, mut pings, mut is_framed) = (Vec::new(), 0, true);
    for line in lines.split(|byte| *byte == b'\n') {
        match line {
            [0, raw @ ..] => {
                frames.extend_from_slice(raw);
                is_framed = false;
            }
            [1, payload @ ..] => {
                pings += 1;
                add_frame(&mut frames, PING, &payload[..payload.len().min(125)]);
            }
            text => add_frame(&mut frames, TEXT, text),
        }
    }
    let size = usize::from(u16::from_le_bytes(*size)) + 1;
    let received = exchange(&*ENDPOINT, HANDSHAKE, &frames, size, wait_for_operations);
    let received = received.expect("the handshake is a request");
    let (pongs, is_closed) = check_messages(after_head(&received));
    // A ping after a message that closes the connection is not answered.
    assert!(!is_framed || pongs == pings || (is_closed && pongs < pings), "{pongs} of {pings}");
}

/// Appends a frame with a mask of zeros.
fn add_frame(frames: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    frames.push(0x80 | opcode);
    match payload.len() {
        len @ 0..126 => frames.push(0x80 | len as u8),
        len => {
            frames.push(0x80 | 127);
            frames.extend((len as u64).to_be_bytes());
        }
    }
    frames.extend([0; 4]);
    frames.extend_from_slice(payload);
}

/// Waits until the operations that were submitted so far have begun.
fn wait_for_operations() {
    let (sender, begun) = channel::<()>();
    let job: Job = Box::new(move |_| drop(sender));
    ENDPOINT.0.queries.submit(Ipv4Addr::LOCALHOST.into(), OPERATION_BYTES, job);
    // An error, since nothing is sent: the job has dropped the sender.
    let _ = begun.recv();
}

/// Reads the messages of the endpoint as a client. Returns the number of pongs, and whether a close
/// frame has ended the connection.
fn check_messages(received: &[u8]) -> (usize, bool) {
    let mut stream = Received(received);
    let mut client = WebSocketContext::new(Role::Client, None);
    let (mut pongs, mut acknowledged) = (0, false);
    loop {
        match client.read(&mut stream) {
            Ok(Message::Text(text)) => {
                let message: Value = serde_json::from_str(&text).expect("messages are JSON");
                match message["type"].as_str() {
                    Some("connection_ack") => {
                        assert!(!acknowledged);
                        acknowledged = true;
                    }
                    Some("pong") => {}
                    Some("next" | "error" | "complete") => {
                        assert!(acknowledged && message["id"].is_string(), "{message}");
                    }
                    _ => panic!("{message}"),
                }
            }
            Ok(Message::Pong(_)) => pongs += 1,
            Ok(Message::Close(_)) => {
                assert!(stream.0.is_empty(), "bytes after a close frame");
                return (pongs, true);
            }
            Err(tungstenite::Error::Io(_)) if stream.0.is_empty() => return (pongs, false),
            other => panic!("{other:?}"),
        }
    }
}

/// Bytes from the endpoint. What the client sends is discarded.
struct Received<'a>(&'a [u8]);

impl Read for Received<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            read => Ok(read),
        }
    }
}

impl Write for Received<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
