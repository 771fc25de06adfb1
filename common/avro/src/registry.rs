//! A client of the schema registry, with the Confluent API.
//!
//! All calls are idempotent. `register` returns the same id for the same schema.

use crate::canonical_form;
use bank::topology::Topic;
use serde_json::{Value, json};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;
use ureq::Agent;

/// Compatibility level of the bank's subjects: readers with the new schema can decode data that was
/// written with the previous one.
pub const BACKWARD: &str = "BACKWARD";

/// Timeout of the connect.
const CONNECT: Duration = Duration::from_secs(2);
/// Timeout until the response starts, and again until it is complete.
const RESPONSE: Duration = Duration::from_secs(5);
/// Maximum size of a response, bytes.
const BODY_BYTES_MAX: u64 = 1 << 20;
/// Maximum number of versions of a subject that are compared with a schema, newest first.
const VERSIONS_MAX: usize = 100;
/// Maximum length of the registry's message in an error, characters.
const MESSAGE_MAX: usize = 2_000;

/// A request to the registry failed.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Error {
    /// True if a retry may succeed: no connection, a timeout, status 408, 429 or 5xx, or a schema
    /// that is not registered yet.
    pub retryable: bool,
    /// The request, and the response or the cause.
    pub text: String,
}

/// A client of the registry. Clones share connections.
#[derive(Debug, Clone)]
pub struct Registry {
    url: Arc<str>,
    agent: Agent,
}

/// A version of a subject.
struct Version {
    id: u32,
    schema: String,
}

impl Registry {
    /// Returns a client of the registry with the base URL `url`. No I/O happens before the first
    /// call.
    pub fn new(url: &str) -> Self {
        Self::with_timeouts(url, CONNECT, RESPONSE)
    }

    fn with_timeouts(url: &str, connect: Duration, response: Duration) -> Self {
        let agent = Agent::config_builder()
            // The registry is in the local network, so proxy variables of the environment do not
            // apply. A redirect means that the URL is wrong.
            .proxy(None)
            .max_redirects(0)
            .http_status_as_error(false)
            .timeout_resolve(Some(connect))
            .timeout_connect(Some(connect))
            .timeout_send_request(Some(response))
            .timeout_send_body(Some(response))
            .timeout_recv_response(Some(response))
            .timeout_recv_body(Some(response))
            .build()
            .new_agent();
        Self { url: url.trim_end_matches('/').into(), agent }
    }

    /// Returns the schema with this id. `None` if the id is not in the registry.
    pub fn schema(&self, id: u32) -> Result<Option<String>, Error> {
        // Ids are Java ints. For larger ids Apicurio returns the error of an invalid path.
        if i32::try_from(id).is_err() {
            return Ok(None);
        }
        let call = self.get(&format!("/schemas/ids/{id}"))?;
        call.found()?.map(|call| call.text("schema")).transpose()
    }

    /// Returns the id of `topic`'s schema. It does not register the schema, so that a producer does
    /// not create a new version by accident.
    ///
    /// # Errors
    /// Retryable if the schema is not registered yet.
    pub fn id_of(&self, topic: &Topic) -> Result<u32, Error> {
        let (subject, schema) = (topic.subject(), topic.schema.unwrap_or_default());
        // A schema registered by a JVM program may differ in whitespace and documentation. It
        // encodes to the same bytes.
        let found =
            self.find(&subject, schema, |text| canonical_form::writes_the_same(text, schema))?;
        found.ok_or_else(|| {
            let text =
                format!("no schema of {subject} found at {}: run the synchronizer", self.url);
            Error { retryable: true, text }
        })
    }

    /// Returns the id of `schema` in `subject`. If the registry has no schema with this text,
    /// returns the id of the newest version that `fits`.
    pub fn find(
        &self,
        subject: &str,
        schema: &str,
        fits: impl Fn(&str) -> bool,
    ) -> Result<Option<u32>, Error> {
        let exact = self.lookup(subject, schema)?;
        if exact.is_some() {
            return Ok(exact);
        }
        for version in self.versions(subject)?.into_iter().rev().take(VERSIONS_MAX) {
            let found = self.version(subject, version)?;
            if let Some(version) = found.filter(|version| fits(&version.schema)) {
                return Ok(Some(version.id));
            }
        }
        Ok(None)
    }

    fn lookup(&self, subject: &str, schema: &str) -> Result<Option<u32>, Error> {
        let call = self.post(&format!("/subjects/{subject}"), &json!({ "schema": schema }))?;
        call.found()?.map(|call| call.id()).transpose()
    }

    /// The versions of `subject`, ascending. Empty if the subject does not exist.
    fn versions(&self, subject: &str) -> Result<Vec<u32>, Error> {
        let Some(call) = self.get(&format!("/subjects/{subject}/versions"))?.found()? else {
            return Ok(Vec::new());
        };
        let numbers = call.body.as_array().map(|list| list.iter().map(as_u32).collect());
        let mut versions: Vec<u32> = numbers.flatten().ok_or_else(|| call.unexpected())?;
        versions.sort_unstable();
        Ok(versions)
    }

    fn version(&self, subject: &str, version: u32) -> Result<Option<Version>, Error> {
        let call = self.get(&format!("/subjects/{subject}/versions/{version}"))?;
        let version = |call: Call| Ok(Version { id: call.id()?, schema: call.text("schema")? });
        call.found()?.map(version).transpose()
    }

    /// Registers `schema` as the newest version of `subject` and returns its id. Creates the
    /// subject if it does not exist.
    ///
    /// # Errors
    /// Not retryable if the schema is incompatible.
    pub fn register(&self, subject: &str, schema: &str) -> Result<u32, Error> {
        let body = json!({ "schema": schema });
        self.post(&format!("/subjects/{subject}/versions"), &body)?.ok()?.id()
    }

    /// Returns the registry's reason why `schema` is incompatible with the newest version of
    /// `subject`. `None` if it is compatible, or if there is no version yet.
    pub fn incompatibility(&self, subject: &str, schema: &str) -> Result<Option<String>, Error> {
        let path = format!("/compatibility/subjects/{subject}/versions/latest?verbose=true");
        let Some(call) = self.post(&path, &json!({ "schema": schema }))?.found()? else {
            return Ok(None);
        };
        match call.body["is_compatible"].as_bool() {
            Some(true) => Ok(None),
            // Confluent returns `messages`, Apicurio returns one `reason`.
            Some(false) => Ok(Some(match (&call.body["messages"], &call.body["reason"]) {
                (Value::Array(messages), _) => {
                    let messages: Vec<&str> = messages.iter().filter_map(Value::as_str).collect();
                    shorten(&messages.join("; "))
                }
                (_, Value::String(reason)) => shorten(reason),
                _ => "the registry returned no reason".to_owned(),
            })),
            None => Err(call.unexpected()),
        }
    }

    /// Returns the compatibility level of `subject`. `None` if the global level applies.
    pub fn compatibility(&self, subject: &str) -> Result<Option<String>, Error> {
        let call = self.get(&format!("/config/{subject}"))?;
        call.found()?.map(|call| call.text("compatibilityLevel")).transpose()
    }

    /// Sets the compatibility level of `subject`, which may not exist yet.
    pub fn set_compatibility(&self, subject: &str, level: &str) -> Result<(), Error> {
        let body = json!({ "compatibility": level });
        self.call("PUT", &format!("/config/{subject}"), Some(&body))?.ok().map(drop)
    }

    fn get(&self, path: &str) -> Result<Call, Error> {
        self.call("GET", path, None)
    }

    fn post(&self, path: &str, body: &Value) -> Result<Call, Error> {
        self.call("POST", path, Some(body))
    }

    fn call(&self, method: &'static str, path: &str, body: Option<&Value>) -> Result<Call, Error> {
        let url = format!("{}{path}", self.url);
        let (status, bytes) = match self.exchange(method, &url, body) {
            // The registry closed an idle connection. The second attempt opens a new one.
            Err(ureq::Error::Io(err)) if is_broken_connection(err.kind()) => {
                self.exchange(method, &url, body)
            }
            outcome => outcome,
        }
        .map_err(|err| {
            let retryable =
                !matches!(err, ureq::Error::BadUri(_) | ureq::Error::BodyExceedsLimit(_));
            Error { retryable, text: format!("{method} {url}: {err}") }
        })?;
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(shorten(String::from_utf8_lossy(&bytes).trim())));
        Ok(Call { name: format!("{method} {url}"), status, body })
    }

    fn exchange(
        &self,
        method: &str,
        url: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Vec<u8>), ureq::Error> {
        const JSON: &str = "application/vnd.schemaregistry.v1+json";
        let mut response = match (method, body) {
            (_, None) => self.agent.get(url).header("accept", JSON).call()?,
            ("PUT", Some(body)) => self.agent.put(url).content_type(JSON).send(body.to_string())?,
            (_, Some(body)) => self.agent.post(url).content_type(JSON).send(body.to_string())?,
        };
        let bytes = response.body_mut().with_config().limit(BODY_BYTES_MAX).read_to_vec()?;
        Ok((response.status().as_u16(), bytes))
    }
}

/// A request and its response.
struct Call {
    /// Method and URL.
    name: String,
    status: u16,
    body: Value,
}

impl Call {
    /// Returns the response if its status is 200.
    fn ok(self) -> Result<Self, Error> {
        if self.status == 200 {
            return Ok(self);
        }
        let retryable = self.status >= 500 || matches!(self.status, 408 | 429);
        Err(Error { retryable, ..self.unexpected() })
    }

    /// Returns the response. `None` if the subject (40401), version (40402) or schema (40403) does
    /// not exist. Any other 404 means a wrong URL and is an error.
    fn found(self) -> Result<Option<Self>, Error> {
        let absent =
            self.status == 404 && matches!(self.body["error_code"].as_u64(), Some(40401..=40403));
        if absent { Ok(None) } else { self.ok().map(Some) }
    }

    fn id(&self) -> Result<u32, Error> {
        as_u32(&self.body["id"]).ok_or_else(|| self.unexpected())
    }

    fn text(&self, field: &str) -> Result<String, Error> {
        self.body[field].as_str().map(str::to_owned).ok_or_else(|| self.unexpected())
    }

    fn unexpected(&self) -> Error {
        let message = match (&self.body["message"], &self.body) {
            (Value::String(message), _) | (_, Value::String(message)) => shorten(message),
            (_, body) => shorten(&body.to_string()),
        };
        let text = format!("{}: status {}: {message}", self.name, self.status);
        Error { retryable: false, text }
    }
}

fn as_u32(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|number| u32::try_from(number).ok())
}

fn is_broken_connection(kind: ErrorKind) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

fn shorten(message: &str) -> String {
    message.chars().take(MESSAGE_MAX).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use bank::topology::HEARTBEAT;
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::Mutex;
    use std::thread;
    use std::time::Instant;

    /// A registry that sends the given responses in order, and repeats the last one. It records the
    /// method and path of each request.
    pub(crate) struct Fake {
        pub(crate) url: String,
        pub(crate) requests: Arc<Mutex<Vec<String>>>,
    }

    impl Fake {
        /// `responses` are pairs of status and body. Status 0 closes the connection after the
        /// request instead.
        pub(crate) fn start(responses: Vec<(u16, String)>) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let requests = Arc::new(Mutex::new(Vec::new()));
            let log = requests.clone();
            thread::spawn(move || {
                let mut responses = responses.into_iter().peekable();
                for stream in listener.incoming() {
                    let mut stream = BufReader::new(stream.unwrap());
                    while let Some(path) = read_request(&mut stream) {
                        log.lock().unwrap().push(path);
                        let (status, body) = responses.peek().unwrap().clone();
                        if responses.len() > 1 {
                            responses.next();
                        }
                        if status == 0 {
                            break;
                        }
                        let length = body.len();
                        let response = format!(
                            "HTTP/1.1 {status} x\r\ncontent-length: {length}\r\n\r\n{body}"
                        );
                        let _ = stream.get_mut().write_all(response.as_bytes());
                    }
                }
            });
            Self { url, requests }
        }
    }

    /// Returns method and path of the next request. `None` when the connection ends.
    fn read_request(stream: &mut BufReader<TcpStream>) -> Option<String> {
        let mut first = String::new();
        let mut length = 0;
        stream.read_line(&mut first).ok()?;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if let Some(text) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = text.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        stream.read_exact(&mut vec![0; length]).ok()?;
        Some(first.trim_end_matches(" HTTP/1.1\r\n").to_owned())
    }

    fn responding(status: u16, body: &str) -> Registry {
        Registry::new(&Fake::start(vec![(status, body.to_owned())]).url)
    }

    #[test]
    fn unknown_id_has_no_schema() {
        let registry = responding(404, r#"{"error_code":40403,"message":"Schema not found"}"#);
        assert_eq!(registry.schema(1).unwrap(), None);
        let unreachable = Registry::new("http://127.0.0.1:1");
        assert_eq!(unreachable.schema(1 << 31).unwrap(), None, "no request for such an id");
    }

    #[test]
    fn status_404_of_a_wrong_url_fails() {
        let registry = responding(404, r#"{"error_code":0,"message":"no resource"}"#);
        let err = registry.schema(1).unwrap_err();
        assert!(!err.retryable);
        assert!(err.text.contains("status 404: no resource"), "{err}");
    }

    #[test]
    fn temporary_errors_are_retryable() {
        for status in [429, 500, 503] {
            assert!(responding(status, "busy").schema(1).unwrap_err().retryable, "{status}");
        }
        for (status, body) in [(401, ""), (200, "{}"), (200, "<html>"), (302, "")] {
            assert!(!responding(status, body).schema(1).unwrap_err().retryable, "{status} {body}");
        }
        assert!(Registry::new("http://127.0.0.1:1").schema(1).unwrap_err().retryable);
    }

    #[test]
    fn unresponsive_registry_is_a_retryable_error() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let limit = Duration::from_millis(100);
        let start = Instant::now();
        let err = Registry::with_timeouts(&url, limit, limit).schema(1).unwrap_err();
        assert!(err.retryable);
        assert!(start.elapsed() < Duration::from_secs(2), "{err}");
    }

    #[test]
    fn oversized_response_is_rejected() {
        let err =
            responding(200, &"x".repeat((BODY_BYTES_MAX + 1) as usize)).schema(1).unwrap_err();
        assert!(!err.retryable, "{err}");
    }

    #[test]
    fn closed_idle_connection_is_reopened() {
        let found = (200, r#"{"schema":"\"long\""}"#.to_owned());
        let fake = Fake::start(vec![found.clone(), (0, String::new()), found]);
        let registry = Registry::new(&fake.url);
        for _ in 0..2 {
            assert_eq!(registry.schema(1).unwrap().unwrap(), "\"long\"");
        }
        assert_eq!(fake.requests.lock().unwrap().len(), 3);
    }

    #[test]
    fn schema_with_other_whitespace_is_found() {
        let absent = (404, r#"{"error_code":40403,"message":""}"#.to_owned());
        let other = json!({"id": 8, "version": 3, "schema": "\"long\""}).to_string();
        let schema: Value = serde_json::from_str(HEARTBEAT.schema.unwrap()).unwrap();
        let ours = json!({"id": 7, "version": 2, "schema": schema.to_string()}).to_string();
        let responses = vec![absent, (200, "[1,2,3]".to_owned()), (200, other), (200, ours)];
        let fake = Fake::start(responses);
        assert_eq!(Registry::new(&fake.url).id_of(&HEARTBEAT).unwrap(), 7);
        assert_eq!(
            *fake.requests.lock().unwrap(),
            [
                "POST /subjects/heartbeat-value",
                "GET /subjects/heartbeat-value/versions",
                "GET /subjects/heartbeat-value/versions/3",
                "GET /subjects/heartbeat-value/versions/2",
            ]
        );
    }

    #[test]
    fn unregistered_schema_is_a_retryable_error() {
        let registry = responding(404, r#"{"error_code":40401,"message":""}"#);
        let err = registry.id_of(&HEARTBEAT).unwrap_err();
        assert!(err.retryable);
        assert!(err.text.contains("run the synchronizer"), "{err}");
    }

    #[test]
    fn incompatible_schema_returns_the_registrys_reason() {
        for (body, words) in [
            (r#"{"is_compatible":true}"#, None),
            (r#"{"is_compatible":false,"messages":["a","b"]}"#, Some("a; b")),
            (r#"{"is_compatible":false,"reason":"c"}"#, Some("c")),
        ] {
            assert_eq!(responding(200, body).incompatibility("s", "").unwrap().as_deref(), words);
        }
    }
}
