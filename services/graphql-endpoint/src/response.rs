//! Parts of responses that all transports share: JSON, errors, close codes.

use crate::hub::{Ending, LOG_MAX};
use crate::operation::Step;
use crate::pool::Busy;
use juniper::GraphQLError;
use juniper::http::GraphQLResponse;
use serde::Serialize;
use service::http::{self, Responder, Response};
use std::borrow::Cow;

pub const JSON: &str = "application/json";
pub const GRAPHQL_JSON: &str = "application/graphql-response+json";
const POST_REQUIRED: &str = "an operation that opens an account or moves money requires POST";
const STREAM_REQUIRED: &str = "a subscription requires Accept: text/event-stream or a websocket";

/// Headers of a response.
pub type Headers = Vec<(&'static str, Cow<'static, str>)>;

pub fn json(response: &impl Serialize) -> String {
    serde_json::to_string(response).expect("responses can be serialized")
}

/// The response to an invalid operation.
pub fn errors_of(err: &GraphQLError) -> GraphQLResponse {
    GraphQLResponse::from_result(Err(err.clone()))
}

/// Message for a client whose operation does not run.
pub fn reason_of(busy: Busy) -> &'static str {
    match busy {
        Busy::Client => "too many operations from this address, try again",
        Busy::All => "busy, try again",
    }
}

/// Websocket close code and reason for subscribers whose stream was cut off.
pub fn close_of(ending: Ending) -> (u16, &'static str) {
    const _: () = assert!(LOG_MAX == 8192);
    match ending {
        // 1013 is "Try again later": clients of graphql-ws reconnect.
        Ending::TooSlow => (1013, "too slow: 8192 transactions were waiting"),
        Ending::Crowded => (1013, "too many subscriptions, try again"),
        // 1012 is "Service restart".
        Ending::Interrupted => (1012, "transactions may have been missed, subscribe again"),
        // 1001 is "Going away".
        Ending::Stopping | Ending::Cancelled => (1001, "the service is shutting down"),
    }
}

/// Responds to an operation that does not run.
pub fn refuse(responder: Responder, headers: Headers, format: &'static str, step: &Step<'_>) {
    let response = match step {
        Step::PostRequired => errors(405, format, POST_REQUIRED).with_header("Allow", "POST"),
        Step::StreamRequired => errors(406, format, STREAM_REQUIRED),
        Step::Busy(busy) => {
            let status = if *busy == Busy::Client { 429 } else { 503 };
            errors(status, format, reason_of(*busy)).with_header("Retry-After", "1")
        }
        _ => errors(500, format, "internal error"),
    };
    responder.respond(with_headers(response, headers));
}

/// Adds `headers` to a response.
pub fn with_headers(response: Response, headers: Headers) -> Response {
    headers.into_iter().fold(response, |response, (name, value)| response.with_header(name, value))
}

/// A response in the media type `format`.
pub fn reply(status: u16, format: &'static str, body: String) -> Response {
    let content_type = if format == JSON {
        "application/json; charset=utf-8"
    } else {
        "application/graphql-response+json; charset=utf-8"
    };
    http::reply(status, content_type, body)
}

/// A response with one error.
pub fn errors(status: u16, format: &'static str, text: &str) -> Response {
    reply(status, format, serde_json::json!({ "errors": [{ "message": text }] }).to_string())
}
