//! HTTP: GraphQL by POST and GET, and its streams as server-sent events.
//!
//! Sources: GraphQL over HTTP (graphql.github.io/graphql-over-http), graphql-sse's "distinct connections mode" (its
//! PROTOCOL.md), Fetch standard (CORS).

use crate::access;
use crate::app::App;
use crate::log_failure;
use crate::pages;
use crate::run::{self, Gone, Operation, Step};
use crate::schema::Running;
use crate::websocket;
use juniper::http::{GraphQLRequest, GraphQLResponse};
use juniper::{FieldError, GraphQLError, InputValue, OperationType};
use serde::{Deserialize, Serialize};
use service::http::{self, Handler, Handshake};
use std::collections::HashMap;
use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tiny_http::{Header, Method, Request, Response};

/// The path of everything but the pages.
pub const PATH: &str = "/graphql";

/// A visitor who has left is noticed when something is sent.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Operations that may wait for the bank or for transactions at the same time, each with a thread.
const OPERATIONS_MAX: usize = 4096;
/// Stack of such a thread: what the deepest query within the limits needs, four times over.
const STACK_BYTES: usize = 256 << 10;

const JSON: &str = "application/json";
const GRAPHQL_JSON: &str = "application/graphql-response+json";
const EVENTS: &str = "text/event-stream";

/// Answers visitors.
pub struct Endpoint(pub Arc<App>);

impl Handler for Endpoint {
    fn answer(&self, request: Request) {
        answer(&self.0, request);
    }

    fn websocket(&self, handshake: Handshake, visitor: TcpStream) {
        websocket::serve(&self.0, &handshake, visitor);
    }
}

/// A thread for an operation that may take long; counts it.
///
/// # Errors
/// There are too many.
pub fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    static RUNNING: AtomicUsize = AtomicUsize::new(0);
    struct Place;
    impl Drop for Place {
        fn drop(&mut self) {
            RUNNING.fetch_sub(1, Ordering::Relaxed);
        }
    }
    let before = RUNNING.fetch_add(1, Ordering::Relaxed);
    let place = Place;
    if before >= OPERATIONS_MAX {
        return Err(io::Error::other("too many operations"));
    }
    let run = move || {
        let _place = place;
        work();
    };
    thread::Builder::new().name(name.into()).stack_size(STACK_BYTES).spawn(run).map(drop)
}

fn answer(app: &Arc<App>, mut request: Request) {
    let (path, query) = split_target(request.url());
    let (path, query) = (path.to_owned(), query.to_owned());
    if path != PATH {
        return pages::answer(request, &path);
    }
    let cors = cors(app, &request);
    let parsed = match request.method() {
        Method::Options => {
            let mut reply = Response::empty(204);
            reply = reply.with_header(header("Access-Control-Allow-Methods", "GET, POST"));
            reply = reply
                .with_header(header("Access-Control-Allow-Headers", "Content-Type, Authorization"));
            reply = reply.with_header(header("Access-Control-Max-Age", "86400"));
            return send(request, reply, cors);
        }
        Method::Post => {
            let content_type = value(&request, "Content-Type").unwrap_or_default();
            // Also keeps forms of foreign pages out: they can't send this type without asking first.
            if !is_media_type(content_type, JSON) {
                return refuse(request, cors, 415, "Content-Type: expected application/json");
            }
            let mut body = Vec::new();
            match request.as_reader().read_to_end(&mut body) {
                Ok(_) => parse_body(&body),
                // The visitor left.
                Err(_) => return,
            }
        }
        Method::Get | Method::Head => parse_query(&query),
        _ => {
            let reply = errors(405, JSON, "only GET and POST")
                .with_header(header("Allow", "GET, POST, OPTIONS"));
            return send(request, reply, cors);
        }
    };
    let asked = match parsed {
        Ok(asked) => asked,
        Err(reason) => return refuse(request, cors, 400, &reason),
    };
    if accepts(&request, EVENTS) {
        let app = app.clone();
        // A visitor who finds no place loses the connection, as one who comes to a full door.
        let _ = spawn("events", move || stream(&app, request, &asked, cors));
        return;
    }
    let format = if accepts(&request, GRAPHQL_JSON) { GRAPHQL_JSON } else { JSON };
    let operation = run::parse(app, &asked);
    match operation.as_ref().map(|it| it.operation_type()) {
        // Waits for the bank: not on a thread that others need.
        Ok(OperationType::Mutation) if *request.method() == Method::Post => {
            drop(operation);
            execute_apart("mutation", app, request, asked, format, cors);
        }
        Ok(OperationType::Mutation) => refuse(request, cors, 405, "a mutation comes by POST"),
        Ok(OperationType::Subscription) => {
            let reason = "a subscription comes with Accept: text/event-stream, or over a websocket";
            refuse(request, cors, 406, reason);
        }
        // A query for a transfer may wait for the bank, too.
        Ok(OperationType::Query) if asked.query.contains("transfer_by_uuid") => {
            drop(operation);
            execute_apart("query", app, request, asked, format, cors);
        }
        Ok(OperationType::Query) | Err(_) => execute(app, request, &asked, operation, format, cors),
    }
}

/// Runs a query or mutation on a thread of its own. A visitor who finds no place loses the connection.
fn execute_apart(
    name: &str,
    app: &Arc<App>,
    request: Request,
    asked: GraphQLRequest,
    format: &'static str,
    cors: Vec<Header>,
) {
    let app = app.clone();
    let _ = spawn(name, move || {
        execute(&app, request, &asked, run::parse(&app, &asked), format, cors);
    });
}

/// Runs a query or mutation.
fn execute(
    app: &Arc<App>,
    request: Request,
    asked: &GraphQLRequest,
    operation: Result<Operation<'_>, GraphQLError>,
    format: &'static str,
    cors: Vec<Header>,
) {
    let viewer = match access::viewer(&app.config, &app.store, value(&request, "Authorization")) {
        Ok(viewer) => viewer,
        Err(err) => {
            log_failure(&err);
            return refuse(request, cors, 503, "the bank's store does not answer, try again");
        }
    };
    let mut reply = None;
    let _ = run::run(app, viewer, &Arc::default(), asked, operation, &mut |step| {
        reply = match step {
            Step::Answer(answer) => Some((200, json(answer))),
            // The older type keeps 200 for whatever GraphQL itself says.
            Step::Refused(err) if format == JSON => Some((200, json(&errors_of(err)))),
            Step::Refused(err) => Some((400, json(&errors_of(err)))),
            Step::Idle | Step::Complete | Step::CutOff(_) => return Ok(()),
        };
        Ok(())
    });
    if let Some((status, body)) = reply {
        send(request, http::reply(status, content_type(format), body), cors);
    }
}

/// Runs any operation as a stream of events.
fn stream(app: &Arc<App>, request: Request, asked: &GraphQLRequest, cors: Vec<Header>) {
    let operation = run::parse(app, asked);
    let is_mutation =
        operation.as_ref().is_ok_and(|it| it.operation_type() == OperationType::Mutation);
    if *request.method() == Method::Get && is_mutation {
        return refuse(request, cors, 405, "a mutation comes by POST");
    }
    let viewer = match access::viewer(&app.config, &app.store, value(&request, "Authorization")) {
        Ok(viewer) => viewer,
        Err(err) => {
            log_failure(&err);
            return refuse(request, cors, 503, "the bank's store does not answer, try again");
        }
    };
    let mut events = Events { out: request.into_writer(), put: false, sent: Instant::now() };
    let running = Arc::<Running>::default();
    let _ = events.open(&cors).map_err(|_| Gone).and_then(|()| {
        run::run(app, viewer, &running, asked, operation, &mut |step| {
            let sent = match step {
                Step::Answer(answer) => events.next(&json(answer)),
                // Still 200 and an answer: a browser's EventSource hides what comes with another status.
                Step::Refused(err) => {
                    events.next(&json(&errors_of(err))).and_then(|()| events.complete())
                }
                Step::Idle => events.idle(),
                Step::Complete => events.complete(),
                Step::CutOff(ending) => {
                    let reason = websocket::close_of(ending).1;
                    let last: GraphQLResponse = GraphQLResponse::error(FieldError::from(reason));
                    events.next(&json(&last)).and_then(|()| events.complete())
                }
            };
            sent.map_err(|_| Gone)
        })
    });
}

/// Server-sent events on their way to one visitor.
struct Events {
    out: Box<dyn Write + Send>,
    /// Something was put that may not be sent yet.
    put: bool,
    sent: Instant,
}

impl Events {
    fn open(&mut self, headers: &[Header]) -> io::Result<()> {
        let mut head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {EVENTS}\r\nCache-Control: no-cache\r\nX-Accel-Buffering: no\r\n"
        );
        for header in headers {
            head += &format!("{}: {}\r\n", header.field, header.value);
        }
        // The end of the connection is the end of the stream.
        self.send(&(head + "\r\n:\n\n"))
    }

    /// Leaves an answer for the next step, which sends it.
    fn next(&mut self, json: &str) -> io::Result<()> {
        self.put = true;
        write!(self.out, "event: next\ndata: {json}\n\n")
    }

    /// The empty data is needed: an EventSource drops an event without.
    fn complete(&mut self) -> io::Result<()> {
        self.send("event: complete\ndata:\n\n")
    }

    /// Sends what was put, and a comment if there was nothing for long.
    fn idle(&mut self) -> io::Result<()> {
        if self.put {
            self.send("")
        } else if self.sent.elapsed() < HEARTBEAT {
            Ok(())
        } else {
            self.send(":\n\n")
        }
    }

    fn send(&mut self, text: &str) -> io::Result<()> {
        (self.put, self.sent) = (false, Instant::now());
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }
}

/// A request as clients send it.
#[derive(Deserialize)]
struct Body {
    query: String,
    #[serde(rename = "operationName", default)]
    operation_name: Option<String>,
    #[serde(default)]
    variables: Option<InputValue>,
}

/// The request in JSON.
///
/// # Errors
/// What is wrong with it.
pub fn parse_body(json: &[u8]) -> Result<GraphQLRequest, String> {
    let expected = |err: serde_json::Error| {
        // Its own text could hold a piece of the body: a password.
        let (line, column) = (err.line(), err.column());
        format!(
            "line {line}, column {column}: expected JSON as in {{\"query\": \"{{ __typename }}\"}}"
        )
    };
    let Body { query, operation_name, variables } =
        serde_json::from_slice(json).map_err(expected)?;
    checked(query, operation_name, variables)
}

fn parse_query(query: &str) -> Result<GraphQLRequest, String> {
    let mut pairs: HashMap<String, String> = HashMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        pairs.insert(decode(name)?, decode(value)?);
    }
    let variables = match pairs.remove("variables").filter(|text| !text.is_empty()) {
        Some(text) => Some(serde_json::from_str(&text).map_err(|_| "variables: expected JSON")?),
        None => None,
    };
    let query = pairs.remove("query").ok_or("expected ?query=")?;
    checked(query, pairs.remove("operationName").filter(|name| !name.is_empty()), variables)
}

fn checked(
    query: String,
    operation_name: Option<String>,
    variables: Option<InputValue>,
) -> Result<GraphQLRequest, String> {
    if !matches!(variables, None | Some(InputValue::Null | InputValue::Object(_))) {
        return Err("variables: expected an object".to_owned());
    }
    Ok(GraphQLRequest::new(query, operation_name, variables))
}

/// A part of a query string as text.
fn decode(part: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
                let (Some(high), Some(low)) = (digit(), digit()) else {
                    return Err("a percent sign needs two hexadecimal digits".to_owned());
                };
                u8::try_from(high * 16 + low).unwrap_or_default()
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| "the query string is not UTF-8".to_owned())
}

fn split_target(target: &str) -> (&str, &str) {
    target.split_once('?').unwrap_or((target, ""))
}

fn value<'a>(request: &'a Request, name: &'static str) -> Option<&'a str> {
    let header = request.headers().iter().find(|header| header.field.equiv(name));
    header.map(|header| header.value.as_str())
}

fn is_media_type(value: &str, media_type: &str) -> bool {
    value.split(';').next().is_some_and(|it| it.trim().eq_ignore_ascii_case(media_type))
}

fn accepts(request: &Request, media_type: &str) -> bool {
    value(request, "Accept")
        .is_some_and(|accept| accept.split(',').any(|range| is_media_type(range, media_type)))
}

/// Headers that let the page of an allowed origin see the reply.
fn cors(app: &App, request: &Request) -> Vec<Header> {
    let allowed = value(request, "Origin").filter(|origin| app.config.origins.allow(origin));
    let vary = header("Vary", "Origin, Accept");
    match allowed.and_then(|origin| Header::from_bytes("Access-Control-Allow-Origin", origin).ok())
    {
        Some(allow) => vec![vary, allow],
        None => vec![vary],
    }
}

/// A header of ours.
pub fn header(name: &'static str, value: &'static str) -> Header {
    Header::from_bytes(name, value).expect("it is ASCII")
}

/// The answer as JSON.
pub fn json(answer: &impl Serialize) -> String {
    serde_json::to_string(answer).expect("answers have a form in JSON")
}

/// What GraphQL says to a request that it does not run.
pub fn errors_of(err: &GraphQLError) -> GraphQLResponse {
    GraphQLResponse::from_result(Err(err.clone()))
}

fn content_type(format: &'static str) -> &'static str {
    if format == JSON {
        "application/json; charset=utf-8"
    } else {
        "application/graphql-response+json; charset=utf-8"
    }
}

fn errors(status: u16, format: &'static str, text: &str) -> Response<io::Cursor<Vec<u8>>> {
    let body = serde_json::json!({ "errors": [{ "message": text }] });
    http::reply(status, content_type(format), body.to_string())
}

fn refuse(request: Request, cors: Vec<Header>, status: u16, reason: &str) {
    let format = if accepts(&request, GRAPHQL_JSON) { GRAPHQL_JSON } else { JSON };
    send(request, errors(status, format, reason), cors);
}

fn send<R: io::Read>(request: Request, mut reply: Response<R>, headers: Vec<Header>) {
    for header in headers {
        reply.add_header(header);
    }
    // An error means that the visitor left.
    let _ = request.respond(reply);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_body_is_an_object_with_a_query() {
        let parsed = parse_body(br#"{"query": "{ a }", "variables": null, "extensions": {}}"#);
        assert_eq!(parsed.unwrap().query, "{ a }");
        let named = br#"{"query": "q", "operationName": "b", "variables": {"c": [1]}}"#;
        let parsed = parse_body(named).unwrap();
        assert_eq!(parsed.operation_name.as_deref(), Some("b"));
        assert_eq!(parsed.variables().len(), 1);
        for wrong in ["", "{}", "[]", "null", r#"{"query": 1}"#, r#"[{"query": "{ a }"}]"#] {
            assert!(parse_body(wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert!(parse_body(br#"{"query": "q", "variables": "c"}"#).is_err());
        assert!(parse_body(b"{\"query\": \"\xff\"}").is_err());
        let secret = parse_body(br#"{"query": "q", "variables": {"password": "hunter22" x"#);
        assert!(!secret.unwrap_err().contains("hunter22"));
    }

    #[test]
    fn a_query_string_is_decoded() {
        let target = "query=%7B+a%20%7D&operationName=&variables=%7B%22b%22%3A%22%E2%82%AC%22%7D";
        let parsed = parse_query(target).unwrap();
        assert_eq!((parsed.query.as_str(), parsed.operation_name), ("{ a }", None));
        assert!(format!("{:?}", parsed.variables).contains('€'));
        for wrong in
            ["", "q=1", "query=%", "query=%4", "query=%zz", "query=%ff", "query=a&variables=x"]
        {
            assert!(parse_query(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in ".*") {
            let _ = parse_body(&bytes);
            let _ = parse_query(&text);
        }

        #[test]
        fn whatever_is_encoded_is_decoded(text in ".*") {
            let encoded: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
            prop_assert_eq!(decode(&encoded), Ok(text));
        }
    }
}
