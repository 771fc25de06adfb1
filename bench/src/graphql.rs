//! A WebSocket client of the GraphQL endpoint, like a browser's: protocol
//! `graphql-transport-ws`. Source: graphql-ws, PROTOCOL.md.

use crate::error::Error;
use crate::websocket::{Socket, TIMEOUT};
use serde_json::{Value, json};
use service::env::Variable;
use std::time::Instant;

/// `GRAPHQL_ENDPOINT_URL`: address of GraphQL and GraphiQL.
pub const GRAPHQL_URL: Variable =
    Variable::required("GRAPHQL_ENDPOINT_URL", "the GraphQL endpoint, as in http://127.0.0.1:8888");

/// Opens an account, or logs in.
pub const LOG_IN: &str = "mutation($username: String!, $password: String!) {
    get_account(username: $username, password: $password) { iban token reason } }";
/// Moves money.
pub const TRANSFER: &str = "mutation(
        $uuid: String!, $token: String!, $amount: Int!,
        $from: String!, $to: String!, $descr: String!
    ) {
    money_transfer(
        uuid: $uuid, token: $token, amount: $amount, from: $from, to: $to, descr: $descr
    ) { success reason } }";

/// A WebSocket connection to the endpoint.
pub struct Connection(Socket);

/// A message of the endpoint about the operation with an id.
#[derive(Debug, PartialEq)]
pub enum GraphqlMessage {
    /// Response of the operation: its `data`.
    Data(String, Value),
    /// The operation failed: its errors, as JSON.
    Failed(String, String),
}

impl Connection {
    /// Connects to the endpoint at `url`, without credentials.
    pub fn open(url: &str) -> Result<Self, Error> {
        let url = url.trim_end_matches('/');
        let address = url.strip_prefix("http://").unwrap_or(url);
        let mut socket =
            Socket::open(&format!("ws://{address}/graphql"), Some("graphql-transport-ws"))?;
        socket.send(&json!({ "type": "connection_init" }))?;
        match socket.receive(Instant::now() + TIMEOUT)? {
            Some(message) if message["type"] == "connection_ack" => Ok(Self(socket)),
            other => Err(socket.odd("no connection_ack", other.unwrap_or_default().to_string())),
        }
    }

    /// Starts an operation. No running operation may have the same `id`.
    pub fn ask(&mut self, id: &str, query: &str, variables: &Value) -> Result<(), Error> {
        let payload = json!({ "query": query, "variables": variables });
        self.0.send(&json!({ "type": "subscribe", "id": id, "payload": payload }))
    }

    /// Waits until `until` for a message about an operation.
    pub fn receive(&mut self, until: Instant) -> Result<Option<GraphqlMessage>, Error> {
        while let Some(message) = self.0.receive(until)? {
            if message["type"] == "ping" {
                self.0.send(&json!({ "type": "pong" }))?;
                continue;
            }
            match message_of(message) {
                Ok(None) => {}
                Ok(some) => return Ok(some),
                Err(message) => {
                    return Err(self.0.odd("an unexpected message", message.to_string()));
                }
            }
        }
        Ok(None)
    }
}

/// The part of a message that concerns an operation, if any. Fails with an unexpected message.
fn message_of(mut message: Value) -> Result<Option<GraphqlMessage>, Value> {
    let Some(id) = message["id"].as_str().map(str::to_owned) else {
        return if message["type"] == "pong" { Ok(None) } else { Err(message) };
    };
    let payload = &message["payload"];
    let errors = payload["errors"].as_array().filter(|errors| !errors.is_empty());
    match (message["type"].as_str(), errors) {
        (Some("next"), Some(errors)) => {
            Ok(Some(GraphqlMessage::Failed(id, Value::from(errors.clone()).to_string())))
        }
        (Some("next"), None) => {
            let data = message.pointer_mut("/payload/data").map(Value::take);
            Ok(Some(GraphqlMessage::Data(id, data.unwrap_or_default())))
        }
        (Some("error"), _) => Ok(Some(GraphqlMessage::Failed(id, payload.to_string()))),
        (Some("complete"), _) => Ok(None),
        _ => Err(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_split_into_data_errors_and_ends() {
        let next = json!({ "type": "next", "id": "1", "payload": { "data": { "a": 5 } } });
        assert_eq!(
            message_of(next),
            Ok(Some(GraphqlMessage::Data("1".to_owned(), json!({ "a": 5 }))))
        );
        let half =
            json!({ "type": "next", "id": "1", "payload": { "data": null, "errors": ["x"] } });
        assert_eq!(
            message_of(half),
            Ok(Some(GraphqlMessage::Failed("1".to_owned(), r#"["x"]"#.to_owned())))
        );
        let error = json!({ "type": "error", "id": "2", "payload": ["y"] });
        assert_eq!(
            message_of(error),
            Ok(Some(GraphqlMessage::Failed("2".to_owned(), r#"["y"]"#.to_owned())))
        );
        assert_eq!(message_of(json!({ "type": "complete", "id": "1" })), Ok(None));
        assert_eq!(message_of(json!({ "type": "pong" })), Ok(None));
        let hollow = json!({ "type": "next", "id": "1", "payload": "x" });
        assert_eq!(message_of(hollow), Ok(Some(GraphqlMessage::Data("1".to_owned(), Value::Null))));
        for odd in [json!({ "type": "other", "id": "1" }), json!({ "type": "next" }), json!(5)] {
            assert_eq!(message_of(odd.clone()), Err(odd));
        }
    }
}
