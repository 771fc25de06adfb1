//! Parts of responses that all transports share: JSON, errors, close codes.

use crate::hub::{Ending, QUEUE_MAX};
use juniper::GraphQLError;
use juniper::http::GraphQLResponse;
use serde::Serialize;
use tiny_http::Header;

pub fn json(response: &impl Serialize) -> String {
    serde_json::to_string(response).expect("responses can be serialized")
}

/// The response to an invalid operation.
pub fn errors_of(err: &GraphQLError) -> GraphQLResponse {
    GraphQLResponse::from_result(Err(err.clone()))
}

pub fn header(name: &'static str, value: &'static str) -> Header {
    Header::from_bytes(name, value).expect("constant headers are ASCII")
}

/// Websocket close code and reason for subscribers whose stream was cut off.
pub fn close_of(ending: Ending) -> (u16, &'static str) {
    const _: () = assert!(QUEUE_MAX == 8192);
    match ending {
        // 1013 is "Try again later": clients of graphql-ws reconnect.
        Ending::TooSlow => (1013, "too slow: 8192 transactions were waiting"),
        // 1012 is "Service restart".
        Ending::Interrupted => (1012, "transactions may have been missed, subscribe again"),
        // 1001 is "Going away".
        Ending::Stopping | Ending::Cancelled => (1001, "the service is shutting down"),
    }
}
