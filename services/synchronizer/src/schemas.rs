//! Finds and takes the next step towards the wanted schema of a topic.

use avro::registry::{BACKWARD, Error, Registry};
use bank::topology::Topic;
use serde_json::Value;

/// A step towards the wanted schemas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Set the compatibility level of a subject.
    SetCompatibility {
        /// The subject.
        subject: String,
        /// Current level, if set for the subject.
        from: Option<String>,
    },
    /// Register our schema as the newest version of a subject.
    Register {
        /// The subject.
        subject: String,
        /// The schema.
        schema: &'static str,
    },
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
    /// Takes the step.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn take(&self, registry: &Registry) -> Result<(), Error> {
        match self {
            Self::SetCompatibility { subject, .. } => registry.set_compatibility(subject, BACKWARD),
            Self::Register { subject, schema } => registry.register(subject, schema).map(drop),
        }
    }
}

/// The next action for a topic.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// The schema is as wanted.
    Settled,
    /// A step, after which the topic is checked again.
    Step(Step),
    /// A difference that cannot be changed, with the registry's message.
    Problem(String),
}

/// The next action for the schema of `topic`. The compatibility level comes first, since the
/// registry checks new versions by it. With `level_set` the level counts as set, for a dry run.
///
/// # Errors
/// See [`Error`].
pub fn next(registry: &Registry, topic: &Topic, level_set: bool) -> Result<Next, Error> {
    let Some(schema) = topic.schema else { return Ok(Next::Settled) };
    let subject = topic.subject();
    let level = registry.compatibility(&subject)?;
    if !level_set && level.as_deref() != Some(BACKWARD) {
        return Ok(Next::Step(Step::SetCompatibility { subject, from: level }));
    }
    // Checked even if our schema is registered: a newer version that we cannot read would fill
    // dead_letter.
    if let Some(message) = registry.incompatibility(&subject, schema)? {
        return Ok(Next::Problem(format!(
            "our schema of {subject} can't read what its newest version writes: {message}"
        )));
    }
    // Compared as JSON, since the registry would register other whitespace as a new version. The
    // canonical form is not enough: it lacks the defaults, by which readers fill missing fields.
    let json = |text: &str| serde_json::from_str::<Value>(text).ok();
    Ok(match registry.find(&subject, schema, |text| json(text) == json(schema))? {
        Some(_) => Next::Settled,
        None => Next::Step(Step::Register { subject, schema }),
    })
}
