//! Parts of responses that all transports share: HTTP responses, errors, close codes.

use crate::error_code::{ClientError, ErrorCode};
use crate::hub::{Ending, LOG_MAX};
use crate::operation::NotRun;
use crate::operation_response::OperationResponse;
use crate::pool::Busy;
use service::http::{self, Responder, Response};
use std::borrow::Cow;

pub const JSON: &str = "application/json";
pub const GRAPHQL_JSON: &str = "application/graphql-response+json";
const POST_REQUIRED: &str = "an operation with an effect, such as a transfer, requires POST";
const STREAM_REQUIRED: &str = "a subscription requires Accept: text/event-stream or a websocket";

/// Headers of a response.
pub type Headers = Vec<(&'static str, Cow<'static, str>)>;

/// Message for a client whose operation does not run.
pub fn reason_of(busy: Busy) -> &'static str {
    match busy {
        Busy::Client => "too many operations from this address, try again",
        Busy::All => "busy, try again",
    }
}

/// Websocket close code, and the error, for subscribers whose stream was cut off.
pub fn close_of(ending: Ending) -> (u16, ClientError) {
    const _: () = assert!(LOG_MAX == 8192);
    let (close_code, code, text) = match ending {
        // 1013 is "Try again later": clients of graphql-ws reconnect.
        Ending::TooSlow => (1013, ErrorCode::TooSlow, "too slow: 8192 transactions were waiting"),
        Ending::Crowded => (1013, ErrorCode::Busy, "too many subscriptions, try again"),
        // 1012 is "Service restart".
        Ending::Interrupted => {
            (1012, ErrorCode::Interrupted, "transactions may have been missed, subscribe again")
        }
        // 4403 is "Forbidden": clients of graphql-ws ask for the present token and reconnect.
        Ending::LoggedOut => {
            (4403, ErrorCode::Unauthenticated, "the token was replaced, log in again")
        }
        // 1001 is "Going away".
        Ending::Stopping | Ending::Cancelled => {
            (1001, ErrorCode::ShuttingDown, "the service is shutting down")
        }
    };
    (close_code, ClientError::new(code, text))
}

/// The error for the client of an operation that does not run.
pub fn error_of(not_run: NotRun) -> ClientError {
    match not_run {
        NotRun::Busy(busy) => ClientError::new(ErrorCode::Busy, reason_of(busy)),
        NotRun::PostRequired => ClientError::new(ErrorCode::BadRequest, POST_REQUIRED),
        NotRun::StreamRequired => ClientError::new(ErrorCode::BadRequest, STREAM_REQUIRED),
    }
}

/// Responds to an operation that does not run.
pub fn refuse(responder: Responder, headers: Headers, format: &'static str, not_run: NotRun) {
    let response = |status| errors(status, format, &error_of(not_run));
    let response = match not_run {
        NotRun::PostRequired => response(405).with_header("Allow", "POST"),
        NotRun::StreamRequired => response(406),
        NotRun::Busy(Busy::Client) => response(429).with_header("Retry-After", "1"),
        NotRun::Busy(Busy::All) => response(503).with_header("Retry-After", "1"),
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
pub fn errors(status: u16, format: &'static str, err: &ClientError) -> Response {
    reply(status, format, OperationResponse::not_run(err).json())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ended_streams_have_close_code_and_code() {
        for (ending, expected) in [
            (Ending::TooSlow, (1013, ErrorCode::TooSlow)),
            (Ending::Crowded, (1013, ErrorCode::Busy)),
            (Ending::Interrupted, (1012, ErrorCode::Interrupted)),
            (Ending::LoggedOut, (4403, ErrorCode::Unauthenticated)),
            (Ending::Stopping, (1001, ErrorCode::ShuttingDown)),
        ] {
            let (close_code, err) = close_of(ending);
            assert_eq!((close_code, err.code), expected, "{ending:?}");
        }
    }
}
