//! GraphQL over HTTP: POST, GET and server-sent events.
//!
//! Sources: GraphQL over HTTP (graphql.github.io/graphql-over-http), graphql-sse's "distinct
//! connections mode" (its PROTOCOL.md), Fetch standard (CORS).

use crate::access::ReadAccess;
use crate::config::{Config, Origins};
use crate::error_code::{ClientError, ErrorCode};
use crate::events::{EVENTS, EventTransport};
use crate::operation::{self, Executor, NotRun, OPERATION_BYTES, Operation, Step, Transport};
use crate::operation_response::OperationResponse;
use crate::pages;
use crate::pool::Busy;
use crate::request::{parse_body, parse_query};
use crate::response::{GRAPHQL_JSON, Headers, JSON, errors, refuse, reply, with_headers};
use crate::running::RunningOperation;
use crate::websocket;
use service::http::{self, Disconnected, Handler, Method, Request, Responder, Response};
use std::borrow::Cow;
use std::sync::Arc;

const OTHER_HOST: &str = "CORS_ORIGINS does not name this host: use localhost, an IP address, or \
     add the origin of your page";

/// Handler of the endpoint's port.
pub struct Endpoint(pub Arc<Executor>);

impl Handler for Endpoint {
    fn answer(&self, request: Request, responder: Responder) {
        let config = &self.0.app.config;
        if !allows_host(&config.origins, &request) {
            let response = if request.path() == operation::PATH {
                errors(421, format(&request), &bad_request(OTHER_HOST))
            } else {
                http::text(421, OTHER_HOST)
            };
            return responder.respond(with_headers(response, headers(config, &request)));
        }
        if request.path() != operation::PATH {
            return responder.respond(pages::response(&request, config.graphiql));
        }
        let headers = headers(config, &request);
        if let Some(response) = refusal(&request) {
            return responder.respond(with_headers(response, headers));
        }
        let (executor, address) = (self.0.clone(), request.address);
        let bytes = OPERATION_BYTES + bytes_of(&request);
        let job = move |admitted: Result<(), Busy>| match admitted {
            Ok(()) => run(&executor, &request, responder, headers),
            Err(busy) => refuse(responder, headers, format(&request), NotRun::Busy(busy)),
        };
        self.0.queries.submit(address, bytes, Box::new(job));
    }

    fn websocket(&self, handshake: Request, responder: Responder) {
        if allows_host(&self.0.app.config.origins, &handshake) {
            websocket::open(&self.0, &handshake, responder);
        } else {
            responder.respond(http::text(421, OTHER_HOST));
        }
    }
}

/// True if the request names a host of this machine. A page of another site could otherwise read
/// from this endpoint after it has let its own name lead to this machine (DNS rebinding).
fn allows_host(origins: &Origins, request: &Request) -> bool {
    request.has_local_host() || origins.have_host(request.host_name())
}

/// The response to a request that is not an operation.
fn refusal(request: &Request) -> Option<Response> {
    match request.method {
        Method::OPTIONS => Some(
            Response::new(204, Vec::new())
                .with_header("Access-Control-Allow-Methods", "GET, POST")
                .with_header("Access-Control-Allow-Headers", "Content-Type, Authorization")
                .with_header("Access-Control-Max-Age", "86400"),
        ),
        // Also prevents cross-site requests by forms: this type needs a preflight request.
        Method::POST if !is_json(request.header("content-type").unwrap_or_default()) => {
            let reason = "Content-Type: expected application/json in UTF-8";
            Some(errors(415, format(request), &bad_request(reason)))
        }
        Method::POST | Method::GET | Method::HEAD => None,
        _ => Some(
            errors(405, JSON, &bad_request("method not allowed: use GET or POST"))
                .with_header("Allow", "GET, POST, OPTIONS"),
        ),
    }
}

fn bad_request(text: impl Into<Cow<'static, str>>) -> ClientError {
    ClientError::new(ErrorCode::BadRequest, text)
}

/// Runs the operation of a request.
fn run(executor: &Arc<Executor>, request: &Request, responder: Responder, headers: Headers) {
    let format = format(request);
    let parsed = match request.method {
        Method::POST => parse_body(&request.body),
        _ => parse_query(request.query()),
    };
    let graphql = match parsed {
        Ok(graphql) => graphql,
        Err(reason) => {
            let response = errors(400, format, &bad_request(reason));
            return responder.respond(with_headers(response, headers));
        }
    };
    // An EventSource that connects again sends the id of the last event that it received.
    let last_event = request.header("last-event-id").and_then(|id| id.parse().ok());
    let running = Arc::new(RunningOperation::resumed_after(last_event));
    let may_stream = request.method != Method::HEAD && prefers_events(request);
    let app = &executor.app;
    let access = ReadAccess::without_lookup(&app.config, request.header("authorization"));
    let access = access.or_else(|token| {
        if may_stream {
            running.set_authorization(app.authorizations.add(token, &running));
        }
        ReadAccess::of_account(&app.database.store(), &token)
    });
    let access = match access {
        Ok(access) => access,
        Err(err) => {
            err.log();
            let response = errors(503, format, &err.for_client());
            return responder.respond(with_headers(response, headers));
        }
    };
    let transport: Box<dyn Transport> = if may_stream {
        Box::new(EventTransport::new(responder, headers, running.clone()))
    } else {
        Box::new(HttpTransport { reply: Some((responder, headers)), format })
    };
    let operation = Operation {
        request: graphql,
        bytes: bytes_of(request),
        access,
        address: request.address,
        // Any web page can let a browser send a GET or HEAD request. A POST request with this
        // content type needs the permission of CORS.
        may_write: request.method == Method::POST,
        may_stream,
        transport,
        running,
    };
    // An error means that the client closed the connection.
    let _ = executor.run(operation);
}

/// Size of the operation in a request.
fn bytes_of(request: &Request) -> usize {
    request.target.len() + request.body.len()
}

/// Sends one response.
struct HttpTransport {
    reply: Option<(Responder, Headers)>,
    format: &'static str,
}

impl Transport for HttpTransport {
    fn emit(&mut self, step: Step<'_>) -> Result<(), Disconnected> {
        let response = match step {
            Step::Response(response) => reply(200, self.format, response.json()),
            // With `application/json` every well-formed GraphQL response has status 200.
            Step::Refused(err) => {
                let status = if self.format == JSON { 200 } else { 400 };
                reply(status, self.format, OperationResponse::invalid(err).json())
            }
            Step::Idle | Step::Complete | Step::CutOff(_) => return Ok(()),
            Step::NotRun(not_run) => {
                if let Some((responder, headers)) = self.reply.take() {
                    refuse(responder, headers, self.format, not_run);
                }
                return Ok(());
            }
        };
        if let Some((responder, headers)) = self.reply.take() {
            responder.respond(with_headers(response, headers));
        }
        Ok(())
    }
}

/// True for the media type `application/json` in UTF-8.
fn is_json(content_type: &str) -> bool {
    let mut parts = content_type.split(';').map(str::trim);
    let is_json = parts.next().is_some_and(|it| it.eq_ignore_ascii_case(JSON));
    let is_utf_8 = |parameter: &str| {
        parameter.split_once('=').is_none_or(|(name, value)| {
            !name.trim().eq_ignore_ascii_case("charset")
                || value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        })
    };
    is_json && parts.all(is_utf_8)
}

/// The weight of `media_type` in the header Accept, in thousandths; 0 if it is not named there.
/// Source: RFC 9110, section 12.5.1.
fn weight(request: &Request, media_type: &str) -> u16 {
    let weights = request.list("accept").filter_map(|range| {
        let mut parts = range.split(';').map(str::trim);
        if !parts.next()?.eq_ignore_ascii_case(media_type) {
            return None;
        }
        let value = parts.find_map(|it| it.strip_prefix("q=").or_else(|| it.strip_prefix("Q=")));
        Some(value.map_or(1000, thousandths))
    });
    weights.max().unwrap_or(0)
}

/// Parses a weight of at most three decimals, as in `0.9`; 0 if it is invalid.
fn thousandths(weight: &str) -> u16 {
    let (whole, decimals) = weight.split_once('.').unwrap_or((weight, ""));
    let digits = format!("{whole}{decimals:0<3}");
    let is_valid = whole.len() == 1 && decimals.len() <= 3;
    let value = digits.parse().ok().filter(|value| is_valid && *value <= 1000);
    value.unwrap_or(0)
}

fn prefers_events(request: &Request) -> bool {
    let events = weight(request, EVENTS);
    events > 0 && events >= weight(request, JSON).max(weight(request, GRAPHQL_JSON))
}

fn format(request: &Request) -> &'static str {
    let graphql = weight(request, GRAPHQL_JSON);
    if graphql > 0 && graphql >= weight(request, JSON) { GRAPHQL_JSON } else { JSON }
}

/// Headers of every response: CORS lets pages of an allowed origin read it.
fn headers(config: &Config, request: &Request) -> Headers {
    let mut headers: Headers = vec![("Vary", "Origin, Accept".into())];
    if let Some(origin) = request.header("origin").filter(|it| config.origins.allow(it)) {
        headers.push(("Access-Control-Allow-Origin", origin.to_owned().into()));
        headers.push(("Access-Control-Expose-Headers", "Retry-After".into()));
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_have_three_decimals() {
        for (weight, expected) in [
            ("1", 1000),
            ("1.000", 1000),
            ("0.9", 900),
            ("0.05", 50),
            ("0.001", 1),
            ("0", 0),
            ("0.", 0),
            ("1.001", 0),
            ("2", 0),
            ("0.1234", 0),
            ("-1", 0),
            (".5", 0),
            ("x", 0),
            ("", 0),
        ] {
            assert_eq!(thousandths(weight), expected, "{weight}");
        }
    }

    #[test]
    fn json_is_accepted_in_utf_8() {
        for yes in ["application/json", "Application/JSON; charset=\"UTF-8\"", "application/json;x"]
        {
            assert!(is_json(yes), "{yes}");
        }
        for no in ["", "text/plain", "application/json; charset=latin1", "application/jsonx"] {
            assert!(!is_json(no), "{no}");
        }
    }
}
