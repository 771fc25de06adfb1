//! Client of the schema registry (the Confluent API).
//!
//! Every call here may be made again without harm, also `register`: the same schema gets the same id.

use crate::canonical_form;
use bank::topology::Topic;
use serde_json::{Value, json};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;
use ureq::Agent;

/// Compatibility level of every subject of the bank: whoever knows the new schema can read what the old one wrote.
pub const BACKWARD: &str = "BACKWARD";

/// Time to connect.
const CONNECT: Duration = Duration::from_secs(2);
/// Time until the answer begins, and again until it ends.
const ANSWER: Duration = Duration::from_secs(5);
/// Most bytes of an answer.
const BODY_BYTES_MAX: u64 = 1 << 20;
/// Most versions of a subject that are compared with a schema, newest first.
const VERSIONS_MAX: usize = 100;
/// Most characters of the registry's words in an error.
const WORDS_MAX: usize = 2_000;

/// A failed call.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Error {
    /// True if the same call may work later: no connection, time-out, 5xx, a schema that someone has yet to register.
    pub retryable: bool,
    /// Call and answer in words.
    pub text: String,
}

/// The registry; clones share connections.
#[derive(Debug, Clone)]
pub struct Registry {
    url: Arc<str>,
    agent: Agent,
}

/// A version of a subject.
struct Version {
    id: u32,
    /// As it was registered.
    schema: String,
}

impl Registry {
    /// A client of the registry at `url`; no I/O yet.
    pub fn new(url: &str) -> Self {
        Self::with_limits(url, CONNECT, ANSWER)
    }

    fn with_limits(url: &str, connect: Duration, answer: Duration) -> Self {
        let agent = Agent::config_builder()
            // The registry is a neighbour: a proxy of the environment is not meant for it, and a redirect is a wrong URL.
            .proxy(None)
            .max_redirects(0)
            .http_status_as_error(false)
            .timeout_resolve(Some(connect))
            .timeout_connect(Some(connect))
            .timeout_send_request(Some(answer))
            .timeout_send_body(Some(answer))
            .timeout_recv_response(Some(answer))
            .timeout_recv_body(Some(answer))
            .build()
            .new_agent();
        Self { url: url.trim_end_matches('/').into(), agent }
    }

    /// The schema with this id; `None` if the registry does not know it.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn schema(&self, id: u32) -> Result<Option<String>, Error> {
        // Ids are Java ints; Apicurio answers larger ones as if the path were wrong.
        if i32::try_from(id).is_err() {
            return Ok(None);
        }
        let call = self.get(&format!("/schemas/ids/{id}"))?;
        call.found()?.map(|call| call.text("schema")).transpose()
    }

    /// The id under which `topic`'s schema is registered, found without registering it: whoever writes must not make a new
    /// version by accident.
    ///
    /// # Errors
    /// See [`Error`]; retryable also if the schema is not there yet.
    pub fn id_of(&self, topic: &Topic) -> Result<u32, Error> {
        let (subject, schema) = (topic.subject(), topic.schema.unwrap_or_default());
        // A schema that differs in blanks or documentation only, as when a JVM program has registered it, writes the same bytes.
        let found =
            self.find(&subject, schema, |text| canonical_form::writes_the_same(text, schema))?;
        found.ok_or_else(|| {
            let text =
                format!("{subject} at {} has no such schema: run the synchronizer", self.url);
            Error { retryable: true, text }
        })
    }

    /// The id of `schema` in `subject`, or else of the newest version that `fits`: the registry itself compares texts.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn find(
        &self,
        subject: &str,
        schema: &str,
        fits: impl Fn(&str) -> bool,
    ) -> Result<Option<u32>, Error> {
        let exactly = self.lookup(subject, schema)?;
        if exactly.is_some() {
            return Ok(exactly);
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

    /// The versions of `subject`, ascending; none if there is no such subject.
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

    /// Makes `schema` the newest version of `subject`, and the subject if need be; the id.
    ///
    /// # Errors
    /// See [`Error`]; an incompatible schema is not retryable.
    pub fn register(&self, subject: &str, schema: &str) -> Result<u32, Error> {
        let body = json!({ "schema": schema });
        self.post(&format!("/subjects/{subject}/versions"), &body)?.ok()?.id()
    }

    /// Why `schema` can't follow the newest version of `subject`, in the registry's words; `None` if it can, or if there is
    /// no version yet.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn incompatibility(&self, subject: &str, schema: &str) -> Result<Option<String>, Error> {
        let path = format!("/compatibility/subjects/{subject}/versions/latest?verbose=true");
        let Some(call) = self.post(&path, &json!({ "schema": schema }))?.found()? else {
            return Ok(None);
        };
        match call.body["is_compatible"].as_bool() {
            Some(true) => Ok(None),
            // Confluent gives `messages`, Apicurio one `reason`.
            Some(false) => Ok(Some(match (&call.body["messages"], &call.body["reason"]) {
                (Value::Array(messages), _) => {
                    let messages: Vec<&str> = messages.iter().filter_map(Value::as_str).collect();
                    shorten(&messages.join("; "))
                }
                (_, Value::String(reason)) => shorten(reason),
                _ => "the registry does not say why".to_owned(),
            })),
            None => Err(call.unexpected()),
        }
    }

    /// The compatibility level set for `subject`; `None` if it has none of its own.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn compatibility(&self, subject: &str) -> Result<Option<String>, Error> {
        let call = self.get(&format!("/config/{subject}"))?;
        call.found()?.map(|call| call.text("compatibilityLevel")).transpose()
    }

    /// Sets the compatibility level of `subject`, which need not exist yet.
    ///
    /// # Errors
    /// See [`Error`].
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
            // A kept connection that the other side has closed meanwhile; the second try opens a new one.
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
        let mut answer = match (method, body) {
            (_, None) => self.agent.get(url).header("accept", JSON).call()?,
            ("PUT", Some(body)) => self.agent.put(url).content_type(JSON).send(body.to_string())?,
            (_, Some(body)) => self.agent.post(url).content_type(JSON).send(body.to_string())?,
        };
        let bytes = answer.body_mut().with_config().limit(BODY_BYTES_MAX).read_to_vec()?;
        Ok((answer.status().as_u16(), bytes))
    }
}

/// A call that was answered.
struct Call {
    name: String,
    status: u16,
    body: Value,
}

impl Call {
    /// The answer, if it is one of success.
    fn ok(self) -> Result<Self, Error> {
        if self.status == 200 {
            return Ok(self);
        }
        let retryable = self.status >= 500 || matches!(self.status, 408 | 429);
        Err(Error { retryable, ..self.unexpected() })
    }

    /// The answer; `None` if it says that there is no such subject (40401), version (40402) or schema (40403). Any other 404
    /// comes of a wrong URL, and must not be taken for the registry's knowledge.
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
        let words = match (&self.body["message"], &self.body) {
            (Value::String(message), _) | (_, Value::String(message)) => shorten(message),
            (_, body) => shorten(&body.to_string()),
        };
        Error { retryable: false, text: format!("{}: {} {words}", self.name, self.status) }
    }
}

fn as_u32(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|number| u32::try_from(number).ok())
}

fn is_broken_connection(kind: ErrorKind) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

fn shorten(words: &str) -> String {
    words.chars().take(WORDS_MAX).collect()
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

    /// A registry that gives `answers` one after the other, the last one forever; it keeps the paths it was asked for.
    pub(crate) struct Fake {
        pub(crate) url: String,
        pub(crate) asked: Arc<Mutex<Vec<String>>>,
    }

    impl Fake {
        /// `answers`: status and body; status 0 closes the connection instead, after the request.
        pub(crate) fn start(answers: Vec<(u16, String)>) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let asked = Arc::new(Mutex::new(Vec::new()));
            let log = asked.clone();
            thread::spawn(move || {
                let mut answers = answers.into_iter().peekable();
                for stream in listener.incoming() {
                    let mut stream = BufReader::new(stream.unwrap());
                    while let Some(path) = read_request(&mut stream) {
                        log.lock().unwrap().push(path);
                        let (status, body) = answers.peek().unwrap().clone();
                        if answers.len() > 1 {
                            answers.next();
                        }
                        if status == 0 {
                            break;
                        }
                        let length = body.len();
                        let answer = format!(
                            "HTTP/1.1 {status} x\r\ncontent-length: {length}\r\n\r\n{body}"
                        );
                        let _ = stream.get_mut().write_all(answer.as_bytes());
                    }
                }
            });
            Self { url, asked }
        }
    }

    /// Method and path of the next request; `None` when the connection ends.
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

    fn answering(status: u16, body: &str) -> Registry {
        Registry::new(&Fake::start(vec![(status, body.to_owned())]).url)
    }

    #[test]
    fn an_id_that_the_registry_does_not_know_has_no_schema() {
        let registry = answering(404, r#"{"error_code":40403,"message":"Schema not found"}"#);
        assert_eq!(registry.schema(1).unwrap(), None);
        let nobody = Registry::new("http://127.0.0.1:1");
        assert_eq!(nobody.schema(1 << 31).unwrap(), None, "no Java int: not even asked");
    }

    #[test]
    fn a_404_of_a_wrong_url_is_no_answer_about_schemas() {
        let registry = answering(404, r#"{"error_code":0,"message":"no resource"}"#);
        let err = registry.schema(1).unwrap_err();
        assert!(!err.retryable);
        assert!(err.text.contains("404 no resource"), "{err}");
    }

    #[test]
    fn what_may_pass_is_retryable() {
        for status in [429, 500, 503] {
            assert!(answering(status, "busy").schema(1).unwrap_err().retryable, "{status}");
        }
        for (status, body) in [(401, ""), (200, "{}"), (200, "<html>"), (302, "")] {
            assert!(!answering(status, body).schema(1).unwrap_err().retryable, "{status} {body}");
        }
        assert!(Registry::new("http://127.0.0.1:1").schema(1).unwrap_err().retryable);
    }

    #[test]
    fn a_registry_that_hangs_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let limit = Duration::from_millis(100);
        let asked = Instant::now();
        let err = Registry::with_limits(&url, limit, limit).schema(1).unwrap_err();
        assert!(err.retryable);
        assert!(asked.elapsed() < Duration::from_secs(2), "{err}");
    }

    #[test]
    fn an_answer_without_end_is_refused() {
        let err = answering(200, &"x".repeat((BODY_BYTES_MAX + 1) as usize)).schema(1).unwrap_err();
        assert!(!err.retryable, "{err}");
    }

    #[test]
    fn a_connection_closed_meanwhile_is_opened_again() {
        let found = (200, r#"{"schema":"\"long\""}"#.to_owned());
        let fake = Fake::start(vec![found.clone(), (0, String::new()), found]);
        let registry = Registry::new(&fake.url);
        for _ in 0..2 {
            assert_eq!(registry.schema(1).unwrap().unwrap(), "\"long\"");
        }
        assert_eq!(fake.asked.lock().unwrap().len(), 3);
    }

    #[test]
    fn a_schema_registered_with_other_blanks_is_found() {
        let absent = (404, r#"{"error_code":40403,"message":""}"#.to_owned());
        let other = json!({"id": 8, "version": 3, "schema": "\"long\""}).to_string();
        let schema: Value = serde_json::from_str(HEARTBEAT.schema.unwrap()).unwrap();
        let ours = json!({"id": 7, "version": 2, "schema": schema.to_string()}).to_string();
        let answers = vec![absent, (200, "[1,2,3]".to_owned()), (200, other), (200, ours)];
        let fake = Fake::start(answers);
        assert_eq!(Registry::new(&fake.url).id_of(&HEARTBEAT).unwrap(), 7);
        assert_eq!(
            *fake.asked.lock().unwrap(),
            [
                "POST /subjects/heartbeat-value",
                "GET /subjects/heartbeat-value/versions",
                "GET /subjects/heartbeat-value/versions/3",
                "GET /subjects/heartbeat-value/versions/2",
            ]
        );
    }

    #[test]
    fn a_schema_that_is_not_there_yet_is_worth_another_try() {
        let registry = answering(404, r#"{"error_code":40401,"message":""}"#);
        let err = registry.id_of(&HEARTBEAT).unwrap_err();
        assert!(err.retryable);
        assert!(err.text.contains("run the synchronizer"), "{err}");
    }

    #[test]
    fn an_incompatible_schema_comes_with_the_registrys_words() {
        for (body, words) in [
            (r#"{"is_compatible":true}"#, None),
            (r#"{"is_compatible":false,"messages":["a","b"]}"#, Some("a; b")),
            (r#"{"is_compatible":false,"reason":"c"}"#, Some("c")),
        ] {
            assert_eq!(answering(200, body).incompatibility("s", "").unwrap().as_deref(), words);
        }
    }
}
