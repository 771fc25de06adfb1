//! A broker whose responses a test chooses.
#![allow(clippy::unwrap_used, reason = "tests")]

use bytes::Bytes;
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::{ApiVersionsResponse, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

/// A received request.
pub struct Incoming {
    pub key: i16,
    pub version: i16,
    pub correlation_id: i32,
    pub body: Bytes,
}

impl Incoming {
    /// The decoded request, or `None` if it is not an `R`.
    pub fn read<R: Request>(&self) -> Option<R> {
        (self.key == R::KEY).then(|| R::decode(&mut self.body.clone(), self.version).unwrap())
    }

    /// Encodes a response to this request.
    pub fn response<R: Request>(&self, body: &R::Response) -> Vec<u8> {
        let mut bytes = Vec::new();
        body.encode(&mut bytes, self.version).unwrap();
        self.framed::<R>(&bytes)
    }

    /// Responds with [`Self::response`].
    pub fn respond<R: Request>(&self, body: &R::Response) -> Action {
        Action::Respond(self.response::<R>(body))
    }

    /// Encodes a response with any body.
    pub fn framed<R: Request>(&self, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 4];
        ResponseHeader::default()
            .with_correlation_id(self.correlation_id)
            .encode(&mut bytes, R::Response::header_version(self.version))
            .unwrap();
        bytes.extend(body);
        let length = bytes.len() as u32 - 4;
        bytes[..4].copy_from_slice(&length.to_be_bytes());
        bytes
    }
}

/// The action of a broker for one request.
pub enum Action {
    /// Sends these bytes.
    Respond(Vec<u8>),
    /// Sends these bytes, then closes the connection.
    RespondAndClose(Vec<u8>),
    /// Sends nothing and keeps the connection open.
    Ignore,
}

/// Starts a broker and returns its host:port. It supports all versions. `script` responds to all
/// requests but ApiVersions.
pub fn broker(script: impl Fn(&Incoming, u16) -> Action + Send + Sync + 'static) -> String {
    let api_versions = |incoming: &Incoming| {
        let all = (0..60).map(|key| ApiVersion::default().with_api_key(key).with_max_version(99));
        let response = ApiVersionsResponse::default().with_api_keys(all.collect());
        let mut body = Vec::new();
        response.encode(&mut body, 0).unwrap();
        incoming.framed::<kafka_protocol::messages::ApiVersionsRequest>(&body)
    };
    raw_broker(move |incoming, port| match incoming.key {
        18 => Action::Respond(api_versions(incoming)),
        _ => script(incoming, port),
    })
}

/// Starts a broker and returns its host:port. `script` responds to all requests.
pub fn raw_broker(script: impl Fn(&Incoming, u16) -> Action + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = Arc::new(script);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let script = script.clone();
            thread::spawn(move || serve(stream.unwrap(), |it| script(it, port)));
        }
    });
    format!("127.0.0.1:{port}")
}

fn serve(mut stream: TcpStream, script: impl Fn(&Incoming) -> Action) {
    let mut length = [0; 4];
    while stream.read_exact(&mut length).is_ok() {
        let mut request = vec![0; u32::from_be_bytes(length) as usize];
        if stream.read_exact(&mut request).is_err() {
            return;
        }
        let key = i16::from_be_bytes([request[0], request[1]]);
        let version = i16::from_be_bytes([request[2], request[3]]);
        let mut body = Bytes::from(request);
        let api = kafka_protocol::messages::ApiKey::try_from(key).unwrap();
        let header = RequestHeader::decode(&mut body, api.request_header_version(version)).unwrap();
        let correlation_id = header.correlation_id;
        match script(&Incoming { key, version, correlation_id, body }) {
            Action::Respond(bytes) => {
                if stream.write_all(&bytes).is_err() {
                    return;
                }
            }
            Action::RespondAndClose(bytes) => {
                let _ = stream.write_all(&bytes);
                return;
            }
            Action::Ignore => {}
        }
    }
}
