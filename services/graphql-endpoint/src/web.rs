//! GraphQL over HTTP: POST, GET and server-sent events.
//!
//! Sources: GraphQL over HTTP (graphql.github.io/graphql-over-http), graphql-sse's "distinct
//! connections mode" (its PROTOCOL.md), Fetch standard (CORS).

use crate::access::ReadAccess;
use crate::app::App;
use crate::document_rules::Effect;
use crate::events::{EVENTS, EventWriter};
use crate::operation::{self, Disconnected, Executor, Step, ValidOperation};
use crate::operation_thread;
use crate::pages;
use crate::request::{parse_body, parse_query};
use crate::response::{close_of, errors_of, header, json};
use crate::running::RunningOperation;
use crate::websocket;
use juniper::http::{GraphQLRequest, GraphQLResponse};
use juniper::{FieldError, GraphQLError, OperationType};
use service::http::{self, Handler, Handshake};
use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use tiny_http::{Header, Method, Request, Response};

const JSON: &str = "application/json";
const GRAPHQL_JSON: &str = "application/graphql-response+json";
const POST_REQUIRED: &str = "an operation that opens an account or moves money requires POST";
const UNAVAILABLE: &str = "the database is unavailable, try again";

/// Handler of the endpoint's port.
pub struct Endpoint(pub Arc<Executor>);

impl Handler for Endpoint {
    fn answer(&self, request: Request) {
        answer(&self.0, request);
    }

    fn websocket(&self, handshake: Handshake, client: TcpStream) {
        websocket::serve(&self.0, &handshake, client);
    }
}

fn answer(executor: &Arc<Executor>, mut request: Request) {
    let (path, query) = split_target(request.url());
    let (path, query) = (path.to_owned(), query.to_owned());
    if path != operation::PATH {
        return pages::answer(request, &path);
    }
    let cors = cors(&executor.app, &request);
    let parsed = match request.method() {
        Method::Options => return send(request, preflight(), cors),
        Method::Post => {
            let content_type = value(&request, "Content-Type").unwrap_or_default();
            // Also prevents cross-site requests by forms: this type needs a preflight request.
            if !is_media_type(content_type, JSON) {
                return refuse(request, cors, 415, "Content-Type: expected application/json");
            }
            let mut body = Vec::new();
            match request.as_reader().read_to_end(&mut body) {
                Ok(_) => parse_body(&body),
                // The client closed the connection.
                Err(_) => return,
            }
        }
        Method::Get | Method::Head => parse_query(&query),
        _ => {
            let reply = errors(405, JSON, "method not allowed: use GET or POST")
                .with_header(header("Allow", "GET, POST, OPTIONS"));
            return send(request, reply, cors);
        }
    };
    match parsed {
        Ok(graphql) => dispatch(executor, HttpOperation { request, graphql, cors }),
        Err(reason) => refuse(request, cors, 400, &reason),
    }
}

/// The response to a CORS preflight request, without the headers of [`cors`].
fn preflight() -> Response<io::Empty> {
    Response::empty(204)
        .with_header(header("Access-Control-Allow-Methods", "GET, POST"))
        .with_header(header("Access-Control-Allow-Headers", "Content-Type, Authorization"))
        .with_header(header("Access-Control-Max-Age", "86400"))
}

/// An HTTP request and the GraphQL request in it.
struct HttpOperation {
    request: Request,
    graphql: GraphQLRequest,
    /// CORS headers of the response.
    cors: Vec<Header>,
}

impl HttpOperation {
    fn refuse(self, status: u16, reason: &str) {
        refuse(self.request, self.cors, status, reason);
    }

    /// True if `operation` has an effect and this is not a POST request. Any web page can let a
    /// browser send a GET or HEAD request. A POST request with this content type needs the
    /// permission of CORS.
    fn lacks_post(&self, operation: &Result<ValidOperation<'_>, GraphQLError>) -> bool {
        *self.request.method() != Method::Post
            && operation.as_ref().is_ok_and(|it| it.effect == Effect::Writes)
    }

    fn format(&self) -> &'static str {
        if accepts(&self.request, GRAPHQL_JSON) { GRAPHQL_JSON } else { JSON }
    }

    fn access(&self, app: &App) -> Option<ReadAccess> {
        let authorization = value(&self.request, "Authorization");
        ReadAccess::of(&app.config, &app.store, authorization).map_err(|err| err.log()).ok()
    }
}

/// Runs an operation on this thread, or on its own thread if it waits for an outcome or for
/// transactions. If there are too many such threads, the connection is closed without a response,
/// as a listener at its limit does.
fn dispatch(executor: &Arc<Executor>, http: HttpOperation) {
    if accepts(&http.request, EVENTS) && *http.request.method() != Method::Head {
        let executor = executor.clone();
        let _ = operation_thread::spawn("events", move || stream(&executor, http));
        return;
    }
    let operation = executor.parse(&http.graphql);
    if http.lacks_post(&operation) {
        drop(operation);
        return http.refuse(405, POST_REQUIRED);
    }
    match operation.as_ref().map(ValidOperation::operation_type) {
        Ok(OperationType::Mutation) => {
            drop(operation);
            execute_apart("mutation", executor, http);
        }
        Ok(OperationType::Subscription) => {
            drop(operation);
            let reason = "a subscription requires Accept: text/event-stream or a websocket";
            http.refuse(406, reason);
        }
        Ok(OperationType::Query) | Err(_) => {
            let running = Arc::new(RunningOperation::without_waiting());
            let response = execute(executor, &http, operation, &running);
            if running.would_wait() {
                // A resolver must wait for an outcome.
                execute_apart("query", executor, http);
            } else {
                respond(http, response);
            }
        }
    }
}

/// Runs a query or mutation on its own thread.
fn execute_apart(name: &str, executor: &Arc<Executor>, http: HttpOperation) {
    let executor = executor.clone();
    let _ = operation_thread::spawn(name, move || {
        let operation = executor.parse(&http.graphql);
        let response = execute(&executor, &http, operation, &Arc::default());
        respond(http, response);
    });
}

/// Runs a query or mutation. Returns status and body of the response.
fn execute(
    executor: &Executor,
    http: &HttpOperation,
    operation: Result<ValidOperation<'_>, GraphQLError>,
    running: &Arc<RunningOperation>,
) -> Option<(u16, String)> {
    let format = http.format();
    let Some(access) = http.access(&executor.app) else {
        return Some((503, error_body(UNAVAILABLE)));
    };
    let mut response = None;
    let _ = executor.run(access, running, &http.graphql, operation, &mut |step| {
        response = match step {
            Step::Response(result) => Some((200, json(result))),
            // With `application/json` every well-formed GraphQL response has status 200.
            Step::Refused(err) if format == JSON => Some((200, json(&errors_of(err)))),
            Step::Refused(err) => Some((400, json(&errors_of(err)))),
            Step::Idle | Step::Complete | Step::CutOff(_) => return Ok(()),
        };
        Ok(())
    });
    response
}

fn respond(http: HttpOperation, response: Option<(u16, String)>) {
    if let Some((status, body)) = response {
        let reply = http::reply(status, content_type(http.format()), body);
        send(http.request, reply, http.cors);
    }
}

/// Runs any operation and sends its results as server-sent events.
fn stream(executor: &Executor, http: HttpOperation) {
    let operation = executor.parse(&http.graphql);
    if http.lacks_post(&operation) {
        drop(operation);
        return http.refuse(405, POST_REQUIRED);
    }
    let Some(access) = http.access(&executor.app) else {
        drop(operation);
        return http.refuse(503, UNAVAILABLE);
    };
    let mut events = EventWriter::new(http.request.into_writer());
    let running = Arc::<RunningOperation>::default();
    let _ = events.open(&http.cors).map_err(|_| Disconnected).and_then(|()| {
        executor.run(access, &running, &http.graphql, operation, &mut |step| {
            let sent = match step {
                Step::Response(response) => events.next(&json(response)),
                // An event with status 200, since EventSource hides the body of other statuses.
                Step::Refused(err) => {
                    events.next(&json(&errors_of(err))).and_then(|()| events.complete())
                }
                Step::Idle => events.idle(),
                Step::Complete => events.complete(),
                Step::CutOff(ending) => {
                    let reason = close_of(ending).1;
                    let last: GraphQLResponse = GraphQLResponse::error(FieldError::from(reason));
                    events.next(&json(&last)).and_then(|()| events.complete())
                }
            };
            sent.map_err(|_| Disconnected)
        })
    });
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

/// CORS headers, which let pages of an allowed origin read the response.
fn cors(app: &App, request: &Request) -> Vec<Header> {
    let allowed = value(request, "Origin").filter(|origin| app.config.origins.allow(origin));
    let vary = header("Vary", "Origin, Accept");
    match allowed.and_then(|origin| Header::from_bytes("Access-Control-Allow-Origin", origin).ok())
    {
        Some(allow) => vec![vary, allow],
        None => vec![vary],
    }
}

fn content_type(format: &'static str) -> &'static str {
    if format == JSON {
        "application/json; charset=utf-8"
    } else {
        "application/graphql-response+json; charset=utf-8"
    }
}

fn errors(status: u16, format: &'static str, text: &str) -> Response<io::Cursor<Vec<u8>>> {
    http::reply(status, content_type(format), error_body(text))
}

fn error_body(text: &str) -> String {
    serde_json::json!({ "errors": [{ "message": text }] }).to_string()
}

fn refuse(request: Request, cors: Vec<Header>, status: u16, reason: &str) {
    let format = if accepts(&request, GRAPHQL_JSON) { GRAPHQL_JSON } else { JSON };
    send(request, errors(status, format, reason), cors);
}

fn send<R: io::Read>(request: Request, mut reply: Response<R>, headers: Vec<Header>) {
    for header in headers {
        reply.add_header(header);
    }
    // An error means that the client closed the connection.
    let _ = request.respond(reply);
}
