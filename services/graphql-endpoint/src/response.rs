//! Parts of responses that all transports share: JSON, errors, close codes.

use crate::hub::{Ending, LOG_MAX};
use crate::pool::Busy;
use juniper::GraphQLError;
use juniper::http::GraphQLResponse;
use serde::Serialize;
use std::borrow::Cow;

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
        // 1012 is "Service restart".
        Ending::Interrupted => (1012, "transactions may have been missed, subscribe again"),
        // 1001 is "Going away".
        Ending::Stopping | Ending::Cancelled => (1001, "the service is shutting down"),
    }
}
