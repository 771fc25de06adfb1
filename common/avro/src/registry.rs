//! A client of the schema registry, with the Confluent API.
//!
//! All calls are idempotent. `register` returns the same id for the same schema.

use crate::registered_form::registered_form;
use crate::schema::writes_the_same;
use bank::topology::Topic;
use serde_json::{Value, json};
use service::url;
use std::io::ErrorKind;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use ureq::Agent;

/// Compatibility level of the bank's subjects: readers with the new schema can decode data that was
/// written with the previous one.
pub const BACKWARD: &str = "BACKWARD";

/// Timeout of the connect.
const CONNECT: Duration = Duration::from_secs(2);
/// Timeout until the response starts, and again until it is complete.
const RESPONSE: Duration = Duration::from_secs(5);
/// Maximum size of a response, bytes. As a tree of JSON values it takes up to 20 times that memory.
pub(crate) const BODY_BYTES_MAX: u64 = 128 << 10;
/// Maximum number of versions of a subject that are compared with a schema, newest first.
const VERSIONS_MAX: usize = 100;
/// Error codes of status 404 for what a registry does not have. Source: Confluent's Schema Registry
/// API, which Karapace and Apicurio follow.
const ABSENT: [u64; 6] = [
    40401, // The subject does not exist.
    40402, // The version does not exist.
    40403, // The schema does not exist.
    40404, // The subject is deleted, but not permanently.
    40406, // The version is deleted, but not permanently.
    40408, // The subject has no compatibility level of its own.
];
/// Maximum length of the registry's message in an error, characters.
pub(crate) const MESSAGE_MAX: usize = 2_000;

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
    /// `url` without credentials, for errors.
    name: Arc<str>,
    agent: Agent,
    /// The ids that are checked regularly: see `id_check.rs`.
    pub(crate) ids_in_use: Arc<Mutex<Vec<(Topic, u32)>>>,
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
        let url = url.trim_end_matches('/');
        let name = url::without_credentials(url).into();
        Self { url: url.into(), name, agent, ids_in_use: Arc::default() }
    }

    /// Returns the id of `topic`'s schema. It does not register the schema, so that a producer does
    /// not create a new version by accident.
    ///
    /// # Errors
    /// Retryable if the schema is not registered yet.
    pub fn id_of(&self, topic: &Topic) -> Result<u32, Error> {
        let (subject, schema) = (topic.subject(), topic.schema.unwrap_or_default());
        if let Some(id) = self.lookup(&subject, &registered_form(schema))? {
            return Ok(id);
        }
        // A schema registered by another program may differ in whitespace and documentation. It
        // encodes to the same bytes.
        for version in self.versions(&subject)?.into_iter().rev().take(VERSIONS_MAX) {
            match self.version(&subject, version)? {
                Some(found) if writes_the_same(&found.schema, schema) => {
                    return Ok(found.id);
                }
                _ => {}
            }
        }
        let text = format!("no schema of {subject} found at {}: run the synchronizer", self.name);
        Err(Error { retryable: true, text })
    }

    /// Returns the id of `schema` in `subject`. Apicurio compares the texts, other registries
    /// ignore whitespace.
    pub fn lookup(&self, subject: &str, schema: &str) -> Result<Option<u32>, Error> {
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

    pub(crate) fn get(&self, path: &str) -> Result<Call, Error> {
        self.call("GET", path, None)
    }

    fn post(&self, path: &str, body: &Value) -> Result<Call, Error> {
        self.call("POST", path, Some(body))
    }

    fn call(&self, method: &'static str, path: &str, body: Option<&Value>) -> Result<Call, Error> {
        let url = format!("{}{path}", self.url);
        let name = format!("{method} {}{path}", self.name);
        let (status, bytes) = match self.exchange(method, &url, body) {
            // The registry closed an idle connection. The second attempt opens a new one.
            Err(ureq::Error::Io(err)) if is_broken_connection(err.kind()) => {
                self.exchange(method, &url, body)
            }
            outcome => outcome,
        }
        .map_err(|err| {
            let retryable = !matches!(err, ureq::Error::BadUri(_));
            // An error of the crate may contain the URL.
            let cause = err.to_string().replace(&*self.url, &self.name);
            Error { retryable, text: format!("{name}: {cause}") }
        })?;
        Ok(Call::new(name, status, bytes.as_deref()))
    }

    /// Returns status and body of the response; no body if it is too large.
    fn exchange(
        &self,
        method: &str,
        url: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Option<Vec<u8>>), ureq::Error> {
        const JSON: &str = "application/vnd.schemaregistry.v1+json";
        let mut response = match (method, body) {
            (_, None) => self.agent.get(url).header("accept", JSON).call()?,
            ("PUT", Some(body)) => self.agent.put(url).content_type(JSON).send(body.to_string())?,
            (_, Some(body)) => self.agent.post(url).content_type(JSON).send(body.to_string())?,
        };
        let body = match response.body_mut().with_config().limit(BODY_BYTES_MAX).read_to_vec() {
            Ok(bytes) => Some(bytes),
            Err(ureq::Error::BodyExceedsLimit(_)) => None,
            Err(err) => return Err(err),
        };
        Ok((response.status().as_u16(), body))
    }
}

/// A request and its response.
pub(crate) struct Call {
    /// Method and URL.
    name: String,
    status: u16,
    pub(crate) body: Value,
}

impl Call {
    /// `bytes` are the body, `None` if it is too large.
    pub(crate) fn new(name: String, status: u16, bytes: Option<&[u8]>) -> Self {
        let body = match bytes {
            Some(bytes) => serde_json::from_slice(bytes)
                .unwrap_or_else(|_| Value::String(shorten(String::from_utf8_lossy(bytes).trim()))),
            None => Value::String(format!("response exceeds {BODY_BYTES_MAX} bytes")),
        };
        Self { name, status, body }
    }

    /// Returns the response if its status is 200.
    fn ok(self) -> Result<Self, Error> {
        if self.status == 200 {
            return Ok(self);
        }
        let retryable = self.status >= 500 || matches!(self.status, 408 | 429);
        Err(Error { retryable, ..self.unexpected() })
    }

    /// Returns the response, or `None` if what it asks for is [`ABSENT`]. Any other 404 means a
    /// wrong URL and is an error.
    pub(crate) fn found(self) -> Result<Option<Self>, Error> {
        let code = self.body["error_code"].as_u64();
        let absent = self.status == 404 && code.is_some_and(|code| ABSENT.contains(&code));
        if absent { Ok(None) } else { self.ok().map(Some) }
    }

    pub(crate) fn id(&self) -> Result<u32, Error> {
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

pub(crate) fn as_u32(value: &Value) -> Option<u32> {
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
    use crate::writer_schema::WriterSchema;
    use bank::topology::HEARTBEAT;
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::thread;
    use std::time::Instant;

    /// A registry that sends the given responses in order, and repeats the last one. It records the
    /// method and path of each request.
    pub(crate) struct Fake {
        pub(crate) url: String,
        pub(crate) requests: Arc<Mutex<Vec<String>>>,
        /// The value of the header `authorization` of each request that has one.
        credentials: Arc<Mutex<Vec<String>>>,
    }

    impl Fake {
        /// `responses` are pairs of status and body. Status 0 closes the connection after the
        /// request instead.
        pub(crate) fn start(responses: Vec<(u16, String)>) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let requests = Arc::new(Mutex::new(Vec::new()));
            let credentials = Arc::new(Mutex::new(Vec::new()));
            let (log, credentials_log) = (requests.clone(), credentials.clone());
            thread::spawn(move || {
                let mut responses = responses.into_iter().peekable();
                for stream in listener.incoming() {
                    let mut stream = BufReader::new(stream.unwrap());
                    while let Some((path, credentials)) = read_request(&mut stream) {
                        log.lock().unwrap().push(path);
                        credentials_log.lock().unwrap().extend(credentials);
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
            Self { url, requests, credentials }
        }
    }

    /// Returns method and path of the next request, and its credentials. `None` when the connection
    /// ends.
    fn read_request(stream: &mut BufReader<TcpStream>) -> Option<(String, Option<String>)> {
        let mut first = String::new();
        let (mut length, mut credentials) = (0, None);
        stream.read_line(&mut first).ok()?;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if let Some(text) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = text.trim().parse().unwrap();
            }
            if line.to_ascii_lowercase().starts_with("authorization:") {
                credentials = Some(line["authorization:".len()..].trim().to_owned());
            }
            if line == "\r\n" {
                break;
            }
        }
        stream.read_exact(&mut vec![0; length]).ok()?;
        Some((first.trim_end_matches(" HTTP/1.1\r\n").to_owned(), credentials))
    }

    fn responding(status: u16, body: &str) -> Registry {
        Registry::new(&Fake::start(vec![(status, body.to_owned())]).url)
    }

    #[test]
    fn credentials_of_the_url_are_not_shown() {
        let fake = Fake::start(vec![(500, String::new()), (404, "{\"error_code\":40401}".into())]);
        let url = fake.url.replace("://", "://user:secret@");
        let registry = Registry::new(&url);
        let unreachable = Registry::new("http://user:secret@127.0.0.1:1");
        let errors = [
            registry.lookup("s", "").unwrap_err(),
            registry.id_of(&HEARTBEAT).unwrap_err(),
            unreachable.lookup("s", "").unwrap_err(),
        ];
        for err in errors {
            assert!(err.text.contains("127.0.0.1") && !err.text.contains("secret"), "{err}");
        }
    }

    #[test]
    fn status_404_of_a_wrong_url_fails() {
        for code in [0, 404, 40405, 40407] {
            let body = json!({"error_code": code, "message": "no resource"}).to_string();
            let err = responding(404, &body).schema(1).unwrap_err();
            assert!(!err.retryable);
            assert!(err.text.contains("status 404: no resource"), "{err}");
        }
        // A status other than 404 with such a code.
        assert!(responding(422, r#"{"error_code":40403}"#).schema(1).is_err());
    }

    #[test]
    fn absence_in_every_registry_is_no_error() {
        // Messages of Confluent's registry and of Karapace.
        for (code, message) in [
            (40401, "Subject 'heartbeat-value' not found."),
            (40402, "Version latest not found."),
            (40403, "Schema not found"),
            (40404, "Subject 'heartbeat-value' was soft deleted.Set permanent=true to delete"),
            (40406, "Subject 'heartbeat-value' Version 1 was soft deleted.Set permanent=true"),
            (40408, "Subject 'heartbeat-value' does not have subject-level compatibility set"),
        ] {
            let body = json!({"error_code": code, "message": message}).to_string();
            let registry = responding(404, &body);
            assert_eq!(registry.schema(1).unwrap(), WriterSchema::Absent, "{code}");
            assert_eq!(registry.compatibility("heartbeat-value").unwrap(), None, "{code}");
            assert_eq!(registry.lookup("heartbeat-value", "{}").unwrap(), None, "{code}");
            assert_eq!(registry.incompatibility("heartbeat-value", "{}").unwrap(), None, "{code}");
            assert!(registry.id_of(&HEARTBEAT).unwrap_err().retryable, "{code}");
        }
    }

    #[test]
    fn credentials_are_sent_and_never_shown() {
        let fake = Fake::start(vec![(401, "Unauthorized".to_owned())]);
        let (_, address) = fake.url.split_once("://").unwrap();
        let registry = Registry::new(&format!("http://ann:hunter2@{address}/"));
        let err = registry.schema(1).unwrap_err().to_string();
        let start = format!("GET http://***@{address}/schemas/ids/1: status 401");
        assert!(err.starts_with(&start), "{err}");
        // "ann:hunter2" in base64.
        assert_eq!(*fake.credentials.lock().unwrap(), ["Basic YW5uOmh1bnRlcjI="]);
        // The first URL is refused by the HTTP client, nothing listens at the second one.
        for url in ["http://ann:hunter2@a b", "http://ann:hunter2@127.0.0.1:1"] {
            let err = Registry::new(url).id_of(&HEARTBEAT).unwrap_err().to_string();
            assert!(err.contains("***@") && !err.contains("hunter2"), "{err}");
        }
        let absent = responding(404, r#"{"error_code":40401,"message":""}"#);
        let (_, address) = absent.url.split_once("://").unwrap();
        let registry = Registry::new(&format!("http://ann:hunter2@{address}"));
        let err = registry.id_of(&HEARTBEAT).unwrap_err().to_string();
        assert!(err.contains("found at http://***@"), "{err}");
    }

    #[test]
    fn temporary_errors_are_retryable() {
        for status in [429, 500, 503] {
            assert!(responding(status, "busy").schema(1).unwrap_err().retryable, "{status}");
        }
        for (status, body) in [(401, ""), (302, "")] {
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
        let registry = responding(200, &"x".repeat((BODY_BYTES_MAX + 1) as usize));
        let err = registry.lookup("s", "").unwrap_err();
        assert!(!err.retryable && err.text.contains("exceeds 131072 bytes"), "{err}");
    }

    #[test]
    fn closed_idle_connection_is_reopened() {
        let found = (200, r#"{"schema":"\"long\""}"#.to_owned());
        let fake = Fake::start(vec![found.clone(), (0, String::new()), found]);
        let registry = Registry::new(&fake.url);
        for _ in 0..2 {
            assert!(registry.schema(1).is_ok());
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
