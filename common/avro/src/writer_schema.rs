//! The schema of a record's writer, with the schemas that it references.

use crate::registry::{BODY_BYTES_MAX, Call, Error, Registry, as_u32};
use serde_json::Value;
use std::collections::HashSet;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// Maximum number of schemas that a schema references, directly and indirectly.
pub const REFERENCES_MAX: usize = 16;
/// Maximum depth of references.
const DEPTH_MAX: usize = 8;
/// Maximum size of a schema and its references, bytes.
pub const TEXTS_BYTES_MAX: usize = BODY_BYTES_MAX as usize;
/// Time limit of all requests for one schema. A request that started before may exceed it.
const REQUESTS: Duration = Duration::from_secs(10);

/// The response to a request for a schema id.
#[derive(Debug, PartialEq, Eq)]
pub enum WriterSchema {
    /// The schema, after the schemas that it references.
    Found(Vec<String>),
    /// The id is not in the registry. It may be registered later.
    Absent,
    /// No registry gives out such an id.
    Impossible,
    /// The response is not a schema within the limits. Contains the reason.
    Unusable(String),
}

impl Registry {
    /// Returns the schema with this id, and the schemas that it references.
    pub fn schema(&self, id: u32) -> Result<WriterSchema, Error> {
        // Ids are positive Java ints. For larger ids Apicurio returns the error of an invalid path.
        if id == 0 || i32::try_from(id).is_err() {
            return Ok(WriterSchema::Impossible);
        }
        gather(&|path| self.get(path), id)
    }
}

/// Sends a GET request with the given path to the registry.
pub type Get<'a> = dyn Fn(&str) -> Result<Call, Error> + 'a;

/// Gathers a schema and its references.
pub fn gather(get: &Get<'_>, id: u32) -> Result<WriterSchema, Error> {
    let Some(call) = get(&format!("/schemas/ids/{id}"))?.found()? else {
        return Ok(WriterSchema::Absent);
    };
    let deadline = Instant::now() + REQUESTS;
    let mut gathered =
        Gathered { get, texts: Vec::new(), bytes: 0, seen: HashSet::new(), deadline };
    match gathered.add(&call, 0) {
        Ok(()) => Ok(WriterSchema::Found(gathered.texts)),
        Err(Failure::Unusable(reason)) => Ok(WriterSchema::Unusable(reason)),
        Err(Failure::Request(err)) => Err(err),
    }
}

enum Failure {
    Unusable(String),
    Request(Error),
}

impl From<Error> for Failure {
    fn from(err: Error) -> Self {
        Self::Request(err)
    }
}

/// Schemas in the order in which they can be parsed.
struct Gathered<'a> {
    get: &'a Get<'a>,
    texts: Vec<String>,
    /// Size of `texts`.
    bytes: usize,
    /// Subject and version of each reference.
    seen: HashSet<(String, u32)>,
    deadline: Instant,
}

impl Gathered<'_> {
    /// Adds the schema in the response of `call`, after the schemas that it references.
    fn add(&mut self, call: &Call, depth: usize) -> Result<(), Failure> {
        let unusable = |reason: &str| Failure::Unusable(reason.to_owned());
        let Value::String(text) = &call.body["schema"] else {
            // The message of a proxy or of a registry with another API is not shown: it may be long
            // and differ each time.
            return Err(match &call.body {
                Value::String(text) if text.starts_with("response exceeds") => unusable(text),
                _ => unusable("response of the registry without a schema"),
            });
        };
        self.bytes += text.len();
        if self.bytes > TEXTS_BYTES_MAX {
            let limit = format!("schema and references exceed {TEXTS_BYTES_MAX} bytes");
            return Err(Failure::Unusable(limit));
        }
        for reference in call.body["references"].as_array().into_iter().flatten() {
            let (subject, version) = (reference["subject"].as_str(), as_u32(&reference["version"]));
            let (subject, version) =
                subject.zip(version).ok_or_else(|| unusable("invalid reference of a schema"))?;
            if !self.seen.insert((subject.to_owned(), version)) {
                continue;
            }
            if self.seen.len() > REFERENCES_MAX || depth >= DEPTH_MAX {
                let limits = format!("more than {REFERENCES_MAX}, or deeper than {DEPTH_MAX}");
                return Err(Failure::Unusable(format!("too many references: {limits}")));
            }
            self.add_reference(subject, version, depth + 1)?;
        }
        self.texts.push(text.clone());
        Ok(())
    }

    fn add_reference(&mut self, subject: &str, version: u32, depth: usize) -> Result<(), Failure> {
        let path = format!("/subjects/{}/versions/{version}", path_segment(subject));
        if Instant::now() >= self.deadline {
            let text = format!("GET {path}: the references of a schema take too long");
            return Err(Failure::Request(Error { retryable: true, text }));
        }
        match (self.get)(&path)?.found()? {
            Some(call) => self.add(&call, depth),
            None => Err(Failure::Unusable("a referenced schema is not in the registry".to_owned())),
        }
    }
}

/// Percent-encodes `name` as one segment of a path: it comes from a response.
fn path_segment(name: &str) -> String {
    let mut segment = String::with_capacity(name.len());
    for byte in name.bytes() {
        // `.` alone would be a relative path.
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            segment.push(byte as char);
        } else {
            let _ = write!(segment, "%{byte:02X}");
        }
    }
    segment
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::tests::Fake;
    use serde_json::json;

    fn schema(text: &str, references: &[(&str, u32)]) -> (u16, String) {
        let reference = |(subject, version): &(&str, u32)| {
            let (subject, version) = (*subject, *version);
            json!({"name": "n", "subject": subject, "version": version})
        };
        let references: Vec<Value> = references.iter().map(reference).collect();
        (200, json!({"schema": text, "references": references}).to_string())
    }

    fn get(responses: Vec<(u16, String)>) -> (WriterSchema, Vec<String>) {
        let fake = Fake::start(responses);
        let schema = Registry::new(&fake.url).schema(1).unwrap();
        let requests = fake.requests.lock().unwrap().clone();
        (schema, requests)
    }

    #[test]
    fn unknown_id_has_no_schema() {
        let body = r#"{"error_code":40403,"message":"Schema not found"}"#;
        assert_eq!(get(vec![(404, body.to_owned())]).0, WriterSchema::Absent);
        let unreachable = Registry::new("http://127.0.0.1:1");
        for id in [0, 1 << 31] {
            assert_eq!(unreachable.schema(id).unwrap(), WriterSchema::Impossible, "no request");
        }
    }

    #[test]
    fn oversized_response_is_unusable() {
        let body = "x".repeat((BODY_BYTES_MAX + 1) as usize);
        let expected = WriterSchema::Unusable("response exceeds 131072 bytes".to_owned());
        assert_eq!(get(vec![(200, body)]).0, expected);
    }

    #[test]
    fn references_precede_the_schema() {
        let (found, requests) = get(vec![
            schema("a", &[("b/..", 2), ("c", 1)]),
            schema("b", &[("c", 1)]),
            schema("c", &[]),
        ]);
        let texts = ["c", "b", "a"].map(str::to_owned).to_vec();
        assert_eq!(found, WriterSchema::Found(texts));
        assert_eq!(
            requests,
            [
                "GET /schemas/ids/1",
                "GET /subjects/b%2F%2E%2E/versions/2",
                "GET /subjects/c/versions/1"
            ]
        );
    }

    #[test]
    fn references_are_bounded_in_number_and_depth() {
        let many: Vec<(String, u32)> =
            (0..=REFERENCES_MAX as u32).map(|n| ("s".to_owned(), n)).collect();
        let many: Vec<(&str, u32)> = many.iter().map(|(name, n)| (&**name, *n)).collect();
        let chain = (0..20).map(|n| schema("x", &[("s", n)])).collect();
        for (responses, requests_max) in [
            (vec![schema("a", &many), schema("x", &[])], REFERENCES_MAX + 1),
            (chain, DEPTH_MAX + 1),
        ] {
            let (found, requests) = get(responses);
            let WriterSchema::Unusable(reason) = found else { panic!("{found:?}") };
            assert!(reason.starts_with("too many references"), "{reason}");
            assert_eq!(requests.len(), requests_max);
        }
        let half = "x".repeat(TEXTS_BYTES_MAX / 2 + 1);
        let (found, _) = get(vec![schema(&half, &[("s", 1)]), schema(&half, &[])]);
        assert!(matches!(found, WriterSchema::Unusable(reason) if reason.contains("exceed")));
    }

    #[test]
    fn reference_to_itself_ends() {
        let (found, requests) = get(vec![schema("a", &[("s", 1)])]);
        assert_eq!(found, WriterSchema::Found(vec!["a".to_owned(), "a".to_owned()]));
        assert_eq!(requests.len(), 2);
    }

    #[test]
    fn response_without_a_schema_is_unusable() {
        let absent = (404, r#"{"error_code":40402,"message":""}"#.to_owned());
        for responses in [
            vec![(200, "{}".to_owned())],
            vec![(200, "<html>".to_owned())],
            vec![(200, "[1,2]".to_owned())],
            vec![(200, r#"{"schema":7}"#.to_owned())],
            vec![(200, r#"{"schema":"a","references":[7]}"#.to_owned())],
            vec![schema("a", &[("s", 1)]), absent],
        ] {
            assert!(matches!(get(responses).0, WriterSchema::Unusable(_)));
        }
    }
}
