//! Finds and takes the next step towards the target schema of a topic.

use avro::registered_form;
use avro::registry::{BACKWARD, Error, Registry};
use bank::topology::Topic;

/// A change of the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Set the compatibility level of a subject.
    SetCompatibility {
        subject: String,
        /// Current level; `None` if the subject has none.
        from: Option<String>,
    },
    /// Register the bank's schema as the newest version of a subject.
    Register { subject: String, schema: String },
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::SetCompatibility { subject, from } => {
                let from = from.as_deref().unwrap_or("unset");
                write!(f, "set compatibility of {subject}: {from} -> {BACKWARD}")
            }
            Self::Register { subject, .. } => write!(f, "register the schema of {subject}"),
        }
    }
}

impl Step {
    pub fn take(&self, registry: &Registry) -> Result<(), Error> {
        match self {
            Self::SetCompatibility { subject, .. } => registry.set_compatibility(subject, BACKWARD),
            Self::Register { subject, schema } => registry.register(subject, schema).map(drop),
        }
    }
}

/// The next action for the schema of a topic.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// The schema is in the target state.
    Settled,
    /// A change. The topic is checked again after it.
    Step(Step),
    /// A difference that cannot be changed, with the message of the registry.
    Problem(String),
}

/// Returns the next action for the schema of `topic`. The compatibility level comes first, because
/// the registry checks new versions against it. A dry run passes `level_set` after this step, since
/// the level is unchanged.
pub fn next(registry: &Registry, topic: &Topic, level_set: bool) -> Result<Next, Error> {
    let Some(schema) = topic.schema else { return Ok(Next::Settled) };
    let subject = topic.subject();
    let level = registry.compatibility(&subject)?;
    if !level_set && level.as_deref() != Some(BACKWARD) {
        return Ok(Next::Step(Step::SetCompatibility { subject, from: level }));
    }
    // Checked even if the bank's schema is registered: records of a newer incompatible version
    // would all go to dead_letter.
    if let Some(message) = registry.incompatibility(&subject, schema)? {
        return Ok(Next::Problem(format!(
            "the bank's schema of {subject} cannot read records of the newest version: {message}"
        )));
    }
    // Apicurio compares texts, and clients that do not register schemas look up this one.
    let schema = registered_form(schema);
    Ok(match registry.lookup(&subject, &schema)? {
        Some(_) => Next::Settled,
        None => Next::Step(Step::Register { subject, schema }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bank::topology::HEARTBEAT;
    use serde_json::{Value, json};
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;
    use std::thread::{self, JoinHandle};

    const BASE: &str = "/subjects/heartbeat-value";

    /// A request, and the status and body of its response.
    type Exchange = (&'static str, &'static str, u16, Value);

    /// A registry that expects the requests of `dialog` in this order.
    fn replay(dialog: Vec<Exchange>) -> (Registry, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let registry = Registry::new(&format!("http://{}", listener.local_addr().unwrap()));
        let server = thread::spawn(move || {
            for (method, path, status, body) in dialog {
                let mut stream = BufReader::new(listener.accept().unwrap().0);
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    assert_ne!(stream.read_line(&mut head).unwrap(), 0, "{head}");
                }
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                let length = length.map_or(0, |length| length.parse().unwrap());
                stream.read_exact(&mut vec![0; length]).unwrap();
                assert_eq!(head.lines().next().unwrap(), format!("{method} {path} HTTP/1.1"));
                let body = body.to_string();
                write!(
                    stream.get_mut(),
                    "HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                )
                .unwrap();
            }
        });
        (registry, server)
    }

    fn absent(code: u32, message: &str) -> Value {
        json!({"error_code": code, "message": message})
    }

    /// Takes all steps for the heartbeat topic; returns them.
    fn synchronize(registry: &Registry) -> Vec<String> {
        let mut steps = Vec::new();
        while let Next::Step(step) = next(registry, &HEARTBEAT, !steps.is_empty()).unwrap() {
            step.take(registry).unwrap();
            steps.push(step.to_string());
        }
        steps
    }

    const CONFIG: &str = "/config/heartbeat-value";
    const CHECK: &str = "/compatibility/subjects/heartbeat-value/versions/latest?verbose=true";
    const VERSIONS: &str = "/subjects/heartbeat-value/versions";
    const SET_LEVEL: &str = "set compatibility of heartbeat-value: unset -> BACKWARD";
    const REGISTER: &str = "register the schema of heartbeat-value";

    #[test]
    fn schema_is_registered_at_confluents_registry() {
        let unset =
            "Subject 'heartbeat-value' does not have subject-level compatibility configured";
        let unknown = "Subject 'heartbeat-value' not found.";
        let (registry, server) = replay(vec![
            ("GET", CONFIG, 404, absent(40408, unset)),
            ("PUT", CONFIG, 200, json!({"compatibility": "BACKWARD"})),
            ("GET", CONFIG, 200, json!({"compatibilityLevel": "BACKWARD"})),
            ("POST", CHECK, 404, absent(40402, "Version latest not found.")),
            ("POST", BASE, 404, absent(40401, unknown)),
            ("POST", VERSIONS, 200, json!({"id": 1})),
            ("GET", CONFIG, 200, json!({"compatibilityLevel": "BACKWARD"})),
            ("POST", CHECK, 200, json!({"is_compatible": true, "messages": []})),
            ("POST", BASE, 200, json!({"subject": "heartbeat-value", "version": 1, "id": 1})),
        ]);
        assert_eq!(synchronize(&registry), [SET_LEVEL, REGISTER]);
        server.join().unwrap();
    }

    #[test]
    fn deleted_schema_is_registered_again() {
        let deleted = "Subject 'heartbeat-value' was soft deleted.Set permanent=true to delete \
                       permanently";
        let version = "Subject 'heartbeat-value' Version 1 was soft deleted.Set permanent=true to \
                       delete permanently";
        let (registry, server) = replay(vec![
            ("GET", CONFIG, 404, absent(40401, "Subject 'heartbeat-value' not found.")),
            ("PUT", CONFIG, 200, json!({"compatibility": "BACKWARD"})),
            ("GET", CONFIG, 200, json!({"compatibilityLevel": "BACKWARD"})),
            ("POST", CHECK, 404, absent(40406, version)),
            ("POST", BASE, 404, absent(40404, deleted)),
            ("POST", VERSIONS, 200, json!({"id": 1})),
            ("GET", CONFIG, 200, json!({"compatibilityLevel": "BACKWARD"})),
            ("POST", CHECK, 200, json!({"is_compatible": true})),
            ("POST", BASE, 200, json!({"subject": "heartbeat-value", "version": 2, "id": 1})),
        ]);
        assert_eq!(synchronize(&registry), [SET_LEVEL, REGISTER]);
        server.join().unwrap();
    }
}
