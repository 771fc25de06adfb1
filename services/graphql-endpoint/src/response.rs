//! What all transports send: JSON, errors, and the reasons why a stream was cut off.

use crate::hub::{Ending, QUEUE_MAX};
use juniper::GraphQLError;
use juniper::http::GraphQLResponse;
use serde::Serialize;
use tiny_http::Header;

/// A response as JSON.
pub fn json(response: &impl Serialize) -> String {
    serde_json::to_string(response).expect("responses have a form in JSON")
}

/// The response to an operation that does not run.
pub fn errors_of(err: &GraphQLError) -> GraphQLResponse {
    GraphQLResponse::from_result(Err(err.clone()))
}

/// A header with a constant value.
pub fn header(name: &'static str, value: &'static str) -> Header {
    Header::from_bytes(name, value).expect("it is ASCII")
}

/// Websocket close code and reason for subscribers whose stream was cut off.
pub fn close_of(ending: Ending) -> (u16, &'static str) {
    const _: () = assert!(QUEUE_MAX == 8192);
    match ending {
        // "Try again later"; clients that follow the protocol do.
        Ending::TooSlow => (1013, "too slow: 8192 transactions were waiting"),
        // "Service restart".
        Ending::Interrupted => (1012, "transactions may have been missed, subscribe again"),
        // "Going away".
        Ending::Stopping | Ending::Cancelled => (1001, "the service stops"),
    }
}
