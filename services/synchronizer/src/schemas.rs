//! What is to be done about the schema of a topic, and doing it.

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
        /// As it is, if the subject has its own.
        from: Option<String>,
    },
    /// Make our schema the newest version of a subject.
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
    /// Does it.
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

/// What to do next about one topic.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// It is as wanted.
    Settled,
    /// A step; then ask again.
    Step(Step),
    /// What differs and can't be changed, in the registry's words.
    Problem(String),
}

/// What to do next about the schema of `topic`. The compatibility comes first, since the registry checks by it; with
/// `level_set` it is taken for set, for whoever only wants to know.
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
    // Asked even if our schema is there: a newer version that we can't read would fill dead_letter.
    if let Some(words) = registry.incompatibility(&subject, schema)? {
        return Ok(Next::Problem(format!(
            "our schema of {subject} can't read what its newest version writes: {words}"
        )));
    }
    // The registry would make a new version of other blanks; so compare what the texts say. The same bytes are not enough: defaults
    // tell readers what to put in place of a missing field.
    let says = |text: &str| serde_json::from_str::<Value>(text).ok();
    Ok(match registry.find(&subject, schema, |text| says(text) == says(schema))? {
        Some(_) => Next::Settled,
        None => Next::Step(Step::Register { subject, schema }),
    })
}
